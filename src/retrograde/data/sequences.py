"""Rows of a table become sequences: a row each, or the rows of a group in order of time.

Tests: `tests/data/test_storage.py`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from numpy.typing import NDArray

from ..errors import DataError
from .cells import is_missing
from .database import Database
from .dates import ZONE, moment_sql
from .roles import Columns
from .table import BLOCK, Table

Floats = NDArray[np.float64]


class LabelledSequence(NamedTuple):
    """One sequence."""

    rows: Sequence[int] | NDArray[np.int64]  # its place in the table, from 0: one row, or one for each step
    tokens: str | list[str] | None  # a text, or the tokens of one
    values: NDArray[np.float32] | None  # ``(T, F)``, float32; NaN where a cell is empty
    label: str | list[str] | None  # one for the sequence, or one for each step
    group: tuple[str, ...] = ()  # the cells of its group columns; empty where a row is a sequence
    target: float | None = None  # the number to predict

    @property
    def steps(self) -> int:
        """Number of steps; of a text that is not split yet, its words between spaces."""
        if self.values is not None:
            return len(self.values)
        return len(self.tokens.split() if isinstance(self.tokens, str) else self.tokens or ())


def sequences(table: Table, columns: Columns, per_step: bool) -> Iterator[LabelledSequence]:
    """The sequences of a table: a row each, or the rows of a group each, in the order they first appear.

    per_step: whether labels belong to steps (tagging) rather than to sequences.
    Raises DataError if a cell is not what its column must contain, with column and row.
    """
    found = _of_groups(table, columns, per_step) if columns.group else _of_rows(table, columns, per_step)
    return _with_targets(found, table, columns.target[0]) if columns.target else found


def _with_targets(records: Iterator[LabelledSequence], table: Table, name: str) -> Iterator[LabelledSequence]:
    """Records with the number in a column, which is the same in all rows of one."""
    table.check_numbers([name])
    found = [table.matrix(batch, [name])[:, 0] for batch in table.batches(table.numbers([name]))]
    numbers = np.concatenate(found)
    for record in records:
        own = numbers[record.rows]
        known = np.flatnonzero(own == own)
        if not len(known):
            raise DataError(
                f"row {record.rows[0] + 1}, column {name!r}: there is no number to predict; leave such rows out."
            )
        if (wrong := np.flatnonzero(own[known] != own[known[0]])).size:
            raise DataError(
                f"row {record.rows[known[wrong[0]]] + 1}, column {name!r}: group {' '.join(record.group)!r} has two "
                f"numbers, {own[known[0]]:g} and {own[known[wrong[0]]]:g}; to forecast a number for each step, --task "
                "forecast."
            )
        yield record._replace(target=float(own[known[0]]))


# --- A row is a sequence ----------------------------------------------------------------------------------------------


def _of_rows(table: Table, columns: Columns, per_step: bool) -> Iterator[LabelledSequence]:
    label, text, features = columns.label, columns.text, columns.features
    as_lists = bool(features) and all(table.types[name] == "list" for name in features)
    select = {"r": "rowid"}
    if label is not None:
        select["label"] = table.cell(label) if table.types[label] == "list" else table.text(label)
    found: Iterator[tuple[pyarrow.RecordBatch, list[Any]]]
    apart = True
    if text is not None:
        select["text"] = table.cell(text) if table.types[text] in ("text", "list") else table.text(text)
        found = ((batch, batch["text"].to_pylist()) for batch in table.batches(select))
    else:
        apart = as_lists or bool(columns.categories)  # text next to numbers: channels of one step
        channels = [[name] for name in features] if apart else [list(features)]
        found = numbers_of_rows(table, channels, as_lists, select)
    for batch, inputs in found:
        labels = batch["label"].to_pylist() if label is not None else [None] * len(inputs)
        for row, one, marks in zip(batch["r"].to_pylist(), inputs, labels, strict=True):
            if label is not None:
                marks = _labels(marks, label, row, per_step)
            if text is not None:
                record = LabelledSequence([row], _tokens(one, per_step), None, marks)
            else:
                if not apart:  # empty cells at the end: a shorter sequence
                    known = np.flatnonzero(one == one)
                    one = one[: known[-1] + 1 if len(known) else 0]
                record = LabelledSequence([row], None, _float32(one), marks)
            if per_step and isinstance(marks, list) and len(marks) != record.steps:
                raise DataError(f"row {row + 1}: {record.steps} steps, but {len(marks)} labels in column {label!r}.")
            yield record


def _float32(values: Floats) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is infinite in 32 bits is refused by its row
        return values.astype(np.float32)


def _labels(cell: Any, name: str, row: int, per_step: bool) -> str | list[str] | None:
    if isinstance(cell, list) != per_step and cell is not None:
        wrong = "it is a list; for a label per step use --task tag."
        if per_step:
            wrong = "a label for each step is needed, as a list; or name the --group of rows that are steps of one."
        raise DataError(f"row {row + 1}, column {name!r}: {wrong}")
    return [label_text(one) or "" for one in cell] if isinstance(cell, list) else cell


def _tokens(cell: Any, per_step: bool) -> str | list[str]:
    if isinstance(cell, list):
        return [str(one) for one in cell]
    text = str(cell or "")
    return text.split() if per_step else text


def numbers_of_rows(
    table: Table, channels: Sequence[Sequence[str]], as_lists: bool, select: Mapping[str, str]
) -> Iterator[tuple[pyarrow.RecordBatch, list[Floats]]]:
    """Rows that are sequences of numbers, each ``(T, C)``, with the batch of other expressions that they came in.

    channels: of each channel the columns: one of lists (a list of lists has several channels), or one for each step.
    Raises DataError if a cell is not a number or a list of numbers, or the lists of a row differ in length.
    """
    every = [name for some in channels for name in some]
    if not as_lists:
        table.check_numbers(every)
        for batch in table.batches({**table.numbers(every), **select}):
            matrix = table.matrix(batch, every).reshape(batch.num_rows, len(channels), -1)
            yield batch, list(matrix.transpose(0, 2, 1))
        return
    if other := [name for name in every if table.types[name] != "list"]:
        raise DataError(f"{table.source}: column {other[0]!r} holds no lists of numbers.")
    as_they_are = {f"l{at}": table.cell(name) for at, name in enumerate(every)}
    for batch in table.batches({"r": "rowid", **as_they_are, **select}):
        cells = zip(*(_lists(batch[f"l{at}"]) for at in range(len(every))), strict=True)
        rows = zip(batch["r"].to_pylist(), cells, strict=True)
        yield batch, [_side_by_side(lists, every, row) for row, lists in rows]


def _lists(column: pyarrow.Array) -> list[NDArray[Any] | None]:
    """The lists of a column, each ``(T,)`` or, of lists of lists, ``(T, C)``; None where one is empty.

    What is not a list of numbers (of text, or of lists that differ in length) is an array of objects.
    """
    inner = column.flatten()
    ends, widths = _ends(column), None
    if pyarrow.types.is_list(inner.type):
        inner_ends, inner_valid = _ends(inner), inner.is_valid().to_numpy(zero_copy_only=False)
        widths = np.where(inner_valid, np.diff(inner_ends), -1)
        inner = inner.flatten()
    numeric = pyarrow.types.is_floating(inner.type) or pyarrow.types.is_integer(inner.type)
    flat: NDArray[Any] = np.array([*inner.to_pylist(), None], dtype=object)[:-1]
    if numeric or pyarrow.types.is_boolean(inner.type):
        flat = np.asarray(inner.to_numpy(zero_copy_only=False), dtype=np.float64)
    found: list[NDArray[Any] | None] = []
    for valid, start, stop in zip(column.is_valid().to_pylist(), ends[:-1], ends[1:], strict=True):
        if not valid:
            found.append(None)
        elif widths is None:
            found.append(flat[start:stop])
        elif stop > start and (widths[start] < 0 or (widths[start:stop] != widths[start]).any()):
            found.append(np.array(["lists of different lengths"], dtype=object))
        else:
            found.append(flat[inner_ends[start] : inner_ends[stop]].reshape(stop - start, *widths[start : start + 1]))
    return found


def _ends(column: pyarrow.Array) -> NDArray[np.int64]:
    """Where the lists of a column begin and end among their elements; one that is empty has none."""
    lengths = np.diff(column.offsets.to_numpy())
    lengths[~column.is_valid().to_numpy(zero_copy_only=False)] = 0
    return np.concatenate([[0], np.cumsum(lengths)])


def _side_by_side(channels: Sequence[NDArray[Any] | None], names: Sequence[str], row: int) -> Floats:
    found = []
    for name, channel in zip(names, channels, strict=True):
        try:
            one = np.asarray([] if channel is None else channel, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"row {row + 1}, column {name!r}: it must be a list of numbers.") from None
        found.append(one[:, None] if one.ndim == 1 else one)
    if len({len(channel) for channel in found}) > 1 or any(channel.ndim != 2 for channel in found):
        raise DataError(f"row {row + 1}: the lists of {', '.join(map(repr, names))} differ in length.")
    return np.concatenate(found, axis=1)


# --- A row is a step --------------------------------------------------------------------------------------------------


@dataclass
class Sorted:
    """The rows of a table of steps in order of their groups, which come as they first appear, and of time."""

    # Its database has them as the table ``relation``, with the columns ``r`` (the row), ``g`` (the group's number),
    # ``m`` (the time as a number), ``w`` (as it is written) and what else was selected.
    table: Table
    relation: str
    names: list[tuple[str, ...]]  # the cells of the group columns, by the group's number


def sorted_rows(table: Table, columns: Columns, select: Mapping[str, str]) -> Sorted:
    """The rows of a table by group and time, with some expressions of its columns; sorted once, on disk where many.

    Raises DataError if a group or a time is empty, or something is not a time.
    """
    key = (columns.group, columns.time, columns.date_form, tuple(select.items()))
    if key not in table.sorted:
        table.sorted[key] = _sort(table, columns, select, f"sorted{len(table.sorted)}")
    found: Sorted = table.sorted[key]
    return found


def _sort(table: Table, columns: Columns, select: Mapping[str, str], relation: str) -> Sorted:
    keys = [table.text(name) for name in columns.group]
    # An empty cell goes on with the group above it, as tables made for reading have it.
    for place, name in enumerate(columns.group):
        empty, first = table.ask(f"count_if({keys[place]} IS NULL)", f"arg_min({keys[place]} IS NULL, rowid)")
        if first:
            raise DataError(f"row 1, column {name!r}: the group is empty.")
        if empty:
            keys[place] = f"last_value({keys[place]} IGNORE NULLS) OVER (ORDER BY rowid ROWS UNBOUNDED PRECEDING)"
    moment, written = ("NULL::DOUBLE", "NULL::VARCHAR") if columns.time is None else _time(table, columns)
    database, named = table.database, [f"k{place}" for place in range(len(keys))]
    more = {"r": "rowid", "m": moment, "w": written, **dict(zip(named, keys, strict=True)), **select}
    listed = ", ".join(f"{expression} AS {name}" for name, expression in more.items())
    database.execute(f"CREATE OR REPLACE TABLE keyed AS SELECT {listed} FROM cells")
    if columns.time is not None:
        for row, cell in database.execute("SELECT r, w FROM keyed WHERE m IS NULL OR isnan(m) ORDER BY r LIMIT 1"):
            known = "write 2004-03-01, 2004-03-01 10:30, 2004-03 or 2004Q1, or state the form with --date-format"
            what = "there is no time" if cell is None else f"{cell!r} is not a time; {known}"
            raise DataError(f"row {row + 1}, column {columns.time!r}: {what}.")
        if table.types[columns.time] == "text":
            _check_zones(database, str(columns.time))
    names: list[tuple[str, ...]] = [()]
    join, together = "CROSS JOIN (SELECT 0 AS g)", ", ".join(named)
    if named:
        join = f"JOIN grouped USING ({together})"
        database.execute(
            f"CREATE OR REPLACE TABLE grouped AS SELECT row_number() OVER (ORDER BY min(r)) - 1 AS g, {together} "
            f"FROM keyed GROUP BY {together}"
        )
        names = database.execute(f"SELECT {together} FROM grouped ORDER BY g")
    kept = ", ".join(["r", "g", "m", "w", *(name for name in select if name != "r")])
    database.execute(f"CREATE TABLE {relation} AS SELECT {kept} FROM keyed {join} ORDER BY g, m, r")
    database.execute("DROP TABLE keyed")
    database.execute("DROP TABLE IF EXISTS grouped")
    return Sorted(table, relation, names)


def _check_zones(database: Database, name: str) -> None:
    """Refuse times of which some state their zone and others do not: their hours could not be compared."""
    kinds = database.execute(
        f"SELECT arg_min(w, r), min(r) FROM keyed GROUP BY regexp_matches(w, '{ZONE}') ORDER BY count(*), min(r) DESC"
    )
    if len(kinds) > 1:
        (cell, row), (other, at) = kinds
        has = "states its time zone" if re.search(ZONE, cell) else "states no time zone"
        raise DataError(
            f"row {row + 1}, column {name!r}: {cell!r} {has}, unlike {other!r} in row {at + 1}: "
            "give all times one, or none."
        )


def _time(table: Table, columns: Columns) -> tuple[str, str]:
    """Expressions of the time column: a number that grows with time, and the text of it."""
    name = str(columns.time)
    cell, kind, text = table.cell(name), table.types[name], table.text(name)
    if kind == "time":
        return f"epoch({cell})", text
    if kind == "number" and not columns.date_form:
        return f"CAST({cell} AS DOUBLE)", text
    # A column of text with numbers alone is taken for numbers.
    return moment_sql(text, columns.date_form, not columns.date_form and table.holds_numbers(name)), text


def steps(found: Sorted, columns: Columns, hint: str = "") -> Iterator[pyarrow.RecordBatch]:
    """The sorted rows in batches.

    Raises DataError if a time occurs twice in a group.
    """
    last: tuple[int, float] = (-1, np.nan)
    for batch in found.table.batches({"*": "*"}, found.relation, 4 * BLOCK):
        if columns.time is not None:
            owner, moment = batch["g"].to_numpy(), batch["m"].to_numpy(zero_copy_only=False)
            same = (np.diff(owner, prepend=last[0]) == 0) & (np.diff(moment, prepend=last[1]) == 0)
            if same.any():
                first = int(same.argmax())
                where, then = f" in group {' '.join(found.names[owner[first]])!r}", ""
                if not columns.group:
                    where, then = "", "; if rows of several series are mixed, name the --group column"
                raise DataError(
                    f"row {batch['r'][first].as_py() + 1}, column {columns.time!r}: time "
                    f"{batch['w'][first].as_py()!r} comes twice{where}{then}{hint}."
                )
            last = (int(owner[-1]), float(moment[-1]))
        yield batch


def runs(owner: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where the rows of one group begin and end."""
    yield from itertools.pairwise([0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)])


