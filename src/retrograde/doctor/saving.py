"""A diagnosis as JSON and back: ``doctor.json`` of a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import RunError
from ..runs import RunFolder
from ..runs.records import number
from .diagnosis import Diagnosis
from .findings import Chart, Curve, Finding, Kind
from .prescriptions import Prescription

__all__ = ["NAME", "load", "save"]

NAME = "doctor.json"
T = TypeVar("T")


def save(diagnosis: Diagnosis, folder: RunFolder) -> None:
    """Write ``doctor.json``; RunError if it cannot be written."""
    folder.write(NAME, diagnosis.to_json() + "\n")


def load(folder: RunFolder) -> Diagnosis | None:
    """Read ``doctor.json``; None if the run was not diagnosed, RunError if the file is damaged.

    Prescriptions that were read cannot be applied in place.
    """
    if not folder.has(NAME):
        return None
    found = folder.read_json(NAME)
    try:
        return _diagnosis(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / NAME} is damaged: {type(error).__name__}: {error!s:.100}.") from None


def _diagnosis(json: Mapping[str, Any]) -> Diagnosis:
    return Diagnosis(
        _each(json["findings"], _finding),
        _each(json["prescriptions"], _prescription),
        _each(json["notes"], _text),
        _known(json["seconds"]),
        _number(json.get("risk")),
        _number(json.get("remaining")),
        bool(json.get("undecided", False)),
    )


def _finding(json: Mapping[str, Any]) -> Finding:
    return Finding(
        Kind(json["kind"]),
        _text(json["message"]),
        {_text(name): _number(value) for name, value in json["numbers"].items()},
        _text(json["rule"]),
        _text(json["where"]),
        tuple(_each(json["ruled_out"], _text)),
        None if json["chart"] is None else _chart(json["chart"]),
    )


def _chart(json: Mapping[str, Any]) -> Chart:
    return Chart(
        _text(json["title"]),
        _text(json["x_label"]),
        _text(json["y_label"]),
        _each(json["curves"], lambda one: Curve(_text(one["label"]), _each(one["x"], _known), _each(one["y"], number))),
        bool(json["log"]),
        {_text(name): _number(value) for name, value in json["marks"].items()},
    )


def _prescription(json: Mapping[str, Any]) -> Prescription:
    arithmetic, command, python = (_text(json[name]) for name in ("arithmetic", "command", "python"))
    return Prescription(
        _text(json["remedy"]), Kind(json["finding"]), dict(json["options"]), arithmetic, command, python
    )


def _each(values: Any, read: Callable[[Any], T]) -> list[T]:
    if not isinstance(values, list):
        raise ValueError(f"{values!r:.40} is no list")
    return [read(value) for value in values]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")
    return value


def _number(value: Any) -> float:
    """A number; NaN where JSON has null."""
    found = float("nan") if value is None else number(value)
    if found is None:
        raise ValueError(f"{value!r:.40} is no number")
    return found


def _known(value: Any) -> float:
    found = _number(value)
    if found != found:
        raise ValueError("a number is missing")
    return found
