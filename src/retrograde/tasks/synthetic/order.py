"""Temporal order: the order of a few rare symbols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import OptionError
from .base import Criterion, SyntheticBatch, SyntheticTask, at_last_step, one_hot, up_to_a_tenth_longer


@dataclass(frozen=True)
class TemporalOrder(SyntheticTask):
    """In which order did the rare symbols X and Y come? A class at the end of the sequence.

    Parameters
    ----------
    length
        T. The published tasks have T = 100; the positions of the rare symbols scale with it.
    symbols
        Number of rare symbols: 2 (classes XX, XY, YX, YY) or 3 (8 classes).
    variant
        ``"hochreiter"`` (1997, experiments 6a and 6b): symbols E, B, a, b, c, d, X, Y; sequences start with E, end with
        the trigger B, and are 100 to 110 long, with the rare ones at 10–20 and 50–60, or 10–20, 33–43 and 66–76.
        ``"pascanu"`` (2013): symbols A, B, c, d, e, f; length T, with the rare ones in [T/10, 2T/10) and
        [4T/10, 5T/10), or [T/10, 2T/10), [3T/10, 4T/10) and [6T/10, 7T/10).
    """

    symbols: int = 2
    variant: str = "hochreiter"

    shortest: ClassVar[int] = 20
    variants: ClassVar[tuple[str, ...]] = ("hochreiter", "pascanu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.symbols not in (2, 3):
            raise OptionError(f"TemporalOrder: symbols is {self.symbols}; it must be 2 or 3.")

    @property
    def _windows(self) -> list[tuple[int, int]]:
        """First and last step, counted from 0, at which each rare symbol may stand."""
        if self.variant == "pascanu":
            tenths = (1, 4) if self.symbols == 2 else (1, 3, 6)
            return [(self.length * k // 10, self.length * (k + 1) // 10 - 1) for k in tenths]
        hundredths = ((10, 20), (50, 60)) if self.symbols == 2 else ((10, 20), (33, 43), (66, 76))
        # The paper counts from 1.
        return [(self.length * a // 100 - 1, self.length * b // 100 - 1) for a, b in hundredths]

    @property
    def input_size(self) -> int:
        """One channel a symbol."""
        return 8 if self.variant == "hochreiter" else 6

    @property
    def output_size(self) -> int:
        """One logit a class; the first rare symbol is the leading binary digit of the class, X = 0 and Y = 1."""
        return int(2**self.symbols)

    @property
    def lags(self) -> tuple[int, int]:
        """From the last rare symbol to the end of the shortest; from the first one to the end of the longest."""
        longest = self.length + (self.length // 10 if self.variant == "hochreiter" else 0)
        return self.length - 1 - self._windows[-1][1], longest - 1 - self._windows[0][0]

    @property
    def criterion(self) -> Criterion:
        """All of the last 2000 right, mean error below 0.1 (1997); under 1 % of 10,000 wrong (2013)."""
        if self.variant == "hochreiter":
            words = "all of the last 2000 sequences with every output within 0.3 of its target, and 0.1 on average"
            return Criterion(2000, 0, words, mean_error=0.1)
        return Criterion(10_000, 99, "fewer than 1 % of 10,000 new sequences wrong")

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> SyntheticBatch:
        """Draw sequences."""
        generator = self._generator(generator)
        column = torch.arange(batch_size)
        classic = self.variant == "hochreiter"
        lengths = torch.full((batch_size,), self.length)
        if classic:
            lengths = up_to_a_tenth_longer(self.length, batch_size, generator)
        rare = self.input_size - 2  # the two rare symbols have the last channels, the four common ones those before
        symbol = torch.randint(rare - 4, rare, (int(lengths.max()), batch_size), generator=generator)
        classes = torch.zeros(batch_size, dtype=torch.int64)
        for first, last in self._windows:
            which = torch.randint(2, (batch_size,), generator=generator)
            symbol[torch.randint(first, last + 1, (batch_size,), generator=generator), column] = rare + which
            classes = classes * 2 + which
        if classic:
            symbol[0] = 0  # E
            symbol[lengths - 1, column] = 1  # B, the trigger
        return at_last_step(one_hot(symbol, self.input_size), classes, lengths)

    def correct(self, outputs: Tensor, batch: SyntheticBatch) -> Tensor:
        """1997: every output within 0.3 of its target; 2013: the most likely class is the right one."""
        return self.error(outputs, batch) < 0.3 if self.variant == "hochreiter" else super().correct(outputs, batch)
