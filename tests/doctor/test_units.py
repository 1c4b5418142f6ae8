"""Saturated units, dead ReLU units and stuck gates, and networks that only look so."""

from __future__ import annotations

import pytest
import torch
from small import Net, delayed, found, squared, sums, train
from torch import nn

from retrograde.doctor import TrainingRecord
from retrograde.doctor.rules.units import RULES, dead_relu, saturation, stuck_gates


def gate_bias(layer, number, value):
    """Set the bias of one gate."""
    size = layer.hidden_size
    with torch.no_grad():
        layer.bias_ih_l0[number * size : (number + 1) * size] = value


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_saturation_of_a_network_that_has_not_learned(cell):
    model = Net(cell)
    (own,) = found([saturation], model, scale=300.0)["saturation"]
    assert own.numbers["saturated"] > 0.7 and own.numbers["derivative"] < 0.3
    assert "the inputs" in own.message and own.where == "l0" and "> 50%" in own.rule
    assert len(own.chart.curves[0].y) == 12
    assert not found([saturation], Net(cell))


@pytest.mark.parametrize(("cell", "sick"), [(nn.RNN, True), (nn.LSTM, False), (nn.GRU, False)])
def test_candidates_that_training_saturated_are_no_handicap_behind_gates(cell, sick):
    start, model = Net(cell), Net(cell)
    with torch.no_grad():
        model.layer.weight_ih_l0.mul_(1000.0)
    x, y = sums()
    chance = 2.5 * squared(model(x), y).mean().item()
    assert bool(found([saturation], model, untrained=start, record=TrainingRecord(updates=500, chance=chance))) == sick
    (own,) = found([saturation], model, untrained=model, record=TrainingRecord(updates=500, chance=chance))[
        "saturation"
    ]
    assert own.numbers["untrained_saturated"] > 0.5 and own.numbers["remaining"] < 0.5


def test_saturation_by_a_bias_names_the_bias():
    model = Net(nn.RNN)
    gate_bias(model.layer, 0, 6.0)
    (own,) = found([saturation], model)["saturation"]
    assert "the bias" in own.message and any("inputs" in other for other in own.ruled_out)


def test_a_solved_task_with_saturated_units_is_healthy():
    class Sign(nn.Module):
        """Remembers nothing and needs nothing: the answer is the sign of the last step."""

        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.RNN(1, 4), nn.Parameter(torch.ones(()))
            with torch.no_grad():
                self.layer.weight_ih_l0.fill_(50.0)
                self.layer.weight_hh_l0.zero_()
                self.layer.bias_ih_l0.zero_()
                self.layer.bias_hh_l0.zero_()

        def forward(self, x):
            return self.scale * self.layer(x)[0][-1].mean(-1)

    def signs(seed):
        x, _ = sums(seed=seed)
        return x, x[-1, :, 0].sign()

    model = Sign()
    assert not found(RULES, model, signs, untrained=model)


def test_dead_relu_layer():
    model = Net(nn.RNN, nonlinearity="relu")
    gate_bias(model.layer, 0, -20.0)
    (own,) = found([dead_relu], model)["dead_relu"]
    assert own.numbers["dead"] == 1 and own.where == "l0" and "100%" in own.message
    assert not found([dead_relu], Net(nn.RNN, nonlinearity="relu"))


def test_relu_units_that_die_on_the_way():
    model = Net(nn.RNN, nonlinearity="relu")
    with torch.no_grad():
        model.layer.weight_hh_l0.zero_()

    def fading(seed):
        x, y = sums(seed=seed)
        return torch.cat([x[:4], -1000 * torch.ones_like(x[4:])]), y

    with torch.no_grad():
        model.layer.weight_ih_l0.abs_()
    (own,) = found([dead_relu], model, fading, record=None)["dead_relu"]
    assert own.numbers["since"] == 4 and "from step 4 on" in own.message and own.numbers["dead"] < 0.5


