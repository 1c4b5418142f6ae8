"""Where training is: counters, evaluations, and what was measured since the last one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from ..runs import Metrics, Scores

__all__ = ["Progress", "Window"]


@dataclass
class Window:
    """What was measured at each step since the last evaluation.

    Attributes
    ----------
    start : int
        The step of that evaluation.
    losses, sizes, norms, clipped : list
        Loss, number of targets, global gradient norm before clipping, and whether it was clipped, per step.
    seconds, waiting : float
        Time of these steps, and the part of it that was spent waiting for data.
    """

    start: int = 0
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    clipped: list[bool] = field(default_factory=list)
    seconds: float = 0.0
    waiting: float = 0.0


@dataclass
class Progress:
    """Where training is.

    Attributes
    ----------
    step, tokens : int
        Steps taken, and targets trained on.
    seconds : float
        Time of training and evaluation.
    metrics : list of Metrics
        One for each evaluation.
    best : Metrics or None
        The one with the lowest validation loss.
    window : Window
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    metrics: list[Metrics] = field(default_factory=list)
    best: Metrics | None = None
    window: Window = field(default_factory=Window)

    def count(self, size: int, seconds: float, waiting: float) -> None:
        """Add a step with ``size`` targets."""
        self.step += 1
        self.tokens += size
        self.seconds += seconds
        self.window.seconds += seconds
        self.window.waiting += waiting

    def add_evaluation(
        self, scores: Scores, epoch: float, learning_rate: float, clip_norm: float | None, clip_value: float | None
    ) -> Metrics:
        """Summarize the window together with the scores of the validation part, and start a new window."""
        window = self.window
        tokens = sum(window.sizes)
        weighted = sum(loss * size for loss, size in zip(window.losses, window.sizes, strict=True))
        line = Metrics(
            step=self.step,
            epoch=epoch,
            tokens=self.tokens,
            seconds=self.seconds,
            train_loss=weighted / tokens if tokens else None,
            learning_rate=learning_rate,
            tokens_per_second=tokens / window.seconds if window.seconds else None,
            gradient_norm_min=min(window.norms, default=None),
            gradient_norm_median=statistics.median(window.norms) if window.norms else None,
            gradient_norm_max=max(window.norms, default=None),
            clipped_share=sum(window.clipped) / len(window.clipped) if window.clipped else None,
            clip_norm=clip_norm,
            clip_value=clip_value,
            waiting_share=window.waiting / window.seconds if window.seconds else None,
            validation=scores,
        )
        self.metrics.append(line)
        if self.best is None or line.loss < self.best.loss:
            self.best = line
        self.window = Window(start=self.step)
        return line
