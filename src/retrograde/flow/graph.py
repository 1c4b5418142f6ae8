"""The graph a measurement walks: the user's losses, the recorded layers, and losses sent back in blocks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from itertools import combinations, count
from math import comb
from typing import Any

import torch
from torch import Tensor

from .capture import Call, Recorder
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
    tracks: dict[str, list[Call]]
    wanted: list[str]
    alive: Tensor
    notes: list[str] = field(default_factory=list)
    vectorised: bool = True

    @property
    def block(self) -> int:
        """How many losses go back at once, within a bound on memory: `O(T·B·H)` each."""
        widest = max(
            c.run.steps * c.run.batch_size * (c.run.weights.hh.shape[0] + c.run.x.shape[2]) for c in self.recorder.calls
        )
        outside = self.losses.numel()
        return max(1, min(64, _BLOCK_BYTES // (self.losses.element_size() * (3 * widest + outside))))

    def send(self, directions: Tensor, *, keep: bool = False) -> dict[str, Swept]:
        """Send ⟨direction, losses⟩ back for each of N directions `(N, T, B)`.

        Returns
        -------
        dict of Swept
            By label, over all calls of the layer, sequences in the user's order; layers without a path are left out.
        """
        tracks = {label: self.tracks[label] for label in self.wanted}
        calls = [call for own in tracks.values() for call in own]
        for call in self.recorder.calls:
            call.keep = keep
        directions = directions * self.alive
        swept: list[dict[Call, Swept]] = []
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

    def _backward(self, directions: Tensor, calls: list[Call], *, batched: bool) -> dict[Call, Swept]:
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

    def trajectory(self, label: str) -> Trajectory:
        """A layer's run as one, sequences in the user's order."""
        own = self.tracks[label]
        return Trajectory.joined([c.run if c.order is None else c.run.reordered(c.order) for c in own])

    def local_adjoints(self) -> dict[Call, Tensor] | None:
        """∂E_t/∂(output_t) of each layer if the head looks at one step of one sequence at a time, else None.

        The test is exact. Give every (t, b) a set of its own, out of equal-sized sets of which none contains another.
        Then for any two there is a set with the first and without the second; a backward pass of the losses in that
        set must leave zero at all the others, or the head mixes. It takes about log₂(T·B) passes through the head.
        """
        calls, losses = self.recorder.calls, self.losses
        chain = all(
            not call.run.reverse
            and (i == 0 or (call.fed_by is calls[i - 1] and call.own_state))
            and call.run.h.shape[:2] == losses.shape
            for i, call in enumerate(calls)
        )
        if not chain or not self.recorder.only_layers or len({call.track for call in calls}) != len(calls):
            return None
        exposed = self.recorder.exposed
        tensors = [e.tensor for e in exposed]

        def gradients(direction: Tensor) -> list[Tensor | None]:
            return list(
                torch.autograd.grad(losses, tensors, direction * self.alive, retain_graph=True, allow_unused=True)
            )

        size = next(m for m in count(2) if comb(m, m // 2) >= losses.numel())
        sets = torch.zeros(losses.numel(), size, dtype=torch.bool)
        chosen = [c for _, c in zip(range(losses.numel()), combinations(range(size), size // 2), strict=False)]
        sets.scatter_(1, torch.tensor(chosen), True)
        # Weights of no simple ratio, so that what two losses send to a third cannot cancel.
        weights = 0.5 + torch.arange(1, losses.numel() + 1, dtype=torch.float64).mul(0.6180339887498949).frac()
        for column in sets.T:
            inside = column.view(losses.shape).to(losses.device)
            direction = (column * weights).view(losses.shape).to(losses)
            for (_, call), g in zip(exposed, gradients(direction), strict=True):
                if g is None:
                    continue
                if call is None:
                    if g.any():
                        return None
                    continue
                outside = ~inside if call.order is None else ~_sorted(inside, call.order)
                if g[outside].any():
                    return None
        local = {c: torch.zeros_like(c.run.h) for c in calls}
        for (_, call), g in zip(exposed, gradients(torch.ones_like(losses)), strict=True):
            if call is not None and g is not None:
                local[call] += g
        return {c: g if c.order is None else g[:, c.order] for c, g in local.items()}


@contextlib.contextmanager
def quiet_vmap() -> Iterator[None]:
    """Operators that vmap runs one by one are slow, not wrong: nothing to warn a user of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop because we have not yet implemented.*")
        yield


def _sorted(table: Tensor, order: Tensor) -> Tensor:
    """`(T, B)` in the user's order to the order of the packed run (the inverse of ``[:, order]``)."""
    result = torch.empty_like(table)
    result[:, order] = table
    return result


def _nothing(call: Call, keep: bool) -> Swept:
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


def _in_order(swept: Swept, call: Call) -> Swept:
    order = call.order
    return swept if order is None else _each([swept], lambda parts: parts[0][:, :, order])
