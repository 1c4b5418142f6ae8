"""What the engine takes: cells, numbers of gates, and the checks between a tensor and its pointer.

The engine reads through raw pointers, so a tensor of another shape, type or device than it expects would be read out
of bounds. These functions say what does not fit, in one line; the engine's own boundary checks what is data
(batch sizes, target steps) and storage that has been freed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import cells
from ..errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .native import Adjoint, Plan

__all__ = ["CELLS", "GATES", "adjoint_misfit", "backward_misfit", "forward_misfit", "plain", "refuse"]

CELLS = {cell.mode: cell.number for cell in cells.CELLS}  # torch's names, the engine's numbers
GATES = tuple(len(cell.gates) for cell in cells.CELLS)  # blocks of H rows that each of them has in its weights
_FLOATS = (torch.float32, torch.float64)


def refuse(misfit: str | None, what: str) -> None:
    """Raise an OptionError that names `what` if there is a misfit."""
    if misfit is not None:
        raise OptionError(f"{what}: {misfit}")


def plain(t: Tensor, dtype: torch.dtype) -> bool:
    """Whether `t` holds numbers of `dtype` on the CPU; a sparse tensor refuses to give a pointer by itself."""
    return t.dtype is dtype and t.is_cpu


def _unlike(name: str, t: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{name} is {tuple(t.shape)} {t.dtype} on {t.device}; it must be {shape} {dtype} on the CPU"


def _first_misfit(named: Sequence[tuple[str, Tensor | None, tuple[int, ...]]], dtype: torch.dtype) -> str | None:
    for name, t, shape in named:
        if t is not None and (t.shape != shape or not plain(t, dtype)):
            return _unlike(name, t, shape, dtype)
    return None


def forward_misfit(
    plan: Plan,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
) -> str | None:
    """Say why the engine cannot read these tensors as the layer that `plan` describes; None if it can."""
    cell, D, bias, projected, _ = plan
    n = plan.per_direction
    if not 0 <= cell <= 3 or D not in (1, 2) or (projected and cell != 3):
        return f"there is no layer of cell {cell} with {D} directions" + (" and a projection" if projected else "")
    if len(weights) != D * n:
        return f"{len(weights)} weights were given; {D * n} are needed"
    dtype = x.dtype
    if dtype not in _FLOATS or not plain(x, dtype) or x.dim() != (3 if batch_sizes is None else 2):
        wanted = "(T, B, I)" if batch_sizes is None else "(sum of batch_sizes, I)"
        return f"x is {tuple(x.shape)} {x.dtype} on {x.device}; it must be {wanted} float32 or float64 on the CPU"
    if weights[1].dim() != 2:
        return f"w_hh is {tuple(weights[1].shape)}; it must be (G H, R)"
    rows, R = weights[1].shape
    H, left = divmod(rows, GATES[cell])
    if left or H < 1 or R < 1 or (R != H and not projected):
        wanted = f"(G H, {'R' if projected else 'H'}) with G = {GATES[cell]} gates"
        return f"w_hh is ({rows}, {R}); it must be {wanted}"
    shapes: tuple[tuple[int, ...], ...] = ((rows, x.shape[-1]), (rows, R))
    if bias:
        shapes += ((rows,), (rows,))
    if projected:
        shapes += ((R, H),)
    for w, shape in zip(weights, shapes * D, strict=True):
        if w.shape != shape or not plain(w, dtype):
            return _unlike("a weight", w, shape, dtype)
    if batch_sizes is None:
        if h_0 is None and c_0 is None:
            return None
        B = x.shape[1]
    else:
        if batch_sizes.dim() != 1 or len(batch_sizes) == 0 or not plain(batch_sizes, torch.int64):
            return _unlike("batch_sizes", batch_sizes, (max(1, batch_sizes.numel()),), torch.int64)
        B = int(batch_sizes[0])
        if B < 1:
            return f"batch_sizes begins with {B}; it must be at least 1"
    if c_0 is not None and cell != 3:
        return "c_0 was given, and only an LSTM has one"
    return _first_misfit((("h_0", h_0, (D, B, R)), ("c_0", c_0, (D, B, H))), dtype)


def backward_misfit(
    plan: Plan,
    grads: tuple[Tensor | None, Tensor | None, Tensor | None],
    x: Tensor,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    out: Tensor,
    gates: Tensor | None,
    cells: Tensor | None,
    segment: int,
    needs: tuple[bool, bool, bool, Sequence[bool]],
) -> str | None:
    """As :func:`forward_misfit`, which has passed, for what the backward pass is given besides."""
    cell, D = plan.cell, plan.directions
    H, R = weights[0].shape[0] // GATES[cell], weights[1].shape[1]
    if len(needs[3]) != len(weights):
        return f"{len(needs[3])} of {len(weights)} weights are said to need a gradient or not"
    if needs[2] and cell != 3:
        return "the gradient of c_0 is asked for, and only an LSTM has one"
    if batch_sizes is None:
        T, B = x.shape[0], x.shape[1]
        rows = T * B
    else:
        T, B, rows = batch_sizes.shape[0], int(batch_sizes[0]), x.shape[0]
    shape = (*x.shape[:-1], D * R)
    named: list[tuple[str, Tensor | None, tuple[int, ...]]] = [("out", out, shape), ("grad_out", grads[0], shape)]
    if grads[1] is not None:
        named.append(("grad_h_n", grads[1], (D, B, R)))
    if grads[2] is not None:
        named.append(("grad_c_n", grads[2], (D, B, H)))
    if cell >= 2 and segment == 0:
        if gates is None or (cell == 3 and cells is None):
            return "the gates of the forward pass are missing (keep=True keeps them)"
        named.append(("gates", gates, (D, rows, 4 * H)))
    if cell == 3:
        if cells is None:
            return "the cells of the forward pass are missing (keep=True keeps them)"
        named.append(("cells", cells, (D, rows, H) if segment == 0 else (D, -(-T // segment), B, H)))
    return _first_misfit(named, x.dtype)


def adjoint_misfit(layers: Sequence[Adjoint], targets: Tensor, most: int) -> str | None:
    """Say why the engine cannot read these layers as a stack; None if it can."""
    if not 1 <= len(layers) <= most:
        return f"{len(layers)} layers were given; from 1 to {most} can be taken"
    first = layers[0].local
    if first.dim() != 3 or 0 in first.shape or first.dtype not in _FLOATS:
        return f"local is {tuple(first.shape)} {first.dtype}; it must be (T, B, H), none of them 0, float32 or float64"
    if targets.dim() != 1 or len(targets) == 0 or not plain(targets, torch.int64):
        return _unlike("targets", targets, (max(1, targets.numel()),), torch.int64)
    T, B, _ = first.shape
    below: int | None = None
    for layer in layers:
        if layer.cell not in CELLS or layer.w_hh.dim() != 2 or layer.w_ih.dim() != 2:
            return f"a layer of cell {layer.cell!r} has w_hh {tuple(layer.w_hh.shape)}, w_ih {tuple(layer.w_ih.shape)}"
        G, H = GATES[CELLS[layer.cell]], layer.w_hh.shape[1]
        inputs = layer.w_ih.shape[1] if below is None else below
        wide, narrow = (T, B, (3 if G > 1 else 1) * H), (T, B, H)
        if H < 1 or (G > 1 and layer.k_side is None) or (G == 4 and (layer.q is None or layer.f is None)):
            return f"a layer of cell {layer.cell} lacks a coefficient"
        misfit = _first_misfit(
            (
                ("k", layer.k, wide),
                ("k_side", layer.k_side, narrow),
                ("q", layer.q, narrow),
                ("f", layer.f, narrow),
                ("passed", layer.passed, narrow),
                ("w_hh", layer.w_hh, (G * H, H)),
                ("w_ih", layer.w_ih, (G * H, inputs)),
                ("local", layer.local, narrow),
            ),
            first.dtype,
        )
        if misfit is not None:
            return misfit
        below = H
    return None
