"""A layer as the engine takes it: its description, its tensors, their sizes, and whether they fit.

The engine reads through addresses, so a tensor of another shape, type or device than it expects would be read out of
bounds. The ``…_mismatch`` functions say what does not fit, in one line; the engine itself checks what is data (batch
sizes, target steps) and storage that has been freed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..cells import BY_MODE, FUSED
from ..errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "CELLS",
    "GATES",
    "MAX_ADJOINT_LAYERS",
    "Adjoint",
    "Inputs",
    "LayerSpec",
    "Sizes",
    "adjoint_mismatch",
    "backward_mismatch",
    "forward_mismatch",
    "is_cpu_tensor",
    "kept_shapes",
    "refuse",
    "sizes_of",
    "weight_shapes",
]

CELLS = {cell.mode: cell.number for cell in FUSED}  # torch's names, the engine's numbers
GATES = tuple(len(cell.gates) for cell in FUSED)  # blocks of H rows that each of them has in its weights
_GRU, _LSTM = CELLS["GRU"], CELLS["LSTM"]
_FLOATS = (torch.float32, torch.float64)
_Shape = tuple[int, ...]
_Named = tuple[str, Tensor | None, _Shape]


class LayerSpec(NamedTuple):
    """One layer, in one direction or two, without its tensors.

    Attributes
    ----------
    cell : int
        One of the numbers in ``CELLS``.
    directions : int
        2 if bidirectional: the output has both directions next to each other.
    bias : bool
        Whether each direction's weights are (w_ih, w_hh, b_ih, b_hh) or (w_ih, w_hh).
    projected : bool
        Whether a projection w_hr follows them.
    recompute : bool
        Keep only the states at the start of each segment of steps, and compute the rest again in the backward pass.
    """

    cell: int
    directions: int
    bias: bool
    projected: bool
    recompute: bool


class Inputs(NamedTuple):
    """What a layer computes from: D directions, G gates, H units; R, the size of h_t, is H or an LSTM's projection.

    Attributes
    ----------
    x : Tensor
        ``(T, B, I)``, or with `batch_sizes` the rows ``(sum of batch_sizes, I)``; float32 or float64, on the CPU.
    h_0, c_0 : Tensor or None
        ``(D, B, R)`` and, for an LSTM, ``(D, B, H)``; zeros if None.
    weights : sequence of Tensor
        In torch's flat order, for each direction w_ih ``(G H, I)``, w_hh ``(G H, R)``, b_ih and b_hh ``(G H,)`` if
        there are biases, w_hr ``(R, H)`` if there is a projection; the gates in torch's order.
    batch_sizes : Tensor or None
        ``(T,)`` int64, never growing, as in ``PackedSequence``.
    """

    x: Tensor
    h_0: Tensor | None
    c_0: Tensor | None
    weights: Sequence[Tensor]
    batch_sizes: Tensor | None

    def differentiable(self) -> list[Tensor | None]:
        """x, h_0, c_0 and each weight: the order in which gradients are asked for and returned."""
        return [self.x, self.h_0, self.c_0, *self.weights]

    @classmethod
    def of(cls, tensors: Sequence[Tensor | None], batch_sizes: Tensor | None) -> Inputs:
        """The inverse of :meth:`differentiable`."""
        x, h_0, c_0, *weights = tensors
        return cls(x, h_0, c_0, weights, batch_sizes)  # type: ignore[arg-type]  # only h_0 and c_0 may be None


class Sizes(NamedTuple):
    """Steps, sequences, inputs, units, size of h_t, and rows of x: T · B, or the sum of the batch sizes."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    R: int
    rows: int


