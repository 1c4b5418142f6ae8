"""Tables of sequences, from the files users have: CSV, TSV, JSON lines, Parquet, NumPy arrays, folders of texts.

A `Table` is read block by block as often as asked, through Hugging Face ``datasets``, so it need not fit in memory.
`columns_for` decides which column plays which part; `sequences` and `series` turn rows into what a network reads: one
sequence a row, or one step a row, the rows of a sequence sharing a value in the ``group`` column.
"""

from __future__ import annotations

import codecs
import csv
import fnmatch
import gzip
import hashlib
import io
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, OptionError

__all__ = ["Columns", "Record", "Series", "Table", "columns_for", "fingerprint", "open_table", "sequences", "series"]

BLOCK = 1000  # rows read at once
SAMPLE = 1000  # rows looked at to guess what the columns are

Block = dict[str, list[Any]]
Floats = NDArray[np.float32]


@dataclass
class Table:
    """A table that can be read more than once.

    Attributes
    ----------
    source : str
        As the user named it.
    names : list of str
        Of the columns.
    blocks : callable
        Begins to read anew: an iterator of blocks, ``{column: values}``. Cells are text where the file has no types.
    notes : list of str
        What a user should know about the reading.
    """

    source: str
    names: list[str]
    blocks: Callable[[], Iterator[Block]] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def sample(self) -> Block:
        """The first rows."""
        taken: Block = {name: [] for name in self.names}
        for block in self.blocks():
            for name in self.names:
                taken[name] += block[name]
            if len(taken[self.names[0]]) >= SAMPLE:
                break
        return taken


# --- Opening ----------------------------------------------------------------------------------------------------------

HOW_TO_QUOTE = 'put "…" around fields that hold the separator.'
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".npy", ".npz")


