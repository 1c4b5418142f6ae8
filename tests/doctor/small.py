"""Small networks and tasks for the doctor's tests."""

from __future__ import annotations

import torch
from torch import nn

from retrograde.doctor import Finding, TrainingRecord
from retrograde.doctor.examination import Examination, samples_of, untrained_twin


class Net(nn.Module):
    """A recurrent layer and a head that reads every state, or the last."""

    def __init__(self, cell=nn.RNN, inputs=1, hidden=16, outputs=1, *, last=True, head=None, **options):
        super().__init__()
        torch.manual_seed(0)
        self.layer = cell(inputs, hidden, **options)
        self.head = head or nn.Linear(hidden, outputs)
        self.last = last

    def forward(self, x):
        states = self.layer(x)[0]
        return self.head(states[-1] if self.last else states).squeeze(-1)


def squared(output, target):
    return (output - target).square()


def sums(steps=12, count=64, scale=1.0, seed=1):
    """Sequences of noise, and the sum of their last three steps."""
    x = torch.randn(steps, count, 1, generator=torch.Generator().manual_seed(seed))
    return x * scale, x[-3:].sum((0, 2))


def delayed(steps=12, count=32, seed=1):
    """Sequences of noise, and the same one step later."""
    x = torch.randn(steps, count, 1, generator=torch.Generator().manual_seed(seed))
    return x, x.roll(1, 0)[..., 0]


def train(model, task=sums, updates=60, lr=0.02, clip=1.0, optimizer="adam", loss=squared, **options) -> TrainingRecord:
    """Train a little, and return the record."""
    made = (torch.optim.Adam if optimizer == "adam" else torch.optim.SGD)(model.parameters(), lr)
    losses, norms = [], []
    for update in range(updates):
        x, y = task(seed=100 + update, **options)
        value = loss(model(x), y).mean()
        made.zero_grad()
        value.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf")).item())
        made.step()
        losses.append(value.item())
    return TrainingRecord(
        optimizer=optimizer, lr=lr, clip_norm=clip, updates=updates, losses=losses, gradient_norms=norms
    )


def found(rules, model, task=sums, loss=squared, *, record=None, batches=1, untrained=None, **options):
    """What some rules find on batches of a task, by kind."""
    given = [task(seed=seed, **options) for seed in range(batches)]
    exam = Examination(model, samples_of(given, loss), untrained or untrained_twin(model), record or TrainingRecord())
    findings: dict[str, list[Finding]] = {}
    for rule in rules:
        for finding in rule(exam):
            findings.setdefault(finding.kind.value, []).append(finding)
    return findings
