"""``rg.diagnose`` on networks whose illness is known."""

from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.doctor import Examination, TrainingRecord
from retrograde.doctor.diagnosis import examined
from retrograde.doctor.examination import samples_of
from retrograde.errors import FlowError


class Last(nn.Module):
    """A network that answers at the end of a sequence."""

    def __init__(self, cell: type[nn.RNNBase] = nn.RNN, inputs: int = 1, hidden: int = 16) -> None:
        super().__init__()
        self.layer, self.head = cell(inputs, hidden), nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.layer(x)[0][-1])[:, 0]


def squared(output, target):
    return (output - target).square()


def sequences(which: slice, steps: int = 30, count: int = 150):
    """Sequences and, as their targets, the sum of some of their steps."""
    torch.manual_seed(0)
    x = torch.randn(steps, count, 1)
    return x, x[which].sum((0, 2))


def test_vanishing_hurts_only_where_the_data_asks_for_memory():
    torch.manual_seed(0)
    early = rg.diagnose(Last(), sequences(slice(0, 2)), squared)
    assert early.verdict == "sick"
    (found,) = early.found("vanishing_hurts")
    assert found.numbers["need"] == 29 and found.numbers["reach"] < 29 and "29 >" in found.rule
    late = rg.diagnose(Last(), sequences(slice(-2, None)), squared)
    assert not late.found("vanishing_hurts") and late.found("vanishing_harmless")


def test_a_training_that_left_half_of_what_inputs_explain_is_not_healthy():
    def batches(lag, noise):
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(12, 256, 1, generator=draw)
        y = x[-1, :, 0] + (x[-1 - lag, :, 0] if lag else 0.0) + noise * torch.randn(256, generator=draw)
        return [(x[:, i : i + 64], y[i : i + 64]) for i in range(0, 256, 64)]

    torch.manual_seed(0)
    model = Last(nn.GRU)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(50):
        for x, y in batches(0, 0.0):
            optimizer.zero_grad()
            squared(model(x), y).mean().backward()
            optimizer.step()
    made = rg.doctor.TrainingRecord(updates=200)
    for record in (made, None):  # that the loss is half of chance says that it was trained
        half = rg.diagnose(model, batches(3, 0.0), squared, record=record)
        assert half.verdict == "cannot tell" and "the clearest are of 3 steps ago" in half.notes[-1]
        assert rg.diagnose(model, batches(0, 1.0), squared, record=record).verdict == "healthy"
    falling = rg.doctor.TrainingRecord(updates=200, losses=[2 - i / 200 for i in range(200)])
    assert rg.diagnose(model, batches(3, 0.0), squared, record=falling).verdict == "healthy"


UNTRAINED = rg.doctor.TrainingRecord(updates=0)


class Both(nn.Module):
    """Two layers, the second over the outputs of the first, and a dict as output."""

    def __init__(self, layer):
        super().__init__()
        self.below, self.above, self.head = layer, rg.nn.GRU(16, 8), nn.Linear(8, 3)

    def forward(self, batch):
        states = self.above(self.below(batch)[0])[0]
        return {"states": states, "logits": self.head(states[-1])}


def crossed(output, labels):
    return nn.functional.cross_entropy(output["logits"], labels, reduction="none")


def test_models_of_all_kinds_are_examined():
    torch.manual_seed(0)
    x = torch.randn(10, 200, 2)
    labels = (x[-1, :, 0] > 0).long() + (x[-1, :, 1] > 0).long()
    diagnosis = rg.diagnose(Both(nn.LSTM(2, 16)), (x, labels), crossed, record=UNTRAINED)
    assert diagnosis.verdict == "healthy" and not diagnosis.notes and diagnosis.risk < 0.5
    first = x.transpose(0, 1).contiguous()
    wrapped = nn.Sequential(nn.GRU(2, 8, batch_first=True))
    diagnosis = rg.diagnose(
        wrapped, [(first[:100], labels[:100]), (first[100:], labels[100:])],
        lambda output, y: (output[0][:, -1, 0] - y).square(), record=UNTRAINED,
    )  # fmt: skip
    assert diagnosis.verdict == "healthy" and not diagnosis.notes


def test_what_cannot_be_measured_is_a_note_and_no_verdict_rests_on_it():
    torch.manual_seed(0)
    x = torch.randn(10, 64, 2)

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.mix, self.head = nn.LSTM(2, 4), nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 1)

        def forward(self, batch):
            return self.head(self.mix(self.layer(batch)[0].permute(1, 2, 0)).permute(2, 0, 1))[..., 0]

    diagnosis = rg.diagnose(Mixing(), (x, x[..., 0].roll(1, 0)), squared)
    assert diagnosis.verdict == "cannot tell" and diagnosis.undecided
    assert any("vanishing" in note and "one step at a time" in note for note in diagnosis.notes)

    class Fails(Last):
        def forward(self, batch):
            if torch.is_grad_enabled():
                raise RuntimeError("no gradients, please")
            return super().forward(batch)

    diagnosis = rg.diagnose(Fails(inputs=2), (x, x[-1, :, 0]), squared)
    assert diagnosis.verdict == "cannot tell" and any("no gradients, please" in note for note in diagnosis.notes)


