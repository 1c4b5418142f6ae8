"""From a source as the user names it to a `Table`: every format by its ending, frames as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow

from ..errors import DataError
from ..files import check_source, walk
from . import archives, limits
from .arrays import builtin_arrays, read_arrays
from .database import literal, path_pattern
from .delimited import read_csv, utf8
from .files import AUTO, bytes_of, check_exists, decoded, some_of
from .frames import arrow_of, as_frame
from .memory import Sequences
from .remote import is_remote, local_copy
from .sheets import read_xlsx
from .table import BLOCK, Table, unreadable
from .text import Text, is_saved


def open_source(source: Any, encoding: str = AUTO) -> Table | Sequences:
    """Sequences in memory as they are, everything else as a table: see `open_table`."""
    return source if isinstance(source, Sequences) else open_table(source, encoding)


def open_table(source: Any, encoding: str = AUTO) -> Table:
    """Open a file, a folder or a frame as a table.

    source: ``.csv``, ``.tsv``, ``.jsonl``/``.ndjson``/``.json`` (an object a line, or a list of objects), ``.conll`` (a
        token a line), ``.ts``, ``.tsf`` and ``.arff`` (archives of UCR, UEA and Monash), each also as ``.gz``;
        ``.parquet``, ``.arrow``, ``.xlsx``; ``.npy`` and ``.npz`` without pickle; a folder that ``save_to_disk`` of
        ``datasets`` wrote; a folder of text files, the folder each lies in being its label; ``builtin:digits`` and
        ``builtin:eeg``; an address of one of these files, see `retrograde.data.remote`; or a DataFrame of pandas or
        Polars or a table of Arrow.
    encoding: of text files; ``auto``: UTF-8, or what a table shows (see `retrograde.data.western`).
    Raises DataError if it is missing, empty, of an unknown kind, too large, or cannot be read as what it seems to be.
    """
    if is_frame(source):
        return _frame(source)
    name = str(source)
    if name.startswith("builtin:"):
        return builtin_arrays(name)
    if is_remote(name):
        return _remote(name, encoding)
    check_source(name)
    path = Path(name)
    check_there(name)
    try:
        if path.is_dir():
            return _saved(path) if is_saved(path) else _texts(path, encoding)
        suffixes = [suffix.lower() for suffix in path.suffixes]
        kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
        if kind not in _READERS:
            if kind in _OTHERS:
                raise DataError(f"{name}: {kind} is not read; {_OTHERS[kind]}.")
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
    return _READERS[kind](path, encoding)


_UNPACK, _SAVE = "unpack it, and name a file in it", "open it and save it as .xlsx or .csv"
_OTHERS = {".zip": _UNPACK, ".7z": _UNPACK, ".tar": _UNPACK, ".xls": _SAVE, ".xlsm": _SAVE, ".ods": _SAVE}


def check_there(name: str) -> None:
    """Refuse the name of a table that is not a file or folder on this machine.

    Raises DataError.
    """
    check_exists(name, f"a file ({', '.join(SUFFIXES)}) or a folder of texts")


def _remote(url: str, encoding: str) -> Table:
    """A table of a remote file, with its address in messages."""
    path = local_copy(url)
    try:
        table = open_table(path, encoding)
    except DataError as error:
        raise DataError(str(error).replace(str(path), url)) from None
    table.source = url
    return table


# --- Content ----------------------------------------------------------------------------------------------------------


def fingerprint(*sources: Any) -> str:
    """SHA-256 of the content of some files, folders and frames, which a resumed run compares.

    A copy, or a file with another date, has the same. What is built in goes by its name.

    Raises DataError if one cannot be read.
    """
    found = hashlib.sha256()
    for source in sources:
        if is_frame(source):
            content = hashlib.sha256()
            for batch in _stream(source):
                content.update(repr([batch.schema.names, batch.to_pylist()]).encode("utf-8", "replace"))
            found.update(content.digest())
        elif isinstance(source, Sequences):
            found.update(source.fingerprint().encode())
        elif source is None or str(source).startswith("builtin:"):
            found.update(f"{source}\0".encode())
        else:
            check_source(source)
            if not is_remote(str(source)):
                check_there(str(source))
            path = local_copy(str(source)) if is_remote(str(source)) else Path(source)
            files = _files_of(path) if path.is_dir() else [path]
            for file in files:
                name = file.relative_to(path).as_posix() if path.is_dir() else ""
                found.update(f"{name}\0{_digest(file)}\0".encode("utf-8", "surrogateescape"))
    return f"sha256:{found.hexdigest()}"


def _files_of(folder: Path) -> list[Path]:
    """The files that a folder's table is read from."""
    return sorted(folder.rglob("*.arrow")) if is_saved(folder) else _text_files(folder)[0]


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from None


