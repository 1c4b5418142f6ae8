"""The processes that train one model together: how a batch is shared, and what they exchange.

Data parallel: every process has the same weights and makes the same batch, and trains on its share of the sequences.
Gradients are added up, so that a step is the one that a single process would take with the whole batch, to rounding.
Only the first process writes the run folder. Started by ``torchrun`` or ``accelerate launch``; a single process uses
the same class, whose methods then return their argument.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ..errors import RunError
from ..memory import shortage
from ..tasks.task import State


def map_state(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """A carried state with each of its tensors changed."""
    if isinstance(state, tuple):
        return tuple(change(part) for part in state)
    return None if state is None else change(state)


class Share(NamedTuple):
    """The part of a batch that one process trains on.

    The weight is the factor of its mean loss that makes the mean over the processes the mean over the whole batch. It
    is 0 for a process for which no sequence is left: it computes another's part, because all must take part in a step.
    """

    batch: Any
    weight: float


class DistributedContext:
    """Rank, size and collective operations of a job. All processes must call these, in the same order.

    Parameters
    ----------
    accelerator : Accelerator
    stall_minutes : float
        How long a process waits for the others; only used in messages.
    owns_group : bool
        Whether the process group was made for this training, so that `close` destroys it.
    """

    def __init__(self, accelerator: Accelerator, stall_minutes: float = 10.0, owns_group: bool = False) -> None:
        self.accelerator, self.stall_minutes, self.owns_group = accelerator, stall_minutes, owns_group
        self.size, self.rank = int(accelerator.num_processes), int(accelerator.process_index)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def share(self, batch: Any) -> Share:
        """The part of a batch that this process trains on: every ``size``-th sequence, starting at its rank."""
        if self.size == 1:
            return Share(batch, 1.0)
        mine = batch.part(self.rank, self.size)
        if mine is None:
            return Share(batch.part(0, self.size), 0.0)
        return Share(mine, mine.weight * self.size / batch.weight)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        return value if self.size == 1 else self.accelerator.reduce(value, reduction="mean")

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        return value if self.size == 1 else self.accelerator.reduce(value, reduction="sum")

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any process."""
        if self.size == 1:
            return flags
        counts = self.sum(torch.tensor(flags, dtype=torch.float32, device=self.accelerator.device))
        return tuple(bool(count > 0) for count in counts)

    def max(self, value: int) -> int:
        """The largest value of any process."""
        return max(int(one) for one in self.gather(torch.tensor(value)))

    def gather(self, value: Tensor) -> list[Tensor]:
        """A tensor of every process, ordered by rank."""
        if self.size == 1:
            return [value]
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, value.cpu())
        return parts

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Destroy the process group if it was made for this training. No collective operation may follow."""
        if self.owns_group and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def gather_state(self, state: State) -> State:
        """The carried state of the whole batch, ``(layers, B, H)``, from the parts of all processes."""
        return state if self.size == 1 else map_state(state, self._gather_sequences)

    def _gather_sequences(self, state: Tensor) -> Tensor:
        parts = self.gather(state)
        whole = state.new_empty((state.shape[0], sum(part.shape[1] for part in parts), *state.shape[2:]))
        for rank, part in enumerate(parts):
            whole[:, rank :: self.size] = part.to(whole.device)
        return whole

    def scatter_state(self, state: State) -> State:
        """The part of a gathered state that belongs to this process."""
        return map_state(state, lambda part: part[:, self.rank :: self.size].contiguous() if self.size > 1 else part)

    @contextmanager
    def explain_lost_processes(self, step: Callable[[], int]) -> Iterator[None]:
        """One line, with the training step, if collective operations fail because another process is gone or stalled.

        Rarely (5 of 1,400 processes killed, torch 2.13), gloo does not notice that a process is gone while it sends to
        it. It then waits for ``stall_minutes``, unless the launcher ends the job before.

        Raises RunError.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or shortage(error) is not None:
                raise
            words = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split())).split(". ")[0][:200]
            if "timed out" in words.lower() or "timeout" in words.lower():
                words = f"nothing was heard for {self.stall_minutes:g} minutes, --stall-minutes: {words}"
            raise RunError(
                f"process {self.rank} of {self.size} lost the others at step {step():,} ({words}); "
                "the last checkpoint is whole: start the job again with --resume."
            ) from None
