"""Text, from where the user keeps it to token numbers and back.

`read_text` decodes a file, a ``.gz``, a folder, standard input or ``builtin:stdlib`` piece by piece into a `Text`;
a `Vocabulary` turns text into token numbers, reversibly for characters and BPE. Neither needs all of it in memory.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import mimetypes
import os
import re
import stat
import sys
import sysconfig
import zlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..errors import DataError, OptionError, RunError
from ..files import KEPT_BYTES, check_source, limited, open_source, read_file, standard_input, walk
from ..memory import is_panic, shortage, without_reports
from .storage import Rows

__all__ = ["UNKNOWN", "Text", "TokenKind", "Vocabulary", "decoded", "is_saved", "read_text", "some_of"]

TokenKind = Literal["char", "word", "bpe"]
UNKNOWN = "<unk>"
BUILTIN = "builtin:"
PIECE = 1 << 20  # bytes read, and characters handed out, at once
MOST_UNPACKED = 200  # times its size that a .gz of text may unpack to; a real one reaches 20
UNPACKED_FREE = 1 << 30  # bytes that any may unpack to
REST = 1 << 26  # bytes read on after a NUL or a byte that is no text, to see whether the archive itself is damaged


class Text:
    r"""The text of a data source: read once, then handed out in pieces as often as needed.

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
        SHA-256 of it as UTF-8, by which ``--resume`` knows the data again.

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
        their paths; hidden ones left out), ``-`` for standard input, or ``builtin:stdlib``: the
        source text of the running interpreter's standard library without its tests.
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
    _check_encoding(encoding)
    name = str(source)
    notes: tuple[str, ...] = ()
    pieces: Iterable[str]
    files: list[Path] | None = None
    check_source(name, pipes=True)
    if name.startswith(BUILTIN):
        pieces, encoding = _builtin(name), "utf-8"
    elif name == "-":
        piped = limited(_unpacked(standard_input(), "standard input"), "standard input")
        pieces = _decoded(_no_errors(piped, "standard input"), encoding, "standard input")
    elif Path(name).is_dir():
        if is_saved(Path(name)):
            raise DataError(
                f"{name} is a table (of save_to_disk): say what to learn, --task classify, tag or forecast."
            )
        files, notes = _text_files(Path(name), encoding)
        pieces = _joined(_decoded(_bytes_of(path), encoding, str(path)) for path in files)
    else:
        check_exists(name, "a text file, a folder of them, - or builtin:stdlib")
        pieces = _decoded(_bytes_of(Path(name)), encoding, name)
    text = Text(pieces, name, encoding, notes)
    if not text.characters and files is not None:
        empty = [path.relative_to(name).as_posix() for path in files]
        there = " ".join([f"only empty ones ({some_of(empty)})." if empty else "there are no files in it.", *notes])
        raise DataError(f"{name} holds no text: {there}")
    if not text.characters:
        raise DataError(f"{'standard input' if name == '-' else name} is empty: there is no text to read.")
    return text


def check_exists(name: str, kinds: str) -> None:
    """Refuse a name that is no file or folder here.

    Raises
    ------
    DataError
        That says what would do, and of the name of a hub's data set that nothing is fetched.
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


def _check_encoding(encoding: str) -> None:
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


def decoded(path: Path, encoding: str) -> Iterator[str]:
    """The text of a file, some at a time.

    Raises
    ------
    DataError, OptionError
        As `read_text` does.
    """
    _check_encoding(encoding)
    return _decoded(_bytes_of(path), encoding, str(path))


def is_saved(folder: Path) -> bool:
    """Whether a folder is a data set that ``save_to_disk`` of ``datasets`` wrote, or several of them."""
    one = all((folder / name).is_file() for name in ("dataset_info.json", "state.json"))
    return one or (folder / "dataset_dict.json").is_file()


def _bytes_of(path: Path) -> Iterator[bytes]:
    """What is in a file or pipe, unpacked, some at a time."""

    def blocks() -> Iterator[bytes]:
        with open_source(path, pipes=True) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                yield from limited(_unpacked(file, str(path)), str(path))
                return
            size = 0
            for block in _unpacked(file, str(path)):
                size += len(block)
                if size > max(MOST_UNPACKED * found.st_size, UNPACKED_FREE):
                    raise DataError(
                        f"{path} unpacks to more than {MOST_UNPACKED} times its size, which no text does; unpack it."
                    )
                yield block

    yield from _no_errors(blocks(), str(path))


def _no_errors(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The same; what the system says of it in one line."""
    try:
        yield from blocks
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


