"""`rg.check_gradients`: right layers pass, and nothing that was measured is changed."""

from __future__ import annotations

import copy
import doctest
import importlib

import pytest
import torch
from faulty import x
from torch import nn

import retrograde as rg
from retrograde.errors import OptionError


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


@pytest.mark.parametrize("options", [{"entries": 0}, {"rtol": 0.0}, {"rtol": -1e-3}, {"rtol": 1.0}])
def test_impossible_options_are_named(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        rg.check_gradients(nn.GRU(3, 2), x(), **options)


def test_a_tolerance_of_ones_own():
    assert rg.check_gradients(nn.GRU(3, 2).double(), x().double(), rtol=1e-3).ok


def test_the_example_in_the_text_runs():
    result = doctest.testmod(importlib.import_module("retrograde.gradcheck.check"))
    assert result.attempted >= 3
    assert result.failed == 0
