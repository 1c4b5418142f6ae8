"""``retrograde doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OptionError
from ..options import OPTIONS, flag
from .terminal import console, say, say_json
from .training_options import given, switch, with_training_options

if TYPE_CHECKING:
    from ..doctor.diagnosis import Diagnosis
    from ..doctor.examination import Examination

__all__ = ["doctor"]

PANEL, LEARNING = "The diagnosis", OPTIONS["clip_norm"].panel


@with_training_options
def doctor(
    invocation: typer.Context,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN|DATA",
            help="A run folder; or data to train on, as for retrograde train, for a prognosis before the first update.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(help="Examine the run on this instead of its own data.", show_default=False),
    ] = None,
    *,
    json: Annotated[bool, switch("--json", PANEL, "Print the diagnosis as JSON to stdout.")] = False,
    no_save: Annotated[bool, switch("--no-save", PANEL, "Do not write RUN/doctor.json.")] = False,
    no_clip: Annotated[bool, switch("--no-clip", LEARNING, "Do not clip the gradient.")] = False,
    **options: Any,
) -> None:
    """Find out why a recurrent network does not learn, and what to change.

    Of a run: measures what the data asks the network to remember, how far its
    gradient reaches, and what happened while training, says what is wrong and by
    which rule, and prescribes remedies, each with its number, the arithmetic, and
    the command to run. The diagnosis is kept in [bold]RUN/doctor.json[/bold], and
    shown on the page of the run.

    Of data, with options of training: a prognosis, before the first update.

    The exit code is 0 whatever is found.

    [bold]Examples[/bold]

    retrograde doctor runs/first

    retrograde doctor runs/first other.txt --json

    retrograde doctor reviews.csv --task classify --text review --label stars --cell rnn
    """
    chosen = given(invocation, options, no_clip)
    if (threads := chosen.get("threads")) is not None:
        import torch

        torch.set_num_threads(threads)
    from ..doctor import runs, saving
    from ..runs import RunFolder

    run = runs.is_run(subject)
    _check(subject, data, run, [name for name in chosen if name != "threads"])
    with console(stderr=True).status(f"Reading {subject} …") as status:
        exam = runs.examination_of(subject, data) if run else runs.prognosis_of(subject, chosen)
        diagnosis = _examined(exam, status)
    if run and data is None and not no_save:
        saving.save(diagnosis, RunFolder(subject))
    if json:
        say_json({"run" if run else "data": subject, **diagnosis.as_dict()})
        return
    sequences, steps = sum(sample.inputs[0].shape[1] for sample in exam.samples), len(exam.samples[0].inputs[0])
    say(f"{subject}: {sequences:,} sequences of up to {steps:,} steps examined in {diagnosis.seconds:.0f} s")
    console().print(diagnosis)


def _examined(exam: Examination, status: Any) -> Diagnosis:
    from ..doctor.diagnosis import examined

    return examined(exam, stage=lambda text: status.update(f"Examining: {text} …"))


def _check(subject: str, data: str | None, run: bool, options: list[str]) -> None:
    """Refuse arguments that contradict one another before anything is measured."""
    if run and options:
        raise OptionError(f"{flag(options[0])} is for DATA; {subject} is a run, which has its own: leave it out.")
    if not run and data is not None:
        raise OptionError(
            f"{subject} contains no run that {data} could be data of: name a run folder, or leave it out."
        )
    if not run and Path(subject).is_dir() and (Path(subject) / "checkpoints").is_dir():
        raise OptionError(
            f"{subject} contains no run (there is no config.json): name the --out folder of a training run."
        )
