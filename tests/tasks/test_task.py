"""What batches of every task do: parts for several processes, and moving to a device."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from retrograde.tasks.labelled import IGNORED, LabelledBatch
from retrograde.tasks.task import Batch


@dataclass(frozen=True)
class Toy(Batch):
    lengths: Tensor
    clean: Tensor | None
    fresh: bool

    @property
    def size(self) -> int:
        return self.targets.numel()


@pytest.fixture
def batch() -> Toy:
    inputs = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    return Toy(inputs, torch.arange(10).reshape(2, 5), torch.arange(5), None, True)


def test_parts_are_every_nth_sequence(batch):
    parts = [batch.part(rank, 2) for rank in range(2)]
    assert [part.inputs.shape for part in parts] == [(2, 3, 3), (2, 2, 3)]
    assert parts[1].targets.tolist() == [[1, 3], [6, 8]] and parts[1].lengths.tolist() == [1, 3]
    assert parts[1].clean is None and parts[1].fresh and sum(part.size for part in parts) == batch.size
    assert torch.equal(parts[0].inputs, batch.inputs[:, ::2])
    assert batch.part(5, 6) is None


def test_lengths_stay_on_the_cpu(batch):
    moved = batch.to(torch.device("meta"))
    assert moved.inputs.is_meta and moved.targets.is_meta and not moved.lengths.is_meta
    assert batch.to(torch.device("cpu")) is batch


def test_class_weights_of_parts_add_up():
    targets = torch.tensor([[0, 1, 1], [2, IGNORED, 0]])
    weights = torch.tensor([0.5, 1.0, 4.0])[targets.clamp(min=0)] * (targets != IGNORED)
    batch = LabelledBatch(torch.zeros(2, 3), targets, torch.tensor([2, 1, 2]), weights)
    assert (batch.size, batch.weight) == (5, 7.0)
    assert sum(batch.part(rank, 2).weight for rank in range(2)) == batch.weight
    unweighted = LabelledBatch(torch.zeros(2, 3), targets, torch.tensor([2, 1, 2]))
    assert unweighted.weight == 5.0
