"""`rg.check_gradients`: silent on right gradients, loud and precise on wrong ones, and without a trace."""

from __future__ import annotations

import collections
import copy
import dataclasses
import doctest
import importlib
import io
import math

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import retrograde as rg
from retrograde.errors import FlowError, OptionError

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def passing_back(change):
    """The identity, whose backward pass applies `change` to the gradient."""

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return change(g)

    return Identity.apply


class Product(torch.autograd.Function):
    """h Wᵀ with a gradient for W that is wrong in chosen ways."""

    @staticmethod
    def forward(ctx, h, W, fault):
        ctx.save_for_backward(h, W)
        ctx.fault = fault
        return h @ W.T * (1.01 if fault == "forward in float32" and h.dtype == torch.float32 else 1.0)

    @staticmethod
    def backward(ctx, g):
        h, W = ctx.saved_tensors
        dW = g.T @ h
        if ctx.fault == "scaled":
            dW = dW * 1.01
        elif ctx.fault == "transposed":
            dW = dW.T
        elif ctx.fault == "one entry":
            dW[5, 2] += 0.5
        elif ctx.fault == "in float32" and h.dtype == torch.float32:
            dW = dW * 1.01
        elif ctx.fault == "nan":
            dW[1, 3] = math.nan
        return g @ W, dW, None


class Cell(nn.Module):
    """A recurrent cell written by hand, as users write them, with one fault or none."""

    def __init__(self, hidden_size=8, fault="", f=torch.tanh):
        super().__init__()
        self.inner = nn.Linear(3, hidden_size)
        self.weight_hh = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.fault, self.f = fault, f

    def forward(self, x):
        h, output = x.new_zeros(x.shape[1], len(self.weight_hh)), []
        for t, x_t in enumerate(x):
            if self.fault == "detach" and t == 3:
                h = h.detach()
            h = self.f(self.inner(x_t) + Product.apply(h, self.weight_hh, self.fault))
            output.append(h)
        return torch.stack(output)


def x(*shape):
    return torch.randn(*(shape or (6, 2, 3)))


# -- right gradients are found right ---------------------------------------------------------------


@pytest.mark.parametrize("library", [nn, rg.nn])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("RNN", {"nonlinearity": "tanh"}),
        ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
        ("GRU", {"bidirectional": True}),
        ("LSTM", {"bias": False}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_of_torch_and_ours_are_right(library, kind, options, dtype):
    layer = getattr(library, kind)(3, 4, dtype=dtype, **options)
    check = rg.check_gradients(layer, x().to(dtype))
    assert check.ok and check
    assert check.wrong == ()
    assert check.dtype == dtype
    named = {(error.name, error.oracle) for error in check.errors if error.kind == "parameter"}
    assert named == {(name, o) for name, _ in layer.named_parameters() for o in ("float64", "finite differences")}
    assert {error.oracle for error in check.errors if error.name == "input"} == {"float64", "finite differences"}
    assert all(error.relative_error <= error.tolerance for error in check.errors)
    assert "right" in check.verdict


def test_packed_input_and_given_states_are_checked_too():
    packed = pack_sequence([x(5, 3), x(3, 3), x(1, 3)])
    check = rg.check_gradients(nn.LSTM(3, 4), packed, (x(1, 3, 4), x(1, 3, 4)))
    assert check.ok
    assert {e.name for e in check.errors if e.kind == "input"} == {"input.data", "hx[0]", "hx[1]"}


def test_a_whole_model_with_tokens_dicts_and_frozen_parameters():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, 4)
            self.rnn = rg.nn.GRU(4, 5, bidirectional=True)
            self.head = nn.Linear(10, 3)
            self.head.bias.requires_grad_(False)

        def forward(self, batch, scale=None):
            output, h_n = self.rnn(self.embedding(batch["tokens"]) * batch["weight"])
            return {"logits": self.head(output), "final": (h_n, batch["tokens"])}

    check = rg.check_gradients(Tagger(), {"tokens": torch.randint(0, 20, (5, 2)), "weight": x(5, 2, 1)}, None)
    assert check.ok
    assert "head.bias" not in {e.name for e in check.errors}
    assert {e.name for e in check.errors if e.kind == "input"} == {"batch['weight']"}
    assert {e.name for e in check.errors if e.kind == "output"} == {"output['logits']", "output['final'][0]"}


