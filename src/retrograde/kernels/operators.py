"""One recurrent layer as an operator of torch: differentiable, compiled, exported, and cheap to call.

There are two ways to the same native functions. While torch traces (compile, export, fake tensors, dispatch modes) a
call is the ``torch.library`` operator ``retrograde::layer``, which the graph keeps as one node. Otherwise it is a
``torch.autograd.Function``, or not even that if nothing needs gradients: the dispatch of a custom operator takes
longer than a short sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, List  # noqa: UP035

import torch
from torch import Tensor

from .. import _torch_private
from ..cells import CELLS as _CELLS
from ..errors import OptionError
from . import equations, native
from .shapes import CELLS, Inputs, LayerSpec, forward_mismatch, kept_shapes, refuse, sizes_of

__all__ = ["kept_layer", "layer", "spec_of", "traced_layer"]

_Output = tuple[Tensor, Tensor, Tensor | None]


def layer(spec: LayerSpec, inputs: Inputs, checked: bool = True) -> _Output:
    """Run one recurrent layer, in one direction or both, through the native engine.

    Parameters
    ----------
    checked : bool
        False if the caller has made sure that :func:`~.shapes.forward_mismatch` finds nothing.

    Returns
    -------
    output : Tensor
        ``(T, B, D R)``, or with batch sizes ``(rows, D R)``.
    h_n : Tensor
        ``(D, B, R)``.
    c_n : Tensor or None
        ``(D, B, H)`` for an LSTM.

    Raises
    ------
    OptionError
        If a tensor is not of the shape, type or device that the others ask for.
    MemoryError
        If the engine's working memory cannot be allocated.
    """
    traced = _traced(inputs.x)
    if checked and not traced:  # otherwise the operator checks, once it has numbers
        refuse(forward_mismatch(spec, inputs), "layer")
    keep = torch.is_grad_enabled() and any([t is not None and t.requires_grad for t in inputs.differentiable()])  # noqa: C419  (a list is the faster one)
    if traced:
        x, h_0, c_0, weights, batch_sizes = inputs
        out, h_n, c_n, _, _ = _layer(x, h_0, c_0, list(weights), batch_sizes, *spec, keep)
        return out, h_n, c_n if spec.cell == CELLS["LSTM"] else None
    if not keep:
        return native.forward(spec, inputs, False, checked=False)[:3]
    x, h_0, c_0, weights, batch_sizes = inputs
    result: _Output = _Layer.apply(spec, batch_sizes, x, h_0, c_0, *weights)  # type: ignore[no-untyped-call]
    return result


def _traced(x: Tensor) -> bool:
    """Whether a tracer (compile, export, fake tensors, dispatch modes) should see one operator."""
    return torch.compiler.is_compiling() or type(x) not in _PLAIN or _torch_private.dispatch_mode_active()


def spec_of(
    cell: str, weights: Sequence[Tensor], bias: bool, bidirectional: bool, recompute: bool = False
) -> LayerSpec:
    """Describe a layer without its tensors; it has a projection if there is an odd number of weights."""
    if cell not in CELLS:
        raise OptionError(f"there is no cell {cell!r}; choose one of {', '.join(CELLS)}")
    directions = 2 if bidirectional else 1
    return LayerSpec(CELLS[cell], directions, bias, len(weights) // directions in (3, 5), recompute)


def kept_layer(
    cell: str, x: Tensor, h_0: Tensor, c_0: Tensor | None, weights: Sequence[Tensor], bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer in one direction, without a projection or gradients; returns what a backward pass needs.

    Returns
    -------
    h : Tensor
        `(T, B, H)`.
    gates : Tensor
        `(T, B, 4 H)`, of an LSTM i, f, g, o, of a GRU r, z, n and W_hn h + b_hn; of an RNN `h` again.
    c : Tensor
        `(T, B, H)`; of an RNN or GRU `h` again.
    """
    spec = spec_of(cell, weights, bias, False)
    h, _, _, gates, cells = native.forward(spec, Inputs(x, h_0, c_0, weights, None), True)
    rows = (x.shape[0], x.shape[1], -1)
    return h, h if gates is None else gates.view(rows), h if cells is None else cells.view(rows)


def traced_layer(spec: LayerSpec, inputs: Inputs) -> tuple[_Output, list[dict[str, Tensor]]]:
    """Run a layer step by step in torch's elementary operators, and keep what they compute.

    Returns
    -------
    tuple
        What :func:`layer` returns.
    list of dict
        For each direction, by the names of torch's documentation, what each step computed, with the shape of the
        output: h, c, the gates, and the sums they are made of (``a``, ``a_i``, ``a_f``, ...).
    """
    records: list[list[tuple[Tensor, ...]]] = []
    result = equations.layer(spec, inputs, records)
    join = torch.stack if inputs.batch_sizes is None else torch.cat
    seen = []
    for record, h in zip(records, result[0].chunk(spec.directions, -1), strict=True):
        columns = [join(column) for column in zip(*record, strict=True)]
        seen.append({"h": h, **dict(zip(_CELLS[spec.cell].computed, columns, strict=True))})
    return result, seen


_PLAIN = (Tensor, torch.nn.Parameter)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: LayerSpec, batch_sizes: Tensor | None, *tensors: Tensor | None) -> Any:
        inputs = Inputs.of(tensors, batch_sizes)
        out, h_n, c_n, gates, cells = native.forward(spec, inputs, True, checked=False)
        ctx.spec = spec
        ctx.set_materialize_grads(False)
        saved = (batch_sizes, out, gates, cells, *tensors)
        ctx.addresses = _addresses(saved)
        ctx.save_for_backward(*saved)
        return out, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        batch_sizes, out, gates, cells, *tensors = saved
        inputs, needs = Inputs.of(tensors, batch_sizes), ctx.needs_input_grad[2:]
        if _differentiable(grads):
            return None, None, *equations.gradients(ctx.spec, grads, inputs, needs)
        checked = ctx.addresses != _addresses(saved)
        return None, None, *native.backward(ctx.spec, grads, inputs, (out, gates, cells), needs, checked=checked)


