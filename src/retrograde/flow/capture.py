"""Watching a model's recurrent layers run, without touching the model.

PyTorch's layers end in a handful of fused operators (``lstm``, ``gru``, ``rnn_tanh``, ``lstm_cell`` …). A torch
function mode sees those calls wherever they come from, runs each layer and direction by itself, and records what its
adjoint needs. The rest of the user's forward pass (embedding, attention, head, hooks) runs as it always does.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import FlowError
from ..nn.marking import watching
from ..nn.stepwise import StepwiseGRU, StepwiseLSTM, StepwiseRNN
from . import cells, recurrence
from .anew import nothing_computed_anew
from .cells import Kind, Trajectory, Weights

_LAYERS: dict[str, tuple[Kind, str]] = {
    "rnn_tanh": ("rnn", "tanh"),
    "rnn_relu": ("rnn", "relu"),
    "gru": ("gru", "tanh"),
    "lstm": ("lstm", "tanh"),
}
_CELLS: dict[str, tuple[Kind, str]] = {f"{name}_cell": what for name, what in _LAYERS.items()}
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
_RECURRENT = (nn.RNNBase, nn.RNNCellBase, StepwiseRNN, StepwiseGRU, StepwiseLSTM)


@dataclass(eq=False)
class Call:
    """One run of one layer in one direction."""

    track: tuple[str, str]  # the module's name and torch's suffix for layer and direction
    run: Trajectory
    probe: Tensor  # asking autograd for its gradient sends the adjoints through this layer
    fed_by: Call | None  # the layer whose output is this one's input, unchanged
    fed: Tensor | None  # that output as the user's code handed it on, where it did
    own_input: bool  # whether its input is independent of every other layer
    own_state: bool  # whether its initial state is
    order: Tensor | None  # packed input: where each of the user's sequences stands in the run
    keep: bool = False  # whether the sweep keeps the adjoints of the pre-activations
    closed: bool = False  # whether nothing is sent back through it
    swept: recurrence.Swept | None = None

    @property
    def kind(self) -> str:
        """Of the cell."""
        return self.run.kind

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last step to the first."""
        return self.run.reverse

    @property
    def mask(self) -> Tensor | None:
        """`(T, B)` bool, false on padding."""
        return self.run.mask

    @property
    def h(self) -> Tensor:
        """States `(T, B, P)`."""
        return self.run.h

    @property
    def width(self) -> int:
        """Numbers that one loss sent back takes, a step and sequence."""
        return self.run.weights.hh.shape[0] + self.run.x.shape[2]


