"""When training ends, and the learning rate: functions of the step alone, so that resuming needs no state for them.

Tests: `tests/training/test_trainer.py`.
"""

from __future__ import annotations

import math
from typing import Any

from ..options import Options
from ..tasks.task import Task

FLOOR = 0.01  # share of the learning rate that is left at the end of cosine and linear


def planned_steps(options: Options, task: Task[Any]) -> int:
    """The step at which training ends: after ``epochs`` or ``max_steps``, whichever comes first."""
    limits = [] if options.max_steps is None else [options.max_steps]
    if options.epochs is not None:
        limits.append(max(1, round(options.epochs * task.steps_per_epoch)))
    return min(limits)


def learning_rate(options: Options, step: int, steps_per_epoch: int, planned: int) -> float:
    """The learning rate of a step.

    options: ``lr``, ``schedule``, ``warmup``, ``decay_every``, ``decay_factor``.
    step: from 0.
    steps_per_epoch, planned: ``planned`` is where cosine and linear end.

    Examples
    --------
    >>> options = Options.of({"lr": 1.0, "warmup": 4, "schedule": "step"})
    >>> [learning_rate(options, step, 10, 100) for step in (0, 3, 9, 10, 25)]
    [0.25, 1.0, 1.0, 0.5, 0.25]
    """
    assert options.lr is not None
    warm = min(1.0, (step + 1) / options.warmup) if options.warmup else 1.0
    done = min(1.0, max(0, step - options.warmup) / max(1, planned - options.warmup))
    if options.schedule == "cosine":
        factor = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2
    elif options.schedule == "linear":
        factor = 1 - (1 - FLOOR) * done
    elif options.schedule == "step":
        factor = options.decay_factor ** (step // max(1, round(options.decay_every * steps_per_epoch)))
    else:
        factor = 1.0
    return options.lr * warm * factor
