"""A few updates of a copy of a network: what a way of training does to the loss, before it is prescribed.

Tests: `tests/doctor/test_training.py`, `tests/doctor/test_prescriptions.py`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from .examination import Sample
from .forward import answers
from .record import TrainingRecord

_UPDATES = 100  # of an attempt, at most
_FEWEST = 5


@dataclass(frozen=True)
class Recipe:
    """How a copy is trained."""

    adam: bool
    lr: float
    momentum: float = 0.0
    clip_norm: float | None = None

    @classmethod
    def of(cls, record: TrainingRecord, lr: float) -> Recipe:
        """That of a training, at another learning rate."""
        return cls(record.is_adaptive, lr, record.momentum, record.clip_norm)


class Attempt(NamedTuple):
    """What became of a copy."""

    # Before the first update and after each; fewer where one is not finite, none where nothing can be trained.
    losses: list[float]
    norms: list[float]  # of the gradients before clipping
    updates: int  # how many were to be made
    judged: float = math.inf  # mean loss of other samples afterwards

    @property
    def end(self) -> float:
        """Mean of the last quarter of the losses; infinite where it ended early or is not finite."""
        tail = self.losses[-max(1, len(self.losses) // 4) :]
        mean = sum(tail) / max(len(tail), 1)
        return mean if math.isfinite(mean) and len(self.losses) > self.updates else math.inf


def attempt(
    model: nn.Module, samples: Sequence[Sample], recipe: Recipe, updates: int, judges: Sequence[Sample] = ()
) -> Attempt:
    """Train a copy for a few updates, on the samples in turn, and judge it by others."""
    own = copy.deepcopy(model)
    parameters = [p for p in own.parameters() if p.requires_grad]
    found = Attempt([], [], updates)
    if not parameters:
        return found
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(parameters, recipe.lr)
        if recipe.adam
        else torch.optim.SGD(parameters, recipe.lr, momentum=recipe.momentum)
    )
    every = [*samples, *judges]
    with torch.enable_grad(), answers(own, [sample.inputs for sample in every]) as ask:
        for update in range(updates + 1):
            sample = samples[update % len(samples)]
            losses = ask(sample.inputs, sample.loss).losses
            scored = losses[losses != 0]
            mean = scored.mean() if scored.numel() else losses.mean()
            found.losses.append(float(mean.detach()))
            if not math.isfinite(found.losses[-1]) or not mean.requires_grad:
                break
            optimizer.zero_grad()
            mean.backward()  # type: ignore[no-untyped-call]
            found.norms.append(float(nn.utils.clip_grad_norm_(parameters, recipe.clip_norm or math.inf)))
            optimizer.step()
        if judges and len(found.norms) > updates:
            with torch.no_grad():
                judged = torch.cat([ask(sample.inputs, sample.loss).losses.flatten() for sample in judges])
            found = found._replace(judged=float(judged[judged != 0].double().mean()))
    return found


def updates_within(
    seconds: float, model: nn.Module, samples: Sequence[Sample], recipe: Recipe, most: int = _UPDATES
) -> int:
    """How many updates an attempt may have to take no longer than this: it has at least five."""
    began, worked = time.perf_counter(), time.process_time()
    attempt(model, samples, recipe, 1)  # two passes and one update
    took = min(time.perf_counter() - began, time.process_time() - worked)  # on a busy machine, as on an idle one
    return int(min(most, max(_FEWEST, 2 * seconds / max(took, 1e-6))))
