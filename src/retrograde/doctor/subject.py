"""What a trial is about: a run, data with options of training, or a function of the user.

Tests: `tests/doctor/test_diagnosis.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.formats import name_of
from ..errors import OptionError
from ..option import flag
from ..options import Options
from ..runs import RunFolder
from ..tasks.registry import new_task, open_task
from ..training.schedule import planned_steps
from .matched import NativeTraining, UserTraining
from .runs import is_run


@dataclass(frozen=True)
class Subject:
    """What is trained in a trial."""

    name: str  # by which the trial is known again
    run: NativeTraining | UserTraining  # makes one run
    options: Options | None  # without treatment; None for a function of the user
    updates: int | None  # of a whole training
    seed: int  # that of the run
    notes: tuple[str, ...] = ()


def subject_of(subject: Any, given: Mapping[str, Any]) -> Subject:
    """Read a run or data, or take a function.

    Raises OptionError, DataError, RunError.
    """
    if callable(subject):
        if given:
            raise OptionError(f"{next(iter(given))} is an option of training, and a function trains by itself.")
        name = f"{getattr(subject, '__module__', '')}.{getattr(subject, '__qualname__', type(subject).__name__)}"
        return Subject(name, UserTraining(subject), None, None, -1)
    if is_run(subject):
        if given:
            raise OptionError(f"{flag(next(iter(given)))} is for data; {subject} is a run, which has its own options.")
        return _run(RunFolder(subject))
    source = str(subject) if isinstance(subject, Path) else subject
    task, source = new_task(source, given), _absolute(source)
    options = task.options
    native = NativeTraining(source, options)
    return Subject(f"{name_of(source)} {options}", native, options, planned_steps(options, task), options.seed)


def _run(folder: RunFolder) -> Subject:
    config, summary = folder.config(), folder.summary()
    if config.data.lost:
        raise OptionError(f"{folder.path} was trained on {config.data.lost}, which is gone: no run can be repeated.")
    task = open_task(config.data.source, config.options, folder.path)
    changed = task.fingerprint != config.data.fingerprint
    steps = planned_steps(config.options, task)
    if summary is not None and summary.status == "finished" and summary.step:
        steps = min(steps, summary.step)
    return Subject(
        f"{folder.path.resolve()} {config.created}",
        NativeTraining(_absolute(config.data.source), config.options, str(folder.path.resolve())),
        config.options,
        steps,
        config.options.seed,
        (f"{config.data.source} has changed since training.",) if changed else (),
    )


def _absolute(source: Any) -> Any:
    return str(Path(source).resolve()) if isinstance(source, str) and Path(source).exists() else source
