"""``GradientFlowCallback``: the recorder inside a Lightning ``Trainer`` (``pip install "retrograde[lightning]"``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import MissingExtraError, OptionError, RetrogradeError
from ..flow.recorder import GradientFlowRecorder, scalars

try:
    import lightning.pytorch as lightning
    from lightning import __version__ as version
except ImportError as missing:
    raise MissingExtraError(
        "lightning is not installed. Install it with: pip install 'retrograde[lightning]'"
    ) from missing

if version in ("2.6.2", "2.6.3"):  # withdrawn versions
    raise MissingExtraError(f"Lightning {version} was withdrawn: pip install 'lightning>=2.6.4'.")

__all__ = ["GradientFlowCallback"]


def last_is_target(batch: Any) -> tuple[tuple[Any, ...], Any]:
    """Inputs and target of ``(x, y)`` or ``(x, lengths, y)``; a batch that is not a tuple is the only input."""
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "batch_sizes") and len(batch) > 1:
        return tuple(batch[:-1]), batch[-1]
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return (batch[0],), None
    return (batch,), None


class GradientFlowCallback(lightning.Callback):
    """Measure the gradient flow every N steps of ``Trainer.fit``.

    The trainer drives a ``GradientFlowRecorder``: records go to ``recorder.records``, to ``flow/recorded.jsonl`` in the
    folder of the trainer's first logger, and their numbers to all its loggers (TensorBoard, CSV, …). Under
    ``precision="bf16-mixed"`` or ``"16-mixed"`` it is measured in float32, without autocast, and ``notes`` says so;
    under ``"bf16-true"`` or ``"16-true"`` in that type.

    Parameters
    ----------
    loss : callable
        ``loss(output, target)``, or ``loss(output)`` for a batch without target: losses by step `(T, B)` or one per
        sequence `(B,)`.
    model : str, optional
        Name of the attribute of the LightningModule that is called; the LightningModule itself by default.
    unpack : callable, optional
        Takes the batch, returns ``(inputs, target)``: the inputs as a tuple. By default the last part is the target.
    run : path, optional
        Another run folder than the logger's.
    **options
        Of ``GradientFlowRecorder``: ``every=100``, ``budget=0.03``, ``sequences=4``, …

    Attributes
    ----------
    recorder : GradientFlowRecorder or None
        None before training.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        *,
        model: str | None = None,
        unpack: Callable[[Any], tuple[tuple[Any, ...], Any]] = last_is_target,
        run: str | Path | None = None,
        **options: Any,
    ) -> None:
        GradientFlowRecorder(lambda: None, loss, **options)  # refuses a wrong option now, not in the middle of fit
        self.loss, self.model, self.unpack, self.run, self.options = loss, model, unpack, run, options
        self.recorder: GradientFlowRecorder | None = None
        self._step = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Create the recorder, or continue with it."""
        model: Any = pl_module
        for name in (self.model or "").split(".") if self.model else []:
            if not hasattr(model, name):
                raise OptionError(f"model is {self.model!r}; {type(pl_module).__name__} has no such attribute.")
            model = getattr(model, name)
        again = self.recorder is not None
        options = {"run": self._folder(trainer), "resume": again or trainer.global_step > 0, **self.options}
        self.recorder = GradientFlowRecorder(model, self.loss, **options)
        self._step = trainer.global_step

    def _folder(self, trainer: lightning.Trainer) -> Path | None:
        """The folder of the first logger's version, as ``ModelCheckpoint`` uses."""
        if self.run is not None or not trainer.loggers or getattr(trainer, "fast_dev_run", False):
            return None if self.run is None else Path(self.run)
        first = trainer.loggers[0]
        name = first.version if isinstance(first.version, str) else f"version_{first.version}"
        return Path(first.save_dir or trainer.default_root_dir) / str(first.name) / name

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the optimizer's step; measure every N of them."""
        if self.recorder is None or trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        inputs, target = self.unpack(batch)
        try:
            # In the context of the training step, so that the notes of the measurement mention its autocast.
            with trainer.precision_plugin.forward_context():
                record = self.recorder.step(*inputs, target=target, step=self._step)
        except RetrogradeError:
            raise
        except Exception as failure:
            raise OptionError(
                f"The batch does not fit the model or the loss of GradientFlowCallback ({failure}): give unpack=, "
                "which takes the batch and returns (inputs, target)."
            ) from failure
        if record is not None:
            for logger in trainer.loggers:
                logger.log_metrics(scalars(record), step=self._step)
