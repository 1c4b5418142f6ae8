"""Sick by how the gradient travels through time: it vanishes, explodes, is cut off, or there is none."""

from __future__ import annotations

from retrograde.doctor import Kind

from ..case import Remedy, Training
from ..networks import Model
from ..tasks import Task
from .building import DEFAULT, cell, sick, start

V, X, C = Kind.VANISHING_HURTS, Kind.EXPLODING, Kind.CHAOS
ECHO3, ECHO4 = Task("echo", 30, 3), Task("echo", 40, 4)
AVERAGE = Task("moving average", 40, 2)

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
        "first symbol of 40 to 80, padded, GRU",
        V,
        Task("padded first", 80),
        Model("gru"),
        Training(0.003),
        (start("chrono", 80, lr=0.02, updates=1000), start("update bias", 4.4, lr=0.02, updates=1000)),
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

EXPLODING = [
    sick(
        "ReLU, W orthogonal times 2",
        X,
        Task("first symbol", 60),
        Model("relu", start=(("orthogonal", 2.0),)),
        Training(0.002, 150, "sgd"),
        (
            start("chrono", 60, "gru", optimizer="adam", lr=0.01, updates=400),
            start("identity", 1.0, optimizer="adam", updates=1500),
        ),
        (C, Kind.LEARNING_RATE_TOO_HIGH, V),
    ),
    sick(
        "ReLU from 1.2 times the identity, not clipped",
        (X, Kind.NOT_FINITE),
        Task("adding", 60),
        Model("relu", start=(("identity", 1.2),)),
        Training(0.01, 100, "sgd", clip=None),
        (start("chrono", 60, "gru", optimizer="adam", clip=1.0, updates=1500),),
        (C, Kind.LEARNING_RATE_TOO_HIGH, V, Kind.CONSTANT_OUTPUT, Kind.CURSE_OF_MEMORY),
        goal=0.1,
    ),
    sick(
        "ReLU of two layers, W orthogonal times 1.8",
        X,
        Task("early sum", 50),
        Model("relu", layers=2, start=(("orthogonal", 1.8),)),
        Training(0.002, 150, "sgd"),
        (start("chrono", 50, "gru", optimizer="adam", lr=0.01, updates=600),),
        (C, Kind.LEARNING_RATE_TOO_HIGH, V),
    ),
    sick(
        "tanh, gauss 4: chaos",
        C,
        ECHO4,
        Model("tanh", 32, start=(("gauss", 4.0),)),
        Training(0.001),
        (DEFAULT, start("orthogonal", 1.0), start("gauss", 0.9), cell("gru")),
        (X, Kind.SATURATION, V),
    ),
    sick(
        "tanh of two layers, gauss 3.5: chaos",
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
        Training(0.0003, 150, "sgd"),
        (
            cell("gru", optimizer="adam", lr=0.01, updates=400),
            Remedy(
                "inputs of mean 0", task={"offset": 0.0}, training={"optimizer": "adam", "lr": 0.002, "updates": 400}
            ),
            Remedy("layer norm", {"layer_norm": True}, {"optimizer": "adam", "updates": 400}),
            start("identity", 0.9, optimizer="adam", updates=400),
        ),
        (X, Kind.NOT_FINITE, Kind.LEARNING_RATE_TOO_HIGH, Kind.DEAD_RELU, Kind.CONSTANT_OUTPUT, Kind.INPUT_SCALE),
    ),
    sick(
        "ReLU of long memory, vectors of mean 0.5",
        Kind.CURSE_OF_MEMORY,
        Task("delayed copy", 200, 2, offset=0.5),
        Model("relu", 32, start=(("identity", 0.998),)),
        Training(0.0003, 150, "sgd"),
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
        Training(0.001, 60),
        (
            start("orthogonal", 1.0, hidden=64, lr=0.002, updates=1500),
            start("identity", 1.0, "relu", lr=0.002, updates=1500),
        ),
        (V,),
    ),
    sick(
        "one eigenvalue of 1, first symbol",
        Kind.ONE_DIRECTION,
        Task("first symbol", 30, symbols=8),
        Model("tanh", 32, start=(("one direction", 0.1),)),
        Training(0.001, 300),
        (start("chrono", 30, "gru", lr=0.01), start("orthogonal", 1.0, lr=0.003, updates=1500)),
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

MEMORY = VANISHING + EXPLODING + TRUNCATED + UNKNOWN
