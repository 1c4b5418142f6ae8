"""`Callback`: what can be done at fixed points of a training. The trainer itself computes; callbacks do the rest."""

# ruff: noqa: D102 (`Callback` says what each method is for)

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..runs import Metrics, RunFolder

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Callback", "CallbackList"]


class Callback:
    """Base class for callbacks. Every method does nothing.

    A callback may set ``trainer.should_stop`` or ``trainer.should_save`` in `on_step_begin`; with several processes,
    one of them is enough.
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Training starts, or is resumed."""

    def on_step_begin(self, trainer: Trainer) -> None:
        """A step is about to be taken."""

    def on_step_end(self, trainer: Trainer) -> None:
        """A step was taken. Called often, so be quick."""

    def on_save(self, trainer: Trainer) -> None:
        """A checkpoint is due."""

    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        """The validation part was scored."""

    def on_train_end(self, trainer: Trainer, folder: RunFolder) -> None:
        """Weights, summary and results are in the run folder, which is still locked. Only called in rank 0."""

    def on_note(self, text: str) -> None:
        """There is something a user should know."""

    def on_stage(self, text: str) -> None:
        """Something other than training starts, such as measuring the gradient flow."""


class CallbackList(Callback):
    """Calls each of several callbacks, in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = list(callbacks)

    def on_train_begin(self, trainer: Trainer) -> None:
        for callback in self.callbacks:
            callback.on_train_begin(trainer)

    def on_step_begin(self, trainer: Trainer) -> None:
        for callback in self.callbacks:
            callback.on_step_begin(trainer)

    def on_step_end(self, trainer: Trainer) -> None:
        for callback in self.callbacks:
            callback.on_step_end(trainer)

    def on_save(self, trainer: Trainer) -> None:
        for callback in self.callbacks:
            callback.on_save(trainer)

    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        for callback in self.callbacks:
            callback.on_evaluate(trainer, metrics)

    def on_train_end(self, trainer: Trainer, folder: RunFolder) -> None:
        for callback in self.callbacks:
            callback.on_train_end(trainer, folder)

    def on_note(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_note(text)

    def on_stage(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_stage(text)
