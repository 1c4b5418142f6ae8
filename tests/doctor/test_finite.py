"""The origin of NaN and infinity."""

from __future__ import annotations

import copy

import pytest
import torch
from small import Net, found, squared, sums, train
from torch import nn

import retrograde as rg
from retrograde.doctor import TrainingRecord
from retrograde.doctor.rules.finite import RULES


def origin(model, task=sums, loss=squared, **options):
    own = found(RULES, model, task, loss, untrained=model, **options)
    return own["not_finite"][0].message if own else ""


def test_finite_networks_are_fine():
    assert not origin(Net(nn.LSTM))

    class Masked(Net):
        """Minus infinity before a softmax is a mask."""

        def forward(self, x):
            h = self.layer(x)[0]
            scores = h[..., 0].masked_fill(torch.arange(len(h)).unsqueeze(1) > 5, float("-inf"))
            return self.head((scores.softmax(0).unsqueeze(-1) * h).sum(0)).squeeze(-1)

    assert not origin(Masked())


def test_weights():
    model = Net()
    with torch.no_grad():
        model.layer.weight_hh_l0[0, 3] = float("nan")
    assert "layer.weight_hh_l0 has 1 of 256" in origin(model)


@pytest.mark.parametrize("batch", [0, 2])
def test_inputs_and_targets(batch):
    def spoiled(what):
        def draw(seed):
            x, y = sums(seed=seed)
            if seed == batch:
                (x[3] if what == "input" else y)[5] = float("inf")
            return x, y

        return draw

    assert f"The input of batch {batch} is inf at [3, 5, 0]" in origin(Net(), spoiled("input"), batches=3)
    assert f"The target of batch {batch} is inf at [5]" in origin(Net(), spoiled("target"), batches=3)


class Logarithm(Net):
    def forward(self, x):
        return self.head(self.layer(x)[0][-1].relu().log()).squeeze(-1)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.RNNCell(1, 8, nonlinearity="relu"), nn.Linear(8, 1)
        with torch.no_grad():
            self.cell.weight_hh.fill_(1e10)
            self.cell.weight_ih.fill_(1.0)

    def forward(self, x):
        state = None
        for step in x.abs() + 1:
            state = self.cell(step, state)
        return self.head(state).squeeze(-1)


def test_the_forward_pass_names_layer_and_step():
    assert "In Logarithm, log makes" in origin(Logarithm())
    model = Net(rg.nn.RNN, nonlinearity="relu")
    with torch.no_grad():
        model.layer.weight_hh_l0.fill_(1e10)
        model.layer.weight_ih_l0.fill_(1.0)
        model.layer.bias_ih_l0.fill_(10.0)
    assert "In layer, from step 4 on" in origin(model)
    assert "In cell, from its call 4 on" in origin(Cell())


def test_the_loss():
    assert "In the loss, log makes" in origin(Net(), loss=lambda output, target: (output - 100).log())


class Root(Net):
    def forward(self, x):
        return self.head((0.0 * self.layer(x)[0][-1]).sqrt()).squeeze(-1)


def test_the_gradient():
    message = origin(Root())
    assert "The loss is finite, but the gradient of layer." in message and "returned nan" in message


def test_the_history_of_a_training():
    record = TrainingRecord(
        updates=9, losses=[1.0] * 8 + [float("nan")], gradient_norms=[2.0] * 7 + [2e9], diverged=True
    )
    own = found(RULES, Net(), record=record)["not_finite"][0]
    assert own.numbers["update"] == 8 and "update 8" in own.message and "1e+09 times its median" in own.message
    assert own.chart.log
    assert "not finite" in origin(Net(), record=TrainingRecord(diverged=True))


def test_a_learning_rate_that_spoils_the_weights_is_found_from_the_start():
    model = Net()
    untrained = copy.deepcopy(model)
    record = train(model, updates=30, lr=20.0, optimizer="sgd", clip=None)
    own = found(RULES, model, record=record, untrained=untrained)
    assert set(own) == {"not_finite", "learning_rate_too_high"}


@pytest.mark.parametrize("known", [True, False])
def test_a_gradient_that_exploded_is_named_although_the_weights_are_spoiled(known):
    """By the start of the weights, or, where another start is given, by the first gradient."""
    model = Net(nonlinearity="relu")
    model.layer.weight_hh_l0.data = 1.3 * torch.eye(16)
    start = copy.deepcopy(model) if known else Net(nonlinearity="relu")
    record = train(model, updates=20, lr=0.01, optimizer="sgd", clip=None, steps=60)
    own = found(RULES, model, record=record, untrained=start, steps=60)
    assert {"not_finite", "exploding"} <= set(own)
    assert ("before training" in own["exploding"][0].rule) == known
    calm = Net()
    record = train(calm, updates=30, lr=20.0, optimizer="sgd", clip=None)
    assert "exploding" not in found(RULES, calm, record=record, untrained=Net())


def test_nothing_else_is_examined():
    model = Net()
    with torch.no_grad():
        model.layer.weight_hh_l0[0, 3] = float("nan")
    diagnosis = rg.diagnose(model, [sums()], squared)
    assert [finding.kind for finding in diagnosis.findings] == ["not_finite"]
    (note,) = diagnosis.notes
    assert note.startswith("Nothing else was examined: the weights are not finite. Build the model again")
    assert diagnosis.verdict == "sick"
    diagnosis = rg.diagnose(model, [sums()], squared, record=TrainingRecord(lr=0.1))
    assert diagnosis.notes == ["Nothing else was examined: the weights are not finite."]


def test_relu_states_that_become_infinite_get_recurrent_weights_that_do_not_multiply_them():
    model = Net(nonlinearity="relu")
    with torch.no_grad():
        model.layer.weight_hh_l0.mul_(200)
    batch = sums(steps=60)
    diagnosis = rg.diagnose(model, [batch], squared)
    assert "of chance" not in str(diagnosis).splitlines()[0]  # the loss is infinite
    assert diagnosis.prescriptions[0].remedy == "spectral radius"
    assert "nothing bounds the states of ReLU units" in diagnosis.prescriptions[0].arithmetic
    diagnosis.apply(model)
    assert squared(model(batch[0]), batch[1]).isfinite().all()
