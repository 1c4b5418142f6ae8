"""Sick trainings: what was done to them, all that cures them, and what follows from the cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from retrograde.doctor import Kind

from .case import Case, Remedy, Training
from .healthy import NOTES
from .networks import Model
from .tasks import Task


def sick(
    name: str,
    kind: Kind | tuple[Kind, ...],
    task: Task,
    model: Model,
    training: Training | None = None,
    remedies: tuple[Remedy, ...] = (),
    also: tuple[Kind, ...] = (),
    **more: Any,
) -> Case:
    """A case that is not solved; `kind` is what must be found."""
    kinds = frozenset(kind if isinstance(kind, tuple) else (kind,))
    return Case(name, task, model, training or Training(), kinds, (NOTES | set(also)) - kinds, False, remedies, **more)


def cell(name: str, **training: Any) -> Remedy:
    return Remedy(f"cell {name}", {"cell": name, "start": ()}, training)


def start(name: str, value: float, cell: str | None = None, hidden: int | None = None, **training: Any) -> Remedy:
    """Another start of the weights, in place of the one that the case has."""
    model = {"start": ((name, value),), "cell": cell, "hidden": hidden}
    words = f"{name} {value:g}" if cell is None else f"cell {cell}, {name} {value:g}"
    return Remedy(words, {key: value for key, value in model.items() if value is not None}, training)


def lr(value: float, **more: Any) -> Remedy:
    return Remedy(f"learning rate {value:g}", training={"lr": value, **more})


def wired(words: str = "wire it right") -> Remedy:
    return Remedy(words, {"wiring": ""})


V, X, C = Kind.VANISHING_HURTS, Kind.EXPLODING, Kind.CHAOS
DEFAULT = Remedy("default start", {"start": ()})

VANISHING = [
    sick(
        "first symbol of 60, tanh",
        V,
        Task("first symbol", 60),
        Model("tanh"),
        Training(0.003),
        (
            start("chrono", 60, "gru", lr=0.01),
            start("forget bias", 4.1, "lstm", lr=0.02, updates=1500),
            start("orthogonal", 1.0, updates=800),
        ),
    ),
    sick(
        "first symbol of 60, tanh of two layers",
        V,
        Task("first symbol", 60),
        Model("tanh", layers=2),
        Training(0.003),
        (start("chrono", 60, "gru", lr=0.01), start("forget bias", 4.1, "lstm", lr=0.02, updates=1500)),
    ),
    sick(
        "first symbol of 80, LSTM with default gates",
        V,
        Task("first symbol", 80),
        Model("lstm"),
        Training(0.005),
        (start("forget bias", 4.4, lr=0.02, updates=1500), start("chrono", 80, "gru", lr=0.02, updates=1000)),
    ),
    sick(
        "first symbol of 80, GRU with default gates",
        V,
        Task("first symbol", 80),
        Model("gru"),
        Training(0.003, 300),
        (start("chrono", 80, lr=0.02, updates=1000), start("update bias", 4.4, lr=0.02, updates=1000)),
    ),
    sick(
        "echo 20, tanh",
        V,
        Task("echo", 50, 20, symbols=2),
        Model("tanh", 32),
        Training(0.003),
        (start("orthogonal", 1.0, hidden=64, updates=2000), start("identity", 1.0, "relu", updates=2000)),
    ),
    sick(
        "early sum of 40, tanh",
        V,
        Task("early sum", 40),
        Model("tanh"),
        Training(0.003),
        (start("orthogonal", 1.0), start("chrono", 40, "gru", lr=0.01)),
    ),
    sick(
        "early sum of 50, ReLU",
        V,
        Task("early sum", 50),
        Model("relu"),
        Training(0.003),
        (start("identity", 1.0), start("chrono", 50, "gru", lr=0.01)),
    ),
    sick(
        "early sum of 60, LSTM of three layers",
        V,
        Task("early sum", 60),
        Model("lstm", layers=3),
        Training(),
        (
            Remedy("one layer, chrono 60", {"layers": 1, "start": (("chrono", 60),)}, {"lr": 0.01}),
            start("chrono", 60, "gru", lr=0.01, updates=800),
        ),
    ),
    sick(
        "order of 60, tanh",
        V,
        Task("order", 60, symbols=6),
        Model("tanh"),
        Training(0.003),
        (start("chrono", 60, "gru", lr=0.01, updates=1000), start("chrono", 60, "lstm", lr=0.01, updates=1000)),
    ),
    sick(
        "padded last 30, GRU",
        V,
        Task("padded last", 60, 40),
        Model("gru"),
        Training(0.003),
        (start("chrono", 60, lr=0.01, updates=800),),
    ),
    sick(
        "adding 60, tanh",
        V,
        Task("adding", 60),
        Model("tanh"),
        Training(0.003),
        (start("chrono", 60, "gru", lr=0.01, updates=1500), start("identity", 1.0, "relu", updates=1500)),
        goal=0.1,
    ),
]

ECHO3, ECHO4 = Task("echo", 30, 3), Task("echo", 40, 4)
AVERAGE = Task("moving average", 40, 2)
EXPLODING = [
    sick(
        "ReLU, W orthogonal times 1.3",
        X,
        Task("first symbol", 60),
        Model("relu", start=(("orthogonal", 1.6),)),
        Training(0.01, optimizer="sgd", clip=None),
        (
            start("identity", 1.0, optimizer="adam", lr=0.001, clip=1.0),
            start("chrono", 60, "gru", optimizer="adam", clip=1.0),
        ),
        (C, Kind.NOT_FINITE, Kind.LEARNING_RATE_TOO_HIGH, V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "ReLU from 1.2 times the identity",
        X,
        Task("adding", 60),
        Model("relu", start=(("identity", 1.2),)),
        Training(0.01, optimizer="sgd", clip=None),
        (
            start("identity", 1.0, optimizer="adam", lr=0.002, updates=1500),
            start("chrono", 60, "gru", optimizer="adam", clip=1.0, updates=1500),
        ),
        (C, Kind.NOT_FINITE, Kind.LEARNING_RATE_TOO_HIGH, V, Kind.CONSTANT_OUTPUT, Kind.CURSE_OF_MEMORY),
        goal=0.1,
    ),
    sick(
        "ReLU of two layers, W orthogonal times 1.5",
        X,
        Task("early sum", 50),
        Model("relu", layers=2, start=(("orthogonal", 1.6),)),
        Training(0.01, optimizer="sgd", clip=None),
        (start("identity", 1.0, optimizer="adam", lr=0.001, clip=1.0), start("chrono", 50, "gru", optimizer="adam")),
        (C, Kind.NOT_FINITE, Kind.LEARNING_RATE_TOO_HIGH, V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "tanh, gauss 3: chaos",
        C,
        ECHO4,
        Model("tanh", 32, start=(("gauss", 4.0),)),
        Training(0.001),
        (DEFAULT, start("orthogonal", 1.0), start("gauss", 0.9), cell("gru")),
        (X, Kind.SATURATION, V),
    ),
    sick(
        "tanh of two layers, gauss 3: chaos",
        C,
        ECHO3,
        Model("tanh", 32, 2, start=(("gauss", 3.5),)),
        Training(0.001),
        (DEFAULT, start("orthogonal", 1.0), cell("gru")),
        (X, Kind.SATURATION, V),
    ),
    sick(
        "tanh, gauss 5, sum of late steps: chaos",
        C,
        Task("late sum", 40, 3),
        Model("tanh", 48, start=(("gauss", 5.0),)),
        Training(0.001),
        (DEFAULT, start("orthogonal", 1.0), cell("lstm")),
        (X, Kind.SATURATION, V),
    ),
    sick(
        "ReLU leaks nothing, inputs of mean 1",
        Kind.CURSE_OF_MEMORY,
        Task("late sum", 250, 3, offset=1.0),
        Model("relu", start=(("identity", 0.998),)),
        Training(0.02, 150, "sgd", clip=None),
        (
            Remedy(
                "inputs of mean 0", task={"offset": 0.0}, training={"optimizer": "adam", "lr": 0.002, "updates": 400}
            ),
            Remedy("layer norm", {"layer_norm": True}, {"optimizer": "adam", "updates": 400}),
            start("identity", 0.9, optimizer="adam"),
            cell("gru", optimizer="adam", updates=400),
        ),
        (X, Kind.NOT_FINITE, Kind.LEARNING_RATE_TOO_HIGH, Kind.DEAD_RELU, Kind.CONSTANT_OUTPUT, Kind.INPUT_SCALE),
    ),
    sick(
        "ReLU of long memory, vectors of mean 0.5",
        Kind.CURSE_OF_MEMORY,
        Task("delayed copy", 200, 2, offset=0.5),
        Model("relu", 32, start=(("identity", 0.998),)),
        Training(0.02, 150, "sgd", clip=None),
        (
            start("orthogonal", 0.7, optimizer="adam", updates=800),
            cell("gru", optimizer="adam", lr=0.01, updates=600),
            cell("tanh", optimizer="adam", updates=600),
        ),
        (X, Kind.NOT_FINITE, Kind.LEARNING_RATE_TOO_HIGH, Kind.DEAD_RELU, Kind.CONSTANT_OUTPUT, Kind.INPUT_SCALE),
    ),
    sick(
        "one eigenvalue of 1, copy of three values",
        Kind.ONE_DIRECTION,
        Task("delayed copy", 40, 12),
        Model("tanh", 32, start=(("one direction", 0.2),)),
        Training(0.002, 300),
        (start("orthogonal", 1.0, hidden=64, updates=1500), start("identity", 1.0, "relu", updates=1500)),
        (V,),
    ),
    sick(
        "one eigenvalue of 1, first symbol",
        Kind.ONE_DIRECTION,
        Task("first symbol", 30, symbols=8),
        Model("tanh", 32, start=(("one direction", 0.1),)),
        Training(0.001, 300),
        (start("orthogonal", 1.0, lr=0.003, updates=800), start("chrono", 30, "gru", lr=0.01)),
        (V,),
    ),
]

TRUNCATED = [
    sick(
        "truncated at 5, needs 9, GRU",
        Kind.TRUNCATION,
        Task("echo", 40, 9),
        Model("gru"),
        Training(0.005, 100, bptt=5),
        (
            Remedy("bptt 40", training={"bptt": None, "lr": 0.01, "updates": 1200}),
            Remedy("bptt 20", training={"bptt": 20, "lr": 0.01, "updates": 800}),
        ),
        (V,),
    ),
    sick(
        "truncated at 4, needs 8, LSTM",
        Kind.TRUNCATION,
        Task("echo", 40, 8),
        Model("lstm"),
        Training(0.005, 80, bptt=4),
        (
            Remedy("bptt 40", training={"bptt": None, "lr": 0.01, "updates": 1500}),
            Remedy("bptt 20", training={"bptt": 20, "lr": 0.01, "updates": 1000}),
        ),
        (V,),
    ),
    sick(
        "truncated at 2, needs 6, tanh",
        Kind.TRUNCATION,
        Task("echo", 30, 6),
        Model("tanh", 32),
        Training(0.003, 60, bptt=2),
        (
            Remedy("bptt 30", training={"bptt": None, "updates": 1500}),
            Remedy("bptt 15", training={"bptt": 15, "updates": 1000}),
        ),
        (V,),
    ),
]

UNKNOWN = [
    sick("noise, tanh", Kind.NO_FIRST_ORDER_SIGNAL, Task("noise", 30), Model("tanh")),
    sick("noise, LSTM of two layers", Kind.NO_FIRST_ORDER_SIGNAL, Task("noise", 30), Model("lstm", layers=2)),
    sick("noise per sequence, GRU", Kind.NO_FIRST_ORDER_SIGNAL, Task("noise values", 30), Model("gru")),
    sick(
        "parity of 16, tanh",
        Kind.NO_FIRST_ORDER_SIGNAL,
        Task("parity", 16),
        Model("tanh"),
        remedies=(
            Remedy(
                "targets at every step", {"cell": "gru"}, {"lr": 0.02, "updates": 800}, {"family": "running parity"}
            ),
        ),
    ),
    sick(
        "parity of 20, LSTM",
        Kind.NO_FIRST_ORDER_SIGNAL,
        Task("parity", 20),
        Model("lstm"),
        remedies=(
            Remedy(
                "targets at every step", {"cell": "gru"}, {"lr": 0.02, "updates": 800}, {"family": "running parity"}
            ),
        ),
    ),
]

SGD = {"optimizer": "sgd"}
UNITS = [
    sick(
        "tanh, U times 60",
        Kind.SATURATION,
        Task("moving average", 40, 3),
        Model("tanh", start=(("scale U", 100.0),)),
        Training(),
        (DEFAULT, cell("gru"), Remedy("layer norm and default start", {"layer_norm": True, "start": ()})),
        (V, C, X),
    ),
    sick(
        "tanh, biases of 6",
        Kind.SATURATION,
        ECHO3,
        Model("tanh", start=(("bias", 8.0),)),
        Training(0.002, 300),
        (DEFAULT, start("orthogonal", 1.0, lr=0.005), cell("gru", lr=0.01)),
        (V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "tanh of two layers, biases of 8",
        Kind.SATURATION,
        ECHO3,
        Model("tanh", layers=2, start=(("bias", 8.0),)),
        Training(0.002, 300),
        (DEFAULT, cell("gru", lr=0.01)),
        (V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "ReLU, all biases -8",
        Kind.DEAD_RELU,
        ECHO3,
        Model("relu", start=(("bias", -8.0),)),
        Training(0.002),
        (DEFAULT, start("identity", 0.9, lr=0.005), cell("tanh", lr=0.005)),
        (Kind.CONSTANT_OUTPUT, V, Kind.NO_FIRST_ORDER_SIGNAL),
    ),
    sick(
        "ReLU, biases of 23 in 24 units -9",
        Kind.DEAD_RELU,
        AVERAGE,
        Model("relu", start=(("bias of most", -9.0),)),
        Training(0.002),
        (DEFAULT, cell("tanh", lr=0.005)),
        (V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "ReLU of two layers, all biases -8",
        Kind.DEAD_RELU,
        AVERAGE,
        Model("relu", layers=2, start=(("bias", -8.0),)),
        Training(0.002),
        (DEFAULT, cell("tanh", lr=0.005)),
        (Kind.CONSTANT_OUTPUT, V, Kind.NO_FIRST_ORDER_SIGNAL),
    ),
    sick(
        "LSTM, forget gates closed",
        Kind.STUCK_GATES,
        Task("echo", 40, 6),
        Model("lstm", start=(("forget bias", -10.0),)),
        Training(),
        (DEFAULT, start("forget bias", 1.0, lr=0.01, updates=1000), start("chrono", 10, lr=0.01, updates=1000)),
        (V,),
    ),
    sick(
        "LSTM, input gates closed",
        Kind.STUCK_GATES,
        ECHO3,
        Model("lstm", start=(("input bias", -12.0),)),
        Training(0.002),
        (Remedy("default start", {"start": ()}, {"lr": 0.01}),),
        (V, Kind.CONSTANT_OUTPUT, Kind.NO_FIRST_ORDER_SIGNAL),
    ),
    sick(
        "LSTM of two layers, output gates closed",
        Kind.STUCK_GATES,
        ECHO3,
        Model("lstm", layers=2, start=(("output bias", -12.0),)),
        Training(0.002),
        (Remedy("default start", {"start": ()}, {"lr": 0.01, "updates": 600}),),
        (V, Kind.CONSTANT_OUTPUT, Kind.NO_FIRST_ORDER_SIGNAL),
    ),
    sick(
        "GRU, update gates shut",
        Kind.STUCK_GATES,
        ECHO3,
        Model("gru", start=(("update bias", 12.0),)),
        Training(0.002),
        (Remedy("default start", {"start": ()}, {"lr": 0.01}), start("update bias", 1.0, lr=0.01)),
        (V, Kind.CONSTANT_OUTPUT, Kind.NO_FIRST_ORDER_SIGNAL),
    ),
]

T, L, N = Kind.CLIPPING_TOO_TIGHT, Kind.LEARNING_RATE_TOO_HIGH, Kind.NOT_FINITE
loose = Remedy("clip 1", training={"clip": 1.0})
TRAININGS = [
    sick(
        "SGD behind a clip of 1e-4, tanh",
        T,
        AVERAGE,
        Model("tanh"),
        Training(0.1, 600, "sgd", clip=1e-4),
        (loose, Remedy("Adam", training={"optimizer": "adam", "lr": 0.005})),
        (V,),
    ),
    sick(
        "SGD behind a clip of 1e-3, LSTM",
        T,
        ECHO3,
        Model("lstm"),
        Training(0.5, 400, "sgd", clip=1e-3),
        (
            Remedy("clip 1", training={"clip": 1.0, "lr": 2.0, "updates": 1500}),
            Remedy("Adam", training={"optimizer": "adam", "lr": 0.01}),
        ),
        (V,),
    ),
    sick(
        "SGD behind a clip of 1e-4, GRU of two layers",
        T,
        Task("late sum", 30, 2),
        Model("gru", layers=2),
        Training(0.2, 400, "sgd", clip=1e-4),
        (
            Remedy("clip 1", training={"clip": 1.0, "lr": 0.3, "updates": 800}),
            Remedy("Adam", training={"optimizer": "adam", "lr": 0.01}),
        ),
        (V,),
    ),
    sick(
        "SGD at 30, tanh",
        L,
        AVERAGE,
        Model("tanh"),
        Training(30.0, 300, "sgd", clip=None),
        (lr(0.1, updates=600), lr(0.05, updates=800)),
        (N, Kind.SATURATION, X, C, V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "Adam at 1, GRU",
        L,
        ECHO3,
        Model("gru"),
        Training(1.0, 300),
        (lr(0.01), lr(0.003)),
        (Kind.SATURATION, Kind.STUCK_GATES, C, X, V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "Adam at 0.5, LSTM",
        L,
        Task("late sum", 30, 3),
        Model("lstm"),
        Training(0.6, 300),
        (lr(0.01), lr(0.003, updates=600)),
        (Kind.SATURATION, Kind.STUCK_GATES, C, X, V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "SGD at 20, ReLU",
        L,
        ECHO3,
        Model("relu"),
        Training(20.0, 300, "sgd", clip=None),
        (lr(0.5, updates=2500, clip=1.0), Remedy("Adam", training={"optimizer": "adam", "lr": 0.005})),
        (N, X, C, Kind.DEAD_RELU, V, Kind.CONSTANT_OUTPUT),
    ),
    sick(
        "NaN in one input of a hundred sequences",
        N,
        replace(ECHO3, nan=0.01),
        Model("gru"),
        Training(),
        (Remedy("clean inputs", task={"nan": 0.0}, training={"lr": 0.01}),),
        (L,),
    ),
    sick(
        "NaN in one input of thirty sequences, tanh",
        N,
        replace(AVERAGE, nan=0.03),
        Model("tanh"),
        Training(),
        (Remedy("clean inputs", task={"nan": 0.0}),),
        (L,),
    ),
    sick(
        "infinite derivative of a root at 0, ReLU",
        N,
        AVERAGE,
        Model("relu", wiring="root of zero"),
        Training(),
        (wired(),),
        (L, Kind.DEAD_RELU),
    ),
]

IN, OUT, SAME = Kind.INPUT_SCALE, Kind.TARGET_SCALE, Kind.CONSTANT_OUTPUT
standardized = Remedy("standardize inputs", task={"scale": 1.0, "offset": 0.0})
scaled = Remedy("scale targets", task={"target_scale": 1.0, "target_offset": 0.0})
SATURATED = (Kind.SATURATION, V, C, X, Kind.STUCK_GATES)
DATA = [
    sick(
        "inputs times 300, tanh",
        IN,
        replace(AVERAGE, scale=300.0),
        Model("tanh"),
        Training(),
        (standardized,),
        SATURATED,
    ),
    sick(
        "inputs times 200, GRU", IN, replace(AVERAGE, scale=200.0), Model("gru"), Training(), (standardized,), SATURATED
    ),
    sick(
        "inputs times 1e-4, LSTM",
        IN,
        Task("moving average", 40, 2, scale=1e-4),
        Model("lstm"),
        Training(),
        (Remedy("standardize inputs", task={"scale": 1.0}, training={"lr": 0.01}),),
        (V, SAME),
    ),
    sick(
        "inputs around 1000, tanh",
        IN,
        replace(AVERAGE, offset=1000.0),
        Model("tanh"),
        Training(),
        (standardized,),
        (*SATURATED, SAME),
    ),
    sick(
        "targets times 500, GRU",
        OUT,
        Task("late sum", 30, 3, target_scale=500.0),
        Model("gru"),
        Training(),
        (scaled,),
        (V, SAME),
    ),
    sick(
        "targets around 800, tanh",
        OUT,
        replace(AVERAGE, target_offset=800.0),
        Model("tanh"),
        Training(),
        (scaled,),
        (*SATURATED, SAME),
    ),
    sick(
        "targets around 300 of size 50, LSTM",
        OUT,
        Task("delayed copy", 30, 2, target_scale=50.0, target_offset=300.0),
        Model("lstm"),
        Training(),
        (
            Remedy(
                "scale targets",
                {"hidden": 32},
                {"lr": 0.01, "updates": 800},
                {"target_scale": 1.0, "target_offset": 0.0},
            ),
        ),
        (*SATURATED, SAME),
    ),
    sick(
        "softmax of a single output, LSTM",
        SAME,
        Task("late sum", 30, 3),
        Model("lstm", wiring="softmax of one"),
        Training(0.01),
        (wired(),),
        (Kind.DEAD_HEAD, V, Kind.NO_FIRST_ORDER_SIGNAL),
    ),
    sick(
        "softmax of a single output, tanh",
        SAME,
        Task("early sum", 10),
        Model("tanh", wiring="softmax of one"),
        Training(),
        (wired(),),
        (Kind.DEAD_HEAD, V, Kind.NO_FIRST_ORDER_SIGNAL),
    ),
    sick(
        "inputs zeroed by a mask, GRU",
        SAME,
        Task("late sum", 30, 2),
        Model("gru", wiring="input zeroed"),
        Training(),
        (wired(),),
        (Kind.INPUT_SCALE, V, Kind.DEAD_HEAD, Kind.NO_FIRST_ORDER_SIGNAL),
    ),
]

AXIS, LEAK, APART = Kind.WRONG_TIME_AXIS, Kind.STATE_LEAKS, Kind.STATE_NOT_CARRIED
UNUSED, HEAD, MASK = Kind.LAYER_NOT_CALLED, Kind.DEAD_HEAD, Kind.MASK_ERROR
MIXED = (LEAK, APART, V, Kind.NO_FIRST_ORDER_SIGNAL)
ALONE = (V, Kind.NO_FIRST_ORDER_SIGNAL, SAME)
WIRED = [
    sick("batch first is wrong, tanh", AXIS, ECHO3, Model("tanh", wiring="wrong axis"), Training(), (wired(),), MIXED),
    sick(
        "batch first is missing, GRU",
        AXIS,
        Task("echo", 30, 2, batch_first=True),
        Model("gru", wiring="wrong axis"),
        Training(),
        (wired(),),
        MIXED,
    ),
    sick(
        "batch first is missing, LSTM per sequence",
        AXIS,
        Task("late sum", 20, 3, batch_first=True),
        Model("lstm", wiring="wrong axis"),
        Training(),
        (wired(),),
        MIXED,
    ),
    sick(
        "the state of the last batch is kept, tanh",
        LEAK,
        ECHO3,
        Model("tanh", wiring="leaking state"),
        Training(),
        (wired(),),
        (V,),
        built="outputs of a sequence depend on those seen before it",
    ),
    sick(
        "the state of the last batch is kept, GRU",
        LEAK,
        Task("first symbol", 12),
        Model("gru", wiring="leaking state"),
        Training(0.01),
        (wired(),),
        (V,),
        built="outputs of a sequence depend on those seen before it",
    ),
    sick(
        "states of the neighbor are read, LSTM",
        LEAK,
        ECHO3,
        Model("lstm", wiring="rolled state"),
        Training(),
        (wired(),),
        (V,),
        built="outputs of a sequence depend on its neighbor",
    ),
    sick(
        "every step from a zero state, LSTM",
        APART,
        ECHO3,
        Model("lstm", wiring="each step alone"),
        Training(),
        (wired(),),
        ALONE,
    ),
    sick(
        "every step from a zero state, tanh",
        APART,
        Task("delayed copy", 20, 2),
        Model("tanh", wiring="each step alone"),
        Training(),
        (wired(),),
        ALONE,
    ),
    sick(
        "every five steps from a zero state, GRU",
        APART,
        Task("echo", 30, 6),
        Model("gru", wiring="each window alone"),
        Training(),
        (wired(),),
        ALONE,
    ),
    sick(
        "second layer never called, GRU",
        UNUSED,
        ECHO3,
        Model("gru", wiring="unused layer"),
        Training(),
        (wired(),),
        built="weights that no output depends on",
    ),
    sick(
        "second layer never called, tanh",
        UNUSED,
        Task("late sum", 30, 3),
        Model("tanh", wiring="unused layer"),
        Training(),
        (wired(),),
        built="weights that no output depends on",
    ),
    sick(
        "second layer never called, LSTM",
        UNUSED,
        AVERAGE,
        Model("lstm", wiring="unused layer"),
        Training(0.01),
        (wired(),),
        built="weights that no output depends on",
    ),
    sick(
        "the head reads the input, GRU",
        HEAD,
        ECHO3,
        Model("gru", wiring="head reads input"),
        Training(),
        (wired(),),
        ALONE,
    ),
    sick(
        "the head gets detached states, tanh",
        HEAD,
        Task("early sum", 25),
        Model("tanh", wiring="head detached"),
        Training(),
        (Remedy("wire it right", {"wiring": "", "start": (("orthogonal", 1.0),)}),),
        ALONE,
    ),
    sick(
        "the head is zero and frozen, LSTM",
        HEAD,
        Task("late sum", 30, 2),
        Model("lstm", wiring="head zeroed"),
        Training(0.01),
        (wired(),),
        ALONE,
    ),
    sick(
        "the end of the padding is read, tanh",
        MASK,
        Task("padded last", 40, 2),
        Model("tanh", wiring="reads padding"),
        Training(0.003),
        (wired(),),
        (V,),
    ),
    sick(
        "padding counts as class 0, GRU",
        MASK,
        Task("padded echo", 30, 2, mask="counted"),
        Model("gru"),
        Training(0.01),
        (Remedy("mask it", task={"mask": "right"}),),
        (),
        built="the loss of a sequence depends on its padding",
    ),
    sick(
        "the mask is inverted, LSTM",
        MASK,
        Task("padded echo", 30, 2, mask="inverted"),
        Model("lstm"),
        Training(0.01),
        (Remedy("mask it", task={"mask": "right"}),),
        (V, SAME, Kind.NO_FIRST_ORDER_SIGNAL),
        built="only the padding is scored",
    ),
]

SICK = VANISHING + EXPLODING + TRUNCATED + UNKNOWN + UNITS + TRAININGS + DATA + WIRED
