"""Ridge regression on whole sequences, and its share in the predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Sklearn
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import retrograde as rg
from retrograde.data.storage import Ragged
from retrograde.doctor.outcome import was_not_learned
from retrograde.errors import DataError
from retrograde.options import Options
from retrograde.tasks import ridge
from retrograde.tasks.registry import open_task
from retrograde.tasks.ridge import Ridge
from retrograde.training import load, train

FAST = {"hidden_size": 4, "threads": 1, "max_steps": 30}


def curves(count, steps, noise, seed=0):
    """Smooth curves, and a number that depends on them linearly."""
    random = np.random.default_rng(seed)
    grid = np.linspace(0, 1, steps)
    parts = random.normal(size=(count, 3))
    shapes = np.stack([np.exp(-(((grid - at) / 0.15) ** 2)) for at in (0.2, 0.5, 0.8)])
    found = parts @ shapes + 0.01 * random.normal(size=(count, steps)) + 5
    return found.astype(np.float32), 3 * parts[:, 1] - parts[:, 2] + noise * random.normal(size=count) + 100


@pytest.fixture
def table(tmp_path):
    """``table(x, y)``: the path of a table with a curve in each row."""

    def write(x, y, name="a.jsonl"):
        path = tmp_path / name
        rows = (json.dumps({"x": row.tolist(), "fat": float(one)}) for row, one in zip(x, y, strict=True))
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    return write


def opened(path, **options):
    return open_task(str(path), Options.of({"task": "regress", **options}).for_task("regress", options))


@pytest.mark.parametrize(("count", "steps"), [(60, 12), (30, 50)])
def test_it_is_ridge_regression_of_the_best_strength(count, steps):
    x, y = curves(count, steps, 0.5)
    found = Ridge.fit(Ragged.of([row[:, None] for row in x], np.float32), y)
    strengths = ridge._STRENGTHS * count
    twin = make_pipeline(StandardScaler(), RidgeCV(strengths)).fit(x.astype(np.float64), y)
    assert found.explained == pytest.approx(1 - left_out(x, y, twin[-1].alpha_), abs=0.02)
    best_twin = make_pipeline(StandardScaler(), Sklearn(twin[-1].alpha_)).fit(x.astype(np.float64), y)
    expected = best_twin.predict(x.astype(np.float64))
    assert found(Ragged.of([row[:, None] for row in x], np.float32)) == pytest.approx(expected, abs=1e-6)


def left_out(x, y, strength):
    """Share of the variance that is not explained where each sequence is left out."""
    found = cross_val_predict(make_pipeline(StandardScaler(), Sklearn(strength)), x.astype(float), y, cv=LeaveOneOut())
    mean = (y.sum() - y) / (len(y) - 1)
    return ((y - found) ** 2).mean() / ((y - mean) ** 2).mean()


def test_where_there_is_none(monkeypatch):
    x, y = curves(40, 12, 0.5)
    monkeypatch.setattr(ridge, "MOST_ALTOGETHER", 40 * 12 - 1)
    assert Ridge.fit(Ragged.of([row[:, None] for row in x], np.float32), y) is None
    monkeypatch.undo()
    assert Ridge.fit(Ragged.of([row[: 5 + place % 2, None] for place, row in enumerate(x)], np.float32), y) is None
    assert Ridge.fit(Ragged.of([row[:, None] for row in x[:10]], np.float32), y[:10]) is None
    constant = Ridge.fit(Ragged.of([np.ones((4, 1)) for _ in y], np.float32), y)
    assert not constant.weights.any() and constant.explained == pytest.approx(0, abs=1e-6)


def test_predictions_are_averaged_with_it_where_it_explains_half(table):
    task = opened(table(*curves(80, 20, 0.1)), **FAST)
    assert task.reader.averages and "ridge regression on the 20 steps explains 9" in task.notes[-1]
    network = task.model()
    alone = task.reader.predictions(network, task.validation)
    simple = task.baselines()
    assert simple["ridge regression"]["r2"] > 0.95 and simple["mean"]["r2"] < 0.1
    assert "worse than ridge regression by" in task.settle(network)
    share = float(network.ridge_share)
    assert 0.95 < share < 1
    expected = (1 - share) * alone + share * task.reader.ridge(task.validation[0])
    assert task.reader.predictions(network, task.validation) == pytest.approx(expected, abs=1e-6)
    assert task.score(network, task.validation)["loss"] < 0.1 * task.score(task.model(), task.validation)["loss"]
    noisy = opened(table(*curves(80, 20, 9.0)), **FAST)
    assert not noisy.reader.averages and set(noisy.baselines()) == {"mean", "ridge regression"}
    assert "ridge_share" not in noisy.model().state_dict()


def test_a_network_that_is_surely_better_predicts_alone(table, monkeypatch):
    path = table(*curves(80, 20, 0.1))
    task = opened(path, **FAST)
    truth = task.reader.truths(task.validation)
    monkeypatch.setattr(type(task.reader), "predictions", lambda *_: truth[None])
    network = task.model()
    before = network.output.weight.clone()
    assert "so its share in the predictions is 100%, that of ridge regression 0%" in task.settle(network)
    assert float(network.ridge_share) == 0 and torch.equal(network.output.weight, before)
    shorter = Ragged.of([np.zeros((7, 1), np.float32)], np.float32)
    assert task.reader.added(network, shorter, np.zeros(1, np.int64)) == 0  # it reads sequences of any length


def test_a_run_keeps_its_share(table, tmp_path):
    x, y = curves(80, 20, 0.1)
    path, run = table(x, y), tmp_path / "run"
    result = train(str(path), run, task="regress", test_fraction=0.2, **FAST)
    assert result.summary.scores["r2"] > 0.95 and was_not_learned(result.summary) == ""
    assert "ridge regression" in result.summary.test_baselines
    loaded = load(run)
    rows = [row["prediction"] for row in loaded.predict(str(path))]
    assert 1 - np.mean((rows - y) ** 2) / y.var() > 0.95
    found = loaded.predictor.evaluate(str(path))
    assert found.metrics["r2"] == pytest.approx(1 - np.mean((rows - y) ** 2) / y.var(), abs=1e-5)
    assert set(found.baselines) == {"mean", "ridge regression"}
    with pytest.raises(DataError, match=r"sequence 2 has 19 steps; all must have 20 here"):
        load(run).predictor.evaluate(str(table([x[0], x[1][:19]], y[:2], "b.jsonl")))


def test_a_resumed_run_divides_the_predictions_as_a_whole_one(table, tmp_path):
    path, options = str(table(*curves(80, 20, 0.1))), {"task": "regress", "lr": 0.02}
    whole = train(path, tmp_path / "whole", **(FAST | options | {"max_steps": 60}))
    train(path, tmp_path / "run", **(FAST | options | {"eval_every": whole.summary.step // 6}))
    resumed = train(path, tmp_path / "run", resume=True, task="regress", max_steps=60)
    one, other = (load(tmp_path / name).model.state_dict() for name in ("whole", "run"))
    assert resumed.summary.scores == whole.summary.scores and 0 < float(one["ridge_share"]) < 1
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_estimator_averages_with_it(tmp_path):
    x, y = curves(100, 20, 0.1)
    found = rg.Regressor(random_state=0, **FAST).fit(x[:80, :, None], y[:80])
    assert found.score(x[80:, :, None], y[80:]) > 0.95
    loaded = rg.Regressor.load(found.save(tmp_path / "run"))
    assert loaded.predict(x[80:, :, None]).tolist() == found.predict(x[80:, :, None]).tolist()


def test_runs_from_before_read_as_they_were(table):
    """preprocessing.json of earlier versions says nothing of ridge regression."""
    task = opened(table(*curves(80, 20, 0.1)), **FAST)
    kept = json.loads(task.files()["preprocessing.json"])
    assert len(kept["ridge"]["weights"]) == 20
    del kept["ridge"]
    reader = type(task.reader).from_files({"preprocessing.json": json.dumps(kept)})
    assert reader.ridge is None and not reader.averages
    assert "ridge_share" not in reader.network(task.options).state_dict()
