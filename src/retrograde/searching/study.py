"""`search`: trials one after the other or side by side, of which the best run is kept.

Trial 0 has the options of a training without a search. Optuna's TPE draws those of the others, from a seed of its own
for each. It is given results in the order of their numbers, so that the same seed and number of workers give
the same trials, whichever of them is done first, and whether the search was interrupted or not.

Tests: `tests/searching/test_search.py`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import report as page
from ..data.formats import in_memory, name_of
from ..errors import DivergedError, OptionError, RunError
from ..experiment import measure_flow
from ..extras import import_or_explain
from ..option import flag, seconds
from ..options import OPTIONS
from ..pools import Pool, open_pool
from ..runs import RunFolder, SearchedTrial
from ..runs.folder import SEARCH_JOURNAL, SEARCH_TABLE, TENSORBOARD
from ..tasks.registry import new_task
from ..tasks.task import Task
from ..training import Callback, load
from .space import Choices, Range, Space, space_for
from .trial import Job, Outcome, quiet_optuna, run_trial

__all__ = ["Search", "search"]

RANDOM = 8  # trials before TPE learns from those before
SIGINT = 2


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes
    ----------
    folder : Path
        The run folder of the best trial, with the table (``search.json``) and Optuna's journal (``search.log``).
    trials : list of SearchedTrial
        By number.
    best : SearchedTrial or None
    signal : int
        The signal that ended it; 0 if none did.
    notes : list of str
    """

    folder: Path
    trials: list[SearchedTrial]
    best: SearchedTrial | None
    signal: int = 0
    notes: list[str] = field(default_factory=list)

    def ranked(self) -> list[SearchedTrial]:
        """The trials, the best first; those that are not complete come last."""
        return SearchedTrial.ranked(self.trials)

    def as_dict(self) -> dict[str, Any]:
        """The content of ``search.json``."""
        best = None if self.best is None else self.best.number
        return {"format": 1, "best": best, "trials": [asdict(one) for one in self.trials]}


def search(
    data: Any,
    out: str | Path,
    *,
    trials: int = 30,
    budget: float | str | None = None,
    space: Mapping[str, Any] | None = None,
    workers: int = 1,
    ray: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    report: bool = True,
    record_flow: bool = False,
    progress: Callable[[SearchedTrial], None] | None = None,
    callbacks: Callable[[int], Sequence[Callback]] | None = None,
    **options: Any,
) -> Search:
    """Train with many options and keep the best run (``pip install 'retrograde[search]'``).

    Parameters
    ----------
    data, out, overwrite, report, record_flow
        As for `retrograde.train`. ``out`` becomes the run folder of the best trial so far.
    trials : int
        How many in total, those of an earlier call that is resumed included. The first has the options of `train`.
    budget : float or str, optional
        Seconds, or ``"10m"``, after which the search ends.
    space : mapping, optional
        Values by option: ``(low, high)`` or a list. By default the learning rate, size, number of layers, dropout, cell
        and, where the task has them, direction and pooling, around what `train` would use.
    workers : int
        Trials at a time, in processes of their own with one thread each.
    ray : bool
        Compute them on the Ray cluster at RAY_ADDRESS, or on a local one. Data must have the same path on all machines.
    resume : bool
        Go on with the search in ``out``, with its data and options.
    progress : callable, optional
        Called with each `SearchedTrial`, in their order.
    callbacks : callable, optional
        From the number of a trial to callbacks of its training, made where that runs.
    **options
        Options of training. What is given is not searched.

    Raises
    ------
    OptionError, DataError, RunError
        As `retrograde.train`.
    DivergedError
        Every trial diverged.
    MissingExtraError
        Optuna, or Ray, is not installed.

    Examples
    --------
    >>> found = search("reviews.csv", "runs/best", trials=20, task="classify")  # doctest: +SKIP
    >>> found.best.options, load(found.folder).model  # doctest: +SKIP
    """
    import_or_explain("optuna")
    ends, folder = _ends(budget), RunFolder(out)
    _check(trials, workers)
    with ExitStack() as stack:
        stack.enter_context(quiet_optuna())
        if resume:
            searched = _resumed(stack, folder, data, options, space)
        else:
            searched = _new(stack, folder, data, options, space, overwrite)
        pool = open_pool(workers, ray)
        stack.callback(pool.close)
        if ray:
            searched = replace(searched, source=_absolute(searched.source))
        session = _Session(searched, folder, pool, ends, record_flow, progress, callbacks)
        session.run(trials)
        return session.finished(report)


# --- Before the first trial -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Searched:
    """What is searched: Optuna's study, the space, the options that stay, and the data."""

    study: Any
    space: Space
    given: Mapping[str, Any]
    source: Any
    task: Task[Any]


