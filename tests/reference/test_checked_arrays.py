"""Arrays and options that do not fit are refused in one line that names them (reference/arrays.py)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import retrograde as rg
from retrograde.errors import DataError, OptionError

NET = rg.reference.Network.random(5, 4, 3, seed=0)
LAST = dataclasses.replace(NET, outputs="last")
CELL = rg.reference.LSTM.random(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rg.reference.Network(np.ones((3, 2)), np.ones((3, 4)), np.ones((2, 3))),
            "W has shape (3, 4); expected (H, H)",
        ),
        (lambda: dataclasses.replace(NET, U=np.ones((3, 5))), "U has shape (3, 5); expected (H, D) with H = 4"),
        (lambda: dataclasses.replace(NET, V=np.ones((3, 5))), "V has shape (3, 5); expected (K, H) with H = 4"),
        (lambda: dataclasses.replace(NET, b=np.ones(3)), "b has shape (3,); expected (H,) with H = 4"),
        (lambda: dataclasses.replace(NET, W=np.ones((4, 4)) * 1j), "W is of type complex128; expected real numbers"),
        (lambda: rg.reference.forward(NET, [[1.0, 2.0]]), "inputs has shape (1, 2); expected (T, D) with D = 5"),
        (lambda: rg.reference.forward(NET, [0, 5]), "inputs contains 5; expected indices from 0 to 4"),
        (lambda: rg.reference.forward(NET, [-1]), "inputs contains -1; expected indices from 0 to 4"),
        (lambda: rg.reference.forward(NET, [0.0, 1.0]), "or tokens (T,) of an integer type"),
        (lambda: rg.reference.forward(NET, np.zeros((0, 5))), "which has no time step"),
        (lambda: rg.reference.forward(NET, [0], s_0=[1, 2]), "s_0 has shape (2,); expected (H,) with H = 4"),
        (
            lambda: rg.reference.loss(NET, [0, 1], [1]),
            "targets has shape (1,) and type int64; expected 2 integer classes",
        ),
        (lambda: rg.reference.loss(NET, [0, 1], [1, 3]), "targets contains 3; expected indices from 0 to 2"),
        (lambda: rg.reference.loss(NET, [0], [[0.5, 0.5, 0.5]]), "targets, row 0, sums to 1.5"),
        (lambda: rg.reference.loss(NET, [0], [[0.5, 0.5, 1e-5]]), "targets, row 0, sums to 1.00001"),
        (
            lambda: rg.reference.loss(LAST, [0, 1], [1, 0]),
            "targets has shape (2,) and type int64; expected 1 integer class,",
        ),
        (
            lambda: rg.reference.lstm_forward(CELL, np.ones((4, 3))),
            "inputs has shape (4, 3); expected (T, D) with D = 2",
        ),
        (
            lambda: rg.reference.lstm_gradients(CELL, np.ones((4, 2)), np.ones((3, 3))),
            "grad_output has shape (3, 3); expected (T, P) with T = 4, P = 3",
        ),
        (lambda: rg.reference.LSTM(np.ones((6, 2)), np.ones((6, 2))), "weight_ih has 6 rows; expected a multiple of 4"),
        (
            lambda: rg.reference.GRU(np.ones((6, 2)), np.ones((6, 3))),
            "weight_hh has shape (6, 3); expected (3H, P) with 3H = 6, P = 2",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(call, message):
    with pytest.raises(DataError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dataclasses.replace(NET, nonlinearity="gelu"),
            "nonlinearity = 'gelu'; expected one of 'tanh', 'relu'",
        ),
        (lambda: dataclasses.replace(NET, outputs="first"), "outputs = 'first'; expected one of 'every', 'last'"),
        (lambda: rg.reference.Network.random(0, 4, 3), "input_size = 0"),
        (lambda: rg.reference.gradients(NET, [0], [1], truncation=0), "truncation = 0; expected a whole number"),
        (lambda: rg.reference.gradient_terms(NET, [0, 1], [1, 0], 3), "t = 3 is not a step of this sequence"),
        (
            lambda: rg.reference.gradient_terms(NET, [0, 1], [1, 0], 0),
            "expected a whole number from 1 to 2 (in rg.reference, time steps count from 1)",
        ),
        (lambda: rg.reference.gradient_terms(LAST, [0, 1], 1, 1), "t = 1 has no loss"),
    ],
)
def test_impossible_options_are_named(call, message):
    with pytest.raises(OptionError) as caught:
        call()
    assert message in str(caught.value)
