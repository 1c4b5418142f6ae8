"""The graph a measurement walks: the user's losses, the recorded layers, and losses sent back in blocks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import count, islice
from math import comb
from typing import Any

import torch
from torch import Tensor

from ..errors import FlowError
from . import cells
from .adjoint import Adjoints
from .calls import AnyCall, Call, MarkedStep, StatePart, call_of, flat
from .capture import CallRecorder
from .cells import Trajectory
from .runs import same_weights, state_changes

_BLOCK_BYTES = 128 * 2**20
_MANY, _MANY_NUMBERS = 16, 2**24  # tensors that a head looks at; numbers of all their gradients together


@dataclass
class Graph:
    """Losses `(T, B)` and the recurrences below them, by label; each is the calls it ran in, in the order of time.

    ``wanted`` are the labels of those asked for; ``alive`` `(T, B)` is 1 where a loss counts, 0 on padding.
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
        """How many losses go back at once, within a bound on memory: `O(T·B·H)` each."""
        return self._losses_at_once(max(_numbers(call) for call in self.recorder.calls))

    @property
    def block_kept(self) -> int:
        """The same where the adjoints of all calls are kept until the last is found."""
        return self._losses_at_once(sum(map(_numbers, self.recorder.calls)))

    def _losses_at_once(self, widest: int) -> int:
        outside = self.losses.numel()
        return max(1, min(64, _BLOCK_BYTES // (self.losses.element_size() * (3 * widest + outside))))

    def send(self, directions: Tensor, *, keep: bool = False) -> dict[str, Adjoints]:
        """Send ⟨direction, losses⟩ back for each of N directions `(N, T, B)`.

        Returns
        -------
        dict of Adjoints
            By label, over all calls of the layer, sequences in the user's order; layers without a path are left out;
            so are marked states where ``keep`` asks for what only a layer has.
        """
        runs = {label: self.runs[label] for label in self.wanted}
        if keep:  # of a marked state there is nothing more to keep
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
                reason = str(refusal).splitlines()[0]
                self.notes.append(f"one target at a time: vmap refused this model ({reason})")
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
        """Send the losses of some steps back, each by itself, multiplied by a factor."""
        directions = self.losses.new_zeros(len(rows), *self.losses.shape)
        directions[torch.arange(len(rows)), rows] = factor
        return self.send(directions, keep=keep)

    def _backward(self, directions: Tensor, calls: list[AnyCall], *, batched: bool) -> dict[AnyCall, Adjoints]:
        for call in self.recorder.calls:
            call.adjoints = None
        probes = list({id(call.probe): call.probe for call in calls}.values())

        def once(direction: Tensor) -> Tensor:
            torch.autograd.grad(self.losses, probes, direction, retain_graph=True, allow_unused=True)
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
        # Every two sequences are on different sides of some of these halves, in either order.
        bits = torch.arange(batch) >> torch.arange((batch - 1).bit_length()).unsqueeze(1) & 1
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
        """Whether losses of as many steps as sequences came as `(B, T)`: a row is of one sequence, a column of several.

        Other shapes tell by themselves.
        """
        steps, batch = self.losses.shape
        if steps != batch or batch == 1:
            return False
        directions = self.losses.new_zeros(2, steps, batch)
        directions[0, 0, :] = directions[1, :, 0] = 1
        touched = [(s.h if s.c is None else s.h + s.c).ne(0).any(1) for s in self.send(directions).values()]
        touched = [pair for pair in touched if pair.shape[1] == batch and pair.any()]
        # All layers: one that runs along the other axis of a grid says so, those beside it do not.
        return bool(touched) and all(bool(row[0] and not row[1:].any() and column[1:].any()) for row, column in touched)

    def trajectory(self, label: str) -> Trajectory:
        """A layer's run as one, sequences in the user's order."""
        own = [call for call in self.runs[label] if isinstance(call, Call)]
        steps = [call.step for call in own if call.step is not None and call.whole is None]
        if len(steps) == len(own) and same_weights(own):
            return cells.together(steps)
        return Trajectory.joined([c.run if c.order is None else c.run.reordered(c.order) for c in own])

    def is_marked(self, label: str) -> bool:
        """Whether a layer is a recurrence written by hand."""
        return isinstance(self.runs[label][0], MarkedStep)

    def marked(self, label: str) -> StepwiseRun:
        """The run of a recurrence written by hand."""
        own = [call for call in self.runs[label] if isinstance(call, MarkedStep)]
        return StepwiseRun(own, [tuple(StatePart(state) for state in call.states) for call in own])

    def stepwise(self, label: str) -> StepwiseRun | None:
        """The run of a layer whose steps are more than its cell, by the states that each step hands to the next.

        So it is where operators stand between two steps (zoneout, a mask) or the weights change. None for others.
        """
        own = [call for call in self.runs[label] if isinstance(call, Call)]
        if not own or not (state_changes(own) or not same_weights(own)):
            return None
        handed = [call.handed if any(state.requires_grad for state in call.states) else None for call in own]
        return StepwiseRun(own, [*handed[1:], None])

    def local_adjoints(self) -> dict[str, Tensor] | None:
        """∂E_t/∂(output_t) of each layer `(T, B, P)` if the head looks at one step at a time, else None.

        A hook of the user's may change a gradient on its way: then None, too.

        The layers are then one causal stack, or several side by side, called whole or step by step.

        The test is exact. Each step has a level in every one of a few backward passes: 0, its losses are left out;
        1, they are sent back; 2, they are sent back as NaN. What comes out must be zero at the steps of level 0 and no
        NaN at those of level 1, or the head mixes; and of any two steps each is above the other in some pass. It takes
        about log₃ T passes through the head. Sequences are tested in the same way: where they are mixed, a note says
        so.
        """
        if self.recorder.hooked or not self._is_causal_stack():
            return None
        steps, batch = self.losses.shape
        weights = distinct_weights(steps).to(self.losses).unsqueeze(-1)
        by_step, by_sequence = (_levels(n).to(self.losses) for n in (steps, batch))
        directions = [(row.unsqueeze(-1) * weights).expand(steps, batch) for row in by_step]
        directions += [row * weights for row in by_sequence]
        directions += [torch.ones_like(self.losses)]
        # Nothing here is to be recorded, and what one layer sends to the next is no matter of the head's.
        with torch._C.DisableTorchFunction(), closed(self.recorder.calls):
            try:
                with torch.autograd.set_detect_anomaly(False):  # the NaN is meant
                    seen = _Head(self).seen(directions)
                    for row in by_step:
                        if _leaks(next(seen), row, axis=0):
                            return None
                    leaking = [_leaks(next(seen), row, axis=1) for row in by_sequence]
                    found = next(seen)
            except Exception:  # a hook of the user's that will have no NaN: not proved
                return None
        if any(leaking):
            self.notes.append(MIXED)
        return found

    def _is_causal_stack(self) -> bool:
        steps, batch = self.losses.shape
        below: list[AnyCall] = []
        for own in self.runs.values():
            first, *others = own
            if not isinstance(first, Call) or first.reverse or first.link is not None or not first.own_state:
                return False
            if sum(len(call.h) for call in own) != steps or first.h.shape[1] != batch:
                return False
            if others and (first.mask is not None or not same_weights(own)):
                return False
            if any(not isinstance(call, Call) or call.link != "same" for call in others):
                return False
            layers = [call for call in own if isinstance(call, Call)]
            fed = len(own) == len(below) and all(c.fed_by is b for c, b in zip(layers, below, strict=True))
            if not fed and not all(call.own_input for call in layers):
                return False
            below = own
        return True


class _Head:
    """What lies above the layers of a causal stack, by the gradients of what it sees of them."""

    def __init__(self, graph: Graph) -> None:
        self._losses, self._counts, self._exposed = graph.losses, graph.alive.ne(0), graph.recorder.exposed
        self._runs = {label: [c for c in own if isinstance(c, Call)] for label, own in graph.runs.items()}
        self._tensors = [exposed.tensor for exposed in self._exposed]
        blocks = sum(len(call.h) for own in self._runs.values() for call in own if call.block is not None)
        self._steps = len(self._tensors) + blocks
        self._elsewhere = [i for i, exposed in enumerate(self._exposed) if exposed.calls is None]
        # By layer, for each way in which the rest of the model sees it: where the gradients of its calls are found, and
        # in which row.
        self._places: dict[str, list[list[tuple[int, int | None] | None]]] = {}
        seen: dict[int, list[tuple[int, int | None]]] = {}
        for i, exposed in enumerate(self._exposed):
            for row, call in enumerate(exposed.calls or ()):
                seen.setdefault(id(call), []).append((i, None if exposed.is_output else row))
        for label, own in self._runs.items():
            ways = max(len(seen.get(id(call), ())) for call in own)
            self._places[label] = [
                [places[way] if way < len(places := seen.get(id(call), [])) else None for call in own]
                for way in range(ways)
            ]

    def seen(self, directions: list[Tensor]) -> Iterator[dict[str, Tensor] | None]:
        """∂⟨direction, losses⟩/∂output of each layer `(T, B, P)`; None where other states have a gradient too."""
        sent = torch.where(self._counts, torch.stack(directions), 0.0)
        size = len(sent) * sum(t.numel() for t in self._tensors)
        if self._steps >= _MANY and size <= _MANY_NUMBERS:  # the way through the graph takes longer than sums
            try:
                with quiet_vmap():
                    together = torch.func.vmap(self._gradients)(sent)
            except Exception:  # an operator or a hook that does not take several gradients at once
                together = None
            if together is not None:
                yield from self._by_layer(together)
                return
        for direction in sent:
            yield from self._by_layer([g.unsqueeze(0) for g in self._gradients(direction)])

    def _gradients(self, direction: Tensor) -> tuple[Tensor, ...]:
        found: Sequence[Tensor | None] = torch.autograd.grad(
            self._losses, self._tensors, direction, retain_graph=True, allow_unused=True
        )
        return tuple(direction.new_zeros(()) if g is None else g for g in found)

    def _by_layer(self, found: Sequence[Tensor]) -> list[dict[str, Tensor] | None]:
        """Gradients `(N, …)` of all tensors, of N directions, by direction and layer."""
        n = len(found[0])
        other = torch.zeros(n, dtype=torch.bool, device=found[0].device)
        for i in self._elsewhere:
            if found[i].dim() > 1:
                other = other | found[i].flatten(1).ne(0).any(1)
        there = [g if g.dim() > 1 else None for g in found]
        layers = {label: self._joined(label, own, there, n) for label, own in self._runs.items()}
        return [
            None if mixed else {label: g[i] for label, g in layers.items()} for i, mixed in enumerate(other.tolist())
        ]

    def _joined(self, label: str, own: list[Call], found: Sequence[Tensor | None], n: int) -> Tensor:
        whole: Tensor | None = None
        for places in self._places[label]:
            rows = [None if place is None else found[place[0]] for place in places]
            if all(row is None for row in rows):
                continue
            parts = [self._row(call, row, place, n) for call, row, place in zip(own, rows, places, strict=True)]
            part = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            whole = part if whole is None else whole + part
        if whole is None:
            whole = torch.cat([torch.zeros_like(call.h) for call in own]).expand(n, -1, -1, -1)
        return whole if own[0].order is None else whole[:, :, own[0].order]

    @staticmethod
    def _row(call: Call, g: Tensor | None, place: tuple[int, int | None] | None, n: int) -> Tensor:
        """The gradient of one call's outputs `(N, T, B, P)`."""
        if g is None or place is None:
            return torch.zeros_like(call.h).expand(n, -1, -1, -1)
        if place[1] is not None and g.dim() == 4:  # the last outputs of several layers
            g = g[:, place[1]]
        if g.dim() == 4:
            return g[:, : len(call.h)]
        g = g.unsqueeze(1)
        return g if len(call.h) == 1 else torch.cat([g.new_zeros(n, len(call.h) - 1, *g.shape[2:]), g], 1)


def _leaks(seen: dict[str, Tensor] | None, levels: Tensor, *, axis: int) -> bool:
    """Whether what was sent at one level arrives at steps (axis 0) or sequences (axis 1) of a lower one."""
    if seen is None:
        return True
    blank, whole = levels.eq(0), levels.isfinite()
    sizes = [g.abs().sum((2, 1 - axis)) for g in seen.values()]
    return any(bool((blank & size.ne(0)).any() or (whole & size.isnan()).any()) for size in sizes)


MIXED = (
    "sequences are mixed (batch normalization in training mode?): the loss of one depends on the states of others, and "
    "‖∂E_t/∂s_k‖ of a sequence sums over the losses of all"
)


@contextlib.contextmanager
def closed(calls: list[AnyCall]) -> Iterator[None]:
    """Send nothing back through recorded layers inside the block."""
    layers = [call for call in calls if isinstance(call, Call)]
    for call in layers:
        call.closed = True
    try:
        yield
    finally:
        for call in layers:
            call.closed = False


@lru_cache(maxsize=4)
def _levels(steps: int) -> Tensor:
    """For each pass the level of each step, 0, 1 or NaN for 2: `(passes, steps)`."""
    # A step's levels over p passes add up to p, and no two steps have the same: where one is lower somewhere, it is
    # higher elsewhere. There are Σ_i C(p, 2i) C(2i, i) ways to reach the sum, i of the levels being 0 and i being 2.
    passes = next(p for p in count(1) if sum(comb(p, 2 * i) * comb(2 * i, i) for i in range(p // 2 + 1)) >= steps)
    table = torch.tensor(list(islice(_adding_up(passes, passes), steps)), dtype=torch.float64).T
    return torch.where(table == 2, torch.nan, table).contiguous()


def _adding_up(size: int, total: int) -> Iterator[tuple[int, ...]]:
    """Rows of ``size`` numbers from 0 to 2 that add up to ``total``."""
    if size == 0:
        yield ()
        return
    for first in range(max(0, total - 2 * (size - 1)), min(2, total) + 1):
        for rest in _adding_up(size - 1, total - first):
            yield first, *rest


def distinct_weights(steps: int) -> Tensor:
    """Numbers of no simple ratio, so that what two losses send to a third step cannot cancel: `(steps,)`."""
    return 0.5 + torch.arange(1, steps + 1, dtype=torch.float64).mul(0.6180339887498949).frac()


@dataclass
class StepwiseRun:
    """A recurrence whose Jacobians are found in the user's graph: marked by hand, or more than its cell.

    ``states`` is what each step hands on, in the order of time; None where that is not in the graph.
    """

    calls: Sequence[AnyCall]
    states: Sequence[tuple[StatePart, ...] | None]

    @property
    def steps(self) -> int:
        """T."""
        return sum(len(call.h) for call in self.calls)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.calls[0].h.shape[1]

    @property
    def state_size(self) -> int:
        """Numbers in s_k."""
        known = next((states for states in self.states if states is not None), ())
        return sum(flat(part.of(part.tensor)).shape[1] for part in known)

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last step to the first."""
        return self.calls[0].reverse

    @property
    def mask(self) -> Tensor | None:
        """`(T, B)` bool, false on padding."""
        live = [call.mask for call in self.calls if call.mask is not None]
        return torch.cat(live) if len(live) == len(self.calls) else None

    @property
    def known(self) -> range:
        """The steps whose Jacobian is known, in the order it runs: those that have a state before and after them."""
        there = [states is not None for states in (self.states[::-1] if self.reverse else self.states)]
        found = [k for k in range(1, len(there)) if there[k - 1] and there[k]]
        return range(found[0], found[-1] + 1) if found else range(0)

    def jacobians(self, first: int, last: int) -> Iterator[Tensor]:
        """∂s_k/∂s_{k−1} `(B, S, S)` in float64 for ``first`` ≤ k < ``last``, in the order it runs.

        Raises
        ------
        FlowError
            The state that a step starts from does not separate it from the steps before.
        """
        if len(self.calls) != self.steps:
            raise FlowError(
                f"{_name(self.calls[0])} ran over several steps at a time, with its state changed between these runs: "
                "its Jacobians are known only of runs without that. Call it once, or step by step."
            )
        states = self.states[::-1] if self.reverse else self.states
        for before, after in zip(states[first - 1 : last - 1], states[first:last], strict=True):
            assert before is not None and after is not None
            if isinstance(self.calls[0], Call):
                self._check_separates(before, after)
            yield _jacobian(before, after)

    def _check_separates(self, before: tuple[StatePart, ...], after: tuple[StatePart, ...]) -> None:
        stop = {part.tensor.grad_fn for part in before}
        crossed = 0
        open_nodes: list[Any] = [part.tensor.grad_fn for part in after]
        seen = set(stop)
        while open_nodes:
            node = open_nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            call = call_of(node)
            if call is not None and call.track == self.calls[0].track:
                crossed += 1
                continue
            open_nodes += [behind for behind, _ in node.next_functions]
        if crossed > 1:
            raise FlowError(
                f"The Jacobians of {_name(self.calls[0])} are not known: a step looks at states before the one that it "
                "starts from. Mark the state that the loop hands on, h = retrograde.mark_state(h), and ask about that."
            )


def _name(call: AnyCall) -> str:
    return ".".join(part for part in call.track if part and part != "cell") or "the cell"


def _jacobian(before: tuple[StatePart, ...], after: tuple[StatePart, ...]) -> Tensor:
    ends = [part.of(part.tensor) for part in after]
    starts = [part.tensor for part in before]
    sizes = [flat(end).shape[1] for end in ends]
    batch = flat(ends[0]).shape[0]

    def row(unit: Tensor) -> Tensor:
        units = [u.expand(batch, -1).reshape(s.shape) for u, s in zip(torch.split(unit, sizes), ends, strict=True)]
        found = torch.autograd.grad(ends, starts, units, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(s) if g is None else g for g, s in zip(found, starts, strict=True)]
        return torch.cat([flat(part.of(g)) for part, g in zip(before, parts, strict=True)], -1)

    basis = torch.eye(sum(sizes), dtype=ends[0].dtype, device=ends[0].device)
    try:
        with quiet_vmap():
            rows = torch.func.vmap(row, chunk_size=256)(basis)
    except RuntimeError:  # vmap refuses the model's operators
        rows = torch.stack([row(unit) for unit in basis])
    whole: Tensor = rows.transpose(0, 1).double()
    return whole


@contextlib.contextmanager
def quiet_vmap() -> Iterator[None]:
    """Operators that vmap runs one by one are slow, not wrong: nothing to warn a user of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop because we have not yet implemented.*")
        yield


def _numbers(call: AnyCall) -> int:
    """That one loss sent back takes."""
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
