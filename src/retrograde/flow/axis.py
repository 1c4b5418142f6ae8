"""The steps of which layers go along those of the losses, and where each loss stands on them.

A layer goes along the losses if what they look at moves on with them, or if it feeds such a layer step by step: the
lower layers of a tagger, a pyramid. An encoder does neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .alignment import Alignment, Reach, aligned, alike, through
from .calls import AnyCall, Call
from .graph import Graph
from .runs import base
from .sight import Sight

__all__ = ["Axis"]

Ints = NDArray[np.int64]
_NEVER = -1
_MEND = "norms[t, k] is exact; say at which step of the layer each loss stands with loss_at=."


@dataclass
class Axis:
    """See the module.

    Attributes
    ----------
    at : dict of ndarray
        By label, of the layers that go along the losses: the step at which each target stands, `(targets, 1)`, or
        `(targets, B)` where the sequences differ.
    fed : set of str
        Those of them of which only the layers tell that they feed.
    read_one_by_one : dict of str
        Layers of which each run goes into one step of such a layer, and the label of that.
    forecasts : bool
        Whether no layer goes along the losses, and all losses look at one state alone, the same: a head that makes
        several steps of it.
    before : set of str
        Where no layer is known to go along the losses: those whose final states the one nearest to the losses starts
        from.
    live : list of int
        The losses that have a gradient, of those sent back.
    """

    graph: Graph
    targets: Ints
    at: dict[str, Ints]
    read_one_by_one: dict[str, str]
    live: list[int]
    fed: set[str] = field(default_factory=set)
    forecasts: bool = False
    before: frozenset[str] = frozenset()
    _places: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, targets: Ints, reaches: Mapping[str, Reach]) -> Axis:
        """Find them."""
        live = sorted({int(t) for reach in reaches.values() for t in reach.rows[(reach.last != _NEVER).any(1)]})
        found = cls(graph, targets, {}, {}, live)
        for label, reach in reaches.items():
            at = found._by_itself(label, reach, len(live))
            if at is not None:
                found.at[label] = at
        batch = graph.losses.shape[1]
        rest = [label for label in reaches if label not in found.at and graph.runs[label][0].h.shape[1] == batch]
        if not rest:
            return found
        sight = Sight(graph)
        found._follow_down(rest, sight)
        for upper in list(found.at):
            found.read_one_by_one |= {
                layer: upper for layer in sight.one_by_one(upper) if layer not in found.read_one_by_one
            }
        if not found.at and len(live) > 1:
            found.forecasts = _looks_at_one_state(graph.losses, live, sight)
            found.before = found._before_the_last(sight)
        return found

    def _follow_down(self, rest: list[str], sight: Sight) -> None:
        """Add the layers that feed those found step by step, and what feeds these."""
        tried: set[tuple[str, str]] = set()

        def next_below(*, same_direction: bool) -> tuple[str, Ints] | None:
            for label in rest:
                for upper, at in self.at.items():
                    if (label, upper) in tried or (self._reverse(label) == self._reverse(upper)) != same_direction:
                        continue
                    tried.add((label, upper))
                    own = at if self._beside(label, upper) else sight.follow(label, upper, at)
                    if own is not None:
                        return label, own
            return None

        # Of two steps of a pyramid that go into one above, the nearest is the later one, or the earlier in reverse.
        while found := next_below(same_direction=True) or next_below(same_direction=False):
            label, self.at[label] = found
            self.fed.add(label)
            rest.remove(label)

    def along(self, reach: Reach) -> Ints:
        """Where the losses stand on what comes after an encoder, `(targets,)`: on its decoder, from its first step.

        Where several decoders follow, each on some of the losses, they count from the first that looks at the encoder.
        """
        decoders = [at for label, at in self.at.items() if not self._reverse(label)]
        if decoders and all(at.shape[1] == 1 and np.array_equal(at, decoders[0]) for at in decoders):
            return decoders[0][:, 0]
        looking = reach.rows[(reach.last != _NEVER).any(1)]
        return self.targets - (int(looking[0]) - self.live[0] if len(looking) else 0)

    def place(self, label: str, reach: Reach) -> Alignment | None:
        """Where the losses stand on a layer of which its gradients alone do not tell that; None of others."""
        reverse, zero = self._reverse(label), np.zeros(len(self.targets), dtype=np.int64)
        near = reach.first if reverse else reach.last
        constant = not _moves(near)
        if near.shape[1] != self.graph.losses.shape[1]:
            return self._of_other_sequences(label, reach.rows, near, constant)
        if label in self.fed:
            at = self.at[label]
            if at.shape[1] == 1:
                return Alignment("step", at, reverse, zero)
            reason = (
                f"Lags of {label} are not known: its sequences stand at different steps of the layer that it feeds."
            )
            return Alignment("refused", np.full_like(at, _NEVER), reverse, zero, f"{reason} {_MEND}")
        if constant and (upper := self.read_one_by_one.get(base(label))) is not None:
            reason = f"{base(label)} runs once for each step of {upper}: its lags count from the end of each run"
            rows = {int(t): row for t, row in zip(reach.rows, near, strict=True)}
            own = np.stack([rows.get(int(t), np.full(near.shape[1], _NEVER)) for t in self.targets])
            return Alignment("sequence", alike(own), reverse, zero, reason)
        return None

    def _of_other_sequences(self, label: str, rows: Ints, near: Ints, constant: bool) -> Alignment:
        """Words of characters under a tagger, say: which sequence lies how far from loss t is not known."""
        reverse, zero = self._reverse(label), np.zeros(len(self.targets), dtype=np.int64)
        other = f"{label} ran over {near.shape[1]} sequences, the loss has {self.graph.losses.shape[1]}"
        if constant:
            at = np.broadcast_to(near.max(0), (len(self.targets), near.shape[1]))
            reason = f"{other}: its lags count from the end of each of its own sequences"
            return Alignment("sequence", at, reverse, zero, reason)
        line = through(rows, near, self.targets)
        if line is not None and (line := alike(line)).shape[1] == 1:
            return Alignment("step", line, reverse, zero)
        reason = f"Lags of {label} are not known: {other}, and which states the losses look at follows no line."
        return Alignment("refused", np.full((len(self.targets), 1), _NEVER), reverse, zero, f"{reason} {_MEND}")

    def _before_the_last(self, sight: Sight) -> frozenset[str]:
        """Layers whose final states the layer nearest to the losses starts from."""
        last = next(
            own for own in self.graph.runs.values() if any(call is self.graph.recorder.calls[-1] for call in own)
        )
        states = last[0].states if isinstance(last[0], Call) else ()
        return frozenset(label for state in states for label in sight.of(state) if self.graph.runs[label] is not last)

    def _by_itself(self, label: str, reach: Reach, live: int) -> Ints | None:
        """Where the losses stand on a layer whose own gradients tell that it goes along them."""
        reverse, steps, losses = self._reverse(label), self._steps(label), self.graph.losses
        near = reach.first if reverse else reach.last
        known = near != _NEVER
        if near.shape[1] != losses.shape[1] or not known.any():
            return None
        alone = known.any(1).sum() == 1 < live  # of several losses one looks at this run: that is no line
        stays = steps == len(losses) and bool((near == reach.rows[:, None])[known].all()) and not alone
        if not stays and not _moves(near):
            return None
        found = aligned(
            reach,
            self.targets,
            steps,
            len(losses),
            reverse=reverse,
            final=False,
            encodes=False,
            follows=False,
            label=label,
        )
        return found.at if found.kind == "step" else None

    def _beside(self, label: str, upper: str) -> bool:
        """Whether two runs are layers or directions of one module, in the same calls of it."""
        own, other = self.graph.runs[label], self.graph.runs[upper]
        if not isinstance(own[0], Call) or own[0].track[0] != other[0].track[0] or len(own) != len(other):
            return False
        return self._place(own[0]) == self._place(other[0]) and self._steps(label) == self._steps(upper)

    def _place(self, call: AnyCall) -> int:
        """Which call of its layer it is."""
        if not self._places:
            number: Counter[tuple[str, str]] = Counter()
            for known in self.graph.recorder.calls:
                self._places[id(known)] = number[known.track]
                number[known.track] += 1
        return self._places[id(call)]

    def _steps(self, label: str) -> int:
        return sum(len(call.h) for call in self.graph.runs[label])

    def _reverse(self, label: str) -> bool:
        return self.graph.runs[label][0].reverse


def _moves(near: Ints) -> bool:
    """Whether what the losses look at moves on with them, in any sequence."""
    return any(len(set(column[column != _NEVER].tolist())) > 1 for column in near.T)


def _looks_at_one_state(losses: Tensor, live: list[int], sight: Sight) -> bool:
    """Whether all losses are made from one state of each layer, as a head does that forecasts several steps from it."""
    seen = [sight.of(losses[t]) for t in {live[0], live[-1]}] if live else []
    first = seen[0] if seen else {}
    return bool(first) and all(
        own.keys() == first.keys() and all(s.number == 1 and s.same_as(first[label]) for label, s in own.items())
        for own in seen
    )
