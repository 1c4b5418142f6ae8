"""What the synthetic tasks share: batches, levels, criteria, and the class they are all of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import OptionError
from ..task import Batch as _Batch

__all__ = [
    "Batch",
    "Criterion",
    "Level",
    "SyntheticTask",
    "at_last_step",
    "check_variances",
    "one_hot",
    "up_to_a_tenth_longer",
]


@dataclass(frozen=True)
class Batch(_Batch):
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

    mask: Tensor
    lengths: Tensor
    clean: Tensor | None = None

    @property
    def size(self) -> int:
        """How many outputs are scored."""
        return int(self.mask.sum())


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


def at_last_step(inputs: Tensor, targets: Tensor, lengths: Tensor) -> Batch:
    """A batch that is scored at the last step of each sequence; what comes after it is wiped."""
    step = torch.arange(inputs.shape[0])[:, None]
    if int(lengths.min()) < len(inputs):
        inputs = inputs * (step < lengths)[:, :, None]
    return Batch(inputs, targets, step == lengths - 1, lengths)


def one_hot(symbols: Tensor, classes: int) -> Tensor:
    """As `F.one_hot`, in float32 and several times as fast."""
    return torch.zeros(*symbols.shape, classes).scatter_(-1, symbols[..., None], 1.0)


def up_to_a_tenth_longer(length: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Lengths drawn uniformly from T, …, T + T/10 (Hochreiter and Schmidhuber 1997)."""
    return torch.randint(length, length + length // 10 + 1, (batch_size,), generator=generator)


def check_variances(task: SyntheticTask, *names: str) -> None:
    """Refuse fields of a task that are no variances."""
    for name in names:
        if not 0 <= getattr(task, name) < math.inf:
            raise OptionError(f"{type(task).__name__}: {name} is {getattr(task, name)}; a variance must be 0 or more.")
