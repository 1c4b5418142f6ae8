"""Arrays of NumPy as tables: a row for each index of the first dimension. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from ..errors import DataError
from . import limits
from .files import some_of
from .table import BLOCK, Table

TIMES = ("time", "times", "date", "dates", "datetime", "timestamp", "timestamps", "ds", "ts", "t", "step", "month",
         "year", "day", "hour", "datum", "zeit", "zeitpunkt", "zeitstempel", "fecha", "monat", "mois", "mes", "jahr",
         "année", "annee", "año", "ano", "anno")  # fmt: skip
"""What columns of times are called."""
Arrays = dict[str, NDArray[Any]]


def read_arrays(path: Path) -> Table:
    """A ``.npy`` or ``.npz`` file.

    Raises DataError if it is damaged, holds pickled objects, unpacks to more than `limits.ARRAY_BYTES`, or its arrays
    make no table.
    """
    notes: list[str] = []
    arrays = {name: array for name, array in _loaded(path, notes).items() if array.ndim}
    for name in [name for name, array in arrays.items() if array.dtype.names]:  # a table by itself: a row a record
        records = arrays.pop(name)
        arrays |= {field: records[field] for field in records.dtype.names or ()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if not arrays or not next(iter(lengths.values())):
        raise DataError(f"{path} has no rows.")
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: its arrays differ in their first dimension, {lengths}; a row is one index of all.")
    for name, array in arrays.items():
        _check(path, name, array)
    if len(arrays) == 1 and next(iter(arrays.values())).dtype.kind in "mM":
        raise DataError(
            f"{path} holds times and nothing else: save them together with the numbers, np.savez(…, time=…, x=…)."
        )
    lasts = [name for name in arrays if name.lower() in ("length", "lengths")]
    if not lasts or len(arrays) == 1:
        return _table_of(str(path), arrays, notes=notes)
    ends, most = arrays.pop(lasts[0]), min((array.shape[1] for array in arrays.values() if array.ndim > 1), default=0)
    if ends.ndim > 1 or ends.dtype.kind not in "iuf":
        raise DataError(f"{path}: array {lasts[0]!r} must hold a number for each row.")
    if most and (wrong := np.flatnonzero(~((ends >= 0) & (ends <= most) & (ends == np.floor(ends))))).size:
        raise DataError(
            f"{path}: array {lasts[0]!r} has {ends[wrong[0]]} in row {wrong[0] + 1}; the rows have {most} steps, so it "
            f"must be a whole number from 0 to {most}."
        )
    return _table_of(str(path), arrays, ends, notes)


def _loaded(path: Path, notes: list[str]) -> Arrays:
    try:
        with path.open("rb") as file:  # NumPy leaves one open that it finds to be no archive
            if file.read(2) != b"PK":
                return {"values": np.load(path, allow_pickle=False, mmap_mode="r")}
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > limits.ARRAY_BYTES:
                raise DataError(
                    f"{path} unpacks to {size / 2**30:.1f} GB; {limits.ARRAY_BYTES / 2**30:.0f} GB are the most for a "
                    ".npz file, which is kept in memory: save large arrays as .npy or Parquet."
                )
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            arrays = {name: loaded[name] for name in loaded.files}
    except DataError:
        raise
    except Exception as error:  # also zlib.error, struct.error, MemoryError, tokenize errors of a broken header
        why = str(error).rstrip(".") or type(error).__name__
        if isinstance(error, zipfile.BadZipFile):
            why = f"{why}; pickles are never loaded"
        elif "ickle" in why or "Python objects" in why:
            why = "it is not a .npy or .npz file, or it contains pickled objects, which are never loaded"
        raise DataError(f"{path} cannot be read: {why}.") from None
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        notes.append(f"{path.name}: members that are not arrays are left out: {some_of(others)}.")
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _check(path: Path, name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind == "c":
        raise DataError(f"{path}: array {name!r} is complex; give its real and imaginary part as two channels.")
    if array.ndim > 3:
        raise DataError(
            f"{path}: array {name!r} has {array.ndim} dimensions, {array.shape}; a sequence a row has up to 3, "
            "(N, T, channels): reshape it."
        )
    if not array.size:
        raise DataError(f"{path}: array {name!r} has the shape {array.shape}: it holds no numbers.")
    if array.dtype.kind not in "biufmMUS":
        raise DataError(f"{path}: array {name!r} has the type {array.dtype}; numbers, text and times are read.")


def _table_of(source: str, arrays: Arrays, lengths: NDArray[Any] | None = None, notes: Sequence[str] = ()) -> Table:
    """A table of arrays that have a row for each index, with so many real steps in each where the arrays are padded.

    A matrix alone, or next to times, is a series: its columns are the table's.
    """
    columns: Arrays = {}
    series = lengths is None and (len(arrays) == 1 or any(_are_times(*one) for one in arrays.items()))
    for name, array in arrays.items():
        if array.ndim == 2 and series:
            columns |= {f"{name}_{place}": array[:, place] for place in range(array.shape[1])}
        else:
            columns[name] = array
    table, rows = Table(source, notes), len(next(iter(columns.values())))
    table.check_width(len(columns))

    def batch(start: int) -> pyarrow.RecordBatch:
        cut = slice(start, min(rows, start + BLOCK))
        ends = lengths[cut].astype(np.int64) if lengths is not None else None
        cells = [_arrow(array[cut], ends) for array in columns.values()]
        return pyarrow.RecordBatch.from_arrays(cells, [f"f{place}" for place in range(len(columns))])

    batches = (batch(start) for start in range(0, rows, BLOCK))
    return table.fill_from(batches, batch(0).schema, list(columns))


def _arrow(array: NDArray[Any], ends: NDArray[np.int64] | None) -> pyarrow.Array:
    """A block of an array: plain cells, or lists of them, cut where they end."""
    if array.ndim > 1:
        steps = array.shape[1]
        kept = np.full(len(array), steps) if ends is None else ends
        flat = array.reshape(-1, *array.shape[2:])[(np.arange(steps) < kept[:, None]).ravel()]
        return pyarrow.ListArray.from_arrays(
            np.concatenate([[0], np.cumsum(kept)]).astype(np.int32), _arrow(flat, None)
        )
    kind = array.dtype.kind
    if kind == "M":
        return pyarrow.array(array.astype("datetime64[us]"))
    if kind == "S":
        return pyarrow.array(np.char.decode(array, "utf-8", "replace").tolist(), pyarrow.large_string())
    if kind == "U":
        return pyarrow.array(array.tolist(), pyarrow.large_string())
    if kind == "m":
        array = array.astype(np.int64)
    if kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize == 2 else np.float64)
    return pyarrow.array(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def _are_times(name: str, array: NDArray[Any]) -> bool:
    """Whether an array has the time of each row: by its name, or as dates, and ascending."""
    if array.ndim != 1 or len(array) < 2 or (array.dtype.kind != "M" and name.lower() not in TIMES):
        return False
    if array.dtype.kind in "iufM":
        return bool((array[1:] > array[:-1]).all())
    return array.dtype.kind == "U" and len(np.unique(array)) == len(array)


def builtin_arrays(name: str) -> Table:
    """``builtin:digits`` and ``builtin:eeg``, which come with scikit-learn and matplotlib."""
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
