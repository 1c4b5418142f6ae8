"""The walk by lag in the native engine, compared with the same walk in torch's operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde import kernels
from retrograde.flow.recurrence import adjoint

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


def linear(scale, dtype=torch.float64):
    """Two layers that stay at 0, where tanh is linear; one unit of the upper layer is saturated: its slope is 0."""
    model = nn.RNN(4, 4, 2, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_()
            if name.startswith("weight"):
                parameter.copy_(torch.eye(4, dtype=dtype) * (scale if "hh" in name else 1))
        model.bias_ih_l1[0] = 200.0
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [3.0, 1e-3])
def test_gradients_beyond_every_range_are_infinite_or_zero_but_never_nan(monkeypatch, dtype, scale):
    """Infinity is multiplied by slopes of 0, and the lower layer gets scales of 0 and infinity."""
    steps = 700 if scale > 1 else 160
    model, x = linear(scale, dtype), torch.zeros(steps, 1, 4, dtype=dtype)

    def measure():
        return rg.gradient_flow(model, x, loss=lambda o: o[0].sum(-1), targets=[steps - 1])

    lag = np.arange(steps)[::-1]
    with np.errstate(over="ignore"):
        # Of the upper layer the saturated unit has a gradient at its own step only. Below, the gradient takes one of
        # lag + 1 steps to go down.
        top = np.where(lag == 0, 2, np.sqrt(3) * np.exp(lag * np.log(scale)))
        expected = np.stack([np.sqrt(3) * (lag + 1) * np.exp(lag * np.log(scale)), top])
    for found in both_ways(monkeypatch, measure):
        near = (expected < 1e300) & (expected > 1e-300)
        assert near.sum() > 200
        np.testing.assert_allclose(found[:, 0][near], expected[near], rtol=1e-3)
        far = (expected == np.inf) | (expected < 1e-310)
        assert far.any() and (found[:, 0][far] == (np.inf if scale > 1 else 0)).all() and not np.isnan(found).any()


def test_a_range_that_float64_does_not_help_is_not_said_to_be_helped_by_it():
    flow = rg.gradient_flow(linear(3.0), torch.zeros(700, 1, 4).double(), loss=lambda o: o[0].sum(-1), targets=[699])
    assert [note for note in flow.notes if "too large for float64" in note and "measure the model" not in note]


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_no_step_and_no_gradient_hand_the_adjoint_of_the_last_state_on(cell):
    layer, x = getattr(nn, cell)(2, 3).double(), torch.randn(5, 2, 2).double()
    flow = rg.gradient_flow(layer, x, loss=lambda o: o[0].sum(-1))
    run = flow.linearization.runs["l0"].part(slice(0, 0))
    g_h = torch.randn(4, 2, 3).double()
    found, g_x, g_h_0, g_c_0 = adjoint.backward(run, g_h.new_zeros(4, 0, 2, 3), g_h, None, need_x=True, keep=True)
    assert found.h.shape == (4, 0, 2) and g_x.shape == (4, 0, 2, 2) and torch.equal(g_h_0, g_h)
    assert (g_c_0 is not None) == (cell == "LSTM")
    run = flow.linearization.runs["l0"]
    found, g_x, g_h_0, _ = adjoint.backward(run, g_h.new_zeros(4, 5, 2, 3), None, None, need_x=True, keep=False)
    assert not found.h.any() and not g_x.any() and not g_h_0.any()
