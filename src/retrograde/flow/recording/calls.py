"""What a measurement records of recurrent layers: one ``Call`` per layer and call, one ``MarkedStep`` per mark.

Each is a node in the user's graph. Asking autograd for the gradient of its ``anchor`` sends a loss back through it, and
the adjoints of its states are then in ``adjoints``.

Tests: `tests/flow/test_isolation.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..recurrence import adjoint, cells
from ..recurrence.cells import Step, Trajectory, Weights

# How the state that a call starts from follows from the final state of an earlier call of the same layer: it is that
# state, in the graph; it has that state's values but no gradient passes ("cut"); or operators came between (zoneout, a
# mask), so that the step from state to state is more than the cell.
Link = Literal["same", "cut", "changed"]


class StatePart(NamedTuple):
    """A state as a tensor of the user's, or as a row of one with the states of several layers."""

    tensor: Tensor
    row: int | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The same part of another tensor."""
        return tensor if self.row is None else tensor[self.row]


@dataclass(eq=False)
class Block:
    """Steps of one layer that run one at a time; together they are one node in the user's graph."""

    step: Step  # the cell and the weights of all of them
    capacity: int  # steps that were laid out
    shape: torch.Size  # of each input as the user's code gave it
    states: list[tuple[Tensor, ...]]  # before the first step and after each, `(B, H)`
    x: list[Tensor] = field(default_factory=list)  # `(B, I)`
    handed: list[tuple[Tensor, ...]] = field(
        default_factory=list
    )  # the tensors of each step that the user's code received
    ran: int = 0  # steps that have run
    inputs: list[GradientEdge] = field(default_factory=list)  # the same in the graph, if they come from a block below
    outputs: Tensor | None = None  # of all steps laid out, in the graph, `(capacity, B, H)`
    unbound: Any = None  # the node of the graph that they come from
    below: Call | None = None  # the block whose outputs the inputs are, or are made from step by step

    def add(self, x: Tensor, ends: tuple[Tensor, ...], handed: tuple[Tensor, ...]) -> None:
        """Add a step that has run, with the tensors that the user's code received."""
        self.x.append(x)
        self.states.append(ends)
        self.handed.append(handed)
        self.ran += 1

    def end(self) -> Step:
        """Finish the block: the steps that have run, one after the other."""
        h, *c = (torch.stack(kept) for kept in zip(*self.states, strict=True))
        found = self.step._replace(x=torch.stack(self.x), h_0=h[:-1], c_0=c[0][:-1] if c else None, h=h[1:])
        self.x, self.states, self.handed = [], [], []
        return found

    @property
    def feeds_on_outputs(self) -> bool:
        """Whether the inputs are the outputs of the block below, unchanged."""
        below = None if self.below is None else self.below.block
        return below is not None and all(x.node is below.unbound for x in self.inputs)


