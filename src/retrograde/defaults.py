"""Defaults that fit the data: what a training uses for options that were not given, and why.

`chosen` is the only place where the data decides about an option. Each rule is one line of the table in
docs/training.md, which has the measurements it rests on. A run that is resumed, and one written before these rules,
keeps the options of its ``config.json``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from .cells import find
from .options import DATA, SEQUENCES, TABLES, DataOptions, Options

LEAST_UPDATES = 600  # however small the data is
LEAST_OF_NUMBERS = 1500  # the same, for one answer to a sequence of numbers
EVALUATIONS = 50  # of a training whose epochs are short, about
PATIENCE = 12  # evaluations
WAITED_FOR = 360  # sequences of numbers to classify, of which a tenth tell when the best weights are found
TEXTS = 200  # sequences from which words that occur once are treated as unknown
PASSES = 150  # over the data, from which a network learns sequences of numbers by heart
LONG = 400  # steps from which a sequence counts as long


@dataclass(frozen=True)
class DataShape:
    """What of the data decides about options."""

    task: str  # as in ``--task``
    batches: int  # updates that make one pass over the training data
    sequences: int  # number of sequences to train on: windows of series, chunks of text
    steps: int = 0  # length of a long one: nine in ten are no longer. 0 where it decides nothing.
    reads_tokens: bool = False  # whether the steps are tokens of a text; else they are numbers


@dataclass(frozen=True)
class Choice:
    """The value of an option, and why the data asks for it."""

    value: Any
    why: str


def least_count(options: DataOptions, sequences: int) -> int | None:
    """How many times a word must occur to be in the vocabulary; None: whatever is usual for the tokens."""
    rare = options.task == "classify" and options.tokens == "word" and sequences >= TEXTS
    return 2 if options.min_count is None and rare else options.min_count


def chosen(shape: DataShape, options: Options, given: Collection[str]) -> dict[str, Choice]:
    """Choose the options that were not given.

    options: those given, the rest by default.
    given: names of the options that were given; they are never changed.
    Returns what differs from the default, by name of the option.
    """
    found: dict[str, Choice] = {}
    rules = [*_network(shape, options, given), *_learning(shape, options, given)]
    for name, value, why in rules:
        if name not in given and getattr(options, name) != value:
            found[name] = Choice(value, why)
    updates = _updates(shape, options, found)
    every = max(10, min(500, math.ceil(max(shape.batches / 2, updates / EVALUATIONS))))
    if options.eval_every is None:
        found["eval_every"] = Choice(every, f"half an epoch, and at most {EVALUATIONS} times in {updates:,} updates")
    numbers = shape.task == "classify" and not shape.reads_tokens
    if numbers and "mixup" not in given and updates > PASSES * shape.batches:
        found["mixup"] = Choice(0.4, f"seen {updates // shape.batches} times, sequences are learned by heart otherwise")
    if "patience" not in given and shape.task in DATA and not (numbers and shape.sequences < WAITED_FOR):
        found["patience"] = Choice(PATIENCE, "longer without a better evaluation hardly ever helped")
    return found


Rule = tuple[str, Any, str]


def _network(shape: DataShape, options: Options, given: Collection[str]) -> Iterator[Rule]:
    """Cell, direction, pooling, initialization and dropout."""
    if shape.task in TABLES:
        yield "cell", "gru", "learned more than an LSTM in the same time"
    if shape.task in SEQUENCES:
        yield "bidirectional", True, "the whole sequence is there before the answer"
    if shape.task == "classify" or (shape.task == "regress" and shape.reads_tokens):
        yield "pooling", "max", "what decides may be short and anywhere"
    if shape.task == "classify" and not shape.reads_tokens:
        if shape.steps >= LONG and find(options.cell).keeper and "forget_bias" not in given:
            yield "chrono", shape.steps, f"sequences of {shape.steps:,} steps: gates that keep the state that long"
        if shape.steps >= LONG:
            yield "hidden_size", 64, "long sequences take long: more updates in the same time"
    if shape.reads_tokens:
        why = "words that occur once teach what an unknown one means"
        yield "min_count", least_count(options, shape.sequences), why
    if shape.reads_tokens and shape.task in SEQUENCES:
        yield "dropout", 0.5, "rare words are learned by heart otherwise"


def _learning(shape: DataShape, options: Options, given: Collection[str]) -> Iterator[Rule]:
    """Learning rate and its schedule, and the number of updates."""
    if shape.task in SEQUENCES and options.optimizer != "sgd":
        yield "lr", 0.005, "learns faster than 0.002, and the schedule makes the last steps small"
        if options.max_steps is None or options.max_steps >= LEAST_UPDATES:  # else every step is needed in full
            yield "schedule", "cosine", "the last steps are small, so that the result does not depend on where it ends"
    numbers = shape.task in ("classify", "regress") and not shape.reads_tokens
    least = LEAST_OF_NUMBERS if numbers else LEAST_UPDATES if shape.task in DATA else 0
    if options.epochs is not None and options.max_steps is None and options.epochs * shape.batches < least:
        why = f"at least {least:,} updates: an epoch has {shape.batches:,}"
        yield "epochs", float(math.ceil(least / shape.batches)), why


def _updates(shape: DataShape, options: Options, found: dict[str, Choice]) -> int:
    """Updates of the whole training."""
    epochs = found["epochs"].value if "epochs" in found else options.epochs
    limits = [] if options.max_steps is None else [options.max_steps]
    return min([*limits, *([] if epochs is None else [max(1, round(epochs * shape.batches))])])
