"""Tensors that do not fit are refused before the engine reads them: fuzzed in a separate process, to detect crashes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_native import layer as engine_layer
from torch.nn.utils.rnn import PackedSequence

import retrograde as rg
from retrograde import kernels
from retrograde.errors import OptionError
from retrograde.kernels import native, operators

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the engine was not built here")
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}
REFUSALS = (OptionError, ValueError, TypeError, RuntimeError, IndexError, NotImplementedError)


def layer(cell, T=4, B=3, inputs=5, H=6, D=1, packed=False, proj=0):
    """A layer's tensors by name, weights as w0, w1, ..."""
    R, rows = proj or H, GATES[cell] * H
    shapes = ([(rows, inputs), (rows, R), (rows,), (rows,)] + [(R, H)] * (proj > 0)) * D
    named = {f"w{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    named["x"] = torch.randn(T * B if packed else T, inputs) if packed else torch.randn(T, B, inputs)
    named["h_0"] = torch.randn(D, B, R)
    if cell == "LSTM":
        named["c_0"] = torch.randn(D, B, H)
    if packed:
        named["batch_sizes"] = torch.full((T,), B)
    return named


def weights_of(named):
    return [named[name] for name in sorted(n for n in named if n[0] == "w" and n[1:].isdigit())]


def given_to_operator(cell, named, D, keep):
    weights = weights_of(named)
    spec = operators.spec_of(cell, weights, True, D == 2)
    return named["x"], named["h_0"], named.get("c_0"), weights, named.get("batch_sizes"), *spec, keep


def longer(t, dim):
    return torch.cat([t, t.narrow(dim, 0, 1)], dim)


def freed(t):
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


RUINS = {
    "longer in its last dimension": lambda t: longer(t, -1),
    "shorter in its last dimension": lambda t: t[..., 1:],
    "of one dimension more": lambda t: t[None],
    "of one dimension less": lambda t: t[0],
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "integers": lambda t: t.long() if t.is_floating_point() else t.int(),
    "on no device": lambda t: t.to("meta"),
    "without memory": freed,
    "sparse": lambda t: t.to_sparse(),
    "empty": lambda t: t[:0],
}
RUINED_SIZES = {
    "growing": lambda t: torch.tensor([1, *t[1:]]),
    "with a zero": lambda t: torch.tensor([*t[:-1], 0]),
    "negative": lambda t: torch.tensor([*t[:-1], -1]),
    "too many": lambda t: longer(t, 0),
    "huge": lambda t: torch.full_like(t, 2**40),
    "int32": lambda t: t.int(),
    "floats": lambda t: t.float(),
    "none": lambda t: t[:0],
    "two rows": lambda t: t[None],
}


def ruin(data, named, but=()):
    """Change one tensor so that it no longer fits; returns what was changed."""
    name = data.draw(st.sampled_from(sorted(set(named) - set(but))))
    fits = {"growing"} if name == "targets" else set()
    if name == "x" and "batch_sizes" not in named:
        fits = {"empty"}  # no steps
    ruins = RUINED_SIZES if name in ("batch_sizes", "targets") else RUINS
    how = data.draw(st.sampled_from(sorted(set(ruins) - fits)))
    named[name] = ruins[how](named[name])
    return f"{name} {how}"


def refused(what, run):
    try:
        run()
    except REFUSALS:
        return
    raise AssertionError(f"{what}: computed all the same")


CELL = st.sampled_from(sorted(GATES))


@settings(max_examples=250, deadline=None, database=None)
@given(data=st.data())
def fuzz_layer(data):
    cell, D, packed = data.draw(CELL), data.draw(st.integers(1, 2)), data.draw(st.booleans())
    named = layer(cell, D=D, packed=packed, proj=3 if cell == "LSTM" and data.draw(st.booleans()) else 0)
    what = ruin(data, named)
    operator, keep = data.draw(st.booleans()), data.draw(st.booleans())
    if operator:
        refused(what, lambda: torch.ops.retrograde.layer(*given_to_operator(cell, named, D, keep)))
    else:
        x, h_0, c_0, weights, sizes = given_to_operator(cell, named, D, keep)[:5]
        options = {"bidirectional": D == 2, "batch_sizes": sizes}
        refused(what, lambda: engine_layer(cell, x, h_0, c_0, weights, **options))


@settings(max_examples=250, deadline=None, database=None)
@given(data=st.data())
def fuzz_backward(data):
    cell, D, packed = data.draw(CELL), data.draw(st.integers(1, 2)), data.draw(st.booleans())
    named = layer(cell, D=D, packed=packed)
    *first, keep = given_to_operator(cell, named, D, True)
    out, h_n, c_n, gates, cells = torch.ops.retrograde.layer(*first, keep)
    named |= {"out": out, "grad_out": torch.randn_like(out), "grad_h_n": torch.randn_like(h_n)}
    if GATES[cell] > 1:
        named["gates"] = gates
    if cell == "LSTM":
        named |= {"cells": cells, "grad_c_n": torch.randn_like(c_n)}
    what = ruin(data, named)
    spec = first[5:]
    x, h_0, c_0, weights, sizes, *_ = given_to_operator(cell, named, D, True)
    needs = [True, True, cell == "LSTM", *[True] * len(weights)]
    grads = (named["grad_out"], named["grad_h_n"], named.get("grad_c_n"))
    kept = (named["out"], named.get("gates", gates), named.get("cells", cells))
    refused(what, lambda: torch.ops.retrograde.layer_backward(*grads, x, h_0, c_0, weights, sizes, *kept, *spec, needs))


@settings(max_examples=100, deadline=None, database=None)
@given(data=st.data(), cell=CELL)
def fuzz_step(data, cell):
    named = layer(cell, B=2)
    named["x"] = named["x"][0]
    what = ruin(data, named)
    found = None
    with contextlib.suppress(REFUSALS):
        found = native.step(cell, named["x"], named["h_0"], named.get("c_0"), weights_of(named), 6, 0, True)
    assert found is None, what


@settings(max_examples=200, deadline=None, database=None)
@given(data=st.data(), cell=CELL)
def fuzz_adjoint_norms(data, cell):
    T, B, H, G = 5, 2, 4, GATES[cell]
    named = {
        "k": torch.randn(T, B, (3 if G > 1 else 1) * H),
        "w_hh": torch.randn(G * H, H),
        "local": torch.randn(T, B, H),
    }
    named |= {name: torch.randn(T, B, H) for name in ("k_side", "q", "f", "passed")} if G > 1 else {}
    named |= {"w_ih": torch.randn(G * H, H), "targets": torch.tensor([1, 2, 4])}
    what = ruin(data, named, but=("passed",) if G == 1 else ())
    upper = [named.get(name) for name in kernels.Adjoint._fields[1:]]

    refused(what, lambda: native.adjoint_norms([kernels.Adjoint(cell, *upper)] * 2, named["targets"], "h"))


@settings(max_examples=100, deadline=None, database=None)
@given(data=st.data())
def fuzz_matmul(data):
    named = {"a": torch.randn(3, 4), "b": torch.randn(4, 4)}
    what = ruin(data, named)
    if what != "a empty" and not what.startswith("b longer") and not what.startswith("b shorter"):  # those fit
        refused(what, lambda: kernels.matmul(named["a"], named["b"]))


def fuzz():
    for run in (fuzz_layer, fuzz_backward, fuzz_step, fuzz_adjoint_norms, fuzz_matmul):
        run()


def test_nothing_that_does_not_fit_is_computed_or_crashes():
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_shapes; test_shapes.fuzz()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stderr[-3000:]}"


