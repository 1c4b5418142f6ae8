"""Prove that the head looks at one step at a time; the adjoints of any pair then follow from the recursion alone.

Tests: `tests/flow/test_flow_models.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count, product

import torch
from torch import Tensor

from ... import _torch_private
from ..recording.calls import AnyCall, Call
from ..recording.graph import MIXED, Graph, closed, distinct_weights, quiet_vmap
from ..recording.runs import same_weights

_MANY, _MANY_NUMBERS = 16, 2**24  # tensors that a head looks at; numbers of all their gradients together


def local_adjoints(graph: Graph) -> dict[str, Tensor] | None:
    """∂E_t/∂(output_t) of each layer `(T, B, P)` if the head looks at one step at a time, otherwise None.

    The layers must be one causal stack, or several next to each other, called whole or step by step, and the user's
    code must not have put hooks on gradients, which may change them.
    """
    if not is_causal_stack(graph.runs.values(), *graph.losses.shape):
        return None
    return adjoints_by_step(graph, list(graph.runs))


def adjoints_by_step(graph: Graph, labels: Sequence[str]) -> dict[str, Tensor] | None:
    """∂E_t/∂(output_t) of some layers, of as many steps as there are losses `(T, B, P)`.

    None if the head looks at more than one step of these, or at any of another layer, or the user's code has hooks on
    gradients.

    The test is exact. Each step has a level in each of a few backward passes: 0, its losses are left out; 1, they are
    sent back; 2, they are sent back as NaN. The result must be zero at the steps of level 0 and not NaN at those of
    level 1, otherwise the head mixes steps; of any two steps each is above the other in some pass. It takes about
    log₃ T passes through the head. Sequences are tested in the same way: where they are mixed, a note says so.
    """
    if graph.recorder.hooked:
        return None
    steps, batch = graph.losses.shape
    weights = distinct_weights(steps).to(graph.losses).unsqueeze(-1)
    by_step, by_sequence = (levels_of_steps(n).to(graph.losses) for n in (steps, batch))
    directions = [(row.unsqueeze(-1) * weights).expand(steps, batch) for row in by_step]
    directions += [row * weights for row in by_sequence]
    directions += [torch.ones_like(graph.losses)]
    # Nothing here is to be recorded, and what one layer sends to the next does not concern the head.
    with _torch_private.no_torch_functions(), closed(graph.recorder.calls):
        try:
            with torch.autograd.set_detect_anomaly(False):  # NaN is intended
                seen = (_only(found, labels) for found in _Head(graph).seen(directions))
                for row in by_step:
                    if leaks(next(seen), row, axis=0):
                        return None
                leaking = [leaks(next(seen), row, axis=1) for row in by_sequence]
                found = next(seen)
        except Exception:  # such as a hook that refuses NaN: not proved
            return None
    if any(leaking):
        graph.notes.append(MIXED)
    return found


def _only(seen: dict[str, Tensor] | None, labels: Sequence[str]) -> dict[str, Tensor] | None:
    """What is seen of some layers; None if another is seen too."""
    if seen is None or any(bool(g.ne(0).any()) for label, g in seen.items() if label not in labels):
        return None
    return {label: seen[label] for label in labels}


def final_errors(graph: Graph) -> dict[str, Tensor] | None:
    """∂E_b/∂(outputs) of each layer of causal stacks `(T, B, P)`, a loss per sequence, not through other layers.

    None where the layers are not such stacks, or the user's code has hooks on gradients. A note says so if sequences
    are mixed, which is tested as in `local_adjoints`.
    """
    steps = sum(len(call.h) for call in next(iter(graph.runs.values())))
    if graph.recorder.hooked or not is_causal_stack(graph.runs.values(), steps, graph.losses.shape[1]):
        return None
    ones = torch.ones_like(graph.losses)
    by_sequence = list(levels_of_steps(ones.shape[1]).to(ones))
    with _torch_private.no_torch_functions(), closed(graph.recorder.calls):
        try:
            with torch.autograd.set_detect_anomaly(False):  # NaN is intended
                seen = _Head(graph).seen([row.unsqueeze(0) for row in by_sequence])
                mixed = any(leaks(next(seen), row, axis=1) for row in by_sequence)
        except Exception:  # such as a hook that refuses NaN: not proved
            mixed = True
        if mixed and MIXED not in graph.notes:
            graph.notes.append(MIXED)
        return next(_Head(graph).seen([ones]))


def is_causal_stack(runs: Iterable[list[AnyCall]], steps: int, batch: int, *, own_state: bool = True) -> bool:
    """Whether layers are stacks that run forward through so many steps, each fed by the layer below as it is.

    ``own_state`` asks that they start by themselves, not from the states of another layer.
    """
    below: list[AnyCall] = []
    for own in runs:
        first, *others = own
        if not isinstance(first, Call) or first.reverse or first.link is not None:
            return False
        if own_state and not first.own_state:
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
    """What is above the layers of a causal stack, by the gradients of the tensors through which it sees them."""

    def __init__(self, graph: Graph) -> None:
        self._losses, self._counts, self._exposed = graph.losses, graph.alive.ne(0), graph.recorder.exposed
        self._runs = {label: [c for c in own if isinstance(c, Call)] for label, own in graph.runs.items()}
        self._tensors = [exposed.tensor for exposed in self._exposed]
        blocks = sum(len(call.h) for own in self._runs.values() for call in own if call.block is not None)
        self._steps = len(self._tensors) + blocks
        self._elsewhere = [i for i, exposed in enumerate(self._exposed) if exposed.calls is None]
        # By layer, for each kind of tensor through which the head sees it: the index of a call's tensor, and the row.
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
        if self._steps >= _MANY and size <= _MANY_NUMBERS:  # the walk through the graph takes longer than the sums
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
        whole = g.new_zeros(n, *call.h.shape)
        last = torch.full(call.h.shape[1:2], len(call.h), device="cpu") if call.mask is None else call.mask.sum(0)
        whole[:, last - 1, torch.arange(len(last), device="cpu")] = g
        return whole


def leaks(seen: dict[str, Tensor] | None, levels: Tensor, *, axis: int) -> bool:
    """Whether what was sent at one level arrives at steps (axis 0) or sequences (axis 1) of a lower one."""
    if seen is None:
        return True
    blank, whole = levels.eq(0), levels.isfinite()
    sizes = [g.abs().sum((2, 1 - axis)) for g in seen.values()]
    return any(bool((blank & size.ne(0)).any() or (whole & size.isnan()).any()) for size in sizes)


@lru_cache(maxsize=4)
def levels_of_steps(steps: int) -> Tensor:
    """For each pass the level of each step, 0, 1 or NaN for 2: `(passes, steps)`."""
    # A step's levels over p passes add up to p, and no two steps have the same levels: where one is lower somewhere, it
    # is higher elsewhere.
    for passes in count(1):
        rows = [row for row in product(range(3), repeat=passes) if sum(row) == passes]
        if len(rows) >= steps:
            table = torch.tensor(rows[:steps], dtype=torch.float64, device="cpu").T
            return torch.where(table == 2, torch.nan, table).contiguous()
    raise AssertionError
