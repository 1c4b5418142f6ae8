"""Every instruction set compared with naive.cpp, the engine's kernels as plain loops over single numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_native import CELLS, GATES, Problem, error

from instruction_sets import SETS, chosen
from retrograde import kernels
from retrograde.kernels import native, shapes
from retrograde.kernels.shapes import Inputs, LayerSpec

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the engine was not built here")
DTYPES = {torch.float32: 2e-5, torch.float64: 1e-12}
SIZES = st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 31, 33])


def by_naive(compute):
    with chosen("naive"):
        return compute()


def assert_all_sets_agree(compute, limit):
    """Compare the list of tensors that `compute` returns under every instruction set with the naive kernels'."""
    expected = by_naive(compute)
    for name in SETS:
        with chosen(name):
            found = compute()
        assert error(found, expected) < limit, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_layers(cell, dtype, data):
    H = data.draw(SIZES)
    options = {name: data.draw(st.booleans()) for name in ("bias", "states", "packed", "recompute")}
    proj = data.draw(st.integers(1, H - 1)) if cell == "LSTM" and H > 1 and data.draw(st.booleans()) else 0
    shortest = int(options["packed"])  # without packing there may be no steps, no sequences or no inputs
    shape = data.draw(st.integers(shortest, 9)), data.draw(st.integers(shortest, 20)), data.draw(SIZES | st.just(0)), H
    problem = Problem(cell, *shape, D=data.draw(st.integers(1, 2)), proj=proj, **options)
    assert_all_sets_agree(lambda: problem.run(engine=True, dtype=dtype), DTYPES[dtype])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"packed": True, "D": 2}, {"recompute": True}])
def test_layers_of_many_chunks(cell, options):
    problem = Problem(cell, 300, 7, 3, 5, **options)
    for dtype, limit in DTYPES.items():
        assert_all_sets_agree(lambda dtype=dtype: problem.run(engine=True, dtype=dtype), 2 * limit)


