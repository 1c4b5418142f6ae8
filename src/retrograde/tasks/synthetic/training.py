"""Training on a synthetic task of known lag: new sequences at every step, scored next to chance and optimum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ...data.files import AUTO
from ...errors import DataError, OptionError
from ...options import ModelOptions, Options
from ..models import SequenceModel, evaluation_mode
from ..tables import to_json
from ..task import Evaluation, Examples, Predictor, Row, State, Task
from . import SYNTHETIC, SyntheticBatch, SyntheticTask, synthetic

STEPS_PER_EPOCH = 100  # there is no data to go through: an epoch is this many batches
TOGETHER = 250  # sequences drawn and scored at once
VALIDATION = 1000  # sequences scored at each evaluation, always the same
UNSEEN = 0x7E57  # separates the held-out stream from that of training


def is_synthetic(source: Any) -> bool:
    """Whether a data source names a synthetic task: ``builtin:adding?length=100``."""
    builtin = isinstance(source, str) and source.startswith("builtin:")
    return builtin and source.removeprefix("builtin:").split("?")[0] in SYNTHETIC


def problem_of(source: str) -> SyntheticTask:
    """The synthetic task that a source names, with its options: ``builtin:temporal-order?length=60&symbols=3``."""
    if not is_synthetic(source):
        names = ", ".join(f"builtin:{name}" for name in SYNTHETIC)
        raise DataError(f"{source} is not a synthetic task; there are {names}.")
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


def _network(problem: SyntheticTask, options: ModelOptions) -> SequenceModel:
    return SequenceModel.of(problem.input_size, problem.output_size, options, "last" if problem.many_to_one else "none")


def _outputs(
    model: nn.Module, problem: SyntheticTask, count: int, stream: int
) -> Iterator[tuple[Tensor, SyntheticBatch]]:
    """What a network answers for sequences that training does not have, some at a time."""
    generator = torch.Generator().manual_seed(stream)
    for done in range(0, count, TOGETHER):
        batch = problem.batch(min(TOGETHER, count - done), generator)
        with evaluation_mode(model) as device:
            batch = batch.to(device)
            outputs = model(batch.inputs, batch.lengths)
        yield outputs, batch


def _scores(model: nn.Module, problem: SyntheticTask) -> dict[str, float]:
    """Loss, share of sequences that are right by the published measure, and share of classes that are right."""
    total, scored, classes, right = 0.0, 0, 0, 0
    for outputs, batch in _outputs(model, problem, VALIDATION, UNSEEN):
        total += float(problem.loss(outputs, batch).double().sum())
        scored += batch.size
        right += int(problem.correct(outputs, batch).sum())
        if problem.kind == "classes":
            hits = outputs.argmax(-1) == batch.targets
            classes += int(hits.sum() if problem.many_to_one else (hits & batch.mask).sum())
    found = {"loss": total / scored, "correct": right / VALIDATION}
    return found | ({"accuracy": classes / scored} if problem.kind == "classes" else {})


def _levels(problem: SyntheticTask) -> dict[str, dict[str, float]]:
    levels = {"chance": problem.chance, "optimum": problem.optimum}
    return {
        name: {"loss": level.loss} | ({} if level.accuracy is None else {"accuracy": level.accuracy})
        for name, level in levels.items()
    }


def _examples(problem: SyntheticTask, count: int) -> Examples:
    return _examples_of(problem, problem.batch(count, torch.Generator().manual_seed(UNSEEN)))


def _examples_of(problem: SyntheticTask, batch: SyntheticBatch) -> Examples:
    def part(rank: int, size: int) -> Examples:
        return _examples_of(problem, batch.part(rank, size) or batch)

    inputs = (batch.inputs, batch.lengths)
    return Examples(inputs, lambda outputs: problem.loss(outputs, batch), part=part, target=batch.targets)


class SyntheticPredictor(Predictor):
    """A network trained on a synthetic task, for new sequences of it or of another length."""

    FIXED_STEPS = "a synthetic task sets its own length; another is measured as DATA, builtin:NAME?length=N"

    def __init__(self, source: str, problem: SyntheticTask, network: nn.Module) -> None:
        super().__init__(network)
        self.source, self.problem = source, problem

    @classmethod
    def from_files(cls, files: Mapping[str, str], options: Options, source: str) -> Self:
        """See `Predictor.from_files`; nothing but the name of the task is needed."""
        problem = problem_of(source)
        return cls(source, problem, _network(problem, options))

    def _other(self, source: str) -> SyntheticTask:
        """A task that the network can be applied to; DataError if its inputs or outputs are others."""
        if not is_synthetic(source):
            raise DataError(
                f"{source} is not a synthetic task, and the network was trained on one: name {self.source}, or the "
                "same with another length or seed."
            )
        problem, own = problem_of(source), self.problem
        if (problem.input_size, problem.output_size) != (own.input_size, own.output_size):
            raise DataError(
                f"{source} has {problem.input_size} inputs and {problem.output_size} outputs a step; the network was "
                f"trained on {self.source}, which has {own.input_size} and {own.output_size}."
            )
        if problem.many_to_one != own.many_to_one:
            raise DataError(
                f"{source} is answered at other steps than {self.source}, which the network was trained on."
            )
        return problem

    def evaluate(self, source: Any, encoding: str = AUTO) -> Evaluation:
        """Every metric on new sequences of a task, and its chance and optimum."""
        problem = self._other(source)
        return Evaluation({"sequences": VALIDATION}, _scores(self.network, problem), _levels(problem))

    def examples(self, source: Any, encoding: str, count: int, steps: int | None = None) -> Examples:
        """New sequences of a task; it sets their length."""
        return _examples(self._other(source), count)

    def predict(self, source: Any, encoding: str = AUTO, probabilities: bool = False) -> Iterator[Row]:
        """Rows with ``target`` and ``prediction`` for new sequences; lists if several steps are scored."""
        problem = self._other(source)
        classes = problem.kind == "classes"
        for outputs, batch in _outputs(self.network, problem, VALIDATION, UNSEEN):
            values = (outputs.softmax(-1) if classes else outputs.squeeze(-1)).cpu()
            batch = batch.to(torch.device("cpu"))
            for column in range(len(batch.lengths)):
                if problem.many_to_one:
                    target, found = batch.targets[column], values[column]
                else:
                    scored = batch.mask[:, column]
                    target, found = batch.targets[scored, column], values[scored, column]
                row: Row = {"target": target.tolist(), "prediction": (found.argmax(-1) if classes else found).tolist()}
                if probabilities and classes:
                    row |= {f"probability of {n}": found[..., n].tolist() for n in range(found.shape[-1])}
                yield row


class SyntheticTraining(Task[SyntheticBatch]):
    """Train on a synthetic task, named ``builtin:NAME`` or ``builtin:NAME?option=value&…``."""

    predictor = SyntheticPredictor
    unit = "outputs"

    def __init__(self, source: Any, options: Options, files: Mapping[str, str] | None = None) -> None:
        super().__init__(source, options, files)
        self.problem = problem_of(source)
        self.source = self.fingerprint = source
        self.batch_size = options.batch_size or 64
        self.steps_per_epoch, self.generated_steps = STEPS_PER_EPOCH, self.problem.length
        least, most = self.problem.lags
        lag = f"{least}" if least == most else f"{least} to {most}"
        self.notes = [f"What matters is {lag} steps back. The published goal: {self.problem.criterion.words}."]

    def model(self) -> SequenceModel:
        """A new network, initialized from torch's random state."""
        return _network(self.problem, self.options)

    def batch(self, step: int) -> SyntheticBatch:
        """The batch of a training step, drawn from the seed and the step."""
        state = np.random.SeedSequence([self.options.seed, self.problem.seed, step]).generate_state(1, np.uint64)[0]
        return self.problem.batch(self.batch_size, torch.Generator().manual_seed(int(state >> np.uint64(1))))

    def loss(self, model: nn.Module, batch: SyntheticBatch, state: State) -> tuple[Tensor, None]:
        """Mean loss of the scored outputs; no state is carried."""
        return self.problem.loss(model(batch.inputs, batch.lengths), batch).sum() / batch.size, None

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss, share of classes that are right, and share of sequences right by the published measure."""
        return {f"validation_{name}": value for name, value in _scores(model, self.problem).items()}

    def baselines(self) -> dict[str, dict[str, float]]:
        """Chance and optimum, from theory."""
        return _levels(self.problem)

    def results(self, model: nn.Module) -> dict[str, str]:
        """``evaluation.json``: whether the published criterion is met, on as many new sequences as it asks for."""
        criterion = self.problem.criterion
        drawn = _outputs(model, self.problem, criterion.sequences, UNSEEN + 1)
        judged = [(self.problem.correct(*pair), self.problem.error(*pair)) for pair in drawn]
        correct, errors = (torch.cat(parts) for parts in zip(*judged, strict=True))
        found = {
            "criterion": criterion.words,
            "sequences": criterion.sequences,
            "wrong": int((~correct).sum()),
            **({} if criterion.mean_error is None else {"mean_error": float(errors.double().mean())}),
            "solved": criterion.met(correct, errors),
        }
        return {"evaluation.json": to_json(found)}

    def held_out(self, count: int, steps: int | None = None) -> Examples:
        """New sequences; the task sets their length."""
        return _examples(self.problem, count)

    def describe(self) -> dict[str, object]:
        """What ``config.json`` says about the data."""
        problem = self.problem
        return {
            "source": self.source,
            "encoding": None,
            "task": {field.name: getattr(problem, field.name) for field in fields(problem)},
            "lags": list(problem.lags),
            "chance": dict(problem.chance._asdict()),
            "optimum": dict(problem.optimum._asdict()),
            "criterion": problem.criterion.words,
            "train_tokens": 0,
            "validation_tokens": 0,
            "vocabulary_size": None,
            "fingerprint": self.fingerprint,
        }
