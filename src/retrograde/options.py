"""Every option of training, its default, and what makes it impossible. Imports nothing heavy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from .errors import OptionError

__all__ = ["Options", "flag", "seconds"]


@dataclass(frozen=True)
class Options:
    """How to train. Names are those of the command line, with underscores.

    Attributes
    ----------
    task : str
        What is learnt; ``auto``: by the data, see `retrograde.tasks.open_task`.
    encoding : str
        Of the text.
    text, label, group, time, target, features : str or None
        Columns of a table; None: guessed, and the guess is told. See `retrograde.data.columns.columns_for`.
    layout : str
        Of a table of series: ``long``, a row is a step; ``wide``, a row is a series.
    validation, test : str or None
        Files to validate and test with, instead of parts held out.
    test_fraction : float or None
        Share held out to test with at the end; None: nothing.
    max_length : int or None
        Sequences longer than this are cut. None: 1000 to classify, else no limit.
    lowercase : bool or None
        Whether upper case is read as lower. None: to classify, yes.
    pooling, class_weights, bidirectional
        See `retrograde.tasks.models.SequenceModel` and `retrograde.tasks.labelled.LabelledTask`.
    horizon, context, season, strategy
        See `retrograde.tasks.forecast.Plan`; None: by the length and the dates of the series.
    freq, gaps, duplicates
        See `retrograde.data.grid.Regular`; ``freq`` None: by the times of the series.
    tokens, vocab_size, min_count
        What a token is, the most of them (None: char all, word 10,000, bpe 1,000), and how often one must be seen.
    validation_fraction : float or None
        Share of the text, at its end, to validate with. None: a tenth, at most 100,000 characters.
    cell, nonlinearity, embedding_size, hidden_size, num_layers, dropout, tie
        The model, see `retrograde.tasks.language.LanguageModel`.
    optimizer, lr, momentum, weight_decay
        ``lr`` None: 0.002 for adam and adamw, 1 for sgd.
    init, spectral_radius, forget_bias, chrono, layer_norm, recurrent_dropout, weight_drop
        Remedies that are part of the model, see `retrograde.nn.recurrent_layer`.
    clip_norm, clip_value, clip_quantile : float or None
        Gradients are scaled to at most this global norm, cut to ±this value, or scaled to at most this quantile of
        the norms seen.
    omega : float
        Weight of the vanishing-gradient regulariser, see `retrograde.training.regularise`; 0 for none.
    schedule, warmup, decay_every, decay_factor
        Learning rate after a linear rise over ``warmup`` steps: ``constant``; ``cosine`` or ``linear`` down to
        a hundredth at the planned end; ``step``: times ``decay_factor`` every ``decay_every`` epochs.
    update_every : int or None
        Steps of text per update, at most ``bptt``; None: as many as the gradient goes back.
    bptt, batch_size : int
        Steps the gradient goes back; streams side by side (None: 32, fewer if the text is short).
    epochs, max_steps, max_time
        When to stop, whichever comes first; ``max_time`` in seconds, of this session. Where only ``max_steps`` is
        given, epochs have no limit (None).
    eval_every : int or None
        Steps between evaluations. None: half an epoch, at least 10 and at most 500 steps.
    checkpoint_minutes : float
        A checkpoint is written at every evaluation, and when this long has passed since the last; 0 for none between.
    keep_checkpoints : int
        How many of the last checkpoints stay.
    seed, threads, device, precision
        ``threads`` None: torch's own choice.
    stall_minutes : float
        With several processes: how long one waits for the others before it ends the job.
    """

    task: Literal["auto", "language", "classify", "tag", "forecast", "synthetic"] = "auto"
    encoding: str = "utf-8"
    text: str | None = None
    label: str | None = None
    group: str | None = None
    time: str | None = None
    target: str | None = None
    features: str | None = None
    layout: Literal["auto", "long", "wide"] = "auto"
    validation: str | None = None
    test: str | None = None
    test_fraction: float | None = None
    max_length: int | None = None
    lowercase: bool | None = None
    pooling: Literal["last", "mean", "max"] = "last"
    class_weights: Literal["none", "balanced"] = "none"
    bidirectional: bool = False
    horizon: int | None = None
    context: int | None = None
    season: int | None = None
    strategy: Literal["direct", "autoregressive"] = "direct"
    freq: str | None = None
    gaps: Literal["fill", "split", "error"] = "fill"
    duplicates: Literal["error", "first", "last", "mean"] = "error"
    tokens: Literal["char", "word", "bpe"] = "char"
    vocab_size: int | None = None
    min_count: int | None = None
    validation_fraction: float | None = None
    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    embedding_size: int = 64
    hidden_size: int = 256
    num_layers: int = 1
    dropout: float = 0.0
    tie: bool = False
    init: Literal["default", "orthogonal", "identity", "xavier"] = "default"
    spectral_radius: float | None = None
    forget_bias: float | None = None
    chrono: int | None = None
    layer_norm: bool = False
    recurrent_dropout: float = 0.0
    weight_drop: float = 0.0
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    lr: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    clip_value: float | None = None
    clip_quantile: float | None = None
    omega: float = 0.0
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup: int = 0
    decay_every: float = 1.0
    decay_factor: float = 0.5
    bptt: int = 100
    update_every: int | None = None
    batch_size: int | None = None
    epochs: float | None = 10.0
    max_steps: int | None = None
    max_time: float | None = None
    eval_every: int | None = None
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2
    seed: int = 0
    threads: int | None = None
    stall_minutes: float = 10.0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"

    # What may be different when a run goes on: when it stops, what it keeps, on what it computes.
    MAY_CHANGE = frozenset(
        {
            *(
                "epochs",
                "max_steps",
                "max_time",
                "checkpoint_minutes",
                "keep_checkpoints",
                "threads",
                "device",
                "stall_minutes",
            ),
            *("validation", "test"),  # where these files lie now: their content is checked
        }
    )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Options from those given, the rest by default, checked.

        Raises
        ------
        OptionError
            If one is unknown or impossible, or two contradict one another.
        """
        given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise OptionError(f"there is no training option {unknown[0]!r}; there are {', '.join(sorted(known))}.")
        for name in ("max_time",):
            if isinstance(given.get(name), str):
                given[name] = seconds(given[name])
        clips = [name for name in ("clip_norm", "clip_value", "clip_quantile") if given.get(name) is not None]
        if len(clips) > 1:
            raise OptionError(f"{' and '.join(map(flag, clips))} exclude one another; give one of them.")
        if clips:
            given |= {"clip_norm": None} | {name: given[name] for name in clips}  # the default gives way
        options = cls(**given)
        options._check()
        if options.lr is None:
            return cls(**{**asdict(options), "lr": 1.0 if options.optimizer == "sgd" else 0.002})
        return options

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as ``config.json`` keeps them."""
        return asdict(self)

    def _check(self) -> None:
        for name, hint in _hints().items():
            value, allowed = getattr(self, name), get_args(hint)
            if allowed and isinstance(allowed[0], str):
                if value not in allowed:
                    raise OptionError(f"{flag(name)} {value!r} is none of {', '.join(allowed)}.")
                continue
            kinds = allowed or (hint,)
            if float in kinds or int in kinds:  # numbers are judged below
                if value is None and type(None) not in kinds:
                    raise OptionError(f"{flag(name)} None is impossible: it must be a number.")
            elif not isinstance(value, kinds):
                wanted = "text" if str in kinds else "True or False"
                raise OptionError(f"{flag(name)} {value!r:.60} is impossible: it must be {wanted}.")
        for name in _WHOLE:
            self._require(
                name, lambda value: isinstance(value, int) and value >= 1, "must be a whole number, 1 or more"
            )
        for name in _POSITIVE:
            self._require(name, lambda value: 0 < value < math.inf, "must be a number above 0")
        for name in ("weight_decay", "warmup", "omega", "checkpoint_minutes"):
            self._require(name, lambda value: 0 <= value < math.inf, "must be 0 or more")
        for name in ("dropout", "momentum", "recurrent_dropout", "weight_drop", "test_fraction"):
            self._require(name, lambda value: 0 <= value < 1, "must be 0 or more and below 1")
        self._require("validation_fraction", lambda value: 0 < value < 1, "must be above 0 and below 1")
        self._require("clip_quantile", lambda value: 0 < value <= 1, "must be above 0 and at most 1")
        self._require("chrono", lambda value: 3 <= value < math.inf, "must be at least 3, the longest lag in steps")
        self._require("forget_bias", math.isfinite, "must be a finite number")
        # More would crash the OpenMP runtime, or build layers until the memory is full.
        for name, most in (("threads", 1024), ("num_layers", 1000), ("stall_minutes", 100_000)):
            self._require(name, lambda value, most=most: value <= most, f"must be at most {most:,}")
        self._require("decay_factor", lambda value: 0 < value <= 1, "must be above 0 and at most 1")
        self._require(
            "seed",
            lambda value: isinstance(value, int) and 0 <= value < 2**63,
            "must be a whole number, 0 or more and below 2**63",
        )
        if self.epochs is None and self.max_steps is None:
            raise OptionError("--epochs None needs --max-steps: one of them must say where training ends.")
        if self.nonlinearity != "tanh" and self.cell != "rnn":
            raise OptionError(
                f"--nonlinearity {self.nonlinearity} is for --cell rnn; --cell {self.cell} has its own: leave it out."
            )
        if self.update_every is not None and self.update_every > self.bptt:
            raise OptionError(
                f"--update-every {self.update_every} leaves steps out: --bptt {self.bptt} is the most, the steps over "
                "which the gradient goes back."
            )
        if self.momentum and self.optimizer != "sgd":
            raise OptionError(f"--momentum is for --optimizer sgd; {self.optimizer} has its own: leave it out.")

    def _require(self, name: str, holds: Any, must: str) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e19
        if value is not None and not (number and holds(value)):
            mend = "; leave it out for no clipping by value" if name == "clip_value" else ""
            mend = "; --no-clip turns clipping off" if name == "clip_norm" else mend
            raise OptionError(f"{flag(name)} {value!s:.40} is impossible: it {must}{mend}.")


_WHOLE = (
    *("vocab_size", "min_count", "embedding_size", "hidden_size", "num_layers", "bptt", "batch_size"),
    *("max_steps", "eval_every", "threads", "max_length", "horizon", "context", "season", "update_every"),
    "keep_checkpoints",
)
_POSITIVE = ("lr", "clip_norm", "clip_value", "epochs", "max_time", "decay_every", "spectral_radius", "stall_minutes")


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Options)


def flag(name: str) -> str:
    """The command line's name of an option."""
    return "--" + name.replace("_", "-")


def seconds(text: str) -> float:
    """Seconds of a duration such as ``90``, ``90s``, ``5m`` or ``1h30m``.

    Examples
    --------
    >>> seconds("1h30m"), seconds("90s"), seconds("0.5m")
    (5400.0, 90.0, 30.0)
    """
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    if re.fullmatch(number, text.strip()):
        return float(text)
    match = re.fullmatch(rf"(?:{number}d)?(?:{number}h)?(?:{number}m)?(?:{number}s)?", text.strip().lower())
    if not text.strip() or match is None:
        raise OptionError(f"--max-time {text!r} is no duration; write 90s, 5m or 1h30m.")
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))
