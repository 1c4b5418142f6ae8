"""One process writes to a run folder, only while it is the one it locked, and says so where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from retrograde.cli import main
from retrograde.errors import RunError
from retrograde.experiment import train
from retrograde.runs import RunFolder
from retrograde.training import Callback, Trainer

SMALL = {"hidden_size": 6, "max_steps": 12, "eval_every": 4, "bptt": 9, "batch_size": 3, "threads": 1}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i}: cat {i % 7} sat on mat {i % 5}.\n" for i in range(40)))
    return path


class At(Callback):
    """Does something after a step, or at a stage after training."""

    def __init__(self, when: int | str, what: Callable[[], object]) -> None:
        self.when, self.what = when, what
        self.said: list[str] = []

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.progress.step == self.when:
            self.what()

    def on_stage(self, text: str) -> None:
        if text == self.when:
            self.what()

    def on_note(self, text: str) -> None:
        self.said.append(text)


LOSSES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda run: shutil.rmtree(run),
    "renamed": lambda run: run.rename(run.with_name("renamed")),
    "replaced": lambda run: (run.rename(run.with_name("renamed")), run.mkdir(), (run / ".lock").touch()),
    "emptied": lambda run: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in run.glob("[!.]*")],
    "without its lock": lambda run: (run / ".lock").unlink(),
}


@pytest.mark.parametrize(
    "when", [5, 12, "counting the baselines", "measuring how far the gradient reaches", "writing the page"]
)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_folder_that_is_lost_ends_training_and_is_not_made_again(
    loss: str, when: int | str, text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    left: list[set[str]] = []

    def lose() -> None:
        LOSSES[loss](run)
        left.append({str(path.relative_to(run)) for path in run.rglob("*")})

    with pytest.raises(RunError, match="was deleted, renamed or replaced while it was written to"):
        train(text, run, callbacks=[At(when, lose)], **SMALL)
    assert {str(path.relative_to(run)) for path in run.rglob("*")} == left[0]
    moved = run.with_name("renamed")
    if moved.exists():  # and goes on from where it was
        assert train(None, moved, resume=True, report=False).summary.status == "finished"
    if loss == "deleted":  # the name is free for the next run
        assert not run.exists()
        assert train(text, run, report=False, **SMALL).summary.status == "finished"


def test_a_folder_that_is_lost_while_flow_is_recorded(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="was deleted"):
        train(text, run, record_flow=True, callbacks=[At(5, lambda: shutil.rmtree(run))], **SMALL)
    assert not run.exists()


def test_the_command_ends_with_one_line(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from retrograde.cli.display import Display

    run = tmp_path / "run"
    lose = At(5, lambda: shutil.rmtree(run))
    monkeypatch.setattr(Display, "on_step_end", lambda self, trainer: lose.on_step_end(trainer))
    options = [part for name, value in SMALL.items() for part in ("--" + name.replace("_", "-"), str(value))]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(text), "--out", str(run), "--quiet", *options])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "was deleted" in said and not run.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_once(
    code: int, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    listener = At(-1, lambda: None)
    assert train(text, tmp_path / "run", report=False, callbacks=[listener], **SMALL).summary.status == "finished"
    assert len([said for said in listener.said if "has no locks" in said and os.strerror(code) in said]) == 1


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(RunError, match="cannot be locked: Input/output error"), RunFolder(tmp_path / "run").locked():
        pass


def test_a_held_lock_keeps_a_second_one_out(tmp_path: Path) -> None:
    second = RunFolder(tmp_path / "run").locked()
    with RunFolder(tmp_path / "run").locked(), pytest.raises(RunError, match="in use by another process"), second:
        pass
    with RunFolder(tmp_path / "run").locked():
        pass


def test_drafts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for folder in ("", "flow", "checkpoints"):
        (tmp_path / "run" / folder).mkdir(exist_ok=True)
        (tmp_path / "run" / folder / ".x.json.123.partial").touch()
    with RunFolder(tmp_path / "run").locked():
        assert [path.name for path in (tmp_path / "run").rglob("*.partial")] == []
