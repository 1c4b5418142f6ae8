"""Tables of sequences, from the files users have: CSV, TSV, JSON lines, Parquet, NumPy arrays, folders of texts.

A `Table` is read block by block as often as asked, through Hugging Face ``datasets``, so it need not fit in memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, OptionError
from ..files import check_source, walk
from .text import check_exists, decoded, is_saved, some_of

__all__ = ["SUFFIXES", "Block", "Table", "fingerprint", "open_table"]

BLOCK = 1000  # rows read at once
SAMPLE = 1000  # rows looked at to guess what the columns are

TIMES = (
    "time",
    "times",
    "date",
    "dates",
    "datetime",
    "timestamp",
    "timestamps",
    "ds",
    "ts",
    "t",
    "step",
    "month",
    "year",
    "day",
    "hour",
)  # what columns of times are called
Block = dict[str, list[Any]]


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
    sorted : dict
        What `retrograde.tasks.rows.groups` made of it, kept to be read again.
    """

    source: str
    names: list[str]
    blocks: Callable[[], Iterator[Block]] = field(repr=False)
    notes: list[str] = field(default_factory=list)
    sorted: dict[Any, Any] = field(default_factory=dict, repr=False)

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
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".npy", ".npz", ".conll")


def open_table(source: str | Path, encoding: str = "utf-8") -> Table:
    """Open a file or folder as a table.

    Parameters
    ----------
    source : str or Path
        ``.csv``, ``.tsv``, ``.jsonl``/``.ndjson``/``.json`` (an object a line), ``.conll`` (a token a line), each also
        as ``.gz``; ``.parquet``, ``.arrow``; ``.npy`` and ``.npz`` without pickle; a folder that ``save_to_disk`` of
        ``datasets`` wrote; a folder of text files, the folder each lies in being its label; or ``builtin:digits`` and
        ``builtin:eeg``.
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
    check_source(name)
    path = Path(name)
    check_exists(name, f"a file ({', '.join(SUFFIXES)}) or a folder of texts")
    if path.is_dir():
        return _saved(path) if is_saved(path) else _texts(path, encoding)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in SUFFIXES:
        raise DataError(
            f"{name}: {kind or 'files without an ending'} is not read; save it as one of {', '.join(SUFFIXES)} (or "
            "give it that name, if it is one)."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty.")
    if kind in (".npy", ".npz"):
        table = _arrays(path)
    elif kind in (".parquet", ".arrow"):
        table = _dataset(path, kind[1:], None)
    else:
        encoding = _check_text(path, encoding)
        if kind in (".csv", ".tsv"):
            table = _csv(path, encoding, "\t" if kind == ".tsv" else None)
        elif kind == ".conll":
            table = _conll(path, encoding)
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
        check_source(source)
        path = Path(source)
        for file in _files_of(path) if path.is_dir() else [path]:
            try:
                with file.open("rb") as opened:
                    content = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error.strerror or error}.") from None
            name = file.relative_to(path).as_posix() if path.is_dir() else ""
            found.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return f"sha256:{found.hexdigest()}"


def _files_of(folder: Path) -> list[Path]:
    """The files that a folder's table is read from."""
    return sorted(folder.rglob("*.arrow")) if is_saved(folder) else _text_files(folder)


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _check_text(path: Path, encoding: str) -> str:
    """Read a text file through once, so that what cannot be decoded is named by its place. Returns the encoding."""
    for _ in decoded(path, encoding):
        pass
    with _open(path) as file:
        first = file.read(3)
    return "utf-8-sig" if first == codecs.BOM_UTF8 and codecs.lookup(encoding).name == "utf-8" else encoding


def _csv(path: Path, encoding: str, delimiter: str | None) -> Table:
    csv.field_size_limit(1 << 30)
    with _open(path) as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as file:
        lines = list(islice(file, 50))
        # Remarks on the data, as some programs write them, begin with # and are not cut as the lines below them are.
        remarks = next((place for place, line in enumerate(lines) if not line.startswith("#")), 0)
        if remarks and _marks(lines[remarks - 1]) == _marks(lines[remarks]) != {}:
            remarks -= 1
        if delimiter is None:
            found = _marks(lines[remarks]) if lines else {}
            delimiter = max(",;\t|", key=lambda mark: found.get(mark, 0))  # the first of equals
        file.seek(0)
        rows = (row for row in csv.reader(islice(file, remarks, None), delimiter=delimiter) if row)
        names, first = next(rows, []), next(rows, [])
    if len(first) > len(names):  # pandas would take what is too much for an index
        raise DataError(f"{path}: the first row has {len(first)} fields, the header has {len(names)}: {HOW_TO_QUOTE}")
    if names and len(set(names)) < len(names) and all(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", name) for name in names):
        raise DataError(
            f"{path}: its first line holds numbers, {some_of(names)}: put one before it that names the columns."
        )
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
        skiprows=remarks,
        column_names=names,
        features=datasets.Features({name: datasets.Value("string") for name in names}),
        keep_default_na=False,
        encoding=encoding,
    )
    if delimiter not in (",", "\t") or (delimiter == "\t" and path.suffix.lower() != ".tsv"):
        table.notes.append(f"{path.name}: columns are separated by {delimiter!r}.")
    return table


