"""The page of a folder that a `GradientFlowRecorder` wrote in somebody's own training loop: records and no run.

Tests: `tests/report/test_write.py`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import FlowError, RunError
from ..flow.clip import suggested
from ..runs import RunFolder
from .run import RecordedFlow
from .section import Fact, Section
from .sections.recorded import section_of
from .words import number, times

FILE = "flow/recorded.jsonl"


@dataclass(frozen=True)
class Recording:
    """The records of a folder, and how many lines of it cannot be read."""

    folder: Path
    records: list[RecordedFlow]
    broken: int


def is_recording(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has records of a recorder and no training run."""
    path = Path(folder)
    return (path / FILE).is_file() and not (path / "config.json").exists()


def read_recording(folder: str | os.PathLike[str]) -> Recording:
    """Read the records of a folder.

    Raises RunError if the file cannot be read, or has no record.
    """
    run = RunFolder(Path(folder))
    found = run.lines(FILE, RecordedFlow.of)
    if not found.rows:
        raise RunError(f"{run / FILE} has no records: the recorder measures every so many steps; train longer.")
    return Recording(run.path, found.rows, found.broken)


def sections_of_recording(recording: Recording) -> list[Section]:
    """The sections of its page: the reach of the gradient by training step, and what to clip at."""
    reach = section_of(recording.records, "on sequences of the batch of that step or, with inputs=, on the same ones")
    if reach is None:
        error = next((record.error for record in recording.records if record.error), "")
        reach = Section("recorded", "The reach of the gradient while training", [f"Nothing was measured: {error}"])
    damaged = f"{times(recording.broken, 'line')} of {FILE} cannot be read and are left out."
    if recording.broken:
        reach = Section(**{**vars(reach), "warnings": [*reach.warnings, damaged]})
    return [reach, _clipping(recording)]


def _clipping(recording: Recording) -> Section:
    norms = [norm for record in recording.records for norm in record.gradient_norms if math.isfinite(norm)]
    title = "Where to clip the gradient"
    if not norms:
        how = "recorder.step(…, gradient_norm=clip_grad_norm_(…))"
        return Section("clipping", title, [f"Not known: no gradient norms were recorded. Record them with {how}."])
    try:
        found = suggested(norms)
    except FlowError as error:
        return Section("clipping", title, [f"Not known: {error}"])
    fact = Fact("clip the gradient norm to", number(found.value), f"from the norms of {times(len(norms), 'update')}")
    return Section("clipping", title, [f"{found.arithmetic[:1].upper()}{found.arithmetic[1:]}."], [fact])
