"""A table: parsed once into a DuckDB database of its own, then asked for columns, numbers and groups.

Tests: `tests/data/test_tables.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from ..errors import DataError, OptionError
from ..words import counted
from . import limits
from .database import Database, identifier, literal, trimmed
from .numerals import GROUPED, NO_NUMBER, PLAIN, SUSPECT, THOUSANDS, Numerals, no_number, numerals_of
from .storage import Rows

BLOCK = 1000  # rows read at once
LARGEST = float(np.finfo(np.float32).max)  # number that networks can read
SAMPLE = 1000  # rows looked at to guess what the columns are
_INTEGERS = ("tinyint", "smallint", "integer", "bigint", "hugeint")
_NUMBERS = (*_INTEGERS, *(f"u{name}" for name in _INTEGERS), "float", "double")
_ROLES = {"label", "class", "target", "y", "id", "group", "time", "date", "name"}  # never one of very many numbers
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
    horizon : int or None
        How many steps are to be forecast, where the format says so.
    delimiter : str
        What separates the columns of a text file; empty for other formats.
    encoding, assumed : str
        The encoding of the file that was assumed, and that in words; empty where it has the one that was stated.
    unknown : list of str
        What of its text is no known category, in words; see `name_categories`.
    """

    def __init__(self, source: str, notes: Iterable[str] = (), frequency: str = "") -> None:
        self.source, self.notes, self.frequency = source, list(notes), frequency
        self.horizon: int | None = None
        self.delimiter = self.encoding = self.assumed = ""
        self.names: list[str] = []
        self.types: dict[str, str] = {}
        self.database = Database(source)
        self.sorted: dict[Any, Any] = {}  # relations that `retrograde.data.sequences` sorted, to be read again
        self._cells: dict[str, str] = {}  # expressions of SQL
        self._numerals: dict[str, Numerals] = {}
        self._numeric: dict[str, bool] = {}
        self.unknown: list[str] = []
        self._categories: dict[str, str] = {}  # types of SQL, of columns of text that are read as categories
        self._array = Rows(np.float64)  # the numbers of the columns in `_places`, where there are very many
        self._places: dict[str, int] = {}

    # --- Filling it ---------------------------------------------------------------------------------------------------

    def assume(self, encoding: str, words: str) -> None:
        """Note which encoding was assumed; nothing if none was."""
        self.encoding, self.assumed = encoding, words
        self.notes += filter(None, [words])

    def check_width(self, columns: int) -> None:
        """Refuse more columns than `limits.COLUMNS`."""
        if columns > limits.COLUMNS:
            raise DataError(f"{self.source} has {columns:,} columns; {limits.COLUMNS:,} are the most.")

    def fill(self, query: str, names: Sequence[str] | None = None, classes: Mapping[str, Sequence[str]] = {}) -> Table:
        """Read a query into the database, nested fields as columns of their own, then forbid access to files.

        query: SQL.
        names: names of its columns, if not those it has.
        classes: of columns that contain numbers of classes: what these are called.
        Raises DataError if there are no rows, or the data is damaged.
        """
        with self.database.reading():
            found = self.database.connection.sql(query)
            columns, types = list(found.columns), list(found.types)
        leaves: list[tuple[str, str, Any]] = []
        for name, column, type_ in zip(names or columns, columns, types, strict=True):
            leaves += _leaves(name, identifier(column), type_)
        self.check_width(len(leaves))
        selected = []
        for place, (name, cell, type_) in enumerate(leaves):
            self.types[name], expression = _stored(cell, type_)
            if name in classes:
                self.types[name], expression = _named_classes(cell, self.types[name], classes[name])
            selected.append(f"{expression} AS c{place}")
        if selected:
            self.database.execute(f"CREATE TABLE cells AS SELECT {', '.join(selected)} FROM ({query})")
        self.names = [name for name, _, _ in leaves]
        self._cells = {name: f"c{place}" for place, name in enumerate(self.names)}
        self.database.lock()
        if not selected or not len(self):
            raise DataError(f"{self.source} has no rows.")
        return self

    def fill_from(
        self,
        batches: Iterable[pyarrow.RecordBatch],
        schema: pyarrow.Schema,
        names: Sequence[str] | None = None,
        classes: Mapping[str, Sequence[str]] = {},
    ) -> Table:
        """Read Arrow batches into the database, see `fill`; numbers of a very wide table into an array."""
        names = list(names or schema.names)
        self.check_width(len(names))
        if len(names) <= limits.WIDE:
            with self._incoming(batches, schema):
                return self.fill("SELECT * FROM incoming", names, classes)
        rest, others = self._without_numbers(iter(batches), schema, names)
        with self._incoming(rest, pyarrow.schema([schema.field(place) for place in others])):
            self.fill("SELECT * FROM incoming", [names[place] for place in others], classes)
        self.names, self.types = names, self.types | dict.fromkeys(self._places, "number")
        return self

    def _without_numbers(
        self, batches: Iterator[pyarrow.RecordBatch], schema: pyarrow.Schema, names: list[str]
    ) -> tuple[Iterator[pyarrow.RecordBatch], list[int]]:
        """Put the columns of numbers into the array; return the batches without them, and the places that are left."""
        first = next(batches, None)
        numeric = []
        for place, (name, kind) in enumerate(zip(names, schema.types, strict=True)):
            number = pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind)
            if _is_text(kind) and first is not None:
                number = _floats(first.column(place).slice(0, 50)) is not None
            if number and 0 < place < len(names) - 1 and name.lower() not in _ROLES:
                numeric.append(place)
        self._places = {names[place]: at for at, place in enumerate(numeric)}
        others = sorted(set(range(len(names))) - set(numeric))
        if len(others) > limits.WIDE:
            raise DataError(f"{self.source} has {len(others):,} columns of text; {limits.WIDE:,} are the most.")

        def rest() -> Iterator[pyarrow.RecordBatch]:
            for batch in chain([first] if first is not None else [], batches):
                found = [_floats(batch.column(place)) for place in numeric]
                if wrong := [numeric[at] for at, cells in enumerate(found) if cells is None]:
                    cells = batch.column(wrong[0]).to_pylist()
                    row = next(row for row, cell in enumerate(cells) if _is_no_number(cell))
                    raise _no_number(len(self._array) + row, names[wrong[0]], cells[row])
                self._array.append(np.stack([cells for cells in found if cells is not None], axis=1))
                yield batch.select(others)
            self._array.settle()

        return rest(), others

    @contextmanager
    def _incoming(self, batches: Iterable[pyarrow.RecordBatch], schema: pyarrow.Schema) -> Iterator[None]:
        """Batches as a relation that can be read once; their errors pass through, not as DuckDB reports them."""
        failed: list[Exception] = []
        # Names of columns may differ by case alone, which DuckDB would not tell apart.
        plain = pyarrow.schema([field.with_name(f"f{place}") for place, field in enumerate(schema)])

        def renamed() -> Iterator[pyarrow.RecordBatch]:
            try:
                for batch in batches:
                    batch.validate()  # a damaged file is found here
                    yield pyarrow.RecordBatch.from_arrays(batch.columns, schema=plain)
            except (pyarrow.ArrowException, OSError) as error:
                failed.append(unreadable(self.source, error))
                raise
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

    def join(self, days: str, clocks: str) -> None:
        """Add a column of times from one of days and one of times of day; its name is their names."""
        day = f"strftime({self.cell(days)}, '%Y-%m-%d')" if self.types[days] == "time" else self.text(days)
        clock = f"regexp_replace({self.text(clocks)}, '^(\\d+)\\.(\\d+)\\.', '\\1:\\2:')"
        name = f"{days} {clocks}"
        self.names, self.types = [*self.names, name], self.types | {name: "text"}
        self._cells[name] = cell = f"c{len(self._cells)}"
        self.database.execute(f"ALTER TABLE cells ADD COLUMN {cell} VARCHAR")
        self.database.execute(f"UPDATE cells SET {cell} = {day} || ' ' || {clock}")

    def make_numbers(self, names: Collection[str]) -> None:
        """Turn columns of text that hold nothing but numbers into columns of numbers."""
        names = {name for name in names if name in self._cells}
        if not names:
            return
        cells = [f"CAST({cell} AS DOUBLE) AS {cell}" if name in names else cell for name, cell in self._cells.items()]
        self.database.execute(f"CREATE TABLE typed AS SELECT {', '.join(cells)} FROM cells")
        self.database.execute("DROP TABLE cells")
        self.database.execute("ALTER TABLE typed RENAME TO cells")
        self.types |= dict.fromkeys(names, "number")

    def unroll(self, whole: str, parts: Mapping[str, str], value: str) -> None:
        """Make a row of each number in some columns, the other columns repeated; cells without a number are left out.

        whole: the column with the time of a row, which the new rows have with something after it.
        parts: from each of the columns to what comes after the time.
        value: name of the new column of numbers.
        Raises DataError if a cell is not a number, by its row and column.
        """
        self.check_numbers(parts)
        numbers = [one for name, one in self.numbers(list(parts)).items() if name != "r"]
        kept = [name for name in self.names if name not in parts and name != whole]
        text = f"strftime({self.cell(whole)}, '%Y-%m-%d')" if self.types[whole] == "time" else self.text(whole)
        selected = [f"{self._cells[name]} AS c{place}" for place, name in enumerate(kept)]
        selected.append(f"{text} || unnest([{', '.join(map(literal, parts.values()))}]) AS c{len(kept)}")
        selected.append(f"unnest([{', '.join(numbers)}]) AS c{len(kept) + 1}")
        self.database.execute(
            f"CREATE TABLE unrolled AS SELECT * EXCLUDE (r, p) FROM (SELECT {', '.join(selected)}, rowid AS r, "
            f"unnest(range({len(parts)})) AS p FROM cells) WHERE NOT isnan(c{len(kept) + 1}) ORDER BY r, p"
        )
        self.database.execute("DROP TABLE cells")
        self.database.execute("ALTER TABLE unrolled RENAME TO cells")
        self.types = {name: self.types[name] for name in kept} | {whole: "text", value: "number"}
        self.names = [*kept, whole, value]
        self._cells = {name: f"c{place}" for place, name in enumerate(self.names)}
        self.__dict__.pop("_length", None)  # of the table before
        if not len(self):
            raise DataError(f"{self.source} has no numbers in its columns from {next(iter(parts))!r} on.")

    # --- Asking it ----------------------------------------------------------------------------------------------------

    @cached_property
    def _length(self) -> int:
        return int(self.database.execute("SELECT count(*) FROM cells")[0][0])

    def __len__(self) -> int:
        return self._length

    def cell(self, name: str) -> str:
        """The cells of a column as they are, as an expression of SQL.

        Raises OptionError if it is one of so many columns of numbers that they are kept as an array.
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
        self._decide_numerals(names)
        return {"r": "rowid"} | {
            f"n{place}": self._number(name) for place, name in enumerate(names) if name not in self._places
        }

    def _number(self, name: str) -> str:
        if (kind := self._categories.get(name)) is not None:
            return f"CAST(coalesce(enum_code(TRY_CAST({self.text(name)} AS {kind})) + 1, 0) AS DOUBLE)"
        return _number(self._cells[name], self.types[name], self.numerals(name))

    def name_categories(self, categories: Mapping[str, Sequence[str]]) -> None:
        """Read columns of text as numbers of categories from now on: 1 for the first, 0 for an unknown one.

        What is unknown is then listed in `unknown`.
        """
        self.unknown = []
        for name, texts in categories.items():
            self._categories[name] = kind = f"categories{len(self.database.execute('SELECT 1 FROM duckdb_types()'))}"
            self.database.execute(f"CREATE TYPE {kind} AS ENUM ({', '.join(map(literal, texts))})")
            text = self.text(name)
            strange = f"{text} IS NOT NULL AND TRY_CAST({text} AS {kind}) IS NULL"
            count, first = self.ask(f"count_if({strange})", f"any_value({text}) FILTER ({strange})")
            if count:
                cells = f"{counted(count, 'cell')} of {name!r}"
                self.unknown.append(f"{cells} have a category that the training part lacks ({first!r:.40}): unknown.")

    def matrix(self, batch: pyarrow.RecordBatch, names: Sequence[str]) -> NDArray[np.float64]:
        """The numbers of some columns in a batch that has `numbers`, ``(rows, columns)``; NaN where a cell is empty.

        Raises DataError with row and column of a number that is infinite, or too large for 32 bits.
        """
        found = np.empty((batch.num_rows, len(names)))
        within = [place for place, name in enumerate(names) if name in self._places]
        if within:
            rows = batch["r"].to_numpy()
            first, last = int(rows.min()), int(rows.max())
            if last - first < 4 * len(rows):
                part = self._array[first : last + 1][rows - first]
            else:
                part = np.concatenate([self._array[row : row + 1] for row in rows.tolist()])
            found[:, within] = part[:, [self._places[names[place]] for place in within]]
        for place, name in enumerate(names):
            if name not in self._places:
                found[:, place] = batch[f"n{place}"].to_numpy(zero_copy_only=False)
        if (wrong := np.argwhere(np.abs(found) > LARGEST)).size:
            row, place = wrong[0].tolist()
            what = "is infinite" if np.isinf(found[row, place]) else f"({found[row, place]:g}) is too large for 32 bits"
            raise DataError(f"row {batch['r'][row].as_py() + 1}, column {names[place]!r}: the number {what}.")
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
        taken: Block = {name: [] for name in self.names}
        for batch in self.database.batches(f"SELECT {', '.join(self._cells.values())} FROM cells LIMIT {rows}", rows):
            for name, column in zip(self._cells, batch.columns, strict=True):
                taken[name] += column.to_pylist()
        if self._places:
            array = self._array[:rows].T.tolist()
            taken |= {name: array[place] for name, place in self._places.items()}
        return taken

    def ask(self, *expressions: str) -> list[Any]:
        """Aggregates over all rows."""
        return list(self.database.execute(f"SELECT {', '.join(expressions)} FROM cells")[0])

    def value(self, name: str, row: int) -> Any:
        """One cell."""
        return self.database.execute(f"SELECT {self.cell(name)} FROM cells WHERE rowid = {row}")[0][0]

    def holds_numbers(self, name: str) -> bool:
        """Whether all cells of a column of text that are not empty are numbers."""
        if name not in self._numeric:
            text = self.text(name)
            numbers, cells = self.ask(f"count(TRY_CAST({text} AS DOUBLE))", f"count({text})")
            self._numeric[name] = bool(numbers == cells)
        return self._numeric[name]

    def numerals(self, name: str) -> Numerals:
        """How a column of text writes its numbers; see `numerals_of`."""
        self._decide_numerals([name])
        return self._numerals.get(name, PLAIN)

    def _decide_numerals(self, names: Sequence[str]) -> None:
        texts = [one for one in names if one in self._cells and self.types[one] == "text"]
        new = [one for one in texts if one not in self._numerals and one not in self._categories]
        cells = [self._cells[name] for name in new]
        found = self.ask(*(f"bool_or(regexp_matches({cell}, {literal(SUSPECT)}))" for cell in cells)) if new else []
        for name, cell, suspect in zip(new, cells, found, strict=True):
            self._numerals[name] = numerals = numerals_of(cell, self.ask) if suspect else PLAIN
            if numerals == PLAIN and (certain := self._could_be_thousands(name)) is not None:
                if certain or self._decimal_comma:
                    self._numerals[name] = numerals = GROUPED
                elif self.delimiter == ";":
                    first = next(one for one in self._filled(name) if "." in one)
                    self.notes.append(
                        f"all numbers of {name!r} have three digits after each point, and {first!r} is read as "
                        f"{float(first):g}: if the point groups thousands, write {first.replace('.', '')}."
                    )
            if numerals != PLAIN:
                self.notes.append(f"numbers of {name!r} are read with {numerals}.")

    def _filled(self, name: str) -> list[str]:
        """The first cells of a column of text that could be numbers."""
        text, known = trimmed(self._cells[name]), ", ".join(map(literal, NO_NUMBER))
        rows = self.database.execute(f"SELECT {text} FROM cells WHERE lower({text}) NOT IN ({known}) LIMIT {SAMPLE}")
        return [row[0] for row in rows]

    def _could_be_thousands(self, name: str) -> bool | None:
        """Whether the points of a column of numbers group thousands; None if they do not, False if that is unsure.

        They could if three digits follow each of them. Between semicolons they do if a number from 100 to 999 shows
        that there are not three decimals everywhere, and a last digit 0 that decimals are not shortened.
        """
        cells = self._filled(name)
        pattern = rf"{THOUSANDS}|^[-+]?\d{{1,3}}$"
        if not any("." in one for one in cells) or not all(re.match(pattern, one) for one in cells):
            return None
        text = trimmed(self._cells[name])
        known = ", ".join(map(literal, NO_NUMBER))
        fits, whole, zero = self.ask(
            f"bool_and(regexp_matches({text}, {literal(pattern)})) FILTER (lower({text}) NOT IN ({known}))",
            *(f"bool_or(regexp_matches({text}, '{one}'))" for one in (r"^[-+]?[1-9]\d\d$", r"\.\d\d0$")),
        )
        return bool(self.delimiter == ";" and whole and zero) if fits else None

    @cached_property
    def _decimal_comma(self) -> bool:
        """Whether a column has numbers with a decimal comma, so that points of other columns are no decimal marks."""
        texts = [name for name in self._cells if self.types[name] == "text"]
        some = [name for name in texts if any("," in one for one in self._filled(name))]
        return any(numerals_of(self._cells[name], self.ask).point == "," for name in some)

    def check_numbers(self, names: Iterable[str]) -> None:
        """Refuse a column of numbers with something else in it.

        Raises DataError with row, column and value of the first such cell.
        """
        names = [one for one in names if self.types[one] not in ("number", "truth") and one not in self._categories]
        if not names:
            return
        self._decide_numerals(names)
        bad = [_bad(self._cells[name], self.types[name], self.numerals(name)) for name in names]
        rows = self.ask(*(f"min(CASE WHEN {one} THEN rowid END)" for one in bad))
        wrong = [(row, place) for place, row in enumerate(rows) if row is not None]
        if wrong:
            row, place = min(wrong)
            raise _no_number(row, names[place], self.value(names[place], row))


def unreadable(source: str, error: Exception) -> DataError:
    """The error of another library, in one line."""
    return DataError(f"{source} cannot be read: {' '.join(str(error).split())[:300].rstrip('.')}.")


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _no_number(row: int, name: str, cell: Any) -> DataError:
    return DataError(f"row {row + 1}, column {name!r}: {no_number(str(cell))}.")


def number_of(cell: Any) -> float:
    """The number in a cell, NaN where it is empty or says that there is none.

    Raises ValueError, TypeError if it is something else.
    """
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in ("", *NO_NUMBER)):
        return math.nan
    return float(cell)


def _is_text(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _floats(column: pyarrow.Array) -> NDArray[np.float64] | None:
    """The numbers of a column; None if a cell is something else."""
    if not _is_text(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    cells = column.to_pylist()
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return None if any(map(_is_no_number, cells)) else np.array(list(map(number_of, cells)))


def _is_no_number(cell: Any) -> bool:
    try:
        number_of(cell)
    except (TypeError, ValueError):
        return True
    return False


def _number(cell: str, type_: str, numerals: Numerals) -> str:
    if type_ == "text":
        return f"TRY_CAST({numerals.sql(cell)} AS DOUBLE)"
    return f"CAST({cell} AS DOUBLE)" if type_ in ("number", "truth") else "CAST(NULL AS DOUBLE)"


def _bad(cell: str, type_: str, numerals: Numerals) -> str:
    """Whether a cell that is not empty is not a number."""
    if type_ != "text":
        return f"{cell} IS NOT NULL"
    known = ", ".join(map(literal, ("", *NO_NUMBER)))
    written = f"coalesce(lower({trimmed(cell)}), '')"
    return f"({cell} IS NOT NULL AND {_number(cell, type_, numerals)} IS NULL AND {written} NOT IN ({known}))"


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
    if type_.id in _NUMBERS:
        return "number", cell
    if type_.id == "decimal":
        return "number", f"CAST({cell} AS DOUBLE)"
    if type_.id == "boolean":
        return "truth", cell
    if type_.id.startswith(("date", "timestamp")):
        return "time", f"CAST({cell} AS TIMESTAMP)" if type_.id not in ("date", "timestamp with time zone") else cell
    if type_.id in ("list", "array"):
        suffix, inner = "", type_
        while inner.id in ("list", "array"):
            suffix, inner = suffix + "[]", inner.children[0][1]
        kept = "DOUBLE" if inner.id == "decimal" else str(inner) if inner.id in (*_NUMBERS, "boolean") else "VARCHAR"
        return "list", f"CAST({cell} AS {kept}{suffix})"
    if str(type_) == "JSON":
        text = f"CASE json_type({cell}) WHEN 'VARCHAR' THEN {cell}->>'$' WHEN 'NULL' THEN NULL"
        return "text", f"{text} ELSE CAST({cell} AS VARCHAR) END"
    return "text", f"CAST({cell} AS VARCHAR)"


def _named_classes(cell: str, kind: str, names: Sequence[str]) -> tuple[str, str]:
    """Numbers of classes, or lists of them, by the names of the classes; a number that has none is missing."""
    listed = "[" + ", ".join(map(literal, names)) + "]"

    def named(number: str) -> str:
        return f"CASE WHEN {number} >= 0 THEN list_extract({listed}, {number} + 1) END"

    if kind == "list":
        return "list", f"list_transform({cell}, lambda x: {named('x')})"
    return "text", named(cell)
