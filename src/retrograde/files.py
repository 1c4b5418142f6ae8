"""Open files from any source safely, and write files that are either whole or absent.

Everything in the package that opens a file named by a user, or found in a run folder, goes through here. Devices and
sockets are refused, pipes are read up to a limit, folders are walked up to a limit. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import select
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from .errors import DataError

STREAM_BYTES = 1 << 30  # read from standard input or a pipe at most: 1 GiB
FOLDER_ENTRIES = 250_000  # files and folders under a folder of texts
FOLDER_BYTES = 1 << 35  # size of all of them together: 32 GiB
WRITER_SECONDS = 10.0  # wait for somebody to open the other end of a pipe
KEPT_BYTES = 1 << 28  # of a vocabulary, or of the columns and scales of a task: 256 MiB
_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
_KINDS = {stat.S_IFCHR: "device", stat.S_IFBLK: "device", stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe"}


# --- What a user names ------------------------------------------------------------------------------------------------


def check_source(name: str | os.PathLike[str], *, pipes: bool = False) -> None:
    """Refuse what cannot be read as a file: nothing, a device, a socket, and unless ``pipes`` a pipe.

    A name that does not exist passes: the caller says which kinds of file it expects.

    Raises DataError.
    """
    if not os.fspath(name):
        raise DataError("the name of the data is empty: name a file or a folder.")
    try:
        found = Path(name).stat()
    except (OSError, ValueError):
        return
    _check_kind(str(name), found, pipes)


def _check_kind(name: str, found: os.stat_result, pipes: bool) -> None:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind == "pipe" and not pipes:
        raise DataError(f"{name} is a pipe, which can be read only once: save what it brings to a file and name that.")
    if kind in ("device", "socket") and not _is_null(found):
        raise DataError(f"{name} is a {kind}, not a file: it has no end. Name a file.")
    if stat.S_ISREG(found.st_mode) and found.st_dev in _kernel_devices():
        raise DataError(f"{name} is not a file on a disk but an interface of the kernel: name a file.")


def _is_null(found: os.stat_result) -> bool:
    """Whether it is ``/dev/null``, which ends at once."""
    try:
        return found.st_rdev == Path(os.devnull).stat().st_rdev
    except OSError:
        return False


def _kernel_devices() -> set[int]:
    """Device numbers of ``/proc`` and ``/sys``, whose files have neither a size nor, some of them, an end."""
    found = set()
    for folder in ("/proc", "/sys"):
        try:
            found.add(Path(folder).stat().st_dev)
        except OSError:
            continue
    # In some containers they are plain folders of the root file system.
    return found - {Path("/").stat().st_dev}


def open_source(path: str | os.PathLike[str], *, pipes: bool = False) -> IO[bytes]:
    """Open a file for reading, after `check_source`; opening a pipe waits at most `WRITER_SECONDS` for its writer.

    Raises DataError if it is a device or a socket, or a pipe to which nobody writes.
    Raises OSError if it cannot be opened.
    """
    check_source(path, pipes=pipes)
    descriptor = os.open(path, os.O_RDONLY | _ONCE)
    try:
        found = os.fstat(descriptor)  # again: another file may have taken the name meanwhile
        _check_kind(str(path), found, pipes)
        if stat.S_ISFIFO(found.st_mode):
            return io.BufferedReader(_Pipe(descriptor, _first_bytes(descriptor, str(path))))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _first_bytes(descriptor: int, name: str) -> bytes:
    """The bytes that a pipe brings first; waits for its writer."""
    until = time.monotonic() + WRITER_SECONDS
    while True:
        try:
            first = os.read(descriptor, 1 << 16)
        except BlockingIOError:  # somebody has it open and has not written yet
            first = b""
            break
        if first:
            break
        left = until - time.monotonic()
        if left <= 0:
            raise DataError(f"{name} is a pipe to which nobody has written for {WRITER_SECONDS:g} seconds.")
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        if waiting.poll(min(left, 0.05) * 1000):
            time.sleep(0.01)  # a pipe whose writer has left is ready at once, with nothing to read
    os.set_blocking(descriptor, True)
    return first


class _Pipe(io.RawIOBase):
    """A pipe, the first bytes of which were read already."""

    def __init__(self, descriptor: int, first: bytes) -> None:
        self._file, self._first = os.fdopen(descriptor, "rb", buffering=0), first

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int | None:
        if self._first:
            count = min(len(buffer), len(self._first))
            buffer[:count], self._first = self._first[:count], self._first[count:]
            return count
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def standard_input() -> IO[bytes]:
    """Standard input, if it is a stream that ends.

    Raises DataError if it is closed, a folder, or a device other than a terminal.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("standard input is closed: name a file, or pipe the data in.")
    stream = sys.stdin.buffer
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # something in memory takes its place
        return stream
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise DataError("standard input is a folder: name it as the data instead.")
    if not os.isatty(descriptor):
        _check_kind("standard input", found, True)
    return stream


