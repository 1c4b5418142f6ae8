"""Sick by the last function of the network, the training loop, a gradient cut at every step, or the targets."""

from __future__ import annotations

from retrograde.doctor import Kind

from ..case import Loop, Remedy, Training
from ..networks import Model
from ..tasks import Task
from .building import healthy, sick, wired

V, NO = Kind.VANISHING_HURTS, Kind.NO_FIRST_ORDER_SIGNAL
BOUNDED, LOOP, NOT, CUT = Kind.OUTPUT_RANGE, Kind.TRAINING_LOOP, Kind.NOT_TRAINED, Kind.STATE_DETACHED
X, C = Kind.EXPLODING, Kind.CHAOS
AHEAD, RANDOM, DROPS = Kind.TARGETS_AHEAD, Kind.RANDOM_OUTPUT, Kind.DROPOUT_IN_EVAL
ECHO3, LATE, AVERAGE = Task("echo", 30, 3), Task("late sum", 30, 3), Task("moving average", 40, 2)
ADDING = Task("adding", 12, target_scale=0.5, target_offset=0.5)
EXTREME = (V, Kind.SATURATION)  # the lowest loss of two softmaxes is at infinite numbers before the first
looped = Remedy("the plain loop", training={"loop": ""})
trained_only = Remedy("training=self.training", {"wiring": "dropout"})
both = Remedy("both directions", {"wiring": "both directions"})

OUTPUTS = [
    sick(
        "a softmax before the cross entropy, GRU", BOUNDED, ECHO3, Model("gru", wiring="softmax head"), Training(),
        (wired("leave the softmax out"),), EXTREME,
    ),
    sick(
        "a softmax before the cross entropy, LSTM per sequence", BOUNDED, Task("first symbol", 10),
        Model("lstm", start=(("chrono", 10),), wiring="softmax head"), Training(0.01),
        (wired("leave the softmax out"),), EXTREME,
    ),
    sick(
        "a tanh for targets up to 9, LSTM", BOUNDED, Task("moving average", 40, 2, target_scale=3.0),
        Model("lstm", wiring="tanh head"), Training(0.01, 600),
        (wired("leave the tanh out"), Remedy("scale targets", task={"target_scale": 0.2})),
    ),
    sick(
        "a ReLU for targets below 0, tanh", BOUNDED, LATE, Model("tanh", wiring="relu head"), Training(),
        (wired("leave the ReLU out"), Remedy("targets above 0", task={"target_offset": 4.0})),
        (Kind.CONSTANT_OUTPUT, Kind.DEAD_HEAD, Kind.DEAD_RELU),
    ),
    healthy(
        "a sigmoid for targets from 0 to 1, GRU", ADDING, Model("gru", wiring="sigmoid head"), Training(0.01, 800),
        goal=0.1,
    ),
    healthy(
        "a tanh for targets within its range, tanh", Task("moving average", 40, 2, target_scale=0.2),
        Model("tanh", wiring="tanh head"), Training(),
    ),
]  # fmt: skip

