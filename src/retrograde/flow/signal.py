"""The learning signal by lag: what the data asks a network to remember, whatever is left of the gradient's size.

The size of the gradient at a lag says what reaches the weights, not whether there is anything to learn there. Its
consistency over sequences does: g_b(ℓ), what sequence b contributes to ∂E/∂U and ∂E/∂W at lag ℓ, points in one
direction for many b where the error depends on what happened ℓ steps before, and in random directions where it does
not. The statistic

    S(ℓ) = (‖Σ_b g_b‖² − Σ_b ‖g_b‖²) / Σ_b ‖g_b‖²

is near 0 without signal and B − 1 where all g_b are equal. It has no unit: a gradient that has faded to 1e-13 of its
start shows it as clearly as one that has not.

Errors and states are centered over the batch first, so that a mean error times a mean state (what a bias can learn)
does not count. Under the null hypothesis the error of a sequence has nothing to do with its states: each sequence is
given the error of another, and the adjoints are found again. Of every permutation the products ⟨g_b, g_b'⟩ of all
pairs give the eigenvalues' sums Σ λ² and Σ λ³ of Σ_i λ_i (χ²_i − 1), the distribution of S, which a χ² of the same
variance and skewness matches (Hall 1983, Buckley and Eagleson 1988). Holm's correction is over all lags.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FlowError
from . import adjoint
from .cells import Trajectory, Weights
from .graph import MIXED
from .head import final_errors

if TYPE_CHECKING:
    from .result import GradientFlow

Array = NDArray[np.float64]
NEVER = np.iinfo(np.int64).min  # the lag of a pair without one
NOT_LOCAL = (
    "The signal by lag gives each sequence the error of another: that takes layers which run forward in time, each fed "
    "by the one below, under a head that looks at one step at a time (or a loss per sequence), and the flow that "
    "gradient_flow returns."
)
FEWEST = 8  # sequences: with fewer, hardly a permutation differs from the data
SIZE = 32  # of a random projection, to each side of a weight matrix
PAIRED = 128  # sequences of which all pairs are looked at, to find the variance under the null hypothesis
MANY = 2**24  # numbers in all g_b together, above which they are projected


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
        Corrected for the number of bins (Holm).
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


@dataclass
class _Sums:
    """What one set of errors gives, by bin: Σ‖g_b‖², S, and Σ λ², Σ λ³ of the eigenvalues λ of the Gram matrix."""

    own: Array
    pairs: Array
    squares: Array
    cubes: Array

    @classmethod
    def of(cls, bins: int) -> _Sums:
        return cls(*(np.zeros(bins) for _ in range(4)))

    def add(self, place: int, gradients: Tensor) -> None:
        """Fill the place of one bin from its g_b `(B, numbers)`."""
        largest = float(gradients.abs().max())
        if largest == 0 or not np.isfinite(largest):
            self.own[place] = 0.0 if largest == 0 else np.nan
            self.pairs[place] = self.squares[place] = self.cubes[place] = np.nan
            return
        unit = (gradients / largest).double()  # the squares of numbers far below 1 would be 0
        own = unit.square().sum()
        self.own[place] = float(own) * largest**2
        self.pairs[place] = float(unit.sum(0).square().sum() / own - 1)
        some = unit[:PAIRED]
        gram = some @ some.T / own
        gram.fill_diagonal_(0)
        n, m = len(unit), len(some)
        twice, thrice = n * (n - 1) / (m * (m - 1)), n * (n - 1) * (n - 2) / (m * (m - 1) * (m - 2))
        self.squares[place] = twice * float(gram.square().sum())
        self.cubes[place] = thrice * float((gram @ gram * gram).sum())


class _Layer:
    """One layer's two weight matrices: from adjoints at some steps to the products ⟨g_b, g_b'⟩."""

    def __init__(self, run: Trajectory, generator: torch.Generator, exact: bool | None) -> None:
        self.run = run
        live = torch.ones(run.x.shape[:2], dtype=torch.bool) if run.mask is None else run.mask
        self.right = [_centered(a, live) for a in (run.x, run.h_before)]
        rows = run.weights.hh.shape[0]
        numbers = run.batch_size * rows * sum(a.shape[-1] for a in self.right)
        self.projected = numbers > MANY if exact is None else not exact
        self.left: list[Tensor | None] = [None, None]
        if self.projected:
            dtype = run.x.dtype
            for i, a in enumerate(self.right):
                self.left[i] = _projection(rows, generator).to(dtype)
                self.right[i] = a @ _projection(a.shape[-1], generator).to(dtype)

    def gradients(self, adjoints: tuple[Tensor, Tensor], at: slice | Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """g_b of both matrices side by side `(B, numbers)`, from adjoints `(rows, B, G·H)` at some steps."""
        found = []
        for a, project, right in zip(adjoints, self.left, self.right, strict=True):
            left = a if project is None else a @ project
            there = right[at] if isinstance(at, slice) else right[at].reshape(*left.shape[:2], -1)
            found.append(torch.einsum("kbi,kbj->bij", left, there).flatten(1))
        return torch.cat(found, 1)


def _projection(size: int, generator: torch.Generator) -> Tensor:
    """An orthonormal map to fewer dimensions, which keeps angles on average; the identity where there are few."""
    if size <= SIZE:
        return torch.eye(size, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(torch.randn(size, SIZE, dtype=torch.float64, generator=generator))[0]
    return basis


def _centered(a: Tensor, live: Tensor) -> Tensor:
    """Subtract the mean over the sequences that are live at each step; zero where one is not. `(T, B, …)`."""
    weight = live.unsqueeze(-1).to(a.dtype)
    return (a - (a * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)) * weight


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
    _check(flow, batch, permutations, alpha, bins)
    walk = _Walk(flow, label)
    generator = torch.Generator().manual_seed(seed)
    own = _Layer(walk.run, generator, exact)
    first, last = _bins(walk.lags, bins)

    def sums(order: Tensor | None) -> _Sums:
        found, together, place = _Sums.of(len(first)), None, 0
        for lag, gradients in walk.gradients(own, order):
            together = gradients if together is None else together.add_(gradients)
            if lag == last[place]:
                found.add(place, together)
                together, place = None, place + 1
        return found

    seen = sums(None)
    if np.isnan(seen.own).any():
        raise FlowError(f"The gradients of {label} are not finite: the signal by lag cannot be known.")
    null = [sums(torch.randperm(batch, generator=generator)) for _ in range(permutations)]
    return _judged(label, first, last, seen, null, batch, alpha, own.projected)


def _judged(
    label: str,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    seen: _Sums,
    null: list[_Sums],
    batch: int,
    alpha: float,
    projected: bool,
) -> Signal:
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a lag without any gradient: NaN, as it should be
        second, third, mean = (
            np.nanmean([getattr(s, name) for s in null], axis=0) for name in ("squares", "cubes", "pairs")
        )
        third = np.maximum(third, second**2)  # which it is at least, as the λ add up to 1
        z = (seen.pairs - mean) / np.sqrt(2 * second)
        freedom = torch.from_numpy(second**3 / third**2)
        chi2 = freedom + torch.from_numpy(z) * (2 * freedom).sqrt()
        p = torch.special.gammaincc(freedom / 2, chi2.clamp(min=0) / 2).numpy()
    notes = []
    if projected:
        notes.append(f"the gradients were projected to {SIZE} x {SIZE} numbers a matrix, at random")
    size = np.sqrt(seen.own / batch)
    return Signal(
        label, first, last, seen.pairs, seen.pairs / (batch - 1), size, z, _holm(p), batch, len(null), alpha, notes
    )


def _holm(p: Array) -> Array:
    """P-values corrected for how many there are, NaN left out (Holm 1979)."""
    found = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    factor = len(order) - np.arange(len(order))
    found[order] = np.minimum(np.maximum.accumulate(p[order] * factor), 1)
    return found


def _bins(lags: NDArray[np.int64], bins: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last lag of each bin: a bin per lag, or so many of equal width."""
    groups = np.array_split(lags, len(lags) if bins is None else min(bins, len(lags)))
    return np.array([g[0] for g in groups]), np.array([g[-1] for g in groups])


