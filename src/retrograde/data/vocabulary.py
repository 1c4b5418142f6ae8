"""Token numbers for text and back: characters, words or byte pairs, kept as a ``tokenizers`` file.

Tests: `tests/data/test_text.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..errors import OptionError, RunError
from ..memory import is_panic, shortage, without_reports

TokenKind = Literal["char", "word", "bpe"]
UNKNOWN = "<unk>"

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
        """Fit the tokens to a training text.

        text: training text, whole or in pieces; where it is cut makes no difference.
        kind {"char", "word", "bpe"}: what a token is.
        vocab_size: the most tokens to keep, the unknown token among them (char: all; word: 10,000; bpe: 1,000).
        min_count: a token (char, word) or pair (bpe) seen less often than this is not kept.
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
            # One table lookup for all characters: a hundred times the speed of a pre-tokenizer that
            # splits at each. The saved tokenizer gives the same numbers (a test compares them).
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
        """The `tokenizers` serialization, readable without retrograde."""
        return str(self.tokenizer.to_str(pretty=True))

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Undo `to_json`.

        Raises RunError if the text is something else.
        """
        try:
            with without_reports():
                tokenizer = Tokenizer.from_str(text)
        except BaseException as error:  # tokenizers raises bare Exceptions, and panics
            if not (isinstance(error, Exception) or is_panic(error)) or shortage(error) is not None:
                raise
            raise RunError(f"vocabulary.json is not a vocabulary that can be read: {error}") from None
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
    """Blocks of a text that end where a line ends, so that no word is cut; only a line longer than a block is.

    The blocks do not depend on the pieces: each is cut when more than a block of text has been read.
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