def _new(
    stack: ExitStack,
    folder: RunFolder,
    data: Any,
    given: Mapping[str, Any],
    own: Mapping[str, Any] | None,
    overwrite: bool,
) -> _Searched:
    folder.check_writable(resume=False, overwrite=overwrite)
    source = _source(data, None)
    task = new_task(source, given)
    space = space_for(task.options, given, own)
    stack.enter_context(folder.locked())
    folder.clear()
    study = _study(folder)
    study.set_user_attr("given", _plain(given))
    study.set_user_attr("space", {name: asdict(one) for name, one in space.items()})
    study.set_user_attr("fingerprint", task.fingerprint)
    first = {name: getattr(task.options, name) for name in space}
    if all(value in space[name] for name, value in first.items()):
        study.enqueue_trial(first)
    return _Searched(study, space, given, source, task)


def _resumed(stack: ExitStack, folder: RunFolder, data: Any, given: Mapping[str, Any], own: Any) -> _Searched:
    if not (folder / SEARCH_JOURNAL).is_file():
        raise RunError(f"{folder.path} contains no search: leave --resume out, or name the --out folder of one.")
    folder.check_files()
    source = _source(data, folder)
    stack.enter_context(folder.locked())
    study = _study(folder)
    if own is not None:
        raise OptionError(f"the search in {folder.path} has a space of its own: leave space out, or name another out.")
    options = _same_options(study, folder, given)
    space = {name: _dimension(one) for name, one in study.user_attrs["space"].items()}
    task = new_task(source, options)
    if task.fingerprint != study.user_attrs["fingerprint"]:
        raise OptionError(f"{name_of(source)} is not the data of the search in {folder.path}: give that.")
    return _Searched(study, space, options, source, task)