@dataclass(eq=False)
class Call:
    """One run of one layer in one direction."""

    track: tuple[str, str]  # the module's name and torch's suffix for layer and direction
    anchor: Tensor  # asking autograd for its gradient sends the adjoints through this layer
    whole: Trajectory | None  # None for single steps whose coefficients were not needed yet
    step: Step | None = None
    block: Block | None = None  # the steps that it is made of, where they were recorded in a block
    together: list[Call] = field(default_factory=list)  # single steps whose coefficients are found in one product
    before: AnyCall | None = None  # the call whose final state this one starts from
    link: Link | None = None  # how it starts from there; None if it starts by itself
    states: tuple[Tensor, ...] = ()  # the initial state, in the graph
    handed: tuple[StatePart, ...] = ()  # the same as the user's code passed it
    ends: tuple[Tensor, ...] = ()  # copies of the final state
    fed_by: Call | None = None  # the layer whose output is this one's input, unchanged
    fed: Tensor | None = None  # that output as the user's code passed it, if it did
    x: Tensor | None = None  # its input, in the graph
    own_state: bool = True  # whether its initial state is independent of every other layer
    in_graph: bool = True  # whether gradients were switched on where it ran
    order: Tensor | None = None  # packed input: the place of each of the user's sequences in the run
    keep: bool = False  # whether the sweep keeps the adjoints of the pre-activations
    closed: bool = False  # whether nothing is sent back through it
    listens: bool = False  # whether it keeps what arrives at its outputs and final states
    arrived: tuple[Tensor, ...] | None = None  # the gradients of outputs `(T, B, P)` and final states of one loss
    adjoints: adjoint.Adjoints | None = None

    @property
    def run(self) -> Trajectory:
        """The layer's run, as the coefficients of its linearization."""
        if self.whole is None:
            pending = [call for call in self.together if call.whole is None]
            whole, start = cells.together([call.step for call in pending if call.step is not None]), 0
            for call in pending:
                call.whole = whole.part(slice(start, start := start + len(call.h)))
        assert self.whole is not None
        return self.whole

    @property
    def weights(self) -> Weights:
        """The parameters it ran with."""
        return self._known.weights

    @property
    def _known(self) -> Step | Trajectory:
        return self.run if self.step is None else self.step

    @property
    def kind(self) -> str:
        """The cell's name."""
        return self._known.cell.name

    @property
    def state_names(self) -> tuple[str, ...]:
        """``("h",)``, or ``("h", "c")``."""
        return self._known.cell.states

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last step to the first."""
        return self.step is None and self.run.reverse

    @property
    def mask(self) -> Tensor | None:
        """`(T, B)` bool, false on padding."""
        return None if self.step is not None else self.run.mask

    @property
    def h(self) -> Tensor:
        """States `(T, B, P)`."""
        return self._known.h

    @property
    def given(self) -> Tensor:
        """Inputs `(T, B, I)`, outside the graph."""
        return self._known.x

    @property
    def width(self) -> int:
        """Numbers that one loss needs on its way back, per step and sequence."""
        return self._known.weights.hh.shape[0] + self._known.x.shape[2]

    def starts_from(self, before: Call, *, exactly: bool = False) -> bool:
        """Whether its initial state has the values of the other's final state; of some sequences, and zero of the rest.

        ``exactly`` asks for it of all sequences.
        """
        if any(a.shape != b.shape for a, b in zip(self.states, before.ends, strict=True)):
            return False
        pairs = [
            (_ordered(a.detach(), self), _ordered(b, before)) for a, b in zip(self.states, before.ends, strict=True)
        ]
        same = torch.stack([a.eq(b).all(-1) for a, b in pairs]).all(0)
        if exactly:
            return bool(same.all())
        zero = torch.stack([a.eq(0).all(-1) for a, _ in pairs]).all(0)
        return bool((same | zero).all()) and bool((same & ~zero).any())

    @property
    def own_input(self) -> bool:
        """Whether its input is independent of every other layer."""
        return self.x is None or not self.x.requires_grad


@dataclass(eq=False)
class MarkedStep:
    """One step of a recurrence written by hand, whose state was marked (``mark_state``)."""

    track: tuple[str, str]  # the module's name and the label it was marked with
    states: tuple[Tensor, ...]  # as the rest of the model uses them, in the graph
    anchor: Tensor
    live: Tensor | None  # (B,) bool
    site: tuple[str, int]  # the file and line that marked it
    invocation: int  # of the module that was running: a number for each of its calls
    since: list[MarkedStep] = field(default_factory=list)  # marks of the same track that it follows from, none between
    adjoints: adjoint.Adjoints | None = None
    kind = "custom"
    state_names: tuple[str, ...] = ()
    order: Tensor | None = None
    keep = False
    in_graph = True

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
        """Numbers that one loss needs on its way back, per step and sequence."""
        return 2 * self.h.shape[-1]


AnyCall = Call | MarkedStep


class Exposed(NamedTuple):
    """A tensor through which the rest of the model sees layers: output, h_n or c_n.

    ``calls`` are the layers whose outputs it contains: one, with its outputs `(T, B, P)` or last output `(B, P)`; or
    several, with their last outputs one after the other. None for a tensor that contains other states.
    """

    tensor: Tensor
    calls: tuple[Call, ...] | None
    output_of: str | None = None  # the module whose output it is
    of: tuple[Call, ...] = ()  # the layers whose outputs it concatenates, or whose final states it stacks

    @property
    def is_output(self) -> bool:
        """Whether it is a module's output, rather than final states."""
        return self.output_of is not None


class Handed(NamedTuple):
    """A tensor as it was passed to the user's code, and what shows whether it was changed since."""

    tensor: Tensor
    version: int
    grad_fn: Any
    values: Tensor  # a copy
    calls: tuple[Call, ...]  # the layers whose output or final states it contains
    batch_first: bool = False

    @classmethod
    def of(cls, tensor: Tensor, values: Tensor, *calls: Call, batch_first: bool = False) -> Handed:
        """The tensor as it is now."""
        return cls(tensor, tensor._version, tensor.grad_fn, values, calls, batch_first)

    def is_as_it_was(self, batch_first: bool = False) -> bool:
        """Whether it was not changed or detached, has the same axes, and no hook that may change its gradient."""
        x = self.tensor
        if x._version != self.version or x.grad_fn is not self.grad_fn or batch_first != self.batch_first:
            return False
        # .data is written without a version
        return not x._backward_hooks and torch.equal(x.transpose(0, 1) if batch_first else x, self.values)


