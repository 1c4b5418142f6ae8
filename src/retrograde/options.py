"""Every option of training: its type, default, bounds, help and tasks, each written once.

The fields below are the only place where an option is described. The checks, the command line (`retrograde.cli.train`)
and the table of which option is for which task are derived from them. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from .cells import CellName, Nonlinearity, find
from .errors import OptionError
from .option import Option, flag, quantile_levels, seconds

LABELLED = ("classify", "tag")
SEQUENCES = (*LABELLED, "regress")
TEXT, TABLES = ("language", *SEQUENCES), (*SEQUENCES, "forecast")
SEVERAL = ("target", "features", "quantiles", "known_future", "static")  # options that are lists in Python
TABLES_OR = f"{', '.join(TABLES[:-1])} or {TABLES[-1]}"  # in words
CLASSIFY, DATA, NUMBERS = ("classify",), ("language", *TABLES), ("regress", "forecast")


def _option(panel: str, default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"option": Option(help, panel, **more)})


_data, _table = partial(_option, "Data"), partial(_option, f"Tables ({', '.join(TABLES)})")
_forecast = partial(_option, "Forecasts", tasks=("forecast",))
_model, _remedy = partial(_option, "Model"), partial(_option, "Remedies")
_learning, _stopping, _run = partial(_option, "Learning"), partial(_option, "When to stop"), partial(_option, "The run")


@dataclass(frozen=True)
class DataOptions:
    """What is read, and what of it is held out."""

    task: Literal["auto", "language", "classify", "tag", "regress", "forecast", "synthetic"] = _data(
        "auto",
        "language (next token), classify (label per sequence), tag (label per step), regress (number per sequence), "
        "forecast (next steps of a series) or synthetic (of known lag).",
        otherwise="by the data",
    )
    encoding: str = _data(
        "auto",
        "Text encoding: utf-8, utf-16, cp1250, cp1252, …; auto: utf-8, or what a table shows.",
        tasks=("language", *TABLES),
    )
    tokens: Literal["char", "word", "bpe"] = _data(
        "char", "Split text into characters, words or byte pairs.", tasks=TEXT, by_task=dict.fromkeys(SEQUENCES, "word")
    )
    vocab_size: int | None = _data(
        None,
        "Largest number of different tokens.",
        minimum=1,
        tasks=TEXT,
        otherwise="all characters, 10,000 words or 1,000 byte pairs; classify, tag: 20,000 words or 4,000 byte pairs",
    )
    min_count: int | None = _data(
        None,
        "Treat tokens that occur less often as unknown.",
        minimum=1,
        tasks=TEXT,
        by_data=CLASSIFY,
        otherwise="1; byte pairs: 2",
    )
    validation_fraction: float | None = _data(
        None,
        "Share of the data to validate with: the end of a text or of each series, or random sequences.",
        above=0,
        below=1,
        tasks=("language", *TABLES),
        otherwise="0.1, of a text at most 100,000 characters; forecast: 0.2",
    )
    text: str | None = _table(None, "Column with texts.", tasks=SEQUENCES, otherwise="guessed")
    label: str | None = _table(None, "Column with labels.", tasks=LABELLED, otherwise="guessed")
    group: str | None = _table(
        None,
        "Column whose value is the same in all rows of a sequence.",
        tasks=TABLES,
        otherwise="guessed; without one, each row is a sequence",
    )
    time: str | None = _table(None, "Column with the time of each row.", tasks=TABLES, otherwise="guessed")
    date_format: str | None = _table(
        None, "How the time column writes dates: %d/%m/%Y, or as strptime has it.", tasks=TABLES, otherwise="guessed"
    )
    target: str | None = _table(
        None,
        "Columns to forecast: a,b or pattern*; for regress the column with the number to predict.",
        tasks=NUMBERS,
        otherwise="guessed",
    )
    features: str | None = _table(
        None, "Columns with numbers or categories to read: a,b or pattern*.", tasks=TABLES, otherwise="guessed"
    )
    quantiles: str | None = _table(
        None, "Quantiles to predict, 0.1,0.5,0.9, by the pinball loss; the number is then the median.", tasks=NUMBERS
    )
    validation: str | None = _table(
        None, "Table to validate with, instead of a part of DATA.", tasks=TABLES, may_change=True
    )
    test: str | None = _table(None, "Table to test with at the end.", tasks=TABLES, may_change=True)
    test_fraction: float | None = _table(
        None, "Share of DATA to test with at the end.", minimum=0, below=1, tasks=TABLES
    )
    max_length: int | None = _table(
        None, "Cut texts after this many tokens.", minimum=1, tasks=SEQUENCES, otherwise="classify, regress: 1000"
    )
    lowercase: bool | None = _table(
        None,
        "Convert text to lower case.",
        tasks=SEQUENCES,
        otherwise="classify, regress: yes",
        names=("--lowercase/--keep-case",),
    )
    class_weights: Literal["none", "balanced"] = _table(
        "none", "Weight of labels in the loss; balanced: rare labels weigh as much as frequent ones.", tasks=LABELLED
    )
    mixup: float = _table(
        0.0, "Train on mixtures of two sequences, by shares of Beta(a, a).", minimum=0, tasks=CLASSIFY, by_data=CLASSIFY
    )


@dataclass(frozen=True)
class ModelOptions:
    """The network: its size, its kind, and remedies that are part of it."""

    cell: CellName = _model("lstm", "Kind of recurrent layer.", by_data=TABLES)  # noqa: RUF009
    nonlinearity: Nonlinearity = _model("tanh", "Nonlinearity of the RNN cell (only with --cell rnn).")  # noqa: RUF009
    embedding_size: int = _model(
        64, "Size of the vector for each token.", minimum=1, tasks=TEXT, by_task=dict.fromkeys(SEQUENCES, 128)
    )
    hidden_size: int = _model(
        256,
        "Units per recurrent layer.",
        minimum=1,
        by_data=CLASSIFY,
        by_task=dict.fromkeys(SEQUENCES, 128) | {"forecast": 64, "synthetic": 128},
    )
    # More than the maximum would build layers until memory is full.
    num_layers: int = _model(1, "Number of recurrent layers.", minimum=1, maximum=1000)
    dropout: float = _model(
        0.0, "Share of activations to drop before, between and after the layers.", minimum=0, below=1, by_data=SEQUENCES
    )
    bidirectional: bool = _model(
        False,
        f"Read sequences backward too ({', '.join(SEQUENCES)}).",
        tasks=SEQUENCES,
        by_data=SEQUENCES,
        names=("--bidirectional/--no-bidirectional",),
    )
    pooling: Literal["last", "mean", "max"] = _model(
        "last",
        "State that decides: the one after the last step, or the mean or maximum over all steps.",
        tasks=("classify", "regress"),
        by_data=("classify", "regress"),
    )
    tie: bool = _model(False, "Use the embedding as output weights too (language).", tasks=("language",))
    init: Literal["default", "orthogonal", "identity", "xavier"] = _remedy(
        "default", "Initial recurrent weights: {choices} (an IRNN is --cell rnn --nonlinearity relu --init identity)."
    )
    spectral_radius: float | None = _remedy(
        None, "Scale the initial recurrent weights to this spectral radius.", above=0
    )
    forget_bias: float | None = _remedy(None, "Initial bias of the gate that keeps the state (lstm, gru).")
    chrono: int | None = _remedy(
        None, "Initialize gate biases for lags of up to this many steps (lstm, gru).", minimum=3, by_data=CLASSIFY
    )
    layer_norm: bool = _remedy(False, "Apply layer normalization at every step (slower).")
    recurrent_dropout: float = _remedy(
        0.0, "Share of the state to drop, with one mask per sequence (slower).", minimum=0, below=1
    )
    weight_drop: float = _remedy(0.0, "Share of recurrent weights to drop.", minimum=0, below=1)


@dataclass(frozen=True)
class ForecastOptions:
    """What is forecast from what, and how irregular times are treated."""

    layout: Literal["auto", "long", "wide"] = _forecast(
        "auto", "Layout of the table: long, each row is a step; wide, each row is a series.", otherwise="guessed"
    )
    known_future: str | None = _forecast(None, "Columns to read that are known at the steps to come too: promotions.")
    static: str | None = _forecast(None, "Columns to read that have one value for each series: its region.")
    horizon: int | None = _forecast(None, "Number of steps to forecast.", minimum=1, otherwise="a season, else 12")
    context: int | None = _forecast(
        None, "Number of steps to read before a forecast.", minimum=1, otherwise="2 seasons"
    )
    season: int | None = _forecast(
        None, "Number of steps after which a series repeats.", minimum=1, otherwise="guessed from the times"
    )
    backtest: int | None = _forecast(
        None,
        "Test with forecasts from this many origins at the end of each series, a horizon apart; without --test or "
        "--test-fraction, these steps are held out.",
        minimum=1,
    )
    strategy: Literal["direct", "autoregressive"] = _forecast(
        "direct", "Forecast all steps at once (direct), or one after the other, each from those before it."
    )
    freq: str | None = _forecast(
        None, "Time between steps: 15min, 1h, 1d, workdays, 1w, 1mo, 1q, 1y.", otherwise="guessed from the times"
    )
    gaps: Literal["fill", "split", "error"] = _forecast(
        "fill", "Missing steps: fill them, use no window that contains them (split), or refuse them (error)."
    )
    duplicates: Literal["error", "first", "last", "mean"] = _forecast(
        "error", "Rows of a series with the same time: refuse them (error), or use the first, the last or the mean."
    )


@dataclass(frozen=True)
class TrainingOptions:
    """How the weights are learned, and when that ends."""

    omega: float = _remedy(0.0, "Weight of the vanishing-gradient regularizer (only with --cell rnn).", minimum=0)
    floss: int | None = _remedy(
        None,
        "Before training, push this many Lyapunov exponents of each recurrent layer to 0 (gradient flossing).",
        minimum=1,
    )
    optimizer: Literal["sgd", "adam", "adamw"] = _learning("adam", "Optimizer.")
    lr: float | None = _learning(None, "Learning rate.", above=0, by_data=SEQUENCES, otherwise="else 0.002; sgd: 1")
    momentum: float = _learning(0.0, "Momentum (only with --optimizer sgd).", minimum=0, below=1)
    weight_decay: float = _learning(0.0, "Weight decay.", minimum=0)
    schedule: Literal["constant", "cosine", "linear", "step"] = _learning(
        "constant",
        "Learning rate over time: {choices}; cosine and linear fall to a hundredth at the last planned step.",
        by_data=SEQUENCES,
    )
    warmup: int = _learning(0, "Number of steps in which the learning rate rises from 0.", minimum=0)
    decay_every: float = _learning(1.0, "Epochs between two decays of --schedule step.", above=0)
    decay_factor: float = _learning(0.5, "Factor of each decay of --schedule step.", above=0, maximum=1)
    clip_norm: float | None = _learning(
        1.0, "Scale the gradient down to this global norm.", above=0, fix="--no-clip turns clipping off"
    )
    clip_value: float | None = _learning(
        None,
        "Instead clip each element of the gradient to ± this value.",
        above=0,
        fix="leave it out for no such clipping",
    )
    clip_quantile: float | None = _learning(
        None, "Instead clip to this quantile of the norms so far (AutoClip: 0.1).", above=0, maximum=1
    )
    bptt: int = _learning(
        100, "Steps of text that the gradient goes back through time.", minimum=1, tasks=("language",)
    )
    update_every: int | None = _learning(
        None, "Steps of text between two updates.", minimum=1, tasks=("language",), otherwise="--bptt"
    )
    batch_size: int | None = _learning(
        None,
        "Number of sequences (of text: streams) in a batch.",
        minimum=1,
        otherwise="64; language: 32; fewer where data is short",
    )
    epochs: float | None = _stopping(
        10.0,
        "Passes over the training data; in a synthetic task one is 100 batches.",
        above=0,
        by_task={"synthetic": 50.0},
        by_data=DATA,
        may_change=True,
        otherwise="with --max-steps: no limit",
    )
    max_steps: int | None = _stopping(None, "Number of training steps.", minimum=1, may_change=True)
    patience: int | None = _stopping(
        None,
        "End training when this many evaluations in a row were no better than the best (0: never); the best weights "
        "are kept.",
        minimum=0,
        may_change=True,
        by_data=DATA,
    )
    max_time: float | None = _stopping(
        None, "Training time of this session: 90s, 5m, 1h30m.", above=0, may_change=True, parse=seconds
    )


@dataclass(frozen=True)
class RunOptions:
    """What is kept of a run, and on what it is computed."""

    eval_every: int | None = _run(
        None,
        "Steps between two evaluations.",
        minimum=1,
        by_data=(*DATA, "synthetic"),
        otherwise="half an epoch, at least 10 and at most 500",
    )
    checkpoint_minutes: float = _run(
        10.0,
        "Write a checkpoint after this many minutes too, not only at each evaluation (0: never).",
        minimum=0,
        may_change=True,
    )
    keep_checkpoints: int = _run(
        2, "Number of checkpoints to keep in addition to the best weights.", minimum=1, may_change=True
    )
    seed: int = _run(0, "Random seed; the same seed and threads give the same weights.", minimum=0, below=2**63)
    # More than the maximum crashes the OpenMP runtime.
    threads: int | None = _run(None, "CPU threads.", minimum=1, maximum=1024, may_change=True, otherwise="one per core")
    stall_minutes: float = _run(
        10.0,
        "With several processes: end the job when one waits this long for the others.",
        above=0,
        maximum=100_000,
        may_change=True,
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = _run("auto", "Device to compute on.", may_change=True)
    precision: Literal["fp32", "bf16"] = _run("fp32", "Number format; bf16: matrix products in bfloat16.")


@dataclass(frozen=True)
class Options(RunOptions, TrainingOptions, ModelOptions, ForecastOptions, DataOptions):
    """How to train: every option by its name on the command line, with underscores.

    ``retrograde train --help`` describes each. A function that needs only one group takes that: `DataOptions`,
    `ModelOptions`, `ForecastOptions`, `TrainingOptions` or `RunOptions`.
    """

    MAY_CHANGE: ClassVar[frozenset[str]]
    """Options that may be different when a run is resumed."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Make options from those given, the rest by default, and check them.

        Raises
        ------
        OptionError
            If one is unknown or impossible, or two contradict one another.
        """
        given = {name: _as_text(value, several=name in SEVERAL) for name, value in given.items()}
        if unknown := sorted(set(given) - set(OPTIONS)):
            close = get_close_matches(unknown[0], OPTIONS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(OPTIONS))}."
            raise OptionError(f"there is no training option {unknown[0]!r}; {hint}")
        for name, value in given.items():
            if isinstance(value, str) and (parse := OPTIONS[name].parse) is not None:
                given[name] = parse(value)
        clips = [name for name in ("clip_norm", "clip_value", "clip_quantile") if given.get(name) is not None]
        if len(clips) > 1:
            raise OptionError(f"{' and '.join(map(flag, clips))} exclude one another; give one of them.")
        if clips:  # the one that is given replaces the default
            given |= {"clip_norm": None} | {name: given[name] for name in clips}
        options = cls(**given)
        for name, option in OPTIONS.items():
            option.check(getattr(options, name))
        options._check_together()
        if options.lr is None:
            return replace(options, lr=1.0 if options.optimizer == "sgd" else 0.002)
        return options

    def for_task(self, task: str, given: Collection[str]) -> Options:
        """The options of a task, with its own defaults for those that were not given."""
        own = {name: option.by_task[task] for name, option in OPTIONS.items() if task in option.by_task}
        usual = {name: value for name, value in own.items() if name not in given}
        if "epochs" not in given and self.max_steps is not None:
            usual["epochs"] = None  # all of the steps asked for, however many epochs they are
        return replace(self, **usual | {"task": task})

    @staticmethod
    def check_task(task: str, given: Collection[str]) -> None:
        """Refuse options that a task does not have.

        Raises
        ------
        OptionError
        """
        for name in given:
            if (tasks := OPTIONS[name].tasks) and task not in tasks:
                wanted = " and ".join(f"--task {one}" for one in tasks)
                raise OptionError(f"{flag(name)} is for {wanted}; this is --task {task}: leave it out.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as ``config.json`` contains them."""
        return asdict(self)

    def _check_together(self) -> None:
        if self.epochs is None and self.max_steps is None:
            raise OptionError("--epochs None needs --max-steps: one of them must say where training ends.")
        if self.nonlinearity != "tanh" and not find(self.cell).vanilla:
            raise OptionError(
                f"--nonlinearity {self.nonlinearity} is for --cell rnn; --cell {self.cell} has its own: leave it out."
            )
        if self.update_every is not None and self.update_every > self.bptt:
            raise OptionError(
                f"--update-every {self.update_every} would skip steps: give at most {self.bptt}, the --bptt steps over "
                "which the gradient goes back."
            )
        if self.quantiles is not None:
            quantile_levels(self.quantiles)
            if self.strategy == "autoregressive":
                raise OptionError(
                    "--quantiles is for --strategy direct: autoregressive reads each forecast before the next, and a "
                    "quantile of one step does not tell those of later ones."
                )
        if self.momentum and self.optimizer != "sgd":
            raise OptionError(f"--momentum is for --optimizer sgd; {self.optimizer} has its own: leave it out.")


def _as_text(value: Any, *, several: bool) -> Any:
    """Paths and lists, which Python has and a command line does not, as they are written there."""
    value = value.tolist() if several and type(value).__name__ == "ndarray" else value
    if several and isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, Path) else value


def _options() -> Iterator[Option]:
    hints = get_type_hints(Options)
    for one in fields(Options):
        kinds = get_args(hints[one.name])
        optional = NoneType in kinds
        kind = next(kind for kind in kinds if kind is not NoneType) if optional else hints[one.name]
        about: Option = one.metadata["option"]
        yield replace(about, name=one.name, kind=kind, optional=optional, default=one.default)


OPTIONS: Mapping[str, Option] = {option.name: option for option in _options()}
"""Every option by its name."""

Options.MAY_CHANGE = frozenset(name for name, option in OPTIONS.items() if option.may_change)
