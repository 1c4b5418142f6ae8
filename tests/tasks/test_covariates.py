"""Forecasts that read what is known ahead, what is the same for a whole series, and categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from retrograde.errors import DataError
from retrograde.tasks.registry import new_task
from retrograde.training import load, train

TINY = {"task": "forecast", "hidden_size": 3, "context": 6, "horizon": 3, "season": 1, "threads": 1, "max_steps": 2}
ROLES = {"group": "shop", "time": "t", "target": "y", "known_future": "promo,day", "static": "kind"}
DAYS = ("mon", "tue", "wed")


def table(path: Path, steps: int = 40, ahead: int = 3, day: str = "") -> str:
    """Two shops, with ``ahead`` rows whose y is empty."""
    random = np.random.default_rng(0)
    rows = ["shop,kind,t,promo,day,y"]
    for shop, kind in (("a", "big"), ("b", "small")):
        for t in range(steps + ahead):
            promo = random.integers(2)
            y = f"{random.normal() + 5 * promo:.3f}" if t < steps else ""
            rows.append(f"{shop},{kind},{t},{promo},{day or DAYS[t % 3]},{y}")
    path.write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.fixture
def shops(tmp_path: Path) -> str:
    return table(tmp_path / "shops.csv")


@pytest.mark.parametrize("strategy", ["direct", "autoregressive"])
def test_a_step_is_forecast_from_what_is_known_of_it_and_of_those_before(shops: str, strategy: str) -> None:
    task = new_task(shops, {**TINY, **ROLES, "strategy": strategy})
    plan, network = task.plan, task.model()
    assert (plan.channels, plan.features, plan.known, plan.static) == (1, 0, 2, 1)
    assert plan.by_step == (strategy == "direct")
    torch.nn.init.normal_(network.output.weight)
    values, ahead = torch.randn(6, 2, 3), torch.randn(3, 2, 2)
    values[..., 2], ahead[..., 1] = 1, 2
    ahead.requires_grad_()
    static = torch.tensor([[1.0], [2.0]])
    found = task.reader.outputs(network, values, ahead, static)[0, :, 0, 0]
    for step in range(3):
        (gradient,) = torch.autograd.grad(found[step], ahead, retain_graph=True)
        reaches = gradient[:, 0, 0].abs() > 0
        assert reaches.tolist() == [other <= step for other in range(3)]
        assert (gradient[:, 1] == 0).all()  # of another series
    other = task.reader.outputs(network, values, ahead, static.flip(0))[0, :, 0, 0]
    assert not torch.allclose(found, other)


@pytest.mark.parametrize("strategy", ["direct", "autoregressive"])
def test_forecasts_of_training_windows_are_those_that_are_scored(shops: str, strategy: str) -> None:
    """What the loss is computed from, and what is forecast for the same window, are the same numbers."""
    task = new_task(shops, {**TINY, **ROLES, "strategy": strategy})
    network = task.model()
    torch.nn.init.normal_(network.output.weight)
    chosen = np.array([0, 7])
    with torch.no_grad():
        batch = task.training.batch(chosen)
        outputs = network(batch.inputs)[..., 0] + batch.base[..., 0]
        made = task.reader.forecast(network, task.training.past(chosen))[0, :, :, 0]
    # Of the autoregressive strategy the first step alone: later ones read forecasts instead of truths.
    first = outputs[6:] if strategy == "direct" else outputs[5:6]
    np.testing.assert_allclose(first, made[: len(first)], atol=1e-5)


def test_from_training_to_predictions_with_unknown_and_missing_values(shops: str, tmp_path: Path) -> None:
    train(shops, tmp_path / "run", quantiles="0.1,0.9", **TINY, **ROLES)
    run = load(tmp_path / "run")
    rows = run.predict(shops)
    assert [(row["shop"], row["t"]) for row in rows] == [(shop, t) for shop in "ab" for t in (40, 41, 42)]
    assert all(row["y quantile 0.1"] <= row["y"] <= row["y quantile 0.9"] for row in rows)
    assert {"within_80", "mase"} <= set(run.predictor.evaluate(shops).metrics)

    strange = table(tmp_path / "strange.csv", day="sun")
    assert len(run.predict(strange)) == 6
    assert any("have a category that the training part lacks ('sun')" in note for note in run.predictor.notes)
    short = table(tmp_path / "short.csv", ahead=2)
    message = "series 'a' has no 'promo' at step 3 of the 3 to forecast: add rows for these steps"
    with pytest.raises(DataError, match=message):
        run.predict(short)


def test_a_category_that_only_held_out_steps_have_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("t,y,day\n" + "".join(f"{t},{t % 5},{'new' if t > 35 else DAYS[t % 3]}\n" for t in range(40)))
    task = new_task(path, {**TINY, "features": "day", "target": "y"})
    assert set(task.reader.columns.categories["day"]) == set(DAYS)
    assert any("('new'): unknown" in note for note in task.notes)
    values = task.training.values.rows[0:40]
    assert set(values[:36, 1]) == {1, 2, 3} and set(values[36:, 1]) == {0}


def test_many_categories_of_a_series_are_embedded(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    rows = [f"s{n},{t},{(t + n) % 4}" for n in range(20) for t in range(12)]
    path.write_text("shop,t,y\n" + "\n".join(rows) + "\n")
    task = new_task(path, {**TINY, "context": 3, "group": "shop", "target": "y", "static": "shop"})
    assert any("read as 20 categories (an embedding of 9 numbers)" in note for note in task.notes)
    network = task.model()
    assert list(network.embedding.embeddings) == ["1"] and network.recurrent.input_size == 1 + 9
    loss, _ = task.loss(network, task.batch(0), None)
    loss.backward()
    assert network.embedding.embeddings["1"].weight.grad[1:].abs().sum() > 0


def test_a_wide_table_with_static_features_has_a_column_for_each_step_and_quantile(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    months = [f"2024-{month:02d}" for month in range(1, 13)]
    rows = [f"s{n},{'ab'[n % 2]}," + ",".join(str(n + t % 3) for t in range(12)) for n in range(4)]
    path.write_text(f"shop,kind,{','.join(months)}\n" + "\n".join(rows) + "\n")
    options = {**TINY, "context": 4, "horizon": 2, "validation_fraction": 0.2, "quantiles": "0.9"}
    train(path, tmp_path / "run", static="kind", **options)
    rows = load(tmp_path / "run").predict(str(path))
    steps = ["2025-01", "2025-02"]
    assert len(rows) == 4 and list(rows[0]) == ["shop", *steps, *(f"{step} quantile 0.9" for step in steps)]
