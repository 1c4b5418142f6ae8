"""Runs: the recorded calls of a layer that are one recurrence, because each continues from the state of another.

A layer may be called more than once: step by step in a loop, chunk by chunk, or again for another sequence (the two
towers of a siamese network). Only if a call starts from the final state of an earlier one do the two belong to one
recurrence, with one axis of steps; otherwise they are separate runs, ``rnn.l0#1`` and ``rnn.l0#2``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from ...errors import FlowError
from .calls import AnyCall, Call, MarkedStep

_UNNAMED = "l0"  # the default label of a mark
_LONGEST_PERIOD = 16  # most recurrences that are marked in turn at one line of code


def labeled_runs(calls: Iterable[AnyCall]) -> dict[str, list[AnyCall]]:
    """Calls by the label of their run, in the order in which the runs begin; a run's calls in the order of time.

    Labels are torch's names of layers and directions (``l0``, ``l0_reverse``), after the module's name where there are
    several modules, and with ``#1``, ``#2`` where a layer ran several times.

    Raises FlowError if marks of several recurrences cannot be separated; a run continues with another number of
    sequences.
    """
    tracks: dict[tuple[str, str], list[AnyCall]] = {}
    for call in calls:
        tracks.setdefault(call.track, []).append(call)
    several = len({module for module, _ in tracks}) > 1
    found: list[tuple[AnyCall, str, list[AnyCall]]] = []
    for (module, suffix), own in tracks.items():
        if suffix == "cell":
            label = module if several else "l0"
        else:
            label = f"{module}.{suffix}" if several and module else suffix
        marks = [call for call in own if isinstance(call, MarkedStep)]
        runs: Sequence[Sequence[AnyCall]] = (
            _runs_of_marks(marks, label) if marks else _runs_of_calls([c for c in own if isinstance(c, Call)], label)
        )
        for number, run in enumerate(runs, 1):
            name = f"{label}#{number}" if len(runs) > 1 else label
            # Marks of a recurrence that goes from the last step to the first come in that order.
            in_time = list(run[::-1]) if marks and run[0].reverse else list(run)
            found.append((run[0], name, in_time))
    order = {id(call): i for i, call in enumerate(c for own in tracks.values() for c in own)}
    if any(len(own) > 1 for own in tracks.values()):  # runs begin in the order in which the model called them
        order = {id(call): i for i, call in enumerate(calls)}
    found.sort(key=lambda run: order[id(run[0])])
    return {name: run for _, name, run in found}


def base(label: str) -> str:
    """The layer's label without the number of its run."""
    name, mark, number = label.rpartition("#")
    return name if mark and number.isdigit() else label


def steps_of(run: Sequence[AnyCall]) -> int:
    """T of a run."""
    return sum(len(call.h) for call in run)


def batch_of(run: Sequence[AnyCall]) -> int:
    """B of a run."""
    return run[0].h.shape[1]


def same_weights(run: Sequence[AnyCall]) -> bool:
    """Whether all calls of a layer's run used the same weights, as they do unless a loop drops or changes them."""
    layers = [call for call in run if isinstance(call, Call)]
    return all(call.weights is layers[0].weights for call in layers)


def state_changes(run: Sequence[AnyCall]) -> bool:
    """Whether operators between two steps (zoneout, a mask) are part of the recurrence."""
    return any(isinstance(call, Call) and call.link == "changed" for call in run)


def _runs_of_calls(calls: list[Call], label: str) -> list[list[Call]]:
    runs: list[list[Call]] = []
    place: dict[int, list[Call]] = {}
    for call in calls:
        run = place.get(id(call.before)) if call.before is not None else None
        if run is None:
            run = []
            runs.append(run)
        elif run[0].h.shape[1] != call.h.shape[1]:
            raise FlowError(
                f"Layer {label} continues from {run[0].h.shape[1]} sequences with {call.h.shape[1]}: which is which "
                "is not known. Keep the finished sequences in the batch, with losses of zero, while the gradient is "
                "measured."
            )
        run.append(call)
        place[id(call)] = run
    return runs


def _runs_of_marks(marks: list[MarkedStep], label: str) -> list[list[MarkedStep]]:
    """Marks as recurrences: each mark of one follows from the mark before it."""
    sites: dict[tuple[str, int], list[MarkedStep]] = {}
    for mark in marks:
        sites.setdefault(mark.site, []).append(mark)
    # Two lines of code that mark in turn mark two recurrences; one after the other, they may continue each other.
    alternate = len(sites) > 1 and any(
        later.site in {mark.site for mark in marks[:i]} and later.site != before.site
        for i, (before, later) in enumerate(itertools.pairwise(marks))
    )
    runs: list[list[MarkedStep]] = []
    for group in sites.values() if alternate else [marks]:
        found = _chains(group)
        if found is None and _is_one_chain(group):  # it depends on more than one step back, or is two that feed back
            found = [group] if label.rpartition(".")[2] != _UNNAMED else None
        elif found is None:
            found = _interleaved(group)
        if found is None:
            raise FlowError(
                f"States marked as {label} seem to belong to several recurrences: give each a label of its own, "
                "mark_state(h, layer='own')."
            )
        runs += found
    order = {id(mark): i for i, mark in enumerate(marks)}
    return sorted(runs, key=lambda run: order[id(run[0])])


def _chains(marks: list[MarkedStep]) -> list[list[MarkedStep]] | None:
    """Marks joined by what each depends on; None where that is not one mark, the last of its recurrence."""
    inside = {id(mark) for mark in marks}
    alone = {m.invocation for m in marks} - {a.invocation for a, b in _pairs(marks) if a.invocation == b.invocation}
    runs: list[list[MarkedStep]] = []
    last: dict[int, list[MarkedStep]] = {}  # the runs by their last mark
    for mark in marks:
        since = {id(m): m for m in mark.since if id(m) in inside}
        here = {key: m for key, m in since.items() if m.invocation == mark.invocation}
        # In a new call of the module only the final state of an earlier one counts, and only alone: its inputs may
        # come from there too.
        candidates = here or (since if len(since) == 1 and next(iter(since)) in last else {})
        if not candidates and (not since or mark.invocation not in alone):
            runs.append([mark])
            last[id(mark)] = runs[-1]
            continue
        key = next(iter(candidates), 0)
        run = last.pop(key, None)
        if len(candidates) != 1 or run is None or run[-1].h.shape != mark.h.shape:
            return None
        run.append(mark)
        last[id(mark)] = run
    return runs


def _is_one_chain(marks: list[MarkedStep]) -> bool:
    return all(any(m is before for m in mark.since) for before, mark in _pairs(marks))


def _interleaved(marks: list[MarkedStep]) -> list[list[MarkedStep]] | None:
    """Marks of several recurrences in turn, made by one line of code."""
    best: list[list[MarkedStep]] | None = None
    for period in range(2, min(_LONGEST_PERIOD, len(marks) // 2) + 1):
        groups = [_chains(marks[i::period]) for i in range(period)]
        runs = [run for group in groups if group is not None for run in group]
        # With a wrong period, marks seem to be unrelated: the fewest runs are right.
        if None not in groups and (best is None or len(runs) < len(best)):
            best = runs
    return best


def _pairs(marks: list[MarkedStep]) -> list[tuple[MarkedStep, MarkedStep]]:
    return list(itertools.pairwise(marks))
