"""How a forward pass is computed, and why: the one place where the engine meets the layers.

A :class:`ForwardPass` is a forward pass in plain tensors, already checked. :func:`fallback_reason` says why torch's own
operators compute it; without a reason, the native engine does.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from .. import _torch_private, kernels
from ..cells import FUSED, Cell
from ..kernels import operators
from ..kernels.shapes import Inputs, LayerSpec
from .compilation import breaks_graph, tracing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Explanation",
    "ForwardPass",
    "compute",
    "compute_traced",
    "explanation",
    "fallback_reason",
    "state_of_torch",
]

_OneLayer: TypeAlias = "tuple[Tensor, Tensor, Tensor | None]"
_Result: TypeAlias = "tuple[Tensor, tuple[Tensor, ...]]"


class ForwardPass(NamedTuple):
    """A forward pass of a recurrent stack, in tensors; D is 2 if bidirectional, else 1."""

    layer: Any  # the module: its options are read, nothing is called
    cell: Cell  # gates, states and equations of the layer
    directions: int  # D; a field, because compilers of torch 2.6 know no properties of named tuples
    input: Tensor  # (T, B, I); (B, T, I) if batch_first; (sum of lengths, I) if packed
    batch_sizes: Tensor | None  # (T,), the number of sequences that have a step t; None if not packed
    state: tuple[Tensor, ...] | None  # (h_0,) or (h_0, c_0), each (num_layers * D, B, ·); None is zeros
    weights: list[Tensor]  # torch's flat order: layer by layer, direction by direction


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


def compute(call: ForwardPass) -> _Result:
    """Run a forward pass in the engine if it can compute it, else by torch's operators.

    Returns
    -------
    output : Tensor
        Laid out as the input, the last dimension D * hidden_size (D * proj_size with a projection).
    state : tuple of Tensor
        ``(h_n,)``, or ``(h_n, c_n)`` for an LSTM, each ``(num_layers * D, B, ·)``.
    """
    if fallback_reason(call) is None:
        return _with_engine(call)
    if breaks_graph():
        outside: Callable[[ForwardPass], _Result] = torch.compiler.disable(_with_torch)  # type: ignore[no-untyped-call]
        return outside(call)
    return _with_torch(call)


def explanation(call: ForwardPass) -> Explanation:
    """Say which path :func:`compute` would take, and why."""
    reason = fallback_reason(call)
    if reason is None:
        return Explanation("engine", f"{call.input.dtype} on the CPU, {kernels.info()['instruction_set']}")
    return Explanation("torch", reason)


_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def fallback_reason(call: ForwardPass) -> str | None:
    """Why the engine cannot compute a forward pass; None if it can."""
    if not kernels.available():
        return "the native engine was not built on this machine"
    dtype, compiling = call.input.dtype, torch.compiler.is_compiling()
    for tensor in (call.input, *(call.state or ()), *call.weights):
        if not compiling and type(tensor) not in _PLAIN:  # a compiler passes tensors of its own
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
    return state_of_torch(compiling)


def state_of_torch(compiling: bool) -> str | None:
    """Why torch's own operators are needed whatever the tensors are: autocast, a mode, a transform; or None."""
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the types of torch's operators"
    if compiling:
        return None
    if _torch_private.LACKING_FOR_ENGINE is not None:
        return _torch_private.LACKING_FOR_ENGINE
    if _torch_private.function_mode_needs_operators():
        return "a torch function mode watches torch's operators (as gradient_flow does)"
    if tracing():
        return "torch.jit records torch's operators"
    if _torch_private.functorch_active():
        return "a torch.func transform (vmap, grad, jvp, ...) needs torch's operators"
    if _torch_private.forward_mode_active():
        return "forward-mode differentiation needs torch's operators"
    return None


def _weights_fit(call: ForwardPass) -> bool:
    """Whether each weight has its shape, which the engine relies on (a parameter may have been replaced)."""
    layer, weights = call.layer, call.weights
    H, R = layer.hidden_size, layer.proj_size or layer.hidden_size
    rows, directions = len(call.cell.gates) * H, call.directions
    per_direction = 2 + 2 * layer.bias + (layer.proj_size > 0)
    if len(weights) != layer.num_layers * directions * per_direction:
        return False
    for i in range(0, len(weights), per_direction):
        inputs = call.input.shape[-1] if i < directions * per_direction else directions * R
        if weights[i].shape != (rows, inputs) or weights[i + 1].shape != (rows, R):
            return False
        if layer.bias and (weights[i + 2].shape != (rows,) or weights[i + 3].shape != (rows,)):
            return False
        if layer.proj_size and weights[i + per_direction - 1].shape != (R, H):
            return False
    return True


