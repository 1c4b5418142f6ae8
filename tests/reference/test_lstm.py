"""The LSTM of the reference against torch's and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from oracles import RTOL, check_layer, finite_difference, layers, several

import retrograde as rg


@several
@given(layers("LSTM"))
def test_lstm_is_torchs(layer):
    check_layer("LSTM", layer)


@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_lstm_jacobian_is_finite_differences_of_the_step(proj_size, bias):
    rng = np.random.default_rng(5)
    cell = rg.reference.LSTM.random(3, 4, proj_size=proj_size, bias=bias, seed=rng)
    P = proj_size or 4
    states = rg.reference.lstm_forward(
        cell, rng.standard_normal((5, 3)), rng.standard_normal(P), rng.standard_normal(4)
    )
    for t in range(1, 6):

        def entry(hc, row, t=t):
            after = rg.reference.lstm_step(cell, states.x[t - 1], hc[:P], hc[P:])
            return float(np.concatenate([after.h, after.c])[row])

        at = np.concatenate([states.h[t - 1], states.c[t - 1]])
        expected = [finite_difference(lambda hc, row=row: entry(hc, row), at) for row in range(P + 4)]
        np.testing.assert_allclose(rg.reference.lstm_jacobian(cell, states, t), expected, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize(("proj_size", "bias"), [(0, True), (2, False)])
def test_an_lstm_shows_its_sizes(proj_size, bias):
    lstm = rg.reference.LSTM.random(3, 4, proj_size=proj_size, bias=bias)
    assert repr(lstm) == f"LSTM(input_size=3, hidden_size=4, proj_size={proj_size}, bias={bias})"
