"""Bytes of files, unpacked and decoded: gzip with a limit, encodings with the place of what cannot be read.

Tests: `tests/data/test_text.py`.
"""

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
from itertools import chain
from pathlib import Path
from typing import IO, Any

from ..errors import DataError, OptionError
from ..files import limited, open_source
from . import limits

PIECE = 1 << 20  # bytes read at once
REST = 1 << 26  # bytes read on after an error: a damaged gzip file then says so rather than that it is not text
AUTO = "auto"  # encoding of text that is UTF-8, unless a table shows another (see `retrograde.data.western`)
_SOME_ENCODINGS = "cp1252, cp1250, cp1251, utf-16, gb18030, shift_jis, …"


class WrongEncodingError(DataError):
    """Bytes of a text file are none of the encoding that it is read in."""


def check_exists(name: str, kinds: str) -> None:
    """Refuse a name that is not a file or folder on this machine.

    Raises DataError with what would do; for a URL or the name of a data set on a hub, that nothing is fetched.
    """
    try:
        if Path(name).exists():
            return
    except (OSError, ValueError):
        return  # whoever reads it says why that fails
    if "://" in name or re.fullmatch(r"[\w-]+/[\w-]+", name):
        raise DataError(
            f"{name} is not a file here, and nothing is fetched from a hub or the web: download it, then name {kinds}."
        )
    raise DataError(f"{name} does not exist: name {kinds}.")


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that Python does not know.

    Raises OptionError.
    """
    if encoding == AUTO:
        return
    try:
        "".encode(encoding)
        b"".decode(encoding)
        known = codecs.lookup(encoding).name not in ("undefined", "idna", "punycode", "mbcs")
    except (LookupError, UnicodeError, ValueError):
        known = False
    if not known:
        raise OptionError(
            f"--encoding {encoding!r} is not a text encoding that Python knows; try utf-8, {_SOME_ENCODINGS}"
        )


def bytes_of(path: Path) -> Iterator[bytes]:
    """Content of a file or a pipe in blocks, unpacked if it is gzip.

    Raises DataError if it cannot be read, or unpacks to more than `retrograde.data.limits` allow.
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
    """The same blocks; an error of the system becomes one line."""
    try:
        yield from blocks
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def unpacked(stream: IO[bytes], name: str, packed_size: int = 0) -> Iterator[bytes]:
    """Blocks of a stream of ``packed_size`` bytes (0: unknown). Gzip is recognized by its first bytes and unpacked."""
    buffered: Any = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
    packed = buffered.peek(2)[:2] == b"\x1f\x8b"
    if not packed and name.endswith(".gz") and buffered.peek(1):
        raise DataError(f"{name} is not a gzip file, whatever its name says.")
    reader = gzip.GzipFile(fileobj=buffered, mode="rb") if packed else buffered
    most, size = max(limits.UNPACKED_BYTES, limits.UNPACKED_RATIO * packed_size), 0
    try:
        while block := reader.read(PIECE):
            size += len(block)
            if packed and size > most:
                raise DataError(
                    f"{name} unpacks to more than {limits.UNPACKED_RATIO} times its size and {most / 2**30:.1f} GB: it "
                    "looks like a decompression bomb. If you trust it, unpack it and give the unpacked file."
                )
            yield block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is a damaged gzip file: {error}.") from None


def decoded(blocks: Iterator[bytes], encoding: str, name: str, *, translate: bool = True) -> Iterator[str]:
    r"""Decode blocks of bytes to text without a byte-order mark.

    Parameters
    ----------
    translate : bool
        Whether every line end becomes ``\n``.

    Raises
    ------
    DataError
        With the byte offset of what cannot be decoded, or of a NUL.
    """
    encoding = "utf-8" if encoding == AUTO else encoding
    first, before, nul = b"", 0, -1
    while len(first) < 4 and (more := next(blocks, b"")):  # a mark must be seen whole
        first += more
    decoder, marked = _decoder(encoding, first), True
    lines = io.IncrementalNewlineDecoder(None, translate=translate)
    for block in chain([first] if first else [], blocks, [b""]):
        pending = len(decoder.getstate()[0])
        try:
            piece = decoder.decode(block, not block)
        except UnicodeError as error:
            _read_on(blocks)
            nul = first[:8192].find(0) if nul < 0 and not first.startswith(_UTF16) else nul
            wrong = f"is not {encoding} text: {error}"
            if isinstance(error, UnicodeDecodeError):
                # What the decoder was given ends where the block does, and may begin with bytes of the last one.
                offset = before + len(block) - len(error.object) + error.start
                byte = f"byte 0x{error.object[error.start]:02x} at offset {offset}"
                wrong = f"is not {encoding} text: {byte} cannot be decoded"
                if nul >= 0:
                    wrong = f"is binary, not text: a NUL at byte offset {nul}, and {byte} is not {encoding}"
            raise (DataError if nul >= 0 and not first.startswith(_UTF16 + _UTF32) else WrongEncodingError)(
                f"{name} {wrong}; {_likely_encoding(first, encoding)}."
            ) from None
        if nul < 0 and "\0" in piece:
            nul = _offset_of_nul(block, before, pending, encoding)
        if nul >= 0 and before - nul > REST:  # what comes after it may say more, but need not be read to its end
            break
        before += len(block)
        if marked and piece:
            piece, marked = piece.removeprefix("\ufeff"), False
        if nul < 0 and (piece := lines.decode(piece, not block)):
            yield piece
    if nul >= 0:
        raise DataError(f"{name} is binary, not text: a NUL at byte offset {nul}; {_likely_encoding(first, encoding)}.")


def _read_on(blocks: Iterator[bytes]) -> None:
    """Read up to `REST` bytes more, so that a damaged gzip file is reported as such."""
    size = 0
    for block in blocks:
        size += len(block)
        if size > REST:
            return


_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def _decoder(encoding: str, head: bytes) -> codecs.IncrementalDecoder:
    """A decoder that decodes in blocks what ``bytes.decode`` decodes at once."""
    plain = codecs.lookup(encoding).name
    for wide, marks in (("utf-16", _UTF16), ("utf-32", _UTF32)):
        if plain == wide and not head.startswith(marks):  # only in blocks does Python insist on a mark
            encoding = f"{wide}-{'le' if sys.byteorder == 'little' else 'be'}"
    return codecs.getincrementaldecoder(encoding)()


def _offset_of_nul(block: bytes, before: int, pending: int, encoding: str) -> int:
    """Where the first NUL character of a block begins, whose decoder had some bytes of the block before it pending."""
    width = {"utf-16": 2, "utf-32": 4}.get(codecs.lookup(encoding).name[:6], 1)
    part = pending % width  # the decoder may also wait for the second of two units, or for a mark
    if part and not any(block[: width - part]):
        return before - part
    places = range(-before % width, len(block), width)
    return before + next((at for at in places if not any(block[at : at + width])), 0)


def _likely_encoding(head: bytes, tried: str) -> str:
    """What to suggest for bytes that do not decode."""
    known = ((codecs.BOM_UTF8, "utf-8"), (_UTF32[0], "utf-32"), (_UTF16[0], "utf-16"), (_UTF16[1], "utf-16"))
    for mark, encoding in known:
        if head.startswith(mark) and codecs.lookup(tried).name != encoding:
            return f"it begins with the mark of {encoding}: give --encoding {encoding}"
    return f"if it is text, give its --encoding ({_SOME_ENCODINGS})"


def some_of(names: Sequence[str]) -> str:
    """The first three names, and whether there are more."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
