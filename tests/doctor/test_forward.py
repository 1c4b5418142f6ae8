"""What remains of the loss at chance, for outputs and losses of all kinds."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from small import Net, delayed, found, squared, sums, train
from torch import nn
from torch.nn import functional as F

from retrograde.doctor import TrainingRecord
from retrograde.doctor.examination import Examination, samples_of
from retrograde.doctor.rules import RULES


class Around(nn.Module):
    """A network and what is done to its output."""

    def __init__(self, model, what):
        super().__init__()
        self.model, self.what = model, what

    def forward(self, x):
        return self.what(self.model(x))


def progress(model, batch, loss, record=None):
    return Examination(model, samples_of([batch], loss), model, record or TrainingRecord()).progress


def test_chance_is_the_best_constant_answer():
    x, y = sums()
    own = progress(Net(), (x, y), squared)
    assert own.chance == pytest.approx(float(y.var(unbiased=False)), rel=1e-4) and own.remaining > 0.8

    labels = (y > 1).long()
    p = float(labels.double().mean())
    entropy = lambda output, target: F.cross_entropy(output, target, reduction="none")  # noqa: E731
    own = progress(Net(outputs=2), (x, labels), entropy)
    assert own.chance == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-3)


@pytest.mark.parametrize(
    ("head", "loss"),
    [
        (lambda z: F.log_softmax(z, -1), F.nll_loss),
        (lambda z: F.softmax(z, -1), lambda p, y, reduction: F.nll_loss((p + 1e-8).log(), y, reduction=reduction)),
        (
            lambda z: z[..., :1].sigmoid(),
            lambda p, y, reduction: F.binary_cross_entropy(p[:, 0], y.float(), reduction=reduction),
        ),
    ],
)
def test_the_constant_answer_is_one_that_the_network_could_give(head, loss):
    """Of log-probabilities larger than 0 the loss has no least value, and that of a constant would never be beaten."""
    x, y = sums()
    labels = (y > 1).long()
    p = float(labels.double().mean())
    own = progress(Around(Net(outputs=2), head), (x, labels), lambda o, y: loss(o, y, reduction="none"))
    assert own.chance == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-3)
    assert 0.9 < own.remaining < 2


def test_the_constant_answer_gives_a_class_that_is_ruled_out_no_probability():
    """A softmax of probabilities (0, 1, 0) gives the class that is always right e / (e + 2)."""

    def head(z):
        return F.softmax(torch.cat([torch.full_like(z[..., :1], -torch.inf), z[..., 1:]], -1), -1)

    x, _ = sums()
    entropy = lambda p, y: F.cross_entropy(p, y, reduction="none")  # noqa: E731
    own = progress(Around(Net(outputs=3), head), (x, torch.ones(x.shape[1], dtype=torch.long)), entropy)
    assert own.chance == pytest.approx(math.log(1 + 2 / math.e), rel=1e-3)


def test_the_constant_answer_is_one_for_all_sequences_where_there_are_as_many_as_steps():
    x, y = delayed(steps=12, count=12)
    own = progress(Net(last=False), (x, y), squared)
    assert own.chance == pytest.approx(float(y.var(unbiased=False)), rel=1e-3)


def test_classes_may_come_before_the_steps():
    x, y = delayed()
    labels = (y > 1).long().T
    p = float(labels.double().mean())
    model = Around(Net(outputs=2, last=False), lambda z: z.permute(1, 2, 0))
    crossed = lambda o, y: F.cross_entropy(o, y, reduction="none").T  # noqa: E731
    own = progress(model, (x, labels), crossed)
    assert own.chance == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-3)


def test_steps_without_a_loss_do_not_count():
    x, y = delayed()
    scored = torch.zeros_like(y)
    scored[3:] = 1
    own = progress(Net(last=False), (x, y), lambda output, target: squared(output, target) * scored)
    assert own.chance == pytest.approx(float(y[3:].var(unbiased=False)), rel=1e-3)
    assert math.isnan(progress(Net(last=False), (x, y), lambda output, target: 0 * output).remaining)


def test_a_record_knows_chance_and_floor():
    batch = sums()
    known = progress(Net(), batch, squared, TrainingRecord(chance=50.0, floor=1.0))
    assert known.chance == 50.0 and known.remaining == pytest.approx((known.loss - 1) / 49)


def test_a_learned_task_and_a_head_inside_the_loss():
    model = Net(nn.GRU)
    train(model, updates=120)
    assert progress(model, sums(), squared).remaining < 0.3
    layer, head = nn.GRU(1, 8), nn.Linear(8, 1)
    own = progress(layer, sums(), lambda output, target: squared(head(output[0][-1])[:, 0], target))
    assert own.remaining > 0.8 and all(p.grad is None for p in head.parameters())


class Wrapped(Net):
    """Returns its output in a dict, or an object."""

    def __init__(self, kind):
        super().__init__(nn.GRU)
        self.kind = kind

    def forward(self, x):
        output = super().forward(x)
        return {"logits": output} if self.kind is dict else SimpleNamespace(logits=output)


@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
def test_outputs_in_dicts_and_objects(kind):
    def loss(output, target):
        return squared(output["logits"] if kind is dict else output.logits, target)

    model = Wrapped(kind)
    mine = [rule for rule in RULES if rule.__module__.rpartition(".")[2] not in ("memory", "explosion")]
    assert not found(mine, model, loss=loss, count=32)
    assert math.isnan(progress(model, sums(), loss).remaining) is (kind is not dict)


def test_a_task_that_a_constant_solves_leaves_nothing_to_compare_with():
    model = Net()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    x, _ = sums()
    own = progress(model, (x, torch.zeros(x.shape[1])), lambda output, target: squared(output, target) + 0 * target)
    assert own.loss == 0 and (math.isnan(own.remaining) or own.remaining == 1)
    own = progress(Net(), (x, torch.zeros(x.shape[1])), squared)
    assert own.loss > 0 and own.chance == 0 and own.remaining == 1
