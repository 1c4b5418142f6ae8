"""The training loop, one page: a step, what is recorded of it, when it is judged, when it ends."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ..errors import DivergedError
from ..options import Options
from .clipping import Clipping, Measured
from .regularise import VanishingGradientRegulariser
from .schedule import learning_rate
from .team import Team

__all__ = ["Batch", "Listener", "Progress", "State", "Task", "diverged", "run", "window_line"]

State = Tensor | tuple[Tensor, ...] | None


class Batch(Protocol):
    """What one step learns from."""

    @property
    def size(self) -> int:
        """How many predictions it trains."""

    @property
    def weight(self) -> float:
        """By what the mean loss of a part counts in that of the whole: mostly the size."""

    def part(self, rank: int, size: int) -> Any:
        """Every ``size``-th sequence from ``rank`` on; None if there is none."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""


class Task(Protocol):
    """What the loop asks of a task. Batches are a function of the step, so that any step can be returned to."""

    steps_per_epoch: int

    def batch(self, step: int) -> Any:
        """The batch of a step (from 0), on the CPU."""

    def loss(self, model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any]:
        """Mean loss of a batch, and the state to carry into the next (None: none is)."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the held-out part, ``validation_loss`` among them; draws no random numbers."""


class Listener:
    """Hears of training as it goes; this one lets it pass."""

    def begin(self, about: dict[str, Any], progress: Progress, planned: int) -> None:
        """Training begins, or goes on: the content of ``config.json``, and where it stands."""

    def step(self, progress: Progress) -> None:
        """A step was taken. Called often: be quick."""

    def evaluated(self, line: dict[str, Any]) -> None:
        """An evaluation was made: its line of ``metrics.jsonl``."""

    def note(self, text: str) -> None:
        """Something a user should know."""

    def stage(self, text: str) -> None:
        """What is being done besides training."""


