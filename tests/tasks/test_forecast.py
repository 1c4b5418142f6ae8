"""Forecasts: which baseline they start from, what the network reads, and how much of what it adds is forecast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from retrograde.report.run import read
from retrograde.report.sections import forecasts
from retrograde.runs import RunFolder, not_better_than
from retrograde.tasks.forecast import LEAST
from retrograde.tasks.registry import new_task
from retrograde.training import train

TINY = {"task": "forecast", "hidden_size": 3, "context": 12, "horizon": 4, "season": 6, "threads": 1}


def series(path: Path, values: np.ndarray) -> str:
    path.write_text("y\n" + "\n".join(f"{value:.4f}" for value in values) + "\n")
    return str(path)


@pytest.fixture
def walk(tmp_path: Path) -> str:
    return series(tmp_path / "walk.csv", np.cumsum(np.random.default_rng(0).normal(size=120)))


@pytest.fixture
def seasonal(tmp_path: Path) -> str:
    noise = np.random.default_rng(0).normal(0, 0.05, 120)
    return series(tmp_path / "seasonal.csv", np.sin(np.arange(120) * np.pi / 3) + noise)


def test_the_network_adds_to_the_baseline_that_is_better_on_the_validation_part(walk: str, seasonal: str) -> None:
    for source, steps in ((walk, 1), (seasonal, 6)):
        task = new_task(source, TINY)
        assert task.plan.added_to == steps
        scores = task.baselines()
        network = task.model()
        torch.nn.init.zeros_(network.output.weight)
        assert task.score(network, task.validation)["mase"] == pytest.approx(min(s["mase"] for s in scores.values()))


def test_another_level_of_a_series_changes_only_the_level_of_its_forecast(seasonal: str) -> None:
    task = new_task(seasonal, TINY)
    network, past = task.model(), torch.randn(12, 2, 1)
    with torch.no_grad():
        here, above = (task.reader.outputs(network, past + level) for level in (0.0, 100.0))
    torch.testing.assert_close(above - 100, here, atol=1e-4, rtol=1e-4)


def test_a_gain_that_may_be_luck_is_not_forecast_in_full(walk: str, tmp_path: Path) -> None:
    task = new_task(walk, TINY)
    network = task.model()
    torch.nn.init.normal_(network.output.weight)  # worse than the baseline
    before = network.output.weight.clone()
    assert f"{LEAST:.0%} of what it adds" in task.settle(network)
    torch.testing.assert_close(network.output.weight, before * LEAST)

    result = train(walk, tmp_path / "run", test_fraction=0.2, max_steps=2, **TINY)
    summary = result.summary
    best = min(scores["mase"] for scores in (summary.baselines or {}).values())
    assert summary.scores["mase"] == pytest.approx(best, rel=0.02)
    assert not_better_than(summary.scores, summary.baselines).startswith("not better than naive (MASE ")
    assert set(summary.test_baselines or {}) == {"naive", "seasonal naive"}


def test_the_results_have_curves_and_errors_by_series_and_the_page_draws_them(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    random = np.random.default_rng(1)
    rows = [f"{name},{t},{random.normal():.3f}" for name in "ab" for t in range(60)]
    path.write_text("shop,t,y\n" + "\n".join(rows) + "\n")
    train(path, tmp_path / "run", group="shop", time="t", target="y", max_steps=2, **TINY)
    part = RunFolder(tmp_path / "run").results().parts["validation"]
    assert set(part.series) == {"a", "b"} and set(part.baselines) == {"naive", "seasonal naive"}
    assert [(one.series, one.channel, len(one.past), len(one.actual)) for one in part.forecasts] == [
        ("a", "y", 12, 4),
        ("b", "y", 12, 4),
    ]
    last = [float(row.split(",")[2]) for row in rows[56:60]]
    assert part.forecasts[0].actual == pytest.approx(last, abs=1e-3)
    section = forecasts.section(read(tmp_path / "run"))
    assert section is not None and len(section.figures) == 2 and len(section.tables[0].rows) == 2
    assert {trace.name for trace in section.figures[0].plot.data} == {"read", "what came", "forecast", "naive"}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["chosen"]["cell"]
