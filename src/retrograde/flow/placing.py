"""Collects, while losses are sent back, what tells where each loss stands on a layer's steps; then settles it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OptionError
from .alignment import Alignment, Reach, aligned, for_layer, stated, touched
from .axis import Axis
from .calls import AnyCall, Marked
from .graph import MIXED, Graph
from .loops import has_unseen_loop
from .recurrence import Swept
from .runs import base

__all__ = ["Placing"]

Array = NDArray[np.float64]
_ROWS = 5  # losses that show where they stand: with fewer, a few more are sent back


class Placing:
    """Where the losses stand on each layer that is measured."""

    def __init__(self, graph: Graph, rows: Tensor, *, final: bool, loss_at: Any) -> None:
        self._graph, self._rows, self._final, self._loss_at = graph, rows, final, loss_at
        self._labels = list(graph.wanted)
        self._parts: dict[str, list[Reach]] = {label: [] for label in self._labels}
        self._settled: list[Alignment] | None = None
        self._kept: list[dict[int, Array]] = [{} for _ in self._labels]  # by target: norms by distance
        if isinstance(loss_at, Mapping):
            known = {*self._labels, *map(base, self._labels)}
            if unknown := [str(name) for name in loss_at if name not in known]:
                raise OptionError(f"loss_at names {', '.join(unknown)}; the layers are {', '.join(self._labels)}.")
        for label in self._labels if loss_at is not None else ():
            self._said(label)  # before anything is measured

    def by_distance(self, norms: Array) -> list[Array | None]:
        """By layer, where its sequences stand at different steps: norms by distance `(targets, T, …)`, else None.

        The distance is from the nearest state that the sequence's loss looks at; NaN where no sequence has it.
        """
        found: list[Array | None] = []
        for i, (label, own) in enumerate(zip(self._labels, self.alignments(), strict=True)):
            if not own.by_sequence:
                found.append(None)
                continue
            whole = np.full_like(norms[i], np.nan)
            reach = self._reach(label)
            near = dict(zip(reach.rows.tolist(), self._nearest(label, reach).max(1).tolist(), strict=True))
            for n, t in enumerate(self._rows.tolist()):
                if t in self._kept[i]:
                    whole[n, : len(self._kept[i][t])] = self._kept[i][t]
                elif near.get(t, -1) >= 0:  # all sequences alike
                    ahead = norms[i, n, near[t] : self._steps(label)] if self._reverse(label) else None
                    along = norms[i, n, : near[t] + 1][::-1] if ahead is None else ahead
                    whole[n, : len(along)] = along
            found.append(whole)
        return found

    def note(self, rows: Tensor, swept: dict[str, Swept]) -> None:
        """Note which states the losses of these steps have a gradient of."""
        for label, own in swept.items():
            size = own.h if own.c is None else own.h + own.c
            exists = size.ne(0).cpu().numpy()  # NaN and infinity too
            self._parts[label].append(Reach(rows.numpy(), *touched(exists)))

    def keep(
        self,
        i: int,
        label: str,
        place: slice,
        norms: Tensor,
        exists: Tensor,
        reduced: Callable[[Tensor, Tensor], Array],
    ) -> None:
        """Keep norms by the distance of s_k from the nearest state that the loss looks at, reduced over the batch."""
        near = torch.from_numpy(self._nearest(label, self._parts[label][-1]))
        said = self._said(label)
        if said is not None and self._final:
            near = torch.from_numpy(said.at).expand_as(near)
        top = near.max(1, keepdim=True).values
        if not self._final and ((near == top) | (near < 0)).all():
            return  # the norms themselves tell
        steps = norms.shape[1]
        away = torch.arange(steps).view(1, -1, 1)
        k = near.unsqueeze(1) + away if self._reverse(label) else near.unsqueeze(1) - away
        there = (k >= 0) & (k < steps) & near.unsqueeze(1).ge(0)
        k = k.clamp(0, steps - 1)
        distances = reduced(norms.gather(1, k), there & exists.expand_as(norms).gather(1, k))
        self._kept[i] |= dict(zip(self._rows[place].tolist(), distances, strict=True))

    def settle(self) -> None:
        """All losses that are followed were sent back: find where they stand, from a few more if they are few."""
        graph = self._graph
        others = [label for label in graph.runs if label not in self._labels]
        if not self._final and (others or len(self._rows) < min(_ROWS, len(graph.losses))):
            self._send_more(others)
        unseen = has_unseen_loop(graph)
        changed = any(getattr(call, "link", None) == "changed" for own in graph.runs.values() for call in own)
        if unseen and not changed:
            graph.notes.append(
                "a loop over steps is in the model that is no part of the measurement: a recurrence of your own is "
                "seen if its state is marked at every step (h = retrograde.mark_state(h))"
            )
        if graph.mixes_sequences() and MIXED not in graph.notes:
            graph.notes.append(MIXED)
        axis = None if self._final else Axis.of(graph, self._rows.numpy(), {k: self._reach(k) for k in graph.runs})
        self._settled = []
        for label in self._labels:
            found = self._said(label) or self._found(label, self._reach(label), axis, unseen)
            said = found.kind != "step" or f"{label}_reverse" not in graph.runs
            if found.reason and said and found.reason not in graph.notes:
                graph.notes.append(found.reason)
            self._settled.append(found)

    def alignments(self) -> list[Alignment]:
        """By layer; each loss at its own step where nothing else was found."""
        if self._settled is None:
            t = self._rows.numpy()[:, None]
            own = [self._said(label) for label in self._labels]
            zero = np.zeros(len(t), dtype=np.int64)
            self._settled = [
                said or Alignment("step", t, self._reverse(label), zero)
                for said, label in zip(own, self._labels, strict=True)
            ]
        return self._settled

    def _found(self, label: str, reach: Reach, axis: Axis | None, unseen: bool) -> Alignment:
        steps, reverse = self._steps(label), self._reverse(label)
        encodes = False
        if axis is not None:
            if (known := axis.place(label, reach)) is not None:
                return known
            encodes = bool(axis.at) or unseen or axis.forecasts or label in axis.before
        return aligned(
            reach,
            self._rows.numpy(),
            steps,
            len(self._graph.losses),
            reverse=reverse,
            final=self._final,
            encodes=encodes,
            follows=axis is not None and label in axis.at,
            label=label,
            along=None if axis is None else axis.along(reach),
        )

    def _said(self, label: str) -> Alignment | None:
        own = for_layer(self._loss_at, label)
        if own is None:
            return None
        steps, batch = self._graph.losses.shape
        rows = self._rows.numpy()
        return stated(own, rows, steps, batch, reverse=self._reverse(label), final=self._final)

    def _reach(self, label: str) -> Reach:
        parts = self._parts[label]
        if not parts:
            none = np.full((len(self._rows), self._graph.runs[label][0].h.shape[1]), -1)
            return Reach(self._rows.numpy(), none, none)
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows)
        first, last = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("first", "last"))
        return Reach(rows[order], first, last)

    def _send_more(self, others: list[str]) -> None:
        """A few losses by which the place of all is found, also on the layers that are not measured."""
        graph, known = self._graph, set(self._rows.tolist())
        counts = (graph.losses.detach().ne(0) & graph.alive.ne(0)).any(1).cpu()
        alive = [int(t) for t in counts.nonzero().flatten()]
        few = {*alive[:2], *alive[-2:], *alive[len(alive) // 2 :][:1]}
        rows = torch.tensor(sorted(few if others else few - known), dtype=torch.long)
        self._parts |= {label: [] for label in others}
        if not len(rows):
            return
        asked, graph.wanted = graph.wanted, [*graph.wanted, *others]
        try:
            swept = graph.send_rows(rows)
        finally:
            graph.wanted = asked
        self.note(rows, {label: own for label, own in swept.items() if label in others})
        new = [i for i, t in enumerate(rows.tolist()) if t not in known]
        if new and len(self._rows) < _ROWS:
            own = {label: one for label, one in swept.items() if label not in others}
            self.note(rows[new], {label: one.rows(new) for label, one in own.items()})

    def _nearest(self, label: str, reach: Reach) -> NDArray[np.int64]:
        """The state that each loss looks at without a step of the layer between, `(rows, B)`."""
        return reach.first if self._reverse(label) else reach.last

    def _steps(self, label: str) -> int:
        return sum(len(call.h) for call in self._graph.runs[label])

    def _reverse(self, label: str) -> bool:
        first: AnyCall = self._graph.runs[label][0]
        return first.track[1].endswith("_reverse") if isinstance(first, Marked) else first.reverse
