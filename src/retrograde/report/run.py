"""A run folder as the report reads it: whatever is there, and a sentence for whatever is not.

Tests: `tests/report/test_write.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import RetrogradeError, RunError
from ..runs import Config, Metrics, Results, RunFolder, Scores, SearchedTrial, Summary
from ..runs.folder import SEARCH_TABLE
from ..runs.records import number
from ..words import counted

if TYPE_CHECKING:
    from ..doctor import Diagnosis
    from ..doctor.trial_result import Trial
    from ..flow import GradientFlow
    from ..flow.learning_signal.saving import RunSignal
    from ..tasks.task import TaskInfo

Curves = npt.NDArray[np.float64]
T = TypeVar("T")

FRACTION = 0.01  # of what it is at the first lag that has any: from there on a gradient counts as gone
_SAMPLE_BYTES = 64 * 1024  # a sample is 300 characters; a file that grew by accident must not fill the page


@dataclass(frozen=True)
class RecordedFlow:
    """The gradient flow at one step of training: a line of ``flow/recorded.jsonl``."""

    step: float
    by_lag: Mapping[str, list[float]]  # gradient norms by lag of each layer; empty if the measurement failed
    skipped: int  # measurements left out since the one before
    overhead: float  # share of the training time spent on measuring
    error: str  # why it failed
    gradient_norms: Sequence[float] = ()  # of the updates since the record before, where they were recorded

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> RecordedFlow:
        """Read a line; what is of the wrong type is left out. ValueError if it has no step."""
        if not math.isfinite(step := real(row.get("step"))):
            raise ValueError("it has no step")
        layers, skipped = row.get("layers"), real(row.get("skipped"))
        by_lag: dict[str, list[float]] = {}
        for label, values in layers.items() if isinstance(layers, dict) else ():
            norms = values.get("by_lag") if isinstance(values, dict) else None
            by_lag[label] = [real(norm) for norm in norms] if isinstance(norms, list) else []
        skipped = int(skipped) if math.isfinite(skipped) else 0
        norms = row.get("gradient_norms")
        known = [real(norm) for norm in norms] if isinstance(norms, list) else []
        return cls(step, by_lag, skipped, real(row.get("overhead")), str(row.get("error", "")), known)


@dataclass(frozen=True)
class RunContents:
    """The contents of one run folder; missing parts are empty, with their reason in `missing`."""

    folder: Path
    config: Config
    task: TaskInfo
    metrics: list[Metrics]
    summary: Summary | None
    sample: str | None
    flows: dict[str, GradientFlow]  # "trained", "untrained": those that were measured
    results: Results | None = None  # of a task that does not write text
    signal: RunSignal | None = None  # where it was measured
    recorded: list[RecordedFlow] = field(default_factory=list)
    diagnosis: Diagnosis | None = None
    trial: Trial | None = None  # of the remedies
    searched: list[SearchedTrial] = field(default_factory=list)  # the trials of a search, the best first
    missing: dict[str, str] = field(default_factory=dict)  # part of the folder -> why it is not here

    @property
    def outcome(self) -> Summary:
        """The summary; without numbers if there is none."""
        return self.summary or Summary("no summary")

    def series(self, value: Callable[[Metrics], float | None]) -> list[float]:
        """A number of each evaluation, NaN where there is none."""
        return [real(value(line)) for line in self.metrics]

    @property
    def steps(self) -> list[float]:
        """The training step of each evaluation."""
        return self.series(lambda line: line.step)

    @property
    def baselines(self) -> Mapping[str, Scores]:
        """Metrics of simple methods, by name; empty if none were measured."""
        return self.outcome.baselines or {}

    def baseline(self, name: str, metric: str = "loss") -> float:
        """A metric of a simple method, NaN if it was not measured."""
        return real(self.baselines.get(name, {}).get(metric))

    @property
    def layers(self) -> list[str]:
        """Labels of the recurrent layers measured; the same for all of `flows`."""
        return list(next(iter(self.flows.values())).layers) if self.flows else []

    @cached_property
    def curves(self) -> dict[str, Curves]:
        """By network: ‖∂E_t/∂s_{t−lag}‖, mean over t, `(layers, T)`."""
        return {name: np.asarray(flow.by_lag(), dtype=np.float64) for name, flow in self.flows.items()}

    @cached_property
    def horizons(self) -> dict[str, dict[str, float]]:
        """By network and layer: the lag at which less than `FRACTION` is left; NaN if that lies beyond the window."""
        return {
            name: dict(zip(flow.layers, map(float, flow.horizon(FRACTION)), strict=True))
            for name, flow in self.flows.items()
        }


def real(value: object) -> float:
    """`value` as a float, NaN if it is something else."""
    found = number(value)
    return math.nan if found is None else found


def read(folder: str | os.PathLike[str]) -> RunContents:
    """Read a run folder.

    Raises RunError if the folder or its config.json is missing, unreadable, or of a newer format; if a file of it is a
    link that leads out of it. Anything else may be missing.
    """
    from ..tasks.registry import task_info  # brings torch

    run = RunFolder(Path(folder))
    config, missing = run.config(), dict[str, str]()
    task = task_info(config.options)

    def part(name: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except RunError as error:
            missing[Path(name).name] = _reason(error, run, name)
            return None

    def lines(name: str, of: Callable[[dict[str, Any]], T]) -> list[T]:
        found = part(name, lambda: run.lines(name, of))
        if found is not None and found.broken:
            missing[Path(name).name] = f"{counted(found.broken, 'unreadable line')} left out"
        return [] if found is None else found.rows

    metrics, summary = lines("metrics.jsonl", Metrics.of), part("summary.json", run.summary)
    sample = part("sample.txt", lambda: run.read_bytes("sample.txt")[:_SAMPLE_BYTES].decode("utf-8", errors="replace"))
    results = None if task.writes_text else part("evaluation.json", run.results)
    recorded = lines("flow/recorded.jsonl", RecordedFlow.of)
    for name in ("metrics.jsonl", "summary.json"):
        if not run.has(name):
            missing[name] = "it is not there"
    diagnosis = part("doctor.json", lambda: _diagnosis(run)) if run.has("doctor.json") else None
    trial = part("doctor-trial.json", lambda: _trial(run)) if run.has("doctor-trial.json") else None
    flows = _flows(run.path / "flow", missing)
    signal = part("flow/signal.json", lambda: _signal(run)) if run.has("flow/signal.json") else None
    searched = part(SEARCH_TABLE, run.searched) or [] if run.has(SEARCH_TABLE) else []
    parts = (flows, results, signal, recorded, diagnosis, trial, searched, missing)
    return RunContents(run.path, config, task, metrics, summary, sample, *parts)


def _signal(run: RunFolder) -> RunSignal | None:
    from ..flow.learning_signal import saving  # brings torch

    return saving.load(run)


def _diagnosis(run: RunFolder) -> Diagnosis | None:
    from ..doctor import saving  # brings torch: only a run that was diagnosed waits for it

    return saving.load(run)


def _trial(run: RunFolder) -> Trial | None:
    from ..doctor import saving  # brings torch

    return saving.load_trial(run)


def _reason(error: RunError, run: RunFolder, name: str) -> str:
    if not run.has(name):
        return "it is not there"
    return str(error).removeprefix(f"{run / name} ").rstrip(".")


def _flows(folder: Path, missing: dict[str, str]) -> dict[str, GradientFlow]:
    present = [name for name in ("trained", "untrained") if (folder / f"{name}.safetensors").is_file()]
    for name in {"trained", "untrained"}.difference(present):
        missing[f"flow/{name}"] = "it was not measured"
    if not present:
        return {}
    from ..flow import GradientFlow  # brings torch: only a run that has a flow waits for it

    flows: dict[str, GradientFlow] = {}
    for name in present:
        try:
            flow = GradientFlow.load(folder / name)
        except (OSError, ValueError, KeyError, RetrogradeError) as error:
            missing[f"flow/{name}"] = " ".join(str(error).split()).replace(f"{folder}{os.sep}", "")
            continue
        if flow.norms.ndim != 3 or not flow.layers:
            missing[f"flow/{name}"] = "it has no mean over its sequences"
        elif flows and flow.layers != flows["trained"].layers:
            missing[f"flow/{name}"] = "it is of another network"
        else:
            flows[name] = flow
    return flows
