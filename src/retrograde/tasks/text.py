"""Text, from where the user keeps it to token numbers and back.

`read_text` brings a file, a ``.gz``, a folder, standard input or ``builtin:stdlib`` to one string;
a `Vocabulary` turns strings into token numbers, reversibly for characters and BPE.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import mimetypes
import os
import re
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..errors import DataError, OptionError, RunError

__all__ = ["UNKNOWN", "Text", "TokenKind", "Vocabulary", "read_text"]

TokenKind = Literal["char", "word", "bpe"]
UNKNOWN = "<unk>"
BUILTIN = "builtin:"


@dataclass(frozen=True)
class Text:
    r"""The text of a data source.

    Attributes
    ----------
    content : str
        All of it. Line endings are ``\n`` whatever the files had; a leading byte-order mark is gone.
    source : str
        Where it came from, as the user named it.
    encoding : str
        The encoding it was decoded with.
    notes : tuple of str
        What a user should know about the reading (binary files of a folder that were left out).
    """

    content: str = field(repr=False)
    source: str
    encoding: str
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, by which ``--resume`` knows the data again."""
        return "sha256:" + hashlib.sha256(self.content.encode("utf-8", "surrogatepass")).hexdigest()


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
    if name.startswith(BUILTIN):
        content, encoding = _builtin(name), "utf-8"
    elif name == "-":
        content = _decode(_unpack(sys.stdin.buffer.read(), "standard input"), encoding, "standard input")
    elif Path(name).is_dir():
        content, notes = _read_folder(Path(name), encoding)
    else:
        check_exists(name, "a text file, a folder of them, - or builtin:stdlib")
        content = _decode(_unpack(_read_bytes(Path(name)), name), encoding, name)
    if not content:
        raise DataError(f"{'standard input' if name == '-' else name} is empty: there is no text to read.")
    return Text(content, name, encoding, notes)


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


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _unpack(data: bytes, name: str) -> bytes:
    """Undo gzip, recognised by its first bytes rather than by the name."""
    if data[:2] != b"\x1f\x8b":
        if name.endswith(".gz") and data:
            raise DataError(f"{name} is no gzip file, whatever its name says.")
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{name} is a damaged gzip file: {error}.") from None


def _decode(data: bytes, encoding: str, name: str) -> str:
    r"""Decode to text with ``\n`` line endings and without a byte-order mark."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data[:8192] and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                f"{name} is binary, not text: a NUL at byte offset {data.index(0)}, and byte 0x{data[error.start]:02x} "
                f"at offset {error.start} is not {encoding}; {_likely_encoding(data, encoding)}."
            ) from None
        raise DataError(
            f"{name} is not {encoding} text: byte 0x{data[error.start]:02x} at offset {error.start} "
            f"cannot be decoded; {_likely_encoding(data, encoding)}."
        ) from None
    except UnicodeError as error:
        raise DataError(f"{name} is not {encoding} text: {error}; {_likely_encoding(data, encoding)}.") from None
    if "\0" in text:
        offset = len(text[: text.index("\0")].encode(encoding, "replace"))
        raise DataError(
            f"{name} is binary, not text: a NUL at byte offset {offset}; {_likely_encoding(data, encoding)}."
        )
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


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


def _read_folder(folder: Path, encoding: str) -> tuple[str, tuple[str, ...]]:
    """Join the text files under a folder, each ending its last line."""
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    parts, binary = [], []
    for path in _walk(folder):
        data = _unpack(_read_bytes(path), str(path))
        kind = mimetypes.guess_type(path.name)[0] or ""
        # In utf-16 a NUL is every other byte of plain English, so there the name has to tell.
        if kind.startswith(("image/", "audio/", "video/", "font/")) or (not wide and b"\0" in data):
            binary.append(path.relative_to(folder).as_posix())
            continue
        if text := _decode(data, encoding, str(path)):
            parts.append(text if text.endswith("\n") else text + "\n")
    if not parts:
        found = f"only binary ones ({_list(binary)})" if binary else "none, or only empty ones"
        raise DataError(f"{folder} holds no text files: {found}.")
    left_out = f"{len(binary)} binary file{'s' * (len(binary) > 1)} of {folder} left out: {_list(binary)}."
    return "".join(parts), ((left_out,) if binary else ())


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _walk(folder: Path, skip: frozenset[str] = frozenset()) -> list[Path]:
    """Regular files under a folder without hidden ones, in the order of their paths."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skip]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.relative_to(folder).as_posix())


def _builtin(name: str) -> str:
    if name != f"{BUILTIN}stdlib":
        raise DataError(f"there is no built-in text {name!r}: the one there is, is builtin:stdlib.")
    folder = Path(sysconfig.get_path("stdlib"))
    tests = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
    parts = []
    for path in _walk(folder, tests) if folder.is_dir() else []:
        if path.suffix == ".py":
            # A handful of these files are not UTF-8 and say so in a comment; they need not be exact.
            text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\0", "")
            parts.append(text if text.endswith("\n") else text + "\n")
    if not parts:
        raise DataError(f"this Python keeps no sources of its standard library under {folder}: give a text file.")
    return "".join(parts)


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
    def fit(cls, text: str, kind: TokenKind, vocab_size: int | None = None, min_count: int | None = None) -> Vocabulary:
        """Learn the tokens of a training text.

        Parameters
        ----------
        text : str
            Training text.
        kind : {"char", "word", "bpe"}
            What a token is.
        vocab_size : int, optional
            The most tokens to keep, the unknown token among them (char: all; word: 10,000; bpe: 1,000).
        min_count : int, optional
            A token (char, word) or pair (bpe) seen less often than this is not kept.
        """
        if kind == "bpe":
            return cls(_fit_bpe(text, vocab_size or 1000, min_count or 2), kind)
        counts = Counter(text) if kind == "char" else Counter(_words(text))
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

    def encode(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Token numbers ``(tokens,)`` of a text."""
        if self.kind == "char":
            # One table lookup for all characters: a hundred times the speed of a pre-tokeniser that
            # splits at each. The saved tokenizer gives the same numbers (a test holds them together).
            return self._character_table[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
        encodings = self.tokenizer.encode_batch_fast(list(_blocks(text)), add_special_tokens=False)
        return np.fromiter((number for encoding in encodings for number in encoding.ids), np.int32)

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
        pieces = text if self.kind == "char" else _words(text)
        return [piece for piece in dict.fromkeys(pieces) if self.tokenizer.token_to_id(piece) is None]

    def first_length(self, text: str) -> int:
        """How many characters of a text its first token takes, at least one."""
        if self.kind == "char":
            return 1
        return max(1, int(self.tokenizer.encode(text[:BLOCK], add_special_tokens=False).offsets[0][1]))

    @cached_property
    def _character_table(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        table = np.zeros(0x110000, np.int32)  # every code point; 0 is unknown
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
            tokenizer = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exceptions
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


def _fit_bpe(text: str, vocab_size: int, min_count: int) -> Tokenizer:
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
    tokenizer.train_from_iterator(_blocks(text), trainer)
    return tokenizer


def _words(text: str) -> Iterator[str]:
    split = pre_tokenizers.Split(Regex(WORD), "isolated")
    for block in _blocks(text):
        for word, _ in split.pre_tokenize_str(block):
            yield word


def _blocks(text: str) -> Iterator[str]:
    """Cut a text where a line ends, so that no word is cut; only a line longer than a block is."""
    start = 0
    while start < len(text):
        end = start + BLOCK
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end
