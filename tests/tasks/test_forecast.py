"""Forecasts: which baseline they start from, what the network reads, and how much of what it adds is forecast."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from retrograde.cli.display import Display
from retrograde.cli.terminal import backtest_lines
from retrograde.errors import DataError
from retrograde.report.run import read
from retrograde.report.sections import forecasts
from retrograde.runs import RunFolder, not_better_than
from retrograde.tasks.registry import new_task
from retrograde.tasks.task import LEAST
from retrograde.training import load, train

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


@pytest.mark.parametrize("given", [{}, {"horizon": 4}, {"context": 12}, {"horizon": 4, "context": 12}], ids=str)
def test_what_was_not_given_of_context_and_horizon_is_said(seasonal: str, given: dict[str, int]) -> None:
    task = new_task(
        seasonal, {name: value for name, value in TINY.items() if name not in ("context", "horizon")} | given
    )
    said = f"{task.plan.horizon} steps are forecast from {task.plan.context} (--horizon and --context give others)."
    assert (said in task.notes) == (len(given) < 2)


@pytest.mark.parametrize(("steps", "short"), [(20, False), (19, True)])
def test_series_that_are_shorter_than_a_window_are_said_to_be(tmp_path: Path, steps: int, short: bool) -> None:
    rows = [f"a,{t},{t % 6}" for t in range(60)] + [f"b,{t},{t % 6}" for t in range(steps)]
    (tmp_path / "two.csv").write_text("\n".join(["name,t,y", *rows]))
    task = new_task(str(tmp_path / "two.csv"), TINY | {"group": "name", "time": "t"})
    said = "1 of 2 series is shorter than the 12 + 4 steps of a window"
    assert any(note.startswith(said) for note in task.notes) is short


def test_a_series_that_is_shorter_than_a_window_begins_with_repeated_numbers_that_are_no_targets(
    tmp_path: Path,
) -> None:
    rows = [f"{name},{t},{t + 7}" for name, steps in (("a", 60), ("b", 10), ("c", 60)) for t in range(steps)]
    (tmp_path / "some.csv").write_text("\n".join(["name,t,y", *rows]))
    windows = new_task(str(tmp_path / "some.csv"), TINY | {"group": "name", "time": "t"}).training
    values, truths = (np.asarray(part[1])[:, 0] for part in (windows.values, windows.truths))
    pad = len(values) - 10
    assert pad >= 6 and not np.ptp(values[: pad + 1]) and np.isnan(truths[:pad]).all()
    np.testing.assert_allclose(np.diff(values[pad:]), values[pad + 1] - values[pad], rtol=1e-5)
    assert values[pad + 1] > values[pad]
    np.testing.assert_array_equal(truths[pad:], values[pad:])
    assert len(windows.values[2]) == 60 and not np.isnan(np.asarray(windows.truths[2])).any()


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


# --- Quantiles, rolling origins ---------------------------------------------------------------------------------------

LEVELS = (0.1, 0.5, 0.75, 0.9)


def test_quantiles_start_as_those_of_the_baselines_errors_around_the_baseline(seasonal: str) -> None:
    task = new_task(seasonal, {**TINY, "quantiles": "0.1,0.75,0.9"})
    assert any("the number predicted is the median" in note for note in task.notes) and task.plan.levels == LEVELS
    network = task.model()
    torch.nn.init.zeros_(network.output.weight)
    scores, simple = task.score(network, task.validation), task.baselines()["seasonal naive"]
    assert scores == pytest.approx(simple, rel=1e-3) and {"within_80", "below_75"} < set(scores)
    plain = new_task(seasonal, TINY).baselines()["seasonal naive"]
    assert all(simple[name] == pytest.approx(plain[name]) for name in ("mae", "rmse", "mase"))
    windows, errors = task.training, []
    for at in range(len(windows)):
        cut = windows.cut(windows.truths, np.array([at]))[:, 0, 0]
        errors.append(cut[12:] - cut[6:10])
    expected = np.quantile(errors, LEVELS, axis=0)
    expected[1] = 0
    np.testing.assert_allclose(task.reader.spreads[6][:, :, 0], expected, atol=1e-6)


def test_quantiles_never_cross_whatever_the_network_puts_out(seasonal: str) -> None:
    task = new_task(seasonal, {**TINY, "quantiles": "0.1,0.75,0.9"})
    network = task.model()
    torch.nn.init.normal_(network.output.weight, std=9)
    past = torch.randn(12, 30, 1)
    with torch.no_grad():
        found = task.reader.outputs(network, past)
        raw = network(task.plan.read(task.training.past(np.arange(3))._replace(values=past)))
    assert (found.diff(dim=0) >= 0).all()
    raw = raw.view(30, 4, 4, 1).permute(2, 1, 0, 3)
    assert (raw.diff(dim=0) < 0).any()
    torch.testing.assert_close(found[1], task.plan.repeated(past, 6) + raw[1])  # the median stays as it is


def test_the_loss_of_quantiles_is_the_pinball_loss_and_their_scores_count_what_lies_inside(walk: str) -> None:
    task = new_task(walk, {**TINY, "quantiles": "0.2,0.8"})
    network, batch = task.model(), task.batch(0)
    with torch.no_grad():
        made = task.reader.outputs(network, batch.inputs + 0)
        loss, _ = task.loss(network, batch, None)
        change = network(batch.inputs).view(-1, 4, 3, 1).permute(2, 1, 0, 3)
    error = batch.base + change - batch.targets
    by_level = [torch.maximum(-q * one, (1 - q) * one).mean() for q, one in zip((0.2, 0.5, 0.8), error, strict=True)]
    assert float(loss) == pytest.approx(2 * sum(map(float, by_level)) / 3, rel=1e-5) and made.shape[0] == 3
    scores = task.score(network, task.validation)
    windows = task.validation[0]
    chosen = np.arange(len(windows))
    found = task.reader.forecast(network, windows.past(chosen))
    truth = windows.cut(windows.truths, chosen, 12)
    assert scores["within_60"] == pytest.approx(float(((found[0] <= truth) & (truth <= found[2])).mean()))


def test_quantiles_that_are_too_narrow_are_corrected_on_the_validation_part(walk: str) -> None:
    task = new_task(walk, {**TINY, "quantiles": "0.2,0.8"})
    network = task.model()
    with torch.no_grad():
        network.output.bias.zero_()
    before = task.score(network, task.validation)
    assert "quantiles were corrected on the validation part" in task.settle(network)
    after = task.score(network, task.validation)
    assert before["within_60"] < 0.3 and 0.6 <= after["within_60"] < 0.85
    assert after["mase"] == pytest.approx(before["mase"], rel=0.02)  # the median stays


def test_a_run_with_quantiles_and_a_backtest_from_training_to_the_page(seasonal: str, tmp_path: Path) -> None:
    options = {**TINY, "quantiles": [0.1, 0.9], "backtest": 3, "max_steps": 2}
    done = train(seasonal, tmp_path / "run", **options)
    run = load(tmp_path / "run")
    (first, *_), forecast = rows = run.predict(seasonal), RunFolder(tmp_path / "run").results().parts["test"]
    assert len(rows) == 2 and list(first) == ["step", "y", "y quantile 0.1", "y quantile 0.9"]
    assert all(row["y quantile 0.1"] <= row["y"] <= row["y quantile 0.9"] for row in run.predict(seasonal))
    assert set(forecast.forecasts[0].quantiles) == {"quantile 0.1", "quantile 0.9"}

    tested = forecast.backtest
    assert tested is not None and tested.stride == 4 and [len(tested.origins), len(tested.steps)] == [3, 4]
    again = run.predictor.backtest(seasonal, "utf-8", 3)
    assert again.backtest == tested  # the whole series, read again, has the same steps before each origin
    values = np.array([float(line) for line in Path(seasonal).read_text().split()[1:]])
    unit = np.abs(values[6:-36] - values[:-42]).mean()  # 12 steps of the backtest, 24 of validation
    for origin, end in zip(tested.origins, (112, 116, 120), strict=True):
        error = np.abs(values[end - 4 : end] - values[end - 10 : end - 6]).mean()
        assert origin.baselines["seasonal naive"]["mase"] == pytest.approx(error / unit, rel=1e-3)
    for scores in (row.scores for row in (*tested.origins, *tested.steps)):
        assert {"mae", "mase", "within_80"} <= set(scores)
    assert np.mean([row.scores["mase"] for row in tested.steps]) == pytest.approx(tested.overall.scores["mase"])
    with pytest.raises(DataError, match="--backtest 500 needs 500 forecasts of 4 steps"):
        run.predictor.backtest(seasonal, "utf-8", 500)

    shown = io.StringIO()
    Display(Console(file=shown, width=300)).finished(done)
    assert all(line in shown.getvalue() for line in backtest_lines(tested))

    section = forecasts.section(read(tmp_path / "run"))
    assert section is not None and [figure.title for figure in section.figures][1:] == [
        "Backtest: error by origin",
        "Backtest: error by step",
    ]
    assert "80 % interval" in {trace.name for trace in section.figures[0].plot.data}


def test_a_backtest_leaves_half_of_a_short_series_to_train_on(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    rows = [f"{name},{t},{t % 6}" for name, steps in {"long": 60, "short": 20}.items() for t in range(steps)]
    path.write_text("shop,t,y\n" + "\n".join(rows) + "\n")
    windows, _ = new_task(path, {**TINY, "group": "shop", "backtest": 3}).test
    places = np.bincount(windows.owners(np.arange(len(windows))))
    assert places.tolist() == [3 * 4 - 4 + 1, 2 * 4 - 4 + 1]  # three forecasts of 4 steps of one, two of the other


def test_origins_come_closer_where_a_part_is_short_and_of_many_series_each_has_its_own(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    lengths = {"long": 60, "short": 30}
    rows = [f"{name},{t},{t % 6}" for name, steps in lengths.items() for t in range(steps)]
    path.write_text("shop,t,y\n" + "\n".join(rows) + "\n")
    windows, _ = new_task(path, {**TINY, "group": "shop", "test_fraction": 0.2}).test
    assert len(windows) == (12 - 4 + 1) + (6 - 4 + 1)
    stride, found = windows.origins(3)
    assert stride == 4 and [windows.owners(some).tolist() for some in found] == [[0], [0], [0, 1]]
    assert windows.origins(5)[0] == 2 and [len(some) for some in windows.origins(5)[1]] == [1, 1, 1, 2, 2]
    with pytest.raises(DataError, match=r"--backtest 10 needs 10 forecasts .* room for 9: ask for fewer"):
        windows.origins(10)
