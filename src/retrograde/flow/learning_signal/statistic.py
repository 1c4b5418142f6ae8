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
(Hall 1983, Buckley and Eagleson 1988): two or three such exchanges are enough.

A signal is looked for in two ways, with half of the error rate each. By lag, with Holm's correction over all lags:
which lags have one. And by tail: is there any signal at lag ℓ or beyond? These hypotheses are nested, so they are
tested from ℓ = 0 upwards until the first that holds, without a correction (a fixed sequence); weak signals of many lags
add up.

Tests: `tests/flow/test_signal.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FlowError
from .sweep import SIZE, Part, Sides, Sweep

if TYPE_CHECKING:
    from ..result import GradientFlow

Array = NDArray[np.float64]
NOT_FINITE = "The gradients of {} are not finite: the signal by lag cannot be known."
FEWEST = 8  # sequences: with fewer, hardly an exchange differs from the data
FEW = 8  # sequences: if so few or fewer contribute a lag's gradient, its p-value is not to be trusted
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
        By bin, corrected for the number of bins (Holm), and of looks and layers where these are several.
    tail_p_value : ndarray
        Of a signal at the first lag of the bin or any beyond; not below those of shorter lags, and corrected for looks
        and layers.
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
    tail_p_value: Array
    sequences: int
    permutations: int
    alpha: float
    notes: list[str]

    @property
    def significant(self) -> NDArray[np.bool_]:
        """By bin, whether it has a signal by itself."""
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
        alone, beyond = self.last[self.significant], self.first[self.tail_p_value < self.alpha]
        return int(max([*alone, *beyond])) if len(alone) + len(beyond) else None

    @property
    def peak(self) -> int | None:
        """The lag (the first of its bin) whose gradient is the most consistent; None if none has a signal by itself."""
        if not self.significant.any():
            return None
        return int(self.first[np.argmax(np.where(self.significant, self.consistency, -np.inf))])

    def __str__(self) -> str:
        if self.need is None:
            return f"{self.layer}: no signal at any lag, in {self.sequences} sequences"
        peak = self.peak
        most = "" if peak is None else f" ({self.consistency[self.first == peak][0]:.0%})"
        most = "weak at every single lag" if peak is None else f"the most consistent at lag {peak}{most}"
        return f"{self.layer}: a signal up to lag {self.need}, {most}, in {self.sequences} sequences"


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
        if not second > np.finfo(np.float64).eps ** 2:  # products of sequences that have nothing in common: rounding
            return np.nan, np.nan, np.nan
        third = max((n - 1) * (n - 2) / n**2 * self.cubes / self.triples / one**3, second**2)  # Σλ = 1: at least
        deviation = (2 * second) ** 0.5
        z, freedom = (statistic - mean) / deviation, second**3 / third**2
        chi2 = max(freedom + z * (2 * freedom) ** 0.5, 0.0)
        p = torch.special.gammaincc(*(torch.tensor(v / 2, dtype=torch.float64, device="cpu") for v in (freedom, chi2)))
        return deviation, z, float(p)


class _Lag:
    """What is known of one lag, in units of its size in the first batch."""

    def __init__(self, size: float) -> None:
        self.size = size
        self.total: Tensor | None = None  # Σ_b g_b
        self.own = self.mean = 0.0  # Σ_b ‖g_b‖², and what Σ_{b≠b'} ⟨g_b, g_b'⟩ is on average without a signal
        self.fourth = 0.0  # Σ_b ‖g_b‖⁴

    def add(self, gradients: Tensor) -> None:
        """Add what a batch contributes `(B, numbers)`."""
        own, total = _square(gradients), gradients.sum(0, dtype=torch.float64)
        self.own += own
        self.fourth += float(gradients.double().square().sum(1).square().sum())
        self.mean += own / (len(gradients) - 1)  # as both sides are centered over the batch
        self.total = total if self.total is None else self.total.add_(total)

    @property
    def effective(self) -> float:
        """How many sequences of equal size would weigh as much (Kish 1965): (Σ_b ‖g_b‖²)² / Σ_b ‖g_b‖⁴."""
        return self.own**2 / self.fourth if self.fourth > 0 else np.inf

    @property
    def pairs(self) -> float:
        """Σ_{b≠b'} ⟨g_b, g_b'⟩."""
        return 0.0 if self.total is None else float(self.total.square().sum()) - self.own


class Tally:
    """All that the statistic and its null distribution need of the sequences seen so far, of one layer.

    Every lag is divided by its size in the first batch, and the lags of a bin are put side by side: all count alike,
    although the gradient may fade a thousandfold from the first to the last, and nothing cancels between them.
    """

    def __init__(self, label: str, starts: NDArray[np.int64], sides: Sides) -> None:
        self.label, self.sides, self.sequences, self.exchanges = label, sides, 0, 0
        self._starts = starts  # first lag of each bin
        self._lags: dict[int, _Lag | None] = {}  # None while the gradient is zero
        self._bins: dict[int, Moments] = {}  # under the null hypothesis
        self._tails: dict[int, Moments] = {}  # of each bin and all beyond
        self._grams: dict[int, Tensor] = {}  # by bin, of the exchange that is being added

    @property
    def is_empty(self) -> bool:
        """Whether no lag has been seen: there was no error."""
        return not self._lags

    def add(self, part: Part, *, null: bool) -> None:
        """Add one lag of a sweep over a batch, of own errors or of another's; ``end`` follows the last."""
        lag = self._lags.get(part.lag)
        if lag is None and not null:
            lag = self._lags[part.lag] = self._first(part)
        if lag is None:
            return
        scaled = part.gradients * (part.factor / lag.size)
        if not null:
            lag.add(scaled)
            if not np.isfinite(lag.own):
                raise FlowError(NOT_FINITE.format(self.label))
            return
        some, place = scaled[:PAIRED], self._place(part.lag)  # about 1 in size: float32 is enough for a variance
        gram = some @ some.T
        self._grams[place] = self._grams[place].add_(gram) if place in self._grams else gram

    def end(self, batch: int, *, null: bool) -> None:
        """End a sweep over so many sequences."""
        beyond: Tensor | None = None
        for place in sorted(self._grams, reverse=True):
            gram = self._grams[place]
            beyond = gram if beyond is None else beyond + gram
            self._bins.setdefault(place, Moments()).add(gram)
            self._tails.setdefault(place, Moments()).add(beyond)
        self._grams.clear()
        self.exchanges += null
        self.sequences += 0 if null else batch

    def _place(self, lag: int) -> int:
        return int(np.searchsorted(self._starts, lag, "right")) - 1

    def _first(self, part: Part) -> _Lag | None:
        """A lag in the first batch in which it has a gradient."""
        largest = float(part.gradients.abs().max())
        if not np.isfinite(largest * part.factor):
            raise FlowError(NOT_FINITE.format(self.label))
        if largest == 0:
            return None
        size = part.factor * largest * (_square(part.gradients / largest) / len(part.gradients)) ** 0.5
        return _Lag(size) if size > 0 else None

    def judged(self, alpha: float, correction: float, notes: list[str]) -> tuple[Signal, Array]:
        """The signal so far, and the standard deviation of the statistic without one; p is times ``correction``."""
        n, by_place = self.sequences, dict[int, list[int]]()
        for lag in sorted(self._lags):
            by_place.setdefault(self._place(lag), []).append(lag)
        found, size, beyond, after, effective = [], [], [], np.zeros(3), []
        for place, lags in reversed(by_place.items()):
            known = [one for lag in lags if (one := self._lags[lag]) is not None]
            size.append(float(np.hypot.reduce([one.size * (one.own / n) ** 0.5 for one in known])) if known else 0.0)
            effective.append(min((one.effective for one in known), default=np.inf))
            sums = np.array([[one.pairs, one.mean, one.own] for one in known]).reshape(-1, 3).sum(0)
            after = after + sums
            found.append(_judged(sums, self._bins.get(place), n))
            beyond.append(_judged(after, self._tails.get(place), n)[3])
        statistic, deviation, z, p = np.array(found[::-1]).T
        tails = np.array(beyond[::-1])
        tails[~np.isnan(tails)] = np.maximum.accumulate(tails[~np.isnan(tails)])
        p, tails = np.minimum(holm(p) * 2 * correction, 1), np.minimum(tails * 2 * correction, 1)
        notes = [
            *notes,
            *_dominated(np.where((p < alpha) | (tails < alpha), effective[::-1], np.inf), list(by_place.values()), n),
        ]
        if self.sides.projected:
            notes = [*notes, f"the gradients were projected to {SIZE} x {SIZE} numbers a matrix, at random"]
        return (
            Signal(
                self.label,
                np.array([lags[0] for lags in by_place.values()]),
                np.array([lags[-1] for lags in by_place.values()]),
                statistic,
                statistic / (n - 1),
                np.array(size[::-1]),
                z,
                p,
                tails,
                n,
                self.exchanges,
                alpha,
                notes,
            ),
            deviation,
        )


def _dominated(effective: Array, bins: list[list[int]], n: int) -> list[str]:
    """A note where the signal of a lag may be chance, as a few sequences contribute most of its gradient."""
    if not len(effective) or effective.min() > FEW:
        return []
    least = int(effective.argmin())
    return [
        f"a few of {n} sequences contribute most of the gradient at lag {bins[least][0]} (like "
        f"{effective[least]:.0f} equal ones), so that its signal may be chance: bring the sequences to one scale"
    ]


def _judged(sums: Array, null: Moments | None, n: int) -> tuple[float, float, float, float]:
    """S of some lags side by side, from their sums, its standard deviation without a signal, z and p."""
    pairs, mean, own = sums.tolist()
    if not own > 0 or null is None:
        return np.nan, np.nan, np.nan, np.nan
    return pairs / own, *null.p_value(pairs / own, mean / own, n)


def _square(a: Tensor) -> float:
    """‖a‖², of numbers of any size: torch sums in pieces, so float32 has six digits or more."""
    return float(torch.linalg.vector_norm(a)) ** 2


def add(tallies: Mapping[str, Tally], sweep: Sweep, permutations: int, generator: torch.Generator) -> None:
    """Add a batch to the tallies of its layers: a sweep of own errors, then some of others'."""
    sides = {label: tally.sides for label, tally in tallies.items()}
    for exchange in range(permutations + 1):
        null = exchange > 0
        for label, part in sweep.parts(sides, shuffled(sweep.batch_size, generator) if null else None):
            tallies[label].add(part, null=null)
        for tally in tallies.values():
            tally.end(sweep.batch_size, null=null)


def shuffled(n: int, generator: torch.Generator) -> Tensor:
    """A random order in which no sequence stays at its place."""
    ring = torch.randperm(n, generator=generator, device="cpu")
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
    sweep, generator = Sweep.of_flow(flow, label), torch.Generator().manual_seed(seed)
    lags = sweep.lags(label)
    if not len(lags):
        raise FlowError(f"No loss has a gradient in {label}, so there is no lag with a signal.")
    groups = np.array_split(lags, len(lags) if bins is None else min(bins, len(lags)))
    sides = {label: Sides(sweep.runs[label], generator, exact, max(batch, len(groups)))}
    tally = Tally(label, np.array([g[0] for g in groups]), sides[label])
    add({label: tally}, sweep, permutations, generator)
    return tally.judged(alpha, 1, [])[0]


def holm(p: Array) -> Array:
    """P-values corrected for how many there are, NaN left out (Holm 1979)."""
    found = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    factor = len(order) - np.arange(len(order))
    found[order] = np.minimum(np.maximum.accumulate(p[order] * factor), 1)
    return found


def check(batch: int, permutations: int, alpha: float, bins: int | None = None) -> None:
    """Refuse numbers that make no test.

    Raises FlowError.
    """
    if batch < FEWEST:
        raise FlowError(f"The signal by lag compares sequences: {batch} are too few, give a batch of {FEWEST} or more.")
    if permutations < 2:
        raise FlowError(f"permutations is {permutations}; the null distribution needs at least 2.")
    if bins is not None and bins < 1:
        raise FlowError(f"bins is {bins}; give 1 or more, or None for a bin per lag.")
    if not 0 < alpha < 1:
        raise FlowError(f"alpha is {alpha}; it is a probability between 0 and 1.")