def open_table(source: str | Path, encoding: str = "utf-8") -> Table:
    """Open a file or folder as a table.

    Parameters
    ----------
    source : str or Path
        ``.csv``, ``.tsv``, ``.jsonl``/``.ndjson``/``.json`` (an object a line), each also as ``.gz``; ``.parquet``;
        ``.npy`` and ``.npz`` without pickle; a folder of text files, the folder each lies in being its label; or
        ``builtin:digits`` and ``builtin:eeg``.
    encoding : str
        Of text files.

    Raises
    ------
    DataError
        If it is missing, empty, of an unknown kind, or cannot be read as what it seems to be.
    """
    name = str(source)
    if name.startswith("builtin:"):
        return _builtin(name)
    path = Path(name)
    if not path.exists():
        raise DataError(f"{name} does not exist: name a file ({', '.join(SUFFIXES)}) or a folder of texts.")
    if path.is_dir():
        return _texts(path, encoding)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in SUFFIXES:
        raise DataError(
            f"{name} is of a kind that is not known by its name: rename it to one of {', '.join(SUFFIXES)}."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty.")
    if kind in (".npy", ".npz"):
        table = _arrays(path)
    elif kind == ".parquet":
        table = _dataset(path, "parquet", None)
    else:
        encoding = _check_text(path, encoding)
        if kind in (".csv", ".tsv"):
            table = _csv(path, encoding, "\t" if kind == ".tsv" else None)
        else:
            table = _dataset(path, "json", None, encoding=encoding)
    return table


def fingerprint(*sources: str | None) -> str:
    """SHA-256 of what is in some files and folders, by which a run that is resumed knows its data again.

    A copy, or a file with another date, has the same. What is built in goes by its name.

    Raises
    ------
    DataError
        If one cannot be read.
    """
    found = hashlib.sha256()
    for source in sources:
        if source is None or source.startswith("builtin:"):
            found.update(f"{source}\0".encode())
            continue
        path = Path(source)
        for file in _text_files(path) if path.is_dir() else [path]:
            try:
                with file.open("rb") as opened:
                    content = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error.strerror or error}.") from None
            name = file.relative_to(path).as_posix() if path.is_dir() else ""
            found.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return f"sha256:{found.hexdigest()}"


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _check_text(path: Path, encoding: str) -> str:
    """Read a text file through once, so that what cannot be decoded is named by its place. Returns the encoding."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise OptionError(f"--encoding {encoding!r} is not known; try utf-8, latin-1, cp1252, utf-16 …") from None
    offset = 0
    try:
        with _open(path) as file:
            first = file.peek(4)[:4] if hasattr(file, "peek") else b""
            block = file.read(1 << 20)
            while block:
                following = file.read(1 << 20)
                try:
                    text = decoder.decode(block, final=not following)  # the last character must be whole
                except UnicodeDecodeError as error:
                    at = offset + len(block) - len(error.object) + error.start  # bytes may be left of the block before
                    raise DataError(
                        f"{path} is not {encoding}: byte {at} (0x{error.object[error.start]:02x}) cannot be decoded; "
                        "give its --encoding (latin-1, cp1252, utf-16 …)."
                    ) from None
                if "\0" in text:
                    raise DataError(f"{path} is binary, not text: it has NUL characters from byte {offset} on.")
                offset += len(block)
                block = following
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    return "utf-8-sig" if first.startswith(codecs.BOM_UTF8) and encoding.lower() in ("utf-8", "utf8") else encoding


def _csv(path: Path, encoding: str, delimiter: str | None) -> Table:
    csv.field_size_limit(1 << 30)
    with _open(path) as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as file:
        head = file.readline()
        if delimiter is None:
            bare = re.sub(r'"[^"]*"', "", head)
            delimiter = max(",;\t|", key=bare.count)  # the first of equals
        file.seek(0)
        rows = (row for row in csv.reader(file, delimiter=delimiter) if row)
        names, first = next(rows, []), next(rows, [])
    if len(first) > len(names):  # pandas would take what is too much for an index
        raise DataError(f"{path}: the first row has {len(first)} fields, the header has {len(names)}: {HOW_TO_QUOTE}")
    names = [name.strip() or f"column {place}" for place, name in enumerate(names, 1)]
    if not names:
        raise DataError(f"{path} has no header: its first line must name the columns.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path} has two columns {twice[0]!r}: rename one in its first line.")
    import datasets

    # Every cell is read as text: types are decided by the part a column plays, not block by block by how it looks.
    table = _dataset(
        path,
        "csv",
        names,
        sep=delimiter,
        header=0,
        column_names=names,
        features=datasets.Features({name: datasets.Value("string") for name in names}),
        keep_default_na=False,
        encoding=encoding,
    )
    if delimiter not in (",", "\t") or (delimiter == "\t" and path.suffix.lower() != ".tsv"):
        table.notes.append(f"{path.name}: columns are separated by {delimiter!r}.")
    return table


def _dataset(path: Path, kind: str, names: list[str] | None, **options: Any) -> Table:
    def blocks() -> Iterator[Block]:
        with _readable(path):
            import datasets

            rows = datasets.load_dataset(kind, data_files=str(path.resolve()), split="train", streaming=True, **options)
            yield from rows.iter(batch_size=BLOCK)

    first = next(iter(blocks()), None)
    if first is None or not first or not next(iter(first.values())):
        raise DataError(f"{path} has no rows.")
    known = list(first) if names is None else names

    def whole() -> Iterator[Block]:
        for block in blocks():  # a JSON line may lack a key
            size = len(next(iter(block.values())))
            yield {name: block.get(name, [None] * size) for name in known}

    return Table(str(path), known, whole)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the readers raise into one line; what they would print besides is for programmers."""
    quiet = logging.getLogger("datasets")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        yield
    except (DataError, OptionError, GeneratorExit):
        raise
    except Exception as error:  # pandas', pyarrow's and datasets' own kinds have no root in common
        raise DataError(f"{path} cannot be read: {_reason(error, path)}") from None
    finally:
        quiet.setLevel(level)


def _reason(error: BaseException, path: Path) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split())
    if ragged := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", words):
        wanted, line, found = ragged.groups()
        return f"line {line} has {found} fields, the header has {wanted}: {HOW_TO_QUOTE}"
    if ".json" in path.name.lower() or path.suffix == ".ndjson":
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    if line.strip() and not isinstance(json.loads(line), dict):
                        return f"line {number} is no JSON object; each line must be one."
                except ValueError as wrong:
                    return f"line {number} is no JSON: {wrong}."
    return (words or type(error).__name__)[:300].rstrip(".") + "."


