"""`rg.reference` against finite differences, against itself, and against torch's autograd."""

from __future__ import annotations

import dataclasses
import doctest
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import retrograde as rg
from retrograde import reference
from retrograde.errors import DataError, OptionError

RTOL = 1e-9
PARAMETERS = ("U", "W", "V", "b", "c")

several = settings(deadline=None, max_examples=25)
torch.set_num_threads(1)


def close(got: np.ndarray, expected: np.ndarray, rtol: float = RTOL) -> None:
    """Equal to rtol of the largest entry: relative error per array, as gradients cancel entry by entry."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert got.dtype == np.float64
    scale = max(np.abs(expected).max(initial=0.0), 1e-5)  # below that ŷ − y has cancelled
    assert np.abs(got - expected).max(initial=0.0) <= rtol * scale


def finite_difference(f: Callable[[np.ndarray], float], at: np.ndarray, h: float = 5e-4) -> np.ndarray:
    """∂f/∂at by the central stencil of order 8: truncation and rounding both about 1e-12."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        e = np.zeros_like(at)
        e[index] = h
        gradient[index] = sum(w * (f(at + n * e) - f(at - n * e)) for n, w in weights.items()) / h
    return gradient


@st.composite
def problems(draw: st.DrawFn, nonlinearity: str | None = None, max_steps: int = 7):
    """A network with inputs, targets and s_0 (or None) that fit it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    D, H, K, T = (draw(st.integers(low, top)) for low, top in ((1, 4), (1, 5), (2, 4), (1, max_steps)))
    net = rg.reference.Network.random(
        D,
        H,
        K,
        bias=draw(st.booleans()),
        nonlinearity=nonlinearity or draw(st.sampled_from(["tanh", "relu"])),
        outputs=draw(st.sampled_from(["every", "last"])),
        seed=rng,
    )
    net = dataclasses.replace(net, W=net.W * draw(st.sampled_from([0.3, 1.0, 2.5])))
    inputs = rng.integers(0, D, T) if draw(st.booleans()) else rng.standard_normal((T, D))
    N = T if net.outputs == "every" else 1
    targets = rng.integers(0, K, N) if draw(st.booleans()) else rng.dirichlet(np.ones(K), N)
    s_0 = rng.standard_normal(H) if draw(st.booleans()) else None
    return net, inputs, targets, s_0


def torch_twin(net, inputs, targets, s_0, live_steps=None):
    """Losses E_t and the leaves they depend on, by torch; with ``live_steps`` = τ, s_{t−τ} is detached for each E_t."""
    leaves = {name: torch.tensor(getattr(net, name)) for name in PARAMETERS if getattr(net, name) is not None}
    x = torch.tensor(inputs)
    x = torch.nn.functional.one_hot(x, net.U.shape[1]).double() if x.ndim == 1 else x
    leaves |= {"inputs": x, "s_0": torch.zeros(len(net.W)).double() if s_0 is None else torch.tensor(s_0)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    b, c, f = leaves.get("b", 0.0), leaves.get("c", 0.0), getattr(torch, net.nonlinearity)
    T = len(x)
    y = torch.tensor(np.atleast_1d(targets))
    E = []
    for row, t in enumerate(range(1, T + 1) if net.outputs == "every" else [T]):
        s = leaves["s_0"]
        for k in range(1, t + 1):
            if live_steps is not None and k - 1 == t - live_steps:
                s = s.detach()
            s = f(leaves["U"] @ leaves["inputs"][k - 1] + leaves["W"] @ s + b)
        E.append(torch.nn.functional.cross_entropy(leaves["V"] @ s + c, y[row]))
    return torch.stack(E), leaves


def torch_gradients(E: torch.Tensor, leaves: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    found = torch.autograd.grad(E.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: np.zeros(leaf.shape) if gradient is None else gradient.numpy()
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


# -- the vanilla network ---------------------------------------------------------------------------


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
def test_truncation_is_detaching_each_loss_by_itself(problem, truncation):
    E, leaves = torch_twin(*problem, live_steps=truncation)
    gradient = rg.reference.gradients(*problem, truncation=truncation)
    for name, expected in torch_gradients(E, leaves).items():
        close(getattr(gradient, name), expected)


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


def test_unlikely_targets_neither_overflow_nor_lose_the_gradient():
    net = rg.reference.Network(U=[[1.0]], W=[[0.5]], V=[[2000.0], [0.0]])
    assert rg.reference.loss(net, [[5.0]], [1]) == pytest.approx(2000 * np.tanh(5.0))
    gradient = rg.reference.gradients(net, [[0.3]], [1])
    close(rg.reference.gradient_terms(net, [[0.3]], [1], 1).U, gradient.U)
    assert gradient.U[0, 0] == pytest.approx(2000 * (1 - np.tanh(0.3) ** 2) * 0.3, rel=1e-9)


def test_a_class_ruled_out_by_an_infinite_bias_costs_nothing():
    net = dataclasses.replace(NET, c=np.array([0.1, -np.inf, 0.2]))
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


# -- LSTM and GRU ----------------------------------------------------------------------------------


@st.composite
def layers(draw: st.DrawFn, kind: str):
    """A layer of ours, torch's twin of it, and arrays for every argument of its gradients (some left out)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    D, H, T = draw(st.integers(1, 4)), draw(st.integers(2, 5)), draw(st.integers(1, 7))
    bias = draw(st.booleans())
    P = draw(st.integers(1, H - 1)) if kind == "LSTM" and draw(st.booleans()) else H
    options = {"proj_size": P if P < H else 0} if kind == "LSTM" else {}
    cell = getattr(rg.reference, kind).random(D, H, bias=bias, seed=rng, **options)
    cell = dataclasses.replace(cell, weight_hh=cell.weight_hh * draw(st.sampled_from([1.0, 3.0])))
    twin = getattr(torch.nn, kind)(D, H, bias=bias, dtype=torch.float64, **options)
    twin.load_state_dict(
        {f"{name}_l0": torch.tensor(value) for name, value in vars(cell).items() if value is not None}, strict=True
    )
    shapes = {"grad_output": (T, P), "grad_h_n": (P,), "h_0": (P,)}
    if kind == "LSTM":
        shapes |= {"grad_c_n": (H,), "c_0": (H,)}
    given = {name: rng.standard_normal(shape) for name, shape in shapes.items() if draw(st.booleans())}
    assume(any(name.startswith("grad") for name in given))
    return cell, twin, rng.standard_normal((T, D)), given


