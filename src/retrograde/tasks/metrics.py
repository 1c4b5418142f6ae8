"""Scores of labels (accuracy, F1, confusion matrix, whole entities if the labels are BIO) and of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def of_sequences(labels: Sequence[str], truths: Sequence[Numbers], predicted: Sequence[Numbers]) -> dict[str, Any]:
    """Accuracy, F1 averaged over the classes, the confusion matrix (rows: truth) and the scores of each class.

    labels: by number.
    truths, predicted: arrays of label numbers, one for each sequence.
    """
    truth, guess = np.concatenate(truths), np.concatenate(predicted)
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (truth, guess), 1)
    right, support, named = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall, f1 = _share(right, named), _share(right, support), _share(2 * right, support + named)
    return {
        **_overall(truth, guess, len(labels)),
        "confusion_matrix": confusion.tolist(),
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


def _share(part: Numbers, of: Numbers) -> NDArray[np.float64]:
    """Quotients; 0 where there is nothing to divide."""
    return np.divide(part, of, out=np.zeros(len(of)), where=of > 0)


def of_steps(labels: Sequence[str], truths: Sequence[Numbers], predicted: Sequence[Numbers]) -> dict[str, Any]:
    """Accuracy and F1 over steps; with BIO labels also precision, recall and F1 of whole entities, as in conlleval.

    labels: by number.
    truths, predicted: arrays of label numbers, a number for each step of the sequence.
    """
    scores: dict[str, Any] = _overall(np.concatenate(truths), np.concatenate(predicted), len(labels))
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


def of_numbers(truth: NDArray[np.float64], guess: NDArray[np.float64]) -> dict[str, float]:
    """Mean squared and mean absolute error, and R²: the share of the variance that is predicted.

    There is no R² where all numbers are the same.

    Examples
    --------
    >>> of_numbers(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]))
    {'mse': 0.3333333333333333, 'mae': 0.3333333333333333, 'r2': 0.5}
    """
    error, variance = guess - truth, float(truth.var())
    mse = float((error**2).mean())
    found = {"mse": mse, "mae": float(np.abs(error).mean())}
    return found | {"r2": 1 - mse / variance} if variance > 0 else found


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


def _overall(truth: Numbers, guess: Numbers, classes: int) -> dict[str, Any]:
    right = np.bincount(truth[truth == guess], minlength=classes)
    occurrences = np.bincount(truth, minlength=classes) + np.bincount(guess, minlength=classes)
    # A class that occurs neither in the truth nor in the predictions has no F1 score.
    macro_f1 = _share(2 * right, occurrences)[occurrences > 0].mean()
    return {"accuracy": float((truth == guess).mean()), "macro_f1": float(macro_f1)}
