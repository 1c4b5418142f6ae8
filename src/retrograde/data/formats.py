"""From a source as the user names it to a `Table`: every format by its ending, frames as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from ..errors import DataError
from ..files import check_source
from . import archives, limits
from .arrays import builtin_arrays, read_arrays
from .database import literal, path_pattern
from .delimited import read_csv, utf8
from .files import bytes_of, check_exists, decoded, some_of, walk
from .table import BLOCK, Table, fingerprint_of_files
from .text import is_saved

__all__ = ["SUFFIXES", "fingerprint", "is_frame", "name_of", "open_table"]

SUFFIXES = (
    *(".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".npy", ".npz", ".conll"),
    *(".ts", ".tsf", ".arff", ".xlsx"),
)


SMALL = 64 << 20  # bytes of JSON that are looked through before types are decided


def open_table(source: Any, encoding: str = "utf-8") -> Table:
    """Open a file, a folder or a frame as a table.

    Parameters
    ----------
    source : str, Path or frame
        ``.csv``, ``.tsv``, ``.jsonl``/``.ndjson``/``.json`` (an object a line, or a list of objects), ``.conll`` (a
        token a line), ``.ts``, ``.tsf`` and ``.arff`` (archives of UCR, UEA and Monash), each also as ``.gz``;
        ``.parquet``, ``.arrow``, ``.xlsx``; ``.npy`` and ``.npz`` without pickle; a folder that ``save_to_disk`` of
        ``datasets`` wrote; a folder of text files, the folder each lies in being its label; ``builtin:digits`` and
        ``builtin:eeg``; or a DataFrame of pandas or Polars or a table of Arrow.
    encoding : str
        Of text files.

    Raises
    ------
    DataError
        If it is missing, empty, of an unknown kind, too large, or cannot be read as what it seems to be.
    """
    if is_frame(source):
        return _frame(source)
    name = str(source)
    if name.startswith("builtin:"):
        return builtin_arrays(name)
    check_source(name)
    path = Path(name)
    check_exists(name, f"a file ({', '.join(SUFFIXES)}) or a folder of texts")
    try:
        if path.is_dir():
            return _saved(path) if is_saved(path) else _texts(path, encoding)
        kind = kind_of_file(path)
        if kind not in SUFFIXES:
            raise DataError(
                f"{name}: {kind or 'files without an ending'} is not read; save it as one of {', '.join(SUFFIXES)} (or "
                "give it that name, if it is one)."
            )
        if path.stat().st_size == 0:
            raise DataError(f"{name} is empty.")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    readers: Mapping[str, Callable[[], Table]] = {
        ".csv": lambda: read_csv(path, encoding, None),
        ".tsv": lambda: read_csv(path, encoding, "\t"),
        ".parquet": lambda: _parquet(path),
        ".arrow": lambda: _arrow([path], str(path)),
        ".npy": lambda: read_arrays(path),
        ".npz": lambda: read_arrays(path),
        ".conll": lambda: archives.read_conll(path, encoding),
        ".ts": lambda: archives.read_ts(path, encoding),
        ".tsf": lambda: archives.read_tsf(path, encoding),
        ".arff": lambda: archives.read_arff(path, encoding),
        ".xlsx": lambda: archives.read_xlsx(path),
    }
    return readers.get(kind, lambda: _json(path, encoding))()


def kind_of_file(path: Path) -> str:
    """The ending that tells a file's format, without ``.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]


# --- Content ----------------------------------------------------------------------------------------------------------


def fingerprint(*sources: Any) -> str:
    """SHA-256 of what is in some files, folders and frames, by which a run that is resumed knows its data again.

    A copy, or a file with another date, has the same. What is built in goes by its name.

    Raises
    ------
    DataError
        If one cannot be read.
    """
    found = hashlib.sha256()
    for source in sources:
        if is_frame(source):
            found.update(_frame_content(source))
        elif source is None or str(source).startswith("builtin:"):
            found.update(f"{source}\0".encode())
        else:
            check_source(source)
            path = Path(source)
            files = {one.relative_to(path).as_posix(): one for one in _files_of(path)} if path.is_dir() else {"": path}
            found.update(fingerprint_of_files(files))
    return f"sha256:{found.hexdigest()}"


def _files_of(folder: Path) -> list[Path]:
    """The files that a folder's table is read from."""
    return sorted(folder.rglob("*.arrow")) if is_saved(folder) else _text_files(folder)[0]


# --- Frames -----------------------------------------------------------------------------------------------------------


def is_frame(source: Any) -> bool:
    """Whether it is a table in memory that Arrow can read: of pandas, Polars, Arrow, DuckDB, …"""
    return hasattr(source, "__arrow_c_stream__") or type(source).__name__ == "LazyFrame"


