"""The user's losses and the recorded layers as one graph, through which blocks of losses are sent back.

Tests: `tests/flow/test_flow_models.py`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ...errors import first_line
from ..recurrence import cells
from ..recurrence.adjoint import Adjoints
from ..recurrence.cells import Trajectory
from .calls import AnyCall, Call, MarkedStep
from .capture import CallRecorder
from .runs import same_weights

_BLOCK_BYTES = 128 * 2**20


@dataclass
class Graph:
    """Losses `(T, B)` and the recurrences below them, by label; each is the calls it ran in, in the order of time.

    ``wanted`` are the labels of those that are measured; ``alive`` `(T, B)` is 1 where a loss counts, 0 on padding.
    """

    losses: Tensor
    recorder: CallRecorder
    runs: dict[str, list[AnyCall]]
    wanted: list[str]
    alive: Tensor
    notes: list[str] = field(default_factory=list)
    vectorised: bool = True

    @property
    def block(self) -> int:
        """How many losses are sent back at once, within a bound on memory: `O(T·B·H)` each."""
        return self._losses_at_once(max(_numbers(call) for call in self.recorder.calls))

    @property
    def block_kept(self) -> int:
        """The same where the adjoints of all calls are kept to the end."""
        return self._losses_at_once(sum(map(_numbers, self.recorder.calls)))

    def _losses_at_once(self, widest: int) -> int:
        outside = self.losses.numel()
        return max(1, min(64, _BLOCK_BYTES // (self.losses.element_size() * (3 * widest + outside))))

    def send(self, directions: Tensor, *, keep: bool = False) -> dict[str, Adjoints]:
        """Send ⟨direction, losses⟩ back for each of N directions `(N, T, B)`.

        Returns
        -------
        dict of Adjoints
            By label, over all calls of the layer, sequences in the user's order; without layers that have no path, and
            without marked states where ``keep`` asks for the adjoints of pre-activations.
        """
        runs = {label: self.runs[label] for label in self.wanted}
        if keep:  # marked states have no pre-activations
            runs = {label: own for label, own in runs.items() if not isinstance(own[0], MarkedStep)}
        calls = [call for own in runs.values() for call in own]
        for call in self.recorder.calls:
            call.keep = keep
        directions = directions * self.alive
        adjoints: list[dict[AnyCall, Adjoints]] = []
        if self.vectorised:
            try:
                adjoints = [self._backward(directions, calls, batched=True)]
            except RuntimeError as refusal:
                if "version" in str(refusal) or "second time" in str(refusal):
                    raise
                self.vectorised = False
                reason = first_line(refusal)
                self.notes.append(f"one target at a time: vmap does not support this model ({reason})")
        if not self.vectorised:
            adjoints = [self._backward(direction, calls, batched=False) for direction in directions]
        found = {}
        for label, own in runs.items():
            parts = [[s.get(call) or _nothing(call, keep) for s in adjoints] for call in own]
            if any(call in s for s in adjoints for call in own):
                rows = [_in_order(_joined(part, 0), call) for part, call in zip(parts, own, strict=True)]
                size = max(len(row.h) for row in rows)
                found[label] = _joined([_spread(row, size) for row in rows], 1)
        for call in self.recorder.calls:
            call.adjoints = None
        return found

    def send_rows(self, rows: Tensor, *, keep: bool = False, factor: float = 1.0) -> dict[str, Adjoints]:
        """Send the losses of some steps back, each separately, multiplied by a factor."""
        directions = self.losses.new_zeros(len(rows), *self.losses.shape)
        directions[torch.arange(len(rows), device="cpu"), rows] = factor
        return self.send(directions, keep=keep)

    def _backward(self, directions: Tensor, calls: list[AnyCall], *, batched: bool) -> dict[AnyCall, Adjoints]:
        for call in self.recorder.calls:
            call.adjoints = None
        anchors = list({id(call.anchor): call.anchor for call in calls}.values())

        def once(direction: Tensor) -> Tensor:
            torch.autograd.grad(self.losses, anchors, direction, retain_graph=True, allow_unused=True)
            return direction.sum()

        if batched:
            with quiet_vmap():
                torch.func.vmap(once)(directions)
        else:
            once(directions)
        return {call: call.adjoints for call in calls if call.adjoints is not None}

    def mixes_sequences(self) -> bool:
        """Whether the loss of one sequence depends on the states of another, as under batch normalization."""
        batch = self.losses.shape[1]
        runs = {label: own for label, own in self.runs.items() if own[0].h.shape[1] == batch}
        if batch == 1 or not runs:
            return False
        # Any two sequences are on different sides of some of these halves, in either order.
        bits = (
            torch.arange(batch, device="cpu") >> torch.arange((batch - 1).bit_length(), device="cpu").unsqueeze(1) & 1
        )
        sides = torch.cat([bits, 1 - bits]).bool()
        weights = distinct_weights(len(self.losses)).to(self.losses).unsqueeze(-1)
        directions = sides.to(self.losses.device).unsqueeze(1) * weights
        asked, self.wanted = self.wanted, list(runs)
        try:
            adjoints = self.send(directions)
        finally:
            self.wanted = asked
        sides = sides.to(self.losses.device)
        return any(bool(((s.h if s.c is None else s.h + s.c).ne(0).any(1) & ~sides).any()) for s in adjoints.values())

    def is_transposed(self) -> bool:
        """Whether losses with T = B came as `(B, T)`: a row then depends on one sequence, a column on several."""
        steps, batch = self.losses.shape
        if steps != batch or batch == 1:
            return False
        directions = self.losses.new_zeros(2, steps, batch)
        directions[0, 0, :] = directions[1, :, 0] = 1
        touched = [(s.h if s.c is None else s.h + s.c).ne(0).any(1) for s in self.send(directions).values()]
        touched = [pair for pair in touched if pair.shape[1] == batch and pair.any()]
        # All layers must agree: one that runs along the other axis of a grid may look transposed by itself.
        return bool(touched) and all(bool(row[0] and not row[1:].any() and column[1:].any()) for row, column in touched)

    def trajectory(self, label: str) -> Trajectory:
        """A layer's run as one, sequences in the user's order."""
        own = [call for call in self.runs[label] if isinstance(call, Call)]
        steps = [call.step for call in own if call.step is not None and call.whole is None]
        if len(steps) == len(own) and same_weights(own):
            return cells.together(steps)
        return Trajectory.joined([c.run if c.order is None else c.run.reordered(c.order) for c in own])


MIXED = (
    "sequences are mixed (batch normalization in training mode?): the loss of one depends on the states of others, and "
    "‖∂E_t/∂s_k‖ of a sequence sums over the losses of all"
)
MIXED_ERRORS = "Sequences are mixed (batch normalization in training mode?), so none can be given another's error."


@contextlib.contextmanager
def closed(calls: list[AnyCall]) -> Iterator[None]:
    """Inside the block, no gradient passes through recorded layers."""
    layers = [call for call in calls if isinstance(call, Call)]
    for call in layers:
        call.closed = True
    try:
        yield
    finally:
        for call in layers:
            call.closed = False


def distinct_weights(steps: int) -> Tensor:
    """Numbers without simple ratios, so that what two losses send to a third step cannot cancel: `(steps,)`."""
    return 0.5 + torch.arange(1, steps + 1, dtype=torch.float64, device="cpu").mul(0.6180339887498949).frac()


@contextlib.contextmanager
def quiet_vmap() -> Iterator[None]:
    """Silence vmap's warnings about operators that it runs one by one: they are slow, not wrong."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop because we have not yet implemented.*")
        yield


