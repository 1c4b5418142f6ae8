"""Scores of labels: accuracy, F1, confusion matrix, and whole entities if the labels are BIO."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["entity_kinds", "of_sequences", "of_steps"]

Numbers = NDArray[np.int64]


def of_sequences(labels: Sequence[str], truths: Sequence[Numbers], predicted: Sequence[Numbers]) -> dict[str, Any]:
    """Accuracy, F1 averaged over the classes, the confusion matrix (rows: truth) and the scores of each class.

    Parameters
    ----------
    labels
        By number.
    truths, predicted
        Arrays of label numbers, one for each sequence.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth, guess = np.concatenate(truths), np.concatenate(predicted)
    numbers = np.arange(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, labels=numbers, zero_division=0)
    return {
        **_overall(truth, guess),
        "confusion_matrix": confusion_matrix(truth, guess, labels=numbers).tolist(),
        "classes": {
            label: {
                "precision": float(precision[n]),
                "recall": float(recall[n]),
                "f1": float(f1[n]),
                "support": int(support[n]),
            }
            for n, label in enumerate(labels)
        },
    }


def of_steps(labels: Sequence[str], truths: Sequence[Numbers], predicted: Sequence[Numbers]) -> dict[str, Any]:
    """Accuracy and F1 over steps; with BIO labels also precision, recall and F1 of whole entities, as in conlleval.

    Parameters
    ----------
    labels
        By number.
    truths, predicted
        Arrays of label numbers, a number for each step of the sequence.
    """
    scores: dict[str, Any] = _overall(np.concatenate(truths), np.concatenate(predicted))
    if kinds := entity_kinds(labels):
        from nervaluate import Evaluator

        names = np.asarray(labels, dtype=object)
        given, found = ([list(names[one]) for one in some] for some in (truths, predicted))
        result = Evaluator(given, found, tags=kinds, loader="list").evaluate()
        strict = result["overall"]["strict"]  # boundaries and kind both right
        scores |= {
            "entity_precision": float(strict.precision),
            "entity_recall": float(strict.recall),
            "entity_f1": float(strict.f1),
            # The library leaves out a kind that occurs neither in the truth nor in the predictions.
            "entities": {
                kind: {"f1": float(result["entities"][kind]["strict"].f1)}
                for kind in kinds
                if kind in result["entities"]
            },
        }
    return scores


def entity_kinds(labels: Sequence[str]) -> list[str]:
    """The kinds of entities, if the labels are BIO: B-X and I-X for each kind X, and O; else none.

    Examples
    --------
    >>> entity_kinds(["O", "B-PER", "I-PER", "B-LOC"])
    ['LOC', 'PER']
    >>> entity_kinds(["NOUN", "VERB"])
    []
    """
    matches = [re.fullmatch(r"[BI]-(.+)", label) for label in labels]
    others = {label for label, match in zip(labels, matches, strict=True) if match is None}
    return sorted({match[1] for match in matches if match}) if others <= {"O"} else []


def _overall(truth: Numbers, guess: Numbers) -> dict[str, Any]:
    from sklearn.metrics import f1_score

    present = np.union1d(truth, guess)  # a class that occurs in neither has no F1 score
    return {
        "accuracy": float((truth == guess).mean()),
        "macro_f1": float(f1_score(truth, guess, labels=present, average="macro", zero_division=0)),
    }