def _check(trials: int, workers: int) -> None:
    for name, value in (("--search", trials), ("--workers", workers)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise OptionError(f"{name} {value} is impossible: it must be a whole number of at least 1.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OptionError(
            "--search trains each trial in one process: start it without torchrun, with --workers or --ray."
        )


def _ends(budget: float | str | None) -> float | None:
    if budget is None:
        return None
    left = seconds(budget, "--search-time") if isinstance(budget, str) else float(budget)
    if not 0 < left < math.inf:
        raise OptionError(f"--search-time {budget} is impossible: it must be above 0.")
    return time.time() + left


def _source(data: Any, resumed: RunFolder | None) -> Any:
    """What to train on: what is given, else what a resumed search was about."""
    if data is None and resumed is not None and resumed.has_run():
        kept = resumed.config().data
        if not kept.lost:
            return kept.source
    if data is None:
        raise OptionError("there is nothing to train on: name a file, a folder or builtin:stdlib.")
    if isinstance(data, str | Path) and str(data) == "-":
        raise OptionError("--search reads the data many times, and standard input can be read once: name a file.")
    return data if in_memory(data) else str(data)


def _absolute(source: Any) -> Any:
    return str(Path(source).resolve()) if isinstance(source, str) and Path(source).exists() else source


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def _same_options(study: Any, folder: RunFolder, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the search that is resumed; others are refused."""
    kept: dict[str, Any] = study.user_attrs.get("given", {})
    for name, value in _plain(given).items():
        parse = OPTIONS[name].parse if name in OPTIONS else None
        if name not in kept or kept[name] not in (value, parse(value) if parse and isinstance(value, str) else value):
            had = f"{kept[name]}" if name in kept else "not given"
            raise OptionError(f"{flag(name)} was {had} in the search in {folder.path}: leave it out.")
    return dict(kept)


def _dimension(kept: Mapping[str, Any]) -> Range | Choices:
    return Choices(tuple(kept["values"])) if "values" in kept else Range(kept["low"], kept["high"], kept["log"])


class _Locked:
    """The lock of Optuna's journal: the run folder is locked until the search ends."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing to do."""


def _study(folder: RunFolder) -> Any:
    """Optuna's study, whose journal lies in the run folder; the lock of the folder is its lock."""
    optuna = import_or_explain("optuna")
    journal = import_or_explain("optuna.storages.journal")

    backend = journal.JournalFileBackend(str(folder / SEARCH_JOURNAL), lock_obj=_Locked())
    storage = optuna.storages.JournalStorage(backend)
    return optuna.create_study(storage=storage, study_name="search", direction="minimize", load_if_exists=True)


def _distribution(dimension: Range | Choices) -> Any:
    kinds = import_or_explain("optuna.distributions")
    if isinstance(dimension, Choices):
        return kinds.CategoricalDistribution(dimension.values)
    kind = kinds.IntDistribution if dimension.whole else kinds.FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)


# --- Trials -----------------------------------------------------------------------------------------------------------


@dataclass
class _Session:
    """One call of `search`."""

    searched: _Searched
    folder: RunFolder
    pool: Pool
    ends: float | None
    record_flow: bool
    progress: Callable[[SearchedTrial], None] | None
    callbacks: Callable[[int], Sequence[Callback]] | None
    signal: int = 0

    def __post_init__(self) -> None:
        self.study = self.searched.study
        self.notes = dict.fromkeys(self.searched.task.notes)  # each once

    def run(self, trials: int) -> None:
        """Make trials until there are so many, the time is up, or a signal comes."""
        running = dict[int, tuple[Any, Future[Outcome]]]()
        following = self._following(trials)
        try:
            while True:
                while len(running) < self.pool.workers and (trial := next(following, None)) is not None:
                    running[trial.number] = (trial, self.pool.submit(run_trial, self._job(trial)))
                if not running:
                    return
                number = min(running)  # in the order of their numbers, so that the same seed gives the same trials
                trial, future = running.pop(number)
                outcome = future.result()
                if outcome.state == "interrupted":
                    self.signal = outcome.signal
                    return
                self._tell(trial, outcome)
        except KeyboardInterrupt:
            self.signal = SIGINT

    def _following(self, trials: int) -> Iterator[Any]:
        """Trials that an interrupted search had begun, and new ones."""
        optuna = import_or_explain("optuna")
        begun = optuna.trial.TrialState.RUNNING
        for kept in self.study.get_trials(states=(begun,)):
            yield optuna.trial.Trial(self.study, kept._trial_id)
        distributions = {name: _distribution(one) for name, one in self.searched.space.items()}
        waiting = optuna.trial.TrialState.WAITING
        while (number := sum(one.state != waiting for one in self.study.get_trials(deepcopy=False))) < trials:
            if self.ends is not None and number and time.time() >= self.ends:
                return
            seed = int(np.random.SeedSequence([self.searched.task.options.seed, number]).generate_state(1)[0])
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM)
            yield self.study.ask(distributions)

    def _job(self, trial: Any) -> Job:
        known = trial.number - self.pool.workers  # the last one that is certain to be known by now
        every = self.study.get_trials()
        before = [one for one in every if one.number <= known and one.state.is_finished()]
        best = _best(self.study)
        options = {**self.searched.given, **trial.params}
        return Job(
            trial.number,
            self.searched.source,
            options,
            before,
            None if best is None else best.cost,
            self.ends,
            self.record_flow,
            self.callbacks,
        )

    def _tell(self, trial: Any, outcome: Outcome) -> None:
        """Keep the run if it is the best, then note the outcome in the journal."""
        if outcome.state == "impossible" and trial.number == 0:
            raise OptionError(outcome.message)
        best = _best(self.study)
        better = outcome.cost is not None and (best is None or best.cost is None or outcome.cost < best.cost)
        if outcome.files is not None and better:
            self.folder.clear(keep=(SEARCH_JOURNAL, SEARCH_TABLE, TENSORBOARD))
            for name in sorted(outcome.files, key=lambda name: name != "config.json"):
                self.folder.write(name, outcome.files[name])
        for step, cost in outcome.costs.items():
            trial.report(cost, step)
        row = SearchedTrial(
            trial.number,
            outcome.state,
            dict(trial.params),
            outcome.cost,
            outcome.steps,
            outcome.seconds,
            outcome.parameters,
            outcome.scores,
            outcome.message,
        )
        trial.set_user_attr("row", asdict(row))
        self.notes |= dict.fromkeys(outcome.notes)
        states = import_or_explain("optuna").trial.TrialState
        if outcome.state == "complete" and outcome.cost is not None and math.isfinite(outcome.cost):
            self.study.tell(trial, outcome.cost)
        else:
            self.study.tell(trial, state=states.PRUNED)
        if self.progress is not None:
            self.progress(row)

    def finished(self, report: bool) -> Search:
        """Write the table, and the page of the best run."""
        best = _best(self.study)
        result = Search(self.folder.path, _rows(self.study), best, self.signal, list(self.notes))
        self.folder.write(SEARCH_TABLE, json.dumps(result.as_dict(), indent=2, default=str) + "\n")
        if best is None and result.trials and not result.signal:
            raise DivergedError(f"none of {len(result.trials)} trials was completed: {result.trials[0].message}")
        if report and best is not None:
            _write_page(self.folder, self.searched, best)
        return result


def _rows(study: Any) -> list[SearchedTrial]:
    return [
        SearchedTrial(**one.user_attrs["row"])
        for one in study.get_trials(deepcopy=False)
        if one.state.is_finished() and "row" in one.user_attrs
    ]


def _best(study: Any) -> SearchedTrial | None:
    """The complete trial with the lowest cost, the earliest of several."""
    known = [one for one in _rows(study) if one.state == "complete" and one.cost is not None]
    return min(known, key=lambda one: (one.cost, one.number), default=None)


def _write_page(folder: RunFolder, searched: _Searched, best: SearchedTrial) -> None:
    task = new_task(searched.source, {**searched.given, **best.options})
    if not (folder / "flow" / "trained.safetensors").exists():
        measure_flow(task, load(folder.path).model, task.options.seed, folder)
    page.write(folder.path)
