"""A run folder as the report reads it: whatever is there, and a sentence for whatever is not."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import RetrogradeError, RunError
from ..runs import RunFolder

if TYPE_CHECKING:
    from ..flow import GradientFlow

__all__ = ["FRACTION", "Run", "part", "read", "real"]

Curves = npt.NDArray[np.float64]

FRACTION = 0.01  # of what it was at the first lag that has any: there a gradient counts as gone
_SAMPLE_BYTES = 64 * 1024  # a sample is 300 characters; a file that grew by accident must not fill the page


@dataclass(frozen=True)
class Run:
    """The contents of one run folder; missing parts are empty, with their reason in `missing`."""

    folder: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    sample: str | None
    flows: dict[str, GradientFlow]  # "trained", "untrained": those that were measured
    evaluation: dict[str, Any] = field(default_factory=dict)  # of a task other than language
    recorded: list[dict[str, Any]] = field(default_factory=list)  # the gradient's reach while training, where recorded
    missing: dict[str, str] = field(default_factory=dict)  # part of the folder -> why it is not here

    def option(self, name: str) -> Any:
        """A training option, or None if the run does not know it."""
        return part(self.config, "options").get(name)

    def series(self, name: str) -> list[float]:
        """One column of metrics.jsonl, a value per evaluation, NaN where it has none."""
        return [real(row.get(name)) for row in self.metrics]

    @property
    def steps(self) -> list[float]:
        """The training step of each evaluation."""
        return self.series("step")

    @property
    def baselines(self) -> dict[str, dict[str, Any]]:
        """Name -> {"loss" (nats per token), "bits_per_character"}; empty if none were measured."""
        found = part(self.summary, "baselines")
        return {name: values for name, values in found.items() if isinstance(values, dict)}

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
    """`value` as a float, NaN if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # JSON allows integers of any length
        return math.inf if value > 0 else -math.inf


def part(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    """The object under `name` in a JSON object, empty if there is none."""
    found = mapping.get(name)
    return found if isinstance(found, dict) else {}


def read(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Raises
    ------
    RunError
        If the folder or its config.json is missing, unreadable, or of a newer format; if a file of it is a link that
        leads out of it. Anything else may be missing.
    """
    run = RunFolder(Path(folder))
    config, folder = run.config(), run.path
    missing: dict[str, str] = {}
    metrics: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    sample = None
    metrics = _lines(run, "metrics.jsonl", missing)
    try:
        summary = run.read_json("summary.json")
    except RunError as error:
        missing["summary.json"] = _reason(error, run, "summary.json")
    try:
        sample = run.read_bytes("sample.txt")[:_SAMPLE_BYTES].decode("utf-8", errors="replace")
    except RunError as error:
        missing["sample.txt"] = _reason(error, run, "sample.txt")
    evaluation: dict[str, Any] = {}
    if config["task"] != "language":
        try:
            evaluation = run.read_json("evaluation.json")
        except RunError as error:
            missing["evaluation.json"] = _reason(error, run, "evaluation.json")
    recorded = _lines(run, "flow/recorded.jsonl", missing) if run.has("flow/recorded.jsonl") else []
    flows = _flows(folder / "flow", missing)
    return Run(folder, config, metrics, summary, sample, flows, evaluation, recorded, missing)


def _lines(run: RunFolder, name: str, missing: dict[str, str]) -> list[dict[str, Any]]:
    """The lines that have a step; those that are damaged are left out and said."""
    if not run.has(name):
        missing[Path(name).name] = "it is not there"
        return []
    try:
        found = run.lines(name)
    except RunError as error:
        missing[Path(name).name] = _reason(error, run, name)
        return []
    whole = [row for row in found.rows if math.isfinite(real(row.get("step")))]
    broken = found.broken + len(found.rows) - len(whole)
    if broken:
        missing[Path(name).name] = f"{broken} unreadable line{'s' if broken > 1 else ''} left out"
    return whole


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
            missing[f"flow/{name}"] = "it holds no mean over its sequences"
        elif flows and flow.layers != flows["trained"].layers:
            missing[f"flow/{name}"] = "it is of another network"
        else:
            flows[name] = flow
    return flows
