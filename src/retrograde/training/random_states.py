"""The states of all random number generators that a training may use."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .distributed import DistributedContext

__all__ = ["RandomStates"]


@dataclass(frozen=True)
class RandomStates:
    """The global random states.

    Attributes
    ----------
    torch : list of Tensor
        Of every process.
    cuda : list of Tensor
        Of every device of the first process.
    numpy : tuple
        As ``numpy.random.get_state`` returns it.
    python : tuple
        As ``random.getstate`` returns it.
    """

    torch: list[Tensor]
    cuda: list[Tensor]
    numpy: tuple[Any, ...]
    python: tuple[Any, ...]

    @classmethod
    def of_all(cls, context: DistributedContext) -> RandomStates:
        """The present states. All processes must call this."""
        return cls(
            context.gather(torch.get_rng_state()),
            torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            tuple(np.random.get_state(legacy=True)),  # noqa: NPY002 (the global one, if a task uses it)
            random.getstate(),
        )

    def restore(self, rank: int) -> None:
        """Set the states of this process; one that did not exist before gets the state of the first."""
        torch.set_rng_state(self.torch[rank if rank < len(self.torch) else 0])
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        if torch.cuda.is_available() and len(self.cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self.cuda)

    def encode(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As tensors and JSON."""
        version, words, gauss = self.python
        name, keys, position, has_gauss, cached = self.numpy
        tensors = {
            "python": torch.tensor(words, dtype=torch.int64),
            "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            **{f"torch.{rank}": state for rank, state in enumerate(self.torch)},
            **{f"cuda.{index}": state for index, state in enumerate(self.cuda)},
        }
        return tensors, {"python": [version, gauss], "numpy": [name, position, has_gauss, cached]}

    @classmethod
    def decode(cls, tensors: dict[str, Tensor], json: dict[str, Any]) -> RandomStates:
        """Undo `encode`; KeyError, TypeError or ValueError if it is something else."""
        version, gauss = json["python"]
        name, position, has_gauss, cached = json["numpy"]
        keys = tensors["numpy"].numpy().astype(np.uint32)
        per_process, cuda = (
            [tensors[f"{kind}.{place}"] for place in range(sum(key.startswith(f"{kind}.") for key in tensors))]
            for kind in ("torch", "cuda")
        )
        python = (version, tuple(tensors["python"].tolist()), gauss)
        return cls(per_process, cuda, (name, keys, position, has_gauss, cached), python)
