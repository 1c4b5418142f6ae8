"""What all estimators have in common: options as parameters, training into a run folder, saving, measuring."""

from __future__ import annotations

import difflib
import inspect
import shutil
import tempfile
import textwrap
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..data.files import AUTO
from ..doctor import Diagnosis, diagnose
from ..doctor.diagnosis import examined
from ..doctor.runs import SECONDS, after_training
from ..errors import OptionError, RunError
from ..experiment import measure_flow, train
from ..flow import GradientFlow, gradient_flow
from ..measuring import random_states_kept
from ..options import OPTIONS
from ..report import write
from ..runs import RunFolder
from ..tasks.task import Examples, Task
from ..training import Callback, TrainedRun, Trainer, load
from ..training.callbacks import FLOW_SEQUENCES

ROLES = ("text", "group", "time", "features")  # options that name columns of a frame
_LEFT_OUT = {"task", "encoding", "seed", "label", "target", "layout", "validation", "test", "test_fraction", "backtest"}


class _Kept(Callback):
    """Keeps what a training says, and its task."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.task: Task[Any] | None = None

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_train_begin(self, trainer: Trainer) -> None:
        self.task = trainer.task


class Estimator(ABC, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base class of estimators; a subclass names the ``task`` whose options it takes as parameters.

    Attributes
    ----------
    run_ : TrainedRun
        The run that was trained; its folder is temporary, see `save`.
    notes_ : list of str
        What training said about the data: guesses, gaps, unknown tokens.
    """

    _task: ClassVar[str]
    _defaults: ClassVar[Mapping[str, Any]]

    def __init__(self, **parameters: Any) -> None:
        defaults = self._defaults
        for name in parameters:
            if name not in defaults:
                close = difflib.get_close_matches(name, defaults, 1)
                hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(defaults)}."
                raise OptionError(f"{type(self).__name__} has no parameter {name!r}{hint}")
        for name, default in defaults.items():
            setattr(self, name, parameters.get(name, default))

    def __init_subclass__(cls, *, task: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if task is None:
            return
        left_out = _LEFT_OUT - ({"target"} if task == "forecast" else set())
        options = {
            name: option
            for name, option in OPTIONS.items()
            if name not in left_out and (not option.tasks or task in option.tasks)
        }
        # None: the data decides, as where an option is not given on the command line
        defaults = {
            name: None if task in option.by_data else option.by_task.get(task, option.default)
            for name, option in options.items()
        }
        cls._task, cls._defaults = task, defaults | {"random_state": 0}
        cls.__init__ = _constructor(cls._defaults)  # type: ignore[method-assign]
        described = []
        for name, option in options.items():
            usual = "by the data" if task in option.by_data else repr(defaults[name])
            described.append(f"{name} : default {usual}\n    {option.help.format(choices=', '.join(option.choices))}")
        described.append("random_state : int, RandomState or None, default 0\n    Seed of the training.")
        parameters = textwrap.indent("\n".join(["Parameters", "----------", *described]), "    ")
        cls.__doc__ = (cls.__doc__ or "").replace("    Attributes\n", f"{parameters}\n\n    Attributes\n", 1)

    # --- Training -----------------------------------------------------------------------------------------------------

    def _train(self, source: Any, **roles: Any) -> None:
        """Train on a source into a temporary run folder."""
        given = {name: value for name, value in self._given().items() if name != "random_state"}
        state = self.random_state
        seed = state if isinstance(state, int) else int(check_random_state(state).randint(2**31 - 1))
        kept, folder = _Kept(), _Folder()
        threads = torch.get_num_threads()
        try:
            with random_states_kept():
                options = {"task": self._task, "seed": seed, **given, **roles}
                out = Path(folder.name) / type(self).__name__
                run = load(train(source, out, report=False, callbacks=[kept], **options).folder)
        finally:
            torch.set_num_threads(threads)
        self.notes_ = kept.notes
        self._adopt(run, folder, kept.task)

    def _given(self) -> dict[str, Any]:
        """The parameters that differ from their defaults."""
        found = {name: getattr(self, name) for name in self._defaults}
        return {name: value for name, value in found.items() if value is not self._defaults[name]
                and (isinstance(value, np.ndarray) or value != self._defaults[name])}  # fmt: skip

    def _adopt(self, run: TrainedRun, folder: _Folder | None = None, task: Task[Any] | None = None) -> None:
        """Use a run from now on; its temporary folder goes with the estimator."""
        self.run_, self._folder, self._trained_on = run, folder, task

    # --- Keeping ------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Copy the run folder: weights, options, metrics, page; every command and `retrograde.load` read it.

        Raises
        ------
        RunError
            If there is a run already and ``overwrite`` is false, or the folder cannot be written to.
        """
        check_is_fitted(self, "run_")
        if RunFolder(path).has_run() and not overwrite:
            raise RunError(f"{path} already contains a run: give overwrite=True to replace it.")
        _write(RunFolder(path), _contents(self.run_.folder), overwrite)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Make a fitted estimator of a run folder, whether `save` or ``retrograde train`` wrote it.

        Raises
        ------
        RunError
            If there is no run, or one of another task.
        """
        run = load(path)
        run.expect(cls._task)
        options = run.config.options
        parameters = {name: getattr(options, name) for name in cls._defaults if name != "random_state"}
        found = cls(**parameters, random_state=options.seed)
        found.notes_ = []
        found._adopt(run)
        return found

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__()}
        for name in ("_folder", "_trained_on"):
            state.pop(name, None)
        if "run_" in state:
            state["run_"] = _contents(state["run_"].folder)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("run_", None)
        super().__setstate__(state)
        if files is not None:
            folder = _Folder()
            path = Path(folder.name) / type(self).__name__
            _write(RunFolder(path), files, False)
            with random_states_kept():
                self._adopt(load(path), folder)

    # --- Measuring ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _source(self, X: Any, y: Any) -> Any:
        """Data as training takes it."""

    def flow(self, X: Any = None, y: Any = None) -> GradientFlow:
        """Measure how the gradient of the trained network travels through time, by default on held-out sequences.

        See `retrograde.gradient_flow`.
        """
        examples = self._examples(X, y)
        return gradient_flow(self.run_.model, *examples.inputs, loss=examples.loss)

    def _examples(self, X: Any, y: Any) -> Examples:
        check_is_fitted(self, "run_")
        if X is None:
            return self._training().held_out(FLOW_SEQUENCES)
        return self.run_.predictor.examples(self._source(X, y), AUTO, FLOW_SEQUENCES)

    def _training(self) -> Task[Any]:
        if self._trained_on is None:
            raise OptionError("this estimator was loaded, and its training data is not there: give X and y.")
        return self._trained_on

    def diagnose(self, X: Any = None, y: Any = None) -> Diagnosis:
        """Say what hinders the training, and what to change; by default from the training data.

        See `retrograde.diagnose`.
        """
        check_is_fitted(self, "run_")
        if X is not None:
            return diagnose(self.run_, self._source(X, y))
        model, folder = self.run_.model, RunFolder(self.run_.folder)
        return examined(after_training(folder, self._training(), model, SECONDS))

    def report(self) -> Path:
        """Write the page of the run, ``report.html``, with the gradient flow, and return its path.

        It lies in the run folder, which is temporary until `save` copies it.
        """
        check_is_fitted(self, "run_")
        folder, task = RunFolder(self.run_.folder), self._trained_on
        if task is not None and not (folder / "flow" / "trained.safetensors").exists():
            with random_states_kept():
                measure_flow(task, self.run_.model, self.run_.config.options.seed, folder)
        return write(folder.path)


class _Folder:
    """A temporary folder that goes, silently, with the last estimator that uses it."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="retrograde-")
        weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)


def _constructor(defaults: Mapping[str, Any]) -> Callable[..., None]:
    """An ``__init__`` whose signature names these parameters, where scikit-learn and ``help`` look for them."""

    def __init__(self: Estimator, **parameters: Any) -> None:
        Estimator.__init__(self, **parameters)

    kinds = inspect.Parameter
    own = [kinds(name, kinds.KEYWORD_ONLY, default=default) for name, default in defaults.items()]
    found: Any = __init__
    found.__signature__ = inspect.Signature([kinds("self", kinds.POSITIONAL_OR_KEYWORD), *own])
    return __init__


def _contents(folder: Path) -> dict[str, bytes]:
    """The files of a run folder by name, without what only resuming needs."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("checkpoints/")}


def _write(folder: RunFolder, files: Mapping[str, bytes], overwrite: bool) -> None:
    folder.check_writable(resume=False, overwrite=overwrite)
    with folder.locked():
        folder.clear()
        for name in sorted(files, key=lambda name: name != "config.json"):
            folder.write(name, files[name])
