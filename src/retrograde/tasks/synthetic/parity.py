"""Parity: is the number of ones odd?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import OptionError
from .base import Criterion, SyntheticBatch, SyntheticTask, at_last_step


@dataclass(frozen=True)
class Parity(SyntheticTask):
    """Is the number of 1s odd? Inputs are 1 or -1, the class comes at the end: Bengio, Simard, Frasconi (1994).

    Parameters
    ----------
    length
        T, the longest sequence; lengths are uniform from T/2 to T.
    noise
        Largest uniform noise on the inputs; 0 and 0.2 in the paper. Below 1, so that each input stays recognizable.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < 1:
            raise OptionError(f"Parity: noise is {self.noise}; it must be at least 0 and below 1.")

    @property
    def lags(self) -> tuple[int, int]:
        """Every step matters, up to the last."""
        return 0, self.length - 1

    @property
    def criterion(self) -> Criterion:
        """The paper reports the share of wrong classes; it is solved if there is none."""
        return Criterion(1000, 0, "none of 1000 new sequences wrong")

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> SyntheticBatch:
        """Draw sequences."""
        generator = self._generator(generator)
        lengths = torch.randint(max(self.length // 2, 1), self.length + 1, (batch_size,), generator=generator)
        steps = int(lengths.max())
        ones = torch.randint(2, (steps, batch_size), generator=generator)
        spread = (torch.rand(steps, batch_size, generator=generator) * 2 - 1) * self.noise
        classes = (ones * (torch.arange(steps)[:, None] < lengths)).sum(0) % 2
        return at_last_step((2 * ones - 1 + spread)[:, :, None], classes, lengths)
