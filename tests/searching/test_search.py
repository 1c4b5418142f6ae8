"""``rg.search`` and ``retrograde train --search``: what is tried, what is kept, and how it goes on."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

import retrograde as rg
from retrograde.errors import DivergedError, MissingExtraError, OptionError, RunError
from retrograde.options import OPTIONS, Options
from retrograde.runs import RunFolder
from retrograde.searching import study, trial
from retrograde.searching.space import Choices, Range, space_for
from retrograde.searching.trial import Job, Outcome, run_trial

optuna = pytest.importorskip("optuna", reason="the extra 'search' is not installed")

DATA = "builtin:latch?length=5"
SMALL = {"batch_size": 4, "max_steps": 6, "eval_every": 2, "threads": 1}


def tried(found):
    return [(one.number, one.state, dict(one.options), one.cost) for one in found.trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of five trials, and what was said of each."""
    said = []
    out = tmp_path_factory.mktemp("search") / "run"
    return rg.search(DATA, out, trials=5, progress=said.append, report=False, hidden_size=4, **SMALL), said


def test_the_best_run_is_a_run_folder_and_the_others_are_in_a_table(searched):
    found, said = searched
    assert said == found.trials and [one.number for one in found.trials] == [0, 1, 2, 3, 4]
    complete = [one for one in found.trials if one.state == "complete"]
    assert found.best == min(complete, key=lambda one: one.cost) == found.ranked()[0]
    run = rg.load(found.folder)
    assert run.summary.best["loss"] == pytest.approx(found.best.cost) and run.config.options.hidden_size == 4
    assert all(getattr(run.config.options, name) == value for name, value in found.best.options.items())
    table = json.loads((found.folder / "search.json").read_text())
    assert table["best"] == found.best.number and [one["cost"] for one in table["trials"]] == [
        one.cost for one in found.trials
    ]
    with pytest.raises(RunError, match="already contains a run"):
        rg.search(DATA, found.folder)


def test_the_first_trial_is_a_training_without_a_search(searched, tmp_path):
    found, _ = searched
    first = found.trials[0]
    alone = rg.train(DATA, tmp_path / "run", report=False, hidden_size=4, **SMALL)
    assert alone.summary.best["loss"] == first.cost
    options = rg.load(alone.folder).config.options
    assert first.options == {name: getattr(options, name) for name in first.options}
    assert set(first.options) == {"lr", "num_layers", "dropout", "cell"}  # hidden_size was given


@pytest.mark.parametrize("task", ["forecast", "regress"])
def test_trials_are_ranked_by_the_numbers_that_the_page_shows(tmp_path, task):
    """They are those of the predictions as they are divided in the end between the network and the simple method."""
    random = np.random.default_rng(0)
    if task == "forecast":
        rows = "".join(
            f"2020-{1 + k // 28:02}-{1 + k % 28:02},{x}\n" for k, x in enumerate(random.normal(size=300).cumsum())
        )
        (tmp_path / "a.csv").write_text("date,value\n" + rows)
    else:
        steps = random.normal(size=(60, 8))
        rows = [",".join(map(str, [*row, row.sum() + 0.5 * random.normal()])) for row in steps]
        (tmp_path / "a.csv").write_text(",".join(f"x{k}" for k in range(8)) + ",target\n" + "\n".join(rows) + "\n")
    given = {"task": task, "hidden_size": 4, "max_steps": 6, "eval_every": 2, "threads": 1}
    found = rg.search(tmp_path / "a.csv", tmp_path / "run", trials=3, report=False, **given)
    assert {one.state for one in found.trials} == {"complete"}
    assert [one.cost for one in found.trials] == pytest.approx([one.scores["loss"] for one in found.trials])
    summary, costs = rg.load(found.folder).summary, [one.cost for one in found.trials]
    assert found.best.cost == min(costs) == pytest.approx(summary.best["loss"]) == summary.results["validation"]["loss"]
    raw = min(line.loss for line in RunFolder(found.folder).metrics())
    assert abs(raw - found.best.cost) > 1e-6  # of the network alone


def test_a_search_that_was_interrupted_goes_on_to_the_same_trials(searched, tmp_path, monkeypatch):
    found, _ = searched

    def interrupted(job):
        return Outcome("interrupted", signal=15) if job.number == 2 else run_trial(job)

    with monkeypatch.context() as patch:
        patch.setattr(study, "run_trial", interrupted)
        options = {**SMALL, "hidden_size": 4}
        half = rg.search(DATA, tmp_path / "run", trials=5, report=False, **options)
    assert half.signal == 15 and len(half.trials) == 2 and rg.load(half.folder).config.task == "synthetic"
    with pytest.raises(OptionError, match="--lr was not given in the search"):
        rg.search(None, half.folder, trials=5, resume=True, lr=0.1)

    def leave(done):
        raise KeyboardInterrupt

    more = rg.search(None, half.folder, trials=5, resume=True, report=False, progress=leave)
    assert more.signal == 2 and len(more.trials) == 3
    rest = rg.search(DATA, half.folder, trials=5, resume=True, report=True, max_steps=6)
    assert tried(rest) == tried(found)
    page = (rest.folder / "report.html").read_text()
    assert "5 trainings with other options were tried" in page and f"of trial {rest.best.number}, the best" in page
    assert tried(rg.search(None, half.folder, trials=5, resume=True, report=False)) == tried(found)


