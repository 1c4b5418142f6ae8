"""The walk by lag in the native engine beside the same in torch's operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde import kernels
from retrograde.flow import adjoint

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the engine was not built here")


def both_ways(monkeypatch, measure):
    found = [measure().norms]
    monkeypatch.setattr(adjoint, "has_engine", lambda stack: False)
    return [*found, measure().norms]


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(
    ("layers", "inputs", "hidden", "batch", "steps"), [(1, 20, 7, 3, 15), (3, 5, 33, 70, 9), (2, 3, 37, 3, 60)]
)  # of the last the gates of a step are summed
@pytest.mark.parametrize("options", [{}, {"targets": [1, 4, 7]}, {"reduce": "none"}, {"state": "c"}, {"state": "h"}])
def test_the_engine_walks_as_torch_does(monkeypatch, cell, layers, inputs, hidden, batch, steps, options):
    torch.manual_seed(0)
    model, x = getattr(nn, cell)(inputs, hidden, layers).double(), torch.randn(steps, batch, inputs).double()
    if "state" in options and cell != "LSTM":
        options = {"reduce": [0.1, 0.5]}
    engine, torch_ = both_ways(
        monkeypatch, lambda: rg.gradient_flow(model, x, loss=lambda o: o[0].sin().sum(-1), **options)
    )
    assert engine.shape == torch_.shape
    assert np.allclose(engine, torch_, rtol=1e-11, atol=0)


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("longest", [10, 70])
def test_sequences_of_different_length(monkeypatch, cell, longest):
    torch.manual_seed(1)
    model, x = getattr(nn, cell)(4, 19, 2).double(), torch.randn(longest, 4, 4).double()
    lengths = [longest, 1, longest // 2, 6]

    def measure():
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        loss = lambda o: nn.utils.rnn.pad_packed_sequence(o[0])[0].sin().sum(-1)  # noqa: E731
        return rg.gradient_flow(model, packed, loss=loss, reduce="none")

    engine, torch_ = both_ways(monkeypatch, measure)
    assert np.allclose(engine, torch_, rtol=1e-11, atol=0, equal_nan=True)
    assert (engine > 0).any(axis=(0, 1, 2)).all()


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_gradients_far_below_the_range_of_float32_are_followed_through_two_layers(monkeypatch, cell):
    torch.manual_seed(0)
    model, x = getattr(nn, cell)(8, 12, 2), torch.randn(300, 2, 8)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(0.02 if name == "weight_hh_l0" else 0.1 if "hh" in name else 1.0)  # one layer forgets sooner
        if cell != "RNN":  # forget gates nearly shut
            shut = -3.0 if cell == "LSTM" else -4.0
            model.bias_ih_l0[12:24] = model.bias_ih_l1[12:24] = shut

    def measure():
        return rg.gradient_flow(model, x, loss=lambda o: o[0].pow(2).sum(-1))

    engine, torch_ = both_ways(monkeypatch, measure)
    model, x = model.double(), x.double()
    exact = measure().norms
    seen = exact > 1e-280
    assert exact[seen].min() < 1e-200
    for found in (engine, torch_):
        assert np.isfinite(found).all()
        assert np.allclose(found[seen], exact[seen], rtol=1e-3, atol=0)


def test_the_same_bits_for_any_number_of_threads():
    torch.manual_seed(0)
    model, x = nn.GRU(6, 40, 2), torch.randn(60, 5, 6)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(rg.gradient_flow(model, x, loss=lambda o: o[0].sum(-1)).norms)
    finally:
        torch.set_num_threads(before)
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
