"""`train`: from data and options to a run folder.

Tests: `tests/training/test_trainer.py`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .. import __version__, kernels
from ..data.formats import in_memory
from ..errors import DataError, DivergedError, OptionError
from ..memory import enough_memory
from ..options import Options
from ..runs import Config, DataDescription, Results, RunFolder, Summary
from ..tasks.registry import new_task, task_name
from ..tasks.task import Task
from .callback import Callback, CallbackList
from .callbacks import REQUEUE, Checkpointing, Evaluation, FlowRecording, Patience, StopAfter, StopOnSignal
from .checkpoint import latest
from .distributed import DistributedContext
from .resume import PreviousRun
from .setup import check_model, is_first_process, make_context, seed_everything
from .trainer import Trainer

ADVICE = "lower --batch-size, --hidden-size or, for text, --bptt"


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    folder: Path  # the run folder
    summary: Summary  # the content of its summary.json
    signal: int | None = None  # the signal that ended it, if there was one


def train(
    data: Any,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    record_flow: bool = False,
    callbacks: Sequence[Callback] = (),
    **given: Any,
) -> Result:
    """Train a recurrent network and write a run folder, without its page: see `retrograde.experiment.train`.

    Parameters and errors are those of `retrograde.experiment.train`.
    """
    first = is_first_process()
    user = CallbackList(callbacks if first else ())
    folder = RunFolder(out, writes=first, note=user.on_note)
    with ExitStack() as stack, enough_memory("this", ADVICE):
        if folder.writes:
            folder.check_writable(resume=resume, overwrite=overwrite)
        if resume:
            stack.enter_context(folder.locked())
        previous = PreviousRun(folder.config()) if resume else None
        options = previous.options(given) if previous else Options.of(given)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        context = make_context(options)
        source = _source(data, previous, out)
        if previous:
            Options.check_task(task_name(source, options.task), given)
            previous.find_checkpoint(folder, user)
            context.wait()  # for the files that the first process may have restored
            task = previous.open_task(source, options, folder)
        else:
            task = new_task(source, given)
        options = task.options
        check_model(options, task)
        if context.size > task.batch_size:
            raise OptionError(
                f"--batch-size {task.batch_size} leaves some of {context.size} processes without work: raise it."
            )
        if not resume:
            stack.enter_context(folder.locked())
            if folder.writes:  # another process may have written there while the data was read
                folder.check_writable(resume=False, overwrite=overwrite)
        return _run(task, options, context, folder, user, previous, record_flow)


def _source(data: Any, previous: PreviousRun | None, out: str | Path) -> Any:
    """The data to train on: what is given, else what a resumed run was trained on."""
    if data is not None:
        if not isinstance(data, str | Path) and not in_memory(data):
            raise DataError(
                f"data is a {type(data).__name__}: give the name of a file, a DataFrame of pandas or Polars, or a "
                "table of Arrow; arrays are read from a file, numpy.save."
            )
        return data if in_memory(data) else str(data)
    if previous is None:
        raise OptionError("there is nothing to train on: name a file, a folder, - or builtin:stdlib.")
    before = previous.config.data
    if before.lost:
        raise OptionError(f"{out} was trained on {before.lost}: give DATA (with the same content) to go on with it.")
    return before.source


def _run(
    task: Task[Any],
    options: Options,
    context: DistributedContext,
    folder: RunFolder,
    user: CallbackList,
    previous: PreviousRun | None,
    record_flow: bool,
) -> Result:
    """Train with everything checked and the folder locked."""
    seed_everything(options.seed)
    found = previous.checkpoint if previous else None
    files = (found.files if found else {}) or task.files()
    checkpointing, evaluation = Checkpointing(folder, files), Evaluation(options.eval_every or 1)
    recording = FlowRecording(folder, resume=found is not None) if record_flow else None
    signals = StopOnSignal(user)
    own = [checkpointing, *([recording] if recording else [])]
    stops = [Patience(options.patience), StopAfter(options.max_time), signals]
    trainer = Trainer(task, options, context, [*own, user, evaluation, *stops])
    if previous and found:
        previous.resume(trainer, folder)
        folder.remove("doctor.json")  # it is of the network as it was
    else:
        if previous:
            user.on_note("it was ended before its first checkpoint was written, and starts from the beginning.")
        context.wait()
        folder.clear()
        if options.floss:
            user.on_note(str(trainer.floss(options.floss)))
    folder.write_config(_config(trainer, previous.config if previous else None))
    if not found:
        for name, content in files.items():
            folder.write(name, content)
        folder.write_metrics([])
        checkpointing.on_save(trainer)

    for note in task.notes:
        user.on_note(note)
    progress = trainer.progress
    if found and (progress.step >= trainer.planned_steps or Patience(options.patience).is_over(progress)):
        which = "--epochs or --max-steps" if progress.step >= trainer.planned_steps else "--patience"
        user.on_note(f"nothing is left to train at step {progress.step:,}: raise {which} to go on.")
    with signals, context.explain_lost_processes(lambda: progress.step):
        trainer.callbacks.on_train_begin(trainer)
        ended_by, failure = _fit(trainer, checkpointing, signals)
        summary = _summary(trainer, ended_by, failure)
        folder.write_summary(summary)
        if recording and (text := recording.summary()):
            user.on_note(text)
        if context.is_first and ended_by != REQUEUE:
            summary = _write_results(trainer, folder, summary)
            trainer.callbacks.on_train_end(trainer, folder)
    context.close()
    if failure:
        raise failure
    return Result(folder.path, summary, ended_by or signals.received or None)


def _fit(trainer: Trainer, checkpointing: Checkpointing, signals: StopOnSignal) -> tuple[int, DivergedError | None]:
    """Train, and save and evaluate the last step; the signal that ended training (0: none), and how it diverged."""
    try:
        if not trainer.progress.step and not trainer.progress.metrics:
            trainer.evaluate()  # the weights to begin with are a candidate for the best
        trainer.fit()
        ended_by, progress = trainer.context.max(signals.received), trainer.progress
        if ended_by == REQUEUE:  # the job ends soon: a checkpoint, and nothing that takes long
            checkpointing.on_save(trainer)
        elif not progress.metrics or progress.metrics[-1].step != progress.step:
            checkpointing.on_save(trainer)
            trainer.evaluate()
    except DivergedError as error:
        return 0, error
    return ended_by, None


def _write_results(trainer: Trainer, folder: RunFolder, summary: Summary) -> Summary:
    """Add baselines and the results of the best weights to the summary, and write the files of the task.

    The model of the trainer then has the best weights, on the CPU, in eval mode.
    """
    trainer.callbacks.on_stage("counting the baselines")
    summary = replace(summary, baselines=trainer.task.baselines())
    folder.write_summary(summary)
    model = trainer.model.cpu().eval()
    if (folder / "model.safetensors").exists():
        weights, about = folder.read_tensors("model.safetensors")
        model.load_state_dict(weights)
        if text := trainer.task.settle(model):
            trainer.callbacks.on_note(text)
            folder.write_tensors("model.safetensors", model.state_dict(), about)
    else:  # training diverged before the first evaluation
        model.load_state_dict(latest(folder).state.model)
    trainer.callbacks.on_stage("evaluating the trained network")
    for name, content in trainer.task.results(model).items():
        folder.write(name, content)
        if name == "evaluation.json":
            found = Results.of(json.loads(content))
            scores = {part: result.scores for part, result in found.parts.items()}
            simple = found.parts["test"].baselines if "test" in found.parts else None
            # What training measured is before the weights were settled.
            best = {key: scores.get("validation", {}).get(key, value) for key, value in summary.best.items()}
            summary = replace(summary, best=best, results=scores, goal=found.goal, test_baselines=simple)
            folder.write_summary(summary)
    return summary


def _config(trainer: Trainer, before: Config | None) -> Config:
    return Config(
        version=__version__,
        task=trainer.task.name,
        created=(before and before.created) or datetime.now(UTC).isoformat(timespec="seconds"),
        options=trainer.options,
        data=DataDescription.of(trainer.task.describe()),
        chosen=before.chosen if before else trainer.task.chosen,
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        environment={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "engine": kernels.info()["instruction_set"],
        },
    )


def _summary(trainer: Trainer, ended_by: int, failure: DivergedError | None) -> Summary:
    progress, planned, best = trainer.progress, trainer.planned_steps, trainer.progress.best
    if failure is not None:
        status, message = "diverged", str(failure)
    elif ended_by:
        status = "interrupted"
        message = f"stopped at step {progress.step:,} of {planned:,}; --resume goes on from there"
    elif progress.step < planned:
        status = "finished"
        why = "a callback ended training" if trainer.options.max_time is None else "the time was up"
        how = "--resume goes on from there"
        if Patience(trainer.options.patience).is_over(progress):
            why = f"{progress.waited} evaluations in a row were no better than the best (--patience)"
            how = "--resume with more of it goes on from there"
        message = f"{why} at step {progress.step:,} of {planned:,}; {how}"
    else:
        status, message = "finished", f"all {planned:,} steps taken"
    return Summary(
        status,
        progress.step,
        progress.seconds,
        message,
        best_step=None if best is None else best.step,
        best={} if best is None else best.validation,
    )
