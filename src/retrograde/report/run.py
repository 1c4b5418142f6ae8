"""A run folder as the report reads it: whatever is there, and a sentence for whatever is not."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import RetrogradeError, RunError
from ..training import RunFolder

if TYPE_CHECKING:
    from ..flow import GradientFlow

__all__ = ["FRACTION", "Run", "part", "read", "real"]

Curves = npt.NDArray[np.float64]

FORMAT = 1
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
    folder = Path(folder)
    RunFolder(folder).check_links()
    config = _config(folder)
    missing: dict[str, str] = {}
    metrics: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    sample = None
    try:
        metrics = list(_lines(folder / "metrics.jsonl", missing))
    except OSError as error:
        missing["metrics.jsonl"] = _reason(error)
    try:
        summary = _object(folder / "summary.json")
    except (OSError, ValueError) as error:
        missing["summary.json"] = _reason(error)
    try:
        with (folder / "sample.txt").open("rb") as file:
            sample = file.read(_SAMPLE_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        missing["sample.txt"] = _reason(error)
    evaluation: dict[str, Any] = {}
    if config.get("task", "language") != "language":
        try:
            evaluation = _object(folder / "evaluation.json")
        except (OSError, ValueError) as error:
            missing["evaluation.json"] = _reason(error)
    recorded: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):  # most runs have none
        recorded = list(_lines(folder / "flow" / "recorded.jsonl", missing))
    flows = _flows(folder / "flow", missing)
    return Run(folder, config, metrics, summary, sample, flows, evaluation, recorded, missing)


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file, not a run folder" if folder.exists() else "does not exist"
        raise RunError(f"{folder} {what}: give the folder that `retrograde train --out` wrote")
    path = folder / "config.json"
    try:
        config = _object(path)
    except FileNotFoundError:
        raise RunError(f"{folder} is no run folder: it has no config.json; give what `train --out` wrote") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({_reason(error)}): restore it or train again") from None
    version = config.get("format")
    if not isinstance(version, int) or version < 1:
        raise RunError(f"{path} states no format (found {version!r}): it is not the configuration of a run")
    if version > FORMAT:
        raise RunError(f"{folder} has run format {version}, this retrograde reads {FORMAT}: update retrograde")
    return config


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def _lines(path: Path, missing: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The evaluations; a line cut short by a crash is left out and said."""
    broken = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in filter(str.strip, file):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict) and math.isfinite(real(row.get("step"))):
                yield row
            else:
                broken += 1
    if broken:
        missing[path.name] = f"{broken} unreadable line{'s' if broken > 1 else ''} left out"


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
            missing[f"flow/{name}"] = _reason(error).replace(f"{folder}{os.sep}", "")
            continue
        if flow.norms.ndim != 3 or not flow.layers:
            missing[f"flow/{name}"] = "it holds no mean over its sequences"
        elif flows and flow.layers != flows["trained"].layers:
            missing[f"flow/{name}"] = "it is of another network"
        else:
            flows[name] = flow
    return flows


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, ValueError) and isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "it is damaged: no complete JSON"
    return " ".join(str(error).split()) or type(error).__name__
