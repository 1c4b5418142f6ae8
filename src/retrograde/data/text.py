"""Text from a file, a folder or standard input: read once, then available in pieces as often as needed."""

from __future__ import annotations

import codecs
import hashlib
import mimetypes
import sysconfig
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import check_source, limited, standard_input, walk
from ..options import TABLES_OR
from .files import AUTO, bytes_of, check_encoding, check_exists, decoded, in_one_line, some_of, unpacked
from .remote import is_remote, local_copy
from .storage import Rows

BUILTIN = "builtin:"
TEXT = "a text file, a folder of them, - or builtin:stdlib"  # what can be named, in words
PIECE = 1 << 20  # characters handed out at once


class Text:
    r"""The text of a data source: read once, then available in pieces as often as needed.

    It is kept as UTF-8, beyond 128 MB in a temporary file.

    Parameters
    ----------
    pieces : str or iterable of str
        The text, whole or cut anywhere. Line endings are ``\n`` whatever the files had; a leading byte-order mark is
        gone.
    source : str
        Where it came from, as the user named it.
    encoding : str
        The encoding it was decoded with.
    notes : tuple of str
        What a user should know about the reading (binary files of a folder that were left out).

    Attributes
    ----------
    characters : int
        How long it is.
    fingerprint : str
        SHA-256 of it as UTF-8; ``--resume`` compares it.

    Examples
    --------
    >>> text = Text(["to be", " or not"], "here")
    >>> text.characters, list(text.pieces(3, 8))
    (12, ['be or'])
    """

    def __init__(
        self, pieces: str | Iterable[str], source: str, encoding: str = "utf-8", notes: tuple[str, ...] = ()
    ) -> None:
        self.source, self.encoding, self.notes = source, encoding, notes
        self.characters = 0
        self._rows = Rows(np.uint8)
        self._starts, self._offsets = array("q"), array("q")  # of each piece: its first character, its first byte
        found = hashlib.sha256()
        for piece in _gathered([pieces] if isinstance(pieces, str) else pieces):
            data = piece.encode("utf-8", "surrogatepass")
            found.update(data)
            self._starts.append(self.characters)
            self._offsets.append(len(self._rows))
            self._rows.append(np.frombuffer(data, np.uint8))
            self.characters += len(piece)
        self._rows.settle()
        self.fingerprint = f"sha256:{found.hexdigest()}"

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The characters from ``start`` to ``stop``, about a million at a time."""
        stop = self.characters if stop is None else stop
        ends = [*self._offsets[1:], len(self._rows)]
        for place in range(max(0, bisect_right(self._starts, start) - 1), len(ends)):
            first = self._starts[place]
            if first >= stop:
                return
            data = self._rows[self._offsets[place] : ends[place]]
            piece = data.tobytes().decode("utf-8", "surrogatepass")[max(0, start - first) : stop - first]
            if piece:
                yield piece

    @property
    def content(self) -> str:
        """All of it in one string, where it is known to be small."""
        return "".join(self.pieces())


def _gathered(pieces: Iterable[str]) -> Iterator[str]:
    """Join small pieces, so that a million small files are not a million pieces."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield "".join(held)
            held, size = [], 0
    if size:
        yield "".join(held)


