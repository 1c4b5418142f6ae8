"""The learning signal by lag: what the data asks a network to remember, whatever is left of the gradient's size.

The size of the gradient at a lag says what reaches the weights, not whether there is anything to learn there. Its
consistency over sequences does: g_b(ℓ), what sequence b contributes to ∂E/∂U and ∂E/∂W at lag ℓ, points in one
direction for many b where the error depends on what happened ℓ steps before, and in random directions where it does
not. The statistic

    S(ℓ) = (‖Σ_b g_b‖² − Σ_b ‖g_b‖²) / Σ_b ‖g_b‖²

is near 0 without signal and B − 1 where all g_b are equal. It has no unit: a gradient that has faded to 1e-13 of its
start shows it as clearly as one that has not. Σ_b g_b and Σ_b ‖g_b‖² add up over batches, so S is of all sequences and
all pairs of them, however many batches they came in.

Errors and states are centered over each batch first, so that a mean error times a mean state (what a bias can learn)
does not count. Under the null hypothesis the error of a sequence has nothing to do with its states: each sequence is
given the error of another, and the adjoints are found again. The products ⟨g_b, g_b'⟩ of all pairs then give Σ λ² and
Σ λ³ of the weights of Σ_i λ_i (χ²_i − 1), the distribution of S, which a χ² of the same variance and skewness matches
(Hall 1983, Buckley and Eagleson 1988): two or three such exchanges are enough. Holm's correction is over all lags.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FlowError
from .signal_sweep import SIZE, Part, Sides, Sweep

if TYPE_CHECKING:
    from .result import GradientFlow

Array = NDArray[np.float64]
FEWEST = 8  # sequences: with fewer, hardly an exchange differs from the data
PAIRED = 128  # sequences of which all pairs are looked at, to find the variance under the null hypothesis


@dataclass(frozen=True)
class Signal:
    """What the data asks a layer to remember: how consistent the gradient of each lag is over sequences.

    Attributes
    ----------
    layer : str
        Label of the layer whose ∂E/∂U and ∂E/∂W were taken apart.
    first, last : ndarray of int
        The lags of each bin, both included.
    statistic : ndarray
        S = (‖Σ_b g_b‖² − Σ_b‖g_b‖²) / Σ_b‖g_b‖², without a unit; NaN where no gradient is.
    consistency : ndarray
        S / (B − 1): the mean of ⟨g_b, g_b'⟩ over all pairs, over the mean of ‖g_b‖²; 1 where all are equal.
    size : ndarray
        Root mean square of ‖g_b‖, centered: how large the gradient of the lag is.
    z : ndarray
        S in standard deviations of the null distribution.
    p_value : ndarray
        Corrected for the number of bins (Holm), and of looks and layers where these are several.
    sequences, permutations : int
        How many the statistic and its null distribution are from.
    alpha : float
        Family-wise error rate below which a bin is significant.
    notes : list of str
        What a reader must know of the measurement.
    """

    layer: str
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    statistic: Array
    consistency: Array
    size: Array
    z: Array
    p_value: Array
    sequences: int
    permutations: int
    alpha: float
    notes: list[str]

    @property
    def significant(self) -> NDArray[np.bool_]:
        """By bin, whether there is a signal."""
        return self.p_value < self.alpha

    @property
    def effect(self) -> Array:
        """By bin, the size of the mean gradient, what all sequences agree on: size · √consistency; 0 without any."""
        return np.asarray(self.size * np.sqrt(np.nan_to_num(self.consistency).clip(min=0)))

    @property
    def need(self) -> int | None:
        """The longest lag with a signal: as far as the data asks the network to remember. None without any.

        It sees what the gradient sees: a target that depends on several steps at once only (parity) sends no signal.
        """
        found = np.flatnonzero(self.significant)
        return int(self.last[found].max()) if len(found) else None

    @property
    def peak(self) -> int | None:
        """The lag (the first of its bin) whose gradient is the most consistent; None without a signal."""
        if not self.significant.any():
            return None
        return int(self.first[np.argmax(np.where(self.significant, self.consistency, -np.inf))])

    def __str__(self) -> str:
        if self.need is None:
            return f"{self.layer}: no signal at any lag, in {self.sequences} sequences"
        return (
            f"{self.layer}: a signal up to lag {self.need}, the most consistent at lag {self.peak} "
            f"({self.consistency[self.first == self.peak][0]:.0%}), in {self.sequences} sequences"
        )


class Moments:
    """Sums over pairs and triples of sequences, of products ⟨g_b, g_b'⟩ under the null hypothesis."""

    def __init__(self) -> None:
        self.own = self.squares = self.cubes = 0.0
        self.sequences = self.pairs = self.triples = 0

    def add(self, gram: Tensor) -> None:
        """Add one exchange, by its Gram matrix."""
        n = len(gram)
        self.own += float(gram.diagonal().sum())
        gram = gram.clone().fill_diagonal_(0)
        self.squares += float(gram.square().sum())
        self.cubes += float((gram @ gram * gram).sum())
        self.sequences, self.pairs, self.triples = (
            self.sequences + n,
            self.pairs + n * (n - 1),
            self.triples + n * (n - 1) * (n - 2),
        )

    def p_value(self, statistic: float, mean: float, n: int) -> tuple[float, float, float]:
        """The standard deviation of S over ``n`` sequences, z and the probability of an S as large."""
        if not self.own > 0 or not self.squares > 0:
            return np.nan, np.nan, np.nan
        one = self.own / self.sequences
        second = (n - 1) / n * self.squares / self.pairs / one**2
        third = max((n - 1) * (n - 2) / n**2 * self.cubes / self.triples / one**3, second**2)  # Σλ = 1: at least
        deviation = (2 * second) ** 0.5
        z, freedom = (statistic - mean) / deviation, second**3 / third**2
        chi2 = max(freedom + z * (2 * freedom) ** 0.5, 0.0)
        p = torch.special.gammaincc(*(torch.tensor(v / 2, dtype=torch.float64) for v in (freedom, chi2)))
        return deviation, z, float(p)


