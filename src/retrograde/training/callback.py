"""`Callback`: what can be done at fixed points of a training. The trainer itself computes; callbacks do the rest.

Tests: `tests/training/test_trainer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..runs import Metrics, RunFolder

if TYPE_CHECKING:
    from .trainer import Trainer


class Callback:
    """Base class for callbacks. Every method does nothing.

    A callback may set ``trainer.should_stop`` or ``trainer.should_save``: before the next step, training then ends or a
    checkpoint is written. Of several processes, only the first calls the callbacks of the user.
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


def _call_each(name: str) -> Callable[..., None]:
    def call(self: CallbackList, *arguments: object) -> None:
        for callback in self.callbacks:
            getattr(callback, name)(*arguments)

    return call


for _name in [name for name in vars(Callback) if name.startswith("on_")]:
    setattr(CallbackList, _name, _call_each(_name))