def test_a_sequence_of_no_steps():
    problem = Problem("LSTM", 0, 3, 4, 5)
    out, h_n, c_n, grad_x, grad_h, grad_c, *grads = problem.run(engine=True)
    assert out.shape == (0, 3, 5) and grad_x.shape == (0, 3, 4)
    assert torch.equal(h_n, problem.h_0) and torch.equal(c_n, problem.c_0)
    assert torch.equal(grad_h, problem.grads[1]) and torch.equal(grad_c, problem.grads[2])
    assert len(grads) == 4 and not any(g.any() for g in grads)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_what_the_forward_pass_keeps(cell, packed, recompute):
    problem = Problem(cell, 40 if not recompute else 300, 4, 3, 5, D=2, packed=packed)
    spec = LayerSpec(shapes.CELLS[cell], 2, True, False, recompute)

    def kept():
        inputs = Inputs(problem.x, problem.h_0, problem.c_0, problem.weights, problem.sizes)
        *_, gates, cells = native.forward(spec, inputs, True)
        if recompute and cells is not None:
            cells = cells[:, 1:]  # the first segment begins with c_0, which is not copied
        return [t for t in (gates, cells) if t is not None]

    assert_all_sets_agree(kept, 1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("B", [1, 3, 5])
def test_one_step(cell, B):
    problem = Problem(cell, 1, B, 7, 19)
    c_0 = problem.c_0

    def step():
        found = native.step(cell, problem.x[0], problem.h_0, c_0, problem.weights, 19, 0, True)
        return [t for t in found if t is not None]

    assert_all_sets_agree(step, 1e-12)


def stack(cells, T, B, H, dtype, generator, scale=1.0):
    """Layers for adjoint_norms with random coefficients, the bottom layer first."""

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    layers, inputs = [], 3
    for cell in cells:
        G = GATES[cell]
        k = draw(T, B, (3 if G > 1 else 1) * H) * scale
        side, q, f = (draw(T, B, H) if needed else None for needed in (G > 1, G == 4, G == 4))
        passed = draw(T, B, H) if cell == "GRU" else None
        w_hh, w_ih = draw(G * H, H) / H**0.5, draw(G * H, inputs) / inputs**0.5
        layers.append(kernels.Adjoint(cell, k, side, q, f, passed, w_hh, w_ih, draw(T, B, H)))
        inputs = H
    return layers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("state", ["h", "c", "hc"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_adjoint_norms(dtype, state, data):
    T, B, H = data.draw(st.sampled_from([1, 4, 30])), data.draw(st.integers(1, 4)), data.draw(SIZES)
    cells = data.draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    layers = stack(cells, T, B, H, dtype, generator, scale=0.4)
    steps = st.just(range(T)) | st.sets(st.integers(0, T - 1), min_size=1)  # many targets share a step, or few do
    targets = torch.tensor(sorted(data.draw(steps)))

    def norms():
        return native.adjoint_norms(layers, targets, state)

    expected = by_naive(norms)
    # where terms cancel, a norm is as exact as they are: the largest along the way
    limit = DTYPES[dtype] * (10 * expected + expected.amax(2, keepdim=True))
    for name in SETS:
        with chosen(name):
            assert ((norms() - expected).abs() <= limit).all(), name


@pytest.mark.parametrize("name", SETS)
def test_adjoint_norms_of_as_many_layers_as_a_stack_may_have(name):
    cells = [CELLS[place % len(CELLS)] for place in range(kernels.MAX_ADJOINT_LAYERS)]
    layers = stack(cells, 3, 2, 4, torch.float64, torch.Generator().manual_seed(0), scale=0.4)
    targets = torch.tensor([0, 2])
    expected = by_naive(lambda: native.adjoint_norms(layers, targets, "h"))
    with chosen(name):
        torch.testing.assert_close(native.adjoint_norms(layers, targets, "h"), expected, rtol=1e-12, atol=0)
    assert len(expected) == kernels.MAX_ADJOINT_LAYERS and (expected[:, 1, 2] > 0).all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", SETS)
def test_adjoints_far_below_an_upper_layer_that_sends_nothing(cell, name):
    """The lower layer's rows are scaled by 2^400; the upper layer's are zero, and 0 · 2^400 is NaN in float32."""
    lower, upper = stack([cell, cell], 12, 2, 5, torch.float64, torch.Generator().manual_seed(0))
    shrinking = [None if t is None else t * 1e-12 for t in (lower.k, lower.k_side, lower.q, lower.f, lower.passed)]
    lower = kernels.Adjoint(cell, *shrinking, *lower[6:])
    layers = [lower, upper._replace(local=torch.zeros_like(upper.local))]
    targets = torch.tensor([3, 11])
    expected = by_naive(lambda: native.adjoint_norms(layers, targets, "h"))
    assert 0 < expected[0, 1, 0].min() < 1e-100
    with chosen(name):
        float32 = [kernels.Adjoint(cell, *(t if t is None else t.float() for t in layer[1:])) for layer in layers]
        torch.testing.assert_close(native.adjoint_norms(float32, targets, "h"), expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(native.adjoint_norms(layers, targets, "h"), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_matmul(dtype, data):
    sizes = st.sampled_from([0, 1, 3, 14, 17, 65, 300])
    M, N, K = (data.draw(sizes) for _ in range(3))
    a, b = torch.randn(M, K, dtype=dtype), torch.randn(K, N, dtype=dtype)
    right = b.t().contiguous().t() if data.draw(st.booleans()) else b
    assert_all_sets_agree(lambda: [kernels.matmul(a, right)], 10 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logistic", [False, True])
def test_activations(dtype, logistic):
    x = torch.cat([torch.linspace(-100, 100, 2001), torch.logspace(-30, 0, 301)]).to(dtype)

    def activation():
        y = torch.empty_like(x)
        native._engine.activation(dtype is torch.float64, logistic, y, x, len(x))
        return [y]

    assert_all_sets_agree(activation, 1e-6 if dtype is torch.float32 else 1e-15)
