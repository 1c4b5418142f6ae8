"""``retrograde train``."""

from __future__ import annotations

from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..training.options import Options

__all__ = ["train"]

DEFAULT = Options()


class Cell(StrEnum):
    rnn = "rnn"
    gru = "gru"
    lstm = "lstm"


class Nonlinearity(StrEnum):
    tanh = "tanh"
    relu = "relu"


class Tokens(StrEnum):
    char = "char"
    word = "word"
    bpe = "bpe"


class Optimizer(StrEnum):
    sgd = "sgd"
    adam = "adam"
    adamw = "adamw"


class Schedule(StrEnum):
    constant = "constant"
    cosine = "cosine"
    linear = "linear"
    step = "step"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"


def _option(panel: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


DATA, MODEL, LEARNING, STOPPING, RUN = "Data", "Model", "Learning", "When to stop", "The run"


def train(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="A text file (plain or .gz), a folder of text files, [bold]-[/bold] for standard input, or "
            "[bold]builtin:stdlib[/bold], the source text of Python's own library. With --resume it may be left out.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, _option(RUN, "The run folder to write.", "--out", "-o", show_default=False)] = ...,  # type: ignore[assignment]
    encoding: Annotated[str, _option(DATA, "Of the text: utf-8, utf-16, latin-1, cp1251, …")] = DEFAULT.encoding,
    tokens: Annotated[Tokens, _option(DATA, "What is predicted: characters, words, or byte pairs.")] = Tokens.char,
    vocab_size: Annotated[
        int | None, _option(DATA, "The most tokens to keep. [dim]\\[char: all, word: 10000, bpe: 1000][/dim]")
    ] = None,
    min_count: Annotated[int | None, _option(DATA, "Tokens seen less often are unknown.")] = None,
    validation_fraction: Annotated[
        float | None,
        _option(
            DATA, "Share of the text, at its end, to validate with. [dim]\\[0.1, at most 100,000 characters][/dim]"
        ),
    ] = None,
    cell: Annotated[Cell, _option(MODEL, "Kind of recurrent layer.")] = Cell.lstm,
    nonlinearity: Annotated[Nonlinearity, _option(MODEL, "Of --cell rnn.")] = Nonlinearity.tanh,
    embedding_size: Annotated[int, _option(MODEL, "Numbers per token.")] = DEFAULT.embedding_size,
    hidden_size: Annotated[int, _option(MODEL, "Units per recurrent layer.")] = DEFAULT.hidden_size,
    num_layers: Annotated[int, _option(MODEL, "Recurrent layers.")] = DEFAULT.num_layers,
    dropout: Annotated[float, _option(MODEL, "Share of activations dropped around the layers.")] = DEFAULT.dropout,
    tie: Annotated[bool, _option(MODEL, "Use the embedding as output weights too.", "--tie")] = False,
    optimizer: Annotated[Optimizer, _option(LEARNING, "How weights are updated.")] = Optimizer.adam,
    lr: Annotated[float | None, _option(LEARNING, "Learning rate. [dim]\\[0.002; sgd: 1][/dim]")] = None,
    momentum: Annotated[float, _option(LEARNING, "Of --optimizer sgd.")] = DEFAULT.momentum,
    weight_decay: Annotated[float, _option(LEARNING, "Pull of the weights towards 0.")] = DEFAULT.weight_decay,
    schedule: Annotated[
        Schedule, _option(LEARNING, "Learning rate over time; cosine and linear end with the planned steps.")
    ] = Schedule.constant,
    warmup: Annotated[int, _option(LEARNING, "Steps over which the learning rate rises from 0.")] = DEFAULT.warmup,
    decay_every: Annotated[float, _option(LEARNING, "Epochs between decays of --schedule step.")] = DEFAULT.decay_every,
    decay_factor: Annotated[float, _option(LEARNING, "What each of them multiplies by.")] = DEFAULT.decay_factor,
    clip_norm: Annotated[
        float | None, _option(LEARNING, "Scale the gradient to this global norm at most.")
    ] = DEFAULT.clip_norm,
    clip_value: Annotated[
        float | None, _option(LEARNING, "Instead cut each of its numbers to this size at most.", show_default=False)
    ] = None,
    no_clip: Annotated[bool, _option(LEARNING, "Do not clip.", "--no-clip")] = False,
    bptt: Annotated[int, _option(LEARNING, "Steps the gradient goes back through time.")] = DEFAULT.bptt,
    batch_size: Annotated[
        int | None, _option(LEARNING, "Streams of text side by side. [dim]\\[32, fewer if the text is short][/dim]")
    ] = None,
    epochs: Annotated[float, _option(STOPPING, "Passes over the training text.")] = DEFAULT.epochs,
    max_steps: Annotated[int | None, _option(STOPPING, "Steps in all.", show_default=False)] = None,
    max_time: Annotated[
        str | None, _option(STOPPING, "Training time of this session: 90s, 5m, 1h30m.", show_default=False)
    ] = None,
    eval_every: Annotated[
        int | None, _option(RUN, "Steps between evaluations. [dim]\\[half an epoch, at most 500][/dim]")
    ] = None,
    seed: Annotated[int, _option(RUN, "Same seed and threads, same weights.")] = DEFAULT.seed,
    threads: Annotated[int | None, _option(RUN, "CPU threads. [dim]\\[one per core][/dim]")] = None,
    device: Annotated[Device, _option(RUN, "Where to compute.")] = Device.auto,
    precision: Annotated[Precision, _option(RUN, "bf16: matrix products in bfloat16.")] = Precision.fp32,
    resume: Annotated[
        bool, _option(RUN, "Go on with the run in --out, as if it had never stopped.", "--resume")
    ] = False,
    overwrite: Annotated[bool, _option(RUN, "Replace the run in --out.", "--overwrite")] = False,
    no_report: Annotated[bool, _option(RUN, "No gradient flow and no page at the end.", "--no-report")] = False,
    quiet: Annotated[bool, _option(RUN, "Print nothing but errors.", "--quiet", "-q")] = False,
    json: Annotated[bool, _option(RUN, "Print the result as JSON on stdout, all else on stderr.", "--json")] = False,
) -> None:
    """Train a recurrent language model on text, and see its gradient's reach.

    Leaves a run folder: weights of the best validation loss, metrics, a
    sample of what the model writes, checkpoints, the gradient's flow through
    time, and [bold]report.html[/bold] to look at.

    Ctrl-C ends training with all of that (exit code 130); --resume goes on
    from there. Exit code 3: the loss became NaN or infinite.

    [bold]Examples[/bold]

    retrograde train builtin:stdlib --out runs/first --max-time 90s

    retrograde train book.txt --out runs/gru --cell gru --num-layers 2 --dropout 0.2

    retrograde train letters/ --encoding cp1251 --tokens bpe --out runs/letters

    retrograde train --out runs/gru --resume --epochs 40
    """
    given = _given(context)
    if no_clip:
        from ..errors import OptionError

        if clip_value is not None or "clip_norm" in given:
            raise OptionError("--no-clip excludes --clip-norm and --clip-value; give one of them.")
        given["clip_norm"] = None

    from ..training import train as train_run
    from .display import display

    with display(quiet=quiet, to_stderr=json) as shown:
        result = train_run(data, out, resume=resume, overwrite=overwrite, report=not no_report, listener=shown, **given)
    if json:
        import json as encoder

        typer.echo(encoder.dumps({"run": str(result.folder), **result.summary}, ensure_ascii=False))
    else:
        shown.finished(result)
    if result.signal is not None:
        raise typer.Exit(128 + result.signal)


def _given(context: typer.Context) -> dict[str, Any]:
    """The training options that were named, by their names in `Options`."""
    names = set(Options.__dataclass_fields__)
    given = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name in names and source is not None and not source.name.startswith("DEFAULT"):
            given[name] = value.value if isinstance(value, Enum) else value
    return given
