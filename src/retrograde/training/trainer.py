"""The training loop: what a step computes, what changes while training, and when callbacks are called."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import DivergedError
from ..nn import Flossing, floss
from ..options import Options
from ..runs import Metrics
from ..tasks.task import Batch, State, Task
from .callback import Callback, CallbackList
from .clipping import Clipping, Measured
from .distributed import DistributedContext, map_state
from .prefetch import prefetched
from .regularize import VanishingGradientRegularizer
from .schedule import learning_rate, planned_steps
from .setup import make_optimizer
from .state import Progress, RandomStates, TrainerState

__all__ = ["Trainer"]

FLOSS_SEQUENCES = 8
READ_EVERY = 16  # steps after which a GPU is waited for, to read losses and norms


class Trainer:
    """Trains a new network on a task.

    Parameters
    ----------
    task : Task
    options : Options
    context : DistributedContext
        Device, precision and processes.
    callbacks : sequence of Callback

    Attributes
    ----------
    model : Module
        The network that is trained.
    optimizer, clipping, progress, carried
        With the weights and the random states, all that changes while training: see `TrainerState`.
    planned_steps : int
        The step at which training ends.
    should_stop, should_save : bool
        Set by callbacks: end training, or write a checkpoint, before the next step.
    """

    def __init__(
        self, task: Task[Any], options: Options, context: DistributedContext, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.task, self.options, self.context = task, options, context
        self.callbacks = CallbackList(callbacks)
        self.model: nn.Module = task.model()
        self.regularizer = VanishingGradientRegularizer(self.model, options.omega) if options.omega else None
        # The wrapped model averages gradients over the processes; its parameters are those of `model`. No precision on
        # offer scales the loss, so the optimizer needs no wrapping (whose every step would search for packages).
        self.wrapped_model = context.accelerator.prepare(self.model)
        self.optimizer = make_optimizer(options, self.model, context.accelerator.device)
        self.clipping = Clipping(options.clip_norm, options.clip_value, options.clip_quantile)
        self.progress = Progress()
        self.carried: State = None
        self.planned_steps = planned_steps(options, task)
        self.should_stop = self.should_save = False
        self._unread: list[tuple[int, Tensor, Measured]] = []
        self._parameters = list(self.model.parameters())
        self._read_every = 1 if context.accelerator.device.type == "cpu" else READ_EVERY

    def fit(self) -> None:
        """Train until `planned_steps` are taken or a callback asks to stop.

        Raises
        ------
        DivergedError
            If a loss or gradient is NaN or infinite. On a CPU the weights are then still those of the step before; a
            GPU is not waited for at every step, so there it is noticed up to `READ_EVERY` steps later.
        """
        self.wrapped_model.train()
        with prefetched(self.task.batch, self.progress.step, self.planned_steps) as batches:
            while self.progress.step < self.planned_steps:
                self.callbacks.on_step_begin(self)
                self.should_stop, self.should_save = self.context.any(self.should_stop, self.should_save)
                if self.should_stop:
                    break
                if self.should_save:
                    self.read_measurements()
                    self.callbacks.on_save(self)
                    self.should_save = False
                self.take_step(batches)
                self.callbacks.on_step_end(self)
        self.read_measurements()

    def floss(self, exponents: int) -> Flossing:
        """Push Lyapunov exponents of the new network to 0, on a few sequences of the first batch (see `nn.floss`)."""
        batch = self.task.batch(0)
        part = batch.part(0, math.ceil(batch.inputs.shape[1] / FLOSS_SEQUENCES))
        assert part is not None
        inputs = part.to(self.context.accelerator.device)
        return floss(self.model, exponents=exponents, call=lambda: self.task.loss(self.model, inputs, None))

    def take_step(self, batches: Iterator[Batch]) -> None:
        """One update of the weights: forward, backward, clipping, optimizer."""
        began = time.perf_counter()
        batch = next(batches)
        share = self.context.share(batch)
        inputs = share.batch.to(self.context.accelerator.device)
        waited = time.perf_counter() - began

        loss, carried = self.task.loss(self.wrapped_model, inputs, self.carried)
        if self.context.size > 1:
            loss = loss * share.weight
        self.context.accelerator.backward(loss)
        if self.regularizer is not None:
            total = self.context.sum if self.context.size > 1 else None
            self.regularizer.add_gradients(total, self.context.size if share.weight else 0)
        self._unread.append((batch.size, self.context.mean(loss.detach()), self.clipping(self._parameters)))
        if len(self._unread) >= self._read_every:
            self.read_measurements()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad()

        self.carried = map_state(carried, Tensor.detach)
        self.progress.count(batch.size, time.perf_counter() - began, waited)

    def evaluate(self) -> Metrics:
        """Score the validation part, and add the result to the progress.

        Raises
        ------
        DivergedError
            If the validation loss is NaN or infinite.
        """
        self.read_measurements()
        began = time.perf_counter()
        scores = {name.removeprefix("validation_"): value for name, value in self.task.evaluate(self.model).items()}
        if not math.isfinite(scores["loss"]):
            raise self.diverged(self.progress.step, f"validation loss {scores['loss']}")
        self.wrapped_model.train()
        threshold = self.options.clip_norm if self.options.clip_quantile is None else self.clipping.threshold
        line = self.progress.add_evaluation(
            scores,
            self.task,
            epoch=self.progress.step / self.task.steps_per_epoch,
            learning_rate=self.learning_rate(max(0, self.progress.step - 1)),
            clip_norm=threshold,
            clip_value=self.options.clip_value,
        )
        self.callbacks.on_evaluate(self, line)
        self.progress.seconds += time.perf_counter() - began
        return line

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        return learning_rate(self.options, step, self.task.steps_per_epoch, self.planned_steps)

    def read_measurements(self) -> None:
        """Read the losses and norms of the last steps from the device.

        Raises
        ------
        DivergedError
            If one is NaN or infinite.
        """
        window = self.progress.window
        for size, loss, measured in self._unread:
            value, norm = loss.item(), measured.norm.item()
            if not (math.isfinite(value) and math.isfinite(norm)):
                step = window.start + len(window.sizes) + 1
                raise self.diverged(step, f"loss {value:.4g}, gradient norm {norm:.4g}")
            window.sizes.append(size)
            window.losses.append(value)
            window.norms.append(norm)
            window.clipped.append(measured.excess.item() > 1)
        self._unread.clear()

    def diverged(self, step: int, found: str) -> DivergedError:
        """The error that says where training diverged, and what to change."""
        options = self.options
        norms = ", ".join(f"{value:.3g}" for value in self.progress.window.norms[-5:]) or "none yet"
        if options.clip_norm is not None:
            clip = f"or --clip-norm {options.clip_norm / 4:g} (it was {options.clip_norm:g})"
        elif options.clip_value is not None:
            clip = f"or --clip-value {options.clip_value / 4:g}"
        else:
            clip = "or with --clip-norm 1"
        return DivergedError(
            f"training diverged at step {step:,}: {found}; the last gradient norms before it: {norms}; train again "
            f"with --lr {(options.lr or 0) / 4:.2g} (it was {options.lr:g}) {clip}."
        )

    def state_dict(self) -> TrainerState:
        """Everything that changes while training. All processes must call this."""
        return TrainerState(
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            clipping=self.clipping.state_dict(),
            carried=self.context.gather_state(self.carried),
            progress=self.progress,
            random=RandomStates.now(self.context),
        )

    def load_state_dict(self, state: TrainerState) -> None:
        """Continue from a `state_dict`, with any number of processes.

        Raises
        ------
        KeyError, TypeError, ValueError, RuntimeError, AttributeError
            If it is the state of another model or optimizer.
        """
        self.model.load_state_dict(state.model)
        self.clipping.load_state_dict(state.clipping)
        self.optimizer.load_state_dict(state.optimizer)
        device = self.context.accelerator.device
        self.carried = self.context.scatter_state(map_state(state.carried, lambda part: part.to(device)))
        self.progress = state.progress
        state.random.restore(self.context.rank)
