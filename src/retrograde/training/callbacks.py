"""The callbacks that `retrograde.training.train` uses itself: when to stop, evaluate and save, and flow recording.

Tests: `tests/training/test_trainer.py`.
"""

# ruff: noqa: D102 (`Callback` says when each method is called)

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Self

from torch import nn

from ..errors import RetrogradeError
from ..flow.recorder import GradientFlowRecorder
from ..nested import mapped
from ..runs import Metrics, RunFolder, digest
from ..words import counted
from . import checkpoint
from .callback import Callback
from .state import Progress
from .trainer import Trainer

FLOW_SEQUENCES = 8  # of a measurement of the gradient flow
FLOW_BUDGET: float | None = 0.03  # share of the time that FlowRecording may take

# SIGHUP: the terminal or the connection is gone. SIGUSR1: a scheduler will end the job soon, and start it again.
_HANGUP = getattr(signal, "SIGHUP", None)
REQUEUE: int | None = getattr(signal, "SIGUSR1", None)
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class StopAfter(Callback):
    """Stops training after a number of seconds; never, if that is None."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self._began = seconds, time.perf_counter()

    def on_train_begin(self, trainer: Trainer) -> None:
        self._began = time.perf_counter()

    def on_step_begin(self, trainer: Trainer) -> None:
        trainer.should_stop |= self.seconds is not None and time.perf_counter() - self._began >= self.seconds


class Patience(Callback):
    """Stops training when so many evaluations have not improved on the best one; never, if that is 0 or None."""

    def __init__(self, evaluations: int | None) -> None:
        self.evaluations = evaluations

    def is_over(self, progress: Progress) -> bool:
        """Whether training has waited long enough."""
        return bool(self.evaluations) and progress.waited >= (self.evaluations or 0)

    def on_step_begin(self, trainer: Trainer) -> None:
        trainer.should_stop |= self.is_over(trainer.progress)


class StopOnSignal(Callback):
    """Stops training after a signal (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1), which would otherwise end the process.

    Active as a context manager; Ctrl-C after another signal raises KeyboardInterrupt. SIGHUP stays ignored where it is
    (``nohup``). Outside the main thread, where Python delivers no signals, this does nothing.

    Parameters
    ----------
    callback : Callback
        Its ``on_note`` is called when a signal arrives.

    Attributes
    ----------
    received : int
        The signal, 0 if there was none.
    """

    def __init__(self, callback: Callback) -> None:
        self.callback, self.received = callback, 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            taken = [number for number in ENDING if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in taken}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # schedulers send several signals, one after the other
        self.received = number
        what = "writing a checkpoint" if number == REQUEUE else "finishing the run folder"
        self.callback.on_note(f"Stopping after this step, then {what} (Ctrl-C leaves at once).")

    def on_step_begin(self, trainer: Trainer) -> None:
        trainer.should_stop |= bool(self.received)


class Evaluation(Callback):
    """Scores the validation part every so many steps."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.progress.step % self.every == 0:
            trainer.evaluate()


class Checkpointing(Callback):
    """Writes the best weights, the metrics and checkpoints into a run folder.

    Parameters
    ----------
    folder : RunFolder
    files : mapping
        What the run folder contains besides the weights, by file name: vocabulary, columns, scales.
    """

    def __init__(self, folder: RunFolder, files: Mapping[str, str]) -> None:
        self.folder, self.files = folder, files
        self._saved = time.monotonic()

    def on_step_begin(self, trainer: Trainer) -> None:
        limit = 60 * trainer.options.checkpoint_minutes
        trainer.should_save |= 0 < limit <= time.monotonic() - self._saved

    def on_save(self, trainer: Trainer) -> None:
        checkpoint.save(self.folder, trainer.state_dict(), trainer.options, self.files)
        self._saved = time.monotonic()

    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        # The evaluation at the end of training, between two others, is in no checkpoint: a run that is resumed
        # continues without it (see `resume`).
        scheduled = metrics.step % (trainer.options.eval_every or 1) == 0
        if trainer.progress.best is metrics:
            about = {
                "step": metrics.step,
                "validation_loss": metrics.loss,
                "sha256": {name: digest(content) for name, content in self.files.items()},
            }
            names = ["model.safetensors", *([checkpoint.best_name(metrics.step)] if scheduled else [])]
            for name in names:
                self.folder.write_tensors(name, trainer.model.state_dict(), about)
        if scheduled:
            self.on_save(trainer)
        self.folder.write_metrics(trainer.progress.metrics)


class FlowRecording(Callback):
    """Measures the gradient flow every so many steps while training, into ``flow/recorded.jsonl``.

    Training is not changed by it.

    Parameters
    ----------
    folder : RunFolder
    resume : bool
        Whether to keep what was recorded before.
    """

    def __init__(self, folder: RunFolder, *, resume: bool) -> None:
        self.folder, self.resume = folder, resume
        self.recorder: GradientFlowRecorder | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        self.recorder = self._recorder(trainer, trainer.model)

    def _recorder(self, trainer: Trainer, model: nn.Module) -> GradientFlowRecorder:
        device = trainer.context.accelerator.device
        examples = trainer.task.held_out(FLOW_SEQUENCES // 2)
        return GradientFlowRecorder(
            model,
            lambda output: examples.loss(mapped(output, lambda leaf: leaf.cpu())),
            inputs=mapped(examples.inputs, lambda leaf: leaf.to(device)),
            every=max(1, min(100, (trainer.options.eval_every or 100) // 5)),
            budget=FLOW_BUDGET,
            sequences=None,  # the loss has the targets of all of them
            run=self.folder.path if self.folder.writes else None,
            resume=self.resume,
        )

    def on_step_end(self, trainer: Trainer) -> None:
        if self.recorder is None:
            return
        self.folder.check_alive()  # the recorder creates missing folders
        try:
            self.recorder.step(step=trainer.progress.step)
        except RetrogradeError as error:
            trainer.callbacks.on_note(f"the gradient flow is not recorded: {error}")
            self.recorder = None

    def summary(self) -> str | None:
        """How often the gradient flow was measured, and how much time that took; None if there is nothing to say."""
        if self.recorder is None or not (self.recorder.records or self.recorder.skipped):
            return None
        times, skipped, limit = len(self.recorder.records), self.recorder.skipped, f"{FLOW_BUDGET or 1:.0%}"
        if not times:
            return (
                f"the gradient flow was not recorded: each of {skipped} measurements would have taken over {limit} of "
                "the time of so short a training."
            )
        text = f"the gradient flow was recorded {counted(times, 'time')} while training"
        if skipped:
            text += f"; {skipped} more were left out, to stay within {limit} of the time"
        return f"{text} (it took {self.recorder.overhead:.1%})."
