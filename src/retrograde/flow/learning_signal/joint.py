"""Do the targets depend on the inputs at all, where no gradient has a signal? Tests that need no network.

A gradient of an untrained network sees the dependence of a target on single steps. Of a parity it sees nothing: the
product of steps decides. The statistic of the signal by lag, S = Σ_{b≠b'} k(b, b') ⟨e_b, e_b'⟩ / Σ_b k(b, b) ‖e_b‖²,
takes any similarity k of the inputs of two sequences: products of pairs of numbers (the square of a scalar product),
and Gaussians, which see every order, the narrow one up to "the same inputs have the same targets". That is the
Hilbert-Schmidt independence criterion (Gretton et al. 2008). Both sides are centered, and the null distribution is that
of exchanged errors, as for the signal by lag. Windows of the last 1, 2, 4, … steps say how far back is needed.

A gradient that shrinks by another factor in every sequence hides a signal, too: a few sequences have all of its size.
So the inputs of every single lag are compared with the errors directly (their scalar product is the similarity), and,
where sequences end at different steps, those of every step counted from the start: the first word of a sentence has
another lag in every sentence. Half of the error rate is for these, half for what is seen only together.

Tests: `tests/flow/test_signal_stream.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .statistic import Moments, holm, shuffled
from .sweep import Sweep

MOST = 1024  # sequences
PAIRED = 256  # sequences of which the null distribution is found
TARGETS = 4  # steps with a loss
EXCHANGES = 4
NARROW = 8.0  # the second Gaussian's exponent, in that of the first


@dataclass(frozen=True)
class Joint:
    """Whether targets depend on the inputs of several steps together.

    Attributes
    ----------
    found : bool
        Whether they do, at the error rate that was asked for.
    window : int or None
        The fewest last steps (1, 2, 4, …) in which it shows; None where it does not.
    p_value : float
        The smallest, corrected for the number of windows and similarities.
    sequences : int
        How many were compared.
    by_lag : tuple of float
        By lag from 0 on, how consistently the errors depend on the inputs of that step alone, 0 where they do not;
        empty where no lag has such a dependence. Of steps counted from the start, spread over the lags that they have.
    """

    found: bool
    window: int | None
    p_value: float
    sequences: int
    by_lag: tuple[float, ...] = ()

    @property
    def need(self) -> int | None:
        """The longest lag whose inputs the targets depend on by themselves; None without any."""
        return len(self.by_lag) - 1 if self.by_lag else None

    def __str__(self) -> str:
        if self.by_lag:
            return f"but the targets depend on inputs up to lag {self.need}, compared without the network"
        if not self.found:
            return f"no dependence on the inputs was found in {self.sequences:,} sequences"
        steps = "the last step" if self.window == 1 else f"the last {self.window} steps together"
        return f"but the targets depend on {steps} (p = {self.p_value:.1g})"


class JointTest:
    """Keeps inputs and errors of the first sequences, and tests them when asked."""

    def __init__(self) -> None:
        self._inputs: list[list[Tensor]] = []  # by batch, for each target the inputs, latest first `(lags, B, I)`
        self._errors: list[list[Tensor]] = []  # `(B, P)`
        self._last: list[Tensor] = []  # with one loss per sequence, the step of its end `(B,)`
        self._count = 0
        self._targets: Tensor | None = None

    def add(self, sweep: Sweep) -> None:
        """Keep the inputs of the lowest layer and the errors of a batch, if it is like the first."""
        if self._count >= MOST:
            return
        inputs, errors, last = sweep.windows(self._targets, TARGETS)
        if self._inputs and [x.shape[::2] for x in inputs] != [x.shape[::2] for x in self._inputs[0]]:
            return
        self._targets = sweep.targets if self._targets is None else self._targets
        self._inputs.append(inputs)
        self._errors.append(errors)
        self._last += [] if last is None else [last]
        self._count += len(errors[0])

    def result(self, alpha: float, generator: torch.Generator) -> Joint:
        """The test on all that was kept."""
        inputs = [torch.cat(parts, 1)[:, :MOST].double() for parts in zip(*self._inputs, strict=True)]
        errors = [torch.cat(parts)[:MOST].double() for parts in zip(*self._errors, strict=True)]
        n = len(errors[0])
        lasts = torch.cat(self._last)[:MOST] if self._last else None
        errors = [_of_size_one(e) for e in errors]
        both = [(x, e) for x, e in zip(inputs, errors, strict=True) if bool(e.any())]
        pairs = [(x, e @ e.T) for x, e in both]
        orders = [shuffled(n, generator) for _ in range(EXCHANGES)]
        longest = max(len(x) for x in inputs)
        windows = [2**i for i in range(longest.bit_length())]
        windows = [*windows, longest] if windows[-1] < longest else windows
        found: list[tuple[int, float]] = []
        for window in windows:
            there = [(x[:window], gram) for x, gram in pairs if len(x) >= window]
            for kernels in zip(*(_similarities(x) for x, _ in there), strict=True):
                found.append((window, _of_a_window(list(kernels), [gram for _, gram in there], orders)))
        corrected = np.minimum(2 * holm(np.array([p for _, p in found])), 1)
        significant = np.flatnonzero(corrected < alpha)
        window = found[significant[0]][0] if len(significant) else None
        least = 1.0 if np.isnan(corrected).all() else float(np.nanmin(corrected))
        by_lag = _by_lag([(*one, gram) for one, (_, gram) in zip(both, pairs, strict=True)], lasts, orders, alpha)
        return Joint(bool(len(significant)), window, least, n, by_lag)


def _of_size_one(a: Tensor) -> Tensor:
    """Centered over the sequences `(B, P)`, with a mean square of 1 per sequence; 0 where all are equal."""
    centered = a - a.mean(0)
    size = float(centered.square().sum(1).mean().sqrt())
    return centered / size if size > 1e-12 * float(a.square().sum(1).mean().sqrt()) else torch.zeros_like(a)


def _by_lag(
    every: list[tuple[Tensor, Tensor, Tensor]], lasts: Tensor | None, orders: list[Tensor], alpha: float
) -> tuple[float, ...]:
    """See `Joint.by_lag`; of inputs `(lags, B, I)`, errors `(B, P)` and their Gram matrix, by target."""
    longest = max((len(x) for x, _, _ in every), default=0)
    steps = [[(x[lag], e, gram) for x, e, gram in every if len(x) > lag] for lag in range(longest)]
    lag_of = torch.empty(0, device="cpu")
    if every and lasts is not None and bool((lasts != lasts[0]).any()):  # the same steps counted from the start
        ((x, e, gram),) = every
        lag_of = lasts - torch.arange(longest, device="cpu").unsqueeze(1)  # (steps, B)
        rows = x.gather(0, lag_of.clamp(min=0).unsqueeze(-1).expand_as(x)) * (lag_of >= 0).unsqueeze(-1)
        steps += [[(row, e, gram)] for row in rows]
    p, consistency = np.array([_of_a_step(at, orders) for at in steps]).reshape(-1, 2).T
    found = np.where(2 * holm(p) < alpha, consistency, 0.0)
    by_lag = found[:longest].copy()
    for step in np.flatnonzero(found[longest:]):
        lags = lag_of[step][lag_of[step] >= 0].numpy()
        by_lag += found[longest + step] * np.bincount(lags, minlength=longest)[:longest] / lag_of.shape[1]
    return tuple(map(float, np.trim_zeros(by_lag, "b")))


def _of_a_step(targets: list[tuple[Tensor, Tensor, Tensor]], orders: list[Tensor]) -> tuple[float, float]:
    """P-value and consistency of the dependence of errors on the inputs of one step, summed over several targets."""
    every = own = 0.0
    kernels = []
    for x, e, _ in targets:
        z = _of_size_one(x)
        every += float((z.T @ e).square().sum())  # Σ over all pairs of ⟨x_b, x_b'⟩ ⟨e_b, e_b'⟩
        own += float((z.square().sum(1) * e.square().sum(1)).sum())
        kernels.append(z[:PAIRED] @ z[:PAIRED].T)
    if not own > 0:
        return np.nan, 0.0
    n, grams = len(targets[0][1]), [gram for _, _, gram in targets]
    return _p_value(every / own - 1, kernels, grams, orders, n), max(0.0, every / own - 1) / (n - 1)


def _centered(gram: Tensor) -> Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _similarities(x: Tensor) -> list[Tensor]:
    """Of the inputs `(window, B, I)` of all pairs of sequences, centered and of mean size 1."""
    z = x.movedim(1, 0).flatten(1)
    spread = z.std(0)
    z = (z - z.mean(0))[:, spread > 0] / spread[spread > 0]
    if not z.shape[1]:
        return [torch.zeros(len(z), len(z), dtype=z.dtype, device="cpu")] * 3
    product = z @ z.T
    square = product.diagonal()
    distance = (square + square.unsqueeze(1) - 2 * product).clamp(min=0)
    typical = distance.sum() / (len(z) * (len(z) - 1))
    kernels = [product.square(), torch.exp(-distance / typical), torch.exp(-NARROW * distance / typical)]
    kernels = [_centered(kernel) for kernel in kernels]
    return [kernel / kernel.diagonal().mean() for kernel in kernels]


def _of_a_window(kernels: list[Tensor], grams: list[Tensor], orders: list[Tensor]) -> float:
    """P-value of the dependence of errors on similarities of inputs, summed over several targets."""
    own = sum(float((k.diagonal() * g.diagonal()).sum()) for k, g in zip(kernels, grams, strict=True))
    every = sum(float((k * g).sum()) for k, g in zip(kernels, grams, strict=True))
    return _p_value(every / own - 1, kernels, grams, orders, len(grams[0])) if own > 0 else float("nan")


def _p_value(statistic: float, kernels: list[Tensor], grams: list[Tensor], orders: list[Tensor], n: int) -> float:
    """The probability of a statistic as large where errors have nothing to do with inputs."""
    null = Moments()
    for order in orders:
        some = order[:PAIRED]
        together = torch.zeros(len(some), len(some), dtype=grams[0].dtype, device="cpu")
        for kernel, gram in zip(kernels, grams, strict=True):
            together += kernel[:PAIRED, :PAIRED] * gram[some][:, some]
        null.add(together)
    return null.p_value(statistic, 1 / (n - 1), n)[2]
