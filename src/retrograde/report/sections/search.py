"""What a search tried before it kept this run, by ``search.json``."""

from __future__ import annotations

from ...runs import SearchedTrial
from ...runs.scores import METRICS
from ..run import RunContents
from ..section import Section, TextTable
from ..words import duration, number
from .configuration import shown

_ROWS = 100


def section(run: RunContents) -> Section | None:
    """A row for each trial, the best first; None if the run is not of a search."""
    trials = run.searched
    if not trials:
        return None
    options = list(dict.fromkeys(name for one in trials for name in one.options))
    metrics = [
        name for name in METRICS if METRICS[name].on_page and any(one.scores.get(name) is not None for one in trials)
    ]
    columns = ["trial", *(name.replace("_", " ") for name in options), *(name.replace("_", " ") for name in metrics)]
    rows = [_row(one, options, metrics) for one in trials[:_ROWS]]
    complete = sum(one.state == "complete" for one in trials)
    words = [
        f"{len(trials)} trainings with other options were tried, and {complete} of them completed; this is the run of "
        f"trial {trials[0].number}, the best on the validation part. Its score there is therefore a little too good: "
        "judge it on data that the search has not seen."
    ]
    table = TextTable("Trials, the best first", rows, [*columns, "how it ended", "time"])
    return Section("search", "The search", words, tables=[table])


def _row(trial: SearchedTrial, options: list[str], metrics: list[str]) -> list[str]:
    values = [_short(trial.options.get(name)) for name in options]
    scores = [_short(trial.scores.get(name)) for name in metrics]
    return [str(trial.number), *values, *scores, trial.state, duration(trial.seconds)]


def _short(value: object) -> str:
    return number(value) if isinstance(value, float) else shown(value)
