"""Mistakes in the wiring, and networks that are wired right in unusual ways."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from small import Net, delayed, found, squared, sums
from torch import nn
from torch.nn import functional as F

from retrograde.doctor import TrainingRecord
from retrograde.doctor.forward import changed
from retrograde.doctor.rules import wiring
from retrograde.doctor.rules.wiring import RULES


class BatchFirst(nn.Module):
    """For inputs (B, T, 1)."""

    def __init__(self, batch_first, last):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.last = nn.GRU(1, 8, batch_first=batch_first), nn.Linear(8, 1), last

    def forward(self, x):
        h = self.layer(x)[0]
        return self.head(h[:, -1] if self.last else h).squeeze(-1)


def batch_first(task, steps, count):
    def draw(seed):
        x, y = task(steps, count, seed=seed)
        return x.transpose(0, 1), y

    return draw


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
@pytest.mark.parametrize("last", [True, False])
def test_wrong_time_axis(shape, last):
    task = batch_first(sums if last else delayed, *shape)
    loss = squared if last else lambda output, target: squared(output.T, target)
    assert not found(RULES, BatchFirst(True, last), task, loss)
    wrong = found(RULES, BatchFirst(False, last), task, loss)
    assert list(wrong) == ["wrong_time_axis"]
    (own,) = wrong["wrong_time_axis"]
    assert own.where == "layer" and own.numbers["steps"] == own.numbers["sequences"] == shape[1]
    assert "batch_first=False" in own.message


def test_a_batch_first_layer_under_time_first_inputs_is_wrong_too():
    model = Net(nn.LSTM, batch_first=True)
    assert list(found(RULES, model, steps=6, count=10)) == ["wrong_time_axis"]


def test_a_loop_over_the_batch_in_place_of_time_is_named():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.cell, self.head = nn.GRUCell(1, 8), nn.Linear(8, 1)

        def forward(self, x):  # (T, B, 1) by its code, given (B, T, 1)
            h, states = None, []
            for one in x:
                h = self.cell(one, h)
                states.append(h)
            return self.head(torch.stack(states)[:, -1]).squeeze(-1)

    wrong = found(RULES, Loop(), batch_first(sums, 6, 10))
    assert list(wrong) == ["wrong_time_axis"] and "cell runs over 10 steps" in wrong["wrong_time_axis"][0].message


class Rolled(Net):
    def forward(self, x):
        h = self.layer(x)[0]
        return self.head((h + h.roll(1, 1))[-1]).squeeze(-1)


class Centered(Net):
    def forward(self, x):
        h = self.layer(x)[0][-1]
        return self.head(h - h.mean(0)).squeeze(-1)


@pytest.mark.parametrize("model", [Rolled, Centered])
@pytest.mark.parametrize("count", [3, 9])
def test_sequences_that_read_each_other(model, count):
    wrong = found(RULES, model(nn.GRU), count=count)
    assert list(wrong) == ["state_leaks"] and wrong["state_leaks"][0].numbers["reached"] >= 1


class Normalized(Net):
    def __init__(self, **options):
        super().__init__()
        self.norm = nn.BatchNorm1d(16, **options)

    def forward(self, x):
        return self.head(self.norm(self.layer(x)[0][-1])).squeeze(-1)


class Similarity(Net):
    def forward(self, x):
        h = self.layer(x)[0][-1]
        return h @ h.T


def test_sequences_that_only_seem_to_read_each_other():
    assert not found(RULES, Normalized().train())
    assert not found(RULES, Normalized(track_running_stats=False))
    pairs = lambda output, target: F.cross_entropy(output, torch.arange(len(output)), reduction="none")  # noqa: E731
    assert not found(RULES, Similarity(), loss=pairs, count=9)
    assert not found(RULES, Net(nn.LSTM, num_layers=2, dropout=0.5).train())
    assert not found(RULES, Net(nn.GRU, bidirectional=True, head=nn.Linear(32, 1)))


@pytest.mark.parametrize(
    ("output", "target", "wrong"),
    [((64, 1), (64,), True), ((64,), (64, 1), True), ((64, 1), (64, 1), False), ((64,), (64,), False)],
)
def test_targets_of_another_shape_than_the_outputs(output, target, wrong):
    class Shaped(Net):
        def forward(self, x):
            return super().forward(x).view(output)

    def task(seed):
        x, y = sums(seed=seed)
        return x, y.view(target)

    def loss(output, target):
        return (output - target).square().flatten(1).mean(1) if (output - target).ndim > 1 else squared(output, target)

    own = found([wiring.targets_broadcast], Shaped(), task, loss)
    assert bool(own) is wrong
    squeezed = lambda output, target: squared(output.flatten(), target.flatten())  # noqa: E731
    assert not found([wiring.targets_broadcast], Shaped(), task, squeezed)


def test_a_loss_that_takes_outputs_and_targets_of_different_shapes():
    """Right as it is, and wrong if the target had the shape of the output; and one that compares all on purpose."""

    class Column(Net):
        def forward(self, x):
            return super().forward(x).unsqueeze(-1)

    for loss in (
        lambda output, target: (output.squeeze(-1) - target).square(),
        lambda output, target: ((output - output.T) - (target.view(-1, 1) - target.view(1, -1))).square().mean(1),
    ):
        assert not found([wiring.targets_broadcast], Column(), sums, loss)


class Keeps(Net):
    kept = None

    def forward(self, x):
        h, state = self.layer(x, self.kept)
        self.kept = state.detach()
        return self.head(h[-1]).squeeze(-1)


class Resets(Keeps):
    def reset_state(self):
        self.kept = None


def test_a_state_that_is_kept_from_batch_to_batch():
    model = Keeps(nn.GRU)
    wrong = found(RULES, model, batches=3, steps=5)
    assert list(wrong) == ["state_leaks"] and "second call" in wrong["state_leaks"][0].message
    assert model.kept is None  # nothing is left behind
    assert not found(RULES, Resets(nn.GRU))
    assert not found(RULES, Keeps(nn.GRU), record=TrainingRecord(bptt=12))


def test_a_state_that_is_kept_in_training_mode_only():
    class KeepsInTraining(Keeps):
        def forward(self, x):
            return super().forward(x) if self.training else self.head(self.layer(x)[0][-1]).squeeze(-1)

    wrong = found(RULES[1:2], KeepsInTraining(nn.GRU), batches=3, steps=5)
    assert "two calls in training mode" in wrong["state_leaks"][0].rule
    normalized = Net(nn.GRU, head=nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1)))
    assert not found(RULES[1:2], normalized.train(), batches=3, steps=5)


@pytest.mark.parametrize(("t", "freedom"), [(3.0, 1), (3.0, 2), (4.5, 5), (1.0, 30), (3.1, 400)])
def test_the_tail_of_a_mean_of_few_sequences(t, freedom):
    assert wiring._tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-3)


def test_a_kept_state_that_helps_is_meant():
    class Copies(nn.Module):
        """Answers with the last input of the batch before."""

        def __init__(self):
            super().__init__()
            self.layer, self.kept, self.scale = nn.RNN(1, 1), None, nn.Parameter(torch.ones(()))
            with torch.no_grad():
                for p in self.layer.parameters():
                    p.zero_()
                self.layer.weight_ih_l0.fill_(0.1)

        def forward(self, x):
            before = torch.zeros(x.shape[1]) if self.kept is None else self.kept[0, :, 0]
            h, self.kept = self.layer(x, self.kept)
            return self.scale * torch.atanh(before) * 10 + 0 * h[0, :, 0]

    whole = torch.randn(20, 30, 1)
    batches = iter([(whole[k : k + 4], whole[k - 1, :, 0]) for k in range(4, 20, 4)])
    model = Copies()
    assert not found([RULES[1]], model, lambda seed: next(batches), batches=4, untrained=model)


class Cells(nn.Module):
    def __init__(self, cell, carry):
        super().__init__()
        self.cell, self.head, self.carry = cell(1, 8), nn.Linear(8, 1), carry

    def forward(self, x):
        state, outputs = None, []
        for step in x:
            state = self.cell(step, state if self.carry else None)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(outputs)).squeeze(-1)


class Pieces(Net):
    def __init__(self, cell, size, carry):
        super().__init__(cell, last=False)
        self.size, self.carry = size, carry

    def forward(self, x):
        state, outputs = None, []
        for piece in x.split(self.size):
            h, state = self.layer(piece, state if self.carry else None)
            outputs.append(h)
        return self.head(torch.cat(outputs)).squeeze(-1)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_without_their_state(cell):
    assert list(found(RULES, Cells(cell, False), delayed)) == ["state_not_carried"]
    assert not found(RULES, Cells(cell, True), delayed)


@pytest.mark.parametrize("size", [1, 4])
def test_pieces_without_the_state_before(size):
    wrong = found(RULES, Pieces(nn.LSTM, size, False), delayed)
    assert list(wrong) == ["state_not_carried"] and wrong["state_not_carried"][0].numbers["window"] == size
    assert not found(RULES, Pieces(nn.LSTM, size, True), delayed)


class Flattened(Net):
    def forward(self, x):
        h = self.layer(x.flatten(0, 1)[None])[0]
        return self.head(h.view(*x.shape[:2], -1)).squeeze(-1)


def test_steps_that_were_flattened_into_the_batch():
    assert list(found(RULES, Flattened(nn.GRU, last=False), delayed)) == ["state_not_carried"]


class Encoder(nn.Module):
    """A network whose layers each run once, and one after the other."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.GRU(1, 8), nn.GRU(1, 8), nn.Linear(8, 1)

    def forward(self, x):
        _, state = self.encoder(x)
        return self.head(self.decoder(torch.zeros_like(x), state)[0]).squeeze(-1)


