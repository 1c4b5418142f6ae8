"""``retrograde train``."""

from __future__ import annotations

import os
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import Options
from .terminal import say_json

__all__ = ["train"]

DEFAULT = Options()


class Task(StrEnum):
    auto = "auto"
    language = "language"
    classify = "classify"
    tag = "tag"
    forecast = "forecast"
    synthetic = "synthetic"


class Pooling(StrEnum):
    last = "last"
    mean = "mean"
    max = "max"


class ClassWeights(StrEnum):
    none = "none"
    balanced = "balanced"


class Strategy(StrEnum):
    direct = "direct"
    autoregressive = "autoregressive"


class Gaps(StrEnum):
    fill = "fill"
    cut = "split"  # a string has a method of that name
    error = "error"


class Duplicates(StrEnum):
    error = "error"
    first = "first"
    last = "last"
    mean = "mean"


class Layout(StrEnum):
    auto = "auto"
    long = "long"
    wide = "wide"


class Init(StrEnum):
    default = "default"
    orthogonal = "orthogonal"
    identity = "identity"
    xavier = "xavier"


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


DATA, TABLES, FORECASTS = "Data", "Tables (to classify, tag and forecast)", "Forecasts"
MODEL, REMEDIES, LEARNING, STOPPING, RUN = "Model", "Remedies", "Learning", "When to stop", "The run"