def _differentiable(grads: Sequence[Tensor | None]) -> bool:
    """Whether the equations must compute the gradients: for ``create_graph=True``, or for many of them at once."""
    return torch.is_grad_enabled() or _batched(*grads)


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    """Where they are in memory; later elsewhere if a hook or new ``.data`` (``model.half()``) replaced them."""
    return [0 if t is None else t.data_ptr() for t in tensors]


def _batched(*grads: Tensor | None) -> bool:
    """Whether autograd runs under vmap (``is_grads_batched``, ``jacobian(vectorize=True)``): no data to point at."""
    return any(g is not None and _torch_private.is_batched(g) for g in grads)


# ---- the same as operators, for tracers ----------------------------------------------------------------------


@torch.library.custom_op("retrograde::layer", mutates_args=())
def _layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    cell: int,
    directions: int,
    bias: bool,
    projected: bool,
    recompute: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    spec = LayerSpec(cell, directions, bias, projected, recompute)
    out, *rest = native.forward(spec, Inputs(x, h_0, c_0, weights, batch_sizes), keep)
    h_n, c_n, gates, cells = (t if t is not None else x.new_empty(0) for t in rest)
    return out, h_n, c_n, gates, cells


def _require_one_device(x: Tensor, *others: Tensor | None) -> None:
    """Refuse tensors on other devices: torch takes one on ``meta`` as a sign that only shapes are wanted of all."""
    for t in others:
        if t is not None and t.device != x.device:
            raise OptionError(f"the engine's tensors must be on one device, not on {x.device} and {t.device}")


@_layer.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs, (*fields, keep) = Inputs(*args[:5]), args[5:]
    x, h_0, c_0, weights, batch_sizes = inputs
    spec = LayerSpec(*fields)
    _require_one_device(x, h_0, c_0, batch_sizes, *weights)
    batch = None
    if batch_sizes is not None:  # B is the first of them, which a tracer does not know, unless a state says it
        batch = h_0.shape[1] if h_0 is not None else torch.library.get_ctx().new_dynamic_size()
    sizes, D = sizes_of(spec, inputs, batch), spec.directions
    lstm = spec.cell == CELLS["LSTM"]
    gates, cells = x.new_empty(0), x.new_empty(0)
    if keep and not spec.recompute:
        gates, cells = (x.new_empty(0 if s is None else s) for s in kept_shapes(spec, sizes, 0))
    elif keep and lstm:
        cells = x.new_empty((D, torch.library.get_ctx().new_dynamic_size(), sizes.B, sizes.H))
    c_n = x.new_empty((D, sizes.B, sizes.H)) if lstm else x.new_empty(0)
    return x.new_empty((*x.shape[:-1], D * sizes.R)), x.new_empty((D, sizes.B, sizes.R)), c_n, gates, cells


@torch.library.custom_op("retrograde::layer_backward", mutates_args=())
def _layer_backward(
    grad_out: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    out: Tensor,
    gates: Tensor,
    cells: Tensor,
    cell: int,
    directions: int,
    bias: bool,
    projected: bool,
    recompute: bool,
    needs: Sequence[bool],
) -> List[Tensor]:  # noqa: UP006  (torch 2.6 understands no list[Tensor] here)
    spec = LayerSpec(cell, directions, bias, projected, recompute)
    grads, inputs = (grad_out, grad_h_n, grad_c_n), Inputs(x, h_0, c_0, weights, batch_sizes)
    found = native.backward(spec, grads, inputs, (out, gates, cells), needs)
    return [t if t is not None else x.new_empty(0) for t in found]


@_layer_backward.register_fake
def _(*args: Any) -> list[Tensor]:
    inputs, needs = Inputs(*args[3:8]), args[-1]
    x = inputs.x
    _require_one_device(x, *args[:3], *inputs.differentiable(), inputs.batch_sizes, *args[8:11])
    return [
        t.new_empty(t.shape) if need and t is not None else x.new_empty(0)
        for t, need in zip(inputs.differentiable(), needs, strict=True)
    ]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h_0, c_0, weights, batch_sizes, *spec, _ = inputs
    out, _, _, gates, cells = output
    ctx.spec = LayerSpec(*spec)
    ctx.mark_non_differentiable(gates, cells)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h_0, c_0, batch_sizes, out, gates, cells, *weights)


def _differentiate(ctx: Any, grad_out: Tensor, grad_h_n: Tensor, grad_c_n: Tensor, *_: Tensor) -> Any:
    x, h_0, c_0, batch_sizes, out, gates, cells, *weights = ctx.saved_tensors
    need = ctx.needs_input_grad
    of_weights = need[3] if isinstance(need[3], (list, tuple)) else [need[3]] * len(weights)
    needs = [need[0], need[1], need[2], *of_weights]
    given = (grad_out, grad_h_n, grad_c_n if ctx.spec.cell == CELLS["LSTM"] else None)
    inputs = (x, h_0, c_0, weights, batch_sizes)
    if _differentiable(given):
        grads = equations.gradients(ctx.spec, given, Inputs(*inputs), needs)
    else:
        found = _layer_backward(*given, *inputs, out, gates, cells, *ctx.spec, needs)
        grads = [t if n else None for t, n in zip(found, needs, strict=True)]
    return (*grads[:3], grads[3:], *[None] * 7)


_layer.register_autograd(_differentiate, setup_context=_setup)
