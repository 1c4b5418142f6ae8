"""The native engine as functions of tensors: shapes are checked, nothing is differentiated.

They raise an OptionError if the tensors do not fit each other, and a MemoryError if the engine's working memory cannot
be allocated. With ``checked=False`` they trust their caller, who has compared every shape already (the modules do).
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import OptionError
from .memory import CACHE
from .shapes import (
    CELLS,
    GATES,
    Adjoint,
    Inputs,
    LayerSpec,
    Sizes,
    adjoint_mismatch,
    backward_mismatch,
    forward_mismatch,
    is_cpu_tensor,
    kept_shapes,
    refuse,
    sizes_of,
    weight_shapes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from . import _engine

    _NOT_BUILT: str
else:
    try:
        from . import _engine

        _NOT_BUILT = "" if getattr(_engine, "INTERFACE", 1) == 3 else "was built from other sources; install again"
    except ImportError:  # installed where no C++ compiler was found
        _NOT_BUILT = "was not built on this machine"
_BUILT = not _NOT_BUILT

__all__ = ["adjoint_norms", "available", "backward", "empty_cache", "forward", "info", "matmul", "step"]

_VARIABLE = "RETROGRADE_ISA"


def _choose() -> str:
    """Apply the environment variable; returns how the instruction set was chosen."""
    wanted = os.environ.get(_VARIABLE, "")
    if not _BUILT:
        return f"the native engine {_NOT_BUILT}"
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
    """Describe the engine: whether it was built, its instruction set, its threads.

    Returns
    -------
    dict
        ``available`` (bool); ``instruction_set`` (str, ``"none"`` without the engine) and ``chosen_by``
        (str), how it was chosen: the environment variable ``RETROGRADE_ISA`` forces one;
        ``instruction_sets`` (list of str), all that this build can run here, the widest first;
        ``threads`` (int), the largest number of threads: torch's setting.

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


def empty_cache() -> None:
    """Free the memory that the engine keeps for the next training step: at most 512 MB of gates.

    Memory in use is not touched; the next training step allocates its memory again.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.kernels.empty_cache()
    """
    CACHE.empty()


def _dense(t: Tensor) -> Tensor:
    """`t`, or a dense copy if its numbers are not one after the other in memory as they are."""
    return t if t.is_contiguous() and not t.is_neg() else t.resolve_neg().contiguous()


def _optional_dense(t: Tensor | None) -> Tensor | None:
    return None if t is None else _dense(t)


def _dense_inputs(inputs: Inputs) -> Inputs:
    x, h_0, c_0, weights, batch_sizes = inputs
    for w in weights:
        if not w.is_contiguous():
            weights = [w.contiguous() for w in weights]
            break
    sizes = batch_sizes if batch_sizes is None else batch_sizes.contiguous()
    return Inputs(_dense(x), _optional_dense(h_0), _optional_dense(c_0), weights, sizes)


def _segment(spec: LayerSpec, sizes: Sizes, dtype: torch.dtype) -> int:
    """Steps between the states that are kept, about √T; 0 if all are.

    A whole number of the chunks in which the engine sums weight gradients, so that these are the same bit for bit with
    and without recomputation.
    """
    if not spec.recompute or spec.cell < CELLS["GRU"] or sizes.T == 1:
        return 0
    chunk = _engine.chunk_steps(spec.cell, dtype is torch.float64, sizes.T, sizes.B, sizes.H)
    return max(1, round(math.sqrt(sizes.T) / chunk)) * chunk


