"""Which way a forward pass is computed, and why: the one place where the engine meets the modules.

A :class:`Call` is a forward pass in plain tensors, already checked. :func:`obstacle` says what keeps
the native engine from it; without one the engine computes it, else torch's own operators do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack

from .. import kernels
from ..cells import FUSED, Cell
from ..kernels import operators
from ..kernels.shapes import Inputs, LayerSpec
from .compilation import breaks_graph

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Call", "Explanation", "compute", "compute_traced", "explanation", "obstacle", "watched"]


class Call(NamedTuple):
    """A forward pass of a recurrent stack, in tensors; D is 2 if bidirectional, else 1."""

    cell: Cell
    input: Tensor  # (T, B, I); (B, T, I) if batch_first; (sum of lengths, I) if packed
    batch_sizes: Tensor | None  # (T,), how many sequences are still running at step t; None if not packed
    state: tuple[Tensor, ...] | None  # (h_0,) or (h_0, c_0), each (num_layers * D, B, ·); None is zeros
    weights: list[Tensor]  # torch's flat order: layer by layer, direction by direction
    hidden_size: int
    proj_size: int  # 0 if there is no projection
    num_layers: int
    bias: bool
    dropout: float  # between layers, in training only
    training: bool
    bidirectional: bool
    batch_first: bool
    recompute: bool = False  # keep states only every ~√T steps, and compute the others again on the way back


_Path: TypeAlias = "Callable[[Call], tuple[Tensor, tuple[Tensor, ...]]]"


@dataclass(frozen=True, repr=False)
class Explanation:
    """The path that a forward pass takes, and why.

    Attributes
    ----------
    path : {"engine", "torch"}
        Retrograde's native engine, or torch's own operators.
    reason : str
        One line.
    """

    path: Literal["engine", "torch"]
    reason: str

    def __repr__(self) -> str:
        name = "the native engine" if self.path == "engine" else "torch's operators"
        return f"{name}: {self.reason}"


def compute(call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run `call` on the path that :func:`obstacle` leaves open.

    Returns
    -------
    output : Tensor
        Laid out as the input, the last dimension D * hidden_size (D * proj_size with a projection).
    state : tuple of Tensor
        ``(h_n,)``, or ``(h_n, c_n)`` for an LSTM, each ``(num_layers * D, B, ·)``.
    """
    if obstacle(call) is None:
        return _with_engine(call)
    if breaks_graph():
        outside: _Path = torch.compiler.disable(_with_torch)  # type: ignore[no-untyped-call]
        return outside(call)
    return _with_torch(call)


def explanation(call: Call) -> Explanation:
    """Say which path :func:`compute` would take for `call`, and why."""
    reason = obstacle(call)
    if reason is None:
        return Explanation("engine", f"{call.input.dtype} on the CPU, {kernels.info()['instruction_set']}")
    return Explanation("torch", reason)


_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def obstacle(call: Call) -> str | None:
    """What keeps the native engine from computing `call`; None if nothing does."""
    if not kernels.available():
        return "the native engine was not built on this machine"
    dtype, compiling = call.input.dtype, torch.compiler.is_compiling()
    for tensor in (call.input, *(call.state or ()), *call.weights):
        if type(tensor) not in _PLAIN and not compiling:  # a compiler hands in tensors of its own
            return f"a tensor is a {type(tensor).__name__}, and the engine reads plain tensors only"
        if not tensor.is_cpu:
            return f"a tensor is on {tensor.device}, and the engine works on the CPU"
        if tensor.dtype is not dtype:
            return f"the tensors are of different types, {dtype} and {tensor.dtype}"
    if dtype is not torch.float32 and dtype is not torch.float64:
        return f"the tensors are of {dtype}, and the engine knows float32 and float64"
    sizes = call.batch_sizes
    if sizes is not None and (sizes.dtype is not torch.int64 or not sizes.is_cpu or sizes.dim() != 1):
        return "batch_sizes are not one row of int64 numbers on the CPU, and torch.nn will say what it makes of them"
    if 0 in call.input.shape:
        return "there are no steps, sequences or features, and torch.nn decides what that means"
    if not _weights_fit(call):
        return "a weight is not of the shape that the layer's sizes ask for, and torch.nn will say which"
    return watched(compiling)


def watched(compiling: bool) -> str | None:
    """What about the moment, rather than about a call's tensors, asks for torch's own operators."""
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the types of torch's operators"
    if compiling:
        return None
    if observed():
        return "a torch function mode watches torch's operators (as gradient_flow does)"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit records torch's operators"
    if torch._C._are_functorch_transforms_active():
        return "a torch.func transform (vmap, grad, jvp, ...) needs torch's operators"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation needs torch's operators"
    return None