def sizes_of(spec: LayerSpec, inputs: Inputs, batch: int | torch.SymInt | None = None) -> Sizes:
    """Read the sizes off the shapes; `batch` is B where it cannot be read from ``batch_sizes``."""
    x, _, _, weights, batch_sizes = inputs
    w_hh = weights[1].shape
    if batch_sizes is None:
        T, batch, width = x.shape
        return Sizes(T, batch, width, w_hh[0] // GATES[spec.cell], w_hh[1], T * batch)
    B: Any = int(batch_sizes[0]) if batch is None else batch
    return Sizes(batch_sizes.shape[0], B, x.shape[1], w_hh[0] // GATES[spec.cell], w_hh[1], x.shape[0])


def weight_shapes(gates: int, bias: bool, projected: bool, sizes: Sizes) -> tuple[_Shape, ...]:
    """The shapes of one direction's weights."""
    rows = gates * sizes.H
    shapes: tuple[_Shape, ...] = ((rows, sizes.I), (rows, sizes.R))
    if bias:
        shapes += ((rows,), (rows,))
    return (*shapes, (sizes.R, sizes.H)) if projected else shapes


def kept_shapes(spec: LayerSpec, sizes: Sizes, segment: int) -> tuple[_Shape | None, _Shape | None]:
    """The shapes of the gates and cells that a forward pass keeps; `segment` steps apart unless it is 0."""
    D, H = spec.directions, sizes.H
    gates = (D, sizes.rows, 4 * H) if spec.cell >= _GRU and segment == 0 else None
    if spec.cell != _LSTM:
        return gates, None
    return gates, (D, sizes.rows, H) if segment == 0 else (D, -(-sizes.T // segment), sizes.B, H)


class Adjoint(NamedTuple):
    """One layer of a stack for ``native.adjoint_norms``: the coefficients of its linearization, dense, `(T, B, ·)`.

    Attributes
    ----------
    cell : str
        A name of ``CELLS``.
    k : Tensor
        Of W_hh h: H numbers, for a GRU (r, z, n) and an LSTM (i, f, g) 3 H.
    k_side : Tensor, optional
        `(T, B, H)`: of W_ih x in a GRU's n; of an LSTM's o.
    q, f : Tensor, optional
        `(T, B, H)`, LSTM: ∂h/∂c and the forget gate.
    passed : Tensor, optional
        `(T, B, H)`: the part of ∂E/∂h_k that reaches h_{k−1} without W_hh.
    w_hh, w_ih : Tensor
        `(G H, H)` and `(G H, I)`.
    local : Tensor
        `(T, B, H)`: ∂E_t/∂(output_t).
    """

    cell: str
    k: Tensor
    k_side: Tensor | None
    q: Tensor | None
    f: Tensor | None
    passed: Tensor | None
    w_hh: Tensor
    w_ih: Tensor
    local: Tensor


MAX_ADJOINT_LAYERS = 16


def refuse(mismatch: str | None, what: str) -> None:
    """Raise an OptionError that names `what` if there is a mismatch."""
    if mismatch is not None:
        raise OptionError(f"{what}: {mismatch}")


def is_cpu_tensor(t: Tensor, dtype: torch.dtype) -> bool:
    """Whether `t` has numbers of `dtype` on the CPU; a sparse tensor refuses to give an address by itself."""
    return t.dtype is dtype and t.is_cpu


def _unlike(name: str, t: Tensor, shape: _Shape, dtype: torch.dtype) -> str:
    return f"{name} is {tuple(t.shape)} {t.dtype} on {t.device}; it must be {shape} {dtype} on the CPU"


def _first_mismatch(named: Iterable[_Named], dtype: torch.dtype) -> str | None:
    for name, t, shape in named:
        if t is not None and (t.shape != shape or not is_cpu_tensor(t, dtype)):
            return _unlike(name, t, shape, dtype)
    return None


def forward_mismatch(spec: LayerSpec, inputs: Inputs) -> str | None:
    """Say why the engine cannot read these tensors as the layer that `spec` describes; None if it can."""
    cell, D, bias, projected, _ = spec
    x, h_0, c_0, weights, batch_sizes = inputs
    n = 2 + 2 * bias + projected
    if not 0 <= cell < len(GATES) or D not in (1, 2) or (projected and cell != _LSTM):
        return f"there is no layer of cell {cell} with {D} directions" + (" and a projection" if projected else "")
    if len(weights) != D * n:
        return f"{len(weights)} weights were given; {D * n} are needed"
    dtype = x.dtype
    if dtype not in _FLOATS or not is_cpu_tensor(x, dtype) or x.dim() != (3 if batch_sizes is None else 2):
        wanted = "(T, B, I)" if batch_sizes is None else "(sum of batch_sizes, I)"
        return f"x is {tuple(x.shape)} {x.dtype} on {x.device}; it must be {wanted} float32 or float64 on the CPU"
    if weights[1].dim() != 2:
        return f"w_hh is {tuple(weights[1].shape)}; it must be (G H, R)"
    if batch_sizes is not None:
        if batch_sizes.dim() != 1 or len(batch_sizes) == 0 or not is_cpu_tensor(batch_sizes, torch.int64):
            return _unlike("batch_sizes", batch_sizes, (max(1, batch_sizes.numel()),), torch.int64)
        if batch_sizes[0] < 1:
            return f"batch_sizes begins with {int(batch_sizes[0])}; it must be at least 1"
    sizes = sizes_of(spec, inputs)
    _, B, _, H, R, _ = sizes
    rows = weights[1].shape[0]
    if rows % GATES[cell] or H < 1 or R < 1 or (R != H and not projected):
        wanted = f"(G H, {'R' if projected else 'H'}) with G = {GATES[cell]} gates"
        return f"w_hh is ({rows}, {R}); it must be {wanted}"
    if c_0 is not None and cell != _LSTM:
        return "c_0 was given, and only an LSTM has one"
    shapes = weight_shapes(GATES[cell], bias, projected, sizes) * D
    named: list[_Named] = [("a weight", w, shape) for w, shape in zip(weights, shapes, strict=True)]
    return _first_mismatch([*named, ("h_0", h_0, (D, B, R)), ("c_0", c_0, (D, B, H))], dtype)


def backward_mismatch(
    spec: LayerSpec,
    sizes: Sizes,
    inputs: Inputs,
    grads: Sequence[Tensor | None],
    kept: Sequence[Tensor | None],
    segment: int,
    needs: Sequence[bool],
) -> str | None:
    """As :func:`forward_mismatch`, which has passed, for the other tensors that a backward pass takes."""
    (out, gates, cells), D = kept, spec.directions
    if len(needs) != 3 + len(inputs.weights):
        return f"needs has {len(needs)} entries for {3 + len(inputs.weights)} tensors"
    if needs[2] and spec.cell != _LSTM:
        return "the gradient of c_0 is asked for, and only an LSTM has one"
    shape = (*inputs.x.shape[:-1], D * sizes.R)
    named: list[_Named] = [("out", out, shape), ("grad_out", grads[0], shape)]
    named += [("grad_h_n", grads[1], (D, sizes.B, sizes.R)), ("grad_c_n", grads[2], (D, sizes.B, sizes.H))]
    for name, t, wanted in zip(("gates", "cells"), (gates, cells), kept_shapes(spec, sizes, segment), strict=True):
        if wanted is not None:
            if t is None:
                return f"the {name} of the forward pass are missing (keep=True keeps them)"
            named.append((name, t, wanted))
    return _first_mismatch(named, inputs.x.dtype)


def adjoint_mismatch(layers: Sequence[Adjoint], targets: Tensor, state: str) -> str | None:
    """Say why the engine cannot read these layers as a stack; None if it can."""
    if not 1 <= len(layers) <= MAX_ADJOINT_LAYERS:
        return f"{len(layers)} layers were given; from 1 to {MAX_ADJOINT_LAYERS} can be taken"
    if state not in ("h", "c", "hc"):
        return f"state is {state!r}; it must be 'h', 'c' or 'hc'"
    first = layers[0].local
    if first.dim() != 3 or 0 in first.shape or first.dtype not in _FLOATS:
        return f"local is {tuple(first.shape)} {first.dtype}; it must be (T, B, H), none of them 0, float32 or float64"
    if targets.dim() != 1 or len(targets) == 0 or not is_cpu_tensor(targets, torch.int64):
        return _unlike("targets", targets, (max(1, targets.numel()),), torch.int64)
    T, B, _ = first.shape
    below: int | None = None
    for layer in layers:
        if layer.cell not in CELLS or layer.w_hh.dim() != 2 or layer.w_ih.dim() != 2:
            return f"a layer of cell {layer.cell!r} has w_hh {tuple(layer.w_hh.shape)}, w_ih {tuple(layer.w_ih.shape)}"
        G, H = len(BY_MODE[layer.cell].gates), layer.w_hh.shape[1]
        if H < 1 or (G > 1 and layer.k_side is None) or (G == 4 and (layer.q is None or layer.f is None)):
            return f"a layer of cell {layer.cell} lacks a coefficient"
        shapes: dict[str, _Shape] = dict.fromkeys(Adjoint._fields[1:], (T, B, H))
        shapes["k"] = (T, B, (3 if G > 1 else 1) * H)
        shapes |= {"w_hh": (G * H, H), "w_ih": (G * H, layer.w_ih.shape[1] if below is None else below)}
        named = ((name, t, shapes[name]) for name, t in zip(Adjoint._fields[1:], layer[1:], strict=True))
        mismatch = _first_mismatch(named, first.dtype)
        if mismatch is not None:
            return mismatch
        below = H
    return None
