"""Find where each loss is on the steps of every layer, from what comes back while losses are sent back.

A layer runs along the losses if the states they depend on move on with them, or if it feeds such a layer step by step:
the lower layers of a tagger, a pyramid. An encoder does neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import OptionError
from ..recording.calls import AnyCall, Call
from ..recording.graph import MIXED, Graph
from ..recording.runs import base, batch_of, steps_of
from ..recurrence.adjoint import Adjoints
from .alignment import NEVER, Alignment, Reach, aligned, extrapolated, for_layer, moves, one_column, stated
from .dependence import Dependence
from .loops import has_unseen_loop

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
_ROWS = 5  # losses that show where the others are: with fewer, a few more are sent back


class LossPositions:
    """Where the losses are on each layer that is measured."""

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
            self._stated(label)  # refused before anything is measured

    # --- While losses are sent back -----------------------------------------------------------------------------------

    def note(self, rows: Tensor, adjoints: dict[str, Adjoints]) -> None:
        """Note which states the losses of these steps have a gradient of."""
        for label, own in adjoints.items():
            exists = (own.h if own.c is None else own.h + own.c).ne(0).cpu().numpy()  # NaN and infinity too
            self._parts[label].append(Reach.of(rows.numpy(), exists))

    def keep(
        self,
        i: int,
        label: str,
        place: slice,
        norms: Tensor,
        exists: Tensor,
        reduced: Callable[[Tensor, Tensor], Array],
    ) -> None:
        """Keep norms by the distance of s_k from the nearest state that the loss depends on, reduced over the batch."""
        reverse = _is_reverse(self._graph, label)
        near = torch.from_numpy(self._parts[label][-1].nearest(reverse))
        given = self._stated(label)
        if given is not None and self._final:
            near = torch.from_numpy(given.at).expand_as(near)
        top = near.max(1, keepdim=True).values
        if not self._final and ((near == top) | (near < 0)).all():
            return  # then `norms` has them
        steps = norms.shape[1]
        away = torch.arange(steps, device="cpu").view(1, -1, 1)
        k = near.unsqueeze(1) + away if reverse else near.unsqueeze(1) - away
        there = (k >= 0) & (k < steps) & near.unsqueeze(1).ge(0)
        k = k.clamp(0, steps - 1)
        distances = reduced(norms.gather(1, k), there & exists.expand_as(norms).gather(1, k))
        self._kept[i] |= dict(zip(self._rows[place].tolist(), distances, strict=True))

    def settle(self) -> None:
        """After all losses were sent back: find where they are, with the help of a few more losses if they are few."""
        graph = self._graph
        others = [label for label in graph.runs if label not in self._labels]
        if not self._final and (others or len(self._rows) < min(_ROWS, len(graph.losses))):
            self._send_more(others)
        unseen = has_unseen_loop(graph)
        changed = any(getattr(call, "link", None) == "changed" for own in graph.runs.values() for call in own)
        if unseen and not changed:
            graph.notes.append(
                "the model has a loop over steps that is not measured: a recurrence of your own is measured if its "
                "state is marked at every step (h = retrograde.mark_state(h))"
            )
        if graph.mixes_sequences() and MIXED not in graph.notes:
            graph.notes.append(MIXED)
        reaches = {label: self._reach(label) for label in graph.runs}
        along = None if self._final else _LayersAlong(graph, self._rows.numpy(), reaches)
        self._settled = []
        for label in self._labels:
            found = self._stated(label) or self._found(label, reaches[label], along, unseen)
            noted = found.kind != "step" or f"{label}_reverse" not in graph.runs
            if found.reason and noted and found.reason not in graph.notes:
                graph.notes.append(found.reason)
            self._settled.append(found)

    def _send_more(self, others: list[str]) -> None:
        """Send a few losses back that show where all are, also on the layers that are not measured."""
        graph, known = self._graph, set(self._rows.tolist())
        counts = (graph.losses.detach().ne(0) & graph.alive.ne(0)).any(1).cpu()
        alive = [int(t) for t in counts.nonzero().flatten()]
        few = {*alive[:2], *alive[-2:], *alive[len(alive) // 2 :][:1]}
        rows = torch.tensor(sorted(few if others else few - known), dtype=torch.long, device="cpu")
        self._parts |= {label: [] for label in others}
        if not len(rows):
            return
        asked, graph.wanted = graph.wanted, [*graph.wanted, *others]
        try:
            adjoints = graph.send_rows(rows)
        finally:
            graph.wanted = asked
        self.note(rows, {label: own for label, own in adjoints.items() if label in others})
        new = [i for i, t in enumerate(rows.tolist()) if t not in known]
        if new and len(self._rows) < _ROWS:
            self.note(rows[new], {label: own.rows(new) for label, own in adjoints.items() if label not in others})

    # --- Afterwards ---------------------------------------------------------------------------------------------------

    def alignments(self) -> list[Alignment]:
        """By layer; each loss at its own step where nothing else was found."""
        if self._settled is None:
            own_step = self._rows.numpy()[:, None]
            self._settled = [
                self._stated(label) or Alignment("step", own_step, _is_reverse(self._graph, label))
                for label in self._labels
            ]
        return self._settled

    def by_distance(self, norms: Array) -> list[Array | None]:
        """By layer, where its sequences differ in the steps of the losses: norms by distance `(targets, T, …)`.

        The distance is from the nearest state that the sequence's loss depends on; NaN where no sequence has it. None
        for other layers.
        """
        found: list[Array | None] = []
        for i, (label, own) in enumerate(zip(self._labels, self.alignments(), strict=True)):
            if not own.by_sequence:
                found.append(None)
                continue
            whole = np.full_like(norms[i], np.nan)
            reach, reverse = self._reach(label), _is_reverse(self._graph, label)
            near = dict(zip(reach.rows.tolist(), reach.nearest(reverse).max(1).tolist(), strict=True))
            for n, t in enumerate(self._rows.tolist()):
                if t in self._kept[i]:
                    whole[n, : len(self._kept[i][t])] = self._kept[i][t]
                elif near.get(t, -1) >= 0:  # all sequences alike
                    steps = steps_of(self._graph.runs[label])
                    along = norms[i, n, near[t] : steps] if reverse else norms[i, n, : near[t] + 1][::-1]
                    whole[n, : len(along)] = along
            found.append(whole)
        return found

    def _found(self, label: str, reach: Reach, along: _LayersAlong | None, unseen: bool) -> Alignment:
        encodes = False
        if along is not None:
            if (known := along.special_alignment(label, reach)) is not None:
                return known
            encodes = bool(along.at) or unseen or along.forecasts or label in along.before
        return aligned(
            reach,
            self._rows.numpy(),
            steps_of(self._graph.runs[label]),
            len(self._graph.losses),
            reverse=_is_reverse(self._graph, label),
            final=self._final,
            encodes=encodes,
            follows=along is not None and label in along.at,
            label=label,
            along=None if along is None else along.decoder_steps(reach),
        )

    def _stated(self, label: str) -> Alignment | None:
        own = for_layer(self._loss_at, label)
        if own is None:
            return None
        steps, batch = self._graph.losses.shape
        return stated(own, self._rows.numpy(), steps, batch, reverse=_is_reverse(self._graph, label), final=self._final)

    def _reach(self, label: str) -> Reach:
        parts = self._parts[label]
        if not parts:
            none = np.full((len(self._rows), batch_of(self._graph.runs[label])), NEVER)
            return Reach(self._rows.numpy(), none, none)
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows)
        first, last = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("first", "last"))
        return Reach(rows[order], first, last)


class _LayersAlong:
    """The layers that run along the losses, and the step of each target on them.

    Attributes
    ----------
    at : dict of ndarray
        By label, the step of each target, `(targets, 1)`, or `(targets, B)` where the sequences differ.
    fed : set of str
        Those that are known to run along only because they feed another that does.
    read_one_by_one : dict of str
        Layers of which each run goes into one step of such a layer, and the label of that layer.
    forecasts : bool
        Whether no layer runs along the losses, and all losses depend on the same single state: a head that makes
        several steps from it.
    before : frozenset of str
        Where no layer runs along: the layers from whose final states the one nearest to the losses starts.
    live : list of int
        The losses that have a gradient, of those sent back.
    """

    def __init__(self, graph: Graph, targets: Ints, reaches: Mapping[str, Reach]) -> None:
        self._graph, self._targets = graph, targets
        self.at: dict[str, Ints] = {}
        self.fed: set[str] = set()
        self.read_one_by_one: dict[str, str] = {}
        self.forecasts, self.before = False, frozenset[str]()
        self.live = sorted({int(t) for reach in reaches.values() for t in reach.live})
        for label, reach in reaches.items():
            at = self._steps_by_gradient(label, reach)
            if at is not None:
                self.at[label] = at
        rest = [label for label in reaches if label not in self.at and self._same_batch(label)]
        if not rest:
            return
        dependence = Dependence(graph)
        self._follow_down(rest, dependence)
        for upper in list(self.at):
            for layer in dependence.one_by_one(upper):
                self.read_one_by_one.setdefault(layer, upper)
        if not self.at and len(self.live) > 1:
            self.forecasts = self._depend_on_one_state(dependence)
            self.before = self._before_the_last(dependence)

    def decoder_steps(self, reach: Reach) -> Ints:
        """The steps of the losses on what follows an encoder `(targets,)`: on its decoder, from its first step.

        Where several decoders follow, each on some of the losses, they count from the first that depends on it.
        """
        decoders = [at for label, at in self.at.items() if not _is_reverse(self._graph, label)]
        if decoders and all(at.shape[1] == 1 and np.array_equal(at, decoders[0]) for at in decoders):
            return decoders[0][:, 0]
        return self._targets - (int(reach.live[0]) - self.live[0] if len(reach.live) else 0)

    def special_alignment(self, label: str, reach: Reach) -> Alignment | None:
        """Where the losses are on a layer whose gradients alone do not tell; None for other layers."""
        reverse, number = _is_reverse(self._graph, label), len(self._targets)
        near = reach.nearest(reverse)
        if not self._same_batch(label):
            return self._of_other_sequences(label, reach.rows, near, reverse)
        if label in self.fed:
            at = self.at[label]
            if at.shape[1] == 1:
                return Alignment("step", at, reverse)
            why = "its sequences are at different steps of the layer that it feeds"
            return Alignment.refused(label, why, number, ahead=reverse)
        if not moves(near) and (upper := self.read_one_by_one.get(base(label))) is not None:
            reason = f"{base(label)} runs once for each step of {upper}: its lags count from the end of each run"
            rows = {int(t): row for t, row in zip(reach.rows, near, strict=True)}
            own = np.stack([rows.get(int(t), np.full(near.shape[1], NEVER)) for t in self._targets])
            return Alignment("sequence", one_column(own), reverse, None, reason)
        return None

    def _of_other_sequences(self, label: str, rows: Ints, near: Ints, reverse: bool) -> Alignment:
        """Words of characters under a tagger, say: the distance of a sequence from loss t is not known."""
        number = len(self._targets)
        other = f"{label} ran over {near.shape[1]} sequences, the loss has {self._graph.losses.shape[1]}"
        if not moves(near):
            at = np.broadcast_to(near.max(0), (number, near.shape[1]))
            reason = f"{other}: its lags count from the end of each of its own sequences"
            return Alignment("sequence", at, reverse, None, reason)
        line = extrapolated(rows, near, self._targets)
        if line is not None and (line := one_column(line)).shape[1] == 1:
            return Alignment("step", line, reverse)
        why = f"{other}, and the states that the losses depend on follow no line"
        return Alignment.refused(label, why, number, ahead=reverse)

    def _same_batch(self, label: str) -> bool:
        return batch_of(self._graph.runs[label]) == self._graph.losses.shape[1]

    def _steps_by_gradient(self, label: str, reach: Reach) -> Ints | None:
        """The steps of the losses on a layer whose own gradients tell that it runs along them."""
        reverse, steps, losses = _is_reverse(self._graph, label), steps_of(self._graph.runs[label]), self._graph.losses
        near = reach.nearest(reverse)
        known = near != NEVER
        if not self._same_batch(label) or not known.any():
            return None
        alone = len(reach.live) == 1 < len(self.live)  # of several losses one depends on this run: that is no line
        stays = steps == len(losses) and bool((near == reach.rows[:, None])[known].all()) and not alone
        if not stays and not moves(near):
            return None
        found = aligned(
            reach,
            self._targets,
            steps,
            len(losses),
            reverse=reverse,
            final=False,
            encodes=False,
            follows=False,
            label=label,
        )
        return found.at if found.kind == "step" else None

    def _follow_down(self, rest: list[str], dependence: Dependence) -> None:
        """Add the layers that feed those found step by step, and those that feed these."""
        tried: set[tuple[str, str]] = set()

        def next_below(*, same_direction: bool) -> tuple[str, Ints] | None:
            for label in rest:
                for upper, at in self.at.items():
                    same = _is_reverse(self._graph, label) == _is_reverse(self._graph, upper)
                    if (label, upper) in tried or same != same_direction:
                        continue
                    tried.add((label, upper))
                    own = at if self._in_one_module(label, upper) else dependence.follow(label, upper, at)
                    if own is not None:
                        return label, own
            return None

        # Of two steps of a pyramid that go into one above, the nearest is the later one, or the earlier in reverse.
        while found := next_below(same_direction=True) or next_below(same_direction=False):
            label, self.at[label] = found
            self.fed.add(label)
            rest.remove(label)

    def _in_one_module(self, label: str, upper: str) -> bool:
        """Whether two runs are layers or directions of one module, in the same calls of it."""
        own, other = self._graph.runs[label], self._graph.runs[upper]
        if not isinstance(own[0], Call) or own[0].track[0] != other[0].track[0] or len(own) != len(other):
            return False
        number: Counter[tuple[str, str]] = Counter()
        order: dict[int, int] = {}  # by call: how many calls of its layer came before
        for call in self._graph.recorder.calls:
            order[id(call)] = number[call.track]
            number[call.track] += 1
        return order[id(own[0])] == order[id(other[0])] and steps_of(own) == steps_of(other)

    def _depend_on_one_state(self, dependence: Dependence) -> bool:
        """Whether all losses are made from one state of each layer, as by a head that forecasts several steps."""
        spans = [dependence.of(self._graph.losses[t]) for t in {self.live[0], self.live[-1]}]
        return bool(spans[0]) and all(
            own.keys() == spans[0].keys()
            and all(s.number == 1 and s.same_as(spans[0][label]) for label, s in own.items())
            for own in spans
        )

    def _before_the_last(self, dependence: Dependence) -> frozenset[str]:
        """Layers from whose final states the layer nearest to the losses starts."""
        graph = self._graph
        last = next(own for own in graph.runs.values() if any(call is graph.recorder.calls[-1] for call in own))
        states = last[0].states if isinstance(last[0], Call) else ()
        return frozenset(label for state in states for label in dependence.of(state) if graph.runs[label] is not last)


def _is_reverse(graph: Graph, label: str) -> bool:
    first: AnyCall = graph.runs[label][0]
    return first.reverse
