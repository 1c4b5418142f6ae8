"""``rg.trial``: which runs are made, what is concluded from them, what is kept, and when it ends."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import time

import matplotlib.pyplot as plt
import pytest
import torch

import retrograde as rg
from retrograde.doctor import Kind, Prescription
from retrograde.doctor.arms import drawn, pairs, random_remedies, treated
from retrograde.doctor.matched import Job, NativeTraining, Outcome, ShouldStop
from retrograde.doctor.trial_result import Trial, equal_seconds, median_curve
from retrograde.errors import OptionError
from retrograde.options import OPTIONS, Options


def noisy(seed, remedy):
    """A training whose loss is chance, but for one remedy that halves it."""
    loss = 1 + random.Random(seed).random()
    return loss / 4 if remedy == "cure" else loss


def counted(train):
    """The same, with a list of the calls that were made."""
    calls: list[tuple[int, object]] = []

    def call(seed, remedy):
        calls.append((seed, remedy))
        return train(seed, remedy)

    return call, calls


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def test_a_cure_helps_and_a_sugar_pill_does_not():
    call, calls = counted(noisy)
    found = rg.trial(call, ["cure", "pill"], random=["tea", "rest"], workers=1)
    assert found["cure"].verdict == "helps" and found["pill"].verdict == "does not help" and found.helps == ["cure"]
    assert found["cure"].evidence.e_value >= found.bar == 40
    assert found["cure"].evidence.wins == {"untreated": 6, "placebo": 6, "random": 6}
    # The same seeds in all arms but the placebo, and none beyond the one that decides.
    by_remedy = {remedy: [seed for seed, given in calls if given == remedy] for remedy in ("cure", "pill")}
    assert by_remedy["cure"] == list(range(6)) and len(by_remedy["pill"]) == len(found["pill"].seeds) < 8
    assert found["placebo"].seeds[0] >= 1_000_000 and set(found["untreated"].seeds) == set(range(6))
    assert {remedy for _, remedy in calls} == {None, "cure", "pill", "tea", "rest"}


def test_a_remedy_that_any_change_equals_does_not_help():
    def anything(seed, remedy):
        return 1.0 if remedy is None else 0.5

    assert rg.trial(anything, ["cure"], random=["tea"], workers=1)["cure"].verdict == "does not help"
    alone = rg.trial(anything, ["cure"], workers=1)
    assert alone["cure"].verdict == "helps" and any("no random remedy" in note for note in alone.notes)


def test_three_seeds_never_prove_anything_and_the_result_says_how_many_would():
    found = rg.trial(lambda seed, remedy: 0.0 if remedy else 1.0, ["cure"], seeds=3, workers=1)
    assert found["cure"].verdict == "cannot tell" and found["cure"].evidence.fewest_more == 2
    assert "At least 2 more seeds would decide" in str(found)


def test_scores_curves_and_runs_that_diverge():
    def train(seed, remedy):
        if remedy == "bomb":
            return {"score": float("-inf")}
        score = random.Random(seed).random() + (10 if remedy else 0)
        return {"score": score, "curve": [(10, score / 2), (20, score)]}

    found = rg.trial(train, {"good": {"a": 1}, "bad": {"b": 1}}, pair=False, workers=1)
    assert found.measure == "score" and found["good"].verdict == "helps"
    curve = next(curve for curve in found.chart.curves if curve.label == "good")
    assert curve.x == [10, 20] and curve.y[1] > 10
    bombs = rg.trial(train, ["bomb"], workers=1)
    assert bombs["bomb"].verdict == "does not help"
    assert json.loads(bombs.to_json())["arms"][-1]["verdict"] == "does not help"


def test_a_trial_is_read_as_it_was_written_and_drawn():
    def train(seed, remedy):
        loss = math.inf if remedy == "bomb" else 0.5 + random.Random(seed).random() - (remedy == "good")
        return {"loss": loss, "curve": [(10, 1.0), (20, loss)]}

    written = rg.trial(train, ["good", "bomb"], seeds=6, workers=1)
    read = Trial.of(json.loads(written.to_json()))
    assert read.to_json() == written.to_json() and str(read) == str(written)
    assert read["bomb"].values == [math.inf] * len(read["bomb"].seeds)
    ax = read.plot()
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels[:2] == ["untreated", "placebo"] and "good" in labels
    assert list(ax.get_lines()[labels.index("good")].get_xdata()) == [10, 20]
    plt.close(ax.figure)


def test_at_equal_seconds_the_slower_run_has_what_it_had_when_the_faster_one_ended():
    def run(*curve):
        return Outcome(curve[-1][2] if curve else 1.0, curve=curve)

    slow = run((10, 4.0, 3.0), (20, 8.0, 1.0), (30, 12.0, 0.25))
    fast = run((10, 1.0, 2.0), (20, 4.0, 0.5), (30, 5.0, 0.75))
    assert equal_seconds(slow, fast) == 2.5 and equal_seconds(fast, slow) == -2.5
    for unknown in (run(), run((10, math.nan, 3.0), (20, math.nan, 1.0)), run((10, 6.0, 3.0))):
        assert equal_seconds(unknown, fast) is equal_seconds(fast, unknown) is None


def test_the_curve_of_an_arm_is_the_median_at_the_points_that_all_seeds_have():
    runs = [
        Outcome(1.0, curve=[(10, 1.0, value), (20, 2.0, 2 * value), (30, 3.0, 0.0)][:n])
        for n, value in ((3, 1.0), (2, 5.0), (3, 4.0))
    ]
    assert median_curve([*runs, Outcome(1.0)]) == [(10, 4.0), (20, 8.0)] and median_curve([Outcome(1.0)]) == []


@pytest.mark.parametrize("change", [{"measure": "speed"}, {"arms": 3}, {"bar": None}, {"notes": [1]}], ids=str)
def test_a_trial_with_other_types_is_refused(change):
    written = json.loads(rg.trial(lambda seed, remedy: 1.0, ["cure"], seeds=1, workers=1).to_json())
    with pytest.raises((ValueError, TypeError)):
        Trial.of(written | change)


@pytest.mark.parametrize("name", ["values", "seconds", "at_equal_seconds", "reach", "growth"])
def test_a_trial_with_words_for_numbers_is_refused(name):
    written = json.loads(rg.trial(lambda seed, remedy: 1.0, ["cure"], seeds=1, workers=1).to_json())
    written["arms"][-1][name] = ["soon"]
    with pytest.raises(ValueError, match="'soon' is no number"):
        Trial.of(written)


def test_pairs_of_remedies_that_do_not_contradict_each_other():
    seen = []
    rg.trial(lambda seed, remedy: seen.append(remedy) or 1.0, [{"a": 1}, {"b": 2}, {"a": 3}], seeds=1, workers=1)
    assert {"a": 1, "b": 2} in seen and {"b": 2, "a": 3} in seen and sum(r is not None for r in seen) == 5
    seen.clear()  # of the first three remedies only
    rg.trial(lambda seed, remedy: seen.append(remedy) or 1.0, [{name: 1} for name in "abcd"], seeds=1, workers=1)
    assert {"b": 1, "c": 1} in seen and not any(remedy and len(remedy) == 2 and "d" in remedy for remedy in seen)


# --- Budget, interruption, going on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", [False, True], ids=["runs to its end", "asks should_stop"])
def test_the_budget_is_kept(asks):
    def short(seed, remedy):
        time.sleep(0.02)
        return random.random()

    def long(seed, remedy, should_stop):
        while not should_stop():
            time.sleep(0.01)
        return 0.0

    began, told = time.time(), []
    found = rg.trial(
        long if asks else short, ["a", "b", "c", "d", "e", "f"], budget=1.0, workers=1, progress=told.append
    )
    assert time.time() - began < 1.05 + 0.4  # 0.4: the machine of the tests may be busy
    assert any("time was up" in note for note in found.notes)
    assert told and all(0 <= one.seconds_left <= 1 for one in told)
    if asks:
        assert not found["a"].seeds, "a run that was stopped does not count"


def test_the_seconds_left_are_those_of_the_runs_that_follow_where_the_budget_is_larger():
    told = []
    rg.trial(lambda seed, remedy: 1.0, ["a"], seeds=2, budget=1000, workers=1, progress=told.append)
    assert [one.done for one in told] == [1, 2, 3, 4, 5, 6] and max(one.seconds_left for one in told) < 500


def test_without_time_for_all_the_worse_half_is_stopped():
    def train(seed, remedy):
        time.sleep(0.05)
        return random.Random(seed).random() + (remedy or 9)

    found = rg.trial(train, [1, 2, 3, 8], budget=1.6, workers=1)
    stopped = [arm.name for arm in found.arms if "worse half" in arm.why]
    assert "8" in stopped and "1" not in stopped


def test_an_interrupted_trial_goes_on_where_it_was(tmp_path):
    call, calls = counted(noisy)

    def interrupted(seed, remedy):
        if len(calls) == 7:
            raise KeyboardInterrupt
        return call(seed, remedy)

    interrupted.__qualname__ = call.__qualname__ = "train"
    first = rg.trial(interrupted, ["cure"], random=["tea"], out=tmp_path / "t", workers=1)
    assert first.interrupted and len(calls) == 7 and first["cure"].verdict == "cannot tell"
    again = rg.trial(call, ["cure"], random=["tea"], out=tmp_path / "t", workers=1)
    whole = rg.trial(noisy, ["cure"], random=["tea"], workers=1)
    assert len(calls) == len(set(calls)) == 20 and again["cure"].values == whole["cure"].values
    assert json.loads((tmp_path / "t" / "doctor-trial.json").read_text())["arms"][-1]["verdict"] == "helps"
    with pytest.raises(OptionError, match="another trial"):
        rg.trial(call, ["other"], out=tmp_path / "t", workers=1)
    assert rg.trial(call, ["other"], out=tmp_path / "t", workers=1, overwrite=True, seeds=1)


def test_what_is_impossible_is_refused():
    for wrong, words in (({"seeds": 0}, "seeds is 0"), ({"budget": "soon"}, "budget 'soon'"), ({"lr": 1}, "lr is an")):
        with pytest.raises(OptionError, match=words):
            rg.trial(noisy, ["cure"], **wrong)
    with pytest.raises(OptionError, match="no remedy to try"):
        rg.trial(noisy, [])
    with pytest.raises(OptionError, match="expected the loss"):
        rg.trial(lambda seed, remedy: "good", ["cure"], workers=1)
    with pytest.raises(OptionError, match="changes nothing"):
        rg.trial("builtin:adding?length=20", {"lr": 0.002})


# --- Arms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("task", ["language", "classify", "forecast", "synthetic"])
def test_random_remedies_apply_to_the_training_and_were_not_prescribed(cell, task):
    options = Options.of({"cell": cell, "task": task})
    prescribed = [treated(options, "lr", {"lr": 0.1})]
    names = random_remedies(options, prescribed)
    assert "lr" not in names and ("chrono" in names) == (cell == "lstm") and ("bptt" in names) == (task == "language")
    several = [drawn(names, options, seed) for seed in range(40)]
    assert all(several) and len({str(one) for one in several}) > 20 and several[3] == drawn(names, options, 3)
    for changes in several:
        Options.check_task(task, changes)
        for name, value in changes.items():
            OPTIONS[name].check(value)


def test_pairs_of_options_exclude_each_other_or_not():
    options = Options.of({"cell": "lstm"})
    arms = [treated(options, str(c), c) for c in ({"chrono": 30}, {"forget_bias": 2.0}, {"clip_norm": 0.1})]
    assert [arm.remedy for arm in pairs(options, arms)] == [
        {"chrono": 30, "clip_norm": 0.1},
        {"forget_bias": 2.0, "clip_norm": 0.1},
    ]


# --- The trainer of this package --------------------------------------------------------------------------------------

TINY = {"cell": "rnn", "hidden_size": 6, "batch_size": 4, "max_steps": 8}


def test_native_runs_are_matched_and_do_not_disturb_the_caller():
    options = Options.of(TINY).for_task("synthetic", TINY)
    training = NativeTraining("builtin:adding?length=20", options)
    state = torch.get_rng_state()

    def run(remedy, seed=1):
        return training(Job("pilot", "x", 0, seed, remedy, 1, ShouldStop(None)))

    assert torch.equal(torch.get_rng_state(), state)
    plain, again, other = run(None), run(None), run(None, 2)
    assert plain.value == again.value != other.value and plain.reach == again.reach and 0 < plain.seconds < 600
    # With a learning rate near 0 the loss is that of the start: a remedy that changes no weight starts the same, and
    # another cell has the same head.
    still = {"lr": 1e-12}
    assert run(still).value == run({**still, "clip_norm": 0.01}).value != run({**still, "init": "orthogonal"}).value
    assert run({"cell": "gru"}).error == "" and "must be" in run({"lr": -1.0}).error


def test_a_trial_of_the_trainer_drops_what_does_not_do_as_it_claims(tmp_path):
    def prescription(name, options, kind=Kind.VANISHING_HURTS):
        return Prescription(name, kind, options, "", "", "")

    remedies = [
        prescription("longer", {"init": "orthogonal", "spectral_radius": 1.2}),
        prescription("shorter", {"spectral_radius": 0.05}),
        prescription("by hand", {}),
        prescription("steeper", {"spectral_radius": 1.1}, Kind.EXPLODING),
    ]
    found = rg.trial("builtin:adding?length=20", remedies, out=tmp_path / "t", seeds=1, pair=False, workers=1, **TINY)
    assert "dropped after the pilot" in found["shorter"].why and not found["shorter"].seeds
    assert "the gradient has ×" in found["steeper"].why and not found["steeper"].seeds
    longer = found["longer"]
    assert longer.reach[0] > found["untreated"].reach[0] and len(longer.values) == 1
    assert any("by hand was not tried" in note for note in found.notes) and found.bar == 20
    assert found.updates == 8 and longer.curve[-1][0] == 8
    again = rg.trial("builtin:adding?length=20", remedies, out=tmp_path / "t", seeds=1, pair=False, workers=1, **TINY)
    assert again[longer.name].seconds == longer.seconds, "nothing was run again"


def test_updates_are_as_many_as_fit_into_the_budget_with_what_each_run_costs_before_its_first(tmp_path):
    """By pilot runs that are in the folder already, with other seconds."""

    def stop(told):
        if told.done >= 3:  # two of no treatment, one of the remedy
            raise KeyboardInterrupt

    def going_on(setup, evaluation):
        first, *lines = (tmp_path / "doctor-trial.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        rows = [row for row in rows if row.get("stage") == "pilot"]
        for row in rows:  # the first run of a process takes longer
            slow = 5000 * (row["round"] == 0)
            row["outcome"] |= {"setup": setup + slow, "evaluation": evaluation, "training": 0.001, "updates": 1}
        (tmp_path / "doctor-trial.jsonl").write_text("\n".join([first, *map(json.dumps, rows)]) + "\n")
        return adding()

    def adding():
        options = TINY | {"max_steps": 100}
        return rg.trial(
            "builtin:adding?length=20",
            [{"lr": 0.1}],
            out=tmp_path,
            budget=1000,
            seeds=1,
            workers=1,
            progress=stop,
            **options,
        )

    assert adding().interrupted
    for setup, evaluation in ((2000, 0), (0, 2000)):
        found = going_on(setup, evaluation)
        assert found.updates == 20 and not found.interrupted and not any(arm.seeds for arm in found.arms)
        assert any("20 updates instead of 100" in note for note in found.notes)
        assert any("time was up" in note for note in found.notes)
    assert going_on(1, 1).updates == 100


# --- Several processes ------------------------------------------------------------------------------------------------


def test_processes_give_what_one_process_gives():
    one = rg.trial(noisy, ["cure", "pill"], random=["tea", "rest"], workers=1)
    two = rg.trial(lambda seed, remedy: noisy(seed, remedy), ["cure", "pill"], random=["tea", "rest"], workers=2)
    assert [arm.values for arm in one.arms] == [arm.values for arm in two.arms]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_ray_cluster_gives_what_one_process_gives():
    import ray

    def train(seed, remedy):  # of this function's own, because the cluster has no module of the tests
        return (seed % 7 + 1) / (4 if remedy == "cure" else 1)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        found = rg.trial(train, ["cure"], random=["tea"], ray=True)
    finally:
        ray.shutdown()
    assert [arm.values for arm in found.arms] == [
        arm.values for arm in rg.trial(train, ["cure"], random=["tea"], workers=1).arms
    ]
