"""Rows of a table become sequences: a row each, or the rows of a group in order of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from numpy.typing import NDArray

from ..errors import DataError
from .columns import Columns, is_missing, number_of
from .dates import as_iso, moments
from .storage import Partitions
from .tables import Block, Table

__all__ = ["Group", "Record", "groups", "label_text", "numbers", "row_count", "sequences"]


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
    if columns.group:
        for group in groups(table, columns):
            yield _of_group(group, columns, per_step)
        return
    used, row = columns.used(), 0
    for block in table.blocks():
        for cells in zip(*(block[name] for name in used), strict=True):
            yield _of_row(dict(zip(used, cells, strict=True)), columns, row, per_step)
            row += 1


# --- A row is a sequence ----------------------------------------------------------------------------------------------


def _of_row(cells: Mapping[str, Any], columns: Columns, row: int, per_step: bool) -> Record:
    label: str | list[str] | None = None
    if columns.label is not None:
        cell = cells[columns.label]
        if isinstance(cell, list | tuple | np.ndarray) != per_step and not is_missing(cell):
            raise DataError(
                f"row {row + 1}, column {columns.label!r}: "
                + ("a label for each step is needed, as a list; or name the --group of rows that are steps of one."
                   if per_step else "it is a list; for a label per step use --task tag.")
            )  # fmt: skip
        label = [label_text(one) or "" for one in cell] if per_step and cell is not None else label_text(cell)
    if columns.text is not None:
        cell = cells[columns.text]
        tokens: str | list[str] = [str(one) for one in cell] if isinstance(cell, list | np.ndarray) else str(cell or "")
        if per_step and isinstance(tokens, str):
            tokens = tokens.split()
        record = Record([row], tokens, None, label)
    else:
        record = Record([row], None, _values(cells, columns.features, row), label)
    if per_step and isinstance(label, list) and len(label) != record.steps:
        raise DataError(f"row {row + 1}: {record.steps} steps, but {len(label)} labels in column {columns.label!r}.")
    return record


def _values(cells: Mapping[str, Any], features: tuple[str, ...], row: int) -> NDArray[np.float32]:
    """A row that is a sequence: list columns are channels of it, plain numbers the steps of a single channel."""
    if isinstance(cells[features[0]], list | tuple | np.ndarray):
        return channels_of_lists(cells, features, row).astype(np.float32)
    try:
        wide = np.array([cells[name] for name in features], dtype=np.float64)
    except (TypeError, ValueError):
        wide = np.array([numbers([cells[name]], name, row)[0] for name in features])
    with np.errstate(over="ignore"):  # what is infinite in 32 bits is refused by its row
        found = wide.astype(np.float32)
    present = np.flatnonzero(~np.isnan(found))
    return found[: present[-1] + 1 if len(present) else 0, None]  # empty cells at the end: a shorter sequence


def channels_of_lists(cells: Mapping[str, Any], names: Sequence[str], row: int) -> NDArray[np.float64]:
    """Lists of numbers side by side, ``(T, C)``; a list of lists has several channels by itself.

    Raises
    ------
    DataError
        If one is no list of numbers, or they differ in length.
    """
    channels = []
    for name in names:
        try:
            channel = np.asarray([] if is_missing(cells[name]) else cells[name], dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"row {row + 1}, column {name!r}: it must be a list of numbers.") from None
        channels.append(channel[:, None] if channel.ndim == 1 else channel)
    if len({len(channel) for channel in channels}) > 1 or any(channel.ndim != 2 for channel in channels):
        raise DataError(f"row {row + 1}: the lists of {', '.join(map(repr, names))} differ in length.")
    return np.concatenate(channels, axis=1)


# --- A row is a step --------------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """The rows of a group, in order of time.

    Attributes
    ----------
    names : tuple of str
        What the group columns hold.
    rows : array
        Places in the table, from 0.
    cells : dict
        By column: ``(T,)`` float64 where it holds numbers, a list of str or None otherwise.
    """

    names: tuple[str, ...]
    rows: NDArray[np.int64]
    cells: dict[str, Any]


def groups(table: Table, columns: Columns) -> Iterator[Group]:
    """The groups of a table of steps, in the order they first appear; their rows need not be neighbours.

    The table is sorted by group once, on disk where it is large, and read from there again and again. In memory are the
    names of the groups and some rows at a time, and all rows of one group.

    Raises
    ------
    DataError
        If a cell is no number or no time, or a time comes twice in a group.
    """
    parts, names = _sorted(table, columns)
    for part in parts:
        owner, row = part["group"].to_numpy(), part["row"].to_numpy()
        order = np.lexsort((row, owner))
        if columns.time is not None:
            order = _in_time(part[columns.time].to_pylist(), columns, row, owner, names)
        part = part.take(pyarrow.array(order))
        owner, row = owner[order], row[order]
        cells: dict[str, Any] = {
            name: part[name].to_numpy() if part.schema.field(name).type == pyarrow.float64() else part[name]
            for name in part.schema.names[:-2]
        }
        for start, stop in pairwise([0, *(np.flatnonzero(np.diff(owner)) + 1), len(owner)]):
            some = {
                name: column[start:stop] if isinstance(column, np.ndarray) else column[start:stop].to_pylist()
                for name, column in cells.items()
            }
            yield Group(names[owner[start]], row[start:stop], some)


def row_count(table: Table, columns: Columns) -> int:
    """How many rows a table of steps has."""
    return sum(_sorted(table, columns)[0].counts)


def _sorted(table: Table, columns: Columns) -> tuple[Partitions, list[tuple[str, ...]]]:
    if columns not in table.sorted:
        table.sorted[columns] = _sort(table, columns)
    parts, names = table.sorted[columns]
    return parts, names


def _sort(table: Table, columns: Columns) -> tuple[Partitions, list[tuple[str, ...]]]:
    """The rows of a table by group, and the names of the groups."""
    used = [name for name in columns.used() if name not in columns.group or name == columns.label]
    numeric = {*columns.target, *columns.features}
    types = {name: pyarrow.float64() if name in numeric else pyarrow.large_string() for name in used}
    parts = Partitions(pyarrow.schema(list(types.items())))
    numbered: dict[tuple[str, ...], int] = {}
    above: list[str | None] = [None] * len(columns.group)
    row = 0
    for block in table.blocks():
        size = len(next(iter(block.values())))
        owner = np.empty(size, dtype=np.int64)
        keys = list(zip(*(block[name] for name in columns.group), strict=True)) if columns.group else [()] * size
        for place, key in enumerate(keys):
            # An empty cell goes on with the group above it, as tables made for reading have it.
            above = [old if is_missing(cell) else label_text(cell) for cell, old in zip(key, above, strict=True)]
            if None in above:
                name = columns.group[above.index(None)]
                raise DataError(f"row {row + place + 1}, column {name!r}: the group is empty.")
            owner[place] = numbered.setdefault(tuple(map(str, above)), len(numbered))
        parts.append({name: _typed(block, name, columns, row, name in numeric) for name in used}, row, owner)
        row += size
    return parts.finish(), list(numbered)


def _typed(block: Block, name: str, columns: Columns, row: int, numeric: bool) -> Any:
    """The cells of a column as they are kept: numbers, or text."""
    if numeric:
        return numbers(block[name], name, row)
    if name == columns.label:
        return [label_text(cell) for cell in block[name]]
    cells = as_iso(block[name], columns.date_form) if name == columns.time else block[name]
    return [None if cell is None else str(cell) for cell in cells]


def _in_time(
    values: list[Any],
    columns: Columns,
    row: NDArray[np.int64],
    owner: NDArray[np.int64],
    names: Sequence[tuple[str, ...]],
) -> NDArray[np.int64]:
    """The order of rows by group, and within it by time, numbers or dates."""
    keys = times(values, str(columns.time), row)
    order = np.lexsort((row, keys, owner))
    again = (np.diff(keys[order]) == 0) & (np.diff(owner[order]) == 0)
    if again.any():
        first = int(order[np.flatnonzero(again)[0] + 1])
        where, mend = f" in group {' '.join(names[owner[first]])!r}", ""
        if not columns.group:
            where, mend = "", "; if rows of several series are mixed, name the --group column"
        raise DataError(
            f"row {row[first] + 1}, column {columns.time!r}: time {values[first]!r} comes twice{where}{mend}."
        )
    return order


def times(values: Sequence[Any], column: str, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Cells of a time column as numbers that grow with time.

    Raises
    ------
    DataError
        If one is no time; it is named by its row.
    """
    try:
        found = moments(values)
    except ValueError as error:
        place = error.args[1] if len(error.args) > 1 else 0
        raise DataError(f"row {rows[place] + 1}, column {column!r}: {values[place]!r} is no time.") from None
    if np.isnan(found).any():
        place = int(np.argmax(np.isnan(found)))
        raise DataError(f"row {rows[place] + 1}, column {column!r}: there is no time.")
    return found


