"""Gradients below the range of their type: measured correctly, or reported as too small; a true zero stays zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.flow.curves import mean_curves
from retrograde.flow.summary import summarize


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def last(output: Any) -> Tensor:
    return output[0][-1].square().sum(-1)


def pooled(output: Any) -> Tensor:
    return output[0].mean(0).square().sum(-1)


def by_step(output: Any) -> Tensor:
    return output[0].square().sum(-1)


def looks_back(output: Any) -> Tensor:
    """A loss that mixes steps, so that the model's graph is used: E_t depends on its own state and the one before."""
    whole = output[0]
    return (whole + torch.cat([whole[:1], whole[:-1]])).square().sum(-1)


def forgetting(kind: str = "RNN", layers: int = 1, scale: float = 0.35, **options: Any) -> nn.RNNBase:
    layer = getattr(nn, kind)(3, 8, layers, **options)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if "weight_hh" in name:
                weight.mul_(scale)
    return layer


@pytest.mark.parametrize("reduce", ["mean", "median", "none", [0.25, 0.5, 0.75]])
@pytest.mark.parametrize("loss", [last, looks_back, by_step])
@pytest.mark.parametrize("kind, layers", [("RNN", 1), ("GRU", 2), ("LSTM", 1)])
def test_every_norm_is_right_or_said_to_be_too_small(
    kind: str, layers: int, loss: Callable[[Any], Tensor], reduce: Any
) -> None:
    layer = forgetting(kind, layers, 0.2)
    if kind != "RNN":  # gates nearly shut
        with torch.no_grad():
            for name, bias in layer.named_parameters():
                if "bias_ih" in name:
                    bias[8:16] -= 4.0
    x = torch.randn(160, 3, 3)
    flow = rg.gradient_flow(layer, x, loss=loss, reduce=reduce)
    exact = rg.gradient_flow(layer.double(), x.double(), loss=loss, reduce=reduce)
    below = np.zeros(flow.norms.shape, dtype=bool) if flow.below is None else flow.below
    smallest = exact.norms[exact.norms > 0].min()
    assert smallest < 1e-45  # a float32 holds nothing like it
    assert np.isfinite(flow.norms).all()
    np.testing.assert_allclose(flow.norms[~below], exact.norms[~below], rtol=5e-3, atol=0)
    assert (flow.norms[below] == 0).all()
    if below.any():
        assert exact.norms[below].max() < 1e-57
        (note,) = flow.notes
        assert note.startswith(f"{int(below.sum())} of ") and "below the range of float" in note
    else:
        assert flow.notes == []
    curve, true = (np.stack([own.norms for own in mean_curves(one)]) for one in (flow, exact))
    known = np.isfinite(curve) & np.isfinite(true)
    np.testing.assert_allclose(curve[known], true[known], rtol=5e-3)
    np.testing.assert_array_equal(flow.horizon(), exact.horizon())
    assert summarize(flow).kinds == summarize(exact).kinds == ["vanishing"] * layers


def test_what_is_below_the_range_is_no_number_anywhere(tmp_path: Path) -> None:
    layer, x = forgetting(), torch.randn(300, 2, 3)
    flow = rg.gradient_flow(layer, x, loss=last)
    assert flow.below is not None
    curve = flow.by_lag()[0]
    first = int(np.flatnonzero(np.isnan(curve))[0])
    assert np.isnan(curve[first:]).all() and (curve[:first] > 1e-66).all()
    summary = summarize(flow)
    assert "e-4" not in str(summary) and summary.sparkline[0].rstrip() != summary.sparkline[0]
    text = flow._repr_html_()
    assert "below the range of float32" in text
    flow.save(tmp_path / "flow")
    again = rg.flow.GradientFlow.load(tmp_path / "flow")
    np.testing.assert_array_equal(again.below, flow.below)
    np.testing.assert_array_equal(again.by_lag(), flow.by_lag())
    recorder = rg.GradientFlowRecorder(layer, last, every=1, budget=None)
    record = recorder.step(x)
    assert record is not None and record["layers"]["l0"]["by_lag"][-1] is None
    assert any("below the range" in note for note in record["notes"])


