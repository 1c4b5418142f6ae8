"""``retrograde train``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OptionError
from ..options import OPTIONS, Option
from .terminal import say_json

__all__ = ["train"]

WIDE = 24  # choices longer than this are listed in the help text, not in the narrow column of types
RUN, LEARNING = OPTIONS["seed"].panel, OPTIONS["clip_norm"].panel


def _switch(names: str, panel: str, help: str) -> Any:
    return typer.Option(*names.split(), help=help, rich_help_panel=panel, show_default=False)


def train(
    invocation: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="A text file (plain or .gz), a folder of text files, [bold]-[/bold] for standard input, or "
            "[bold]builtin:stdlib[/bold] (the source text of Python's own library). For classify, tag and forecast: a "
            "table (.csv, .tsv, .jsonl, .parquet, .arrow, .npy, .npz, .conll, or a folder of texts per label), "
            "[bold]builtin:digits[/bold] or [bold]builtin:eeg[/bold]. A synthetic task: "
            "[bold]builtin:adding?length=100[/bold]. Not needed with --resume.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[Path, _switch("--out -o", RUN, "Run folder to write.")],
    resume: Annotated[
        bool,
        _switch("--resume", RUN, "Continue the run in --out as if it had never stopped (DATA: where its data is now)."),
    ] = False,
    overwrite: Annotated[bool, _switch("--overwrite", RUN, "Replace the run in --out.")] = False,
    record_flow: Annotated[
        bool,
        _switch("--record-flow", RUN, "Measure the gradient flow during training too, in at most 3 % of the time."),
    ] = False,
    no_report: Annotated[
        bool, _switch("--no-report", RUN, "Skip the gradient flow and report.html at the end.")
    ] = False,
    quiet: Annotated[bool, _switch("--quiet -q", RUN, "Print errors only.")] = False,
    json: Annotated[
        bool, _switch("--json", RUN, "Print the result as JSON to stdout, everything else to stderr.")
    ] = False,
    no_clip: Annotated[bool, _switch("--no-clip", LEARNING, "Do not clip the gradient.")] = False,
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
    """
    from ..experiment import train as train_run
    from .display import display

    first = os.environ.get("RANK", "0") == "0"  # of several processes, only the first prints
    with display(quiet=quiet or not first, to_stderr=json) as shown:
        result = train_run(
            data,
            out,
            resume=resume,
            overwrite=overwrite,
            report=not no_report,
            record_flow=record_flow,
            callbacks=[shown],
            **_given(invocation, options, no_clip),
        )
    if first and json:
        say_json({"run": str(result.folder), **result.summary.as_dict()})
    elif first:
        shown.finished(result)
    if first and result.signal is not None:
        raise typer.Exit(128 + result.signal)


def _given(invocation: typer.Context, options: dict[str, Any], no_clip: bool) -> dict[str, Any]:
    """The options that the user gave."""
    given = {}
    for name, value in options.items():
        source = invocation.get_parameter_source(name)
        if source is not None and not source.name.startswith("DEFAULT"):
            given[name] = value
    if no_clip:
        if any(given.get(name) is not None for name in ("clip_norm", "clip_value", "clip_quantile")):
            raise OptionError("--no-clip excludes --clip-norm, --clip-value and --clip-quantile; give one of them.")
        given["clip_norm"] = None
    return given


# --- Each option of training becomes a parameter of the command -------------------------------------------------------


def _parameters(command: inspect.Signature) -> Iterator[inspect.Parameter]:
    """The parameters of `train`, with one for each option in place of ``**options``, in the order of the help."""
    own = {name: one for name, one in command.parameters.items() if one.kind is not inspect.Parameter.VAR_KEYWORD}
    no_clip = own.pop("no_clip")
    yield from own.values()
    for name, option in OPTIONS.items():
        kind: Any = str if option.parse is not None else option.kind
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=Annotated[kind | None if option.optional else kind, _parameter(option)],
        )
        if name == "clip_quantile":
            yield no_clip


def _parameter(option: Option) -> Any:
    names = option.names or ((option.flag,) if option.kind is bool else ())
    default = f" [dim]\\[default: {words}][/dim]" if (words := option.default_words()) else ""
    return typer.Option(
        *names,
        help=option.help.format(choices=", ".join(option.choices)) + default,
        rich_help_panel=option.panel,
        show_default=False,
        metavar="<choice>" if len("|".join(option.choices)) > WIDE else None,
    )


_command = inspect.signature(train, eval_str=True)
train.__signature__ = _command.replace(parameters=list(_parameters(_command)))  # type: ignore[attr-defined]
