"""One recurrent layer as an operator of torch: differentiable, compiled, exported, and cheap to call.

Two ways lead to the same native functions. While torch traces (compile, export, fake tensors, dispatch
modes) a call is the ``torch.library`` operator ``retrograde::layer``, which the graph keeps whole.
Otherwise it is a plain ``torch.autograd.Function``, or not even that where nothing asks for gradients:
the dispatch of a custom operator takes longer than a short sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cells import BY_MODE
from ..errors import OptionError
from . import equations, native
from .native import CELLS, GATES, Plan
from .shapes import forward_misfit, refuse

__all__ = ["checked_layer", "kept_layer", "layer", "plan_of", "traced_layer"]


def layer(
    cell: str,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    *,
    bias: bool = True,
    bidirectional: bool = False,
    batch_sizes: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run one recurrent layer, in one direction or both, through the native engine.

    Parameters
    ----------
    cell : {"RNN_TANH", "RNN_RELU", "GRU", "LSTM"}
    x : Tensor
        ``(T, B, I)``, or with `batch_sizes` the rows ``(sum of batch_sizes, I)``; float32 or float64, on the CPU.
    h_0, c_0 : Tensor, optional
        ``(D, B, R)`` and ``(D, B, H)``, D directions, R the size of h_t; zeros if not given.
    weights : sequence of Tensor
        In torch's flat order, for each direction w_ih ``(G H, I)``, w_hh ``(G H, R)``, b_ih and b_hh
        ``(G H,)`` if `bias`, w_hr ``(R, H)`` if the LSTM projects; the gates in torch's order.
    bias, bidirectional : bool
    batch_sizes : Tensor, optional
        ``(T,)`` int64, as in ``PackedSequence``.
    recompute : bool
        Keep states only every ~√T steps and compute the gates again in the backward pass: less memory,
        the same gradients bit for bit.

    Returns
    -------
    output : Tensor
        ``(T, B, D R)`` or ``(rows, D R)``.
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

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> w_ih, w_hh, b = torch.randn(4, 3), torch.randn(4, 4), torch.zeros(4)
    >>> out, h_n, _ = rg.kernels.operators.layer("RNN_TANH", torch.randn(5, 2, 3), None, None, [w_ih, w_hh, b, b])
    >>> out.shape, torch.equal(out[-1], h_n[0])
    (torch.Size([5, 2, 4]), True)
    """
    plan = plan_of(cell, weights, bias, bidirectional, recompute)
    if not _traced(x):  # otherwise the operator checks, once it has numbers
        refuse(forward_misfit(plan, x, h_0, c_0, weights, batch_sizes), "layer")
    return checked_layer(plan, x, h_0, c_0, weights, batch_sizes)


def checked_layer(
    plan: Plan,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run one layer as :func:`layer` does, for a caller who has made sure that everything fits."""
    keep = torch.is_grad_enabled() and _any_requires_grad(x, h_0, c_0, weights)
    if _traced(x):
        out, h_n, c_n, _, _ = _layer(x, h_0, c_0, list(weights), batch_sizes, *plan, keep)
        return out, h_n, c_n if plan.cell == 3 else None
    if not keep:
        return native.forward(plan, x, h_0, c_0, weights, batch_sizes, False, checked=False)[:3]
    result: tuple[Tensor, Tensor, Tensor | None] = _Layer.apply(plan, x, h_0, c_0, batch_sizes, *weights)  # type: ignore[no-untyped-call]
    return result


def _traced(x: Tensor) -> bool:
    """Whether a tracer (compile, export, fake tensors, dispatch modes) should see one operator."""
    return torch.compiler.is_compiling() or type(x) not in _PLAIN or torch._C._len_torch_dispatch_stack() > 0


def plan_of(cell: str, weights: Sequence[Tensor], bias: bool, bidirectional: bool, recompute: bool = False) -> Plan:
    """Describe a layer without its tensors; the weights tell whether it projects."""
    if cell not in CELLS:
        raise OptionError(f"there is no cell {cell!r}; choose one of {', '.join(CELLS)}")
    directions, number = 2 if bidirectional else 1, CELLS[cell]
    return Plan(number, directions, bias, len(weights) // directions in (3, 5), recompute)


def kept_layer(
    cell: str, x: Tensor, h_0: Tensor, c_0: Tensor | None, weights: Sequence[Tensor], bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer in one direction, without a projection and without gradients; returns what a backward pass needs.

    Returns
    -------
    h : Tensor
        `(T, B, H)`.
    gates : Tensor
        `(T, B, 4 H)`, of an LSTM i, f, g, o, of a GRU r, z, n and W_hn h + b_hn; of an RNN `h` again.
    c : Tensor
        `(T, B, H)`; of an RNN or GRU `h` again.
    """
    plan = plan_of(cell, weights, bias, False)
    h, _, _, gates, cells = native.forward(plan, x, h_0, c_0, weights, None, True)
    rows = (x.shape[0], x.shape[1], -1)
    return h, h if gates is None else gates.view(rows), h if cells is None else cells.view(rows)


def traced_layer(
    cell: str,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    *,
    bias: bool = True,
    bidirectional: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor | None], list[dict[str, Tensor]]]:
    """Run a layer as :func:`layer` does, step by step in torch's elementary operators, and keep what they compute.

    Returns
    -------
    tuple
        What :func:`layer` returns.
    list of dict
        For each direction, by the names of torch's documentation, what each step computed, laid out as
        the output: h, c, the gates, and the sums they are made of (``a``, ``a_i``, ``a_f``, ...).
    """
    plan = plan_of(cell, weights, bias, bidirectional)
    records: list[list[tuple[Tensor, ...]]] = []
    result = equations.layer(plan, x, h_0, c_0, weights, batch_sizes, records)
    join = torch.stack if batch_sizes is None else torch.cat
    seen = []
    for record, h in zip(records, result[0].chunk(plan.directions, -1), strict=True):
        columns = [join(column) for column in zip(*record, strict=True)]
        seen.append({"h": h, **dict(zip(BY_MODE[cell].computed, columns, strict=True))})
    return result, seen


