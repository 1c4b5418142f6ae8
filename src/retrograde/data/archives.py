"""Formats that DuckDB does not read: CoNLL, the archives of UCR, UEA (.ts, .arff) and Monash (.tsf)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow

from ..errors import DataError
from . import limits
from .files import bytes_of, check_encoding, decoded
from .table import BLOCK, Table


class _Column(NamedTuple):
    """A column of an archive: its name, its type, and what reads a cell (ValueError: what is wrong with it)."""

    name: str
    kind: pyarrow.DataType
    read: Callable[[str], Any]


Lines = Iterator[tuple[int, str]]
Rows = Iterator[tuple[int, list[str]]]


def _lines(path: Path, encoding: str) -> Lines:
    """The lines of a text file with their numbers, none longer than `limits.LINE_BYTES`."""
    check_encoding(encoding)
    rest, number = "", 0
    for piece in decoded(bytes_of(path), encoding, str(path)):
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            number += 1
            yield number, line
        if len(rest) > limits.LINE_BYTES:
            raise DataError(f"{path} has a line of more than {limits.LINE_BYTES >> 20} MB, the most that is read.")
    if rest:
        yield number + 1, rest


def _table(
    path: Path, rows: Iterable[Sequence[Any]], names: list[str], kinds: list[Any], notes: Iterable[str] = ()
) -> Table:
    """A table of rows of Python's values."""
    schema = pyarrow.schema([(f"f{place}", kind) for place, kind in enumerate(kinds)])

    def batches() -> Iterator[pyarrow.RecordBatch]:
        rest = iter(rows)
        while some := list(islice(rest, BLOCK)):
            cells = [pyarrow.array(column, kind) for column, kind in zip(zip(*some, strict=True), kinds, strict=True)]
            yield pyarrow.RecordBatch.from_arrays(cells, schema=schema)

    return Table(str(path), notes).fill_from(batches(), schema, names)


def _typed(path: Path, rows: Rows, columns: list[_Column]) -> Table:
    """A table of rows of cells, each read as its column says."""

    def values() -> Iterator[list[Any]]:
        for number, cells in rows:
            try:
                yield [column.read(cell) for column, cell in zip(columns, cells, strict=True)]
            except ValueError as error:
                raise DataError(f"{path}: line {number}: {error}.") from None

    return _table(path, values(), [column.name for column in columns], [column.kind for column in columns])


def _number(cell: str) -> float | None:
    if cell.strip().lower() in ("?", "nan", "na", ""):
        return None
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{cell.strip()[:40]!r} is not a number") from None


def _numbers(cell: str) -> list[float | None]:
    return [_number(one) for one in cell.split(",")] if cell.strip() else []


def _word(cell: str) -> str | None:
    return None if cell.strip() in ("?", "") else cell.strip()


def _column(name: str, kind: str) -> _Column:
    """A column of numbers, of lists of numbers or of words, by the name of the attribute's type."""
    if kind.lower().split(" ")[0] in ("numeric", "real", "integer"):
        return _Column(name, pyarrow.float64(), _number)
    if kind == "list":
        return _Column(name, pyarrow.list_(pyarrow.float64()), _numbers)
    return _Column(name, pyarrow.string(), _word)


# --- CoNLL ------------------------------------------------------------------------------------------------------------


def read_conll(path: Path, encoding: str) -> Table:
    """A token a line with its labels after it, an empty line after each sentence; each sentence a row of lists."""

    def sentences() -> Iterator[list[tuple[str, ...]]]:
        sentence: list[list[str]] = []
        width = 0
        for number, line in _lines(path, encoding):
            cells = [cell.strip() for cell in (line.split("\t") if "\t" in line else line.split())]
            if not any(cells) or cells[0] == "-DOCSTART-":
                if sentence:
                    yield list(zip(*sentence, strict=True))
                    sentence = []
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise DataError(f"{path}: line {number} has {len(cells)} columns, those above it have {width}.")
            sentence.append(cells)
        if sentence:
            yield list(zip(*sentence, strict=True))

    width = len(next(sentences(), ()))
    if not width:
        raise DataError(f"{path} has no rows.")
    names = ["tokens", *(f"column {place}" for place in range(2, width)), *(["tags"] if width > 1 else [])]
    return _table(path, sentences(), names, [pyarrow.list_(pyarrow.string())] * width)


# --- .ts, .tsf and .arff ----------------------------------------------------------------------------------------------


class _Header(NamedTuple):
    """What stands above ``@data``: tags (lower case) with their values, names and types of attributes, its line."""

    tags: dict[str, str]
    attributes: list[tuple[str, str]]
    end: int