def _whole_groups(
    batches: Iterator[tuple[NDArray[np.int64], tuple[Any, ...]]],
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """From the groups of some rows, in order, and columns (arrays or lists) to the columns of each group."""
    parts: list[tuple[Any, ...]] = []
    group = -1
    for owner, columns in batches:
        for start, stop in runs(owner):
            if parts and owner[start] != group:
                yield group, tuple(map(_joined, zip(*parts, strict=True)))
                parts = []
            group = int(owner[start])
            parts.append(tuple(column[start:stop] for column in columns))
    if parts:
        yield group, tuple(map(_joined, zip(*parts, strict=True)))


def _joined(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [one for part in parts for one in part]


def _of_groups(table: Table, columns: Columns, per_step: bool) -> Iterator[LabelledSequence]:
    select = {} if columns.label is None else {"label": table.text(columns.label)}
    if columns.text is not None:
        is_text = table.types[columns.text] == "text"
        select["text"] = table.cell(columns.text) if is_text else table.text(columns.text)
    else:
        table.check_numbers(columns.features)
        select |= table.numbers(columns.features)
    found = sorted_rows(table, columns, select)

    def columns_of(batch: pyarrow.RecordBatch) -> tuple[Any, ...]:
        labels = batch["label"].to_pylist() if columns.label is not None else [None] * batch.num_rows
        if columns.text is not None:
            return batch["r"].to_numpy(), labels, [str(one or "") for one in batch["text"].to_pylist()]
        return batch["r"].to_numpy(), labels, _float32(table.matrix(batch, columns.features))

    batches = ((batch["g"].to_numpy(), columns_of(batch)) for batch in steps(found, columns))
    for place, (rows, labels, inputs) in _whole_groups(batches):
        group = found.names[place]
        label = _label_of(labels, rows, group, per_step) if columns.label is not None else None
        is_text = columns.text is not None
        yield LabelledSequence(rows, inputs if is_text else None, None if is_text else inputs, label, group)


def _label_of(
    labels: list[Any], rows: NDArray[np.int64], group: tuple[str, ...], per_step: bool
) -> str | list[str] | None:
    if per_step:
        return [one or "" for one in labels]
    known = [(place, one) for place, one in enumerate(labels) if one is not None]
    wrong = next(((place, one) for place, one in known if one != known[0][1]), None)
    if wrong is not None:
        raise DataError(
            f"row {rows[wrong[0]] + 1}: group {' '.join(group)!r} has two labels, {known[0][1]!r} and {wrong[1]!r}; "
            "for a label per step use --task tag, and --group '' to read each row by itself."
        )
    return known[0][1] if known else None


def label_text(cell: Any) -> str | None:
    """A label as text, None where it is empty. Whole numbers are written as such: 3.0 and 3 are one label.

    Examples
    --------
    >>> label_text(3.0), label_text("pos "), label_text("")
    ('3', 'pos', None)
    """
    if is_missing(cell):
        return None
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        cell = int(cell)
    return str(cell).strip()