def _arrays(path: Path) -> Table:
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r")
        arrays = {"values": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, SyntaxError) as error:
        why = str(error).rstrip(".")
        if "ickle" in why or "Python objects" in why:
            why = "it is no .npy or .npz file, or it holds pickled objects, which are never loaded"
        raise DataError(f"{path} cannot be read: {why}.") from None
    except Exception as error:  # zipfile.BadZipFile, zlib.error, struct.error, tokenize errors of a broken header
        raise DataError(f"{path} cannot be read: {error}.") from None
    arrays = {name: array for name, array in arrays.items() if array.ndim}
    lasts = [name for name in arrays if name.lower() in ("length", "lengths")]
    if not arrays or not len(next(iter(arrays.values()))):
        raise DataError(f"{path} has no rows.")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: its arrays differ in their first dimension, {lengths}; a row is one index of all.")
    return _table_of(str(path), arrays, lengths=arrays.pop(lasts[0]) if lasts and len(arrays) > 1 else None)


def _table_of(source: str, arrays: Mapping[str, NDArray[Any]], lengths: NDArray[Any] | None = None) -> Table:
    """A table of arrays that have a row for each index. A matrix of series, (rows, C), becomes C columns of numbers.

    ``lengths`` says how many steps of each row are real, where the arrays are padded.
    """
    columns: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if array.ndim == 2 and len(arrays) == 1:
            columns |= {f"{name}_{place}": array[:, place] for place in range(array.shape[1])}
        else:
            columns[name] = array
    rows = len(next(iter(columns.values())))

    def blocks() -> Iterator[Block]:
        for start in range(0, rows, BLOCK):
            block = {name: list(array[start : start + BLOCK]) for name, array in columns.items()}
            if lengths is not None:
                ends = [int(end) for end in lengths[start : start + BLOCK]]
                for name, cells in block.items():
                    if columns[name].ndim > 1:
                        block[name] = [cell[:end] for cell, end in zip(cells, ends, strict=True)]
            yield block

    return Table(source, list(columns), blocks)


