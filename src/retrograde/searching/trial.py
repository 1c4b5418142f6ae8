"""One trial of a search: a training in a temporary folder, which ends early where it is worse than those before it.

Tests: `tests/searching/test_search.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from ..errors import DivergedError, OptionError
from ..extras import import_or_explain
from ..measuring import random_states_kept
from ..runs import Metrics, RunFolder, Scores, Summary
from ..training import Callback, Trainer, train

__all__ = ["Job", "Outcome", "State", "contents", "quiet_optuna", "run_trial"]

State = Literal["complete", "pruned", "diverged", "impossible", "interrupted"]
STARTUP = 4  # complete trials before one is pruned
WARMUP = 0.25  # share of a training in which it is not pruned


@dataclass(frozen=True)
class Job:
    """What is to be trained.

    Attributes
    ----------
    number : int
    source : str or frame
    options : mapping
        Options of training: those given, and those of the trial.
    before : sequence
        The trials that it is compared with, as Optuna keeps them.
    keep_below : float or None
        The files of the run are wanted if it costs less; None: in any case.
    ends : float or None
        When to stop, as ``time.time()`` counts.
    record_flow : bool
    callbacks : callable or None
        From the number of a trial to callbacks of its training.
    """

    number: int
    source: Any
    options: Mapping[str, Any]
    before: Sequence[Any] = ()
    keep_below: float | None = None
    ends: float | None = None
    record_flow: bool = False
    callbacks: Callable[[int], Sequence[Callback]] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes
    ----------
    state : str
        ``"impossible"``: the options contradict each other; ``"interrupted"``: by a signal, so it does not count.
    cost : float or None
        What the search minimizes, `Task.cost` of the numbers that the page and the summary show: of a forecast or a
        regression, those after its predictions were divided between the network and the simple method.
    costs : dict
        The cost at each evaluation while training, by step: of the network alone.
    steps, seconds, parameters
        Of the training, and numbers of the network.
    scores : mapping
        Metrics of the best weights on the validation part.
    message : str
    files : dict or None
        The run folder, by file name, if it is the best.
    signal : int
        The one that interrupted it.
    notes : tuple of str
        What its callbacks had to say while it trained.
    """

    state: State
    cost: float | None = None
    costs: Mapping[int, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    parameters: int = 0
    scores: Scores = field(default_factory=dict)
    message: str = ""
    files: Mapping[str, bytes] | None = None
    signal: int = 0
    notes: tuple[str, ...] = ()


class _Pruning(Callback):
    """Notes what each evaluation costs, and ends a training that is worse than half of those before it."""

    def __init__(self, job: Job) -> None:
        optuna = import_or_explain("optuna")
        self.ends, self.costs, self.pruned, self.parameters = job.ends, dict[int, float](), False, 0
        self.notes: list[str] = []
        study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP))
        study.add_trials(job.before)
        self._trial = study.ask()

    def on_train_begin(self, trainer: Trainer) -> None:
        self.parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        self._cost = trainer.task.cost

    def on_note(self, text: str) -> None:
        self.notes += [text] if self.parameters else []  # what is said before training is of all trials

    def on_step_begin(self, trainer: Trainer) -> None:
        trainer.should_stop |= self.pruned or (self.ends is not None and time.time() >= self.ends)

    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        self.costs[metrics.step] = cost = trainer.task.cost(metrics.validation)
        self._trial.report(cost, metrics.step)
        early = metrics.step < WARMUP * trainer.planned_steps or metrics.step >= trainer.planned_steps
        self.pruned |= not early and self._trial.should_prune()

    def final(self, summary: Summary) -> float | None:
        """The cost of the weights that were kept."""
        return None if summary.best_step is None else self._cost(summary.best)


def run_trial(job: Job) -> Outcome:
    """Train once. The random states and threads of this process are the same afterwards."""
    began, threads = time.perf_counter(), torch.get_num_threads()
    try:
        with TemporaryDirectory(prefix="retrograde-", ignore_cleanup_errors=True) as folder, random_states_kept():
            return _trained(job, RunFolder(Path(folder) / "run"), began)
    finally:
        torch.set_num_threads(threads)


def _trained(job: Job, folder: RunFolder, began: float) -> Outcome:
    with quiet_optuna():
        pruning = _Pruning(job)
        state: State = "complete"
        try:
            callbacks = [pruning, *(job.callbacks(job.number) if job.callbacks else [])]
            result = train(job.source, folder.path, callbacks=callbacks, record_flow=job.record_flow, **job.options)
        except DivergedError as error:
            return Outcome("diverged", None, pruning.costs, max(pruning.costs, default=0), message=str(error))
        except OptionError as error:
            return Outcome("impossible", message=str(error))
    if result.signal:
        return Outcome("interrupted", message=result.summary.message, signal=result.signal)
    summary = result.summary
    cost = pruning.final(summary)
    if pruning.pruned:
        state = "pruned"
    wanted = state == "complete" and cost is not None and (job.keep_below is None or cost < job.keep_below)
    return Outcome(
        state,
        cost,
        pruning.costs,
        summary.step or 0,
        time.perf_counter() - began,
        pruning.parameters,
        summary.scores,
        summary.message,
        contents(folder.path) if wanted else None,
        notes=tuple(pruning.notes),
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a run folder by name, without its lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's own lines."""
    logging = import_or_explain("optuna").logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
