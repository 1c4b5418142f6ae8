"""What a run folder says in JSON, typed: `Config`, `Metrics` (one evaluation), `Summary` and `Results`.

Each class reads itself from a JSON object (``of``: ValueError if a value is missing or has the wrong type) and turns
itself back into one (``as_dict``). Nothing else knows the keys of these files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, NoReturn, Self

from ..errors import OptionError
from ..options import Options

FORMAT = 1  # version of the files of a run folder
PREFIX = "validation_"  # of a task's own metrics in metrics.jsonl and summary.json

Json = Mapping[str, Any]
Numbers = list[float | None]  # None where JSON has null
Scores = Mapping[str, float | None]  # metrics by name; None where JSON has null: not finite, or not measured


# --- Checked reading --------------------------------------------------------------------------------------------------


def _refuse(json: Json, name: str) -> NoReturn:
    raise ValueError(f"its {name!r} {f'is {json[name]!r:.40}' if name in json else 'is missing'}")


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else None


def number(value: Any) -> float | None:
    """A number as a float; None if it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has integers of any length
        return math.inf if value > 0 else -math.inf


def _scores(value: Any) -> Scores | None:
    """The numbers of an object; other entries, such as the metrics by label, are left out."""
    if not isinstance(value, dict):
        return None
    return {key: number(one) for key, one in value.items() if one is None or isinstance(one, int | float)}


def _objects(value: Any, read: Callable[[Any], Any]) -> dict[str, Any] | None:
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        return None
    return {key: read(one) for key, one in value.items()}


def _dicts(value: Any) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _rows(value: Any) -> Any:
    return value if isinstance(value, list) and all(isinstance(row, list) for row in value) else None


def _numbers(value: Any) -> Numbers | None:
    return [number(one) for one in value] if isinstance(value, list) else None


_READ: dict[str, Callable[[Any], Any]] = {  # by annotation of the field; None: the value has another type
    "str": lambda value: value if isinstance(value, str) else None,
    "bool": lambda value: value if isinstance(value, bool) else None,
    "int": _whole,
    "float": number,
    "Json": lambda value: value if isinstance(value, dict) else None,
    "Scores": _scores,
    "Mapping[str, Scores]": lambda value: _objects(value, _scores),
    "list[list[object]]": _rows,
    "Numbers": _numbers,
    "Mapping[str, Numbers]": lambda value: {key: _numbers(one) or [] for key, one in value.items()},
    "list[Forecast]": lambda value: [Forecast.of(one) for one in _dicts(value)],
    "Backtest": lambda value: Backtest.of(value) if isinstance(value, dict) else None,
    "BacktestRow": lambda value: BacktestRow.of(value) if isinstance(value, dict) else None,
    "list[BacktestRow]": lambda value: [BacktestRow.of(one) for one in _dicts(value)],
    "Goal": lambda value: Goal.of(value) if isinstance(value, dict) else None,
}


