"""Ridge regression on whole sequences: what `regress` is compared with, and may average with.

Tests: `tests/tasks/test_ridge.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..data.storage import Ragged
from ..errors import DataError
from ..words import counted

Floats = NDArray[np.float64]

AVERAGED_FROM = 0.5
"""Share of the variance, on sequences left out, from which predictions may be averaged with it (docs/training.md)."""
FEWEST = 20  # sequences
MOST_NUMBERS = 10_000  # of a sequence: weights are kept as text
MOST_ALTOGETHER = 10_000_000  # numbers of all sequences, some copies of which are in memory
MOST_WORK = 5e9  # numbers of all sequences times the smaller of sequences and numbers: some seconds
_STRENGTHS = np.logspace(-6, 6, 25)  # of the regularization, for numbers of unit variance


@dataclass(frozen=True)
class Ridge:
    """A linear function of all numbers of a sequence: ``weights @ numbers + bias``, fitted in closed form.

    Attributes
    ----------
    weights : array
        ``(T * F,)`` float64.
    bias : float
    steps : int
        T, which all sequences must have.
    explained : float
        Share of the variance of the targets that is explained where each sequence is left out in turn (R²).
    """

    weights: Floats
    bias: float
    steps: int
    explained: float

    @classmethod
    def fit(cls, inputs: Ragged, targets: Floats) -> Self | None:
        """The ridge regression whose strength predicts sequences best that are left out, each in turn.

        Parameters
        ----------
        inputs : Ragged
            Sequences ``(T, F)``.
        targets : array
            ``(N,)``.

        Returns
        -------
        Ridge or None
            None if sequences differ in length, or there are too few or too many numbers.
        """
        lengths, count = inputs.lengths, len(inputs)
        size = int(lengths[0]) * int(np.prod(inputs.rows.shape, dtype=np.int64)) if count else 0
        if count < FEWEST or (lengths != lengths[0]).any() or not 0 < size <= MOST_NUMBERS:
            return None
        if count * size > MOST_ALTOGETHER or count * size * min(count, size) > MOST_WORK:
            return None
        x = np.stack([inputs[place].ravel() for place in range(count)]).astype(np.float64)
        mean, spread = x.mean(0), x.std(0)
        scale = np.where(spread > 1e-9 * np.maximum(np.abs(mean), 1), spread, np.inf)  # a constant gets no weight
        center = float(targets.mean())
        left, values, right = np.linalg.svd((x - mean) / scale, full_matrices=False)
        along = left.T @ (targets - center)
        # What leaving a sequence out changes follows from its leverage (Allen 1974); its mean is left out as well.
        kept = values**2 / (values**2 + _STRENGTHS[:, None] * count)
        leverage = 1 / count + kept @ (left**2).T
        misses = (targets - center - (kept * along) @ left.T) / np.maximum(1 - leverage, 1e-9)
        errors = (misses**2).mean(1)
        best = int(errors.argmin())
        of_mean = float(((targets - center) ** 2).mean()) * (count / (count - 1)) ** 2
        weights = (right.T @ (kept[best] * along / np.where(values > 0, values, np.inf))) / scale
        explained = 1 - float(errors[best]) / of_mean if of_mean > 0 else 0.0
        return cls(weights, center - float(weights @ mean), int(lengths[0]), explained)

    def __call__(self, inputs: Ragged, chosen: NDArray[np.int64] | None = None) -> Floats:
        """What is predicted for some sequences, ``(N,)``; DataError if one has another length."""
        places = range(len(inputs)) if chosen is None else chosen.tolist()
        return np.fromiter(self._each(inputs, places), np.float64, len(places))

    def _each(self, inputs: Ragged, places: Any) -> Iterator[float]:
        for place in places:
            numbers = inputs[place]
            if len(numbers) != self.steps:
                raise DataError(
                    f"sequence {place + 1} has {counted(len(numbers), 'step')}; all must have {self.steps} here, as "
                    "those that the network was trained on, because ridge regression has a share in the predictions."
                )
            yield float(self.weights @ numbers.ravel().astype(np.float64)) + self.bias

    def fits(self, inputs: Ragged) -> bool:
        """Whether all sequences have the length that is needed."""
        return bool((inputs.lengths == self.steps).all())

    def as_dict(self) -> dict[str, Any]:
        """As a JSON file keeps it."""
        return {
            "weights": self.weights.tolist(), "bias": self.bias, "steps": self.steps, "explained": self.explained
        }  # fmt: skip

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Self:
        """From the result of `as_dict`."""
        weights = np.asarray(kept["weights"], dtype=np.float64)
        return cls(weights, float(kept["bias"]), int(kept["steps"]), float(kept["explained"]))