def test_a_head_whose_units_are_all_off_leaves_no_error_and_no_need():
    torch.manual_seed(0)
    x = torch.randn(15, 32, 1)
    off = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    nn.init.constant_(off[0].bias, -30.0)
    model = Last()
    model.head = off
    trained = rg.doctor.TrainingRecord(updates=100)
    diagnosis = rg.diagnose(model, (x, x[-2:, :, 0].sum(0)), squared, untrained=model, record=trained)
    assert diagnosis.found("dead_relu") and diagnosis.verdict == "sick"


def test_errors_that_are_alike_for_all_sequences_leave_the_need_unknown():
    x, _ = sequences(slice(-2, None), steps=8, count=64)
    diagnosis = rg.diagnose(Last(), (x, torch.ones(64)), squared)
    assert diagnosis.verdict == "cannot tell" and math.isnan(diagnosis.risk)


def test_weights_that_cannot_be_drawn_again_stay_as_they_are():
    class Start(Last):
        def __init__(self):
            super().__init__()
            self.first = nn.Parameter(torch.zeros(1, 1, 16))

        def forward(self, batch):
            first = self.first.expand(-1, batch.shape[1], -1).contiguous()
            return self.head(self.layer(batch, first)[0][-1])[:, 0]

    torch.manual_seed(0)
    diagnosis = rg.diagnose(Start(), sequences(slice(-2, None), count=100), squared)
    assert diagnosis.found("vanishing_harmless") and "reset_parameters" in diagnosis.notes[0]


def test_a_loss_that_is_a_mean_is_refused_with_the_fix():
    with pytest.raises(FlowError, match=r"losses by step .*leave out the mean, as reduction='none' does"):
        rg.diagnose(Last(), sequences(slice(-2, None), count=20), lambda output, y: squared(output, y).mean())


@pytest.mark.parametrize(("steps", "note"), [(8, False), (20, True)])
def test_a_task_that_is_not_learned_for_no_reason_found_cannot_be_told(steps, note):
    """Also where a finding that is worth a note, but no illness, is shown."""
    torch.manual_seed(0)
    record = rg.doctor.TrainingRecord(updates=50)
    diagnosis = rg.diagnose(Last(), sequences(slice(-2, None), steps=steps, count=100), squared, record=record)
    assert diagnosis.verdict == "cannot tell" and any("explains it" in note for note in diagnosis.notes)
    assert bool(diagnosis.found("vanishing_harmless")) is note


@pytest.mark.parametrize(
    ("updates", "losses", "reason"),
    [
        (20, (), "only 20 updates were made"),
        (400, [1.2 - 0.001 * i + 0.01 * (i % 3) for i in range(400)], "still fell, from 0.96"),
        (400, [1.2 + 0.1 * ((i * 7919) % 13) for i in range(400)], ""),
    ],
)
def test_a_training_that_was_too_short_is_said(updates, losses, reason):
    torch.manual_seed(0)
    record = rg.doctor.TrainingRecord(updates=updates, losses=losses)
    diagnosis = rg.diagnose(Last(), sequences(slice(-2, None), steps=8, count=100), squared, record=record)
    (note,) = (note for note in diagnosis.notes if "explains it" in note)
    assert (reason in note and "more updates" in note) if reason else note.endswith("explains it.")


@pytest.fixture(scope="module")
def diagnosis():
    torch.manual_seed(0)
    return rg.diagnose(Last(), sequences(slice(0, 2), count=100), squared, record=UNTRAINED)


def test_the_report_begins_with_the_verdict_and_shows_numbers_rule_and_alternatives(diagnosis):
    report = str(diagnosis)
    assert report.startswith("Verdict: sick (loss ") and "risk of not being solved as it stands" in report
    (finding,) = diagnosis.found("vanishing_hurts")
    for words in ("need 29 > reach", finding.about.meaning, *finding.ruled_out, "▁"):
        assert words in report
    assert repr(diagnosis) == "<Diagnosis: sick: vanishing_hurts>"
    assert report == diagnosis.__rich__().plain.rstrip()


