"""The signal by lag over many batches: what the data asks for, what is left to learn, and what cannot be known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.errors import FlowError


class Net(nn.Module):
    """A layer and a head that reads every step, or only the last."""

    def __init__(self, inputs=1, outputs=1, *, cell=nn.RNN, size=16, last=True, then=None, **options):
        super().__init__()
        self.rnn, self.head = cell(inputs, size, **options), nn.Linear(size, outputs)
        self.last, self.then = last, then or nn.Identity()

    def forward(self, x):
        h = self.rnn(x)[0]
        return self.then(self.head(h[-1] if self.last else h))


def square(output, target):
    return (output[..., 0] - target).square()


def crossed(output, target):
    return nn.functional.cross_entropy(output.movedim(-1, 1), target, reduction="none")


def batches(make, count=8, size=64, seed=0):
    torch.manual_seed(seed)
    return [make(size) for _ in range(count)]


def summed(which, steps=20):
    def make(size):
        x = torch.randn(steps, size, 1)
        return x, x[which].sum((0, 2)) if which is not None else torch.randn(size)

    return make


def echo(lag, steps=12):
    def make(size):
        x = torch.randint(4, (steps, size))
        y = torch.cat([torch.randint(4, (lag, size)), x[: steps - lag]])
        return nn.functional.one_hot(x, 4).float(), y

    return make


def untrained(*inputs, **options):
    torch.manual_seed(1)
    return Net(*inputs, **options)


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_need_of_an_echo_in_as_few_sequences_as_decide(cell):
    found = rg.flow.need_of(untrained(4, 4, cell=cell, last=False), batches(echo(5)), crossed)
    assert found.need == found.peak == 5
    assert found.decided and found.sequences < 8 * 64
    assert "up to lag 5" in str(found)


def test_early_and_late_steps_and_noise():
    def need(which):
        return rg.flow.need_of(untrained(), batches(summed(which)), square)

    assert need(slice(0, 2)).need == 19
    assert need(slice(-4, None)).need == 3
    noise = need(None)
    assert noise.need is None and noise.sequences == 8 * 64 and not noise.joint.found and noise.joint.p_value == 1


def test_looking_several_times_keeps_the_error_rate():
    alarms = [
        rg.flow.need_of(untrained(size=8), batches(summed(None, 6), 4, 32, seed), square, alpha=0.2, seed=seed).need
        for seed in range(20)
    ]
    assert sum(need is not None for need in alarms) <= 8  # 4 on average; more than 8 in one case of a hundred


def test_weak_signals_of_many_lags_add_up():
    """The adding problem, in which a single step carries almost no signal."""

    def make(size):
        steps, b = 30, torch.arange(size)
        x, mark = torch.rand(steps, size), torch.zeros(steps, size)
        mark[torch.randint(15, (size,)), b] = mark[torch.randint(15, 30, (size,)), b] = 1
        return torch.stack([x, mark], -1), (x * mark).sum(0)

    found = rg.flow.need_of(untrained(2), batches(make, 4, 512), square)
    assert 18 <= found.need <= 29
    assert found.layers[0].significant.sum() < 5


def test_small_batches_are_taken_together_and_the_rest_is_reported():
    found = rg.flow.need_of(untrained(), batches(summed(slice(-3, None)), 100, 5), square)
    assert found.need == 2 and found.sequences >= 64
    with pytest.raises(FlowError, match="5 are too few"):
        rg.flow.need_of(untrained(), batches(summed(None), 1, 5), square)
    odd = [batch for steps in (20, 21) for batch in batches(summed(None, steps), 1, 5 if steps == 20 else 16)]
    assert any("5 sequences were left out" in note for note in rg.flow.need_of(untrained(), odd, square).notes)


def test_packed_sequences_of_different_lengths():
    class Packed(Net):
        def forward(self, x):
            return self.head(self.rnn(x)[1][-1])

    def make(size):
        lengths = torch.randint(10, 17, (size,))
        x = torch.randn(16, size, 1)
        y = torch.stack([x[n - 8, b, 0] for b, n in enumerate(lengths)])
        return nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False), y

    torch.manual_seed(1)
    assert rg.flow.need_of(Packed(cell=nn.GRU), batches(make, 4, 40), square).need == 7


def test_the_need_of_a_stack_and_of_two_towers_is_that_of_the_network():
    assert rg.flow.need_of(untrained(num_layers=2), batches(summed(slice(5, 8))), square).need == 14

    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.RNN(1, 8), nn.RNN(1, 8), nn.Linear(16, 1)

        def forward(self, x):
            return self.head(torch.cat([self.a(x)[0][-1], self.b(x.flip(0))[0][-1]], -1))

    torch.manual_seed(1)
    found = rg.flow.need_of(Towers(), batches(summed(slice(-4, -2))), square)
    assert found.layer("a.l0").need == 3 and found.need == found.layer("b.l0").need == 17


def test_only_some_losses_of_a_long_sequence_are_followed():
    found = rg.flow.need_of(untrained(4, 4, last=False), batches(echo(5, 40)), crossed, effort=3e6)
    assert found.need == 5 and any("of 40 steps were followed" in note for note in found.notes)


def test_own_predictions_do_not_count_whatever_the_output_is():
    def binary(output, target):
        return nn.functional.binary_cross_entropy(output[..., 0], target, reduction="none")

    def logarithm(output, target):
        return -(output[..., 0].log() * target + (1 - output[..., 0]).log() * (1 - target))

    def make(size):
        x = torch.randn(15, size, 1)
        return x, (x[-4, :, 0] > 0).float()

    loud = untrained(then=nn.Sigmoid())
    loud.head.weight.data.mul_(10)
    for loss in (binary, logarithm):
        assert rg.flow.need_of(loud, batches(make), loss).need == 3
        noise = [(x, torch.randint(2, y.shape).float()) for x, y in batches(make)]
        assert rg.flow.need_of(loud, noise, loss).need is None
    assert rg.flow.signal_left(loud, noise, binary).need is not None  # what it says at random could be unlearned


def test_a_solved_task_has_a_signal_and_hardly_an_error():
    net = untrained(4, 4, cell=nn.GRU, last=False)
    data = batches(echo(2, 8))
    before = rg.flow.signal_left(net, data, crossed)
    assert before.need == 2 and before.error_share == pytest.approx(1, abs=0.2)
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(15):
        for x, y in data:
            optimizer.zero_grad()
            crossed(net(x), y)[2:].mean().backward()
            optimizer.step()

    def scored(output, target):
        return crossed(output, target) * (torch.arange(8) >= 2).unsqueeze(1)

    after = rg.flow.signal_left(net, data, scored)
    assert after.need is not None and after.error_share < 0.1
    assert np.nanmax(after.layers[0].effect) < 0.1 * np.nanmax(before.layers[0].effect)


def test_targets_that_no_gradient_sees_are_told_from_noise():
    def parity(size):
        x = torch.randint(2, (8, size, 1)).float() * 2 - 1
        return x, x[2:6].prod(0)[:, 0]

    found = rg.flow.need_of(untrained(), batches(parity), square)
    assert found.need is None and found.joint.found and 6 <= found.joint.window <= 8 and found.joint.p_value < 0.01
    assert "the last 8 steps together" in str(found)

    def product(size):
        x = torch.randn(20, size, 1)
        return x, x[3, :, 0] * x[15, :, 0]

    torch.manual_seed(0)
    flat = untrained(nonlinearity="relu")  # for positive states a ReLU network is linear
    flat.rnn.bias_ih_l0.data += 50
    assert rg.flow.need_of(flat, batches(product), square).joint.found


def test_constant_targets():
    data = [(torch.randn(10, 32, 1), torch.ones(32)) for _ in range(3)]
    found = rg.flow.need_of(untrained(), data, square)
    assert found.constant and found.need is None and found.joint is None
    assert "the same for all" in str(found)


def test_what_cannot_be_known_is_refused():
    with pytest.raises(FlowError, match="one step at a time"):
        one = Net(last=False)
        rg.flow.need_of(lambda x: one(x).cumsum(0), [(x := torch.randn(10, 32, 1), x[..., 0])], square)
    with pytest.raises(FlowError, match="mixed"):
        rg.flow.need_of(untrained(), batches(summed(None), 1), lambda o, y: (o[:, 0] - y - o.mean()).square())

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.GRU(1, 6), nn.BatchNorm1d(6, track_running_stats=False)

        def forward(self, x):
            return self.norm(self.layer(x)[0].mean(0))

    with pytest.raises(FlowError, match="mixed"):
        rg.flow.need_of(Pooled(), batches(summed(None), 1), square)
