"""Parity: is the number of ones odd?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import OptionError
from .base import Batch, Criterion, Level, SyntheticTask, at_last_step

__all__ = ["Parity"]


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
        return at_last_step((2 * ones - 1 + spread)[:, :, None], classes, lengths)

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Whether the more likely class is the right one."""
        return self._scored(outputs, batch).argmax(-1) == batch.targets
