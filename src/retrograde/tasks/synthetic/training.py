"""Training on a synthetic task of known lag: fresh sequences at every step, judged beside chance and optimum."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import DataError, OptionError
from ..models import RECURRENT, SequenceModel
from ..task import Probe, State, Task
from . import SYNTHETIC, Batch, SyntheticTask, synthetic

__all__ = ["SyntheticTraining", "is_synthetic"]

STEPS_PER_EPOCH = 100  # there is no data to go through: an epoch is this many batches
TOGETHER = 250  # sequences drawn and judged at once
VALIDATION = 1000  # sequences judged at each evaluation, always the same
UNSEEN = 0x7E57  # sets the held-out stream apart from that of training


def is_synthetic(source: str) -> bool:
    """Whether a data source names a synthetic task: ``builtin:adding?length=100``."""
    return source.startswith("builtin:") and source.removeprefix("builtin:").split("?")[0] in SYNTHETIC


def task_of(source: str) -> SyntheticTask:
    """The synthetic task that a source names, with its options: ``builtin:temporal-order?length=60&symbols=3``."""
    name, _, query = source.removeprefix("builtin:").partition("?")
    options: dict[str, Any] = {}
    for pair in query.split("&") if query else []:
        option, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"{source}: write options as name=value with & between, not {pair!r}.")
        if option in options:
            raise OptionError(f"{source}: {option} is given twice; leave one of them out.")
        options[option] = value
    return synthetic(name, **options)


class SyntheticTraining(Task[Batch]):
    """What the training loop asks for, over a synthetic task.

    Parameters
    ----------
    source : str
        ``builtin:NAME`` or ``builtin:NAME?option=value&…``.
    options : mapping
        Training options by name.
    """

    name = "synthetic"

    def __init__(self, source: str, options: Mapping[str, Any], files: Mapping[str, str] | None = None) -> None:
        if not is_synthetic(source):
            raise DataError(f"{source} is no synthetic task; there are {', '.join(f'builtin:{n}' for n in SYNTHETIC)}.")
        self.source, self.options = source, dict(options)
        self.task = task_of(source)
        self.fingerprint = source
        self.batch_size = options.get("batch_size") or 64
        self.steps_per_epoch = STEPS_PER_EPOCH
        self.generated_steps = self.task.length
        least, most = self.task.lags
        lag = f"{least}" if least == most else f"{least} to {most}"
        self.notes = [f"What matters lies {lag} steps back. The published goal: {self.task.criterion.words}."]

    def model(self) -> SequenceModel:
        """A new network, initialised from torch's random state."""
        options = self.options
        return SequenceModel(
            self.task.input_size,
            self.task.output_size,
            options["hidden_size"],
            pooling="last" if self.task.many_to_one else "none",
            dropout=options.get("dropout", 0.0),
            **{name: options[name] for name in RECURRENT if name in options},
        )

    @cached_property
    def network(self) -> SequenceModel:
        """One model, to load trained weights into."""
        return self.model()

    def files(self) -> dict[str, str]:
        """Nothing is learnt from data but the weights."""
        return {}

    def batch(self, step: int) -> Batch:
        """The batch of a training step: drawn anew at each, from the seed and the step."""
        state = np.random.SeedSequence([self.options["seed"], self.task.seed, step]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        return self.task.batch(self.batch_size, generator)

    def loss(self, model: nn.Module, batch: Batch, state: State) -> tuple[Tensor, None]:
        """Mean loss of the scored outputs; no state is carried."""
        return self.losses(model, batch).sum() / batch.size, None

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Loss of every output, 0 where none is scored."""
        return self.task.loss(model(batch.inputs, batch.lengths), batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss, share of classes that are right, and share of sequences right by the published measure."""
        was_training = model.training
        model.eval()
        found = self._judged(model, self.task)
        model.train(was_training)
        return {f"validation_{name}": value for name, value in found.items()}

    @torch.no_grad()
    def _judged(self, model: nn.Module, task: SyntheticTask) -> dict[str, float]:
        total, scored, classes, right = 0.0, 0, 0, 0
        for outputs, batch in _outputs(model, task, VALIDATION, UNSEEN):
            total += float(task.loss(outputs, batch).double().sum())
            scored += int(batch.mask.sum())
            right += int(task.correct(outputs, batch).sum())
            if task.kind == "classes":
                hits = outputs.argmax(-1) == batch.targets
                classes += int(hits.sum() if task.many_to_one else (hits & batch.mask).sum())
        found = {"loss": total / scored, "correct": right / VALIDATION}
        return found | ({"accuracy": classes / scored} if task.kind == "classes" else {})

    def baselines(self) -> dict[str, dict[str, float]]:
        """Chance and optimum, as theory gives them."""
        return _levels(self.task)

    def results(self, model: nn.Module) -> dict[str, str]:
        """Whether the published criterion is met, on as many new sequences as it asks for."""
        criterion = self.task.criterion
        with torch.no_grad():
            drawn = _outputs(model, self.task, criterion.sequences, UNSEEN + 1)
            judged = [(self.task.correct(*pair), self.task.error(*pair)) for pair in drawn]
        correct, errors = (torch.cat(parts) for parts in zip(*judged, strict=True))
        found = {
            "criterion": criterion.words,
            "sequences": criterion.sequences,
            "wrong": int((~correct).sum()),
            **({} if criterion.mean_error is None else {"mean_error": float(errors.double().mean())}),
            "solved": criterion.met(correct, errors),
        }
        return {"evaluation.json": json.dumps(found, indent=1, ensure_ascii=False) + "\n"}

    # --- What is done with the trained network ------------------------------------------------------------------------

    def other(self, source: str) -> SyntheticTask:
        """A task that the network can be applied to: its own, or one of another length.

        Raises
        ------
        DataError
            If it is none, or its inputs or outputs are not those of the network.
        """
        if not is_synthetic(source):
            raise DataError(
                f"{source} is no synthetic task, and the network was trained on one: name {self.source}, or the same "
                "with another length or seed."
            )
        task = task_of(source)
        if (task.input_size, task.output_size) != (self.task.input_size, self.task.output_size):
            raise DataError(
                f"{source} has {task.input_size} inputs and {task.output_size} outputs a step; the network was trained "
                f"on {self.source}, which has {self.task.input_size} and {self.task.output_size}."
            )
        if task.many_to_one != self.task.many_to_one:
            raise DataError(
                f"{source} is answered at other steps than {self.source}, which the network was trained on."
            )
        return task

    def evaluate_on(self, source: str) -> dict[str, Any]:
        """Every metric on new sequences of a task, beside chance and optimum."""
        task = self.other(source)
        return {"sequences": VALIDATION, **self._judged(self.network, task), "baselines": _levels(task)}

    @torch.no_grad()
    def unseen(self, source: str) -> Iterator[tuple[Tensor, Batch]]:
        """Outputs for new sequences of a task, those that `evaluate_on` judges."""
        yield from _outputs(self.network, self.other(source), VALIDATION, UNSEEN)

    def probe(self, count: int, steps: int) -> Probe:
        """Inputs of the model and the loss of its output, ``(B,)`` or ``(T, B)``, to measure the gradient with."""
        batch = self.task.batch(count, torch.Generator().manual_seed(UNSEEN))
        return Probe((batch.inputs, batch.lengths), lambda output: self.task.loss(output, batch))

    def describe(self) -> dict[str, object]:
        """What ``config.json`` keeps about the data."""
        return {
            "source": self.source,
            "encoding": None,
            "task": {field.name: getattr(self.task, field.name) for field in fields(self.task)},
            "lags": list(self.task.lags),
            "chance": dict(self.task.chance._asdict()),
            "optimum": dict(self.task.optimum._asdict()),
            "criterion": self.task.criterion.words,
            "train_tokens": 0,
            "validation_tokens": 0,
            "vocabulary_size": None,
            "fingerprint": self.fingerprint,
        }


def _levels(task: SyntheticTask) -> dict[str, dict[str, float]]:
    levels = {"chance": task.chance, "optimum": task.optimum}
    return {
        name: {"loss": level.loss} | ({} if level.accuracy is None else {"accuracy": level.accuracy})
        for name, level in levels.items()
    }


def _outputs(model: nn.Module, task: SyntheticTask, count: int, stream: int) -> Iterator[tuple[Tensor, Batch]]:
    """What a network puts out for sequences that training does not have, some at a time."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(stream)
    for done in range(0, count, TOGETHER):
        batch = task.batch(min(TOGETHER, count - done), generator).to(device)
        yield model(batch.inputs, batch.lengths), batch
