"""What training shows: live on a terminal, a plain line per evaluation elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..training.loop import Listener, Progress
from ..training.session import Result
from .terminal import console, described, note, printable, scores

__all__ = ["Display", "display"]


@contextmanager
def display(*, quiet: bool, to_stderr: bool) -> Iterator[Display]:
    """Show training for the time of the context."""
    screen = console(stderr=to_stderr, quiet=quiet)
    shown = Display(screen, quiet)
    if not screen.is_terminal or quiet:
        yield shown
        return
    with Live(shown, console=screen, refresh_per_second=5, transient=True):
        yield shown


_UNITS = {"classify": "sequences", "tag": "labels", "forecast": "numbers", "synthetic": "outputs"}


class Display(Listener):
    """A listener that can be drawn."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self.progress: Progress | None = None
        self.planned, self.max_time = 0, None
        self.threshold = ""
        self.unit = "tokens"
        self.doing = "reading"
        self.began = self.first_step = 0.0
        self.recent: deque[tuple[float, int]] = deque(maxlen=200)  # (time, tokens)
        self.losses: deque[float] = deque(maxlen=50)
        self.norm: float | None = None
        self.clipped: deque[bool] = deque(maxlen=1000)

    # --- What training says -------------------------------------------------------------------------------------------

    def begin(self, about: dict[str, Any], progress: Progress, planned: int) -> None:
        """Say what is trained, and how."""
        self.progress, self.planned, options = progress, planned, about["options"]
        self.max_time = options["max_time"]
        self.began, self.first_step = time.monotonic(), progress.step
        self.doing = "training"
        self.unit = _UNITS.get(about["task"], "tokens")
        data = about["data"]
        cell = options["cell"] if options["cell"] != "rnn" else f"{options['nonlinearity']} rnn"
        layers = f"{options['num_layers']} layers of " if options["num_layers"] > 1 else ""
        self._print(f"{data['source']}: {described(data)}")
        self._print(
            f"{cell}, {layers}{options['hidden_size']} units, {about['parameters']:,} parameters; "
            f"{planned:,} steps of {options['batch_size']}"
            + (f" x {options['bptt']} tokens" if about["task"] == "language" else " sequences")
            + (f", from step {progress.step:,}" if progress.step else "")
        )

    def step(self, progress: Progress) -> None:
        """Take a step into the live figures."""
        self.recent.append((time.monotonic(), progress.tokens))
        if progress.losses:
            self.losses.append(progress.losses[-1])
            self.norm = progress.norms[-1]
            self.clipped.append(progress.clipped[-1])

    def evaluated(self, line: dict[str, Any]) -> None:
        """Print the line of an evaluation."""
        parts = [f"step {line['step']:,}/{self.planned:,}", f"epoch {line['epoch']:.2f}"]
        if line["train_loss"] is not None:
            parts.append(f"train loss {line['train_loss']:.4f}")
        loss, *more = scores(line, "validation_")
        parts += [f"validation {loss}", *more]
        if line["tokens_per_second"]:
            parts.append(f"{line['tokens_per_second']:,.0f} {self.unit}/s")
        if line["gradient_norm_median"] is not None:
            parts.append(f"gradient norm {_short(line['gradient_norm_median'])}")
        if line["clipped_share"] is not None and (line["clip_norm"] or line["clip_value"]):
            parts.append(f"clipped {line['clipped_share']:.0%}")
        if line.get("waiting_share") is not None:
            parts.append(f"waiting for data {line['waiting_share']:.1%}")
        if (left := self._left()) is not None:
            parts.append(f"{_duration(left)} left")
        self._print(" | ".join(parts))

    def note(self, text: str) -> None:
        """Print it, on stderr."""
        if not self.quiet:
            if self.console.is_terminal:
                self.console.print(Text("note: " + printable(text, lines=False), style="yellow"))
            else:
                note(text)

    def stage(self, text: str) -> None:
        """Show it beside the bar."""
        self.doing = text

    def finished(self, result: Result) -> None:
        """Say what came of it."""
        summary = result.summary
        self._print(f"{summary['status']}: {summary['message']}.")
        if summary["best_validation_loss"] is not None:
            best = ", ".join(scores(summary["best"], "validation_"))
            self._print(f"Best on validation (step {summary['best_step']:,}): {best}.")
            for name, value in (summary["baselines"] or {}).items():
                self._print(f"  beside it, {name}: {', '.join(scores(value))}.")
            if "test" in (summary.get("results") or {}):
                self._print(f"On the test part: {', '.join(scores(summary['results']['test']))}.")
        if goal := summary.get("goal"):
            missed = f", the mean error was {goal['mean_error']:.4f}" if "mean_error" in goal else ""
            self._print(
                f"Published goal {'met' if goal['solved'] else 'not met'}: {goal['criterion']}; {goal['wrong']:,} of "
                f"{goal['sequences']:,} new ones were wrong{missed}."
            )
        page = result.folder / "report.html"
        self._print(f"Run folder: {result.folder}" + (f"   Page: {page}" if page.exists() else ""))

    def _print(self, text: str) -> None:
        self.console.print(Text(printable(text, lines=False)))
        if not self.console.is_terminal:
            self.console.file.flush()

    # --- How it looks -------------------------------------------------------------------------------------------------

    def _left(self) -> float | None:
        progress = self.progress
        if progress is None or progress.step <= self.first_step:
            return self.max_time
        elapsed = time.monotonic() - self.began
        by_steps = elapsed / (progress.step - self.first_step) * (self.planned - progress.step)
        return by_steps if self.max_time is None else max(0.0, min(by_steps, self.max_time - elapsed))

    def __rich__(self) -> RenderableType:
        progress = self.progress
        if progress is None:
            return Text(f"{self.doing} …")
        table = Table.grid(padding=(0, 3))
        for _ in range(6):
            table.add_column(justify="left")
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        speed = None
        if len(self.recent) > 1 and self.recent[-1][0] > self.recent[0][0]:
            speed = (self.recent[-1][1] - self.recent[0][1]) / (self.recent[-1][0] - self.recent[0][0])
        left = self._left()
        cells = {
            "loss": "–" if loss is None else f"{loss:.4f}",
            "perplexity": "–" if loss is None else _short(math.exp(min(loss, 700))),
            f"{self.unit}/s": "–" if speed is None else f"{speed:,.0f}",
            "gradient norm": "–" if self.norm is None else _short(self.norm),
            "clipped": f"{sum(self.clipped) / len(self.clipped):.0%}" if self.clipped else "–",
            "time left": "–" if left is None else _duration(left),
        }
        table.add_row(*[Text(name, style="dim") for name in cells])
        table.add_row(*[Text(value, style="bold") for value in cells.values()])
        done = Table.grid(padding=(0, 1))
        done.add_row(
            ProgressBar(total=self.planned, completed=progress.step, width=40),
            Text(f"step {progress.step:,}/{self.planned:,}  {self.doing}", style="dim"),
        )
        return Group(table, done)


def _short(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m {whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h {whole % 3600 // 60:02d}m"
