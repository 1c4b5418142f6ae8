"""Arrays that are kept in memory while they are small, and beyond that in a temporary file.

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
from numpy.typing import NDArray

from ..errors import DataError

SPILL = 1 << 27  # bytes kept in memory before they go to a file
PIECE = 1 << 16  # rows handed out at once


def no_room(why: str) -> DataError:
    """The error of a full disk, with what helps."""
    return DataError(
        f"the data needs room in a temporary file, and {tempfile.gettempdir()} gives none ({why}): free "
        "some, or set TMPDIR to another folder."
    )


@contextmanager
def _disk() -> Iterator[None]:
    """Turn an error of the system into that of a full disk."""
    try:
        yield
    except OSError as error:
        raise no_room(str(error.strerror)) from None


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
        self._kept: list[NDArray[Any]] = []
        self._size = self._count = self._stored = 0
        self._file: IO[bytes] | None = None

    def append(self, rows: Any) -> None:
        """Add rows at the end."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if len(rows):
            self.shape = rows.shape[1:]
            self._kept.append(rows)
            self._size, self._count = self._size + rows.nbytes, self._count + len(rows)
            if self._size > SPILL:
                self._spill()

    def _spill(self) -> None:
        with _disk():
            self._file = self._file or _temporary()
            for one in self._kept:
                _append(self._file, one.data.cast("B"))
        self._stored, self._kept, self._size = self._count, [], 0

    def __len__(self) -> int:
        return self._count

    def settle(self) -> None:
        """Move what is still in memory to the file, if there is one."""
        if self._file is not None and self._kept:
            self._spill()

    @property
    def in_memory(self) -> NDArray[Any] | None:
        """All of it if it is kept in memory; None if it is in a file."""
        if self._file is not None:
            return None
        if len(self._kept) != 1:
            whole = np.concatenate(self._kept) if self._kept else np.empty((0, *self.shape), self.dtype)
            self._kept = [whole]
        return self._kept[0]

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, stop, step = part.indices(self._count)
        if step != 1:
            raise IndexError("Rows has no steps in slices")
        whole = self.in_memory
        if whole is not None:
            return whole[start:stop]
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
    """Zeros, ``(rows, width)``, to be written in any order; a large array is in a temporary file."""
    if rows * width * np.dtype(dtype).itemsize <= SPILL:
        return np.zeros((rows, width), dtype)
    with _disk():
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
        """From arrays of shape ``(T,)`` or ``(T, F)``, taken one by one."""
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
        """How often each number below ``classes`` occurs."""
        found = np.zeros(classes, dtype=np.int64)
        for piece in self.rows.pieces():
            found += np.bincount(piece, minlength=classes)
        return found

    def padded(self, indices: NDArray[np.int64], value: float = 0) -> NDArray[Any]:
        """Some of the arrays side by side, ``(T, B)`` or ``(T, B, F)``, filled up with a value."""
        lengths = self.lengths[indices]
        longest = int(lengths.max(initial=0))
        whole = self.rows.in_memory
        if whole is not None and len(lengths) and (lengths == longest).all():
            return np.asarray(whole[self.starts[indices] + np.arange(longest)[:, None]])
        result = np.full((longest, len(indices), *self.rows.shape), value, dtype=self.rows.dtype)
        for column, index in enumerate(indices):
            result[: self.lengths[index], column] = self[index]
        return result
