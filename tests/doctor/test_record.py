"""The record of a training: what the user states, and what the optimizer itself says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import retrograde as rg
from retrograde.doctor import Kind, TrainingRecord


def made(kind, updates=3, **options):
    network = nn.Linear(2, 1)
    optimizer = kind(network.parameters(), **options)
    for _ in range(updates):
        optimizer.zero_grad()
        network(torch.ones(4, 2)).sum().backward()
        optimizer.step()
    return optimizer


def test_an_optimizer_says_its_name_its_rate_and_how_many_updates_it_made():
    record = TrainingRecord(torch_optimizer=made(torch.optim.AdamW, 7, lr=0.02))
    assert (record.optimizer, record.lr, record.updates) == ("adamw", 0.02, 7)
    assert record.is_adaptive and record.momentum == 0


def test_what_is_stated_counts_and_not_what_the_optimizer_says():
    record = TrainingRecord("sgd", 0.5, updates=0, torch_optimizer=made(torch.optim.Adam, 7, lr=0.02))
    assert (record.optimizer, record.lr, record.updates) == ("sgd", 0.5, 0)


def test_sgd_counts_no_updates_and_gradient_norms_do():
    optimizer = made(torch.optim.SGD, lr=0.1, momentum=0.9)
    assert TrainingRecord(torch_optimizer=optimizer).updates is None
    record = TrainingRecord(torch_optimizer=optimizer, gradient_norms=[1.0] * 12)
    assert (record.updates, record.momentum, record.is_adaptive) == (12, 0.9, False)


def test_nothing_known_stays_unknown():
    record = TrainingRecord()
    assert (record.optimizer, record.lr, record.updates, record.momentum) == (None, None, None, 0)
    assert not record.is_adaptive and TrainingRecord("adam").is_adaptive


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_the_rate_of_a_schedule_is_its_highest(schedule):
    optimizer = made(torch.optim.SGD, 0, lr=0.25)
    if schedule == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    else:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.25, total_steps=6)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 0.01
    assert TrainingRecord(torch_optimizer=optimizer).lr == 0.25


class Recall(nn.Module):
    """Names the token of two steps ago."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(6, 12), nn.LSTM(12, 32, batch_first=True), nn.Linear(32, 6)

    def forward(self, tokens):
        return self.head(self.layer(self.embedding(tokens))[0][:, -1])


@pytest.mark.parametrize("losses_known", [True, False])
@pytest.mark.parametrize(
    ("optimizer", "clip", "kind"),
    [
        (lambda p: torch.optim.SGD(p, 1e-6), None, Kind.LEARNING_RATE_TOO_LOW),
        (lambda p: torch.optim.Adam(p, 1.0), None, Kind.LEARNING_RATE_TOO_HIGH),
        (lambda p: torch.optim.SGD(p, 0.5), 1e-4, Kind.CLIPPING_TOO_TIGHT),
    ],
)
def test_the_learning_rate_is_judged_where_only_the_optimizer_and_its_norms_are_given(
    optimizer, clip, kind, losses_known
):
    torch.manual_seed(0)
    tokens = torch.randint(0, 6, (512, 9))
    batches = [(part, part[:, -3].clone()) for part in tokens.split(32)]
    network = Recall()
    start, own, norms, losses = copy.deepcopy(network), optimizer(network.parameters()), [], []
    for _ in range(8):
        for inputs, target in batches:
            own.zero_grad()
            loss = F.cross_entropy(network(inputs), target)
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(network.parameters(), clip or 1e9)))
            losses.append(loss.item())
            own.step()
    losses = losses if losses_known else []
    record = TrainingRecord(clip_norm=clip, gradient_norms=norms, losses=losses, torch_optimizer=own)
    diagnosis = rg.diagnose(
        network, batches, lambda o, y: F.cross_entropy(o, y, reduction="none"), untrained=start, record=record
    )
    assert kind in {finding.kind for finding in diagnosis.findings}
