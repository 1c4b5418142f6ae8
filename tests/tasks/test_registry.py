"""Frames in memory through training, evaluation and resumption; what is no table is refused in one line."""

import json

import numpy as np
import pandas
import polars
import pytest

import retrograde as rg
from retrograde import experiment
from retrograde.errors import DataError, OptionError
from retrograde.options import OPTIONS
from retrograde.tasks.registry import BUILTIN, TASKS, task_class
from retrograde.tasks.task import Predictor, Task

ROWS = {
    "text": [f"some {'good' if n % 2 else 'bad'} words" for n in range(40)],
    "label": ["ab"[n % 2] for n in range(40)],
}
FAST = {"hidden_size": 4, "report": False, "threads": 1}


def test_a_frame_is_trained_on_judged_and_resumed(tmp_path):
    frame = pandas.DataFrame(ROWS)
    experiment.train(frame, tmp_path / "run", task="classify", max_steps=3, **FAST)
    data = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert data["source"] == "a DataFrame of pandas" and data["in_memory"]
    run = rg.training.load(tmp_path / "run")
    assert run.predictor.evaluate(polars.DataFrame(ROWS)).counts["sequences"] == 40
    with pytest.raises(OptionError, match="was trained on a DataFrame of pandas: give DATA"):
        experiment.train(None, tmp_path / "run", resume=True, max_steps=5, report=False)
    with pytest.raises(DataError, match=r"is not what .* was trained on"):
        experiment.train(frame[:30], tmp_path / "run", resume=True, max_steps=5, report=False)
    again = experiment.train(polars.DataFrame(ROWS), tmp_path / "run", resume=True, max_steps=5, report=False)
    assert again.summary.step == 5


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        (pandas.DataFrame(ROWS), {}, "a DataFrame of pandas is a table: say what to learn from it, task='classify'"),
        ({"a": [1]}, {"task": "classify"}, "data is a dict: give the name of a file, a DataFrame"),
        (np.zeros((20, 2)), {"task": "forecast"}, "data is a ndarray: .* arrays are read from a file, numpy.save"),
        (
            pandas.DataFrame({"x": ["a", "b"] * 9}),
            {"task": "forecast"},
            "a DataFrame of pandas has no column of numbers",
        ),
    ],
)
def test_what_cannot_be_trained_on(tmp_path, data, more, message):
    with pytest.raises((DataError, OptionError), match=message):
        experiment.train(data, tmp_path / "run", max_steps=1, **FAST, **more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("library", [pandas.DataFrame, polars.DataFrame])
def test_a_run_predicts_frames_texts_and_files(tmp_path, library):
    frame = library(ROWS)
    experiment.train(frame, tmp_path / "run", task="classify", max_steps=3, **FAST)
    run = rg.load(tmp_path / "run")
    found = run.predict(frame, probabilities=True)
    assert isinstance(found, library) and next(iter(found.columns)) == "prediction" and len(found) == 40
    rows = run.predict(ROWS["text"])
    assert [row["prediction"] for row in rows] == list(found["prediction"])
    pandas.DataFrame(ROWS).to_csv(tmp_path / "table.csv", index=False)
    assert run.predict(tmp_path / "table.csv") == rows


def test_every_task_is_in_the_registry():
    names = [name for name in OPTIONS["task"].choices if name != "auto"]
    assert sorted(TASKS) == sorted(names)
    for name in names:
        kind = task_class(name)
        assert issubclass(kind, Task) and issubclass(kind.predictor, Predictor)
    assert set(BUILTIN.values()) <= set(TASKS)
