"""Jacobians, their products and spectra, compared with autograd, exact arithmetic and theory."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import retrograde as rg
from retrograde.flow.jacobians import lyapunov_dimension, product_spectrum


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def linear_rnn(weight: Tensor, nonlinearity: str = "relu") -> nn.RNN:
    """A network that is linear along its run: its ReLU units stay positive, or its tanh units stay at 0."""
    size = len(weight)
    module = nn.RNN(1, size, nonlinearity=nonlinearity, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(weight)
        module.weight_ih_l0.zero_()
    return module


def flow_of(module: nn.RNNBase, x: Tensor, hx: object = None) -> rg.GradientFlow:
    return rg.gradient_flow(module, x, hx, loss=lambda o: o[0].sum(-1), targets=[-1])


@pytest.mark.parametrize(
    ("layer", "packed"), [("l0", False), ("l0_reverse", False), ("l0", True), ("l0_reverse", True)]
)
def test_the_largest_exponent_of_one_unit_is_the_mean_of_its_logarithms_but_for_the_last_steps(
    layer: str, packed: bool
) -> None:
    steps, burn_in = 12, 3
    x = torch.randn(steps, 3, 2, dtype=torch.float64)
    module = nn.RNN(2, 1, bidirectional=True, dtype=torch.float64)
    lengths = torch.tensor([12, 9, 6]) if packed else torch.full((3,), steps)
    given = pack_padded_sequence(x, lengths) if packed else x

    def padded(output: tuple[object, object]) -> Tensor:
        return pad_packed_sequence(output[0])[0] if packed else output[0]

    flow = rg.gradient_flow(module, given, loss=lambda output: padded(output).square().sum(-1))
    states = padded(module(given))
    own = states[..., int("reverse" in layer)].detach()
    weight = (module.weight_hh_l0_reverse if "reverse" in layer else module.weight_hh_l0).item()
    logarithms = np.log(np.abs(weight * (1 - own.numpy() ** 2)))  # of ds_k / ds_{k-1}, one row per step
    counted = slice(burn_in, None) if "reverse" in layer else slice(None, steps - burn_in)
    live = (torch.arange(steps)[:, None] < lengths).numpy()[counted]
    wanted = np.where(live, logarithms[counted], 0).sum(0) / live.sum(0)
    np.testing.assert_allclose(flow.largest_exponents(layer, burn_in=burn_in), wanted, rtol=1e-9)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "projected"])
@pytest.mark.parametrize("reverse", [False, True])
def test_jacobians_equal_autograds(kind: str, reverse: bool) -> None:
    options = {"proj_size": 2} if kind == "projected" else {}
    cls = getattr(nn, "LSTM" if kind == "projected" else kind)
    module = cls(2, 3, bidirectional=True, dtype=torch.float64, **options)
    x = torch.randn(5, 2, 2, dtype=torch.float64)
    flow = flow_of(module, x)
    single = cls(2, 3, dtype=torch.float64, **options)
    ending = "_reverse" if reverse else ""
    single.load_state_dict({n: getattr(module, n + ending) for n in single.state_dict()})
    lstm = cls is nn.LSTM

    def step(s: Tensor, k: int, b: int) -> Tensor:
        state = s.view(1, 1, -1).tensor_split([single.proj_size or 3], -1) if lstm else s.view(1, 1, -1)
        _, state = single(x[k : k + 1, b : b + 1], state)
        return torch.cat(state, -1).flatten() if lstm else state.flatten()

    layer = "l0_reverse" if reverse else "l0"
    for b in range(2):
        s = torch.zeros(flow._run(layer).h.shape[-1] + (3 if lstm else 0), dtype=torch.float64)
        product = torch.eye(len(s), dtype=torch.float64)
        for k in reversed(range(5)) if reverse else range(5):
            j = torch.autograd.functional.jacobian(lambda a, k=k, b=b: step(a, k, b), s)
            s = step(s, k, b)
            product = j @ product
            np.testing.assert_allclose(flow.jacobian_norms(layer)[k, b], torch.linalg.matrix_norm(j, 2), rtol=1e-9)
            radius = torch.linalg.eigvals(j).abs().max()
            np.testing.assert_allclose(flow.spectral_radii(layer)[k, b], radius, rtol=1e-9)
        first, last = (5, 0) if reverse else (-1, 4)
        expected = torch.linalg.svdvals(product).detach()
        found = flow.singular_values(first, last, layer)[b]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * float(expected[0]))


def exact_determinant_and_norm(matrices: list[list[list[Fraction]]]) -> tuple[float, float]:
    """log |det| and log ‖·‖_F of a product of 2×2 matrices, in rational numbers."""
    p = [[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]]
    for m in matrices:
        p = [[sum(m[i][k] * p[k][j] for k in range(2)) for j in range(2)] for i in range(2)]

    def log(f: Fraction) -> float:
        shift = f.numerator.bit_length() - f.denominator.bit_length()
        return math.log(float(f / Fraction(2) ** shift)) + shift * math.log(2)

    return log(abs(p[0][0] * p[1][1] - p[0][1] * p[1][0])), 0.5 * log(sum(a * a for row in p for a in row))


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_long_products_keep_both_singular_values_to_many_digits(scale: float) -> None:
    factors = torch.randn(400, 2, 2, dtype=torch.float64) * scale
    large, small = product_spectrum(j[None] for j in factors)[0]
    exact = [[[Fraction(float(a)) for a in row] for row in j] for j in factors]
    log_det, log_norm = exact_determinant_and_norm(exact)
    # The two are hundreds of orders of magnitude apart: σ₁ = ‖P‖_F, σ₁σ₂ = |det P|.
    assert large == pytest.approx(log_norm, rel=1e-12)
    assert small == pytest.approx(log_det - log_norm, rel=1e-12)


def test_singular_values_that_are_close_are_told_apart() -> None:
    """Neighbors as close as these are still coupled after the last iteration."""
    values = torch.tensor([5.0, 3.0, 2.0002, 2.0001], dtype=torch.float64)
    left, right = (torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] for _ in range(2))
    found = product_spectrum([(left @ torch.diag(values) @ right)[None]])[0]
    np.testing.assert_allclose(np.exp(found), values, rtol=1e-12)


def test_an_orthogonal_network_keeps_every_direction() -> None:
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    flow = flow_of(linear_rnn(q, "tanh"), torch.zeros(2000, 1, 1, dtype=torch.float64))
    np.testing.assert_allclose(flow.lyapunov_exponents(), 0, atol=1e-13)
    np.testing.assert_allclose(flow.singular_values(-1), 1, rtol=1e-9)
    bounds = flow.bounds()
    assert bounds.norm == pytest.approx(1) and bounds.radius == pytest.approx(1)


@pytest.mark.parametrize(("scale", "steps"), [(0.5, 2000), (2.0, 2000)])
def test_a_scaled_identity_grows_or_shrinks_by_its_scale_and_neither_overflows_nor_vanishes(
    scale: float, steps: int
) -> None:
    flow = flow_of(linear_rnn(scale * torch.eye(4), "tanh"), torch.zeros(steps, 1, 1, dtype=torch.float64))
    np.testing.assert_allclose(flow.lyapunov_exponents(), math.log(scale), rtol=1e-12)
    logs = flow.singular_values(-1, log=True)
    np.testing.assert_allclose(logs, steps * math.log(scale), rtol=1e-12)
    with pytest.raises(rg.errors.FlowError, match="log=True"):
        flow.singular_values(-1)
    np.testing.assert_allclose(flow.singular_values(0, 10), scale**10, rtol=1e-12)
    assert flow.lyapunov_dimension() == (4 if scale > 1 else 0)
    assert flow.bounds().vanishing_certain is (scale < 1)
    assert flow.bounds().exploding_possible is (scale > 1)


def test_a_nilpotent_network_forgets_exactly() -> None:
    shift = torch.diag(torch.ones(5, dtype=torch.float64), 1)
    flow = flow_of(linear_rnn(shift, "tanh"), torch.zeros(12, 1, 1, dtype=torch.float64))
    assert (flow.lyapunov_exponents() == -np.inf).all()
    np.testing.assert_allclose(flow.singular_values(0, 2)[0], [1, 1, 1, 1, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(flow.singular_values(0, 6), 0)
    assert flow.spectral_radii() == pytest.approx(0, abs=1e-3)
    assert flow.lyapunov_dimension() == 0


def test_singular_values_of_a_diagonal_network_come_sorted() -> None:
    weight = torch.diag(torch.tensor([0.1, 1.0, 0.5, 2.0], dtype=torch.float64))
    flow = flow_of(linear_rnn(weight, "tanh"), torch.zeros(1000, 2, 1, dtype=torch.float64))
    logs = np.log([2, 1, 0.5, 0.1])
    np.testing.assert_allclose(flow.singular_values(-1, log=True), [1000 * logs] * 2, atol=1e-9)
    np.testing.assert_allclose(flow.lyapunov_exponents(n=2, burn_in=100), logs[:2], atol=1e-9)
    # Kaplan and Yorke: ln 2 + 0 + ln ½ + x ln 0.1 = 0 at 3.
    assert flow.lyapunov_dimension(burn_in=100) == pytest.approx(3, abs=1e-6)


def test_at_rest_the_exponents_are_the_moduli_of_the_eigenvalues() -> None:
    weight = torch.randn(8, 8, dtype=torch.float64) / 8**0.5 * 0.8
    flow = flow_of(linear_rnn(weight, "tanh"), torch.zeros(3000, 1, 1, dtype=torch.float64))
    expected = torch.linalg.eigvals(weight).abs().log().sort(descending=True).values
    np.testing.assert_allclose(flow.lyapunov_exponents(burn_in=500), expected, atol=1e-2)


@pytest.mark.parametrize("gain", [1.5, 3.0])
def test_a_random_network_has_the_exponent_of_mean_field_theory(gain: float) -> None:
    """λ₁ = ½ ln(g² ⟨f′²⟩), the mean over a Gaussian of variance q = g² ⟨f²⟩.

    Molgedey, Schuchhardt, Schuster, Suppressing chaos in neural networks by noise, PRL 69 (1992): the discrete-time
    network of Sompolinsky, Crisanti and Sommers (1988).
    """
    size = 256
    module = linear_rnn(torch.randn(size, size, dtype=torch.float64) * gain / size**0.5, "tanh")
    h_0 = torch.randn(1, 1, size, dtype=torch.float64)
    flow = flow_of(module, torch.zeros(500, 1, 1, dtype=torch.float64), h_0)
    z = np.linspace(-8, 8, 4001)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    q = 1.0
    for _ in range(500):
        q = gain**2 * float((weight * np.tanh(np.sqrt(q) * z) ** 2).sum())
    expected = 0.5 * np.log(gain**2 * float((weight * (1 - np.tanh(np.sqrt(q) * z) ** 2) ** 2).sum()))
    assert flow.lyapunov_exponents(n=1, burn_in=100)[0] == pytest.approx(expected, abs=0.05)
    assert expected > 0  # past g = 1 the network is chaotic


def test_kaplan_and_yorke() -> None:
    assert lyapunov_dimension(np.array([0.9, 0.0, -14.57])) == pytest.approx(2.0617, abs=1e-4)  # the Lorenz attractor
    assert lyapunov_dimension(np.array([-1.0, -2.0])) == 0
    assert lyapunov_dimension(np.array([1.0, 0.5])) == 2
    assert lyapunov_dimension(np.array([0.5, -np.inf])) == 1


def test_padding_has_no_jacobian_and_does_not_count() -> None:
    module = nn.GRU(2, 3, dtype=torch.float64)
    x = torch.randn(6, 2, 2, dtype=torch.float64)
    packed = pack_padded_sequence(x, [4, 6], enforce_sorted=False)
    flow = rg.gradient_flow(module, packed, loss=lambda o: o[1].sum((0, 2)))
    alone = rg.gradient_flow(module, x[:4, :1], loss=lambda o: o[1].sum((0, 2)))
    assert np.isnan(flow.jacobian_norms()[4:, 0]).all() and np.isfinite(flow.jacobian_norms()[:, 1]).all()
    np.testing.assert_allclose(flow.jacobian_norms()[:4, 0], alone.jacobian_norms()[:, 0])
    np.testing.assert_allclose(flow.lyapunov_exponents(per_sequence=True)[0], alone.lyapunov_exponents(), rtol=1e-9)


def test_questions_that_make_no_sense_are_refused() -> None:
    flow = flow_of(nn.GRU(1, 3, dtype=torch.float64), torch.zeros(5, 1, 1, dtype=torch.float64))
    with pytest.raises(rg.errors.FlowError, match="vanilla network"):
        flow.bounds()
    with pytest.raises(rg.errors.FlowError, match="span from step 3 to 2"):
        flow.singular_values(3, 2)
    with pytest.raises(rg.errors.FlowError, match="has 3 exponents"):
        flow.lyapunov_exponents(n=4)
    with pytest.raises(rg.errors.FlowError, match="burn_in is 5"):
        flow.lyapunov_exponents(burn_in=5)


def test_the_dimension_of_known_spectra() -> None:
    spectra = {(0.0, -1.0): 1.0, (1.0, -2.0): 1.5, (-1.0, -2.0): 0.0, (1.0, 1.0): 2.0, (1.0, -0.5, -1.0): 2.5}
    for exponents, dimension in spectra.items():
        assert lyapunov_dimension(np.array(exponents)) == dimension