class _Bin:
    """What is known of one bin of lags."""

    def __init__(self) -> None:
        self.total: Tensor | None = None  # Σ_b g_b
        self.own = self.mean = 0.0  # Σ_b ‖g_b‖², and what Σ_{b≠b'} ⟨g_b, g_b'⟩ is on average without a signal
        self.null = Moments()

    def add(self, gradients: Tensor) -> None:
        """Add what a batch contributes `(B, numbers)`."""
        gradients = gradients.double()
        own, total = float(gradients.square().sum()), gradients.sum(0)
        self.own += own
        self.mean += own / (len(gradients) - 1)  # as both sides are centered over the batch
        self.total = total if self.total is None else self.total.add_(total)

    def judged(self, n: int) -> tuple[float, float, float, float]:
        """S, its standard deviation without a signal, z and p."""
        if self.total is None or not self.own > 0:
            return np.nan, np.nan, np.nan, np.nan
        statistic = float(self.total.square().sum()) / self.own - 1
        return statistic, *self.null.p_value(statistic, self.mean / self.own, n)


class Tally:
    """All that the statistic and its null distribution need of the sequences seen so far, of one layer, by bin.

    Every lag is divided by its size in the first batch: in a bin all its lags count alike, although the gradient may
    fade a thousandfold from its first to its last, and no square is out of range.
    """

    def __init__(self, label: str, starts: NDArray[np.int64], sides: Sides) -> None:
        self.label, self.sides, self.sequences, self.exchanges = label, sides, 0, 0
        self._starts = starts  # first lag of each bin
        self._bins: dict[int, _Bin] = {}
        self._sizes: dict[int, float] = {}  # by lag, in the first batch
        self._own: dict[int, float] = {}  # by lag, Σ_b ‖g_b‖² in that unit

    def add(self, parts: Iterable[Part], *, null: bool) -> None:
        """Add a sweep over a batch: of own errors, or of another's."""
        together: Tensor | None = None
        place = batch = 0
        for part in parts:
            own = int(np.searchsorted(self._starts, part.lag, "right")) - 1
            if own != place:
                self._close(place, together, null)
                together, place = None, own
            unit = self._unit(part, null)
            batch = len(part.gradients)
            if unit > 0:
                scaled = part.gradients * (part.factor / unit)
                if not null:
                    self._own[part.lag] += float(scaled.double().square().sum())
                together = scaled if together is None else together.add_(scaled)
        self._close(place, together, null)
        if null:
            self.exchanges += 1
        else:
            self.sequences += batch

    def _unit(self, part: Part, null: bool) -> float:
        """The size of a lag in the first batch that has one; 0 where the gradient is zero so far."""
        largest = float(part.gradients.abs().max())
        if not np.isfinite(largest * part.factor):
            raise FlowError(f"The gradients of {self.label} are not finite: the signal by lag cannot be known.")
        if part.lag not in self._sizes:
            if largest == 0 or null:
                self._bins.setdefault(int(np.searchsorted(self._starts, part.lag, "right")) - 1, _Bin())
                if not null:
                    self._own.setdefault(part.lag, 0.0)
                return 0.0
            mean = float((part.gradients / largest).double().square().sum()) / len(part.gradients)
            size = part.factor * largest * mean**0.5
            if size == 0:
                return 0.0
            self._sizes[part.lag] = size
            self._own.setdefault(part.lag, 0.0)
        return self._sizes[part.lag]

    def _close(self, place: int, together: Tensor | None, null: bool) -> None:
        if together is None:
            return
        own = self._bins.setdefault(place, _Bin())
        if null:
            some = together[:PAIRED].double()
            own.null.add(some @ some.T)
        else:
            own.add(together)

    def judged(self, alpha: float, correction: float, notes: list[str]) -> tuple[Signal, Array]:
        """The signal so far, and the standard deviation of the statistic without one; p is times ``correction``."""
        places, n = sorted(self._bins), self.sequences
        lags = np.array(sorted(self._own), dtype=np.int64)
        of = np.searchsorted(self._starts, lags, "right") - 1
        first = np.array([lags[of == p].min() for p in places])
        last = np.array([lags[of == p].max() for p in places])
        squares = np.array([self._sizes.get(lag, 0.0) * (self._own[lag] / n) ** 0.5 for lag in lags.tolist()])
        size = np.array([float(np.hypot.reduce(squares[of == p])) for p in places])
        found = np.array([self._bins[p].judged(n) for p in places])
        statistic, deviation, z, p = found.T
        if self.sides.projected:
            notes = [*notes, f"the gradients were projected to {SIZE} x {SIZE} numbers a matrix, at random"]
        return (
            Signal(
                self.label,
                first,
                last,
                statistic,
                statistic / (n - 1),
                size,
                z,
                np.minimum(_holm(p) * correction, 1),
                n,
                self.exchanges,
                alpha,
                notes,
            ),
            deviation,
        )


