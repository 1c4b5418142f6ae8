"""A run folder, or data before the first update, as something to examine.

Tests: `tests/doctor/test_doctor_runs.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.formats import name_of
from ..errors import DataError, OptionError, RetrogradeError, RunError
from ..options import Options
from ..runs import Config, Metrics, RunFolder, Summary
from ..runs.scores import CONSTANT_ANSWERS
from ..tasks.registry import new_task, open_predictor, open_task, task_info, task_name
from ..tasks.task import Examples, Task
from ..training.checkpoint import latest
from ..training.loading import TrainedRun, load
from ..training.schedule import planned_steps
from .examination import EFFORT, Examination, Origin, Sample
from .outcome import method_beaten
from .record import TrainingRecord

SECONDS = 40.0  # after which no further rule is begun
SEQUENCES = 4096  # the most that are looked at; the signal by lag stops where it has seen enough
FEWEST = 8  # sequences in a sample
SAMPLE = 64  # the most in a sample; the signal is compared within one, so that small ones hide it
LONGEST = 1_000  # steps of a sequence
Draw = Callable[[int, int | None], Examples]  # so many sequences, of at most so many steps


def is_run(path: Any) -> bool:
    """Whether this is the folder of a training run."""
    return isinstance(path, str | Path) and (Path(path) / "config.json").exists()


# --- A run ------------------------------------------------------------------------------------------------------------


def examination_of(run: str | Path | TrainedRun, data: Any = None, seconds: float = SECONDS) -> Examination:
    """Make an examination of a trained run: its network, its start, its sequences, and how it was trained.

    data: other data to take the sequences from.
    seconds: about how long measurements may take on one core; it decides how many sequences are looked at.
    Raises RunError, DataError, OptionError if the run, or its data, cannot be read.
    """
    folder = RunFolder(run.folder if isinstance(run, TrainedRun) else run)
    config, notes = folder.config(), list[str]()
    trained = run if isinstance(run, TrainedRun) else _load(folder, config, folder.summary(), notes)
    task = _task(config, folder, data, notes)

    def examples(count: int, steps: int | None) -> Examples:
        if data is not None:
            return trained.predictor.examples(data, config.options.encoding, count, steps)
        assert task is not None  # _task refuses a run whose data is gone
        return task.examples(count, steps)

    return _examination(folder, config, trained.model, task, examples, notes, seconds)


def after_training(folder: RunFolder, task: Task[Any], model: nn.Module, seconds: float) -> Examination:
    """Make an examination of a run that has just ended, with the task and the network still there."""
    return _examination(folder, folder.config(), model, task, task.examples, [], seconds)


def _examination(
    folder: RunFolder,
    config: Config,
    model: nn.Module,
    task: Task[Any] | None,
    examples: Draw,
    notes: list[str],
    seconds: float,
) -> Examination:
    source = config.data.source
    untrained = _untrained(config.options, folder, source, task)
    samples = _samples(model, examples, config.options, seconds, notes)
    origin = Origin(
        config.options,
        "" if config.data.lost else source,
        str(folder.path),
        _must_name(source, config.task),
        config.chosen,
    )
    record = _record(config, folder.summary(), folder.metrics(), notes)
    deadline, beats = time.perf_counter() + seconds, method_beaten(folder.summary())
    return Examination(
        model, samples, untrained, record, notes, origin=origin, deadline=deadline, start_given=True, beats=beats
    )


def _load(folder: RunFolder, config: Config, summary: Summary | None, notes: list[str]) -> TrainedRun:
    """The trained network; of a run that diverged, or was never evaluated, with the weights of its last checkpoint."""
    if (folder / "model.safetensors").exists():
        run = load(folder.path)
        if summary is None or summary.status != "diverged":
            return run
    else:
        predictor = open_predictor(folder.path, config.options, config.data.source)
        run = TrainedRun(folder.path, predictor, config, summary, folder.metrics())
    try:
        state = latest(folder).state
        run.model.load_state_dict(state.model)
        notes.append(f"The weights are those of the last checkpoint, at step {state.progress.step:,}.")
    except (RunError, RuntimeError) as error:
        if not (folder / "model.safetensors").exists():
            raise RunError(f"{folder.path} contains no weights: {error}") from None
    run.model.eval()
    return run


def _task(config: Config, folder: RunFolder, data: Any, notes: list[str]) -> Task[Any] | None:
    """The task with its data; None if that is gone and other data is given."""
    if config.data.lost:
        if data is None:
            raise OptionError(
                f"{folder.path} was trained on {config.data.lost}, which is gone: give DATA to examine it on."
            )
        return None
    try:
        task = open_task(config.data.source, config.options, folder.path)
    except RetrogradeError as error:
        if data is not None:
            return None
        if not isinstance(error, DataError):
            raise
        raise DataError(f"{error} It is what {folder.path} was trained on: give DATA to examine it on.") from None
    if task.fingerprint != config.data.fingerprint:
        notes.append(f"{config.data.source} has changed since training.")
    return task


def _untrained(options: Options, folder: RunFolder | None, source: str, task: Task[Any] | None) -> nn.Module:
    """The network as training started it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        if task is not None:
            return task.model().eval()
        assert folder is not None
        return open_predictor(folder.path, options, source).network.eval()


