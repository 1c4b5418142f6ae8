"""`rg.reference.gradient_terms`: the sum over time steps, against BPTT and autograd."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import close, problems, several, torch_twin

import retrograde as rg


@several
@given(problems())
def test_terms_add_up_to_the_recursion(problem):
    net, inputs, *_ = problem
    steps = range(1, len(inputs) + 1) if net.outputs == "every" else [len(inputs)]
    by_step = [rg.reference.gradient_terms(*problem[:3], t=t, s_0=problem[3]) for t in steps]
    gradient = rg.reference.gradients(*problem)
    for name in ("W", "U") + (("b",) if net.b is not None else ()):
        close(sum(getattr(terms, name) for terms in by_step), getattr(gradient, name))
        close(sum(getattr(term, name) for terms in by_step for term in terms), getattr(gradient, name))


@several
@given(problems())
def test_each_term_is_the_product_of_its_factors(problem):
    net, inputs, targets, s_0 = problem
    T = len(inputs)
    terms = rg.reference.gradient_terms(net, inputs, targets, T, s_0)
    states = rg.reference.forward(net, inputs, s_0)
    assert [term.k for term in terms] == list(range(1, T + 1))
    for term in terms:
        product = np.eye(len(net.W))
        for j in range(term.k + 1, T + 1):
            product = rg.reference.jacobian(net, states, j) @ product
        close(term.product, product)
        assert term.lag == T - term.k
        close(term.state_gradient, terms.dE_dy @ terms.dy_ds @ product)
        s_k = states.s[term.k]
        slope = 1 - s_k**2 if net.nonlinearity == "tanh" else (s_k > 0) * 1.0
        immediate = np.einsum("ia,i,b->iab", np.eye(len(s_k)), slope, states.s[term.k - 1])  # ∂⁺s_k/∂W
        close(term.W, np.einsum("i,iab->ab", terms.dE_dy @ terms.dy_ds @ product, immediate))


@several
@given(problems())
def test_state_gradients_of_the_terms_are_autograds(problem):
    net, inputs, targets, s_0 = problem
    E, leaves = torch_twin(*problem)
    T = len(inputs)
    terms = rg.reference.gradient_terms(net, inputs, targets, T, s_0)
    at_first = torch.autograd.grad(E[-1], leaves["s_0"])[0].numpy()
    close(terms[0].state_gradient @ rg.reference.jacobian(net, rg.reference.forward(net, inputs, s_0), 1), at_first)


@several
@given(problems(), st.integers(1, 8))
def test_truncation_keeps_exactly_the_terms_of_short_lag(problem, truncation):
    net, inputs, targets, s_0 = problem
    steps = range(1, len(inputs) + 1) if net.outputs == "every" else [len(inputs)]
    kept = sum(
        term.W
        for t in steps
        for term in rg.reference.gradient_terms(net, inputs, targets, t, s_0)
        if term.lag < truncation
    )
    close(rg.reference.gradients(*problem, truncation=truncation).W, kept)


def test_with_s_0_zero_the_first_term_of_w_is_zero_and_that_of_u_is_not():
    net = rg.reference.Network.random(3, 4, 3, seed=1)
    terms = rg.reference.gradient_terms(net, [0, 1, 2], [1, 2, 0], 3)
    assert not terms[0].W.any()
    assert terms[0].U.any()


def test_a_norm_below_one_makes_the_products_vanish_whatever_the_signs():
    rng = np.random.default_rng(0)
    net = rg.reference.Network.random(2, 6, 2, seed=rng)
    for sign in (1.0, -1.0):
        W = sign * 0.9 * net.W / np.linalg.norm(net.W, 2)
        terms = rg.reference.gradient_terms(dataclasses.replace(net, W=W), [0, 1] * 20, [1, 0] * 20, 40)
        for term in terms:
            assert term.product_norm <= 0.9**term.lag * (1 + 1e-12)


def test_a_norm_above_one_need_not_explode_but_a_linear_rotation_scaled_up_does():
    saturated = rg.reference.Network(U=[[5.0]], W=[[3.0]], V=[[1.0], [0.0]])
    assert rg.reference.gradient_terms(saturated, [[1.0]] * 10, [0] * 10, 10)[0].product_norm < 1e-10
    rotation = rg.reference.Network(U=np.zeros((2, 1)), W=[[0, -1.5], [1.5, 0]], V=np.eye(2))
    terms = rg.reference.gradient_terms(rotation, np.zeros((10, 1)), [0] * 10, 10)
    assert terms[0].product_norm == pytest.approx(1.5**9, rel=1e-12)


def test_terms_print_as_a_table_with_a_line_for_each_step():
    net = rg.reference.Network.random(3, 4, 3, seed=1)
    terms = rg.reference.gradient_terms(net, [0, 1, 2, 0], [1, 2, 0, 1], 3)
    title, heads, *rows, total = repr(terms).splitlines()
    assert title.startswith("∂E_3/∂W = Σ_k")
    assert [row.split()[:2] for row in rows] == [["1", "2"], ["2", "1"], ["3", "0"]]
    assert heads.split()[:2] == ["k", "lag"]
    assert float(rows[1].split()[4]) == pytest.approx(np.linalg.norm(terms[1].W), rel=1e-3)
    assert float(total.split()[-2]) == pytest.approx(np.linalg.norm(terms.W), rel=1e-3)
    assert len({len(line) for line in (heads, *rows, total)}) == 1  # columns stand under one another


def test_steps_count_from_1_here_and_from_0_in_the_measured_flow():
    net = rg.reference.Network.random(3, 4, 3, seed=1)
    tokens, targets = [0, 1, 2, 0], [1, 2, 0, 1]
    layer = torch.nn.RNN(3, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor(net.U))
        layer.weight_hh_l0.copy_(torch.tensor(net.W))
    net = dataclasses.replace(net, b=None, c=None)
    x = torch.nn.functional.one_hot(torch.tensor(tokens), 3).double().unsqueeze(1)

    def loss(output):
        logits = output[0].squeeze(1) @ torch.tensor(net.V).T
        return torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="none").unsqueeze(1)

    flow = rg.gradient_flow(layer, x, loss=loss)
    terms = rg.reference.gradient_terms(net, tokens, targets, t=3)
    assert (terms.t, terms[0].k, terms[-1].k) == (3, 1, 3)
    assert "steps count from 1" in repr(terms)
    (norms,) = flow.norms  # [t, k]: from the loss of step t to the state of step k
    np.testing.assert_allclose(norms[2, :3], [np.linalg.norm(term.state_gradient) for term in terms], rtol=1e-9)
