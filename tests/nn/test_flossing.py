"""Gradient flossing: exponents near those of the flow, pushed to 0 by training the layers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.errors import OptionError


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_exponents_are_those_of_the_flow(cell):
    torch.manual_seed(0)
    layer, x = cell(3, 6).double(), torch.randn(60, 4, 3).double()
    states = 12 if cell is nn.LSTM else 6
    done = rg.nn.floss(layer, x, exponents=states, updates=0)
    flow = rg.gradient_flow(layer, x, loss=lambda output: output[0][-1].sum(-1))
    # Only the sum over the whole spectrum does not depend on the directions that one starts with.
    assert sum(done.before["weight_hh_l0"]) == pytest.approx(flow.lyapunov_exponents().sum(), rel=1e-6)
    assert done.before == done.after and done.updates == 0


def test_the_reverse_direction_reads_the_sequence_from_its_end():
    torch.manual_seed(0)
    both, one, x = nn.GRU(2, 4, bidirectional=True), nn.GRU(2, 4), torch.randn(9, 3, 2)
    one.load_state_dict({name: both.state_dict()[f"{name}_reverse"] for name in one.state_dict()})
    found = rg.nn.floss(both, x, exponents=2, updates=0).before["weight_hh_l0_reverse"]
    assert found == pytest.approx(rg.nn.floss(one, x.flip(0), exponents=2, updates=0).before["weight_hh_l0"], rel=1e-5)


def test_the_upper_layer_reads_both_directions_of_the_lower_one():
    torch.manual_seed(0)
    both, lower, upper = nn.GRU(2, 4, 2, bidirectional=True), nn.GRU(2, 4, bidirectional=True), nn.GRU(8, 4)
    state, x = both.state_dict(), torch.randn(9, 3, 2)
    lower.load_state_dict({name: state[name] for name in lower.state_dict()})
    upper.load_state_dict({name: state[name.replace("_l0", "_l1")] for name in upper.state_dict()})
    found = rg.nn.floss(both, x, exponents=2, updates=0).before
    assert len(found) == 4
    expected = rg.nn.floss(upper, lower(x)[0].detach(), exponents=2, updates=0).before["weight_hh_l0"]
    assert found["weight_hh_l1"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True, "batch_first": True}])
def test_it_ends_where_a_gradient_changes_by_a_factor_of_e(options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 8, **options))
    linear = model[0].weight.detach().clone()
    done = rg.nn.floss(model, torch.randn(12, 12, 2), exponents=2)
    assert set(done.after) == {f"1.{name}" for name, _ in model[1].named_parameters() if name.startswith("weight_hh")}
    assert max(abs(one) for found in done.after.values() for one in found) <= 1 / 12
    assert max(abs(one) for found in done.before.values() for one in found) > 1 / 12
    assert torch.equal(model[0].weight, linear) and all(p.grad is None for p in model.parameters())
    assert "weight_hh_l0" in str(done)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_packed_sequences_and_the_random_state():
    torch.manual_seed(0)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(9, 3, 2), torch.tensor([9, 7, 5]))
    layer, before = nn.LSTM(2, 4, proj_size=3), torch.get_rng_state()
    done = rg.nn.floss(layer, packed, exponents=2, updates=3)
    assert np.isfinite(done.after["weight_hh_l0"]).all() and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("model", "exponents", "why"),
    [
        (nn.Linear(2, 2), 1, "no recurrent layer"),
        (nn.RNN(2, 4, nonlinearity="relu"), 1, "ReLU"),
        (nn.RNN(2, 4), 5, "the layer has 4"),
        (nn.RNN(2, 4), 0, "from 1"),
    ],
)
def test_refused(model, exponents, why):
    with pytest.raises(OptionError, match=why):
        rg.nn.floss(model, torch.randn(5, 2, 2), exponents=exponents)


def test_training_starts_from_the_flossed_network(tmp_path):
    """The gradient of the first network reaches further, and a resumed run is the same as one that went through."""
    options = {"cell": "rnn", "hidden_size": 8, "floss": 2, "batch_size": 8, "eval_every": 2}
    data = "builtin:temporal-order?length=20&variant=pascanu"
    rg.train(data, tmp_path / "whole", report=False, max_steps=4, **options)
    rg.train(data, tmp_path / "parts", report=False, max_steps=2, **options)
    rg.train(None, tmp_path / "parts", report=False, resume=True, max_steps=4)
    weights = [rg.load(tmp_path / name).model.state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(one, two) for one, two in zip(*(found.values() for found in weights), strict=True))
    with pytest.raises(OptionError, match="ReLU"):
        rg.train(data, tmp_path / "relu", **options, nonlinearity="relu")
