"""Language modeling: the next token given all tokens before it, with an output at every step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.files import AUTO
from ..data.storage import Rows
from ..data.text import Text, read_text
from ..data.vocabulary import Vocabulary
from ..errors import DataError, OptionError, RunError
from ..options import Options
from .generation import generate
from .models import LanguageModel, evaluation_mode
from .ngrams import Score, baselines, own_unigram
from .task import EXAMPLE_STEPS, Batch, Evaluation, Examples, Predictor, Row, State, Task, TaskInfo

SAMPLE_LENGTH = 300  # characters
WARM_UP = 200  # steps that a stream reads before its own part, to reach its state
BLOCK = 1000  # tokens predicted at once


# --- Tokens -----------------------------------------------------------------------------------------------------------


def encoded(vocabulary: Vocabulary, pieces: Iterable[str], tokens: Rows | None = None) -> Rows:
    """Token numbers of a text in pieces, appended to ``tokens``, in the smallest type that the vocabulary allows."""
    tokens = Rows(vocabulary.dtype) if tokens is None else tokens
    for some in vocabulary.encode_pieces(pieces):
        tokens.append(some)
    tokens.settle()
    return tokens


def windows(tokens: Rows, length: int, count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and targets ``(T, B)`` spread evenly over the tokens from ``first`` on, fewer if there are few."""
    steps = len(tokens) - first - 1
    length = max(1, min(length, steps))
    count = max(1, min(count, steps // length))
    starts = torch.linspace(0, steps - length, count).long().numpy()
    found = torch.from_numpy(_side_by_side(tokens, starts + first, length + 1))
    return found[:-1], found[1:]


def _side_by_side(tokens: Rows, starts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """``size`` tokens from each start on, ``(size, starts)``; the last token repeated beyond the end."""
    held, count = tokens.in_memory, len(tokens)
    if held is not None and int(starts[-1]) + size <= count:  # starts go up
        step = held.strides[0]
        found = np.lib.stride_tricks.as_strided(held, (count - size + 1, size), (step, step))[starts]
    else:
        found = np.empty((len(starts), size), tokens.dtype)
        for row, start in zip(found, starts.tolist(), strict=True):
            part = tokens[min(start, count - 1) : start + size]
            row[: len(part)], row[len(part) :] = part, part[-1]
    return found.T.astype(np.int64, order="C")


def _occurrences(tokens: Rows, number: int, start: int, stop: int | None = None) -> int:
    """How often a token occurs from ``start`` to ``stop``."""
    return sum(int(np.count_nonzero(piece == number)) for piece in tokens.pieces(start, stop))


def _examples(tokens: Rows, count: int, steps: int | None, bptt: int, first: int = 0) -> Examples:
    inputs, targets = windows(tokens, steps or min(EXAMPLE_STEPS, bptt), count, first)
    short = steps is not None and len(inputs) < steps
    notes = (f"the text has no {steps} steps; measured over {len(inputs)}.",) if short else ()
    return _examples_of(inputs, targets, notes)


def _examples_of(inputs: Tensor, targets: Tensor, notes: tuple[str, ...] = ()) -> Examples:
    def part(rank: int, size: int) -> Examples:
        return _examples_of(inputs[:, rank::size], targets[:, rank::size], notes)

    return Examples((inputs,), lambda output: _losses(output[0], targets), notes, part, targets)


def _vocabulary(files: Mapping[str, str]) -> Vocabulary:
    if "vocabulary.json" not in files:
        raise RunError("vocabulary.json is missing: the run is incomplete.")
    return Vocabulary.from_json(files["vocabulary.json"])


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy at every step, ``(T, B)``."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


# --- The task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk(Batch):
    """``(T, B)`` tokens and their successors, cut from B streams that run side by side."""

    fresh: bool  # whether the streams begin here, so that no state is carried in
    read: int  # first steps whose loss was taken by the chunk before; only the gradient goes back through them
    carry: int  # number of steps after which the next chunk begins; the state there is carried

    @property
    def size(self) -> int:
        """Number of targets that are scored."""
        return self.targets[self.read :].numel()


class LanguagePredictor(Predictor):
    """A trained language model with its vocabulary."""

    def __init__(self, vocabulary: Vocabulary, network: nn.Module, bptt: int) -> None:
        super().__init__(network)
        self.vocabulary, self.bptt = vocabulary, bptt

    @classmethod
    def from_files(cls, files: Mapping[str, str], options: Options, source: str) -> Self:
        """See `Predictor.from_files`."""
        vocabulary = _vocabulary(files)
        return cls(vocabulary, LanguageModel.of(len(vocabulary), options), options.bptt)

    def _read(self, source: str | Text, encoding: str) -> tuple[Text, Rows]:
        text = source if isinstance(source, Text) else read_text(source, encoding)
        tokens = encoded(self.vocabulary, text.pieces())
        self.notes = list(text.notes)
        if len(tokens) < 2:
            raise DataError(f"{text.source} is too short: {len(tokens)} tokens; predicting one from another takes 2.")
        return text, tokens

    def evaluate(self, source: str | Text, encoding: str = AUTO) -> Evaluation:
        """Score a text: every token but the first, given all before it."""
        text, tokens = self._read(source, encoding)
        first = self.vocabulary.first_length(next(text.pieces()))
        result = score(self.network, tokens, max(1, text.characters - first))
        unknown = self.vocabulary.unknown
        counts = {
            "tokens": result.tokens,
            "characters": result.characters,
            "unknown_tokens": 0 if unknown is None else _occurrences(tokens, unknown, 1),
        }
        counted = own_unigram(tokens, result.characters)
        simple = {"loss": counted.loss, "bits_per_character": counted.bits_per_character}
        return Evaluation(counts, result.as_dict(), {"unigram of this text": simple})

    def following(self, text: str) -> NDArray[np.float64]:
        """The probability of each token after a text, by its number; without a text as after a line end."""
        numbers = self.vocabulary.encode(text or "\n").astype(np.int64)
        if not len(numbers):
            raise DataError(f"{text[:40]!r} has no tokens to go on from.")
        with evaluation_mode(self.network) as device:
            logits, _ = self.network(torch.from_numpy(numbers)[:, None].to(device), None)
        return F.softmax(logits[-1, 0].cpu().double(), dim=-1).numpy()

    def examples(self, source: str | Text, encoding: str, count: int, steps: int | None = None) -> Examples:
        """Windows spread evenly over a text."""
        return _examples(self._read(source, encoding)[1], count, steps, self.bptt)

    def predict(self, source: str | Text, encoding: str = AUTO, probabilities: bool = False) -> Iterator[Row]:
        """Rows for each token but the first: the token, and the most likely one, given all before it."""
        numbers, state = self._read(source, encoding)[1], None
        words = [self.vocabulary.decode([number]) for number in range(len(self.vocabulary))]
        for start in range(0, len(numbers) - 1, BLOCK):
            part = torch.from_numpy(numbers[start : start + BLOCK + 1].astype(np.int64))
            with evaluation_mode(self.network) as device:
                logits, state = self.network(part[:-1, None].to(device), state)
            shares = F.softmax(logits[:, 0].cpu().double(), dim=-1)
            best = shares.argmax(-1)
            columns: dict[str, list[Any]] = {
                "token": [words[truth] for truth in part[1:].tolist()],
                "prediction": [words[guess] for guess in best.tolist()],
            }
            if probabilities:
                columns["probability of token"] = shares.gather(1, part[1:, None])[:, 0].tolist()
                columns["probability of prediction"] = shares.gather(1, best[:, None])[:, 0].tolist()
            for cells in zip(*columns.values(), strict=True):
                yield dict(zip(columns, cells, strict=True))


class LanguageTask(Task[Chunk]):
    """Learn to predict the next token of a text, whose end is held out.

    The training part is cut into ``batch_size`` streams of equal length that are read side by side, in chunks of at
    most ``bptt`` steps. The state is carried from chunk to chunk without its gradient (truncated backpropagation
    through time, Williams and Peng 1990). With ``update_every`` k₁ below ``bptt`` k₂ there is an update every k₁ steps,
    whose gradient goes back k₂: chunks overlap, and the loss of each step is taken once. All chunks have the same
    length, to within a step. Up to ``batch_size`` tokens at the end of the training part are left out.

    Parameters
    ----------
    source : str or Text
    options : Options
    files : mapping, optional
        Files of the run that is resumed, with its vocabulary; without, one is fitted on the training part.

    Raises
    ------
    DataError
        If the text is too short for these options.
    """

    predictor = LanguagePredictor
    unit = "tokens"

    def __init__(self, source: str | Text, options: Options, files: Mapping[str, str] | None = None) -> None:
        super().__init__(source, options, files)
        text = source if isinstance(source, Text) else read_text(source, options.encoding)
        # The text itself is not kept: once it is encoded, it is no longer needed.
        self.source, self.encoding, self.characters = text.source, text.encoding, text.characters
        self.in_memory = isinstance(source, Text)
        self.fingerprint, self.notes = text.fingerprint, list(text.notes)
        # A tenth; of a large text no more than is needed to tell models apart, because validation takes time too.
        share, tenth = options.validation_fraction, min(text.characters // 10, 100_000)
        self.validation_characters = tenth if share is None else int(text.characters * share)
        cut = text.characters - self.validation_characters
        self.vocabulary = _vocabulary(files) if files is not None else self._fit(text, cut)
        self.vocabulary_size = len(self.vocabulary)
        self.tokens = encoded(self.vocabulary, text.pieces(0, cut))  # first those to train on, then those held out
        self.train_tokens = len(self.tokens)
        encoded(self.vocabulary, text.pieces(cut), self.tokens)
        self.validation_tokens = len(self.tokens) - self.train_tokens
        self._check_length()
        self._note_unknown()

        count, bptt = self.train_tokens - 1, options.bptt
        self.batch_size = options.batch_size or max(1, min(32, count // bptt))
        length = count // self.batch_size
        if length < 1:
            raise OptionError(
                f"--batch-size {self.batch_size} is more than the {count} steps of the training text: each stream "
                "needs one."
            )
        every = options.update_every or bptt
        self._overlap = bptt - every  # steps of the chunk before that are read again
        self.steps_per_epoch = math.ceil(length / every)
        self._cuts = [length * i // self.steps_per_epoch for i in range(self.steps_per_epoch + 1)]
        self._streams = length * np.arange(self.batch_size)  # where each begins

    def _fit(self, text: Text, cut: int) -> Vocabulary:
        options = self.options
        return Vocabulary.fit(text.pieces(0, cut or None), options.tokens, options.vocab_size, options.min_count)

    def _check_length(self) -> None:
        trained, held_out, bptt = self.train_tokens, self.validation_tokens, self.options.bptt
        if held_out < 1 or trained < 2:
            raise DataError(
                f"{self.source} is too short: {trained} tokens to train on and {held_out} to validate with."
            )
        if trained - 1 < bptt:
            raise DataError(
                f"{self.source} is too short for --bptt {bptt}: its {trained} training tokens make "
                f"{trained - 1} steps; give more text or --bptt {trained - 1} at most."
            )

    def _note_unknown(self) -> None:
        trained, held_out = self.train_tokens, self.validation_tokens
        for part, start, count in (("training", 0, trained), ("validation", trained, held_out)):
            number = self.vocabulary.unknown
            if number is not None and (unknown := _occurrences(self.tokens, number, start, start + count)):
                self.notes.append(
                    f"{unknown:,} of {count:,} {part} tokens ({unknown / count:.2%}) are not in the "
                    "vocabulary and count as unknown."
                )

    def model(self) -> LanguageModel:
        """A new network, initialized from torch's random state."""
        return LanguageModel.of(len(self.vocabulary), self.options)

    def batch(self, step: int) -> Chunk:
        """The chunk of a training step."""
        index = step % self.steps_per_epoch
        begin, end = self._begin(index), self._cuts[index + 1]
        tokens = torch.from_numpy(_side_by_side(self.tokens, self._streams + begin, end - begin + 1))
        return Chunk(
            tokens[:-1],
            tokens[1:],
            fresh=index == 0,
            read=self._cuts[index] - begin,
            carry=(self._begin(index + 1) if index + 1 < self.steps_per_epoch else end) - begin,
        )

    def _begin(self, index: int) -> int:
        return max(0, int(self._cuts[index]) - self._overlap)

    def loss(self, model: nn.Module, batch: Chunk, state: State) -> tuple[Tensor, State]:
        """Mean cross-entropy of a chunk (nats per token) and the state for the next."""
        state = None if batch.fresh else state
        if batch.carry == len(batch.inputs):
            logits, carried = model(batch.inputs, state)
        elif batch.carry == 0:  # the streams have only begun: the next chunk begins where this one does
            logits, _ = model(batch.inputs, state)
            carried = state
        else:
            first, carried = model(batch.inputs[: batch.carry], state)
            second, _ = model(batch.inputs[batch.carry :], carried)
            logits = torch.cat([first, second])
        return F.cross_entropy(logits[batch.read :].flatten(0, 1), batch.targets[batch.read :].flatten()), carried

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Validation loss (nats per token), perplexity and bits per character."""
        return {f"validation_{name}": value for name, value in self.validate(model).as_dict().items()}

    def validate(self, model: nn.Module) -> Score:
        """Score of the held-out end: every token of it is predicted once, given the text before it."""
        return score(model, self.tokens, self.validation_characters, self.train_tokens)

    @classmethod
    def info(cls, options: Options) -> TaskInfo:
        """See `Task.info`: the data is a text, cut into tokens and into windows of ``bptt`` of them."""
        token = {"char": "character", "word": "word", "bpe": "BPE token"}[options.tokens]
        training = f"was trained to predict the next {token} of"
        return TaskInfo(training, "text", token, "tokens", predicts_tokens=True, writes_text=True, bptt=options.bptt)

    def files(self) -> dict[str, str]:
        """``vocabulary.json``."""
        return {"vocabulary.json": self.vocabulary.to_json()}

    def baselines(self) -> dict[str, dict[str, float]]:
        """Unigram and bigram, on the same split."""
        return baselines(self.tokens, self.train_tokens, self.validation_characters, len(self.vocabulary)).as_dict()

    def results(self, model: nn.Module) -> dict[str, str]:
        """``sample.txt``, text that the network generates."""
        return {"sample.txt": "".join(generate(model, self.vocabulary, "", SAMPLE_LENGTH, seed=self.options.seed))}

    def held_out(self, count: int, steps: int | None = None) -> Examples:
        """Windows spread evenly over the held-out end, by default of at most ``bptt`` steps."""
        return _examples(self.tokens, count, steps, self.options.bptt, self.train_tokens)

    def examples(self, count: int, steps: int | None = None) -> Examples:
        """Windows spread evenly over the whole text: what is held out of a short one has too few."""
        return _examples(self.tokens, count, steps, self.options.bptt)

    def batch_words(self) -> str:
        """The size of a batch in words."""
        return f"{self.batch_size} x {self.options.bptt} tokens"

    def describe(self) -> dict[str, object]:
        """What ``config.json`` says about the data."""
        return {
            "source": self.source,
            "encoding": self.encoding,
            "characters": self.characters,
            "train_tokens": self.train_tokens,
            "validation_tokens": self.validation_tokens,
            "validation_characters": self.validation_characters,
            "vocabulary_size": len(self.vocabulary),
            "fingerprint": self.fingerprint,
        } | ({"in_memory": True} if self.in_memory else {})


def score(model: nn.Module, tokens: Rows, characters: int, first: int = 1) -> Score:
    """Score tokens with the state carried through all of them.

    For speed a long text is read as several streams side by side. Each but the first reads ``WARM_UP`` tokens before
    those it scores, so that its state is nearly that of a network which has read everything before.

    Parameters
    ----------
    model : Module
        From ``(T, B)`` tokens and a state to logits and a state.
    tokens : Rows
        ``(N,)`` token numbers, see `encoded`.
    characters : int
        Number of characters of the tokens that are predicted.
    first : int
        The first token that is predicted, at least 1; those before it are only read.
    """
    count = len(tokens) - first
    if count < 1:
        raise DataError("there is nothing to predict: a text of at least 2 tokens is needed.")
    begin = max(0, first - WARM_UP - 1)
    # Position i reads tokens[begin + i] and predicts the one after. Stream b reads the positions from
    # b (length − WARM_UP) on, so each begins WARM_UP positions before the one before it ends.
    positions_in_all = len(tokens) - begin - 1
    streams = max(1, min(64, positions_in_all // (4 * WARM_UP)))
    length = math.ceil((positions_in_all + (streams - 1) * WARM_UP) / streams)
    starts = (length - WARM_UP) * np.arange(streams)
    state: State = None
    total, done, vocabulary_size = 0.0, 0, 0
    with evaluation_mode(model) as device:
        while done < length:
            # Logits of a chunk take T·B·V numbers; this keeps them to some ten megabytes.
            size = min(length - done, max(1, (1 << 22) // (streams * vocabulary_size)) if vocabulary_size else 16)
            position = starts + done + np.arange(size)[:, None]
            counted = (position >= first - begin - 1) & (position < positions_in_all)
            counted[: max(0, WARM_UP - done), 1:] = False
            window = torch.from_numpy(_side_by_side(tokens, begin + starts + done, size + 1)).to(device)
            logits, state = model(window[:-1], state)
            vocabulary_size = logits.shape[-1]
            total += float(_losses(logits.float(), window[1:])[torch.from_numpy(counted).to(device)].double().sum())
            done += size
    return Score(total, count, characters)
