"""Text tables. Encoding, remarks, separator and header are looked at here; DuckDB reads the rows.

DuckDB's sniffer is not used: it takes remarks for rows, labels of steps (``2001,2002``) for a row of data, and a file
that it does not understand for one column of text. Here a stated rule decides each of these.
"""

from __future__ import annotations

import codecs
import csv
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow

from ..errors import DataError
from . import limits
from .database import literal, path_pattern
from .dates import looks_like_date
from .files import AUTO, WrongEncodingError, bytes_of, check_encoding, decoded, some_of
from .numerals import NO_NUMBER
from .table import Table
from .western import assumed_encoding

HOW_TO_QUOTE = 'put "…" around fields that hold the separator.'
MARKS = ",;\t|"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


# --- A file as UTF-8 --------------------------------------------------------------------------------------------------


@dataclass
class Utf8:
    r"""A text file as UTF-8 with line ends that are all alike."""

    path: Path  # the file itself, or a temporary copy where it is packed, has another encoding or different line ends
    returns: int = 0  # carriage returns within lines that were replaced by spaces in the copy
    quotes: int = 0  # quotation marks
    encoding: str = ""  # that was assumed; empty where the file has the one that was stated
    why: str = ""  # that, in words


class _Marks(NamedTuple):
    """How often a text file has some marks."""

    pairs: int  # carriage returns followed by line feeds
    returns: int
    newlines: int
    quotes: int


@contextmanager
def utf8(path: Path, encoding: str) -> Iterator[Utf8]:
    """Read a text file through to name what cannot be decoded by its place, and copy it if DuckDB could not read it.

    Where none is stated, what is not UTF-8 may be read in another, see `retrograde.data.western`.

    Raises DataError if it is not text of this encoding, or a line is longer than `limits.LINE_BYTES`.
    """
    check_encoding(encoding)
    assumed, why = "", ""
    try:
        marks = _counted(path, encoding)
    except WrongEncodingError:
        other = assumed_encoding(path) if encoding == AUTO else None
        if other is None:
            raise
        encoding = assumed = other[0]
        why, marks = other[1], _counted(path, encoding)
    with path.open("rb") as file:
        head = file.read(3)
    utf_8 = encoding == AUTO or codecs.lookup(encoding).name in ("utf-8", "ascii")
    plain = utf_8 and head[:2] != b"\x1f\x8b" and head != codecs.BOM_UTF8
    if plain and marks.returns == marks.pairs and marks.pairs in (0, marks.newlines):
        yield Utf8(path, 0, marks.quotes)
        return
    newlines = bool(marks.newlines)  # without any line feed carriage returns end the lines, as on old Macs
    with tempfile.NamedTemporaryFile(prefix="retrograde-", suffix=".txt") as copy:
        end = ""
        for piece in decoded(bytes_of(path), encoding, str(path), translate=False):
            piece = end + piece
            end = "\r" if piece.endswith("\r") else ""
            piece = piece[: len(piece) - len(end)].replace("\r\n", "\n").replace("\r", " " if newlines else "\n")
            copy.write(piece.encode("utf-8", "replace"))
        copy.flush()
        yield Utf8(Path(copy.name), (marks.returns - marks.pairs) * newlines, marks.quotes, assumed, why)


def _counted(path: Path, encoding: str) -> _Marks:
    pairs = returns = newlines = quotes = line = 0
    before = ""
    for piece in decoded(bytes_of(path), encoding, str(path), translate=False):
        pairs += piece.count("\r\n") + (before == "\r" and piece[0] == "\n")
        returns, newlines, quotes = returns + piece.count("\r"), newlines + piece.count("\n"), quotes + piece.count('"')
        before = piece[-1]
        first, last = re.search(r"[\r\n]", piece), max(piece.rfind("\n"), piece.rfind("\r"))
        if line + (first.start() if first else len(piece)) > limits.LINE_BYTES:
            raise DataError(f"{path} has a line of more than {limits.LINE_BYTES >> 20} MB, the most that is read.")
        line = len(piece) - last - 1 if first else line + len(piece)
    return _Marks(pairs, returns, newlines, quotes)


