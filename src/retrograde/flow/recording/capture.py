"""Record a model's recurrent layers while they run, without changing the model.

PyTorch's layers end in a handful of fused operators (``lstm``, ``gru``, ``rnn_tanh``, ``lstm_cell`` …). A torch
function mode sees these calls wherever they come from, runs each layer and direction separately, and records what its
adjoint needs. The rest of the user's forward pass (embedding, attention, head, hooks) runs as usual.

Tests: `tests/flow/test_isolation.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ... import _torch_private
from ...cells import FUSED, Cell
from ...errors import FlowError
from ...nn.marking import watching
from ...nn.stepwise import Stepwise
from ..recurrence import cells
from ..recurrence.cells import Step, Weights
from .calls import AnyCall, Call, Exposed, Handed, Link, MarkedStep, StatePart, call_of, node_name, pass_on, record
from .stepping import Loops, one_step, taking_steps
from .torch_patches import without_checkpoints, without_compiled_code

_LAYERS = {cell.mode.lower(): cell for cell in FUSED}  # torch's operators by name
_CELLS = {f"{name}_cell": cell for name, cell in _LAYERS.items()}
_DIFFERENTIATE = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
_RECURRENT = (nn.RNNBase, nn.RNNCellBase, Stepwise)
_TAILS = 64  # a state outside the graph is compared with so many earlier runs of its layer
# Autograd nodes that leave a tensor's numbers unchanged: they change its shape or take a part of it.
VIEWS = frozenset(
    f"{name}Backward"
    for name in (
        *("Alias", "Clone", "Expand", "Permute", "ReshapeAlias", "Select", "Slice", "Split", "Squeeze", "Stack"),
        *("Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View", "Cat", "T", "IndexSelect"),
    )
)


class NeedsEveryCall(Exception):
    """A loop does something between its steps that blocks of steps cannot record: measure with one node per step."""


class CallRecorder(TorchFunctionMode):
    """Records every recurrent layer that runs while it is active."""

    needs_torch_operators = True  # our own layers then call torch's operators, which this mode sees, not the engine

    def __init__(self, *, loops: bool = False) -> None:
        super().__init__()
        self.calls: list[AnyCall] = []
        self.exposed: list[Exposed] = []
        self.running: list[tuple[str, int]] = []  # name and call number of the modules that run, the innermost last
        self._recurrent: list[str] = []  # names of the recurrent modules among them
        self.order: Tensor | None = None  # the order of the packed sequence that the running layer was given
        self.kept_parameters: Callable[[], list[Tensor]] = list  # the copies of parameters in the user's graph
        self._numbers = itertools.count(1)
        self._names: dict[
            int, tuple[str, object]
        ] = {}  # by id, of layers that no module names; kept alive with their names
        self._weights: dict[tuple[tuple[int, int], ...], tuple[Weights, list[Tensor]]] = {}
        self._probes: dict[tuple[str, str], Tensor] = {}
        self._latest: dict[tuple[str, str], Weights] = {}
        self._outputs: dict[int, Handed] = {}
        self._finals: dict[int, Handed] = {}
        self._tails: dict[tuple[str, str], list[Call]] = {}  # calls that no later one continues
        self._walked: dict[tuple[str, str], set[Any]] = {}  # nodes of the graph that were already visited
        self._together: dict[tuple[Any, ...], list[Call]] = {}
        self._without_gradient = False  # whether the user's code has disabled gradients
        self._single: Call | None = None  # the step that a layer or cell has just run
        self._loops = Loops() if loops else None
        self.named: set[int] = set()  # ids of the modules whose hooks call enter and leave
        self.asks_for_gradients = False  # whether the user's code computes gradients itself
        self.hooked = False  # whether it registers a hook on a tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if func is _torch_private.SET_GRAD_ENABLED and (args[0] or torch.is_grad_enabled()):
            self._without_gradient = not args[0]
        self.asks_for_gradients = self.asks_for_gradients or func in _DIFFERENTIATE
        self.hooked = self.hooked or func is Tensor.register_hook
        if not kwargs and name in _LAYERS:
            return self._layer(_LAYERS[name], *args)
        if not kwargs and name in _CELLS:
            return self._cell(_CELLS[name], *args)
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """To be used after the model has run: nothing more is recorded while the context is active.

        Raises NeedsEveryCall: a loop did something that blocks of steps cannot record.
        """
        with _torch_private.no_torch_functions():
            self._settle_loops()
            self._loops = None
            if self.hooked:
                hooked = {id(c) for known in self._finals.values() if known.tensor._backward_hooks for c in known.calls}
                for call in self.calls:
                    if isinstance(call, Call) and call.link == "same" and id(call.before) in hooked:
                        call.link = "changed"
            yield

    @property
    def in_blocks(self) -> bool:
        """Whether steps have been recorded in blocks so far."""
        return self._loops is not None and bool(self._loops.blocks)

    # --- Loops of single steps ----------------------------------------------------------------------------------------

    def take_step(self, module: nn.Module, x: Any, hx: Any) -> Any:
        """Record a call that is the next step of a loop in a block and return its result; None for any other call."""
        if self._loops is None:
            return None
        with _torch_private.no_torch_functions():
            taken = self._loops.next_of(module, x, tuple(hx) if isinstance(hx, (tuple, list)) else (hx,))
            if taken is None:
                return None
            loop = taken.loop
            self._check_visible(loop.call.track[0])
            if taken.lay_out:
                before = loop.call
                call, exposed = self._loops.lay_out(loop, taken.below)
                self._add_tail(call, before)
                self.calls.append(call)
                self.exposed += exposed
            handed = self._loops.step(loop, x)
        if not isinstance(module, nn.RNNBase):
            return handed if len(handed) > 1 else handed[0]
        return handed[0], handed[1] if len(handed) == 2 else handed[1:]

    def began(self, module: nn.Module, x: Any, result: Any) -> None:
        """Called after a layer or a cell has run: if that was a single step, a loop may begin with it."""
        call, self._single = self._single, None
        if call is None or self._loops is None or not isinstance(x, Tensor):
            return
        layer = isinstance(module, nn.RNNBase)
        state = result[1] if layer else result
        tensors = (state,) if isinstance(state, Tensor) else tuple(state)
        known = [self._finals.get(id(tensor)) for tensor in tensors]
        if any(
            own is None or own.tensor is not s or own.calls != (call,) for own, s in zip(known, tensors, strict=True)
        ):
            return
        with _torch_private.no_torch_functions():
            if tensors[0].requires_grad and x.dim() == (3 if layer else 2):
                self._loops.begin(module, x, call, tensors, named=id(module) in self.named)

    def _settle_loops(self) -> None:
        loops = self._loops
        if loops is None or not loops.blocks:
            return
        if self.asks_for_gradients or self.hooked or not loops.are_as_recorded():
            raise NeedsEveryCall
        for call in loops.blocks:
            assert call.block is not None
            call.step, call.whole = call.block.end(), None
            if call.block.feeds_on_outputs:
                call.fed_by = call.block.below
            self._note_step(call, call.step)
        tracks = {call.track for call in loops.blocks}
        own = [call for call in self.calls if isinstance(call, Call) and call.track in tracks]
        weights: dict[tuple[str, str], Weights] = {}
        mixed = any(
            call.link == "changed" or weights.setdefault(call.track, call.weights) is not call.weights for call in own
        )
        if mixed:
            raise NeedsEveryCall
        if loops.latest is not None:  # calls are sorted by their end: the last one is the nearest to the loss
            self.calls.remove(loops.latest)
            self.calls.append(loops.latest)

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Called before a module of the model runs."""
        self.running.append((name, next(self._numbers)))
        if isinstance(module, _RECURRENT):
            self._recurrent.append(name)
            packed = next((a for a in args if isinstance(a, nn.utils.rnn.PackedSequence)), None)
            self.order = None if packed is None else packed.unsorted_indices

    def leave(self, module: nn.Module) -> None:
        """Called after a module of the model has run."""
        self.running.pop()
        if isinstance(module, _RECURRENT):
            self._recurrent.pop()
            self.order = None

    def name_of(self, thing: object) -> str:
        """A name for a layer without one: that of the recurrent module that calls it, otherwise ``recurrent0``, …."""
        if isinstance(thing, nn.Module) and self._recurrent:  # a layer inside another one
            return self._recurrent[-1]
        return self._names.setdefault(id(thing), (f"recurrent{len(self._names)}", thing))[0]

    # --- Marked states ------------------------------------------------------------------------------------------------

    def mark(self, states: tuple[Tensor, ...], label: str, live: Tensor | None) -> tuple[Tensor, ...]:
        """Record the state that ``mark_state`` was called with."""
        self._check_visible(label)
        anchor = torch.zeros((), dtype=states[0].dtype, device=states[0].device, requires_grad=True)
        if live is not None:
            live = live.detach().reshape(-1).bool()
        name, number = self.running[-1] if self.running else ("", 0)
        frame = sys._getframe(2)  # of mark_state's caller
        marked = MarkedStep((name, label), (), anchor, live, (frame.f_code.co_filename, frame.f_lineno), number)
        marked.since = [c for c in self._behind(states, marked.track, through=True)[0] if isinstance(c, MarkedStep)]
        marked.states = pass_on(marked, states)
        self.calls.append(marked)
        return marked.states

    def _behind(
        self, tensors: tuple[Tensor, ...], track: tuple[str, str], *, through: bool
    ) -> tuple[list[AnyCall], bool]:
        """The latest calls of a track that tensors depend on, and whether the tensors are only views of their results.

        ``through`` says whether the path may pass other recorded layers.
        """
        walked = self._walked.setdefault(track, set())
        found: dict[int, AnyCall] = {}
        plain = True
        open_nodes = [(t.grad_fn, t.output_nr) for t in tensors if t.grad_fn is not None]
        blocks = {} if self._loops is None else self._loops.unbound
        while open_nodes:
            node: Any
            node, row = open_nodes.pop()
            block = blocks.get(node)
            if block is not None and block.track == track and block.block is not None and row < block.block.ran - 1:
                continue  # a later step of the loop starts from this state
            call = call_of(node)
            if call is not None and call.track == track:
                found[id(call)] = call
                continue
            if node in walked:
                continue
            walked.add(node)
            if isinstance(call, Call) and not through:
                continue
            plain = plain and node_name(node) in VIEWS
            open_nodes += [(before, nr) for before, nr in node.next_functions if before is not None]
        return list(found.values()), plain

    # --- Layers -------------------------------------------------------------------------------------------------------

    def _name(self, weight: Tensor, state: Tensor) -> str:
        if self._recurrent:
            return self._recurrent[-1]
        if id(weight) not in self._names and id(state) in self._finals:
            return self._finals[id(state)].calls[0].track[0]  # the weights are computed again at every step
        return self.name_of(weight)

    def _check_visible(self, layer: str) -> None:
        """Refuse a layer inside a ``torch.autograd.Function``, where the path of its gradient cannot be seen."""
        frame = None if self._without_gradient or torch.is_inference_mode_enabled() else sys._getframe(1)
        while frame is not None:
            if frame.f_code is _APPLY:
                function = frame.f_locals["cls"].__name__
                raise FlowError(
                    f"Layer {layer} runs inside {function}, a torch.autograd.Function with a backward pass of its own "
                    "(a checkpoint?), where its gradient cannot be seen: call the layer directly while it is measured, "
                    "or use torch.utils.checkpoint with use_reentrant=False."
                )
            frame = frame.f_back

    def take_layer(self, cell: Cell, *args: Any) -> Any:
        """The result of a layer of `retrograde.nn` that would run step by step; arguments as of ``torch.gru``."""
        with _torch_private.no_torch_functions():
            return self._layer(cell, *args)

    def _layer(self, cell: Cell, *args: Any) -> Any:
        mask, batch_first = None, False
        fed_by: Call | None = None
        fed: Tensor | None = None
        if isinstance(args[2], (list, tuple)) and isinstance(args[3], bool):  # (input, hx, weights, biases, …)
            x, hx, flat, biases, layers, dropout, train, bidirectional, batch_first = args
            known = self._outputs.get(id(x))
            if known is not None and known.is_as_it_was(batch_first):
                fed_by, fed = known.calls[0], x
            if batch_first:
                x = x.transpose(0, 1)
        else:  # packed: (data, batch_sizes, hx, weights, biases, …)
            data, sizes, hx, flat, biases, layers, dropout, train, bidirectional = args
            mask = torch.arange(int(sizes[0]), device="cpu") < sizes.unsqueeze(1)
            mask = mask.to(data.device)
            x = data.new_zeros(*mask.shape, data.shape[-1]).index_put(mask.nonzero(as_tuple=True), data)
        handed = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        directions = 2 if bidirectional else 1
        per = len(flat) // (layers * directions)
        name = self._name(flat[0], handed[0])
        calls: list[Call] = []
        ends: list[list[Tensor]] = [[] for _ in handed]
        outputs: list[Tensor] = []
        for index in range(layers * directions):
            layer, direction = divmod(index, directions)
            own = flat[index * per : (index + 1) * per]
            b_ih, b_hh = own[2:4] if biases else (None, None)
            weights = Weights(own[0], own[1], b_ih, b_hh, own[-1] if per == (5 if biases else 3) else None)
            track = (name, f"l{layer}" + ("_reverse" if direction else ""))
            state = [s[index] for s in handed]
            call, output, last = self._run(
                track, cell, weights, x, state, (handed, index), reverse=direction == 1, mask=mask
            )
            call.fed_by, call.fed = fed_by, fed
            calls.append(call)
            outputs.append(output)
            for all_ends, end in zip(ends, last, strict=True):
                all_ends.append(end)
            if direction == directions - 1:
                x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
                outputs = []
                fed_by, fed = call if directions == 1 else None, None
                if dropout and train and layer < layers - 1:
                    x, fed_by = nn.functional.dropout(x, dropout, True), None
        # The module returns new tensors, which separate gradients through the rest of the model from those inside the
        # layer; and copies, because the model may write into them.
        seen = x.view_as(x)
        final = [torch.stack(end) for end in ends]
        one_way = directions == 1
        self.exposed.append(Exposed(seen, (calls[-1],) if one_way else None, name, tuple(calls[-directions:])))
        self.exposed.append(Exposed(final[0], tuple(calls) if one_way else None, of=tuple(calls)))
        self.exposed += [Exposed(end, None, of=tuple(calls)) for end in final[1:]]
        for i, end in enumerate(final):
            own = calls[0].ends[i].unsqueeze(0) if len(calls) == 1 else torch.stack([call.ends[i] for call in calls])
            self._hand(self._finals, end, own, *calls)
        if mask is not None:
            return seen[mask], *final
        output = (seen.transpose(0, 1) if batch_first else seen).clone()
        if one_way:
            self._hand(self._outputs, output, x.detach(), calls[-1], batch_first=batch_first)
        return output, *final

    def _cell(self, cell: Cell, x: Tensor, hx: Any, *own: Tensor | None) -> Any:
        handed = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        ih, hh, *biases = own
        assert ih is not None and hh is not None
        known = self._outputs.get(id(x))
        call, _, ends = self._run(
            (self._name(ih, handed[0]), "cell"),
            cell,
            Weights(ih, hh, *biases),
            x.unsqueeze(0),
            list(handed),
            (handed, 0),
        )
        if known is not None and known.is_as_it_was():
            call.fed_by, call.fed = known.calls[0], x
        self.exposed.append(Exposed(ends[0], (call,), call.track[0], (call,)))
        self.exposed += [Exposed(end, None, of=(call,)) for end in ends[1:]]
        for end, values in zip(ends, call.ends, strict=True):
            self._hand(self._finals, end, values, call)
        self._hand(self._outputs, ends[0], call.ends[0], call)
        return ends[0] if len(ends) == 1 else tuple(ends)

    def _hand(self, to: dict[int, Handed], tensor: Tensor, values: Tensor, *calls: Call, **how: bool) -> None:
        if not tensor.is_inference():  # inference tensors have no version: changes cannot be detected
            to[id(tensor)] = Handed.of(tensor, values, *calls, **how)

    def _run(
        self,
        track: tuple[str, str],
        cell: Cell,
        weights: Weights,
        x: Tensor,
        state: list[Tensor],
        handed: tuple[tuple[Tensor, ...], int],
        *,
        reverse: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Call, Tensor, list[Tensor]]:
        """Run one layer in one direction; returns the call, its outputs `(T, B, P)` and its final states.

        ``handed`` contains the initial states of all layers, as the user's code passed them, and this layer's index.
        """
        self._check_visible(".".join(part for part in track if part))
        if track not in self._probes:
            self._probes[track] = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        own = self._copied(track, weights)
        single = len(x) == 1 and x.shape[1] > 0 and mask is None and weights.hr is None and x.dtype == own.hh.dtype
        rows = handed[1] if track[1] != "cell" else None
        parts = tuple(StatePart(tensor, rows) for tensor in handed[0])
        call = Call(track, self._probes[track], None, states=tuple(state), handed=parts, x=x)
        with torch.no_grad():
            # Copies, because the user's code may write into the tensors that it passed.
            given, h_0, *cell_state = (tensor.detach().clone() for tensor in (x, *state))
            c_0 = cell_state[0] if cell_state else None
            if single:
                ends = self._one_step(call, Step(cell, own, given, h_0, c_0, h_0))
            else:
                call.whole, h_n, c_n = cells.run(cell, own, given, h_0, c_0, reverse=reverse, mask=mask)
                ends = [h_n] if c_n is None else [h_n, c_n]
            call.ends = tuple(end.clone() for end in ends)
            if call.step is not None:
                call.step = call.step._replace(h=call.ends[0].unsqueeze(0))
        call.own_state = not any(s.requires_grad for s in state)
        call.order = self.order if mask is not None else None
        call.in_graph = not (self._without_gradient or torch.is_inference_mode_enabled())
        call.before, call.link = self._link(call, *handed)
        self.calls.append(call)
        self._single = call if single else None
        if self._loops is not None:
            self._loops.latest = None
        found = record(call, ends, x, state, weights)
        return (call, found[0].unsqueeze(0), list(found)) if single else (call, found[0], list(found[1:]))

    def _one_step(self, call: Call, step: Step) -> list[Tensor]:
        """Run one step with torch's cell; its coefficients are computed later, for all steps together."""
        ends = list(one_step(step, step.h_0, step.c_0, step.x[0]))
        self._note_step(call, step)
        return ends

    def _note_step(self, call: Call, step: Step) -> None:
        call.step = step
        key = (id(step.weights), step.cell, step.x.shape[1], step.x.dtype)
        call.together = self._together.setdefault(key, [])
        call.together.append(call)

    def _copied(self, track: tuple[str, str], weights: Weights) -> Weights:
        """A copy of the weights: the same object as long as the weights do not change."""
        tensors = weights.tensors()
        if any(w.is_inference() for w in tensors):
            return weights.copied()
        key = tuple((id(w), w._version) for w in tensors)
        if key not in self._weights:
            last = self._latest.get(track)  # a parametrization computes the same numbers again
            if last is None or not last.equals(weights):
                last = weights.copied()
            self._weights[key] = last, tensors
        self._latest[track] = self._weights[key][0]
        return self._latest[track]

    def _link(self, call: Call, handed: tuple[Tensor, ...], index: int) -> tuple[Call | None, Link | None]:
        """The call that this one continues, and how its initial state depends on the final state of that call."""
        tails = self._tails.setdefault(call.track, [])
        before, link = self._predecessor(call, tails, handed, index)
        self._add_tail(call, before)
        return before, link

    def _add_tail(self, call: Call, before: Call | None) -> None:
        tails = self._tails.setdefault(call.track, [])
        tails[:] = [*(tail for tail in tails if tail is not before), call]

    def _predecessor(
        self, call: Call, tails: list[Call], handed: tuple[Tensor, ...], index: int
    ) -> tuple[Call | None, Link | None]:
        if not tails:
            return None, None
        in_graph = any(s.requires_grad for s in call.states)
        finals = [self._finals.get(id(s)) for s in handed]
        first = finals[0]
        if first is not None and all(f is not None and f.calls == first.calls and f.is_as_it_was() for f in finals):
            before = first.calls[index] if index < len(first.calls) else None
            if any(tail is before for tail in tails):
                return before, "same" if in_graph else "cut"
        if in_graph:
            found, viewed = self._behind(call.states, call.track, through=False)
            ends = [tail for tail in tails if any(tail is one for one in found)]
            if len(ends) != 1:
                return None, None
            same = viewed and not self.hooked and call.starts_from(ends[0], exactly=True)
            return ends[0], "same" if same else "changed"
        for tail in reversed(tails[-_TAILS:]):
            if call.starts_from(tail):
                return tail, "cut"
        return None, None


