"""``retrograde train --search``."""

from __future__ import annotations

import json
import sys

import pytest

from retrograde.runs import RunFolder

pytest.importorskip("optuna", reason="the extra 'search' is not installed")

SMALL = ["--hidden-size", "4", "--batch-size", "4", "--max-steps", "4", "--eval-every", "2", "--no-report"]


def test_a_line_for_each_trial_and_the_best_run(retrograde, tmp_path):
    run = tmp_path / "run"
    outcome = retrograde("train", "builtin:latch?length=5", "--out", run, "--search", 2, *SMALL)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith("trial 0: --lr 0.002 --num-layers 1 --dropout 0 --cell lstm | loss ")
    assert lines[2].startswith("The best 2 of 2") and lines[-1].endswith(f": {run}")
    assert retrograde("info", run).code == 0
    more = retrograde("train", "--out", run, "--search", 3, "--resume", "--json", "--no-report")
    found = json.loads(more.out)
    assert len(found["trials"]) == 3 and found["signal"] == 0 and "trial 2: " in more.err


@pytest.mark.parametrize("words", [("--workers", "2"), ("--ray",), ("--search-time", "9s")])
def test_options_of_a_search_need_one(words, retrograde, tmp_path):
    outcome = retrograde("train", "builtin:latch?length=5", "--out", tmp_path / "run", *words)
    assert (
        outcome.code == 2
        and outcome.err == f"retrograde: {words[0]} is for --search: give that too, or leave it out.\n"
    )


def test_each_trial_of_a_search_is_a_run_of_its_own(tmp_path, monkeypatch, retrograde):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    words = ["train", "builtin:latch?length=5", "--out", "run", "--search", 3, *SMALL]
    outcome = retrograde(*words, "--track", "tensorboard")
    assert outcome.code == 0, outcome.err
    for trial in RunFolder("run").searched():
        found = accumulator.EventAccumulator(str(tmp_path / f"run/tensorboard/trial-{trial.number}")).Reload()
        losses = {one.step: one.value for one in found.Scalars("validation_loss")}
        assert list(losses) == [0, 2, 4] and min(losses.values()) == pytest.approx(trial.cost)
    for name, said in (("tensorbord", "is unknown"), ("mlflow", "pip install 'retrograde[mlflow]'")):
        monkeypatch.setitem(sys.modules, "mlflow", None)
        refused = retrograde(*words[:3], "other", "--search", 3, "--track", name)
        assert refused.code == 2 and said in refused.err and not (tmp_path / "other").exists()
