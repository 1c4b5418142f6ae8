"""A stack of layers in the engine that takes one step at a time: its packed weights and its state.

Tests: ``tests/nn/test_streaming.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ..cells import BY_MODE, Cell

with suppress(ImportError):  # installed where no C++ compiler was found: a stream then has no use for this module
    from . import _engine

__all__ = ["NativeStream"]


class NativeStream:
    """The weights of a stack, copied in the layout of ``csrc/stream.hpp``, and its state.

    Parameters
    ----------
    mode : str
        As ``torch.nn.RNNBase.mode``.
    weights : sequence of sequence of Tensor
        By layer in torch's order: W_ih, W_hh, b_ih, b_hh (with `bias`), W_hr (with a projection).
    batch_size, hidden_size : int
    bias : bool

    Attributes
    ----------
    states : list of tuple of Tensor
        By layer h ``(B, R)`` and, of an LSTM, c ``(B, H)``: views of the state itself.
    """

    def __init__(
        self, mode: str, weights: Sequence[Sequence[Tensor]], batch_size: int, hidden_size: int, bias: bool
    ) -> None:
        first = weights[0][0]
        cell, H = BY_MODE[mode], hidden_size
        gates, columns = len(cell.gates), _padded(H)
        working = first.new_empty(9 * columns)
        self._engine = _engine.Stream(first.dtype is torch.float64, batch_size, working)
        self._kept: list[Tensor | None] = [working]  # the engine keeps no reference
        self.states: list[tuple[Tensor, ...]] = []
        for w_ih, w_hh, *rest in weights:
            w_hr = rest[-1] if len(rest) % 2 else None
            R = H if w_hr is None else len(w_hr)
            b, b_hn = _biases(rest[0], rest[1], cell, H) if bias else (None, None)
            h = first.new_zeros(batch_size, _padded(R))
            c = first.new_zeros(batch_size, columns) if "c" in cell.states else None
            packed = (
                _by_input(w_ih, gates),
                _by_input(w_hh, gates),
                None if w_hr is None else _by_input(w_hr, 1),
                None if b is None else _by_input(b[:, None], gates),
                None if b_hn is None else _by_input(b_hn[:, None], 1),
                h,
                c,
            )
            self._kept += packed
            self._engine.add(cell.number, w_ih.shape[1], H, R, *packed)
            self.states.append((h[:, :R],) if c is None else (h[:, :R], c[:, :H]))
        self.step = self._engine.step  # (x, out): x (B, I) is read, out (B, R) is written


def _padded(n: int) -> int:
    pad: int = _engine.STREAM_PAD
    return -(-n // pad) * pad


def _biases(b_ih: Tensor, b_hh: Tensor, cell: Cell, hidden_size: int) -> tuple[Tensor, Tensor | None]:
    """What both add up to, and b_hh of the candidate where that does not enter as a sum (the GRU's n)."""
    if cell.summed:
        return b_ih + b_hh, None
    rows = cell.rows(cell.candidate, hidden_size)
    alone, others = b_hh[rows].clone(), b_hh.clone()
    others[rows] = 0
    return b_ih + others, alone


def _by_input(w: Tensor, gates: int) -> Tensor:
    """(G H, K) as (K, G P): what each input adds, gate after gate, each filled up with zeros."""
    rows, K = w.shape
    H = rows // gates
    packed = w.new_zeros(K, gates, _padded(H))
    packed[:, :, :H] = w.reshape(gates, H, K).permute(2, 0, 1)
    return packed.flatten(1)
