"""`train` and `load`: the whole line from data to a run folder with its page, and back to a trained network.

Tests: `tests/doctor/test_doctor_runs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import training
from .flow import gradient_flow
from .runs import RunFolder
from .tasks.task import Task
from .training import Callback, Result, TrainedRun, Trainer, load
from .training.callbacks import FLOW_SEQUENCES

DOCTOR_SHARE, DOCTOR_SECONDS = 0.03, 8.0  # of the training time, and at least, that looking for causes may take

__all__ = ["Result", "TrainedRun", "load", "train"]


class WritePage(Callback):
    """At the end of training, measures the gradient flow and writes ``report.html``."""

    def on_train_end(self, trainer: Trainer, folder: RunFolder) -> None:
        from . import report as page  # late, because a training without a page need not wait for plotly

        try:
            trainer.callbacks.on_stage("measuring how far the gradient reaches")
            measure_flow(trainer.task, trainer.model.cpu(), trainer.options.seed, folder)
            look_for_causes(trainer, folder)
            trainer.callbacks.on_stage("writing the page")
            folder.check_alive()
            page.write(folder.path)
        except Exception as error:  # the run itself is complete, and worth more than its page
            folder.check_alive()  # raises if this is the reason
            trainer.callbacks.on_note(f"the page is not complete: {type(error).__name__}: {error}")
        folder.check_alive()


def measure_flow(task: Task[Any], model: nn.Module, seed: int, folder: RunFolder) -> None:
    """Measure the gradient flow of the trained model, and of the same model with its initial weights."""
    examples = task.held_out(FLOW_SEQUENCES)
    torch.manual_seed(seed)
    untrained = task.model()
    for name, one in (("trained", model), ("untrained", untrained)):
        flow = gradient_flow(one.eval(), *examples.inputs, loss=examples.loss)
        folder.check_alive()  # saving creates missing folders
        flow.save(folder / "flow" / name)


def look_for_causes(trainer: Trainer, folder: RunFolder) -> None:
    """Where a run is no better than a simple method, write ``doctor.json``: what hinders it, and what to change."""
    from . import doctor  # late, as the page is
    from .doctor import runs, saving
    from .doctor.outcome import was_not_learned

    summary = folder.summary()
    if not (why := was_not_learned(summary)):
        return
    trainer.callbacks.on_stage(f"looking for the cause: {why}")
    seconds = max(DOCTOR_SECONDS, DOCTOR_SHARE * trainer.progress.seconds)
    examination = runs.after_training(folder, trainer.task, trainer.model.cpu().eval(), seconds)
    diagnosis = doctor.diagnosis.examined(examination)
    folder.check_alive()
    saving.save(diagnosis, folder)


def train(
    data: Any,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: bool = True,
    record_flow: bool = False,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Result:
    """Train a recurrent network on a task and write a run folder.

    On one machine the same data, options, seed and number of threads give the same weights, bit for bit, whether the
    run was interrupted and resumed or not. The global random states of torch, NumPy and Python are set.

    Parameters
    ----------
    data : str, Path, frame or None
        Text (see `retrograde.data.text.read_text`), a table (`retrograde.data.formats.open_table`), a DataFrame of
        pandas or Polars or a table of Arrow, or a synthetic task (``builtin:adding?length=100``). None: with
        ``resume``, what the run was trained on.
    out : str or Path
        The run folder.
    resume, overwrite : bool
        Continue the run in ``out``, or replace it. Without either, an existing run is refused.
    report : bool
        Whether to measure the gradient flow and write ``report.html`` at the end.
    record_flow : bool
        Whether to measure it on held-out sequences now and then while training too (``GradientFlowRecorder``, at most
        3 % of the time), into ``flow/recorded.jsonl``. It does not change the training.
    callbacks : sequence of Callback
        Called at each step and evaluation, and with messages; see `retrograde.training.Callback`.
    **options
        Fields of `retrograde.training.Options`. A resumed run keeps its own; only those of `Options.MAY_CHANGE` may
        differ, and ``max_time`` counts from the start of each session.

    Returns
    -------
    Result
        The run folder, its summary, and the signal that ended training, if there was one.

    Raises
    ------
    OptionError, DataError, RunError
        Before any work, if an argument is impossible, or the data of a resumed run has changed. RunError also if the
        disk is full or a process of the job is gone; what was saved before is kept.
    DivergedError
        If the loss or a gradient becomes NaN or infinite; the last good checkpoint is kept.

    Examples
    --------
    >>> result = train("corpus.txt", "runs/first", cell="lstm", epochs=3)  # doctest: +SKIP
    >>> result.summary.best["loss"], load("runs/first").model  # doctest: +SKIP
    """
    pages = [WritePage()] if report else []
    return training.train(
        data,
        out,
        resume=resume,
        overwrite=overwrite,
        record_flow=record_flow,
        callbacks=[*callbacks, *pages],
        **options,
    )
