"""The signal by lag of layers that run in both directions, or feed one another through other modules.

With a loss for each step.

The loss of step t reaches step k of a layer that runs forward through k ≤ t, and of one that runs in reverse through
k ≥ t: one layer of both directions is two recurrences with lags t − k and k − t. In a stack each direction reads both
of the layer below, so the loss goes back and forth: step k of a lower layer is reached from either side, and its lag is
the distance |t − k|. Its states know what came before them, of the other direction what comes after; the input alone
is of its step. So the gradient of the weights from the input is taken apart, of the layers that read the data: g_b(ℓ)
is the sum over t of what sequence b contributes to ∂E_t/∂W at the steps t − ℓ and t + ℓ.

Modules between two levels (a normalization, a linear layer) change the states on their way up. Those that do so step
by step, each sequence by itself, have a Jacobian of each step and sequence, through which gradients come down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ... import _torch_private
from ..recording.calls import Call
from ..recording.graph import MIXED, Graph, closed, distinct_weights
from ..recurrence import adjoint
from ..recurrence.cells import Trajectory
from ..wiring.entries import calls_of, received, send
from ..wiring.head import leaks, levels_of_steps

__all__ = ["Tower", "by_distance", "errors_both_ways", "layered"]

BLOCK = 2**23  # numbers of the adjoints of some targets that are kept at a time
SAME = 1e-3  # relative difference of gradients up to which a level counts as fed by the one below
WIDEST = 2**25  # numbers of the Jacobians between two levels


@dataclass
class Tower:
    """Levels of layers that feed one another, from the bottom: a level has one direction or both.

    Attributes
    ----------
    levels : list of list of str
        Labels of the layers.
    links : list of Tensor or None
        Between each level and the one above, ∂(inputs above)/∂(outputs below) of every step and sequence
        `(T, B, I, P)`; None where the inputs are the outputs.
    """

    levels: list[list[str]]
    links: list[Tensor | None]

    @property
    def labels(self) -> list[str]:
        """Of all layers, from the bottom."""
        return [label for level in self.levels for label in level]

    def changed(self, how: Callable[[Tensor], Tensor]) -> Tower:
        """The same with other links."""
        return Tower(self.levels, [None if link is None else how(link) for link in self.links])


def errors_both_ways(graph: Graph) -> dict[str, Tensor] | None:
    """∂E_t/∂(output_t) of each layer, of both directions `(T, B, P)`; None if the head looks at more than one step.

    Tested as in `head.local_adjoints`. Sequences are in the user's order.
    """
    calls = calls_of(graph)
    steps, batch = graph.losses.shape
    if graph.recorder.hooked or calls is None:
        return None
    if any(call.h.shape[:2] != (steps, batch) or not call.own_state or call.link for call in calls.values()):
        return None
    weights = distinct_weights(steps).to(graph.losses).unsqueeze(-1)
    by_step, by_sequence = (levels_of_steps(n).to(graph.losses) for n in (steps, batch))

    def seen(direction: Tensor) -> dict[str, Tensor] | None:
        send(graph, calls, torch.where(graph.alive.ne(0), direction, 0.0), head=True)
        return _all_received(calls)

    try:
        with torch.autograd.set_detect_anomaly(False):  # NaN is intended
            for row in by_step:
                if leaks(seen((row.unsqueeze(-1) * weights).expand(steps, batch)), row, axis=0):
                    return None
            if any(leaks(seen((row * weights).expand(steps, batch)), row, axis=1) for row in by_sequence):
                graph.notes.append(MIXED)
            return seen(torch.ones_like(graph.losses))
    except RuntimeError:  # such as a hook that refuses NaN: not proved
        return None


def _all_received(calls: Mapping[str, Call]) -> dict[str, Tensor] | None:
    found = {label: received(call) for label, call in calls.items()}
    known = {label: g for label, g in found.items() if g is not None}
    return known if len(known) == len(found) else None


def layered(graph: Graph, errors: Mapping[str, Tensor]) -> list[Tower] | None:
    """The layers as towers of levels, each level fed by the one below, as it is or through modules between.

    Proved by sending all losses back through the user's graph: what arrives at every layer must be what the levels pass
    on. None if it is not.
    """
    calls = calls_of(graph)
    assert calls is not None
    stacks: list[list[list[str]]] = []
    for label, call in calls.items():
        level = stacks[-1][-1] if stacks else []
        if level and call.reverse and level[-1] == label.removesuffix("_reverse"):
            level.append(label)
        elif call.own_input:
            stacks.append([[label]])
        elif stacks:
            stacks[-1].append([label])
        else:
            return None
    runs = {label: graph.trajectory(label) for label in calls}
    weights = distinct_weights(len(graph.losses)).to(graph.losses).unsqueeze(-1)
    sent = (graph.alive * weights).to(graph.losses.dtype)
    send(graph, calls, sent, head=False)
    arrived = _all_received(calls)
    if arrived is None:
        return None
    own = {label: (e * weights.unsqueeze(-1))[None] for label, e in errors.items()}

    def proved(tower: Tower) -> bool:
        widths = [sum(errors[label].shape[2] for label in below) for below in tower.levels[:-1]]
        for width, link, level in zip(widths, tower.links, tower.levels[1:], strict=True):
            if link is None and any(runs[label].x.shape[2] != width for label in level):
                return False
        found = _down(tower, runs, own)
        return all((g[0] - arrived[label]).norm() <= SAME * arrived[label].norm() for label, g, _ in found)

    towers: list[Tower] = []
    for levels in stacks:
        tower = Tower(levels, [None] * (len(levels) - 1))
        if not proved(tower):
            tower = Tower(levels, [_link(graph, calls, *pair) for pair in pairwise(levels)])
            if not proved(tower):
                return None
        towers.append(tower)
    return towers


def _link(graph: Graph, calls: Mapping[str, Call], below: Sequence[str], above: Sequence[str]) -> Tensor | None:
    """∂(inputs of a level)/∂(outputs of the one below) at every step `(T, B, I, P)`, sequences in the user's order.

    Right where modules between them work step by step. None where there are none, or it has too many numbers.
    """
    lower, upper = [calls[label] for label in below], calls[above[0]]
    seen = next((one.tensor for one in graph.recorder.exposed if one.is_output and list(one.of) == lower), None)
    x = upper.x
    if seen is None or x is None or not x.requires_grad or any(calls[label].x is not x for label in above[1:]):
        return None
    same = lower[0].order is upper.order or (
        lower[0].order is not None and upper.order is not None and torch.equal(lower[0].order, upper.order)
    )
    if not same or seen.shape[:2] != x.shape[:2] or x.shape[2] * seen.numel() > WIDEST:
        return None
    rows: list[Tensor] = []
    with _torch_private.no_torch_functions(), closed(graph.recorder.calls):
        for i in range(x.shape[2]):
            one = torch.zeros_like(x)
            one[..., i] = 1.0
            (row,) = torch.autograd.grad(x, seen, one, retain_graph=True, allow_unused=True)
            rows.append(torch.zeros_like(seen) if row is None else row)
    link = torch.stack(rows, 2)
    return link if upper.order is None else link[:, upper.order]


def _down(
    tower: Tower, runs: Mapping[str, Trajectory], errors: Mapping[str, Tensor], *, keep: bool = False
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """From the top level to the bottom: ∂E/∂(outputs) of every layer, and with ``keep``, of the lowest, of its inputs.

    Parameters
    ----------
    errors : mapping of Tensor
        By layer, of N losses what comes from the head `(N, T, B, P)`.
    """
    above: Tensor | None = None
    for height in range(len(tower.levels) - 1, -1, -1):
        start, passed = 0, None
        for label in tower.levels[height]:
            whole = errors[label]
            if above is not None:
                whole = whole + above[..., start : start + whole.shape[-1]]
            start += whole.shape[-1]
            kept = keep and height == 0
            found, g_x, _, _ = adjoint.backward(runs[label], whole, None, None, need_x=height > 0, keep=kept)
            yield label, whole, found.inputs if kept else None
            if g_x is not None:
                passed = g_x if passed is None else passed + g_x
        link = tower.links[height - 1] if height else None
        above = passed if link is None or passed is None else torch.einsum("ntbi,tbip->ntbp", passed, link)


def sides_of(
    down: Callable[[dict[str, Tensor]], Iterable[tuple[str, Tensor | None]]],
    runs: Mapping[str, Trajectory],
    errors: Mapping[str, Tensor],
    targets: Tensor,
    left: Mapping[str, Tensor | None],
) -> dict[str, Tensor]:
    """The adjoints on the input side of each layer in ``left``, `(targets, T, B, I)`, projected by what it has there.

    ``down`` sends the errors of some losses, by layer `(n, T, B, P)`, and yields what arrives, by layer. It is called
    for as many losses at a time as fit into memory.
    """
    batch = next(iter(errors.values())).shape[1]
    widest, steps = max(run.weights.hh.shape[0] for run in runs.values()), max(run.steps for run in runs.values())
    blocks: dict[str, list[Tensor]] = {}
    for rows in torch.split(targets, max(1, BLOCK // (steps * batch * widest))):
        own = {label: e.new_zeros(len(rows), *e.shape) for label, e in errors.items()}
        for label, e in errors.items():
            own[label][torch.arange(len(rows), device="cpu"), rows] = e[rows]
        for label, inputs in down(own):
            if inputs is not None and label in left:
                by = left[label]
                blocks.setdefault(label, []).append(inputs if by is None else inputs @ by.to(inputs.dtype))
    return {label: torch.cat(own_blocks) for label, own_blocks in blocks.items()}


def by_distance(
    tower: Tower,
    runs: Mapping[str, Trajectory],
    errors: Mapping[str, Tensor],
    right: Mapping[str, Tensor],
    targets: Tensor,
    left: Mapping[str, Tensor | None],
) -> Iterator[tuple[str, int, Tensor]]:
    """What every sequence contributes to ∂E/∂W of the lowest level at each distance, `(B, numbers)`.

    Parameters
    ----------
    errors, right : mapping of Tensor
        By layer the errors `(T, B, P)`, and the inputs `(T, B, J)`.
    targets : Tensor
        The steps t whose losses are followed.
    left : mapping of Tensor or None
        Projections of the other side of the gradient.
    """
    steps = next(iter(errors.values())).shape[0]

    def down(own: dict[str, Tensor]) -> Iterator[tuple[str, Tensor | None]]:
        yield from ((label, inputs) for label, _, inputs in _down(tower, runs, own, keep=True))

    for label, sides in sides_of(down, runs, errors, targets, left).items():
        for lag in range(max(int(targets[-1]) + 1, steps - int(targets[0]))):
            n, k = _at_distance(targets, lag, steps)
            yield label, lag, torch.einsum("nbi,nbj->bij", sides[n, k], right[label][k]).flatten(1)


def _at_distance(targets: Tensor, lag: int, steps: int) -> tuple[Tensor, Tensor]:
    """The places of targets t, and the steps t − lag and t + lag that there are."""
    n = torch.arange(len(targets), device="cpu")
    before, after = targets >= lag, targets + lag < steps
    after &= lag > 0
    return torch.cat([n[before], n[after]]), torch.cat([targets[before] - lag, targets[after] + lag])
