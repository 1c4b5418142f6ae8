"""The scale of inputs and targets, and outputs that are all the same."""

from __future__ import annotations

import pytest
import torch
from small import Net, found, sums, train
from torch import nn
from torch.nn import functional as F

from retrograde.doctor import TrainingRecord
from retrograde.doctor.rules.data import RULES


def shifted(scale=1.0, shift=0.0, targets=1.0, up=0.0):
    def draw(seed, **options):
        x, y = sums(seed=seed, **options)
        return x * scale + shift, y * targets + up

    return draw


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 0.0), (1.0, 1000.0), (1e-4, 0.0), (0.05, 3.0)])
@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM])
def test_input_scale(cell, scale, shift):
    (own,) = found(RULES, Net(cell), shifted(scale, shift))["input_scale"]
    assert own.numbers["mean"] == pytest.approx(shift, abs=0.1 * scale)
    assert own.numbers["std"] == pytest.approx(scale, rel=0.1)
    assert len(own.chart.curves) == 2 and own.where == "layer"


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.2, 0.0), (1.0, 2.0)])
def test_usual_scales_are_fine(scale, shift):
    assert not found(RULES, Net(nn.GRU), shifted(scale, shift))


def test_inputs_that_are_large_but_learned_are_fine():
    model, task = Net(nn.GRU), shifted(20.0)
    untrained = Net(nn.GRU)
    assert "input_scale" in found(RULES, untrained, task)
    train(model, task, updates=150, lr=0.02)
    assert not found(RULES, model, task, untrained=untrained)


def test_sparse_features_and_tokens_are_fine():
    def markers(seed):
        x, y = sums(50, seed=seed)
        rare = torch.zeros(50, 64, 200)
        rare[3, :, 7] = 1.0
        return torch.cat([x, rare], -1), y

    assert not found(RULES, Net(inputs=201), markers)

    class Tokens(Net):
        def __init__(self):
            super().__init__(inputs=4)
            self.embedding = nn.Embedding(5000, 4)

        def forward(self, x):
            return super().forward(self.embedding(x))

    def tokens(seed):
        x = torch.randint(5000, (9, 30), generator=torch.Generator().manual_seed(seed))
        return x, torch.randn(30)

    assert not found(RULES, Tokens(), tokens)


def test_inputs_that_the_network_scales_itself_are_fine():
    class Scales(Net):
        def forward(self, x):
            return super().forward((x - 500) / 100)

    assert not found(RULES, Scales(), shifted(100.0, 500.0))


@pytest.mark.parametrize(("targets", "up"), [(500.0, 0.0), (1.0, 800.0), (1e-4, 0.0)])
def test_target_scale(targets, up):
    (own,) = found(RULES, Net(nn.GRU), shifted(targets=targets, up=up))["target_scale"]
    assert own.numbers["mean"] == pytest.approx(up, abs=3 * targets)
    assert not found(RULES, Net(nn.GRU), shifted(targets=2.0, up=-1.0))


def test_targets_that_the_output_reaches_are_fine():
    class Scales(Net):
        def forward(self, x):
            return 700 + 500 * super().forward(x)

    assert "target_scale" not in found(RULES, Scales(), shifted(targets=500.0, up=700.0))


class SoftmaxOfOne(Net):
    def forward(self, x):
        return self.head(self.layer(x)[0][-1]).softmax(-1).squeeze(-1)


class Zeroed(Net):
    def forward(self, x):
        return super().forward(x * 0)


@pytest.mark.parametrize(
    ("model", "words"), [(SoftmaxOfOne, "look at the head"), (Zeroed, "look at what comes before")]
)
@pytest.mark.parametrize("updates", [None, 100])
def test_constant_output(model, words, updates):
    (own,) = found(RULES, model(nn.LSTM), record=TrainingRecord(updates=updates))["constant_output"]
    assert words in own.message and own.numbers["output"] < 1e-6


@pytest.mark.parametrize(("spread", "constant"), [(1.5e-4, False), (0.7e-4, True)])
def test_outputs_need_no_larger_spread_for_targets_of_a_large_one(spread, constant):
    model, (x, _) = Net(), sums(seed=0)
    with torch.no_grad():
        model.head.weight.mul_(spread / model(x).std())
        model.head.bias.fill_(200.0)  # not at the best constant
    kinds = found(RULES, model, shifted(targets=60.0), record=TrainingRecord(updates=100))
    assert ("constant_output" in kinds) == constant


def test_outputs_that_may_be_the_same():
    model = Net()
    nn.init.zeros_(model.head.weight)
    assert not found(RULES, model, untrained=model)  # the start of a head of zeros
    assert "constant_output" in found(RULES, model, record=TrainingRecord(updates=100), untrained=model)

    def same(seed):
        x, y = sums(seed=seed)
        return x[:, :1].expand_as(x).contiguous(), y[:1].expand_as(y).contiguous()

    assert "constant_output" not in found(RULES, Net(), same)


def test_a_network_that_found_nothing_better_than_the_best_constant_is_not_ill_of_its_output():
    """Targets that have nothing to do with the inputs: training takes the outputs to their mean."""

    def noise(seed):
        x, y = sums(seed=seed)
        return x, y.roll(1)

    model = Net()
    with torch.no_grad():
        model.head.weight.mul_(1e-4)
        model.head.bias.fill_(float(noise(0)[1].mean()))
    assert "constant_output" not in found(RULES, model, noise, record=TrainingRecord(updates=100))
    deep = Net(nn.LSTM, num_layers=3)  # states that differ by little, but by more than rounding
    with torch.no_grad():
        for name, parameter in deep.layer.named_parameters():
            parameter.mul_(0.2 if "weight" in name else 1.0)
        last = deep.layer(noise(0)[0])[0][-1]
        assert 1e-7 < float(last.std(0).max()) < 1e-4
        deep.head.bias.fill_(float(noise(0)[1].mean() - (last @ deep.head.weight.T).mean()))
    assert "constant_output" not in found(RULES, deep, noise, record=TrainingRecord(updates=100))
    with torch.no_grad():
        model.head.bias.fill_(5.0)  # not at the best constant
    assert "constant_output" in found(RULES, model, noise, record=TrainingRecord(updates=100))


def test_classes():
    def classes(seed):
        x, y = sums(seed=seed)
        return x, (y > 0).long()

    entropy = lambda output, target: F.cross_entropy(output, target, reduction="none")  # noqa: E731
    assert not found(RULES, Net(nn.GRU, outputs=2), classes, entropy)
    assert "constant_output" in found(RULES, Zeroed(nn.GRU, outputs=2), classes, entropy)
