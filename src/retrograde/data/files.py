r"""Bytes of files, unpacked and decoded: gzip with a limit, encodings with the place of what cannot be read."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from .. import files
from ..errors import DataError, OptionError
from ..files import limited, open_source
from . import limits

__all__ = ["bytes_of", "check_encoding", "check_exists", "decoded", "in_one_line", "some_of", "unpacked", "walk"]

PIECE = 1 << 20  # bytes read at once
REST = 1 << 26  # bytes read on after a NUL or a byte that is no text, to see whether the archive itself is damaged


def check_exists(name: str, kinds: str) -> None:
    """Refuse a name that is no file or folder on this machine.

    Raises
    ------
    DataError
        With what would do; for a URL or the name of a data set on a hub, that nothing is fetched.
    """
    try:
        if Path(name).exists():
            return
    except (OSError, ValueError):
        return  # whoever reads it says why that fails
    if re.match(r"[a-z][a-z0-9+.-]*://", name) or re.fullmatch(r"[\w-]+/[\w-]+", name):
        raise DataError(
            f"{name} is no file here, and nothing is fetched from a hub or the web: download it, then name {kinds}."
        )
    raise DataError(f"{name} does not exist: name {kinds}.")


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that Python does not know.

    Raises
    ------
    OptionError
    """
    try:
        "".encode(encoding)
        b"".decode(encoding)
        known = codecs.lookup(encoding).name not in ("undefined", "idna", "punycode", "mbcs")
    except (LookupError, UnicodeError, ValueError):
        known = False
    if not known:
        raise OptionError(
            f"--encoding {encoding!r} is no text encoding that Python knows; "
            "try utf-8, utf-16, latin-1, cp1251, shift_jis, …"
        )


def bytes_of(path: Path) -> Iterator[bytes]:
    """Content of a file or a pipe in blocks, unpacked if it is gzip.

    Raises
    ------
    DataError
        If it cannot be read, or unpacks to more than `retrograde.data.limits` allow.
    """

    def blocks() -> Iterator[bytes]:
        with open_source(path, pipes=True) as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode):
                yield from unpacked(file, str(path), found.st_size)
            else:
                yield from limited(unpacked(file, str(path)), str(path))

    yield from in_one_line(blocks(), str(path))


