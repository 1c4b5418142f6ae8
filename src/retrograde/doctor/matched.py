"""One run of a trial: by the trainer of this package, or by a function of the user.

Tests: `tests/doctor/test_trial.py`.
"""

from __future__ import annotations

import copy
import inspect
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..errors import DivergedError, FlowError, OptionError, RetrogradeError
from ..flow import gradient_flow
from ..options import Options
from ..tasks.registry import open_task
from ..training import Callback, Trainer
from ..training.callbacks import Evaluation
from ..training.setup import check_model, make_context, seed_everything
from .arms import changed_options
from .forward import layers_of
from .travel import travels_of

EVALUATIONS = 8  # of a run
MEASURED = 8  # sequences on which the mechanism is measured
Measure = Literal["loss", "score"]


@dataclass(frozen=True)
class ShouldStop:
    """Whether the time is up: a training that was given this asks it now and then, as ``should_stop()``."""

    at: float | None  # as time.time() counts

    def __call__(self) -> bool:
        """Whether to stop now."""
        return self.at is not None and time.time() >= self.at


@dataclass(frozen=True)
class Job:
    """What is to be run."""

    stage: Literal["pilot", "run"]
    arm: str
    round: int
    seed: int
    remedy: Any
    updates: int | None  # None: as many as the user's function makes
    stop: ShouldStop


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    value : float
        The lowest validation loss of the run, infinite if it diverged; or what the user's function returned.
    measure : str
        ``"loss"``, lower is better, or ``"score"``, higher is better.
    finished : bool
        False: it was stopped because the time was up, and does not count.
    seconds : float
        Of the whole run.
    updates : int or None
    curve : list of (updates, seconds, value)
        NaN where the user's function did not say.
    remedy : str
        What was changed, in words.
    setup, training, evaluation : float
        Seconds before the first update, of the updates (with evaluations between them), and of the last evaluation.
    reach, growth : (before, after) or None
        Steps until 1 % of the gradient is left, and its factor per step: with initial weights, and at the end.
    error : str
        Why the run is impossible; empty if it is not.
    """

    value: float
    measure: Measure = "loss"
    finished: bool = True
    seconds: float = 0.0
    updates: int | None = None
    curve: Sequence[tuple[float, float, float]] = ()
    remedy: str = ""
    setup: float = 0.0
    training: float = 0.0
    evaluation: float = 0.0
    reach: Sequence[float] | None = None
    growth: Sequence[float] | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what is infinite or not known is a word."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Outcome:
        """Read what `as_dict` wrote."""
        return cls(**{name: _number(value) for name, value in json.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_number(one) for one in value)
    return float(value) if value in ("inf", "-inf", "nan") else value


# --- The trainer of this package --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NativeTraining:
    """Trains on a task as `retrograde.train` does, without a run folder."""

    source: Any
    options: Options  # without treatment
    run: str | None = None  # folder of a run whose vocabulary and scales are used

    def __call__(self, job: Job) -> Outcome:
        """Run once; the random states and threads of this process are the same afterwards."""
        began = time.perf_counter()
        with _alone():
            try:
                found = self._trained(job, began)
            except DivergedError:
                found = Outcome(math.inf, updates=job.updates)
            except RetrogradeError as error:
                found = Outcome(math.inf, error=str(error))
        words = ", ".join(f"{name}={value}" for name, value in (job.remedy or {}).items())
        return replace(found, seconds=time.perf_counter() - began, remedy=words)

    def _trained(self, job: Job, began: float) -> Outcome:
        assert job.updates is not None
        usual = self._options(job, {})
        options = self._options(job, job.remedy or {})
        task = open_task(self.source, options, None if self.run is None else Path(self.run))
        options = replace(options, batch_size=task.batch_size)
        check_model(options, task)
        seed_everything(job.seed)
        matching = _Matched(job.stop, usual)
        every = Evaluation(job.updates + 1 if job.stage == "pilot" else max(1, math.ceil(job.updates / EVALUATIONS)))
        trainer = Trainer(task, options, make_context(options), [matching, every])
        if options.floss:
            trainer.floss(options.floss)
        matching.on_train_begin(trainer)
        setup = time.perf_counter() - began
        examples = None if job.stage == "run" else task.held_out(MEASURED)
        before = None if examples is None else _mechanism(trainer.model, examples)
        matching.began = time.perf_counter()
        diverged = False
        try:
            trainer.fit()
            finished = trainer.progress.step == job.updates
            marked = time.perf_counter()  # the updates are over
            if finished and (not trainer.progress.metrics or trainer.progress.metrics[-1].step != job.updates):
                trainer.evaluate()
        except DivergedError:
            finished, diverged, marked = True, True, time.perf_counter()
        evaluation = time.perf_counter() - marked
        after = None if examples is None or diverged or not finished else _mechanism(trainer.model, examples)
        best = trainer.progress.best
        return Outcome(
            math.inf if diverged or best is None else best.loss,
            finished=finished,
            updates=trainer.progress.step,
            curve=matching.curve,
            setup=setup,
            training=marked - matching.began,
            evaluation=evaluation,
            reach=_change(before, after, 0),
            growth=_change(before, after, 1),
        )

    def _options(self, job: Job, changes: Mapping[str, Any]) -> Options:
        plain: dict[str, Any] = {
            "seed": job.seed,
            "max_steps": job.updates,
            "epochs": None,
            "max_time": None,
            "threads": 1,
        }
        if self.options.device == "auto":
            plain["device"] = "cpu"  # several runs at a time
        return changed_options(self.options, {**changes, **plain})


class _Matched(Callback):
    """The weights that a remedy leaves alone start as without it; the curve; the end when the time is up."""

    def __init__(self, stop: ShouldStop, usual: Options) -> None:
        self.stop, self.usual = stop, usual
        self.curve: list[tuple[float, float, float]] = []
        self.began = time.perf_counter()

    def on_train_begin(self, trainer: Trainer) -> None:
        """Copy what stands outside the recurrent layers from the untreated network of the same seed."""
        if trainer.options != replace(self.usual, batch_size=trainer.options.batch_size):
            torch.manual_seed(self.usual.seed)
            task = copy.copy(trainer.task)
            task.options = self.usual
            untreated = dict(task.model().named_parameters())
            inside = {f"{name}." for name in layers_of(trainer.model)}
            with torch.no_grad():
                for name, parameter in trainer.model.named_parameters():
                    other = untreated.get(name)
                    if other is not None and other.shape == parameter.shape and not name.startswith(tuple(inside)):
                        parameter.copy_(other)
        torch.manual_seed(self.usual.seed)  # what is dropped is the same, too

    def on_step_begin(self, trainer: Trainer) -> None:
        """End training when the time is up."""
        trainer.should_stop |= self.stop()

    def on_evaluate(self, trainer: Trainer, metrics: Any) -> None:
        """Add a point to the curve."""
        self.curve.append((metrics.step, time.perf_counter() - self.began, metrics.loss))


def _mechanism(model: nn.Module, examples: Any) -> tuple[float, float] | None:
    """Steps until 1 % of the gradient is left (infinite beyond the last), and its factor per step; the worst layer."""
    try:
        if next(model.parameters()).device.type != "cpu":
            model = copy.deepcopy(model).cpu()
        flow = gradient_flow(model, *examples.inputs, loss=examples.loss)
        known = travels_of(flow)
    except FlowError:
        return None
    if not known:
        return None
    growth = [1.0 if math.isnan(own.per_step) else own.per_step for own in known]
    return min(own.reach for own in known), max(growth)


def _change(before: Any, after: Any, which: int) -> tuple[float, float] | None:
    return None if before is None else (before[which], before[which] if after is None else after[which])


@contextmanager
def _alone() -> Iterator[None]:
    """One thread, and afterwards the threads and random states of before."""
    threads, torch_state, python = torch.get_num_threads(), torch.get_rng_state(), random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(torch_state)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


# --- A function of the user -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UserTraining:
    """Calls ``train(seed, remedy)``, with ``should_stop=`` where it takes that."""

    train: Callable[..., Any]

    def __call__(self, job: Job) -> Outcome:
        """Run once."""
        began = time.perf_counter()
        takes = "should_stop" in inspect.signature(self.train).parameters
        result = self.train(job.seed, job.remedy, **({"should_stop": job.stop} if takes else {}))
        seconds = time.perf_counter() - began
        value, measure, curve = _read(result)
        return Outcome(
            value, measure, not (takes and job.stop()), seconds, curve=curve, remedy=str(job.remedy or ""), setup=0.0
        )


def _read(result: Any) -> tuple[float, Measure, list[tuple[float, float, float]]]:
    """A number is the loss; a mapping has ``"loss"`` or ``"score"``, and maybe ``"curve"``."""
    if isinstance(result, Mapping):
        measure: Measure = "score" if "score" in result else "loss"
        if measure not in result:
            raise OptionError("train(seed, remedy) returned a dict without 'loss' or 'score'; give one of them.")
        value, points = result[measure], result.get("curve", ())
    else:
        measure, value, points = "loss", result, ()
    try:
        curve = [
            (float(one[0]), math.nan, float(one[-1])) if isinstance(one, tuple | list) else (i, math.nan, float(one))
            for i, one in enumerate(points, 1)
        ]
        return float(value), measure, curve
    except (TypeError, ValueError):
        raise OptionError(
            f"train(seed, remedy) returned {result!r:.60}; expected the loss as a number, or a dict with 'loss' or "
            "'score' and, if there is one, 'curve'."
        ) from None