class _Again:
    """A stream whose first bytes were read already, and are read again."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._first, self._stream = first, stream

    def read(self, size: int = -1) -> bytes:
        found, self._first = (self._first[:size], self._first[size:]) if size >= 0 else (self._first, b"")
        return found or self._stream.read(size)


def _unpacked(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Undo gzip, recognised by its first bytes rather than by the name."""
    first = stream.read(PIECE)
    if first[:2] != b"\x1f\x8b":
        if name.endswith(".gz") and first:
            raise DataError(f"{name} is no gzip file, whatever its name says.")
        while first:
            yield first
            first = stream.read(PIECE)
        return
    unpacked = gzip.GzipFile(fileobj=_Again(first, stream), mode="rb")  # type: ignore[call-overload]
    try:
        while block := unpacked.read(PIECE):
            yield block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is a damaged gzip file: {error}.") from None


def _decoded(blocks: Iterator[bytes], encoding: str, name: str) -> Iterator[str]:
    r"""Decode to text with ``\n`` line endings and without a byte-order mark, some at a time."""
    head, before = b"", 0  # what a message needs: the first bytes, and how many came before the block at hand
    decoder, lines, marked, nul = None, io.IncrementalNewlineDecoder(None, translate=True), True, -1
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
            nul = before + _place_of_nul(again, block)
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
    """What decodes piece by piece as ``bytes.decode`` does at once."""
    plain = codecs.lookup(encoding).name
    for wide, marks in (
        ("utf-16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
        ("utf-32", (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    ):
        if plain == wide and not head.startswith(marks):  # only piece by piece does Python insist on a mark
            encoding = f"{wide}-{'le' if sys.byteorder == 'little' else 'be'}"
    return codecs.getincrementaldecoder(encoding)()


def _place_of_nul(decoder: codecs.IncrementalDecoder, block: bytes) -> int:
    """Where the bytes of the first NUL character begin."""
    begin = 0
    for place in range(len(block)):
        if piece := decoder.decode(block[place : place + 1]):
            if "\0" in piece:
                return begin
            begin = place + 1
    return begin


def _likely_encoding(data: bytes, tried: str) -> str:
    """What to suggest to someone whose bytes do not decode."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark) and codecs.lookup(tried).name != encoding:
            return f"it begins with the mark of {encoding}: give --encoding {encoding}"
    return "if it is text, give its --encoding (latin-1, cp1251, utf-16, shift_jis, …)"


def _text_files(folder: Path, encoding: str) -> tuple[list[Path], tuple[str, ...]]:
    """The text files under a folder, and a note on those that are none."""
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    files, binary = [], []
    for path in walk(folder):
        kind = mimetypes.guess_type(path.name)[0] or ""
        # In utf-16 a NUL is every other byte of plain English, so there the name has to tell.
        if kind.startswith(("image/", "audio/", "video/", "font/")) or (
            not wide and any(b"\0" in block for block in _bytes_of(path))
        ):
            binary.append(path.relative_to(folder).as_posix())
        else:
            files.append(path)
    if binary and not files:
        raise DataError(f"{folder} holds no text files: only binary ones ({some_of(binary)}).")
    left_out = f"{len(binary)} binary file{'s' * (len(binary) > 1)} of {folder} left out: {some_of(binary)}."
    return files, ((left_out,) if binary else ())


def _joined(files: Iterable[Iterator[str]]) -> Iterator[str]:
    """One file after the other, each ending its last line."""
    for pieces in files:
        last = ""
        for last in pieces:
            yield last
        if last and not last.endswith("\n"):
            yield "\n"


def some_of(names: Sequence[str]) -> str:
    """The first few names, and whether there are more."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _builtin(name: str) -> Iterator[str]:
    if name != f"{BUILTIN}stdlib":
        raise DataError(f"there is no built-in text {name!r}: the one there is, is builtin:stdlib.")
    folder = Path(sysconfig.get_path("stdlib"))
    tests = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
    files = [path for path in (walk(folder, tests) if folder.is_dir() else []) if path.suffix == ".py"]
    if not files:
        raise DataError(f"this Python keeps no sources of its standard library under {folder}: give a text file.")
    for path in files:
        # A handful of these files are not UTF-8 and say so in a comment; they need not be exact.
        text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\0", "")
        yield text if text.endswith("\n") else text + "\n"


# A word takes the space before it along (" the"), so that joining tokens gives the text back exactly:
# words, single marks, line ends, and runs of other space that leave the last one to the word that follows.
WORD = r" ?\w+| ?[^\w\s]|\n|[^\S\n]+(?= \S)|[^\S\n]+"
BLOCK = 1 << 16  # characters that go to `tokenizers` at once: it is linear only on short strings


class Vocabulary:
    r"""Token numbers for text, fitted on training text only and kept as a ``tokenizers`` file.

    ``char``: every character is a token, line ends and tabs too; a character not seen in training
    is unknown. ``word``: words with the space before them, single punctuation marks, runs of space;
    rare words are unknown. ``bpe``: byte-level pairs, so nothing is unknown. Joining the text of
    the tokens gives back the text that was encoded, except where a token is unknown.

    Examples
    --------
    >>> vocabulary = Vocabulary.fit("to be\nor not", "char")
    >>> vocabulary.encode("bet!").tolist() == [vocabulary.id_of(c) for c in "bet"] + [vocabulary.unknown]
    True
    >>> vocabulary.decode(vocabulary.encode("not\nto be"))
    'not\nto be'
    """

    def __init__(self, tokenizer: Tokenizer, kind: TokenKind) -> None:
        self.tokenizer = tokenizer
        self.kind: TokenKind = kind

    @classmethod
    def fit(
        cls,
        text: str | Iterable[str],
        kind: TokenKind,
        vocab_size: int | None = None,
        min_count: int | None = None,
    ) -> Vocabulary:
        """Learn the tokens of a training text.

        Parameters
        ----------
        text : str or iterable of str
            Training text, whole or in pieces; where it is cut makes no difference.
        kind : {"char", "word", "bpe"}
            What a token is.
        vocab_size : int, optional
            The most tokens to keep, the unknown token among them (char: all; word: 10,000; bpe: 1,000).
        min_count : int, optional
            A token (char, word) or pair (bpe) seen less often than this is not kept.
        """
        pieces = [text] if isinstance(text, str) else text
        if kind == "bpe":
            return cls(_fit_bpe(pieces, vocab_size or 1000, min_count or 2), kind)
        counts = _count_characters(pieces) if kind == "char" else Counter(_words(pieces))
        if kind == "word":
            vocab_size = vocab_size or 10_000
        by_frequency = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        kept = [token for token, count in by_frequency if count >= (min_count or 1)]
        kept = kept if vocab_size is None else kept[: vocab_size - 1]
        if not kept:
            raise OptionError(
                f"no {'character' if kind == 'char' else 'word'} of the training text is left under "
                f"--vocab-size {vocab_size} and --min-count {min_count}; widen them."
            )
        # Numbered by their order in the alphabet, not by count: stable under small changes of the text.
        numbers = {UNKNOWN: 0, **{token: number for number, token in enumerate(sorted(kept), 1)}}
        tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]" if kind == "char" else WORD), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return cls(tokenizer, kind)

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    @property
    def unknown(self) -> int | None:
        """Number of the unknown token; None where nothing is unknown (bpe)."""
        return None if self.kind == "bpe" else 0

    def id_of(self, token: str) -> int | None:
        """Number of a token, None if it is not in the vocabulary."""
        number = self.tokenizer.token_to_id(token)
        return None if number is None else int(number)

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest type that holds every token number."""
        return next(kind for kind in (np.uint8, np.uint16, np.uint32) if len(self) - 1 <= np.iinfo(kind).max)

    def encode(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Token numbers ``(tokens,)`` of a text."""
        return np.concatenate([np.empty(0, np.int32), *self.encode_pieces([text])], dtype=np.int32)

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """Token numbers of a text that comes in pieces, some at a time; where it is cut makes no difference."""
        if self.kind == "char":
            # One table lookup for all characters: a hundred times the speed of a pre-tokeniser that
            # splits at each. The saved tokenizer gives the same numbers (a test holds them together).
            for piece in pieces:
                yield self._character_table[_code_points(piece)]
            return
        blocks = _blocks(pieces)
        while some := list(islice(blocks, 16)):  # enough to keep the threads of `tokenizers` busy
            encodings = self.tokenizer.encode_batch_fast(some, add_special_tokens=False)
            yield np.fromiter((number for encoding in encodings for number in encoding.ids), self.dtype)

    def decode(self, numbers: Iterable[int]) -> str:
        """Text of a sequence of token numbers."""
        return str(self.tokenizer.decode([int(number) for number in numbers], skip_special_tokens=False))

    def bytes_of(self, number: int) -> bytes:
        """UTF-8 of one token; in bpe that may be part of a character."""
        token = str(self.tokenizer.id_to_token(number))
        return bytes(_BYTE_OF[character] for character in token) if self.kind == "bpe" else token.encode()

    def unknown_pieces(self, text: str) -> list[str]:
        """The different pieces of a text that are unknown, in the order they come."""
        if self.kind == "bpe":
            return []
        pieces = text if self.kind == "char" else _words([text])
        return [piece for piece in dict.fromkeys(pieces) if self.tokenizer.token_to_id(piece) is None]

    def first_length(self, text: str) -> int:
        """How many characters of a text its first token takes, at least one."""
        if self.kind == "char":
            return 1
        return max(1, int(self.tokenizer.encode(text[:BLOCK], add_special_tokens=False).offsets[0][1]))

    @cached_property
    def _character_table(self) -> NDArray[np.unsignedinteger[Any]]:
        table = np.zeros(0x110000, self.dtype)  # every code point; 0 is unknown
        for token, number in self.tokenizer.get_vocab().items():
            if len(token) == 1:
                table[ord(token)] = number
        return table

    def to_json(self) -> str:
        """The `tokenizers` serialisation, readable without retrograde."""
        return str(self.tokenizer.to_str(pretty=True))

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read the vocabulary that `to_json` wrote to a file.

        Raises
        ------
        RunError
            If the file is missing or holds something else.
        """
        try:
            with without_reports():
                tokenizer = Tokenizer.from_str(read_file(path, KEPT_BYTES).decode("utf-8"))
        except BaseException as error:  # tokenizers raises bare Exceptions, and panics
            if not (isinstance(error, Exception) or is_panic(error)) or shortage(error) is not None:
                raise
            raise RunError(f"{path} is not a vocabulary that can be read: {error}") from None
        if isinstance(tokenizer.model, models.BPE):
            return cls(tokenizer, "bpe")
        return cls(
            tokenizer, "word" if WORD in json.loads(tokenizer.to_str())["pre_tokenizer"]["pattern"].values() else "char"
        )


def _byte_level() -> dict[str, int]:
    """The byte behind each character of a byte-level token: printable Latin-1 stands for itself, the rest is moved."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(moved)}


_BYTE_OF = _byte_level()


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _count_characters(pieces: Iterable[str]) -> dict[str, int]:
    counts = np.zeros(0x110000, np.int64)
    for piece in pieces:
        found = np.bincount(_code_points(piece))
        counts[: len(found)] += found
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}


def _fit_bpe(pieces: Iterable[str], vocab_size: int, min_count: int) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet):
        raise OptionError(
            f"--vocab-size {vocab_size} is too small for bpe: its {len(alphabet)} single bytes are always "
            f"tokens; give at least {len(alphabet)}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_count, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_blocks(pieces), trainer)
    return tokenizer


def _words(pieces: Iterable[str]) -> Iterator[str]:
    split = pre_tokenizers.Split(Regex(WORD), "isolated")
    for block in _blocks(pieces):
        for word, _ in split.pre_tokenize_str(block):
            yield word


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    """Cut a text anew, where a line ends, so that no word is cut; only a line longer than a block is.

    The blocks are the same however the text came: each is cut only when more than a block of text is there to see.
    """
    rest = ""
    for piece in pieces:
        text, start = rest + piece, 0
        while len(text) - start > BLOCK:
            end = text.rfind("\n", start, start + BLOCK) + 1 or start + BLOCK
            yield text[start:end]
            start = end
        rest = text[start:]
    if rest:
        yield rest