def test_inputs_in_records_are_checked_and_left_alone():
    @dataclasses.dataclass(frozen=True)
    class Batch:
        x: Tensor
        states: collections.OrderedDict

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, batch):
            return self.rnn(batch.x, batch.states["h_0"])

    batch = Batch(x(), collections.OrderedDict(h_0=x(1, 2, 4)))
    check = rg.check_gradients(Model(), batch)
    assert check.ok
    assert {e.name for e in check.errors if e.kind == "input"} == {"batch.x", "batch.states['h_0']"}
    assert not batch.x.requires_grad and not batch.states["h_0"].requires_grad


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


def test_low_precision_has_a_tolerance_of_its_own():
    check = rg.check_gradients(nn.LSTM(3, 8).bfloat16(), x().bfloat16())
    assert check.ok and check.dtype == torch.bfloat16
    errors = [e for e in check.errors if e.oracle == "float64"]
    assert {e.tolerance for e in errors} == {1e-1}
    assert max(e.relative_error for e in errors) > 1e-4
    strict = rg.check_gradients(nn.LSTM(3, 8).bfloat16(), x().bfloat16(), rtol=1e-6)
    assert not strict.ok and {e.oracle for e in strict.errors if not e.ok} == {"float64"}


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


# -- no wolf is cried ------------------------------------------------------------------------------


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


# -- wrong gradients are found wrong ---------------------------------------------------------------


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


# -- what it prints --------------------------------------------------------------------------------


def test_the_table_shows_the_worst_first_in_every_form():
    check = rg.check_gradients(Cell(fault="scaled"), x())
    lines = repr(check).splitlines()
    assert lines[0] == "GradientCheck of Cell, float32 on cpu, in eval mode"
    assert lines[2].split()[:2] == ["gradient", "of"]
    assert lines[3].split()[0] == "weight_hh" and lines[3].endswith("WRONG")
    assert sum(line.endswith("WRONG") for line in lines) == 1

    out = io.StringIO()
    Console(file=out, width=200).print(check)
    assert "weight_hh" in out.getvalue() and "WRONG" in out.getvalue() and "not the derivative" in out.getvalue()
    assert "<table>" in check._repr_html_() and "weight_hh" in check._repr_html_()


# -- without a trace -------------------------------------------------------------------------------


def test_module_inputs_and_random_state_stay_as_they_were():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[0].eval()
    model[1].weight.requires_grad_(False)
    given = x(5, 3).requires_grad_()
    model(given).sum().backward()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    at, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    for training in (False, True):
        rg.check_gradients(model, given, training=training)
    assert torch.equal(torch.random.get_rng_state(), at)
    assert torch.get_default_dtype() == dtype
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) if grad is None else torch.equal(parameter.grad, grad)
    assert not model[1].weight.requires_grad and given.requires_grad


def test_the_same_seed_gives_the_same_check():
    layer, given = nn.GRU(3, 12), x()
    first, second, other = (rg.check_gradients(layer, given, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_dropout_is_off_unless_asked_for_and_said():
    model = nn.LSTM(3, 4, 2, dropout=0.5)
    check = rg.check_gradients(model, x())
    assert check.ok and check.mode == "eval"
    assert any("dropout" in note and "eval mode" in note for note in check.notes)
    check = rg.check_gradients(model, x(), training=True)
    assert check.ok and check.mode == "training"
    assert any("one random mask" in note for note in check.notes)
    assert rg.check_gradients(model.eval(), x()).notes == ()


# -- errors that help ------------------------------------------------------------------------------


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.linear, self.what = nn.Linear(3, 2), what

    def forward(self, x) -> Tensor:
        return self.what(self.linear, x)


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
        (lambda: rg.check_gradients(nn.GRU(3, 2), x(), loss=lambda o: o[0].argmax(-1)), "a tensor of torch.int64"),
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


@pytest.mark.parametrize("options", [{"entries": 0}, {"rtol": 0.0}, {"rtol": -1e-3}])
def test_impossible_options_are_named(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        rg.check_gradients(nn.GRU(3, 2), x(), **options)


def test_padded_lengths_as_an_integer_input():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            return self.head(output[torch.arange(len(x)), lengths - 1])

    assert rg.check_gradients(Classifier(), x(3, 5, 3), torch.tensor([2, 5, 3])).ok


def test_the_example_in_the_text_runs():
    result = doctest.testmod(importlib.import_module("retrograde.flow.check"))
    assert result.attempted >= 3
    assert result.failed == 0


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
