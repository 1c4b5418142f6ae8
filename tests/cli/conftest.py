from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from retrograde.cli import main


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def retrograde(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command, as a user types it, in this process."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few kilobytes in which the next character can be learned, for tests that do not change the file."""
    file = tmp_path_factory.mktemp("book") / "text.txt"
    lines = [f"line {i}: the cat number {i % 7} sat on mat {i % 5}.\n" for i in range(120)]
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.fixture
def text(book: Path, tmp_path: Path) -> Path:
    """A copy of the book, for one test."""
    return Path(shutil.copy(book, tmp_path / "text.txt"))


@pytest.fixture(scope="session")
def runs_by_words() -> dict[tuple[str, ...], Path]:
    return {}


@pytest.fixture
def trained(
    runs_by_words: dict[tuple[str, ...], Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> Callable[..., Path]:
    """``trained(data, *options)``: a copy of a run that is trained once for all tests that ask for the same."""

    def make(*words: object) -> Path:
        key = tuple(map(str, words))
        if key not in runs_by_words:
            folder = tmp_path_factory.mktemp("trained") / "run"
            with pytest.raises(SystemExit) as ended:
                main(["train", *key, "--out", str(folder)])
            assert not ended.value.code
            runs_by_words[key] = folder
        return Path(shutil.copytree(runs_by_words[key], tmp_path / "run"))

    return make
