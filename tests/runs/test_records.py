"""What a run folder says in JSON: read, refused where a value has the wrong type, and written back unchanged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from retrograde.runs import Config, Goal, Metrics, Results, RunFolder, Summary, not_better_than

RELEASED = sorted(path.parent for path in Path(__file__).parent.glob("released/*/*/config.json"))


@pytest.mark.parametrize("run", RELEASED, ids=lambda path: f"{path.parent.name} {path.name}")
def test_files_of_released_versions_are_written_back_unchanged(run: Path, tmp_path: Path) -> None:
    old, new = RunFolder(run), RunFolder(tmp_path)
    new.write_metrics(old.metrics())
    assert (tmp_path / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    summary, config = old.summary(), old.config()
    assert summary is not None
    new.write_summary(summary)
    new.write_config(config)
    assert (tmp_path / "summary.json").read_text() == (run / "summary.json").read_text()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (run, tmp_path))
    assert before["options"].items() <= after["options"].items()  # which may have become more
    assert before | {"options": 0} == after | {"options": 0}


CONFIG: dict[str, Any] = {
    "retrograde": "0.1.0",
    "task": "language",
    "options": {"task": "language"},
    "data": {"source": "a.txt", "train_tokens": 5},
    "parameters": 3,
    "environment": {},
}


def test_a_configuration() -> None:
    config = Config.of(CONFIG)
    assert config.options.cell == "lstm" and config.created is None and config.data.lost is None
    assert config.data.amount("train_tokens") == 5 and config.data.amount("source") is None
    assert Config.of(CONFIG | {"data": {"source": "-"}}).data.lost == "standard input"
    assert Config.of(CONFIG | {"data": {"source": "a frame", "in_memory": True}}).data.lost == "a frame"


@pytest.mark.parametrize("name", CONFIG)
@pytest.mark.parametrize("value", [None, 5.5, [], True])
def test_a_configuration_with_a_wrong_value_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"its '{name}' is"):
        Config.of(CONFIG | {name: value})
    with pytest.raises(ValueError, match=f"its '{name}' is missing"):
        Config.of({key: value for key, value in CONFIG.items() if key != name})


def test_an_evaluation_has_the_task_s_own_metrics_in_one_field() -> None:
    line = {"step": 3, "tokens": 7, "seconds": 1, "train_loss": None, "validation_loss": 0.5, "validation_mae": None}
    found = Metrics.of(line | {"unknown": "x"})
    assert found == Metrics(3, tokens=7, seconds=1.0, validation={"loss": 0.5, "mae": None}) and found.loss == 0.5
    assert math.isnan(Metrics.of({"step": 3}).loss)
    assert Metrics.of({"step": 3, "seconds": 10**400}).seconds == math.inf
    assert Metrics.of({"step": 3, "seconds": 1e300}).seconds == 1e300


@pytest.mark.parametrize("key", ["step", "tokens", "seconds", "clip_norm", "validation_loss"])
@pytest.mark.parametrize("value", ["1", True, [1.0], {}])
def test_an_evaluation_with_a_wrong_value_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"its '{key}' is"):
        Metrics.of({"step": 3, key: value})


@pytest.mark.parametrize("step", [None, -1, 1.0, 2**63])
def test_an_evaluation_needs_a_step(step: Any) -> None:
    with pytest.raises(ValueError, match="its 'step' is"):
        Metrics.of({"step": step})


def test_a_summary_without_details_has_its_loss() -> None:
    found = Summary.of({"status": "finished", "best_validation_loss": 0.5, "best_validation_bits_per_character": None})
    assert found.best == {"loss": 0.5} and found.baselines is None and found.message == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", None),
        ("status", 1),
        ("step", "x"),
        ("seconds", "x"),
        ("best", []),
        ("baselines", {"unigram": 1}),
        ("results", 3),
        ("goal", {"criterion": "all"}),
    ],
)
def test_a_summary_with_a_wrong_value_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match="its '"):
        Summary.of({"status": "finished", key: value})


def test_results_of_labels_and_of_a_goal() -> None:
    part = {"loss": 0.5, "classes": {"x": {"f1": 1.0, "support": 3}}, "confusion_matrix": [[3]]}
    found = Results.of({"labels": ["x"], "test": part})
    assert found.parts["test"].scores == {"loss": 0.5} and found.parts["test"].classes["x"]["support"] == 3
    assert found.parts["test"].confusion_matrix == [[3]] and found.labels == ["x"] and found.goal is None
    goal = {"criterion": "all", "sequences": 4, "wrong": 1, "solved": False}
    assert Results.of(goal).goal == Goal("all", 4, 1) and Goal.of(goal).as_dict() == goal
    for wrong in ({"labels": 3}, {"test": {"classes": 3}}, {"test": {"confusion_matrix": [3]}}, goal | {"wrong": "x"}):
        with pytest.raises(ValueError, match="its '"):
            Results.of(wrong)


@pytest.mark.parametrize(
    ("scores", "baselines", "verdict"),
    [
        ({"accuracy": 0.6, "loss": 0.5}, {"most frequent": {"accuracy": 0.6, "loss": 0.7}}, "most frequent"),
        ({"accuracy": 0.61, "loss": 0.9}, {"most frequent": {"accuracy": 0.6, "loss": 0.7}}, ""),
        ({"loss": 0.2}, {"chance": {"loss": 0.7}, "optimum": {"loss": 0.0}}, ""),
        ({"loss": 2.4}, {"unigram": {"loss": 3.0}, "bigram": {"loss": 2.4}}, "bigram"),
        ({"mase": 0.579}, {"naive": {"mase": 0.8}, "seasonal naive": {"mase": 0.58}}, "seasonal naive"),
        ({"mase": 0.5}, None, ""),
    ],
)
def test_no_better_than_a_simple_method(scores: Any, baselines: Any, verdict: str) -> None:
    found = not_better_than(scores, baselines)
    assert found.startswith(f"not better than {verdict} (") if verdict else found == ""