def _of_group(group: Group, columns: Columns, per_step: bool) -> Record:
    label: str | list[str] | None = None
    if columns.label is not None:
        labels = group.cells[columns.label]
        if per_step:
            label = [one or "" for one in labels]
        else:
            distinct = {one for one in labels if one is not None}
            if len(distinct) > 1:
                known = next(one for one in labels if one is not None)
                first = next(i for i, one in enumerate(labels) if one is not None and one != known)
                raise DataError(
                    f"row {group.rows[first] + 1}: group {' '.join(group.names)!r} has two labels, {known!r} and "
                    f"{labels[first]!r}; for a label per step use --task tag."
                )
            label = next(iter(distinct), None)
    if columns.text is not None:
        words = [cell or "" for cell in group.cells[columns.text]]
        return Record(group.rows, words, None, label, group.names)
    values = np.stack([group.cells[name] for name in columns.features], axis=1).astype(np.float32)
    return Record(group.rows, None, values, label, group.names)


# --- Cells ------------------------------------------------------------------------------------------------------------


def numbers(cells: Sequence[Any], column: str, first_row: int) -> NDArray[np.float64]:
    """The numbers in the cells of a column, NaN where they are empty.

    Raises
    ------
    DataError
        If one holds something else; it is named by column and row.
    """
    try:
        return np.array(cells, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(len(cells))
    for place, cell in enumerate(cells):
        try:
            found[place] = number_of(cell)
        except (TypeError, ValueError):
            raise DataError(
                f"row {first_row + place + 1}, column {column!r}: {str(cell)[:40]!r} is no number."
            ) from None
    return found


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
