"""Do the targets depend on the inputs at all, where no gradient has a signal? A test for what is seen only together.

A gradient of an untrained network sees the dependence of a target on single steps. Of a parity it sees nothing: the
product of steps decides. The statistic of the signal by lag, S = Σ_{b≠b'} k(b, b') ⟨e_b, e_b'⟩ / Σ_b k(b, b) ‖e_b‖²,
takes any similarity k of the inputs of two sequences: products of pairs of numbers (the square of a scalar product),
and Gaussians, which see every order, the narrow one up to "the same inputs have the same targets". That is the
Hilbert-Schmidt independence criterion (Gretton et al. 2008). Both sides are centered, and the null distribution is that
of exchanged errors, as for the signal by lag. Windows of the last 1, 2, 4, … steps say how far back is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .signal import Moments, holm, shuffled
from .signal_sweep import Sweep

__all__ = ["Joint", "JointTest"]

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
    """

    found: bool
    window: int | None
    p_value: float
    sequences: int

    def __str__(self) -> str:
        if not self.found:
            return f"no dependence on the inputs was found in {self.sequences:,} sequences"
        steps = "the last step" if self.window == 1 else f"the last {self.window} steps together"
        return f"but the targets depend on {steps} (p = {self.p_value:.1g})"


class JointTest:
    """Keeps inputs and errors of the first sequences, and tests them when asked."""

    def __init__(self) -> None:
        self._inputs: list[list[Tensor]] = []  # by batch, for each target the inputs, latest first `(lags, B, I)`
        self._errors: list[list[Tensor]] = []  # `(B, P)`
        self._count = 0
        self._targets: Tensor | None = None

    def add(self, sweep: Sweep) -> None:
        """Keep the inputs of the lowest layer and the errors of a batch, if it is like the first."""
        if self._count >= MOST:
            return
        inputs, errors = sweep.windows(self._targets, TARGETS)
        if self._inputs and [x.shape[::2] for x in inputs] != [x.shape[::2] for x in self._inputs[0]]:
            return
        self._targets = sweep.targets if self._targets is None else self._targets
        self._inputs.append(inputs)
        self._errors.append(errors)
        self._count += len(errors[0])

    def result(self, alpha: float, generator: torch.Generator) -> Joint:
        """The test on all that was kept."""
        inputs = [torch.cat(parts, 1)[:, :MOST].double() for parts in zip(*self._inputs, strict=True)]
        errors = [torch.cat(parts)[:MOST].double() for parts in zip(*self._errors, strict=True)]
        n = len(errors[0])
        grams = [_centered(e @ e.T) for e in errors]
        grams = [gram / gram.diagonal().mean() for gram in grams if float(gram.diagonal().mean()) > 0]
        orders = [shuffled(n, generator) for _ in range(EXCHANGES)]
        longest = max(len(x) for x in inputs)
        windows = [2**i for i in range(longest.bit_length())]
        windows = [*windows, longest] if windows[-1] < longest else windows
        found: list[tuple[int, float]] = []
        for window in windows:
            there = [(x[:window], gram) for x, gram in zip(inputs, grams, strict=False) if len(x) >= window]
            for kernels in zip(*(_similarities(x) for x, _ in there), strict=True):
                p = _p_value(list(kernels), [gram for _, gram in there], orders)
                found.append((window, p))
        corrected = holm(np.array([p for _, p in found]))
        significant = np.flatnonzero(corrected < alpha)
        window = found[significant[0]][0] if len(significant) else None
        least = 1.0 if np.isnan(corrected).all() else float(np.nanmin(corrected))
        return Joint(bool(len(significant)), window, least, n)


def _centered(gram: Tensor) -> Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _similarities(x: Tensor) -> list[Tensor]:
    """Of the inputs `(window, B, I)` of all pairs of sequences, centered and of mean size 1."""
    z = x.movedim(1, 0).flatten(1)
    spread = z.std(0)
    z = (z - z.mean(0))[:, spread > 0] / spread[spread > 0]
    if not z.shape[1]:
        return [torch.zeros(len(z), len(z), dtype=z.dtype)] * 3
    product = z @ z.T
    square = product.diagonal()
    distance = (square + square.unsqueeze(1) - 2 * product).clamp(min=0)
    typical = distance.sum() / (len(z) * (len(z) - 1))
    kernels = [product.square(), torch.exp(-distance / typical), torch.exp(-NARROW * distance / typical)]
    kernels = [_centered(kernel) for kernel in kernels]
    return [kernel / kernel.diagonal().mean() for kernel in kernels]


def _p_value(kernels: list[Tensor], grams: list[Tensor], orders: list[Tensor]) -> float:
    n = len(grams[0])
    own = sum(float((k.diagonal() * g.diagonal()).sum()) for k, g in zip(kernels, grams, strict=True))
    every = sum(float((k * g).sum()) for k, g in zip(kernels, grams, strict=True))
    null = Moments()
    for order in orders:
        some = order[:PAIRED]
        together = torch.zeros(len(some), len(some), dtype=grams[0].dtype)
        for kernel, gram in zip(kernels, grams, strict=True):
            together += kernel[:PAIRED, :PAIRED] * gram[some][:, some]
        null.add(together)
    return null.p_value(every / own - 1, 1 / (n - 1), n)[2] if own > 0 else float("nan")
