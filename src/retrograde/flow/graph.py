"""The graph a measurement walks: the user's losses, the recorded layers, and losses sent back in blocks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import count, islice
from math import comb
from typing import Any

import torch
from torch import Tensor

from .capture import AnyCall, Call, Marked, Recorder, flat
from .cells import Trajectory
from .recurrence import Swept

_BLOCK_BYTES = 128 * 2**20


@dataclass
class Graph:
    """Losses `(T, B)` and the layers below them, by label; each layer is the calls it ran in, in order.

    ``wanted`` are the labels of the layers asked for; ``alive`` `(T, B)` is 1 where a loss counts, 0 on padding.
    """

    losses: Tensor
    recorder: Recorder
    tracks: dict[str, list[AnyCall]]
    wanted: list[str]
    alive: Tensor
    notes: list[str] = field(default_factory=list)
    vectorised: bool = True

    @property
    def block(self) -> int:
        """How many losses go back at once, within a bound on memory: `O(T·B·H)` each."""
        widest = max(c.h.shape[0] * c.h.shape[1] * c.width for c in self.recorder.calls)
        outside = self.losses.numel()
        return max(1, min(64, _BLOCK_BYTES // (self.losses.element_size() * (3 * widest + outside))))

    def send(self, directions: Tensor, *, keep: bool = False) -> dict[str, Swept]:
        """Send ⟨direction, losses⟩ back for each of N directions `(N, T, B)`.

        Returns
        -------
        dict of Swept
            By label, over all calls of the layer, sequences in the user's order; layers without a path are left out;
            so are marked states where ``keep`` asks for what only a layer has.
        """
        tracks = {label: self.tracks[label] for label in self.wanted}
        if keep:  # of a marked state there is nothing more to keep
            tracks = {label: own for label, own in tracks.items() if not isinstance(own[0], Marked)}
        calls = [call for own in tracks.values() for call in own]
        for call in self.recorder.calls:
            call.keep = keep
        directions = directions * self.alive
        swept: list[dict[AnyCall, Swept]] = []
        if self.vectorised:
            try:
                swept = [self._backward(directions, calls, batched=True)]
            except RuntimeError as refusal:
                if "version" in str(refusal) or "second time" in str(refusal):
                    raise
                self.vectorised = False
                reason = str(refusal).splitlines()[0]
                self.notes.append(f"one target at a time: vmap refused this model ({reason})")
        if not self.vectorised:
            swept = [self._backward(direction, calls, batched=False) for direction in directions]
        found = {}
        for label, own in tracks.items():
            parts = [[s.get(call) or _nothing(call, keep) for s in swept] for call in own]
            if any(call in s for s in swept for call in own):
                rows = [_in_order(_joined(part, 0), call) for part, call in zip(parts, own, strict=True)]
                size = max(len(row.h) for row in rows)
                found[label] = _joined([_spread(row, size) for row in rows], 1)
        for call in self.recorder.calls:
            call.swept = None
        return found

    def _backward(self, directions: Tensor, calls: list[AnyCall], *, batched: bool) -> dict[AnyCall, Swept]:
        for call in self.recorder.calls:
            call.swept = None
        probes = [call.probe for call in calls]

        def once(direction: Tensor) -> Tensor:
            torch.autograd.grad(self.losses, probes, direction, retain_graph=True, allow_unused=True)
            return direction.sum()

        if batched:
            with quiet_vmap():
                torch.func.vmap(once)(directions)
        else:
            once(directions)
        return {call: call.swept for call in calls if call.swept is not None}

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
        own = [call for call in self.tracks[label] if isinstance(call, Call)]
        return Trajectory.joined([c.run if c.order is None else c.run.reordered(c.order) for c in own])

    def is_marked(self, label: str) -> bool:
        """Whether a layer is a recurrence written by hand."""
        return isinstance(self.tracks[label][0], Marked)

    def marked(self, label: str) -> MarkedRun:
        """The run of a recurrence written by hand."""
        return MarkedRun([call for call in self.tracks[label] if isinstance(call, Marked)])

    def local_adjoints(self) -> dict[Call, Tensor] | None:
        """∂E_t/∂(output_t) of each layer if the head looks at one step at a time, else None.

        The layers are then one causal stack, or several side by side.

        The test is exact. Each step has a level in every one of a few backward passes: 0, its losses are left out;
        1, they are sent back; 2, they are sent back as NaN. What comes out must be zero at the steps of level 0 and no
        NaN at those of level 1, or the head mixes; and of any two steps each is above the other in some pass. It takes
        about log₃ T passes through the head.
        """
        calls, losses = [call for call in self.recorder.calls if isinstance(call, Call)], self.losses
        chain = all(
            not call.run.reverse
            and (i == 0 or (call.own_state and (call.own_input or call.fed_by is calls[i - 1])))
            and call.run.h.shape[:2] == losses.shape
            for i, call in enumerate(calls)
        )
        if not chain or not self.recorder.only_layers or len({call.track for call in calls}) != len(calls):
            return None
        if any(call.fed is not None and call.fed._backward_hooks for call in calls):  # they may change the gradient
            return None
        calls_of = [call for _, call in self.recorder.exposed]
        tensors = [tensor for tensor, _ in self.recorder.exposed]
        counts = self.alive.ne(0)

        def gradients(direction: Tensor) -> list[Tensor | None]:
            sent = torch.where(counts, direction, 0.0)
            return list(torch.autograd.grad(losses, tensors, sent, retain_graph=True, allow_unused=True))

        def mixes(direction: Tensor, blank: Tensor, whole: Tensor) -> bool:
            for call, g in zip(calls_of, gradients(direction), strict=True):
                if g is None:
                    continue
                if call is None:
                    if g.any():
                        return True
                    continue
                size = g.abs().sum((1, 2))
                if (blank & size.ne(0)).any() or (whole & size.isnan()).any():
                    return True
            return False

        levels = _levels(len(losses)).to(losses)
        directions = (levels * _weights(len(losses)).to(losses)).unsqueeze(-1)
        # Nothing here is to be recorded, and what one layer sends to the next is no matter of the head's.
        with torch._C.DisableTorchFunction(), _closed(calls):
            try:
                with torch.autograd.set_detect_anomaly(False):  # the NaN is meant
                    if any(map(mixes, directions, levels.eq(0), levels.isfinite())):
                        return None
            except Exception:  # a hook of the user's that will have no NaN: not proved
                return None
            found = gradients(torch.ones_like(losses))
        local = {c: torch.zeros_like(c.run.h) for c in calls}
        for call, g in zip(calls_of, found, strict=True):
            if call is not None and g is not None:
                local[call] += g
        return {c: g if c.order is None else g[:, c.order] for c, g in local.items()}


@contextlib.contextmanager
def _closed(calls: list[Call]) -> Iterator[None]:
    for call in calls:
        call.closed = True
    try:
        yield
    finally:
        for call in calls:
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


def _weights(steps: int) -> Tensor:
    """Numbers of no simple ratio, so that what two losses send to a third step cannot cancel: `(steps,)`."""
    return 0.5 + torch.arange(1, steps + 1, dtype=torch.float64).mul(0.6180339887498949).frac()


@dataclass
class MarkedRun:
    """A recurrence written by hand, by its marked states, steps in the order of time."""

    calls: list[Marked]

    @property
    def steps(self) -> int:
        """T."""
        return len(self.calls)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.calls[0].h.shape[1]

    @property
    def state_size(self) -> int:
        """Numbers in s_k."""
        return self.calls[0].h.shape[2]

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last step to the first."""
        return self.calls[0].reverse

    @property
    def mask(self) -> Tensor | None:
        """`(T, B)` bool, false on padding."""
        live = [call.mask for call in self.calls if call.mask is not None]
        return torch.cat(live) if len(live) == len(self.calls) else None

    def jacobians(self, first: int, last: int) -> Iterator[Tensor]:
        """∂s_k/∂s_{k−1} `(B, S, S)` in float64, in the order it runs; the state before the first step is not known."""
        calls = self.calls[::-1] if self.reverse else self.calls
        for before, call in zip(calls[max(first, 1) - 1 : last - 1], calls[max(first, 1) : last], strict=True):
            yield _jacobian(before.states, call.states)


