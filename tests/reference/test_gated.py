"""What GRU and LSTM of the reference share: gradients, truncation, NaN."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from oracles import RTOL, close, finite_difference

import retrograde as rg
from retrograde.errors import OptionError


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("proj_size", [0, 2])
def test_gated_gradients_are_finite_differences(kind, proj_size):
    if kind == "GRU" and proj_size:
        pytest.skip("torch's GRU has no projection")
    rng = np.random.default_rng(11)
    options = {"proj_size": proj_size} if kind == "LSTM" else {}
    cell = getattr(rg.reference, kind).random(2, 3, seed=rng, **options)
    forward = getattr(rg.reference, f"{kind.lower()}_forward")
    P = cell.weight_hh.shape[1]
    inputs, weight, h_0 = rng.standard_normal((4, 2)), rng.standard_normal((4, P)), rng.standard_normal(P)

    def E(**changed):
        parameters = {name: value for name, value in changed.items() if name not in ("inputs", "h_0")}
        states = forward(
            dataclasses.replace(cell, **parameters), changed.get("inputs", inputs), h_0=changed.get("h_0", h_0)
        )
        return float((weight * states.h[1:]).sum())

    gradient = getattr(rg.reference, f"{kind.lower()}_gradients")(cell, inputs, weight, h_0=h_0)
    at = {name: value for name, value in vars(cell).items() if value is not None} | {"inputs": inputs, "h_0": h_0}
    for name, value in at.items():
        expected = finite_difference(lambda new, name=name: E(**{name: new}), value)
        np.testing.assert_allclose(getattr(gradient, name), expected, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("parameter", ["weight_ih", "weight_hh"])
def test_nan_in_a_gate_gives_nan_out(kind, parameter):
    cell = getattr(rg.reference, kind).random(3, 4, seed=0)
    broken = getattr(cell, parameter).copy()
    broken[-1, -1] = np.nan
    cell = dataclasses.replace(cell, **{parameter: broken})
    x = np.ones((3, 3))
    assert np.isnan(getattr(rg.reference, f"{kind.lower()}_forward")(cell, x).h[-1]).any()
    assert np.isnan(getattr(rg.reference, f"{kind.lower()}_gradients")(cell, x, np.ones((3, 4))).weight_ih).any()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("truncation", [1, 2, 3, 5, 6, 9])
def test_truncation_of_gated_layers_is_detaching_each_loss_by_itself(kind, truncation):
    torch.manual_seed(0)
    T, D, H = 6, 2, 3
    layer = getattr(torch.nn, kind.upper() + "Cell")(D, H, dtype=torch.float64)
    x = torch.randn(T, D, dtype=torch.float64, requires_grad=True)
    start = [torch.randn(H, dtype=torch.float64, requires_grad=True) for _ in range(2 if kind == "lstm" else 1)]
    of_output, of_end = torch.randn(T, H, dtype=torch.float64), torch.randn(H, dtype=torch.float64)
    total = torch.zeros(())
    for t in range(1, T + 1):
        state = start
        for k in range(t + 1):
            state = [s.detach() for s in state] if k == t - truncation else state
            if k < t:
                new = layer(x[k], tuple(state) if kind == "lstm" else state[0])
                state = list(new) if kind == "lstm" else [new]
        total = total + state[0] @ of_output[t - 1] + (state[0] @ of_end if t == T else 0)
    total.backward()
    own = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    cell = {"lstm": rg.reference.LSTM, "gru": rg.reference.GRU}[kind](**own)
    initial = dict(zip(("h_0", "c_0"), (s.detach().numpy() for s in start), strict=False))
    gradients = {"lstm": rg.reference.lstm_gradients, "gru": rg.reference.gru_gradients}[kind]
    found = gradients(cell, x.detach().numpy(), of_output.numpy(), of_end.numpy(), **initial, truncation=truncation)
    for name, p in layer.named_parameters():
        close(getattr(found, name), p.grad.numpy())
    close(found.inputs, x.grad.numpy())
    for name, s in zip(("h_0", "c_0"), start, strict=False):
        close(getattr(found, name), np.zeros(H) if s.grad is None else s.grad.numpy())
    with pytest.raises(OptionError, match="truncation = 0"):
        gradients(cell, x.detach().numpy(), of_output.numpy(), truncation=0)
