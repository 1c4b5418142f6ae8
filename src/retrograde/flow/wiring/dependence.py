"""The steps of recorded layers that a tensor depends on directly, with no other recorded layer between.

This tells which layers feed which step by step. A gradient alone does not: above a layer that runs from the last step
to the first, every loss has a gradient of every state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _torch_private
from ..recording.calls import Call, Exposed, MarkedStep
from ..recording.graph import Graph, closed, distinct_weights
from ..recording.runs import base, steps_of
from .alignment import Reach, extrapolated, moves

Ints = NDArray[np.int64]


@dataclass
class Span:
    """The first and the last step of a run that each sequence depends on, −1 for none; and how many steps at most."""

    first: Ints
    last: Ints
    number: int

    def union(self, other: Span) -> Span:
        """The span of both."""
        first = np.where(self.first < 0, other.first, np.minimum(self.first, other.first))
        first = np.where(other.first < 0, self.first, first)
        return Span(first, np.maximum(self.last, other.last), max(self.number, other.number))

    def same_as(self, other: Span) -> bool:
        """Whether each sequence depends on the same steps."""
        return bool((self.first == other.first).all() and (self.last == other.last).all())


class Dependence:
    """Answers on which steps losses and inputs of layers depend directly, by the label of the run."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._exposed = [exposed for exposed in graph.recorder.exposed if exposed.tensor.requires_grad]
        self._places: dict[int, tuple[str, int]] = {}  # by call: the label of its run and its first step there
        for label, own in graph.runs.items():
            start = 0
            for call in own:
                self._places[id(call)] = label, start
                start += len(call.h)
        self._samples: dict[str, list[tuple[int, dict[str, Span]]]] = {}

    def of(self, tensor: Tensor) -> dict[str, Span]:
        """The steps that a tensor depends on directly."""
        found: dict[str, Span] = {}
        if not tensor.requires_grad or not self._exposed:
            return found
        # Every number of the tensor has its own weight: the sum of a normalized row, say, does not depend on the row.
        direction = distinct_weights(tensor.numel()).to(tensor).view(tensor.shape)
        with _torch_private.no_torch_functions(), closed(self._graph.recorder.calls):
            tensors = [exposed.tensor for exposed in self._exposed]
            gradients = torch.autograd.grad(tensor, tensors, direction, retain_graph=True, allow_unused=True)
        for exposed, g in zip(self._exposed, gradients, strict=True):
            for call, there in () if g is None else _by_call(exposed, g):
                if not bool(there.any()):
                    continue
                label, start = self._places[id(call)]
                reach = Reach.of(np.zeros(1, dtype=np.int64), there.cpu().numpy()[None])
                first, last = (np.where(steps < 0, -1, start + steps)[0] for steps in (reach.first, reach.last))
                span = Span(first, last, int(there.sum(0).max()))
                found[label] = found[label].union(span) if label in found else span
        return found

    def follow(self, lower: str, upper: str, at: Ints) -> Ints | None:
        """The steps of the losses on a layer that feeds another step by step, from their steps on that one.

        None where it does not: a decoder depends on all of its encoder, or on its end.
        """
        graph = self._graph
        reverse = graph.runs[lower][0].reverse
        spans = [(step, own[lower]) for step, own in self._samples_of(upper) if lower in own]
        if len(spans) < 2:
            return None
        near: Ints = np.stack([own.first if reverse else own.last for _, own in spans])
        if not moves(near):
            return None
        top: Ints = near.max(1, keepdims=True)
        alike = ((near == top) | (near < 0)).all()
        found = extrapolated(np.asarray([step for step, _ in spans]), top if alike else near, at.max(1))
        if found is not None:
            return found if at.shape[1] == 1 else np.broadcast_to(found, at.shape)
        # Windows of a convolution are cut off at the ends, and marks depend on the steps before them: not a line, and
        # yet a step of one layer belongs to a step of the other.
        first, last = spans[0][1], spans[-1][1]
        there = (first.last >= 0) & (last.last >= 0)
        moved = np.concatenate([(last.first - first.first)[there], (last.last - first.last)[there]])
        if (
            steps_of(graph.runs[lower]) == steps_of(graph.runs[upper])
            and moved.min(initial=0) >= 0
            and moved.max(initial=0) > 0
        ):
            return at
        return None if alike else np.full((len(at), near.shape[1]), -1)

    def one_by_one(self, upper: str) -> set[str]:
        """Layers of which each run goes into one step of this one: the words of a sentence, read one at a time."""
        found: dict[str, list[list[str]]] = {}
        for _, own in self._samples_of(upper):
            by_layer: dict[str, list[str]] = {}
            for label in own:
                by_layer.setdefault(base(label), []).append(label)
            for layer, labels in by_layer.items():
                found.setdefault(layer, []).append(labels)
        return {
            layer
            for layer, labels in found.items()
            if len(labels) > 1
            and all(len(own) == 1 for own in labels)
            and len({own[0] for own in labels}) == len(labels)
        }

    def _samples_of(self, upper: str) -> list[tuple[int, dict[str, Span]]]:
        """What some of a run's steps depend on, in rising order."""
        if upper not in self._samples:
            steps = steps_of(self._graph.runs[upper])
            chosen = sorted({k for k in (0, 1, 2, 3, steps // 2, steps - 2, steps - 1) if 0 <= k < steps})
            self._samples[upper] = [(k, self.of(given)) for k, given in self._inputs(upper, chosen)]
        return self._samples[upper]

    def _inputs(self, label: str, chosen: list[int]) -> Iterator[tuple[int, Tensor]]:
        for call in self._graph.runs[label]:
            start = self._places[id(call)][1]
            for k in (k for k in chosen if start <= k < start + len(call.h)):
                if isinstance(call, MarkedStep):
                    yield k, call.states[0]
                elif call.x is not None:
                    yield k, call.x[k - start]


def _by_call(exposed: Exposed, g: Tensor) -> Iterator[tuple[Call, Tensor]]:
    """Which states of each call have a gradient, `(T, B)` bool, sequences in the user's order."""
    there = g.ne(0)
    parts = there.chunk(len(exposed.of), -1) if exposed.is_output else there if there.dim() == 3 else [there]
    for call, part in zip(exposed.of, parts, strict=True):
        if exposed.is_output:
            states = (part if part.dim() == 3 else part.unsqueeze(0)).any(-1)[: len(call.h)]
        else:
            states = torch.zeros(call.h.shape[:2], dtype=torch.bool, device=g.device)
            states[0 if call.reverse else -1] = part.any(-1)
        yield call, (states if call.order is None else states[:, call.order])
