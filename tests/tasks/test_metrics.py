"""Scores have the values that their definitions give by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retrograde.cli import main
from retrograde.tasks import metrics

LABELS = ["a", "b", "c", "d"]


def numbers(*rows):
    return [np.array(row) for row in rows]


def test_scores_of_classes():
    found = metrics.of_sequences(LABELS, numbers([0], [0], [1], [1], [2]), numbers([0], [1], [1], [1], [0]))
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["confusion_matrix"] == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]  # rows: truth
    assert found["classes"]["a"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2})
    assert found["classes"]["b"] == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "support": 2})
    assert found["classes"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert found["classes"]["d"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    # d neither occurs nor is predicted: it has no F1 that could be averaged
    assert found["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)


def test_scores_of_steps():
    found = metrics.of_steps(["NOUN", "VERB"], numbers([0, 0, 1], [1]), numbers([0, 1, 1], [1]))
    assert found == pytest.approx({"accuracy": 3 / 4, "macro_f1": (2 / 3 + 4 / 5) / 2})


def test_entities_count_only_where_kind_and_both_ends_are_right():
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    truth = numbers([1, 2, 0, 3], [3, 4, 0, 1], [1, 0])
    guess = numbers([1, 0, 0, 3], [3, 4, 0, 3], [1, 1])
    # truth:     PER(0, 1) LOC(3, 3) | LOC(0, 1) PER(3, 3) | PER(0, 0)
    # predicted: PER(0, 0) LOC(3, 3) | LOC(0, 1) LOC(3, 3) | PER(0, 0) PER(1, 1)
    found = metrics.of_steps(labels, truth, guess)
    right, predicted, there = 3, 6, 5
    assert found["entity_precision"] == pytest.approx(right / predicted)
    assert found["entity_recall"] == pytest.approx(right / there)
    assert found["entity_f1"] == pytest.approx(2 * right / (predicted + there))
    assert found["entities"]["PER"]["f1"] == pytest.approx(2 * 1 / (3 + 3))
    assert found["entities"]["LOC"]["f1"] == pytest.approx(2 * 2 / (3 + 2))


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        (["O", "B-PER", "I-PER", "B-LOC"], ["LOC", "PER"]),
        (["B-X"], ["X"]),
        (["O"], []),
        (["O", "B-PER", "NOUN"], []),
        (["E-PER", "O"], []),
        (["B-", "O"], []),
    ],
)
def test_labels_that_mark_entities(labels, kinds):
    assert metrics.entity_kinds(labels) == kinds


def test_errors_of_forecasts(tmp_path: Path):
    """The naive and the seasonal naive forecast of a series, judged by NumPy as the textbook defines it."""
    y = np.random.default_rng(0).integers(0, 20, 60).astype(float)
    (tmp_path / "y.csv").write_text("y\n" + "\n".join(map(str, y)) + "\n")
    shape = ["--horizon", "2", "--context", "4", "--season", "3", "--hidden-size", "2", "--max-steps", "1"]
    command = ["train", str(tmp_path / "y.csv"), "--task", "forecast", "--out", str(tmp_path / "run"), *shape]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--threads", "1", "--quiet", "--no-report"])
    assert ended.value.code == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["baselines"]
    train = y[:48]  # four fifths
    origins = np.arange(48, 59)
    truth = np.stack([y[origins], y[origins + 1]])
    seasonal_error = np.abs(train[3:] - train[:-3]).mean()  # Hyndman and Koehler 2006
    forecasts = {
        "naive": np.stack([y[origins - 1], y[origins - 1]]),
        "seasonal naive": np.stack([y[origins - 3], y[origins - 2]]),
    }
    for name, forecast in forecasts.items():
        error = forecast - truth
        wanted = {
            "loss": (error**2).mean() / train.var(),
            "mae": np.abs(error).mean(),
            "rmse": np.sqrt((error**2).mean()),
            "mase": np.abs(error).mean() / seasonal_error,
        }
        assert found[name] == pytest.approx(wanted, rel=1e-5)
