"""Series of numbers over time, from tables whose rows are steps or whole series; their seasons and next times."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, located
from ..words import agreed, counted
from .database import evaluated
from .dates import EPOCHS, ZONE, as_iso, as_written, date_form, moments
from .grid import DAY, Gap, Grid, Regular, infer
from .roles import Columns
from .sequences import Sorted, numbers_of_rows, runs, sorted_rows, steps
from .steps import step_label
from .storage import Ragged, Rows
from .table import Table

Floats = NDArray[np.float64]
TIMES = 60  # last times that are kept of each series: enough to see how far they lie apart
MOST_GAPS = 1000  # listed in config.json
MOST_FILLED = 50_000_000


@dataclass
class Series:
    """The series of a table."""

    names: list[tuple[str, ...]]  # of each: the cells of its group columns
    # ``(T, C + F + K)`` each, float64: target channels, features, features known ahead; NaN where a cell is empty or a
    # step is missing.
    numbers: Ragged
    # Of each, its last times, as the table writes them; None where it has none.
    times: list[list[str] | None] = field(repr=False)
    begins: list[str | None] = field(repr=False)  # of each, its first time
    channels: int  # number of channels to forecast; the rest are features
    # How far steps lie apart, see `retrograde.data.grid`; empty where rows are steps whatever their times.
    freq: str = ""
    gaps: list[Gap] = field(default_factory=list)  # the missing steps, which were filled with empty ones
    notes: list[str] = field(default_factory=list)  # what a user should know about the times
    # ``(series, S)``: the static features of each, NaN where one is missing.
    static: Floats = field(default_factory=lambda: np.empty((0, 0)))
    # Of each, ``(steps, K)``: the features known ahead at the steps after its last number; empty without these.
    ahead: list[Floats] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)


def read_series(table: Table, columns: Columns, regular: Regular | None = None) -> Series:
    """The series of a table, in the order they first appear, each in order of time (without a time column: of rows).

    Parameters
    ----------
    regular : Regular, optional
        What to do about missing and repeated times; None: rows are steps, and a time that occurs twice is refused.

    Raises
    ------
    DataError
        If a cell is not a number or not a time, a time occurs twice in a series, or a number is infinite.
    """
    regular = regular or Regular(freq="")
    with located(table.source):
        return _wide(table, columns, regular) if columns.layout == "wide" else _long(table, columns, regular)


def _check_finite(table: Table, name: tuple[str, ...], values: Floats) -> None:
    if np.isinf(values).any():
        where = f"series {' '.join(name)!r}" if name else "the series"
        raise DataError(f"{table.source}: {where} holds an infinite number.")


# --- A row is a step --------------------------------------------------------------------------------------------------


def _long(table: Table, columns: Columns, regular: Regular) -> Series:
    wanted = (*columns.target, *columns.read)
    table.check_numbers(wanted)
    found = sorted_rows(table, columns, table.numbers(wanted))
    notes: list[str] = []
    grid: Grid | None = None
    gaps: list[Gap] = []
    if columns.time is not None:
        found = _without_duplicates(found, regular.duplicates, notes)
        grid, gaps = _on_grid(found, columns, regular, notes)
    steps_of_row = "sum(missing + 1)" if grid is not None else "count(*)"
    counts = table.database.execute(f"SELECT {steps_of_row} FROM {found.relation} GROUP BY g ORDER BY g")
    lengths = np.array(counts, dtype=np.int64).reshape(-1)
    rows, width = Rows(np.float64), len(wanted) - len(columns.static)
    begins: list[str | None] = [None] * len(found.names)
    ends: list[list[str]] = [[] for _ in found.names]
    to_come: list[list[str]] = [[] for _ in found.names]  # times after the last number, where features are known ahead
    static = _Static(table, columns, len(found.names))
    hint = "" if regular.freq == "" else "; --duplicates first, last or mean keeps one row of each time"
    for batch in steps(found, columns, hint):
        owner, values = batch["g"].to_numpy(), table.matrix(batch, wanted)
        for start, stop in runs(owner):
            name = int(owner[start])
            _check_finite(table, found.names[name], values[start:stop])
            static.add(name, found.names[name], values[start:stop, width:], batch["r"][start].as_py())
            if columns.time is not None:
                begins[name] = begins[name] or batch["w"][start].as_py()
                last = stop
                if columns.known_future:
                    observed = np.flatnonzero(~np.isnan(values[start:stop, : len(columns.target)]).all(1))
                    last = start + int(observed[-1]) + 1 if len(observed) else start
                if last > start:
                    ends[name], to_come[name] = [*ends[name], *to_come[name]], []
                    ends[name] = [*ends[name], *batch["w"][max(start, last - TIMES) : last].to_pylist()][-TIMES:]
                to_come[name] += batch["w"][last:stop].to_pylist()
        values = values[:, :width]
        if grid is not None:
            places = np.cumsum(batch["missing"].to_numpy() + 1) - 1
            filled = np.full((int(places[-1]) + 1, width), np.nan)
            filled[places] = values
            values = filled
        rows.append(values)
    times: list[list[str] | None] = [None] * len(ends)
    if columns.time is not None:
        begins = as_iso(begins, columns.date_form)
        flat = iter(as_iso([one for end in ends for one in end], columns.date_form))
        times = [list(islice(flat, len(end))) for end in ends]
    series = Series(
        found.names, Ragged(rows, lengths), times, begins, len(columns.target), str(grid or table.frequency), gaps,
        notes, static.values,
    )  # fmt: skip
    return _split_ahead(series, len(columns.known_future)) if columns.known_future else series


def _split_ahead(found: Series, known: int) -> Series:
    """Series that end with their last number; what is known of the steps after it is put aside."""
    ahead: list[Floats] = []

    def past() -> Iterator[Floats]:
        for place in range(len(found)):
            whole = found.numbers[place]
            observed = np.flatnonzero(~np.isnan(whole[:, : found.channels]).all(1))
            end = int(observed[-1]) + 1 if len(observed) else 0
            ahead.append(whole[end:, whole.shape[1] - known :].copy())
            yield whole[:end]

    numbers = Ragged.of(past(), np.float64)
    return replace(found, numbers=numbers, ahead=ahead)


class _Static:
    """Collects the features that have one value for each series.

    Parameters
    ----------
    table : Table
    columns : Columns
    count : int
        Number of series.
    """

    def __init__(self, table: Table, columns: Columns, count: int) -> None:
        self._table, self._names = table, columns.static
        self._empty = np.array([0.0 if name in columns.categories else np.nan for name in columns.static])
        self.values: Floats = np.tile(self._empty, (count, 1))

    def add(self, place: int, name: tuple[str, ...], values: Floats, row: int) -> None:
        """Add the cells of some rows of a series; DataError if one differs from those before."""
        for at in range(len(self._names)):
            cells = np.unique(values[:, at][~np.isnan(values[:, at]) & (values[:, at] != self._empty[at])])
            before = self.values[place, at]
            known = [] if np.isnan(before) or before == self._empty[at] else [before]
            if len({*known, *cells.tolist()}) > 1:
                series = f"series {' '.join(name)!r}" if name else "the series"
                raise DataError(
                    f"{self._table.source}, from row {row + 1}: {series} has several values of {self._names[at]!r}, "
                    "which is to be --static; read it as one of the --features."
                )
            if len(cells):
                self.values[place, at] = cells[0]


def _without_duplicates(found: Sorted, keep: str, notes: list[str]) -> Sorted:
    """One row for each time of a series: the first, the last, or the mean of the numbers."""
    if keep == "error":
        return found
    database, relation = found.table.database, f"{found.relation}_{keep}"
    names = [row[0] for row in database.execute(f"DESCRIBE {found.relation}") if re.fullmatch(r"n\d+", row[0])]
    how = {"first": "arg_min({0}, r)", "last": "arg_max({0}, r)", "mean": "avg({0})"}[keep]
    listed = "".join(f", {how.format(name)} AS {name}" for name in names)
    database.execute(
        f"CREATE OR REPLACE TABLE {relation} AS SELECT {'max' if keep == 'last' else 'min'}(r) AS r, g, m, "
        f"arg_min(w, r) AS w{listed} FROM {found.relation} GROUP BY g, m ORDER BY g, m"
    )
    ((repeated,),) = database.execute(
        f"SELECT (SELECT count(*) FROM {found.relation}) - (SELECT count(*) FROM {relation})"
    )
    if repeated:
        what = {"first": "the first is kept", "last": "the last is kept", "mean": "their mean is taken"}[keep]
        rows = "row repeats" if repeated == 1 else "rows repeat"
        notes.append(f"{repeated:,} {rows} a time of the series: {what} (--duplicates {keep}).")
    return Sorted(found.table, relation, found.names)


def _on_grid(found: Sorted, columns: Columns, regular: Regular, notes: list[str]) -> tuple[Grid | None, list[Gap]]:
    """The grid of a table's times, and the steps that are missing on it; None where rows are to be steps.

    ``found`` then has a relation with the number of steps that are missing before each row, ``missing``.
    """
    if regular.freq == "":
        return None, []
    table, database = found.table, found.table.database
    kind = table.types[str(columns.time)]
    dates = bool(columns.date_form) or kind == "time" or (kind == "text" and not table.holds_numbers(str(columns.time)))
    before = (
        "(SELECT *, CASE WHEN g = lag(g) OVER () THEN lag(m) OVER () END AS m0, lag(w) OVER () AS w0 "
        f"FROM {found.relation})"
    )
    apart: list[tuple[Any, ...]] = []
    if regular.freq is not None:
        grid: Grid | None = Grid.of(regular.freq)
        if grid is not None and (grid.kind == "numbers") == dates:
            have = "dates: write 1h, 1d, 1mo, …" if dates else "numbers: give a number"
            raise DataError(f"--freq {regular.freq} does not fit column {columns.time!r}, whose cells are {have}.")
    else:
        apart = database.execute(
            f"SELECT m - m0 AS d, count(*) FROM {before} WHERE m > m0 GROUP BY d ORDER BY count(*) DESC, d LIMIT 100"
        )
        ((weekend,),) = database.execute(f"SELECT bool_or((floor(m / {DAY}) + 3) % 7 > 4) FROM {found.relation}")
        grid = infer({float(one): int(count) for one, count in apart}, dates, bool(weekend))
    if grid is None:
        if len(apart) > 1:
            notes.append(f"column {columns.time!r} has no regular steps: rows are read as steps, one after the other.")
        return None, []
    missing, off = grid.missing("m", "m0")
    relation = f"{found.relation}_grid"
    # Windows without PARTITION and ORDER take the rows as they come, which is in order, and need no memory.
    database.execute(
        f"CREATE OR REPLACE VIEW {relation} AS SELECT *, sum(missing + 1) OVER (ROWS UNBOUNDED PRECEDING) AS filled "
        f"FROM (SELECT *, {missing} AS missing, {off} AS off FROM {before})"
    )
    ((rows, total, stray, where),) = database.execute(
        f"SELECT count(*), sum(missing), count_if(off), arg_min(w, filled) FILTER (off) FROM {relation}"
    )
    if stray and regular.freq is not None:
        raise DataError(f"column {columns.time!r}: time {where!r} is not on the grid of --freq {regular.freq}.")
    if stray or (regular.freq is None and total > 4 * rows):
        why = f"{counted(stray, 'time')}, such as {where!r}, {agreed(stray, 'is')} not on it"
        why = why if stray else f"{total:,} steps would be missing"
        notes.append(
            f"steps of {grid} are the most common, but {why}: rows are read as steps, one after the other "
            "(--freq states how far steps lie apart)."
        )
        return None, []
    if total > MOST_FILLED:
        raise DataError(f"{total:,} steps are missing on the grid of --freq {regular.freq}: too many to fill.")
    found.relation = relation
    listed = database.execute(
        f"SELECT g, filled - 1 - missing - start, missing, w0 FROM {relation} JOIN (SELECT g, min(filled) - 1 AS start "
        f"FROM {relation} GROUP BY g) USING (g) WHERE missing > 0 ORDER BY filled LIMIT {MOST_GAPS}"
    ) if total else []  # fmt: skip
    written = as_iso([row[3] for row in listed], columns.date_form)
    gaps = [Gap(int(g), int(at), int(n), after) for (g, at, n, _), after in zip(listed, written, strict=True)]
    if gaps:
        said = _in_words(found, gaps, int(total), grid)
        if regular.gaps == "error":
            raise DataError(f"{said}. --gaps fill puts empty steps there, --gaps split lets no window reach over them.")
        then = f"{agreed(total, 'it is')} filled like empty cells"
        then = f"no window reaches over {agreed(total, 'it')}" if regular.gaps == "split" else then
        notes.append(f"{said}: {then} (--gaps {regular.gaps}; --freq gives another step).")
    return grid, gaps


def _in_words(found: Sorted, gaps: list[Gap], total: int, grid: Grid) -> str:
    affected = len({gap.series for gap in gaps})
    some = ", ".join(
        f"{gap.missing:,} after {gap.after!r}"
        + (f" of {' '.join(found.names[gap.series])!r}" if found.names[0] else "")
        for gap in gaps[:3]
    )
    more = ", …" if len(gaps) > 3 else ""
    of = f" in {affected:,} of {len(found.names):,} series" if len(found.names) > 1 else ""
    count = f"{len(gaps):,}{'+' * (len(gaps) >= MOST_GAPS)} {agreed(len(gaps), 'gap')}"
    return f"{counted(total, 'step')} of {grid} {agreed(total, 'is')} missing in {count}{of}: {some}{more}"


# --- A row is a series ------------------------------------------------------------------------------------------------


def _wide(table: Table, columns: Columns, regular: Regular) -> Series:
    """Rows that are series, without empty cells before their first number and, unless steps are dated, at the end."""
    wanted = (*columns.target, *columns.features)
    channels = [columns.steps(table.names, name) for name in wanted]
    lengths = {name: len(some) for name, some in zip(wanted, channels, strict=True)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{table.source}: its channels differ in their number of steps, {lengths}.")
    as_lists = channels[0] == [columns.target[0]]
    labels = None if as_lists else [(step_label(name) or ("", name))[1] for name in channels[0]]
    dated = labels is not None and not all(re.fullmatch(r"\d{1,3}", label) for label in labels)
    notes: list[str] = []
    missing, freq = _missing_columns(labels, regular, notes) if labels is not None and dated else (None, "")
    keys = {f"k{place}": table.text(name) for place, name in enumerate(columns.group)}
    table.check_numbers(columns.static)
    keys_and_static = keys | {f"s{at}": table.numbers([name])["n0"] for at, name in enumerate(columns.static)}
    static = _Static(table, columns, len(table))
    names: list[tuple[str, ...]] = []
    seen: set[tuple[str, ...]] = set()
    begins: list[str | None] = []
    ends: list[list[str] | None] = []
    width: set[int] = set()

    def values() -> Iterator[Floats]:
        for batch, found in numbers_of_rows(table, channels, as_lists, keys_and_static):
            own = [batch[f"s{at}"].to_numpy(zero_copy_only=False) for at in range(len(columns.static))]
            groups = [batch[key].to_pylist() for key in keys]
            for place, (row, one) in enumerate(zip(batch["r"].to_pylist(), found, strict=True)):
                name = tuple(group[place] or "" for group in groups)
                if name and name in seen:
                    raise DataError(
                        f"row {row + 1}: series {' '.join(name)!r} comes twice; a row is a series here "
                        "(--layout wide): name the --group columns that tell them apart."
                    )
                seen.add(name)
                static.add(len(names), name, np.array([[cells[place] for cells in own]], dtype=np.float64), row)
                if missing is not None:
                    one = np.insert(one, missing, np.nan, axis=0)
                known = np.flatnonzero(~np.isnan(one).all(1))
                begin = int(known[0]) if len(known) else len(one)
                end = len(one) if dated else int(known[-1]) + 1 if len(known) else begin
                _check_finite(table, name, one[begin:end])
                if end > begin:
                    width.add(one.shape[1])
                if len(width) > 1:
                    raise DataError(f"row {row + 1} has another number of channels than those above it.")
                when = labels[begin:end] if labels is not None and missing is None else labels
                names.append(name)
                begins.append(when[0] if when else None)
                ends.append(when[-TIMES:] if when is not None else None)
                yield one[begin:end]

    numbers = Ragged.of(values(), np.float64)
    target = max(width, default=len(wanted)) - len(columns.features)
    return Series(names, numbers, ends, begins, target, table.frequency or freq, [], notes, static.values)


def _missing_columns(labels: list[str], regular: Regular, notes: list[str]) -> tuple[list[int] | None, str]:
    """Before which columns of steps others are missing, by their dates, once for each that is; and the grid."""
    if regular.freq == "":
        return None, ""
    try:
        when = moments(labels)
    except ValueError:
        return None, ""
    steps_apart, counts = np.unique(np.diff(when), return_counts=True)
    years = all(re.fullmatch(r"\d{4}", label) for label in labels)
    grid = infer(dict(zip(steps_apart.tolist(), counts.tolist(), strict=True)), not years, True)
    if grid is None:
        return None, ""
    pairs = [f"{later!r} {before!r}" for before, later in pairwise(when.tolist())]
    found = evaluated(pairs, *grid.missing("split_part(c, ' ', 1)::DOUBLE", "split_part(c, ' ', 2)::DOUBLE"))
    missing = np.array([row[0] for row in found], dtype=np.int64)
    if any(off for _, off in found) or missing.sum() > 4 * len(labels):
        return None, ""
    if not missing.any():
        return None, "" if years else str(grid)
    first = int(np.flatnonzero(missing)[0])
    total = int(missing.sum())
    said = f"{counted(total, 'step')} of {grid} {agreed(total, 'is')} missing between the columns, the first "
    said += f"after {labels[first]!r}"
    if regular.gaps == "error":
        raise DataError(f"{said}. --gaps fill puts empty steps there.")
    notes.append(f"{said}: {agreed(total, 'it is')} filled like empty cells (--gaps {regular.gaps}).")
    return np.repeat(np.arange(1, len(labels)), missing).tolist(), str(grid)


def continued(before: Series, after: Series, steps: int) -> tuple[Series, list[tuple[int, int]]]:
    """Series with the last steps of the series that they continue, by name and time, put before them.

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
    return replace(after, numbers=numbers, freq="", gaps=[], notes=[]), bounds


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
    (1 / 288.5, 1 / 287.5, 288, "a day of five minutes"),
    (1 / 144.5, 1 / 143.5, 144, "a day of ten minutes"),
    (1 / 96.5, 1 / 95.5, 96, "a day of quarters of an hour"),
    (1 / 72.5, 1 / 71.5, 72, "a day of twenty minutes"),
    (1 / 48.5, 1 / 47.5, 48, "a day of half hours"),
    (1 / 24.5, 1 / 23.5, 24, "a day of hours"),
    *((0.98 / per_day, 1.02 / per_day, per_day, f"a day of {24 // per_day} hours") for per_day in (12, 8, 6, 4, 3)),
    (0.95, 1.05, 7, "a week of days"),
    (6.9, 7.1, 52, "a year of weeks"),
    (27.5, 31.5, 12, "a year of months"),
    (89, 93, 4, "a year of quarters"),
)


