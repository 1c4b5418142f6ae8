"""What a trained network has not learned, compared with the inputs directly: no gradient is asked.

A network that has learned half of its task may have a gradient that is too weak, or too different from sequence to
sequence, to show a signal of the other half. So its errors are predicted from the inputs of each step, those of every
sequence from all others (linear ridge regression): what inputs of more than ℓ steps before the loss explain of them
must be remembered for longer than ℓ steps. Errors that are noise are explained by nothing.

A head that pools (mean, maximum, attention) reads every step where it is: there the rows are steps by their place, not
by lag, and, as it may add them up, their sum.

Tests: `tests/flow/test_remainder.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...words import counted
from .spans import SURE, Compared, left_out, together
from .statistic import Array
from .stream import kept_for
from .windows import SEQUENCES, by_lag

__all__ = ["Remainder", "ahead_of", "remainder_of"]

EFFORT = 2e9  # multiplications of one regression


class Remainder:
    """The errors of a network next to the inputs by lag, for one loss of each sequence or some."""

    def __init__(self, every: Sequence[Sequence[Compared]]) -> None:
        """every: by loss, its batches."""
        data = [together(list(own), SEQUENCES, EFFORT) for own in every]
        self.pooled = any(own.pooled for own in data)  # rows are places from the start, and from the end; and the sum
        self._steps = max(len(own.live) for own in data)
        rows = _places if self.pooled else _lags
        self._pairs = [(rows(own), own.errors) for own in data]
        self.sequences = min(len(e) for _, e in self._pairs)

    def explained(self, first: int = 0, last: int | None = None) -> float:
        """The share of the errors that the inputs of lags ``first`` to ``last`` explain; 0 where it may be chance.

        That is where it is not above 0 by three standard errors, over sequences.
        """
        gain, whole = self._pairs[0][1].new_zeros(self.sequences, dtype=torch.float64), 0.0
        for rows, e in self._pairs:
            if first >= len(rows):
                continue
            rows, e = rows[first : None if last is None else last + 1, : self.sequences], e[: self.sequences]
            own = (e - e.mean(0)).square().sum(1)
            gain += own - left_out(_each(rows), e).square().sum(1)
            whole += float(own.sum())
        sure = float(gain.sum()) > SURE * float(gain.std()) * self.sequences**0.5
        return float(gain.sum()) / whole if sure and whole > 0 else 0.0

    def consistency(self) -> Array:
        """By lag, how much the errors have in common with the inputs of that step alone: ‖Σ x eᵀ‖² / (Σ‖x‖² Σ‖e‖²)."""
        found = np.zeros(max(len(rows) for rows, _ in self._pairs))
        for rows, e in self._pairs:
            sizes = rows.square().sum((1, 2)) * float(e.square().sum())
            together_ = torch.einsum("lbi,bp->lip", rows, e).square().sum((1, 2))
            found[: len(rows)] += (together_ / sizes.clamp(min=1e-300)).numpy()
        return found / len(self._pairs)

    def where(self, row: int) -> str:
        """A row of `consistency`, in words."""
        if not self.pooled:
            return f"{counted(row, 'step')} ago"
        if row == len(self._pairs[0][0]) - 1:
            return "all steps, added up"
        step, end = row % self._steps, row >= self._steps
        return f"{counted(step, 'step')} before the end" if end else f"step {step}"

    def clearest(self, first: int = 0) -> int:
        """The lag from ``first`` on with the largest `consistency`."""
        return first + int(self.consistency()[first:].argmax())


def remainder_of(
    model: Callable[..., Any], batches: Any, loss: Callable[..., Tensor] | None, longest: int | None = None
) -> Remainder | None:
    """Compare the errors of a network, as it is, with its inputs.

    longest: of losses by step, some that have so many steps before them; by default the last.
    Returns None where the loss reads single states of both directions, or of several steps at every step.
    Raises FlowError as `signal_left` does.
    """
    kept, several = kept_for(model, batches, loss, 0, longest, constant=None)
    if not kept or (several and not kept[0][0].pooled):
        return None
    every = [own for own in zip(*kept, strict=False) if any(bool((one.errors != one.errors[:1]).any()) for one in own)]
    return Remainder(every) if every else None


def ahead_of(
    model: Callable[..., Any], batches: Any, loss: Callable[..., Tensor] | None, steps: int
) -> Remainder | None:
    """What the targets of a step have in common with inputs after it, by step: the first lag is so many steps ahead.

    At a constant output. Returns None where there is not a loss at every step, or layers do not only run forward.
    Raises FlowError as `need_of` does.
    """
    kept, several = kept_for(model, batches, loss, 0, ahead=steps)
    if several or not kept or len({len(own) for own in kept}) > 1:
        return None
    every = [own for own in zip(*kept, strict=True) if any(bool((one.errors != one.errors[:1]).any()) for one in own)]
    return Remainder(every) if every else None


def _lags(data: Compared) -> Tensor:
    return by_lag(data, data.inputs)


def _places(data: Compared) -> Tensor:
    """The inputs of each step from the start, and from the end where the ends differ, then their sum `(rows, B, D)`."""
    x, lengths = data.inputs, data.live.sum(0)
    rows = [x]
    if bool((lengths != lengths[0]).any()):
        at = lengths - 1 - torch.arange(len(x), device="cpu").unsqueeze(1)
        rows.append(x.gather(0, at.clamp(min=0).unsqueeze(-1).expand_as(x)) * (at >= 0).unsqueeze(-1))
    return torch.cat([*rows, x.sum(0, keepdim=True)])  # as large as all places together, so it counts as much


def _each(rows: Tensor) -> Tensor:
    """Similarities of the inputs of every step `(lags, B, D)`, added up."""
    return sum((row @ row.T for row in rows), rows.new_zeros(rows.shape[1], rows.shape[1]))
