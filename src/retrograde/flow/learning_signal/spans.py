"""Over how many steps the targets depend on the inputs, for networks that read the states of many steps.

Under a head that pools (mean, maximum, attention) the gradient enters a layer at every step, so a single step needs no
memory wherever it is. Memory is needed where steps decide together: the order of two events m steps apart takes m
steps. So the errors are compared with the inputs themselves. Of every sequence,

- the inputs of its steps, added up whatever their place (span 0: nothing is to be remembered),
- for each span m the products φ(x_t) ⊗ φ(x_{t−m}), added up over t (φ has the inputs and their sizes),
- the inputs of each step at its place, from the start and from the end: to tell a step by its place takes as many steps
  of memory as there are between it and the nearer end.

Each is tested by S of the signal by lag, Σ_{b≠b'} ⟨e_b, e_b'⟩ k(b, b') / Σ_b k(b, b) ‖e_b‖², k the scalar product, with
the errors of other sequences as its null distribution, and Holm's correction over all. A longer span often only repeats
what a shorter one says, where inputs repeat themselves (waves, trends). So spans and places count only as far as they
add to those of less memory: by how much kernel ridge regression (each error predicted from all other sequences)
explains more with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FlowError
from ..recording.calls import Call
from ..recording.graph import Graph
from ..wiring.entries import Entry
from .statistic import Moments, Signal, holm, shuffled

Array = NDArray[np.float64]
LABEL = "inputs"
MOST = 1024  # sequences
FITTED = 512  # sequences of the regression
KEPT = 2**25  # numbers of all products that are kept
WIDEST = 8  # inputs, by a random projection
ERRORS = 8  # directions of the errors
SINGLE = 8  # spans with a bin of their own; beyond, bins are 20 % wide
EXCHANGES = 4
PAIRED = 256  # sequences of which the null distribution is found
GAIN = 0.15  # of the largest part, below which a part adds nothing
SURE = 3.0  # standard errors by which a part must explain more
RIDGES = 10.0 ** np.arange(-3, 4)  # in units of the mean of the kernel's diagonal


@dataclass
class _Part:
    """One of the things that errors are compared with."""

    first: int  # the span, or the first of its bin
    features: list[Tensor]  # `(B, numbers)`, centered
    p_value: float = np.nan
    z: float = np.nan
    statistic: float = np.nan
    gain: float = 0.0  # share of the errors that it explains beyond those before it


@dataclass
class Compared:
    """What is compared in a batch."""

    inputs: Tensor  # of the lowest layers, `(T, B, I)`
    live: Tensor  # which steps there are, `(T, B)`
    errors: Tensor  # ∂E/∂(what the head reads), `(B, P)`
    pooled: bool  # whether the head reads the states of many steps
    # How many steps of memory each step needs, by its place alone `(T, B)`: to the nearest state that is read, or from
    # the nearest end where many are read; T where no state that is read knows of it.
    memory: Tensor


def compared_of(graph: Graph, entries: Mapping[str, Entry], *, pooled: bool) -> Compared:
    """Inputs and errors of a recorded run, from the entries of its head.

    Raises FlowError if errors are not finite; or layers run through different numbers of steps.
    """
    inputs: list[Tensor] = []
    live: Tensor | None = None
    for label, entry in entries.items():
        first = graph.runs[label][0]
        if not isinstance(first, Call) or not first.own_input:
            continue
        x, there = (a.flip(0) if entry.reverse else a for a in (entry.run.x.cpu(), entry.live))
        live = there if live is None else live
        if x.shape[:2] == live.shape and not any(torch.equal(x, other) for other in inputs):
            inputs.append(x)
    if live is None:
        raise FlowError("No recurrent layer reads inputs of its own, so they cannot be compared with the errors.")
    errors = torch.cat([entry.local.sum(0).cpu() for entry in entries.values()], 1).double()
    if not bool(torch.isfinite(errors).all()):
        raise FlowError("The loss has a gradient that is not finite.")
    tops = [entry for entry in entries.values() if bool(entry.local.any())]
    if any(entry.live.shape != live.shape for entry in tops):
        raise FlowError("Layers run through different numbers of steps, so inputs cannot be compared with the errors.")
    memory = torch.full(live.shape, len(live), device="cpu")
    for entry in tops:
        own = _since_start(entry.live) if pooled else _until_read(entry.local)
        memory = torch.minimum(memory, own.flip(0) if entry.reverse else own)
    return Compared(torch.cat(inputs, 2).double(), live, errors, pooled, memory)


def _since_start(live: Tensor) -> Tensor:
    """How many steps of its sequence came before each step `(T, B)`."""
    return (live.long().cumsum(0) - 1).clamp(min=0)


def _until_read(local: Tensor) -> Tensor:
    """How many steps after each step the next one is that is read; T without any `(T, B)`."""
    steps = torch.arange(len(local), device="cpu").unsqueeze(1)
    at = torch.where(local.cpu().ne(0).any(-1), steps, 2 * len(local))
    return (at.flip(0).cummin(0).values.flip(0) - steps).clamp(max=len(local))


class SpanTest:
    """Keeps inputs and errors of the first sequences, and tests them when asked."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: list[Compared] = []
        self._map: Tensor | None = None

    @property
    def sequences(self) -> int:
        """How many are kept."""
        return sum(len(own.errors) for own in self._kept)

    @property
    def varies(self) -> bool:
        """Whether any error differs from that of another sequence of its batch."""
        return any(bool((own.errors != own.errors[:1]).any()) for own in self._kept)

    def add(self, own: Compared, most: int) -> bool:
        """Keep what is compared in a batch; returns whether that is enough, or as many sequences as ``most``."""
        if self._map is None and own.inputs.shape[2] > WIDEST:
            self._map = _projection(own.inputs.shape[2], WIDEST, self._generator)
        self._kept.append(own if self._map is None else replace(own, inputs=own.inputs @ self._map))
        return self.sequences >= min(MOST, most)

    def result(self, alpha: float, effort: float) -> Signal:
        """The test on all that was kept, in about so many multiplications: its lags are spans, or steps of memory."""
        data = together(self._kept, MOST, effort)
        live, e = data.live, data.errors
        n, values = len(e), values_of(data.inputs, live)
        orders = [shuffled(n, self._generator) for _ in range(EXCHANGES)]
        bins, places = _bins(len(live)), _places(values, live, data.memory)
        ladder = [[part for part in places if part.first in lags] for lags in bins]
        if self._kept[0].pooled:
            ladder = [[span, *at] for span, at in zip(_spans(values, live, bins), ladder, strict=True)]
        every = [part for parts in ladder for part in parts]
        for part in every:
            part.statistic, part.z, part.p_value = _compared(part.features, e, orders)
        for part, p in zip(every, holm(np.array([part.p_value for part in every])), strict=True):
            part.p_value = 1.0 if np.isnan(p) else float(p)
        _find_gains([[part for part in parts if part.p_value < alpha] for parts in ladder], e[:FITTED])
        return _signal(every, bins, n, float(e.square().sum(1).mean().sqrt()), alpha)


