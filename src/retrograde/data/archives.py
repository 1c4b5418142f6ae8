"""Formats that DuckDB does not know: CoNLL, the archives of UCR, UEA (.ts, .arff) and Monash (.tsf), Excel."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow

from ..errors import DataError
from . import limits
from .files import bytes_of, check_encoding, decoded
from .table import BLOCK, Table

__all__ = ["read_arff", "read_conll", "read_ts", "read_tsf", "read_xlsx"]

MISSING = ("?", "nan", "na", "")


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
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


def _table(path: Path, rows: Iterable[tuple[Any, ...]], names: list[str], kinds: list[Any], **known: Any) -> Table:
    """A table of rows of Python's values."""
    schema = pyarrow.schema(list(zip([f"f{n}" for n in range(len(names))], kinds, strict=True)))
    table = Table(str(path), known.get("notes", ()))
    table.frequency = known.get("frequency", "")

    def batches() -> Iterator[pyarrow.RecordBatch]:
        rest = iter(rows)
        while some := list(islice(rest, BLOCK)):
            columns = [pyarrow.array(column, kind) for column, kind in zip(zip(*some, strict=True), kinds, strict=True)]
            yield pyarrow.RecordBatch.from_arrays(columns, schema=schema)

    return table.fill_from(batches(), schema, names)


def _number(path: Path, line: int, cell: str) -> float | None:
    if cell.strip().lower() in MISSING:
        return None
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{path}: line {line}: {cell.strip()[:40]!r} is no number.") from None


# --- CoNLL ------------------------------------------------------------------------------------------------------------


def read_conll(path: Path, encoding: str) -> Table:
    """A token a line with its labels beside it, an empty line after each sentence; each sentence a row of lists."""

    def sentences() -> Iterator[list[list[str]]]:
        held: list[list[str]] = []
        width = None
        for number, line in _lines(path, encoding):
            cells = [cell.strip() for cell in (line.split("\t") if "\t" in line else line.split())]
            if not any(cells) or cells[0] == "-DOCSTART-":
                if held:
                    yield held
                    held = []
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise DataError(f"{path}: line {number} has {len(cells)} columns, those above it have {width}.")
            held.append(cells)
        if held:
            yield held

    first = next(sentences(), None)
    if first is None:
        raise DataError(f"{path} has no rows.")
    width = len(first[0])
    names = ["tokens", *(f"column {place}" for place in range(2, width)), *(["tags"] if width > 1 else [])]
    rows = ((tuple([cells[place] for cells in one] for place in range(width))) for one in sentences())
    return _table(path, rows, names, [pyarrow.list_(pyarrow.string())] * width)


# --- .ts and .tsf -----------------------------------------------------------------------------------------------------


def _header(path: Path, encoding: str) -> tuple[dict[str, str], list[list[str]], int]:
    """The tags before ``@data`` (lower case) with their values, the attributes, and the line where the data begins."""
    tags: dict[str, str] = {}
    attributes: list[list[str]] = []
    for number, line in _lines(path, encoding):
        line = line.strip()
        if not line or line.startswith(("#", "%")):
            continue
        tag, _, value = line.partition(" ")
        if not tag.startswith("@"):
            break
        if tag.lower() == "@data":
            return tags, attributes, number
        if tag.lower() == "@attribute":
            attributes.append([*_attribute(value)])
        tags[tag.lower()[1:]] = value.strip()
    raise DataError(f"{path} has no line @data: it is no such archive (as text it is read with --task language).")


def _attribute(value: str) -> tuple[str, str]:
    """Name and type of an attribute; a name with spaces is quoted."""
    if match := re.match(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"([^"]*)"|(\S+))\s+(.*)""", value):
        return next(one for one in match.groups()[:3] if one is not None), match[4].strip()
    return value.strip(), ""


