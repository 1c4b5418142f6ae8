"""What training shows: live on a terminal, a plain line per evaluation elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..cells import find
from ..options import OPTIONS
from ..runs import Metrics, RunFolder, Scores, not_better_than
from ..training import Callback, Result, Trainer
from ..training.state import Progress
from .advice import advice
from .terminal import backtest_lines, console, described, note, printable, scores


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


class Display(Callback):
    """A callback that prints a line per evaluation, and can be drawn live by rich."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self.progress: Progress | None = None
        self.planned = 0
        self.max_time: float | None = None
        self.unit = "tokens"
        self.doing = "reading"
        self.began = self.first_step = 0.0
        self.recent: deque[tuple[float, int]] = deque(maxlen=200)  # (time, tokens)
        self.losses: deque[float] = deque(maxlen=50)
        self.norm: float | None = None
        self.clipped: deque[bool] = deque(maxlen=1000)

    # --- Training -----------------------------------------------------------------------------------------------------

    def on_train_begin(self, trainer: Trainer) -> None:
        """Print what is trained, and how."""
        options, task = trainer.options, trainer.task
        self.progress, self.planned, self.max_time = trainer.progress, trainer.planned_steps, options.max_time
        self.began, self.first_step = time.monotonic(), trainer.progress.step
        self.doing = "training"
        self.unit = task.unit
        cell = find(options.cell, options.nonlinearity).words
        layers = f"{options.num_layers} layers of " if options.num_layers > 1 else ""
        parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        self._print(f"{task.source}: {described(task.describe())}")
        self._print(
            f"{cell}, {layers}{options.hidden_size} units, {parameters:,} parameters; "
            f"{self.planned:,} steps of {task.batch_words()}"
            + (f", from step {trainer.progress.step:,}" if trainer.progress.step else "")
        )
        for name, why in task.chosen.items():
            self._print(f"  {' '.join(OPTIONS[name].words(getattr(options, name)))}: {why}")

    def on_step_end(self, trainer: Trainer) -> None:
        """Update the live figures."""
        self.recent.append((time.monotonic(), trainer.progress.tokens))
        window = trainer.progress.window
        if window.losses:
            self.losses.append(window.losses[-1])
            self.norm = window.norms[-1]
            self.clipped.append(window.clipped[-1])

    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        """Print the line of an evaluation."""
        parts = [f"step {metrics.step:,}/{self.planned:,}", f"epoch {metrics.epoch:.2f}"]
        if metrics.train_loss is not None:
            parts.append(f"train loss {metrics.train_loss:.4f}")
        loss, *more = scores(metrics.validation)
        parts += [f"validation {loss}", *more]
        if metrics.tokens_per_second:
            parts.append(f"{metrics.tokens_per_second:,.0f} {self.unit}/s")
        if metrics.gradient_norm_median is not None:
            parts.append(f"gradient norm {_short(metrics.gradient_norm_median)}")
        if metrics.clipped_share is not None and (metrics.clip_norm or metrics.clip_value):
            parts.append(f"clipped {metrics.clipped_share:.0%}")
        if metrics.waiting_share is not None:
            parts.append(f"waiting for data {metrics.waiting_share:.1%}")
        if (left := self._left()) is not None:
            parts.append(f"{_duration(left)} left")
        self._print(" | ".join(parts))

    def on_note(self, text: str) -> None:
        """Print it, on stderr."""
        if not self.quiet:
            if self.console.is_terminal:
                self.console.print(Text("note: " + printable(text, lines=False), style="yellow"))
            else:
                note(text)

    def on_stage(self, text: str) -> None:
        """Show it next to the bar."""
        self.doing = text

    def finished(self, result: Result) -> None:
        """Print how it ended."""
        summary = result.summary
        self._print(f"{summary.status}: {summary.message}.")
        if summary.best:
            self._print(f"Best on validation (step {summary.best_step:,}): {', '.join(scores(summary.scores))}.")
            self._compare(summary.scores, summary.baselines, summary.best_step == 0)
            if (tested := (summary.results or {}).get("test")) is not None:
                self._print(f"On the test part: {', '.join(scores(tested))}.")
                self._compare(tested, summary.test_baselines)
                self._backtested(result)
        if goal := summary.goal:
            missed = "" if goal.mean_error is None else f", the mean error was {goal.mean_error:.4f}"
            self._print(
                f"Published goal {'met' if goal.solved else 'not met'}: {goal.criterion}; {goal.wrong:,} of "
                f"{goal.sequences:,} new ones were wrong{missed}."
            )
        if text := advice(result.folder):
            self._print(text)
        page = result.folder / "report.html"
        self._print(f"Run folder: {result.folder}" + (f"   Page: {page}" if page.exists() else ""))

    def _compare(self, own: Scores, baselines: Mapping[str, Scores] | None, untrained: bool = False) -> None:
        """Print what simple methods reach on the same data, and whether the network is no better."""
        for name, values in (baselines or {}).items():
            self._print(f"  compared with {name}: {', '.join(scores(values))}.")
        if verdict := not_better_than(own, baselines):
            self._print(f"It is {verdict}{': the best weights are those before training' if untrained else ''}.")

    def _backtested(self, result: Result) -> None:
        """Print the errors by origin and by step, where these were asked for."""
        results = RunFolder(result.folder).results()
        if results is not None and (part := results.parts.get("test")) is not None and part.backtest is not None:
            for line in backtest_lines(part.backtest):
                self._print(line)

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
