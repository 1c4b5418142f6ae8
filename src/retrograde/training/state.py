"""What changes while training: the state of a `retrograde.training.Trainer`, which is what a checkpoint contains.

Tests: `tests/training/test_nothing_lost.py`.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runs import Metrics, Scores
from ..tasks.task import State, Task
from .distributed import DistributedContext

__all__ = ["Progress", "RandomStates", "TrainerState", "Window"]


@dataclass
class Window:
    """What was measured at each step since the last evaluation."""

    start: int = 0  # the step of that evaluation
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # numbers of targets
    norms: list[float] = field(default_factory=list)  # of the whole gradient, before clipping
    clipped: list[bool] = field(default_factory=list)
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of them, for data


@dataclass
class Progress:
    """Where training is: counters, evaluations, and the measurements since the last one."""

    step: int = 0  # steps taken
    tokens: int = 0  # targets trained on
    seconds: float = 0.0  # of training and evaluation
    metrics: list[Metrics] = field(default_factory=list)
    best: Metrics | None = None  # the evaluation whose weights are kept
    improved: int = 0  # step of the last evaluation that was better than all before it
    window: Window = field(default_factory=Window)

    @property
    def waited(self) -> int:
        """Number of evaluations since the last that was better than all before it."""
        return sum(line.step > self.improved for line in self.metrics)

    def count(self, size: int, seconds: float, waiting: float) -> None:
        """Add a step with ``size`` targets."""
        self.step += 1
        self.tokens += size
        self.seconds += seconds
        self.window.seconds += seconds
        self.window.waiting += waiting

    def add_evaluation(self, scores: Scores, task: Task[Any], **more: float | None) -> Metrics:
        """Summarize the window together with the scores of the validation part, and start a new window.

        Its weights are kept if they improve on all before (`Task.improves`), or are as good as the best and preferred
        (`Task.prefers`). Only the former ends the waiting of ``--patience``.
        """
        window = self.window
        tokens = sum(window.sizes)
        weighted = sum(loss * size for loss, size in zip(window.losses, window.sizes, strict=True))
        line = Metrics(
            step=self.step,
            tokens=self.tokens,
            seconds=self.seconds,
            train_loss=weighted / tokens if tokens else None,
            tokens_per_second=tokens / window.seconds if window.seconds else None,
            gradient_norm_min=min(window.norms, default=None),
            gradient_norm_median=statistics.median(window.norms) if window.norms else None,
            gradient_norm_max=max(window.norms, default=None),
            clipped_share=sum(window.clipped) / len(window.clipped) if window.clipped else None,
            waiting_share=window.waiting / window.seconds if window.seconds else None,
            validation=scores,
            **more,
        )
        if self.best is None or task.improves(scores, [earlier.validation for earlier in self.metrics]):
            self.best, self.improved = line, line.step
        elif task.prefers(scores, self.best.validation):
            self.best = line
        self.metrics.append(line)
        self.window = Window(start=self.step)
        return line


@dataclass(frozen=True)
class RandomStates:
    """The states of all global random number generators."""

    torch: list[Tensor]  # of every process
    cuda: list[Tensor]  # of every device of the first process
    numpy: tuple[Any, ...]  # as numpy.random.get_state returns it
    python: tuple[Any, ...]  # as random.getstate returns it

    @classmethod
    def now(cls, context: DistributedContext) -> RandomStates:
        """The present states. All processes must call this."""
        return cls(
            context.gather(torch.get_rng_state()),
            torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            tuple(np.random.get_state(legacy=True)),  # noqa: NPY002 (the global one, if a task uses it)
            random.getstate(),
        )

    def restore(self, rank: int) -> None:
        """Set the states of this process; one that did not exist before gets that of the first."""
        torch.set_rng_state(self.torch[rank if rank < len(self.torch) else 0])
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        if torch.cuda.is_available() and len(self.cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self.cuda)


@dataclass(frozen=True)
class TrainerState:
    """Everything a training needs to continue as if it had never stopped: what a checkpoint contains."""

    model: dict[str, Tensor]  # this and the following two: their state_dict()
    clipping: dict[str, Tensor]
    optimizer: dict[str, Any]
    carried: State  # recurrent state of the whole batch that the next step starts from
    progress: Progress
    random: RandomStates
