"""The vanilla network of the reference against finite differences and torch's autograd."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import PARAMETERS, RTOL, close, finite_difference, problems, several, torch_gradients, torch_twin

import retrograde as rg


@several
@given(problems())
def test_loss_and_gradients_are_those_of_torch(problem):
    E, leaves = torch_twin(*problem)
    close(rg.reference.losses(*problem), E.detach().numpy())
    assert rg.reference.loss(*problem) == pytest.approx(float(E.detach().sum()), rel=RTOL)
    gradient = rg.reference.gradients(*problem)
    for name, expected in torch_gradients(E, leaves).items():
        close(getattr(gradient, name), expected)


@several
@given(problems(nonlinearity="tanh", max_steps=5))
def test_gradients_are_finite_differences(problem):
    net, inputs, targets, s_0 = problem
    inputs = inputs if inputs.ndim == 2 else np.eye(net.U.shape[1])[inputs]
    s_0 = np.zeros(len(net.W)) if s_0 is None else s_0
    gradient = rg.reference.gradients(net, inputs, targets, s_0)
    for name in PARAMETERS:
        if getattr(net, name) is None:
            assert getattr(gradient, name) is None
            continue
        expected = finite_difference(
            lambda value, name=name: rg.reference.loss(dataclasses.replace(net, **{name: value}), inputs, targets, s_0),
            getattr(net, name),
        )
        np.testing.assert_allclose(getattr(gradient, name), expected, rtol=RTOL, atol=RTOL)
    expected = finite_difference(lambda value: rg.reference.loss(net, value, targets, s_0), inputs)
    np.testing.assert_allclose(gradient.inputs, expected, rtol=RTOL, atol=RTOL)
    expected = finite_difference(lambda value: rg.reference.loss(net, inputs, targets, value), s_0)
    np.testing.assert_allclose(gradient.s_0, expected, rtol=RTOL, atol=RTOL)


def test_relu_gradients_are_finite_differences_away_from_the_kink():
    rng = np.random.default_rng(3)
    net = rg.reference.Network.random(3, 5, 4, nonlinearity="relu", seed=rng)
    net = dataclasses.replace(net, b=net.b + 0.3)
    inputs, targets = rng.standard_normal((6, 3)), rng.integers(0, 4, 6)
    states = rg.reference.forward(net, inputs)
    z = states.x @ net.U.T + states.s[:-1] @ net.W.T + net.b
    assert np.abs(z).min() > 0.01 and (z < 0).any() and (z > 0).any()
    expected = finite_difference(lambda W: rg.reference.loss(dataclasses.replace(net, W=W), inputs, targets), net.W)
    np.testing.assert_allclose(rg.reference.gradients(net, inputs, targets).W, expected, rtol=RTOL, atol=RTOL)


@several
@given(problems(), st.integers(1, 8))
def test_truncation_is_detaching_each_loss_by_itself(problem, truncation):
    E, leaves = torch_twin(*problem, live_steps=truncation)
    gradient = rg.reference.gradients(*problem, truncation=truncation)
    for name, expected in torch_gradients(E, leaves).items():
        close(getattr(gradient, name), expected)


def test_truncation_changes_the_gradient_until_it_spans_the_sequence():
    net = rg.reference.Network.random(3, 4, 3, seed=1)
    inputs, targets = [0, 1, 2, 0, 1], [1, 2, 0, 1, 2]
    whole = rg.reference.gradients(net, inputs, targets)
    for truncation in range(1, 5):
        assert np.abs(rg.reference.gradients(net, inputs, targets, truncation=truncation).U - whole.U).max() > 1e-4
    # With s_0 = 0 the longest lag brings nothing to W, so that T − 1 already loses nothing of it.
    close(rg.reference.gradients(net, inputs, targets, truncation=4).W, whole.W)
    assert np.abs(rg.reference.gradients(net, inputs, targets, truncation=3).W - whole.W).max() > 1e-4
    close(rg.reference.gradients(net, inputs, targets, truncation=5).W, whole.W)
    close(rg.reference.gradients(net, inputs, targets, truncation=1).V, whole.V)


def test_outputs_at_the_last_step_only_leave_the_last_loss():
    every = rg.reference.Network.random(3, 4, 5, seed=2)
    last = dataclasses.replace(every, outputs="last")
    tokens = [2, 0, 1, 1]
    assert rg.reference.loss(last, tokens, 4) == rg.reference.losses(every, tokens, [0, 0, 0, 4])[-1]
    close(rg.reference.gradients(last, tokens, 4).W, rg.reference.gradient_terms(every, tokens, [0, 0, 0, 4], 4).W)
    assert rg.reference.loss(last, tokens, [4]) == rg.reference.loss(last, tokens, [0, 0, 0, 0, 1.0])
    assert rg.reference.forward(last, tokens).y_hat.shape == (1, 5)


def test_tokens_are_one_hot_vectors():
    net = rg.reference.Network.random(4, 3, 4, seed=5)
    tokens = np.array([3, 0, 2])
    a, b = (rg.reference.gradients(net, inputs, [0, 1, 2]) for inputs in (tokens, np.eye(4)[tokens]))
    close(a.U, b.U)
    close(a.inputs, b.inputs)


def test_unlikely_targets_neither_overflow_nor_lose_the_gradient():
    net = rg.reference.Network(U=[[1.0]], W=[[0.5]], V=[[2000.0], [0.0]])
    assert rg.reference.loss(net, [[5.0]], [1]) == pytest.approx(2000 * np.tanh(5.0))
    gradient = rg.reference.gradients(net, [[0.3]], [1])
    close(rg.reference.gradient_terms(net, [[0.3]], [1], 1).U, gradient.U)
    assert gradient.U[0, 0] == pytest.approx(2000 * (1 - np.tanh(0.3) ** 2) * 0.3, rel=1e-9)


def test_a_class_ruled_out_by_an_infinite_bias_costs_nothing():
    net = dataclasses.replace(rg.reference.Network.random(5, 4, 3, seed=0), c=np.array([0.1, -np.inf, 0.2]))
    assert np.isfinite(rg.reference.loss(net, [0, 1], [0, 2]))
    assert np.isfinite(rg.reference.gradients(net, [0, 1], [0, 2]).W).all()


def test_a_long_sequence_agrees_with_torch():
    rng = np.random.default_rng(7)
    net = rg.reference.Network.random(8, 32, 8, seed=rng)
    tokens = rng.integers(0, 8, 401)
    layer = torch.nn.RNN(8, 32, dtype=torch.float64)
    parameters = [torch.tensor(getattr(net, name)) for name in ("U", "W", "b", "V", "c")]
    with torch.no_grad():
        for target, source in zip(layer.parameters(), [*parameters[:3], torch.zeros(32)], strict=True):
            target.copy_(source)
    V, c = (p.requires_grad_() for p in parameters[3:])
    output, _ = layer(torch.nn.functional.one_hot(torch.tensor(tokens[:-1]), 8).double())
    E = torch.nn.functional.cross_entropy(output @ V.T + c, torch.tensor(tokens[1:]), reduction="sum")
    E.backward()
    assert rg.reference.loss(net, tokens[:-1], tokens[1:]) == pytest.approx(E.item(), rel=RTOL)
    gradient = rg.reference.gradients(net, tokens[:-1], tokens[1:])
    expected = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_hh_l0, V, c)
    for name, leaf in zip(("U", "W", "b", "V", "c"), expected, strict=True):
        close(getattr(gradient, name), leaf.grad.numpy())


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("where", ["U", "W", "V", "inputs", "s_0"])
def test_nan_in_gives_nan_out(nonlinearity, where):
    net = rg.reference.Network.random(3, 4, 3, nonlinearity=nonlinearity, seed=4)
    inputs, s_0 = np.random.default_rng(0).standard_normal((4, 3)), np.ones(4)
    if where == "inputs":
        inputs[1, 0] = np.nan
    elif where == "s_0":
        s_0[2] = np.nan
    else:
        broken = getattr(net, where).copy()
        broken[0, 0] = np.nan
        net = dataclasses.replace(net, **{where: broken})
    assert np.isnan(rg.reference.loss(net, inputs, [0, 1, 2, 0], s_0))
    gradient = rg.reference.gradients(net, inputs, [0, 1, 2, 0], s_0)
    assert np.isnan(gradient.W).any()
    assert np.isnan(gradient.s_0).any()
    terms = rg.reference.gradient_terms(net, inputs, [0, 1, 2, 0], 4, s_0)
    assert np.isnan(terms.W).any()
    assert "nan" in repr(terms)


@several
@given(problems())
def test_jacobian_of_the_vanilla_network_is_autograds(problem):
    net, inputs, _, s_0 = problem
    states = rg.reference.forward(net, inputs, s_0)
    b = 0.0 if net.b is None else torch.tensor(net.b)
    for t in range(1, len(inputs) + 1):
        a = torch.tensor(net.U) @ torch.tensor(states.x[t - 1]) + b
        expected = torch.func.jacrev(lambda s, a=a: getattr(torch, net.nonlinearity)(a + torch.tensor(net.W) @ s))(
            torch.tensor(states.s[t - 1])
        )
        close(rg.reference.jacobian(net, states, t), expected.numpy())
