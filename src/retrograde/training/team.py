"""The processes that train one model together: what each learns from, and what they tell one another.

Data parallel: every process has the same weights and makes the same batch, takes its share of the sequences, and
gradients are added up so that a step is the one a single process would take with the whole batch, to rounding. The
first process alone writes the run folder. Started by ``torchrun`` or ``accelerate launch``; one process is a team too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

__all__ = ["Share", "Team"]


class Share(NamedTuple):
    """What one process learns from.

    Attributes
    ----------
    batch
        Its part of the batch.
    weight : float
        What its mean loss is multiplied by, so that the mean over the processes is the mean over the whole batch. 0 for
        a process for which no sequence is left: it goes through another's, so that all of them meet.
    """

    batch: Any
    weight: float


class Team:
    """The processes of a job; collective calls must be made by all of them, in the same order."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.size, self.rank = int(accelerator.num_processes), int(accelerator.process_index)

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def share(self, batch: Any) -> Share:
        """The part of a batch that this process learns from: every ``size``-th sequence, from its rank on."""
        if self.size == 1:
            return Share(batch, 1.0)
        mine = batch.part(self.rank, self.size)
        if mine is None:
            return Share(batch.part(0, self.size), 0.0)
        return Share(mine, mine.weight * self.size / batch.weight)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over the processes."""
        if self.size == 1:
            return value
        return self.accelerator.reduce(value, reduction="mean")  # type: ignore[no-any-return]

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.size == 1:
            return value
        return self.accelerator.reduce(value, reduction="sum")  # type: ignore[no-any-return]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether any process says so."""
        if self.size == 1:
            return flags
        said = self.sum(torch.tensor(flags, dtype=torch.float32, device=self.accelerator.device))
        return tuple(bool(one > 0) for one in said)

    def most(self, value: int) -> int:
        """The largest of a whole number of every process."""
        return max(int(one) for one in self.collected(torch.tensor(value)))

    def collected(self, value: Tensor) -> list[Tensor]:
        """A tensor of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, value.cpu())
        return parts

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self.accelerator.wait_for_everyone()

    def gathered(self, state: Any) -> Any:
        """The carried state of the whole batch, ``(layers, B, H)``, from the parts of all processes."""
        if self.size == 1 or state is None:
            return state
        if isinstance(state, tuple):
            return tuple(self.gathered(part) for part in state)
        parts = self.collected(state)
        whole = state.new_empty((state.shape[0], sum(part.shape[1] for part in parts), *state.shape[2:]))
        for rank, part in enumerate(parts):
            whole[:, rank :: self.size] = part.to(whole.device)
        return whole

    def scattered(self, state: Any) -> Any:
        """The part of a gathered state that belongs to this process."""
        if self.size == 1 or state is None:
            return state
        if isinstance(state, tuple):
            return tuple(self.scattered(part) for part in state)
        return state[:, self.rank :: self.size].contiguous()
