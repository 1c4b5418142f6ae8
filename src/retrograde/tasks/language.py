"""Language modelling: the next token given all before it, an output at every step.

The model, the task that feeds it with contiguous text, the baselines it has to beat, and the
generator that lets it write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.storage import Rows
from ..data.text import Text
from ..data.vocabulary import TokenKind, Vocabulary
from ..errors import DataError, OptionError
from .generation import generate
from .models import LanguageModel
from .task import Batch, Probe, State, Task

__all__ = [
    "Baselines",
    "Chunk",
    "LanguageModel",
    "LanguageTask",
    "Score",
    "baselines",
    "encoded",
    "evaluate",
    "generate",
    "loss_by_step",
    "score",
    "windows",
]

Counts = NDArray[np.int64]


# --- Tokens: in memory while they are few, beyond that in a file ------------------------------------------------------


def encoded(vocabulary: Vocabulary, pieces: Iterable[str], tokens: Rows | None = None) -> Rows:
    """Token numbers of a text in pieces, added to those there are; as small as the vocabulary lets them be."""
    tokens = Rows(vocabulary.dtype) if tokens is None else tokens
    for some in vocabulary.encode_pieces(pieces):
        tokens.append(some)
    tokens.settle()
    return tokens


def windows(tokens: Rows, length: int, count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and targets ``(T, B)`` spread evenly over the tokens from ``first`` on, fewer where they are few."""
    steps = len(tokens) - first - 1
    length = max(1, min(length, steps))
    count = max(1, min(count, steps // length))
    starts = torch.linspace(0, steps - length, count).long().numpy()
    found = torch.from_numpy(_side_by_side(tokens, starts + first, length + 1))
    return found[:-1], found[1:]


def loss_by_step(targets: Tensor) -> Callable[[Any], Tensor]:
    """The loss of a model's output at every step, ``(T, B)``."""

    def loss(output: Any) -> Tensor:
        return F.cross_entropy(output[0].flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)

    return loss


def _side_by_side(tokens: Rows, starts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """``size`` tokens from each start on, ``(size, starts)``; beyond the end the last again."""
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
    """How often a token comes from ``start`` to ``stop``."""
    return sum(int(np.count_nonzero(piece == number)) for piece in tokens.pieces(start, stop))


# --- The task: what the training loop asks for ------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk(Batch):
    """``(T, B)`` tokens and their successors, cut from B streams that run side by side.

    ``fresh`` says that the streams begin here, so that no state is carried in. The first ``read`` steps were learnt
    from before: the gradient goes back through them, no loss is taken. The state after ``carry`` steps is where the
    next chunk begins.
    """

    fresh: bool
    read: int
    carry: int

    @property
    def size(self) -> int:
        """How many predictions the chunk trains."""
        return self.targets[self.read :].numel()


class LanguageTask(Task[Chunk]):
    """Training text cut into parallel streams, and a contiguous tail of it held out.

    The training part is cut into ``batch_size`` streams of equal length that are read side by side,
    in chunks of at most ``bptt`` steps; the state goes on from chunk to chunk without its gradient
    (truncated backpropagation through time, Williams and Peng 1990). With ``update_every`` k₁ below ``bptt`` k₂ there
    is an update every k₁ steps, whose gradient goes back k₂: chunks overlap, and each step is learnt from once.
    Chunks are equal to within a
    step, so none is a stub. Fewer than ``batch_size`` tokens at the end of the training part fill
    no stream and are left out.

    Which chunk is trained at which step is a function of the step alone: resuming needs no more
    than the step and the carried state.

    Parameters
    ----------
    text : Text
    vocabulary : Vocabulary or None
        None: fit one on the training part.
    options : mapping
        ``tokens``, ``vocab_size``, ``min_count``, ``validation_fraction``, ``batch_size``, ``bptt`` and
        the parameters of `LanguageModel`.

    Raises
    ------
    DataError
        If the text is too short for these options.
    """

    name = "language"

    def __init__(self, text: Text, options: Mapping[str, Any], vocabulary: Vocabulary | None = None) -> None:
        # Not the text itself: once it is encoded, it is no longer needed.
        self.source, self.encoding, self.characters = text.source, text.encoding, text.characters
        self.fingerprint, self.options = text.fingerprint, options
        held_out = options["validation_fraction"]
        # A tenth, but of a large text no more than tells models apart: validation takes time too.
        tail = int(text.characters * held_out) if held_out is not None else min(text.characters // 10, 100_000)
        self.validation_characters, cut = tail, text.characters - tail
        kind: TokenKind = options["tokens"]
        if vocabulary is None:
            training = text.pieces(0, cut or None)
            vocabulary = Vocabulary.fit(training, kind, options["vocab_size"], options["min_count"])
        self.vocabulary, self.vocabulary_size = vocabulary, len(vocabulary)
        self.tokens = encoded(vocabulary, text.pieces(0, cut))  # first those to train on, then those held out
        self.train_tokens = len(self.tokens)
        encoded(vocabulary, text.pieces(cut), self.tokens)
        self.validation_tokens = len(self.tokens) - self.train_tokens
        self.notes = list(text.notes)
        self._check_length()
        self._note_unknown()

        count, bptt = self.train_tokens - 1, options["bptt"]
        batch_size = options["batch_size"] or max(1, min(32, count // bptt))
        if count // batch_size < 1:
            raise OptionError(
                f"--batch-size {batch_size} is more than the {count} steps of the training text: each stream needs one."
            )
        length = count // batch_size
        self.batch_size = batch_size
        every = options.get("update_every") or bptt
        self._again = int(bptt - every)  # steps read anew before those that are learnt from
        self.steps_per_epoch = math.ceil(length / every)
        self._cuts = [length * i // self.steps_per_epoch for i in range(self.steps_per_epoch + 1)]
        self._streams = length * np.arange(batch_size)  # where each begins

    def _check_length(self) -> None:
        trained, held_out, bptt = self.train_tokens, self.validation_tokens, self.options["bptt"]
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
        if self.vocabulary.unknown is None:
            return
        for part, start, count in (
            ("training", 0, self.train_tokens),
            ("validation", self.train_tokens, self.validation_tokens),
        ):
            if unknown := _occurrences(self.tokens, self.vocabulary.unknown, start, start + count):
                self.notes.append(
                    f"{unknown:,} of {count:,} {part} tokens ({unknown / count:.2%}) are not in the "
                    "vocabulary and count as unknown."
                )

    def model(self) -> LanguageModel:
        """A new model, initialised from torch's random state."""
        return LanguageModel.of(len(self.vocabulary), self.options)

    def batch(self, step: int) -> Chunk:
        """The chunk that training step ``step`` (from 0) learns from."""
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
        return max(0, int(self._cuts[index]) - self._again)

    def loss(self, model: nn.Module, chunk: Chunk, state: State | None) -> tuple[Tensor, State | None]:
        """Mean cross-entropy of a chunk (nats per token) and the state after it."""
        state = None if chunk.fresh else state
        if chunk.carry == len(chunk.inputs):
            logits, carried = model(chunk.inputs, state)
        elif chunk.carry == 0:  # the streams have only begun: the next chunk begins where this one does
            logits, _ = model(chunk.inputs, state)
            carried = state
        else:
            first, carried = model(chunk.inputs[: chunk.carry], state)
            second, _ = model(chunk.inputs[chunk.carry :], carried)
            logits = torch.cat([first, second])
        return F.cross_entropy(logits[chunk.read :].flatten(0, 1), chunk.targets[chunk.read :].flatten()), carried

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Validation loss (nats per token), perplexity and bits per character."""
        return {f"validation_{name}": value for name, value in self.validate(model).as_dict().items()}

    def validate(self, model: nn.Module) -> Score:
        """Score of the held-out tail: every token of it is predicted once, given the text before it."""
        return score(model, self.tokens, self.validation_characters, self.train_tokens)

    def held_out_sequences(self, length: int, count: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets ``(T, B)`` spread evenly over the held-out tail, fewer where it is short."""
        return windows(self.tokens, length, count, self.train_tokens)

    def files(self) -> dict[str, str]:
        """What a run folder keeps beside the weights, by file name."""
        return {"vocabulary.json": self.vocabulary.to_json()}

    def baselines(self) -> dict[str, dict[str, float]]:
        """Unigram and bigram, on the same split."""
        counted = baselines(self.tokens, self.train_tokens, self.validation_characters, len(self.vocabulary))
        return counted.as_dict()

    def results(self, model: nn.Module) -> dict[str, str]:
        """What is made with the trained model for the run folder, by file name: a sample."""
        return {"sample.txt": "".join(generate(model, self.vocabulary, "", SAMPLE_LENGTH, seed=self.options["seed"]))}

    def probe(self, count: int, steps: int) -> Probe:
        """Inputs of the model and the loss of its output per step, ``(T, B)``, to measure the gradient with."""
        inputs, targets = self.held_out_sequences(min(steps, self.options["bptt"]), count)
        return Probe((inputs,), loss_by_step(targets))

    def describe(self) -> dict[str, object]:
        """What ``config.json`` keeps about the data."""
        return {
            "source": self.source,
            "encoding": self.encoding,
            "characters": self.characters,
            "train_tokens": self.train_tokens,
            "validation_tokens": self.validation_tokens,
            "validation_characters": self.validation_characters,
            "vocabulary_size": len(self.vocabulary),
            "fingerprint": self.fingerprint,
        }


# --- Scores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """How well text was predicted.

    Attributes
    ----------
    nats : float
        Sum of −ln p over the tokens predicted.
    tokens, characters : int
        What was predicted, counted either way.
    """

    nats: float
    tokens: int
    characters: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else (math.inf if self.loss == self.loss else math.nan)

    @property
    def bits_per_character(self) -> float:
        """The same for every kind of token: nats / ln 2 / characters."""
        return self.nats / math.log(2) / self.characters

    def as_dict(self) -> dict[str, float]:
        """``loss``, ``perplexity``, ``bits_per_character``."""
        return {"loss": self.loss, "perplexity": self.perplexity, "bits_per_character": self.bits_per_character}


SAMPLE_LENGTH = 300  # characters
PAIRS = 1 << 20  # pairs of tokens counted at once
WARM_UP = 200  # steps of text before its own part that a stream reads to come into its state


@torch.no_grad()
def score(model: nn.Module, tokens: Rows, characters: int, first: int = 1) -> Score:
    """Score tokens with the state carried through all of them.

    For speed a long text is read as several streams side by side; each but the first reads
    ``WARM_UP`` tokens before those it counts, so that it has the state of a reader who came from there.

    Parameters
    ----------
    model : Module
        ``(T, B)`` tokens and a state to logits and a state.
    tokens : Rows
        ``(N,)`` token numbers, see `encoded`.
    characters : int
        Characters of the tokens that are predicted.
    first : int
        The first that is predicted, at least 1; those before it are read.
    """
    count = len(tokens) - first
    if count < 1:
        raise DataError("there is nothing to predict: a text of at least 2 tokens is needed.")
    device = next(model.parameters()).device
    begin = max(0, first - WARM_UP - 1)
    # Position i reads tokens[begin + i] and predicts the one after. Stream b reads the positions from
    # b (length − WARM_UP) on, so each begins WARM_UP positions before the one before it ends.
    positions_in_all = len(tokens) - begin - 1
    streams = max(1, min(64, positions_in_all // (4 * WARM_UP)))
    length = math.ceil((positions_in_all + (streams - 1) * WARM_UP) / streams)
    starts = (length - WARM_UP) * np.arange(streams)

    was_training = model.training
    model.eval()
    try:
        state: State | None = None
        total, done, vocabulary_size = 0.0, 0, 0
        while done < length:
            # A chunk of logits takes T·B·V numbers; this keeps them to some ten megabytes.
            size = min(length - done, max(1, (1 << 22) // (streams * vocabulary_size)) if vocabulary_size else 16)
            position = starts + done + np.arange(size)[:, None]
            counted = (position >= first - begin - 1) & (position < positions_in_all)
            counted[: max(0, WARM_UP - done), 1:] = False
            window = torch.from_numpy(_side_by_side(tokens, begin + starts + done, size + 1)).to(device)
            logits, state = model(window[:-1], state)
            vocabulary_size = logits.shape[-1]
            losses = F.cross_entropy(logits.flatten(0, 1).float(), window[1:].flatten(), reduction="none")
            total += float(losses[torch.from_numpy(counted.ravel()).to(device)].double().sum())
            done += size
    finally:
        model.train(was_training)
    return Score(total, count, characters)


def evaluate(model: nn.Module, vocabulary: Vocabulary, text: Text) -> dict[str, float]:
    """Score a text of its own: every token but the first, given all before it.

    Returns
    -------
    dict
        ``loss`` (nats per token), ``perplexity``, ``bits_per_character``, and how many ``tokens``,
        ``characters`` and ``unknown_tokens`` were predicted.
    """
    tokens = encoded(vocabulary, text.pieces())
    if len(tokens) < 2:
        raise DataError(
            f"{text.source} is too short to evaluate on: {len(tokens)} token, and the first is not predicted."
        )
    result = score(model, tokens, max(1, text.characters - vocabulary.first_length(next(text.pieces()))))
    unknown = _occurrences(tokens, vocabulary.unknown, 1) if vocabulary.unknown is not None else 0
    return {**result.as_dict(), "tokens": result.tokens, "characters": result.characters, "unknown_tokens": unknown}


# --- Baselines --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baselines:
    """Scores of counting, on the same split, of the same tokens."""

    unigram: Score
    bigram: Score

    def as_dict(self) -> dict[str, dict[str, float]]:
        """As ``summary.json`` keeps them."""
        return {
            name: {"loss": value.loss, "bits_per_character": value.bits_per_character}
            for name, value in (("unigram", self.unigram), ("bigram", self.bigram))
        }


def baselines(tokens: Rows, trained: int, characters: int, vocabulary_size: int) -> Baselines:
    """Unigram and smoothed bigram, as good as counting gets, without a look at the validation part.

    Both are smoothed with a Dirichlet prior (MacKay and Bauman Peto 1995), the unigram's uniform,
    the bigram's the unigram; its strength is what predicts the last tenth of the training part best
    from the rest, and then all of the training part is counted.

    Parameters
    ----------
    tokens : Rows
        Token numbers, the first ``trained`` of them to train on, the rest to validate with.
    characters : int
        Characters of the validation part.
    """
    cut = max(1, trained - max(1, trained // 10))
    strengths = [2.0**power for power in range(-6, 15)]
    before, last_tenth = _pairs(tokens, 0, cut, vocabulary_size), _pairs(tokens, cut - 1, trained, vocabulary_size)
    trial = _Counts(before, int(tokens[:1][0]), last_tenth, vocabulary_size)
    uniform_strength = min(strengths, key=trial.unigram)
    prior_strength = min(strengths, key=lambda strength: trial.bigram(uniform_strength, strength))
    held_out = _pairs(tokens, trained - 1, len(tokens), vocabulary_size)
    final = _Counts(_added([before, last_tenth]), int(tokens[:1][0]), held_out, vocabulary_size)
    count = len(tokens) - trained
    return Baselines(
        Score(final.unigram(uniform_strength), count, characters),
        Score(final.bigram(uniform_strength, prior_strength), count, characters),
    )


_Pairs = tuple[Counts, Counts]  # pairs v w as v V + w, in order, and how often each comes


def _pairs(tokens: Rows, start: int, stop: int, vocabulary_size: int) -> _Pairs:
    """The pairs of neighbours from ``start`` to ``stop``; memory for the different ones only."""
    runs: list[_Pairs] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for at in range(start, stop - 1, PAIRS):
        piece = tokens[at : min(stop, at + PAIRS + 1)].astype(np.int64)
        runs.append(np.unique(piece[:-1] * vocabulary_size + piece[1:], return_counts=True))
        while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):  # each is added to a few times only
            runs[-2:] = [_added(runs[-2:])]
    return _added(runs)


def _added(runs: list[_Pairs]) -> _Pairs:
    codes, place = np.unique(np.concatenate([codes for codes, _ in runs]), return_inverse=True)
    counts = np.zeros(len(codes), np.int64)
    np.add.at(counts, place, np.concatenate([counts for _, counts in runs]))
    return codes, counts


class _Counts:
    """How often the pairs of a target, their tokens and the tokens before were seen.

    What was seen begins with the token ``opening``; the rest of it are the second tokens of its pairs.
    """

    def __init__(self, seen: _Pairs, opening: int, target: _Pairs, vocabulary_size: int) -> None:
        codes, counts = seen
        self.size, self.total = vocabulary_size, int(counts.sum()) + 1
        contexts, singles = np.zeros(vocabulary_size, np.int64), np.zeros(vocabulary_size, np.int64)
        np.add.at(contexts, codes // vocabulary_size, counts)
        np.add.at(singles, codes % vocabulary_size, counts)
        singles[opening] += 1
        wanted, self.times = target
        self.contexts, self.singles = contexts[wanted // vocabulary_size], singles[wanted % vocabulary_size]
        place = np.searchsorted(codes, wanted)
        found = np.append(codes, -1)[place] == wanted
        self.pairs = np.where(found, np.append(counts, 0)[place], 0)

    def _p(self, strength: float) -> Any:
        # p(w) = (n(w) + a/V) / (N + a)
        return (self.singles + strength / self.size) / (self.total + strength)

    def unigram(self, strength: float) -> float:
        return float(-(self.times * np.log(self._p(strength))).sum())

    def bigram(self, uniform_strength: float, strength: float) -> float:
        # p(w|v) = (n(v w) + a p(w)) / (n(v) + a)
        p = (self.pairs + strength * self._p(uniform_strength)) / (self.contexts + strength)
        return float(-(self.times * np.log(p)).sum())