def _record(config: Config, summary: Summary | None, metrics: Sequence[Metrics], notes: list[str]) -> TrainingRecord:
    options, steps = config.options, metrics[-1].step if metrics else 0
    norms = _norms(metrics)
    if norms:
        notes.append(
            "metrics.jsonl has the smallest, median and largest gradient norm between two evaluations; the norms of "
            "single updates are interpolated between these."
        )
    chance, floor = _levels((summary.baselines if summary is not None else None) or {})
    return TrainingRecord(
        optimizer=options.optimizer,
        lr=options.lr,
        clip_norm=options.clip_norm,
        bptt=task_info(options).bptt,
        updates=steps if summary is None or summary.step is None else summary.step,
        losses=[line.train_loss for line in metrics if line.train_loss is not None],
        gradient_norms=norms,
        chance=chance,
        floor=floor,
        validation_loss=None if summary is None else summary.scores.get("loss"),
        diverged=summary is not None and summary.status == "diverged",
    )


def _norms(metrics: Sequence[Metrics]) -> list[float]:
    """A norm for each update: below the median from the minimum on, above it the mirror of that, and the maximum."""
    found: list[float] = []
    before = 0
    for line in metrics:
        count, before = line.step - before, line.step
        least, middle, most = line.gradient_norm_min, line.gradient_norm_median, line.gradient_norm_max
        if not least or not middle or not most or count < 1:
            continue
        ratio = middle / least
        for i in range(count - 1):
            place = (i + 0.5) / count
            found.append(min(most, least * ratio ** (2 * place)))
        found.append(most)
    return found


def _levels(baselines: Mapping[str, Mapping[str, float | None]]) -> tuple[float | None, float | None]:
    """Loss of the best constant answer, and the lowest possible one, where the task knows them."""

    def loss(*names: str) -> float | None:
        return next((baselines[name].get("loss") for name in names if name in baselines), None)

    return loss(*CONSTANT_ANSWERS), loss("optimum")


# --- Before the first update ------------------------------------------------------------------------------------------


def prognosis_of(data: Any, given: Mapping[str, Any], seconds: float = SECONDS) -> Examination:
    """Make an examination of a training that has not begun: its network, untrained, on its data.

    data: as for `retrograde.train`.
    given: options of training that differ from their defaults.
    Raises DataError, OptionError.
    """
    source = str(data) if isinstance(data, Path) else data
    task, notes = new_task(source, given), list[str]()
    options = task.options
    model = _untrained(options, None, name_of(source), task)
    samples = _samples(model, task.examples, options, seconds, notes)
    chance, floor = _levels(task.baselines())
    record = TrainingRecord(
        options.optimizer,
        options.lr,
        options.clip_norm,
        task_info(options).bptt,
        updates=0,
        chance=chance,
        floor=floor,
        planned=planned_steps(options, task),
    )
    written = source if isinstance(source, str) and source != "-" else ""
    origin = Origin(options, written, "", _must_name(written, task.name), task.chosen)
    notes = [*task.notes, *notes]
    return Examination(model, samples, model, record, notes, origin=origin, deadline=time.perf_counter() + seconds)


# --- Sequences --------------------------------------------------------------------------------------------------------


def _samples(model: nn.Module, draw: Draw, options: Options, seconds: float, notes: list[str]) -> list[Sample]:
    """Sequences to measure on: of a text as long ones, and in a batch as many, as there is effort for.

    The first sample is what most rules look at; the others are for the signal by lag. Effort is counted in
    multiplications, never timed, so that a diagnosis does not depend on what else the machine is doing.
    """
    effort = EFFORT * seconds / SECONDS
    weights = max(1, sum(weight.numel() for weight in model.parameters() if weight.dim() > 1))
    bptt = task_info(options).bptt
    lengths = [LONGEST] if bptt is None else [2 * bptt, bptt, bptt // 2]
    steps = next((length for length in lengths if weights * length * FEWEST <= effort), lengths[-1])
    found: Examples = draw(SEQUENCES, max(2, steps))
    notes += found.notes
    steps, count = found.inputs[0].shape[:2]
    size = max(FEWEST, min(SAMPLE, int(effort / (weights * steps))))
    parts = math.ceil(count / SAMPLE)
    first = _part(found, 0, parts * math.ceil(min(SAMPLE, count) / size))
    chosen = [first, *(_part(found, rank, parts) for rank in range(1, parts))]
    return [Sample(one.inputs, one.loss, one.target) for one in chosen]


def _part(examples: Examples, rank: int, size: int) -> Examples:
    return examples if examples.part is None or size < 2 else examples.part(rank, size)


# --- The command ------------------------------------------------------------------------------------------------------


def _must_name(source: str, task: str) -> bool:
    """Whether a command must say which task it is."""
    try:
        return task_name(source, "auto") != task
    except RetrogradeError:
        return True
