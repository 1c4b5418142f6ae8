"""Tagging: a label for every step of a sequence."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .labelled import LabelledTask
from .tables import Record

__all__ = ["TagTask"]


class TagTask(LabelledTask):
    """Parts of speech, named entities, states of a machine: a label per step. See `LabelledTask`."""

    name = "tag"
    per_step = True

    def _stratum(self, record: Record) -> str:
        for place, label in enumerate(record.label or []):
            if not label:
                row = record.rows[place] if len(record.rows) > 1 else record.rows[0]
                raise DataError(f"row {row + 1}, column {self.columns.label!r}: step {place + 1} has no label.")
        if not record.label:
            raise DataError(f"row {record.rows[0] + 1}, column {self.columns.label!r}: there are no labels.")
        return ""

    @property
    def entities(self) -> list[str]:
        """The kinds of entities, where the labels are BIO: B-X and I-X for each kind X, and O."""
        kinds = {match[1] for label in self.labels if (match := re.fullmatch(r"[BI]-(.+)", label))}
        others = {label for label in self.labels if not re.fullmatch(r"[BI]-.+", label)}
        return sorted(kinds) if kinds and others <= {"O"} else []

    def metrics(self, truths: list[NDArray[np.int64]], predicted: list[NDArray[np.int64]]) -> dict[str, Any]:
        """Accuracy per step; F1 over the labels; with BIO labels precision, recall and F1 of whole entities."""
        from sklearn.metrics import f1_score

        truth, guess = np.concatenate(truths), np.concatenate(predicted)
        present = np.union1d(truth, guess)
        scores: dict[str, Any] = {
            "accuracy": float((truth == guess).mean()),
            "macro_f1": float(f1_score(truth, guess, labels=present, average="macro", zero_division=0)),
        }
        if self.entities:
            from nervaluate import Evaluator

            names = np.asarray(self.labels, dtype=object)
            found = Evaluator(
                [list(names[one]) for one in truths],
                [list(names[one]) for one in predicted],
                tags=self.entities,
                loader="list",
            ).evaluate()
            # strict: boundaries and kind both right, as conlleval counts
            strict = found["overall"]["strict"]
            scores |= {
                "entity_precision": float(strict.precision),
                "entity_recall": float(strict.recall),
                "entity_f1": float(strict.f1),
                "entities": {kind: {"f1": float(found["entities"][kind]["strict"].f1)} for kind in self.entities},
            }
        return scores