def read_text(source: str | Path, encoding: str = "utf-8") -> Text:
    r"""Read the text of a file, a folder, standard input or a built-in corpus.

    Parameters
    ----------
    source : str or Path
        A text file (plain or gzip), a folder (all its text files at any depth, in the order of
        their paths; hidden ones and symbolic links left out), ``-`` for standard input, an address (see
        `retrograde.data.remote`), or ``builtin:stdlib``: the source text of the running interpreter's standard library
        without its tests.
    encoding : str
        Any text encoding Python knows.

    Raises
    ------
    DataError
        If there is nothing there, or it is empty, binary, or not in this encoding (with the byte offset).
    OptionError
        If Python knows no such encoding.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    >>> read_text(file).content
    'one\ntwo\n'
    """
    check_encoding(encoding)
    encoding = "utf-8" if encoding == AUTO else encoding
    name, nothing = str(source), "is empty: there is no text to read"
    notes: tuple[str, ...] = ()
    pieces: Iterable[str]
    check_source(name, pipes=True)
    if name.startswith(BUILTIN):
        pieces, encoding = _builtin(name), "utf-8"
    elif name == "-":
        piped = limited(unpacked(standard_input(), "standard input"), "standard input")
        pieces = decoded(in_one_line(piped, "standard input"), encoding, "standard input")
    elif Path(name).is_dir():
        if is_saved(Path(name)):
            raise DataError(f"{name} is a table (of save_to_disk): say what to learn, --task {TABLES_OR}.")
        files, notes = _text_files(Path(name), encoding)
        pieces = _joined(decoded(bytes_of(path), encoding, str(path)) for path in files)
        empty = [path.relative_to(name).as_posix() for path in files]
        there = f"only empty ones ({some_of(empty)})." if empty else "there are no files in it."
        nothing = " ".join([f"holds no text: {there}", *notes]).removesuffix(".")
    else:
        path = local_copy(name) if is_remote(name) else Path(name)
        check_exists(str(path), TEXT)
        pieces = decoded(bytes_of(path), encoding, name)
    text = Text(pieces, name, encoding, notes)
    if not text.characters:
        raise DataError(f"{'standard input' if name == '-' else name} {nothing}.")
    return text


def is_saved(folder: Path) -> bool:
    """Whether a folder is a data set that ``save_to_disk`` of ``datasets`` wrote, or several of them."""
    one = all((folder / name).is_file() for name in ("dataset_info.json", "state.json"))
    return one or (folder / "dataset_dict.json").is_file()


def _text_files(folder: Path, encoding: str) -> tuple[list[Path], tuple[str, ...]]:
    """The text files under a folder, and notes on what was left out."""
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    files, binary = [], []
    regular, links = walk(folder)
    for path in regular:
        kind = mimetypes.guess_type(path.name)[0] or ""
        # In utf-16 a NUL is every other byte of plain English, so there the name has to tell.
        if kind.startswith(("image/", "audio/", "video/", "font/")) or (
            not wide and any(b"\0" in block for block in bytes_of(path))
        ):
            binary.append(path.relative_to(folder).as_posix())
        else:
            files.append(path)
    if binary and not files:
        raise DataError(f"{folder} holds no text files: only binary ones ({some_of(binary)}).")
    notes = []
    if binary:
        plural = "s" * (len(binary) > 1)
        notes.append(f"{len(binary)} binary file{plural} of {folder} left out: {some_of(binary)}.")
    if links:
        notes.append(f"symbolic links of {folder} are not followed: {some_of(links)}.")
    return files, tuple(notes)


def _joined(files: Iterable[Iterator[str]]) -> Iterator[str]:
    """One file after the other, each ending its last line."""
    for pieces in files:
        last = ""
        for last in pieces:
            yield last
        if last and not last.endswith("\n"):
            yield "\n"


def _builtin(name: str) -> Iterator[str]:
    if name != f"{BUILTIN}stdlib":
        raise DataError(f"there is no built-in text {name!r}; the only one is builtin:stdlib.")
    folder = Path(sysconfig.get_path("stdlib"))
    tests = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
    regular, links = walk(folder, tests) if folder.is_dir() else ([], [])
    # Some systems link a file of it to elsewhere; here nothing can be read twice.
    named = {path.relative_to(folder).as_posix(): path for path in [*regular, *(folder / link for link in links)]}
    files = [path for _, path in sorted(named.items()) if path.suffix == ".py" and path.is_file()]
    if not files:
        raise DataError(f"this Python keeps no sources of its standard library under {folder}: give a text file.")
    for path in files:
        # A handful of these files are not UTF-8 and say so in a comment; they need not be exact.
        text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\0", "")
        yield text if text.endswith("\n") else text + "\n"
