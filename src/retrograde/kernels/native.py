"""The native engine as functions of tensors: shapes are checked, pointers are taken, nothing is differentiated.

With ``checked=False`` they trust their caller: the modules have compared every shape already.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError
from .memory import RESERVE
from .shapes import CELLS, GATES, adjoint_misfit, backward_misfit, forward_misfit, plain, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from . import _engine

    _BUILT: bool
else:
    try:
        from . import _engine

        _BUILT = True
    except ImportError:  # installed where no C++ compiler was found
        _BUILT = False

__all__ = [
    "CELLS",
    "GATES",
    "MOST_ADJOINT_LAYERS",
    "Adjoint",
    "Plan",
    "adjoint_norms",
    "available",
    "backward",
    "empty_cache",
    "forward",
    "info",
    "matmul",
    "step",
]

_VARIABLE = "RETROGRADE_ISA"


def _choose() -> str:
    """Obey the environment variable; returns how the instruction set came to be chosen."""
    wanted = os.environ.get(_VARIABLE, "")
    if not _BUILT:
        return "the native engine was not built on this machine"
    if not wanted:
        return "the widest that this processor runs"
    if wanted not in _engine.runnable():
        raise OptionError(
            f"{_VARIABLE}={wanted}: this build on this processor runs {', '.join(_engine.runnable())}; "
            "name one of them, or unset the variable."
        )
    _engine.choose(wanted)
    return f"{_VARIABLE}={wanted}"


_CHOSEN_BY = _choose()


def available() -> bool:
    """Whether the native engine was built and can be loaded.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.kernels.available() in (True, False)
    True
    """
    return _BUILT


def info() -> dict[str, object]:
    """What the engine runs on.

    Returns
    -------
    dict
        ``available`` (bool); ``instruction_set`` (str, ``"none"`` without the engine) and ``chosen_by``
        (str), how it was chosen: the environment variable ``RETROGRADE_ISA`` forces one;
        ``instruction_sets`` (list of str), all that this build can run here, the widest first;
        ``threads`` (int), as many as torch has been told to use, at most.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.kernels.info()["instruction_set"] in {"avx512", "avx2", "neon", "portable", "none"}
    True
    """
    return {
        "available": available(),
        "instruction_set": _engine.instruction_set() if _BUILT else "none",
        "chosen_by": _CHOSEN_BY,
        "instruction_sets": _engine.runnable() if _BUILT else [],
        "threads": torch.get_num_threads(),
    }


class Plan(NamedTuple):
    """One layer, in one direction or two, without its tensors.

    Attributes
    ----------
    cell : int
        One of the numbers in ``CELLS``.
    directions : int
        2 if bidirectional: the output has the backward direction beside the forward one.
    bias : bool
        Whether each direction's weights are (w_ih, w_hh, b_ih, b_hh) or (w_ih, w_hh); a projection
        w_hr comes last.
    projected : bool
    recompute : bool
        Keep the states of the start of each segment of steps only, and compute the rest again on the way back.
    """

    cell: int
    directions: int
    bias: bool
    projected: bool
    recompute: bool

    @property
    def per_direction(self) -> int:
        """How many weights a direction has."""
        return 2 + 2 * self.bias + self.projected

    def segment(self, x: Tensor, steps: int, batch: int, hidden: int) -> int:
        """Steps between the states that are kept, about √T; 0 if all are.

        A whole number of the chunks in which the engine sums weight gradients, so that these are the
        same bit for bit with and without recomputation.
        """
        if not self.recompute or self.cell < 2 or steps == 1:
            return 0
        chunk = _engine.chunk_steps(self.cell, x.dtype is torch.float64, steps, batch, hidden)
        return max(1, round(math.sqrt(steps) / chunk)) * chunk


def empty_cache() -> None:
    """Give back the memory that the engine keeps to use again: at most 512 MB of gates between two training steps.

    Nothing that is still needed is touched; the next training step takes its memory anew.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.kernels.empty_cache()
    """
    RESERVE.empty()


def _as_it_lies(x: Tensor) -> Tensor:
    """`x`, or a dense copy where its numbers do not lie in memory one after the other as they are."""
    return x if x.is_contiguous() and not x.is_neg() else x.resolve_neg().contiguous()


def _sizes(x: Tensor, batch_sizes: Tensor | None) -> tuple[int, int]:
    """T and B."""
    if batch_sizes is None:
        return x.shape[0], x.shape[1]
    return batch_sizes.shape[0], int(batch_sizes[0])


def _dense(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    for t in tensors:
        if not t.is_contiguous():
            return [t.contiguous() for t in tensors]
    return tensors


def forward(
    plan: Plan,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    keep: bool,
    checked: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Run one layer.

    Parameters
    ----------
    plan : Plan
    x : Tensor
        ``(T, B, I)``, or ``(rows, I)`` with `batch_sizes`.
    h_0, c_0 : Tensor, optional
        ``(D, B, R)`` and ``(D, B, H)``; zeros if not given.
    weights : sequence of Tensor
        `plan.per_direction` for each direction.
    batch_sizes : Tensor, optional
        ``(T,)`` int64, never growing: packed sequences.
    keep : bool
        Whether a backward pass will follow.
    checked : bool
        False if the caller has made sure that :func:`~.shapes.forward_misfit` finds nothing.

    Returns
    -------
    output, h_n, c_n, gates, cells
        ``(T, B, D R)`` or ``(rows, D R)``; ``(D, B, R)``; ``(D, B, H)`` (LSTM, else None); and what the
        backward pass needs, if it will come.

    Raises
    ------
    OptionError
        If a tensor is not of the shape, type or device that the others ask for.
    MemoryError
        If the engine's working memory cannot be allocated.
    """
    if checked:
        refuse(forward_misfit(plan, x, h_0, c_0, weights, batch_sizes), "the engine's forward pass")
    cell, D = plan.cell, plan.directions
    T, B = _sizes(x, batch_sizes)
    weights = _dense(weights)
    x = _as_it_lies(x)
    if h_0 is not None:
        h_0 = _as_it_lies(h_0)
    if c_0 is not None:
        c_0 = _as_it_lies(c_0)
    if batch_sizes is not None and not batch_sizes.is_contiguous():
        batch_sizes = batch_sizes.contiguous()
    H = weights[0].shape[0] // GATES[cell]
    R = weights[1].shape[1]
    rows = x.shape[0] if batch_sizes is not None else T * B
    shape = (*x.shape[:-1], D * R)
    out = RESERVE.take(x, *shape, exact=True) if keep else x.new_empty(shape)
    h_n = x.new_empty((D, B, R))
    c_n = x.new_empty((D, B, H)) if cell == 3 else None
    gates = cells = None
    segment = 0
    if keep and cell >= 2:
        segment = plan.segment(x, T, B, H)
        if segment == 0:
            gates = RESERVE.take(x, D, rows, 4 * H)
            if cell == 3:
                cells = RESERVE.take(x, D, rows, H)
        elif cell == 3:
            cells = x.new_empty((D, -(-T // segment), B, H))
    layer = _engine.Layer(
        cell=cell, directions=D, bias=plan.bias, float64=x.dtype is torch.float64, T=T, B=B, I=x.shape[-1], H=H, R=R,
        rows=rows, segment=segment, threads=torch.get_num_threads(), x=x, h_0=h_0, c_0=c_0, weights=weights,
        batch_sizes=batch_sizes, out=out, gates=gates, cells=cells,
    )  # fmt: skip
    _engine.forward(layer, h_n, c_n)
    return out, h_n, c_n, gates, cells


_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def step(
    cell: str,
    x: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    weights: Sequence[Tensor],
    hidden_size: int,
    proj_size: int,
    bias: bool,
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Take one step of one layer without gradients.

    Parameters
    ----------
    cell : str
        A name of ``CELLS``.
    x : Tensor
        ``(B, I)``.
    h, c : Tensor, optional
        ``(1, B, R)``, ``(1, B, H)``.
    weights : sequence of Tensor
        w_ih, w_hh, with `bias` b_ih and b_hh, with a projection w_hr.

    Returns
    -------
    tuple or None
        The output ``(B, R)``, h_n ``(1, B, R)`` and c_n ``(1, B, H)`` or None; no tuple at all if the tensors are not
        dense ones of one type and of these shapes on the CPU, and the call has to go the long way.
    """
    if not _BUILT or type(x) is not Tensor or x.dim() != 2 or not x.is_contiguous():
        return None
    dtype, number = x.dtype, CELLS[cell]
    if (dtype is not torch.float32 and dtype is not torch.float64) or not plain(x, dtype):
        return None
    B, inputs = x.shape
    H, R, rows = hidden_size, proj_size or hidden_size, GATES[number] * hidden_size
    if B < 1 or inputs < 1 or H < 1 or (c is not None and number != 3):
        return None
    for t, width in ((h, R), (c, H)):
        if t is not None and not (
            type(t) is Tensor and t.shape == (1, B, width) and plain(t, dtype) and t.is_contiguous()
        ):
            return None
    shapes: tuple[tuple[int, ...], ...] = ((rows, inputs), (rows, R))
    if bias:
        shapes += ((rows,), (rows,))
    if proj_size:
        shapes += ((R, H),)
    if len(weights) != len(shapes):
        return None
    for w, shape in zip(weights, shapes, strict=True):
        if type(w) not in _PLAIN or w.shape != shape or not plain(w, dtype) or not w.is_contiguous():
            return None
    out, h_n = x.new_empty((B, R)), x.new_empty((1, B, R))
    c_n = x.new_empty((1, B, H)) if number == 3 else None
    layer = _engine.Layer(
        cell=number, directions=1, bias=bias, float64=dtype is torch.float64, T=1, B=B, I=inputs, H=H, R=R, rows=B,
        segment=0, threads=torch.get_num_threads(), x=x, h_0=h, c_0=c, weights=weights, batch_sizes=None, out=out,
        gates=None, cells=None,
    )  # fmt: skip
    _engine.forward(layer, h_n, c_n)
    return out, h_n, c_n


def backward(
    plan: Plan,
    grad_out: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    out: Tensor,
    gates: Tensor | None,
    cells: Tensor | None,
    needs: tuple[bool, bool, bool, Sequence[bool]],
    checked: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor | None]]:
    """Differentiate what :func:`forward` did.

    Parameters
    ----------
    needs
        Which gradients are asked for: of x, of h_0, of c_0, of each weight.
    checked : bool
        False if these are known to be the tensors that the forward pass took and returned.

    Returns
    -------
    tuple
        The gradients of x, h_0, c_0 and the list of the weights', None where not asked for.

    Raises
    ------
    OptionError
        If a tensor is not of the shape, type or device that the others ask for: a weight, say, that was given other
        ``.data`` after the forward pass.
    MemoryError
        If the engine's working memory cannot be allocated.
    """
    if checked:
        refuse(forward_misfit(plan, x, h_0, c_0, weights, batch_sizes), "the engine's backward pass")
    cell, D = plan.cell, plan.directions
    T, B = _sizes(x, batch_sizes)
    need_x, need_h, need_c, need_weights = needs
    segment = plan.segment(x, T, B, weights[0].shape[0] // GATES[cell])
    if checked:
        given = (grad_out, grad_h_n, grad_c_n)
        refuse(
            backward_misfit(plan, given, x, weights, batch_sizes, out, gates, cells, segment, needs),
            "the engine's backward pass",
        )
    weights = _dense(weights)
    x = _as_it_lies(x)
    h_0, c_0, grad_out, grad_h_n, grad_c_n = (
        t if t is None else _as_it_lies(t) for t in (h_0, c_0, grad_out, grad_h_n, grad_c_n)
    )
    # what this cell does not keep is an empty tensor where a torch operator hands it in
    gates = None if cell < 2 or segment else gates
    cells = None if cell < 3 else cells
    if checked:
        out = _as_it_lies(out)
        gates, cells = (t if t is None else _as_it_lies(t) for t in (gates, cells))
    if batch_sizes is not None and not batch_sizes.is_contiguous():
        batch_sizes = batch_sizes.contiguous()
    H = weights[0].shape[0] // GATES[cell]
    R = weights[1].shape[1]
    rows = T * B if batch_sizes is None else x.shape[0]
    grad_x = RESERVE.take(x, *x.shape, exact=True) if need_x else None
    grad_h = x.new_empty((D, B, R)) if need_h else None
    grad_c = x.new_empty((D, B, H)) if need_c else None
    grads: list[Tensor | None] = [
        torch.empty_like(w) if need else None for w, need in zip(weights, need_weights, strict=True)
    ]
    layer = _engine.Layer(
        cell=cell, directions=D, bias=plan.bias, float64=x.dtype is torch.float64, T=T, B=B, I=x.shape[-1], H=H, R=R,
        rows=rows, segment=segment, threads=torch.get_num_threads(), x=x, h_0=h_0, c_0=c_0, weights=weights,
        batch_sizes=batch_sizes, out=out, gates=gates, cells=cells,
    )  # fmt: skip
    _engine.backward(layer, grad_out, grad_h_n, grad_c_n, grad_x, grad_h, grad_c, grads)
    return grad_x, grad_h, grad_c, grads


class Adjoint(NamedTuple):
    """One layer for :func:`adjoint_norms`: the coefficients of its linearisation, each dense, `(T, B, ·)`.

    Attributes
    ----------
    cell : str
        A name of ``CELLS``.
    k : Tensor
        Towards W_hh h: H numbers, for a GRU (r, z, n) and an LSTM (i, f, g) 3 H.
    k_side : Tensor, optional
        `(T, B, H)`: of a GRU's n towards W_ih x; of an LSTM's o.
    q, f : Tensor, optional
        `(T, B, H)`, LSTM: ∂h/∂c and the forget gate.
    passed : Tensor, optional
        `(T, B, H)`: what of ∂E/∂h_k reaches h_{k−1} past W_hh.
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


MOST_ADJOINT_LAYERS = 16


def adjoint_norms(layers: Sequence[Adjoint], targets: Tensor, state: str) -> Tensor:
    """‖∂E_t/∂s_k‖ of every layer of a stack whose head looks at one step at a time.

    Parameters
    ----------
    layers : sequence of Adjoint
        From the bottom of the stack, at most ``MOST_ADJOINT_LAYERS``, all of one type.
    targets : Tensor
        The steps t, int64, rising.
    state : {"h", "c", "hc"}
        What s_k is in an LSTM; h in the others.

    Returns
    -------
    Tensor
        `(layers, targets, T, B)` float64, zero for k > t.

    Raises
    ------
    OptionError, ValueError
        If a tensor is not of the shape, type or device that the others ask for, or the targets do not rise.
    MemoryError
        If the engine's working memory cannot be allocated.
    """
    refuse(adjoint_misfit(layers, targets, MOST_ADJOINT_LAYERS), "adjoint_norms")
    if state not in ("h", "c", "hc"):
        refuse(f"state is {state!r}; it must be 'h', 'c' or 'hc'", "adjoint_norms")
    T, B = layers[0].local.shape[:2]
    found = torch.empty(len(layers), len(targets), B, T, dtype=torch.float64)  # a row of the walk writes along time
    dense = [[None if t is None else _as_it_lies(t) for t in layer[1:]] for layer in layers]
    targets = targets.contiguous()
    described = [
        _engine.adjoint_layer(CELLS[layer.cell], layer.w_hh.shape[1], layer.w_ih.shape[1], *tensors, norms)
        for layer, tensors, norms in zip(layers, dense, found, strict=True)
    ]
    _engine.adjoint_norms(
        float64=layers[0].k.dtype is torch.float64, state=("h", "c", "hc").index(state),
        threads=torch.get_num_threads(), T=T, B=B, targets=targets, count=len(targets), layers=described,
    )  # fmt: skip
    return found.transpose(2, 3)


def matmul(a: Tensor, b: Tensor, *, threads: int | None = None) -> Tensor:
    """Multiply two matrices by the engine's packed product; nothing is differentiated.

    Parameters
    ----------
    a : Tensor
        ``(M, K)``, float32 or float64, on the CPU.
    b : Tensor
        ``(K, N)`` of the same type; a transposed view is taken as it is.
    threads : int, optional
        At least 1, and no more than torch uses or the machine has processors, whatever is larger; as many as torch
        uses if not given. The result is the same bit for bit.

    Returns
    -------
    Tensor
        ``(M, N)``.

    Raises
    ------
    OptionError
        If the shapes or types do not fit, or the engine was not built.
    MemoryError
        If the engine's working memory cannot be allocated.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> rg.kernels.matmul(torch.ones(2, 3), torch.ones(3, 4))[0]
    tensor([3., 3., 3., 3.])
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
        raise OptionError(f"matmul takes (M, K) and (K, N), not {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype not in (torch.float32, torch.float64) or not plain(a, a.dtype) or not plain(b, a.dtype):
        raise OptionError(
            f"matmul takes two float32 or two float64 tensors on the CPU, not {a.dtype} on {a.device} "
            f"and {b.dtype} on {b.device}"
        )
    most = torch.get_num_threads()
    if threads is not None and threads < 1:
        raise OptionError(f"matmul: threads is {threads}; it must be at least 1")
    if threads is not None:
        most = min(threads, max(most, os.cpu_count() or 1))
    if not _BUILT:
        raise OptionError("matmul needs the native engine, which was not built on this machine; use torch.mm")
    transposed = not b.is_contiguous() and b.t().is_contiguous()
    a, b = _as_it_lies(a), _as_it_lies(b.t() if transposed else b)
    c = a.new_empty((a.shape[0], b.shape[0] if transposed else b.shape[1]))
    _engine.matmul(
        a.dtype is torch.float64, c, a, b, transposed, c.shape[0], c.shape[1],
        a.shape[1], most,
    )  # fmt: skip
    return c