class _Saved:
    """Saves copies of parameters for the user's graph, because training changes parameters in place."""

    def __init__(self) -> None:
        self._copies: dict[Any, tuple[Tensor, Tensor]] = {}

    def pack(self, tensor: Tensor) -> tuple[Tensor, int]:
        """A copy of a parameter or of a view of one; the numbers of any other tensor. Both with their version."""
        base = tensor if tensor._base is None else tensor._base
        if not isinstance(base, nn.Parameter):
            # Of its own result a node would keep what keeps the node: memory that nothing frees.
            return tensor.detach(), tensor._version
        key = (id(base), base._version, tensor.shape, tensor.stride(), tensor.storage_offset())
        if key not in self._copies:
            copy = tensor.detach().clone(memory_format=torch.preserve_format)
            self._copies[key] = copy, base  # base is kept alive, so that its id is not used again
        return self._copies[key][0], self._copies[key][0]._version

    def parameters(self) -> list[Tensor]:
        """The copies of parameters, and of views of them."""
        return [copy for copy, _ in self._copies.values()]

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
def recording(model: object, *, loops: bool = False) -> Iterator[CallRecorder]:
    """Record the recurrent layers that run while the context is active, under the names of the modules of ``model``.

    ``loops`` says whether loops over single steps may be recorded in blocks.

    Raises NeedsEveryCall: a loop does something that blocks cannot record.
    """
    recorder, saved = CallRecorder(loops=loops), _Saved()
    recorder.kept_parameters = saved.parameters
    handles = []

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recorder.enter(name, module, (*args, *kwargs.values()))

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        recorder.leave(module)

    known: dict[int, nn.Module] = {}
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                known[id(module)] = module
                recorder.named.add(id(module))
                handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
                # This hook runs after the user's own hooks, which may mark the module's state.
                handles.append(module.register_forward_hook(leave, always_call=True))

    # Layers inside a function, and layers that the model creates while it runs, are found only when they run.

    def meet(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, _RECURRENT) and id(module) not in known:
            recorder.enter(recorder.name_of(module), module, args)

    def part(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, _RECURRENT) and id(module) not in known:
            recorder.leave(module)

    handles.append(nn.modules.module.register_module_forward_pre_hook(meet))
    handles.append(nn.modules.module.register_module_forward_hook(part, always_call=True))
    try:
        with (
            without_checkpoints(),
            without_compiled_code(),
            torch.inference_mode(False),
            torch.enable_grad(),
            watching(recorder.mark),
            taking_steps(recorder),
            torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack),
            recorder,
        ):
            try:
                yield recorder
            except Exception:
                if recorder.in_blocks and recorder.asks_for_gradients:  # inside blocks there are none
                    raise NeedsEveryCall from None
                raise
    finally:
        for handle in handles:
            handle.remove()