def forward(
    spec: LayerSpec, inputs: Inputs, keep: bool, checked: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Run one layer.

    Parameters
    ----------
    keep : bool
        Whether a backward pass will follow.
    checked : bool
        False if the caller has made sure that :func:`~.shapes.forward_mismatch` finds nothing.

    Returns
    -------
    output, h_n, c_n, gates, cells
        ``(T, B, D R)`` or ``(rows, D R)``; ``(D, B, R)``; ``(D, B, H)`` (LSTM, else None); and, with `keep`, what the
        backward pass needs.
    """
    if checked:
        refuse(forward_mismatch(spec, inputs), "the engine's forward pass")
    inputs = _dense_inputs(inputs)
    x = inputs.x
    sizes, D = sizes_of(spec, inputs), spec.directions
    _, B, _, H, R, _ = sizes
    shape = (*x.shape[:-1], D * R)
    out = CACHE.take(x, *shape, exact=True) if keep else x.new_empty(shape)
    h_n = x.new_empty((D, B, R))
    c_n = x.new_empty((D, B, H)) if spec.cell == CELLS["LSTM"] else None
    gates = cells = None
    segment = 0
    if keep:
        segment = _segment(spec, sizes, x.dtype)
        gates, cells = (None if s is None else CACHE.take(x, *s) for s in kept_shapes(spec, sizes, segment))
    threads, float64 = torch.get_num_threads(), x.dtype is torch.float64
    layer = _engine.Layer(spec, sizes, float64, segment, threads, *inputs, out, gates, cells)
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
    """Take one step of one layer in one direction, without gradients.

    Parameters
    ----------
    cell : str
        A name of ``CELLS``.
    x : Tensor
        ``(B, I)``.
    h, c : Tensor, optional
        ``(1, B, R)``, ``(1, B, H)``.
    weights : sequence of Tensor
        As in :class:`~.shapes.Inputs`.

    Returns
    -------
    tuple or None
        The output ``(B, R)``, h_n ``(1, B, R)`` and c_n ``(1, B, H)`` or None. None instead of the tuple if the
        tensors are not dense ones of one type and of these shapes on the CPU: the caller then runs the whole layer.
    """
    if not _BUILT or type(x) is not Tensor or x.dim() != 2 or not x.is_contiguous():
        return None
    dtype, number = x.dtype, CELLS[cell]
    if (dtype is not torch.float32 and dtype is not torch.float64) or not is_cpu_tensor(x, dtype):
        return None
    B, inputs = x.shape
    H, R, lstm = hidden_size, proj_size or hidden_size, number == CELLS["LSTM"]
    if B < 1 or inputs < 1 or H < 1 or (c is not None and not lstm):
        return None
    for t, width in ((h, R), (c, H)):
        if t is not None and not (
            type(t) is Tensor and t.shape == (1, B, width) and is_cpu_tensor(t, dtype) and t.is_contiguous()
        ):
            return None
    sizes = Sizes(1, B, inputs, H, R, B)
    shapes = weight_shapes(GATES[number], bias, proj_size > 0, sizes)
    if len(weights) != len(shapes):
        return None
    for w, shape in zip(weights, shapes, strict=True):
        if type(w) not in _PLAIN or w.shape != shape or not is_cpu_tensor(w, dtype) or not w.is_contiguous():
            return None
    out, h_n = x.new_empty((B, R)), x.new_empty((1, B, R))
    c_n = x.new_empty((1, B, H)) if lstm else None
    spec = (number, 1, bias, proj_size > 0, False)
    threads = torch.get_num_threads()
    layer = _engine.Layer(spec, sizes, dtype is torch.float64, 0, threads, x, h, c, weights, None, out, None, None)
    _engine.forward(layer, h_n, c_n)
    return out, h_n, c_n


def backward(
    spec: LayerSpec,
    grads: Sequence[Tensor | None],
    inputs: Inputs,
    kept: Sequence[Tensor | None],
    needs: Sequence[bool],
    checked: bool = True,
) -> list[Tensor | None]:
    """Differentiate what :func:`forward` did.

    Parameters
    ----------
    grads : sequence
        Of output, h_n and c_n; None is zero.
    kept : sequence
        Output, gates and cells, as the forward pass returned them.
    needs : sequence of bool
        Which gradients are asked for: of x, of h_0, of c_0, of each weight.
    checked : bool
        False if these are the very tensors that the forward pass took and returned: no weight has other ``.data``.

    Returns
    -------
    list
        The gradients in the order of `needs`, None where not asked for.
    """
    if checked:
        refuse(forward_mismatch(spec, inputs), "the engine's backward pass")
    sizes = sizes_of(spec, inputs)
    segment = _segment(spec, sizes, inputs.x.dtype)
    if checked:
        mismatch = backward_mismatch(spec, sizes, inputs, grads, kept, segment, needs)
        refuse(mismatch, "the engine's backward pass")
        kept = [_optional_dense(t) for t in kept]
    inputs = _dense_inputs(inputs)
    x = inputs.x
    out, gates, cells = kept
    assert out is not None
    # what this cell does not keep is an empty tensor where a torch operator calls
    keeps_gates, keeps_cells = kept_shapes(spec, sizes, segment)
    gates, cells = gates if keeps_gates else None, cells if keeps_cells else None
    grad_x = CACHE.take(x, *x.shape, exact=True) if needs[0] else None
    others = zip(inputs.differentiable()[1:], needs[1:], strict=True)
    found = [grad_x, *(torch.empty_like(t) if need and t is not None else None for t, need in others)]
    threads, float64 = torch.get_num_threads(), x.dtype is torch.float64
    layer = _engine.Layer(spec, sizes, float64, segment, threads, *inputs, out, gates, cells)
    grad_out, grad_h_n, grad_c_n = map(_optional_dense, grads)
    _engine.backward(layer, grad_out, grad_h_n, grad_c_n, found[0], found[1], found[2], found[3:])
    return found


def adjoint_norms(layers: Sequence[Adjoint], targets: Tensor, state: str) -> Tensor:
    """‖∂E_t/∂s_k‖ of every layer of a stack whose head looks at one step at a time.

    Parameters
    ----------
    layers : sequence of Adjoint
        From the bottom of the stack, at most ``MAX_ADJOINT_LAYERS``, all of one type.
    targets : Tensor
        The steps t, int64, rising.
    state : {"h", "c", "hc"}
        What s_k is in an LSTM; h in the others.

    Returns
    -------
    Tensor
        `(layers, targets, T, B)` float64, zero for k > t.
    """
    refuse(adjoint_mismatch(layers, targets, state), "adjoint_norms")
    T, B = layers[0].local.shape[:2]
    # The engine writes along time.
    found = torch.empty(len(layers), len(targets), B, T, dtype=torch.float64, device="cpu")
    dense = [[_optional_dense(t) for t in layer[1:]] for layer in layers]
    targets = targets.contiguous()
    described = [
        _engine.adjoint_layer(CELLS[layer.cell], layer.w_hh.shape[1], layer.w_ih.shape[1], *tensors, norms)
        for layer, tensors, norms in zip(layers, dense, found, strict=True)
    ]
    _engine.adjoint_norms(
        float64=layers[0].k.dtype is torch.float64,
        state=("h", "c", "hc").index(state),
        threads=torch.get_num_threads(),
        T=T,
        B=B,
        targets=targets,
        count=len(targets),
        layers=described,
    )
    return found.transpose(2, 3)


def matmul(a: Tensor, b: Tensor, *, threads: int | None = None) -> Tensor:
    """Multiply two matrices by the engine's packed product, without gradients.

    Parameters
    ----------
    a : Tensor
        ``(M, K)``, float32 or float64, on the CPU.
    b : Tensor
        ``(K, N)`` of the same type; a transposed view is not copied.
    threads : int, optional
        At least 1; limited to the larger of torch's number of threads and the machine's processors. Default: torch's
        number of threads. The result is the same bit for bit.

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
    if a.dtype not in (torch.float32, torch.float64) or not is_cpu_tensor(a, a.dtype) or not is_cpu_tensor(b, a.dtype):
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
        raise OptionError(f"matmul needs the native engine, which {_NOT_BUILT}; use torch.mm")
    transposed = not b.is_contiguous() and b.t().is_contiguous()
    a, b = _dense(a), _dense(b.t() if transposed else b)
    c = a.new_empty((a.shape[0], b.shape[0] if transposed else b.shape[1]))
    _engine.matmul(a.dtype is torch.float64, c, a, b, transposed, c.shape[0], c.shape[1], a.shape[1], most)
    return c
