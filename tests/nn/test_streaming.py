"""A stream is the layer, step by step: the same numbers, whatever the cell, the sizes and the instruction set."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import retrograde as rg
from instruction_sets import SETS, chosen
from retrograde import kernels
from retrograde.errors import OptionError

KINDS = [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("GRU", {}), ("LSTM", {}), ("LSTM", {"proj_size": 2})]
LIMITS = {torch.float32: 3e-6, torch.float64: 1e-13}
SIZES = st.sampled_from([1, 3, 15, 16, 17, 40, 130])


def tensors(state):
    return state if isinstance(state, tuple) else (state,)


def assert_is_layer(layer, stream, x, hx=None):
    with torch.no_grad():
        output, state = layer.double()(x.double(), hx and tuple(s.double() for s in hx))
    found = torch.stack([stream(x_t) for x_t in x])
    limit = LIMITS[x.dtype]
    torch.testing.assert_close(found.double(), output, rtol=limit, atol=limit)
    for ours, theirs in zip(tensors(stream.state), tensors(state), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=limit, atol=limit)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_stream_is_its_layer_on_every_instruction_set(kind, options, data):
    options = options | {"num_layers": data.draw(st.integers(1, 3)), "bias": data.draw(st.booleans())}
    sizes = data.draw(SIZES), data.draw(SIZES.filter(lambda size: size > 2))
    dtype, batch = data.draw(st.sampled_from(list(LIMITS))), data.draw(st.none() | st.integers(1, 3))
    layer = getattr(rg.nn, kind)(*sizes, **options, dtype=dtype)
    x = torch.randn(6, *(() if batch is None else (batch,)), sizes[0], dtype=dtype)
    with chosen(data.draw(st.sampled_from([*SETS, "naive"]))) if SETS else contextlib.nullcontext():
        assert_is_layer(layer, layer.stream(batch), x)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")  # torch says so of bfloat16
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_states_are_given_read_and_reset(dtype):
    layer = rg.nn.LSTM(3, 5, num_layers=2, proj_size=2).to(dtype)
    x, hx = torch.randn(4, 2, 3).to(dtype), (torch.randn(2, 2, 2).to(dtype), torch.randn(2, 2, 5).to(dtype))
    stream = layer.stream(2, hx)
    first = [stream(x_t) for x_t in x]
    with torch.no_grad():
        whole = layer(x, hx)[0]
    torch.testing.assert_close(torch.stack(first), whole)
    kept = stream.state
    stream(x[0])
    assert not torch.equal(kept[0], stream.state[0]), "the state that was read is a copy"
    stream.reset(hx)
    assert torch.equal(torch.stack([stream(x_t) for x_t in x]), torch.stack(first))
    stream.reset()
    assert not any(s.any() for s in stream.state)


def test_a_stream_keeps_the_weights_it_was_made_with():
    layer, x = rg.nn.GRU(2, 3), torch.randn(2)
    stream, half = layer.stream(), torch.nn.GRU(2, 3, dtype=torch.bfloat16)
    others = rg.nn.accelerate_(half).stream()
    before, other = stream(x), others(x.bfloat16())
    with torch.no_grad():
        for weight in [*layer.parameters(), *half.parameters()]:
            weight.zero_()
    stream.reset(), others.reset()
    assert torch.equal(stream(x), before) and torch.equal(others(x.bfloat16()), other)


def test_inputs_of_other_forms():
    layer = rg.nn.GRU(3, 4)
    x = torch.randn(3)
    expected = layer.stream()(x)
    for form in (x.numpy(), x.clone().requires_grad_(), torch.stack([x, x], 1)[:, 0], torch.nn.Parameter(x)):
        found = layer.stream()(form)
        assert torch.equal(found, expected) and not found.requires_grad
    assert layer.stream()(np.array([1, 2, 3])).shape == (4,)


def test_parametrized_and_pruned_weights_are_read():
    layer = torch.nn.utils.parametrizations.weight_norm(rg.nn.RNN(3, 4), "weight_hh_l0").eval()
    assert_is_layer(layer, layer.stream(), torch.randn(5, 3))


def test_what_is_not_finite_stays_so_until_the_reset():
    stream = rg.nn.GRU(3, 5).stream()
    assert stream(torch.tensor([1.0, float("nan"), 0.0])).isnan().all()
    assert stream(torch.zeros(3)).isnan().all()
    stream.reset()
    assert stream(torch.zeros(3)).isfinite().all()


def test_a_sequence_of_ten_thousand_steps():
    torch.manual_seed(0)
    layer = rg.nn.LSTM(2, 20)
    assert_is_layer(layer, layer.stream(), torch.randn(10_000, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_stream_does_not_take(dtype):
    layer = rg.nn.GRU(3, 4, num_layers=2, dropout=0.5).to(dtype)
    with pytest.raises(OptionError, match=r"call layer.eval\(\) first"):
        layer.stream()
    stream = layer.eval().stream()
    for x, text in (
        (torch.zeros(2, 3, dtype=dtype), r"a step of this stream is \(3,\); this one is \(2, 3\)"),
        (torch.zeros(3, dtype=torch.float64), "convert it first"),
        (torch.zeros(3, dtype=torch.complex64), "convert it first"),
        ("word", "not str"),
    ):
        with pytest.raises(OptionError, match=text):
            stream(x)
    with pytest.raises(OptionError, match="a state of this stream is"):
        stream.reset(torch.zeros(1, 4))
    with pytest.raises(OptionError, match="a state of this stream is"):
        stream.reset((torch.zeros(2, 4), torch.zeros(2, 4)))
    with pytest.raises(OptionError, match="batch_size=0"):
        layer.stream(0)
    with pytest.raises(OptionError, match="bidirectional"):
        rg.nn.GRU(3, 4, bidirectional=True).stream()


@pytest.mark.skipif(not kernels.available(), reason="the engine was not built here")
def test_without_the_engine_a_stream_is_the_same(monkeypatch):
    layer, x = rg.nn.LSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)
    expected = layer.stream(2)
    monkeypatch.setattr(kernels, "available", lambda: False)
    stream = layer.stream(2)
    assert "torch's operators" in repr(stream) and "native engine" in repr(expected)
    for x_t in x:
        torch.testing.assert_close(stream(x_t), expected(x_t))