def _text_files(folder: Path) -> list[Path]:
    """The text files under a folder without hidden ones, in the order of their paths."""
    files = sorted(
        (
            path
            for path in folder.rglob("*")
            if path.is_file() and "/." not in f"/{path.relative_to(folder).as_posix()}"
        ),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    return [path for path in files if path.suffix.lower() in (".txt", ".text", ".md", "")]


def _texts(folder: Path, encoding: str) -> Table:
    files = _text_files(folder)
    if not files:
        raise DataError(f"{folder} holds no text files (.txt): a folder of texts has them in one folder per label.")

    def blocks() -> Iterator[Block]:
        rest = iter(files)
        while some := list(islice(rest, BLOCK)):
            texts = []
            for path in some:
                with _open(path) as file:
                    texts.append(file.read().decode(_check_text(path, encoding)))
            labels = [path.parent.relative_to(folder).as_posix() for path in some]
            names = [path.relative_to(folder).as_posix() for path in some]
            yield {"text": texts, "label": labels, "file": names}

    return Table(str(folder), ["text", "label", "file"], blocks)


def _builtin(name: str) -> Table:
    if name == "builtin:digits":
        from sklearn.datasets import load_digits

        digits = load_digits()  # 1797 pictures of 8 x 8 pixels from 0 to 16, read row by row: 64 steps
        return _table_of(name, {"pixels": digits.data.astype(np.float32), "digit": digits.target})
    if name == "builtin:eeg":
        from matplotlib import cbook

        try:
            path = str(cbook.get_sample_data("eeg.dat", asfileobj=False))
            samples = np.fromfile(path, dtype=float).reshape(800, 4)
        except (OSError, ValueError):
            raise DataError(
                "builtin:eeg is not there: this matplotlib was installed without its sample data."
            ) from None
        return _table_of(name, {f"eeg_{place}": samples[:, place] for place in range(4)})
    raise DataError(f"there is no table {name!r}: there are builtin:digits and builtin:eeg.")


# --- Which column is what ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Which columns play which part.

    Attributes
    ----------
    text, label : str or None
        What is read, and what it is to be called.
    group, time : str or None
        Rows that share a group are the steps of one sequence; time puts them in order.
    target, features : tuple of str
        Numbers to forecast, and numbers to read.
    """

    text: str | None = None
    label: str | None = None
    group: str | None = None
    time: str | None = None
    target: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def used(self) -> list[str]:
        """All of them, each once."""
        names = [self.text, self.label, self.group, self.time, *self.target, *self.features]
        return list(dict.fromkeys(name for name in names if name is not None))


_USUAL = {
    "text": ("text", "sentence", "review", "content", "document", "body", "comment", "message", "tokens", "words",
             "word", "token"),
    "label": ("label", "labels", "class", "category", "sentiment", "target", "y", "tag", "tags", "ner_tags", "ner",
              "pos_tags", "pos", "digit", "stars", "rating", "polarity", "species"),
    "group": ("group", "sequence", "sequence_id", "seq", "seq_id", "series", "series_id", "unique_id", "sentence_id",
              "sentence #", "session", "session_id", "subject", "id"),
    "time": ("time", "date", "datetime", "timestamp", "ds", "t", "step", "month", "year", "day", "hour"),
    "target": ("target", "value", "values", "y", "close", "price", "sales", "demand", "count"),
    "features": ("x", "features", "inputs", "input", "data", "values", "series", "pixels"),
}  # fmt: skip


def columns_for(task: str, table: Table, given: Mapping[str, Any], labelled: bool = True) -> tuple[Columns, list[str]]:
    """Decide the columns of a task: those given, else those that look the part.

    Parameters
    ----------
    task : {"classify", "tag", "forecast"}
    given : mapping
        ``text``, ``label``, ``group``, ``time``: a column's name. ``target``, ``features``: names, a comma between, or
        patterns such as ``pixel*``.
    labelled : bool
        Whether labels are needed (not to predict).

    Returns
    -------
    columns : Columns
    notes : list of str
        What was guessed, in words.

    Raises
    ------
    OptionError
        If a column that is named is not there.
    DataError
        If a part that is needed is played by none.
    """
    sample = table.sample()
    chosen: dict[str, Any] = {}
    for part, value in given.items():
        if value is not None and value != ():
            names = _named(table, part, value)
            chosen[part] = names if part in ("target", "features") else names[0]
    guessed: dict[str, Any] = {}

    def free(*kinds: str) -> list[str]:
        taken = set(Columns(**{**chosen, **guessed}).used())
        return [name for name in table.names if name not in taken and _kind(sample[name]) in kinds]

    def guess(part: str, value: Any) -> None:
        if part not in chosen and value:
            guessed[part] = value

    rows = len(sample[table.names[0]])
    unlike = set(_USUAL["group"]) | {"index", "column 1"}  # numbers that count rows are none to learn from
    if task == "forecast":
        guess("time", _usual("time", free("number", "time")) or next(iter(free("time")), None))
        guess("group", _repeated(sample, _usual("group", free("text"))))
        numbers = [name for name in free("number") if name.lower() not in unlike]
        usual = _usual("target", numbers)
        if "features" in chosen:
            numbers = [name for name in numbers if name not in chosen["features"]]
        guess("target", (usual,) if usual else tuple(numbers))
        if not (chosen.get("target") or guessed.get("target")):
            raise DataError(f"{table.source} has no column of numbers to forecast; there are {_listed(table.names)}.")
    else:
        label = _usual("label", [name for name in free("text", "number", "list") if _could_be_labels(sample[name])])
        if label is None and labelled and "label" not in chosen:
            label = _few_values(sample, free("text", "number"), rows)
        guess("label", label)
        if labelled and not (chosen.get("label") or guessed.get("label")):
            raise DataError(
                f"{table.source}: no column looks like a label; name one with --label "
                f"(there are {_listed(table.names)})."
            )
        guess("group", _repeated(sample, _usual("group", free("text", "number"))))
        if "group" in chosen or "group" in guessed:
            guess("time", _usual("time", free("number", "time")))
        elif "time" in chosen:
            raise OptionError(
                "--time puts the steps of a sequence in order; name the --group of rows that are its steps."
            )
        if "features" not in chosen and "text" not in chosen:
            texts = [name for name in free("text", "list") if not _numeric_list(sample[name])]
            usual = _usual("text", texts)
            numbers = [name for name in free("number") if name.lower() not in unlike]
            numbers += [name for name in free("list") if _numeric_list(sample[name])]
            lists = [name for name in numbers if _kind(sample[name]) == "list"]
            if usual is None and not numbers and texts:
                usual = max(texts, key=lambda name: sum(len(str(cell)) for cell in sample[name]))
            if usual:
                guess("text", usual)
            elif lists:
                guess("features", (_usual("features", lists) or lists[0],))
            else:
                guess("features", tuple(numbers))
        if not any((chosen | guessed).get(part) for part in ("text", "features")):
            raise DataError(
                f"{table.source}: nothing is left to read; name a --text column or --features "
                f"(there are {_listed(table.names)})."
            )
    columns = Columns(**{**guessed, **chosen})
    if columns.text and columns.features:
        raise OptionError("--text and --features exclude one another: a network reads words or numbers.")
    notes = [
        f"{part}: {_listed(value) if isinstance(value, tuple) else repr(value)} (a guess; --{part} names another)"
        for part, value in guessed.items()
    ]
    return columns, notes


def _named(table: Table, part: str, value: Any) -> tuple[str, ...]:
    wanted = [str(value)] if isinstance(value, str) else [str(one) for one in value]
    if len(wanted) == 1 and wanted[0] not in table.names and part in ("target", "features"):
        wanted = [one.strip() for one in wanted[0].split(",")]
    found: list[str] = []
    for one in wanted:
        matches = [one] if one in table.names else fnmatch.filter(table.names, one)
        if not matches:
            raise OptionError(f"--{part} {one!r}: {table.source} has no such column; there are {_listed(table.names)}.")
        if len(matches) > 1 and part not in ("target", "features"):
            raise OptionError(f"--{part} {one!r} names {len(matches)} columns, {_listed(matches)}; one is needed.")
        found += [name for name in matches if name not in found]
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted if len(quoted) <= 8 else [*quoted[:4], f"… ({len(quoted)} in all)", quoted[-1]])


def _usual(part: str, names: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[usual] for usual in _USUAL[part] if usual in by_lower), None)


def _repeated(sample: Block, name: str | None) -> str | None:
    """The column, if it can be a group: rows share its values."""
    if name is None:
        return None
    values = [str(value) for value in sample[name] if not _missing(value)]
    return name if len(set(values)) < len(sample[name]) else None


def _could_be_labels(values: Sequence[Any]) -> bool:
    """Whether a column of numbers, whatever its name, holds a few whole ones; other columns are believed."""
    if _kind(values) != "number":
        return True
    numbers = [float(value) for value in values if not _missing(value)]
    return all(value.is_integer() for value in numbers) and len(set(numbers)) <= max(20, len(numbers) // 2)


def _few_values(sample: Block, names: Sequence[str], rows: int) -> str | None:
    """The last column whose values repeat the way labels do."""
    for name in reversed(names):
        distinct = len({str(value) for value in sample[name]})
        if 2 <= distinct <= max(2, min(50, rows // 5)) and distinct < rows:
            return name
    return None


def _kind(values: Sequence[Any]) -> str:
    """What a column holds, by its first cells: number, time, list or text."""
    cells = [value for value in values if not _missing(value)]
    if not cells:
        return "empty"
    if all(isinstance(cell, list | tuple | np.ndarray) for cell in cells):
        return "list"
    if all(_is_number(cell) for cell in cells):
        return "number"
    if not isinstance(cells[0], str):
        return "time" if hasattr(cells[0], "isoformat") or isinstance(cells[0], np.datetime64) else "text"
    return "time" if all(re.match(r"\d{1,4}[-/.]\d{1,2}([-/.]\d{1,4})?\b", str(cell)) for cell in cells) else "text"


def _is_number(cell: Any) -> bool:
    if isinstance(cell, bool | np.bool_):
        return False
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _numeric_list(values: Sequence[Any]) -> bool:
    cell = next((value for value in values if not _missing(value) and len(value)), None) if values else None
    return _kind(values) == "list" and cell is not None and np.asarray(cell).dtype.kind in "fiub"


def _missing(cell: Any) -> bool:
    return (
        cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))
    )


# --- Rows become sequences --------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """One sequence.

    Attributes
    ----------
    rows : list of int
        Where it stands in the table, from 0: one row, or one for each step.
    tokens : str, list of str or None
        A text, or the tokens of one.
    values : array or None
        ``(T, F)``, float32; NaN where a cell is empty.
    label : str, list of str or None
        One for the sequence, or one for each step.
    name : str or None
        Its group.
    """

    rows: list[int]
    tokens: str | list[str] | None
    values: Floats | None
    label: str | list[str] | None
    name: str | None = None


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
    if columns.group is not None:
        yield from _grouped_sequences(table, columns, per_step)
        return
    used, row = columns.used(), 0
    for block in table.blocks():
        for cells in zip(*(block[name] for name in used), strict=True):
            yield _one_row(dict(zip(used, cells, strict=True)), columns, row, per_step)
            row += 1


def _one_row(cells: Mapping[str, Any], columns: Columns, row: int, per_step: bool) -> Record:
    label: str | list[str] | None = None
    if columns.label is not None:
        cell = cells[columns.label]
        if isinstance(cell, list | tuple | np.ndarray) != per_step and not _missing(cell):
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
        steps = len(tokens)
        record = Record([row], tokens, None, label)
    else:
        values = _wide(cells, columns.features, row)
        steps = len(values)
        record = Record([row], None, values, label)
    if per_step and isinstance(label, list) and len(label) != steps:
        raise DataError(f"row {row + 1}: {steps} steps, but {len(label)} labels in column {columns.label!r}.")
    return record


def _wide(cells: Mapping[str, Any], features: tuple[str, ...], row: int) -> Floats:
    """A row that is a sequence: list columns are channels of it, plain numbers the steps of a single channel."""
    first = cells[features[0]]
    if isinstance(first, list | tuple | np.ndarray):
        channels = []
        for name in features:
            try:
                channel = np.asarray(cells[name], dtype=np.float32)
            except (TypeError, ValueError):
                raise DataError(f"row {row + 1}, column {name!r}: it must be a list of numbers.") from None
            channels.append(channel[:, None] if channel.ndim == 1 else channel)
        if len({len(channel) for channel in channels}) > 1 or any(channel.ndim != 2 for channel in channels):
            raise DataError(f"row {row + 1}: the lists of {_listed(features)} differ in length.")
        return np.concatenate(channels, axis=1)
    numbers = np.array([number(cells[name], name, row) for name in features], dtype=np.float32)
    present = np.flatnonzero(~np.isnan(numbers))
    return numbers[: present[-1] + 1 if len(present) else 0, None]  # empty cells at the end: a shorter sequence


def _grouped_sequences(table: Table, columns: Columns, per_step: bool) -> Iterator[Record]:
    groups = _groups(table, columns)
    for name, (rows, cells) in groups.items():
        label: str | list[str] | None = None
        if columns.label is not None:
            labels = [label_text(cell) for cell in cells[columns.label]]
            if per_step:
                label = [one or "" for one in labels]
            else:
                distinct = {one for one in labels if one is not None}
                if len(distinct) > 1:
                    first = next(i for i, one in enumerate(labels) if one is not None and one != labels[0])
                    raise DataError(
                        f"row {rows[first] + 1}: group {name!r} has two labels, {labels[0]!r} and {labels[first]!r}; "
                        "for a label per step use --task tag."
                    )
                label = next(iter(distinct), None)
        if columns.text is not None:
            words = [str(cell) if cell is not None else "" for cell in cells[columns.text]]
            yield Record(rows, words, None, label, name)
            continue
        values = [
            [number(cell, part, row) for cell, row in zip(cells[part], rows, strict=True)] for part in columns.features
        ]
        yield Record(rows, None, np.array(values, dtype=np.float32).T.reshape(len(rows), -1), label, name)


def _groups(table: Table, columns: Columns) -> dict[str, tuple[list[int], Block]]:
    """Rows by group, in order of time. The columns used are held in memory: rows of a group need not be neighbours."""
    used, row = columns.used(), 0
    group: str | None = None
    groups: dict[str, tuple[list[int], Block]] = {}
    for block in table.blocks():
        keys = [""] * len(block[used[0]]) if columns.group is None else block[columns.group]
        for place, key in enumerate(keys):
            if columns.group is not None and not _missing(key):
                group = label_text(key)
            elif columns.group is not None and group is None:
                raise DataError(f"row {row + 1}, column {columns.group!r}: the group is empty.")
            # An empty cell goes on with the group above it, as tables made for reading have it.
            rows, cells = groups.setdefault(group or "", ([], {name: [] for name in used}))
            rows.append(row)
            for name in used:
                cells[name].append(block[name][place])
            row += 1
    if columns.time is not None:
        for name, (rows, cells) in groups.items():
            order = _in_time(cells[columns.time], columns.time, rows, name if columns.group else None)
            groups[name] = (
                [rows[i] for i in order],
                {part: [column[i] for i in order] for part, column in cells.items()},
            )
    return groups


def _in_time(values: list[Any], column: str, rows: list[int], group: str | None) -> list[int]:
    """The order of rows by their time, numbers or dates."""
    keys: Any
    if all(_is_number(value) for value in values):
        keys = np.array([float(value) for value in values])
    else:
        import pandas

        try:
            keys = pandas.to_datetime(pandas.Series(values), utc=True, format="mixed").astype("int64").to_numpy()
        except (ValueError, TypeError, OverflowError):
            parsed = pandas.to_datetime(pandas.Series(values), utc=True, format="mixed", errors="coerce")
            wrong = int(np.argmax(parsed.isna().to_numpy()))
            raise DataError(f"row {rows[wrong] + 1}, column {column!r}: {values[wrong]!r} is no time.") from None
    order = np.argsort(keys, kind="stable")
    if len(twice := np.flatnonzero(np.diff(keys[order]) == 0)):
        first = int(order[twice[0] + 1])
        where = f" in group {group!r}" if group is not None else ""
        mend = "" if group is not None else "; if rows of several series are mixed, name the --group column"
        raise DataError(f"row {rows[first] + 1}, column {column!r}: time {values[first]!r} comes twice{where}{mend}.")
    return [int(i) for i in order]


class Series(NamedTuple):
    """One series of numbers over time.

    Attributes
    ----------
    name : str
        Its group; empty where the table is one series.
    rows : list of int
        Where its steps stand in the table, from 0.
    times : list or None
        The cells of the time column.
    target, features : array
        ``(T, C)`` and ``(T, F)``, float64; NaN where a cell is empty.
    """

    name: str
    rows: list[int]
    times: list[Any] | None
    target: NDArray[np.float64]
    features: NDArray[np.float64]


def series(table: Table, columns: Columns) -> list[Series]:
    """The series of a table of steps, by group, each in order of time (without a time column: of rows).

    Raises
    ------
    DataError
        If a cell is no number or no time, or a time comes twice.
    """
    found = []
    for name, (rows, cells) in _groups(table, columns).items():

        def numbers(parts: tuple[str, ...], rows: list[int] = rows, cells: Block = cells) -> NDArray[np.float64]:
            columns = [[number(cell, part, row) for cell, row in zip(cells[part], rows, strict=True)] for part in parts]
            return np.array(columns, dtype=np.float64).reshape(len(parts), len(rows)).T

        times = cells[columns.time] if columns.time is not None else None
        found.append(Series(name, rows, times, numbers(columns.target), numbers(columns.features)))
    return found


def number(cell: Any, column: str, row: int) -> float:
    """The number in a cell, NaN where it is empty.

    Raises
    ------
    DataError
        If it holds something else; it is named by column and row.
    """
    if _missing(cell):
        return math.nan
    if isinstance(cell, str) and cell.strip().lower() in ("na", "n/a", "null", "none", "?"):
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise DataError(f"row {row + 1}, column {column!r}: {str(cell)[:40]!r} is no number.") from None


def label_text(cell: Any) -> str | None:
    """A label as text, None where it is empty. Whole numbers are written as such: 3.0 and 3 are one label.

    Examples
    --------
    >>> label_text(3.0), label_text("pos "), label_text("")
    ('3', 'pos', None)
    """
    if _missing(cell):
        return None
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        cell = int(cell)
    return str(cell).strip()
