"""The summary of a flow: growth, half-life, horizon, verdict."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

import retrograde as rg
from retrograde.flow.curves import shares
from retrograde.flow.summary import sparkline, summarize


def linear_rnn(scale: float, steps: int = 30) -> rg.GradientFlow:
    """The flow of a ReLU layer whose units stay positive, so that every Jacobian is ``scale`` times the identity."""
    torch.manual_seed(0)
    rnn = torch.nn.RNN(2, 3, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.eye(3, dtype=torch.float64) * scale)
        rnn.weight_ih_l0.abs_()
        rnn.bias_ih_l0.fill_(1.0)
        rnn.bias_hh_l0.zero_()
    x = torch.rand(steps, 4, 2, dtype=torch.float64)
    return rg.gradient_flow(rnn, x, loss=lambda output: output[0].sum(-1))


@pytest.mark.parametrize(("scale", "kind"), [(0.7, "vanishing"), (1.0, "steady"), (1.2, "exploding")])
def test_scaled_identity_is_read_exactly(scale: float, kind: str) -> None:
    summary = summarize(linear_rnn(scale))
    assert summary.growth_per_step[0] == pytest.approx(scale, rel=1e-9)
    assert summary.kinds == [kind]
    if scale == 0.7:
        assert summary.half_life[0] == pytest.approx(math.log(2) / -math.log(0.7))
        assert summary.horizon[0] == math.ceil(math.log(0.01) / math.log(0.7))
        assert f"{int(summary.horizon[0])} steps back" in summary.verdict[0]
    if scale == 1.2:
        assert math.isinf(summary.half_life[0])
        assert "explodes" in summary.verdict[0]


def test_nothing_passes_where_w_is_zero() -> None:
    summary = summarize(linear_rnn(0.0))
    assert math.isnan(summary.growth_per_step[0])
    assert "does not pass from step to step" in summary.verdict[0]
    assert summary.sparkline[0].startswith("█")
    assert not summary.sparkline[0][1:].strip()


def test_a_direction_read_at_one_step_only_is_named() -> None:
    """``output[-1]`` of a bidirectional layer is the reverse direction's first step: a classic mistake."""
    lstm = torch.nn.LSTM(2, 4, bidirectional=True)
    flow = rg.gradient_flow(lstm, torch.randn(9, 3, 2), loss=lambda output: output[0][-1].square().sum(-1))
    summary = summarize(flow)
    assert summary.kinds[1] == "local"
    assert (
        summary.verdict[1] == "the gradient does not pass from step to step: only the state 8 steps ahead receives any"
    )
    assert np.isfinite([ratios[1] for _, norms, ratios in summary.rows() if norms[1] > 0]).all()


def test_table_holds_the_measured_norms() -> None:
    flow = linear_rnn(0.7)
    rows = summarize(flow).rows()
    assert rows[0][0] == 0
    assert rows[-1][0] == 29
    for lag, norms, ratios in rows:
        assert norms == [flow.by_lag()[0, lag]]
        assert ratios[0] == pytest.approx(0.7**lag)


def test_a_reverse_layer_looks_ahead_and_the_terminal_form_prints() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(2, 4, num_layers=2, bidirectional=True)
    flow = rg.gradient_flow(lstm, torch.randn(20, 3, 2), loss=lambda output: output[0].square().sum(-1))
    summary = summarize(flow)
    assert len(summary.verdict) == len(summary.sparkline) == len(flow.layers) == 4
    assert "ahead" in summary.verdict[flow.layers.index("l0_reverse")]
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summary)
    text = console.export_text()
    for label, words in zip(flow.layers, summary.verdict, strict=True):
        assert label in text
        assert words.split(";")[0] in text


@pytest.mark.parametrize(("kind", "depth", "width"), [("RNN", 1, 80), ("GRU", 2, 80), ("LSTM", 9, 80), ("LSTM", 3, 40)])
def test_the_terminal_form_fits_its_terminal(kind: str, depth: int, width: int) -> None:
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(2, 4, depth, bidirectional=depth > 2)
    flow = rg.gradient_flow(layer, torch.randn(12, 3, 2), loss=lambda output: output[0].square().sum(-1))
    console = Console(width=500, record=True, file=io.StringIO())
    console.print(summarize(flow), width=width)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    tables = [line.split() for line in lines if line.split()[:1] == ["lag"]]
    assert [name for heads in tables for name in heads if name.startswith("l") and name != "lag"] == flow.layers
    assert ("first" in tables[0]) == (depth <= 2)


