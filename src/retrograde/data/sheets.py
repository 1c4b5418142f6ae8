"""Workbooks of Excel: which sheet is read, where its header is, and what its cells are.

DuckDB's own reader is an extension that would have to be downloaded; ``openpyxl`` is an extra of this package.

Tests: `tests/data/test_sheets.py`.
"""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow

from ..errors import DataError
from . import limits
from .dates import looks_like_date
from .delimited import has_header, numbered
from .table import BLOCK, Table, unreadable

_HEAD = 50  # rows that are looked at to find the header
Row = list[Any]


def read_xlsx(path: Path, encoding: str) -> Table:
    """The first sheet of a workbook that is not empty; its header is the first row that may be one.

    Columns with nothing but numbers are numbers, others text.

    Raises DataError if openpyxl is missing, the file is damaged, or a cell has a formula without a value.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{path}: .xlsx is read with openpyxl: pip install 'retrograde[xlsx]', or save it as CSV."
        ) from None
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > max(limits.UNPACKED_BYTES, limits.UNPACKED_RATIO * path.stat().st_size):
            raise DataError(f"{path} unpacks to {size / 2**30:.1f} GB: it looks like a decompression bomb.")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except DataError:
        raise
    except Exception as error:  # zipfile, openpyxl and the XML parser have errors of their own
        raise unreadable(str(path), error) from None
    try:
        place, rows = _first_filled(book)
        sheet = book.worksheets[place].title
        notes = [f"of the sheets of {path.name} {sheet!r} is read; save another as a file of its own."]
        reader = _Sheet(path, rows, notes * (len(book.worksheets) > 1))
        table = reader.table()
    finally:
        book.close()
    if reader.empty and _has_formulas(path):
        _check_formulas(path, place, reader)
    return table


def _first_filled(book: Any) -> tuple[int, Iterator[tuple[int, Row]]]:
    """The place of the first sheet with cells, and its rows that are not empty, with their numbers from 1."""
    for place, sheet in enumerate(book.worksheets):
        rows = (
            (number, list(row))
            for number, row in enumerate(sheet.iter_rows(values_only=True), 1)
            if any(cell is not None and str(cell).strip() for cell in row)
        )
        if (first := next(rows, None)) is not None:
            return place, chain([first], rows)
    return 0, iter(())


class _Sheet:
    """The rows of a sheet on their way into a table.

    Attributes
    ----------
    names : list of str
        Of the columns.
    empty : list of (int, int)
        Row and column, from 1, of the first empty cells.
    """

    def __init__(self, path: Path, rows: Iterator[tuple[int, Row]], notes: list[str]) -> None:
        self.path, self.notes = path, notes
        head = list(islice(rows, _HEAD))
        width = max((len(row) for _, row in head), default=0)
        while width and all(row[width - 1 : width] in ([], [None]) for _, row in head):
            width -= 1
        texts = [[_text(cell) or "" for cell in (row + [None] * width)[:width]] for _, row in head]
        start = _header_row(texts)
        self.names, above = list(texts[start]) if head else [], texts[:start]
        if above and (joined := _joined(above[-1], self.names)):
            self.names, above = joined, above[:-1]
        header = has_header(path, self.names, texts[start + 1 :])
        if not header:
            self.names = numbered(path, self.names, self.notes)
        title = next((cell for row in above for cell in row if cell), "")
        self.notes += [f"{path.name}: what lies above its header is not read, {title!r:.60}."] * bool(title)
        self.rows = chain(head[start + header :], rows)
        self.empty: list[tuple[int, int]] = []
        self._numeric = [True] * len(self.names)
        self._blank = set(self.names)  # columns without a cell so far
        self._hours: set[str] = set()  # columns with durations
        self._dates: list[list[tuple[int, Any]]] = [[] for _ in self.names]  # the first date and the first text of one

    def table(self) -> Table:
        """A table of text, then of numbers where a column has nothing else."""
        schema = pyarrow.schema([(f"f{place}", pyarrow.large_string()) for place in range(len(self.names))])
        table = Table(str(self.path), self.notes).fill_from(self._batches(schema), schema, self.names)
        filled = {self.names[place] for place in range(len(self.names)) if self._numeric[place]} - self._blank
        table.make_numbers(filled)
        if self._hours:
            table.notes.append(f"durations of {', '.join(map(repr, sorted(self._hours)))} are read in hours.")
        return table

    def _batches(self, schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
        while some := list(islice(self.rows, BLOCK)):
            cells = [[self._cell(number, place, row) for place in range(len(self.names))] for number, row in some]
            columns = [pyarrow.array(column, pyarrow.large_string()) for column in zip(*cells, strict=True)]
            yield pyarrow.RecordBatch.from_arrays(columns, schema=schema)

    def _cell(self, number: int, place: int, row: Row) -> str | None:
        """A cell as text; what it is is noted."""
        value = row[place] if place < len(row) else None
        text = _text(value)
        if text is None:
            if len(self.empty) < 1_000_000:
                self.empty.append((number, place + 1))
            return None
        self._blank.discard(self.names[place])
        if isinstance(value, bool) or not isinstance(value, int | float | datetime.timedelta):
            self._numeric[place] = False
        elif isinstance(value, datetime.timedelta):
            self._hours.add(self.names[place])
        self._check_dates(number, place, value)
        return text

    def _check_dates(self, number: int, place: int, value: Any) -> None:
        """Refuse dates as text next to cells of dates: Excel may have read those with day and month exchanged."""
        seen = self._dates[place]
        is_date = isinstance(value, datetime.datetime | datetime.date)
        if len(seen) == 2 or not (is_date or (isinstance(value, str) and looks_like_date(value))):
            return
        if not seen or (type(seen[0][1]) is str) == is_date:
            seen.append((number, value))
        if len(seen) == 2:
            (row, cell), (other, date) = sorted(seen, key=lambda one: type(one[1]) is not str)
            raise DataError(
                f"{self.path}: row {row}, column {self.names[place]!r}: {cell[:40]!r} is text, but row {other} has the "
                f"date {_text(date)}. Excel may have taken days for months: make all of them text, or all dates."
            )


def _header_row(rows: list[list[str]]) -> int:
    """The place of the header among the first rows: below titles, which have fewer cells than it and the rows below."""
    most = 0
    for place, row in enumerate(rows[: min(20, len(rows) - 1)]):
        filled = [cell for cell in row if cell]
        words = [cell for cell in filled if not re.fullmatch(r"[-+]?[\d.,]+", cell)]
        below = [sum(map(bool, other)) for other in rows[place + 1 :]]
        # A header has as many cells as most rows below, but for names of rows, which it may lack.
        if len(filled) > max(1, most) and words and len(filled) + 1 >= max(below, key=below.count):
            return place
        most = max(most, len(filled))
    return next((place for place, row in enumerate(rows) if sum(map(bool, row)) > 1), 0)


def _joined(above: list[str], names: list[str]) -> list[str] | None:
    """Names of columns in two rows, the upper one over several columns each; None if the lower one names them all."""
    if len(set(names)) == len(names) or not any(above):
        return None
    upper, joined = "", []
    for one, name in zip(above, names, strict=True):
        upper = one or upper
        joined.append(f"{upper} {name}".strip())
    return joined if len(set(joined)) == len(joined) else None


def _text(value: Any) -> str | None:
    """A cell as text: whole numbers without a point, days without a time, durations in hours."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds() / 3600
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, datetime.datetime | datetime.date):
        return re.sub(r"[ T]00:00:00$", "", value.isoformat().replace("T", " "))
    text = str(value).strip()
    # The point of a number groups no thousands, which in text it might.
    return f"{text}0" if isinstance(value, float) and re.fullmatch(r"-?\d{1,3}\.\d{3}", text) else text


# --- Formulas ---------------------------------------------------------------------------------------------------------


def _has_formulas(path: Path) -> bool:
    """Whether a cell of a workbook may have a formula."""
    with zipfile.ZipFile(path) as archive:
        names = (name for name in archive.namelist() if name.startswith("xl/worksheets/sheet"))
        return any(re.search(rb"<f[ >]", archive.read(name)) for name in names)


def _check_formulas(path: Path, place: int, reader: _Sheet) -> None:
    """Refuse empty cells that are formulas: a program that does not calculate has written them.

    Raises DataError with row, column and formula of the first.
    """
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True)
    try:
        empty = set(reader.empty)
        for number, row in enumerate(book.worksheets[place].iter_rows(values_only=True), 1):
            for at, cell in enumerate(row, 1):
                if (number, at) in empty and isinstance(cell, str) and cell.startswith("="):
                    name = reader.names[at - 1]
                    raise DataError(
                        f"{path}: row {number}, column {name!r}: the formula {cell[:40]!r} has no value: "
                        "open the file in Excel or LibreOffice and save it, so that it is calculated."
                    )
    finally:
        book.close()
