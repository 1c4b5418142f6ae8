"""Clipping and the learning rate, from the record of a training."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from small import Net, found, squared, sums, train
from torch import nn

import retrograde as rg
from retrograde.doctor import TrainingRecord
from retrograde.doctor.attempts import Attempt, Recipe, attempt, updates_within
from retrograde.doctor.examination import Examination, samples_of
from retrograde.doctor.remedies import prescribe
from retrograde.doctor.rules import training
from retrograde.doctor.rules.training import RULES


def trained(cell=nn.GRU, **how):
    """What the rules find after a training."""
    model = Net(cell)
    untrained = copy.deepcopy(model)
    record = train(model, **how)
    return found(RULES, model, record=record, untrained=untrained, batches=2)


def test_clipping_that_is_too_tight_for_sgd():
    (own,) = trained(lr=0.1, clip=1e-4, optimizer="sgd", updates=30)["clipping_too_tight"]
    assert own.numbers["path"] == pytest.approx(30 * 0.1 * 1e-4) and own.numbers["clipped"] == 1
    assert "path 0.0003" in own.rule and len(own.chart.curves) == 2


@pytest.mark.parametrize("how", [{"clip": 1e-4}, {"clip": 1.0, "optimizer": "sgd", "lr": 0.1}])
def test_clipping_that_does_no_harm(how):
    assert "clipping_too_tight" not in trained(updates=60, **how)


def test_clipping_before_the_first_update_is_judged_by_the_updates_planned():
    def before(**how):
        record = TrainingRecord(optimizer="sgd", lr=0.1, clip_norm=1e-3, updates=0, **how)
        return found([training.clipping], Net(nn.GRU), record=record, batches=2)

    (own,) = before(planned=100)["clipping_too_tight"]
    assert own.numbers["path"] == pytest.approx(100 * 0.1 * 1e-3)
    assert not before(planned=100_000) and not before()


def test_clipping_is_not_too_tight_where_longer_steps_would_overshoot():
    def tenfold(output, target):
        return 10 * squared(output, target)

    def tight(loss):
        record = TrainingRecord(optimizer="sgd", lr=0.1, clip_norm=1e-3, updates=0, planned=100)
        return found([training.clipping], Net(nn.GRU), loss=loss, record=record, batches=3)

    assert tight(squared) and not tight(tenfold)  # twice the edge of stability


def test_clipping_so_tight_that_adam_sees_nothing():
    assert "clipping_too_tight" in trained(clip=1e-8, updates=30)


def test_clipping_that_is_never_active():
    found_ = trained(clip=1e4, updates=20)
    assert list(found_) == ["clipping_never_active"] and found_["clipping_never_active"][0].severity == "note"
    assert not trained(clip=None, updates=20)


def test_clipping_that_hides_spikes_names_sequences_and_lags():
    def outlier(seed):
        x, y = sums(seed=seed)
        y[7] = 1000.0
        return x, y

    record = TrainingRecord(updates=100, clip_norm=1.0, gradient_norms=[0.5] * 97 + [200.0, 0.5, 0.4])
    (own,) = found(RULES, Net(), outlier, record=record)["clipping_hides_spikes"]
    assert "sequences 7 (" in own.message and "at lags 0 to" in own.message and own.numbers["spikes"] == 0.01
    often = TrainingRecord(updates=100, clip_norm=1.0, gradient_norms=[0.5] * 60 + [200.0] * 40)
    assert "clipping_hides_spikes" not in found(RULES, Net(), outlier, record=often)


def test_nothing_is_said_of_what_is_not_known():
    assert not found(RULES, Net(), record=TrainingRecord())
    assert not found(RULES, Net(), record=TrainingRecord(lr=0.1, updates=5))


@pytest.mark.parametrize(
    ("cell", "how"),
    [
        (nn.RNN, {"lr": 1.0}),
        (nn.LSTM, {"lr": 1.0}),
        (nn.RNN, {"lr": 3.0, "optimizer": "sgd"}),
    ],
)
def test_a_learning_rate_that_is_too_high(cell, how):
    (own,) = trained(cell, updates=40, **how)["learning_rate_too_high"]
    assert own.numbers["better_lr"] < how["lr"] and own.numbers["loss_better"] < own.numbers["loss"]
    assert own.numbers["edge"] > 0 and "In training, the loss" in own.message
    assert own.chart is not None and len(own.chart.curves[0].x) == 40


@pytest.mark.parametrize("how", [{"lr": 0.02}, {"lr": 0.1, "optimizer": "sgd"}, {"lr": 0.002}])
def test_a_learning_rate_that_is_right(how):
    assert "learning_rate_too_high" not in trained(nn.GRU, updates=40, **how)


@pytest.mark.parametrize(("peak", "least", "wrong"), [(50.0, 0.01, True), (1.5, 0.01, False), (50.0, 0.5, False)])
def test_a_loss_that_came_back_from_far_above_chance_and_no_further(monkeypatch, peak, least, wrong):
    """From the initial weights it does so again, and a smaller rate ends clearly lower; not from the trained ones."""

    def tried(model, _samples, recipe, _updates):
        start = 1.0 if model is untrained else 0.6
        end = 0.6 if recipe.lr == 1.0 or model is not untrained else least
        return Attempt([start, peak, end], [1.0, 1.0, 1.0], 2)

    model = Net(nn.GRU)
    untrained = copy.deepcopy(model)
    monkeypatch.setattr(training, "attempt", tried)
    record = TrainingRecord("adam", 1.0, updates=40, losses=[1.0, *20 * [peak], *19 * [0.6]])
    own = found(RULES, model, record=record, untrained=untrained).get("learning_rate_too_high")
    assert bool(own) is wrong
    assert not wrong or own[0].numbers["better_lr"] < 1


def test_a_classifier_that_went_above_chance_at_a_rate_that_does_so_again():
    """It stays near chance, so that no smaller rate is 1.5 times better within a few updates; gates are stuck."""
    torch.manual_seed(0)
    x = torch.randint(4, (10, 64), generator=torch.Generator().manual_seed(1))
    batch = (nn.functional.one_hot(x, 4).float(), x[-3])
    crossed = partial(nn.functional.cross_entropy, reduction="none")
    start = Net(nn.LSTM, inputs=4, outputs=4)
    model = copy.deepcopy(start)
    with torch.no_grad():
        model.layer.weight_hh_l0.mul_(200)
        model.head.bias.add_(torch.tensor([2.0, 0.0, 0.0, -1.0]))
        model.head.weight.zero_()
    for lr, wrong in ((20.0, True), (0.1, False)):
        record = TrainingRecord("sgd", lr, updates=100, losses=[1.4] * 20 + [2.0] * 80)
        exam = Examination(model, samples_of([batch], crossed), start, record)
        assert bool(list(training.learning_rate(exam))) is wrong


@pytest.mark.parametrize(("lr", "wrong"), [(0.01, False), (3.0, True)])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_learning_rate_before_the_first_update(lr, wrong, optimizer):
    record = TrainingRecord(optimizer=optimizer, lr=lr * (5 if optimizer == "sgd" else 1), updates=0)
    assert ("learning_rate_too_high" in found(RULES, Net(), record=record, batches=2)) is wrong


def too_low(model=None, optimizer="adam", **record):
    """What the rule finds of a network that is as it was at the start."""
    record = TrainingRecord(optimizer=optimizer, gradient_norms=[1.0] * 9, **record)
    return found([training.learning_rate_too_low], model or Net(nn.GRU, hidden=8), record=record)


@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 1e-6), ("sgd", 1e-4)])
def test_a_learning_rate_that_is_too_low(optimizer, lr):
    (own,) = too_low(optimizer=optimizer, lr=lr, updates=100)["learning_rate_too_low"]
    assert own.numbers["path"] < 0.2 * own.numbers["weights"] and own.numbers["better_lr"] >= 100 * lr
    assert own.numbers["loss_better"] < own.numbers["loss"] / 1.1 and "the weights went" in own.message
    assert not too_low(optimizer=optimizer, lr=lr, updates=20)  # too few to tell


def test_a_learning_rate_that_is_too_low_for_the_updates_that_are_planned():
    (own,) = too_low(lr=1e-6, updates=0, planned=100)["learning_rate_too_low"]
    assert "the weights can go" in own.message
    assert not too_low(lr=1e-6, updates=0, planned=1_000_000) and not too_low(lr=0.01, updates=0, planned=100)


def test_a_learning_rate_is_not_too_low_where_longer_steps_do_not_help():
    model = Net(nn.GRU, hidden=8)
    nn.init.zeros_(model.head.weight)
    model.head.requires_grad_(False)
    assert not too_low(model, lr=1e-6, updates=100)


def test_a_loss_far_above_chance_is_not_blamed_on_a_low_learning_rate():
    model = Net(nn.GRU, hidden=8)
    nn.init.constant_(model.head.bias, 20.0)
    assert not too_low(model, lr=1e-6, updates=100)


def test_noise_that_cannot_be_learned_is_not_blamed_on_the_learning_rate():
    def noise(seed, **options):
        x, _ = sums(seed=seed, count=16)
        return x, torch.randn(16, generator=torch.Generator().manual_seed(seed + 1))

    model = Net(nn.GRU)
    untrained = copy.deepcopy(model)
    record = train(model, noise, lr=0.01, updates=60)
    assert not found(RULES, model, noise, record=record, untrained=untrained, batches=2)


@pytest.mark.parametrize("cell", [nn.RNN, rg.nn.LSTM])
def test_the_sharpness_is_the_largest_eigenvalue_of_the_hessian(cell):
    model = Net(cell, hidden=3)
    x, y = sums(5, 20)
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        values = {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
        return squared(torch.func.functional_call(model, values, (x,)), y).mean()

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    hessian = torch.autograd.functional.hessian(loss, flat)
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    record = TrainingRecord(optimizer="sgd", lr=0.5, updates=0)
    rate = training._rate(Examination(model, samples_of([(x, y)], squared), model, record))
    assert rate.sharpness == pytest.approx(largest, rel=0.02) and rate.edge == 4.0


def test_the_optimizer_gives_momentum_and_scales():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    record = TrainingRecord(
        lr=0.1, clip_norm=1e-6, updates=30, gradient_norms=[1.0] * 30, torch_optimizer=optimizer, losses=[4.0] * 30
    )
    (own,) = found(RULES, model, record=record)["clipping_too_tight"]
    assert own.numbers["path"] == pytest.approx(30 * 0.1 / 0.1 * 1e-6)


def test_a_loss_that_is_not_finite_counts_as_not_learned():
    model = Net()
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    exam = Examination(model, samples_of([sums()], squared), model)
    assert exam.progress.above(0.9)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([1.0] * 4 + [20.0] * 8 + [1.0] * 8, "the loss rose to 20, "),
        ([1.0] * 12 + [3.0] * 8, "the loss rose from 1 to 3"),
        ([1.0, 0.9, 0.8, 0.8] * 5, ""),
        ([1.0, 5.0], ""),  # too few to say
        ([1.0] * 19 + [float("nan")], "the loss became NaN or infinite"),
    ],
)
def test_a_history_of_losses_that_does_not_settle(losses, words):
    record = TrainingRecord(updates=len(losses), losses=losses)
    exam = Examination(Net(), samples_of([sums()], squared), Net(), record)
    assert exam.unsettled.startswith(words) and bool(exam.unsettled) == bool(words)


def test_a_training_that_diverged_does_not_settle_whatever_losses_are_kept():
    record = TrainingRecord(updates=20, losses=[1.0] * 20, diverged=True)
    assert Examination(Net(), samples_of([sums()], squared), Net(), record).unsettled


def test_clipping_of_gradients_that_need_it_is_not_too_tight():
    """An exploding gradient is clipped at every update; longer steps would not help."""
    model = Net(nn.RNN, nonlinearity="relu")
    with torch.no_grad():
        model.layer.weight_hh_l0.copy_(3 * torch.eye(16))
    record = TrainingRecord(lr=0.001, optimizer="sgd", clip_norm=1.0, updates=100, gradient_norms=[1e9] * 100)
    assert "clipping_too_tight" not in found(RULES, model, record=record)


def test_the_rate_of_the_trial_is_prescribed():
    record = TrainingRecord(optimizer="sgd", lr=10.0, updates=0)
    model = Net()
    exam = Examination(model, samples_of([sums(seed=seed) for seed in range(2)], squared), model, record)
    own = list(training.learning_rate(exam))
    prescribed = [p for p in prescribe(exam, own) if p.remedy == "lower learning rate"]
    assert prescribed[0].options == {"lr": pytest.approx(own[0].numbers["better_lr"])}
    assert "trial" in prescribed[0].arithmetic


@pytest.mark.parametrize(
    ("held_out", "chance", "named"),
    [(2.0, 1.0, True), (1.0, 1.0, True), (0.5, 1.0, False), (9.0, None, True), (0.5, None, False), (None, 1.0, False)],
)
def test_sequences_learned_by_heart(held_out, chance, named):
    model = Net()
    train(model, lambda seed: sums(seed=0, scale=0.1), updates=60, lr=0.02)
    record = TrainingRecord(updates=60, chance=chance, validation_loss=held_out)
    own = found(RULES, model, lambda seed: sums(seed=0, scale=0.1), record=record).get("memorized", [])
    assert bool(own) == named
    if own:
        assert own[0].numbers["validation_loss"] == held_out and "nothing carries over" in own[0].about.meaning


def test_what_no_sequence_teaches_is_not_learned_by_heart():
    record = TrainingRecord(updates=60, chance=1.0, validation_loss=1.1)
    assert "memorized" not in found(RULES, Net(), record=record)


def test_losses_of_zero_are_not_scored_in_an_attempt():
    """As where a mask takes padding out."""
    model, (x, y) = Net(hidden=2), sums(3, 4)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    first = attempt(model, samples_of([(x, y)], lambda out, target: squared(out, target) * mask), Recipe(False, 0.1), 1)
    assert first.losses[0] == pytest.approx(float(squared(model(x), y)[[0, 2]].mean().detach()))


def test_an_attempt_has_five_to_a_hundred_updates():
    samples = samples_of([sums(3, 2)], squared)
    assert [updates_within(s, Net(hidden=2), samples, Recipe(False, 0.1)) for s in (0, 1e6)] == [5, 100]


@pytest.mark.parametrize(
    "curvatures", [[-9, 1, 8, -8], [-100, 1, 0.5, -3], [3, 2, -2.9, -1], [-1, -2, -4, -3], [5, 5, 5, 5], [0, 0, 0, 0]]
)
def test_the_sharpness_is_the_largest_curvature_however_negative_others_are(curvatures):
    curvature, p = torch.tensor(curvatures, dtype=torch.float32), torch.ones(4, requires_grad=True)
    (gradient,) = torch.autograd.grad((curvature * p.square()).sum() / 2, p, create_graph=True)
    found = training._largest_eigenvalue([(p, gradient)], [torch.ones(4)])
    assert found == pytest.approx(max(curvatures), rel=1e-3, abs=1e-3)


def test_a_sharpness_that_takes_too_long_is_that_of_fewer_sequences_or_not_known(monkeypatch):
    model, record = Net(hidden=3), TrainingRecord(optimizer="sgd", lr=0.5, updates=0)
    x, y = sums(5, 200)
    whole = samples_of([(x, y)], squared)
    few = training._rate(Examination(model, samples_of([(x[:, :32], y[:32])], squared), model, record))
    asked = []
    eigenvalue = training._largest_eigenvalue

    def slow(used, scale):
        asked.append(used)
        monkeypatch.setattr(training, "_SECONDS", 0.0 if len(asked) < last else 60.0)
        return eigenvalue(used, scale)

    monkeypatch.setattr(training, "_largest_eigenvalue", slow)
    last = 2
    rate = training._rate(Examination(model, whole, model, record))
    assert len(asked) == 2 and rate.sharpness == pytest.approx(few.sharpness, rel=0.5)
    asked.clear()
    last = 3
    assert training._rate(Examination(model, whole, model, record)) is None and len(asked) == 2


def test_the_rate_is_tried_from_the_start_where_the_weights_were_thrown_far():
    """Rates that bring thrown weights back are higher than those with which training would not have left."""
    model = Net(nn.GRU, hidden=32)
    untrained = copy.deepcopy(model)
    record = train(model, sums, lr=3.0, updates=120)
    (finding,) = found(RULES, model, sums, record=record, untrained=untrained, batches=4)["learning_rate_too_high"]
    assert "from the initial weights" in finding.message and finding.numbers["better_lr"] <= 0.03