def _with_engine(call: ForwardPass) -> _Result:
    """Compute in the native engine."""
    spec = _spec(call)
    return _layer_by_layer(call, lambda inputs: operators.layer(spec, inputs, checked=False))


def _spec(call: ForwardPass) -> LayerSpec:
    layer = call.layer
    return LayerSpec(call.cell.number, call.directions, layer.bias, layer.proj_size > 0, layer.recompute)


def compute_traced(call: ForwardPass) -> tuple[Tensor, tuple[Tensor, ...], list[dict[str, Tensor]]]:
    """Compute in elementary operators; returns also what each layer and direction computed at each step."""
    seen: list[dict[str, Tensor]] = []
    spec = _spec(call)

    def run(inputs: Inputs) -> _OneLayer:
        result, found = operators.traced_layer(spec, inputs)
        seen.extend(found)
        return result

    return *_layer_by_layer(call, run), seen


def _layer_by_layer(call: ForwardPass, run: Callable[[Inputs], _OneLayer]) -> _Result:
    """The stack: `run` is one layer in all its directions, (T, B, ·) to (T, B, ·)."""
    x, state, weights, n = call.input, call.state, call.weights, call.layer.num_layers
    h_0, c_0 = state if state is not None and len(state) == 2 else (state[0] if state is not None else None, None)
    swap = call.layer.batch_first and call.batch_sizes is None
    if swap:
        x = x.transpose(0, 1).contiguous()  # here, so that the backward pass does not copy it again
    if n == 1:
        x, h_n, c_n = run(Inputs(x, h_0, c_0, weights, call.batch_sizes))
        return x.transpose(0, 1) if swap else x, (h_n,) if c_n is None else (h_n, c_n)
    rows, per_layer = call.directions, len(weights) // n
    hs, cs = [], []
    for i in range(n):
        own = slice(i * rows, (i + 1) * rows)
        h, c = (s[own] if s is not None else None for s in (h_0, c_0))
        x, h_n, c_n = run(Inputs(x, h, c, weights[i * per_layer : (i + 1) * per_layer], call.batch_sizes))
        hs.append(h_n)
        if c_n is not None:
            cs.append(c_n)
        if call.layer.dropout and call.layer.training and i + 1 < n:
            x = torch.nn.functional.dropout(x, call.layer.dropout, True)
    return x.transpose(0, 1) if swap else x, (torch.cat(hs), torch.cat(cs)) if cs else (torch.cat(hs),)


_TORCH_OPERATORS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    cell.mode: getattr(torch, cell.mode.lower()) for cell in FUSED
}


def _with_torch(call: ForwardPass) -> _Result:
    """Compute by the operators that ``torch.nn`` itself calls, with the arguments that it gives them."""
    layer, operator = call.layer, _TORCH_OPERATORS[call.layer.mode]
    state = call.state or _zero_state(call)
    hx = state if len(state) > 1 else state[0]
    sequences: tuple[Any, ...] = (call.input,) if call.batch_sizes is None else (call.input, call.batch_sizes)
    options: tuple[Any, ...] = (layer.bias, layer.num_layers, layer.dropout, layer.training, layer.bidirectional)
    if call.batch_sizes is None:
        options += (layer.batch_first,)
    if call.input.is_cuda and not torch.compiler.is_compiling() and parametrize.is_parametrized(layer):
        with warnings.catch_warnings():  # weights computed at every call cannot be flattened, as cuDNN advises
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous", UserWarning)
            output, *final = operator(*sequences, hx, call.weights, *options)
    else:
        output, *final = operator(*sequences, hx, call.weights, *options)
    return output, tuple(final)


def _zero_state(call: ForwardPass) -> tuple[Tensor, ...]:
    layer, x = call.layer, call.input
    batch = int(call.batch_sizes[0]) if call.batch_sizes is not None else x.size(0 if layer.batch_first else 1)
    sizes = {"h": layer.proj_size or layer.hidden_size, "c": layer.hidden_size}
    rows = layer.num_layers * call.directions
    return tuple(torch.zeros(rows, batch, sizes[s], dtype=x.dtype, device=x.device) for s in call.cell.states)
