"""The GRU of the reference against torch's and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from oracles import RTOL, check_layer, finite_difference, layers, several

import retrograde as rg


@several
@given(layers("GRU"))
def test_gru_is_torchs(layer):
    check_layer("GRU", layer)


@pytest.mark.parametrize("bias", [True, False])
def test_gru_jacobian_is_finite_differences_of_the_step(bias):
    rng = np.random.default_rng(6)
    cell = rg.reference.GRU.random(3, 4, bias=bias, seed=rng)
    states = rg.reference.gru_forward(cell, rng.standard_normal((5, 3)), rng.standard_normal(4))
    for t in range(1, 6):
        expected = [
            finite_difference(
                lambda h, row=row, t=t: float(rg.reference.gru_step(cell, states.x[t - 1], h).h[row]), states.h[t - 1]
            )
            for row in range(4)
        ]
        np.testing.assert_allclose(rg.reference.gru_jacobian(cell, states, t), expected, rtol=RTOL, atol=RTOL)
