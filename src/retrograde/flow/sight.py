"""What a tensor of the model looks at directly: the steps of recorded layers that no recorded layer stands between.

So it is found which layers feed which step by step. A gradient alone does not tell that: above a layer that runs from
the last step to the first, every loss has a gradient of every state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .alignment import through, touched
from .calls import Call, Marked
from .capture import Exposed
from .graph import Graph, closed, uneven
from .runs import base

__all__ = ["Seen", "Sight"]

Ints = NDArray[np.int64]


@dataclass
class Seen:
    """Of one run: the first and the last step that each sequence looks at, −1 for none; and how many at most."""

    first: Ints
    last: Ints
    number: int

    def and_also(self, first: Ints, last: Ints, number: int) -> Seen:
        """With what is seen of it by another way."""
        both = np.where(self.first < 0, first, np.where(first < 0, self.first, np.minimum(self.first, first)))
        return Seen(both, np.maximum(self.last, last), max(self.number, number))

    def same_as(self, other: Seen) -> bool:
        """Whether each sequence looks at the same."""
        return bool((self.first == other.first).all() and (self.last == other.last).all())


class Sight:
    """What losses and inputs of layers look at, by the label of the run."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._exposed = [exposed for exposed in graph.recorder.exposed if exposed.tensor.requires_grad]
        self._places: dict[int, tuple[str, int]] = {}  # by call: the label of its run and its first step there
        for label, own in graph.runs.items():
            start = 0
            for call in own:
                self._places[id(call)] = label, start
                start += len(call.h)
        self._samples: dict[str, list[tuple[int, dict[str, Seen]]]] = {}

    def of(self, end: Tensor) -> dict[str, Seen]:
        """What a tensor looks at."""
        found: dict[str, Seen] = {}
        if not end.requires_grad or not self._exposed:
            return found
        # No two numbers of the tensor count alike: the sum of a normalized row, say, does not depend on the row.
        direction = uneven(end.numel()).to(end).view(end.shape)
        with torch._C.DisableTorchFunction(), closed(self._graph.recorder.calls):
            tensors = [exposed.tensor for exposed in self._exposed]
            gradients = torch.autograd.grad(end, tensors, direction, retain_graph=True, allow_unused=True)
        for exposed, g in zip(self._exposed, gradients, strict=True):
            for call, there in () if g is None else _by_call(exposed, g):
                label, start = self._places[id(call)]
                if bool(there.any()):
                    ends = (np.where(steps < 0, -1, start + steps) for steps in touched(there.cpu().numpy()[None]))
                    first, last = (end[0] for end in ends)
                    number = int(there.sum(0).max())
                    known = found.get(label)
                    found[label] = Seen(first, last, number) if known is None else known.and_also(first, last, number)
        return found

    def follow(self, lower: str, upper: str, at: Ints) -> Ints | None:
        """Where the losses stand on a layer that feeds another step by step, from where they stand on that one.

        None where it does not: a decoder looks at the whole of its encoder, or at its end.
        """
        reverse = self._graph.runs[lower][0].reverse
        seen = [(step, own[lower]) for step, own in self._samples_of(upper) if lower in own]
        if len(seen) < 2:
            return None
        near: Ints = np.stack([own.first if reverse else own.last for _, own in seen])
        if not any(len(set(column[column >= 0].tolist())) > 1 for column in near.T):
            return None
        top: Ints = near.max(1, keepdims=True)
        alike = ((near == top) | (near < 0)).all()
        steps = np.asarray([step for step, _ in seen])
        found = through(steps, top if alike else near, at.max(1))
        if found is not None:
            return found if at.shape[1] == 1 else np.broadcast_to(found, at.shape)
        # Windows of a convolution are cut off at the ends, marks see the steps before them: not a line, and yet a step
        # of the one goes with a step of the other.
        first, last = seen[0][1], seen[-1][1]
        there = (first.last >= 0) & (last.last >= 0)
        moved = np.concatenate([(last.first - first.first)[there], (last.last - first.last)[there]])
        if self._steps(lower) == self._steps(upper) and moved.min(initial=0) >= 0 and moved.max(initial=0) > 0:
            return at
        return None if alike else np.full((len(at), near.shape[1]), -1)

    def one_by_one(self, upper: str) -> set[str]:
        """Layers of which each run goes into one step of this one: the words of a sentence, read one at a time."""
        seen: dict[str, list[list[str]]] = {}
        for _, own in self._samples_of(upper):
            by_layer: dict[str, list[str]] = {}
            for label in own:
                by_layer.setdefault(base(label), []).append(label)
            for layer, labels in by_layer.items():
                seen.setdefault(layer, []).append(labels)
        return {
            layer
            for layer, found in seen.items()
            if len(found) > 1
            and all(len(labels) == 1 for labels in found)
            and len({labels[0] for labels in found}) == len(found)
        }

    def _samples_of(self, upper: str) -> list[tuple[int, dict[str, Seen]]]:
        """What some of a run's steps look at, in rising order."""
        if upper not in self._samples:
            steps = self._steps(upper)
            chosen = sorted({k for k in (0, 1, 2, 3, steps // 2, steps - 2, steps - 1) if 0 <= k < steps})
            self._samples[upper] = [(k, self.of(end)) for k, end in self._ends(upper, chosen)]
        return self._samples[upper]

    def _ends(self, label: str, chosen: list[int]) -> Iterator[tuple[int, Tensor]]:
        for call in self._graph.runs[label]:
            start = self._places[id(call)][1]
            for k in chosen:
                if not start <= k < start + len(call.h):
                    continue
                if isinstance(call, Marked):
                    yield k, call.states[0]
                elif call.x is not None:
                    yield k, call.x[k - start]

    def _steps(self, label: str) -> int:
        return sum(len(call.h) for call in self._graph.runs[label])


def _by_call(exposed: Exposed, g: Tensor) -> Iterator[tuple[Call, Tensor]]:
    """Which states of each call have a gradient, `(T, B)` bool, sequences in the user's order."""
    there = g.ne(0)
    parts = there.chunk(len(exposed.of), -1) if exposed.is_output else there if there.dim() == 3 else [there]
    for call, part in zip(exposed.of, parts, strict=True):
        if exposed.is_output:
            states = (part if part.dim() == 3 else part.unsqueeze(0)).any(-1)
        else:
            states = torch.zeros(call.h.shape[:2], dtype=torch.bool, device=g.device)
            states[0 if call.reverse else -1] = part.any(-1)
        yield call, (states if call.order is None else states[:, call.order])