class Unused(Net):
    def __init__(self, runs):
        super().__init__()
        self.second, self.runs = nn.LSTM(16, 4), runs

    def forward(self, x):
        if self.runs:
            self.second(self.layer(x)[0])
        return super().forward(x)


class Half(Net):
    def forward(self, x):
        return self.head(self.layer(x)[0][-1, :, :16]).squeeze(-1)


def test_a_direction_that_is_not_used():
    (wrong,) = found(RULES, Half(nn.GRU, bidirectional=True))["layer_not_called"]
    assert wrong.where == "layer.l0_reverse" and "exactly 0" in wrong.rule
    zero = nn.Linear(32, 1)
    nn.init.zeros_(zero.weight)
    assert "layer_not_called" not in found(RULES, Net(nn.GRU, bidirectional=True, head=zero))


@pytest.mark.parametrize("runs", [False, True])
def test_a_layer_that_is_not_used(runs):
    wrong = found(RULES, Unused(runs))
    assert list(wrong) == ["layer_not_called"] and wrong["layer_not_called"][0].where == "second"
    assert ("never called" in wrong["layer_not_called"][0].message) is not runs
    assert not found(RULES, Encoder(), delayed)


class HeadOf(Net):
    """The head reads the states in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.how, self.mix = how, nn.Linear(1, 16)

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.how != "no_grad"):
            h = self.layer(x)[0][-1]
        if self.how == "detach":
            h = h.detach()
        if self.how == "input":
            h = self.mix(x[-1])
        output = self.head(h)
        return (output.softmax(-1) if self.how == "softmax" else output).squeeze(-1)


@pytest.mark.parametrize(
    ("how", "words"),
    [("no_grad", "cut"), ("detach", "cut"), ("input", "nothing is made"), ("softmax", "derivative is 0")],
)
def test_a_head_that_does_not_depend_on_the_states(how, words):
    wrong = found(RULES, HeadOf(how), record=TrainingRecord(updates=10))
    assert "dead_head" in wrong and words in wrong["dead_head"][0].message
    assert not found(RULES, HeadOf(""))


def test_a_head_of_zeros_is_only_dead_where_it_cannot_change():
    model = Net()
    nn.init.zeros_(model.head.weight)
    assert not found(RULES, model, untrained=model)
    assert "dead_head" in found(RULES, model, record=TrainingRecord(updates=50), untrained=model)
    model.head.weight.requires_grad_(False)
    assert "dead_head" in found(RULES, model, untrained=model)


def test_a_reservoir_is_not_dead():
    model = Net()
    model.layer.requires_grad_(False)
    assert not found(RULES, model, untrained=model)


def test_examining_leaves_the_model_and_random_numbers_alone():
    model = Keeps(nn.GRU).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found([RULES[0], RULES[1], RULES[2], RULES[4]], model, untrained=model, count=9, steps=5)
    assert torch.equal(torch.rand(3), expected)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_outputs_that_are_not_finite_are_compared_where_they_are():
    nan, inf = float("nan"), float("inf")
    before, after = torch.tensor([1.0, 2.0, nan, inf, inf]), torch.tensor([1.0, 2.1, nan, inf, -inf])
    assert changed(before, after).tolist() == [False, True, False, False, True]


def test_a_kept_state_of_unrelated_batches_does_not_help():
    """What the model kept from its last training batch may be better or worse than what it keeps now, by chance."""

    class Shifts(nn.Module):
        """Answers with the mean of the state that it kept, so that one state is better for all sequences."""

        def __init__(self):
            super().__init__()
            self.layer, self.kept = nn.RNN(1, 4), 5 * torch.ones(1, 64, 4)

        def forward(self, x):
            before = self.kept.mean()
            h, self.kept = self.layer(x, self.kept)
            return before + 0 * h[-1, :, 0]

    assert "state_leaks" in found([RULES[1]], Shifts(), batches=4)


def test_an_answer_that_was_rounded_otherwise_once_is_no_leak():
    calls = itertools.count()

    class Once(Net):
        def forward(self, x):
            return super().forward(x) * (1 + 1e-3 * (next(calls) == 0))

    assert not found(RULES[:1], Once())


class Loop(nn.Module):
    """A loop over a cell that passes on what a function makes of the state."""

    def __init__(self, cell, passed):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head, self.passed = cell(1, 8), nn.Linear(8, 1), passed

    def forward(self, x):
        state = None
        for one in x:
            state = self.cell(one, state)
            h = state[0] if isinstance(state, tuple) else state
            state = tuple(map(self.passed, state)) if isinstance(state, tuple) else self.passed(state)
        return self.head(h).squeeze(-1)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_state_that_is_detached_at_every_step(cell):
    (own,) = found(RULES, Loop(cell, lambda h: h.detach()))["state_detached"]
    assert "the layer cell gets its state" in own.message and own.numbers["calls"] == 12
    assert not found(RULES, Loop(cell, lambda h: h))
    assert list(found(RULES, Loop(cell, torch.zeros_like))) == ["state_not_carried"]


def test_a_message_does_not_change_the_name_of_a_layer():
    model = Net(nn.GRU)
    model.other = nn.GRU(1, 4)
    (own,) = found(RULES, model)["layer_not_called"]
    assert own.message.startswith("the layer other (GRU) is never called")