def _marks(line: str) -> dict[str, int]:
    """How often a line has each of the marks that may separate its fields."""
    bare = re.sub(r'"[^"]*"', "", line)
    return {mark: bare.count(mark) for mark in ",;\t|" if mark in bare}


def _dataset(path: Path, kind: str, names: list[str] | None, **options: Any) -> Table:
    @cache
    def rows() -> Any:  # to open one takes as long as to read a thousand rows
        import datasets

        if kind == "saved":
            found = datasets.load_from_disk(str(path.resolve()))
        else:
            files = str(path.resolve())
            found = datasets.load_dataset(kind, data_files=files, split="train", streaming=True, **options)
        named = {name: _class_names(feature) for name, feature in (found.features or {}).items()}
        return found.with_format("arrow"), named  # else each cell is taken out and put back

    def blocks() -> Iterator[Block]:
        with _readable(path):
            found, named = rows()
            for block in found.iter(batch_size=BLOCK):
                cells: Block = block.to_pydict()
                yield {name: _by_name(column, named.get(name)) for name, column in cells.items()}

    first = next(iter(blocks()), None)
    if first is None or not first or not next(iter(first.values())):
        raise DataError(f"{path} has no rows.")
    known = list(first) if names is None else names

    def whole() -> Iterator[Block]:
        for block in blocks():  # a JSON line may lack a key
            size = len(next(iter(block.values())))
            yield {name: block.get(name, [None] * size) for name in known}

    return Table(str(path), known, whole)


def _class_names(feature: Any) -> list[str] | None:
    """What the numbers of a column of classes, or of lists of them, stand for."""
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if type(feature).__name__ == "ClassLabel" and feature.names else None


def _by_name(cells: list[Any], names: list[str] | None) -> list[Any]:
    if names is None:
        return cells
    known = dict(enumerate(names))  # -1, and what is missing, has none
    return [[known.get(one) for one in cell] if isinstance(cell, list) else known.get(cell) for cell in cells]


def _saved(folder: Path) -> Table:
    """What ``save_to_disk`` of ``datasets`` wrote; of several splits the one to train with."""
    if not (folder / "dataset_dict.json").is_file():
        return _dataset(folder, "saved", None)
    splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and is_saved(path))
    if "train" not in splits:
        raise DataError(f"{folder} holds the splits {', '.join(splits) or 'none'}: name the folder of one.")
    table = _dataset(folder / "train", "saved", None)
    table.source = str(folder)
    others = [name for name in splits if name != "train"]
    if others:
        table.notes.append(f"of the splits of {folder} train is read; {folder / others[0]} names another.")
    return table


def _conll(path: Path, encoding: str) -> Table:
    """A token a line with its labels beside it, an empty line after each sentence; each sentence a row of lists."""

    def sentences() -> Iterator[list[list[str]]]:
        held: list[list[str]] = []
        width = None
        with _open(path) as raw, io.TextIOWrapper(raw, encoding=encoding) as file:
            for number, line in enumerate(file, 1):
                cells = line.split("\t") if "\t" in line else line.split()
                cells = [cell.strip() for cell in cells]
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

    def blocks() -> Iterator[Block]:
        rest = sentences()
        while some := list(islice(rest, BLOCK)):
            yield {name: [[cells[place] for cells in one] for one in some] for place, name in enumerate(names)}

    return Table(str(path), names, blocks)


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
    if unclosed := re.search(r"EOF inside string starting at row (\d+)", words):
        return f'row {unclosed[1]} opens a quote (") that is never closed.'
    if ".json" in path.name.lower() or path.suffix == ".ndjson":
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    if line.strip() and not isinstance(json.loads(line), dict):
                        return f"line {number} is no JSON object; each line must be one."
                except (ValueError, RecursionError) as wrong:
                    return f"line {number} is no JSON: {wrong}."
    return (words or type(error).__name__)[:300].rstrip(".") + "."


