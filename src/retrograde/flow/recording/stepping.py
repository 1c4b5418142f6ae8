"""Loops that call a layer or a cell once per step, recorded in blocks of steps.

The first step of a loop is recorded like any other call. A later step belongs to the loop if it starts from the very
state that the layer returned, with the same weights, and if its input has no gradient or comes only from the output of
a lower loop at the same step. Such a step skips the checks of ``torch.nn`` and has no node of its own in the user's
graph: one node stands for a block of steps. It is created before the first of them runs, and its outputs are given to
the model one by one. Blocks grow with the loop, so that T steps become about log T calls. Every other step is recorded
as a call of its own.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules import module as calling

from ... import nn as ours
from ...cells import FUSED
from ..recurrence.cells import Step
from .calls import Block, Call, Exposed, StatePart, call_of, record_block

_FIRST = 8  # steps of a loop's first block
_MOST_NUMBERS = 2**22  # in the states of one block, whose memory is allocated before its steps run
_MOST_NODES = 200  # autograd nodes that are searched between the output of one loop and the input of another
_STEPS = {cell: getattr(torch, f"{cell.mode.lower()}_cell") for cell in FUSED}
_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_CLASSES: tuple[type[nn.Module], ...] = (nn.RNNBase, nn.RNNCellBase)  # classes whose calls are watched
_ALL = (
    calling._global_forward_hooks,
    calling._global_forward_pre_hooks,
    calling._global_backward_hooks,
    calling._global_backward_pre_hooks,
)
_OF_ALL = (1, 2, 0, 0)  # how many of these hooks a measurement registers
_FORWARDS = {
    kind.forward
    for kind in (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell, ours.RNN, ours.GRU, ours.LSTM)
}


def one_step(step: Step, h_0: Tensor, c_0: Tensor | None, x: Tensor) -> tuple[Tensor, ...]:
    """The states after one step, for an input `(B, I)`; of torch's cells by its operator, which is faster."""
    w = step.weights
    if step.cell in _STEPS:
        found = _STEPS[step.cell](x, h_0 if c_0 is None else (h_0, c_0), w.ih, w.hh, w.bias_ih, w.bias_hh)
        return (found,) if isinstance(found, Tensor) else tuple(found)
    linear = nn.functional.linear
    return step.cell.step(
        linear(x, w.ih, w.bias_ih), linear(h_0, w.hh, w.bias_hh), (h_0,) if c_0 is None else (h_0, c_0)
    )[0]


class Taken(NamedTuple):
    """A call that is the next step of a loop."""

    loop: _Loop
    below: Call | None  # the block that its input comes from, if any
    lay_out: bool  # whether a new block begins with it


@dataclass(eq=False)
class _Loop:
    """A loop over the steps of one layer, as far as it has run."""

    module: nn.Module
    names: tuple[str, ...]  # of the module's parameters
    parameters: tuple[Tensor | None, ...]  # at the first step
    versions: list[int]  # of the parameters: how often each had been written to
    hooks: tuple[int, ...]  # how many a call runs: only those of the measurement
    x: Tensor  # the first input
    call: Call  # the call or block that contains its last step
    state: tuple[Tensor, ...]  # the tensors that its last step returned
    made: list[tuple[Any, int, None]]  # for each of these: its autograd node, its version, and no hook
    steps: int = 1
    below: Call | None = None  # the block from whose outputs the inputs of this block are computed, step by step
    rows: list[tuple[Tensor, ...]] = field(default_factory=list)  # outputs of the coming steps, the next step last

    def goes_on(self, module: nn.Module, x: Any, handed: tuple[Any, ...]) -> bool:
        """Whether a call of the module is the next step of this loop, with nothing changed since the last."""
        first = self.x
        return (
            module is self.module
            and type(x) is Tensor
            and x.shape == first.shape
            and x.dtype == first.dtype
            and x.device == first.device
            and _hooks(module) == self.hooks
            and all(map(operator.is_, map(module._parameters.get, self.names), self.parameters))
            and [p._version for p in self.parameters if p is not None] == self.versions
            and len(handed) == len(self.state)
            and all(map(operator.is_, handed, self.state))
            and [(s.grad_fn, s._version, s._backward_hooks) for s in handed] == self.made
            and torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
        )