def test_the_public_names():
    assert kernels.__all__ == ["available", "empty_cache", "info", "matmul"]
    assert not any(hasattr(kernels, name) for name in ("step", "can_step", "layer", "traced_layer"))


@pytest.mark.parametrize("sizes", [[3, 4, 1], [3, 3, 9], [3, 0, 5], [3, 3], [9, 9, 9]])
def test_packed_sequences_made_by_hand(sizes):
    packed = PackedSequence(torch.randn(8, 5), torch.tensor(sizes))  # torch checks nothing here
    with pytest.raises(ValueError, match="batch_sizes must"):
        rg.nn.LSTM(5, 6)(packed)


def test_batch_sizes_of_another_type_are_not_misread():
    packed = PackedSequence(torch.randn(5, 5), torch.tensor([3, 2], dtype=torch.int32))
    layer = rg.nn.LSTM(5, 6)
    assert rg.nn.explain(layer, packed).path == "torch"


@pytest.mark.parametrize("change", [torch.Tensor.half, lambda t: t[:2, :2].clone()])
def test_a_weight_that_changed_between_forward_and_backward(change):
    layer = rg.nn.LSTM(5, 6)
    loss = layer(torch.randn(4, 3, 5))[0].sum()
    layer.weight_hh_l0.data = change(layer.weight_hh_l0.data)
    with pytest.raises((OptionError, RuntimeError)):
        loss.backward()


def test_a_step_whose_state_is_elsewhere():
    layer = rg.nn.GRU(5, 6)
    with torch.no_grad(), pytest.raises((RuntimeError, NotImplementedError)):
        layer.step(torch.randn(2, 5), torch.zeros(1, 2, 6, device="meta")).relu()


@pytest.mark.parametrize("threads", [0, -3])
def test_matmul_refuses_impossible_threads(threads):
    with pytest.raises(OptionError, match=f"threads is {threads}"):
        kernels.matmul(torch.ones(2, 2), torch.ones(2, 2), threads=threads)


def test_matmul_takes_no_more_threads_than_there_are():
    a = torch.randn(200, 200)
    torch.testing.assert_close(kernels.matmul(a, a, threads=10**6), a @ a, rtol=1e-4, atol=1e-4)


def test_numbers_that_lie_negated():
    x = torch.randn(1, 1, 1, dtype=torch.complex64).conj().imag
    assert x.is_neg() and x.is_contiguous()
    layer = rg.nn.RNN(1, 3)
    torch.testing.assert_close(layer(x)[0], layer(x.clone().resolve_neg())[0])
