"""Sick by units, gates, clipping, learning rate, or the scale of the data."""

from __future__ import annotations

from dataclasses import replace

from retrograde.doctor import Kind

from ..case import Remedy, Training
from ..networks import Model
from ..tasks import Task
from .building import DEFAULT, cell, lr, sick, start, wired

V, X, C = Kind.VANISHING_HURTS, Kind.EXPLODING, Kind.CHAOS
ECHO3, ECHO4 = Task("echo", 30, 3), Task("echo", 40, 4)
AVERAGE = Task("moving average", 40, 2)

T, L, N = Kind.CLIPPING_TOO_TIGHT, Kind.LEARNING_RATE_TOO_HIGH, Kind.NOT_FINITE
loose = Remedy("clip 1", training={"clip": 1.0})
IN, OUT, SAME = Kind.INPUT_SCALE, Kind.TARGET_SCALE, Kind.CONSTANT_OUTPUT
standardized = Remedy("standardize inputs", task={"scale": 1.0, "offset": 0.0})
scaled = Remedy("scale targets", task={"target_scale": 1.0, "target_offset": 0.0})
SATURATED = (Kind.SATURATION, V, C, X, Kind.STUCK_GATES)
UNITS = [
    sick(
        "tanh, U times 300",
        Kind.SATURATION,
        Task("moving average", 40, 3),
        Model("tanh", start=(("scale U", 300.0),)),
        Training(0.003, 200),
        (DEFAULT, cell("gru"), Remedy("layer norm and default start", {"layer_norm": True, "start": ()})),
        (V, C, X),
    ),
    sick(
        "tanh, biases of 8",
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
            Remedy("Adam", training={"optimizer": "adam", "lr": 0.01}),
            Remedy("clip 1", training={"clip": 1.0, "lr": 0.3, "updates": 1500}),
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
        "Adam at 1e-6, GRU",
        Kind.LEARNING_RATE_TOO_LOW,
        ECHO3,
        Model("gru"),
        Training(1e-6, 300),
        (lr(0.01), lr(0.003, updates=600)),
    ),
    sick(
        "SGD at 1e-4, tanh",
        Kind.LEARNING_RATE_TOO_LOW,
        AVERAGE,
        Model("tanh"),
        Training(1e-4, 300, "sgd", clip=None),
        (lr(0.1, updates=600), lr(0.05, updates=800)),
    ),
    sick(
        "Adam at 3e-7, LSTM of two layers",
        Kind.LEARNING_RATE_TOO_LOW,
        Task("late sum", 30, 2),
        Model("lstm", layers=2),
        Training(3e-7, 400),
        (lr(0.01), lr(0.003, updates=600)),
    ),
    sick(
        "NaN in one input of 300 sequences, GRU",
        N,
        replace(ECHO3, nan=0.003),
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
        "inputs over the deviation of a single value, ReLU",
        N,
        AVERAGE,
        Model("relu", wiring="deviation of one"),
        Training(),
        (wired(),),
        (L, Kind.DEAD_RELU),
    ),
]

DATA = [
    sick(
        "inputs times 300, tanh",
        IN,
        replace(ECHO3, scale=300.0),
        Model("tanh"),
        Training(),
        (standardized,),
        SATURATED,
    ),
    sick(
        "inputs times 500, GRU", IN, replace(ECHO4, scale=500.0), Model("gru"), Training(), (standardized,), SATURATED
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
        (Kind.DEAD_HEAD, V, Kind.NO_FIRST_ORDER_SIGNAL, Kind.OUTPUT_RANGE),
    ),
    sick(
        "softmax of a single output, tanh",
        SAME,
        Task("early sum", 10),
        Model("tanh", wiring="softmax of one"),
        Training(),
        (wired(),),
        (Kind.DEAD_HEAD, V, Kind.NO_FIRST_ORDER_SIGNAL, Kind.OUTPUT_RANGE),
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

TRAINING = UNITS + TRAININGS + DATA