def in_one_line(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The same blocks; what the system says of them in one line."""
    try:
        yield from blocks
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


class _Prefixed:
    """A stream whose first bytes were read already, and are read again."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._first, self._stream = first, stream

    def read(self, size: int = -1) -> bytes:
        found, self._first = (self._first[:size], self._first[size:]) if size >= 0 else (self._first, b"")
        return found or self._stream.read(size)


def unpacked(stream: IO[bytes], name: str, packed_size: int | None = None) -> Iterator[bytes]:
    """Blocks of a stream. Gzip is recognized by its first bytes, not by the name, and unpacked.

    Parameters
    ----------
    packed_size : int, optional
        Bytes of the stream; None where they are not known.
    """
    first = stream.read(PIECE)
    if first[:2] != b"\x1f\x8b":
        if name.endswith(".gz") and first:
            raise DataError(f"{name} is no gzip file, whatever its name says.")
        while first:
            yield first
            first = stream.read(PIECE)
        return
    most = max(limits.UNPACKED_BYTES, limits.UNPACKED_RATIO * packed_size if packed_size is not None else 0)
    reader = gzip.GzipFile(fileobj=_Prefixed(first, stream), mode="rb")  # type: ignore[call-overload]
    size = 0
    try:
        while block := reader.read(PIECE):
            size += len(block)
            if size > most:
                raise DataError(
                    f"{name} unpacks to more than {limits.UNPACKED_RATIO} times its size and {most / 2**30:.1f} GB: it "
                    "looks like a decompression bomb. If you trust it, unpack it and give the unpacked file."
                )
            yield block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is a damaged gzip file: {error}.") from None


def decoded(blocks: Iterator[bytes], encoding: str, name: str, *, translate: bool = True) -> Iterator[str]:
    r"""Decode blocks of bytes to text without a byte-order mark; with ``\n`` line ends, if they are to be translated.

    Raises
    ------
    DataError
        With the byte offset of what cannot be decoded, or of a NUL.
    """
    head, before = b"", 0  # what a message needs: the first bytes, and how many came before the block at hand
    decoder, marked, nul = None, True, -1
    lines = io.IncrementalNewlineDecoder(None, translate=translate)
    final = False
    while not final:
        block = next(blocks, b"")
        while decoder is None and len(block) < 4 and (more := next(blocks, b"")):  # a mark must be seen whole
            block += more
        final = not block
        head += block[: 8192 - len(head)]
        decoder = decoder or _decoder(encoding, head)
        state = decoder.getstate()
        try:
            piece = decoder.decode(block, final)
        except UnicodeDecodeError as error:
            _read_on(blocks)
            # What the decoder was given ends where the block does, and may begin with bytes left from the last one.
            byte, offset = error.object[error.start], before + len(block) - len(error.object) + error.start
            if b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(
                    f"{name} is binary, not text: a NUL at byte offset {head.index(0)}, and byte 0x{byte:02x} "
                    f"at offset {offset} is not {encoding}; {_likely_encoding(head, encoding)}."
                ) from None
            raise DataError(
                f"{name} is not {encoding} text: byte 0x{byte:02x} at offset {offset} "
                f"cannot be decoded; {_likely_encoding(head, encoding)}."
            ) from None
        except UnicodeError as error:
            raise DataError(f"{name} is not {encoding} text: {error}; {_likely_encoding(head, encoding)}.") from None
        if nul < 0 and "\0" in piece:
            again = _decoder(encoding, head)
            again.setstate(state)
            nul = before + _offset_of_nul(again, block)
        if nul >= 0 and before - nul > REST:  # what comes after it may say more, but need not be read to its end
            break
        before += len(block)
        if marked and piece:
            piece, marked = piece.removeprefix("\ufeff"), False
        if nul < 0 and (piece := lines.decode(piece, final)):
            yield piece
    if nul >= 0:
        raise DataError(f"{name} is binary, not text: a NUL at byte offset {nul}; {_likely_encoding(head, encoding)}.")


def _read_on(blocks: Iterator[bytes]) -> None:
    """A damaged gzip file says so rather than that its rubble is no text; it need not be read to its end for that."""
    size = 0
    for block in blocks:
        size += len(block)
        if size > REST:
            return


def _decoder(encoding: str, head: bytes) -> codecs.IncrementalDecoder:
    """A decoder that decodes in blocks what ``bytes.decode`` decodes at once."""
    plain = codecs.lookup(encoding).name
    for wide, marks in (
        ("utf-16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
        ("utf-32", (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    ):
        if plain == wide and not head.startswith(marks):  # only in blocks does Python insist on a mark
            encoding = f"{wide}-{'le' if sys.byteorder == 'little' else 'be'}"
    return codecs.getincrementaldecoder(encoding)()


def _offset_of_nul(decoder: codecs.IncrementalDecoder, block: bytes) -> int:
    """Where the bytes of the first NUL character begin."""
    begin = 0
    for place in range(len(block)):
        if piece := decoder.decode(block[place : place + 1]):
            if "\0" in piece:
                return begin
            begin = place + 1
    return begin


def _likely_encoding(data: bytes, tried: str) -> str:
    """What to suggest for bytes that do not decode."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark) and codecs.lookup(tried).name != encoding:
            return f"it begins with the mark of {encoding}: give --encoding {encoding}"
    return "if it is text, give its --encoding (latin-1, cp1251, utf-16, shift_jis, …)"


def some_of(names: Sequence[str]) -> str:
    """The first few names, and whether there are more."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def walk(folder: Path, skip: frozenset[str] = frozenset()) -> tuple[list[Path], list[str]]:
    """Regular files under a folder, in the order of their paths, and the symbolic links among them.

    Hidden files and folders are left out. Links are not followed: a text that is reached twice would be read twice,
    and could be both trained on and validated with.

    Returns
    -------
    files : list of Path
    links : list of str
        Relative to the folder.

    Raises
    ------
    DataError
        If the folder is too large, see `retrograde.files.walk`.
    """
    regular = [path for path in files.walk(folder, skip) if not path.is_symlink()]
    links = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skip]
        links += [path for path in (Path(root, name) for name in [*folders, *names]) if path.is_symlink()]
    found = sorted(path.relative_to(folder).as_posix() for path in links if not path.name.startswith("."))
    return regular, found
