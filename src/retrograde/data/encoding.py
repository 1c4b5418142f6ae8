"""Sequences become numbers: texts by a vocabulary, channels by a scale, both learned from training data only."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from ..errors import DataError, OptionError
from ..options import DataOptions
from ..words import agreed, counted
from .sequences import LabelledSequence
from .vocabulary import UNKNOWN


class Scaler(NamedTuple):
    """Standardizes channels: (x − mean) / scale, fitted on training data only."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, arrays: Iterable[NDArray[Any]], channels: int) -> Scaler:
        """Mean and standard deviation (1 for a constant) of each channel of ``(T, F)`` arrays, without empty cells."""
        from sklearn.preprocessing import StandardScaler  # takes half a second to import

        found = StandardScaler()
        with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
            warnings.simplefilter("ignore")  # of overflow, which is refused below
            try:
                for some in _together(arrays, channels):
                    found.partial_fit(some)
            except DataError:  # of the arrays themselves
                raise
            except ValueError:  # infinite
                raise _too_large() from None
        if not hasattr(found, "mean_"):
            return cls(np.zeros(channels), np.ones(channels))
        empty = np.broadcast_to(found.n_samples_seen_, channels) == 0
        mean, scale = np.where(empty, 0.0, found.mean_), np.where(empty, 1.0, found.scale_)
        if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
            raise _too_large()
        return cls(mean, np.where(scale > 1e-12 * np.maximum(np.abs(mean), 1), scale, 1.0))

    def __call__(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """Standardize ``(…, F)``."""
        return (np.asarray(array, dtype=np.float64) - self.mean) / self.scale

    def undo(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """Back to the units of the data."""
        return np.asarray(array, dtype=np.float64) * self.scale + self.mean

    def leaving(self, places: Iterable[int]) -> Scaler:
        """The same, with some channels left as they are."""
        mean, scale, left = self.mean.copy(), self.scale.copy(), list(places)
        mean[left], scale[left] = 0.0, 1.0
        return Scaler(mean, scale)

    def as_dict(self) -> dict[str, list[float]]:
        """As a JSON file keeps it."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Scaler:
        """From the result of `as_dict`."""
        return cls(np.asarray(kept["mean"], dtype=np.float64), np.asarray(kept["scale"], dtype=np.float64))


def _too_large() -> DataError:
    return DataError("a column holds numbers that are infinite, or too large to be scaled.")


def _together(arrays: Iterable[NDArray[Any]], channels: int) -> Iterator[NDArray[np.float64]]:
    """Small arrays joined to larger ones: many short sequences would take long one by one."""
    held: list[NDArray[np.float64]] = []
    size = 0
    for array in arrays:
        held.append(np.asarray(array, dtype=np.float64).reshape(-1, channels))
        size += len(held[-1])
        if size >= 1 << 14:
            yield np.concatenate(held)
            held, size = [], 0
    if size:
        yield np.concatenate(held)


def fill(values: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Put the value before it into each empty cell of ``(T, F)``, and count these.

    Cells that are empty from the start stay NaN: after scaling they become 0, the mean of training.
    """
    empty = np.isnan(values)
    if not empty.any():
        return values, 0
    last = np.where(empty, 0, np.arange(len(values))[:, None])
    np.maximum.accumulate(last, axis=0, out=last)
    return np.take_along_axis(values, last, axis=0), int(empty.sum())


class Encoder:
    """Turns the sequences of a table into token numbers, ``(T,)`` int32, or scaled channels, ``(T, F)`` float32.

    Parameters
    ----------
    tokenizer : Tokenizer, optional
        For text.
    scaler : Scaler, optional
        For numbers.
    max_length : int, optional
        Longer sequences are cut.
    """

    def __init__(
        self, tokenizer: Tokenizer | None = None, scaler: Scaler | None = None, max_length: int | None = None
    ) -> None:
        if (tokenizer is None) == (scaler is None):
            raise OptionError("an encoder is for text or for numbers: it needs a tokenizer or a scaler.")
        self.tokenizer, self.scaler, self.max_length = tokenizer, scaler, max_length
        self.cut = self.empty = self.filled = self.unknown = self.tokens = 0

    @classmethod
    def fit(cls, records: Iterable[LabelledSequence], options: DataOptions, classes: Collection[int] = ()) -> Encoder:
        """Fit the vocabulary or the scale to training records; channels that are numbers of classes have no scale."""
        records = iter(records)
        first = next(records, None)
        while first is not None and first.values is not None and not len(first.values):
            first = next(records, None)  # an empty sequence does not show how many channels there are
        if first is None:
            raise DataError("there is nothing to train on: there are no sequences, or all are empty.")
        everything = chain([first], records)
        if first.values is not None:
            channels = first.values.shape[1]
            known = False

            def values() -> Iterator[NDArray[np.float32]]:
                nonlocal known
                for record in everything:
                    found = _finite(record, channels)
                    known = known or not np.isnan(found).all()
                    yield found

            scaler = Scaler.fit(values(), channels)
            if not known:
                raise DataError("there is nothing to train on: all cells of the sequences are empty.")
            return cls(scaler=scaler.leaving(classes))
        split = isinstance(first.tokens, str)
        pieces = (_pieces(record, split) for record in everything)
        return cls(
            _fit_tokenizer((piece for some in pieces for piece in some), split, options), None, options.max_length
        )

    @property
    def size(self) -> int:
        """Tokens of the vocabulary, or channels."""
        if self.tokenizer is not None:
            return int(self.tokenizer.get_vocab_size())
        assert self.scaler is not None
        return len(self.scaler.mean)

    @property
    def reads_tokens(self) -> bool:
        """Whether it is for text."""
        return self.tokenizer is not None

    def encode(self, records: Sequence[LabelledSequence]) -> list[NDArray[Any]]:
        """Encode records; an empty text becomes one unknown token, an empty row of numbers one step of the mean."""
        if self.tokenizer is None:
            return [self._scaled(record) for record in records]
        for record in records:
            if record.tokens is None:
                raise DataError(f"row {record.rows[0] + 1} is numbers, and this model reads text.")
        if self.tokenizer.pre_tokenizer is not None:
            numbers = self._tokenized([" ".join(_pieces(record, True)) for record in records])
        else:
            table = self._table
            numbers = [[table.get(self._normal(word), 0) for word in _pieces(record, False)] for record in records]
        arrays = []
        for ids in numbers:
            self.cut += self.max_length is not None and len(ids) > self.max_length
            self.empty += not ids
            array = np.asarray(ids[: self.max_length] or [0], dtype=np.int32)
            self.tokens += len(array)
            self.unknown += int((array == 0).sum())
            arrays.append(array)
        return arrays

    def _tokenized(self, texts: list[str]) -> list[list[int]]:
        """Token numbers of texts; of one far longer than what is kept, only the beginning is read if that will do."""
        assert self.tokenizer is not None
        most = max(map(len, texts), default=0) if self.max_length is None else 64 * self.max_length
        found = self.tokenizer.encode_batch_fast([text[:most] for text in texts], add_special_tokens=False)
        numbers: list[list[int]] = [encoding.ids for encoding in found]
        for place, text in enumerate(texts):
            if len(text) > most and self.max_length is not None and len(numbers[place]) <= self.max_length + 1:
                numbers[place] = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return numbers

    def _scaled(self, record: LabelledSequence) -> NDArray[Any]:
        assert self.scaler is not None
        if record.values is None:
            raise DataError(f"row {record.rows[0] + 1} is a text, and this model reads numbers.")
        values, filled = fill(_finite(record, self.size))
        self.filled += filled
        self.empty += not len(values)
        if not len(values):
            return np.zeros((1, self.size), dtype=np.float32)
        return np.nan_to_num(self.scaler(values), nan=0.0).astype(np.float32)

    def notes(self) -> list[str]:
        """What a user should know about the sequences encoded so far."""
        found = []
        if self.cut:
            found.append(
                f"{counted(self.cut, 'sequence', 'is')} longer than --max-length {self.max_length} and "
                f"{agreed(self.cut, 'is')} cut there."
            )
        if self.empty:
            found.append(f"{counted(self.empty, 'sequence', 'is')} empty.")
        if self.filled:
            found.append(
                f"{counted(self.filled, 'empty cell', 'was')} filled with the value before {agreed(self.filled, 'it')} "
                "(at the start: the mean)."
            )
        if self.tokens and self.unknown:
            found.append(
                f"{self.unknown / self.tokens:.2%} of the tokens are not in the vocabulary and count as unknown."
            )
        return found

    @cached_property
    def _table(self) -> dict[str, int]:
        assert self.tokenizer is not None
        return dict(self.tokenizer.get_vocab())

    def _normal(self, word: str) -> str:
        assert self.tokenizer is not None
        normalizer = self.tokenizer.normalizer
        return str(normalizer.normalize_str(word)) if normalizer is not None else word


def _finite(record: LabelledSequence, channels: int) -> NDArray[Any]:
    """The numbers of a record; refused if one is infinite, or there are other than so many channels."""
    assert record.values is not None
    if len(record.values) and record.values.shape[1] != channels:
        has = counted(record.values.shape[1], "channel")
        raise DataError(f"row {record.rows[0] + 1} has {has}; {channels} {agreed(channels, 'is')} needed.")
    if np.isinf(record.values).any():
        raise DataError(f"row {record.rows[0] + 1} holds an infinite number, or one too large for 32 bits.")
    return record.values if len(record.values) else np.empty((0, channels), np.float32)


def _pieces(record: LabelledSequence, split: bool) -> list[str]:
    """The text of a record as a tokenizer takes it: whole if the tokenizer splits it, else word by word."""
    if isinstance(record.tokens, str):
        return [record.tokens] if split else record.tokens.split()
    return record.tokens or []


# Scripts that put no space between words: each sign is a token.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
LETTERS = rf"[\w&&[^{UNSPACED}]]+"
WORD = rf"[{UNSPACED}]\p{{M}}*|{LETTERS}(?:['’]{LETTERS})*|[^\w\s]"  # words with their apostrophes, and single marks


def _fit_tokenizer(texts: Iterable[str], split: bool, options: DataOptions) -> Tokenizer:
    """A tokenizer for texts, or (``split`` False) for tokens that are given as such."""
    kind, size, least = options.tokens, options.vocab_size, options.min_count
    if not split and kind != "word":
        raise OptionError(f"--tokens {kind} splits texts, and this text is split already: leave it out.")
    trainer: Any
    if kind == "bpe":
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        if size is not None and size <= len(alphabet):
            raise OptionError(f"--vocab-size {size} is too small for bpe; give more than {len(alphabet)}.")
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=size or 4000,
            min_frequency=least or 2,
            special_tokens=[UNKNOWN],
            initial_alphabet=alphabet,
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
        if split:
            pattern = r"[\s\S]" if kind == "char" else WORD
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        trainer = trainers.WordLevelTrainer(
            vocab_size=size or (20_000 if kind == "word" else 1_000_000),
            min_frequency=least or 1,
            special_tokens=[UNKNOWN],
            show_progress=False,
        )
    if options.lowercase:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < 2:
        raise DataError(
            "no word of the training texts is left for the vocabulary: they are empty, or --min-count is high."
        )
    return tokenizer