def test_a_trial_that_is_worse_than_most_before_it_ends_early_and_is_not_kept():
    def before(cost):
        made = optuna.trial.create_trial(value=cost, intermediate_values=dict.fromkeys(range(0, 30, 2), cost))
        return made

    options = SMALL | {"hidden_size": 4, "max_steps": 28}
    bad = run_trial(Job(9, DATA, options, [before(-1.0) for _ in range(5)]))
    assert bad.state == "pruned" and bad.steps == 8 and bad.files is None  # a quarter of 28 is 7
    good = run_trial(Job(9, DATA, options, [before(1e9) for _ in range(5)]))
    assert good.state == "complete" and good.steps == 28 and "model.safetensors" in good.files
    assert run_trial(Job(9, DATA, options, keep_below=0.0)).files is None


def test_trials_that_diverge_or_contradict_themselves_are_rows_and_no_result(tmp_path, monkeypatch):
    def diverge(*data, **options):
        raise DivergedError("training diverged at step 7.")

    with monkeypatch.context() as patch, pytest.raises(DivergedError, match="none of 2 trials was completed: training"):
        patch.setattr(trial, "train", diverge)
        rg.search(DATA, tmp_path / "run", trials=2, hidden_size=4, **SMALL)
    rows = json.loads((tmp_path / "run" / "search.json").read_text())["trials"]
    assert [one["state"] for one in rows] == ["diverged"] * 2
    space = {"nonlinearity": ["relu", "tanh"]}  # relu is for --cell rnn
    found = rg.search(DATA, tmp_path / "mixed", trials=4, space=space, report=False, hidden_size=4, **SMALL)
    assert {(one.options["nonlinearity"], one.state) for one in found.trials} <= {
        ("relu", "impossible"), ("tanh", "complete"), ("tanh", "pruned")
    }  # fmt: skip


def test_the_usual_space_contains_what_a_training_would_use():
    for task in ("language", "classify", "tag", "regress", "forecast", "synthetic"):
        options = Options.of({"lr": 0.005}).for_task(task, ["lr"])
        space = space_for(options, [])
        assert all(getattr(options, name) in dimension for name, dimension in space.items())
        for name, dimension in space.items():
            assert not OPTIONS[name].tasks or task in OPTIONS[name].tasks
            for value in dimension.ends:
                OPTIONS[name].check(value)
    assert space_for(options, [], {"lr": (1e-4, 0.1), "num_layers": (1, 3), "cell": ["rnn"], "dropout": (0, 0.5)}) == {
        "lr": Range(1e-4, 0.1, log=True),
        "dropout": Range(0.0, 0.5),  # no ratio is as likely as any other from 0
        "num_layers": Range(1, 3),
        "cell": Choices(("rnn",)),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"space": {"lr": (0.1, 0.01)}}, r"the space of lr is \(0.1, 0.01\)"),
        ({"space": {"lr": "fast"}}, "give .low, high. or a list"),
        ({"space": {"cell": (1, 2)}}, r"the space of cell is \(1, 2\); it is not a number: give a list of values"),
        ({"space": {"lr": (-1.0, 1.0)}}, "--lr -1.0 is impossible"),
        ({"space": {"speed": [1]}}, "there is no training option 'speed'"),
        ({"space": {"epochs": [1, 2]}}, "--epochs cannot be searched"),
        ({"space": {"bptt": [1, 2]}}, "--bptt is for --task language"),
        ({"space": {"lr": [0.1]}, "lr": 0.2}, "--lr is given and searched"),
        ({"trials": 0}, "--search 0 is impossible"),
        ({"workers": 0}, "--workers 0 is impossible"),
        ({"budget": "soon"}, "--search-time 'soon' is not a duration"),
        ({"resume": True}, "contains no search"),
    ],
)
def test_what_is_impossible_is_refused_before_anything_is_written(options, words, tmp_path):
    with pytest.raises((OptionError, RunError), match=words):
        rg.search(DATA, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "search.log").exists()


def test_a_search_ends_when_its_time_is_up(tmp_path):
    found = rg.search(DATA, tmp_path / "run", trials=50, budget=0.01, report=False, hidden_size=4, **SMALL)
    assert 1 <= len(found.trials) < 50


def test_optuna_that_is_missing_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'retrograde\[search\]'"):
        rg.search(DATA, tmp_path / "run")


def test_a_new_training_in_the_folder_removes_the_search(tmp_path):
    folder = RunFolder(tmp_path)
    for name in ("config.json", "search.json", "search.log"):
        (folder / name).write_text("{}")
    folder.clear(keep=["search.log"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "search.log"]
    folder.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_ray_cluster_gives_what_processes_give(tmp_path):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        many = rg.search(DATA, tmp_path / "ray", trials=4, ray=True, report=False, hidden_size=4, **SMALL)
    finally:
        ray.shutdown()
    two = rg.search(DATA, tmp_path / "two", trials=4, workers=2, report=False, hidden_size=4, **SMALL)
    assert tried(many) == tried(two) and rg.load(many.folder).model is not None
