"""Loops that call a layer or a cell once for each step, recorded in blocks of steps.

The first step of a loop is recorded as any call is. A step that goes on from it as a loop does (with the state as the
layer handed it out, the same weights, and an input that no gradient passes, or the output of a loop below at the same
step) needs neither the checks of ``torch.nn`` nor a node of its own in the user's graph: a block of steps is one node,
made before its first step runs, whose outputs are handed out one by one. Blocks grow with the loop, so that T steps are
about log T calls. Every other step is recorded as a call of its own.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..cells import CELLS
from ..nn.layers import Recurrent
from .calls import Block, Call, Exposed, Handed, StatePart, record_block
from .cells import Step

__all__ = ["Loops", "Watcher", "taking_steps"]

_FIRST = 8  # steps of a loop's first block
_MOST_NUMBERS = 2**22  # of the states of one block, which are laid out before its steps run
_STEPS = {cell: getattr(torch, f"{cell.mode.lower()}_cell") for cell in CELLS}
_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_PATCHED: tuple[type[nn.Module], ...] = (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell, Recurrent)


def one_step(step: Step, h_0: Tensor, c_0: Tensor | None, x: Tensor) -> tuple[Tensor, ...]:
    """The states after one step of torch's cell, from `(B, I)`."""
    weights = step.weights
    hx = h_0 if c_0 is None else (h_0, c_0)
    found = _STEPS[step.cell](x, hx, weights.ih, weights.hh, weights.bias_ih, weights.bias_hh)
    return (found,) if isinstance(found, Tensor) else tuple(found)


@dataclass(eq=False)
class _Loop:
    """A chain of single steps of one layer, as far as it has come."""

    module: nn.Module
    parameters: list[tuple[Tensor | None, int]]  # of the module, with the versions they had
    shape: torch.Size  # of each input
    call: Call  # that its last step is in
    state: tuple[Handed, ...]  # as its last step handed it out
    steps: int = 1
    below: Call | None = None  # the block whose outputs are this block's inputs
    rows: list[tuple[Tensor, ...]] = field(default_factory=list)  # what the next steps hand out, the next step last

    def goes_on(self, module: nn.Module, x: Any, handed: tuple[Any, ...]) -> bool:
        """Whether a call of the module is the next step of this loop, with nothing changed since the last."""
        values = self.state[0].values
        if not (
            module is self.module
            and type(x) is Tensor
            and x.shape == self.shape
            and x.dtype == values.dtype
            and x.device == values.device
            and torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
            and len(handed) == len(self.state)
        ):
            return False
        now = _parameters(module)
        return (
            len(now) == len(self.parameters)
            and all(
                p is known and (p is None or p._version == version)
                for p, (known, version) in zip(now, self.parameters, strict=True)
            )
            and all(s is known.tensor and known.is_as_it_was() for s, known in zip(handed, self.state, strict=True))
        )


