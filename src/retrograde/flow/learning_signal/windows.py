"""How few of the last steps tell what the targets depend on, where later steps say the same as earlier ones.

A lag has a signal wherever its step tells something. Classes of waves, of levels or of shapes show at every step, and
the last few are enough: nothing has to be remembered for long. So the errors are predicted from windows of the last w
steps, each from all other sequences (kernel ridge regression), and the shortest window is found that explains as much
as the longest but for a share. Its kernel has the inputs of every step, their products within a step, and those of
all pairs.

Where noise leaves less than half of the errors to be explained, products of all pairs are too many. Then a linear
regression of the steps themselves takes their place, of more losses of each sequence if there are some: the shortest
window that is not worse than the best by more than chance, the standard error of the difference by sequence (Breiman et
al. 1984: the one-standard-error rule).

Tests: `tests/flow/test_windows.py`, `tests/flow/test_spans.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from .spans import RIDGES, SURE, Compared, left_out, together, values_of

__all__ = ["by_lag", "fewest_for", "fewest_linear"]

SEQUENCES = 512
EFFORT = 2e9  # multiplications of one window
WIDEST = 512  # numbers of the steps of a window
ALIKE = 0.3  # autocorrelation above which steps resemble earlier ones
LEAST = 0.5  # share of the errors that the longest window must explain: of less, a part of it is not known


def fewest_for(kept: Sequence[Compared], longest: int, shares: Sequence[float]) -> tuple[int, ...] | None:
    """The lag of the first step of the shortest window that explains each share of what can be explained.

    That is what the steps up to lag ``longest`` explain, or all steps if they explain more. Where so many steps are too
    many for the sequences, it is what a shorter window explains, provided that the steps before it, each by itself, add
    nothing to it. None if it is less than half of the errors.
    """
    data = together(kept, SEQUENCES, EFFORT)
    e = data.errors
    rows = by_lag(data, values_of(data.inputs, data.live))
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


def fewest_linear(every: Sequence[Sequence[Compared]], shares: Sequence[float]) -> tuple[int, ...] | None:
    """The same by a linear regression of the steps, one by one; of each loss its batches, with as many steps.

    None if that explains nothing, by three standard errors; and where no step resembles an earlier one: each lag of the
    signal then stands for itself.
    """
    longest = min(len(own.inputs) for kept in every for own in kept)
    parts, sequence = [], []
    for kept in every:
        parts += [_last_steps(own, longest if len(every) > 1 else len(own.inputs)) for own in kept]
        sequence.append(torch.arange(sum(len(own.errors) for own in kept), device="cpu"))
    data = together(parts, len(every) * SEQUENCES, EFFORT)
    rows, e = by_lag(data, data.inputs), data.errors
    order = torch.cat(sequence)[: len(e)]
    if not _resemble(rows):
        return None
    windows = [lag for lag in _grid(len(rows)) if (lag + 1) * rows.shape[2] <= min(WIDEST, len(e) // 2)]
    if not windows or not bool(e.any()):
        return None
    left = torch.stack([_left_by_ridge(rows[: lag + 1], e) for lag in windows])
    left = left.new_zeros(len(windows), int(order.max()) + 1).index_add_(1, order, left)
    own = left.new_zeros(left.shape[1]).index_add_(0, order, e.square().sum(1))
    best = left[int(left.sum(1).argmin())]
    gain, count = own - best, len(own)
    if not float(gain.sum()) > SURE * float(gain.std()) * count**0.5:
        return None
    worse = left - best
    error = worse.std(1) * count**0.5
    return tuple(
        windows[int(((worse.sum(1) - error) <= (1 - share) * float(gain.sum())).int().argmax())] for share in shares
    )


def _last_steps(own: Compared, steps: int) -> Compared:
    """The same of the last steps, errors centered."""
    return replace(
        own,
        inputs=own.inputs[-steps:],
        live=own.live[-steps:],
        memory=own.memory[-steps:],
        errors=own.errors - own.errors.mean(0),
    )


def _resemble(rows: Tensor) -> bool:
    """Whether the inputs of some steps are correlated with those a fixed number of steps earlier `(lags, B, D)`."""
    x = rows - rows.mean(1, keepdim=True)
    whole = float(x.square().sum(-1).mean())
    for apart in range(1, len(x)):
        pairs = (x[apart:] * x[:-apart]).sum(-1)
        if float(pairs.mean()) > max(ALIKE, SURE / pairs.numel() ** 0.5) * whole:
            return True
    return False


def _grid(longest: int) -> list[int]:
    """The last lags of windows: all up to 32, then 6 % apart."""
    coarse = (int(32 * 1.06**i) for i in range(160))
    return sorted({*range(min(longest, 32)), *(lag for lag in coarse if lag < longest), longest - 1})


def _left_by_ridge(rows: Tensor, e: Tensor) -> Tensor:
    """Squared errors less what ridge regression of the rows `(lags, B, D)` on all others predicts `(B,)`."""
    x = rows.movedim(1, 0).flatten(1)
    x = torch.cat([x - x.mean(0), x.new_full((len(x), 1), 1.0)], 1)
    size = float(x[:, :-1].square().sum(0).mean()) or 1.0
    values, vectors = torch.linalg.eigh(x.T @ x / size)
    z = x @ vectors / size**0.5
    fit, found = z.T @ e, []
    for ridge in RIDGES:
        shrunk = z / (values.clamp(min=0) + ridge / len(x) + 1e-12)
        inside = (shrunk * z).sum(1).clamp(max=1 - 1e-6)
        found.append(((e - shrunk @ fit) / (1 - inside).unsqueeze(1)).square().sum(1))
    least: Tensor = min(found, key=lambda own: float(own.sum()))
    return least


def by_lag(data: Compared, v: Tensor) -> Tensor:
    """Values of every step by their lag from the last step that is read `(lags, B, D)`."""
    steps = torch.arange(len(data.live), device="cpu").unsqueeze(1)
    last = torch.where(data.memory == 0, steps, 0).amax(0)
    at = last - steps  # (lags, B)
    return v.gather(0, at.clamp(min=0).unsqueeze(-1).expand_as(v)) * ((at >= 0) & data.live).unsqueeze(-1)


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
