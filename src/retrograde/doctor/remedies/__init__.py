"""From findings to prescriptions: for each kind of finding a ladder of remedies, the first to try first.

A remedy is a generator from a `Case` (the findings of one kind and the examination) to prescriptions; it yields nothing
where it does not suit the model or its number cannot be computed. `memory` has those for the gradient through time,
`training` those for clipping, learning rate and scale, `wiring` those for the code of the model.

Tests: `tests/doctor/test_prescriptions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest

from ...errors import RetrogradeError
from ..examination import Examination
from ..findings import Finding, Kind
from ..prescriptions import Prescription
from . import memory, training, wiring
from .case import Case
from .command import with_command

__all__ = ["LADDERS", "prescribe"]

Remedy = Callable[[Case], Iterator[Prescription]]

# The kinds in the order of their causes: what is wired or scaled wrongly makes the measurements below it meaningless,
# and a training that diverges teaches nothing about memory.
LADDERS: Mapping[Kind, tuple[Remedy, ...]] = {
    Kind.TARGETS_BROADCAST: (wiring.shape,),
    Kind.OUTPUT_RANGE: (wiring.bounds,),
    Kind.NOT_TRAINED: (wiring.optimizer,),
    Kind.TRAINING_LOOP: (wiring.loop,),
    Kind.WRONG_TIME_AXIS: (wiring.time_axis,),
    Kind.MASK_ERROR: (wiring.padding,),
    Kind.INPUT_SCALE: (training.input_scale, training.layer_norm),
    Kind.TARGET_SCALE: (training.target_scale,),
    Kind.CHAOS: (memory.chaos, memory.flossing, training.clipping),
    Kind.EXPLODING: (memory.calm_first, training.clipping, memory.calm, training.learning_rate),
    Kind.LEARNING_RATE_TOO_HIGH: (training.learning_rate, training.clipping),
    Kind.NOT_FINITE: (memory.calm_first, memory.bounded, training.clipping, training.learning_rate, memory.calm),
    Kind.LEARNING_RATE_TOO_LOW: (training.learning_rate,),
    Kind.CLIPPING_TOO_TIGHT: (training.clipping,),
    Kind.TRUNCATION: (memory.bptt,),
    Kind.STUCK_GATES: (training.settle, memory.gates, training.layer_norm),
    Kind.DEAD_RELU: (training.biases, memory.one_direction, training.clipping),
    Kind.SATURATION: (training.settle, training.spread, training.layer_norm, memory.one_direction, training.clipping),
    Kind.VANISHING_HURTS: (memory.vanishing,),
    Kind.ONE_DIRECTION: (memory.one_direction, memory.flossing),
    Kind.CURSE_OF_MEMORY: (training.adaptive, training.layer_norm, training.clipping),
    Kind.CONSTANT_OUTPUT: (training.learning_rate, training.clipping),
}


def prescribe(examination: Examination, findings: Sequence[Finding]) -> list[Prescription]:
    """Remedies for all findings that make a training sick: the first of every cause, then the second of every cause."""
    sick = [finding for finding in findings if finding.severity == "sick"]
    # No option of training cures an output that is constant because of a dead head, or of inputs that are all the same.
    dead = any(finding.kind == Kind.DEAD_HEAD for finding in sick)
    alike = [f for f in sick if f.kind == Kind.CONSTANT_OUTPUT and (dead or f.numbers.get("inputs") == 0)]
    sick = [finding for finding in sick if finding not in alike]
    # Data that is not finite is cured in the data.
    sick = [finding for finding in sick if not (finding.kind == Kind.NOT_FINITE and "batch" in finding.numbers)]
    by_kind = [
        list(_remedies(Case(kind, own, examination, findings), ladder))
        for kind, ladder in LADDERS.items()
        if (own := [finding for finding in sick if finding.kind == kind])
    ]
    found: list[Prescription] = []
    for rank in zip_longest(*by_kind):
        for one in rank:
            if one is None or any(_same(one, other) for other in found):
                continue
            if (complete := with_command(one, examination.origin)) is not None:
                found.append(complete)
    return found


def _remedies(case: Case, ladder: Sequence[Remedy]) -> Iterator[Prescription]:
    for remedy in ladder:
        try:
            yield from remedy(case)
        except RetrogradeError as error:  # a number that cannot be measured
            case.examination.notes.append(f"{remedy.__name__.replace('_', ' ')}: not prescribed. {error}")


def _same(one: Prescription, other: Prescription) -> bool:
    return one.python == other.python if not one.options else one.options == other.options
