"""Adding and multiplication: combine two marked numbers of a long sequence at its end."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .base import Criterion, Level, SyntheticBatch, SyntheticTask, at_last_step, up_to_a_tenth_longer


@dataclass(frozen=True)
class _MarkedNumbers(SyntheticTask):
    """Numbers, two of them marked: what adding and multiplication share. Channel 0 the number, channel 1 the mark."""

    variant: str = "hochreiter"

    shortest: ClassVar[int] = 20
    sizes: ClassVar[tuple[int, int]] = (2, 1)
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)  # of the numbers in the 1997 form
    neutral: ClassVar[float] = 0.0  # 1997: what the number at the first step counts as

    @property
    def kind(self) -> Literal["values", "classes"]:
        """A sum or a product."""
        return "values"

    @property
    def lags(self) -> tuple[int, int]:
        """From the last step that can be marked to the nearest end; from the first to the farthest."""
        longest = self.length + self.length // 10
        if self.variant == "arjovsky":
            return 0, self.length - 1
        if self.variant == "pascanu":  # length L in [T, 11T/10), marks in [0, L/10) and [L/10, L/2)
            longest -= 1
        return self.length - self.length // 2, longest - 1

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> SyntheticBatch:
        """Draw sequences."""
        generator = self._generator(generator)
        draw = getattr(self, f"_positions_{self.variant}")
        lengths, first, second = draw(batch_size, generator)
        low, high = self.span if self.variant == "hochreiter" else (0.0, 1.0)
        column = torch.arange(batch_size)
        numbers = torch.rand(int(lengths.max()), batch_size, generator=generator) * (high - low) + low
        marks = torch.zeros_like(numbers)
        if self.variant == "hochreiter":
            # Both ends have -1 in place of a mark, so a number marked at the first step counts as neutral.
            numbers[0] = torch.where((first == 0) | (second == 0), torch.tensor(self.neutral), numbers[0])
        marks[first, column] = marks[second, column] = 1.0
        if self.variant == "hochreiter":
            marks[0] = marks[lengths - 1, column] = -1.0
        targets = self._target(numbers[first, column], numbers[second, column])
        return at_last_step(torch.stack([numbers, marks], dim=-1), targets, lengths)

    @abstractmethod
    def _target(self, first: Tensor, second: Tensor) -> Tensor: ...

    def _positions_hochreiter(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        lengths = up_to_a_tenth_longer(self.length, batch_size, generator)
        first = torch.randint(10, (batch_size,), generator=generator)
        second = torch.randint(self._unmarked, (batch_size,), generator=generator)
        return lengths, first, second + (second >= first)  # the second is one of those not yet marked

    def _positions_arjovsky(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        half = self.length // 2
        first = torch.randint(half, (batch_size,), generator=generator)
        second = torch.randint(half, self.length, (batch_size,), generator=generator)
        return torch.full((batch_size,), self.length), first, second

    def _positions_pascanu(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        # One length for the whole batch, as in the authors' code.
        length = int(torch.randint(self.length, self.length + self.length // 10, (1,), generator=generator))
        first = torch.randint(length // 10, (batch_size,), generator=generator)
        second = torch.randint(length // 10, length // 2, (batch_size,), generator=generator)
        return torch.full((batch_size,), length), first, second

    @property
    def _unmarked(self) -> int:
        """1997: the second mark falls on one of the first T/2 - 1 pairs that are still unmarked."""
        return self.length // 2 - 1

    @property
    def _first_step_marked(self) -> float:
        """1997: the probability that one of the two marks falls on the first step."""
        return 1 / 10 + (9 / 10) / self._unmarked

    def correct(self, outputs: Tensor, batch: SyntheticBatch) -> Tensor:
        """1997 (and 2016, which publishes no measure): error below 0.04; 2013: squared error below 0.04."""
        error = self.error(outputs, batch)
        return error**2 < 0.04 if self.variant == "pascanu" else error < 0.04


@dataclass(frozen=True)
class AddingProblem(_MarkedNumbers):
    """The sum of two marked numbers, at the end of the sequence.

    Parameters
    ----------
    length
        T; in the variants ``hochreiter`` and ``pascanu`` sequences are up to a tenth longer.
    variant
        ``"hochreiter"`` (1997, experiment 4): numbers in [-1, 1]; one of the first ten is marked, then one of the first
        T/2 - 1 others; the first and last step have -1 in place of a mark, and a number marked at the first step counts
        0; the target is 0.5 + (X₁ + X₂) / 4.
        ``"pascanu"`` (2013): numbers in [0, 1], a mark in the first tenth and one between L/10 and L/2; the target is
        their mean.
        ``"arjovsky"`` (2016): numbers in [0, 1], a mark in each half; the target is their sum.
    """

    span: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    variants: ClassVar[tuple[str, ...]] = ("hochreiter", "pascanu", "arjovsky")

    def _target(self, first: Tensor, second: Tensor) -> Tensor:
        if self.variant == "hochreiter":
            return 0.5 + (first + second) / 4
        return (first + second) / 2 if self.variant == "pascanu" else first + second

    @property
    def chance(self) -> Level:
        """The variance of the target: the mean is the best constant. 1/6 for arjovsky, 1/24 for pascanu."""
        if self.variant == "hochreiter":  # var X = 1/3 for each number that is not set to 0
            return Level((2 - self._first_step_marked) / 3 / 16)
        return Level(1 / 24 if self.variant == "pascanu" else 1 / 6)

    @property
    def criterion(self) -> Criterion:
        """All of the last 2000 right, mean error below 0.01 (1997); under 1 % of 10,000 wrong (2013; none in 2016)."""
        if self.variant == "hochreiter":
            words = "all of the last 2000 sequences with an absolute error below 0.04, and below 0.01 on average"
            return Criterion(2000, 0, words, mean_error=0.01)
        return Criterion(10_000, 99, "fewer than 1 % of 10,000 new sequences wrong")


@dataclass(frozen=True)
class MultiplicationProblem(_MarkedNumbers):
    """The product of two marked numbers, at the end of the sequence.

    Parameters
    ----------
    length
        T; sequences are up to a tenth longer.
    variant
        ``"hochreiter"`` (1997, experiment 5): as the adding problem of 1997 with numbers in [0, 1]; a number marked at
        the first step counts 1. ``"pascanu"`` (2013): as its adding problem.
    """

    neutral: ClassVar[float] = 1.0
    variants: ClassVar[tuple[str, ...]] = ("hochreiter", "pascanu")

    def _target(self, first: Tensor, second: Tensor) -> Tensor:
        return first * second

    @property
    def chance(self) -> Level:
        """The variance of the target; of a product of two uniform numbers 1/9 - 1/16."""
        # How often one factor is the neutral 1, so that the product is a single number.
        single = self._first_step_marked if self.variant == "hochreiter" else 0.0
        mean = single / 2 + (1 - single) / 4
        return Level(single / 3 + (1 - single) / 9 - mean**2)

    @property
    def criterion(self) -> Criterion:
        """At most 12 of the last 2000 wrong (1997, the stricter of its two); under 1 % of 10,000 wrong (2013)."""
        if self.variant == "hochreiter":
            return Criterion(2000, 12, "fewer than 13 of the last 2000 sequences with an error of 0.04 or more")
        return Criterion(10_000, 99, "fewer than 1 % of 10,000 new sequences wrong")
