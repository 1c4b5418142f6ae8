"""How few of the last steps tell half of what the targets depend on, where later steps say the same as earlier ones.

A lag has a signal wherever its step tells something. Classes of waves, of levels or of shapes show at every step, and
the last few are enough: nothing has to be remembered for long. So the errors are predicted from windows of the last w
steps, each from all other sequences (kernel ridge regression), and the shortest window is found that explains half as
much as the longest. Its kernel has the inputs of every step, their products within a step, and those of all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .spans import Compared, left_out, together, values_of

__all__ = ["fewest_for_half"]

SEQUENCES = 512
EFFORT = 2e9  # multiplications of one window
LEAST = 0.5  # share of the errors that the longest window must explain: of less, a part of it is not known


def fewest_for_half(kept: Sequence[Compared], longest: int) -> int | None:
    """The lag of the first step of that window, `longest` of the longest; None if that explains less than half."""
    data = together(kept, SEQUENCES, EFFORT)
    e = data.errors
    v, steps = values_of(data.inputs, data.live), torch.arange(len(data.live), device="cpu").unsqueeze(1)
    last = torch.where(data.memory == 0, steps, 0).amax(0)  # the last step that is read
    at = last - steps  # (lags, B)
    rows = v.gather(0, at.clamp(min=0).unsqueeze(-1).expand_as(v)) * ((at >= 0) & data.live).unsqueeze(-1)
    whole = e.square().sum(1) * (len(e) / (len(e) - 1)) ** 2
    less = whole - left_out(_kernel(rows[: longest + 1]), e).square().sum(1)
    if not float(less.sum()) > LEAST * float(whole.sum()):
        return None
    low, high = 0, longest
    while low < high:
        middle = (low + high) // 2
        some = whole - left_out(_kernel(rows[: middle + 1]), e).square().sum(1)
        low, high = (low, middle) if 2 * float(some.sum()) >= float(less.sum()) else (middle + 1, high)
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


def _scaled(kernel: Tensor) -> Tensor:
    """Centered, and of mean 1 on the diagonal."""
    centered = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    size = centered.diagonal().mean()
    return centered / size if float(size) > 0 else centered