@pytest.mark.parametrize("functional", [False, True])
def test_dead_relu_units_of_the_head(functional):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.relu, self.b = nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)

        def forward(self, h):
            return self.b(torch.relu(self.a(h)) if functional else self.relu(self.a(h)))

    model = Net(nn.GRU, head=Head())
    assert not found([dead_relu], model)
    with torch.no_grad():
        model.head.a.bias.fill_(-20.0)
    (own,) = found([dead_relu], model)["dead_relu"]
    assert "head" in own.where and own.numbers["units"] == 8


def test_few_dead_units_and_few_activations_are_not_called_dead():
    model = Net(nn.RNN, nonlinearity="relu")
    gate_bias(model.layer, 0, 0.0)
    with torch.no_grad():
        model.layer.bias_ih_l0[:6] = -20.0
    assert not found([dead_relu], model)
    gate_bias(model.layer, 0, -20.0)
    assert not found([dead_relu], model, count=4, steps=4)


@pytest.mark.parametrize(
    ("cell", "gate", "number", "value"),
    [(nn.LSTM, "i", 0, -12.0), (nn.LSTM, "f", 1, -12.0), (nn.LSTM, "o", 3, -12.0), (nn.GRU, "z", 1, 12.0)],
)
def test_stuck_gates_with_their_direction(cell, gate, number, value):
    model = Net(cell, last=False)
    gate_bias(model.layer, number, value)
    (own,) = found([stuck_gates], model, delayed)["stuck_gates"]
    direction = "open" if value > 0 else "closed"
    assert f"gate {gate} of l0 is always {direction}" in own.message and own.numbers["slope"] < 1e-3
    assert direction in own.rule and own.chart is not None


def test_a_gate_that_keeps_the_state_is_stuck_only_where_it_keeps_far_longer_than_the_sequence():
    model = Net(nn.GRU, last=False)
    gate_bias(model.layer, 1, 7.2)  # 1 - z is 0.0007: 1,300 steps, which is more than 10 times 12, not 10 times 200
    assert found([stuck_gates], model, delayed, steps=12)
    assert not found([stuck_gates], model, delayed, steps=200)


@pytest.mark.parametrize(("number", "value"), [(0, -3.0), (3, -6.0), (1, 5.0), (1, 12.0), (0, 12.0)])
def test_gate_biases_by_design_are_healthy_before_training(number, value):
    model = Net(nn.LSTM, last=False)
    gate_bias(model.layer, number, value)
    assert not found([stuck_gates], model, delayed)


def test_a_gate_that_the_task_does_not_need_is_not_stuck():
    model = Net(nn.LSTM, last=False)
    gate_bias(model.layer, 1, -12.0)  # no memory

    def present(seed):
        x, _ = delayed(count=200, seed=seed)
        return x, x[..., 0]

    assert not found([stuck_gates], model, present)
    assert found([stuck_gates], model, delayed)


def test_a_trained_network_is_healthy():
    model = Net(nn.LSTM)
    record = train(model)
    assert not found(RULES, model, record=record)


def test_half_of_the_head_is_off_by_chance_before_training():
    """States hardly differ then, so that the biases decide; 80 % are not called dead before training, but after."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 10), nn.Linear(10, 1)

        def forward(self, h):
            return self.b(torch.relu(self.a(h)))

    model = Net(nn.GRU, head=Head())
    with torch.no_grad():
        model.head.a.bias[:8], model.head.a.bias[8:] = -20.0, 1.0
    assert not found(RULES, model)
    assert "dead_relu" in found(RULES, model, record=TrainingRecord(updates=100))


def test_a_layer_that_runs_several_times_is_one_finding():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.RNN(1, 8), nn.Linear(8, 1)

        def forward(self, x):
            return self.head(self.layer(x)[1][0] - self.layer(x.flip(0))[1][0]).squeeze(-1)

    model = Towers()
    gate_bias(model.layer, 0, 8.0)
    assert len(found([saturation], model)["saturation"]) == 1