# --- CSV --------------------------------------------------------------------------------------------------------------


def read_csv(path: Path, encoding: str, delimiter: str | None = None) -> Table:
    """A table of fields with a separator between; every cell is text, and the column's role decides its type.

    Parameters
    ----------
    delimiter : str, optional
        None: the one of ``,;|`` and tab that occurs most in the first line.
    """
    with utf8(path, encoding) as found, _squeezed(found) as file:
        remarks, delimiter, names, rows = _look(file.path, str(path), delimiter if file is found else " ")
        header = has_header(path, names, rows)
        table = Table(str(path))
        table.delimiter = delimiter
        table.assume(file.encoding, file.why)
        if delimiter not in (",", "\t") or (delimiter == "\t" and path.suffix.lower() != ".tsv"):
            table.notes.append(f"{path.name}: columns are separated by {delimiter!r}.")
        if remarks and (title := _first_title(file.path, remarks)):
            table.notes.append(f"{path.name}: what lies above its header is not read, {title!r:.60}.")
        if file.returns:
            table.notes.append(f"{path.name}: {file.returns:,} carriage returns within lines are read as spaces.")
        if not header:
            names = numbered(path, names, table.notes)
        if len(names) > limits.WIDE:
            schema = pyarrow.schema([(f"f{place}", pyarrow.string()) for place in range(len(names))])
            rest = islice(_rows(file.path, delimiter, remarks), int(header), None)
            return table.fill_from(_batches(rest, table.source, schema), schema, names)
        return _fill(table, file, path, names, delimiter, remarks + header)


@contextmanager
def _squeezed(file: Utf8) -> Iterator[Utf8]:
    """The file, or a copy with single spaces where rows of numbers are aligned with several, as ``savetxt`` of UCR."""
    with file.path.open(encoding="utf-8", newline="") as opened:
        lines = list(islice(opened, 50))
        squeezed = [" ".join(line.split()) + "\n" for line in lines]
        aligned = any(line.rstrip("\r\n") + "\n" != short for line, short in zip(lines, squeezed, strict=True))
        if not aligned or any(map(_marks, lines)) or not _numbers_between_spaces(squeezed):
            yield file
            return
        with tempfile.NamedTemporaryFile("w", prefix="retrograde-", suffix=".txt", encoding="utf-8") as copy:
            copy.writelines(" ".join(line.split()) + "\n" for line in chain(lines, opened))
            copy.flush()
            yield replace(file, path=Path(copy.name))


def _look(path: Path, name: str, delimiter: str | None) -> tuple[int, str, list[str], list[list[str]]]:
    """Lines of remarks, the separator, the fields of the first line below them, and some rows below that."""
    csv.field_size_limit(limits.LINE_BYTES)
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(islice(file, 50))
        # Remarks on the data, as some programs write them, begin with # and are not cut as the lines below them are.
        remarks = next((place for place, line in enumerate(lines) if not line.startswith("#")), 0)
        if remarks and _marks(lines[remarks - 1]) == _marks(lines[remarks]) != {}:
            remarks -= 1
        remarks += _titles(lines[remarks:])
        if delimiter is None:
            line = lines[remarks] if lines else ""
            delimiter = " " if not _marks(line) and _numbers_between_spaces(lines[remarks:]) else _mark(line)
        try:
            rows = list(islice(_rows(path, delimiter, remarks), 201))
        except csv.Error as error:
            raise DataError(f"{name} cannot be read: {error}.") from None
    names = rows[0] if rows else []
    if _counts_rows(names, rows[1:]):
        names = ["", *names]
    if rows[1:] and len(rows[1]) > len(names):
        raise DataError(f"{name}: the first row has {len(rows[1])} fields, the header has {len(names)}: {HOW_TO_QUOTE}")
    return remarks, delimiter, names, rows[1:]


def _counts_rows(names: list[str], rows: list[list[str]]) -> bool:
    """Whether rows begin with their number or name, above which R's ``write.table`` writes nothing at all.

    Otherwise a field more than the header has is a separator in a text without quotes.
    """
    if len(rows) < 2 or len(names) < 2 or {len(row) for row in rows} != {len(names) + 1}:
        return False
    if all(row[0] == str(place) for place, row in enumerate(rows, 1)):
        return True
    numbers = all(_NUMBER.fullmatch(cell) or cell in ("NA", "") for row in rows for cell in row[1:])
    return numbers and len({row[0] for row in rows}) == len(rows)