def limited(blocks: Iterable[bytes], name: str, limit: int = STREAM_BYTES) -> Iterator[bytes]:
    """Pass on the blocks of a stream, up to a limit.

    Raises DataError if there is more.
    """
    size = 0
    for block in blocks:
        size += len(block)
        if size > limit:
            raise DataError(
                f"{name} brings more than {limit >> 20:,} MiB, the limit for a stream: save it to a file, which may be "
                "larger, and name that."
            )
        yield block


# --- Folders ----------------------------------------------------------------------------------------------------------


def walk(folder: str | os.PathLike[str], skip: frozenset[str] = frozenset()) -> tuple[list[Path], list[str]]:
    """Regular files under a folder, in the order of their paths, and the symbolic links among them.

    Hidden files and folders are left out. Links are not followed: a text that is reached twice would be read twice,
    and could be both trained on and validated with.

    Returns files; links: relative to the folder.
    Raises DataError if it is the whole file system, contains kernel interfaces, or more than `FOLDER_ENTRIES` entries
        or `FOLDER_BYTES` bytes.
    """
    top = Path(folder)
    if top.resolve() == Path(top.resolve().anchor):
        raise DataError(f"{folder} is the whole file system: name a folder of texts in it.")
    found: list[Path] = []
    links: list[Path] = []
    kernel, entries, size = _kernel_devices(), 0, 0
    if top.stat().st_dev in kernel:
        raise DataError(f"{folder} holds no files but interfaces of the kernel: name a folder of texts.")

    def refuse(error: OSError) -> None:
        if error.filename == str(top):
            raise DataError(f"{folder} cannot be read: {error.strerror}.") from None

    for root, folders, files in os.walk(top, onerror=refuse):
        entries += len(folders) + len(files)
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skip]
        links += [Path(root, name) for name in folders if Path(root, name).is_symlink()]
        for path in (Path(root, name) for name in files if not name.startswith(".")):
            try:
                about = path.lstat()
            except OSError:  # it was removed meanwhile
                continue
            if stat.S_ISLNK(about.st_mode):
                links.append(path)
            elif stat.S_ISREG(about.st_mode) and about.st_dev not in kernel:
                size += about.st_size
                found.append(path)
        if entries > FOLDER_ENTRIES or size > FOLDER_BYTES:
            raise DataError(
                f"{folder} is too large for a folder of texts: it holds more than {FOLDER_ENTRIES:,} files and "
                f"folders, or more than {FOLDER_BYTES >> 30} GiB. Name a smaller folder, or join the files."
            )
    found.sort(key=lambda path: path.relative_to(top).as_posix())
    return found, sorted(path.relative_to(top).as_posix() for path in links)


# --- Files that the package wrote itself, or that look like it --------------------------------------------------


class UnreadableError(OSError):
    """A file is not a regular one, or larger than anything that the package writes."""


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes; its last component must not be a link.

    Raises UnreadableError if it is something else, or larger.
    Raises OSError if it is missing or cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | _ONCE | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        found = os.fstat(file.fileno())
        check_regular(found, limit)
        # It may grow meanwhile; a buffer of the limit's size would be allocated in one piece.
        content = file.read(min(limit, found.st_size + (1 << 20)) + 1)
    if len(content) > limit:
        raise UnreadableError(errno.EFBIG, f"it is larger than {limit >> 20:,} MiB, the limit for this file")
    return content