def train(
    invocation: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="A text file (plain or .gz), a folder of text files, [bold]-[/bold] for standard input, or "
            "[bold]builtin:stdlib[/bold], the source text of Python's own library. To classify, tag, forecast: a table "
            "(.csv, .tsv, .jsonl, .parquet, .arrow, .npy, .npz, .conll; a folder per label with texts), "
            "[bold]builtin:digits[/bold] or [bold]builtin:eeg[/bold]. Or a task of known lag: "
            "[bold]builtin:adding?length=100[/bold]. "
            "With --resume it may be left out.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, _option(RUN, "The run folder to write.", "--out", "-o", show_default=False)] = ...,  # type: ignore[assignment]
    task: Annotated[
        Task,
        _option(
            DATA, "What to learn: the next token, a label per sequence or per step, the steps to come of a series."
        ),
    ] = Task.auto,
    encoding: Annotated[str, _option(DATA, "Of the text: utf-8, utf-16, latin-1, cp1251, …")] = DEFAULT.encoding,
    tokens: Annotated[Tokens, _option(DATA, "What is read: characters, words, or byte pairs.")] = Tokens.char,
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
    text: Annotated[str | None, _option(TABLES, "Column of texts. [dim]\\[guessed][/dim]")] = None,
    label: Annotated[str | None, _option(TABLES, "Column of labels. [dim]\\[guessed][/dim]")] = None,
    group: Annotated[
        str | None, _option(TABLES, "Column that the rows of a sequence share. [dim]\\[guessed, or a row each][/dim]")
    ] = None,
    time: Annotated[str | None, _option(TABLES, "Column that orders rows in time. [dim]\\[guessed][/dim]")] = None,
    target: Annotated[
        str | None, _option(TABLES, "Columns to forecast: a,b or pattern*. [dim]\\[guessed][/dim]")
    ] = None,
    features: Annotated[
        str | None, _option(TABLES, "Columns of numbers to read: a,b or pattern*. [dim]\\[guessed][/dim]")
    ] = None,
    validation: Annotated[
        str | None, _option(TABLES, "A table to validate with, instead of a part held out.", show_default=False)
    ] = None,
    test: Annotated[str | None, _option(TABLES, "A table to test with at the end.", show_default=False)] = None,
    test_fraction: Annotated[
        float | None, _option(TABLES, "Share held out to test with at the end.", show_default=False)
    ] = None,
    max_length: Annotated[
        int | None, _option(TABLES, "Cut texts after so many tokens. [dim]\\[classify: 1000][/dim]")
    ] = None,
    lowercase: Annotated[
        bool | None,
        _option(TABLES, "Read upper case as lower. [dim]\\[classify: yes][/dim]", "--lowercase/--keep-case"),
    ] = None,
    class_weights: Annotated[
        ClassWeights, _option(TABLES, "balanced: rare labels weigh as much as frequent ones.")
    ] = ClassWeights.none,
    layout: Annotated[
        Layout, _option(FORECASTS, "long: a row is a step; wide: a row is a series. [dim]\\[guessed][/dim]")
    ] = Layout.auto,
    horizon: Annotated[int | None, _option(FORECASTS, "Steps to forecast. [dim]\\[a season, else 12][/dim]")] = None,
    context: Annotated[int | None, _option(FORECASTS, "Steps read before them. [dim]\\[2 seasons][/dim]")] = None,
    season: Annotated[
        int | None, _option(FORECASTS, "Steps after which the series repeats. [dim]\\[by the dates][/dim]")
    ] = None,
    strategy: Annotated[
        Strategy, _option(FORECASTS, "All steps at once, or one by one, each read before the next.")
    ] = Strategy.direct,
    freq: Annotated[
        str | None,
        _option(
            FORECASTS, "How far steps lie apart: 15min, 1h, 1d, workdays, 1w, 1mo, 1q, 1y. [dim]\\[by the times][/dim]"
        ),
    ] = None,
    gaps: Annotated[
        Gaps,
        _option(FORECASTS, "Missing steps: fill them as empty cells, let no window reach over them, or refuse them."),
    ] = Gaps.fill,
    duplicates: Annotated[
        Duplicates, _option(FORECASTS, "Rows of a series with the same time: refuse them, or keep one, or their mean.")
    ] = Duplicates.error,
    cell: Annotated[Cell, _option(MODEL, "Kind of recurrent layer.")] = Cell.lstm,
    nonlinearity: Annotated[Nonlinearity, _option(MODEL, "Of --cell rnn.")] = Nonlinearity.tanh,
    embedding_size: Annotated[int, _option(MODEL, "Numbers per token.")] = DEFAULT.embedding_size,
    hidden_size: Annotated[
        int, _option(MODEL, "Units per recurrent layer. [dim]\\[classify, tag, synthetic: 128; forecast: 64][/dim]")
    ] = DEFAULT.hidden_size,
    num_layers: Annotated[int, _option(MODEL, "Recurrent layers.")] = DEFAULT.num_layers,
    dropout: Annotated[float, _option(MODEL, "Share of activations dropped around the layers.")] = DEFAULT.dropout,
    bidirectional: Annotated[
        bool, _option(MODEL, "Read backwards too (to classify and tag).", "--bidirectional")
    ] = False,
    pooling: Annotated[
        Pooling, _option(MODEL, "To classify: the last real step, or mean or maximum of all.")
    ] = Pooling.last,
    tie: Annotated[bool, _option(MODEL, "Use the embedding as output weights too.", "--tie")] = False,
    init: Annotated[
        Init, _option(REMEDIES, "Recurrent weights at the start; identity with --cell rnn --nonlinearity relu: IRNN.")
    ] = Init.default,
    spectral_radius: Annotated[
        float | None, _option(REMEDIES, "Scale the recurrent weights to it at the start.", show_default=False)
    ] = None,
    forget_bias: Annotated[
        float | None, _option(REMEDIES, "Bias of the gate that keeps the state (lstm, gru).", show_default=False)
    ] = None,
    chrono: Annotated[
        int | None, _option(REMEDIES, "Gate biases for lags up to so many steps (lstm, gru).", show_default=False)
    ] = None,
    layer_norm: Annotated[
        bool, _option(REMEDIES, "Layer normalisation (step by step: slower).", "--layer-norm")
    ] = False,
    recurrent_dropout: Annotated[
        float, _option(REMEDIES, "Share of the state dropped, one mask per sequence (slower).")
    ] = DEFAULT.recurrent_dropout,
    weight_drop: Annotated[float, _option(REMEDIES, "Share of recurrent weights dropped.")] = DEFAULT.weight_drop,
    omega: Annotated[float, _option(REMEDIES, "Weight of the vanishing-gradient regulariser (rnn).")] = DEFAULT.omega,
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
    clip_quantile: Annotated[
        float | None,
        _option(LEARNING, "Instead clip to this quantile of the norms seen (AutoClip: 0.1).", show_default=False),
    ] = None,
    no_clip: Annotated[bool, _option(LEARNING, "Do not clip.", "--no-clip")] = False,
    bptt: Annotated[int, _option(LEARNING, "Steps the gradient goes back through time.")] = DEFAULT.bptt,
    update_every: Annotated[
        int | None, _option(LEARNING, "Steps of text per update. [dim]\\[as many as --bptt][/dim]")
    ] = None,
    batch_size: Annotated[
        int | None,
        _option(LEARNING, "Streams or sequences side by side. [dim]\\[text 32, else 64; fewer if there are few][/dim]"),
    ] = None,
    epochs: Annotated[
        float | None,
        _option(
            STOPPING,
            "Passes over the training data. [dim]\\[synthetic: 50 of 100 batches; no limit with --max-steps][/dim]",
        ),
    ] = DEFAULT.epochs,
    max_steps: Annotated[int | None, _option(STOPPING, "Steps in all.", show_default=False)] = None,
    max_time: Annotated[
        str | None, _option(STOPPING, "Training time of this session: 90s, 5m, 1h30m.", show_default=False)
    ] = None,
    eval_every: Annotated[
        int | None, _option(RUN, "Steps between evaluations. [dim]\\[half an epoch, from 10 to 500][/dim]")
    ] = None,
    checkpoint_minutes: Annotated[
        float, _option(RUN, "Write a checkpoint after so long too, not only at evaluations; 0: never.")
    ] = DEFAULT.checkpoint_minutes,
    keep_checkpoints: Annotated[
        int, _option(RUN, "How many of the last checkpoints to keep, beside the best weights.")
    ] = DEFAULT.keep_checkpoints,
    seed: Annotated[int, _option(RUN, "Same seed and threads, same weights.")] = DEFAULT.seed,
    threads: Annotated[int | None, _option(RUN, "CPU threads. [dim]\\[one per core][/dim]")] = None,
    stall_minutes: Annotated[
        float, _option(RUN, "Of several processes: end when the others are not heard of for so long.")
    ] = DEFAULT.stall_minutes,
    device: Annotated[Device, _option(RUN, "Where to compute.")] = Device.auto,
    precision: Annotated[Precision, _option(RUN, "bf16: matrix products in bfloat16.")] = Precision.fp32,
    resume: Annotated[
        bool,
        _option(
            RUN, "Go on with the run in --out, as if it had never stopped (with DATA: lying there now).", "--resume"
        ),
    ] = False,
    overwrite: Annotated[bool, _option(RUN, "Replace the run in --out.", "--overwrite")] = False,
    record_flow: Annotated[
        bool,
        _option(RUN, "Measure the gradient's reach while training too, in at most 3 % of the time.", "--record-flow"),
    ] = False,
    no_report: Annotated[bool, _option(RUN, "No gradient flow and no page at the end.", "--no-report")] = False,
    quiet: Annotated[bool, _option(RUN, "Print nothing but errors.", "--quiet", "-q")] = False,
    json: Annotated[bool, _option(RUN, "Print the result as JSON on stdout, all else on stderr.", "--json")] = False,
) -> None:
    """Train a recurrent network on text, a table or a task of known lag, and see its gradient's reach.

    Leaves a run folder: weights of the best validation loss, metrics, a
    sample of what the model writes, checkpoints, the gradient's flow through
    time, and [bold]report.html[/bold] to look at.

    Ctrl-C, SIGTERM and SIGHUP end training with all of that (exit codes 130,
    143, 129); SIGUSR1 with a checkpoint at once (138), for schedulers that
    start the job again. --resume goes on from there. Exit code 3: the loss
    became NaN or infinite.

    [bold]Examples[/bold]

    retrograde train builtin:stdlib --out runs/first --max-time 90s

    retrograde train book.txt --out runs/gru --cell gru --num-layers 2 --dropout 0.2

    retrograde train letters/ --encoding cp1251 --tokens bpe --out runs/letters

    retrograde train --out runs/gru --resume --epochs 40

    retrograde train reviews.csv --task classify --text review --label stars --out runs/stars

    retrograde train sales.csv --task forecast --time month --target sales --out runs/sales
    """
    given = _given(invocation)
    if no_clip:
        from ..errors import OptionError

        if clip_value is not None or clip_quantile is not None or "clip_norm" in given:
            raise OptionError("--no-clip excludes --clip-norm, --clip-value and --clip-quantile; give one of them.")
        given["clip_norm"] = None

    from ..training import train as train_run
    from .display import display

    first = os.environ.get("RANK", "0") == "0"  # of several processes one speaks
    with display(quiet=quiet or not first, to_stderr=json) as shown:
        result = train_run(
            data,
            out,
            resume=resume,
            overwrite=overwrite,
            report=not no_report,
            record_flow=record_flow,
            listener=shown,
            **given,
        )
    if not first:
        return
    if json:
        say_json({"run": str(result.folder), **result.summary})
    else:
        shown.finished(result)
    if result.signal is not None:
        raise typer.Exit(128 + result.signal)


def _given(invocation: typer.Context) -> dict[str, Any]:
    """The training options that were named, by their names in `Options`."""
    names = set(Options.__dataclass_fields__)
    given = {}
    for name, value in invocation.params.items():
        source = invocation.get_parameter_source(name)
        if name in names and source is not None and not source.name.startswith("DEFAULT"):
            given[name] = value.value if isinstance(value, Enum) else value
    return given
