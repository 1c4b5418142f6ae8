"""``retrograde train --search``: a line for each trial, and the best of them.

Tests: `tests/cli/test_search_command.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OptionError
from ..option import flag
from ..options import OPTIONS
from .terminal import console, note, say, say_json, scores
from .training_options import switch

if TYPE_CHECKING:
    from ..searching import Search, SearchedTrial
    from ..training import Callback

__all__ = ["OnRay", "SearchTime", "Trials", "Workers", "asked_for", "search_and_show"]

SHOWN = 5
PANEL = "Search"
Trials = Annotated[
    int | None, switch("--search", PANEL, "Train this often with other options, and keep the best run (Optuna).")
]
SearchTime = Annotated[str | None, switch("--search-time", PANEL, "End the search after 10m, 1h30m.")]
Workers = Annotated[int | None, switch("--workers", PANEL, "Trainings at a time; by default 1.")]
OnRay = Annotated[bool, switch("--ray", PANEL, "Train on the Ray cluster at RAY_ADDRESS, or on a local one.")]


def asked_for(search: int | None, **more: Any) -> bool:
    """Whether to search; options of a search without one are refused.

    Raises
    ------
    OptionError
    """
    given = [name for name, value in more.items() if value not in (None, False)]
    if search is None and given:
        raise OptionError(f"{flag(given[0])} is for --search: give that too, or leave it out.")
    return search is not None


def _tracking(track: str, out: Path, trial: int) -> Sequence[Callback]:
    from ..integrations.tracking import Tracking

    return [Tracking(track, out, trial)]


def search_and_show(
    data: str | None, out: Path, *, quiet: bool, json: bool, trials: Any, track: Any, **how: Any
) -> None:
    """Search, and print what was found."""
    from ..searching import search

    if track is not None:
        _tracking(track, out, 0)  # refuses an unknown or missing tracker before the search
        how["callbacks"] = partial(_tracking, track, out.resolve())

    with console(stderr=True, quiet=quiet).status(f"Trial 1 of {trials} …") as status:

        def show(done: SearchedTrial) -> None:
            status.update(f"Trial {done.number + 2} of {trials} …")
            if not quiet:
                say(_line(done), err=json)

        found = search(data, out, trials=trials, progress=show, **how)
    if json:
        say_json({"run": str(found.folder), "signal": found.signal, **found.as_dict()})
    elif not quiet:
        _show(found)
    if found.signal:
        raise typer.Exit(128 + found.signal)


def _line(trial: SearchedTrial) -> str:
    end = (
        ""
        if trial.state == "complete"
        else f" | {trial.state} at step {trial.steps:,}"
        if trial.steps
        else f" | {trial.state}"
    )
    parts = [", ".join(scores(trial.scores)), f"{trial.seconds:.0f} s"]
    return f"trial {trial.number}: {words(trial.options)} | {' | '.join(filter(None, parts))}{end}"


def words(options: Mapping[str, Any]) -> str:
    """Options as they are written on the command line, numbers with three digits.

    Examples
    --------
    >>> words({"lr": 0.00234567, "cell": "gru", "bidirectional": False})
    '--lr 0.00235 --cell gru --no-bidirectional'
    """
    short = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in options.items()}
    return " ".join(" ".join(OPTIONS[name].words(value)) for name, value in short.items())


def _show(found: Search) -> None:
    for remark in found.notes:
        note(remark)
    ranked = found.ranked()
    say(f"The best {min(SHOWN, len(ranked))} of {len(ranked)}; all are in {found.folder / 'search.json'}:")
    for one in ranked[:SHOWN]:
        say(_line(one))
    if found.best is not None:
        say(f"Run folder of trial {found.best.number}: {found.folder}")