def name_of(source: Any) -> str:
    """How a source is called in messages and in ``config.json``."""
    if not is_frame(source):
        return str(source)
    return f"a {type(source).__name__} of {type(source).__module__.partition('.')[0]}"


def _stream(source: Any) -> pyarrow.RecordBatchReader:
    if type(source).__name__ == "LazyFrame":
        source = source.collect()
    try:
        return pyarrow.RecordBatchReader.from_stream(source)
    except Exception as error:  # pyarrow's, pandas' and Polars' own kinds have no root in common
        words = " ".join(str(error).split())
        raise DataError(f"{name_of(source)} cannot be read: {words[:300].rstrip('.')}.") from None


def _frame(source: Any) -> Table:
    reader = _stream(source)
    names = [name if name != "__index_level_0__" or not pyarrow.types.is_timestamp(kind) else "index"
             for name, kind in zip(reader.schema.names, reader.schema.types, strict=True)]  # fmt: skip
    if len(set(names)) < len(names):
        raise DataError(f"{name_of(source)} has two columns of one name: rename one.")
    if not names:
        raise DataError(f"{name_of(source)} has no columns.")
    return _fill_arrow(Table(name_of(source)), reader, reader.schema, names)


def _frame_content(source: Any) -> bytes:
    """A digest of a frame's names and cells, the same for the same content of another library."""
    found = hashlib.sha256()
    for batch in _stream(source):
        found.update(repr([batch.schema.names, batch.to_pylist()]).encode("utf-8", "replace"))
    return found.digest()