def read_ts(path: Path, encoding: str) -> Table:
    """A series a row: ``channel:channel:label``, numbers between commas; of UCR and UEA (sktime, aeon).

    Several channels are columns ``channel_1``, …; of equal length, and one series a row. Time stamps ``(time,value)``
    are passed over: the values are taken as they lie.
    """
    tags, _, begin = _header(path, encoding)
    labelled = tags.get("classlabel", "false").lower().startswith("true")
    target = tags.get("targetlabel", "false").lower().startswith("true")
    stamped = tags.get("timestamps", "false").lower().startswith("true")

    def rows() -> Iterator[list[str]]:
        for number, line in _lines(path, encoding):
            if number > begin and line.strip() and not line.startswith("#"):
                cells = _stamped(line) if stamped else line.strip().split(":")
                if width and len(cells) != width:
                    raise DataError(f"{path}: line {number} has {len(cells)} parts, those above it have {width}.")
                yield [str(number), *cells]

    width = 0
    first = next(rows(), None)
    if first is None:
        raise DataError(f"{path} has no rows.")
    width = len(first) - 1
    channels = width - (labelled or target)
    if channels < 1:
        raise DataError(f"{path}: line {first[0]} has no series before its label.")

    def parsed() -> Iterator[tuple[Any, ...]]:
        for number, *cells in rows():
            lists = [[_number(path, int(number), one) for one in cell.split(",")] if cell.strip() else []
                     for cell in cells[:channels]]  # fmt: skip
            label = (cells[-1].strip() or None,) if labelled else (_number(path, int(number), cells[-1]),) * target
            yield (*lists, *label)

    names = ["series"] if channels == 1 else [f"channel_{place}" for place in range(1, channels + 1)]
    kinds = [pyarrow.list_(pyarrow.float64())] * channels
    if labelled or target:
        names, kinds = [*names, "label"], [*kinds, pyarrow.string() if labelled else pyarrow.float64()]
    return _table(path, parsed(), names, kinds)


def _stamped(line: str) -> list[str]:
    """The parts of a line of ``(time,value)`` pairs, the values between commas."""
    parts = re.split(r":(?![^()]*\))", line.strip())
    return [",".join(re.findall(r",\s*([^(),]*)\)", part)) if part.startswith("(") else part for part in parts]


FREQUENCIES = {
    "minutely": "1min", "10_minutes": "10min", "half_hourly": "30min", "hourly": "1h", "daily": "1d", "weekly": "1w",
    "monthly": "1mo", "quarterly": "3mo", "yearly": "1y", "4_seconds": "4s", "seconds": "1s",
}  # fmt: skip


def read_tsf(path: Path, encoding: str) -> Table:
    """A series a row with its attributes, ``attribute:…:numbers``; of Monash."""
    tags, attributes, begin = _header(path, encoding)
    width = len(attributes)
    kinds: list[Any] = [pyarrow.float64() if kind == "numeric" else pyarrow.string() for _, kind in attributes]

    def rows() -> Iterator[tuple[Any, ...]]:
        for number, line in _lines(path, encoding):
            if number <= begin or not line.strip() or line.startswith("#"):
                continue
            cells = line.strip().split(":")
            if len(cells) != width + 1:
                raise DataError(f"{path}: line {number} has {len(cells)} parts; {width + 1} are named above @data.")
            known: list[Any] = []
            for cell, (_, kind) in zip(cells, attributes, strict=False):
                if kind == "date":  # 2004-03-01 10-30-00
                    cell = re.sub(r"(\d\d)-(\d\d)-(\d\d)$", r"\1:\2:\3", cell.strip())
                known.append(_number(path, number, cell) if kind == "numeric" else cell)
            yield (*known, [_number(path, number, one) for one in cells[-1].split(",")])

    names = [name for name, _ in attributes] + ["target"]
    frequency = FREQUENCIES.get(tags.get("frequency", "").lower(), "")
    return _table(path, rows(), names, [*kinds, pyarrow.list_(pyarrow.float64())], frequency=frequency)


# --- ARFF -------------------------------------------------------------------------------------------------------------