class Loops:
    """The loops of a model while it runs, and the blocks in which their steps are recorded."""

    def __init__(self) -> None:
        self.blocks: list[Call] = []
        self.unbound: dict[Any, Call] = {}  # blocks, by the autograd nodes that split their outputs into steps
        self.latest: Call | None = None  # the block of the last call, if that call was a step of a block
        self._open: dict[int, _Loop] = {}  # loops, by the id of the state from which the next step starts

    def begin(self, module: nn.Module, x: Tensor, call: Call, state: tuple[Tensor, ...], *, named: bool) -> None:
        """Remember a step that was recorded as a call of its own: it may be the first of a loop.

        ``named`` says whether the recorder has registered hooks on the module.
        """
        names = tuple(module._flat_weights_names) if isinstance(module, nn.RNNBase) else _CELL_WEIGHTS
        own = tuple(module._parameters.get(name) for name in names)
        hooks = (named, named, 0, 0, *_OF_ALL)
        known = all(name in module._parameters for name in names)  # not computed by a parametrization
        if known and _hooks(module) == hooks and not any(p is not None and p.requires_grad for p in own):
            versions = [p._version for p in own if p is not None]
            made = [(s.grad_fn, s._version, None) for s in state]
            loop = _Loop(module, names, own, versions, hooks, x, call, state, made)
            self._open[id(state[0])] = loop

    def next_of(self, module: nn.Module, x: Any, handed: tuple[Any, ...]) -> Taken | None:
        """The loop that a call continues, if it is the next step of one."""
        loop = self._open.get(id(handed[0])) if handed else None
        if loop is None or not loop.goes_on(module, x, handed):
            return None
        if not x.requires_grad:
            return Taken(loop, None, not loop.rows) if loop.below is None or not loop.rows else None
        found = self._source(x)
        if found is None:
            return None
        below, row = found
        if row == 0:
            return Taken(loop, below, True)
        own = loop.call.block
        goes_along = below is loop.below and bool(loop.rows) and own is not None and row == own.ran
        return Taken(loop, below, False) if goes_along else None

    def _source(self, x: Tensor) -> tuple[Call, int] | None:
        """The block and the step from whose output alone a tensor is computed; None if it depends on anything else."""
        found: tuple[Call, int] | None = None
        seen: set[Any] = set()
        open_nodes: list[tuple[Any, int]] = [(x.grad_fn, x.output_nr)]
        while open_nodes:
            node: Any
            node, row = open_nodes.pop()
            if node is None or node in seen:
                continue
            call = self.unbound.get(node)
            if call is not None:
                if call.block is None or node is not call.block.unbound or found not in (None, (call, row)):
                    return None
                found = call, row
                continue
            seen.add(node)
            if len(seen) > _MOST_NODES or call_of(node) is not None or isinstance(node, BackwardCFunction):
                return None
            open_nodes += node.next_functions
        return found

    def lay_out(self, loop: _Loop, below: Call | None) -> tuple[Call, list[Exposed]]:
        """Create a block for the next steps of a loop in the user's graph; returns it and its outputs."""
        before = loop.call
        step = before.step if before.block is None else before.block.step
        assert step is not None
        layer = isinstance(loop.module, nn.RNNBase)
        states = tuple(state[0] if layer else state for state in loop.state)
        batch, size = states[0].shape
        steps = max(1, min(max(_FIRST, loop.steps), _MOST_NUMBERS // max(1, batch * size)))
        inputs = None
        if below is not None and below.block is not None:
            steps, inputs = below.block.capacity, below.block.outputs
        block = Block(step, steps, loop.x.shape, [tuple(before.ends)], below=below)
        call = Call(
            before.track,
            before.anchor,
            None,
            block=block,
            before=before,
            link="same",
            states=states,
            handed=tuple(StatePart(tensor, 0 if layer else None) for tensor in loop.state),
            x=inputs,
            own_state=False,
        )
        banks = record_block(call, steps, 2 if layer else 1)
        block.outputs = banks[0]
        unbind: Any = torch.unbind_copy  # the user's code may write into its results
        rows = []
        for i, bank in enumerate(banks):
            shaped = bank.unsqueeze(2 if i == 0 and loop.module.batch_first else 1) if layer else bank
            rows.append(unbind(shaped))
            self.unbound[rows[-1][0].grad_fn] = call
        block.unbound = rows[0][0].grad_fn
        loop.made = [(own[0].grad_fn, 0, None) for own in rows[-len(states) :]]
        loop.call, loop.below, loop.rows = call, below, list(zip(*rows, strict=True))[::-1]
        self.blocks.append(call)
        c = len(banks) - 1 if len(states) == 2 else None
        return call, [Exposed(b, None if i == c else (call,), call.track[0], (call,)) for i, b in enumerate(banks)]

    def step(self, loop: _Loop, x: Tensor) -> tuple[Tensor, ...]:
        """Run the next step; returns what the call returns: for a layer the output, then the final state."""
        call, block, handed = loop.call, loop.call.block, loop.rows.pop()
        assert block is not None
        own = (x.detach() if x.requires_grad else x).clone()  # because the user's code may write into x
        if own.dim() == 3:
            own = own.view(-1, own.shape[-1])
        h_0, *c_0 = block.states[-1]
        ends = one_step(block.step, h_0, c_0[0] if c_0 else None, own)
        if len(handed) > len(ends):  # a layer, which returns its output too
            handed[0].data.copy_(ends[0].unsqueeze(1) if loop.module.batch_first else ends[0])
        for tensor, values in zip(handed[-len(ends) :], ends, strict=True):
            tensor.data.copy_(values)
        block.add(own, ends, handed)
        call.whole, call.ends = None, ends
        del self._open[id(loop.state[0])]
        loop.state = handed[-len(ends) :]
        self._open[id(loop.state[0])] = loop
        if x.requires_grad:
            block.inputs.append(get_gradient_edge(x))  # the edge stays the same if the user's code writes into x later
        loop.steps += 1
        self.latest = call
        return handed

    def are_as_recorded(self) -> bool:
        """Whether the states that the steps returned are unchanged."""
        for call in self.blocks:
            block = call.block
            assert block is not None
            for i, kept in enumerate(zip(*block.states[1:], strict=True)):
                handed = [row[i - len(call.states)] for row in block.handed]
                if any(tensor._version for tensor in handed):
                    return False
                values = torch.stack(kept)
                with torch.no_grad():
                    if not torch.equal(torch.stack(handed).view_as(values), values):
                        return False
        return True


def _hooks(module: nn.Module) -> tuple[int, ...]:
    """How many hooks of each type a call of the module runs."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return tuple(map(len, (*own, *_ALL)))


class Watcher(Protocol):
    """What takes the place of calls of layers and cells."""

    def take_step(self, module: nn.Module, x: Any, hx: Any) -> Any:
        """The result of a call that is the next step of a loop; None for any other."""

    def began(self, module: nn.Module, x: Any, result: Any) -> None:
        """Called after a layer or a cell has run in the usual way."""


_local = threading.local()
_lock = threading.Lock()
_measuring = 0  # how many measurements run, in all threads


@contextlib.contextmanager
def taking_steps(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` compute the steps of loops that run in this thread, while the context is active."""
    global _measuring
    outer = getattr(_local, "watcher", None)
    with _lock:
        _measuring += 1
        for kind in _CLASSES:
            kind.__call__ = _call  # type: ignore[method-assign]
    _local.watcher = watcher
    try:
        yield
    finally:
        _local.watcher = outer
        with _lock:
            _measuring -= 1
            if not _measuring:
                for kind in _CLASSES:
                    del kind.__call__


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Replacement of ``torch.nn.Module.__call__`` for layers and cells."""
    watcher: Watcher | None = getattr(_local, "watcher", None)
    if watcher is None or type(module).forward not in _FORWARDS or "forward" in module.__dict__:
        return nn.Module.__call__(module, *args, **kwargs)
    hx = args[1] if len(args) == 2 else kwargs.get("hx")
    if hx is not None and len(args) + len(kwargs) == 2:
        found = watcher.take_step(module, args[0], hx) if args else None
        if found is not None:
            return found
    result = nn.Module.__call__(module, *args, **kwargs)
    if args:
        watcher.began(module, args[0], result)
    return result
