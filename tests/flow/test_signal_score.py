"""The test of many lags together: weak signals are found in few sequences, and not at lags that have none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retrograde as rg


class Last(nn.Module):
    """A layer, read at its last state."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.proj_size or layer.hidden_size, 1)

    def forward(self, x):
        states = self.layer(x)[1]
        return self.head((states[0] if isinstance(states, tuple) else states)[-1])


def square(output, target):
    return (output[..., 0] - target).square()


def adding(first=0, steps=30, size=128, packed=False):
    """Add two marked numbers, one in each half of the steps from ``first`` on."""
    b, middle = torch.arange(size), (first + steps) // 2
    x, mark = torch.rand(steps, size), torch.zeros(steps, size)
    mark[torch.randint(first, middle, (size,)), b] = mark[torch.randint(middle, steps, (size,)), b] = 1
    y, both = (x * mark).sum(0), torch.stack([x, mark], -1)
    if not packed:
        return both, y
    before = torch.randint(5, (size,))  # steps that are put in front
    longer = torch.cat([torch.rand(5, size, 1), torch.zeros(5, size, 1)], -1)
    parts = [torch.cat([longer[:n, i], both[:, i]]) for i, n in enumerate(before)]
    return nn.utils.rnn.pack_sequence(parts, enforce_sorted=False), y


def need(layer, **options):
    torch.manual_seed(0)
    return rg.flow.need_of(Last(layer), [adding(**options) for _ in range(4)], square)


@pytest.mark.parametrize(
    ("layer", "packed"),
    [(nn.LSTM(2, 24), False), (nn.GRU(2, 24), True), (nn.LSTM(2, 16, num_layers=2, proj_size=8), False)],
)
def test_the_adding_problem_shows_its_lags_in_some_hundred_sequences(layer, packed):
    found = need(layer, packed=packed)
    assert not any(signal.significant.any() for signal in found.layers)
    assert 22 <= found.need <= 29


def test_lags_that_tell_nothing_are_not_blamed_for_what_later_steps_do_to_their_adjoints():
    found = need(nn.LSTM(2, 24), first=15)
    assert 4 <= found.need < 15


def test_without_a_signal_p_values_are_uniform():
    """Sparse inputs and skewed targets, which have nothing to do with each other."""

    def tail(seed):
        torch.manual_seed(seed)
        data = [((torch.rand(6, 128, 2) < 0.2).float(), torch.randn(128).exp()) for _ in range(2)]
        found = rg.flow.need_of(Last(nn.LSTM(2, 4)), data, square, alpha=0.3)
        return float(found.layers[0].tail_p_value[0])

    assert sum(tail(seed) < 0.3 for seed in range(10)) <= 4
