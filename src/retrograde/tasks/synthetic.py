"""Synthetic tasks of known lag, as their papers define them.

A recurrent network solves one of these only if its gradient reaches back over the lag, which is known beforehand.
So is how well it does by chance (the best answer that does not look at the input) and at the optimum.

>>> import torch
>>> task = AddingProblem(length=50, variant="arjovsky")
>>> batch = task.batch(4, torch.Generator().manual_seed(0))
>>> batch.inputs.shape, batch.targets.shape
(torch.Size([50, 4, 2]), torch.Size([4]))
>>> round(task.chance.loss, 3), task.optimum.loss
(0.167, 0.0)

Sources
-------
Bengio, Simard, Frasconi (1994), Learning long-term dependencies with gradient descent is difficult.
Hochreiter, Schmidhuber (1997), Long short-term memory.
Miller, Erickson, Desimone (1996), Neural mechanisms of visual working memory in prefrontal cortex of the macaque.
Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural networks.
Arjovsky, Shah, Bengio (2016), Unitary evolution recurrent neural networks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError

__all__ = [
    "SYNTHETIC",
    "AddingProblem",
    "Batch",
    "CopyMemory",
    "Criterion",
    "DelayedMatchToSample",
    "Latch",
    "Level",
    "MultiplicationProblem",
    "Parity",
    "SyntheticTask",
    "TemporalOrder",
    "synthetic",
]


class Batch(NamedTuple):
    """Sequences side by side, padded with zeros to the longest.

    Attributes
    ----------
    inputs
        ``(T, B, I)``, float32.
    targets
        ``(B,)`` where only the last step is scored, else ``(T, B)``: float32 values or int64 classes.
    mask
        ``(T, B)``, bool: the steps whose output is scored.
    lengths
        ``(B,)``, int64: the steps of each sequence.
    clean
        The targets without their noise, where they have some.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    lengths: Tensor
    clean: Tensor | None = None


class Level(NamedTuple):
    """How well a strategy does: mean loss per scored output, and the share of classes it gets right (None for values).

    The loss is the squared error for values and the cross-entropy in nats for classes.
    """

    loss: float
    accuracy: float | None = None


class Criterion(NamedTuple):
    """When a paper calls the task solved: of so many sequences at most so many wrong, mean error below a bound."""

    sequences: int
    wrong: int
    words: str
    mean_error: float | None = None

    def met(self, correct: Sequence[bool] | Tensor, errors: Sequence[float] | Tensor = ()) -> bool:
        """Whether the newest outcomes and absolute errors (one a sequence, oldest first) meet the criterion.

        The errors are asked for where ``mean_error`` is a number.
        """
        outcomes = torch.as_tensor(correct, dtype=torch.bool)[-self.sequences :]
        if len(outcomes) < self.sequences or int((~outcomes).sum()) > self.wrong:
            return False
        if self.mean_error is None:
            return True
        newest = torch.as_tensor(errors, dtype=torch.float64)[-self.sequences :]
        return len(newest) == self.sequences and float(newest.mean()) < self.mean_error


