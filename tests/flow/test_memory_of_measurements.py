"""What a measurement needs is freed when it is done."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

import retrograde as rg


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(16, 64, 2, bidirectional=True), nn.Linear(128, 4)

    def forward(self, x):
        return self.head(self.layer(x)[0])


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(16, 64), nn.Linear(64, 4)

    def forward(self, x):
        h, found = x.new_zeros(x.shape[1], 64), []
        for step in x:
            h = self.cell(step, h)
            found.append(self.head(h))
        return torch.stack(found)


class Marked(Steps):
    def forward(self, x):
        h, found = x.new_zeros(x.shape[1], 64), []
        for step in x:
            h = rg.mark_state(torch.tanh(self.cell(step, h)))
            found.append(self.head(h))
        return torch.stack(found)


def held() -> int:
    """Bytes of all tensors."""
    gc.collect()
    tensors = [
        one for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter) and one.layout is torch.strided
    ]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


@pytest.mark.parametrize("model", [Layers, Steps, Marked])
def test_a_measurement_keeps_no_tensors_when_it_is_done(model):
    x = torch.randn(30, 8, 16)

    def measure():
        rg.gradient_flow(model(), x, loss=lambda output: output.square().mean(-1))

    measure()
    before = held()
    measure()
    measure()
    assert held() - before < 1000  # single numbers may be left; the states of a layer are 61,440 bytes
