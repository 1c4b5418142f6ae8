"""How far back the gradient travels in each layer."""

from __future__ import annotations

import pytest
from small import Net, delayed, squared
from torch import nn

import retrograde as rg
from retrograde.doctor.travel import travel_of, travels_of
from retrograde.errors import FlowError


def test_a_layer_without_any_gradient_has_no_travel():
    model, (x, y) = Net(nn.GRU, last=False), delayed()

    def flow():
        return rg.gradient_flow(model, x, loss=lambda output: squared(output, y))

    assert [own.layer for own in travels_of(flow())] == ["l0"]
    nn.init.zeros_(model.head.weight)
    assert travels_of(flow()) == []
    with pytest.raises(FlowError, match="No layer has a gradient at a known lag"):
        travel_of(flow())
