"""What the gradient of a trained run is measured on: sequences held out of its data, or of other data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..data.text import read_text
from ..errors import DataError, OptionError
from ..tasks.language import encoded, loss_by_step, windows
from ..tasks.opening import open_task
from .finish import FLOW_SEQUENCES, FLOW_STEPS
from .loading import Run

__all__ = ["Probe", "probe"]


@dataclass(frozen=True)
class Probe:
    """Sequences and their losses, as ``gradient_flow`` takes them.

    Attributes
    ----------
    inputs : tuple
        Of the run's model; the first has a shape ``(T, B, …)``.
    loss : callable
        Of the model's output: ``(T, B)``, or ``(B,)`` where a sequence has one.
    notes : list of str
        What a reader must know of the sequences.
    """

    inputs: tuple[Any, ...]
    loss: Callable[[Any], Tensor]
    notes: list[str]


def probe(run: Run, data: str | None = None, *, steps: int | None = None, sequences: int | None = None) -> Probe:
    """Choose sequences to measure the gradient of a run on.

    Parameters
    ----------
    run : Run
    data : str, optional
        Another source than the run's own, of which what is held out is taken if not given.
    steps : int, optional
        The longest sequences: 100 if not given, and no more than ``bptt`` in a text. Forecasts and synthetic tasks have
        a length of their own.
    sequences : int, optional
        How many, 8 if not given; fewer where there are no more.

    Raises
    ------
    DataError
        The data cannot be read, or the network cannot read it.
    OptionError
        Steps are asked for where they have no say; the run's own data was standard input.
    """
    task, source = run.config["task"], str(run.config["data"]["source"])
    if data is None and (source == "-" or run.config["data"].get("in_memory")):
        what = "standard input" if source == "-" else source
        raise OptionError(f"{run.folder} was trained on {what}, which is gone: give DATA to measure it on.")
    how = {"language": _text, "forecast": _series, "synthetic": _synthetic}.get(task, _labelled)
    notes: list[str] = []
    try:
        inputs, loss = how(run, data, steps, sequences or FLOW_SEQUENCES, notes)
    except DataError as error:
        if data is not None:
            raise
        raise DataError(
            f"{error} It is what {run.folder} was trained on: give DATA to measure it on something else."
        ) from None
    return Probe(inputs, loss, notes)


_Found = tuple[tuple[Any, ...], Callable[[Any], Tensor]]


def _opened(run: Run, source: str | None, notes: list[str], **options: Any) -> Any:
    """The run's task over its own data, or over another source."""
    data = run.config["data"]
    source_or_own = str(data["source"]) if source is None else source
    task = open_task(run.config["task"], source_or_own, run.config["options"] | options, run.folder)
    if source is None and task.fingerprint != data.get("fingerprint"):
        notes.append(
            f"{data['source']} has changed since training: what is held out of it now may have been trained on."
        )
    return task


def _text(run: Run, data: str | None, asked: int | None, count: int, notes: list[str]) -> _Found:
    options = run.config["options"]
    steps = asked or min(FLOW_STEPS, options["bptt"])
    if data is None:
        inputs, targets = _opened(run, None, notes).held_out_sequences(steps, count)
    else:
        tokens = encoded(run.vocabulary, read_text(data, options["encoding"]).pieces())
        if len(tokens) < 2:
            raise DataError(f"{data} is too short: {len(tokens)} tokens; predicting one from another takes 2.")
        inputs, targets = windows(tokens, steps, count)
    if asked is not None and len(inputs) < asked:
        notes.append(f"the text has no {asked} steps; measured over {len(inputs)}.")
    return (inputs,), loss_by_step(targets)


def _labelled(run: Run, data: str | None, asked: int | None, count: int, notes: list[str]) -> _Found:
    steps = asked or FLOW_STEPS
    found: _Found
    if data is None:
        found = _opened(run, None, notes).probe(count, steps)
    else:
        found = run.reader.probe(data, count, steps, run.config["options"]["encoding"] or "utf-8")
    return found


def _series(run: Run, data: str | None, asked: int | None, count: int, notes: list[str]) -> _Found:
    _refuse(asked, "the windows of a forecast are as long as the --context it was trained with")
    # Other data is all to validate with, none of it held out of the rest.
    whole = {} if data is None else {"validation": data, "test": None, "test_fraction": None}
    found: _Found = _opened(run, data, notes, **whole).probe(count, FLOW_STEPS)
    return found


def _synthetic(run: Run, data: str | None, asked: int | None, count: int, notes: list[str]) -> _Found:
    _refuse(asked, "a synthetic task sets its own length; another is measured as DATA, builtin:NAME?length=N")
    if data is not None:
        run.reader.other(data)  # refuses what the network cannot be applied to
    found: _Found = _opened(run, data, notes).probe(count, FLOW_STEPS)
    return found


def _refuse(steps: int | None, why: str) -> None:
    if steps is not None:
        raise OptionError(f"--steps {steps} has no say here: {why}.")
