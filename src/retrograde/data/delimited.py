"""Text tables: their encoding, remarks, separator and header are looked at here; the rows are read by DuckDB."""

from __future__ import annotations

import codecs
import csv
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from . import limits
from .database import literal, path_pattern
from .dates import looks_like_date
from .files import bytes_of, check_encoding, decoded, some_of
from .table import NO_NUMBER, Table

__all__ = ["Utf8", "read_csv", "utf8"]

HOW_TO_QUOTE = 'put "…" around fields that hold the separator.'
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


# --- A file as UTF-8 --------------------------------------------------------------------------------------------------


@dataclass
class Utf8:
    r"""A text file as UTF-8 with line ends that are all alike.

    Attributes
    ----------
    path : Path
        The file itself, or a temporary copy where it is packed, has another encoding or different line ends.
    returns : int
        Carriage returns within lines that were replaced by spaces in the copy.
    quotes : int
        Quotation marks.
    """

    path: Path
    returns: int = 0
    quotes: int = 0


@contextmanager
def utf8(path: Path, encoding: str) -> Iterator[Utf8]:
    """Read a text file through, so that what cannot be decoded is named by its place, and see whether it needs a copy.

    Raises
    ------
    DataError
        If it is not text of this encoding, or a line is longer than `limits.LINE_BYTES`.
    """
    check_encoding(encoding)
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
    with path.open("rb") as file:
        head = file.read(3)
    plain = codecs.lookup(encoding).name in ("utf-8", "ascii") and head[:2] != b"\x1f\x8b" and head != codecs.BOM_UTF8
    if plain and returns == pairs and newlines in (pairs, newlines - pairs + pairs * (pairs == 0)):
        yield Utf8(path, 0, quotes)
        return
    stray = returns - pairs if newlines else 0  # without any line feed they end the lines, as on old Macs
    with tempfile.NamedTemporaryFile(prefix="retrograde-", suffix=".txt") as copy:
        held = ""
        for piece in decoded(bytes_of(path), encoding, str(path), translate=False):
            piece = held + piece
            held = "\r" if piece.endswith("\r") else ""
            piece = piece[: len(piece) - len(held)].replace("\r\n", "\n").replace("\r", " " if newlines else "\n")
            copy.write(piece.encode("utf-8", "replace"))
        copy.flush()
        yield Utf8(Path(copy.name), stray, quotes)


# --- CSV --------------------------------------------------------------------------------------------------------------


def read_csv(path: Path, encoding: str, delimiter: str | None) -> Table:
    """A table of fields with a separator between; every cell is text, and its type is decided by the part it plays.

    Parameters
    ----------
    delimiter : str or None
        None: the one of ``,;|`` and tab that the first line has most of.
    """
    with utf8(path, encoding) as file:
        remarks, delimiter, names, rows = _look(file.path, str(path), delimiter)
        header = _header(path, names, rows)
        notes = []
        if delimiter not in (",", "\t") or (delimiter == "\t" and path.suffix.lower() != ".tsv"):
            notes.append(f"{path.name}: columns are separated by {delimiter!r}.")
        if file.returns:
            notes.append(f"{path.name}: {file.returns:,} carriage returns within lines are read as spaces.")
        if not header:
            names = [f"column {place}" for place in range(1, len(names) + 1)]
            notes.append(
                f"{path.name} has no header, its first line holds data: its columns are called 'column 1' to "
                f"'column {len(names)}'."
            )
        table = Table(str(path), notes)
        skipped = remarks + header
        if len(names) > limits.WIDE:
            return _fill_wide(table, file.path, names, rows, delimiter, remarks, header)
        _fill(table, file, names, delimiter, skipped, path)
    return table


def _look(path: Path, name: str, delimiter: str | None) -> tuple[int, str, list[str], list[list[str]]]:
    """Lines of remarks, the separator, the fields of the first line below them, and some rows below that."""
    csv.field_size_limit(limits.LINE_BYTES)
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(islice(file, 50))
        # Remarks on the data, as some programs write them, begin with # and are not cut as the lines below them are.
        remarks = next((place for place, line in enumerate(lines) if not line.startswith("#")), 0)
        if remarks and _marks(lines[remarks - 1]) == _marks(lines[remarks]) != {}:
            remarks -= 1
        if delimiter is None:
            found = _marks(lines[remarks]) if lines else {}
            delimiter = max(",;\t|", key=lambda mark: found.get(mark, 0))  # the first of equals
        file.seek(0)
        for _ in range(remarks):
            file.readline()
        try:
            rows = list(islice((row for row in csv.reader(file, delimiter=delimiter) if row), 200))
        except csv.Error as error:
            raise DataError(f"{name} cannot be read: {error}.") from None
    names = rows[0] if rows else []
    if rows[1:] and len(rows[1]) > len(names):
        raise DataError(f"{name}: the first row has {len(rows[1])} fields, the header has {len(names)}: {HOW_TO_QUOTE}")
    return remarks, delimiter, names, rows[1:]


