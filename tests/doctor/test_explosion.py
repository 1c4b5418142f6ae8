"""Exploding gradients and chaos: found where a network has not learned, never where it has."""

from __future__ import annotations

import math

import pytest
import torch
from small import Net, found, squared, train
from test_vanishing import late, started
from torch import nn

import retrograde as rg
from retrograde.doctor import TrainingRecord
from retrograde.doctor.rules import explosion

UNTRAINED = TrainingRecord(updates=0)


def gauss(cell=nn.RNN, scale=4.0, **options):
    """Random recurrent weights, chaotic where their scale is far above 1."""
    model = Net(cell, hidden=32, **options)
    for name, weight in model.named_parameters():
        if "weight_hh" in name:
            nn.init.normal_(weight, 0, scale / math.sqrt(32))
    return model


@pytest.mark.parametrize("layers", [1, 2])
def test_chaos_is_a_positive_exponent_with_its_error(layers):
    model = gauss(num_layers=layers)
    kinds = found(explosion.RULES, model, late, record=UNTRAINED, steps=40, count=32)
    (finding,) = kinds["chaos"]
    exponent, error = finding.numbers["exponent"], finding.numbers["standard_error"]
    assert exponent > 3 * error > 0 and finding.numbers["tau"] == pytest.approx(math.log(2) / exponent)
    assert "exploding" not in kinds


def test_a_calm_network_is_neither_chaotic_nor_exploding():
    assert not found(explosion.RULES, Net(), late, record=UNTRAINED, steps=40, count=32)
    assert not found(explosion.RULES, started(Net(), 1.1), late, record=UNTRAINED, steps=40, count=32)


def test_unbounded_states_explode_by_the_product_of_jacobians():
    model = started(Net(nonlinearity="relu"), 2.0)
    kinds = found(explosion.RULES, model, late, record=UNTRAINED, steps=40, count=32)
    (finding,) = kinds["exploding"]
    assert finding.numbers["growth"] > 100 and finding.numbers["tail"] >= 1 and "chaos" not in kinds
    assert any("chaos" in other for other in finding.ruled_out)


def test_a_solved_task_is_healthy_at_any_gradient_norm_and_spectral_radius():
    """Pascanu's log: solved, at a gradient norm of 776 and a spectral radius of 1.24."""
    model = started(Net(hidden=16), 1.24)
    record = train(model, late, updates=300, lr=0.01, steps=15, count=64)
    assert float(torch.linalg.eigvals(model.layer.weight_hh_l0.detach()).abs().max()) > 1
    diagnosis = rg.diagnose(model, late(steps=15), lambda output, y: 1e5 * squared(output, y), record=record)
    assert diagnosis.verdict == "healthy" and diagnosis.remaining < 0.05


def test_the_largest_exponent_is_that_of_the_whole_spectrum():
    for cell in (nn.RNN, nn.GRU, nn.LSTM):
        torch.manual_seed(0)
        layer, x = cell(3, 8), torch.randn(300, 2, 3)
        flow = rg.gradient_flow(layer, x, loss=lambda output: output[0].square().sum(-1), targets=[299])
        whole = flow.lyapunov_exponents(n=1, burn_in=50, per_sequence=True)[:, 0]
        assert flow.largest_exponents(burn_in=50) == pytest.approx(whole, abs=0.02)
