"""What a table becomes, kept where it fits: in memory while it is small, beyond that in a temporary file.

Files are read piece by piece rather than mapped, so that neither memory nor address space grows with the data.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from ..errors import DataError

__all__ = ["PIECE", "Partitions", "Ragged", "Rows", "scattered"]

SPILL = 1 << 27  # bytes held in memory before they go to a file
PIECE = 1 << 16  # rows handed out at once


@contextmanager
def _room() -> Iterator[None]:
    """Turn what a full disk says into a line that helps."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the data needs room in a temporary file, and {tempfile.gettempdir()} gives none ({error.strerror}): free "
            "some, or set TMPDIR to another folder."
        ) from None


def _temporary() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="retrograde-", buffering=0)


def _append(file: IO[bytes], data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _read(file: IO[bytes], offset: int, size: int) -> bytearray:
    """Bytes of a file; other threads may read it at the same time."""
    found = bytearray()
    while len(found) < size:
        found += os.pread(file.fileno(), size - len(found), offset + len(found))
    return found


class Rows:
    """A long array, ``(N,)`` or ``(N, F)``, written from its beginning and then read anywhere.

    Examples
    --------
    >>> rows = Rows(np.int32)
    >>> rows.append([1, 2, 3])
    >>> len(rows), rows[1:3].tolist()
    (3, [2, 3])
    """

    def __init__(self, dtype: type[np.generic]) -> None:
        self.dtype = np.dtype(dtype)
        self.shape: tuple[int, ...] = ()  # of a row
        self._held: list[NDArray[Any]] = []
        self._size = self._count = self._stored = 0
        self._file: IO[bytes] | None = None

    def append(self, rows: Any) -> None:
        """Add rows at the end."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if len(rows):
            self.shape = rows.shape[1:]
            self._held.append(rows)
            self._size, self._count = self._size + rows.nbytes, self._count + len(rows)
            if self._size > SPILL:
                self._spill()

    def _spill(self) -> None:
        with _room():
            self._file = self._file or _temporary()
            for one in self._held:
                _append(self._file, one.data.cast("B"))
        self._stored, self._held, self._size = self._count, [], 0

    def __len__(self) -> int:
        return self._count

    def settle(self) -> None:
        """Say that all is written."""
        if self._file is not None and self._held:
            self._spill()

    @property
    def in_memory(self) -> NDArray[Any] | None:
        """All of it, where it is held in memory; None where it is in a file."""
        if self._file is not None:
            return None
        if len(self._held) != 1:
            whole = np.concatenate(self._held) if self._held else np.empty((0, *self.shape), self.dtype)
            self._held = [whole]
        return self._held[0]

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, stop, step = part.indices(self._count)
        if step != 1:
            raise IndexError("rows are read one after the other")
        held = self.in_memory
        if held is not None:
            return held[start:stop]
        if stop > self._stored:
            self.settle()
        assert self._file is not None
        width = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))
        found = _read(self._file, start * width, max(0, stop - start) * width)
        return np.frombuffer(found, self.dtype).reshape(-1, *self.shape)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """The rows from ``start`` to ``stop``, some at a time."""
        stop = self._count if stop is None else stop
        for at in range(start, stop, PIECE):
            yield self[at : min(stop, at + PIECE)]


def scattered(rows: int, width: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros, ``(rows, width)``, to be written in any order; a large one lies in a temporary file."""
    if rows * width * np.dtype(dtype).itemsize <= SPILL:
        return np.zeros((rows, width), dtype)
    with _room():
        file = _temporary()
        os.truncate(file.fileno(), rows * width * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "r+", shape=(rows, width))


class Ragged:
    """Arrays that differ in length only, one after the other.

    Examples
    --------
    >>> ragged = Ragged.of([np.array([1, 2]), np.array([3])], np.int32)
    >>> len(ragged), ragged.lengths.tolist(), ragged[1].tolist()
    (2, [2, 1], [3])
    """

    def __init__(self, rows: Rows, lengths: NDArray[np.int64]) -> None:
        rows.settle()
        self.rows, self.lengths = rows, lengths
        self.starts = np.concatenate([[0], np.cumsum(lengths)])

    @classmethod
    def of(cls, arrays: Iterable[NDArray[Any]], dtype: type[np.generic]) -> Ragged:
        """Take arrays one by one, (T,) or (T, F)."""
        rows, lengths = Rows(dtype), array("q")
        for one in arrays:
            rows.append(one)
            lengths.append(len(one))
        return cls(rows, np.array(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.rows[int(self.starts[index]) : int(self.starts[index + 1])]

    def counts(self, classes: int) -> NDArray[np.int64]:
        """How often each number below ``classes`` comes."""
        found = np.zeros(classes, dtype=np.int64)
        for piece in self.rows.pieces():
            found += np.bincount(piece, minlength=classes)
        return found

    def padded(self, indices: NDArray[np.int64], value: float = 0) -> NDArray[Any]:
        """Some of them side by side, ``(T, B)`` or ``(T, B, F)``, filled up with a value."""
        lengths = self.lengths[indices]
        longest = int(lengths.max(initial=0))
        held = self.rows.in_memory
        if held is not None and len(lengths) and (lengths == longest).all():
            return np.asarray(held[self.starts[indices] + np.arange(longest)[:, None]])
        result = np.full((longest, len(indices), *self.rows.shape), value, dtype=self.rows.dtype)
        for column, index in enumerate(indices):
            result[: self.lengths[index], column] = self[index]
        return result


class Partitions:
    """The rows of a table brought together by group, however they lie: an external sort by partition.

    A group has a number; groups are numbered in the order they first come. Rows are written to a temporary file as
    Arrow batches, each batch for one range of groups; a range that grows beyond a quarter of `SPILL` bytes is split,
    once all is read and the sizes are known, and written anew.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the rows, beside which each has its place in the table (``row``) and its group's number (``group``).
    """

    def __init__(self, schema: pyarrow.Schema) -> None:
        self.schema = schema.append(pyarrow.field("row", pyarrow.int64())).append(
            pyarrow.field("group", pyarrow.int64())
        )
        self.counts = array("q")  # rows of each group
        self._starts = [0]  # the first group of each partition
        self._pieces: list[list[tuple[int, int]]] = [[]]  # of each partition: where its batches lie in the file
        self._sizes = [0]
        self._held: list[list[pyarrow.RecordBatch]] = [[]]
        self._held_size = 0
        self._file: IO[bytes] | None = None
        self._end = 0

    def append(self, columns: dict[str, Any], first_row: int, groups: NDArray[np.int64]) -> None:
        """Add rows: their columns, the place of the first in the table, and the number of each one's group."""
        rows = np.arange(first_row, first_row + len(groups))
        arrays = [pyarrow.array(columns[name], self.schema.field(name).type) for name in self.schema.names[:-2]]
        batch = pyarrow.RecordBatch.from_arrays([*arrays, rows, groups], schema=self.schema)
        known, highest = len(self.counts), int(groups.max(initial=-1))
        if highest >= known:
            self.counts.extend([0] * (highest + 1 - known))
            if self._sizes[-1] > SPILL // 4:
                self._open(known)
        for group, count in zip(*np.unique(groups, return_counts=True), strict=True):
            self.counts[group] += int(count)
        self._distribute(batch, groups)
        if self._held_size > SPILL // 2:
            self._spill()

    def _open(self, first_group: int) -> None:
        """Begin a partition for the groups from ``first_group`` on."""
        self._starts.append(first_group)
        self._pieces.append([])
        self._sizes.append(0)
        self._held.append([])

    def _distribute(self, batch: pyarrow.RecordBatch, groups: NDArray[np.int64]) -> None:
        places = np.searchsorted(self._starts, groups, side="right") - 1
        for place in np.unique(places):
            part = batch if (places == place).all() else batch.filter(pyarrow.array(places == place))
            self._held[place].append(part)
            self._sizes[place] += part.nbytes
            self._held_size += part.nbytes

    def _spill(self) -> None:
        with _room():
            self._file = self._file or _temporary()
            for place, batches in enumerate(self._held):
                if batches:
                    whole = pyarrow.Table.from_batches(batches).combine_chunks().to_batches()
                    for batch in whole:
                        data = batch.serialize()
                        _append(self._file, memoryview(data))
                        self._pieces[place].append((self._end, data.size))
                        self._end += data.size
                    self._held[place] = []
        self._held_size = 0

    def _stored(self, place: int) -> Iterator[pyarrow.RecordBatch]:
        for offset, size in self._pieces[place]:
            assert self._file is not None
            yield pyarrow.ipc.read_record_batch(pyarrow.py_buffer(_read(self._file, offset, size)), self.schema)
        yield from self._held[place]

    def finish(self) -> Partitions:
        """Split what is too large; to be called when all rows are there. Returns what is to be read."""
        if max(self._sizes) <= SPILL // 2:
            return self
        anew = Partitions(self.schema.remove(len(self.schema) - 1).remove(len(self.schema) - 2))
        anew.counts, anew._starts = self.counts, []
        anew._pieces, anew._sizes, anew._held = [], [], []
        share = sum(self._sizes) / max(1, sum(self.counts))  # bytes a row
        filled = 0.0
        for group, count in enumerate(self.counts):
            if not anew._starts or filled + count * share > SPILL // 4:
                anew._open(group)
                filled = 0.0
            filled += count * share
        for place in range(len(self._starts)):
            for batch in self._stored(place):
                anew._distribute(batch, batch["group"].to_numpy())
                if anew._held_size > SPILL // 2:
                    anew._spill()
        return anew

    def __iter__(self) -> Iterator[pyarrow.Table]:
        """Partition by partition, each with whole groups, in the order of their numbers; rows in any order."""
        for place in range(len(self._starts)):
            if batches := list(self._stored(place)):
                yield pyarrow.Table.from_batches(batches)