def _numbers(call: AnyCall) -> int:
    """Numbers that one loss needs on its way back through a call."""
    return call.h.shape[0] * call.h.shape[1] * call.width


def _nothing(call: AnyCall, keep: bool) -> Adjoints:
    if isinstance(call, MarkedStep):
        zeros = torch.zeros(1, *call.h.shape[:2], dtype=torch.float64, device=call.h.device)
        return Adjoints(zeros, zeros if len(call.states) > 1 else None, None)
    run = call.run
    zeros = torch.zeros(1, run.steps, run.batch_size, dtype=torch.float64, device=run.x.device)
    cell = zeros if "c" in run.cell.states else None
    if not keep:
        return Adjoints(zeros, cell, cell)
    wide = run.x.new_zeros(1, run.steps, run.batch_size, run.weights.hh.shape[0])
    states = None if run.weights.hr is None else run.x.new_zeros(1, *run.h.shape)
    return Adjoints(zeros, cell, cell, wide, wide, states)


def _each(adjoints: list[Adjoints], how: Callable[[list[Tensor]], Tensor]) -> Adjoints:
    values: dict[str, Any] = {}
    for f in fields(Adjoints):
        own = [getattr(s, f.name) for s in adjoints]
        values[f.name] = None if any(a is None for a in own) else how(own)
    return Adjoints(**values)


def _joined(adjoints: list[Adjoints], axis: int) -> Adjoints:
    return adjoints[0] if len(adjoints) == 1 else _each(adjoints, lambda parts: torch.cat(parts, axis))


def _spread(adjoints: Adjoints, size: int) -> Adjoints:
    return (
        adjoints
        if len(adjoints.h) == size
        else _each([adjoints], lambda parts: parts[0].expand(size, *parts[0].shape[1:]))
    )


def _in_order(adjoints: Adjoints, call: AnyCall) -> Adjoints:
    order = call.order
    return adjoints if order is None else _each([adjoints], lambda parts: parts[0][:, :, order])