@dataclass(eq=False)
class Marked:
    """One step of a recurrence written by hand, whose state was marked (``mark_state``)."""

    track: tuple[str, str]  # the module's name and the label it was marked with
    states: tuple[Tensor, ...]  # as the rest of the model goes on with them, in the graph
    probe: Tensor
    live: Tensor | None  # (B,) bool
    swept: recurrence.Swept | None = None
    kind = "custom"
    order: Tensor | None = None
    keep = False

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last step to the first."""
        return self.track[1].endswith("_reverse")

    @property
    def mask(self) -> Tensor | None:
        """`(1, B)` bool, false on padding."""
        return None if self.live is None else self.live[None]

    @property
    def h(self) -> Tensor:
        """The whole state `(1, B, S)`."""
        return torch.cat([flat(state.detach()) for state in self.states], -1)[None]

    @property
    def width(self) -> int:
        """Numbers that one loss sent back takes, a step and sequence."""
        return 2 * self.h.shape[-1]


AnyCall = Call | Marked


def flat(state: Tensor) -> Tensor:
    """A state of one step as `(B, S)`."""
    return state.reshape(1, -1) if state.dim() == 1 else state.flatten(1)


class Exposed(NamedTuple):
    """A tensor through which the rest of the model sees a layer: output, h_n or c_n."""

    tensor: Tensor
    call: Call | None  # of the layer whose outputs `(T, B, P)` it holds; None for final states


class _Output(NamedTuple):
    """A layer's output as the user's code got it, and what tells whether it was changed since."""

    tensor: Tensor
    version: int
    grad_fn: Any
    batch_first: bool
    values: Tensor  # (T, B, P)
    call: Call

    def is_as_it_was(self, batch_first: bool) -> bool:
        """Not written into, not cut off, axes where they were."""
        x = self.tensor
        if x._version != self.version or x.grad_fn is not self.grad_fn or batch_first != self.batch_first:
            return False
        return torch.equal(x.transpose(0, 1) if batch_first else x, self.values)  # .data is written without a version


class _Sweep(torch.autograd.Function):
    """The layer's backward pass as a function that vmap can vectorise over losses."""

    @staticmethod
    def forward(call: Call, need: tuple[bool, ...], *gradients: Tensor) -> Any:
        return tuple(g[0] for g in _Sweep._run(call, need, [g[None] for g in gradients]))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, call: Call, need: tuple[bool, ...], *gradients: Tensor) -> Any:
        whole = [
            g.expand(info.batch_size, *g.shape) if d is None else g.movedim(d, 0)
            for g, d in zip(gradients, in_dims[2:], strict=True)
        ]
        result = _Sweep._run(call, need, whole)
        return result, (0,) * len(result)

    @staticmethod
    def _run(call: Call, need: tuple[bool, ...], gradients: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of x, the initial state and the weights; ``need`` is of x and the weights."""
        g_out, g_h, *g_c = gradients
        need_x, *need_weights = need
        call.swept, *back = recurrence.backward(
            call.run, g_out, g_h, g_c[0] if g_c else None, need_x=need_x, keep=call.keep or any(need_weights)
        )
        if any(need_weights):
            back += recurrence.weight_gradients(call.run, call.swept)
        absent = g_out.new_zeros(len(g_out))  # vmap wants tensors
        return tuple(absent if g is None else g for g in back)


class _Recorded(torch.autograd.Function):
    """One layer and direction: forward as recorded, backward by the adjoint sweep."""

    @staticmethod
    def forward(ctx: Any, call: Call, ends: list[Tensor], probe: Tensor, x: Tensor, *others: Tensor) -> Any:
        ctx.call = call
        output = call.run.h.clone()
        if call.run.mask is not None:
            output = output * call.run.mask.unsqueeze(-1)
        return output, *(end.clone() for end in ends)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        call: Call = ctx.call
        if call.closed:
            return (None,) * len(ctx.needs_input_grad)
        states = len(gradients) - 1
        need = (ctx.needs_input_grad[3], *ctx.needs_input_grad[4 + states :])
        if call.run.mask is not None:
            gradients = (gradients[0] * call.run.mask.unsqueeze(-1), *gradients[1:])
        g_x, *others = _Sweep.apply(call, need, *gradients)  # type: ignore[no-untyped-call]
        g_state, g_weights = others[:states], others[2:] or [None] * (len(need) - 1)
        kept = [g if needed else None for g, needed in zip((g_x, *g_weights), need, strict=True)]
        return None, None, torch.zeros_like(call.probe), kept[0], *g_state, *kept[1:]


class _Look(torch.autograd.Function):
    """Gradients of a marked state on their way past, as a function that vmap can vectorise over losses."""

    @staticmethod
    def forward(marked: Marked, *gradients: Tensor) -> Any:
        return _Look._noted(marked, [g[None] for g in gradients], gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, marked: Marked, *gradients: Tensor) -> Any:
        whole = [
            g.expand(info.batch_size, *g.shape) if d is None else g.movedim(d, 0)
            for g, d in zip(gradients, in_dims[1:], strict=True)
        ]
        return _Look._noted(marked, whole, tuple(whole)), (0,) * len(whole)

    @staticmethod
    def _noted(marked: Marked, gradients: list[Tensor], back: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        batch = marked.h.shape[1]
        squares = [recurrence.squared(g.reshape(len(g), 1, batch, -1)) for g in gradients]
        if marked.live is not None:
            squares = [s * marked.live for s in squares]
        rest = torch.stack(squares[1:]).sum(0) if len(squares) > 1 else None
        marked.swept = recurrence.Swept(squares[0], rest, None)
        return tuple(g.clone() for g in back)


class _Passed(torch.autograd.Function):
    """A marked state: itself, and its gradient is looked at."""

    @staticmethod
    def forward(ctx: Any, marked: Marked, probe: Tensor, *states: Tensor) -> Any:
        ctx.marked = marked
        return tuple(state.clone() for state in states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        back = _Look.apply(ctx.marked, *gradients)  # type: ignore[no-untyped-call]
        return None, torch.zeros_like(ctx.marked.probe), *back


class Recorder(TorchFunctionMode):
    """Records every recurrent layer that runs while it is active."""

    needs_torch_operators = True  # our own layers then leave the engine aside and call what this mode sees

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[AnyCall] = []
        self.exposed: list[Exposed] = []
        self.only_layers = True  # nothing was stepped by a loop of the user's
        self.running: list[str] = []  # names of the modules that are running, the innermost last
        self.module: str | None = None  # name of the recurrent module that is running
        self.order: Tensor | None = None  # of the packed sequence it was given
        self._names: dict[int, str] = {}
        self._outputs: dict[int, _Output] = {}
        self._without_gradient = False  # whether the user's code has switched gradients off

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if func is torch._C._set_grad_enabled and (args[0] or torch.is_grad_enabled()):
            self._without_gradient = not args[0]
        if not kwargs and name in _LAYERS:
            return self._layer(*_LAYERS[name], *args)
        if not kwargs and name in _CELLS:
            return self._cell(*_CELLS[name], *args)
        return func(*args, **(kwargs or {}))

    def mark(self, states: tuple[Tensor, ...], label: str, live: Tensor | None) -> tuple[Tensor, ...]:
        """Take note of a state that ``mark_state`` was given."""
        self.only_layers = False
        self._check_in_sight(label)
        probe = torch.zeros((), dtype=states[0].dtype, device=states[0].device, requires_grad=True)
        if live is not None:
            live = live.detach().reshape(-1).bool()
        marked = Marked((self.running[-1] if self.running else "", label), (), probe, live)
        marked.states = _Passed.apply(marked, probe, *states)  # type: ignore[no-untyped-call]
        self.calls.append(marked)
        return marked.states

    def _name(self, weight: Tensor) -> str:
        if self.module is not None:
            return self.module
        return self._names.setdefault(id(weight), f"recurrent{len(self._names)}")

    def _check_in_sight(self, layer: str) -> None:
        """Refuse what runs inside a ``torch.autograd.Function``: its gradient comes by a way that is not seen."""
        frame = None if self._without_gradient or torch.is_inference_mode_enabled() else sys._getframe(1)
        while frame is not None:
            if frame.f_code is _APPLY:
                function = frame.f_locals["cls"].__name__
                raise FlowError(
                    f"Layer {layer} runs inside {function}, a torch.autograd.Function with a backward pass of its own "
                    "(a checkpoint?), where its gradient cannot be seen: call the layer directly while it is measured; "
                    "of a checkpoint, torch.utils.checkpoint's with use_reentrant=False."
                )
            frame = frame.f_back

    def _layer(self, kind: Kind, nonlinearity: str, *args: Any) -> Any:
        mask, batch_first = None, False
        fed_by: Call | None = None
        fed: Tensor | None = None
        if isinstance(args[2], (list, tuple)) and isinstance(args[3], bool):  # (input, hx, weights, biases, …)
            x, hx, flat, biases, layers, dropout, train, bidirectional, batch_first = args
            known = self._outputs.get(id(x))
            if known is not None and known.is_as_it_was(batch_first):
                fed_by, fed = known.call, x
            if batch_first:
                x = x.transpose(0, 1)
        else:  # packed: (data, batch_sizes, hx, weights, biases, …)
            data, sizes, hx, flat, biases, layers, dropout, train, bidirectional = args
            mask = torch.arange(int(sizes[0])) < sizes.unsqueeze(1)
            mask = mask.to(data.device)
            x = data.new_zeros(*mask.shape, data.shape[-1]).index_put(mask.nonzero(as_tuple=True), data)
        hx = [hx] if isinstance(hx, Tensor) else list(hx)
        directions = 2 if bidirectional else 1
        per = len(flat) // (layers * directions)
        name = self._name(flat[0])
        ends: list[list[Tensor]] = [[] for _ in hx]
        call: Call | None = None
        for index in range(layers * directions):
            layer, direction = divmod(index, directions)
            if direction == 0:
                outputs: list[Tensor] = []
            own = flat[index * per : (index + 1) * per]
            b_ih, b_hh = own[2:4] if biases else (None, None)
            weights = Weights(own[0], own[1], b_ih, b_hh, own[-1] if per == (5 if biases else 3) else None)
            track = (name, f"l{layer}" + ("_reverse" if direction else ""))
            state = [s[index] for s in hx]
            call, output, last = self._run(
                track, kind, nonlinearity, weights, x, state, fed_by, fed, reverse=direction == 1, mask=mask
            )
            outputs.append(output)
            for all_ends, end in zip(ends, last, strict=True):
                all_ends.append(end)
            if direction == directions - 1:
                x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
                fed_by, fed = call if directions == 1 else None, None
                if dropout and train and layer < layers - 1:
                    x, fed_by = nn.functional.dropout(x, dropout, True), None
        # What leaves the module gets tensors of its own, so that gradients through the rest of the model can be
        # told from those that go on inside; and a copy, for the model may write into what it gets.
        seen = x.view_as(x)
        final = [torch.stack(end) for end in ends]
        self.exposed += [Exposed(seen, call if directions == 1 else None), *(Exposed(end, None) for end in final)]
        if mask is not None:
            output = seen[mask]
        else:
            output = (seen.transpose(0, 1) if batch_first else seen).clone()
            if fed_by is not None and not output.is_inference():  # which has no version
                self._outputs[id(output)] = _Output(
                    output, output._version, output.grad_fn, batch_first, x.detach(), fed_by
                )
        return output, *final

    def _cell(self, kind: Kind, nonlinearity: str, x: Tensor, hx: Any, *own: Tensor | None) -> Any:
        self.only_layers = False
        state = [hx] if isinstance(hx, Tensor) else list(hx)
        assert own[0] is not None
        name = self._name(own[0])
        ih, hh, *biases = own
        assert ih is not None and hh is not None
        weights = Weights(ih, hh, *biases)
        _, _, ends = self._run((name, "cell"), kind, nonlinearity, weights, x.unsqueeze(0), state)
        return ends[0] if kind != "lstm" else tuple(ends)

    def _run(
        self,
        track: tuple[str, str],
        kind: Kind,
        nonlinearity: str,
        weights: Weights,
        x: Tensor,
        state: list[Tensor],
        fed_by: Call | None = None,
        fed: Tensor | None = None,
        *,
        reverse: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Call, Tensor, list[Tensor]]:
        with torch.no_grad():
            h_0, c_0 = state[0].detach(), state[1].detach() if kind == "lstm" else None
            run, h_n, c_n = cells.run(
                kind, nonlinearity, weights.copied(), x.detach(), h_0, c_0, reverse=reverse, mask=mask
            )
        self._check_in_sight(".".join(part for part in track if part))
        probe = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        own_state = not any(s.requires_grad for s in state)
        order = self.order if mask is not None else None
        call = Call(track, run, probe, fed_by, fed, not x.requires_grad, own_state, order)
        self.calls.append(call)
        ends = [h_n] if c_n is None else [h_n, c_n]
        output, *last = _Recorded.apply(call, ends, probe, x, *state, *weights.tensors())  # type: ignore[no-untyped-call]
        return call, output, last


class _Saved:
    """What autograd keeps of the user's graph: parameters as they stand now, for training goes on in place."""

    def __init__(self) -> None:
        self._copies: dict[Any, tuple[Tensor, Tensor]] = {}

    def pack(self, tensor: Tensor) -> tuple[Tensor, int]:
        """A parameter, or a view of one, as a copy; anything else with the version it has."""
        base = tensor if tensor._base is None else tensor._base
        if not isinstance(base, nn.Parameter):
            return tensor, tensor._version
        key = (id(base), base._version, tensor.shape, tensor.stride(), tensor.storage_offset())
        if key not in self._copies:
            copy = tensor.detach().clone(memory_format=torch.preserve_format)
            self._copies[key] = copy, base  # kept alive, so that its id stays its own
        return self._copies[key][0], self._copies[key][0]._version

    @staticmethod
    def unpack(kept: tuple[Tensor, int]) -> Tensor:
        tensor, version = kept
        if tensor._version != version:
            shape = tuple(tensor.shape)
            raise RuntimeError(
                f"a tensor {shape} has version {tensor._version}, no longer {version}: written to in place"
            )
        return tensor


@contextlib.contextmanager
def recording(model: object) -> Iterator[Recorder]:
    """Record recurrent layers inside the block; names them by the modules of ``model`` if it has any."""
    recorder, saved = Recorder(), _Saved()
    handles = []

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recorder.running.append(name)
            if isinstance(module, _RECURRENT):
                recorder.module = name
                packed = [a for a in (*args, *kwargs.values()) if isinstance(a, nn.utils.rnn.PackedSequence)]
                recorder.order = packed[0].unsorted_indices if packed else None

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        recorder.running.pop()
        if isinstance(module, _RECURRENT):
            recorder.module = recorder.order = None

    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
                handles.append(module.register_forward_hook(leave, prepend=True, always_call=True))
    else:  # a plain function: the layers inside are not known beforehand, only met

        def meet(module: nn.Module, args: tuple[Any, ...]) -> None:
            if isinstance(module, _RECURRENT):
                packed = next((a for a in args if isinstance(a, nn.utils.rnn.PackedSequence)), None)
                recorder.order = None if packed is None else packed.unsorted_indices

        handles.append(nn.modules.module.register_module_forward_pre_hook(meet))
    try:
        with (
            nothing_computed_anew(),
            torch.compiler.set_stance("force_eager"),
            torch.inference_mode(False),
            torch.enable_grad(),
            watching(recorder.mark),
            torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack),
            recorder,
        ):
            yield recorder
    finally:
        for handle in handles:
            handle.remove()
