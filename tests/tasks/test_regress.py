"""A number from each sequence: what is read, scaled, scored, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from retrograde.errors import DataError, OptionError
from retrograde.options import Options
from retrograde.tasks.registry import open_task
from retrograde.training import load, train

ROWS = [([float(n), n + 1.0][: 1 + n % 2], 10.0 * n) for n in range(20)]
FAST = {"hidden_size": 4, "threads": 1, "max_steps": 2}


@pytest.fixture
def lists(tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_text("\n".join(json.dumps({"x": x, "life": y}) for x, y in ROWS) + "\n")
    return path


def opened(path, **options):
    return open_task(str(path), Options.of({"task": "regress", **options}).for_task("regress", options))


def test_targets_are_scaled_by_the_training_part(lists):
    task = opened(lists)
    assert task.reader.columns.target == ("life",) and "target: 'life' (a guess" in task.notes[0]
    scaled = np.concatenate([task.training[1][place] for place in range(18)])
    assert scaled.mean() == pytest.approx(0, abs=1e-6) and scaled.std() == pytest.approx(1, abs=1e-6)
    batch = task.batch(0)
    assert batch.size == len(batch.targets) == task.batch_size
    outputs = torch.zeros(task.batch_size, 1)
    assert torch.equal(batch.losses(outputs), batch.targets**2)


def test_the_baseline_is_the_mean_of_the_training_part(lists):
    task = opened(lists, validation_fraction=0.5)
    seen, held = (np.concatenate([part[1][n] for n in range(10)]) for part in (task.training, task.validation))
    seen, held = task.reader.target.undo(seen), task.reader.target.undo(held)
    found = task.baselines()["mean"]
    assert found["mse"] == pytest.approx(((held - seen.mean()) ** 2).mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(held - seen.mean()).mean(), rel=1e-5)
    assert found["r2"] == pytest.approx(1 - found["mse"] / held.var(), rel=1e-5)


def test_from_rows_of_steps_with_decimal_commas(tmp_path):
    path = tmp_path / "long.csv"
    lines = [f'{n};{t};{n + t};"{n},5"' for n in range(20) for t in range(1 + n % 3)]
    path.write_text("\n".join(["machine;t;x;life", *lines]) + "\n")
    task = opened(path, features="x", target="life")
    assert task.reader.columns.group == ("machine",)
    numbers = [
        task.reader.target.undo(part[1][n])[0] for part in (task.training, task.validation) for n in range(len(part[1]))
    ]
    assert sorted(numbers) == pytest.approx([n + 0.5 for n in range(20)], abs=1e-4)


def test_a_run_predicts_and_resumes_the_same(lists, tmp_path):
    train(lists, tmp_path / "run", task="regress", target="life", **FAST)
    run = load(tmp_path / "run")
    rows = list(run.predictor.predict(lists))
    assert len(rows) == 20 and all(isinstance(row["prediction"], float) for row in rows)
    found = run.predictor.evaluate(lists)
    assert found.counts == {"sequences": 20, "steps": 30}
    errors = np.array([row["prediction"] - y for row, (_, y) in zip(rows, ROWS, strict=True)])
    assert found.metrics["mse"] == pytest.approx((errors**2).mean(), rel=1e-4)
    assert train(None, tmp_path / "run", resume=True, max_steps=3).summary.step == 3
    with pytest.raises(OptionError, match="a number has none"):
        list(run.predictor.predict(lists, probabilities=True))


@pytest.mark.parametrize(
    ("columns", "rows", "options", "message"),
    [
        ("x,y", ["1,2", "2,n/q", "3,4"] * 9, {"target": "y"}, r"table\.csv, row 2, column 'y': 'n/q' is not"),
        ("x,y", ["1,2", "2,", "3,4"] * 9, {"target": "y"}, "row 2, column 'y': there is no number to predict"),
        ("x,y", ["1,2", "2,inf", "3,4"] * 9, {"target": "y"}, r"table\.csv, row 2, column 'y': the number is infinite"),
        (
            "x,y",
            ["1,2", "2,1e300", "3,4"] * 9,
            {},
            r"table\.csv, row 2, column 'y': the number \(1e\+300\) is",
        ),
        ("x,y", ["1,2", "-inf,2", "3,4"] * 9, {}, r"table\.csv, row 2, column 'x': the number is infinite"),
        ("x,y", ["1,2"] * 9, {"target": "x,y"}, "--target names 2 columns"),
        ("g,x,y", ["a,1,2", "a,2,3", "b,1,1"] * 9, {"target": "y", "group": "g"}, "group 'a' has two numbers, 2 and 3"),
        ("w", ["a b", "c"] * 9, {"text": "w"}, "no column of numbers to predict"),
        ("x,y", ["1,2"] * 9, {"label": "y"}, "--label is for --task classify and --task tag"),
    ],
)
def test_what_cannot_be_learned(tmp_path, columns, rows, options, message):
    path = tmp_path / "table.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    with pytest.raises((DataError, OptionError), match=message):
        train(path, tmp_path / "run", task="regress", **options, **FAST)


def test_quantiles_start_as_those_of_the_training_part_and_never_cross(lists, tmp_path):
    task = opened(lists, quantiles="0.1,0.9", validation_fraction=0.5)
    seen = np.concatenate([task.training[1][n] for n in range(10)])
    network = task.model()
    assert network.output.bias.tolist() == pytest.approx(np.quantile(seen, (0.1, 0.5, 0.9)).tolist(), rel=1e-5)
    found = task.baselines()["median"]
    held = np.concatenate([task.validation[1][n] for n in range(10)])
    low, middle, high = np.quantile(seen, (0.1, 0.5, 0.9))
    assert found["within_80"] == pytest.approx(((low <= held) & (held <= high)).mean())
    assert found["mae"] == pytest.approx(np.abs(held - middle).mean() * task.reader.target.scale[0], rel=1e-5)

    train(lists, tmp_path / "run", task="regress", quantiles=(0.9, 0.1), **FAST)
    run = load(tmp_path / "run")
    torch.nn.init.normal_(run.model.output.weight, std=30)
    rows = run.predict(str(lists))
    assert list(rows[0]) == ["prediction", "quantile 0.1", "quantile 0.9"]
    assert all(row["quantile 0.1"] <= row["prediction"] <= row["quantile 0.9"] for row in rows)
    assert {"within_80", "r2", "loss"} <= set(run.predictor.evaluate(str(lists)).metrics)


@pytest.mark.parametrize(
    ("quantiles", "said"),
    [("0.5,1.5", "levels between 0 and 1"), ("ten", "such as 0.1,0.5,0.9"), ([], "levels between 0 and 1")],
)
def test_impossible_quantiles(quantiles, said):
    with pytest.raises(OptionError, match=said):
        Options.of({"quantiles": quantiles})
    with pytest.raises(OptionError, match="--quantiles is for --strategy direct"):
        Options.of({"quantiles": "0.1", "strategy": "autoregressive"})