@dataclass(frozen=True)
class SyntheticTask(ABC):
    """What every synthetic task has: ``length``, T of the paper, and ``seed``, which fixes the stream of batches."""

    length: int = 100
    seed: int = 0

    many_to_one: ClassVar[bool] = True
    shortest: ClassVar[int] = 1
    variants: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.length < self.shortest:
            raise OptionError(f"{name}: length is {self.length}; it must be at least {self.shortest}.")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"{name}: seed is {self.seed}; it must be a whole number, 0 or more and below 2**63.")
        variant = getattr(self, "variant", None)
        if self.variants and variant not in self.variants:
            raise OptionError(f"{name}: no variant {variant!r}; choose one of {', '.join(self.variants)}.")

    @property
    def kind(self) -> Literal["values", "classes"]:
        """What is put out."""
        return "classes"

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Channels of the input."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Channels that the network must put out: 1 for a value, one logit a class for classes."""

    @property
    @abstractmethod
    def lags(self) -> tuple[int, int]:
        """Fewest and most steps between an input that matters and the output that needs it."""

    @property
    @abstractmethod
    def chance(self) -> Level:
        """What the best strategy reaches that does not look at the input."""

    @property
    @abstractmethod
    def optimum(self) -> Level:
        """What no strategy can better."""

    @property
    @abstractmethod
    def criterion(self) -> Criterion:
        """When the paper calls the task solved."""

    @abstractmethod
    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """Draw sequences. The same generator state gives the same batch; None stands for a new one seeded with seed."""

    @abstractmethod
    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Which sequences count as solved by the paper's measure: ``(B,)``, bool. ``outputs`` as in `loss`."""

    def error(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Largest absolute error of each sequence, ``(B,)``: of values, or of class probabilities from 0 and 1.

        Where targets have noise, the error is that from the target without it.
        """
        outputs = self._scored(outputs, batch)
        if self.kind == "values":
            return (outputs.squeeze(-1) - (batch.targets if batch.clean is None else batch.clean)).abs()
        wanted = F.one_hot(batch.targets, outputs.shape[-1])
        missed = (outputs.softmax(-1) - wanted).abs().amax(-1)
        return missed if self.many_to_one else missed.where(batch.mask, missed.new_zeros(())).amax(0)

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Batches without end; the seed of the task fixes the stream where no generator is given."""
        generator = self._generator(generator)
        while True:
            yield self.batch(batch_size, generator)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Loss of every scored output, 0 at the others.

        Parameters
        ----------
        outputs
            ``(T, B, output_size)``, what the network put out at every step; for a task that scores only the last step,
            ``(B, output_size)`` will do.

        Returns
        -------
        Tensor
            ``(B,)`` where only the last step is scored, else ``(T, B)``. Divide its sum by ``batch.mask.sum()``.
        """
        outputs = self._scored(outputs, batch)
        if self.kind == "values":
            return (outputs.squeeze(-1) - batch.targets) ** 2
        losses = F.cross_entropy(outputs.flatten(0, -2), batch.targets.flatten(), reduction="none")
        losses = losses.view_as(batch.targets)
        return losses if self.many_to_one else losses.where(batch.mask, losses.new_zeros(()))

    def _scored(self, outputs: Tensor, batch: Batch) -> Tensor:
        steps, batch_size = batch.mask.shape
        allowed: list[tuple[int, ...]] = [(steps, batch_size, self.output_size)]
        if self.many_to_one:
            allowed.append((batch_size, self.output_size))
        if tuple(outputs.shape) not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise OptionError(
                f"{type(self).__name__}: outputs are {tuple(outputs.shape)}; their shape must be {wanted}."
            )
        if not self.many_to_one or outputs.dim() == 2:
            return outputs
        return outputs[batch.lengths - 1, torch.arange(batch_size, device=outputs.device)]

    def _generator(self, generator: torch.Generator | None) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed) if generator is None else generator


def _at_last_step(inputs: Tensor, targets: Tensor, lengths: Tensor) -> Batch:
    """A batch that is scored at the last step of each sequence; what comes after it is wiped."""
    step = torch.arange(inputs.shape[0])[:, None]
    if int(lengths.min()) < len(inputs):
        inputs = inputs * (step < lengths)[:, :, None]
    return Batch(inputs, targets, step == lengths - 1, lengths)


def _one_hot(symbols: Tensor, classes: int) -> Tensor:
    """As `F.one_hot`, in float32 and several times as fast."""
    return torch.zeros(*symbols.shape, classes).scatter_(-1, symbols[..., None], 1.0)


def _up_to_a_tenth_longer(length: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Lengths drawn uniformly from T, …, T + T/10 (Hochreiter and Schmidhuber 1997)."""
    return torch.randint(length, length + length // 10 + 1, (batch_size,), generator=generator)


# -- values --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _MarkedNumbers(SyntheticTask):
    """Numbers, two of them marked: what adding and multiplication share. Channel 0 the number, channel 1 the mark."""

    variant: str = "hochreiter"

    shortest: ClassVar[int] = 20
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)  # of the numbers in the 1997 form
    neutral: ClassVar[float] = 0.0  # 1997: what the number at the first step counts as

    @property
    def kind(self) -> Literal["values", "classes"]:
        """A sum or a product."""
        return "values"

    @property
    def input_size(self) -> int:
        """The number and its mark."""
        return 2

    @property
    def output_size(self) -> int:
        """One value."""
        return 1

    @property
    def optimum(self) -> Level:
        """The target is a function of the input."""
        return Level(0.0)

    @property
    def lags(self) -> tuple[int, int]:
        """From the last step that can be marked to the nearest end; from the first to the farthest."""
        longest = self.length + self.length // 10
        if self.variant == "arjovsky":
            return 0, self.length - 1
        if self.variant == "pascanu":  # length L in [T, 11T/10), marks in [0, L/10) and [L/10, L/2)
            longest -= 1
        return self.length - self.length // 2, longest - 1

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """Draw sequences."""
        generator = self._generator(generator)
        draw = getattr(self, f"_positions_{self.variant}")
        lengths, first, second = draw(batch_size, generator)
        low, high = self.span if self.variant == "hochreiter" else (0.0, 1.0)
        column = torch.arange(batch_size)
        numbers = torch.rand(int(lengths.max()), batch_size, generator=generator) * (high - low) + low
        marks = torch.zeros_like(numbers)
        if self.variant == "hochreiter":
            # Both ends bear -1 in place of a mark, so a number marked at the first step counts as neutral.
            numbers[0] = torch.where((first == 0) | (second == 0), torch.tensor(self.neutral), numbers[0])
        marks[first, column] = marks[second, column] = 1.0
        if self.variant == "hochreiter":
            marks[0] = marks[lengths - 1, column] = -1.0
        targets = self._target(numbers[first, column], numbers[second, column])
        return _at_last_step(torch.stack([numbers, marks], dim=-1), targets, lengths)

    @abstractmethod
    def _target(self, first: Tensor, second: Tensor) -> Tensor: ...

    def _positions_hochreiter(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        lengths = _up_to_a_tenth_longer(self.length, batch_size, generator)
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

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """1997 (and here, for want of a published measure, 2016): error below 0.04; 2013: squared error below 0.04."""
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
        T/2 - 1 others; the first and last step bear -1 in place of a mark, and a number marked at the first step counts
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


# -- classes -------------------------------------------------------------------------------------------------------


def _check_variances(task: SyntheticTask, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(task, name) < math.inf:
            raise OptionError(f"{type(task).__name__}: {name} is {getattr(task, name)}; a variance must be 0 or more.")


@dataclass(frozen=True)
class TemporalOrder(SyntheticTask):
    """In which order did the rare symbols X and Y come? A class at the end of the sequence.

    Parameters
    ----------
    length
        T. The published tasks have T = 100; the positions of the rare symbols scale with it.
    symbols
        How many rare symbols there are: 2 (classes XX, XY, YX, YY) or 3 (8 classes).
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
        return [
            (self.length * a // 100 - 1, self.length * b // 100 - 1) for a, b in hundredths
        ]  # the paper's first is 1

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
    def chance(self) -> Level:
        """All classes are equally likely."""
        return Level(math.log(self.output_size), 1 / self.output_size)

    @property
    def optimum(self) -> Level:
        """The class is a function of the input."""
        return Level(0.0, 1.0)

    @property
    def criterion(self) -> Criterion:
        """All of the last 2000 right, mean error below 0.1 (1997); under 1 % of 10,000 wrong (2013)."""
        if self.variant == "hochreiter":
            words = "all of the last 2000 sequences with every output within 0.3 of its target, and 0.1 on average"
            return Criterion(2000, 0, words, mean_error=0.1)
        return Criterion(10_000, 99, "fewer than 1 % of 10,000 new sequences wrong")

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """Draw sequences."""
        generator = self._generator(generator)
        column = torch.arange(batch_size)
        classic = self.variant == "hochreiter"
        lengths = torch.full((batch_size,), self.length)
        if classic:
            lengths = _up_to_a_tenth_longer(self.length, batch_size, generator)
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
        return _at_last_step(_one_hot(symbol, self.input_size), classes, lengths)

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """1997: every output within 0.3 of its target; 2013: the most likely class is the right one."""
        if self.variant == "hochreiter":
            return self.error(outputs, batch) < 0.3
        return self._scored(outputs, batch).argmax(-1) == batch.targets


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
        Different symbols, 8 in the paper. Channel ``symbols`` is the blank, the one after it the delimiter.
    items
        How many are to be remembered, 10 in the paper.
    """

    symbols: int = 8
    items: int = 10

    many_to_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("symbols", 2), ("items", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"CopyMemory: {name} is {getattr(self, name)}; it must be at least {least}.")

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
        """As many as the input; the delimiter is never right."""
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
    def optimum(self) -> Level:
        """The output is a function of the input."""
        return Level(0.0, 1.0)

    @property
    def criterion(self) -> Criterion:
        """The paper shows loss curves and states no criterion; ours asks for every symbol."""
        return Criterion(1000, 9, "fewer than 1 % of 1000 new sequences with a symbol wrong")

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """Draw sequences."""
        generator = self._generator(generator)
        items = torch.randint(self.symbols, (self.items, batch_size), generator=generator)
        shown = torch.full((self.steps, batch_size), self.symbols)
        targets = shown.clone()
        shown[: self.items] = targets[-self.items :] = items
        shown[self.items + self.length - 1] = self.symbols + 1
        lengths = torch.full((batch_size,), self.steps)
        mask = torch.ones_like(shown, dtype=torch.bool)
        return Batch(_one_hot(shown, self.input_size), targets, mask, lengths)

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Whether all of the remembered symbols are right."""
        recalled = self._scored(outputs, batch)[-self.items :].argmax(-1)
        return (recalled == batch.targets[-self.items :]).all(0)


@dataclass(frozen=True)
class Latch(SyntheticTask):
    """Keep one bit: the first steps say which of two classes, the rest is noise on the same line.

    The two-sequence problem of Bengio, Simard, Frasconi (1994), as Hochreiter and Schmidhuber (1997, experiment 3)
    set it: lengths between T and T + T/10; the first ``informative`` inputs are 1 for class 1 and -1 for class 0, the
    others Gaussian of mean 0 and variance ``noise``.

    Parameters
    ----------
    length
        T.
    informative
        N, inputs that tell the class; 1 and 3 in the paper.
    noise
        Variance of the inputs after those.
    signal_noise
        Variance of noise on the informative inputs themselves: 0 in experiments 3a and 3c, 0.2 in 3b.
    target_noise
        Variance of noise on the targets, 0.1 in experiment 3c. With it the targets are values, 0.8 for class 0 and 0.2
        for class 1, and what is to be learnt is their expectation.
    """

    informative: int = 1
    noise: float = 0.2
    signal_noise: float = 0.0
    target_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.informative <= self.length:
            raise OptionError(f"Latch: informative is {self.informative}; it must be from 1 to length, {self.length}.")
        _check_variances(self, "noise", "signal_noise", "target_noise")

    @property
    def kind(self) -> Literal["values", "classes"]:
        """Two classes; a value where the targets have noise."""
        return "values" if self.target_noise else "classes"

    @property
    def input_size(self) -> int:
        """One line for signal and noise."""
        return 1

    @property
    def output_size(self) -> int:
        """A value, or a logit for each of two classes."""
        return 1 if self.target_noise else 2

    @property
    def lags(self) -> tuple[int, int]:
        """From the last informative step to the end of the shortest; from the first to the end of the longest."""
        return self.length - self.informative, self.length + self.length // 10 - 1

    @property
    def chance(self) -> Level:
        """The classes are equally likely; of noisy values the mean, 0.5, is the best constant."""
        return Level(0.3**2 + self.target_noise) if self.target_noise else Level(math.log(2), 0.5)

    @property
    def optimum(self) -> Level:
        """What the ideal observer of the informative inputs reaches; without any noise, 0."""
        if self.signal_noise == 0:
            return Level(self.target_noise) if self.target_noise else Level(0.0, 1.0)
        # The observer's log-odds, ℓ = 2·Σx/σ², are normal with mean m = 2N/σ² and variance 2m for class 1.
        mean = 2 * self.informative / self.signal_noise
        nodes, weights = np.polynomial.hermite_e.hermegauss(180)
        odds, weights = mean + math.sqrt(2 * mean) * nodes, weights / weights.sum()
        if self.target_noise:
            # By symmetry class 1 stands for both: 0.2 against the expectation 0.8 - 0.6 σ(ℓ).
            missed = 0.6 * np.exp(-np.logaddexp(0.0, odds))
            return Level(float(weights @ missed**2) + self.target_noise)
        loss = float(weights @ np.logaddexp(0.0, -odds))  # E[-log σ(ℓ)]
        return Level(loss, 0.5 * math.erfc(-math.sqrt(self.informative / self.signal_noise / 2)))

    @property
    def criterion(self) -> Criterion:
        """None of 256 sequences wrong and the mean error below 0.01 (3a) or 0.015 (3c); fewer than 6 and 0.04 (3b).

        The second and stricter of the paper's two, ST2.
        """
        within = "0.1 of the target without its noise" if self.target_noise else "0.2 of the target"
        if self.signal_noise:
            return Criterion(256, 5, f"all but 5 of 256 sequences within {within}, and 0.04 on average", 0.04)
        mean = 0.015 if self.target_noise else 0.01
        return Criterion(256, 0, f"all of 256 sequences within {within}, and {mean} on average", mean)

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """Draw sequences."""
        generator = self._generator(generator)
        lengths = _up_to_a_tenth_longer(self.length, batch_size, generator)
        classes = torch.randint(2, (batch_size,), generator=generator)
        line = torch.randn(int(lengths.max()), batch_size, generator=generator)
        signal, rest = line[: self.informative], line[self.informative :]
        signal.mul_(math.sqrt(self.signal_noise)).add_(2 * classes - 1)
        rest.mul_(math.sqrt(self.noise))
        drawn = _at_last_step(line[:, :, None], classes, lengths)
        if not self.target_noise:
            return drawn
        clean = 0.8 - 0.6 * classes
        spread = torch.randn(batch_size, generator=generator) * math.sqrt(self.target_noise)
        return drawn._replace(targets=clean + spread, clean=clean)

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Whether the output is within 0.2 of the right class (3a, 3b), or 0.1 of the target without noise (3c)."""
        return self.error(outputs, batch) < (0.1 if self.target_noise else 0.2)


@dataclass(frozen=True)
class Parity(SyntheticTask):
    """Is the number of 1s odd? Inputs are 1 or -1, the class comes at the end: Bengio, Simard, Frasconi (1994).

    Parameters
    ----------
    length
        T, the longest sequence; lengths are uniform from T/2 to T.
    noise
        Inputs are spread uniformly by up to this much to either side; 0 and 0.2 in the paper. Below 1, so that no input
        can be mistaken.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < 1:
            raise OptionError(f"Parity: noise is {self.noise}; it must be at least 0 and below 1.")

    @property
    def input_size(self) -> int:
        """One line."""
        return 1

    @property
    def output_size(self) -> int:
        """Even and odd."""
        return 2

    @property
    def lags(self) -> tuple[int, int]:
        """Every step counts, to the very end."""
        return 0, self.length - 1

    @property
    def chance(self) -> Level:
        """Either class is equally likely; so it stays to whoever misses a single step."""
        return Level(math.log(2), 0.5)

    @property
    def optimum(self) -> Level:
        """The class is a function of the input."""
        return Level(0.0, 1.0)

    @property
    def criterion(self) -> Criterion:
        """The paper reports the share of wrong classes; it is solved where none is."""
        return Criterion(1000, 0, "none of 1000 new sequences wrong")

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """Draw sequences."""
        generator = self._generator(generator)
        lengths = torch.randint(max(self.length // 2, 1), self.length + 1, (batch_size,), generator=generator)
        steps = int(lengths.max())
        ones = torch.randint(2, (steps, batch_size), generator=generator)
        spread = (torch.rand(steps, batch_size, generator=generator) * 2 - 1) * self.noise
        classes = (ones * (torch.arange(steps)[:, None] < lengths)).sum(0) % 2
        return _at_last_step((2 * ones - 1 + spread)[:, :, None], classes, lengths)

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Whether the more likely class is the right one."""
        return self._scored(outputs, batch).argmax(-1) == batch.targets


@dataclass(frozen=True)
class DelayedMatchToSample(SyntheticTask):
    """A sample is shown, a delay passes, a test is shown: was it the same? Miller, Erickson, Desimone (1996).

    One trial is ``fixation`` steps, the sample for ``presentation`` steps, ``length`` steps of delay, the test for
    ``presentation`` steps, then ``decision`` steps, the only ones scored. Channel 0 is 1 until the decision (keep
    fixating), the others stand for one stimulus each. The defaults are the usual timing in steps of 100 ms.

    Parameters
    ----------
    length
        Steps of delay between sample and test.
    stimuli
        How many different ones there are. Half of the trials match; the others differ at random.
    fixation, presentation, decision
        Steps of those periods.
    noise
        Variance of Gaussian noise on the lines of the stimuli, at every step.
    """

    length: int = 10
    stimuli: int = 2
    fixation: int = 3
    presentation: int = 5
    decision: int = 9
    noise: float = 0.0

    many_to_one: ClassVar[bool] = False
    shortest: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("stimuli", 2), ("fixation", 0), ("presentation", 1), ("decision", 1)):
            if getattr(self, name) < least:
                raise OptionError(
                    f"{type(self).__name__}: {name} is {getattr(self, name)}; at least {least} is needed."
                )
        _check_variances(self, "noise")

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return self.fixation + 2 * self.presentation + self.length + self.decision

    @property
    def input_size(self) -> int:
        """The fixation signal and one channel a stimulus."""
        return 1 + self.stimuli

    @property
    def output_size(self) -> int:
        """No match, and match."""
        return 2

    @property
    def lags(self) -> tuple[int, int]:
        """From the sample's last step to the first of the decision; from its first step to the last."""
        shortest = self.length + self.presentation + 1
        return shortest, shortest + self.presentation - 1 + self.decision - 1

    @property
    def chance(self) -> Level:
        """Half of the trials match."""
        return Level(math.log(2), 0.5)

    @property
    def optimum(self) -> Level:
        """The class is a function of the input; with noise, what the ideal observer of both stimuli reaches."""
        return _ideal_match(self.stimuli, self.presentation, self.noise) if self.noise else Level(0.0, 1.0)

    @property
    def criterion(self) -> Criterion:
        """Animals are trained to a share of right trials, not to perfection; we ask for 99 % of what can be right."""
        right = self.optimum.accuracy or 0.0
        wrong = math.ceil(1000 * (1 - 0.99 * right)) - 1
        return Criterion(1000, wrong, f"at most {wrong} of 1000 new trials with a wrong answer")

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """Draw trials."""
        generator = self._generator(generator)
        sample = torch.randint(self.stimuli, (batch_size,), generator=generator)
        match = torch.randint(2, (batch_size,), generator=generator)
        other = (sample + torch.randint(1, self.stimuli, (batch_size,), generator=generator)) % self.stimuli
        test = torch.where(match == 1, sample, other)
        inputs = torch.zeros(self.steps, batch_size, self.input_size)
        inputs[: -self.decision, :, 0] = 1.0
        second = self.fixation + self.presentation + self.length
        for start, stimulus in ((self.fixation, sample), (second, test)):
            inputs[start : start + self.presentation, torch.arange(batch_size), 1 + stimulus] = 1.0
        if self.noise:
            inputs[..., 1:] += torch.randn(inputs[..., 1:].shape, generator=generator) * math.sqrt(self.noise)
        mask = torch.zeros(self.steps, batch_size, dtype=torch.bool)
        mask[-self.decision :] = True
        targets = match.expand(self.steps, batch_size) * mask
        return Batch(inputs, targets, mask, torch.full((batch_size,), self.steps))

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Whether the answer, the mean of the logits over the decision, is right."""
        answer = self._scored(outputs, batch)[-self.decision :].mean(0).argmax(-1)
        return answer == batch.targets[-1]


@cache
def _ideal_match(stimuli: int, presentation: int, noise: float) -> Level:
    """What the ideal observer of two noisy stimuli reaches, by 200,000 draws (to about 0.002)."""
    random, draws = np.random.default_rng(0), 200_000
    match = random.integers(2, size=draws)
    sample = random.integers(stimuli, size=draws)
    test = np.where(match == 1, sample, (sample + random.integers(1, stimuli, size=draws)) % stimuli)
    seen = []
    for shown in (sample, test):
        # The mean over the presentation is all there is to know of a stimulus; its likelihood, up to a factor:
        means = np.eye(stimuli)[shown] + random.normal(size=(draws, stimuli)) * math.sqrt(noise / presentation)
        odds = means * presentation / noise
        seen.append(np.exp(odds - odds.max(1, keepdims=True)))
    same = (seen[0] * seen[1]).sum(1)
    other = (seen[0].sum(1) * seen[1].sum(1) - same) / (stimuli - 1)
    right = np.where(match == 1, same, other) / (same + other)
    return Level(float(-np.log(np.maximum(right, 1e-300)).mean()), float((right > 0.5).mean()))


SYNTHETIC: Mapping[str, type[SyntheticTask]] = {
    "adding": AddingProblem,
    "copy-memory": CopyMemory,
    "delayed-match-to-sample": DelayedMatchToSample,
    "latch": Latch,
    "multiplication": MultiplicationProblem,
    "parity": Parity,
    "temporal-order": TemporalOrder,
}
"""The tasks by the names that ``builtin:`` takes."""


def synthetic(name: str, **options: object) -> SyntheticTask:
    """The task of that name. Options are its fields, as values or as the text a user typed.

    >>> synthetic("temporal-order", symbols="3", length=100).chance.accuracy
    0.125
    """
    if name not in SYNTHETIC:
        raise OptionError(f"No synthetic task {name!r}; there are {', '.join(SYNTHETIC)}.")
    types = {"int": int, "float": float, "str": str}
    known = {field.name: types[str(field.type)] for field in fields(SYNTHETIC[name])}
    values: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            raise OptionError(f"{name} has no option {option!r}; its options are {', '.join(sorted(known))}.")
        try:
            values[option] = known[option](value)
        except (TypeError, ValueError):
            raise OptionError(f"{name}: {option} is {value!r}; it must be {known[option].__name__}.") from None
    return SYNTHETIC[name](**values)