def check_regular(found: os.stat_result, limit: int) -> None:
    """Refuse what `read_file` does not read.

    Raises UnreadableError.
    """
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "folder" if stat.S_ISDIR(found.st_mode) else "special file")
        raise UnreadableError(errno.EINVAL, f"it is a {kind}, not a regular file")
    if found.st_size > limit:
        raise UnreadableError(
            errno.EFBIG, f"it has {found.st_size / (1 << 20):,.0f} MiB; the limit for this file is {limit >> 20:,} MiB"
        )


# --- Writing: a reader sees the old file or the new one, never half of one --------------------------------------------

DRAFT = ".partial"


@contextmanager
def replacing(path: str | os.PathLike[str], *, follow: bool = False) -> Iterator[IO[bytes]]:
    """Write a file so that at any moment either the old or the new one is whole: draft, fsync, rename.

    The draft has no name while it is written, so a process that is killed leaves nothing behind. A new file gets the
    permissions that the umask leaves; one that is replaced keeps its own. A link is replaced; with ``follow``, the file
    that it leads to is.

    Raises OSError if it cannot be written; the old file is then still there.
    """
    target = Path(os.path.realpath(path)) if follow else Path(path)
    mode = _mode_of(target)
    linkable = _unnamed_work(target.parent)
    with _unnamed(target.parent, linkable) as file:
        yield file
        file.flush()
        draft = _draft_name(target)
        with _removed_on_error(draft):
            if linkable:
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                _sync(file.fileno())
                _link(file.fileno(), draft)
            else:
                file.seek(0)
                with _named(draft, mode) as copy:
                    shutil.copyfileobj(file, copy, 1 << 20)
            draft.replace(target)
    _sync_folder(target.parent)


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file as `replacing` does.

    Raises OSError if it cannot be written; the old file is then still there.
    """
    target = Path(path)
    if _unnamed_work(target.parent):
        with replacing(path) as file:
            file.write(content)
        return
    draft = _draft_name(target)
    with _removed_on_error(draft):
        with _named(draft, _mode_of(target)) as file:
            file.write(content)
        draft.replace(target)
    _sync_folder(target.parent)


@contextmanager
def _removed_on_error(draft: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


@contextmanager
def _named(draft: Path, mode: int | None) -> Iterator[IO[bytes]]:
    """A new file, synced at the end."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    with os.fdopen(os.open(draft, flags, 0o666), "wb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        yield file
        file.flush()
        _sync(file.fileno())


def _unnamed(folder: Path, linkable: bool) -> IO[bytes]:
    """A new file without a name: one that can get a name later, or one that is copied."""
    if linkable:
        return os.fdopen(os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666), "w+b")
    return tempfile.TemporaryFile(dir=folder)


def _mode_of(target: Path) -> int | None:
    """Permissions of the file that is to be replaced; None if there is none."""
    try:
        found = target.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        return None
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "folder")
        raise OSError(errno.EEXIST, f"it is a {kind}, which is not replaced", str(target))
    return stat.S_IMODE(found.st_mode)


def remove_drafts(folder: Path) -> None:
    """Remove the drafts of a process that was killed while writing; no other process may be writing to the folder."""
    for file in [*folder.glob(f".*{DRAFT}"), *folder.glob(f"*/.*{DRAFT}")]:
        with suppress(OSError):
            file.unlink()


def _draft_name(target: Path) -> Path:
    # The target's name may be as long as a name can be: its beginning shows what the draft was to become.
    return target.with_name(f".{target.name[:30]}.{os.getpid()}.{secrets.token_hex(4)}{DRAFT}")


def _link(descriptor: int, name: Path) -> None:
    """Name a file that has no name."""
    # Only with a descriptor (whose value an absolute path makes irrelevant) does Python follow the link in /proc.
    os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor, follow_symlinks=True)


@cache
def _unnamed_work(folder: Path) -> bool:
    """Whether files without a name can be made in a folder, and named later: not on every file system, nor in every
    container.
    """
    if not hasattr(os, "O_TMPFILE"):
        return False
    draft = _draft_name(folder / "try")
    try:
        descriptor = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:
            _link(descriptor, draft)
            draft.unlink()
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def _sync(descriptor: int) -> None:
    """Wait until a file is on the disk. A failure counts as one of writing; a file system that cannot sync does not."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:  # not every system lets a folder be opened; the file itself is synced
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EROFS)
