"""Make the n-th call that touches a file fail, as SQLite's tests do: a disk that is full, broken, forbidden, gone.

Calls count if they touch something under a folder. Files that are opened there fail at reading and writing too.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

CODES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.ENOENT)
BY_PATH = (
    *("open", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir", "stat", "lstat"),
    *("listdir", "scandir", "chmod", "truncate", "readlink"),
)
BY_DESCRIPTOR = ("fsync", "fchmod", "fstat", "ftruncate", "write", "read", "pread")


class Faults:
    """Counts calls and lets some fail.

    Parameters
    ----------
    folder : Path
        Calls that touch anything else pass uncounted.
    at : int
        Which call fails, from 1; 0: none, they are only counted.
    code : int
        The ``errno`` with which it fails.
    lasting : bool
        Whether all later calls that write fail as well, as on a disk that is full.
    """

    def __init__(self, folder: Path, at: int = 0, code: int = errno.EIO, lasting: bool = False) -> None:
        self.folder, self.at, self.code, self.lasting = os.fspath(folder), at, code, lasting
        self.count = 0
        self.calls: list[str] = []
        self.failed: str | None = None
        self._within = False

    def check(self, name: str, place: object, writes: bool) -> None:
        """Count a call, and raise if it is its turn."""
        if self._within or not self._counts(place):
            return
        self.count += 1
        self.calls.append(f"{name} {place}")
        if self.count == self.at or (self.lasting and writes and 0 < self.at < self.count):
            self.failed = self.failed or self.calls[-1]
            raise OSError(self.code, os.strerror(self.code), place if isinstance(place, str) else None)

    def _counts(self, place: object) -> bool:
        if isinstance(place, int):
            self._within = True
            try:
                place = os.readlink(f"/proc/self/fd/{place}")  # noqa: PTH115
            except OSError:
                return False
            finally:
                self._within = False
        try:
            return os.path.abspath(os.fsdecode(place)).startswith(self.folder)  # noqa: PTH100  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False

    # --- Wrapped calls ------------------------------------------------------------------------------------------------

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        writes = name not in ("stat", "lstat", "listdir", "scandir", "readlink", "read", "pread", "fstat")

        def call(*arguments: Any, **named: Any) -> Any:
            place = arguments[0] if arguments else "."
            if name == "link" and len(arguments) > 1:  # of a file without a name
                place = arguments[1]
            if name == "open" and not named.get("flags", arguments[1] if len(arguments) > 1 else 0) & 3:
                self.check(name, place, False)
            else:
                self.check(name, place, writes)
            return real(*arguments, **named)

        return call

    def opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        faults = self

        class Raw(io.FileIO):
            def readinto(self, buffer: Any) -> int | None:
                faults.check("read of", self.fileno(), False)
                return super().readinto(buffer)

            def readall(self) -> bytes:
                faults.check("read of", self.fileno(), False)
                return super().readall()

            def write(self, data: Any) -> int | None:
                faults.check("write to", self.fileno(), True)
                return super().write(data)

        def open_(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            if not self._counts(file) or opener is not None:
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            if not isinstance(file, int):
                self.check("open", os.fspath(file), not set(mode).isdisjoint("wax+"))
            raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd)
            if buffering == 0:
                return raw
            held: Any
            if "+" in mode:
                held = io.BufferedRandom(raw)
            else:
                held = io.BufferedReader(raw) if mode[0] == "r" else io.BufferedWriter(raw)
            return held if "b" in mode else io.TextIOWrapper(held, encoding, errors, newline)

        return open_

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inject for the time of the context."""
        replaced: list[tuple[Any, str, Any]] = []

        def replace(home: Any, name: str, value: Any) -> None:
            replaced.append((home, name, getattr(home, name)))
            setattr(home, name, value)

        for name in (*BY_PATH, *BY_DESCRIPTOR):
            replace(os, name, self.wrapped(name, getattr(os, name)))
        replace(fcntl, "flock", self.wrapped("flock", lambda file, how, real=fcntl.flock: real(file, how)))
        replace(safetensors, "safe_open", self.wrapped("listdir", safetensors.safe_open))
        faulty = self.opened(io.open)
        replace(builtins, "open", faulty)
        replace(io, "open", faulty)
        try:
            yield
        finally:
            for home, name, value in reversed(replaced):
                setattr(home, name, value)
