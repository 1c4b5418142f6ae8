"""Classification: one label for a whole sequence, from its last real step or the pool of all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .labelled import LabelledTask
from .tables import Record

__all__ = ["ClassifyTask"]


class ClassifyTask(LabelledTask):
    """Sentiment, topics, kinds of signals: many steps to one label. See `LabelledTask`."""

    name = "classify"
    per_step = False

    def _stratum(self, record: Record) -> str:
        if not isinstance(record.label, str):
            raise DataError(f"row {record.rows[0] + 1}, column {self.columns.label!r}: there is no label.")
        return record.label

    def metrics(self, truths: list[NDArray[np.int64]], predicted: list[NDArray[np.int64]]) -> dict[str, Any]:
        """Accuracy, F1 averaged over the classes, the confusion matrix (rows: truth) and each class's own scores."""
        from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

        truth, guess = np.concatenate(truths), np.concatenate(predicted)
        numbers = np.arange(len(self.labels))
        precision, recall, f1, support = precision_recall_fscore_support(truth, guess, labels=numbers, zero_division=0)
        present = np.union1d(truth, guess)  # a class that a small part does not hold has no F1 to average
        return {
            "accuracy": float((truth == guess).mean()),
            "macro_f1": float(f1_score(truth, guess, labels=present, average="macro", zero_division=0)),
            "confusion_matrix": confusion_matrix(truth, guess, labels=numbers).tolist(),
            "classes": {
                label: {
                    "precision": float(precision[n]),
                    "recall": float(recall[n]),
                    "f1": float(f1[n]),
                    "support": int(support[n]),
                }
                for n, label in enumerate(self.labels)
            },
        }