def together(kept: Sequence[Compared], most: int, effort: float) -> Compared:
    """What several batches have, side by side: at most so many sequences, inputs in units of their spread.

    Inputs are centered over the sequences at every step, 0 beyond the end, and fewer (by a random projection) where all
    pairs of steps would take more multiplications. Errors are centered, and have few directions.
    """
    longest, generator = max(int(own.live.sum(0).max()) for own in kept), torch.Generator().manual_seed(0)
    most = max(PAIRED, min(most, int(effort / (2 * longest**2))))
    live, x, memory = (
        torch.cat([_padded(getattr(own, name), longest) for own in kept], 1)[:, :most]
        for name in ("live", "inputs", "memory")
    )
    pairs = min(effort / (most * longest**2 / 2), KEPT / (most * longest))  # of numbers at each span
    if (width := max(1, int(pairs**0.5 / 2))) < x.shape[2]:
        x = x @ _projection(x.shape[2], width, generator)
    there = live.unsqueeze(-1).double()
    x = (x - (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)) * there
    spread = (x.square().sum((0, 1)) / there.sum()).sqrt()
    varies = spread > 1e-12 * spread.max()
    e = torch.cat([own.errors for own in kept])[:most]
    e = e - e.mean(0)
    if e.shape[1] > ERRORS:
        e = e @ torch.linalg.svd(e, full_matrices=False).Vh[:ERRORS].T
    return Compared(x[..., varies] / spread[varies], live, e, kept[0].pooled, memory)


