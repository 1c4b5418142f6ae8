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

from .alignment import through
from .calls import Call, Marked
from .capture import Exposed
from .graph import Graph, closed, uneven
from .runs import base

__all__ = ["Seen", "Sight"]

Ints = NDArray[np.int64]


@dataclass
class Seen:
    """Of one run: the first and the last step that is looked at, and how many one sequence looks at."""

    first: int
    last: int
    number: int


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
                steps = there.any(1).nonzero().flatten()
                label, start = self._places[id(call)]
                if len(steps):
                    first, last = start + int(steps[0]), start + int(steps[-1])
                    known = found.setdefault(label, Seen(first, last, 0))
                    known.first, known.last = min(known.first, first), max(known.last, last)
                    known.number = max(known.number, int(there.sum(0).max()))
        return found

    def follow(self, lower: str, upper: str, at: Ints) -> Ints | None:
        """Where the losses stand on a layer that feeds another step by step, from where they stand on that one.

        None where it does not: a decoder looks at the whole of its encoder, or at its end.
        """
        reverse = self._graph.runs[lower][0].reverse
        seen = [(step, own[lower]) for step, own in self._samples_of(upper) if lower in own]
        if len(seen) < 2:
            return None
        first, last = seen[0][1], seen[-1][1]
        steps = np.asarray([step for step, _ in seen])
        near = np.asarray([own.first if reverse else own.last for _, own in seen])
        if near[0] != near[-1] and (found := through(steps, near[:, None], at.ravel())) is not None:
            return np.where(at < 0, at, found.reshape(at.shape))
        moved = last.first - first.first, last.last - first.last
        # Windows of a convolution are cut off at the ends, marks see the steps before them: not a line, and yet a step
        # of the one goes with a step of the other.
        alike = self._steps(lower) == self._steps(upper) and min(moved) >= 0 and max(moved) > 0
        return at if alike else None

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
    """Which states of each call have a gradient, `(T, B)` bool."""
    there = g.ne(0)
    if exposed.is_output:
        parts = there.chunk(len(exposed.of), -1)
        for call, part in zip(exposed.of, parts, strict=True):
            yield call, (part if part.dim() == 3 else part.unsqueeze(0)).any(-1)
        return
    rows = there if there.dim() == 3 else there.unsqueeze(0)
    for call, row in zip(exposed.of, rows, strict=True):
        ends = torch.zeros(call.h.shape[:2], dtype=torch.bool, device=g.device)
        ends[0 if call.reverse else -1] = row.any(-1)
        yield call, ends
