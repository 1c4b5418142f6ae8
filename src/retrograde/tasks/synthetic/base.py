"""What the synthetic tasks share: batches, levels, criteria, and their base class."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import OptionError
from ..task import Batch


@dataclass(frozen=True)
class SyntheticBatch(Batch):
    """Sequences side by side, padded with zeros to the longest.

    Attributes
    ----------
    inputs
        ``(T, B, I)``, float32.
    targets
        ``(B,)`` if only the last step is scored, else ``(T, B)``: float32 values or int64 classes.
    mask
        ``(T, B)``, bool: the steps whose output is scored.
    lengths
        ``(B,)``, int64: the steps of each sequence.
    clean
        The targets without their noise, if they have some.
    """

    mask: Tensor
    lengths: Tensor
    clean: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of outputs that are scored."""
        return int(self.mask.sum())


class Level(NamedTuple):
    """How good a strategy is: mean loss per scored output, and the share of right classes (None for values).

    The loss is the squared error for values and the cross-entropy in nats for classes.
    """

    loss: float
    accuracy: float | None = None


class Criterion(NamedTuple):
    """When a paper calls the task solved: how many of how many sequences may be wrong, with what mean error."""

    sequences: int
    wrong: int
    words: str
    mean_error: float | None = None

    def met(self, correct: Sequence[bool] | Tensor, errors: Sequence[float] | Tensor = ()) -> bool:
        """Whether the newest outcomes and absolute errors (one per sequence, oldest first) meet the criterion.

        The errors are needed only if ``mean_error`` is a number.
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
    """Base class of the synthetic tasks.

    A task states what is published about it; where it states nothing, the answer is one of two classes at the last
    step, all classes are equally likely, and the target is a function of the input.

    Attributes
    ----------
    length : int
        T of the paper.
    seed : int
        Fixes the stream of batches.
    many_to_one : bool
        Whether only the last step is scored.
    shortest : int
        The smallest length.
    variants : tuple of str
        Values of the field ``variant``.
    least : dict
        The smallest values of further fields.
    variances : tuple of str
        Fields that are variances: numbers of 0 or more.
    sizes : tuple of int
        Channels of input and output, unless they depend on the fields.
    """

    length: int = 100
    seed: int = 0

    many_to_one: ClassVar[bool] = True
    shortest: ClassVar[int] = 1
    variants: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[Mapping[str, int]] = {}
    variances: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[tuple[int, int]] = (1, 2)

    def __post_init__(self) -> None:
        name = type(self).__name__
        for option, least in {"length": self.shortest, **self.least}.items():
            if getattr(self, option) < least:
                raise OptionError(f"{name}: {option} is {getattr(self, option)}; it must be at least {least}.")
        for option in self.variances:
            if not 0 <= getattr(self, option) < math.inf:
                raise OptionError(f"{name}: {option} is {getattr(self, option)}; a variance must be 0 or more.")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"{name}: seed is {self.seed}; it must be a whole number, 0 or more and below 2**63.")
        variant = getattr(self, "variant", None)
        if self.variants and variant not in self.variants:
            raise OptionError(f"{name}: no variant {variant!r}; choose one of {', '.join(self.variants)}.")

    @property
    def kind(self) -> Literal["values", "classes"]:
        """What is predicted."""
        return "classes"

    @property
    def input_size(self) -> int:
        """Channels of the input."""
        return self.sizes[0]

    @property
    def output_size(self) -> int:
        """Channels of the output: 1 for a value, one logit per class for classes."""
        return self.sizes[1]

    @property
    @abstractmethod
    def lags(self) -> tuple[int, int]:
        """Fewest and most steps between an input that matters and the output that needs it."""

    @property
    def chance(self) -> Level:
        """The best that a strategy reaches which does not look at the input."""
        return Level(math.log(self.output_size), 1 / self.output_size)

    @property
    def optimum(self) -> Level:
        """The best that any strategy reaches."""
        return Level(0.0, 1.0) if self.kind == "classes" else Level(0.0)

    @property
    @abstractmethod
    def criterion(self) -> Criterion:
        """When the paper calls the task solved."""

    @abstractmethod
    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> SyntheticBatch:
        """Draw sequences. The same generator state gives the same batch; None: a new generator with the task's seed."""

    def correct(self, outputs: Tensor, batch: SyntheticBatch) -> Tensor:
        """Which sequences are solved by the paper's measure, ``(B,)`` bool; here: the most likely class is right.

        ``outputs`` as in `loss`.
        """
        return self._scored(outputs, batch).argmax(-1) == batch.targets

    def error(self, outputs: Tensor, batch: SyntheticBatch) -> Tensor:
        """Largest absolute error of each sequence, ``(B,)``: of values, or of class probabilities from 0 and 1.

        If targets have noise, the error is measured from the target without it.
        """
        outputs = self._scored(outputs, batch)
        if self.kind == "values":
            return (outputs.squeeze(-1) - (batch.targets if batch.clean is None else batch.clean)).abs()
        wanted = F.one_hot(batch.targets, outputs.shape[-1])
        missed = (outputs.softmax(-1) - wanted).abs().amax(-1)
        return missed if self.many_to_one else missed.where(batch.mask, missed.new_zeros(())).amax(0)

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[SyntheticBatch]:
        """Endless batches; without a generator, the seed of the task fixes the stream."""
        generator = self._generator(generator)
        while True:
            yield self.batch(batch_size, generator)

    def loss(self, outputs: Tensor, batch: SyntheticBatch) -> Tensor:
        """Loss of every scored output, 0 at the others.

        Parameters
        ----------
        outputs
            ``(T, B, output_size)``, the outputs of the network at every step; for a task that scores only the last
            step, ``(B, output_size)`` is enough.

        Returns
        -------
        Tensor
            ``(B,)`` if only the last step is scored, else ``(T, B)``. Divide its sum by ``batch.mask.sum()``.
        """
        outputs = self._scored(outputs, batch)
        if self.kind == "values":
            return (outputs.squeeze(-1) - batch.targets) ** 2
        losses = F.cross_entropy(outputs.flatten(0, -2), batch.targets.flatten(), reduction="none")
        losses = losses.view_as(batch.targets)
        return losses if self.many_to_one else losses.where(batch.mask, losses.new_zeros(()))

    def _scored(self, outputs: Tensor, batch: SyntheticBatch) -> Tensor:
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


def at_last_step(inputs: Tensor, targets: Tensor, lengths: Tensor) -> SyntheticBatch:
    """A batch that is scored at the last step of each sequence; the steps after it are set to 0."""
    step = torch.arange(inputs.shape[0])[:, None]
    if int(lengths.min()) < len(inputs):
        inputs = inputs * (step < lengths)[:, :, None]
    return SyntheticBatch(inputs, targets, step == lengths - 1, lengths)


def one_hot(symbols: Tensor, classes: int) -> Tensor:
    """As `F.one_hot`, in float32 and several times as fast."""
    return torch.zeros(*symbols.shape, classes).scatter_(-1, symbols[..., None], 1.0)


def up_to_a_tenth_longer(length: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Lengths drawn uniformly from T, …, T + T/10 (Hochreiter and Schmidhuber 1997)."""
    return torch.randint(length, length + length // 10 + 1, (batch_size,), generator=generator)