def observed() -> bool:
    """Whether a torch function mode is active that wants to see torch's own operators."""
    if torch._C._len_torch_function_stack() == 0:
        return False
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return any(getattr(mode, "needs_torch_operators", False) for mode in modes)


def _weights_fit(call: Call) -> bool:
    """Whether each weight has its shape, which the engine trusts (a parameter may have been swapped)."""
    weights, H, R = call.weights, call.hidden_size, call.proj_size or call.hidden_size
    rows, directions = len(call.cell.gates) * H, 2 if call.bidirectional else 1
    per_direction = 2 + 2 * call.bias + (call.proj_size > 0)
    if len(weights) != call.num_layers * directions * per_direction:
        return False
    for i in range(0, len(weights), per_direction):
        inputs = call.input.shape[-1] if i < directions * per_direction else directions * R
        if weights[i].shape != (rows, inputs) or weights[i + 1].shape != (rows, R):
            return False
        if call.bias and (weights[i + 2].shape != (rows,) or weights[i + 3].shape != (rows,)):
            return False
        if call.proj_size and weights[i + per_direction - 1].shape != (R, H):
            return False
    return True


def _with_engine(call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute `call` in the native engine."""
    spec = _spec(call)
    return _layer_by_layer(call, lambda inputs: operators.layer(spec, inputs, checked=False))


def _spec(call: Call) -> LayerSpec:
    directions = 2 if call.bidirectional else 1
    return LayerSpec(call.cell.number, directions, call.bias, call.proj_size > 0, call.recompute)


def compute_traced(call: Call) -> tuple[Tensor, tuple[Tensor, ...], list[dict[str, Tensor]]]:
    """Run `call` in elementary operators; returns also what each layer and direction computed at each step."""
    seen: list[dict[str, Tensor]] = []
    spec = _spec(call)

    def run(inputs: Inputs) -> _OneLayer:
        result, directions = operators.traced_layer(spec, inputs)
        seen.extend(directions)
        return result

    return *_layer_by_layer(call, run), seen


_OneLayer: TypeAlias = "tuple[Tensor, Tensor, Tensor | None]"


def _layer_by_layer(call: Call, run: Callable[[Inputs], _OneLayer]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The stack: `run` is one layer in all its directions, (T, B, ·) to (T, B, ·)."""
    x, state, weights, n = call.input, call.state, call.weights, call.num_layers
    h_0, c_0 = state if state is not None and len(state) == 2 else (state[0] if state is not None else None, None)
    swap = call.batch_first and call.batch_sizes is None
    if swap:
        x = x.transpose(0, 1)
    if n == 1:
        x, h_n, c_n = run(Inputs(x, h_0, c_0, weights, call.batch_sizes))
        return x.transpose(0, 1) if swap else x, (h_n,) if c_n is None else (h_n, c_n)
    rows, per_layer = 2 if call.bidirectional else 1, len(weights) // n
    hs, cs = [], []
    for i in range(n):
        own = slice(i * rows, (i + 1) * rows)
        h, c = (s[own] if s is not None else None for s in (h_0, c_0))
        x, h_n, c_n = run(Inputs(x, h, c, weights[i * per_layer : (i + 1) * per_layer], call.batch_sizes))
        hs.append(h_n)
        if c_n is not None:
            cs.append(c_n)
        if call.dropout and call.training and i + 1 < n:
            x = torch.nn.functional.dropout(x, call.dropout, True)
    return x.transpose(0, 1) if swap else x, (torch.cat(hs), torch.cat(cs)) if cs else (torch.cat(hs),)


_TORCH_OPERATORS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    cell.mode: getattr(torch, cell.mode.lower()) for cell in FUSED
}


def _with_torch(call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute `call` by the operators that ``torch.nn`` itself calls, with the arguments that it gives them."""
    operator = _TORCH_OPERATORS[call.cell.mode]
    state = call.state or _zero_state(call)
    hx = state if len(call.cell.states) > 1 else state[0]
    options = (call.bias, call.num_layers, call.dropout, call.training, call.bidirectional)
    if call.batch_sizes is None:
        output, *final = operator(call.input, hx, call.weights, *options, call.batch_first)
    else:
        output, *final = operator(call.input, call.batch_sizes, hx, call.weights, *options)
    return output, tuple(final)


def _zero_state(call: Call) -> tuple[Tensor, ...]:
    batch = int(call.batch_sizes[0]) if call.batch_sizes is not None else call.input.size(0 if call.batch_first else 1)
    rows = call.num_layers * (2 if call.bidirectional else 1)
    h_0 = torch.zeros(rows, batch, call.proj_size or call.hidden_size, dtype=call.input.dtype, device=call.input.device)
    if len(call.cell.states) == 1:
        return (h_0,)
    return h_0, torch.zeros(rows, batch, call.hidden_size, dtype=call.input.dtype, device=call.input.device)
