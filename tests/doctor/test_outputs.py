"""Outputs with bounds, and outputs that are random in eval mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import Net, found, squared, sums
from torch import nn

from retrograde.doctor import Kind, TrainingRecord
from retrograde.doctor.findings import FINDINGS
from retrograde.doctor.rules.outputs import RULES


def classes(steps=12, count=64, seed=1):
    x = torch.randn(steps, count, 1, generator=torch.Generator().manual_seed(seed))
    return x, (x[-1, :, 0] > 0).long() + (x[-2, :, 0] > 0).long()


def signs(steps=12, count=64, seed=1):
    x, y = classes(steps, count, seed)
    return x, (y > 0).float()


def entropy(output, target):
    return F.cross_entropy(output, target, reduction="none")


def of_logarithms(output, target):
    return F.nll_loss(output, target, reduction="none")


def binary(output, target):
    return F.binary_cross_entropy(output, target, reduction="none")


def binary_of_logits(output, target):
    return F.binary_cross_entropy_with_logits(output, target, reduction="none")


def headed(last, outputs):
    return Net(nn.GRU, outputs=outputs, head=nn.Sequential(nn.Linear(16, outputs), last))


@pytest.mark.parametrize(
    ("last", "task", "loss", "outputs", "name"),
    [
        (nn.Softmax(-1), classes, entropy, 3, "softmax"),
        (nn.Sigmoid(), signs, binary_of_logits, 1, "sigmoid"),
        (nn.Tanh(), lambda seed: sums(scale=3.0, seed=seed), squared, 1, "tanh"),
        (nn.ReLU(), sums, squared, 1, "ReLU"),
    ],
)
def test_outputs_that_cannot_reach_what_the_loss_asks_for(last, task, loss, outputs, name):
    (own,) = found(RULES, headed(last, outputs), task, loss)["output_range"]
    assert f"of a {name} (" in own.message and own.numbers["lowest"] > 0.1 * own.numbers["chance"]


def test_two_softmaxes_leave_the_loss_at_its_known_minimum():
    (own,) = found(RULES, headed(nn.Softmax(-1), 3), classes, entropy)["output_range"]
    assert own.numbers["lowest"] == pytest.approx(torch.tensor(1 + 2 / torch.e).log().item(), rel=1e-3)


def test_outputs_reach_far_enough_where_the_loss_is_at_the_floor_that_is_known():
    model = headed(nn.Softmax(-1), 3).eval()
    x, y = classes(seed=0)
    loss = float(entropy(model(x), y).mean())
    kinds = [
        set(found(RULES, model, classes, entropy, record=TrainingRecord(chance=2.0, floor=floor)))
        for floor in (0.0, loss - 0.01)
    ]
    assert kinds == [{"output_range"}, set()]


@pytest.mark.parametrize(
    ("last", "task", "loss", "outputs"),
    [
        (nn.LogSoftmax(-1), classes, entropy, 3),
        (nn.LogSoftmax(-1), classes, of_logarithms, 3),
        (nn.Sigmoid(), signs, binary, 1),
        (nn.Sigmoid(), signs, squared, 1),
        (nn.Tanh(), lambda seed: [part * 0.2 for part in sums(seed=seed)], squared, 1),
        (nn.ReLU(), signs, squared, 1),
        (nn.Identity(), sums, squared, 1),
    ],
)
def test_bounds_that_suit_the_loss(last, task, loss, outputs):
    torch.manual_seed(0)  # by which the ReLU's outputs are 0 at the start
    assert not found(RULES, headed(last, outputs), task, loss)


def test_outputs_with_a_bound_of_each_step():
    class Steps(Net):
        def forward(self, x):
            return torch.stack([self.head(h).sigmoid().squeeze(-1) for h in self.layer(x)[0]])

    def every(seed):
        x = torch.randn(6, 16, 1, generator=torch.Generator().manual_seed(seed))
        return x, (x[..., 0] > 0).float()

    assert "output_range" in found(RULES, Steps(nn.GRU), every, binary_of_logits)
    assert not found(RULES, Steps(nn.GRU), every, binary)


class Noisy(Net):
    def forward(self, x):
        return self.head(F.dropout(self.layer(x)[0][-1], 0.5)).squeeze(-1)


def test_dropout_in_eval_mode_is_a_note_where_it_costs_little():
    (own,) = found(RULES, Noisy(nn.GRU).eval())["random_output"]
    assert "training=self.training" in own.message and "test_outputs.py:" in own.message
    assert own.numbers["cost"] < 0.05 and FINDINGS[Kind.RANDOM_OUTPUT].severity == "note"


class Copies(Net):
    """Knows the sum of the last three steps: five units keep each of them, and the head adds them up."""

    def __init__(self, drop):
        super().__init__(nn.RNN, hidden=15)
        self.drop = drop
        with torch.no_grad():
            for p in self.parameters():
                p.zero_()
            self.layer.weight_ih_l0[:5] = 0.01
            self.layer.weight_hh_l0[5:, :-5].fill_diagonal_(1.0)
            self.head.weight.fill_(100 / 5)

    def forward(self, x):
        return self.head(self.drop(self.layer(x)[0][-1])).squeeze(-1)


def test_dropout_in_eval_mode_is_a_finding_where_it_costs_much():
    (own,) = found(RULES, Copies(F.dropout).eval(), count=512)["dropout_in_eval"]
    # Half of the units count twice, the others not: a fifth of the variance of each step, which is chance.
    assert own.numbers["cost"] == pytest.approx(0.2, rel=0.15) and own.numbers["loss_without"] < 0.01
    assert FINDINGS[Kind.DROPOUT_IN_EVAL].severity == "sick"
    assert not found(RULES, Copies(nn.Dropout(0.5)).eval())


def test_sampling_is_a_note_and_says_what_it_is_not():
    (own,) = found(RULES, Copies(lambda h: h + 0.01 * torch.randn_like(h)).eval())["random_output"]
    assert "sampling" in own.message and "dropout" not in own.message.lower()


def test_dropout_modules_are_off_in_eval_mode():
    assert not found(RULES, Net(nn.GRU, num_layers=2, dropout=0.5).train())


class Masked(nn.Module):
    """Probabilities of classes, the first of which is ruled out."""

    def forward(self, scores):
        return F.softmax(torch.cat([torch.full_like(scores[..., :1], -torch.inf), scores[..., 1:]], -1), -1)


def test_a_class_of_probability_zero_is_a_class():
    (own,) = found(RULES, headed(Masked(), 3), classes, entropy)["output_range"]
    assert "of a softmax (" in own.message