# --- Frames -----------------------------------------------------------------------------------------------------------


def is_frame(source: Any) -> bool:
    """Whether it is a table in memory that Arrow can read: of pandas, Polars, Arrow, DuckDB, …"""
    return hasattr(source, "__arrow_c_stream__") or type(source).__name__ == "LazyFrame"


def in_memory(source: Any) -> bool:
    """Whether it is data that no name leads to: a frame, sequences or a text."""
    return isinstance(source, Sequences | Text) or is_frame(source)


def name_of(source: Any) -> str:
    """The name of a source in messages and in ``config.json``."""
    if isinstance(source, Sequences | Text):
        return source.source
    if not is_frame(source):
        return str(source)
    if isinstance(source, pyarrow.Table):  # of an estimator, mostly
        return "the table in memory"
    return f"a {type(source).__name__} of {type(source).__module__.partition('.')[0]}"


def _stream(source: Any) -> pyarrow.RecordBatchReader:
    if type(source).__name__ == "LazyFrame":
        source = source.collect()
    try:
        return pyarrow.RecordBatchReader.from_stream(source)
    except Exception as error:  # the errors of pyarrow, pandas and Polars have no base class in common
        if (frame := as_frame(source)) is not None:
            return arrow_of(frame).to_reader()
        if type(source).__name__ == "Series":
            raise DataError(
                f"{name_of(source)} is one column: give a DataFrame that has its times too (of pandas "
                "series.reset_index()), or the series itself to rg.Forecaster."
            ) from None
        raise unreadable(name_of(source), error) from None


def _frame(source: Any) -> Table:
    reader = _stream(source)
    names = [
        "index" if name == "__index_level_0__" and pyarrow.types.is_timestamp(kind) else name
        for name, kind in zip(reader.schema.names, reader.schema.types, strict=True)
    ]
    if len(set(names)) < len(names):
        raise DataError(f"{name_of(source)} has two columns of one name: rename one.")
    if not names:
        raise DataError(f"{name_of(source)} has no columns.")
    return Table(name_of(source)).fill_from(reader, reader.schema, names)


# --- Parquet and Arrow ------------------------------------------------------------------------------------------------