def _header(path: Path, encoding: str) -> _Header:
    """The header of an archive; attributes within a relational one are left out."""
    tags: dict[str, str] = {}
    attributes: list[tuple[str, str]] = []
    inside = False
    for number, line in _lines(path, encoding):
        tag, value = (*line.strip().split(None, 1), "", "")[:2]
        tag = tag.lower()
        if tag and not tag.startswith(("#", "%", "@")):
            break
        if tag == "@data":
            return _Header(tags, attributes, number)
        if tag == "@attribute":
            name, kind = _attribute(value)
            if not inside:
                attributes.append((name, kind))
            inside |= kind.lower() == "relational"
        inside &= tag != "@end"
        tags[tag[1:]] = value.strip()
    raise DataError(f"{path} has no line @data: it is not such an archive (as text it is read with --task language).")


_QUOTED = r"""'([^'\\]*(?:\\.[^'\\]*)*)'|"([^"\\]*(?:\\.[^"\\]*)*)\""""
_NAMED = re.compile(rf"(?:{_QUOTED}|([^\s{{]+))\s*(.*)")  # a name with spaces is quoted
_CELL = re.compile(rf"\s*(?:{_QUOTED}|([^,]*?))\s*(?:,|$)")
_ESCAPED = re.compile(r"\\(.)")


def _unescaped(text: str) -> str:
    """What lies within quotes: a backslash stands before quotes, itself and ``n``, ``r``, ``t``."""
    return _ESCAPED.sub(lambda found: {"n": "\n", "r": "\r", "t": "\t"}.get(found[1], found[1]), text)


def _attribute(line: str) -> tuple[str, str]:
    """Name and type of an attribute."""
    match = _NAMED.match(line)
    if match is None:
        return line, ""
    single, double, bare, kind = match.groups()
    quoted = single if single is not None else double
    return (bare if quoted is None else _unescaped(quoted)), kind.strip()


def _cell(line: str, at: int) -> tuple[tuple[str, bool], int, bool]:
    """A cell of a line of ARFF as it stands, and whether it is in quotes; where it ends, and whether a comma follows.

    Raises ValueError for a quote that does not end with the cell.
    """
    match = _CELL.match(line, at)
    if match is None or (match[3] and match[3][0] in "'\""):
        raise ValueError(f"{line[at:].strip()[:40]!r} opens a quote that does not end its cell")
    quoted = match[1] if match[1] is not None else match[2]
    return ((match[3], False) if quoted is None else (quoted, True)), match.end(), match[0].endswith(",")


def _cells(line: str) -> list[tuple[str, bool]]:
    """The cells between the commas of a line of ARFF, see `_cell`."""
    found: list[tuple[str, bool]] = []
    at, more = 0, True
    while more:
        cell, at, more = _cell(line, at)
        found.append(cell)
    return found


def _data(path: Path, encoding: str, header: _Header) -> Lines:
    """The lines below a header, without remarks."""
    for number, line in _lines(path, encoding):
        if number > header.end and line.strip() and not line.startswith(("#", "%")):
            yield number, line.strip()


def _first(path: Path, rows: Rows) -> tuple[int, list[str]]:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} has no rows.")
    return first


def read_ts(path: Path, encoding: str) -> Table:
    """A series a row: ``channel:channel:label``, numbers between commas; of UCR and UEA (sktime, aeon).

    Several channels are columns ``channel_1``, …; of equal length, and one series a row. Time stamps ``(time,value)``
    are ignored: the values are taken in their order.
    """
    header, width = _header(path, encoding), 0
    labelled, target, stamped = (
        header.tags.get(tag, "false").lower().startswith("true") for tag in ("classlabel", "targetlabel", "timestamps")
    )

    def rows() -> Rows:
        for number, line in _data(path, encoding, header):
            cells = line.split(":")
            if stamped:
                cells = re.split(r":(?![^()]*\))", line)
                cells = [",".join(re.findall(r",\s*([^(),]*)\)", c)) if c.startswith("(") else c for c in cells]
            if width and len(cells) != width:
                raise DataError(f"{path}: line {number} has {len(cells)} parts, those above it have {width}.")
            yield number, cells

    line, cells = _first(path, rows())
    width = len(cells)
    channels = width - (labelled or target)
    if channels < 1:
        raise DataError(f"{path}: line {line} has no series before its label.")
    columns = [_column(f"channel_{place}" if channels > 1 else "series", "list") for place in range(1, channels + 1)]
    if labelled:
        columns.append(_Column("label", pyarrow.string(), lambda cell: cell.strip() or None))
    elif target:
        columns.append(_column("label", "numeric"))
    return _typed(path, rows(), columns)


_FREQUENCIES = {
    "minutely": "1min", "half_hourly": "30min", "hourly": "1h", "daily": "1d", "weekly": "1w", "monthly": "1mo",
    "quarterly": "3mo", "yearly": "1y",
}  # fmt: skip
_UNITS = {"second": "s", "minute": "min", "hour": "h", "day": "d", "week": "w", "month": "mo", "year": "y"}


