"""The native engine as functions of tensors: shapes are trusted here, pointers are taken, nothing is differentiated."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError

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
    "Adjoint",
    "Plan",
    "adjoint_norms",
    "available",
    "backward",
    "can_step",
    "empty_cache",
    "forward",
    "info",
    "matmul",
    "step",
]

CELLS = {"RNN_TANH": 0, "RNN_RELU": 1, "GRU": 2, "LSTM": 3}  # torch's names, the engine's numbers
GATES = (1, 1, 3, 4)  # blocks of H rows that each of them has in its weights
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


class _Reserve:
    """Memory for what a training step fills, handed out again once no tensor lies in it.

    Pages fresh from the system cost as much as filling them with gates does: a training loop that takes the
    same step again should not pay for them again.
    """

    SMALLEST, MOST = 1 << 20, 512 << 20  # bytes: less is the allocator's own business; more is given back

    def __init__(self) -> None:
        self._storages: list[tuple[torch.UntypedStorage, bool]] = []  # and whether it was taken as exact
        self._lock = threading.Lock()

    def take(self, like: Tensor, *shape: int, exact: bool = False) -> Tensor:
        """An unfilled tensor of `like`'s type; `exact` is for what the user sees, a storage of just its size."""
        size = math.prod(shape) * like.element_size()
        most = size if exact else 2 * size
        if not self.SMALLEST <= size <= self.MOST:
            return like.new_empty(shape)
        with self._lock:
            # another process may read what was shared with it, whatever lies there here
            self._storages = [(s, own) for s, own in self._storages if not s.is_shared()]
            storage = next((s for s, _ in self._storages if size <= s.nbytes() <= most and self._free(s)), None)
            if storage is None:  # shapes have changed: what no longer fits makes room
                self._storages = [
                    (s, own)
                    for s, own in self._storages
                    if not self._free(s) or (s.nbytes() >= size and not (exact and own))
                ]
                storage = like.new_empty(shape).untyped_storage()
                if size + sum(s.nbytes() for s, _ in self._storages) <= self.MOST:
                    self._storages.append((storage, exact))
            return like.new_empty(0).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]

    def empty(self) -> None:
        """Give back what no tensor lies in."""
        with self._lock:
            self._storages = [(s, own) for s, own in self._storages if not self._free(s)]

    def forked(self) -> None:
        """In the child of a fork: the lock may have been held by a thread that is not there."""
        self._lock = threading.Lock()

    @staticmethod
    def _free(storage: torch.UntypedStorage) -> bool:
        return torch._C._storage_Use_Count(storage._cdata) == 1


_RESERVE = _Reserve()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RESERVE.forked)


def empty_cache() -> None:
    """Give back the memory that the engine keeps to use again: at most 512 MB of gates between two training steps.

    Nothing that is still needed is touched; the next training step takes its memory anew.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.kernels.empty_cache()
    """
    _RESERVE.empty()


def _rows(x: Tensor) -> Tensor:
    """`x` (T, B, ·) or (rows, ·), its last dimension dense and its rows evenly spaced."""
    return x if x.is_contiguous() else x.contiguous()


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _offset(tensor: Tensor | None, direction: int) -> int:
    """Where a direction's part of a (D, ...) tensor begins."""
    return 0 if tensor is None else tensor.data_ptr() + direction * tensor.stride(0) * tensor.element_size()


def _sizes(x: Tensor, batch_sizes: Tensor | None) -> tuple[int, int]:
    """T and B."""
    if batch_sizes is None:
        return x.shape[0], x.shape[1]
    return batch_sizes.shape[0], int(batch_sizes[0])