def _dates(when: Sequence[Any] | None) -> Floats | None:
    """Times in seconds, where they are dates; None where they are numbers, too few, or none."""
    if when is None or len(when) < 3:
        return None
    form = date_form(when)
    if not form:
        try:
            np.array(when[:3], dtype=np.float64)
            return None
        except (TypeError, ValueError):
            pass
    try:
        return moments(when, form)
    except ValueError:
        return None


def guess_season(when: Sequence[Any] | None, freq: str = "") -> tuple[int, str]:
    """Steps of a season, by the distance between the dates of a series; 1 where that decides nothing.

    Parameters
    ----------
    freq : str
        How far they lie apart, where that is known.

    Examples
    --------
    >>> guess_season(["2020-01-01", "2020-02-01", "2020-03-01"]), guess_season(None, "1h")
    ((12, 'a year of months'), (24, 'a day of hours'))
    """
    if freq == "workdays":
        return 5, "a week of working days"
    seconds = _dates(when)
    known = Grid.of(freq).days if freq else None
    if known == 28:  # dates alone cannot say so: first Mondays of months mostly lie as far apart
        return 13, "a year of four weeks"
    if seconds is None and known is None:
        return 1, ""
    days = known or float(np.median(np.diff(seconds if seconds is not None else np.zeros(2)))) / DAY
    season, why = next(((season, why) for low, high, season, why in _SEASONS if low <= days <= high), (1, ""))
    if season == 7 and known is None and seconds is not None:
        weekdays = (np.floor(seconds / DAY) + 3) % 7  # 1970 began on a Thursday; Monday is 0
        if len(seconds) >= 8 and (weekdays < 5).all():
            return 5, "a week of working days"
    return season, why


