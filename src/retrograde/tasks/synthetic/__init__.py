"""Synthetic tasks of known lag, as their papers define them.

A recurrent network solves one of these only if its gradient reaches back over the lag, which is known beforehand.
So are the scores of chance (the best answer that does not look at the input) and the optimum.

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

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ...errors import OptionError
from .base import Criterion, Level, SyntheticBatch, SyntheticTask
from .copying import CopyMemory
from .latch import Latch
from .marked import AddingProblem, MultiplicationProblem
from .matching import DelayedMatchToSample
from .order import TemporalOrder
from .parity import Parity

__all__ = [
    "SYNTHETIC",
    "AddingProblem",
    "CopyMemory",
    "Criterion",
    "DelayedMatchToSample",
    "Latch",
    "Level",
    "MultiplicationProblem",
    "Parity",
    "SyntheticBatch",
    "SyntheticTask",
    "TemporalOrder",
    "synthetic",
]

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
