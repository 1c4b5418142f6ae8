"""Runs and data under examination: every task, other data, runs that broke, and the command of a prescription."""

from __future__ import annotations

import json
import math
import random
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

import retrograde as rg
from retrograde.cli import app
from retrograde.doctor import runs
from retrograde.doctor.examination import Origin
from retrograde.doctor.findings import Kind
from retrograde.doctor.outcome import method_beaten, was_not_learned
from retrograde.doctor.prescriptions import Prescription
from retrograde.doctor.remedies.command import with_command
from retrograde.errors import DivergedError, OptionError, RunError
from retrograde.options import Options
from retrograde.runs import Metrics, Summary

TINY = {"hidden_size": 6, "batch_size": 16, "threads": 1, "report": False, "max_steps": 4, "eval_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of every task; the label of a sequence is the sign of its first number."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    (folder / "book.txt").write_text("the cat sat on the mat. " * 200)
    with (folder / "first.csv").open("w") as table:
        table.write("id,t,x,label,tag\n")
        for sequence in range(160):
            values = [draw.gauss(0, 1) for _ in range(20)]
            label = "up" if values[0] > 0 else "down"
            table.writelines(f"{sequence},{t},{x:.4f},{label},{'ab'[x > 0]}\n" for t, x in enumerate(values))
    with (folder / "series.csv").open("w") as table:
        table.write("t,y\n")
        table.writelines(f"{t},{math.sin(t / 3) + draw.gauss(0, 0.1):.4f}\n" for t in range(240))
    return folder


USUAL = {"bidirectional": False, "pooling": "last", "lr": 0.002, "schedule": "constant"}  # not what the data decides
TABLE = {"group": "id", "time": "t", "features": "x"}
TASKS = {
    "language": ("book.txt", {"bptt": 12, "cell": "rnn"}),
    "classify": ("first.csv", {"task": "classify", "label": "label", "cell": "rnn", **USUAL, **TABLE}),
    "bidirectional": ("first.csv", {"task": "tag", "label": "tag", "bidirectional": True, "cell": "gru", **TABLE}),
    "forecast": ("series.csv", {"task": "forecast", "time": "t", "target": "y", "context": 16, "horizon": 4}),
    "synthetic": ("builtin:latch?length=20", {"cell": "lstm"}),
}


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run of each task, trained when it is first asked for."""
    out, found = tmp_path_factory.mktemp("runs"), {}

    def make(name: str) -> Path:
        if name not in found:
            source, options = TASKS[name]
            source = source if source.startswith("builtin:") else str(data / source)
            found[name] = rg.train(source, out / name, **TINY, **options).folder
        return found[name]

    return make


# --- Every task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_run_of_every_task_is_examined(trained, name):
    exam = runs.examination_of(trained(name), seconds=3.0)
    sequences = sum(sample.inputs[0].shape[1] for sample in exam.samples)
    assert sequences >= 40, "hundreds where the data has them"
    assert exam.record.updates == 4 and exam.record.optimizer == "adam" and len(exam.record.gradient_norms) == 4
    assert (exam.record.chance is not None) == (name != "forecast")  # a naive forecast is no constant
    assert exam.record.bptt == (12 if name == "language" else None)
    assert exam.flow.layers
    start = {key: value for key, value in exam.untrained.state_dict().items() if "weight_hh" in key}
    moved = any(not torch.equal(value, exam.model.state_dict()[key]) for key, value in start.items())
    assert moved == bool(rg.load(trained(name)).summary.best_step)  # 0: the weights to begin with were the best


def test_the_untrained_twin_is_the_network_as_training_started_it(trained, data, tmp_path):
    options = TASKS["classify"][1]
    seen = {}

    class Look(rg.training.Callback):
        def on_train_begin(self, trainer):
            seen.update({name: value.clone() for name, value in trainer.model.state_dict().items()})

    rg.train(str(data / "first.csv"), tmp_path / "again", callbacks=[Look()], **TINY, **options)
    twin = runs.examination_of(trained("classify")).untrained.state_dict()
    assert all(torch.equal(twin[name], value) for name, value in seen.items())


def test_the_sequences_of_an_examination_do_not_depend_on_the_speed_of_the_machine(trained, monkeypatch):
    folder, clock = trained("classify"), time.perf_counter
    sizes = []
    for slower in (1.0, 1e5):
        monkeypatch.setattr(time, "perf_counter", lambda slower=slower: clock() * slower)
        sizes.append([sample.inputs[0].shape for sample in runs.examination_of(folder).samples])
    assert sizes[0] == sizes[1]


def test_parts_of_a_probe_are_the_probe(trained):
    """Samples are disjoint, together all sequences, and have the losses that the whole has."""
    for name in TASKS:
        run = rg.load(trained(name))
        task = runs._task(run.config, rg.training.RunFolder(run.folder), None, [])
        whole = task.examples(10)
        parts = [whole.part(rank, 3) for rank in range(3)]
        count = whole.inputs[0].shape[1]
        assert sum(part.inputs[0].shape[1] for part in parts) == count
        with torch.no_grad():
            total = whole.loss(run.model(*whole.inputs)).sum()
            summed = sum(part.loss(run.model(*part.inputs)).sum() for part in parts)
        assert float(summed) == pytest.approx(float(total), rel=1e-4)


def test_vanishing_is_found_and_its_command_trains(trained, tmp_path):
    diagnosis = rg.diagnose(trained("classify"))
    assert diagnosis.verdict == "sick" and diagnosis.found("vanishing_hurts")
    assert diagnosis.found("vanishing_hurts")[0].numbers["need"] >= 15
    for one in diagnosis.prescriptions:
        words = shlex.split(one.command)
        assert words[:2] == ["retrograde", "train"]
        given = options_of(words)
        for name, value in one.options.items():
            assert given.get(name, Options.of({}).as_dict()[name]) == value
        assert given["label"] == "label" and given["hidden_size"] == 6 and given["batch_size"] == 16
        assert "eval_every" in given  # it was given
    given = options_of(shlex.split(diagnosis.prescriptions[0].command)) | {"out": tmp_path / "remedied"}
    assert rg.train(**given, report=False).summary.status == "finished"


def options_of(words: list[str]) -> dict[str, object]:
    """What the command line reads from a command."""
    context = typer.main.get_command(app).commands["train"].make_context("train", words[2:])
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def test_a_prognosis_is_made_before_the_first_update(data):
    source, options = TASKS["classify"]
    exam = runs.prognosis_of(str(data / source), {"hidden_size": 6, **options})
    assert exam.record.updates == 0 and exam.record.chance == pytest.approx(math.log(2), rel=0.05)
    diagnosis = rg.doctor.diagnosis.examined(exam)
    assert diagnosis.found("vanishing_hurts")
    assert all("--hidden-size 6" in one.command and "--epochs" not in one.command for one in diagnosis.prescriptions)


def test_a_run_is_examined_on_other_data(trained, data, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("".join((data / "first.csv").read_text().splitlines(keepends=True)[: 1 + 20 * 50]))
    exam = runs.examination_of(trained("classify"), str(other))
    assert sum(sample.inputs[0].shape[1] for sample in exam.samples) == 50


# --- Runs that broke --------------------------------------------------------------------------------------------------


def test_a_diverged_run_is_examined_with_its_last_good_weights(data, tmp_path):
    with pytest.raises(DivergedError):
        rg.train(
            str(data / "first.csv"),
            tmp_path / "nan",
            **TINY | TASKS["classify"][1] | {"lr": 1e18, "optimizer": "sgd", "nonlinearity": "relu"},
        )
    exam = runs.examination_of(tmp_path / "nan")
    assert exam.record.diverged
    assert all(torch.isfinite(value).all() for value in exam.model.state_dict().values())
    assert any("last checkpoint" in note for note in exam.notes)


def test_a_run_without_weights_is_examined_from_its_checkpoint(trained, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(trained("classify"), folder)
    (folder / "model.safetensors").unlink()
    assert runs.examination_of(folder).flow.layers
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(RunError, match="contains no weights"):
        runs.examination_of(folder)


def test_a_run_of_data_that_is_gone_takes_other_data(trained, data, tmp_path):
    folder = tmp_path / "lost"
    shutil.copytree(trained("classify"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"]["in_memory"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(OptionError, match="give DATA"):
        runs.examination_of(folder)
    diagnosis = rg.diagnose(folder, str(data / "first.csv"))
    assert diagnosis.prescriptions and all(one.command == "" and one.python for one in diagnosis.prescriptions)


def test_arguments_that_a_run_has_itself_are_refused(trained):
    with pytest.raises(OptionError, match="leave"):
        rg.diagnose(trained("classify"), loss=torch.nn.functional.mse_loss)
    with pytest.raises(OptionError, match="batches and a loss"):
        rg.diagnose(torch.nn.RNN(1, 2))


# --- The record and the command ---------------------------------------------------------------------------------------


def test_norms_between_evaluations_keep_minimum_median_and_maximum():
    line = Metrics(10, gradient_norm_min=1.0, gradient_norm_median=2.0, gradient_norm_max=50.0)
    norms = runs._norms([line, Metrics(13), Metrics(20)])
    assert len(norms) == 10 and max(norms) == 50.0
    assert 1 <= min(norms) < 1.2 and sorted(norms)[4] == pytest.approx(2, rel=0.15)


MEAN = {"loss": 1.0}


@pytest.mark.parametrize(
    ("summary", "learned"),
    [
        (Summary("finished", best={"loss": 0.69}, baselines={"chance": {"loss": 0.69}, "optimum": {"loss": 0}}), False),
        (Summary("finished", best={"loss": 0.30}, baselines={"chance": {"loss": 0.69}, "optimum": {"loss": 0}}), True),
        (Summary("finished", best={"loss": 2.5}, baselines={"unigram": {"loss": 3}, "bigram": {"loss": 2.4}}), False),
        (Summary("diverged", best={"loss": 0.1}, baselines={"chance": {"loss": 0.69}}), False),
        (Summary("finished", best={"loss": 0.1}), True),
        (Summary("finished", best={"loss": 4e-9}, baselines={"mean": MEAN, "ridge regression": {"loss": 1e-9}}), True),
        (Summary("finished", best={"loss": 0.4}, baselines={"mean": MEAN, "ridge regression": {"loss": 0.1}}), False),
        (Summary("finished", best={"loss": 0.4}, baselines={"naive": MEAN}, results={"validation": MEAN}), False),
        (
            Summary("finished", best={"loss": 1.4}, baselines={"naive": MEAN}, results={"validation": {"loss": 0.9}}),
            True,
        ),
    ],
)
def test_a_run_that_is_no_better_than_a_baseline_was_not_learned(summary, learned):
    assert bool(was_not_learned(summary)) != learned


@pytest.mark.parametrize(
    ("loss", "baselines", "beaten"),
    [
        (0.95, {"naive": {"loss": 2.0}, "seasonal naive": {"loss": 1.0}}, "seasonal naive"),
        (0.995, {"naive": {"loss": 2.0}, "seasonal naive": {"loss": 1.0}}, ""),
        (0.95, {"most frequent": {"loss": 1.0}}, ""),
        (0.98, {"mean": {"loss": 1.1}, "ridge regression": {"loss": 0.98}}, ""),
    ],
)
def test_the_method_that_a_run_beats(loss, baselines, beaten):
    assert method_beaten(Summary("finished", best={"loss": loss}, baselines=baselines)) == beaten
    assert not method_beaten(Summary("diverged", best={"loss": loss}, baselines=baselines)) and not method_beaten(None)


def test_a_run_that_beats_a_forecast_is_not_unlearned_though_little_is_gained(trained):
    exam = runs.examination_of(trained("forecast"))
    vars(exam)["progress"] = replace(exam.progress, remaining=0.96)
    exam.beats = ""
    assert exam.unlearned
    exam.beats = "seasonal naive"
    assert not exam.unlearned


def prescribed(options: dict[str, object], **change: object) -> Prescription | None:
    origin = Origin(Options.of(options).for_task("language", options), "my book.txt", "runs/a b")
    return with_command(Prescription("remedy", Kind.EXPLODING, change, "", "", ""), origin)


def test_a_command_keeps_the_other_options_and_quotes_names():
    found = prescribed({"cell": "gru", "lr": 0.01, "max_time": 90.0, "tie": True, "epochs": 3.0}, chrono=30)
    assert found.command == (
        "retrograde train 'my book.txt' --out 'runs/a b-chrono-30' --cell gru --tie --chrono 30 --lr 0.01 --epochs 3 "
        "--patience 0 --max-time 90s"  # the run has none, and the data would decide
    )


def test_a_command_leaves_out_what_the_new_option_excludes():
    assert "clip-quantile" not in prescribed({"clip_quantile": 0.1}, clip_norm=2.0).command
    assert "forget-bias" not in prescribed({"forget_bias": 1.0}, chrono=30).command
    irnn = {"cell": "rnn", "nonlinearity": "relu", "init": "identity", "omega": 0.5}
    changed = prescribed(irnn, cell="gru", chrono=30)
    assert changed.options == {"cell": "gru", "chrono": 30, "nonlinearity": "tanh", "omega": 0.0, "init": "default"}


def test_what_a_run_has_already_or_cannot_have_is_not_prescribed():
    assert prescribed({"chrono": 30, "cell": "gru"}, chrono=30) is None
    assert prescribed({}, pooling="mean") is None  # of another task
    assert prescribed({}, bptt=0) is None  # out of bounds


def test_a_run_that_keeps_its_first_weights_has_no_parameters_that_are_not_trained(data, tmp_path):
    """Nothing that came after was better: the optimizer has all parameters, and training is not at fault."""
    source, options = TASKS["language"]
    run = rg.train(str(data / source), tmp_path / "run", **TINY, **options | {"lr": 100.0})
    assert run.summary.best_step == 0
    assert not rg.diagnose(run.folder).found("not_trained")
