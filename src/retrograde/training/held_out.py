"""The sequences on which the gradient of a trained run is measured: held out of its data, or of other data."""

from __future__ import annotations

from ..errors import DataError, OptionError
from ..tasks.registry import open_task
from ..tasks.task import Examples
from .callbacks import FLOW_SEQUENCES
from .loading import TrainedRun


def held_out(
    run: TrainedRun, data: str | None = None, *, steps: int | None = None, sequences: int | None = None
) -> Examples:
    """Choose sequences to measure the gradient of a run on.

    data: another source; by default what is held out of the run's own.
    steps: the longest sequences: 100 by default, and at most ``bptt`` in a text. Forecasts and synthetic tasks have a
        fixed length.
    sequences: how many, 8 by default; fewer if there are no more.
    Raises DataError if the data cannot be read, or the network cannot be applied to it.
    Raises OptionError if steps are given where they have no effect; if the run's own data was standard input.
    """
    if data is None and run.config.data.lost:
        raise OptionError(
            f"{run.folder} was trained on {run.config.data.lost}, which is gone: give DATA to measure it on."
        )
    if steps is not None and (why := run.predictor.FIXED_STEPS):
        raise OptionError(f"--steps {steps} has no effect here: {why}.")
    own, options, count = run.config.data, run.config.options, sequences or FLOW_SEQUENCES
    if data is not None:
        return run.predictor.examples(data, options.encoding, count, steps)
    try:
        task = open_task(own.source, options, run.folder)
        found = task.held_out(count, steps)
    except DataError as error:
        raise DataError(
            f"{error} It is what {run.folder} was trained on: give DATA to measure it on something else."
        ) from None
    if task.fingerprint == own.fingerprint:
        return found
    changed = f"{own.source} has changed since training: what is held out of it now may have been trained on."
    return found._replace(notes=(changed, *found.notes))
