"""``retrograde train``: train a network into a run folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import OPTIONS, TABLES_OR
from .paths import data_there
from .search import OnRay, SearchTime, Trials, Workers, asked_for, search_and_show
from .terminal import say_json
from .training_options import given, switch, with_training_options

__all__ = ["train"]

RUN, LEARNING = OPTIONS["seed"].panel, OPTIONS["clip_norm"].panel


Data = Annotated[
    str | None,
    typer.Argument(
        callback=data_there,
        help="A text file (plain or .gz), a folder of text files, [bold]-[/bold] for standard input, or "
        f"[bold]builtin:stdlib[/bold] (the source text of Python's own library). For {TABLES_OR}: "
        "a table (.csv, .tsv, .jsonl, .parquet, .arrow, .npy, .npz, .conll, or a folder of texts per "
        "label), [bold]builtin:digits[/bold] or [bold]builtin:eeg[/bold]. A synthetic task: "
        "[bold]builtin:adding?length=100[/bold]. Not needed with --resume.",
        show_default=False,
    ),
]
_RESUME = "Continue the run in --out as if it had never stopped (DATA: where its data is now)."
_RECORD = "Measure the gradient flow during training too, in at most 3 % of the time."
_TRACK = "Send numbers to tensorboard, mlflow, wandb, trackio (a,b); offline unless their own settings say otherwise."
_JSON = "Print the result as JSON to stdout, everything else to stderr."


@with_training_options
def train(
    invocation: typer.Context,
    data: Data = None,
    *,
    out: Annotated[Path, switch("--out -o", RUN, "Run folder to write.")],
    resume: Annotated[bool, switch("--resume", RUN, _RESUME)] = False,
    overwrite: Annotated[bool, switch("--overwrite", RUN, "Replace the run in --out.")] = False,
    record_flow: Annotated[bool, switch("--record-flow", RUN, _RECORD)] = False,
    no_report: Annotated[bool, switch("--no-report", RUN, "Skip gradient flow and report.html at the end.")] = False,
    quiet: Annotated[bool, switch("--quiet -q", RUN, "Print errors only.")] = False,
    json: Annotated[bool, switch("--json", RUN, _JSON)] = False,
    track: Annotated[str | None, switch("--track", RUN, _TRACK)] = None,
    search: Trials = None,
    search_time: SearchTime = None,
    workers: Workers = None,
    ray: OnRay = False,
    no_clip: Annotated[bool, switch("--no-clip", LEARNING, "Do not clip the gradient.")] = False,
    **options: Any,
) -> None:
    """Train a recurrent network and measure how far back its gradient reaches.

    The run folder then contains the weights with the best validation loss,
    metrics, checkpoints, the gradient flow through time, a sample of generated
    text (for text), and [bold]report.html[/bold] to look at.

    Ctrl-C, SIGTERM and SIGHUP end training and write all of that (exit codes 130,
    143, 129); SIGUSR1 writes only a checkpoint (138), for schedulers that restart
    the job. --resume continues. Exit code 3: the loss became NaN or infinite.

    [bold]Examples[/bold]

    retrograde train builtin:stdlib --out runs/first --max-time 90s

    retrograde train book.txt --out runs/gru --cell gru --num-layers 2 --dropout 0.2

    retrograde train letters/ --encoding cp1251 --tokens bpe --out runs/letters

    retrograde train --out runs/gru --resume --epochs 40

    retrograde train reviews.csv --task classify --text review --label stars --out runs/stars

    retrograde train sales.csv --task forecast --time month --target sales --out runs/sales

    retrograde train sales.csv --task forecast --out runs/best --search 30
    """
    chosen = given(invocation, options, no_clip)
    kept = {"resume": resume, "overwrite": overwrite, "report": not no_report, "record_flow": record_flow}
    if asked_for(search, search_time=search_time, workers=workers, ray=ray):
        how = {"trials": search, "budget": search_time, "workers": workers or 1, "ray": ray, "track": track}
        search_and_show(data, out, quiet=quiet, json=json, **how, **kept, **chosen)
        return
    from ..experiment import train as train_run
    from ..integrations.tracking import Tracking
    from .display import display

    first = os.environ.get("RANK", "0") == "0"  # of several processes, only the first prints
    with display(quiet=quiet or not first, to_stderr=json) as shown:
        tracking = [] if track is None or not first else [Tracking(track, out)]
        result = train_run(data, out, callbacks=[shown, *tracking], **kept, **chosen)
    if first and json:
        say_json({"run": str(result.folder), **result.summary.as_dict()})
    elif first:
        shown.finished(result)
    if first and result.signal is not None:
        raise typer.Exit(128 + result.signal)