def _ordered(state: Tensor, call: Call) -> Tensor:
    """In the user's order of the sequences."""
    return state if call.order is None else state[call.order]


def flat(state: Tensor) -> Tensor:
    """A state of one step as `(B, S)`."""
    return state.reshape(1, -1) if state.dim() == 1 else state.flatten(1)


def call_of(node: Any) -> AnyCall | None:
    """The recorded call whose node in autograd's graph this is; None for any other node."""
    found = getattr(node, "recorded", None)
    call = found() if isinstance(found, weakref.ref) else None
    return call if isinstance(call, (Call, MarkedStep)) else None


def node_name(node: Any) -> str:
    """What autograd calls a node, without the number of its version."""
    name: str = node.name().removesuffix("_copy")
    return name.rstrip("0123456789")


def _batch_first(size: int, axes: Sequence[int | None], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of all losses of vmap, along the first axis."""
    return [
        g.expand(size, *g.shape) if axis is None else g.movedim(axis, 0)
        for g, axis in zip(gradients, axes, strict=True)
    ]


class _Sweep(torch.autograd.Function):
    """The layer's backward pass as a function that vmap can vectorize over losses."""

    @staticmethod
    def forward(call: Call, need: tuple[bool, ...], *gradients: Tensor) -> Any:
        return tuple(g[0] for g in _Sweep._run(call, need, [g[None] for g in gradients]))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, call: Call, need: tuple[bool, ...], *gradients: Tensor) -> Any:
        result = _Sweep._run(call, need, _batch_first(info.batch_size, in_dims[2:], gradients))
        return result, (0,) * len(result)

    @staticmethod
    def _run(call: Call, need: tuple[bool, ...], gradients: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of x, the initial state and the weights; ``need`` is of x and the weights."""
        g_out, g_h, *g_c = gradients
        need_x, *need_weights = need
        call.adjoints, *back = adjoint.backward(
            call.run, g_out, g_h, g_c[0] if g_c else None, need_x=need_x, keep=call.keep or any(need_weights)
        )
        if any(need_weights):
            back += adjoint.weight_gradients(call.run, call.adjoints)
        absent = g_out.new_zeros(len(g_out))  # vmap wants tensors
        return tuple(absent if g is None else g for g in back)


# Calls have tensors of the graph, so its nodes must not keep them alive: no collector frees such a circle.


class _Recorded(torch.autograd.Function):
    """One layer and direction: forward as recorded, backward by the adjoint sweep."""

    @staticmethod
    def forward(ctx: Any, call: Call, ends: list[Tensor], anchor: Tensor, x: Tensor, *others: Tensor) -> Any:
        ctx.recorded = weakref.ref(call)
        output = call.run.h.clone()
        if call.run.mask is not None:
            output = output * call.run.mask.unsqueeze(-1)
        return output, *(end.clone() for end in ends)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        call: Call = ctx.recorded()
        if call.run.mask is not None and (call.listens or not call.closed):
            gradients = (gradients[0] * call.run.mask.unsqueeze(-1), *gradients[1:])
        if call.listens:
            call.arrived = gradients
        if call.closed:
            return (None,) * len(ctx.needs_input_grad)
        return None, *_sent_back(ctx, call, ctx.needs_input_grad[2:], gradients)


class _RecordedStep(torch.autograd.Function):
    """One layer of a single step: its final state is its output."""

    @staticmethod
    def forward(ctx: Any, call: Call, ends: list[Tensor], anchor: Tensor, x: Tensor, *others: Tensor) -> Any:
        ctx.recorded = weakref.ref(call)
        return tuple(ends)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        call: Call = ctx.recorded()
        g_h, *g_c = gradients
        whole = (g_h.unsqueeze(0), torch.zeros_like(g_h), *g_c)
        if call.listens:
            call.arrived = whole
        if call.closed:
            return (None,) * len(ctx.needs_input_grad)
        return None, *_sent_back(ctx, call, ctx.needs_input_grad[2:], whole)


class _RecordedBlock(torch.autograd.Function):
    """Single steps of one layer, each with its state as its output; made before they run, their values come later."""

    @staticmethod
    def forward(ctx: Any, call: Call, steps: int, copies: int, anchor: Tensor, x: Tensor | None, *state: Tensor) -> Any:
        ctx.recorded = weakref.ref(call)
        h, *c = (torch.zeros_like(own[:1, :1]).expand(steps, *own.shape) for own in state)
        return *(h.clone() for _ in range(copies)), *c

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        call: Call = ctx.recorded()
        if call.block is None or (call.closed and not call.listens):
            return (None,) * len(ctx.needs_input_grad)
        ran, states = call.block.ran, len(call.states)
        own = [g[:ran] for g in gradients]
        g_out = torch.stack(own[: len(own) - states + 1]).sum(0)
        end = torch.zeros_like(g_out[-1])
        if call.listens:
            call.arrived = (g_out, end, *own[len(own) - states + 1 :])
        if call.closed:
            return (None,) * len(ctx.needs_input_grad)
        need_x = ctx.needs_input_grad[4]
        sweep: Any = _Sweep
        g_x, *g_state = sweep.apply(call, (need_x,), g_out, end, *own[len(own) - states + 1 :])
        if need_x and call.fed_by is not None:
            g_x = torch.cat([g_x, g_x.new_zeros(call.block.capacity - ran, *g_x.shape[1:])])
        elif need_x and call.x is not None:  # through the operators between the blocks, separately for each step
            given = g_x.view(ran, *call.block.shape).unbind(0)
            (g_x,) = torch.autograd.grad(call.block.inputs, [call.x], given, retain_graph=True)
        return None, None, None, torch.zeros_like(call.anchor), g_x if need_x else None, *g_state[:states]


def _sent_back(ctx: Any, call: Call, needed: tuple[bool, ...], gradients: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Gradients of ``ends`` (none), the anchor, x, the initial state and the weights."""
    states = len(gradients) - 1
    need = (needed[1], *needed[2 + states :])
    g_x, *others = _Sweep.apply(call, need, *gradients)  # type: ignore[no-untyped-call]
    g_state, g_weights = others[:states], others[2:] or [None] * (len(need) - 1)
    kept = [g if wanted else None for g, wanted in zip((g_x, *g_weights), need, strict=True)]
    return None, torch.zeros_like(call.anchor), kept[0], *g_state, *kept[1:]


class _Look(torch.autograd.Function):
    """Notes the gradients of a marked state, as a function that vmap can vectorize over losses."""

    @staticmethod
    def forward(marked: MarkedStep, *gradients: Tensor) -> Any:
        return _Look._noted(marked, [g[None] for g in gradients], gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, marked: MarkedStep, *gradients: Tensor) -> Any:
        whole = _batch_first(info.batch_size, in_dims[1:], gradients)
        return _Look._noted(marked, whole, tuple(whole)), (0,) * len(whole)

    @staticmethod
    def _noted(marked: MarkedStep, gradients: list[Tensor], back: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        batch = marked.h.shape[1]
        squares = [adjoint.squared(g.reshape(len(g), 1, batch, -1)) for g in gradients]
        if marked.live is not None:
            squares = [s * marked.live for s in squares]
        rest = torch.stack(squares[1:]).sum(0) if len(squares) > 1 else None
        marked.adjoints = adjoint.Adjoints(squares[0], rest, None)
        return tuple(g.clone() for g in back)


class _Passed(torch.autograd.Function):
    """A marked state: the identity, which notes the gradient."""

    @staticmethod
    def forward(ctx: Any, marked: MarkedStep, anchor: Tensor, *states: Tensor) -> Any:
        ctx.recorded = weakref.ref(marked)
        return tuple(state.clone() for state in states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        back = _Look.apply(ctx.recorded(), *gradients)  # type: ignore[no-untyped-call]
        return None, torch.zeros_like(ctx.recorded().anchor), *back


def record(call: Call, ends: list[Tensor], x: Tensor, state: Sequence[Tensor], weights: Weights) -> tuple[Tensor, ...]:
    """Put a layer's run into the user's graph: outputs `(T, B, P)` and final states; of one step, the latter only."""
    node: Any = _Recorded if call.step is None else _RecordedStep
    found: tuple[Tensor, ...] = node.apply(call, ends, call.anchor, x, *state, *weights.tensors())
    return found


def record_block(call: Call, steps: int, copies: int) -> tuple[Tensor, ...]:
    """Put steps that will run later into the user's graph: ``copies`` of h `(steps, B, H)`, and c of an LSTM."""
    node: Any = _RecordedBlock
    found: tuple[Tensor, ...] = node.apply(call, steps, copies, call.anchor, call.x, *call.states)
    return found


def pass_on(marked: MarkedStep, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Put a marked state into the user's graph."""
    found: tuple[Tensor, ...] = _Passed.apply(marked, marked.anchor, *states)  # type: ignore[no-untyped-call]
    return found