def _parquet(path: Path, encoding: str) -> Table:
    table = Table(str(path))
    named = literal(path_pattern(path))
    query = f"SELECT * FROM read_parquet({named}, hive_partitioning = false)"
    if len(table.database.execute(f"DESCRIBE {query}")) > limits.WIDE:
        import pyarrow.parquet  # takes 15 MB

        file = pyarrow.parquet.ParquetFile(path)
        batches = file.iter_batches(max(1, (1 << 20) // file.metadata.num_columns))
        return table.fill_from(batches, file.schema_arrow)
    metadata: dict[Any, Any] = dict(table.database.execute(f"SELECT key, value FROM parquet_kv_metadata({named})"))
    return table.fill(query, classes=_class_names(metadata))


def _class_names(metadata: dict[Any, Any] | None) -> dict[str, list[str]]:
    """Names of classes by column, for columns of their numbers, from the metadata that Hugging Face writes."""
    try:
        kept = json.loads((metadata or {})[b"huggingface"])
        features = kept.get("info", kept).get("features") or {}
    except (KeyError, ValueError, AttributeError):
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


def _arrow(paths: list[Path], table: Table) -> Table:
    """Files of Arrow, each a file or a stream of record batches; several are parts of one table."""
    try:
        opened = [_ipc(path) for path in paths]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise unreadable(table.source, error) from None
    schema = opened[0][0]
    batches = (batch for _, some in opened for batch in some)
    return table.fill_from(batches, schema, classes=_class_names(schema.metadata))


def _ipc(path: Path) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
    source = pyarrow.memory_map(str(path))
    if source.read(6) == b"ARROW1":
        file = pyarrow.ipc.open_file(source)
        return file.schema, (file.get_batch(place) for place in range(file.num_record_batches))
    source.seek(0)
    stream = pyarrow.ipc.open_stream(source)
    return stream.schema, iter(stream)


def _saved(folder: Path) -> Table:
    """The data set that ``save_to_disk`` of ``datasets`` wrote; of several splits the one to train with."""
    table, part = Table(str(folder)), folder
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and is_saved(path))
        if "train" not in splits:
            raise DataError(f"{folder} holds the splits {', '.join(splits) or 'none'}: name the folder of one.")
        part = folder / "train"
        if others := [name for name in splits if name != "train"]:
            table.notes.append(f"of the splits of {folder} train is read; {folder / others[0]} names another.")
    try:
        state = json.loads((part / "state.json").read_text(encoding="utf-8"))
        files = [part / Path(one["filename"]).name for one in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{part / 'state.json'} cannot be read: {error}.") from None
    if not files:
        raise DataError(f"{folder} has no rows.")
    return _arrow(files, table)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json(path: Path, encoding: str) -> Table:
    """Objects, one a line or in a list; the fields of an object within one are columns by dotted names.

    All of the file decides the types, as a late line may have another; no text is taken for a date, a time or an id.
    """
    with utf8(path, encoding) as file:
        table = Table(str(path))
        table.assume(file.encoding, file.why)
        options = (
            f"{literal(path_pattern(file.path))}, records = true, compression = 'uncompressed', "
            f"maximum_object_size = {limits.LINE_BYTES}, hive_partitioning = false, "
            "dateformat = '%Y no date', timestampformat = '%Y no date'"
        )
        try:
            with table.database.reading():
                found = table.database.connection.sql(f"SELECT * FROM read_json({options}, sample_size = -1)")
            text = {"UUID": "VARCHAR", "TIME": "VARCHAR", "UUID[]": "VARCHAR[]", "TIME[]": "VARCHAR[]"}
            columns = ", ".join(
                f"{literal(name)}: {literal(text.get(str(type_), str(type_)))}"
                for name, type_ in zip(found.columns, found.types, strict=True)
            )
            return table.fill(f"SELECT * FROM read_json({options}, columns = {{{columns}}})")
        except DataError as error:
            raise _json_error(file.path, str(path), error) from None


def _json_error(path: Path, name: str, error: DataError) -> DataError:
    """The error of DuckDB, with the line that is wrong where there is one."""
    words = str(error)
    if "recursion depth" in words:
        return DataError(f"{name} cannot be read: its objects are nested more than 128 deep, the most that is read.")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip() and not isinstance(json.loads(line), dict | None):
                    wrong = f"line {number} is not a JSON object; each line must be one."
                    return DataError(f"{name} cannot be read: {wrong}")
            except (ValueError, RecursionError) as invalid:
                return DataError(f"{name} cannot be read: line {number} is not JSON: {invalid}.")
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


_READERS: dict[str, Callable[[Path, str], Table]] = {
    ".csv": read_csv,
    ".tsv": lambda path, encoding: read_csv(path, encoding, "\t"),
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": lambda path, encoding: _arrow([path], Table(str(path))),
    ".npy": lambda path, encoding: read_arrays(path),
    ".npz": lambda path, encoding: read_arrays(path),
    ".conll": archives.read_conll,
    ".ts": archives.read_ts,
    ".tsf": archives.read_tsf,
    ".arff": archives.read_arff,
    ".xlsx": read_xlsx,
}
SUFFIXES = tuple(_READERS)
