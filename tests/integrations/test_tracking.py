"""``--track`` and `Tracking`: TensorBoard for real, the others where they are installed."""

from __future__ import annotations

import sys

import pytest

import retrograde as rg
from retrograde.errors import MissingExtraError, OptionError
from retrograde.integrations.tracking import TRACKERS, Tracking
from retrograde.runs import RunFolder

DATA = "builtin:latch?length=5"
SMALL = {"hidden_size": 4, "batch_size": 4, "max_steps": 6, "eval_every": 2, "threads": 1, "report": False}


class Heard(rg.training.Callback):
    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


def test_tensorboard_has_the_numbers_of_the_run(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    rg.train(DATA, run, callbacks=[Tracking("tensorboard", run)], **SMALL)
    found = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    metrics = rg.load(run).metrics
    assert [(one.step, one.value) for one in found.Scalars("validation_loss")] == [
        (one.step, pytest.approx(one.loss)) for one in metrics
    ]
    assert [one.step for one in found.Scalars("gradient_norm_max")] == [2, 4, 6]
    for part, scores in rg.load(run).summary.results.items():
        assert found.Scalars(f"final_{part}_loss")[0].value == pytest.approx(scores["loss"])
    assert "hidden_size: 4" in next((run / "tensorboard").rglob("hparams.yml")).read_text()
    rg.train(DATA, run, overwrite=True, **SMALL)  # without tracking: nothing of the old run is left
    assert not list((run / "tensorboard").rglob("events*"))


def test_a_tracker_that_fails_is_left_out_and_training_goes_on(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *run, **more):
            self.logged = 0

        def store_init_configuration(self, values):
            assert values["hidden_size"] == 4

        def log(self, values, step):
            if step == 4:
                raise ConnectionError("the server\nis gone")

    import accelerate.tracking

    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Broken)
    pytest.importorskip("tensorboard")
    heard = Heard()
    result = rg.train(DATA, tmp_path / "run", callbacks=[Tracking(["tensorboard"], tmp_path / "run"), heard], **SMALL)
    assert result.summary.status == "finished" and result.summary.step == 6
    said = [note for note in heard.notes if "tensorboard" in note]
    assert said == ["tensorboard is left out from now on: ConnectionError: the server is gone"]


def test_a_tracker_that_fails_in_a_search_is_in_its_notes(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="the extra 'search' is not installed")
    pytest.importorskip("tensorboard")
    import accelerate.tracking

    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", None)
    out = tmp_path / "run"
    found = rg.search(DATA, out, trials=2, callbacks=lambda trial: [Tracking("tensorboard", out, trial)], **SMALL)
    assert len([note for note in found.notes if note.startswith("tensorboard is left out from now on")]) == 1


def test_unknown_and_missing_trackers_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="--track 'tensorbord' is unknown: choose from tensorboard, mlflow, wandb"):
        Tracking("tensorbord", tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'retrograde\[mlflow\]'"):
        Tracking("mlflow", tmp_path)


@pytest.mark.parametrize("name", sorted(set(TRACKERS) - {"tensorboard"}))
def test_other_trackers_write_on_this_machine(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which is read when it is imported
    pytest.importorskip(name, reason="it is not installed")
    heard = Heard()
    rg.train(DATA, "run", callbacks=[Tracking(name, "run"), heard], **SMALL)
    assert not [note for note in heard.notes if name in note]
    if name == "mlflow":
        import mlflow

        (one,) = mlflow.search_runs(experiment_names=["retrograde"]).to_dict("records")
        assert one["tags.mlflow.runName"] == "run" and one["params.hidden_size"] == "4"
        assert one["metrics.validation_loss"] == pytest.approx(rg.load("run").metrics[-1].loss)
        assert one["status"] == "FINISHED" and list(tmp_path.glob("mlflow.db"))
    else:
        folder = tmp_path / name
        assert any(file.is_file() and file.stat().st_size for file in folder.rglob("*")), list(tmp_path.rglob("*"))


def test_files_of_trackers_do_not_hinder_the_run_folder(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "tensorboard" / "1.0").mkdir(parents=True)
    (tmp_path / "tensorboard" / "1.0" / "events.out.tfevents.1").write_text("x")
    (tmp_path / "config.json").write_text("{}")
    folder.check_files()
    folder.clear()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "config.json"]