def read_arff(path: Path, encoding: str) -> Table:
    """Rows of cells under named attributes, as Weka has them; a relational attribute is a list for each channel."""
    relational: list[str] = []
    attributes: list[tuple[str, str]] = []
    begin, inside = 0, ""
    for number, line in _lines(path, encoding):
        tag, _, value = line.strip().partition(" ")
        if tag.lower() == "@data":
            begin = number
            break
        if tag.lower() == "@attribute":
            name, kind = _attribute(value)
            if kind.lower() == "relational":
                inside = name
                relational.append(name)
            elif not inside:
                attributes.append((name, kind))
            if kind.lower() == "relational":
                attributes.append((name, "relational"))
        elif tag.lower() == "@end":
            inside = ""
    if not begin:
        raise DataError(f"{path} has no line @data: it is no such archive.")
    numeric = {"numeric", "real", "integer"}
    channels: dict[str, int] = {}

    def rows() -> Iterator[tuple[int, list[str]]]:
        for number, line in _lines(path, encoding):
            if number <= begin or not line.strip() or line.startswith("%"):
                continue
            if line.lstrip().startswith("{"):
                raise DataError(f"{path}: line {number} is sparse ({{…}}); write all of its cells.")
            quote = "'" if "'" in line else '"'
            cells = next(csv.reader([line.strip()], quotechar=quote, skipinitialspace=True, escapechar="\\"))
            if relational:  # "\n" within the quotes ends a channel
                cells = next(csv.reader([line.strip()], quotechar=quote, skipinitialspace=True))
            if len(cells) != len(attributes):
                raise DataError(
                    f"{path}: line {number} has {len(cells)} cells; {len(attributes)} are named above @data."
                )
            yield number, cells

    first = next(rows(), None)
    if first is None:
        raise DataError(f"{path} has no rows.")
    names: list[str] = []
    kinds: list[Any] = []
    for (name, kind), cell in zip(attributes, first[1], strict=True):
        if kind == "relational":
            channels[name] = cell.count("\\n") + 1
            many = channels[name] > 1
            names += [f"{name}_{place}" if many else name for place in range(1, channels[name] + 1)]
            kinds += [pyarrow.list_(pyarrow.float64())] * channels[name]
        else:
            names.append(name)
            kinds.append(pyarrow.float64() if kind.lower().split(" ")[0] in numeric else pyarrow.string())

    def parsed() -> Iterator[tuple[Any, ...]]:
        for number, cells in rows():
            row: list[Any] = []
            for (name, kind), cell in zip(attributes, cells, strict=True):
                if kind == "relational":
                    parts = cell.split("\\n")
                    if len(parts) != channels[name]:
                        raise DataError(f"{path}: line {number} has {len(parts)} channels, not {channels[name]}.")
                    row += [[_number(path, number, one) for one in part.split(",")] for part in parts]
                elif kind.lower().split(" ")[0] in numeric:
                    row.append(_number(path, number, cell))
                else:
                    row.append(None if cell.strip() in ("?", "") else cell.strip())
            yield tuple(row)

    return _table(path, parsed(), names, kinds)


# --- Excel ------------------------------------------------------------------------------------------------------------


def read_xlsx(path: Path) -> Table:
    """The first sheet of a workbook, whose first row names the columns.

    DuckDB's own reader is an extension that would have to be downloaded; ``openpyxl`` is an extra of this package.
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
    except Exception as error:  # zipfile's, openpyxl's and the XML parser's own kinds
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300].rstrip('.')}.") from None
    try:
        sheet = book.worksheets[0]
        rows = (list(row) for row in sheet.iter_rows(values_only=True) if any(cell is not None for cell in row))
        names = ["" if cell is None else str(cell).strip() for cell in next(rows, [])]
        if not names:
            raise DataError(f"{path} has no header: its first row must name the columns.")
        names = [name or f"column {place}" for place, name in enumerate(names, 1)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path} has two columns {twice!r}: rename one in its first row.")
        notes = []
        if len(book.worksheets) > 1:
            notes.append(f"of the sheets of {path.name} the first is read, {sheet.title!r}.")
        cells = (tuple(_cell(cell) for cell in row[: len(names)] + [None] * (len(names) - len(row))) for row in rows)
        return _table(path, cells, names, [pyarrow.large_string()] * len(names), notes=notes)
    finally:
        book.close()


def _cell(value: Any) -> str | None:
    """A cell of a sheet as text: whole numbers without a point, days without a time."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return re.sub(r"[ T]00:00:00$", "", value.isoformat(sep=" ") if hasattr(value, "year") else str(value))