def test_a_mean_over_sequences_of_which_some_are_below_the_range() -> None:
    """A short memory next to a long one: norms below the range do not matter where the others are large."""
    rnn = nn.RNN(1, 1, nonlinearity="relu", bias=False)
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(1.0)
        rnn.weight_ih_l0.fill_(1.0)
    scale = torch.tensor([1.0, 1e-3])  # what a step passes on, by sequence

    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.RNNCell(1, 1, nonlinearity="relu", bias=False)
            self.cell.load_state_dict({"weight_ih": rnn.weight_ih_l0, "weight_hh": rnn.weight_hh_l0})

        def forward(self, x: Tensor) -> Tensor:
            h, outputs = x.new_zeros(2, 1), []
            for x_t in x:
                h = self.cell(x_t, h * scale[:, None].to(x.dtype))
                outputs.append(h)
            return torch.stack(outputs)

    x = torch.ones(60, 2, 1)
    flow = rg.gradient_flow(Leaky(), x, loss=lambda o: o[-1].sum(-1))
    np.testing.assert_allclose(flow.by_lag()[0], 0.5 * (1 + 1e-3 ** np.arange(60.0)), rtol=1e-5)
    each = rg.gradient_flow(Leaky(), x, loss=lambda o: o[-1].sum(-1), reduce="none")
    assert each.below is not None and not each.below[..., 0].any() and each.below[0, 0, :30, 1].all()
    assert np.isnan(each.by_lag()[0, -1, 1]) and each.by_lag()[0, -1, 0] == 1
    assert np.isnan(flow.horizon()[0]) and np.isnan(each.horizon()[0])


@pytest.mark.parametrize("loss", [last, pooled, by_step, looks_back])
def test_a_true_zero_stays_zero(loss: Callable[[Any], Tensor]) -> None:
    """Dead units and missing paths, next to large and to small gradients."""
    rnn = nn.RNN(3, 8, nonlinearity="relu")
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(0.3)
        rnn.bias_ih_l0.fill_(0.5)
    x = torch.randn(60, 2, 3)
    x[40] = 0
    with torch.no_grad():
        rnn.weight_ih_l0.abs_()
        rnn.weight_hh_l0.abs_()
        x.abs_()
        x[40] = -100.0  # every unit is dead at step 40: nothing passes it
    flow = rg.gradient_flow(rnn, x, loss=loss)
    assert flow.below is None and flow.notes == []
    if loss is last:
        assert (flow.norms[0, 0, :40] == 0).all() and (flow.norms[0, 0, 41:] > 0).all()
        assert flow.by_lag()[0, -1] == 0
    if loss is by_step:
        assert (flow.norms[0, 59, :40] == 0).all() and (np.triu(flow.norms[0], 1) == 0).all()


def test_half_precision_reaches_as_far_as_it_can() -> None:
    layer, x = forgetting(scale=0.6), torch.randn(60, 2, 3)
    exact = rg.gradient_flow(layer.half().double(), x.half().double(), loss=last)
    flow = rg.gradient_flow(layer.half(), x.half(), loss=last)
    assert flow.below is not None and "float16" in flow.notes[0]
    sure = ~flow.below
    np.testing.assert_allclose(flow.norms[sure], exact.norms[sure], rtol=0.1)
    np.testing.assert_array_equal(flow.horizon(), exact.horizon())


def test_a_hook_that_clips_is_not_measured_with_larger_losses() -> None:
    """A clipped gradient is not proportional to the loss: small norms are marked and not scaled."""
    layer, x = forgetting(), torch.randn(120, 2, 3)

    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> tuple[Tensor]:
            output = self.layer(x)[0]
            output.register_hook(lambda g: g.clamp(-0.01, 0.01))
            return (output,)

    flow = rg.gradient_flow(Clipped(), x, loss=last)
    assert flow.below is not None and flow.norms[flow.norms > 0].min() > 1e-37


def test_numbers_beyond_the_range_are_still_said_to_be() -> None:
    layer = nn.RNN(1, 1, nonlinearity="relu", bias=False)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(3.0)
        layer.weight_ih_l0.fill_(1.0)
    flow = rg.gradient_flow(layer, torch.full((60, 2, 1), 1e-30), loss=lambda o: (o[0][-1] * 1e20).sum(-1))
    assert flow.below is None and "too large for float32" in flow.notes[0] and "float64" in flow.notes[0]