def test_every_finding_with_a_chart_is_drawn(diagnosis):
    (ax,) = diagnosis.plot()
    assert ax.get_yscale() == "log" and "need 29" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert diagnosis.plot([ax]) == [ax]
    with pytest.raises(FlowError, match="axes"):
        diagnosis.plot([])
    with pytest.raises(FlowError, match="figure"):
        rg.doctor.Diagnosis([]).plot()
    plt.close("all")


def test_a_diagnosis_becomes_json_and_back(diagnosis):
    again = rg.doctor.Diagnosis.of(json.loads(diagnosis.to_json()))
    assert again.findings == diagnosis.findings and again.risk == diagnosis.risk and again.verdict == "sick"
    assert "\\u" not in diagnosis.to_json(), "signs of mathematics are readable in the file"
    assert str(again) == str(diagnosis)


def test_large_batches_are_followed_in_part():
    """The flow is of some of the sequences, what the data asks for of all."""
    x, y = sequences(slice(-2, None), count=300)
    exam = rg.doctor.Examination(Last(), samples_of((x, y), squared), Last())
    assert exam.flow.losses.shape[1] == 32 and exam.asked.sequences > 32


def test_another_mistake_does_not_lower_the_risk():
    torch.manual_seed(0)
    x, y = sequences(slice(0, 2))
    diagnosis = rg.diagnose(Last(), (x * 1e-4, y), squared, record=UNTRAINED)
    assert diagnosis.found("input_scale") and diagnosis.risk > 0.99


def test_a_mistake_that_spares_training_does_not_raise_the_risk():
    """A second layer that is never called is sick, and the first learns all the same."""

    class Spare(Last):
        def __init__(self):
            super().__init__(nn.GRU)
            self.second = nn.GRU(16, 4)

    torch.manual_seed(0)
    diagnosis = rg.diagnose(Spare(), sequences(slice(-2, None)), squared, record=UNTRAINED)
    assert diagnosis.verdict == "sick" and [f.kind for f in diagnosis.findings if f.severity == "sick"] == [
        "layer_not_called"
    ]
    assert diagnosis.risk < 0.3


def test_nested_batches_that_the_model_does_not_take_are_told_how_they_are_written():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(1, 8)

        def forward(self, a, b):
            return self.layer(a + b)[0][-1, :, 0]

    x, y = torch.randn(6, 16, 1), torch.randn(16)

    def loss(output, target):
        return (output - target).square()

    (note,) = rg.diagnose(Two(), [((x, x), y)], loss).notes
    assert "missing 1 required positional argument" in note and "(a, b, target), not ((a, b), target)" in note
    assert not any("a, b, target" in note for note in rg.diagnose(Two(), [(x, x, y)], loss).notes)


def test_when_the_time_is_up_what_was_not_looked_at_is_named_and_nothing_is_called_healthy(monkeypatch):
    batch = sequences(slice(-3, None))
    record = TrainingRecord(clip_norm=1e3, gradient_norms=[1.0] * 20, updates=20)
    exam = Examination(Last(), samples_of([batch], squared), Last(), record)
    examined_whole = examined(exam)
    assert examined_whole.found("clipping_never_active") and "time" not in " ".join(examined_whole.notes)

    class Slow(Examination):
        @property
        def travel(self):
            self.deadline = 0.0
            return super().travel

    slow = examined(Slow(Last(), samples_of([batch], squared), Last(), record))
    (note,) = [note for note in slow.notes if "The time was up" in note]
    assert "truncation" in note and "clipping" not in note
    assert slow.verdict == "cannot tell" and slow.found("clipping_never_active")


@pytest.mark.parametrize("noise", [False, True])
def test_under_a_head_that_pools_errors_that_inputs_explain_are_more_to_learn(noise):
    class Sum(nn.Module):
        """Knows the sum of the first inputs of all steps."""

        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.RNN(2, 1), nn.Linear(1, 1)
            with torch.no_grad():
                for p in self.parameters():
                    p.zero_()
                self.layer.weight_ih_l0[0, 0], self.head.weight[:] = 0.01, 100 * 20 / 20**0.5

        def forward(self, x):
            return self.head(self.layer(x)[0].mean(0)).squeeze(-1)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 400, 2, generator=generator)
    rest = torch.randn(400, generator=generator) if noise else x[..., 1].sum(0) / 20**0.5
    record = rg.doctor.TrainingRecord("adam", 0.001, updates=500, losses=[0.5] * 500)
    batches = [(x[:, i : i + 50], (x[..., 0].sum(0) / 20**0.5 + rest)[i : i + 50]) for i in range(0, 400, 50)]
    found = rg.diagnose(Sum(), batches, lambda y, t: (y - t).square(), record=record)
    assert (
        any("the clearest are of all steps, added up): there is more to learn" in note for note in found.notes) != noise
    )
    assert found.verdict == ("healthy" if noise else "cannot tell")
