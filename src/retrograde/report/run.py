"""A run folder as the report reads it: whatever is there, and a sentence for whatever is not."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import RetrogradeError, RunError
from ..runs import Config, Metrics, Results, RunFolder, Scores, Summary

if TYPE_CHECKING:
    from ..flow import GradientFlow

__all__ = ["FRACTION", "Record", "RunContents", "read", "real"]

Curves = npt.NDArray[np.float64]
T = TypeVar("T")

FRACTION = 0.01  # of what it is at the first lag that has any: from there on a gradient counts as gone
_SAMPLE_BYTES = 64 * 1024  # a sample is 300 characters; a file that grew by accident must not fill the page


@dataclass(frozen=True)
class Record:
    """The gradient flow at one step of training: a line of ``flow/recorded.jsonl``.

    Attributes
    ----------
    step : int
    by_lag : mapping
        Gradient norms by lag, NaN where there is none, for each layer; empty if the measurement failed.
    skipped : int
        Measurements left out since the one before.
    overhead : float
        Share of the training time spent on measuring.
    error : str
        Why it failed, or nothing.
    """

    step: float
    by_lag: Mapping[str, list[float]]
    skipped: int
    overhead: float
    error: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Record:
        """From a line; what is of the wrong type is left out."""
        layers = row.get("layers")
        by_lag = {}
        for label, values in layers.items() if isinstance(layers, dict) else ():
            norms = values.get("by_lag") if isinstance(values, dict) else None
            by_lag[label] = [real(norm) for norm in norms] if isinstance(norms, list) else []
        skipped = real(row.get("skipped"))
        return cls(
            real(row.get("step")),
            by_lag,
            int(skipped) if math.isfinite(skipped) else 0,
            real(row.get("overhead")),
            str(row.get("error", "")),
        )


@dataclass(frozen=True)
class RunContents:
    """The contents of one run folder; missing parts are empty, with their reason in `missing`."""

    folder: Path
    config: Config
    metrics: list[Metrics]
    summary: Summary | None
    sample: str | None
    flows: dict[str, GradientFlow]  # "trained", "untrained": those that were measured
    results: Results | None = None  # of a task other than language
    recorded: list[Record] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # part of the folder -> why it is not here

    @property
    def outcome(self) -> Summary:
        """The summary; without numbers if there is none."""
        return self.summary or Summary("no summary")

    @property
    def is_language(self) -> bool:
        """Whether the network is a language model."""
        return self.config.task == "language"

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
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # JSON allows integers of any length
        return math.inf if value > 0 else -math.inf


def read(folder: str | os.PathLike[str]) -> RunContents:
    """Read a run folder.

    Raises
    ------
    RunError
        If the folder or its config.json is missing, unreadable, or of a newer format; if a file of it is a link that
        leads out of it. Anything else may be missing.
    """
    run = RunFolder(Path(folder))
    config, missing = run.config(), dict[str, str]()

    def part(name: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except RunError as error:
            missing[Path(name).name] = _reason(error, run, name)
            return None

    metrics, broken, _ = part("metrics.jsonl", run.sound_metrics) or ([], 0, "")
    summary = part("summary.json", run.summary)
    sample = part("sample.txt", lambda: run.read_bytes("sample.txt")[:_SAMPLE_BYTES].decode("utf-8", errors="replace"))
    results = None if config.task == "language" else part("evaluation.json", run.results)
    rows = part("flow/recorded.jsonl", lambda: run.lines("flow/recorded.jsonl"))
    recorded = [Record.of(row) for row in rows.rows if math.isfinite(real(row.get("step")))] if rows else []
    broken_rows = rows.broken + len(rows.rows) - len(recorded) if rows else 0
    for name, count in (("metrics.jsonl", broken), ("recorded.jsonl", broken_rows)):
        if count:
            missing[name] = f"{count} unreadable line{'s' if count > 1 else ''} left out"
    for name in ("metrics.jsonl", "summary.json"):
        if not run.has(name):
            missing[name] = "it is not there"
    flows = _flows(run.path / "flow", missing)
    return RunContents(run.path, config, metrics, summary, sample, flows, results, recorded, missing)


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
