"""The comparison with float64: tolerances, and errors in one precision only."""

from __future__ import annotations

import pytest
import torch
from faulty import Cell, x
from torch import nn

import retrograde as rg


def test_low_precision_has_a_tolerance_of_its_own():
    check = rg.check_gradients(nn.LSTM(3, 8).bfloat16(), x().bfloat16())
    assert check.ok and check.dtype == torch.bfloat16
    errors = [e for e in check.errors if e.oracle == "float64"]
    assert {e.tolerance for e in errors} == {1e-1}
    assert max(e.relative_error for e in errors) > 1e-4
    strict = rg.check_gradients(nn.LSTM(3, 8).bfloat16(), x().bfloat16(), rtol=1e-6)
    assert not strict.ok and {e.oracle for e in strict.errors if not e.ok} == {"float64"}


def test_a_gradient_wrong_in_one_precision_only_is_told_apart():
    check = rg.check_gradients(Cell(fault="in float32"), x())
    assert check.wrong == ("weight_hh",)
    assert {e.oracle for e in check.errors if not e.ok} == {"float64"}
    assert "in float32 on cpu" in check.verdict
    assert rg.check_gradients(Cell(fault="in float32").double(), x().double()).ok


def test_a_forward_wrong_in_one_precision_is_found_in_the_output():
    check = rg.check_gradients(Cell(fault="forward in float32"), x())
    assert "output" in check.wrong
    assert "forward already" in check.verdict


class Shifted(nn.Module):
    """A cell whose outputs are large and whose gradients are not."""

    def __init__(self, cell, by):
        super().__init__()
        self.cell, self.by = cell, by

    def forward(self, x):
        return self.cell(x) + self.by


def test_large_outputs_do_not_hide_a_wrong_gradient():
    check = rg.check_gradients(Shifted(Cell(fault="in float32"), by=1e8), x())
    assert "cell.weight_hh" in check.wrong
    worst = next(e for e in check.errors if e.name == "cell.weight_hh" and e.oracle == "float64")
    assert worst.relative_error == pytest.approx(0.01, rel=0.5)
    assert rg.check_gradients(Shifted(Cell(), by=1e8), x()).ok


def test_large_gradients_do_not_hide_a_wrong_output():
    check = rg.check_gradients(Cell(fault="forward in float32"), x(), loss=lambda output: output * 1e8)
    assert "output" in check.wrong
    worst = next(e for e in check.errors if e.kind == "output")
    assert 1e-3 < worst.relative_error < 0.1
    assert rg.check_gradients(Cell(), x(), loss=lambda output: output * 1e8).ok


class RoundedBackward(torch.autograd.Function):
    """Zeros, whose backward puts some rounding error of the large entry into the gradient of the small one."""

    @staticmethod
    def forward(ctx, pair, units):
        ctx.units = units
        return torch.zeros_like(pair)

    @staticmethod
    def backward(ctx, g):
        error = torch.zeros_like(g)
        if g.dtype == torch.float32:
            error[1] = ctx.units * torch.finfo(g.dtype).eps * 1e4 * g[0].abs().max()
        return error, None


class LargeAndSmall(nn.Module):
    """Two parameters whose gradients differ by a factor of 10,000."""

    def __init__(self, units):
        super().__init__()
        self.large, self.small, self.units = nn.Parameter(torch.tensor(1e6)), nn.Parameter(torch.tensor(1.0)), units

    def forward(self, x):
        pair = torch.stack([self.large * x, self.small * 1e-4 * x])
        return pair + RoundedBackward.apply(pair, self.units)


@pytest.mark.parametrize(("units", "explained"), [(2, True), (40, False)])
def test_a_small_gradient_inherits_the_rounding_of_a_large_one(units, explained):
    given = torch.full((4,), 3)  # of integers, so that there is no gradient by the input, which would be larger still
    check = rg.check_gradients(LargeAndSmall(units), given, loss=lambda pair: pair[0] + pair[1])
    error = next(e for e in check.errors if e.name == "small" and e.oracle == "float64")
    assert error.max_abs_error > 1e-4 * abs(error.expected)  # more than the tolerance for this gradient alone
    assert error.ok == explained and error.remark == ""
    strict = rg.check_gradients(LargeAndSmall(units), given, loss=lambda pair: pair[0] + pair[1], rtol=1e-4)
    assert "small" in strict.wrong  # with a given rtol nothing is allowed for rounding
