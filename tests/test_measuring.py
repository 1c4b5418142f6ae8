"""Rules that every measurement of a model follows (`retrograde.measuring`); see also flow/test_isolation.py."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde import measuring
from retrograde.errors import FlowError, OptionError


def test_random_states_are_restored_also_after_an_error():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    devices = [torch.device("cpu"), torch.device("meta")]  # the first is kept anyway, the second has no state
    with pytest.raises(ZeroDivisionError), measuring.random_states_kept(devices):
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        raise ZeroDivisionError
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.parametrize(
    ("module", "drops"),
    [
        (nn.Dropout(0.5), True),
        (nn.Dropout(0.0), False),
        (nn.LSTM(2, 3, num_layers=2, dropout=0.1), True),
        (nn.LSTM(2, 3, num_layers=2), False),
        (nn.Linear(2, 3), False),
    ],
)
def test_a_note_says_what_happens_to_dropout(module, drops):
    off, on = measuring.dropout_notes([module], False), measuring.dropout_notes([module], True)
    assert bool(off) == bool(on) == drops
    if drops:
        assert "eval mode" in off[0] and "one random mask" in on[0]


def test_tensors_without_values_are_named():
    measuring.check_values([torch.zeros(2)], [nn.Linear(2, 2)])
    layer = nn.Linear(2, 2, device="meta")
    with pytest.raises(FlowError, match="weight of Linear is on the device 'meta'"):
        measuring.check_values(layer.parameters(), [layer])
    with pytest.raises(FlowError, match="An input is on the device 'meta'"):
        measuring.check_values([torch.zeros(2, device="meta")], [nn.Linear(2, 2)])


def test_a_loss_and_what_it_returns_are_checked():
    measuring.check_loss(len)
    with pytest.raises(OptionError, match="loss is str; give a function"):
        measuring.check_loss("mse")
    losses = torch.zeros(3)
    assert measuring.differentiable_losses(losses, "a tensor") is losses
    with pytest.raises(FlowError, match="loss returned list; expected a tensor of losses"):
        measuring.differentiable_losses([1.0], "a tensor of losses")
    with pytest.raises(FlowError, match=r"torch\.bool; expected floating-point numbers: numbers of other types"):
        measuring.differentiable_losses(losses > 0, "a tensor")
    with pytest.raises(FlowError, match=r"torch\.complex64.* such as \.abs"):
        measuring.differentiable_losses(losses + 1j, "a tensor")


def test_tensorfloat_is_off_only_while_a_gradient_is_checked():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    seen = []

    class Looking(torch.nn.Linear):
        def forward(self, x):
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            return super().forward(x)

    try:
        assert rg.check_gradients(Looking(2, 2), torch.ones(3, 2)).ok
        assert set(seen) == {("highest", False)}
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32 == before[1]
    finally:
        torch.set_float32_matmul_precision(before[0])


@pytest.fixture
def other_default_device():
    """As after ``torch.set_default_device("cuda")``: a tensor that a measurement makes must say where it lies."""
    yield lambda: torch.set_default_device("meta")
    torch.set_default_device("cpu")


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, rg.nn.LSTM])
def test_measurements_do_not_depend_on_the_default_device(kind, other_default_device):
    torch.manual_seed(0)
    layer, x = kind(3, 4, 2), torch.randn(9, 16, 3)

    def measured() -> list[object]:
        flow = rg.gradient_flow(layer, x, loss=lambda output: output[0].square().mean(-1))
        need = rg.flow.need_of(layer, [(x, x[..., 0])], lambda output, y: (output[0][..., 0] - y).square()).need
        diagnosis = rg.diagnose(layer, [(x, x[..., 0])], lambda output, y: (output[0][..., 0] - y).square())
        recorder = rg.GradientFlowRecorder(layer, lambda output: output[0].square().mean(-1), every=1, budget=None)
        recorder.step(x)
        weight = flow.weight()
        return [
            flow.norms,
            flow.share_by_lag(weight),
            flow.pair_contributions(weight).share,
            flow.jacobian_norms(),
            flow.lyapunov_exponents(),
            flow.saturation().derivative_by_step,
            flow.signal_by_lag().z,
            need or -1,
            len(diagnosis.findings),
            rg.check_gradients(layer, x, entries=2).ok,
            len(recorder.records),
        ]

    expected = measured()
    other_default_device()
    for found, known in zip(measured(), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-6)


@pytest.mark.parametrize("kind", [rg.nn.GRU, rg.nn.LSTM])
def test_layers_start_stream_and_step_whatever_the_default_device(kind, other_default_device):
    layer, x = kind(3, 4), torch.randn(5, 1, 3)
    other_default_device()
    rg.nn.initialize(layer, recurrent="orthogonal", chrono=20)
    stream = layer.stream()
    expected = layer(x)[0][:, 0]
    torch.testing.assert_close(torch.stack([stream(step[0]) for step in x]), expected)
    torch.testing.assert_close(layer.trace(x).output[:, 0], expected)