_PLAIN = (Tensor, torch.nn.Parameter)


def _any_requires_grad(x: Tensor, h_0: Tensor | None, c_0: Tensor | None, weights: Sequence[Tensor]) -> bool:
    if x.requires_grad or (h_0 is not None and h_0.requires_grad) or (c_0 is not None and c_0.requires_grad):
        return True
    return any([w.requires_grad for w in weights])  # noqa: C419  (a list is the faster one)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        x: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        batch_sizes: Tensor | None,
        *weights: Tensor,
    ) -> Any:
        out, h_n, c_n, gates, cells = native.forward(plan, x, h_0, c_0, weights, batch_sizes, True, checked=False)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        saved = (x, h_0, c_0, batch_sizes, out, gates, cells, *weights)
        ctx.places = _places(saved)
        ctx.save_for_backward(*saved)
        return out, h_n, c_n

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_h_n: Tensor | None, grad_c_n: Tensor | None) -> Any:
        x, h_0, c_0, batch_sizes, out, gates, cells, *weights = ctx.saved_tensors
        need = ctx.needs_input_grad
        if torch.is_grad_enabled() or _batched(grad_out, grad_h_n, grad_c_n):  # create_graph=True, or many at once
            needs = [*need[1:4], *need[5:]]
            found = equations.gradients(
                ctx.plan, (grad_out, grad_h_n, grad_c_n), x, h_0, c_0, weights, batch_sizes, needs
            )
            return None, *found[:3], None, *found[3:]
        grad_x, grad_h, grad_c, grads = native.backward(
            ctx.plan, grad_out, grad_h_n, grad_c_n, x, h_0, c_0, weights, batch_sizes, out, gates, cells,
            (need[1], need[2], need[3], need[5:]), checked=ctx.places != _places(ctx.saved_tensors),
        )  # fmt: skip
        return None, grad_x, grad_h, grad_c, None, *grads


def _places(tensors: Sequence[Tensor | None]) -> list[int]:
    """Where they lie: somewhere else later means other tensors, from a hook or a new ``.data`` (``model.half()``)."""
    return [0 if t is None else t.data_ptr() for t in tensors]


def _batched(*grads: Tensor | None) -> bool:
    """Whether autograd runs under vmap (``is_grads_batched``, ``jacobian(vectorize=True)``): no data to point at."""
    functorch = torch._C._functorch
    return any(g is not None and (functorch.is_batchedtensor(g) or functorch.is_legacy_batchedtensor(g)) for g in grads)


# ---- for the tracers: the same as operators ------------------------------------------------------------------


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
    plan = Plan(cell, directions, bias, projected, recompute)
    out, *rest = native.forward(plan, x, h_0, c_0, weights, batch_sizes, keep)
    h_n, c_n, gates, cells = (t if t is not None else x.new_empty(0) for t in rest)
    return out, h_n, c_n, gates, cells


def _together(x: Tensor, *others: Tensor | None) -> None:
    """Refuse tensors on other devices: torch takes one on ``meta`` as a sign that only shapes are wanted of all."""
    for t in others:
        if t is not None and t.device != x.device:
            raise OptionError(f"the engine's tensors must be on one device, not on {x.device} and {t.device}")


