"""Is the first prescription better than no treatment, a placebo, and a random remedy at equal cost?

All arms have the same number of updates and see the same batches; the placebo differs in the seed of the weights only.
A prescription is carried out as it is printed: its options of training, or its lines of Python, in which `model` is the
network, `x` a batch of inputs and `inputs` all that the network is called with. Lines that begin with a place ("# where
the layer is called") are for the user's own code: a script cannot put them there, so these prescriptions are not tried.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

import retrograde as rg

from .case import Case, Remedy
from .networks import Network
from .tasks import Batch
from .training import Trained, train

UPDATES = 800  # at least: a remedy is to be seen working
TRAINING = {"lr": "lr", "clip_norm": "clip", "bptt": "bptt", "optimizer": "optimizer"}  # options, and what we call them


@dataclass(frozen=True)
class Treatment:
    """A prescription, carried out: on the model before training, on every batch, before every update."""

    options: Mapping[str, Any]
    python: str

    def on_training(self, case: Case) -> Case:
        """The case with the options of training that are prescribed."""
        changes = {TRAINING[name]: value for name, value in self.options.items() if name in TRAINING}
        return replace(case, training=replace(case.training, **changes))

    @property
    def by_hand(self) -> bool:
        """Whether the lines belong into code that only the user has."""
        return not set(self.options) & set(TRAINING) and self.python.startswith("# where")

    def on_model(self, network: Network, batch: Batch) -> Any:
        """Run the lines that are about the model; return what is to be called after each backward pass, if anything."""
        if set(self.options) & set(TRAINING) or not self.python or self._on_data:
            return None
        inputs = (batch.inputs,) if batch.lengths is None else (batch.inputs, batch.lengths)
        names: dict[str, Any] = {"model": network, "rg": rg, "torch": torch, "x": batch.inputs, "inputs": inputs}
        exec(self.python.partition("# in the training loop")[0], names)
        regularizer = names.get("regularizer")
        return None if regularizer is None else regularizer.add_gradients

    def on_batch(self, batch: Batch) -> Batch:
        """Run the lines that are about the data."""
        if not self._on_data:
            return batch
        names: dict[str, Any] = {"x": batch.inputs, "target": batch.targets, "torch": torch}
        exec(self.python, names)
        return Batch(names["x"], names["target"], batch.lengths)

    @property
    def _on_data(self) -> bool:
        return self.python.startswith(("x = ", "target = "))


def random_remedy(case: Case, seed: int) -> Remedy:
    """One of the usual remedies, with a random number in it."""
    draw = random.Random(f"{case.name} {seed}")
    keeps = case.model.cell if case.model.cell in ("gru", "lstm") else None
    starts = [("orthogonal", draw.uniform(0.5, 1.5)), ("gauss", draw.uniform(0.5, 1.5))]
    if keeps:
        starts = [("chrono", float(draw.randint(3, 200))), ("orthogonal", draw.uniform(0.5, 1.5))]
    how = case.training
    cell = draw.choice([name for name in ("tanh", "gru", "lstm") if name != case.model.cell])
    return draw.choice(
        [
            Remedy("learning rate", training={"lr": how.lr * 10 ** draw.uniform(-1, 1)}),
            Remedy("clip", training={"clip": 10 ** draw.uniform(-2, 2)}),
            Remedy("optimizer", training={"optimizer": "adam" if how.optimizer == "sgd" else "sgd"}),
            Remedy("cell", {"cell": cell, "start": ()}),
            *(Remedy(name, {"start": ((name, value),)}) for name, value in starts),
            Remedy("layer norm", {"layer_norm": True}),
        ]
    )


def controls(case: Case, seed: int) -> dict[str, float]:
    """The arms next to the prescription: the share of the loss at chance that is left; infinite after NaN."""
    case = _long(case)
    return {
        "untreated": share_of(train(case, seed)),
        "placebo": share_of(train(case, seed, weights_seed=seed + 1000)),
        "random": share_of(train(case.cured(random_remedy(case, seed)), seed)),
    }


def treated(case: Case, treatment: Treatment, seed: int) -> dict[str, float]:
    """The arm of the prescription."""
    return {"prescription": share_of(train(treatment.on_training(_long(case)), seed, treatment=treatment))}


def _long(case: Case) -> Case:
    return replace(case, training=replace(case.training, updates=max(case.training.updates, UPDATES)))


def share_of(arm: Trained) -> float:
    """Of the loss at chance, on unseen sequences."""
    return min(arm.loss / arm.chance, 1e9) if arm.loss == arm.loss else 1e9