def _header(path: Path, names: list[str], rows: list[list[str]]) -> bool:
    """Whether the first line names the columns, which are put right; False where it holds data.

    It holds data if it has a number or a date where a name should be, and these are no labels of steps (which ascend),
    or if a word of it comes again in the same column below.

    Raises
    ------
    DataError
        If it holds numbers only, or names that are not different.
    """
    if names and len(set(names)) < len(names) and all(_NUMBER.fullmatch(name) for name in names):
        raise DataError(
            f"{path}: its first line holds numbers, {some_of(names)}: put one before it that names the columns."
        )
    data = [place for place, name in enumerate(names) if _NUMBER.fullmatch(name.strip()) or looks_like_date(name)]
    if rows and data and len(data) < len(names) and not _labels_of_steps([names[place].strip() for place in data]):
        fits = all(_alike(names[place], row[place]) for place in data for row in rows[:50] if place < len(row))
        if fits:
            return False
    words = [place for place, name in enumerate(names) if place not in data and name.strip()]
    if data and any(sum(row[place] == names[place] for row in rows if place < len(row)) > 0 for place in words):
        return False
    for place, name in enumerate(names):
        names[place] = name.strip() or f"column {place + 1}"
    if not names:
        raise DataError(f"{path} has no header: its first line must name the columns.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path} has two columns {twice[0]!r}: rename one in its first line.")
    return True


def _labels_of_steps(cells: list[str]) -> bool:
    """Whether numbers or dates in a first line may name the steps of a series: three or more whole ones that ascend."""
    if len(cells) < 3 or any(_NUMBER.fullmatch(cell) and not cell.isdigit() for cell in cells):
        return False
    if all(cell.isdigit() for cell in cells):
        return all(int(a) < int(b) for a, b in pairwise(cells))
    return len(set(cells)) == len(cells)


def _alike(first: str, below: str) -> bool:
    """Whether a cell could be of the column that one below it is of."""
    below = below.strip()
    if _NUMBER.fullmatch(first.strip()):
        return not below or bool(_NUMBER.fullmatch(below)) or below.lower() in ("nan", "na", "null", "?")
    return not below or looks_like_date(below)


def _marks(line: str) -> dict[str, int]:
    """How often a line has each of the marks that may separate its fields."""
    bare = re.sub(r'"[^"]*"', "", line)
    return {mark: bare.count(mark) for mark in ",;\t|" if mark in bare}


def _fill(table: Table, file: Utf8, names: list[str], delimiter: str, skip: int, path: Path) -> None:
    """Let DuckDB read the rows: strictly, else with short rows filled up, else with quotes as they come."""
    columns = "{" + ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(names))) + "}"
    fixed = (
        f"auto_detect = false, header = false, compression = 'none', encoding = 'utf-8', delim = {literal(delimiter)}, "
        f"quote = '\"', escape = '\"', nullstr = '', max_line_size = {limits.LINE_BYTES}, columns = {columns}"
    )
    named = literal(path_pattern(file.path))
    # Larger lines need larger buffers, which would take memory from everything else.
    buffer = f"buffer_size = {2 * limits.LINE_BYTES}" if file.path.stat().st_size > limits.LINE_BYTES else ""
    options = [f"skip = {skip}", *filter(None, [buffer])]
    # Of a single column a blank line is an empty cell, but for those at the end.
    last = "(SELECT max(rowid) FROM read WHERE c0 IS NOT NULL)"
    kept = f" WHERE rowid <= {last}" if len(names) == 1 else ""

    def attempt(*more: str) -> str | None:
        query = f"SELECT * FROM read_csv({named}, {fixed}, {', '.join([*options, *more])})"
        database = table.database
        try:
            database.connection.execute(f"CREATE OR REPLACE TABLE read AS {query}")
        except duckdb.InvalidInputException as error:
            return str(error)
        except duckdb.Error:
            with database.reading():
                raise
        return None

    wrong = attempt()
    if wrong is not None and _too_few(wrong):
        # While short rows are filled up DuckDB passes over a quote that is never closed: it is looked for before.
        unclosed = file.quotes % 2 == 1 and attempt("ignore_errors = true", "store_rejects = true") is None
        found = table.database.execute(
            "SELECT line FROM reject_errors WHERE error_type = 'UNQUOTED VALUE' ORDER BY line LIMIT 1"
        ) if unclosed else []  # fmt: skip
        if found:
            wrong = f"CSV Error on Line: {found[0][0]}\nValue with unterminated quote found."
        else:
            wrong = attempt("null_padding = true", "parallel = false")
    if wrong is not None and "unterminated quote" in wrong and file.quotes % 2 == 0:
        lenient = attempt("strict_mode = false", "null_padding = true", "parallel = false")
        if lenient is None:
            table.notes.append(
                f'{path.name}: some quotes (") are not doubled, as CSV has them; they are read as they come.'
            )
        wrong = lenient and wrong
    if wrong is not None:
        raise DataError(f"{path} cannot be read: {_reason(wrong, skip)}")
    table.fill(f"SELECT * FROM read{kept}", names)
    table.database.execute("DROP TABLE read")