def gains(kept: Sequence[Compared], longest: int, effort: float) -> dict[int, float]:
    """By steps of memory, up to ``longest``: what share of the errors is explained with so many, not with fewer.

    Of all spans and places together, clear or not: single places near an end say little each, and much together.
    """
    data = together(kept, FITTED, effort)
    e, values = data.errors, values_of(data.inputs, data.live)
    n, whole = len(e), float(e.square().sum())
    bins = [lags for lags in _bins(len(data.live)) if lags[0] <= longest]
    places, spans = _places(values, data.live, data.memory), _spans(values, data.live, bins if data.pooled else [])
    own = e.square().sum(1)  # predicted by the mean of all, of which a ridge is no better
    kernel, explained, found = torch.zeros(n, n, dtype=torch.float64, device="cpu"), 0.0, dict[int, float]()
    for i, lags in enumerate(bins):
        for part in [*spans[i : i + 1], *(place for place in places if place.first in lags)]:
            kernel += _gram(_scaled(part.features))
        less = own - left_out(kernel, e).square().sum(1) if kernel.any() else torch.zeros_like(own)
        share = float(less.sum()) / whole if float(less.sum()) > SURE * float(less.std()) * n**0.5 else 0.0
        found[lags[-1]] = max(0.0, share - explained)
        explained = max(explained, share)
    return found


def _find_gains(ladder: list[list[_Part]], e: Tensor) -> None:
    """How much of the errors the parts explain that those before them do not."""
    e = e - e.mean(0)
    n, whole = len(e), float(e.square().sum())
    before = e * n / (n - 1)  # predicted by the mean of the others
    kernel = torch.zeros(n, n, dtype=torch.float64, device="cpu")
    for parts in ladder:
        if not parts or not whole > 0:
            continue
        both = kernel + sum(
            (_gram(_scaled([f[:n] for f in part.features])) for part in parts), torch.zeros_like(kernel)
        )
        after = left_out(both, e)
        less = before.square().sum(1) - after.square().sum(1)
        if float(less.sum()) > SURE * float(less.std()) * n**0.5:
            clear = sum(part.statistic for part in parts)
            for part in parts:
                part.gain = float(less.sum()) / whole * part.statistic / clear
            kernel, before = both, after


def _projection(size: int, to: int, generator: torch.Generator) -> Tensor:
    basis: Tensor = torch.linalg.qr(torch.randn(size, to, generator=generator, dtype=torch.float64, device="cpu"))[0]
    return basis


def _padded(a: Tensor, steps: int) -> Tensor:
    return torch.cat([a[:steps], a.new_zeros(max(0, steps - len(a)), *a.shape[1:])])


def values_of(x: Tensor, live: Tensor) -> Tensor:
    """φ of the inputs of every step `(T, B, 2·D)`: themselves and their sizes, of one spread."""
    there = live.unsqueeze(-1).double()
    size = x.abs()
    size = (size - (size * there).sum((0, 1)) / there.sum()) * there
    return torch.cat([x, size / (size.square().sum((0, 1)) / there.sum()).sqrt().clamp(min=1e-12)], -1)


def _bins(longest: int) -> list[range]:
    """Spans of each bin."""
    starts = sorted({*range(SINGLE), *np.geomspace(SINGLE, 1e6, 65).round().astype(int).tolist()})
    return [range(a, min(b, longest)) for a, b in pairwise(starts) if a < longest]


def _spans(values: Tensor, live: Tensor, bins: list[range]) -> list[_Part]:
    """What steps have, added up, and products of steps so far apart."""
    steps, count = len(values), live.sum(0).double().sqrt().unsqueeze(-1)
    parts = []
    for lags in bins:
        products = [torch.einsum("tbi,tbj->bij", values[lag:], values[: steps - lag]) for lag in lags]
        features = [p.flatten(1) / count for p in products]
        parts.append(_Part(lags[0], [values.sum(0) / count, *features] if lags[0] == 0 else features))
    return parts


