"""``Tracking``: the numbers of a training in TensorBoard, MLflow, Weights & Biases, trackio, by accelerate's trackers.

Nothing leaves the machine unless the tracker's own environment variables say so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..extras import import_or_explain
from ..runs import RunFolder
from ..runs.folder import TENSORBOARD
from ..runs.records import Metrics
from ..training import Callback, Trainer

__all__ = ["TRACKERS", "Tracking"]

PROJECT = "retrograde"
# What a library would send or look up by itself; a variable that is set already stays as it is.
QUIET = {
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def _tensorboard(kind: Any, run: Path, name: str) -> Any:
    return kind(name.removeprefix(run.name).strip(), logging_dir=str(run / TENSORBOARD))


def _mlflow(kind: Any, run: Path, name: str) -> Any:
    inside = import_or_explain("mlflow").active_run() is not None  # a run of the user's
    return kind(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), run_name=name, nested_run=inside)


def _wandb(kind: Any, run: Path, name: str) -> Any:
    mode = os.environ.get("WANDB_MODE", "offline")
    return kind(os.environ.get("WANDB_PROJECT", PROJECT), name=name, mode=mode, reinit="finish_previous")


def _trackio(kind: Any, run: Path, name: str) -> Any:
    return kind(os.environ.get("TRACKIO_PROJECT", PROJECT), name=name, embed=False)


TRACKERS: Mapping[str, Callable[[Any, Path, str], Any]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""What starts each tracker: from accelerate's class, the run folder, and the name of the run."""


class Tracking(Callback):
    """Sends options, the numbers of each evaluation and the results to trackers.

    TensorBoard's files lie in ``RUN/tensorboard``; MLflow, Weights & Biases (offline) and trackio write where they do
    by default, with the name of the run folder as the name of the run, in the project ``retrograde``. Their environment
    variables (``MLFLOW_TRACKING_URI``, ``WANDB_MODE``, ``TRACKIO_SPACE_ID``, …) are obeyed. A tracker that fails is
    left out from then on, with a note; training goes on.

    Parameters
    ----------
    trackers : str or sequence of str
        Of ``"tensorboard"``, ``"mlflow"``, ``"wandb"``, ``"trackio"``; in one str with commas between them.
    run : str or Path
        The run folder.
    trial : int, optional
        The number of the trial of a search into this folder, which is a run of its own: ``RUN trial-3``, and in
        TensorBoard ``RUN/tensorboard/trial-3``.

    Raises
    ------
    OptionError
        A tracker is unknown.
    MissingExtraError
        Its library is not installed.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.train("a.txt", "runs/a", callbacks=[Tracking("tensorboard", "runs/a")])  # doctest: +SKIP
    >>> each = lambda trial: [Tracking("mlflow", "runs/best", trial)]
    >>> rg.search("a.txt", "runs/best", callbacks=each)  # doctest: +SKIP
    """

    def __init__(self, trackers: str | Sequence[str], run: str | Path, trial: int | None = None) -> None:
        names = trackers.split(",") if isinstance(trackers, str) else trackers
        self.names, self.run, self.trial = list(dict.fromkeys(name.strip() for name in names)), Path(run), trial
        for name in self.names:
            if name not in TRACKERS:
                raise OptionError(f"--track {name!r} is unknown: choose from {', '.join(TRACKERS)}.")
        for variable, value in QUIET.items():
            os.environ.setdefault(variable, value)
        for name in self.names:
            import_or_explain(name)
        self._trackers: dict[str, Any] = {}

    def on_train_begin(self, trainer: Trainer) -> None:
        """Start a run of each tracker, with the options of the training."""
        classes = import_or_explain("accelerate.tracking").LOGGER_TYPE_TO_CLASS
        options = {name: value for name, value in trainer.options.as_dict().items() if value is not None}
        for name in self.names:
            if name not in classes:
                raise OptionError(f"--track {name} needs a newer accelerate: pip install --upgrade accelerate.")

        def start(name: str) -> None:
            run = self.run.resolve()
            title = run.name if self.trial is None else f"{run.name} trial-{self.trial}"
            self._trackers[name] = tracker = TRACKERS[name](classes[name], run, title)
            if hasattr(tracker, "start"):  # older ones start when they are made
                tracker.start()
            tracker.store_init_configuration(options)

        self._each(trainer, start, self.names)

    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        """Send the numbers of an evaluation."""
        self._log(trainer, metrics.as_dict(), metrics.step)

    def on_train_end(self, trainer: Trainer, folder: RunFolder) -> None:
        """Send the results of the best weights, and end the runs."""
        summary = folder.summary()
        parts = (summary.results or {}) if summary is not None else {}
        results = {f"final_{part}_{name}": value for part, found in parts.items() for name, value in found.items()}
        if results:
            self._log(trainer, results, trainer.progress.step)
        self._each(trainer, lambda name: self._trackers.pop(name).finish(), list(self._trackers))

    def _log(self, trainer: Trainer, values: Mapping[str, Any], step: int) -> None:
        numbers = {name: float(value) for name, value in values.items() if value is not None and name != "step"}
        self._each(trainer, lambda name: self._trackers[name].log(numbers, step=step), list(self._trackers))

    def _each(self, trainer: Trainer, do: Callable[[str], None], names: Sequence[str]) -> None:
        """Do something with each tracker; what fails is left out from then on."""
        for name in names:
            try:
                do(name)
            except Exception as error:  # whatever a tracker or its server does, training is worth more
                self._trackers.pop(name, None)
                words = " ".join(f"{type(error).__name__}: {error}".split())
                trainer.callbacks.on_note(f"{name} is left out from now on: {words:.200}")
