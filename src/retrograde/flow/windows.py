"""How few of the last steps tell what the targets depend on, where later steps say the same as earlier ones.

A lag has a signal wherever its step tells something. Classes of waves, of levels or of shapes show at every step, and
the last few are enough: nothing has to be remembered for long. So the errors are predicted from windows of the last w
steps, each from all other sequences (kernel ridge regression), and the shortest window is found that explains as much
as the longest but for a share. Its kernel has the inputs of every step, their products within a step, and those of
all pairs.

Tests: `tests/flow/test_spans.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from .spans import Compared, left_out, together, values_of

__all__ = ["fewest_for"]

SEQUENCES = 512
EFFORT = 2e9  # multiplications of one window
LEAST = 0.5  # share of the errors that the longest window must explain: of less, a part of it is not known


def fewest_for(kept: Sequence[Compared], longest: int, shares: Sequence[float]) -> tuple[int, ...] | None:
    """The lag of the first step of the shortest window that explains each share of what can be explained.

    That is what the steps up to lag ``longest`` explain, or all steps if they explain more. Where so many steps are too
    many for the sequences, it is what a shorter window explains, provided that the steps before it, each by itself, add
    nothing to it. None if it is less than half of the errors.
    """
    data = together(kept, SEQUENCES, EFFORT)
    e = data.errors
    v, steps = values_of(data.inputs, data.live), torch.arange(len(data.live), device="cpu").unsqueeze(1)
    last = torch.where(data.memory == 0, steps, 0).amax(0)  # the last step that is read
    at = last - steps  # (lags, B)
    rows = v.gather(0, at.clamp(min=0).unsqueeze(-1).expand_as(v)) * ((at >= 0) & data.live).unsqueeze(-1)
    whole = e.square().sum() * (len(e) / (len(e) - 1)) ** 2

    @cache
    def explained(lag: int, *, others: bool = False) -> float:
        """``others``: whether the steps before the window are known, too, each by itself."""
        kernel = _kernel(rows[: lag + 1])
        if others:
            kernel += _scaled(_each(rows[lag + 1 :]))
        return float(1 - left_out(kernel, e).square().sum() / whole)

    if not float(whole) > 0:
        return None
    longest, end = min(longest, len(rows) - 1), len(rows) - 1
    most = max(explained(longest), explained(end))
    if not most > LEAST:
        longest = max((2**i - 1 for i in range(longest.bit_length() + 1) if 2**i <= longest + 1), key=explained)
        most = explained(longest)
        if not most > LEAST or explained(longest, others=True) * max(shares) > most:
            return None
    return tuple(_first(explained, longest if explained(longest) >= x * most else end, x * most) for x in shares)


def _first(explained: Callable[[int], float], high: int, least: float) -> int:
    """The first lag up to ``high`` with at least so much, by bisection."""
    low = 0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if explained(middle) >= least else (middle + 1, high)
    return low


def _kernel(rows: Tensor) -> Tensor:
    """Similarities of the windows `(lags, B, D)` of all pairs of sequences."""
    every = rows.new_zeros(rows.shape[1], rows.shape[1])
    within = every.clone()
    for row in rows:
        own = row @ row.T
        every += own
        within += own.square()
    return sum((_scaled(kernel) for kernel in (every, within, every.square())), torch.zeros_like(every))


def _each(rows: Tensor) -> Tensor:
    """Similarities by the inputs of each step, without products."""
    return sum((row @ row.T for row in rows), rows.new_zeros(rows.shape[1], rows.shape[1]))


def _scaled(kernel: Tensor) -> Tensor:
    """Centered, and of mean 1 on the diagonal; 0 where there is only rounding."""
    centered = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    size, whole = float(centered.diagonal().mean()), float(kernel.diagonal().mean())
    return centered / size if size > 1e-12 * whole else torch.zeros_like(kernel)
