"""Copies of modules: in float64, with states they keep, and with their losses."""

from __future__ import annotations

import pytest
import torch
from faulty import Returns, passing_back, x
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import retrograde as rg
from retrograde.errors import FlowError, OptionError


def test_a_loss_of_the_users_is_summed_and_differentiated():
    target = torch.randint(0, 4, (6, 2))

    def loss(output):
        return nn.functional.cross_entropy(output[0].movedim(-1, 1), target, reduction="none")

    assert rg.check_gradients(nn.GRU(3, 4), x(), loss=loss).ok


def test_complex_outputs_are_checked_by_their_parts():
    def both(f, x):
        return f(x), torch.fft.fft(f(x), dim=0)

    check = rg.check_gradients(Returns(both), x())
    assert check.ok and {e.name for e in check.errors if e.kind == "output"} == {"output[0]", "view_as_real(output[1])"}
    assert rg.check_gradients(Returns(both), x(), loss=lambda output: output[1].abs()).ok

    cut = passing_back(lambda g: g.real + 0j)
    check = rg.check_gradients(Returns(lambda f, x: cut(torch.fft.fft(f(x), dim=0))), x())
    assert not check.ok


def test_a_checkpoint_that_is_not_reentrant_is_no_obstacle():
    assert rg.check_gradients(Returns(lambda f, x: checkpoint(f, x, use_reentrant=False)), x()).ok


def test_weight_norm_a_state_kept_and_no_grad_around_are_no_obstacle():
    assert rg.check_gradients(weight_norm(nn.LSTM(3, 4), "weight_hh_l0"), x()).ok

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.last = nn.GRU(3, 4), None

        def forward(self, x):
            output, self.last = self.rnn(x)
            return output

    keeps = Keeps()
    keeps(x())
    assert keeps.last.grad_fn is not None
    with torch.no_grad():
        assert rg.check_gradients(keeps, x()).ok
    with torch.inference_mode():
        assert rg.check_gradients(nn.GRU(3, 4), x()).ok


def test_a_state_made_in_the_default_dtype_is_no_obstacle():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.first = nn.GRUCell(3, 4), torch.full((1, 4), 0.5)  # neither parameter nor buffer

        def forward(self, x):
            h = torch.zeros(x.shape[1], 4) + self.first
            for x_t in x:
                h = self.cell(x_t, h)
            return h

    assert rg.check_gradients(Loop(), x()).ok


def test_a_module_may_write_into_its_input():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(3, 4)

        def forward(self, x):
            x.mul_(0.5)
            return self.rnn(x)

    given = x()
    before = given.clone()
    assert rg.check_gradients(Scale(), given).ok
    assert torch.equal(given, before)


def test_inputs_by_keyword():
    torch.manual_seed(0)
    x, state = torch.randn(4, 2, 3), (torch.randn(1, 2, 5), torch.randn(1, 2, 5))
    check = rg.check_gradients(nn.LSTM(3, 5), x, kwargs={"hx": state})
    assert check.ok
    assert {e.name for e in check.errors if e.kind == "input"} == {"input", "hx[0]", "hx[1]"}
    by_position = rg.check_gradients(nn.LSTM(3, 5), x, state)
    assert {e.label for e in by_position.errors} == {e.label for e in check.errors}
    with pytest.raises(OptionError, match="input is given by position and by keyword"):
        rg.check_gradients(nn.LSTM(3, 5), x, kwargs={"input": x})


def by_step(output):
    return output[0].square().sum(-1)  # (T, B)


@pytest.mark.parametrize("reduced", [lambda table: table.sum(0), lambda table: table.sum(), lambda table: table[None]])
def test_a_loss_means_what_it_means_to_gradient_flow(reduced):
    layer, given = nn.GRU(3, 4), x()
    assert rg.gradient_flow(layer, given, loss=by_step).norms.shape == (1, 6, 6)
    check = rg.check_gradients(layer, given, loss=by_step)
    summed = rg.check_gradients(layer, given, loss=lambda output: reduced(by_step(output)))
    assert check.ok and summed.ok
    found = {(e.name, e.oracle): e.expected for e in check.errors if e.oracle == "float64"}
    assert {(e.name, e.oracle): e.expected for e in summed.errors if e.oracle == "float64"} == pytest.approx(
        found, rel=1e-6, abs=1e-9
    )


@pytest.mark.parametrize("measure", [rg.gradient_flow, rg.check_gradients])
def test_a_loss_is_refused_in_the_same_words_as_by_gradient_flow(measure):
    for loss, message in [
        (lambda output: 1.0, "loss returned float; expected a tensor of losses"),
        (lambda output: output[0].argmax(-1), "loss returned torch.int64; expected floating-point numbers: numbers of"),
        (lambda output: output[0].sum(-1) + 1j, "loss returned torch.complex64; expected floating-point numbers: take"),
    ]:
        with pytest.raises(FlowError) as caught:
            measure(nn.GRU(3, 4), x(), loss=loss)
        assert message in str(caught.value)
    with pytest.raises(OptionError, match="loss is int; give a function of the model's output"):
        measure(nn.GRU(3, 4), x(), loss=3)
    with pytest.raises(FlowError, match=r"does not depend on .*\(is it detached\?\)"):
        measure(nn.GRU(3, 4), x(), loss=lambda output: by_step(output).detach())


class Mixing(nn.Module):
    """Has a tensor that is neither a parameter nor a buffer, so ``.to()`` leaves it as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.mix = nn.Linear(3, 3), torch.randn(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) @ self.mix


def test_a_tensor_that_is_only_an_attribute_goes_to_float64_too():
    model = Mixing()
    assert rg.check_gradients(model, torch.randn(4, 3)).ok
    assert model.mix.dtype is torch.float32


class Notebook(nn.Module):
    """Two parts share a dict: one writes its output there, the other reads it."""

    def __init__(self):
        super().__init__()
        self.writer, self.reader = nn.GRU(3, 4), nn.Linear(4, 2)
        self.writer.notes = self.reader.notes = {"mean": torch.zeros(4)}

    def forward(self, x):
        output = self.writer(x)[0]
        self.writer.notes["mean"] = output.mean((0, 1))
        return self.reader(output * self.reader.notes["mean"])


def test_what_two_parts_share_they_share_in_float64_too():
    torch.manual_seed(0)
    check = rg.check_gradients(Notebook(), x())
    assert check.ok, str(check)
