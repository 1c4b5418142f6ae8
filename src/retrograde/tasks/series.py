"""Series of numbers over time, from tables whose rows are steps or whole series; their seasons, the times to come."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .columns import Columns, step_label
from .dates import as_iso, as_written, date_form, moments
from .rows import channels_of_lists, groups, label_text, numbers, times
from .storage import Ragged, Rows
from .tables import Table

__all__ = ["Series", "continued", "guess_season", "irregular", "read_series", "times_after"]

Floats = NDArray[np.float64]
TIMES = 60  # of each series so many are kept, the last ones: enough to tell how far they lie apart


@dataclass
class Series:
    """The series of a table.

    Attributes
    ----------
    names : list of tuple of str
        Of each: what its group columns hold.
    numbers : Ragged
        ``(T, C + F)`` each, float64: target channels, then features; NaN where a cell is empty.
    times : list
        Of each, its last times, as the table writes them; None where it has none.
    begins : list
        Of each, its first time.
    channels : int
        How many of the numbers are those to forecast.
    """

    names: list[tuple[str, ...]]
    numbers: Ragged
    times: list[list[str] | None] = field(repr=False)
    begins: list[str | None] = field(repr=False)
    channels: int

    def __len__(self) -> int:
        return len(self.names)


def read_series(table: Table, columns: Columns) -> Series:
    """The series of a table, in the order they first appear, each in order of time (without a time column: of rows).

    Raises
    ------
    DataError
        If a cell is no number or no time, a time comes twice in a series, or a number is infinite.
    """
    if columns.layout == "wide":
        return _collected(table, columns, _wide(table, columns))
    if not columns.group and (found := _in_order(table, columns)) is not None:
        return found
    return _collected(table, columns, _long(table, columns))


_Named = tuple[tuple[str, ...], Floats, list[str] | None]  # name, numbers, times


def _collected(table: Table, columns: Columns, found: Iterator[_Named]) -> Series:
    names: list[tuple[str, ...]] = []
    begins: list[str | None] = []
    ends: list[list[str] | None] = []
    width: set[int] = set()

    def values() -> Iterator[Floats]:
        for name, one, when in found:
            _check_finite(table, name, one)
            if len(one):
                width.add(one.shape[1])
            if len(width) > 1:
                raise DataError(
                    f"{table.source}: row {len(names) + 1} has another number of channels than those above it."
                )
            names.append(name)
            begins.append(when[0] if when else None)
            ends.append(when[-TIMES:] if when is not None else None)
            yield one

    numbers = Ragged.of(values(), np.float64)
    return Series(names, numbers, ends, begins, max(width, default=len(columns.target)) - len(columns.features))


def _check_finite(table: Table, name: tuple[str, ...], values: Floats) -> None:
    if np.isinf(values).any():
        where = f"series {' '.join(name)!r}" if name else "the series"
        raise DataError(f"{table.source}: {where} holds an infinite number.")


def _long(table: Table, columns: Columns) -> Iterator[_Named]:
    for group in groups(table, columns):
        cells = [group.cells[name] for name in (*columns.target, *columns.features)]
        when = group.cells[columns.time] if columns.time is not None else None
        yield group.names, np.stack(cells, axis=1), when


def _in_order(table: Table, columns: Columns) -> Series | None:
    """A table that is one series and lies in order of time, read as it comes; None if it does not lie so."""
    rows, row, latest = Rows(np.float64), 0, -np.inf
    begin: str | None = None
    ends: list[str] | None = None
    for block in table.blocks():
        if columns.time is not None:
            when = as_iso(block[columns.time], columns.date_form)
            size = len(when)
            moment = times(when, columns.time, range(row, row + size))
            if (np.diff(moment, prepend=latest) <= 0).any():
                return None
            begin = str(when[0]) if begin is None else begin
            latest, ends = moment[-1], [*(ends or []), *map(str, when)][-TIMES:]
        values = [numbers(block[name], name, row) for name in (*columns.target, *columns.features)]
        stacked = np.stack(values, axis=1)
        _check_finite(table, (), stacked)
        rows.append(stacked)
        row += len(stacked)
    return Series([()], Ragged(rows, np.array([len(rows)], dtype=np.int64)), [ends], [begin], len(columns.target))


def _wide(table: Table, columns: Columns) -> Iterator[_Named]:
    """Rows that are series, without empty cells before their first number and, unless steps are dated, at the end."""
    channels = [columns.steps(table.names, name) for name in (*columns.target, *columns.features)]
    lengths = {name: len(steps) for name, steps in zip((*columns.target, *columns.features), channels, strict=True)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{table.source}: its channels differ in their number of steps, {lengths}.")
    lists = channels[0] == [columns.target[0]]
    labels = None if lists else [(step_label(name) or ("", name))[1] for name in channels[0]]
    dated = labels is not None and not all(re.fullmatch(r"\d{1,3}", label) for label in labels)
    seen: set[tuple[str, ...]] = set()
    row = 0
    for block in table.blocks():
        size = len(next(iter(block.values())))
        if not lists:
            cells = [[numbers(block[name], name, row) for name in steps] for steps in channels]
            stacked = np.array(cells)  # (C + F, T, rows)
        for place in range(size):
            name = tuple(label_text(block[part][place]) or "" for part in columns.group)
            if name in seen:
                raise DataError(
                    f"row {row + place + 1}: series {' '.join(name)!r} comes twice; a row is a series here (--layout "
                    "wide): name the --group columns that tell them apart."
                )
            if name:
                seen.add(name)
            if lists:
                one = {part: block[part][place] for part in (*columns.target, *columns.features)}
                values = channels_of_lists(one, list(one), row + place)
            else:
                values = np.ascontiguousarray(stacked[:, :, place].T)
            known = np.flatnonzero(~np.isnan(values).all(1))
            begin = int(known[0]) if len(known) else len(values)
            end = len(values) if dated else int(known[-1]) + 1 if len(known) else begin
            yield name, values[begin:end], labels[begin:end] if labels is not None else None
        row += size


def continued(before: Series, after: Series, steps: int) -> tuple[Series, list[tuple[int, int]]]:
    """Series with the last steps of those that they go on with, by name and time, put before them.

    Returns
    -------
    whole : Series
    bounds : list of (int, int)
        Of each: where ``after`` begins in it and where it ends.
    """
    place_of = {name: place for place, name in enumerate(before.names)}
    bounds: list[tuple[int, int]] = []

    def values() -> Iterator[Floats]:
        for place, name in enumerate(after.names):
            one, earlier = after.numbers[place], np.empty((0, after.numbers.rows.shape[0]))
            if (old := place_of.get(name)) is not None and _follows(before.times[old], after.begins[place]):
                end = int(before.numbers.starts[old + 1])
                earlier = before.numbers.rows[max(int(before.numbers.starts[old]), end - steps) : end]
            bounds.append((len(earlier), len(earlier) + len(one)))
            yield np.concatenate([earlier, one])

    numbers = Ragged.of(values(), np.float64)
    return Series(after.names, numbers, after.times, after.begins, after.channels), bounds


def _follows(when: Sequence[str] | None, begin: str | None) -> bool:
    if not when or begin is None:
        return False
    try:
        last, first = moments([when[-1], begin])
    except ValueError:
        return False
    return bool(last < first)


# --- Times ------------------------------------------------------------------------------------------------------------

_SEASONS = (  # days between steps, from and to: steps of a season
    (1 / 96.5, 1 / 95.5, 96, "a day of quarters of an hour"),
    (1 / 48.5, 1 / 47.5, 48, "a day of half hours"),
    (1 / 24.5, 1 / 23.5, 24, "a day of hours"),
    (0.95, 1.05, 7, "a week of days"),
    (6.9, 7.1, 52, "a year of weeks"),
    (27.5, 31.5, 12, "a year of months"),
    (89, 93, 4, "a year of quarters"),
)


def _dates(when: Sequence[Any] | None) -> NDArray[np.float64] | None:
    """Times in seconds, where they are dates; None where they are numbers, too few, or none."""
    if when is None or len(when) < 3:
        return None
    if not date_form(when):
        try:
            np.array(when[:3], dtype=np.float64)
            return None
        except (TypeError, ValueError):
            pass
    try:
        return moments(when)
    except ValueError:
        return None


def guess_season(when: Sequence[Any] | None) -> tuple[int, str]:
    """Steps of a season, by how far the dates of a series lie apart; 1 where they tell nothing.

    Examples
    --------
    >>> guess_season(["2020-01-01", "2020-02-01", "2020-03-01"])
    (12, 'a year of months')
    """
    seconds = _dates(when)
    if seconds is None:
        return 1, ""
    days = float(np.median(np.diff(seconds))) / 86400
    season, why = next(((season, why) for low, high, season, why in _SEASONS if low <= days <= high), (1, ""))
    weekdays = (np.floor(seconds / 86400) + 3) % 7  # 1970 began on a Thursday; Monday is 0
    if season == 7 and len(seconds) >= 8 and (weekdays < 5).all():
        return 5, "a week of working days"
    return season, why


def irregular(when: Sequence[Any] | None) -> bool:
    """Whether steps are missing between dates: one in ten lies further from the one before than two do."""
    seconds = _dates(when)
    if seconds is None:
        return False
    apart = np.diff(seconds)
    season, _ = guess_season(when)
    return season != 5 and bool((apart > 1.9 * np.median(apart)).mean() > 0.1)


def times_after(when: Sequence[str] | None, horizon: int) -> list[Any] | None:
    """The times that follow, where they lie evenly: numbers, or dates of a regular calendar.

    Examples
    --------
    >>> times_after(["2024-01", "2024-02", "2024-03"], 2)
    ['2024-04', '2024-05']
    >>> times_after(["7", "8", "9"], 2)
    [10, 11]
    """
    if when is None or len(when) < 3:
        return None
    seconds = _dates(when)
    if seconds is None:
        try:
            numbered = np.array(when, dtype=np.float64)
        except (TypeError, ValueError):
            return None
        apart = float(np.median(np.diff(numbered)))
        ahead = [float(numbered[-1] + apart * (steps + 1)) for steps in range(horizon)]
        return [int(one) if one.is_integer() else one for one in ahead]
    import pandas

    dates = pandas.DatetimeIndex((seconds * 1000).astype("datetime64[ms]"))
    zone = _zone(when[-1])
    if zone is not None:
        dates = dates.tz_localize("UTC").tz_convert(zone)
    months = np.unique(np.diff(dates.year * 12 + dates.month))
    step: Any = pandas.Timedelta(float(np.median(np.diff(seconds))), unit="s")
    if len(months) == 1 and months[0] > 0 and dates.is_month_end.all():
        step = pandas.offsets.MonthEnd(int(months[0]))
    elif len(months) == 1 and months[0] > 0 and len(np.unique(dates.day)) == 1:
        step = pandas.DateOffset(months=int(months[0]))
    elif guess_season(when)[0] == 5:
        step = pandas.offsets.BusinessDay()
    try:
        following = [dates[-1] + step * (steps + 1) for steps in range(horizon)]
    except (ValueError, OverflowError):
        return None
    if all(re.fullmatch(r"\d{4} \[YR\d{4}\]", one) for one in when):
        form = "%Y"
    elif all(re.fullmatch(r"\d{4}-\d{2}", one) for one in when):
        form = "%Y-%m"
    else:
        form = "%Y-%m-%d" if zone is None and all(date == date.normalize() for date in following) else ""
    return [date.strftime(form) if form else date.isoformat() for date in following]


def _zone(when: str) -> Any:
    """The offset from UTC that a time is written with, None where it is not."""
    if not re.search(r":\d{2}(?:\.\d+)? ?(?:Z|[+-]\d{2}:?\d{2})$", when):
        return None
    import pandas

    return pandas.Timestamp(when).tzinfo


def names_after(columns: Sequence[str], horizon: int) -> list[str]:
    """What the columns of the steps after those of a wide table are called.

    Examples
    --------
    >>> names_after(["v1", "v2", "v3"], 2), names_after(["1/22/20", "1/23/20", "1/24/20"], 1)
    (['v4', 'v5'], ['2020-01-25'])
    """
    labels = [step_label(name) for name in columns]
    steps = [label[1] for label in labels if label is not None]
    following = times_after(steps, horizon) if len(steps) == len(columns) else None
    if following is not None and (form := date_form(steps)) in ("%Y%m%d", "%Y%m"):
        following = as_written(following, form)
    if following is None:
        return [f"step {step + 1}" for step in range(horizon)]
    before = columns[-1][: len(columns[-1]) - len(steps[-1])]
    width = len(steps[-1]) if steps[-1].startswith("0") else 0
    return [before + (str(one).zfill(width) if isinstance(one, int) else str(one)) for one in following]