def test_sparkline_is_blank_where_there_is_nothing() -> None:
    assert sparkline(np.array([1.0, np.nan, 0.0, 1e-30]))[1:3] == "  "
    assert sparkline(np.array([0.0, np.nan, 0.0])) == "   "
    assert sparkline(np.ones(5)) == "█████"
    assert len(sparkline(np.ones(500), 20)) == 20


@pytest.mark.parametrize(
    ("scale", "steps", "kind", "words"),
    [
        (
            1.002,
            500,
            "growing",
            "grows: ×1.002 per step back, doubling every 347 steps; 499 steps back it is 2.71 times",
        ),
        (1.0005, 500, "steady", "is steady: 499 steps back it is 128 % of its first value"),
        (1.02, 400, "exploding", "explodes: ×1.02 per step back, doubling every 35 steps"),
        (0.998, 500, "vanishing", "fades: ×0.998 per step back, halving every 346 steps"),
        (0.9, 500, "vanishing", "vanishes: ×0.9 per step back"),
    ],
)
def test_a_slow_growth_is_called_by_what_it_comes_to(scale: float, steps: int, kind: str, words: str) -> None:
    flow = linear_rnn(scale, steps)
    summary = summarize(flow)
    assert summary.kinds == [kind]
    assert words in summary.verdict[0]
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summary)
    assert f"×{scale:g}" in console.export_text() and f"×{scale:g}" in flow._repr_html_()
    assert f"×{scale:g} per step back" in flow.plot_heatmap().get_title("left").replace("\n", " ")


def test_a_curve_that_was_never_that_high_does_not_explode() -> None:
    """Growth of the fitted line counts only as far as the norm was measured to grow."""
    curve = np.array([[1.0, 1.0, 1.0, 1e-3, 1.0, 50.0]])
    flow = linear_rnn(1.0, 6)
    flow.norms = np.zeros_like(flow.norms)
    for lag, norm in enumerate(curve[0]):
        flow.norms[0, range(lag, 6), range(6 - lag)] = norm
    assert summarize(flow, fraction=1e-4).kinds == ["growing"]


def test_everything_begins_at_the_first_lag_that_has_any() -> None:
    """A loss that depends only on the state two steps before: horizon, shares and table agree on where 100 % is."""
    torch.manual_seed(0)
    rnn = torch.nn.RNN(2, 4)
    flow = rg.gradient_flow(
        rnn, torch.randn(30, 3, 2), loss=lambda o: torch.cat([0 * o[0][:2], o[0][:-2]]).square().sum(-1)
    )
    curve = flow.by_lag()[0]
    assert (curve[:2] == 0).all() and curve[2] > 0
    left = shares(curve)
    assert left[2] == 1 and (left[:2] == 0).all()
    assert flow.horizon(0.01)[0] == 2 + np.flatnonzero(left[2:] < 0.01)[0]
    assert {lag: ratios[0] for lag, _, ratios in summarize(flow).rows()}[2] == 1


def with_curve(curve: np.ndarray) -> rg.GradientFlow:
    """A flow with these mean norms by lag."""
    flow = linear_rnn(1.0, len(curve))
    flow.norms = np.zeros_like(flow.norms)
    for lag, norm in enumerate(curve):
        flow.norms[0, range(lag, len(curve)), range(len(curve) - lag)] = norm
    return flow


def test_growth_is_fitted_to_thirty_decades() -> None:
    curve = np.array([1.0, 1e-1, 1e-2, 1e-3, *(1e-3 * 100.0 ** -np.arange(1, 14)), 1e-33, 1e-33, 1e-33])
    expected = np.exp(np.polyfit(np.arange(17), np.log(curve[:17]), 1)[0])
    assert summarize(with_curve(curve)).growth_per_step[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "kind"),
    [(1.9, "steady"), (2.1, "growing"), (95.0, "growing"), (105.0, "exploding"), (1 / 2.1, "vanishing")],
)
def test_the_limits_of_a_verdict_are_a_factor_of_2_and_of_100(change: float, kind: str) -> None:
    assert summarize(linear_rnn(change ** (1 / 29))).kinds == [kind]


