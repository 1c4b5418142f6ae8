"""Finite differences: wrong gradients are found and traced, right ones are not blamed."""

from __future__ import annotations

import pytest
import torch
from faulty import Cell, passing_back, x
from torch import nn

import retrograde as rg


def test_relu_at_its_kink_is_not_called_wrong():
    silence = torch.zeros(6, 2, 3)
    layer = nn.RNN(3, 8, nonlinearity="relu")
    with torch.no_grad():
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.zero_()
    check = rg.check_gradients(layer, silence)
    assert check.ok
    bias = next(e for e in check.errors if e.name == "bias_ih_l0" and e.oracle == "finite differences")
    assert bias.kinks > 0
    assert any("kink" in note for note in check.notes)
    assert "not judged" in check.verdict


def test_a_kink_close_by_is_stepped_over():
    layer = nn.RNN(1, 1, nonlinearity="relu", bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
        layer.weight_hh_l0.fill_(0.5)
    check = rg.check_gradients(layer, torch.tensor([[[3e-5]], [[-2e-6]], [[-1.0]]], dtype=torch.float64))
    assert check.ok
    assert sum(e.kinks + e.unsettled for e in check.errors) == 0


def test_a_large_relu_network_is_right():
    assert rg.check_gradients(nn.RNN(8, 64, nonlinearity="relu"), x(30, 8, 8)).ok


@pytest.mark.parametrize("gain", [3.0, 12.0])
def test_an_exploding_gradient_is_no_wrong_gradient(gain):
    layer = nn.RNN(3, 32)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(gain)
    check = rg.check_gradients(layer, x(60, 1, 3), entries=4)
    assert check.ok


def test_chaos_is_told_from_a_wrong_gradient():
    class LogisticMap(nn.Module):
        def __init__(self):
            super().__init__()
            self.r = nn.Parameter(torch.tensor(3.9))

        def forward(self, x):
            for _ in range(120):
                x = self.r * x * (1 - x)
            return x

    check = rg.check_gradients(LogisticMap(), torch.tensor([0.3, 0.4]))
    assert check.ok
    assert any("explodes" in note for note in check.notes)
    assert "not all could be judged" in check.verdict
    assert "ill-conditioned" in repr(check)


def test_saturated_gates_have_no_gradient_and_are_right():
    check = rg.check_gradients(nn.GRU(3, 4), x() * 1e6)
    assert check.ok and "no fault" not in check.verdict


def test_a_vanished_gradient_is_right():
    check = rg.check_gradients(nn.LSTM(3, 4, 2), x(40, 1, 3), loss=lambda output: output[0][-1].sum(), entries=4)
    assert check.ok


@pytest.mark.parametrize("fault", ["scaled", "transposed", "one entry"])
@pytest.mark.parametrize("f", [torch.tanh, torch.relu])
def test_a_wrong_backward_is_named(fault, f):
    check = rg.check_gradients(Cell(fault=fault, f=f), x())
    assert not check.ok
    assert check.wrong == ("weight_hh",)
    worst = check.errors[0]
    assert (worst.name, worst.oracle, worst.ok) == ("weight_hh", "finite differences", False)
    assert "weight_hh" in check.verdict and "not the derivative" in check.verdict


def test_one_wrong_entry_among_thousands_is_traced():
    check = rg.check_gradients(Cell(hidden_size=60, fault="one entry"), x())
    worst = check.errors[0]
    assert (worst.name, worst.where) == ("weight_hh", (5, 2))
    # 0.5 at each of 6 steps.
    assert worst.found - worst.expected == pytest.approx(3.0, rel=1e-4)
    assert worst.max_abs_error == pytest.approx(3.0, rel=1e-4)


def test_a_state_detached_by_accident_is_named():
    check = rg.check_gradients(Cell(fault="detach"), x())
    assert "weight_hh" in check.wrong
    assert "detach" in check.verdict
    assert rg.check_gradients(Cell(), x()).ok
    assert rg.check_gradients(Cell(fault="detach"), x(3, 2, 3)).ok  # too short to be cut


def test_a_parameter_that_autograd_never_reaches_is_named():
    class Lost(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.gain, self.spare = nn.GRU(3, 4), nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.rnn(x)[0] * self.gain.data

    check = rg.check_gradients(Lost(), x())
    assert check.wrong == ("gain",)
    assert "does not reach" in check.errors[0].remark
    assert {e.remark for e in check.errors if e.name == "spare" and e.oracle == "finite differences"} == {"unused"}


def test_a_graph_that_carries_no_gradient_at_all_is_named():
    zeroed = passing_back(lambda g: g * 0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, x):
            return zeroed(self.rnn(x)[0])

    check = rg.check_gradients(Model(), x())
    assert set(check.wrong) == {"x", *(name for name, _ in Model().named_parameters())}


def test_a_wrong_gradient_of_an_input_is_named():
    doubled = passing_back(lambda g: g * 2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(3, 4)

        def forward(self, x, h_0):
            return self.rnn(doubled(x), h_0)

    check = rg.check_gradients(Model(), x(), x(1, 2, 4))
    assert check.wrong == ("x",)
    assert "x (input)" in repr(check)


class Parameters(nn.Module):
    """A function of one parameter; the input only says that it runs."""

    def __init__(self, values, function):
        super().__init__()
        self.w, self.function = nn.Parameter(torch.as_tensor(values)), function

    def forward(self, _):
        return self.function(self.w)


def differences_of(values, function, **options):
    check = rg.check_gradients(Parameters(values, function), torch.zeros(1, dtype=torch.int64), **options)
    return next(e for e in check.errors if e.name == "w" and e.oracle == "finite differences")


def test_strong_curvature_is_not_taken_for_a_kink():
    slightly_wrong = passing_back(lambda g: g * 1.01)
    error = differences_of([0.01, 0.02], lambda w: 1e4 * slightly_wrong(w).square())
    assert not error.ok and error.kinks == 0


def test_rounding_is_not_taken_for_a_kink():
    slightly_wrong = passing_back(lambda g: g * 1.01)
    error = differences_of(torch.linspace(0.1, 0.9, 8), lambda w: slightly_wrong(w) * 3.3)
    assert not error.ok and error.kinks == 0


def test_a_gradient_far_below_the_others_is_measured_on_their_scale():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))

        def forward(self, _):
            return self.a * 1e3 + passing_back(lambda g: g + 3e-8)(self.b) * 1e-9

    check = rg.check_gradients(Model(), torch.zeros(1, dtype=torch.int64))
    error = next(e for e in check.errors if e.name == "b" and e.oracle == "finite differences")
    assert error.ok and error.unsettled == 0 and error.relative_error < 1e-6


def test_the_largest_gradient_is_always_probed():
    weights = torch.ones(100)
    weights[37] = 5.0
    error = differences_of(torch.ones(100), lambda w: w * weights, entries=1, loss=lambda output: output)
    assert error.where == (37,) and error.found == pytest.approx(5.0)
    assert error.probes == 1 + 3  # and three directions through all entries


def test_a_module_that_computes_something_else_without_a_graph_is_run_with_one():
    error = differences_of([0.5, 0.7], lambda w: w.sin() * (1.0 if torch.is_grad_enabled() else 1.5))
    assert error.ok and error.kinks + error.unsettled == 0


def test_steps_are_as_large_as_the_parameter_asks_for():
    """At 1e8, the smallest change of a float64 is 1.5e-8: differences over smaller steps would excuse any gradient."""
    slightly_wrong = passing_back(lambda g: g * 1.01)
    assert differences_of([1e8, 2e8], lambda w: (w / 1e8).square()).ok
    assert not differences_of([1e8, 2e8], lambda w: (slightly_wrong(w) / 1e8).square()).ok
