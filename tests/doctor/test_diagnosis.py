"""``rg.diagnose`` on networks whose illness is known."""

from __future__ import annotations

import torch
from torch import nn

import retrograde as rg


class Last(nn.Module):
    """A network that answers at the end of a sequence."""

    def __init__(self, cell: type[nn.RNNBase] = nn.RNN, inputs: int = 1, hidden: int = 16) -> None:
        super().__init__()
        self.layer, self.head = cell(inputs, hidden), nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.layer(x)[0][-1])[:, 0]


def squared(output, target):
    return (output - target).square()


def sequences(which: slice, steps: int = 30, count: int = 300):
    """Sequences and, as their targets, the sum of some of their steps."""
    torch.manual_seed(0)
    x = torch.randn(steps, count, 1)
    return x, x[which].sum((0, 2))


def test_vanishing_hurts_only_where_the_data_asks_for_memory():
    torch.manual_seed(0)
    early = rg.diagnose(Last(), sequences(slice(0, 2)), squared)
    assert early.verdict == "sick"
    (found,) = early.found("vanishing_hurts")
    assert found.numbers["need"] == 29 and found.numbers["reach"] < 29 and "29 >" in found.rule
    late = rg.diagnose(Last(), sequences(slice(-2, None)), squared)
    assert not late.found("vanishing_hurts") and late.found("vanishing_harmless")