def _titles(lines: list[str]) -> int:
    """How many lines lie above the header: titles and other lines of fewer fields, as in exports of reports.

    The lines below must be rows of as many fields as the header, with a column of numbers or dates.
    """
    most = 0
    for place, line in enumerate(lines[: min(20, len(lines) - 3)]):
        fields = sum(map(bool, _split(line)))
        if fields > max(1, most) and _is_header(lines[place : -1 if len(lines) == 50 else None]):
            return place
        most = max(most, fields)
    return 0


def _is_header(lines: list[str]) -> bool:
    head, *below = (row for row in csv.reader(lines, delimiter=_mark(lines[0])) if row)
    names = [cell.strip() for cell in head]
    while names and not names[-1]:
        names.pop()
    numbers = [name for name in names if _NUMBER.fullmatch(name) or looks_like_date(name)]
    # The first may be without a name: row names, as R and pandas write them.
    if len(names) < 2 or not all(names[1:]) or len(numbers) == len(names):
        return False
    if numbers and not (_labels_of_steps(numbers) and len({one.isdigit() for one in numbers}) == 1):
        return False
    if {len(row) for row in below} != {len(head)}:
        return False
    filled = ([row[at].strip() for row in below if row[at].strip()] for at in range(len(names)))
    return any(cells and all(_NUMBER.fullmatch(one) or looks_like_date(one) for one in cells) for cells in filled)


def _first_title(path: Path, lines: int) -> str:
    """What is above a header; an empty string for blank lines and remarks, which begin with #."""
    with path.open(encoding="utf-8", newline="") as file:
        above = (line.strip(f'{MARKS}\r\n "') for line in islice(file, lines))
        return next((line for line in above if line and not line.startswith("#")), "")


def _mark(line: str) -> str:
    """The mark that separates the fields of a line, the first of equals."""
    found = _marks(line)
    return max(MARKS, key=lambda mark: found.get(mark, 0))


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=_mark(line)), [])]


def _marks(line: str) -> dict[str, int]:
    """How often a line has each of the marks that may separate its fields."""
    bare = re.sub(r'"[^"]*"', "", line)
    return {mark: bare.count(mark) for mark in MARKS if mark in bare}


def _numbers_between_spaces(lines: list[str]) -> bool:
    """Whether lines are rows of as many numbers each, single spaces between, under a header of as many words."""
    rows = [line.strip("\r\n").split(" ") for line in lines[:-1] or lines]  # the last may be cut
    alike = len(rows) > 2 and {len(row) for row in rows} == {len(rows[0])} != {1}
    return alike and all(_NUMBER.fullmatch(cell) for row in rows[1:] for cell in row)


def _rows(path: Path, delimiter: str, skip: int) -> Iterator[list[str]]:
    """The rows below some lines, without blank ones."""
    with path.open(encoding="utf-8", newline="") as file:
        for _ in range(skip):
            file.readline()
        yield from (row for row in csv.reader(file, delimiter=delimiter) if any(row))


def numbered(path: Path, names: list[str], notes: list[str]) -> list[str]:
    """Names of columns that have none, which is noted."""
    new = [f"column {place}" for place in range(1, len(names) + 1)]
    called = f"its columns are called '{new[0]}' to '{new[-1]}'" if len(new) > 1 else f"its column is called '{new[0]}'"
    notes.append(f"{path.name} has no header, its first line holds data: {called}.")
    return new


