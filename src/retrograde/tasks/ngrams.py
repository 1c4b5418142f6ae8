"""How well counting predicts text: the unigram and bigram that a language model is compared with.

Tests: `tests/tasks/test_language.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.storage import Rows

PAIRS = 1 << 20  # pairs of tokens counted at once


@dataclass(frozen=True)
class Score:
    """How well text was predicted."""

    nats: float  # sum of −ln p over the predicted tokens
    # Number of predicted tokens, and of their characters.
    tokens: int
    characters: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite if that overflows."""
        return math.exp(self.loss) if self.loss < 700 else (math.inf if self.loss == self.loss else math.nan)

    @property
    def bits_per_character(self) -> float:
        """Nats / ln 2 / characters; can be compared between kinds of tokens."""
        return self.nats / math.log(2) / self.characters

    def as_dict(self) -> dict[str, float]:
        """``loss``, ``perplexity``, ``bits_per_character``."""
        return {"loss": self.loss, "perplexity": self.perplexity, "bits_per_character": self.bits_per_character}


@dataclass(frozen=True)
class Baselines:
    """Scores of counting, on the same split, of the same tokens."""

    unigram: Score
    bigram: Score

    def as_dict(self) -> dict[str, dict[str, float]]:
        """As ``summary.json`` contains them."""
        return {
            name: {"loss": score.loss, "bits_per_character": score.bits_per_character}
            for name, score in (("unigram", self.unigram), ("bigram", self.bigram))
        }


def baselines(tokens: Rows, trained: int, characters: int, vocabulary_size: int) -> Baselines:
    """Scores of a unigram and a smoothed bigram, fitted without the validation part.

    Both are smoothed with a Dirichlet prior (MacKay and Bauman Peto 1995): the unigram's is uniform, the bigram's is
    the unigram. The strength of the prior is the one that predicts the last tenth of the training part best from the
    rest; then all of the training part is counted.

    tokens: token numbers, the first ``trained`` of them to train on, the rest to validate with.
    characters: number of characters of the validation part.
    """
    cut = max(1, trained - max(1, trained // 10))
    strengths = [2.0**power for power in range(-6, 15)]
    before, last_tenth = _pairs(tokens, 0, cut, vocabulary_size), _pairs(tokens, cut - 1, trained, vocabulary_size)
    trial = _Counts(before, int(tokens[:1][0]), last_tenth, vocabulary_size)
    uniform = min(strengths, key=trial.unigram)
    prior = min(strengths, key=lambda strength: trial.bigram(uniform, strength))
    held_out = _pairs(tokens, trained - 1, len(tokens), vocabulary_size)
    final = _Counts(_added([before, last_tenth]), int(tokens[:1][0]), held_out, vocabulary_size)
    count = len(tokens) - trained
    return Baselines(
        Score(final.unigram(uniform), count, characters), Score(final.bigram(uniform, prior), count, characters)
    )


def own_unigram(tokens: Rows, characters: int) -> Score:
    """Score of the unigram that was counted in the very text it predicts, all but its first token.

    No unigram is better, so a network that is worse has not learned to use what comes before.
    """
    counts = np.zeros(0, np.int64)
    for at in range(1, len(tokens), PAIRS):
        found = np.bincount(tokens[at : at + PAIRS])
        counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
        counts[: len(found)] += found
    shares = counts[counts > 0] / counts.sum()
    return Score(float(-(np.log(shares) * counts[counts > 0]).sum()), len(tokens) - 1, characters)


_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]  # pairs v w as the number v V + w, in order, and their counts


def _pairs(tokens: Rows, start: int, stop: int, vocabulary_size: int) -> _Pairs:
    """The pairs of neighbors from ``start`` to ``stop``; takes memory only for the different ones."""
    runs: list[_Pairs] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for at in range(start, stop - 1, PAIRS):
        piece = tokens[at : min(stop, at + PAIRS + 1)].astype(np.int64)
        runs.append(np.unique(piece[:-1] * vocabulary_size + piece[1:], return_counts=True))
        while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):  # each is added only a few times
            runs[-2:] = [_added(runs[-2:])]
    return _added(runs)


def _added(runs: list[_Pairs]) -> _Pairs:
    codes, place = np.unique(np.concatenate([codes for codes, _ in runs]), return_inverse=True)
    counts = np.zeros(len(codes), np.int64)
    np.add.at(counts, place, np.concatenate([counts for _, counts in runs]))
    return codes, counts


class _Counts:
    """Counts in seen text, which starts with the token ``first``, for each pair of a target text."""

    def __init__(self, seen: _Pairs, first: int, target: _Pairs, vocabulary_size: int) -> None:
        codes, counts = seen
        self.size, self.total = vocabulary_size, int(counts.sum()) + 1
        contexts, singles = np.zeros(vocabulary_size, np.int64), np.zeros(vocabulary_size, np.int64)
        np.add.at(contexts, codes // vocabulary_size, counts)
        np.add.at(singles, codes % vocabulary_size, counts)
        singles[first] += 1
        wanted, self.times = target
        self.contexts, self.singles = contexts[wanted // vocabulary_size], singles[wanted % vocabulary_size]
        place = np.searchsorted(codes, wanted)
        found = np.append(codes, -1)[place] == wanted
        self.pairs = np.where(found, np.append(counts, 0)[place], 0)

    def _p(self, strength: float) -> Any:
        # p(w) = (n(w) + a/V) / (N + a)
        return (self.singles + strength / self.size) / (self.total + strength)

    def unigram(self, strength: float) -> float:
        """Nats of the target text."""
        return float(-(self.times * np.log(self._p(strength))).sum())

    def bigram(self, uniform_strength: float, strength: float) -> float:
        """Nats of the target text, each token given the one before it."""
        # p(w|v) = (n(v w) + a p(w)) / (n(v) + a)
        p = (self.pairs + strength * self._p(uniform_strength)) / (self.contexts + strength)
        return float(-(self.times * np.log(p)).sum())
