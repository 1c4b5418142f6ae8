"""``retrograde doctor``: what is wrong with a training, and the proof of a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OptionError
from ..option import flag
from ..option import seconds as duration
from ..options import OPTIONS
from .terminal import console, say, say_json
from .training_options import given, switch, with_training_options

if TYPE_CHECKING:
    from ..doctor.diagnosis import Diagnosis
    from ..doctor.trial import TrialProgress
    from ..doctor.trial_result import Trial

PANEL, PROOF, LEARNING = "The diagnosis", "The proof", OPTIONS["clip_norm"].panel


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
    prove: Annotated[
        bool, switch("--prove", PROOF, "Try the remedies in matched trainings, next to a placebo and random remedies.")
    ] = False,
    budget: Annotated[str | None, switch("--budget", PROOF, "Time for that: 90s, 1h30m; by default 10m.")] = None,
    seeds: Annotated[
        int | None, switch("--seeds", PROOF, "The most seeds. Fewer than 5 cannot prove anything.")
    ] = None,
    workers: Annotated[int | None, switch("--workers", PROOF, "Trainings at a time; by default one per core.")] = None,
    ray: Annotated[bool, switch("--ray", PROOF, "Train on the Ray cluster at RAY_ADDRESS, or on a local one.")] = False,
    restart: Annotated[bool, switch("--restart", PROOF, "Replace an earlier proof in RUN.")] = False,
    no_clip: Annotated[bool, switch("--no-clip", LEARNING, "Do not clip the gradient.")] = False,
    **options: Any,
) -> None:
    """Find out why a recurrent network does not learn, and what to change.

    Of a run: measures what the data asks the network to remember, how far its
    gradient reaches, and what happened while training, says what is wrong and by
    which rule, and prescribes remedies, each with its number, the arithmetic, and
    the command to run. The diagnosis is kept in [bold]RUN/doctor.json[/bold] and
    shown on the page of the run.

    Of data, with options of training: a prognosis, before the first update.

    With [bold]--prove[/bold], the training is repeated with and without the remedies,
    over many seeds, until a sequential test decides or the time is up. The result,
    RUN/doctor-trial.json, is on its page; the same command goes on, also after Ctrl-C.

    The exit code is 0 whatever is found.

    [bold]Examples[/bold]

    retrograde doctor runs/first

    retrograde doctor runs/first other.txt --json

    retrograde doctor runs/first --prove --budget 30m

    retrograde doctor reviews.csv --task classify --text review --label stars --cell rnn
    """
    chosen = given(invocation, options, no_clip)
    _set_threads(chosen.get("threads"))
    from ..doctor import runs, saving
    from ..runs import RunFolder

    run = runs.is_run(subject)
    _check(subject, data, run, [name for name in chosen if name != "threads"])
    proof = {"budget": budget, "seeds": seeds, "workers": workers, "ray": ray, "restart": restart}
    _check_proof(prove, data, proof)
    diagnosis = _begun(subject) if run and prove and not restart else None
    if diagnosis is None:
        diagnosis = _examined(subject, data, run, chosen, quiet=json)
        if run and data is None and not no_save:
            saving.save(diagnosis, RunFolder(subject))
    if not json:
        console().print(diagnosis)
    trial = _proof(subject, diagnosis, run, proof | {"save": not no_save}, chosen) if prove else None
    if json:
        found = {"run" if run else "data": subject, **diagnosis.as_dict()}
        say_json(found | ({} if trial is None else {"trial": trial.as_dict()}))
    elif prove:
        console(soft_wrap=False).print(trial or "There is nothing to prove: no prescription is an option of training.")
    if trial is not None and trial.interrupted:
        raise typer.Exit(130)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _begun(subject: str) -> Diagnosis | None:
    """The diagnosis whose remedies a proof in the run folder has begun to try; None if there is none."""
    from ..doctor import ledger, saving
    from ..runs import RunFolder

    folder = RunFolder(subject)
    return saving.load(folder) if folder.has(ledger.LINES) else None


def _examined(subject: str, data: str | None, run: bool, options: dict[str, Any], quiet: bool) -> Diagnosis:
    """Diagnose a run, or make a prognosis of data, and say how much was looked at."""
    from ..doctor import runs
    from ..doctor.diagnosis import examined

    with console(stderr=True).status(f"Reading {subject} …") as status:
        exam = runs.examination_of(subject, data) if run else runs.prognosis_of(subject, options)
        diagnosis = examined(exam, stage=lambda text: status.update(f"Examining: {text} …"))
    if not quiet:
        sequences, steps = sum(sample.inputs[0].shape[1] for sample in exam.samples), len(exam.samples[0].inputs[0])
        say(f"{subject}: {sequences:,} sequences of up to {steps:,} steps examined in {diagnosis.seconds:.0f} s")
    return diagnosis


def _proof(
    subject: str, diagnosis: Diagnosis, run: bool, settings: dict[str, Any], options: dict[str, Any]
) -> Trial | None:
    """Matched runs with the prescriptions; None if no prescription is an option of training."""
    if not any(prescription.options for prescription in diagnosis.prescriptions):
        return None
    from ..doctor.trial import trial

    with console(stderr=True).status("Trying the remedies …") as status:

        def show(progress: TrialProgress) -> None:
            left = "" if progress.seconds_left is None else f", at most {progress.seconds_left:,.0f} s left"
            status.update(f"Trying the remedies: {progress.done} trainings done{left}: {progress.running} …")

        return trial(
            subject,
            diagnosis,
            out=subject if run and settings["save"] else None,
            budget=settings["budget"] or "10m",
            overwrite=settings["restart"],
            progress=show,
            **{name: settings[name] for name in ("seeds", "workers", "ray")},
            **({} if run else options),
        )


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
    if not run:
        from ..tasks.registry import check_named  # late: libraries that read data are heavy

        check_named(subject, also="a run folder")


def _check_proof(prove: bool, data: str | None, settings: dict[str, Any]) -> None:
    """Refuse settings of a proof without one, and impossible ones, before anything is measured."""
    given = [name for name, value in settings.items() if value not in (None, False)]
    if given and not prove:
        raise OptionError(f"{flag(given[0])} is for --prove: give that too, or leave it out.")
    if prove and data is not None:
        raise OptionError(f"--prove repeats the training of the run; leave {data} out.")
    for name in ("seeds", "workers"):
        if settings[name] is not None and settings[name] < 1:
            raise OptionError(f"{flag(name)} {settings[name]} is impossible: it must be at least 1.")
    if settings["budget"] is not None and duration(settings["budget"], "--budget") <= 0:
        raise OptionError(f"--budget {settings['budget']} is impossible: it must be above 0.")