def has_header(path: Path, names: list[str], rows: list[list[str]]) -> bool:
    """Whether the first line names the columns, which are put right; False where it is data.

    It is data if it has a number or a date where a name should be, and these are not labels of steps (which ascend); if
    it has dates next to numbers; nothing but numbers that do not ascend, of which some are not whole or most are like
    those below; or if a word of
    it occurs again in the same column below (without numbers: twice, and not in a copy of the line).
    """
    data = [place for place, name in enumerate(names) if _NUMBER.fullmatch(name.strip()) or looks_like_date(name)]
    columns = {place: [row[place] for row in rows if place < len(row)] for place in range(len(names))}
    cells = [name.strip() for name in names]
    if len(data) == len(names) and all(map(_NUMBER.fullmatch, cells)):
        if _among(cells, columns):
            return False
        if len(set(names)) < len(names) and not (len(rows) >= 5 and _measured(cells)):
            raise DataError(
                f"{path}: its first line holds numbers, {some_of(names)}: put one before it that names the columns."
            )
    if (
        rows
        and data
        and not _labels_of_steps([cells[place] for place in data])
        and (
            len(data) < len(names) or _measured(cells) or 0 < sum(map(bool, map(_NUMBER.fullmatch, cells))) < len(cells)
        )
    ):
        below = ((names[place], cell.strip()) for place in data for cell in columns[place][:50])
        if all(_alike(name.strip(), cell) for name, cell in below) and not _is_named(cells, data, columns):
            return False
    words = [place for place, name in enumerate(names) if place not in data and name.strip()]
    if data and any(names[place] in columns[place] for place in words):
        return False
    # R and pandas give the numbers of rows no name; those of a first row of data would go on below.
    index = len(names) > 1 and not names[0].strip() and len(rows) > 1 and all(row[0].strip() for row in rows)
    others = (
        [] if index else [row for row in rows if row != names]
    )  # files that were put together may have the header more than once
    if any(sum(row[place : place + 1] == [names[place]] for row in others) > 1 for place in words):
        return False
    for place, name in enumerate(names):
        names[place] = name.strip() or f"column {place + 1}"
    if not names:
        raise DataError(f"{path} has no header: its first line must name the columns.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path} has two columns {twice[0]!r}: rename one in its first line.")
    return True


def _is_named(cells: list[str], data: list[int], columns: dict[int, list[str]]) -> bool:
    """Whether a word, or no name, lies above numbers or dates: pandas calls a series without a name ``0``."""
    if [cells[place] for place in data] != ["0"]:
        return False
    others = [place for place, cell in enumerate(cells) if place not in data and cell.lower() not in NO_NUMBER]
    return any(
        len(columns[place]) > 2
        and all(_NUMBER.fullmatch(one.strip()) or looks_like_date(one) for one in columns[place])
        for place in others
    )


def _labels_of_steps(cells: list[str]) -> bool:
    """Whether numbers or dates in a first line may name the steps of a series: three or more whole ones that ascend."""
    if len(cells) < 3 or any(_NUMBER.fullmatch(cell) and not cell.isdigit() for cell in cells):
        return False
    if all(cell.isdigit() for cell in cells):
        return all(int(a) < int(b) for a, b in pairwise(cells))
    return len(set(cells)) == len(cells) and not any(cell.isdigit() for cell in cells)


def _among(cells: list[str], columns: dict[int, list[str]]) -> bool:
    """Whether numbers in no order, five or more, are in three columns of four between those of five rows below."""
    numbers = [float(cell) for cell in cells]
    ordered = all(a <= b for a, b in pairwise(numbers)) or all(a >= b for a, b in pairwise(numbers))
    if len(cells) < 5 or ordered:
        return False
    inside = 0
    for place, number in enumerate(numbers):
        below = [float(cell) for cell in columns[place] if _NUMBER.fullmatch(cell.strip())]
        inside += len(below) >= 5 and min(below) <= number <= max(below)
    return 4 * inside >= 3 * len(cells)


def _measured(cells: list[str]) -> bool:
    """Whether all cells are numbers that name nothing: some are not whole, and they do not ascend."""
    if not all(map(_NUMBER.fullmatch, cells)) or all(map(str.isdigit, cells)):
        return False
    return len(cells) < 3 or any(float(a) >= float(b) for a, b in pairwise(cells))


def _alike(first: str, below: str) -> bool:
    """Whether a cell of the first line could belong to the column of a cell below it."""
    if _NUMBER.fullmatch(first):
        return not below or bool(_NUMBER.fullmatch(below)) or below.lower() in ("nan", "na", "null", "?")
    return not below or looks_like_date(below)


