"""What cannot be checked is refused in one line."""

from __future__ import annotations

import math

import pytest
import torch
from faulty import Cell, Returns, x
from torch import nn
from torch.utils.checkpoint import checkpoint

import retrograde as rg
from retrograde.errors import FlowError


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.h = nn.GRU(3, 2), None

    def forward(self, x):
        output, self.h = self.rnn(x, self.h)
        return output


def holding(value):
    layer = nn.GRU(3, 2)
    with torch.no_grad():
        layer.weight_hh_l0[3, 1] = value
    return layer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rg.check_gradients(nn.GRU(3, 2).requires_grad_(False), x()),
            "no parameter of GRU requires a gradient",
        ),
        (lambda: rg.check_gradients(torch.jit.script(nn.GRU(3, 2)), x()), "cannot be copied"),
        (lambda: rg.check_gradients(nn.Identity(), torch.arange(3)), "nothing to check"),
        (lambda: rg.check_gradients(torch.tanh, x()), "takes a torch.nn.Module"),
        (
            lambda: rg.check_gradients(Returns(lambda f, x: f(x + torch.randn(3))), x()),
            "draws random numbers in eval mode",
        ),
        (lambda: rg.check_gradients(Stateful(), x()), "keeps a state between calls"),
        (
            lambda: rg.check_gradients(Returns(lambda f, x: f(x).exp().mul_(2)), x()),
            "the backward pass of Returns fails: one of the variables needed",
        ),
        (
            lambda: rg.check_gradients(Returns(lambda f, x: f(x).detach()), x()),
            "no output of Returns carries a gradient",
        ),
        (lambda: rg.check_gradients(Returns(lambda f, x: f(x).argmax(-1)), x()), "returned no floating-point tensor"),
        (lambda: rg.check_gradients(Returns(lambda f, x: f(x.float())), x()), "cannot be run in float64"),
        (lambda: rg.check_gradients(holding(math.inf), x()), "parameter 'weight_hh_l0' is inf at (3, 1)"),
        (
            lambda: rg.check_gradients(nn.GRU(3, 2), x().index_fill(0, torch.tensor(2), math.nan)),
            "input 'input' is nan at (2, 0, 0)",
        ),
        (lambda: rg.check_gradients(Returns(lambda f, x: f(x * math.nan)), x()), "first seen in the output of linear"),
        (lambda: rg.check_gradients(Cell(fault="nan"), x()), "the gradient of weight_hh is nan at (1, 3)"),
        (lambda: rg.check_gradients(nn.GRU(3, 2), x(), loss=lambda output: 1.0), "loss returned float"),
        (lambda: rg.check_gradients(nn.GRU(3, 2), x(), loss=lambda o: o[0] + 1j), ".abs() or .real"),
        (
            lambda: rg.check_gradients(nn.GRU(3, 2), x(), loss=lambda o: o[0].argmax(-1)),
            "loss returned torch.int64; expected floating",
        ),
        (lambda: rg.check_gradients(nn.GRU(3, 2), x() + 1j), "input 'input' is a tensor of torch.complex64"),
        (
            lambda: rg.check_gradients(Returns(lambda f, x: checkpoint(f, x, use_reentrant=True)), x()),
            "a reentrant checkpoint refuses torch.autograd.grad; give it use_reentrant=False",
        ),
        (lambda: rg.check_gradients(nn.GRU(3, 2), x(), loss=lambda output: output[0].sum() * math.inf), "the loss is"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_what_cannot_be_checked_is_named(call, message):
    with pytest.raises(FlowError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.get_default_dtype() == torch.float32
