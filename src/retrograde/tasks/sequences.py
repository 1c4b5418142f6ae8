"""What tasks over the sequences of a table share: how they become numbers, the batches, the model that reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..errors import DataError, OptionError
from ..nn import VariationalDropout, recurrent_layer
from .rows import Record

__all__ = ["Encoder", "Scaler", "SequenceModel", "Shuffle"]

UNKNOWN = "<unk>"
Pooling = Literal["last", "mean", "max", "none"]


# --- From records to numbers ------------------------------------------------------------------------------------------


class Scaler(NamedTuple):
    """Standardises channels: (x − mean) / scale, fitted on training data only."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, arrays: Iterable[NDArray[Any]], channels: int) -> Scaler:
        """Mean and standard deviation of each channel of ``(T, F)`` arrays without empty cells; 1 for a constant."""
        with np.errstate(over="ignore", invalid="ignore"):
            count, mean, spread = cls._moments(arrays, channels)
        deviation = np.sqrt(spread / np.maximum(count, 1))
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
            raise DataError("a column holds numbers that are infinite, or too large to be scaled.")
        return cls(mean, np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1), deviation, 1.0))

    @staticmethod
    def _moments(arrays: Iterable[NDArray[Any]], channels: int) -> tuple[NDArray[np.float64], ...]:
        """Count, mean and sum of squared deviations of each channel."""
        count, mean, spread = np.zeros(channels), np.zeros(channels), np.zeros(channels)
        for array in arrays:  # Chan et al. (1979): merging means and sums of squares is stable where Σx² − (Σx)² is not
            array = np.asarray(array, dtype=np.float64)
            present = ~np.isnan(array)
            number = present.sum(0)
            here = np.divide(np.where(present, array, 0).sum(0), number, where=number > 0, out=np.zeros(array.shape[1]))
            squares = np.where(present, (array - here) ** 2, 0).sum(0)
            total = np.maximum(count + number, 1)
            spread = spread + squares + (here - mean) ** 2 * count * number / total
            mean = mean + (here - mean) * number / total
            count = count + number
        return count, mean, spread

    def __call__(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """Standardise ``(…, F)``."""
        return (np.asarray(array, dtype=np.float64) - self.mean) / self.scale

    def undo(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """Back to the units of the data."""
        return np.asarray(array, dtype=np.float64) * self.scale + self.mean

    def as_dict(self) -> dict[str, list[float]]:
        """As a JSON file keeps it."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Scaler:
        """What `as_dict` wrote."""
        return cls(np.asarray(kept["mean"], dtype=np.float64), np.asarray(kept["scale"], dtype=np.float64))


def fill(values: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Put the value before it into each empty cell of ``(T, F)``, and say how many there were.

    Cells empty from the start stay NaN: after scaling they become 0, the mean of training.
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
        What is longer is cut.
    """

    def __init__(
        self, tokenizer: Tokenizer | None = None, scaler: Scaler | None = None, max_length: int | None = None
    ) -> None:
        if (tokenizer is None) == (scaler is None):
            raise OptionError("an encoder is for text or for numbers: it needs a tokenizer or a scaler.")
        self.tokenizer, self.scaler, self.max_length = tokenizer, scaler, max_length
        self.cut = self.empty = self.filled = self.unknown = self.tokens = 0

    @classmethod
    def fit(cls, records: Iterable[Record], options: Mapping[str, Any], max_length: int | None = None) -> Encoder:
        """Learn vocabulary or scale from training records."""
        records = iter(records)
        first = next(records, None)
        while first is not None and first.values is not None and not len(first.values):
            first = next(records, None)  # an empty sequence does not tell how many channels there are
        if first is None:
            raise DataError("there is nothing to train on: there are no sequences, or all are empty.")
        everything = chain([first], records)
        if first.values is not None:
            channels = first.values.shape[1]
            return cls(scaler=Scaler.fit((_finite(record, channels) for record in everything), channels))
        split = isinstance(first.tokens, str)
        pieces = (_pieces(record, split) for record in everything)
        return cls(_fit_tokenizer((piece for some in pieces for piece in some), split, options), None, max_length)

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

    def encode(self, records: Sequence[Record]) -> list[NDArray[Any]]:
        """Encode records; an empty text becomes one unknown token, an empty row of numbers one step of the mean."""
        if self.tokenizer is None:
            return [self._scaled(record) for record in records]
        if any(record.tokens is None for record in records):
            raise DataError("this model reads text; name the --text column.")
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

    def _scaled(self, record: Record) -> NDArray[Any]:
        assert self.scaler is not None
        if record.values is None:
            raise DataError("this model reads numbers; name the --features columns.")
        values, filled = fill(_finite(record, self.size))
        self.filled += filled
        self.empty += not len(values)
        if not len(values):
            return np.zeros((1, self.size), dtype=np.float32)
        return np.nan_to_num(self.scaler(values), nan=0.0).astype(np.float32)

    def notes(self) -> list[str]:
        """What encoding met so far that a user should know."""
        said = []
        if self.cut:
            said.append(f"{self.cut:,} sequences are longer than --max-length {self.max_length} and are cut there.")
        if self.empty:
            said.append(f"{self.empty:,} sequences are empty.")
        if self.filled:
            said.append(f"{self.filled:,} empty cells were filled with the value before them (at the start: the mean).")
        if self.tokens and self.unknown:
            said.append(
                f"{self.unknown / self.tokens:.2%} of the tokens are not in the vocabulary and count as unknown."
            )
        return said

    @cached_property
    def _table(self) -> dict[str, int]:
        assert self.tokenizer is not None
        return dict(self.tokenizer.get_vocab())

    def _normal(self, word: str) -> str:
        assert self.tokenizer is not None
        normalizer = self.tokenizer.normalizer
        return str(normalizer.normalize_str(word)) if normalizer is not None else word


def _finite(record: Record, channels: int) -> NDArray[Any]:
    """The numbers of a record, none of them infinite, in so many channels."""
    assert record.values is not None
    if len(record.values) and record.values.shape[1] != channels:
        raise DataError(f"row {record.rows[0] + 1} has {record.values.shape[1]} channels; {channels} are needed.")
    if np.isinf(record.values).any():
        raise DataError(f"row {record.rows[0] + 1} holds an infinite number, or one too large for 32 bits.")
    return record.values if len(record.values) else np.empty((0, channels), np.float32)


def _pieces(record: Record, split: bool) -> list[str]:
    """The text of a record as a tokenizer takes it: whole where it is to split it, else word by word."""
    if isinstance(record.tokens, str):
        return [record.tokens] if split else record.tokens.split()
    return record.tokens or []


WORD = r"\w+(?:['’]\w+)*|[^\w\s]"  # words with their apostrophes, and single marks


def _fit_tokenizer(texts: Iterable[str], split: bool, options: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer for texts, or (``split`` False) for tokens that are given as such."""
    kind = options.get("tokens") or "word"
    size, least = options.get("vocab_size"), options.get("min_count") or 1
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
            min_frequency=options.get("min_count") or 2,
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
            min_frequency=least,
            special_tokens=[UNKNOWN],
            show_progress=False,
        )
    if options.get("lowercase"):
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < 2:
        raise DataError(
            "no word of the training texts is left for the vocabulary: they are empty, or --min-count is high."
        )
    return tokenizer


# --- Batches ----------------------------------------------------------------------------------------------------------


class Shuffle:
    """Which sequences a training step sees: a function of the seed and the step alone.

    Every epoch all sequences come once, in another order. Sequences of like length share a batch: a shuffled epoch is
    sorted by length within pools of `POOL` batches, and the batches are shuffled. Of more than `CHUNK` sequences such
    runs are shuffled, and each within itself, so that neither memory nor the way the disk is read grows with them.

    Parameters
    ----------
    lengths : array or int
        Steps of each sequence; a number: so many sequences, all alike.
    """

    POOL = 50
    CHUNK = 1 << 20

    def __init__(self, lengths: NDArray[np.int64] | int, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.lengths = None if isinstance(lengths, int) else lengths
        self.count = lengths if isinstance(lengths, int) else len(lengths)
        self.steps_per_epoch = math.ceil(self.count / batch_size)
        pool = self.POOL * batch_size
        self.chunk = max(1, self.CHUNK // pool) * pool
        self._epoch = self._turn = -1
        self._order = self._ends = np.empty(0, np.int64)
        self._batches: list[NDArray[np.int64]] = []

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Numbers of the sequences of a step (from 0), the longest first. The last batch of a run may be smaller."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            self._order = random.permutation(math.ceil(self.count / self.chunk))
            sizes = np.minimum(self.count - self._order * self.chunk, self.chunk)
            self._ends = np.cumsum(-(-sizes // self.batch_size))
            self._epoch, self._turn = epoch, -1
        turn = int(np.searchsorted(self._ends, place, side="right"))
        if turn != self._turn:
            self._turn, self._batches = turn, self._cut(epoch, int(self._order[turn]))
        return self._batches[place - int(self._ends[turn])]  # counted from the end

    def _cut(self, epoch: int, number: int) -> list[NDArray[np.int64]]:
        """The batches of a run of sequences."""
        random = np.random.default_rng([self.seed, epoch, number])
        first = number * self.chunk
        order = first + random.permutation(min(self.chunk, self.count - first))
        cut: list[NDArray[np.int64]] = []
        for start in range(0, len(order), self.POOL * self.batch_size):
            part = order[start : start + self.POOL * self.batch_size]
            if self.lengths is not None:
                part = part[np.argsort(-self.lengths[part], kind="stable")]
            cut += [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
        return [cut[place] for place in random.permutation(len(cut))]


# --- The model --------------------------------------------------------------------------------------------------------


class SequenceModel(nn.Module):
    """Embedding (of tokens) or nothing (of numbers), recurrent stack, pooling, output layer.

    Parameters
    ----------
    input_size : int
        Tokens of the vocabulary, or channels.
    outputs : int
        Numbers put out: per sequence, or per step with ``pooling="none"``.
    embedding_size : int or None
        Numbers per token; None where the input is numbers.
    pooling : {"last", "mean", "max", "none"}
        What of a sequence's states the output layer sees: the one after its last real step (of the backward direction:
        after its first), their mean or maximum over its real steps, or every one of them.
    dropout : float
        On the embedding, between layers, and before the output layer.
    **recurrent
        See `retrograde.nn.recurrent_layer`.

    Examples
    --------
    >>> model = SequenceModel(input_size=11, outputs=2, embedding_size=4, hidden_size=8)
    >>> model(torch.zeros(5, 3, dtype=torch.int64), torch.tensor([5, 2, 1])).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        input_size: int,
        outputs: int,
        hidden_size: int,
        embedding_size: int | None = None,
        pooling: Pooling = "last",
        dropout: float = 0.0,
        bidirectional: bool = False,
        **recurrent: Any,
    ) -> None:
        super().__init__()
        if pooling not in ("last", "mean", "max", "none"):
            raise OptionError(f"--pooling {pooling!r} is none of last, mean, max.")
        self.pooling: Pooling = pooling
        self.embedding = nn.Embedding(input_size, embedding_size) if embedding_size is not None else None
        width = input_size if embedding_size is None else embedding_size
        self.recurrent = recurrent_layer(width, hidden_size, dropout=dropout, bidirectional=bidirectional, **recurrent)
        self.directions = 2 if bidirectional else 1
        self.input_dropout = VariationalDropout(dropout if self.embedding is not None else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size * self.directions, outputs)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs for padded sequences.

        Parameters
        ----------
        inputs : Tensor
            ``(T, B)`` int64 tokens or ``(T, B, F)`` numbers.
        lengths : Tensor, optional
            ``(B,)`` int64, at least 1; all are T if not given. What lies beyond is not read.

        Returns
        -------
        Tensor
            ``(B, outputs)``, or ``(T, B, outputs)`` with ``pooling="none"``.
        """
        ragged = lengths is not None and int(lengths.min()) < len(inputs)
        if ragged:
            assert lengths is not None
            packed = pack_padded_sequence(inputs, lengths.cpu(), enforce_sorted=False)
            read: Any = packed._replace(data=self.embedding(packed.data)) if self.embedding is not None else packed
        else:
            read = self.embedding(inputs) if self.embedding is not None else inputs
        hidden, state = self.recurrent(self.input_dropout(read))
        if self.pooling == "last":
            h_n = state[0] if isinstance(state, tuple) else state
            pooled = torch.cat(list(h_n[-self.directions :]), dim=-1)
            return self.output(self.dropout(pooled))  # type: ignore[no-any-return]
        if self.pooling == "none":
            if isinstance(hidden, PackedSequence):
                hidden = hidden._replace(data=self.output(self.dropout(hidden.data)))
                return pad_packed_sequence(hidden, total_length=len(inputs))[0]
            return self.output(self.dropout(hidden))  # type: ignore[no-any-return]
        pooled = _pool(hidden, self.pooling, lengths if ragged else None)
        return self.output(self.dropout(pooled))  # type: ignore[no-any-return]


def _pool(hidden: Any, pooling: Pooling, lengths: Tensor | None) -> Tensor:
    """Mean or maximum of the states over the real steps of each sequence."""
    if lengths is None:
        return hidden.mean(0) if pooling == "mean" else hidden.amax(0)  # type: ignore[no-any-return]
    padded, _ = pad_packed_sequence(hidden, padding_value=0.0 if pooling == "mean" else -math.inf)
    if pooling == "max":
        return padded.amax(0)
    return padded.sum(0) / lengths.to(padded.device)[:, None]