class Loops:
    """The loops that run, and the blocks of steps they were recorded in."""

    def __init__(self) -> None:
        self.blocks: list[Call] = []
        self.unbound: dict[Any, Call] = {}  # by the nodes that hand out a block's rows
        self.latest: Call | None = None  # the last call that ran, if that was a step of a block
        self._open: dict[int, _Loop] = {}  # by the state that the next step starts from
        self._rows: dict[int, tuple[Handed, int]] = {}  # by output: its step in its block

    def begin(self, module: nn.Module, x: Tensor, call: Call, state: tuple[Handed, ...]) -> None:
        """A step was recorded by itself: others may go on from it."""
        parameters = [(p, 0 if p is None else p._version) for p in _parameters(module)]
        if not any(p is not None and p.requires_grad for p, _ in parameters):
            self._open[id(state[0].tensor)] = _Loop(module, parameters, x.shape, call, state)

    def next_of(self, module: nn.Module, x: Any, hx: Any) -> tuple[_Loop, Call | None, bool] | None:
        """The loop whose next step a call is, the block that its input comes from, and whether it needs a new block."""
        handed = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        loop = self._open.get(id(handed[0])) if handed else None
        if loop is None or not loop.goes_on(module, x, handed):
            return None
        if not x.requires_grad:
            return (loop, None, not loop.rows) if loop.below is None or not loop.rows else None
        found = self._rows.get(id(x))
        if found is None or found[0].tensor is not x or not found[0].is_as_it_was():
            return None
        below, row = found[0].calls[0], found[1]
        if row == 0:
            return loop, below, True
        own = loop.call.block
        goes_along = below is loop.below and own is not None and row == len(own.x) and bool(loop.rows)
        return (loop, below, False) if goes_along else None

    def lay_out(self, loop: _Loop, hx: Any, below: Call | None) -> tuple[Call, list[Exposed]]:
        """A block for the next steps of a loop, in the user's graph, and what the model sees of it."""
        before = loop.call
        step = before.step if before.block is None else before.block.step
        assert step is not None
        layer = isinstance(loop.module, nn.RNNBase)
        handed = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        states = tuple(state[0] if layer else state for state in handed)
        batch, size = states[0].shape
        steps = max(1, min(max(_FIRST, loop.steps), _MOST_NUMBERS // max(1, batch * size)))
        if below is not None and below.block is not None:
            steps = below.block.capacity
        block = Block(step, steps, [tuple(known.values.view(batch, size) for known in loop.state)])
        inputs = below.block.outputs if below is not None and below.block is not None else None
        call = Call(
            before.track,
            before.probe,
            None,
            block=block,
            before=before,
            link="same",
            states=states,
            handed=tuple(StatePart(tensor, 0 if layer else None) for tensor in handed),
            x=inputs,
            own_state=False,
            fed_by=below,
        )
        banks = record_block(call, steps, 2 if layer else 1)
        block.outputs = banks[0]
        rows = []
        for i, bank in enumerate(banks):
            shaped = bank if not layer else bank.unsqueeze(2 if i == 0 and loop.module.batch_first else 1)
            unbind: Any = torch.unbind_copy  # whose results may be written into
            rows.append(unbind(shaped))
            self.unbound[rows[-1][0].grad_fn] = call
        loop.call, loop.below, loop.rows = call, below, list(zip(*rows, strict=True))[::-1]
        self.blocks.append(call)
        cell_state = len(banks) - 1 if step.kind == "lstm" else None
        name = call.track[0]
        return call, [Exposed(b, None if i == cell_state else (call,), name, (call,)) for i, b in enumerate(banks)]

    def step(self, loop: _Loop, x: Tensor) -> tuple[Tensor, ...]:
        """Run the next step; returns what it hands out: of a layer the output, then its final state."""
        call, block, handed = loop.call, loop.call.block, loop.rows.pop()
        assert block is not None
        call.whole = None
        own = x.detach().reshape(x.numel() // x.shape[-1], x.shape[-1]).clone()
        with torch.no_grad():
            h_0, *c_0 = block.states[-1]
            ends = one_step(block.step, h_0, c_0[0] if c_0 else None, own)
        for tensor, values in zip(handed, ends if len(ends) == len(handed) else (ends[0], *ends), strict=True):
            tensor.data.copy_(values.view(tensor.shape))
        block.add(own, ends, handed)
        call.ends = ends
        del self._open[id(loop.state[0].tensor)]
        loop.state = tuple(
            Handed.of(tensor, values.view(tensor.shape), call)
            for tensor, values in zip(handed[-len(ends) :], ends, strict=True)
        )
        self._open[id(loop.state[0].tensor)] = loop
        self._rows[id(handed[0])] = Handed.of(handed[0], ends[0].view(handed[0].shape), call), len(block.x) - 1
        loop.steps += 1
        self.latest = call
        return handed

    def have_hooks(self) -> bool:
        """Whether the user's code has put a hook on what a step handed out."""
        tensors = (t for call in self.blocks if call.block is not None for row in call.block.handed for t in row)
        return any(bool(tensor._backward_hooks) for tensor in tensors)


def _parameters(module: nn.Module) -> list[Any]:
    """As they stand: the list that ``torch.nn``'s layers keep may be out of date."""
    names = module._flat_weights_names if isinstance(module, nn.RNNBase) else _CELL_WEIGHTS
    return [getattr(module, name) for name in names]


class Watcher(Protocol):
    """Who takes the place of the forward pass of layers and cells."""

    def take_step(self, module: nn.Module, x: Any, hx: Any) -> Any:
        """The result of a call that is the next step of a loop; None for any other."""

    def began(self, module: nn.Module, x: Any, result: Any) -> None:
        """A layer or a cell ran by its own forward pass."""


_local = threading.local()
_lock = threading.Lock()
_inside = 0  # measurements that run, in all threads
_own: dict[type[nn.Module], Callable[..., Any]] = {}


@contextlib.contextmanager
def taking_steps(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` compute the steps of loops that this thread runs inside the block."""
    global _inside
    outer = getattr(_local, "watcher", None)
    with _lock:
        _inside += 1
        if _inside == 1:
            for kind in _PATCHED:
                _own[kind] = kind.forward
                kind.forward = _watched(kind.forward)
    _local.watcher = watcher
    try:
        yield
    finally:
        _local.watcher = outer
        with _lock:
            _inside -= 1
            if _inside == 0:
                for kind in _PATCHED:
                    kind.forward = _own.pop(kind)


def _watched(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def watched(module: nn.Module, input: Any, hx: Any = None) -> Any:
        watcher: Watcher | None = getattr(_local, "watcher", None)
        if watcher is None:
            return forward(module, input, hx)
        if hx is not None:
            found = watcher.take_step(module, input, hx)
            if found is not None:
                return found
        result = forward(module, input, hx)
        watcher.began(module, input, result)
        return result

    return watched