def shuffled(n: int, generator: torch.Generator) -> Tensor:
    """A random order in which no sequence stays at its place."""
    ring = torch.randperm(n, generator=generator)
    order = torch.empty_like(ring)
    order[ring] = ring.roll(1)
    return order


def measure(
    flow: GradientFlow,
    layer: str | int,
    bins: int | None,
    permutations: int,
    seed: int,
    alpha: float,
    exact: bool | None,
) -> Signal:
    """See ``GradientFlow.signal_by_lag``."""
    label = flow.layers[flow.layer_index(layer)]
    batch = flow._linearization.run(label).batch_size
    check(batch, permutations, alpha, bins)
    sweep, generator = Sweep(flow, [label]), torch.Generator().manual_seed(seed)
    lags = sweep.lags(label)
    groups = np.array_split(lags, len(lags) if bins is None else min(bins, len(lags)))
    sides = {label: Sides(sweep.runs[label], generator, exact, max(batch, len(groups)))}
    tally = Tally(label, np.array([g[0] for g in groups]), sides[label])
    tally.add((part for _, part in sweep.parts(sides, None)), null=False)
    for _ in range(permutations):
        tally.add((part for _, part in sweep.parts(sides, shuffled(batch, generator))), null=True)
    return tally.judged(alpha, 1, [])[0]


def _holm(p: Array) -> Array:
    """P-values corrected for how many there are, NaN left out (Holm 1979)."""
    found = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    factor = len(order) - np.arange(len(order))
    found[order] = np.minimum(np.maximum.accumulate(p[order] * factor), 1)
    return found


def check(batch: int, permutations: int, alpha: float, bins: int | None = None) -> None:
    """Refuse numbers that make no test.

    Raises
    ------
    FlowError
    """
    if batch < FEWEST:
        raise FlowError(f"The signal by lag compares sequences: {batch} are too few, give a batch of {FEWEST} or more.")
    if permutations < 2:
        raise FlowError(f"permutations is {permutations}; the null distribution needs at least 2.")
    if bins is not None and bins < 1:
        raise FlowError(f"bins is {bins}; give 1 or more, or None for a bin per lag.")
    if not 0 < alpha < 1:
        raise FlowError(f"alpha is {alpha}; it is a probability between 0 and 1.")
