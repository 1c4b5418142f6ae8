"""A test of all lags from ℓ on together, for signals that are weak at each: Rao's score test of the weights there.

It takes one loss per sequence (with a loss at every step there is more of everything).

In the adding problem no lag matters by itself: two steps of many decide, others in every sequence. What sequence b
contributes to the gradient at ℓ and beyond, G_b = Σ_{j≥ℓ} g_b(j), has a mean of zero over sequences unless something
that happened ℓ steps before the end or earlier tells the error; Rao's (1948) statistic

    T² = n · mean(G)ᵀ · cov(G)⁻¹ · mean(G)

weighs every direction by how much it varies, so that the few directions that tell anything are not drowned by the
others, as they are in the sum of squares S. Under the null hypothesis (n − 1 − d/2) · log(1 + T² / (n − 1)) is χ² of d
degrees of freedom (Bartlett 1938), d the rank of the covariance. Every G_b is first projected to few numbers.

The adjoint of a single sequence depends on its steps after lag j too, and so would be correlated with an error that
only these tell. Its place is taken by the mean over the batch: what of the adjoint is linear in the error. What the
error is multiplied by is then known at lag j, and is centered over the batch, so that skewed errors raise no alarm.

Tests: `tests/flow/test_signal_score.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..recurrence.cells import Trajectory
from .statistic import Signal
from .sweep import Part, Sides

SIZE = 8  # to which each side of a matrix is projected, and the most directions of the errors
RANK = 1e-6  # of the largest eigenvalue of the correlations, below which a direction is rounding
ENOUGH = 2  # sequences for every direction, with fewer of which there is no test


class ScoreTest:
    """The sums that the test needs of one layer, over batches with one loss per sequence."""

    def __init__(self, run: Trajectory, starts: NDArray[np.int64], seed: int) -> None:
        """``starts`` are the first lags of the bins, from each of which on there is a test; projections by ``seed``."""
        self.sides = Sides(run, torch.Generator().manual_seed(seed), False, 0, SIZE)
        self._starts = starts
        self._sizes: dict[int, Tensor] = {}  # by lag, of each number in the first batch
        self._batch: dict[int, Tensor] = {}  # by bin, of the batch that is being added
        self._sums: dict[int, _Sums] = {}  # by bin and all beyond

    def add(self, part: Part) -> None:
        """Add one lag of a batch; ``end`` follows the last."""
        own = part.gradients.double()
        size = self._sizes.setdefault(part.lag, own.square().mean(0).sqrt())
        scaled = (own / size).nan_to_num(0.0, 0.0, 0.0)
        place = int(np.searchsorted(self._starts, part.lag, "right")) - 1
        self._batch[place] = self._batch[place] + scaled if place in self._batch else scaled

    def end(self) -> None:
        """End a batch."""
        beyond: Tensor | None = None
        for place in sorted(self._batch, reverse=True):
            beyond = self._batch[place] if beyond is None else beyond + self._batch[place]
            sums = _Sums(beyond.sum(0), beyond.T @ beyond, len(beyond))
            self._sums[place] = self._sums[place] + sums if place in self._sums else sums
        self._batch.clear()

    def joined(self, signal: Signal, correction: float) -> Signal:
        """The signal, with the smaller of both p-values by tail; that of this test is times ``correction``."""
        tails, least = signal.tail_p_value.copy(), 0.0
        for i, place in enumerate(np.searchsorted(self._starts, signal.first, "right") - 1):
            if place in self._sums:
                least = max(least, min(1.0, self._sums[place].p_value() * correction))
                tails[i] = np.fmin(tails[i], least)
        return replace(signal, tail_p_value=tails)


@dataclass
class _Sums:
    """What the test needs of one bin and all beyond."""

    first: Tensor  # Σ_b G_b
    second: Tensor  # Σ_b G_b G_bᵀ
    sequences: int

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.first + other.first, self.second + other.second, self.sequences + other.sequences)

    def p_value(self) -> float:
        """See the head of this file."""
        scale = self.second.diagonal().sqrt()
        kept = scale > 0
        if not kept.any():
            return 1.0
        first, scale = self.first[kept] / scale[kept], scale[kept]
        values, vectors = torch.linalg.eigh(self.second[kept][:, kept] / torch.outer(scale, scale))
        known = values > RANK * values[-1]
        d = int(known.sum())
        if self.sequences < ENOUGH * d:
            return 1.0
        squares = float(((first @ vectors[:, known]).square() / values[known]).sum())
        explained = min(squares / self.sequences, 1 - 1e-12)  # T² / (n - 1 + T²)
        statistic = -(self.sequences - 1 - d / 2) * math.log1p(-explained)
        return float(
            torch.special.gammaincc(*(torch.tensor(v / 2, dtype=torch.float64, device="cpu") for v in (d, statistic)))
        )