def _too_few(words: str) -> bool:
    match = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", words)
    return match is not None and int(match[2]) < int(match[1])


def _reason(words: str, skip: int) -> str:
    line = int(found[1]) if (found := re.search(r"CSV Error on Line: (\d+)", words)) else 0
    if match := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", words):
        return f"line {line} has {match[2]} fields, the header has {match[1]}: {HOW_TO_QUOTE}"
    if "unterminated quote" in words:
        return f'row {line - skip} opens a quote (") that is never closed.'
    if "Maximum line size" in words:
        return f"line {line} is longer than {limits.LINE_BYTES >> 20} MB, the most that is read."
    return words.partition("\n")[0].partition(": ")[2][:300].rstrip(". ") + "."


def _fill_wide(
    table: Table, path: Path, names: list[str], rows: list[list[str]], delimiter: str, remarks: int, header: bool
) -> Table:
    """A table of more columns than DuckDB reads fast (see `limits.WIDE`), read by Python's ``csv``."""
    usual = {"label", "class", "target", "y", "id", "group", "time", "date", "name"}
    kept = {0, len(names) - 1} | {place for place, name in enumerate(names) if name.lower() in usual}
    numeric = [
        place
        for place in range(len(names))
        if place not in kept and all(place >= len(row) or _number(row[place]) is not None for row in rows[:50])
    ]
    others = sorted(set(range(len(names))) - set(numeric))
    if len(others) > limits.WIDE:
        raise DataError(f"{table.source} has {len(others):,} columns of text; {limits.WIDE:,} are the most.")

    def parts() -> Iterator[tuple[list[list[str]], NDArray[np.float64]]]:
        done = 0
        with path.open(encoding="utf-8", newline="") as file:
            for _ in range(remarks):
                file.readline()
            reader = csv.reader(file, delimiter=delimiter)
            rest = islice((row for row in reader if row), int(header), None)
            while some := list(islice(rest, max(1, (1 << 20) // len(names)))):
                for row in some:
                    if len(row) > len(names):
                        raise DataError(
                            f"{table.source} cannot be read: row {done + 1} has {len(row)} fields, the header has "
                            f"{len(names)}: {HOW_TO_QUOTE}"
                        )
                    row += [""] * (len(names) - len(row))
                yield (
                    [[row[place] for row in some] for place in others],
                    np.array([_numbers(row, names, numeric, done + n) for n, row in enumerate(some)]),
                )
                done += len(some)

    return table.fill_wide(names, [names[place] for place in numeric], parts())


def _number(cell: str) -> float | None:
    """The number in a cell, NaN where it says that there is none; None where it holds something else."""
    try:
        return float(cell)
    except ValueError:
        return math.nan if cell.strip().lower() in ("", *NO_NUMBER) else None


def _numbers(row: list[str], names: list[str], places: list[int], number: int) -> NDArray[np.float64]:
    cells = [row[place] for place in places]
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        found = [_number(cell) for cell in cells]
    if None in found:
        wrong = found.index(None)
        raise DataError(f"row {number + 1}, column {names[places[wrong]]!r}: {cells[wrong][:40]!r} is no number.")
    return np.array(found, dtype=np.float64)
