"""What training shows, drawn without a training."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from retrograde.cli.display import Display
from retrograde.training.state import Progress


class Lines(io.StringIO):
    """A file that counts how often it was flushed."""

    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def test_the_live_figures_are_those_of_the_last_steps() -> None:
    shown = Display(Console(file=io.StringIO(), width=120))
    shown.progress, shown.planned, shown.unit = Progress(step=3), 10, "tokens"
    shown.recent.extend([(100.0, 500), (101.0, 700), (104.0, 2_100)])
    shown.losses.extend([2.0, 1.0])
    shown.clipped.extend([True, False, False, False])
    shown.norm, shown.max_time = 0.25, 75.0
    shown.first_step = 3
    out = io.StringIO()
    Console(file=out, width=120).print(shown)
    words = out.getvalue().split()
    assert "400" in words  # 1,600 tokens in 4 seconds
    assert {"1.5000", "4.48", "0.25", "25%", "3/10"} <= set(words) and "1m" in words and "15s" in words


def test_the_gradient_norm_shown_is_that_of_the_last_step() -> None:
    shown = Display(Console(file=io.StringIO(), width=120))
    shown.progress, shown.planned, shown.unit = Progress(step=3), 10, "tokens"
    for steps in (1, 2, 3):
        window = SimpleNamespace(losses=[2.0] * steps, norms=[0.5, 0.25, 0.125][:steps], clipped=[False] * steps)
        shown.on_step_end(SimpleNamespace(progress=SimpleNamespace(tokens=10 * steps, window=window)))
    out = io.StringIO()
    Console(file=out, width=120).print(shown)
    assert "0.125" in out.getvalue().split()


def test_two_steps_are_enough_for_a_speed() -> None:
    shown = Display(Console(file=io.StringIO(), width=120))
    shown.progress, shown.planned, shown.unit = Progress(step=2), 10, "tokens"
    for recent, speed in [([(100.0, 500)], False), ([(100.0, 500), (104.0, 2_100)], True)]:
        shown.recent.clear()
        shown.recent.extend(recent)
        out = io.StringIO()
        Console(file=out, width=120).print(shown)
        assert ("400" in out.getvalue().split()) == speed


def test_each_line_arrives_at_once_where_the_output_is_a_file() -> None:
    file = Lines()
    shown = Display(Console(file=file, width=120))
    result = SimpleNamespace(summary=SimpleNamespace(status="finished", message="all steps", best={}, goal=None))
    before = file.flushed
    shown._print(f"{result.summary.status}: {result.summary.message}")
    assert file.getvalue() == "finished: all steps\n" and file.flushed > before


@pytest.mark.parametrize(("mean_error", "end"), [(None, "."), (0.25, ", the mean error was 0.2500.")])
def test_the_published_goal_of_a_task(mean_error: float | None, end: str, tmp_path: Path) -> None:
    file = io.StringIO()
    goal = SimpleNamespace(solved=False, criterion="3 wrong", wrong=1_200, sequences=2_560, mean_error=mean_error)
    summary = SimpleNamespace(status="finished", message="all steps", best={}, goal=goal)
    Display(Console(file=file, width=300)).finished(SimpleNamespace(summary=summary, folder=tmp_path))
    assert f"Published goal not met: 3 wrong; 1,200 of 2,560 new ones were wrong{end}\n" in file.getvalue()