def _pointers(weights: Sequence[Tensor], plan: Plan) -> list[tuple[int, int, int, int, int]]:
    """Per direction: w_ih, w_hh, b_ih, b_hh, w_hr."""
    found = []
    n = plan.per_direction
    for d in range(plan.directions):
        p = [w.data_ptr() for w in weights[d * n : (d + 1) * n]]
        w_hr = p.pop() if plan.projected else 0
        found.append((p[0], p[1], p[2], p[3], w_hr) if plan.bias else (p[0], p[1], 0, 0, w_hr))
    return found


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

    Returns
    -------
    output, h_n, c_n, gates, cells
        ``(T, B, D R)`` or ``(rows, D R)``; ``(D, B, R)``; ``(D, B, H)`` (LSTM, else None); and what the
        backward pass needs, if it will come.
    """
    cell, D = plan.cell, plan.directions
    T, B = _sizes(x, batch_sizes)
    weights = _dense(weights)
    x = _rows(x)
    if h_0 is not None and not h_0.is_contiguous():
        h_0 = h_0.contiguous()
    if c_0 is not None and not c_0.is_contiguous():
        c_0 = c_0.contiguous()
    H = weights[0].shape[0] // GATES[cell]
    R = weights[1].shape[1]
    rows = x.shape[0] if batch_sizes is not None else T * B
    shape = (*x.shape[:-1], D * R)
    out = _RESERVE.take(x, *shape, exact=True) if keep else x.new_empty(shape)
    h_n = x.new_empty((D, B, R))
    c_n = x.new_empty((D, B, H)) if cell == 3 else None
    gates = cells = None
    segment = 0
    if keep and cell >= 2:
        segment = plan.segment(x, T, B, H)
        if segment == 0:
            gates = _RESERVE.take(x, D, rows, 4 * H)
            if cell == 3:
                cells = _RESERVE.take(x, D, rows, H)
        elif cell == 3:
            cells = x.new_empty((D, -(-T // segment), B, H))
    float64, item, threads = x.dtype is torch.float64, x.element_size(), torch.get_num_threads()
    sizes, out_pointer = _pointer(batch_sizes), out.data_ptr()
    for d, (w_ih, w_hh, b_ih, b_hh, w_hr) in enumerate(_pointers(weights, plan)):
        _engine.forward(
            cell, float64, d == 1, T, B, x.shape[-1], H, R, sizes, threads, x.data_ptr(), x.shape[-1],
            _offset(h_0, d), _offset(c_0, d), w_ih, w_hh, b_ih, b_hh, w_hr, out_pointer + d * R * item, D * R,
            _offset(h_n, d), _offset(c_n, d), _offset(gates, d), _offset(cells, d), segment,
        )  # fmt: skip
    return out, h_n, c_n, gates, cells


_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def can_step(
    x: object,
    h: object,
    c: object,
    weights: Sequence[Tensor],
    hidden_size: int,
    proj_size: int,
    bias: bool,
) -> bool:
    """Whether :func:`step` may take these tensors as they are; whatever else is wanted goes the long way."""
    if not _BUILT or type(x) is not Tensor or not x.is_cpu or not x.is_contiguous():
        return False
    dtype = x.dtype
    if dtype is not torch.float32 and dtype is not torch.float64:
        return False
    B, inputs = x.shape
    R = proj_size or hidden_size
    if h is not None and not (type(h) is Tensor and h.dtype is dtype and h.shape == (1, B, R) and h.is_contiguous()):
        return False
    if c is not None and not (
        type(c) is Tensor and c.dtype is dtype and c.shape == (1, B, hidden_size) and c.is_contiguous()
    ):
        return False
    for w in weights:
        if type(w) not in _PLAIN or w.dtype is not dtype or not w.is_cpu or not w.is_contiguous():
            return False
    rows = weights[0].shape[0]
    return (
        B > 0
        and inputs > 0
        and weights[0].shape[1] == inputs
        and rows % hidden_size == 0
        and weights[1].shape == (rows, R)
        and (not bias or weights[2].numel() == weights[3].numel() == rows)
        and (not proj_size or weights[-1].shape == (R, hidden_size))
    )


def step(
    cell: str, x: Tensor, h: Tensor | None, c: Tensor | None, weights: Sequence[Tensor], bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One step of one layer without gradients, for what :func:`can_step` has admitted.

    Parameters
    ----------
    x : Tensor
        ``(B, I)``.
    h, c : Tensor, optional
        ``(1, B, R)``, ``(1, B, H)``.

    Returns
    -------
    output ``(B, R)``, h_n ``(1, B, R)``, c_n ``(1, B, H)`` or None
    """
    number, (B, inputs), (rows, R) = CELLS[cell], x.shape, weights[1].shape
    H = rows // GATES[number]
    out, h_n = x.new_empty((B, R)), x.new_empty((1, B, R))
    c_n = x.new_empty((1, B, H)) if number == 3 else None
    w = [t.data_ptr() for t in weights]
    b_ih, b_hh = (w[2], w[3]) if bias else (0, 0)
    _engine.forward(
        number, x.dtype is torch.float64, False, 1, B, inputs, H, R, 0, torch.get_num_threads(), x.data_ptr(), inputs,
        0 if h is None else h.data_ptr(), 0 if c is None else c.data_ptr(), w[0], w[1], b_ih, b_hh,
        w[-1] if len(w) in (3, 5) else 0, out.data_ptr(), R, h_n.data_ptr(), 0 if c_n is None else c_n.data_ptr(),
        0, 0, 0,
    )  # fmt: skip
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
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor | None]]:
    """Differentiate what :func:`forward` did.

    Parameters
    ----------
    needs
        Which gradients are asked for: of x, of h_0, of c_0, of each weight.

    Returns
    -------
    tuple
        The gradients of x, h_0, c_0 and the list of the weights', None where not asked for.
    """
    cell, D, bias, projected, _ = plan
    T, B = _sizes(x, batch_sizes)
    weights = _dense(weights)
    x = _rows(x)
    states = [t if t is None or t.is_contiguous() else t.contiguous() for t in (h_0, c_0, grad_h_n, grad_c_n)]
    h_0, c_0, grad_h_n, grad_c_n = states
    if grad_out is not None and not grad_out.is_contiguous():
        grad_out = grad_out.contiguous()
    H = weights[0].shape[0] // GATES[cell]
    R = weights[1].shape[1]
    segment = plan.segment(x, T, B, H)
    need_x, need_h, need_c, need_weights = needs
    grad_x = _RESERVE.take(x, *x.shape, exact=True) if need_x else None
    grad_h = x.new_empty((D, B, R)) if need_h else None
    grad_c = x.new_empty((D, B, H)) if need_c else None
    n = plan.per_direction
    grads: list[Tensor | None] = [
        torch.empty_like(w) if need else None for w, need in zip(weights, need_weights, strict=True)
    ]
    float64, item, threads = x.dtype is torch.float64, x.element_size(), torch.get_num_threads()
    for d, (w_ih, w_hh, b_ih, b_hh, w_hr) in enumerate(_pointers(weights, plan)):
        own = grads[d * n : (d + 1) * n]
        grad_b_ih, grad_b_hh = (own[2], own[3]) if bias else (None, None)
        # Both biases enter the same sums, except in the GRU's n.
        grad_b = grad_b_ih if grad_b_ih is not None or cell == 2 else grad_b_hh
        _engine.backward(
            cell, float64, d == 1, T, B, x.shape[-1], H, R, _pointer(batch_sizes), threads,
            x.data_ptr(), x.shape[-1], _offset(h_0, d), _offset(c_0, d), w_ih, w_hh, b_ih, b_hh, w_hr,
            out.data_ptr() + d * R * item, D * R, _offset(gates, d), _offset(cells, d), segment,
            0 if grad_out is None else grad_out.data_ptr() + d * R * item, D * R,
            _offset(grad_h_n, d), _offset(grad_c_n, d), _pointer(grad_x), x.shape[-1], d == 1,
            _pointer(own[0]), _pointer(own[1]), _pointer(grad_b), _pointer(grad_b_hh if cell == 2 else None),
            _pointer(own[-1] if projected else None), _offset(grad_h, d), _offset(grad_c, d),
        )  # fmt: skip
        if cell != 2 and grad_b_ih is not None and grad_b_hh is not None:
            grad_b_hh.copy_(grad_b_ih)
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
    """
    T, B = layers[0].local.shape[:2]
    found = torch.empty(len(layers), len(targets), B, T, dtype=torch.float64)  # a row of the walk writes along time
    held = [[None if t is None else t.contiguous() for t in layer[1:]] for layer in layers]
    targets = targets.contiguous()
    # dense copies live as long as `held` does
    described = [
        [CELLS[layer.cell], layer.w_hh.shape[1], layer.w_ih.shape[1], *map(_pointer, tensors), norms.data_ptr()]
        for layer, tensors, norms in zip(layers, held, found, strict=True)
    ]
    _engine.adjoint_norms(
        layers[0].k.dtype is torch.float64, ("h", "c", "hc").index(state), torch.get_num_threads(), T, B,
        len(targets), targets.data_ptr(), described,
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
        As many as torch uses, if not given; the result is the same bit for bit.

    Returns
    -------
    Tensor
        ``(M, N)``.

    Raises
    ------
    OptionError
        If the shapes or types do not fit.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> rg.kernels.matmul(torch.ones(2, 3), torch.ones(3, 4))[0]
    tensor([3., 3., 3., 3.])
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
        raise OptionError(f"matmul takes (M, K) and (K, N), not {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype != b.dtype or a.dtype not in (torch.float32, torch.float64) or not (a.is_cpu and b.is_cpu):
        raise OptionError(f"matmul takes two float32 or two float64 tensors on the CPU, not {a.dtype} and {b.dtype}")
    transposed = not b.is_contiguous() and b.t().is_contiguous()
    a, b = a.contiguous(), b.t().contiguous() if transposed else b.contiguous()
    c = a.new_empty((a.shape[0], b.shape[0] if transposed else b.shape[1]))
    _engine.matmul(
        a.dtype is torch.float64, c.data_ptr(), a.data_ptr(), b.data_ptr(), transposed, c.shape[0], c.shape[1],
        a.shape[1], threads or torch.get_num_threads(),
    )  # fmt: skip
    return c
