"""How few of the last steps tell, where noise leaves less than half of the errors: planted series."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.doctor.examination import Examination, samples_of


class Reader(nn.Module):
    """A GRU under a head that reads the last state, or every one."""

    def __init__(self, inputs=1, outputs=1, cell=nn.GRU, *, each=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.each = cell(inputs, 16), nn.Linear(16, outputs), each

    def forward(self, x):
        h = self.layer(x)[0]
        return self.head(h if self.each else h[-1])


def squared(output, target):
    return (output[..., 0] - target).square()


def labels(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none")


def chain(steps, rho, count=512, size=1):
    """A series whose neighboring steps have correlation rho."""
    x = [torch.randn(count, size)]
    for _ in range(steps - 1):
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * torch.randn(count, size))
    return torch.stack(x)


def hidden_in_noise(clean, share):
    return share**0.5 * (clean - clean.mean()) / clean.std() + (1 - share) ** 0.5 * torch.randn(clean.shape)


def planted(kind):
    """Sequences, targets with noise, whether there is one at every step; and how far back the last looks."""
    torch.manual_seed(1)
    if kind == "seasonal":
        wave = 2**0.5 * torch.sin(2 * torch.pi * (torch.arange(48).view(-1, 1, 1) + 12 * torch.rand(1, 512, 1)) / 12)
        x = wave + torch.randn(wave.shape)
        return x, hidden_in_noise(x[-7, :, 0], 0.4), False, 6
    if kind == "several":
        x = chain(40, 0.9, size=3)
        return x, hidden_in_noise(x[-5, :, 0] - x[-10, :, 1], 0.4), False, 9
    if kind == "each":
        x = chain(40, 0.9)
        return x, hidden_in_noise(x[..., 0].roll(5, 0), 0.3), True, 5
    steps, rho, lag, share = {"near": (40, 0.9, 2, 0.3), "far": (60, 0.95, 20, 0.5), "weak": (60, 0.7, 30, 0.1)}[kind]
    x = chain(steps, rho)
    return x, hidden_in_noise(x[-1 - lag, :, 0], share), False, lag


@pytest.mark.parametrize("kind", ["near", "far", "weak", "each", "several", "seasonal"])
def test_the_need_of_noisy_targets_of_series_that_repeat_themselves(kind):
    x, y, each, lag = planted(kind)
    model = Reader(x.shape[2], each=each)
    exam = Examination(model, samples_of((x, y), squared), model)
    assert exam.need is not None
    if exam.need.at_most:  # a tenth of the variance, in 512 sequences
        assert kind == "weak" and exam.need.lag >= lag and "upper bound" in exam.notes[-1]
    assert (lag + 1) / 1.5 <= exam.need.lag + 1 <= (lag + 1) * 1.5
    assert exam.need.middle <= exam.need.lag <= exam.need.signal


def test_a_batch_of_shorter_sequences_leaves_the_need_of_the_longer_ones_as_it_is():
    torch.manual_seed(1)
    x = chain(40, 0.9)
    y = hidden_in_noise(x[-10, :, 0], 0.4)
    whole, cut = [(x[:, :448], y[:448])], [(x[:, :448], y[:448]), (x[-6:, 448:], y[448:])]
    alone, together = (
        rg.flow.learning_signal.stream.fewest_of(Reader(), batches, squared, 12, [0.9]) for batches in (whole, cut)
    )
    assert alone == together and 8 <= alone[0] <= 11


def test_labels_of_which_a_third_are_random():
    torch.manual_seed(1)
    x = torch.randint(0, 4, (30, 512))
    for t in range(1, 30):
        x[t] = torch.where(torch.rand(512) < 0.8, x[t - 1], x[t])
    y = torch.where(torch.rand(512) < 0.3, torch.randint(0, 4, (512,)), x[-7])
    model = Reader(4, 4)
    exam = Examination(model, samples_of((nn.functional.one_hot(x, 4).float(), y), labels), model)
    assert 5 <= exam.need.lag <= 8


def test_where_no_step_resembles_another_each_lag_of_the_signal_stands_for_itself():
    torch.manual_seed(1)
    x = torch.randn(30, 512, 1)
    y = hidden_in_noise(x[-3, :, 0] + x[-20, :, 0] / 2, 0.4)
    model = Reader()
    assert rg.flow.learning_signal.stream.fewest_of(model, (x, y), squared, 19, [0.9]) is None
    exam = Examination(model, samples_of((x, y), squared), model)
    assert exam.need.lag == 19 and not exam.need.at_most and not exam.notes


def test_noise_has_no_need_however_its_inputs_repeat_themselves():
    for seed in range(5):
        torch.manual_seed(seed)
        x, model = chain(30, 0.9, 256), Reader()
        assert rg.flow.need_of(model, (x, torch.randn(256)), squared).need is None


def test_a_need_that_is_not_known_better_is_an_upper_bound_with_the_reason(monkeypatch):
    x, y, _, _ = planted("far")
    monkeypatch.setattr("retrograde.flow.learning_signal.stream.fewest_linear", lambda *_: None)
    model = Reader(cell=nn.RNN)
    found = rg.diagnose(model, (x, y), squared, untrained=model)
    assert any(note.startswith("The need of ") and "is an upper bound" in note for note in found.notes)
    said = [*found.notes, *(finding.message for finding in found.findings)]
    assert any("the data asks for at most " in text for text in said)