def run_twin(twin, inputs, given):
    """Torch's outputs for these arrays, its leaves, and the scalar whose gradient is meant."""
    H, P = twin.hidden_size, twin.proj_size or twin.hidden_size
    leaves = {"inputs": torch.tensor(inputs), "h_0": torch.tensor(given.get("h_0", np.zeros(P)))}
    if isinstance(twin, torch.nn.LSTM):
        leaves["c_0"] = torch.tensor(given.get("c_0", np.zeros(H)))
    for leaf in leaves.values():
        leaf.requires_grad_()
    states = tuple(leaf[None] for name, leaf in leaves.items() if name != "inputs")
    output, final = twin(leaves["inputs"], states if len(states) == 2 else states[0])
    final = final if isinstance(final, tuple) else (final,)
    ends = dict(zip(("grad_output", "grad_h_n", "grad_c_n"), (output, *final), strict=False))
    E = sum((torch.tensor(given[name]) * end).sum() for name, end in ends.items() if name in given)
    return output, final, leaves, E


def check_layer(kind, layer):
    cell, twin, inputs, given = layer
    output, final, leaves, E = run_twin(twin, inputs, given)
    forward = getattr(rg.reference, f"{kind.lower()}_forward")
    states = forward(cell, inputs, **{name: given[name] for name in ("h_0", "c_0") if name in given})
    close(states.h[1:], output.detach().numpy())
    close(states.h[-1:], final[0].detach().numpy())
    if kind == "LSTM":
        close(states.c[-1:], final[1].detach().numpy())
    leaves |= {name.removesuffix("_l0"): p for name, p in twin.named_parameters()}
    gradient = getattr(rg.reference, f"{kind.lower()}_gradients")(cell, inputs, **given)
    for name, expected in torch_gradients(E, leaves).items():
        close(getattr(gradient, name), expected)
    assert {name for name, value in vars(gradient).items() if value is not None} == set(leaves)


@several
@given(layers("LSTM"))
def test_lstm_is_torchs(layer):
    check_layer("LSTM", layer)


@several
@given(layers("GRU"))
def test_gru_is_torchs(layer):
    check_layer("GRU", layer)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("proj_size", [0, 2])
def test_gated_gradients_are_finite_differences(kind, proj_size):
    if kind == "GRU" and proj_size:
        pytest.skip("torch's GRU has no projection")
    rng = np.random.default_rng(11)
    options = {"proj_size": proj_size} if kind == "LSTM" else {}
    cell = getattr(rg.reference, kind).random(2, 3, seed=rng, **options)
    forward = getattr(rg.reference, f"{kind.lower()}_forward")
    P = cell.weight_hh.shape[1]
    inputs, weight, h_0 = rng.standard_normal((4, 2)), rng.standard_normal((4, P)), rng.standard_normal(P)

    def E(**changed):
        parameters = {name: value for name, value in changed.items() if name not in ("inputs", "h_0")}
        states = forward(
            dataclasses.replace(cell, **parameters), changed.get("inputs", inputs), h_0=changed.get("h_0", h_0)
        )
        return float((weight * states.h[1:]).sum())

    gradient = getattr(rg.reference, f"{kind.lower()}_gradients")(cell, inputs, weight, h_0=h_0)
    at = {name: value for name, value in vars(cell).items() if value is not None} | {"inputs": inputs, "h_0": h_0}
    for name, value in at.items():
        expected = finite_difference(lambda new, name=name: E(**{name: new}), value)
        np.testing.assert_allclose(getattr(gradient, name), expected, rtol=RTOL, atol=RTOL)


