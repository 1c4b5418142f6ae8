"""Findings and prescriptions from the plain values of their JSON, each checked.

Tests: `tests/doctor/test_diagnosis.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..runs.records import number
from .findings import Chart, Curve, Finding, Kind
from .prescriptions import Prescription

T = TypeVar("T")


def finding_of(json: Mapping[str, Any]) -> Finding:
    """A finding; ValueError, KeyError or TypeError if something is missing or of another type."""
    return Finding(
        Kind(json["kind"]),
        text(json["message"]),
        {text(name): number_of(value) for name, value in json["numbers"].items()},
        text(json["rule"]),
        text(json["where"]),
        tuple(each(json["ruled_out"], text)),
        None if json["chart"] is None else _chart(json["chart"]),
    )


def _chart(json: Mapping[str, Any]) -> Chart:
    return Chart(
        text(json["title"]),
        text(json["x_label"]),
        text(json["y_label"]),
        each(json["curves"], lambda one: Curve(text(one["label"]), each(one["x"], known), each(one["y"], number))),
        bool(json["log"]),
        {text(name): number_of(value) for name, value in json["marks"].items()},
    )


def prescription_of(json: Mapping[str, Any]) -> Prescription:
    """A prescription, which cannot be applied in place any more; raises what `finding_of` does."""
    arithmetic, command, python = (text(json[name]) for name in ("arithmetic", "command", "python"))
    return Prescription(text(json["remedy"]), Kind(json["finding"]), dict(json["options"]), arithmetic, command, python)


def each(values: Any, read: Callable[[Any], T]) -> list[T]:
    """Every value of a list."""
    if not isinstance(values, list):
        raise ValueError(f"{values!r:.40} is no list")
    return [read(value) for value in values]


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")
    return value


def number_of(value: Any) -> float:
    """A number; NaN where JSON has null."""
    found = float("nan") if value is None else number(value)
    if found is None:
        raise ValueError(f"{value!r:.40} is no number")
    return found


def known(value: Any) -> float:
    """A number that is not missing."""
    found = number_of(value)
    if found != found:
        raise ValueError("a number is missing")
    return found
