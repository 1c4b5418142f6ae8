"""Sections of the page as they were recorded: words, facts, tables and figures of several runs."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrograde.report.comparison import sections as compared
from retrograde.report.run import read
from retrograde.report.section import Figure
from retrograde.report.sections import SECTIONS


def plotted(value: Any) -> Any:
    """A plot without its packing."""
    if isinstance(value, dict):
        if "bdata" in value:
            packed = np.frombuffer(base64.b64decode(value["bdata"]), np.dtype(value["dtype"]))
            return packed.astype(float) if packed.dtype.kind in "iuf" else packed
        return {key: plotted(one) for key, one in value.items() if key not in ("template", "uid")}
    if isinstance(value, (list, tuple)):
        return [plotted(one) for one in value]
    return value[:200] if isinstance(value, str) else value


def shown(section: Any) -> Any:
    if isinstance(section, Figure):
        plot = json.loads(section.plot.to_json())
        return [plotted(plot), section.title, section.caption, section.alt, shown(section.numbers)]
    if isinstance(section, (list, tuple)):
        return [shown(one) for one in section[:9]] + [len(section)]
    if hasattr(section, "__dataclass_fields__"):
        return {name: shown(getattr(section, name)) for name in section.__dataclass_fields__}
    return section[:300] if isinstance(section, str) else section


def changed(make_run: Any, name: str) -> Path:
    """A run folder of this kind."""
    rows, outcome, config = make_run.metrics(12), make_run.summary(12), make_run.config()
    if name == "two layers":
        return make_run(layers=2)  # type: ignore[no-any-return]
    if name == "no flow":
        return make_run(flow=(), evaluations=40)  # type: ignore[no-any-return]
    if name == "untrained flow":
        return make_run(flow=("untrained",), sample=None)  # type: ignore[no-any-return]
    if name == "overfitting":
        for i, row in enumerate(rows):
            row |= {"validation_loss": 1.5 + abs(i - 4) * 0.1, "train_loss": 2 - i * 0.1, "clipped_share": 0.97}
        outcome |= {"best_step": 500, "best_validation_loss": 1.5, "status": "interrupted"}
        config["options"] |= {"bptt": 4, "cell": "gru", "nonlinearity": "tanh", "num_layers": 3, "clip_norm": 0.1}
    if name == "diverged":
        for row in rows[6:]:
            row |= {"validation_loss": math.nan, "train_loss": 1e6, "gradient_norm_max": math.inf}
        outcome |= {"status": "diverged", "best_step": 600, "message": "loss became NaN at step 701"}
        config["options"] |= {"clip_norm": None, "optimizer": "sgd", "lr": 1.0}
    if name == "one evaluation":
        rows, outcome["best_step"] = rows[:1], 100
    if name == "worse than bigrams":
        outcome |= {"best_validation_loss": 2.7, "best_validation_bits_per_character": 2.7 / math.log(2)}
        config["options"] |= {"clip_norm": None, "clip_value": 0.5, "tokens": "word"}
        for row in rows:
            row |= {"validation_loss": row["validation_loss"] + 1.2, "clipped_share": 0.02}
    return make_run(metrics=rows, summary=outcome, config=config)  # type: ignore[no-any-return]


KINDS = ["two layers", "no flow", "untrained flow", "overfitting", "diverged", "one evaluation", "worse than bigrams"]


@pytest.mark.parametrize("name", KINDS)
def test_sections_of_a_run(name: str, make_run: Any, recorded: Callable[..., None]) -> None:
    run = read(changed(make_run, name))
    found = [section(run) for section in SECTIONS]
    recorded([shown(one) for one in found if one is not None])


def test_sections_of_several_runs(
    make_run: Any, recorded: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = make_run.metrics(5)
    runs = [
        make_run("first"),
        make_run("second", metrics=rows, summary=make_run.summary(5), flow=("untrained", "trained")),
        make_run("third", flow=(), config=make_run.config() | {"parameters": 7}),
    ]
    recorded([shown(one) for one in compared([read(run.relative_to(tmp_path)) for run in runs])])