# -- Jacobians -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("parameter", ["weight_ih", "weight_hh"])
def test_nan_in_a_gate_gives_nan_out(kind, parameter):
    cell = getattr(rg.reference, kind).random(3, 4, seed=0)
    broken = getattr(cell, parameter).copy()
    broken[-1, -1] = np.nan
    cell = dataclasses.replace(cell, **{parameter: broken})
    x = np.ones((3, 3))
    assert np.isnan(getattr(rg.reference, f"{kind.lower()}_forward")(cell, x).h[-1]).any()
    assert np.isnan(getattr(rg.reference, f"{kind.lower()}_gradients")(cell, x, np.ones((3, 4))).weight_ih).any()


def test_gates_saturate_without_overflow():
    assert rg.reference.sigmoid(np.array([-800.0, -40.0, 0.0, 800.0])) == pytest.approx([0.0, np.exp(-40), 0.5, 1.0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("truncation", [1, 2, 3, 5, 6, 9])
def test_truncation_of_gated_layers_is_detaching_each_loss_by_itself(kind, truncation):
    torch.manual_seed(0)
    T, D, H = 6, 2, 3
    layer = getattr(torch.nn, kind.upper() + "Cell")(D, H, dtype=torch.float64)
    x = torch.randn(T, D, dtype=torch.float64, requires_grad=True)
    start = [torch.randn(H, dtype=torch.float64, requires_grad=True) for _ in range(2 if kind == "lstm" else 1)]
    of_output, of_end = torch.randn(T, H, dtype=torch.float64), torch.randn(H, dtype=torch.float64)
    total = torch.zeros(())
    for t in range(1, T + 1):
        state = start
        for k in range(t + 1):
            state = [s.detach() for s in state] if k == t - truncation else state
            if k < t:
                new = layer(x[k], tuple(state) if kind == "lstm" else state[0])
                state = list(new) if kind == "lstm" else [new]
        total = total + state[0] @ of_output[t - 1] + (state[0] @ of_end if t == T else 0)
    total.backward()
    own = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    cell = {"lstm": rg.reference.LSTM, "gru": rg.reference.GRU}[kind](**own)
    initial = dict(zip(("h_0", "c_0"), (s.detach().numpy() for s in start), strict=False))
    gradients = {"lstm": rg.reference.lstm_gradients, "gru": rg.reference.gru_gradients}[kind]
    found = gradients(cell, x.detach().numpy(), of_output.numpy(), of_end.numpy(), **initial, truncation=truncation)
    for name, p in layer.named_parameters():
        close(getattr(found, name), p.grad.numpy())
    close(found.inputs, x.grad.numpy())
    for name, s in zip(("h_0", "c_0"), start, strict=False):
        close(getattr(found, name), np.zeros(H) if s.grad is None else s.grad.numpy())
    with pytest.raises(OptionError, match="truncation = 0"):
        gradients(cell, x.detach().numpy(), of_output.numpy(), truncation=0)


# -- bad input, and the text itself ----------------------------------------------------------------

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
        (lambda: rg.reference.forward(NET, [0, 5]), "inputs holds 5; expected indices from 0 to 4"),
        (lambda: rg.reference.forward(NET, [-1]), "inputs holds -1; expected indices from 0 to 4"),
        (lambda: rg.reference.forward(NET, [0.0, 1.0]), "or tokens (T,) of an integer type"),
        (lambda: rg.reference.forward(NET, np.zeros((0, 5))), "no step at all"),
        (lambda: rg.reference.forward(NET, [0], s_0=[1, 2]), "s_0 has shape (2,); expected (H,) with H = 4"),
        (
            lambda: rg.reference.loss(NET, [0, 1], [1]),
            "targets has shape (1,) and type int64; expected 2 integer classes",
        ),
        (lambda: rg.reference.loss(NET, [0, 1], [1, 3]), "targets holds 3; expected indices from 0 to 2"),
        (lambda: rg.reference.loss(NET, [0], [[0.5, 0.5, 0.5]]), "targets, row 0, sums to 1.5"),
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
        (lambda: rg.reference.gradient_terms(NET, [0, 1], [1, 0], 3), "t = 3 is no step of this sequence"),
        (lambda: rg.reference.gradient_terms(NET, [0, 1], [1, 0], 0), "expected a whole number from 1 to 2"),
        (lambda: rg.reference.gradient_terms(LAST, [0, 1], 1, 1), "t = 1 has no loss"),
    ],
)
def test_impossible_options_are_named(call, message):
    with pytest.raises(OptionError) as caught:
        call()
    assert message in str(caught.value)


def test_examples_in_the_text_run():
    result = doctest.testmod(reference)
    assert result.attempted >= 8
    assert result.failed == 0


def test_the_text_needs_no_torch():
    code = "import sys, retrograde as rg; rg.reference.Network.random(1, 1, 1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