class JsonRecord:
    """Base class of dataclasses whose fields are the entries of a JSON object."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def of(cls, json: Json) -> Self:
        """Read a JSON object; ValueError if a value is missing or has the wrong type."""
        found: dict[str, Any] = {}
        for name, read, required in _entries(cls):  # type: ignore[arg-type]  # mypy: a class is hashable
            value = json.get(name)
            if value is None:
                if required:
                    _refuse(json, name)
            elif (known := read(value)) is None:
                _refuse(json, name)
            else:
                found[name] = known
        return cls(**found)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


@cache
def _entries(cls: type[JsonRecord]) -> list[tuple[str, Callable[[Any], Any], bool]]:
    """Of each field: its name, how it is read, and whether it is required."""
    return [
        (one.name, _READ[one.type.removesuffix(" | None")], one.default is MISSING and one.default_factory is MISSING)
        for one in fields(cls)
    ]


# --- config.json ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataDescription:
    """What a run was trained on, as its task describes it."""

    source: str  # file, folder or built-in data set
    fingerprint: str | None  # hash of the content
    details: Json  # all that the task says about the data, the source and the fingerprint included

    @classmethod
    def of(cls, json: Json) -> DataDescription:
        """Read the ``data`` of a ``config.json``; ValueError if it does not say what was trained on."""
        if not isinstance(json.get("source"), str):
            raise ValueError("it does not say what was trained on")
        fingerprint = json.get("fingerprint")
        return cls(json["source"], fingerprint if isinstance(fingerprint, str) else None, json)

    @property
    def lost(self) -> str | None:
        """What the data was, if it cannot be opened again: standard input, or an object in memory."""
        return "standard input" if self.source == "-" else self.source if self.details.get("in_memory") else None

    def amount(self, name: str) -> int | None:
        """A count among the details, such as ``train_tokens``; None if there is none."""
        return _whole(self.details.get(name))


@dataclass(frozen=True)
class Config:
    """``config.json``: options, data and environment of a run."""

    version: str  # of retrograde, when training was started or last resumed
    task: str
    created: str | None  # date and time, ISO 8601
    options: Options
    data: DataDescription
    parameters: int  # number of trained numbers
    environment: Json  # versions, platform, threads and instruction set
    chosen: Mapping[str, str] = field(default_factory=dict)  # options that the data decided, and why

    @classmethod
    def of(cls, json: Json) -> Config:
        """Read the content of the file; ValueError says what is damaged."""
        kinds = {"retrograde": "str", "task": "str", "options": "Json", "data": "Json", "parameters": "int"}
        for name, kind in (kinds | {"environment": "Json"}).items():
            if _READ[kind](json.get(name)) is None:
                _refuse(json, name)
        try:
            options = Options.of(json["options"])
        except OptionError as error:
            raise ValueError(str(error).split(";")[0].rstrip(".")) from None
        if json["task"] != options.task:
            raise ValueError(f"its 'task' is {json['task']!r:.40}, not {options.task!r}")
        created, data = json.get("created"), DataDescription.of(json["data"])
        created = created if isinstance(created, str) else None
        own = (json["retrograde"], json["task"], created, options, data, json["parameters"], json["environment"])
        chosen = json.get("chosen", {})
        if not isinstance(chosen, dict) or not all(isinstance(why, str) for why in chosen.values()):
            _refuse(json, "chosen")
        return cls(*own, chosen)

    def as_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "format": FORMAT,
            "retrograde": self.version,
            "task": self.task,
            "created": self.created,
            "options": self.options.as_dict(),
            **({"chosen": dict(self.chosen)} if self.chosen else {}),
            "data": dict(self.data.details),
            "parameters": self.parameters,
            "environment": dict(self.environment),
        }


# --- metrics.jsonl ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metrics(JsonRecord):
    """One evaluation: a line of ``metrics.jsonl``. What was not measured is None."""

    step: int  # training steps taken by then
    epoch: float | None = None  # passes over the training data by then
    tokens: int | None = None  # targets trained on by then
    seconds: float | None = None  # of training and evaluation by then
    train_loss: float | None = None  # this and the following: since the evaluation before
    learning_rate: float | None = None  # of the last step
    tokens_per_second: float | None = None
    gradient_norm_min: float | None = None  # global norm, before clipping
    gradient_norm_median: float | None = None
    gradient_norm_max: float | None = None
    clipped_share: float | None = None  # of the steps
    clip_norm: float | None = None  # threshold
    clip_value: float | None = None
    waiting_share: float | None = None  # of the time, for data
    validation: Scores = field(default_factory=dict)  # the task's own metrics of the validation part

    @classmethod
    def of(cls, json: Json) -> Metrics:
        """Read a line; ValueError if a value has the wrong type."""
        own: dict[str, float | None] = {}
        for key, value in json.items():
            if key.startswith(PREFIX):
                own[key.removeprefix(PREFIX)] = found = number(value)
                if found is None and value is not None:
                    _refuse(json, key)
        return super().of({**json, "validation": own})

    @property
    def loss(self) -> float:
        """Validation loss; NaN if it is not known."""
        found = self.validation.get("loss")
        return math.nan if found is None else found

    def as_dict(self) -> dict[str, Any]:
        """The content of the line."""
        own = {f"{PREFIX}{name}": value for name, value in self.validation.items()}
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "validation"} | own


# --- evaluation.json and summary.json ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal(JsonRecord):
    """What the paper of a synthetic task asks for, and how close the network came."""

    criterion: str
    sequences: int
    wrong: int  # of them
    mean_error: float | None = None
    solved: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Forecast(JsonRecord):
    """A forecast of a channel of a series next to what came, in the units of the data."""

    series: str
    channel: str
    past: Numbers  # the steps that were read
    actual: Numbers  # this and the next two: the steps that were forecast
    forecast: Numbers
    baseline: Numbers  # the naive forecast that the network adds to
    quantiles: Mapping[str, Numbers] = field(default_factory=dict)  # of the forecast, in rising order


@dataclass(frozen=True)
class BacktestRow(JsonRecord):
    """Errors of some of the forecasts of a backtest: from one origin, at one step of the horizon, or of all."""

    name: str
    scores: Scores
    baselines: Mapping[str, Scores] = field(default_factory=dict)  # of the same numbers


@dataclass(frozen=True)
class Backtest(JsonRecord):
    """Errors of forecasts from several origins, one after the other."""

    stride: int  # steps between two origins
    overall: BacktestRow
    origins: list[BacktestRow]  # the earliest first
    steps: list[BacktestRow]  # of the horizon


@dataclass(frozen=True)
class Part(JsonRecord):
    """How good the trained network is on one part of the data, in detail."""

    classes: Mapping[str, Scores] = field(default_factory=dict)  # metrics by label
    entities: Mapping[str, Scores] = field(default_factory=dict)  # metrics by kind of entity
    confusion_matrix: list[list[object]] = field(default_factory=list)  # a row for each true label
    baselines: Mapping[str, Scores] = field(default_factory=dict)  # metrics of simple methods
    series: Mapping[str, Scores] = field(default_factory=dict)  # errors by series
    forecasts: list[Forecast] = field(default_factory=list)  # the last of some series
    backtest: Backtest | None = None  # of a forecast, where it was asked for
    scores: Scores = field(default_factory=dict)  # single numbers

    @classmethod
    def of(cls, json: Json) -> Part:
        """Read the entry of a part; ValueError if a value has the wrong type."""
        return super().of({**json, "scores": json})


@dataclass(frozen=True)
class Results:
    """``evaluation.json``: how good the trained network is, in detail. Written by the task, only read here."""

    parts: Mapping[str, Part]  # "validation" and, if there is one, "test"
    labels: list[str]  # in the order of the confusion matrix
    goal: Goal | None  # of a synthetic task

    @classmethod
    def of(cls, json: Json) -> Results:
        """Read the content of the file; ValueError if a value has the wrong type."""
        if not isinstance(labels := json.get("labels", []), list):
            _refuse(json, "labels")
        parts = {name: Part.of(value) for name, value in json.items() if isinstance(value, dict)}
        return cls(parts, list(map(str, labels)), Goal.of(json) if "solved" in json else None)


@dataclass(frozen=True)
class Summary(JsonRecord):
    """``summary.json``: how training ended and how good the network is."""

    status: str  # "finished", "interrupted" or "diverged"
    step: int | None = None  # training steps taken
    seconds: float | None = None  # of training
    message: str = ""  # why it ended
    best_step: int | None = None  # the step whose weights are kept
    best: Scores = field(default_factory=dict)  # metrics of the validation part at that step
    baselines: Mapping[str, Scores] | None = None  # metrics of simple methods; None: not measured
    results: Mapping[str, Scores] | None = None  # metrics of the trained network on each part
    test_baselines: Mapping[str, Scores] | None = None  # metrics of simple methods on the test part, if there is one
    goal: Goal | None = None  # of a synthetic task

    @property
    def scores(self) -> Scores:
        """Metrics of the trained network on the validation part; of the best evaluation if training has not ended."""
        return (self.results or {}).get("validation") or self.best

    @classmethod
    def of(cls, json: Json) -> Summary:
        """Read the content of the file; ValueError if a value has the wrong type."""
        if not isinstance(best := json.get("best", {}), dict):
            _refuse(json, "best")
        alone = {f"{PREFIX}{name}": json.get(f"best_{PREFIX}{name}") for name in _BEST}
        best = {**best, **{key: value for key, value in alone.items() if value is not None and key not in best}}
        return super().of({**json, "best": {key.removeprefix(PREFIX): value for key, value in best.items()}})

    def as_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "status": self.status,
            "step": self.step,
            "best_step": self.best_step,
            **{f"best_{PREFIX}{name}": self.best.get(name) for name in _BEST},
            "best": {f"{PREFIX}{name}": value for name, value in self.best.items()},
            "seconds": self.seconds,
            "message": self.message,
            "baselines": self.baselines,
            **({} if self.results is None else {"results": self.results}),
            **({} if self.test_baselines is None else {"test_baselines": self.test_baselines}),
            **({} if self.goal is None else {"goal": self.goal.as_dict()}),
        }


_BEST = ("loss", "bits_per_character")


def interval(metric: str) -> str:
    """The interval or quantile that a metric such as ``within_80`` judges, in words; empty of other metrics.

    Examples
    --------
    >>> interval("within_80"), interval("below_95"), interval("mae")
    ('in the 80 % interval', 'below the 95 % quantile', '')
    """
    kind, _, nominal = metric.partition("_")
    if not re.fullmatch(r"[\d.]+", nominal):
        return ""
    return {"within": f"in the {nominal} % interval", "below": f"below the {nominal} % quantile"}.get(kind, "")


# --- search.json ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchedTrial(JsonRecord):
    """A trial of a search: options that were tried, and what came of it."""

    number: int
    state: str  # "complete", "pruned" (worse than half of those before), "diverged" or "impossible"
    options: Json  # the values that were searched
    cost: float | None = None  # what is minimized: the validation loss; to classify, the share of labels that are wrong
    steps: int = 0  # training steps taken
    seconds: float = 0.0
    parameters: int = 0  # numbers of the network
    scores: Scores = field(default_factory=dict)  # of its best weights on the validation part
    message: str = ""

    @classmethod
    def table(cls, json: Json) -> list[SearchedTrial]:
        """The trials of a ``search.json``, the best first; ValueError if a value has the wrong type."""
        return cls.ranked([cls.of(one) for one in _dicts(json.get("trials"))])

    @staticmethod
    def ranked(trials: Iterable[SearchedTrial]) -> list[SearchedTrial]:
        """Trials, the best first; those that are not complete come last."""
        return sorted(
            trials,
            key=lambda one: (one.state != "complete", math.inf if one.cost is None else one.cost, one.number),
        )


# --- Better than a simple method? -------------------------------------------------------------------------------------

BETTER = 0.01  # share of a simple method's loss or error that a network must be below it to count as better
_JUDGED_BY = {"mase": False, "accuracy": True, "loss": False}  # the first that both have; True: more is better


def not_better_than(scores: Scores, baselines: Mapping[str, Scores] | None) -> str:
    """The simple method that a network is no better than, with both their scores in words; empty if it is better.

    Judged by the MASE of forecasts, the accuracy of labels, and else the loss; the best of the simple methods counts.

    Examples
    --------
    >>> not_better_than({"loss": 0.3, "mase": 0.695}, {"naive": {"mase": 0.81}, "seasonal naive": {"mase": 0.575}})
    'not better than seasonal naive (MASE 0.695, seasonal naive 0.575)'
    >>> not_better_than({"loss": 1.2}, {"unigram": {"loss": 2.9}})
    ''
    """
    rivals = {name: values for name, values in (baselines or {}).items() if name != "optimum"}
    for metric, more in _JUDGED_BY.items():
        known = {name: found for name, values in rivals.items() if (found := values.get(metric)) is not None}
        own = scores.get(metric)
        if own is None or not known:
            continue
        name = (max if more else min)(known, key=lambda one: known[one])
        if own > known[name] if more else own < (1 - BETTER) * known[name]:
            return ""
        shown = [f"{value:.1%}" if more else f"{value:.4g}" for value in (own, known[name])]
        return (
            f"not better than {name} ({metric.upper() if metric == 'mase' else metric} {shown[0]}, {name} {shown[1]})"
        )
    return ""