def irregular(when: Sequence[Any] | None) -> bool:
    """Whether steps are missing between dates: one distance in ten is almost twice the usual one, or more."""
    seconds = _dates(when)
    if seconds is None:
        return False
    apart = np.diff(seconds)
    season, _ = guess_season(when)
    return season != 5 and bool((apart > 1.9 * np.median(apart)).mean() > 0.1)


def times_after(when: Sequence[Any] | None, horizon: int, freq: str = "") -> list[Any] | None:
    """The next times of a series: dates in ISO 8601, or numbers; None where they are unknown.

    Parameters
    ----------
    freq : str
        How far they lie apart, where that is known.

    Examples
    --------
    >>> times_after(["2024-01", "2024-02", "2024-03"], 2), times_after(["2024-01", "2024-03", "2024-06"], 1, "1mo")
    (['2024-04', '2024-05'], ['2024-07'])
    >>> times_after(["7", "8", "9"], 2)
    [10, 11]
    """
    if when is None or len(when) < 3:
        return None
    seconds = _dates(when)
    steps = np.arange(1, horizon + 1)
    if seconds is None:
        try:
            numbered = np.array(when, dtype=np.float64)
        except (TypeError, ValueError):
            return None
        following = numbered[-1] + float(np.median(np.diff(numbered))) * steps
        return [int(one) if one.is_integer() else one for one in following.tolist()]
    zone = re.search(ZONE, str(when[-1]))
    digits = "" if zone is None else f"{re.sub(r'[^-+0-9]', '', zone[1]) or '+':0<5}"  # Z and UTC are +0000
    offset = digits and f"{digits[:3]}:{digits[3:]}"
    shift = int(offset[0] + "1") * (3600 * int(offset[1:3]) + 60 * int(offset[4:])) if offset else 0
    local = np.round((seconds + shift) * 1000).astype("datetime64[ms]")
    if np.abs(seconds).max() > 2e11:  # beyond the year 8000 nothing is written as dates are
        return None
    found = _dates_after(local, steps, guess_season(when)[0] == 5, Grid.of(freq) if freq else None)
    if all(re.fullmatch(r"\d{4} \[YR\d{4}\]", str(one)) for one in when):
        return [str(one.astype("datetime64[Y]")) for one in found]
    if all(re.fullmatch(r"\d{4}-\d{2}", str(one)) for one in when):
        return [str(one.astype("datetime64[M]")) for one in found]
    if not offset and (found == found.astype("datetime64[D]")).all():
        return [str(one.astype("datetime64[D]")) for one in found]
    return [str(one).removesuffix(".000") + offset for one in found]


