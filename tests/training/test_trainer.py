"""The trainer by itself: when callbacks are called, and a state with which another trainer continues."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from retrograde.errors import DivergedError
from retrograde.options import Options
from retrograde.runs import Metrics, RunFolder
from retrograde.tasks.registry import new_task, open_task
from retrograde.training import Callback, Trainer, checkpoint, load, train
from retrograde.training.callback import CallbackList
from retrograde.training.prefetch import prefetched
from retrograde.training.setup import make_context, seed_everything

SMALL: dict[str, Any] = {"task": "synthetic", "hidden_size": 4, "batch_size": 3, "max_steps": 5, "dropout": 0.3}


def trainer(*callbacks: Callback, **more: Any) -> Trainer:
    options = Options.of(SMALL | more)
    seed_everything(options.seed)
    task = open_task("builtin:latch?length=5", options)
    return Trainer(task, options, make_context(options), callbacks)


class Log(Callback):
    """Writes down what is called, and asks for something before a step."""

    def __init__(self, **asks: int) -> None:
        self.asks, self.calls = asks, list[str]()

    def on_step_begin(self, trainer: Trainer) -> None:
        self.calls.append(f"begin {trainer.progress.step}")
        for name, step in self.asks.items():
            setattr(trainer, name, getattr(trainer, name) or trainer.progress.step == step)

    def on_step_end(self, trainer: Trainer) -> None:
        self.calls.append(f"end {trainer.progress.step}")

    def on_save(self, trainer: Trainer) -> None:
        self.calls.append("save")

    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        self.calls.append(f"evaluate {metrics.step}")


def test_callbacks_are_called_around_each_step_and_may_save_and_stop() -> None:
    log = Log(should_save=1, should_stop=2)
    trained = trainer(log)
    trained.fit()
    assert log.calls == ["begin 0", "end 1", "begin 1", "save", "end 2", "begin 2"]
    assert trained.progress.step == 2 and len(trained.progress.window.losses) == 2
    line = trained.evaluate()
    assert log.calls[-1] == "evaluate 2"
    assert trained.progress.metrics == [line] and trained.progress.best is line and line.loss > 0
    assert trained.progress.window.start == 2 and trained.progress.window.losses == []
    assert line.train_loss is not None and line.learning_rate == 0.002 and line.epoch == 0.02


def test_omega_changes_what_a_step_does() -> None:
    weights = []
    for omega in (0.0, 2.0):
        trained = trainer(cell="rnn", omega=omega, max_steps=1, dropout=0.0)
        trained.fit()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()]))
    assert not torch.equal(*weights)


def test_a_loss_that_is_not_finite_ends_training_before_the_weights_are_changed() -> None:
    trained = trainer()
    with torch.no_grad():
        next(trained.model.parameters()).fill_(math.nan)
    before = [parameter.detach().clone() for parameter in trained.model.parameters()]
    with pytest.raises(DivergedError, match="step 1"):
        trained.fit()
    assert trained.progress.step == 0
    assert all(torch.equal(a, b) for a, b in list(zip(before, trained.model.parameters(), strict=True))[1:])


def test_training_ends_at_the_planned_step() -> None:
    trained = trainer()
    trained.fit()
    assert trained.progress.step == trained.planned_steps == 5
    trained.fit()
    assert trained.progress.step == 5


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_another_trainer_continues_from_the_state_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    whole = trainer(optimizer=optimizer)
    whole.fit()
    first = trainer(Log(should_stop=2), optimizer=optimizer)
    first.fit()
    folder = RunFolder(tmp_path)
    checkpoint.save(folder, first.state_dict(), first.options, {})
    second = trainer(optimizer=optimizer, seed=7)
    second.load_state_dict(checkpoint.latest(folder).state)
    assert second.progress.step == 2
    second.task = whole.task
    second.fit()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
    assert whole.progress.window.losses == second.progress.window.losses


def test_the_state_of_another_model_is_refused() -> None:
    state = trainer().state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer(hidden_size=5).load_state_dict(state)


def test_a_list_calls_every_callback_in_order() -> None:
    order: list[str] = []

    class Named(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_note(self, text: str) -> None:
            order.append(f"{self.name} {text}")

    CallbackList([Named("a"), CallbackList([Named("b")]), Named("c")]).on_note("x")
    assert order == ["a x", "b x", "c x"]


@pytest.mark.parametrize(("first", "stop"), [(0, 30), (7, 8), (3, 3)])
def test_batches_come_in_order_and_only_as_many_as_there_are(first: int, stop: int) -> None:
    made: list[int] = []
    with prefetched(lambda step: made.append(step) or step, first, stop) as batches:
        assert list(batches) == list(range(first, stop))
    assert made == list(range(first, stop))


class StopAtFirstEvaluation(Callback):
    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        trainer.should_stop = metrics.step > 0


def test_a_callback_ends_a_run_which_can_be_resumed(tmp_path: Path) -> None:
    options = SMALL | {"eval_every": 3, "max_steps": 6}
    source = "builtin:latch?length=5"
    result = train(source, tmp_path / "run", callbacks=[StopAtFirstEvaluation()], **options)
    assert result.signal is None and result.summary.step == 3 and result.summary.status == "finished"
    assert result.summary.message == "a callback ended training at step 3 of 6; --resume goes on from there"
    train(None, tmp_path / "run", resume=True)
    train(source, tmp_path / "whole", **options)
    run, whole = (load(tmp_path / name).model.state_dict() for name in ("run", "whole"))
    assert all(torch.equal(run[name], whole[name]) for name in whole)
    assert not (tmp_path / "run" / "report.html").exists()  # which retrograde.experiment writes


def test_the_weights_to_begin_with_are_a_candidate_for_the_best(tmp_path: Path) -> None:
    spoiling = SMALL | {"optimizer": "sgd", "lr": 100.0, "eval_every": 2, "max_steps": 4}
    result = train("builtin:latch?length=5", tmp_path / "run", **spoiling)
    assert [line.step for line in load(tmp_path / "run").metrics] == [0, 2, 4]
    assert result.summary.best_step == 0
    torch.manual_seed(0)
    begun = trainer(**spoiling).model.state_dict()
    kept = load(tmp_path / "run").model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in begun.items())


def test_patience_ends_a_run_which_goes_on_to_the_same_weights_with_more_of_it(tmp_path: Path) -> None:
    options = SMALL | {"optimizer": "sgd", "lr": 100.0, "eval_every": 2, "max_steps": 10}
    source = "builtin:latch?length=5"
    ended = train(source, tmp_path / "run", patience=2, **options).summary
    assert (ended.status, ended.step) == ("finished", 4) and "2 evaluations in a row were no better" in ended.message
    log = Notes()
    assert train(None, tmp_path / "run", resume=True, callbacks=[log]).summary.step == 4
    assert "nothing is left to train at step 4: raise --patience to go on." in log.notes
    train(None, tmp_path / "run", resume=True, patience=0)
    train(source, tmp_path / "whole", patience=0, **options)
    last = [
        RunFolder(tmp_path / name).read_tensors("checkpoints/step-000000010.safetensors")[0]
        for name in ("run", "whole")
    ]
    assert last[0].keys() == last[1].keys() and all(torch.equal(last[0][name], last[1][name]) for name in last[0])


class Notes(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def test_what_the_data_decided_is_kept_with_its_reason_and_what_is_given_wins(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "so good,up\nso bad,down\n" * 10)
    tiny = {"task": "classify", "hidden_size": 2, "embedding_size": 2, "max_steps": 1, "cell": "lstm"}
    train(tmp_path / "a.csv", tmp_path / "run", **tiny)
    config = RunFolder(tmp_path / "run").config()
    assert config.options.cell == "lstm" and "cell" not in config.chosen
    assert config.options.bidirectional and config.chosen["bidirectional"]
    train(None, tmp_path / "run", resume=True, max_steps=2)
    again = RunFolder(tmp_path / "run").config()
    assert again.chosen == config.chosen and again.options.pooling == config.options.pooling


def test_over_a_few_validation_sequences_later_weights_are_kept_unless_clearly_worse(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "so good,up\nso bad,down\n" * 25)
    task = new_task(tmp_path.joinpath("a.csv").as_posix(), {"task": "classify", "validation_fraction": 0.2})
    right = {"accuracy": 0.9, "loss": 0.1}
    assert task.improves({"accuracy": 0.8, "loss": 3.0}, [right])  # one of ten sequences, whatever the loss
    assert not task.improves({"accuracy": 0.7, "loss": 0.05}, [right])
    assert not task.improves({"accuracy": 0.7, "loss": 0.05}, [right, {"accuracy": 0.8, "loss": 3.0}])
    many = new_task((tmp_path / "a.csv").as_posix(), {"task": "classify", "validation_fraction": 0.9})
    assert many.improves({"accuracy": 0.91, "loss": 3.0}, [right]) and not many.improves(right, [right])


def test_of_weights_that_are_right_as_often_those_with_the_lower_loss_are_kept(tmp_path: Path) -> None:
    """Patience counts from the first of them, and a run that was interrupted between them keeps the same."""
    (tmp_path / "a.csv").write_text("text,label\n" + "so good,up\nso bad,down\n" * 100)
    options = {"task": "classify", "hidden_size": 2, "embedding_size": 2, "cell": "gru", "validation_fraction": 0.3}
    options |= {"eval_every": 2, "batch_size": 16, "lr": 0.05, "schedule": "constant", "epochs": 20, "mixup": 0.0}
    whole = train(tmp_path / "a.csv", tmp_path / "whole", patience=4, **options)
    lines = RunFolder(tmp_path / "whole").metrics()
    most = max(line.validation["accuracy"] for line in lines)
    first, *alike = [line for line in lines if line.validation["accuracy"] == most]
    assert len(alike) == 4 == len(lines) - lines.index(first) - 1  # patience, from the first on
    assert whole.summary.best_step == min((first, *alike), key=lambda line: line.validation["loss"]).step > first.step
    evaluated = train(tmp_path / "a.csv", tmp_path / "parts", patience=4, max_steps=first.step + 4, **options)
    assert evaluated.summary.best_step > first.step
    parts = train(None, tmp_path / "parts", resume=True, max_steps=1000)
    assert (parts.summary.best, parts.summary.step) == (whole.summary.best, whole.summary.step)
    kept = [RunFolder(tmp_path / name).read_tensors("model.safetensors")[0] for name in ("whole", "parts")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