def _places(values: Tensor, live: Tensor, memory: Tensor) -> list[_Part]:
    """What each step has, from the start, and from the end where the ends differ, and the memory that it needs."""
    steps, lengths, each = len(values), live.sum(0), torch.arange(values.shape[1], device="cpu")
    alike = bool((lengths == lengths[0]).all())
    parts: list[_Part] = []
    for k in range(steps if alike else 2 * steps):
        at = torch.full_like(lengths, k) if k < steps else lengths - 1 - (k - steps)
        there, at = (at >= 0) & (at < lengths), at.clamp(0, steps - 1)
        needed = memory[at, each][there]
        if int((needed < steps).sum()) * 2 > len(needed):
            parts.append(_Part(int(needed.median()), [values[at, each] * there.unsqueeze(-1)]))
    return parts


def _scaled(features: list[Tensor]) -> list[Tensor]:
    """Centered over the sequences, with a mean square of 1 in all; 0 where there is only rounding."""
    centered = [f - f.mean(0) for f in features]
    size, whole = (
        float(sum(float(f.square().sum()) for f in own) / len(own[0])) ** 0.5 for own in (centered, features)
    )
    return [f / size if size > 1e-9 * whole else torch.zeros_like(f) for f in centered]


def _gram(features: list[Tensor]) -> Tensor:
    return torch.stack([f @ f.T for f in features]).sum(0)


def _compared(features: list[Tensor], e: Tensor, orders: list[Tensor]) -> tuple[float, float, float]:
    """S of some features and errors, z, and the probability of an S as large by chance."""
    scaled, n = _scaled(features), len(e)
    every = sum(float((f.T @ e).square().sum()) for f in scaled)
    own = float((torch.stack([f.square().sum(1) for f in scaled]).sum(0) * e.square().sum(1)).sum())
    if not own > 0:
        return np.nan, np.nan, np.nan
    kernel, null = _gram([f[:PAIRED] for f in scaled]), Moments()
    for order in orders:
        other = e[order[:PAIRED]]
        null.add(kernel * (other @ other.T))
    _, z, p = null.p_value(every / own - 1, 1 / (n - 1), n)
    return every / own - 1, z, p


def left_out(kernel: Tensor, e: Tensor) -> Tensor:
    """Errors less what ridge regression on all other sequences predicts, with the best ridge `(B, P)`."""
    size = float(kernel.diagonal().mean()) or 1.0  # of inputs that say nothing: 0
    values, vectors = torch.linalg.eigh(kernel / size + 1.0)  # 1: a mean that is not known
    best, least = e, float("inf")
    turned = vectors.T @ e
    for ridge in RIDGES:
        weights = ridge / (values.clamp(min=0) + ridge)
        left = (vectors @ (weights.unsqueeze(1) * turned)) / (vectors.square() @ weights).unsqueeze(1)
        if (size := float(left.square().sum())) < least:
            best, least = left, size
    return best


def _signal(every: list[_Part], bins: list[range], n: int, size: float, alpha: float) -> Signal:
    """The parts as a signal by lag: how much each bin explains."""
    gain, p, z = np.zeros(len(bins)), np.ones(len(bins)), np.full(len(bins), -np.inf)
    for part in every:
        at = next(i for i, lags in enumerate(bins) if part.first in lags)
        z[at] = max(z[at], np.nan_to_num(part.z, nan=-np.inf))
        if part.gain > 0:
            gain[at] += part.gain
            p[at] = min(p[at], part.p_value)
    p[gain < GAIN * gain.max()] = 1.0
    first, last = (np.array([lags[i] for lags in bins]) for i in (0, -1))
    z[np.isinf(z)] = np.nan
    return Signal(
        LABEL,
        first,
        last,
        gain * (n - 1),
        gain,
        np.full(len(bins), size),
        z,
        p,
        np.ones(len(bins)),
        n,
        EXCHANGES,
        alpha,
        [],
    )