def _arrays(path: Path) -> Table:
    try:
        with path.open("rb") as file:  # NumPy leaves one open that it finds to be no archive
            if file.read(2) == b"PK":
                file.seek(0)
                loaded = np.load(file, allow_pickle=False)
                arrays = {name: loaded[name] for name in loaded.files}
            else:
                arrays = {"values": np.load(path, allow_pickle=False, mmap_mode="r")}
    except (ValueError, OSError, EOFError, KeyError, SyntaxError) as error:
        why = str(error).rstrip(".")
        if "ickle" in why or "Python objects" in why:
            why = "it is no .npy or .npz file, or it holds pickled objects, which are never loaded"
        raise DataError(f"{path} cannot be read: {why}.") from None
    except Exception as error:  # zipfile.BadZipFile, zlib.error, struct.error, tokenize errors of a broken header
        raise DataError(f"{path} cannot be read: {error}.") from None
    arrays = {name: array for name, array in arrays.items() if array.ndim}
    for name in [name for name, array in arrays.items() if array.dtype.names]:  # a table by itself: a row a record
        records = arrays.pop(name)
        arrays |= {field: records[field] for field in records.dtype.names or ()}
    if complexes := [name for name, array in arrays.items() if array.dtype.kind == "c"]:
        raise DataError(f"{path}: array {complexes[0]!r} is complex; give its real and imaginary part as two channels.")
    lasts = [name for name in arrays if name.lower() in ("length", "lengths")]
    if not arrays or not len(next(iter(arrays.values()))):
        raise DataError(f"{path} has no rows.")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: its arrays differ in their first dimension, {lengths}; a row is one index of all.")
    if deep := [name for name, array in arrays.items() if array.ndim > 3]:
        raise DataError(
            f"{path}: array {deep[0]!r} has {arrays[deep[0]].ndim} dimensions, {arrays[deep[0]].shape}; a sequence a "
            "row has up to 3, (N, T, channels): reshape it."
        )
    if len(arrays) == 1 and next(iter(arrays.values())).dtype.kind in "mM":
        raise DataError(f"{path} holds times and nothing else: save them beside the numbers, np.savez(…, time=…, x=…).")
    if not lasts or len(arrays) == 1:
        return _table_of(str(path), arrays)
    ends, most = arrays.pop(lasts[0]), min((array.shape[1] for array in arrays.values() if array.ndim > 1), default=0)
    if ends.ndim > 1 or ends.dtype.kind not in "iuf":
        raise DataError(f"{path}: array {lasts[0]!r} must hold a number for each row.")
    if most and (wrong := np.flatnonzero(~((ends >= 0) & (ends <= most) & (ends == np.floor(ends))))).size:
        raise DataError(
            f"{path}: array {lasts[0]!r} has {ends[wrong[0]]} in row {wrong[0] + 1}; the rows have {most} steps, so it "
            f"must be a whole number from 0 to {most}."
        )
    return _table_of(str(path), arrays, lengths=ends)


def _table_of(source: str, arrays: Mapping[str, NDArray[Any]], lengths: NDArray[Any] | None = None) -> Table:
    """A table of arrays that have a row for each index. A matrix alone, or beside times, is a series: C columns of it.

    ``lengths`` says how many steps of each row are real, where the arrays are padded.
    """
    columns: dict[str, NDArray[Any]] = {}
    series = lengths is None and (len(arrays) == 1 or any(_are_times(*one) for one in arrays.items()))
    for name, array in arrays.items():
        if array.ndim == 2 and series:
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


def _are_times(name: str, array: NDArray[Any]) -> bool:
    """Whether an array tells when each row was: so named, or of dates, and growing."""
    if array.ndim != 1 or len(array) < 2 or (array.dtype.kind != "M" and name.lower() not in TIMES):
        return False
    if array.dtype.kind in "iufM":
        return bool((array[1:] > array[:-1]).all())
    return array.dtype.kind == "U" and len(np.unique(array)) == len(array)


def _text_files(folder: Path) -> list[Path]:
    """The text files under a folder without hidden ones, in the order of their paths."""
    return [path for path in walk(folder) if path.suffix.lower() in (".txt", ".text", ".md", "")]


def _texts(folder: Path, encoding: str) -> Table:
    files = _text_files(folder)
    if not files:
        there = [path.relative_to(folder).as_posix() for path in walk(folder)]
        found = f"only {some_of(there)}" if there else "nothing"
        raise DataError(
            f"{folder} holds no text files (.txt), {found}: a folder of texts has them in one folder per label; a "
            "table is named by its file."
        )

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
