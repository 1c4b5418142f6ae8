"""Signals: of the user, of a lost terminal, of a scheduler; in training and in commands that only read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY

from retrograde.experiment import train
from retrograde.training import Callback, Trainer
from retrograde.training.state import Progress

SMALL = {"hidden_size": 6, "max_steps": 12, "eval_every": 5, "bptt": 9, "batch_size": 3, "threads": 1}


class Sends(Callback):
    """Sends signals after a step."""

    def __init__(self, step: int, *numbers: int) -> None:
        self.at, self.numbers = step, numbers
        self.said: list[str] = []
        self.stages: list[str] = []

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.progress.step == self.at:
            for number in self.numbers:
                signal.raise_signal(number)

    def on_note(self, text: str) -> None:
        self.said.append(text)

    def on_stage(self, text: str) -> None:
        self.stages.append(text)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_training_with_a_usable_run(name: str, text: Path, tmp_path: Path) -> None:
    number, listener = signal.Signals[name], Sends(7, signal.Signals[name])
    result = train(text, tmp_path / "run", callbacks=[listener], **SMALL)
    assert result.signal == number and result.summary.status == "interrupted" and result.summary.step == 7
    assert (tmp_path / "run" / "report.html").exists()
    train(text, tmp_path / "whole", report=False, **SMALL)
    train(None, tmp_path / "run", resume=True, report=False)
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "run")[key])


def test_a_scheduler_gets_a_checkpoint_at_once(text: Path, tmp_path: Path) -> None:
    """SIGUSR1: a checkpoint of the step at hand, none of what takes long; SIGTERM after it changes nothing."""
    run, listener = tmp_path / "run", Sends(7, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM)
    result = train(text, run, callbacks=[listener], **SMALL)
    assert result.signal == signal.SIGUSR1 and result.summary.status == "interrupted"
    assert (run / "checkpoints" / "step-000000007.safetensors").exists()
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0, 5]
    assert listener.stages == [] and not (run / "report.html").exists()
    assert any("writing a checkpoint" in said for said in listener.said)
    train(text, tmp_path / "whole", report=False, **SMALL)
    train(None, run, resume=True, report=False)
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(run)[key])


def test_ctrl_c_after_another_signal_leaves_at_once(text: Path, tmp_path: Path) -> None:
    for first in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt):
            train(text, tmp_path / str(int(first)), callbacks=[Sends(7, first, signal.SIGINT)], **SMALL)


def test_without_a_terminal_a_hangup_stays_ignored(text: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        result = train(text, tmp_path / "run", callbacks=[Sends(7, signal.SIGHUP)], report=False, **SMALL)
        assert result.signal is None and result.summary.status == "finished"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back(text: Path, tmp_path: Path) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
    before = [signal.getsignal(number) for number in numbers]
    train(text, tmp_path / "run", report=False, **SMALL)
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(("name", "code"), [("SIGHUP", 129), ("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130)])
def test_exit_codes(
    name: str, code: int, retrograde: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Progress.count

    def counted(progress: Progress, *arguments: float) -> None:
        count(progress, *arguments)
        if progress.step == 6:
            signal.raise_signal(signal.Signals[name])

    monkeypatch.setattr(Progress, "count", counted)
    outcome = retrograde("train", text, "--out", tmp_path / "run", *TINY, "--max-steps", 9)
    assert outcome.code == code and outcome.err == ""  # --quiet
    monkeypatch.undo()
    assert retrograde("train", "--out", tmp_path / "run", "--resume", "--quiet", "--no-report").code == 0


@pytest.mark.parametrize(("name", "code"), [("SIGHUP", 129), ("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130)])
def test_before_training_begins(
    name: str, code: int, retrograde: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While data is read: one line, nothing is left."""

    def slow(*arguments: object) -> None:
        signal.raise_signal(signal.Signals[name])

    monkeypatch.setattr("retrograde.data.text.Text.__init__", slow)
    outcome = retrograde("train", text, "--out", tmp_path / "run", *TINY)
    assert outcome.code == code and outcome.err.count("\n") == 1
    assert name in outcome.err or "interrupted" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_predict_leaves_nothing_half_written(number: int, text: Path, tmp_path: Path) -> None:
    """Ended amid its rows, however hard: no draft stays, and an old file is whole."""
    train(text, tmp_path / "run", report=False, **SMALL)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.csv").write_text("old")
    program = f"""if True:
        import sys, time
        from retrograde.tasks.language import LanguagePredictor
        from retrograde.cli import main
        rows = LanguagePredictor.predict
        def slow(*arguments):
            for place, row in enumerate(rows(*arguments)):
                if place == 50:
                    print("amid", flush=True)
                    time.sleep(60)
                yield row
        LanguagePredictor.predict = slow
        main({["predict", str(tmp_path / "run"), str(text), "--out", str(out / "a.csv")]!r})
    """
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"amid\n"
    os.kill(process.pid, number)
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 20
    assert [path.name for path in out.iterdir()] == ["a.csv"] and (out / "a.csv").read_text() == "old"
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number and err.count(b"\n") == 1


def test_predict_obeys_the_umask_and_refuses_what_parquet_cannot_hold(retrograde: Any, tmp_path: Path) -> None:
    table, run = tmp_path / "s.csv", tmp_path / "run"
    table.write_text("time,value\n" + "".join(f"{10**299 + i * 10**297},{i % 7}\n" for i in range(60)))
    options = ["--hidden-size", 4, "--max-steps", 2, "--no-report", "--quiet", "--threads", 1]
    assert retrograde("train", table, "--task", "forecast", "--out", run, *options).code == 0
    before = os.umask(0o077)
    try:
        for kind in (".csv", ".jsonl"):
            assert retrograde("predict", run, table, "--out", tmp_path / f"out{kind}").code == 0
            assert (tmp_path / f"out{kind}").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    outcome = retrograde("predict", run, table, "--out", tmp_path / "out.parquet")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and "write .csv or .jsonl instead" in outcome.err
    assert not (tmp_path / "out.parquet").exists()