LOOPS = [
    sick(
        "the optimizer has the head alone, GRU", NOT, Task("echo", 30, 5), Model("gru"), Loop(0.01, loop="head only"),
        (looped,), (V, LOOP), start_given=True,
    ),
    sick(
        "the optimizer has the head alone, tanh of two layers", NOT, Task("delayed copy", 30, 3),
        Model("tanh", 32, layers=2), Loop(0.005, 600, loop="head only"), (looped,), (V, LOOP), start_given=True,
    ),
    sick(
        "the recurrent layer is in a list, LSTM", NOT, Task("echo", 30, 5), Model("lstm", wiring="layer in a list"),
        Training(0.01, 800), (wired(),), (V, LOOP), start_given=True,
    ),
    sick(
        "step() is never called, tanh", LOOP, ECHO3, Model("tanh"), Loop(loop="no step"), (looped,), (NOT,),
        start_given=True,
    ),
    sick(
        "gradients are never set to zero, tanh", LOOP, Task("delayed copy", 30, 3), Model("tanh", 32),
        Loop(0.005, 800, loop="never zeroed"), (looped,), (), start_given=True,
    ),
    sick(
        "gradients are never set to zero, GRU of two layers", LOOP, LATE, Model("gru", layers=2),
        Loop(0.01, loop="never zeroed"), (looped,), (), start_given=True,
    ),
    sick(
        "gradients are never set to zero, SGD", LOOP, AVERAGE, Model("tanh"),
        Loop(0.1, 600, "sgd", clip=None, loop="never zeroed"), (looped,),
        (Kind.LEARNING_RATE_TOO_HIGH, Kind.SATURATION, V, X, C), start_given=True,
    ),
    sick(
        "each sequence gets its neighbor's target, LSTM", LOOP, LATE, Model("lstm"), Loop(0.01, loop="targets moved"),
        (looped,), (), start_given=True,
    ),
    sick(
        "each sequence gets its neighbor's target, tanh", LOOP, ECHO3, Model("tanh"), Loop(loop="targets moved"),
        (looped,), (), start_given=True,
    ),
    healthy(
        "the gradients of two batches add up on purpose, GRU", ECHO3, Model("gru"),
        Loop(0.01, 800, loop="two batches a step"), start_given=True,
    ),
    healthy(
        "a frozen embedding, LSTM", Task("text", 40), Model("lstm", 64, wiring="frozen embedding"), Training(0.01, 500),
        goal=0.7, start_given=True,
    ),
]  # fmt: skip

WAYS = [
    sick(
        "the state is detached at every step, tanh", CUT, Task("echo", 30, 4), Model("tanh", wiring="detached steps"),
        Training(), (wired(), Remedy("detach between windows", {"wiring": "detached windows"})), (V,),
    ),
    sick(
        "the state is detached at every step, GRU", CUT, Task("first symbol", 12),
        Model("gru", wiring="detached steps"), Training(0.01), (wired(),), (V,),
    ),
    healthy(
        "the state is detached between windows of ten steps, tanh", Task("echo", 30, 2),
        Model("tanh", wiring="detached windows"), Training(),
    ),
    healthy(
        "the state is detached between windows of ten steps, LSTM", AVERAGE, Model("lstm", wiring="detached windows"),
        Training(0.01),
    ),
    sick(
        "targets of two steps later, GRU", AHEAD, Task("early echo", 30, 2), Model("gru"), Training(0.01),
        (Remedy("shift the targets back", task={"family": "echo"}), both), (NO,),
    ),
    sick(
        "targets of the next step, tanh", AHEAD, Task("early copy", 30, 1), Model("tanh", 32), Training(),
        (Remedy("shift the targets back", task={"family": "delayed copy"}), both), (NO,),
    ),
    healthy(
        "targets of two steps later, both directions, GRU", Task("early echo", 30, 2),
        Model("gru", wiring="both directions"), Training(0.01),
    ),
    healthy("a forecast of one step, LSTM", Task("forecast", 50), Model("lstm"), Training(0.01), goal=0.2),
    sick(
        "dropout in eval mode, GRU", DROPS, LATE, Model("gru", 12, wiring="dropout always"), Training(0.01, 600),
        (wired("no dropout"), trained_only),
    ),
    sick(
        "dropout in eval mode, tanh", DROPS, Task("delayed copy", 30, 2), Model("tanh", 32, wiring="dropout always"),
        Training(0.003, 600), (wired("no dropout"), trained_only),
    ),
    healthy("dropout in training only, GRU", LATE, Model("gru", wiring="dropout"), Training(0.01, 600)),
    healthy("dropout in training only, tanh", ECHO3, Model("tanh", 64, wiring="dropout"), Training(0.003, 600)),
    healthy("a state that is sampled on purpose, LSTM", LATE, Model("lstm", wiring="sampled"), Training(0.01), RANDOM),
    healthy("a state that is sampled on purpose, GRU", ECHO3, Model("gru", wiring="sampled"), Training(0.01), RANDOM),
]  # fmt: skip

LOOPED = OUTPUTS + LOOPS + WAYS
