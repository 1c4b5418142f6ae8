"""The signal by lag of layers in both directions, a loss for each step: against unrolled twins, and planted tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from twin import unrolled

import retrograde as rg
from retrograde.errors import FlowError


class Tagger(nn.Module):
    """Layers in both directions, and a head that reads every step."""

    def __init__(self, cell=nn.RNN, layers=1, between=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = cell(2, 8, 1 if between else layers, bidirectional=True)
        self.between, self.upper = between, cell(16, 8, bidirectional=True) if between else None
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        h = self.layer(x)[0]
        h = h if self.upper is None else self.upper(self.between(h))[0]
        return self.head(h)[..., 0]


class Smoothed(nn.Module):
    """The mean of each step and the one before."""

    def forward(self, h):
        return (h + h.roll(1, 0)) / 2


def squared(output, target):
    return (output - target).square()


def planted(kind, lag, steps=20, size=64, count=4):
    """Sequences, and what was so many steps before, will be so many steps later, both together, or noise."""
    torch.manual_seed(1)
    for _ in range(count):
        x, at = torch.randn(steps, size, 2), torch.arange(steps).unsqueeze(1)
        past = x[..., 0].roll(lag, 0) * (at >= lag)
        later = x[..., 1].roll(-lag, 0) * (at < steps - lag)
        yield x, {"past": past, "later": later, "both": past + later, "noise": torch.randn(steps, size)}[kind]


@pytest.mark.parametrize(("layers", "between"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("lengths", [None, [9, 9, 7, 5, 9, 8, 6, 9]])
def test_the_statistic_is_that_of_an_unrolled_twin(layers, between, lengths):
    torch.manual_seed(0)
    steps, size = 9, 8
    x, y = torch.randn(steps, size, 2).double(), torch.randn(steps, size).double()
    layer, head = nn.RNN(2, 5, layers, bidirectional=True).double(), nn.Linear(10, 1).double()
    change = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 4), nn.Tanh()).double()
    upper = nn.RNN(4, 5, bidirectional=True).double()
    live = torch.arange(steps).unsqueeze(1) < torch.tensor(lengths or [steps] * size)
    x = x * live.unsqueeze(-1)

    def once(own, x):
        if lengths is None:
            return own(x)[0]
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(own(packed)[0])[0]

    def run(x):
        return once(upper, change(once(layer, x))) if between else once(layer, x)

    own = [layer, upper] if between else [layer]
    flow = rg.gradient_flow(run, x, loss=lambda h: squared(head(h)[..., 0], y) * live, module=own)
    h, states = unrolled(layer, x, lengths=lengths)
    h = unrolled(upper, change(h), lengths=lengths)[0] if between else h
    own = h.detach().requires_grad_()
    (errors,) = torch.autograd.grad((squared(head(own)[..., 0], y) * live).sum(), own)
    there = live.unsqueeze(-1).double()
    errors = (errors - errors.sum(1, keepdim=True) / there.sum(1, keepdim=True)) * there
    inputs = (x - x.sum(1, keepdim=True) / there.sum(1, keepdim=True)) * there
    for label in ("l0", "l0_reverse"):
        g = torch.zeros(steps, size, 10, dtype=torch.float64)
        for t in range(steps):
            back = torch.autograd.grad((h[t] * errors[t]).sum(), states[label], retain_graph=True, allow_unused=True)
            for k, adjoint in enumerate(back):
                if adjoint is not None:
                    before = adjoint * (1 - states[label][k].square())
                    g[abs(t - k)] += torch.einsum("bi,bj->bij", before, inputs[k]).flatten(1)
        own_size = g.square().sum((1, 2))
        expected = ((g.sum(1).square().sum(1) - own_size) / own_size).detach().numpy()
        found = next(
            f for name, f in ((n, flow.signal_by_lag(n, exact=True)) for n in flow.layers) if name.endswith(label)
        )
        np.testing.assert_allclose(found.statistic, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["past", "later", "both"])
@pytest.mark.parametrize(("cell", "layers", "lag"), [(nn.RNN, 1, 6), (nn.GRU, 1, 2), (nn.RNN, 2, 6)])
def test_the_need_is_the_distance_of_the_task_in_either_direction(kind, cell, layers, lag):
    found = rg.flow.need_of(Tagger(cell, layers), planted(kind, lag), squared)
    assert found.need == found.peak == lag
    assert {signal.layer for signal in found.layers} == {"l0", "l0_reverse"}
    if layers == 1:
        one_way = {"past": "l0_reverse", "later": "l0"}
        assert kind == "both" or found.layer(one_way[kind]).need is None


def test_noise_has_no_need_and_what_is_left_is_of_the_networks_own_errors():
    found = rg.flow.need_of(Tagger(), planted("noise", 0), squared)
    assert found.need is None and found.sequences == 256 and found.joint is not None
    assert found.joint.sequences == 256 and not found.joint.found
    left = rg.flow.signal_left(Tagger(), planted("later", 3), squared)
    assert left.peak == 3 and left.error_share == pytest.approx(1, abs=0.3)


def test_sequences_of_fewer_steps_than_are_compared_without_the_network():
    found = rg.flow.need_of(Tagger(), planted("noise", 0, steps=3), squared)
    assert found.need is None and not found.joint.found and found.joint.sequences == 256


def test_modules_that_feed_each_other_are_followed_and_what_is_not_known_is_refused():
    assert rg.flow.need_of(Tagger(between=nn.Identity()), planted("both", 4), squared).need == 4
    for between in (nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5)).eval()):
        assert rg.flow.need_of(Tagger(between=between), planted("both", 4), squared).need == 4
    with pytest.raises(FlowError, match="step by step"):  # the states of other steps are mixed in on their way
        rg.flow.need_of(Tagger(between=Smoothed()), planted("both", 4), squared)
    model, mixing = Tagger(), nn.Linear(20, 20)
    with pytest.raises(FlowError, match="one step at a time"):
        rg.flow.need_of(lambda x: mixing(model(x).T).T, planted("both", 4), squared)
    (x, y), *_ = planted("both", 4)
    stacked = rg.gradient_flow(Tagger(layers=2), x, loss=lambda output: squared(output, y))
    assert stacked.signal_by_lag("l0").need == 4
    with pytest.raises(FlowError, match="ask for the signal of l0, l0_reverse"):
        stacked.signal_by_lag("l1")


@pytest.mark.parametrize("last", [True, False])
def test_layers_in_one_direction_with_a_normalization_between_them_have_a_need(last):
    torch.manual_seed(0)
    below, norm, above, head = nn.GRU(2, 8), nn.LayerNorm(8), nn.GRU(8, 8), nn.Linear(8, 1)

    def model(x):
        h = head(above(norm(below(x)[0]))[0])[..., 0]
        return h[-1] if last else h

    batches = [(x, y[-1] if last else y) for x, y in planted("past", 4)]
    assert rg.flow.need_of(model, batches, squared).need == 4