def _frequency(words: str) -> str | None:
    """How far steps lie apart, of ``monthly`` or ``10_minutes``; None if it is not known."""
    count = re.fullmatch(rf"(?:(\d+)_)?({'|'.join(_UNITS)})s?", words)
    return f"{count[1] or 1}{_UNITS[count[2]]}" if count else _FREQUENCIES.get(words)


def read_tsf(path: Path, encoding: str) -> Table:
    """A series a row with its attributes, ``attribute:…:numbers``; of Monash."""
    header = _header(path, encoding)
    clock = re.compile(r"(\d\d)-(\d\d)-(\d\d)$")  # of 2004-03-01 10-30-00
    columns = [
        _column(name, kind)
        if kind == "numeric"
        else _Column(name, pyarrow.string(), str if kind != "date" else lambda one: clock.sub(r"\1:\2:\3", one.strip()))
        for name, kind in header.attributes
    ]
    columns.append(_Column("target", pyarrow.list_(pyarrow.float64()), lambda one: list(map(_number, one.split(",")))))

    def rows() -> Rows:
        for number, line in _data(path, encoding, header):
            cells = line.split(":")
            if len(cells) != len(columns):
                raise DataError(f"{path}: line {number} has {len(cells)} parts; {len(columns)} are named above @data.")
            yield number, cells

    table = _typed(path, rows(), columns)
    if words := header.tags.get("frequency", "").lower():
        table.frequency = _frequency(words) or ""
        if not table.frequency:
            table.notes.append(f"@frequency {words!r:.40} is not known; --season says how many steps a season has.")
    steps = header.tags.get("horizon", "")
    table.horizon = int(steps) if re.fullmatch(r"[1-9]\d{0,8}", steps) else None
    return table


def read_arff(path: Path, encoding: str) -> Table:
    """Rows of cells under named attributes, as Weka has them; a relational attribute is a list for each channel.

    Of a sparse row, ``{1 0.5, 3 yes}``, cells that are not written are 0, or the first value of a nominal attribute.
    """
    header = _header(path, encoding)
    named = header.attributes
    relational = [kind.lower() == "relational" for _, kind in named]
    unwritten = [_unwritten(kind) for _, kind in named]
    widths: list[int] = []  # channels of each attribute

    def rows() -> Rows:
        for number, line in _data(path, encoding, header):
            try:
                cells = _sparse(line, unwritten) if line.startswith("{") else _cells(line)
            except ValueError as error:
                raise DataError(f"{path}: line {number}: {error}.") from None
            if len(cells) != len(named):
                raise DataError(f"{path}: line {number} has {len(cells)} cells; {len(named)} are named above @data.")
            parts = [  # "\\n" within the quotes ends a channel
                cell.split("\\n") if many else [_unescaped(cell) if quoted else cell]
                for (cell, quoted), many in zip(cells, relational, strict=True)
            ]
            if not widths:
                widths.extend(map(len, parts))
            if wrong := [(len(part), width) for part, width in zip(parts, widths, strict=True) if len(part) != width]:
                raise DataError(f"{path}: line {number} has {wrong[0][0]} channels, not {wrong[0][1]}.")
            yield number, [cell for part in parts for cell in part]

    _first(path, rows())
    columns: list[_Column] = []
    for (name, kind), many, width in zip(named, relational, widths, strict=True):
        names = [f"{name}_{place}" for place in range(1, width + 1)] if width > 1 else [name]
        columns += [_column(one, "list" if many else kind) for one in names]
    return _typed(path, rows(), columns)


def _unwritten(kind: str) -> str | None:
    """What a cell is that a sparse row does not write, by the type of its attribute; None if that is not known."""
    if kind.startswith("{"):
        cell, quoted = _cells(kind[1:].rpartition("}")[0])[0]
        return _unescaped(cell) if quoted else cell
    return "0" if kind.lower().split(" ")[0] in ("numeric", "real", "integer") else None


def _sparse(line: str, unwritten: list[str | None]) -> list[tuple[str, bool]]:
    """The cells of a sparse row; ValueError if it is not one."""
    inner, end, rest = line[1:].rpartition("}")
    if not end or rest.strip():
        raise ValueError("a sparse row ends with }")
    found: list[tuple[str, bool] | None] = [None if one is None else (one, False) for one in unwritten]
    at, more = 0, bool(inner.strip())
    while more:
        place = re.compile(r"\s*(\d+)\s").match(inner, at)
        if place is None or int(place[1]) >= len(found):
            raise ValueError(f"{inner[at : at + 20]!r} has no number of an attribute, from 0 to {len(found) - 1}")
        found[int(place[1])], at, more = _cell(inner, place.end())
    if None in found:
        raise ValueError(f"attribute {found.index(None)} is text and has no cell in this sparse row")
    return [cell for cell in found if cell is not None]