def test_a_gradient_that_grows_beyond_what_a_line_is_fitted_to_explodes() -> None:
    summary = summarize(with_curve(np.array([1e-200, 1e-100, 1.0])))
    assert summary.kinds == ["exploding"] and np.isnan(summary.growth_per_step[0])


def test_a_gradient_of_which_only_a_part_is_below_the_range_vanishes() -> None:
    torch.manual_seed(0)
    rnn = torch.nn.RNN(2, 3)
    torch.nn.init.orthogonal_(rnn.weight_hh_l0, 0.01)
    flow = rg.gradient_flow(rnn, torch.randn(60, 2, 2), loss=lambda output: output[0][-1].sum(-1))
    summary = summarize(flow)
    assert flow.below is not None and flow.below.any() and summary.kinds == ["vanishing"]
    assert "too small to be measured" not in summary.verdict[0]


def test_a_sparkline_has_twelve_decades() -> None:
    assert sparkline(np.array([1.0, 1e-6, 1e-12, 1e-20])) == "█▅▁▁"


def test_a_gradient_that_keeps_a_fifth_is_not_drawn_as_one_that_vanishes() -> None:
    assert set(sparkline(np.geomspace(1, 0.2, 30), 20)) == {"█", "▇", "▆"}
    assert sparkline(np.geomspace(1, 1e-3, 30), 20).endswith("▁")


def test_of_several_quantiles_the_middle_one_is_summarized() -> None:
    torch.manual_seed(0)
    rnn, x = torch.nn.RNN(2, 4), torch.randn(12, 5, 2)
    flow, median = (
        rg.gradient_flow(rnn, x, loss=lambda o: o[0].square().sum(-1), reduce=reduce)
        for reduce in ([0.1, 0.5, 0.9], "median")
    )
    assert np.array_equal(summarize(flow).curves, summarize(median).curves, equal_nan=True)
    assert (flow.horizon() == median.horizon()).all()


def test_steps_without_a_loss_do_not_count_in_the_mean() -> None:
    torch.manual_seed(0)
    rnn, x = torch.nn.RNN(2, 4), torch.randn(10, 3, 2)
    live = [1, 4, 8, 9]
    mask = torch.zeros(10, 1).index_fill(0, torch.tensor(live), 1.0)
    flow, chosen = (
        rg.gradient_flow(rnn, x, loss=lambda o: o[0].square().sum(-1) * mask, targets=targets)
        for targets in (None, live)
    )
    np.testing.assert_allclose(flow.by_lag()[:, :10], chosen.by_lag()[:, :10], rtol=1e-6)


def test_a_table_has_at_most_twelve_rows_and_then_round_lags() -> None:
    assert summarize(linear_rnn(0.9, 12)).lags() == list(range(12))
    assert summarize(linear_rnn(0.9, 30)).lags() == [0, 1, 2, 5, 10, 20, 29]


def test_a_horizon_that_was_not_reached_is_beyond_the_last_lag() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summarize(linear_rnn(1.0)).measures())
    assert "beyond 29 steps" in console.export_text()


@pytest.mark.parametrize(("curve", "steep"), [(0.5 ** np.arange(20.0), False), (np.r_[1.0, np.full(30, 1e-3)], True)])
def test_a_steep_beginning_is_said(curve: np.ndarray, steep: bool) -> None:
    assert ("steeply at first" in summarize(with_curve(curve)).verdict[0]) == steep


def test_numbers_of_a_layer_are_ready_for_json() -> None:
    summary = summarize(linear_rnn(1.2))
    numbers = summary.numbers(0)
    assert numbers["growth_per_step"] == pytest.approx(1.2) and numbers["kind"] == "exploding"
    assert numbers["half_life"] is None and numbers["horizon"] is None  # infinite, beyond the last lag
    assert numbers["by_lag"] == summary.curves[0].tolist()
    assert summary.numbers(0, digits=3)["by_lag"] == [float(f"{norm:.3g}") for norm in summary.curves[0]]
    assert "NaN" not in json.dumps(numbers)
