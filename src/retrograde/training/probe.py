"""The sequences on which the gradient of a trained run is measured: held out of its data, or of other data."""

from __future__ import annotations

from typing import Any

from ..data.text import read_text
from ..errors import DataError, OptionError
from ..tasks.language import encoded, loss_by_step, windows
from ..tasks.opening import open_task
from ..tasks.task import Probe, Task
from .callbacks import FLOW_SEQUENCES, FLOW_STEPS
from .loading import TrainedRun

__all__ = ["probe"]


def probe(
    run: TrainedRun, data: str | None = None, *, steps: int | None = None, sequences: int | None = None
) -> tuple[Probe, list[str]]:
    """Choose sequences to measure the gradient of a run on.

    Parameters
    ----------
    run : TrainedRun
    data : str, optional
        Another source; by default what is held out of the run's own.
    steps : int, optional
        The longest sequences: 100 by default, and at most ``bptt`` in a text. Forecasts and synthetic tasks have a
        fixed length.
    sequences : int, optional
        How many, 8 by default; fewer if there are no more.

    Returns
    -------
    probe : Probe
    notes : list of str
        What a reader should know about the sequences.

    Raises
    ------
    DataError
        If the data cannot be read, or the network cannot be applied to it.
    OptionError
        If steps are given where they have no effect; if the run's own data was standard input.
    """
    if data is None and run.config.data.lost:
        raise OptionError(
            f"{run.folder} was trained on {run.config.data.lost}, which is gone: give DATA to measure it on."
        )
    choose = {"language": _text, "forecast": _series, "synthetic": _synthetic}.get(run.config.task, _labelled)
    notes: list[str] = []
    try:
        return choose(run, data, steps, sequences or FLOW_SEQUENCES, notes), notes
    except DataError as error:
        if data is not None:
            raise
        raise DataError(
            f"{error} It is what {run.folder} was trained on: give DATA to measure it on something else."
        ) from None


def _open(run: TrainedRun, source: str | None, notes: list[str], **changes: Any) -> Task[Any]:
    """The run's task on its own data, or on another source."""
    own = run.config.data
    task = open_task(run.config.task, source or own.source, run.config.options.as_dict() | changes, run.folder)
    if source is None and task.fingerprint != own.fingerprint:
        notes.append(f"{own.source} has changed since training: what is held out of it now may have been trained on.")
    return task


def _text(run: TrainedRun, data: str | None, asked: int | None, count: int, notes: list[str]) -> Probe:
    options = run.config.options
    steps = asked or min(FLOW_STEPS, options.bptt)
    if data is None:
        task: Any = _open(run, None, notes)
        inputs, targets = task.held_out_sequences(steps, count)
    else:
        tokens = encoded(run.vocabulary, read_text(data, options.encoding).pieces())
        if len(tokens) < 2:
            raise DataError(f"{data} is too short: {len(tokens)} tokens; predicting one from another takes 2.")
        inputs, targets = windows(tokens, steps, count)
    if asked is not None and len(inputs) < asked:
        notes.append(f"the text has no {asked} steps; measured over {len(inputs)}.")
    return Probe((inputs,), loss_by_step(targets))


def _labelled(run: TrainedRun, data: str | None, asked: int | None, count: int, notes: list[str]) -> Probe:
    steps = asked or FLOW_STEPS
    if data is None:
        return _open(run, None, notes).probe(count, steps)
    found: Probe = run.reader.probe(data, count, steps, run.config.options.encoding or "utf-8")
    return found


def _series(run: TrainedRun, data: str | None, asked: int | None, count: int, notes: list[str]) -> Probe:
    _refuse(asked, "the windows of a forecast are as long as the --context it was trained with")
    # All of the other data is for validation; nothing is held out of it.
    whole = {} if data is None else {"validation": data, "test": None, "test_fraction": None}
    return _open(run, data, notes, **whole).probe(count, FLOW_STEPS)


def _synthetic(run: TrainedRun, data: str | None, asked: int | None, count: int, notes: list[str]) -> Probe:
    _refuse(asked, "a synthetic task sets its own length; another is measured as DATA, builtin:NAME?length=N")
    if data is not None:
        run.reader.other(data)  # refuses what the network cannot be applied to
    return _open(run, data, notes).probe(count, FLOW_STEPS)


def _refuse(steps: int | None, why: str) -> None:
    if steps is not None:
        raise OptionError(f"--steps {steps} has no effect here: {why}.")
