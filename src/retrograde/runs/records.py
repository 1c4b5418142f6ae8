"""What a run folder says in JSON, typed: `Config`, `Metrics` (one evaluation), `Summary` and `Results`.

Each class reads itself from a JSON object (``of``, which refuses values of the wrong type) and turns itself back into
one (``as_dict``). Nobody else knows the keys of these files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn, TypeVar

from ..errors import OptionError
from ..options import Options

__all__ = ["FORMAT", "Config", "DataDescription", "Goal", "Metrics", "Part", "Results", "Scores", "Summary"]

FORMAT = 1  # version of the files of a run folder
PREFIX = "validation_"  # of a task's own metrics in metrics.jsonl and summary.json

Json = Mapping[str, object]
Scores = Mapping[str, float | None]  # metrics by name; None where JSON has null: not finite, or not measured
T = TypeVar("T")


# --- Checked values ---------------------------------------------------------------------------------------------------


def _refuse(json: Json, name: str) -> NoReturn:
    raise ValueError(f"its {name!r} {f'is {json[name]!r:.40}' if name in json else 'is missing'}")


def _text(json: Json, name: str) -> str | None:
    value = json.get(name)
    return value if value is None or isinstance(value, str) else _refuse(json, name)


def _whole(json: Json, name: str) -> int | None:
    value = json.get(name)
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if value is None or known else _refuse(json, name)  # type: ignore[return-value]


def _number(json: Json, name: str) -> float | None:
    value = json.get(name)
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(json, name)
    return float(value) if abs(value) < 1 << 63 else math.copysign(math.inf, value)  # an integer of any length


def _object(json: Json, name: str) -> dict[str, Any]:
    value = json.get(name)
    return value if isinstance(value, dict) else {} if value is None else _refuse(json, name)


def _required(json: Json, name: str, value: T | None) -> T:
    return _refuse(json, name) if value is None else value


def _scores(json: Json, name: str, prefix: str = "") -> dict[str, float | None]:
    """The numbers of an object; others, such as the metrics by label, are left out."""
    found = _object(json, name)
    numbers = {key: value for key, value in found.items() if value is None or isinstance(value, int | float)}
    return {key.removeprefix(prefix): _number(numbers, key) for key in numbers}


def _scores_by_name(json: Json, name: str) -> dict[str, Scores] | None:
    found = _object(json, name)
    return {key: _scores(found, key) for key in found} if isinstance(json.get(name), dict) else None


# --- config.json ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataDescription:
    """What a run was trained on, in the words of its task.

    Attributes
    ----------
    source : str
        File, folder or built-in data set.
    fingerprint : str or None
        Hash of the content.
    in_memory : bool
        Whether it was an object in memory, which nobody can open again.
    details : mapping
        Everything the task says about the data, these three included.
    """

    source: str
    fingerprint: str | None
    in_memory: bool
    details: Json

    @classmethod
    def of(cls, json: Json) -> DataDescription:
        """From the ``data`` of a ``config.json``; ValueError if it does not say what was trained on."""
        source, fingerprint = json.get("source"), json.get("fingerprint")
        if not isinstance(source, str):
            raise ValueError("it does not say what was trained on")
        return cls(source, fingerprint if isinstance(fingerprint, str) else None, bool(json.get("in_memory")), json)

    @property
    def lost(self) -> str | None:
        """What the data was, if it cannot be opened again: standard input, or an object in memory."""
        return "standard input" if self.source == "-" else self.source if self.in_memory else None

    def amount(self, name: str) -> int | None:
        """A count among the details, such as ``train_tokens``; None if there is none."""
        value = self.details.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Config:
    """``config.json``: options, data and environment of a run.

    Attributes
    ----------
    version : str
        Of retrograde, when training started or was resumed last.
    task : str
    created : str or None
        Date and time, ISO 8601.
    options : Options
    data : DataDescription
    parameters : int
        Number of trained numbers.
    environment : mapping
        Versions, platform, threads and instruction set.
    """

    version: str
    task: str
    created: str | None
    options: Options
    data: DataDescription
    parameters: int
    environment: Json

    @classmethod
    def of(cls, json: Json) -> Config:
        """From a JSON object of a known format; ValueError says what is damaged."""
        try:
            options = Options.of(_required(json, "options", _object(json, "options") or None))
        except OptionError as error:
            raise ValueError(str(error).split(";")[0]) from None
        task = _required(json, "task", _text(json, "task"))
        if task != options.task:
            raise ValueError(f"its 'task' is {task!r:.40}, not {options.task!r}")
        return cls(
            _required(json, "retrograde", _text(json, "retrograde")),
            task,
            created if isinstance(created := json.get("created"), str) else None,
            options,
            DataDescription.of(_object(json, "data")),
            _required(json, "parameters", _whole(json, "parameters")),
            _required(json, "environment", _object(json, "environment") if "environment" in json else None),
        )

    def as_dict(self) -> dict[str, object]:
        """The content of the file."""
        return {
            "format": FORMAT,
            "retrograde": self.version,
            "task": self.task,
            "created": self.created,
            "options": self.options.as_dict(),
            "data": dict(self.data.details),
            "parameters": self.parameters,
            "environment": dict(self.environment),
        }


# --- metrics.jsonl ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metrics:
    """One evaluation: a line of ``metrics.jsonl``. What an older version did not write is None.

    Attributes
    ----------
    step : int
        Training steps taken by then.
    epoch, tokens, seconds : number or None
        Passes over the training data, targets and time by then.
    train_loss, tokens_per_second : float or None
        Since the evaluation before.
    learning_rate : float or None
        Of the last step.
    gradient_norm_min, gradient_norm_median, gradient_norm_max : float or None
        Global norms before clipping, since the evaluation before.
    clipped_share, clip_norm, clip_value : float or None
        Share of those steps that were clipped, and the thresholds.
    waiting_share : float or None
        Share of the time spent waiting for data.
    validation : mapping
        The task's own metrics of the held-out data, the ``loss`` among them.
    """

    step: int
    epoch: float | None = None
    tokens: int | None = None
    seconds: float | None = None
    train_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    gradient_norm_min: float | None = None
    gradient_norm_median: float | None = None
    gradient_norm_max: float | None = None
    clipped_share: float | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    waiting_share: float | None = None
    validation: Scores = field(default_factory=dict)

    @classmethod
    def of(cls, json: Json) -> Metrics:
        """From a line; ValueError if a value has the wrong type."""
        known: dict[str, Any] = {}
        own: dict[str, float | None] = {}
        for key, value in json.items():
            if key in _NUMBERS:
                known[key] = value if type(value) is float else _number(json, key)
            elif key.startswith(PREFIX):
                own[key.removeprefix(PREFIX)] = value if type(value) is float else _number(json, key)
        step = _required(json, "step", _whole(json, "step"))
        return cls(step=step, tokens=_whole(json, "tokens"), validation=own, **known)

    @property
    def loss(self) -> float:
        """Validation loss; NaN if it is not known."""
        found = self.validation.get("loss")
        return math.nan if found is None else found

    def as_dict(self) -> dict[str, object]:
        """The content of the line."""
        own = {f"{PREFIX}{name}": value for name, value in self.validation.items()}
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "validation"} | own


_NUMBERS = {one.name for one in fields(Metrics)} - {"step", "tokens", "validation"}


# --- evaluation.json and summary.json ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """What the paper of a synthetic task asks for, and how close the network came."""

    criterion: str
    sequences: int
    wrong: int
    solved: bool
    mean_error: float | None = None

    @classmethod
    def of(cls, json: Json) -> Goal:
        """From a JSON object; ValueError if a value has the wrong type."""
        sequences, wrong = (_required(json, name, _whole(json, name)) for name in ("sequences", "wrong"))
        criterion = _required(json, "criterion", _text(json, "criterion"))
        return cls(criterion, sequences, wrong, json.get("solved") is True, _number(json, "mean_error"))

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        error = {} if self.mean_error is None else {"mean_error": self.mean_error}
        counts = {"criterion": self.criterion, "sequences": self.sequences, "wrong": self.wrong}
        return counts | error | {"solved": self.solved}


@dataclass(frozen=True)
class Part:
    """How good the trained network is on one part of the data.

    Attributes
    ----------
    scores : mapping
        Metrics by name.
    classes, entities : mapping
        Metrics by label or kind of entity.
    confusion : list of list of int
        How often the label of the row was predicted as that of the column; empty if there is none.
    """

    scores: Scores
    classes: Mapping[str, Scores]
    entities: Mapping[str, Scores]
    confusion: list[list[object]]

    @classmethod
    def of(cls, json: Json, name: str) -> Part:
        """From the entry of a part; ValueError if a value has the wrong type."""
        found = _object(json, name)
        matrix = found.get("confusion_matrix") or []
        if not isinstance(matrix, list) or not all(isinstance(row, list) for row in matrix):
            _refuse(found, "confusion_matrix")
        classes, entities = (_scores_by_name(found, kind) or {} for kind in ("classes", "entities"))
        return cls(_scores(json, name), classes, entities, matrix)


@dataclass(frozen=True)
class Results:
    """``evaluation.json``: how good the trained network is, in detail. Written by the task, only read here.

    Attributes
    ----------
    parts : mapping
        ``validation`` and, if there is one, ``test``.
    labels : list of str
        In the order of the confusion matrix.
    goal : Goal or None
        Of a synthetic task.
    """

    parts: Mapping[str, Part]
    labels: list[str]
    goal: Goal | None

    @classmethod
    def of(cls, json: Json) -> Results:
        """From the content of the file; ValueError if a value has the wrong type."""
        labels = json.get("labels") or []
        if not isinstance(labels, list):
            _refuse(json, "labels")
        parts = {name: Part.of(json, name) for name, value in json.items() if isinstance(value, dict)}
        return cls(parts, [str(label) for label in labels], Goal.of(json) if "solved" in json else None)


@dataclass(frozen=True)
class Summary:
    """``summary.json``: how training ended and how good the network is.

    Attributes
    ----------
    status : str
        ``finished``, ``interrupted`` or ``diverged``.
    step : int or None
        Training steps taken.
    seconds : float or None
        Training time.
    message : str
        Why it ended.
    best_step : int or None
        The step whose weights are kept.
    best : mapping
        Metrics of the validation part at that step.
    baselines, results : mapping or None
        Metrics of simple methods, and of the trained network on each part, by name; None if not measured.
    goal : Goal or None
        Of a synthetic task.
    """

    status: str
    step: int | None = None
    seconds: float | None = None
    message: str = ""
    best_step: int | None = None
    best: Scores = field(default_factory=dict)
    baselines: Mapping[str, Scores] | None = None
    results: Mapping[str, Scores] | None = None
    goal: Goal | None = None

    @classmethod
    def of(cls, json: Json) -> Summary:
        """From the content of the file; ValueError if a value has the wrong type."""
        best = _scores(json, "best", PREFIX)
        for name in _BEST:  # the first versions wrote these alone
            if (value := _number(json, f"best_{PREFIX}{name}")) is not None:
                best[name] = value
        return cls(
            _required(json, "status", _text(json, "status")),
            _whole(json, "step"),
            _number(json, "seconds"),
            _text(json, "message") or "",
            _whole(json, "best_step"),
            best,
            _scores_by_name(json, "baselines"),
            _scores_by_name(json, "results"),
            Goal.of(_object(json, "goal")) if json.get("goal") else None,
        )

    def as_dict(self) -> dict[str, object]:
        """The content of the file."""
        baselines, results = (
            None if found is None else {name: dict(scores) for name, scores in found.items()}
            for found in (self.baselines, self.results)
        )
        return {
            "status": self.status,
            "step": self.step,
            "best_step": self.best_step,
            **{f"best_{PREFIX}{name}": self.best.get(name) for name in _BEST},
            "best": {f"{PREFIX}{name}": value for name, value in self.best.items()},
            "seconds": self.seconds,
            "message": self.message,
            "baselines": baselines,
            **({} if results is None else {"results": results}),
            **({} if self.goal is None else {"goal": self.goal.as_dict()}),
        }


_BEST = ("loss", "bits_per_character")
