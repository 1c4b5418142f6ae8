"""Optimizers that lack parameters, gradients that add up, and loops that do not train."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from small import Net, squared, sums
from torch import nn

import retrograde as rg
from retrograde.doctor import TrainingRecord
from retrograde.doctor.examination import Examination, samples_of
from retrograde.doctor.rules.loop import RULES, gradients_add_up, not_registered, not_trained, training_loop

BATCHES = [sums(seed=seed, count=32) for seed in range(8)]


def trained(step, *, rounds=20, lr=0.02, optimizer=torch.optim.Adam, parameters=None):
    """A network, its start and record after rounds over the batches, each update done by a function."""
    model = Net(nn.GRU)
    start = copy.deepcopy(model)
    made = optimizer(model.parameters() if parameters is None else parameters(model), lr)
    losses, norms = [], []
    for _ in range(rounds):
        for x, y in BATCHES:
            loss = squared(model(x), y).mean()
            step(made, loss)
            losses.append(loss.item())
            norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item())
    name = "adam" if optimizer is torch.optim.Adam else "sgd"
    record = TrainingRecord(name, lr, updates=len(losses), losses=losses, gradient_norms=norms, torch_optimizer=made)
    return model, start, record


def plain(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def adding(optimizer, loss):
    loss.backward()
    optimizer.step()


def never(optimizer, loss):
    loss.backward()


def found(model, start, record, rules=RULES, given=True):
    exam = Examination(model, samples_of(BATCHES, squared), start, record, start_given=given)
    return {finding.kind.value: finding for rule in rules for finding in rule(exam)}


def test_an_optimizer_that_lacks_the_recurrent_layer():
    # As stuck as the head alone can be: learned in part would do as well.
    model, start, record = trained(plain, parameters=lambda net: net.head.parameters(), rounds=2)
    own = found(model, start, record, [not_trained])["not_trained"]
    assert "not in the optimizer" in own.rule and own.numbers["tensors"] == 4
    assert "layer.weight_ih_l0" in own.message and "head" not in own.message.split("(")[1]
    without = TrainingRecord("adam", 0.02, updates=record.updates)  # the weights of the start tell it as well
    assert "bit for bit" in found(model, start, without, [not_trained])["not_trained"].rule
    assert not found(model, start, without, [not_trained], given=False)


def test_frozen_layers_and_a_whole_optimizer_are_right():
    model, start, record = trained(plain, rounds=1)
    assert not found(model, start, record, [not_trained])
    model.layer.requires_grad_(False)
    assert not found(model, start, TrainingRecord("adam", 0.02, updates=8), [not_trained])


def test_updates_below_rounding_are_not_missing():
    model, start, _ = trained(plain, rounds=1)
    with torch.no_grad():
        model.head.bias.copy_(start.head.bias)
        model.layer.weight_ih_l0.mul_(1e-3)
        model.head.weight.fill_(1e3)  # the gradient of the layer is far larger than that of the bias
    assert not found(model, start, TrainingRecord("sgd", 0.02, updates=8), [not_trained])


def test_an_optimizer_of_a_copy_says_nothing():
    model, start, record = trained(plain, rounds=1)
    assert not found(copy.deepcopy(model), start, record, [not_trained])


class Listed(Net):
    """Its layer is in a container of some type, which is the module's own or a plain one."""

    def __init__(self, container):
        super().__init__(nn.GRU)
        self.layers = container([self._modules.pop("layer")])

    def forward(self, x):
        return self.head(self.layers[0](x)[0][-1]).squeeze(-1)


@pytest.mark.parametrize(("container", "known"), [(list, False), (tuple, False), (nn.ModuleList, True)])
def test_layers_in_a_plain_list_are_not_trained(container, known):
    model = Listed(container)
    own = found(model, model, TrainingRecord(), [not_registered])
    if known:
        assert not own
        return
    assert own["not_trained"].numbers == {"tensors": 4, "parameters": 912, "share": 912 / (912 + 17)}
    assert "nn.ModuleList" in own["not_trained"].message and "(48, 16)" in own["not_trained"].message
    whole = torch.optim.Adam([*model.parameters(), *model.layers[0].parameters()])
    assert not found(model, model, TrainingRecord("adam", 0.001, torch_optimizer=whole), [not_registered])
    model.head.requires_grad_(False)  # nothing that an optimizer could be made of: a wrapper around a network
    assert not found(model, model, TrainingRecord(), [not_registered])


def test_gradients_that_are_never_set_to_zero():
    model, start, record = trained(adding, optimizer=torch.optim.SGD, lr=0.05)
    own = found(model, start, record, [gradients_add_up])["training_loop"]
    assert "zero_grad()" in own.message and own.numbers["change"] < 0.1 < own.numbers["usual"]


@pytest.mark.parametrize(
    ("optimizer", "lr"), [(torch.optim.SGD, 0.05), (torch.optim.Adam, 0.3), (torch.optim.SGD, 1e-4)]
)
def test_gradients_of_each_update_alone(optimizer, lr):
    assert not found(*trained(plain, optimizer=optimizer, lr=lr), [gradients_add_up])


def test_a_loop_that_never_steps():
    model, start, record = trained(never)
    own = found(model, start, record)
    assert own["training_loop"].numbers["trial"] < 0.7 * own["training_loop"].numbers["chance"]
    assert own["not_trained"].numbers["share"] == 1
    assert rg.diagnose(model, BATCHES, squared, untrained=start, record=record).verdict == "sick"
    assert not found(model, start, record, [training_loop], given=False)  # a twin is not the start


def test_a_loop_that_trains():
    model, start, record = trained(plain, lr=1e-5)  # too low a rate, for which the loop is not to blame
    assert not found(model, start, record, [training_loop])


def test_noise_is_not_the_fault_of_the_loop():
    x = torch.randn(12, 256, 1, generator=torch.Generator().manual_seed(0))
    y = torch.randn(256, generator=torch.Generator().manual_seed(1))
    batches = [(x[:, i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)]
    model = Net(nn.GRU)
    record = TrainingRecord("adam", 0.02, updates=200, losses=[1.0] * 200)
    exam = Examination(model, samples_of(batches, squared), model, record, start_given=True)
    assert not list(training_loop(exam))


def test_gradients_that_were_all_0_do_not_add_up():
    _, start, record = trained(plain, rounds=8)
    record = replace(record, gradient_norms=[0.0] * len(record.gradient_norms))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not found(start, start, record, [gradients_add_up])