def _jacobian(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> Tensor:
    sizes = [flat(state).shape[1] for state in after]
    batch = flat(after[0]).shape[0]

    def row(unit: Tensor) -> Tensor:
        units = [u.expand(batch, -1).reshape(s.shape) for u, s in zip(torch.split(unit, sizes), after, strict=True)]
        found = torch.autograd.grad(after, before, units, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(s) if g is None else g for g, s in zip(found, before, strict=True)]
        return torch.cat([flat(part) for part in parts], -1)

    basis = torch.eye(sum(sizes), dtype=after[0].dtype, device=after[0].device)
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


def _nothing(call: AnyCall, keep: bool) -> Swept:
    if isinstance(call, Marked):
        zeros = torch.zeros(1, *call.h.shape[:2], dtype=torch.float64, device=call.h.device)
        return Swept(zeros, zeros if len(call.states) > 1 else None, None)
    run = call.run
    zeros = torch.zeros(1, run.steps, run.batch_size, dtype=torch.float64, device=run.x.device)
    cell = zeros if run.kind == "lstm" else None
    if not keep:
        return Swept(zeros, cell, cell)
    wide = run.x.new_zeros(1, run.steps, run.batch_size, run.weights.hh.shape[0])
    states = None if run.weights.hr is None else run.x.new_zeros(1, *run.h.shape)
    return Swept(zeros, cell, cell, wide, wide, states)


def _each(swept: list[Swept], how: Callable[[list[Tensor]], Tensor]) -> Swept:
    values: dict[str, Any] = {}
    for f in fields(Swept):
        own = [getattr(s, f.name) for s in swept]
        values[f.name] = None if any(a is None for a in own) else how(own)
    return Swept(**values)


def _joined(swept: list[Swept], axis: int) -> Swept:
    return swept[0] if len(swept) == 1 else _each(swept, lambda parts: torch.cat(parts, axis))


def _spread(swept: Swept, size: int) -> Swept:
    return swept if len(swept.h) == size else _each([swept], lambda parts: parts[0].expand(size, *parts[0].shape[1:]))


def _in_order(swept: Swept, call: AnyCall) -> Swept:
    order = call.order
    return swept if order is None else _each([swept], lambda parts: parts[0][:, :, order])
