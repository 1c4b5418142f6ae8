"""``gradient_flow`` against autograd over unrolled float64 twins, on models of many shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from twin import norms, unrolled

import retrograde as rg

LAYERS = ["RNN", "ReLU", "GRU", "LSTM", "projected"]


def make(kind: str, inputs: int, hidden: int, **options: object) -> nn.RNNBase:
    options = {"dtype": torch.float64, **options}
    if kind == "ReLU":
        return nn.RNN(inputs, hidden, nonlinearity="relu", **options)
    if kind == "projected":
        return nn.LSTM(inputs, hidden, proj_size=max(1, hidden - 1), **options)
    return getattr(nn, kind)(inputs, hidden, **options)


def local_head(output: Tensor) -> Tensor:
    return (output.square() * torch.linspace(0.5, 2, output.shape[-1], dtype=output.dtype)).sum(-1)


def mixing_head(output: Tensor) -> Tensor:
    """Attention of every step over all steps."""
    scores = torch.einsum("tbh,sbh->tsb", output, output).softmax(1)
    return local_head(torch.einsum("tsb,sbh->tbh", scores, output) + output)


HEADS = {"local": local_head, "mixing": mixing_head}


def close(found: np.ndarray, expected: np.ndarray, rtol: float = 1e-9) -> None:
    # A zero must be a zero: no path means no gradient, not a small one.
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-300 if rtol < 1e-6 else 1e-12)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(LAYERS),
    depth=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    head=st.sampled_from(sorted(HEADS)),
    steps=st.integers(1, 7),
    batch=st.integers(1, 4),
    hidden=st.integers(2, 5),
    seed=st.integers(0, 2**16),
)
def test_every_pair_equals_autograd_over_an_unrolled_twin(
    kind: str, depth: int, bidirectional: bool, bias: bool, head: str, steps: int, batch: int, hidden: int, seed: int
) -> None:
    torch.manual_seed(seed)
    module = make(kind, 3, hidden, num_layers=depth, bidirectional=bidirectional, bias=bias)
    x = torch.randn(steps, batch, 3, dtype=torch.float64)
    flow = rg.gradient_flow(module, x, loss=lambda o: HEADS[head](o[0]), reduce="none")
    output, states = unrolled(module, x)
    assert flow.layers == list(states)
    close(flow.norms, norms(HEADS[head](output), states))
