"""Rows of a table become sequences: a row each, or the rows of a group in order of time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from ..errors import DataError
from .cells import is_missing
from .columns import Columns
from .dates import moment_sql
from .table import BLOCK, Table

__all__ = ["Record", "Sorted", "label_text", "lists", "sequences", "side_by_side", "sorted_rows", "steps", "time_of"]


class Record(NamedTuple):
    """One sequence.

    Attributes
    ----------
    rows : sequence of int
        Where it stands in the table, from 0: one row, or one for each step.
    tokens : str, list of str or None
        A text, or the tokens of one.
    values : array or None
        ``(T, F)``, float32; NaN where a cell is empty.
    label : str, list of str or None
        One for the sequence, or one for each step.
    group : tuple of str
        What its group columns hold; empty where a row is a sequence.
    """

    rows: Sequence[int] | NDArray[np.int64]
    tokens: str | list[str] | None
    values: NDArray[np.float32] | None
    label: str | list[str] | None
    group: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """How many steps it has; of a text that is still to be split, its words between spaces."""
        if self.values is not None:
            return len(self.values)
        return len(self.tokens.split() if isinstance(self.tokens, str) else self.tokens or ())


def sequences(table: Table, columns: Columns, per_step: bool) -> Iterator[Record]:
    """The sequences of a table: a row each, or the rows of a group each, in the order they first appear.

    Parameters
    ----------
    per_step : bool
        Whether labels belong to steps (tagging) rather than to sequences.

    Raises
    ------
    DataError
        If a cell is not what its column must hold; it is named by column and row.
    """
    return _of_groups(table, columns, per_step) if columns.group else _of_rows(table, columns, per_step)


# --- A row is a sequence ----------------------------------------------------------------------------------------------


def _of_rows(table: Table, columns: Columns, per_step: bool) -> Iterator[Record]:
    select = {"r": "rowid"}
    label, text, features = columns.label, columns.text, columns.features
    if label is not None:
        select["label"] = table.cell(label) if table.types[label] == "list" else table.text(label)
    if text is not None:
        kind = table.types[text]
        select["text"] = table.cell(text) if kind in ("text", "list") else table.text(text)
    as_lists = bool(features) and all(table.types[name] == "list" for name in features)
    if as_lists:
        select |= {f"l{place}": table.cell(name) for place, name in enumerate(features)}
    elif features:
        table.check_numbers(features)
        select |= table.numbers(features)
    for batch in table.batches(select):
        rows = batch["r"].to_pylist()
        labels = batch["label"].to_pylist() if label is not None else None
        if text is not None:
            texts = batch["text"].to_pylist()
        elif as_lists:
            channels = [lists(batch[f"l{place}"]) for place in range(len(features))]
        else:
            with np.errstate(over="ignore"):  # what is infinite in 32 bits is refused by its row
                values = table.matrix(batch, features).astype(np.float32)
            present = ~np.isnan(values)
            ends = np.where(present.any(1), values.shape[1] - present[:, ::-1].argmax(1), 0)
        for place, row in enumerate(rows):
            marks = _labels(labels[place], label, row, per_step) if labels is not None else None
            if text is not None:
                tokens = _tokens(texts[place], per_step)
                record = Record([row], tokens, None, marks)
            elif as_lists:
                one = side_by_side([channel[place] for channel in channels], features, row)
                record = Record([row], None, one.astype(np.float32), marks)
            else:  # empty cells at the end: a shorter sequence
                record = Record([row], None, values[place, : ends[place], None], marks)
            if per_step and isinstance(marks, list) and len(marks) != record.steps:
                raise DataError(f"row {row + 1}: {record.steps} steps, but {len(marks)} labels in column {label!r}.")
            yield record


def _labels(cell: Any, name: str | None, row: int, per_step: bool) -> str | list[str] | None:
    if isinstance(cell, list) != per_step and cell is not None:
        raise DataError(
            f"row {row + 1}, column {name!r}: "
            + ("a label for each step is needed, as a list; or name the --group of rows that are steps of one."
               if per_step else "it is a list; for a label per step use --task tag.")
        )  # fmt: skip
    return [label_text(one) or "" for one in cell] if isinstance(cell, list) else cell


def _tokens(cell: Any, per_step: bool) -> str | list[str]:
    if isinstance(cell, list):
        return [str(one) for one in cell]
    text = str(cell or "")
    return text.split() if per_step else text


def lists(column: pyarrow.Array) -> list[NDArray[Any] | None]:
    """The lists of numbers in a column, each ``(T,)`` or, of lists of lists, ``(T, C)``; None where one is empty.

    What is no such list (of text, or of lists that differ in length) is an array of objects.
    """
    inner = column.flatten()
    offsets = np.concatenate([[0], np.cumsum(pyarrow.compute.list_value_length(column).fill_null(0).to_numpy())])
    if pyarrow.types.is_list(inner.type):
        widths = pyarrow.compute.list_value_length(inner).fill_null(-1).to_numpy()
        flat = _flat(inner.flatten())
        starts = np.concatenate([[0], np.cumsum(np.maximum(widths, 0))])
    else:
        flat, widths = _flat(inner), None
    found: list[NDArray[Any] | None] = []
    for valid, start, stop in zip(column.is_valid().to_pylist(), offsets[:-1], offsets[1:], strict=True):
        if not valid:
            found.append(None)
        elif widths is None:
            found.append(flat[start:stop])
        elif stop == start or ((widths[start:stop] == widths[start]).all() and widths[start] >= 0):
            width = int(widths[start]) if stop > start else 0
            found.append(flat[starts[start] : starts[stop]].reshape(stop - start, width))
        else:
            found.append(np.array(["lists of different lengths"], dtype=object))
    return found


def _flat(cells: pyarrow.Array) -> NDArray[Any]:
    numeric = pyarrow.types.is_floating(cells.type) or pyarrow.types.is_integer(cells.type)
    if numeric or pyarrow.types.is_boolean(cells.type):
        return np.asarray(cells.cast(pyarrow.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.array(cells.to_pylist() or [None], dtype=object)[: len(cells)]


def side_by_side(channels: Sequence[NDArray[Any] | None], names: Sequence[str], row: int) -> NDArray[np.float64]:
    """Lists of numbers as the channels of a sequence, ``(T, C)``; a list of lists has several channels by itself.

    Raises
    ------
    DataError
        If one is no list of numbers, or they differ in length.
    """
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
    """The rows of a table of steps in order of their groups, which come as they first appear, and of time.

    Attributes
    ----------
    table : Table
        Its database has them as the table ``relation``, with the columns ``r`` (the row), ``g`` (the group's number),
        ``m`` (the time as a number), ``w`` (as it is written) and what else was selected.
    names : list of tuple of str
        What the group columns hold, by the group's number.
    counts : array
        Rows of each group.
    """

    table: Table
    relation: str
    names: list[tuple[str, ...]]
    counts: NDArray[np.int64]


def time_of(table: Table, columns: Columns) -> tuple[str, str]:
    """Expressions of the time column: a number that grows with time, and the text of it.

    A column of text that holds numbers alone is taken for numbers.
    """
    name = str(columns.time)
    cell, kind = table.cell(name), table.types[name]
    if kind == "time":
        return f"epoch({cell})", table.text(name)
    text = table.text(name)
    if kind == "number" and not columns.date_form:
        return f"CAST({cell} AS DOUBLE)", text
    if columns.date_form:
        return moment_sql(text, columns.date_form), text
    return moment_sql(text, "", table.holds_numbers(name)), text


def sorted_rows(table: Table, columns: Columns, select: Mapping[str, str]) -> Sorted:
    """The rows of a table by group and time, with some expressions of its columns; sorted once, on disk where many.

    Raises
    ------
    DataError
        If a group or a time is empty, or something is no time.
    """
    key = (columns.group, columns.time, columns.date_form, tuple(select.items()))
    if key not in table.sorted:
        table.sorted[key] = _sort(table, columns, select, len(table.sorted))
    found: Sorted = table.sorted[key]
    return found


def _sort(table: Table, columns: Columns, select: Mapping[str, str], number: int) -> Sorted:
    keys = [table.text(name) for name in columns.group]
    # An empty cell goes on with the group above it, as tables made for reading have it.
    for place, name in enumerate(columns.group):
        empty, first = table.ask(f"count_if({keys[place]} IS NULL)", f"arg_min({keys[place]} IS NULL, rowid)")
        if first:
            raise DataError(f"row 1, column {name!r}: the group is empty.")
        if empty:
            keys[place] = f"last_value({keys[place]} IGNORE NULLS) OVER (ORDER BY rowid ROWS UNBOUNDED PRECEDING)"
    moment, written = ("NULL::DOUBLE", "NULL::VARCHAR") if columns.time is None else time_of(table, columns)
    database, named = table.database, [f"k{place}" for place in range(len(keys))]
    more = {"r": "rowid", "m": moment, "w": written, **dict(zip(named, keys, strict=True)), **select}
    listed = ", ".join(f"{expression} AS {name}" for name, expression in more.items())
    database.execute(f"CREATE OR REPLACE TABLE keyed AS SELECT {listed} FROM cells")
    if columns.time is not None:
        for row, cell in database.execute("SELECT r, w FROM keyed WHERE m IS NULL OR isnan(m) ORDER BY r LIMIT 1"):
            what = "there is no time" if cell is None else f"{cell!r} is not a time"
            raise DataError(f"row {row + 1}, column {columns.time!r}: {what}.")
    together = ", ".join(named)
    by_group = f"GROUP BY {together}" if named else ""
    groups = database.execute(
        f"SELECT min(r), count(*){together and ', ' + together} FROM keyed {by_group} ORDER BY min(r)"
    )
    counts = np.array([row[1] for row in groups], dtype=np.int64)
    join = "CROSS JOIN (SELECT 0 AS g)"
    if named:
        join = f"JOIN grouped USING ({together})"
        database.execute(
            f"CREATE OR REPLACE TABLE grouped AS SELECT row_number() OVER (ORDER BY min(r)) - 1 AS g, {together} "
            f"FROM keyed {by_group}"
        )
    kept = ", ".join(["r", "g", "m", "w", *(name for name in select if name != "r")])
    database.execute(f"CREATE TABLE sorted{number} AS SELECT {kept} FROM keyed {join} ORDER BY g, m, r")
    database.execute("DROP TABLE keyed")
    database.execute("DROP TABLE IF EXISTS grouped")
    return Sorted(table, f"sorted{number}", [tuple(row[2:]) for row in groups], counts)


def steps(found: Sorted, columns: Columns, hint: str = "") -> Iterator[pyarrow.RecordBatch]:
    """The sorted rows in batches.

    Raises
    ------
    DataError
        If a time comes twice in a group.
    """
    last: tuple[int, float] = (-1, np.nan)
    for batch in found.table.batches({"*": "*"}, found.relation, 4 * BLOCK):
        if columns.time is not None:
            owner, moment = batch["g"].to_numpy(), batch["m"].to_numpy(zero_copy_only=False)
            owners, moments = np.append(last[0], owner), np.append(last[1], moment)
            again = np.flatnonzero((np.diff(owners) == 0) & (np.diff(moments) == 0))
            if again.size:
                first = int(again[0])
                where, then = f" in group {' '.join(found.names[owner[first]])!r}", ""
                if not columns.group:
                    where, then = "", "; if rows of several series are mixed, name the --group column"
                raise DataError(
                    f"row {batch['r'][first].as_py() + 1}, column {columns.time!r}: time "
                    f"{batch['w'][first].as_py()!r} comes twice{where}{then}{hint}."
                )
            last = (int(owner[-1]), float(moment[-1]))
        yield batch


def _of_groups(table: Table, columns: Columns, per_step: bool) -> Iterator[Record]:
    select: dict[str, str] = {}
    if columns.label is not None:
        select["label"] = table.text(columns.label)
    if columns.text is not None:
        select["text"] = table.cell(columns.text) if table.types[columns.text] == "text" else table.text(columns.text)
    else:
        table.check_numbers(columns.features)
        select |= table.numbers(columns.features)
    found = sorted_rows(table, columns, select)
    held: list[tuple[NDArray[np.int64], NDArray[np.float32] | None, list[Any], list[Any]]] = []
    group = -1

    def whole() -> Record:
        rows = np.concatenate([part[0] for part in held])
        labels = [one for part in held for one in part[3]]
        label = _label_of(labels, rows, found.names[group], per_step) if columns.label is not None else None
        if columns.text is not None:
            return Record(rows, [str(one or "") for part in held for one in part[2]], None, label, found.names[group])
        values = np.concatenate([part[1] for part in held if part[1] is not None])
        return Record(rows, None, values, label, found.names[group])

    for batch in steps(found, columns):
        owner, rows = batch["g"].to_numpy(), batch["r"].to_numpy()
        labels = batch["label"].to_pylist() if columns.label is not None else []
        texts = batch["text"].to_pylist() if columns.text is not None else []
        values = None
        if columns.text is None:
            with np.errstate(over="ignore"):
                values = table.matrix(batch, columns.features).astype(np.float32)
        edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        for start, stop in itertools.pairwise(edges):
            if owner[start] != group:
                if held:
                    yield whole()
                held, group = [], int(owner[start])
            part = values[start:stop] if values is not None else None
            held.append((rows[start:stop], part, texts[start:stop], labels[start:stop]))
    if held:
        yield whole()


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
