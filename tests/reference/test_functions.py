"""The nonlinear functions of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import finite_difference

import retrograde as rg


def test_gates_saturate_without_overflow():
    assert rg.reference.sigmoid(np.array([-800.0, -40.0, 0.0, 800.0])) == pytest.approx([0.0, np.exp(-40), 0.5, 1.0])


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_the_slope_of_an_activation_is_its_finite_difference(nonlinearity):
    z = np.array([-1.5, -0.3, 0.2, 2.0])
    slope = finite_difference(lambda z: float(rg.reference.activation(nonlinearity, z).sum()), z)
    value = rg.reference.activation(nonlinearity, z)
    np.testing.assert_allclose(rg.reference.activation_gradient(nonlinearity, value), slope, rtol=1e-9, atol=1e-9)
    assert rg.reference.activation_gradient("relu", np.zeros(1)) == 0.0  # as in torch


def test_the_gradient_of_the_cross_entropy_is_its_finite_difference():
    rng = np.random.default_rng(0)
    o, y = rng.standard_normal(5), rng.dirichlet(np.ones(5))
    expected = finite_difference(lambda o: float(rg.reference.cross_entropy(o, y)), o)
    np.testing.assert_allclose(rg.reference.cross_entropy_gradient(o, y), expected, rtol=1e-9, atol=1e-9)
    assert rg.reference.softmax(o).sum() == pytest.approx(1.0)
    assert rg.reference.softmax(np.array([1000.0, 1000.0])).tolist() == [0.5, 0.5]  # no overflow