@_layer.register_fake
def _(
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
    _together(x, h_0, c_0, batch_sizes, *weights)
    D, R = directions, weights[1].shape[1]
    H = weights[0].shape[0] // GATES[cell]
    if batch_sizes is None:
        T, B = x.shape[0], x.shape[1]
        rows = T * B
    else:
        T, rows = batch_sizes.shape[0], x.shape[0]
        # B stands in the data, unless a state gives it
        B = h_0.shape[1] if h_0 is not None else torch.library.get_ctx().new_dynamic_size()  # type: ignore[assignment]
    gates, cells = x.new_empty(0), x.new_empty(0)
    if keep and cell >= 2:
        if not recompute:
            gates = x.new_empty((D, rows, 4 * H))
            if cell == 3:
                cells = x.new_empty((D, rows, H))
        elif cell == 3:
            cells = x.new_empty((D, torch.library.get_ctx().new_dynamic_size(), B, H))
    c_n = x.new_empty((D, B, H)) if cell == 3 else x.new_empty(0)
    return x.new_empty((*x.shape[:-1], D * R)), x.new_empty((D, B, R)), c_n, gates, cells


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
) -> list[Tensor]:
    plan = Plan(cell, directions, bias, projected, recompute)
    refuse(
        None if len(needs) == 3 + len(weights) else f"needs has {len(needs)} entries for {3 + len(weights)} tensors",
        "retrograde::layer_backward",
    )
    grad_x, grad_h, grad_c, grads = native.backward(
        plan, grad_out, grad_h_n, grad_c_n, x, h_0, c_0, weights, batch_sizes, out, gates, cells,
        (needs[0], needs[1], needs[2], needs[3:]),
    )  # fmt: skip
    return [t if t is not None else x.new_empty(0) for t in (grad_x, grad_h, grad_c, *grads)]


@_layer_backward.register_fake
def _(*args: Any) -> list[Tensor]:
    *grads, x, h_0, c_0, weights, batch_sizes, out, gates, cells = args[:11]  # as the operator takes them
    needs = args[-1]
    _together(x, h_0, c_0, batch_sizes, out, gates, cells, *grads, *weights)
    likes = (x, h_0, c_0, *weights)
    return [
        t.new_empty(t.shape) if need and t is not None else x.new_empty(0) for t, need in zip(likes, needs, strict=True)
    ]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h_0, c_0, weights, batch_sizes, *plan, _ = inputs
    out, _, _, gates, cells = output
    ctx.plan = Plan(*plan)
    ctx.mark_non_differentiable(gates, cells)
    ctx.set_materialize_grads(False)
    ctx.weights = len(weights)
    ctx.save_for_backward(x, h_0, c_0, batch_sizes, out, gates, cells, *weights)


def _differentiate(ctx: Any, grad_out: Tensor, grad_h_n: Tensor, grad_c_n: Tensor, *_: Tensor) -> Any:
    x, h_0, c_0, batch_sizes, out, gates, cells, *weights = ctx.saved_tensors
    need = ctx.needs_input_grad
    of_weights = need[3] if isinstance(need[3], (list, tuple)) else [need[3]] * len(weights)
    needs = [need[0], need[1], need[2], *of_weights]
    c_grad = grad_c_n if ctx.plan.cell == 3 else None
    found = _layer_backward(
        grad_out, grad_h_n, c_grad, x, h_0, c_0, weights, batch_sizes, out, gates, cells, *ctx.plan, needs
    )
    grads = [t if n else None for t, n in zip(found, needs, strict=True)]
    return (*grads[:3], grads[3:], None, None, None, None, None, None, None)


_layer.register_autograd(_differentiate, setup_context=_setup)


def _setup_again(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad_out, grad_h_n, grad_c_n, x, h_0, c_0, weights, batch_sizes, _, _, _, *plan, needs = inputs
    ctx.plan, ctx.needs = Plan(*plan), list(needs)
    ctx.save_for_backward(grad_out, grad_h_n, grad_c_n, x, h_0, c_0, batch_sizes, *weights)


def _differentiate_again(ctx: Any, grads: Sequence[Tensor]) -> Any:
    """Second derivatives, through the equations."""
    *given, batch_sizes = ctx.saved_tensors[:7]
    weights = ctx.saved_tensors[7:]
    inputs = [*given, *weights]
    with torch.enable_grad():
        views = [t.detach().requires_grad_() if t is not None else None for t in inputs]
        x = views[3]
        assert x is not None
        found = equations.gradients(
            ctx.plan, views[:3], x, views[4], views[5], [v for v in views[6:] if v is not None], batch_sizes, ctx.needs
        )
        pairs = [(f, g) for f, g in zip(found, grads, strict=True) if f is not None and f.requires_grad]
        second = torch.autograd.grad(
            [f for f, _ in pairs],
            [v for v in views if v is not None],
            [g for _, g in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
    left = iter(second)
    result = [next(left) if v is not None else None for v in views]
    return (*result[:6], result[6:], *[None] * 10)


_layer_backward.register_autograd(_differentiate_again, setup_context=_setup_again)