def _check(flow: GradientFlow, batch: int, permutations: int, alpha: float, bins: int | None) -> None:
    if batch < FEWEST:
        raise FlowError(f"The signal by lag compares sequences: {batch} are too few, give a batch of {FEWEST} or more.")
    if permutations < 2:
        raise FlowError(f"permutations is {permutations}; the null distribution needs at least 2.")
    if bins is not None and bins < 1:
        raise FlowError(f"bins is {bins}; give 1 or more, or None for a bin per lag.")
    if not 0 < alpha < 1:
        raise FlowError(f"alpha is {alpha}; it is a probability between 0 and 1.")
    if MIXED in flow.notes:
        raise FlowError(
            "Sequences are mixed (batch normalization in training mode?), so none can be given another's error."
        )


class _Walk:
    """The errors, centered, of each sequence's own or another's, and how they travel back through the layers."""

    def __init__(self, flow: GradientFlow, label: str) -> None:
        known = flow._linearization
        self.final = known.local is None
        if known.local is not None:
            stacks = [(list(runs), local) for runs, local in known.stacks()]
            names = {id(run): name for name, run in known.runs.items()}
            runs, errors = next(s for s in stacks if any(names[id(r)] == label for r in s[0]))
            self._at = next(i for i, run in enumerate(runs) if names[id(run)] == label)
        else:
            found = None if known.graph is None or not flow.final else final_errors(known.graph)
            if found is None:
                raise FlowError(NOT_LOCAL)
            runs, errors = [known.runs[name] for name in found], list(found.values())
            self._at = list(found).index(label)
        dtype = torch.float32 if runs[0].x.dtype == torch.float32 and _in_range(flow) else torch.float64
        runs, errors = [_converted(run, dtype) for run in runs], [e.to("cpu", dtype) for e in errors]
        self._runs, self._targets = runs, known.targets
        self._lag_of = torch.from_numpy(flow._lag_of_sequences(label)[0]) if self.final else None
        live = torch.ones(runs[0].x.shape[:2], dtype=torch.bool) if runs[0].mask is None else runs[0].mask
        self._live, self._ends = live, live.sum(0)
        errors = [self._from_end(e) if self.final else e for e in errors]
        self._errors = [_centered(e, e.ne(0).any(-1)) for e in errors]

    @property
    def run(self) -> Trajectory:
        """The run of the layer that is asked about."""
        return self._runs[self._at]

    @property
    def lags(self) -> NDArray[np.int64]:
        """All lags of the layer, in rising order."""
        if self._lag_of is None:
            return np.arange(int(self._targets[-1]) + 1)
        return np.unique(self._lag_of[self._lag_of > NEVER].numpy())

    def _from_end(self, e: Tensor) -> Tensor:
        """Steps counted back from each sequence's last, or forth again: `(T, B, P)`."""
        k = self._ends.unsqueeze(0) - 1 - torch.arange(len(e)).unsqueeze(1)
        return e.gather(0, k.clamp(min=0).unsqueeze(-1).expand_as(e)) * (k >= 0).unsqueeze(-1)

    def gradients(self, layer: _Layer, order: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Yield each lag, in rising order, with g_b `(B, numbers)`; ``order`` gives each sequence another's error."""
        errors = self._errors if order is None else [e[:, order] for e in self._errors]
        if self._lag_of is not None:
            yield from self._of_last([self._from_end(e) for e in errors], layer, self._lag_of)
            return
        errors = [e * self._live.unsqueeze(-1) for e in errors]
        for lag, found in adjoint.by_lag(self._runs, errors, self._targets):
            a = found[self._at]
            yield lag, layer.gradients((self.run.input_side(a.at, a.h, a.hidden), a.hidden), a.at)

    def _of_last(self, errors: list[Tensor], layer: _Layer, lag_of: Tensor) -> Iterator[tuple[int, Tensor]]:
        above: Tensor | None = None
        for i in range(len(self._runs) - 1, self._at - 1, -1):
            whole = errors[i][None] if above is None else errors[i][None] + above
            need_x = i > self._at
            found, above, _, _ = adjoint.backward(self._runs[i], whole, None, None, need_x=need_x, keep=True)
        assert found.inputs is not None and found.hidden is not None
        batch = torch.arange(lag_of.shape[-1] if lag_of.shape[-1] > 1 else self.run.batch_size)
        table = lag_of.expand(-1, len(batch))
        for lag in self.lags:
            there = (table == int(lag)) & self._live
            k = there.int().argmax(0)  # the step of each sequence, where it has one
            at = (k, batch)
            rows = (there.any(0)).unsqueeze(-1).to(found.inputs.dtype)
            yield int(lag), layer.gradients((found.inputs[0][at][None] * rows, found.hidden[0][at][None] * rows), at)


def _in_range(flow: GradientFlow) -> bool:
    """Whether float32 has all digits of the gradients, and of their products with states."""
    sizes = flow.norms[flow.norms != 0]
    return flow.below is None and bool(((sizes > 1e-30) & (sizes < 1e30)).all())


def _converted(run: Trajectory, dtype: torch.dtype) -> Trajectory:
    """The same in another type, on the CPU."""

    def converted(a: Tensor | None) -> Any:
        return None if a is None else a.to("cpu", dtype)

    own = {name: converted(getattr(run, name)) for name in ("x", "h_before", "h", "gates", "c_before", "c", "inner")}
    w = run.weights
    weights = Weights(*map(converted, (w.ih, w.hh, w.bias_ih, w.bias_hh, w.hr)))
    return replace(run, weights=weights, mask=None if run.mask is None else run.mask.cpu(), **own)
