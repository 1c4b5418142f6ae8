"""Sick by a mistake in the wiring."""

from __future__ import annotations

from retrograde.doctor import Kind

from ..case import Remedy, Training
from ..networks import Model
from ..tasks import Task
from .building import sick, wired

V, X, C = Kind.VANISHING_HURTS, Kind.EXPLODING, Kind.CHAOS
ECHO3, ECHO4 = Task("echo", 30, 3), Task("echo", 40, 4)
AVERAGE = Task("moving average", 40, 2)

AXIS, LEAK, APART = Kind.WRONG_TIME_AXIS, Kind.STATE_LEAKS, Kind.STATE_NOT_CARRIED
UNUSED, HEAD, MASK = Kind.LAYER_NOT_CALLED, Kind.DEAD_HEAD, Kind.MASK_ERROR
MIXED = (LEAK, APART, V, Kind.NO_FIRST_ORDER_SIGNAL)
ALONE = (V, Kind.NO_FIRST_ORDER_SIGNAL, Kind.CONSTANT_OUTPUT)
WIRING = [
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
        (Remedy("wire it right", {"wiring": ""}, {"lr": 0.01, "updates": 800}),),
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
        Task("late sum", 30, 3),
        Model("tanh", wiring="head detached"),
        Training(),
        (wired(),),
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
        (V, Kind.CONSTANT_OUTPUT, Kind.NO_FIRST_ORDER_SIGNAL),
        built="only the padding is scored",
    ),
]
