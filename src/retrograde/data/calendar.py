"""Times that are in several columns, and numbers that only count time.

A table with a row for each year and a column for each of its months is one series, written line by line: `parts_of`
finds it, `unroll` turns it into a row for each step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .cells import Cells
from .dates import month_of
from .table import Table


def _quarter(name: str) -> int | None:
    found = re.fullmatch(r"q(?:tr|uarter)?[ _.]?([1-4])|([1-4])\.?[ _]?q(?:tr|uarter)?", name)
    return int(found[1] or found[2]) if found else None


def _clock(name: str) -> int | None:
    found = re.fullmatch(r"(\d{1,2})(?::00){1,2}", name)
    return int(found[1]) if found else None


def _hour(name: str) -> int | None:
    found = re.fullmatch(r"(?:h|hr|hour|he)[ _]?(\d{1,2})", name)
    return int(found[1]) if found else None


_KINDS: tuple[tuple[str, Callable[[str], int | None], range, str], ...] = (
    ("month", month_of, range(1, 13), "-{:02}"),
    ("quarter", _quarter, range(1, 5), "Q{}"),
    ("hour", _clock, range(24), " {:02}:00"),
    ("hour", _hour, range(24), " {:02}:00"),
    ("hour", _hour, range(1, 25), " {:02}:00"),
)


def parts_of(names: Sequence[str]) -> tuple[list[str], str, list[str]] | None:
    """The columns that are the parts of a longer period, in order of time.

    Returns
    -------
    columns : list of str
    kind : str
        ``month``, ``quarter`` or ``hour``.
    suffixes : list of str
        What to put after the year (the day) for the time of each.

    Examples
    --------
    >>> parts_of(["year", "Q1", "Q2", "Q3", "Q4"])
    (['Q1', 'Q2', 'Q3', 'Q4'], 'quarter', ['Q1', 'Q2', 'Q3', 'Q4'])
    """
    for kind, number, numbers, suffix in _KINDS:
        found: dict[int, str] = {}
        for name in names:
            part = number(name.strip().lower())
            if part is not None and part in numbers:
                found.setdefault(part, name)
        if len(found) == len(numbers):
            suffixes = [suffix.format(part - (numbers[-1] == 24)) for part in numbers]
            return [found[part] for part in numbers], kind, suffixes
    return None


def whole_of(table: Table, cells: Mapping[str, Cells], kind: str, usual: Sequence[str]) -> str | None:
    """The column with the year of each row (for hours, the day); None if there is none.

    usual: what columns of times are called, the most usual name first.
    """
    if kind == "hour":
        return day_and_clock(cells)[0]

    def years(name: str) -> bool:
        some = cells[name]
        return some.kind == "number" and some.whole and 1500 <= min(some.numbers) <= max(some.numbers) <= 2200

    by_lower = {name.lower(): name for name in reversed(list(cells)) if table.types[name] != "list" and years(name)}
    named = next((by_lower[one] for one in usual if one in by_lower), None)
    return named or next((name for name in by_lower.values() if cells[name].differ), None)


def unroll(table: Table, whole: str, parts: Sequence[str]) -> None:
    """Turn a table with a row for each year (day) into one with a row for each step.

    The times are in the column of the years, the numbers in a new one, ``value``; steps without a number are left out.
    Raises DataError if a cell is not a number, by its row and column.
    """
    found = parts_of(parts)
    if found is not None:
        table.unroll(whole, dict(zip(found[0], found[2], strict=True)), value_name(table.names))


def value_name(names: Sequence[str]) -> str:
    """The name of the column of numbers of a table that was unrolled."""
    return next(one for one in ("value", "values", *(f"value {n}" for n in range(len(names)))) if one not in names)


_UNITS = {
    "1y": ("year", "yr", "jahr", "année", "annee", "año", "ano", "anno"),
    "1q": ("quarter", "qtr", "quartal", "trimestre"),
    "1mo": ("month", "monat", "mois", "mes", "mese"),
    "1d": ("day", "tag", "jour", "dia", "día", "giorno"),
    "1h": ("hour", "stunde", "heure", "hora", "ora"),
    "1min": ("minute",),
    "": ("time",),  # the time of day as a number, 1830, next to days
}


def units_of(cells: Mapping[str, Cells]) -> tuple[list[str], str]:
    """Columns over which times are spread, from the longest unit to the shortest, and how far apart they then are.

    Without years, they must be in order.
    """
    by_lower = {name.lower(): name for name in reversed(list(cells)) if _is_unit(cells[name])}
    found = {freq: next((by_lower[name] for name in names if name in by_lower), None) for freq, names in _UNITS.items()}
    spread = {freq: name for freq, name in found.items() if name is not None}
    if "1d" not in spread or len(spread) > 2:
        spread.pop("", None)
    names = list(spread.values())
    if "1y" not in spread and len(names) > 1:
        if any(cells[name].kind != "number" for name in names):
            return [], ""
        moments = list(zip(*(cells[name].numbers.tolist() for name in names), strict=True))
        back = sum(a >= b for a, b in pairwise(moments))
        if back > len(moments) // 50:
            return [], ""
    return names, list(spread)[-1] if names else ""


def _is_unit(cells: Cells) -> bool:
    if cells.kind == "number":
        return cells.whole
    words = {str(cell).strip().lower() for cell in cells.present}
    return bool(words) and (all(map(month_of, words)) or all(map(_quarter, words)))


_CLOCK = re.compile(r"([01]?\d|2[0-4])(:[0-5]\d){1,2}(\.\d+)?( ?[ap]m)?|([01]?\d|2[0-4])(\.[0-5]\d){2}", re.IGNORECASE)


def day_and_clock(cells: Mapping[str, Cells]) -> tuple[str | None, str | None]:
    """The first column of days without a time of day, and the first of times of day (18:30, 18.30.00) without a day."""
    clocks = [
        name for name, some in cells.items()
        if some.kind == "text" and some.present and all(_CLOCK.fullmatch(str(cell).strip()) for cell in some.present)
    ]  # fmt: skip
    days = [
        name for name, some in cells.items()
        if some.kind == "time" and not any(_has_clock(cell) for cell in some.present)
    ]  # fmt: skip
    return next(iter(days), None), next(iter(clocks), None)


def _has_clock(cell: Any) -> bool:
    return bool(re.search(r"\d:\d\d", str(cell))) and not str(cell).endswith(" 00:00:00")


def only_counts(cells: Cells, owners: Sequence[Any]) -> bool:
    """Whether numbers count rows or years, or are the same throughout each series, so that they are not to be forecast.

    owners: the series of each row; empty for one series.
    """
    numbers = cells.numbers
    if len(numbers) < 5 or not cells.whole or np.isnan(numbers).any():
        return False
    rows: dict[Any, list[int]] = {}
    for row, owner in enumerate(owners or [()] * len(numbers)):
        rows.setdefault(owner, []).append(row)
    steps = np.concatenate([np.diff(numbers[some]) for some in rows.values()])
    if not len(steps):
        return False
    if len(rows) > 1 and not steps.any():
        return True
    counted = steps[0] != 0 and (steps == steps[0]).all()
    years = numbers.min() >= 1800 and numbers.max() <= 2100 and (steps >= 0).all() and len(np.unique(numbers)) > 2
    return bool(counted or years)


def how_times_are_read(joined: Sequence[str], unrolled: Sequence[str]) -> list[str]:
    """What to say of columns that were joined and unrolled (see `Columns`)."""
    notes = []
    if joined:
        notes.append(f"times are {joined[0]!r} and {joined[1]!r} together (a guess; --time names another).")
    if unrolled:
        notes.append(
            f"a row is {unrolled[0]!r} with its parts from {unrolled[1]!r} to {unrolled[-1]!r}: they are read as one "
            "series, a step each (a guess; --layout long reads a row as a step)."
        )
    return notes
