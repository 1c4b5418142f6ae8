"""Healthy trainings: they reach their goal, however ugly their numbers look."""

from __future__ import annotations

from dataclasses import replace

from retrograde.doctor import Kind

from ..case import Training
from ..networks import Model
from ..tasks import Task
from .building import healthy

ECHO3 = Task("echo", 30, 3)
LATE = Task("late sum", 60, 3)
LORENZ = Task("lorenz", 50)
TEXT = Task("text", 40)

PLAIN = [
    healthy("echo 3, tanh", ECHO3, Model("tanh")),
    healthy("echo 3, GRU of two layers", ECHO3, Model("gru", layers=2)),
    healthy("echo 3, ReLU from the identity", ECHO3, Model("relu", start=(("identity", 0.9),)), Training(0.005, 1200)),
    healthy("echo 2, tanh of three layers", Task("echo", 30, 2), Model("tanh", layers=3, start=(("orthogonal", 1.0),))),
    healthy("late sum, tanh: vanishing that does not matter", LATE, Model("tanh"), None, Kind.VANISHING_HARMLESS),
    healthy("late sum, GRU: vanishing that does not matter", LATE, Model("gru"), None, Kind.VANISHING_HARMLESS),
    healthy("late sum, LSTM step by step", LATE, Model("lstm", wiring="step by step"), None, Kind.VANISHING_HARMLESS),
    healthy("first symbol of 25, GRU", Task("first symbol", 25), Model("gru", start=(("chrono", 25),))),
    healthy("first symbol of 30, LSTM chrono", Task("first symbol", 30), Model("lstm", start=(("chrono", 30),))),
    healthy(
        "first symbol of 20, tanh orthogonal", Task("first symbol", 20), Model("tanh", start=(("orthogonal", 1.0),))
    ),
    healthy("adding 20, GRU", Task("adding", 20), Model("gru"), Training(0.01, 800), goal=0.1),
    healthy("delayed copy 3, tanh", Task("delayed copy", 30, 3), Model("tanh", 32), Training(updates=800)),
    healthy(
        "delayed copy 2, LSTM batch first",
        Task("delayed copy", 30, 2, batch_first=True),
        Model("lstm", 32),
        Training(0.01, 600),
    ),
    healthy("moving average 2, ReLU", Task("moving average", 40, 2), Model("relu")),
    healthy("Lorenz, tanh", LORENZ, Model("tanh", 32), Training(updates=500)),
    healthy("Lorenz, LSTM of two layers", LORENZ, Model("lstm", 32, layers=2), Training(0.01, 500)),
    healthy("characters, GRU", TEXT, Model("gru", 64), Training(0.01, 500), goal=0.6),
    healthy("characters, tanh", TEXT, Model("tanh", 64), Training(0.004, 500), goal=0.6),
    healthy(
        "order of 30, LSTM",
        Task("order", 30, symbols=6),
        Model("lstm", start=(("forget bias", 3.0),)),
        Training(0.01, 800),
    ),
    healthy("running parity, GRU", Task("running parity", 12), Model("gru"), Training(0.02, 800)),
    healthy("running parity, tanh", Task("running parity", 10), Model("tanh"), Training(0.01, 800)),
    healthy("padded echo 2, GRU, masked", Task("padded echo", 30, 2), Model("gru")),
    healthy("padded last, LSTM, read at its ends", Task("padded last", 20, 2), Model("lstm"), Training(0.01, 500)),
    healthy(
        "padded at the start, GRU, not packed",
        Task("padded last", 20, 2),
        Model("gru", wiring="padded left"),
        Training(0.01, 500),
    ),
    healthy(
        "padded at the start, LSTM, not packed",
        Task("padded last", 30, 1),
        Model("lstm", wiring="padded left"),
        Training(0.01, 500),
    ),
]

TRAPS = [
    # The three oddities of the issue, each in two forms
    healthy(
        "solved at a large norm and spectral radius above 1, tanh",
        Task("first symbol", 30),
        Model("tanh", start=(("orthogonal", 1.25),)),
        Training(0.003, 300, clip=None, loss_scale=1e4),
    ),
    healthy(
        "solved at a large norm and spectral radius above 1, ReLU",
        ECHO3,
        Model("relu", start=(("orthogonal", 1.1),)),
        Training(0.003, 600, loss_scale=1000.0),
    ),
    healthy(
        "spikes, not clipped, GRU",
        replace(LATE, outliers=0.005),
        Model("gru"),
        Training(clip=None, updates=800),
        goal=0.1,
    ),
    healthy("spikes, not clipped, tanh", replace(ECHO3, outliers=0.01), Model("tanh"), Training(clip=None)),
    healthy(
        "negative gate biases by design, LSTM",
        ECHO3,
        Model("lstm", start=(("input bias", -1.0), ("output bias", -2.0))),
        Training(0.01, 600),
    ),
    healthy(
        "negative input gates from -1 to -3, LSTM",
        Task("first symbol", 15),
        Model("lstm", start=(("input bias", -3.0), ("forget bias", 3.0))),
        Training(0.01, 600),
    ),
    # Others
    healthy("Adam behind a clip of 1e-4 does not care", ECHO3, Model("gru"), Training(0.01, clip=1e-4)),
    healthy("a clip of 1e6", ECHO3, Model("lstm"), Training(0.01, clip=1e6), Kind.CLIPPING_NEVER_ACTIVE),
    healthy("truncated at 10, needs 2", Task("echo", 40, 2), Model("tanh"), Training(0.003, 200, bptt=10)),
    healthy("truncated at 12, needs 1, LSTM", Task("echo", 48, 1), Model("lstm"), Training(0.01, 200, bptt=12)),
    healthy("inputs three times as large", replace(ECHO3, scale=3.0), Model("tanh")),
    healthy(
        "a third of ReLU units dead, solved all the same",
        Task("moving average", 40, 2),
        Model("relu", 36, start=(("bias of some", -8.0),)),
        Training(),
    ),
    healthy("no clipping, SGD", Task("moving average", 40, 2), Model("tanh"), Training(0.1, 600, "sgd", clip=None)),
    healthy("sums of losses instead of means, GRU", LATE, Model("gru"), Training(clip=None, loss_scale=1000.0)),
    healthy(
        "twenty symbols, sparse inputs, LSTM", Task("echo", 30, 2, symbols=20), Model("lstm", 40), Training(0.02, 600)
    ),
    healthy("outputs with an axis more than the targets, tanh", LATE, Model("tanh", wiring="layer axis")),
    healthy(
        "outputs with an axis more than the targets, GRU",
        Task("early sum", 10),
        Model("gru", wiring="layer axis"),
        Training(0.01),
    ),
    healthy(
        "SGD at 1e-5 of a loss times 10,000, tanh",
        Task("moving average", 40, 2),
        Model("tanh"),
        Training(1e-5, 600, "sgd", clip=None, loss_scale=1e4),
    ),
    healthy("Adam at 5e-4 for 1,200 updates, tanh", Task("moving average", 40, 2), Model("tanh"), Training(5e-4, 1200)),
    healthy("a wide tanh network", ECHO3, Model("tanh", 128), Training(0.001, 300)),
    healthy("layer norm, GRU", ECHO3, Model("gru", layer_norm=True)),
]

HEALTHY = PLAIN + TRAPS
