"""The lock of a run folder: one process writes to it, and only as long as it is the folder that it locked."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RunError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: two processes on one folder are then not noticed
    fcntl = None

__all__ = ["NAME", "Lock"]

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Lock:
    """An open, locked ``.lock`` file.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    note : callable
        Told in one line if the file system has no locks.

    Attributes
    ----------
    exclusive : bool
        Whether the lock is held; False on a file system without locks.

    Raises
    ------
    RunError
        If another process holds it, or the file cannot be made.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.path = folder / NAME
        self.exclusive = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            self.descriptor = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise RunError(f"--out {folder} cannot be written: {error.strerror}.") from None
        try:
            found = os.fstat(self.descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise RunError(f"{self.path} is not a regular file: remove it.")
            self.identity = (found.st_dev, found.st_ino)
            self._take(folder, note)
        except BaseException:
            os.close(self.descriptor)
            raise

    def _take(self, folder: Path, note: Callable[[str], None]) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process: wait for it or name another --out.") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise RunError(f"{self.path} cannot be locked: {error.strerror or error}.") from None
            note(
                f"the file system of {folder} has no locks ({error.strerror or error}): see to it that no second "
                "process writes to this run folder."
            )
        else:
            self.exclusive = True

    def still_there(self) -> bool:
        """Whether the path still leads to the locked file: the folder was not deleted, renamed or replaced."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.identity

    def release(self) -> None:
        """Unlock. The file stays: if it were removed, two processes could hold two different ones."""
        os.close(self.descriptor)
