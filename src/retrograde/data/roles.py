"""The roles of the columns of a table, and what is predicted from it.

Tests: `tests/data/test_columns.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any, Literal

from ..errors import DataError
from .calendar import unroll
from .steps import listed, step_columns
from .table import Table


class Predicts(Enum):
    """What a task predicts from a table, which decides the roles of the columns."""

    LABEL = "a label for each sequence"
    STEP_LABELS = "a label for each step"
    NUMBER = "a number for each sequence"
    FUTURE = "the next steps of a series"


@dataclass(frozen=True)
class Columns:
    """Which columns have which role."""

    # What is read, and what is predicted of it.
    text: str | None = None
    label: str | None = None
    # Rows that share a group are the steps of one sequence; in a wide table of series, the name of a row.
    group: tuple[str, ...] = ()
    time: str | None = None  # puts the rows of a group in order
    # Numbers to forecast (to regress: the one to predict), and numbers to read. In a wide table of series the channels:
    # columns of lists, or what the names of the columns of steps begin with (see `step_columns`).
    target: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    # Of a table of series: a row is a step, or a row is a series.
    layout: Literal["long", "wide"] = "long"
    # How the time column writes dates, see `retrograde.data.dates.date_form`. One form for all of a table, whatever
    # part of it is read.
    date_form: str = ""
    split: tuple[str, ...] = ()  # rows that share these are separate sequences, but are held out together or not at all
    known_future: tuple[str, ...] = ()  # numbers to read that are known at the steps to forecast too
    static: tuple[str, ...] = ()  # numbers to read that are the same at all steps of a series
    # The column of years (or days), and those of their months (quarters, hours), where a row has these: each becomes
    # a row before anything else, see `retrograde.data.calendar`.
    unrolled: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()  # the columns of days and of times of day that together are the times
    # Of those of these columns that hold text: the categories, see `retrograde.data.categories`.
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def used(self) -> list[str]:
        """All of them, each once."""
        names = [self.text, self.label, *self.group, self.time, *self.target, *self.read]
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that are read, but not predicted."""
        return (*self.features, *self.known_future, *self.static)

    def classes(self, names: Sequence[str]) -> dict[int, int]:
        """The number of categories of each of some columns that has them, by its place."""
        return {at: len(self.categories[name]) for at, name in enumerate(names) if name in self.categories}

    def only(self, names: Sequence[str], seen: Mapping[int, set[float]]) -> Columns:
        """The same with only those categories that were seen, as numbers, at the places of some columns."""
        kept = {
            names[at]: tuple(text for n, text in enumerate(self.categories[names[at]], 1) if n in some)
            for at, some in seen.items()
        }
        return replace(self, categories={**self.categories, **kept})

    def steps(self, names: Sequence[str], channel: str) -> list[str]:
        """The columns of a channel of a wide table, in order of their steps."""
        return step_columns([name for name in names if name not in self.group], channel)

    def check(self, table: Table) -> None:
        """Refuse a table that lacks one of them; from now on its text is read as the categories that these are.

        Raises DataError with the name of the column.
        """
        if self.unrolled and not {*self.unrolled} - {*table.names}:
            unroll(table, self.unrolled[0], self.unrolled[1:])
        if self.joined and self.time not in table.names and not {*self.joined} - {*table.names}:
            table.join(*self.joined)
        for name in self.used():
            steps = self.layout == "wide" and name in (*self.target, *self.features)
            if name not in table.names and not (steps and self.steps(table.names, name)):
                what = f"columns of steps {name!r}" if steps else f"column {name!r}"
                raise DataError(
                    f"{table.source} has no {what}, which the model was trained with; there are {listed(table.names)}."
                )
        table.name_categories({name: self.categories[name] for name in self.read if name in self.categories})

    def as_dict(self) -> dict[str, Any]:
        """As a JSON file keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Columns:
        """From the result of `as_dict`."""
        parts: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in kept.items()}
        if isinstance(group := parts.get("group"), str) or ("group" in parts and group is None):
            parts["group"] = () if group is None else (group,)  # as runs before version 0.2 have it
        parts["categories"] = {name: tuple(some) for name, some in parts.get("categories", {}).items()}
        return cls(**parts)
