"""Batches as users have them, tensors in tuples, lists and dicts: choose some of the sequences.

Tests: `tests/flow/test_sequences.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ...nested import leaves_of, mapped

_GUESSES = 16  # combinations of axes that are tried to find the batch axis
Axes = list[int | None]


class SequenceSubset:
    """Chooses some sequences of every batch, evenly spread.

    The batch axis of every tensor is found by trying: the losses of a part of the batch must be that part of the
    losses. Where no axis does, the whole batch is taken.
    """

    def __init__(self, count: int | None, *, batch_first: bool) -> None:
        self._count, self._likely = count, 0 if batch_first else 1
        self._axes: dict[tuple[int, ...], Axes | None] = {}  # by the number of axes of every tensor

    def choose(self, batch: Any, losses_of: Callable[[Any], Tensor]) -> tuple[Any, Tensor]:
        """The sequences to measure and their losses."""
        if self._count is None:
            return batch, losses_of(batch)
        leaves = leaves_of(batch)
        key = tuple(map(_dim, leaves))
        if key not in self._axes:
            losses = losses_of(batch)
            axes = self._find_axes(batch, losses, losses_of)
            if losses.ndim and losses.shape[-1] > 1:  # a batch of one tells nothing about the next
                self._axes[key] = axes
            if axes is None:
                return batch, losses
        axes = self._axes[key]
        if axes is not None:
            sizes = {size_of(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True) if axis is not None}
            size = sizes.pop()
            if not sizes and size > self._count:
                part = sequences_at(batch, axes, _spread(size, self._count))
                losses = losses_of(part)
                if losses.ndim and losses.shape[-1] == self._count:
                    return part, losses
        return batch, losses_of(batch)

    def _find_axes(self, batch: Any, whole: Tensor, losses_of: Callable[[Any], Tensor]) -> Axes | None:
        size = whole.shape[-1] if whole.ndim else 1
        if self._count is None or size <= 1:
            return None
        rows = _spread(size, min(self._count, size - 1))
        options: list[Axes] = []
        for leaf in leaves_of(batch):
            axes: Axes = [axis for axis in range(_dim(leaf)) if size_of(leaf, axis) == size]
            options.append(sorted(axes, key=lambda axis: axis != self._likely) or [None])
        for guess in itertools.islice(itertools.product(*options), _GUESSES):
            if all(axis is None for axis in guess):
                continue
            try:
                part = losses_of(sequences_at(batch, list(guess), rows))
            except Exception:  # a wrong guess may fail anywhere in the model or the loss
                continue
            wanted = whole[..., rows.to(whole.device)]
            if part.shape == wanted.shape and torch.allclose(part, wanted, rtol=1e-2, atol=1e-4, equal_nan=True):
                return list(guess)
        return None


def _spread(size: int, count: int) -> Tensor:
    """``count`` of ``size`` numbers, evenly apart."""
    return (
        torch.linspace(0, size - 1, count, device="cpu").round().long()
        if count > 1
        else torch.zeros(1, dtype=torch.long, device="cpu")
    )


def _dim(leaf: Tensor | PackedSequence) -> int:
    return leaf.ndim if isinstance(leaf, Tensor) else 1


def size_of(leaf: Tensor | PackedSequence, axis: int) -> int:
    """The length of an axis; of a packed sequence, the number of its sequences."""
    return leaf.shape[axis] if isinstance(leaf, Tensor) else int(leaf.batch_sizes[0])


def sequences_at(batch: Any, axes: Axes, rows: Tensor) -> Any:
    """The sequences ``rows`` of every tensor that has a batch axis."""
    remaining = iter(axes)

    def cut(leaf: Any) -> Any:
        axis = next(remaining)
        if axis is None:
            return leaf
        if isinstance(leaf, PackedSequence):
            padded, lengths = pad_packed_sequence(leaf)
            kept = padded.index_select(1, rows.to(padded.device))
            return pack_padded_sequence(kept, lengths[rows], enforce_sorted=False)
        return leaf.index_select(axis, rows.to(leaf.device))

    return mapped(batch, cut)