def _dates_after(
    local: NDArray[Any], steps: NDArray[np.int64], workdays: bool, grid: Grid | None = None
) -> NDArray[Any]:
    """Dates that continue some others: by whole months where these are months apart, else by the usual distance."""
    days, months = local.astype("datetime64[D]"), local.astype("datetime64[M]")
    clock = local[-1] - days[-1]
    apart = np.unique(np.diff(months.astype(np.int64)))
    if grid is not None and grid.kind == "months":
        apart = np.array([int(grid.step)])
    within = (days - months.astype("datetime64[D]")).astype(np.int64)
    later = months[-1] + steps * int(apart[0])
    last_day = (later + 1).astype("datetime64[D]") - 1
    if len(apart) == 1 and apart[0] > 0 and ((days + 1).astype("datetime64[M]") != months).all():
        return np.asarray(last_day + clock)
    if len(apart) == 1 and apart[0] > 0 and len(np.unique(within)) == 1:
        return np.asarray(np.minimum(later.astype("datetime64[D]") + within[-1], last_day) + clock)
    if workdays:
        return np.asarray(np.busday_offset(days[-1], steps) + clock)
    usual = float(np.median(np.diff(local).astype(np.float64)))
    return np.asarray(local[-1] + np.round(usual * steps).astype("timedelta64[ms]"))


def names_after(columns: Sequence[str], horizon: int) -> list[str]:
    """Names for the columns of the next steps of a wide table.

    Examples
    --------
    >>> names_after(["v1", "v2", "v3"], 2), names_after(["1/22/20", "1/23/20", "1/24/20"], 1)
    (['v4', 'v5'], ['2020-01-25'])
    """
    labels = [step_label(name) for name in columns]
    steps = [label[1] for label in labels if label is not None]
    following = times_after(steps, horizon) if len(steps) == len(columns) else None
    if following is not None and (form := date_form(steps)) in ("%Y%m%d", "%Y%m", *EPOCHS, ""):
        following = as_written(following, form, steps)
    if following is None:
        return [f"step {step + 1}" for step in range(horizon)]
    before = columns[-1][: len(columns[-1]) - len(steps[-1])]
    width = len(steps[-1]) if steps[-1].startswith("0") else 0
    return [before + (str(one).zfill(width) if isinstance(one, int) else str(one)) for one in following]
