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


class Generator(nn.Module):
    """Goes on by itself, and sees the true values every few steps only."""

    def __init__(self, interval):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.interval = nn.RNN(2, 16), nn.Linear(16, 2), interval

    def forward(self, x):
        given = torch.where((torch.arange(len(x)) % self.interval == 0)[:, None, None], x, 0.0)
        return self.head(self.layer(given)[0])


def henon(count=48, steps=120, seed=0):
    """Trajectories of the Hénon map (λ = 0.419 per step), and where they are one step later."""
    state = 0.1 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    found = []
    for _ in range(steps + 21):
        state = torch.stack([1 - 1.4 * state[:, 0] ** 2 + state[:, 1], 0.3 * state[:, 0]], -1)
        found.append(state)
    whole = torch.stack(found[20:])
    return whole[:-1], whole[1:]


def test_chaotic_data_that_the_network_sees_too_rarely():
    def loss(output, target):
        return (output - target).square().mean(-1)

    rule = [explosion.chaotic_data]
    (own,) = found(rule, Generator(12), henon, loss)["chaos"]
    assert own.numbers["interval"] == 12 and own.numbers["tau"] == pytest.approx(math.log(2) / 0.419, rel=0.2)
    assert not found(rule, Generator(1), henon, loss) and not found(rule, Generator(3), henon, loss)

    def noise(seed=0):
        x = torch.randn(121, 48, 2, generator=torch.Generator().manual_seed(seed))
        return x[:-1], x[1:]

    assert not found(rule, Generator(12), noise, loss)
    first = rg.diagnose(Generator(12), [henon()], loss, record=TrainingRecord(updates=0)).prescriptions[0]
    assert first.remedy == "the true state more often" and "interval = 2" in first.python