# --- Parquet and Arrow ------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Table:
    table = Table(str(path))
    named = literal(path_pattern(path))
    width = len(table.database.execute(f"DESCRIBE SELECT * FROM read_parquet({named}, hive_partitioning = false)"))
    if width > limits.WIDE:
        file = pyarrow.parquet.ParquetFile(path)
        batches = file.iter_batches(max(1, (1 << 20) // width))
        return _fill_arrow(table, batches, file.schema_arrow, file.schema_arrow.names)
    kept = dict(table.database.execute(f"SELECT key, value FROM parquet_kv_metadata({named})"))
    classes = _class_names(kept.get(b"huggingface"))
    return table.fill(f"SELECT * FROM read_parquet({named}, hive_partitioning = false)", classes=classes)


def _class_names(metadata: bytes | str | None) -> dict[str, list[str]]:
    """Names of classes by column, for columns that hold their numbers, from the metadata that Hugging Face writes."""
    try:
        kept = json.loads(metadata) if metadata else {}
        features = kept.get("info", kept).get("features") or {}
    except (ValueError, AttributeError):
        return {}
    found = {}
    for name, feature in features.items():
        while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]
        if isinstance(feature, list) and feature:
            feature = feature[0]
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names"):
            found[name] = [str(one) for one in feature["names"]]
    return found


def _arrow(paths: list[Path], source: str, notes: list[str] | None = None) -> Table:
    """Files of Arrow, each a file or a stream of record batches; several are parts of one table."""
    table = Table(source, notes or [])
    try:
        opened = [_ipc(path) for path in paths]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{source} cannot be read: {' '.join(str(error).split())[:300].rstrip('.')}.") from None
    schema = opened[0][0]
    classes = _class_names((schema.metadata or {}).get(b"huggingface"))
    return _fill_arrow(table, (batch for _, some in opened for batch in some), schema, schema.names, classes)


def _ipc(path: Path) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
    source = pyarrow.memory_map(str(path))
    if source.read(6) == b"ARROW1":
        file = pyarrow.ipc.open_file(source)
        return file.schema, (file.get_batch(place) for place in range(file.num_record_batches))
    source.seek(0)
    stream = pyarrow.ipc.open_stream(source)
    return stream.schema, iter(stream)


def _fill_arrow(table: Table, batches: Iterable[Any], schema: Any, names: list[str], classes: Any = None) -> Table:
    """Batches as they are; of very many columns those of numbers as one array."""
    try:
        if len(names) <= limits.WIDE:
            return table.fill_from(batches, schema, names=names, classes=classes or {})
        block = [place for place, kind in enumerate(schema.types) if pyarrow.types.is_floating(kind)
                 or pyarrow.types.is_integer(kind)][1:-1]  # fmt: skip
        others = sorted(set(range(len(names))) - set(block))
        if len(others) > limits.WIDE:
            raise DataError(f"{table.source} has {len(others):,} columns of text; {limits.WIDE:,} are the most.")

        def parts() -> Iterator[tuple[Any, Any]]:
            for batch in batches:
                columns = batch.columns
                texts = [[None if one is None else str(one) for one in columns[n].to_pylist()] for n in others]
                yield texts, np.stack([columns[n].to_numpy(zero_copy_only=False) for n in block], axis=1)

        return table.fill_wide(names, [names[place] for place in block], parts())
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{table.source} cannot be read: {' '.join(str(error).split())[:300].rstrip('.')}.") from None


def _saved(folder: Path) -> Table:
    """What ``save_to_disk`` of ``datasets`` wrote; of several splits the one to train with."""
    notes: list[str] = []
    part = folder
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and is_saved(path))
        if "train" not in splits:
            raise DataError(f"{folder} holds the splits {', '.join(splits) or 'none'}: name the folder of one.")
        others = [name for name in splits if name != "train"]
        if others:
            notes.append(f"of the splits of {folder} train is read; {folder / others[0]} names another.")
        part = folder / "train"
    try:
        state = json.loads((part / "state.json").read_text(encoding="utf-8"))
        files = [part / Path(one["filename"]).name for one in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{part / 'state.json'} cannot be read: {error}.") from None
    if not files:
        raise DataError(f"{folder} has no rows.")
    return _arrow(files, str(folder), notes)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json(path: Path, encoding: str) -> Table:
    """Objects, one a line or in a list; the fields of an object within one are columns by dotted names."""
    with utf8(path, encoding) as file:
        table = Table(str(path))
        # A small file is looked through before its types are decided. No text is taken for a date, a time or an id.
        everything = file.path.stat().st_size < SMALL
        for size in (-1,) if everything else (20_480, -1):
            fixed = (
                f"records = true, compression = 'uncompressed', maximum_object_size = {limits.LINE_BYTES}, "
                f"dateformat = '%Y no date', timestampformat = '%Y no date', hive_partitioning = false"
            )
            query = f"SELECT * FROM read_json({literal(path_pattern(file.path))}, {fixed}, sample_size = {size})"
            try:
                with table.database.reading():
                    found = table.database.connection.sql(query)
                changed = {"UUID": "VARCHAR", "TIME": "VARCHAR", "UUID[]": "VARCHAR[]", "TIME[]": "VARCHAR[]"}
                types = [changed.get(str(type_), str(type_)) for type_ in found.types]
                names = list(found.columns)
                if types != list(map(str, found.types)):
                    columns = ", ".join(f"{literal(n)}: {literal(t)}" for n, t in zip(names, types, strict=True))
                    query = query[:-1].replace(f"sample_size = {size}", f"columns = {{{columns}}}") + ")"
                return table.fill(query)
            except DataError as error:
                if size == -1 or "has no rows" in str(error):
                    raise _json_error(file.path, str(path), error) from None
    raise AssertionError("one of the attempts returns or raises")


def _json_error(path: Path, name: str, error: DataError) -> DataError:
    """The error of DuckDB, with the line that is wrong where there is one."""
    words = str(error)
    if "recursion depth" in words:
        return DataError(f"{name} cannot be read: its objects are nested more than 128 deep, the most that is read.")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip() and not isinstance(json.loads(line), dict | None):
                    return DataError(f"{name} cannot be read: line {number} is no JSON object; each line must be one.")
            except (ValueError, RecursionError) as wrong:
                return DataError(f"{name} cannot be read: line {number} is no JSON: {wrong}.")
    return DataError(words.replace(str(path), name))


# --- Folders of texts -------------------------------------------------------------------------------------------------


def _text_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The text files under a folder, in the order of their paths, and the links that are not followed."""
    files, links = walk(folder)
    return [path for path in files if path.suffix.lower() in (".txt", ".text", ".md", "")], links


def _texts(folder: Path, encoding: str) -> Table:
    files, links = _text_files(folder)
    if not files:
        there = [path.relative_to(folder).as_posix() for path in walk(folder)[0]]
        found = f"only {some_of(there)}" if there else "nothing"
        raise DataError(
            f"{folder} holds no text files (.txt), {found}: a folder of texts has them in one folder per label; a "
            "table is named by its file."
        )
    notes = [f"symbolic links of {folder} are not followed: {some_of(links)}."] if links else []
    schema = pyarrow.schema([(name, pyarrow.large_string()) for name in ("text", "label", "file")])

    def batches() -> Iterator[pyarrow.RecordBatch]:
        for start in range(0, len(files), BLOCK):
            some = files[start : start + BLOCK]
            texts = ["".join(decoded(bytes_of(path), encoding, str(path), translate=False)) for path in some]
            labels = [path.parent.relative_to(folder).as_posix() for path in some]
            names = [path.relative_to(folder).as_posix() for path in some]
            yield pyarrow.RecordBatch.from_pydict({"text": texts, "label": labels, "file": names}, schema=schema)

    return Table(str(folder), notes).fill_from(batches(), schema)
