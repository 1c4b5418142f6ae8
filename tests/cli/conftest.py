from __future__ import annotations

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


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A few kilobytes in which the next character can be learnt."""
    file = tmp_path / "text.txt"
    lines = [f"line {i}: the cat number {i % 7} sat on mat {i % 5}.\n" for i in range(120)]
    file.write_text("".join(lines), encoding="utf-8")
    return file
