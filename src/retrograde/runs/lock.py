"""The lock of a run folder: one process writes to it, and only while it is still the folder that was locked.

Not ``filelock``: it does not say which file (device and inode) it locked, so a folder that was deleted, renamed or
replaced could not be noticed. On a file system without locks it raises, or leaves a marker file behind when a process
is killed; training is to continue there, with a note.
"""

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
except ImportError:  # Windows: two processes that write to one folder are not noticed there
    fcntl = None

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Lock:
    """An open, locked ``.lock`` file.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    note : callable
        Called with one line if the file system has no locks.

    Attributes
    ----------
    exclusive : bool
        Whether the file is locked; False on a file system without locks.

    Raises
    ------
    RunError
        If another process has locked it, or the file cannot be created.
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
            self._acquire(folder, note)
        except BaseException:
            os.close(self.descriptor)
            raise

    def _acquire(self, folder: Path, note: Callable[[str], None]) -> None:
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
                f"the file system of {folder} has no locks ({error.strerror or error}): make sure that no second "
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
        """Unlock. The file is kept: if it were removed, two processes could each lock a different one."""
        os.close(self.descriptor)
