"""Copy memory: the first symbols are repeated after a long delay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Criterion, Level, SyntheticBatch, SyntheticTask, one_hot


@dataclass(frozen=True)
class CopyMemory(SyntheticTask):
    """Repeat the first symbols after a delay: Arjovsky, Shah, Bengio (2016), after Hochreiter and Schmidhuber (1997).

    The input is ``items`` symbols, T - 1 blanks, a delimiter and ``items`` blanks, T + 2·items steps in all; the output
    is T + items blanks, then the symbols.

    Parameters
    ----------
    length
        T, the delay.
    symbols
        Number of different symbols, 8 in the paper. Channel ``symbols`` is the blank, the one after it the delimiter.
    items
        Number of symbols to remember, 10 in the paper.
    """

    symbols: int = 8
    items: int = 10

    many_to_one: ClassVar[bool] = False
    least: ClassVar[Mapping[str, int]] = {"symbols": 2, "items": 1}

    @property
    def steps(self) -> int:
        """Steps of a sequence."""
        return self.length + 2 * self.items

    @property
    def input_size(self) -> int:
        """The symbols, the blank and the delimiter."""
        return self.symbols + 2

    @property
    def output_size(self) -> int:
        """As the input; the delimiter is never right."""
        return self.symbols + 2

    @property
    def lags(self) -> tuple[int, int]:
        """Every item comes back T + items steps later."""
        return self.length + self.items, self.length + self.items

    @property
    def chance(self) -> Level:
        """Blanks where they belong, then symbols at random: items · ln(symbols) / (T + 2·items)."""
        share = self.items / self.steps
        return Level(share * math.log(self.symbols), 1 - share + share / self.symbols)

    @property
    def criterion(self) -> Criterion:
        """The paper shows loss curves and states no criterion; ours asks for every symbol."""
        return Criterion(1000, 9, "fewer than 1 % of 1000 new sequences with a symbol wrong")

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> SyntheticBatch:
        """Draw sequences."""
        generator = self._generator(generator)
        items = torch.randint(self.symbols, (self.items, batch_size), generator=generator)
        shown = torch.full((self.steps, batch_size), self.symbols)
        targets = shown.clone()
        shown[: self.items] = targets[-self.items :] = items
        shown[self.items + self.length - 1] = self.symbols + 1
        lengths = torch.full((batch_size,), self.steps)
        mask = torch.ones_like(shown, dtype=torch.bool)
        return SyntheticBatch(one_hot(shown, self.input_size), targets, mask, lengths)

    def correct(self, outputs: Tensor, batch: SyntheticBatch) -> Tensor:
        """Whether all of the remembered symbols are right."""
        recalled = self._scored(outputs, batch)[-self.items :].argmax(-1)
        return (recalled == batch.targets[-self.items :]).all(0)