def _fill(table: Table, file: Utf8, path: Path, names: list[str], delimiter: str, skip: int) -> Table:
    """Let DuckDB read the rows: strictly, else with short rows filled up, else with quotes as they come."""
    columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(names)))
    # Larger lines need larger buffers, which would take memory from everything else.
    large = file.path.stat().st_size > limits.LINE_BYTES
    options = (
        f"auto_detect = false, header = false, compression = 'none', encoding = 'utf-8', delim = {literal(delimiter)}, "
        f"quote = '\"', escape = '\"', nullstr = '', max_line_size = {limits.LINE_BYTES}, columns = {{{columns}}}, "
        f"skip = {skip}" + f", buffer_size = {2 * limits.LINE_BYTES}" * large
    )

    def attempt(more: str = "") -> str:
        """The error of DuckDB, empty if there is none."""
        query = f"SELECT * FROM read_csv({literal(path_pattern(file.path))}, {options}{more})"
        with table.database.reading():
            try:
                table.database.connection.execute(f"CREATE OR REPLACE TABLE read AS {query}")
            except duckdb.InvalidInputException as error:
                return str(error)
        return ""

    padded = ", null_padding = true, parallel = false"
    wrong = attempt()
    if (fields := _FIELDS.search(wrong)) and int(fields[2]) < int(fields[1]):
        # While short rows are filled up DuckDB passes over a quote that is never closed: it is looked for before.
        unclosed = []
        if file.quotes % 2 and not attempt(", ignore_errors = true, store_rejects = true"):
            unclosed = table.database.execute(
                "SELECT line FROM reject_errors WHERE error_type = 'UNQUOTED VALUE' ORDER BY line LIMIT 1"
            )
        wrong = f"CSV Error on Line: {unclosed[0][0]}\n{_UNCLOSED}" if unclosed else attempt(padded)
    if _UNCLOSED in wrong and file.quotes % 2 == 0 and not attempt(f", strict_mode = false{padded}"):
        wrong = ""
        table.notes.append(
            f'{path.name}: some quotes (") are not doubled, as CSV has them; they are read as they come.'
        )
    if wrong:
        raise DataError(f"{path} cannot be read: {_reason(wrong, skip)}")
    if len(names) == 1:  # a blank line is an empty cell, but for those at the end
        filled = "rowid <= (SELECT max(rowid) FROM read WHERE c0 IS NOT NULL)"
    else:  # Excel writes separators alone for rows below a table
        filled = f"coalesce({', '.join(f'c{place}' for place in range(len(names)))}) IS NOT NULL"
    table.fill(f"SELECT * FROM read WHERE {filled}", names)
    table.database.execute("DROP TABLE read")
    return table


_FIELDS = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")
_UNCLOSED = "unterminated quote"


def _reason(words: str, skip: int) -> str:
    """What DuckDB found wrong, in our words."""
    line = int(found[1]) if (found := re.search(r"CSV Error on Line: (\d+)", words)) else 0
    if match := _FIELDS.search(words):
        return f"line {line} has {match[2]} fields, the header has {match[1]}: {HOW_TO_QUOTE}"
    if _UNCLOSED in words:
        return f'row {line - skip} opens a quote (") that is never closed.'
    if "Maximum line size" in words:
        return f"line {line} is longer than {limits.LINE_BYTES >> 20} MB, the most that is read."
    return words.partition("\n")[0].partition(": ")[2][:300].rstrip(". ") + "."


def _batches(rows: Iterator[list[str]], source: str, schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
    """Rows of more columns than DuckDB reads fast (see `limits.WIDE`), short ones filled up."""
    done, width = 0, len(schema)
    while some := list(islice(rows, max(1, (1 << 20) // width))):
        for row in some:
            done += 1
            if len(row) > width:
                raise DataError(
                    f"{source} cannot be read: row {done} has {len(row)} fields, the header has {width}: {HOW_TO_QUOTE}"
                )
            row += [""] * (width - len(row))
        columns = (pyarrow.array(column, pyarrow.string()) for column in zip(*some, strict=True))
        yield pyarrow.RecordBatch.from_arrays(list(columns), schema=schema)