@dataclass
class Progress:
    """Where training stands: all that a checkpoint needs beyond weights, optimiser and random states."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    state: State = None  # carried into the next batch, without its gradient
    metrics: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None  # the line with the lowest validation loss
    recorded: int = 0  # the step of the last evaluation, since which:
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)  # global, before clipping
    clipped: list[bool] = field(default_factory=list)
    window_seconds: float = 0.0
    window_waiting: float = 0.0  # of them for data

    def count(self, size: int, seconds: float, waiting: float) -> None:
        """Add a step."""
        self.window_waiting += waiting
        self.step += 1
        self.tokens += size
        self.seconds += seconds
        self.window_seconds += seconds

    def clear_window(self) -> None:
        """Begin to record anew after an evaluation."""
        self.recorded = self.step
        self.losses, self.sizes, self.norms, self.clipped = [], [], [], []
        self.window_seconds = self.window_waiting = 0.0


def run(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clipping: Clipping,
    team: Team,
    options: Options,
    progress: Progress,
    planned: int,
    evaluate: Callable[[float], None],
    save: Callable[[], None],
    due: Callable[[], bool],
    stop: Callable[[], bool],
    listener: Listener,
    regulariser: VanishingGradientRegulariser | None = None,
) -> None:
    """Train until ``planned`` steps are taken or ``stop()``; every ``options.eval_every`` steps ``evaluate(lr)``.

    Between two evaluations ``save()`` is called whenever it is ``due()``.

    Raises
    ------
    DivergedError
        If a loss or gradient is no finite number. On a CPU the weights have not yet taken it up; a GPU is
        not waited for at every step, so there it is noticed up to `READ_EVERY` steps later.
    """
    assert options.eval_every is not None
    accelerator, parameters = team.accelerator, list(model.parameters())
    read_every = 1 if accelerator.device.type == "cpu" else READ_EVERY
    unread: list[tuple[int, Tensor, Measured]] = []
    model.train()
    # The next batches are made while this one is learnt.
    ready: deque[Any] = deque()
    with ThreadPoolExecutor(1, "retrograde-batches") as worker:
        coming = worker.submit(_made_ahead, task, progress.step, planned)
        while progress.step < planned:
            stops, saves = team.any(stop(), due())
            if stops:
                break
            if saves:
                _read(unread, progress, options)
                save()
            began = time.perf_counter()
            lr = learning_rate(options, progress.step, task.steps_per_epoch, planned)
            for group in optimizer.param_groups:
                group["lr"] = lr

            if not ready:
                ready.extend(coming.result())
                coming = worker.submit(_made_ahead, task, progress.step + len(ready), planned)
            whole = ready.popleft()
            share = team.share(whole)
            batch = share.batch.to(accelerator.device)
            waited = time.perf_counter() - began
            loss, state = task.loss(model, batch, progress.state)
            if team.size > 1:
                loss = loss * share.weight
            accelerator.backward(loss)
            if regulariser is not None:
                regulariser.add_gradients(team.sum if team.size > 1 else None, team.size if share.weight else 0)
            unread.append((whole.size, team.mean(loss.detach()), clipping(parameters)))
            evaluates = (progress.step + 1) % options.eval_every == 0
            if evaluates or len(unread) >= read_every:
                _read(unread, progress, options)
            optimizer.step()
            optimizer.zero_grad()

            progress.state = _detached(state)
            progress.count(whole.size, time.perf_counter() - began, waited)
            listener.step(progress)
            if evaluates:
                began = time.perf_counter()
                evaluate(lr)
                progress.seconds += time.perf_counter() - began
                model.train()
    _read(unread, progress, options)


READ_EVERY = 16
AHEAD, AHEAD_SECONDS = 8, 0.01


def _made_ahead(task: Task, step: int, planned: int) -> list[Any]:
    """The batches of some steps: to hand over a small one takes longer than to make it; of large ones it is one."""
    began = time.perf_counter()
    made: list[Any] = []
    while step < planned and len(made) < AHEAD and (not made or time.perf_counter() - began < AHEAD_SECONDS):
        made.append(task.batch(step))
        step += 1
    return made


def _read(unread: list[tuple[int, Tensor, Measured]], progress: Progress, options: Options) -> None:
    """Take what was measured into the record, and notice numbers that are none."""
    for size, loss, measured in unread:
        value, norm = loss.item(), measured.norm.item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            step = progress.recorded + len(progress.sizes) + 1
            raise diverged(step, f"loss {value:.4g}, gradient norm {norm:.4g}", progress.norms, options)
        progress.sizes.append(size)
        progress.losses.append(value)
        progress.norms.append(norm)
        progress.clipped.append(measured.excess.item() > 1)
    unread.clear()


def diverged(step: int, found: str, norms: list[float], options: Options) -> DivergedError:
    """The error that says where training stopped making sense, and what to change."""
    last = ", ".join(f"{value:.3g}" for value in norms[-5:]) or "none yet"
    if options.clip_norm is None:
        clip = "or with --clip-norm 1" if options.clip_value is None else f"or --clip-value {options.clip_value / 4:g}"
    else:
        clip = f"or --clip-norm {options.clip_norm / 4:g} (it was {options.clip_norm:g})"
    return DivergedError(
        f"training diverged at step {step:,}: {found}; the last gradient norms before it: {last}; train again with "
        f"--lr {(options.lr or 0) / 4:.2g} (it was {options.lr:g}) {clip}."
    )


def window_line(
    progress: Progress, options: Options, clipping: Clipping, steps_per_epoch: int, lr: float
) -> dict[str, Any]:
    """What a line of ``metrics.jsonl`` says about training since the line before it."""
    tokens = sum(progress.sizes)
    weighted = sum(loss * size for loss, size in zip(progress.losses, progress.sizes, strict=True))
    return {
        "step": progress.step,
        "epoch": progress.step / steps_per_epoch,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "train_loss": weighted / tokens if tokens else None,
        "learning_rate": lr,
        "tokens_per_second": tokens / progress.window_seconds if progress.window_seconds else None,
        "gradient_norm_min": min(progress.norms, default=None),
        "gradient_norm_median": statistics.median(progress.norms) if progress.norms else None,
        "gradient_norm_max": max(progress.norms, default=None),
        "clipped_share": sum(progress.clipped) / len(progress.clipped) if progress.clipped else None,
        "clip_norm": options.clip_norm if options.clip_quantile is None else clipping.threshold,
        "clip_value": options.clip_value,
        "waiting_share": progress.window_waiting / progress.window_seconds if progress.window_seconds else None,
    }


def _detached(state: Any) -> State:
    if state is None or isinstance(state, Tensor):
        return None if state is None else state.detach()
    return tuple(part.detach() for part in state)
