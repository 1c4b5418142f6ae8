"""A table of sequences: parsed once into a DuckDB database of its own, then asked for columns, numbers and groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from ..errors import DataError, OptionError
from . import limits
from .database import Database, identifier, literal, trimmed
from .storage import Rows

__all__ = ["BLOCK", "Block", "Table", "fingerprint_of_files"]

BLOCK = 1000  # rows read at once
SAMPLE = 1000  # rows looked at to guess what the columns are
NO_NUMBER = ("na", "n/a", "n.a.", "null", "none", "?", ".", "..", "-")  # what people write in place of a number
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
            "UHUGEINT", "FLOAT", "DOUBLE")  # fmt: skip
Block = dict[str, list[Any]]


class Table:
    """A table that was read into a database and can be read from there as often as needed.

    Row numbers count from 0 in the order of the file. Cells are text where the file has no types.

    Attributes
    ----------
    source : str
        As the user named it.
    names : list of str
        Of the columns.
    types : dict
        Of each column: ``text``, ``number``, ``truth``, ``time`` or ``list``.
    notes : list of str
        What a user should know about the reading.
    frequency : str
        How far the steps of its series lie apart, where the format says so; see `retrograde.data.grid`.
    """

    def __init__(self, source: str, notes: Iterable[str] = ()) -> None:
        self.source, self.notes = source, list(notes)
        self.names: list[str] = []
        self.types: dict[str, str] = {}
        self.frequency = ""
        self.database = Database(source)
        self._cells: dict[str, str] = {}  # expressions of SQL
        self._commas: dict[str, bool] = {}
        self._numeric: dict[str, bool] = {}
        self.sorted: dict[Any, Any] = {}  # what `retrograde.data.sequences` made of it, to be read again
        self._block: Rows | None = None  # numbers of the columns in `_places`, where there are very many
        self._places: dict[str, int] = {}

    # --- Filling it ---------------------------------------------------------------------------------------------------

    def fill(self, query: str, names: Sequence[str] | None = None, classes: Mapping[str, Sequence[str]] = {}) -> Table:
        """Read a query into the database, nested fields as columns of their own, and close the door to files.

        Parameters
        ----------
        query : str
            SQL.
        names : sequence of str, optional
            Names of its columns, if not those it has.
        classes : mapping, optional
            Of columns that hold numbers of classes: what these are called.

        Raises
        ------
        DataError
            If there are no rows, or what is read is damaged.
        """
        with self.database.reading():
            found = self.database.connection.sql(query)
            columns, kinds = list(found.columns), list(found.types)
        leaves: list[tuple[str, str, Any]] = []
        for name, column, type_ in zip(names or columns, columns, kinds, strict=True):
            leaves += _leaves(name, identifier(column), type_)
        if len(leaves) > limits.COLUMNS:
            raise DataError(f"{self.source} has {len(leaves):,} columns; {limits.COLUMNS:,} are the most.")
        selected, types = [], {}
        for place, (name, cell, type_) in enumerate(leaves):
            types[name], expression = _stored(cell, type_)
            if name in classes:
                types[name], expression = _named_classes(cell, types[name], classes[name])
            selected.append(f"{expression} AS c{place}")
        if not selected:
            raise DataError(f"{self.source} has no rows.")
        self.database.execute(f"CREATE TABLE cells AS SELECT {', '.join(selected)} FROM ({query})")
        self.names, self.types = [name for name, _, _ in leaves], types
        self._cells = {name: f"c{place}" for place, name in enumerate(self.names)}
        return self._filled()

    def fill_from(
        self, batches: Iterable[pyarrow.RecordBatch], schema: pyarrow.Schema, names: Sequence[str] | None = None,
        classes: Mapping[str, Sequence[str]] = {},
    ) -> Table:  # fmt: skip
        """Read Arrow batches into the database; see `fill`."""
        with self._incoming(batches, schema):
            return self.fill("SELECT * FROM incoming", names or schema.names, classes)

    def fill_wide(
        self, names: Sequence[str], block: Sequence[str], parts: Iterable[tuple[Sequence[Sequence[Any]], NDArray[Any]]]
    ) -> Table:
        """Read a table of more columns than a database holds well (see `limits.WIDE`): most as one array of numbers.

        Parameters
        ----------
        block : sequence of str
            Columns of numbers, of which the array is made.
        parts : iterable of (cells, numbers)
            Of some rows: the cells of the other columns, as text, column by column; ``(rows, len(block))``.
        """
        self._block, self._places = Rows(np.float64), {name: place for place, name in enumerate(block)}
        others = [name for name in names if name not in self._places]
        schema = pyarrow.schema([("row", pyarrow.int64()), *((f"f{n}", pyarrow.string()) for n in range(len(others)))])
        rows = self._block

        def batches() -> Iterator[pyarrow.RecordBatch]:
            for cells, numbers in parts:
                count = np.arange(len(rows), len(rows) + len(numbers))
                rows.append(numbers)
                columns = [pyarrow.array(count), *(pyarrow.array(column, pyarrow.string()) for column in cells)]
                yield pyarrow.RecordBatch.from_arrays(columns, schema=schema)
            rows.settle()

        with self._incoming(batches(), schema):
            self.fill("SELECT * FROM incoming", ["row of the table", *others])
        self.names = list(names)
        self.types |= dict.fromkeys(block, "number")
        return self

    @contextmanager
    def _incoming(self, batches: Iterable[pyarrow.RecordBatch], schema: pyarrow.Schema) -> Iterator[None]:
        """Batches as a table that can be read once; what they raise comes out as it is, not as DuckDB would tell it."""
        failed: list[BaseException] = []
        # Names of columns may differ by case alone, which DuckDB would not tell apart.
        plain = pyarrow.schema([field.with_name(f"f{place}") for place, field in enumerate(schema)])

        def renamed() -> Iterator[pyarrow.RecordBatch]:
            try:
                for batch in batches:
                    batch.validate()  # what a damaged file says of itself
                    yield pyarrow.RecordBatch.from_arrays(batch.columns, schema=plain)
            except Exception as error:
                failed.append(error)
                raise

        self.database.connection.register("incoming", pyarrow.RecordBatchReader.from_batches(plain, renamed()))
        try:
            yield
        except Exception:
            if failed:
                raise failed[0] from None
            raise
        finally:
            self.database.connection.unregister("incoming")

    def _filled(self) -> Table:
        self.database.lock()
        if not len(self):
            raise DataError(f"{self.source} has no rows.")
        return self

    # --- Asking it ----------------------------------------------------------------------------------------------------

    @cached_property
    def _length(self) -> int:
        return int(self.database.execute("SELECT count(*) FROM cells")[0][0])

    def __len__(self) -> int:
        return self._length

    def cell(self, name: str) -> str:
        """The cells of a column as they are, as an expression of SQL.

        Raises
        ------
        OptionError
            If it is one of so many numbers that they are kept as an array.
        """
        if name in self._places:
            raise OptionError(
                f"column {name!r} of {self.source} is one of {len(self._places):,} columns of numbers, which can be "
                "features or steps only; name another."
            )
        return self._cells[name]

    def text(self, name: str) -> str:
        """The cells of a column as text without space around it, NULL where one is empty.

        Whole numbers are written as such: 3.0 and 3 are one label.
        """
        cell, type_ = self.cell(name), self.types[name]
        if type_ == "text":
            return trimmed(cell)
        if type_ == "number":
            whole = f"{cell} = trunc({cell}) AND abs({cell}) < 1e18"
            return (
                f"CASE WHEN isnan(CAST({cell} AS DOUBLE)) THEN NULL WHEN {whole} "
                f"THEN CAST(CAST({cell} AS BIGINT) AS VARCHAR) ELSE CAST({cell} AS VARCHAR) END"
            )
        if type_ == "truth":  # as Python writes them
            return f"CASE WHEN {cell} THEN 'True' WHEN NOT {cell} THEN 'False' END"
        return f"CAST({cell} AS VARCHAR)"

    def numbers(self, names: Sequence[str]) -> dict[str, str]:
        """What to select so that `matrix` finds the numbers of some columns; see `check_numbers`."""
        self._decide_commas([name for name in names if name not in self._places])
        return {"r": "rowid"} | {
            f"n{place}": _number(self._cells[name], self.types[name], self.decimal_comma(name))
            for place, name in enumerate(names)
            if name not in self._places
        }

    def matrix(self, batch: pyarrow.RecordBatch, names: Sequence[str]) -> NDArray[np.float64]:
        """The numbers of some columns in a batch that has `numbers`, ``(rows, columns)``; NaN where a cell is empty."""
        found = np.empty((batch.num_rows, len(names)))
        held = [place for place, name in enumerate(names) if name in self._places]
        if held and self._block is not None:
            rows = batch["r"].to_numpy()
            first, last = int(rows.min()), int(rows.max())
            together = last - first < 4 * len(rows)
            part = self._block[first : last + 1][rows - first] if together else np.concatenate(
                [self._block[row : row + 1] for row in rows.tolist()]
            )  # fmt: skip
            found[:, held] = part[:, [self._places[names[place]] for place in held]]
        for place, name in enumerate(names):
            if name not in self._places:
                found[:, place] = batch[f"n{place}"].to_numpy(zero_copy_only=False)
        return found

    def batches(
        self, select: Mapping[str, str], source: str = "cells", size: int | None = None
    ) -> Iterator[pyarrow.RecordBatch]:
        """Expressions for every row, by the names they are given, in the order of the rows."""
        listed = ", ".join(
            f"{expression} AS {identifier(name)}" if name != "*" else "*" for name, expression in select.items()
        )
        most = max(1, (1 << 22) // max(1, len(self._places)))  # of an array of very many columns fewer rows
        return self.database.batches(f"SELECT {listed} FROM {source}", min(size or BLOCK, most))

    def sample(self) -> Block:
        """The first rows."""
        rows = max(20, min(SAMPLE, 2_000_000 // len(self.names)))
        stored = [name for name in self.names if name not in self._places]
        select = ", ".join(["rowid", *(self._cells[name] for name in stored)])
        taken: Block = {name: [] for name in self.names}
        for batch in self.database.batches(f"SELECT {select} FROM cells LIMIT {rows}", rows):
            for name, column in zip(stored, batch.columns[1:], strict=True):
                taken[name] += column.to_pylist()
        if self._block is not None:
            block = self._block[:rows].T.tolist()
            taken |= {name: block[place] for name, place in self._places.items()}
        return taken

    def ask(self, *expressions: str) -> list[Any]:
        """Aggregates over all rows."""
        return list(self.database.execute(f"SELECT {', '.join(expressions)} FROM cells")[0])

    def holds_numbers(self, name: str) -> bool:
        """Whether all cells of a column of text that are not empty are numbers."""
        if name not in self._numeric:
            text = self.text(name)
            numbers, cells = self.ask(f"count(TRY_CAST({text} AS DOUBLE))", f"count({text})")
            self._numeric[name] = bool(numbers == cells)
        return self._numeric[name]

    def decimal_comma(self, name: str) -> bool:
        """Whether all cells of a column of text are numbers if a comma is their decimal point, and not otherwise.

        A comma before exactly three digits could group thousands: a column that has no other is not taken for numbers.
        """
        self._decide_commas([name])
        return self._commas.get(name, False)

    def _decide_commas(self, names: Sequence[str]) -> None:
        some = [name for name in names if self.types[name] == "text" and name not in self._commas]
        number, thousands = r"^\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*$", r",\d{3}\s*$"
        for start in range(0, len(some), 500):
            part = some[start : start + 500]
            found = self.ask(
                *(
                    f"bool_or(regexp_matches({cell}, '{number}') AND NOT regexp_matches({cell}, '{thousands}'))"
                    for cell in map(self._cells.__getitem__, part)
                )
            )
            self._commas |= dict.fromkeys(part, False)
            for name in (name for name, one in zip(part, found, strict=True) if one):
                cell = self._cells[name]
                wrong, points = self.ask(f"count_if({_bad(cell, 'text', True)})", f"count_if(contains({cell}, '.'))")
                if not wrong and not points:
                    self._commas[name] = True
                    self.notes.append(f"numbers of {name!r} are read with a decimal comma.")

    def check_numbers(self, names: Iterable[str]) -> None:
        """Refuse a column of numbers with something else in it.

        Raises
        ------
        DataError
            That names the first such cell by row, column and value.
        """
        names = [name for name in names if self.types[name] not in ("number", "truth")]
        self._decide_commas(names)
        worst: tuple[int, str] | None = None
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            bad = (_bad(self._cells[one], self.types[one], self.decimal_comma(one)) for one in some)
            for row, name in zip(self.ask(*(f"min(CASE WHEN {one} THEN rowid END)" for one in bad)), some, strict=True):
                if row is not None and (worst is None or row < worst[0]):
                    worst = (row, name)
        if worst is not None:
            row, name = worst
            raise DataError(f"row {row + 1}, column {name!r}: {str(self.value(name, row))[:40]!r} is no number.")

    def value(self, name: str, row: int) -> Any:
        """One cell."""
        return self.database.execute(f"SELECT {self.cell(name)} FROM cells WHERE rowid = {row}")[0][0]


def _number(cell: str, type_: str, comma: bool) -> str:
    if type_ == "text":
        text = f"replace({cell}, ',', '.')" if comma else cell
        return f"TRY_CAST({text} AS DOUBLE)"
    return f"CAST({cell} AS DOUBLE)" if type_ in ("number", "truth") else "CAST(NULL AS DOUBLE)"


def _bad(cell: str, type_: str, comma: bool) -> str:
    """Whether a cell that is not empty holds no number."""
    if type_ in ("number", "truth"):
        return "false"
    if type_ != "text":
        return f"{cell} IS NOT NULL"
    known = ", ".join(map(literal, ("", *NO_NUMBER)))
    written = f"coalesce(lower({trimmed(cell)}), '')"
    return f"({cell} IS NOT NULL AND {_number(cell, type_, comma)} IS NULL AND {written} NOT IN ({known}))"


# --- Types ------------------------------------------------------------------------------------------------------------


def _leaves(name: str, cell: str, type_: Any, depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """The fields of a column by dotted names; a column without fields by its own."""
    if type_.id != "struct" or depth > 20:
        yield name, cell, type_
        return
    for child, inner in type_.children:
        yield from _leaves(f"{name}.{child}", f"struct_extract({cell}, {literal(child)})", inner, depth + 1)


def _stored(cell: str, type_: Any) -> tuple[str, str]:
    """The kind of a column, and the expression that is stored of it."""
    written = str(type_)
    if written in _NUMBERS:
        return "number", cell
    if written.startswith("DECIMAL"):
        return "number", f"CAST({cell} AS DOUBLE)"
    if written == "BOOLEAN":
        return "truth", cell
    if written == "DATE":
        return "time", cell
    if written.startswith("TIMESTAMP"):
        return "time", f"CAST({cell} AS TIMESTAMP)" if "ZONE" not in written else cell
    if type_.id in ("list", "array"):
        return "list", _list(cell, type_)
    if written == "JSON":
        return "text", (
            f"CASE json_type({cell}) WHEN 'VARCHAR' THEN {cell}->>'$' WHEN 'NULL' THEN NULL "
            f"ELSE CAST({cell} AS VARCHAR) END"
        )
    return "text", f"CAST({cell} AS VARCHAR)"


def _list(cell: str, type_: Any) -> str:
    """Lists of numbers, truths and text stay; what else is in one is written as text."""
    suffix, inner = "", type_
    while inner.id in ("list", "array"):
        suffix, inner = suffix + "[]", inner.children[0][1]
    written = str(inner)
    if written.startswith("DECIMAL"):
        written = "DOUBLE"
    elif written not in (*_NUMBERS, "BOOLEAN"):
        written = "VARCHAR"
    return f"CAST({cell} AS {written}{suffix})"


def _named_classes(cell: str, kind: str, names: Sequence[str]) -> tuple[str, str]:
    """Numbers of classes, or lists of them, by the names of the classes; a number that has none is missing."""
    listed = "[" + ", ".join(map(literal, names)) + "]"

    def named(number: str) -> str:
        return f"CASE WHEN {number} >= 0 THEN list_extract({listed}, {number} + 1) END"

    if kind == "list":
        return "list", f"list_transform({cell}, lambda x: {named('x')})"
    return "text", named(cell)


# --- Content ----------------------------------------------------------------------------------------------------------


def fingerprint_of_files(files: Mapping[str, Path]) -> bytes:
    """What is in some files, by the names they go by: SHA-256 of each."""
    found = b""
    for name, file in files.items():
        try:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}.") from None
        found += f"{name}\0{content}\0".encode("utf-8", "surrogateescape")
    return found
