"""Which sequences a training step sees.

Tests: `tests/data/test_storage.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


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
