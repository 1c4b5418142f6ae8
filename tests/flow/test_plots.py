"""``plots.py`` and ``layer_plots.py``: given or new axes, the flow's numbers, a title that states the finding."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

import retrograde as rg
from retrograde.errors import FlowError
from retrograde.flow.activation import pre_activations
from retrograde.flow.plots import _east_asian_fonts

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def measured(kind: str, *, final: bool = False, steps: int = 16, **options: object) -> rg.GradientFlow:
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(3, 8, **options)
    x = torch.randn(steps, 4, 3)
    if final:
        return rg.gradient_flow(layer, x, loss=lambda output: output[0][-1].square().sum(-1))
    return rg.gradient_flow(layer, x, loss=lambda output: output[0].square().sum(-1))


FLOWS: dict[str, Callable[[], rg.GradientFlow]] = {
    "relu, last step": lambda: measured("RNN", final=True, nonlinearity="relu"),
    "gru, two ways": lambda: measured("GRU", bidirectional=True, num_layers=2),
    "lstm with projection": lambda: measured("LSTM", proj_size=3),
    "one step": lambda: measured("LSTM", steps=2),
}
PLOTS = ["heatmap", "by_lag", "shares", "truncation", "spectrum", "gates", "activation"]


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("name", FLOWS)
def test_draws_on_given_and_new_axes(name: str, plot: str) -> None:
    flow = FLOWS[name]()
    draw = getattr(flow, f"plot_{plot}")
    if plot == "gates" and flow.cells[0] == "rnn":
        with pytest.raises(FlowError, match="vanilla RNN"):
            draw()
        return
    figure = Figure()
    given = figure.add_subplot(1, 2, 2)
    assert draw(ax=given) is given
    new = draw()
    by_hand = Figure().add_axes((0.2, 0.2, 0.7, 0.6))
    assert draw(by_hand) is by_hand
    for ax in (given, new, by_hand):
        assert isinstance(ax, Axes)
        assert len(ax.get_title(loc="left")) > 20
    given.figure.draw_without_rendering()  # laid out in full, without the cost of pixels


def test_shares_are_those_of_the_flow_and_add_up_to_one() -> None:
    flow = measured("LSTM")
    ax = flow.plot_shares(parameter="weight_ih_l0", gate="f")
    total = next(line for line in ax.lines if line.get_label() == "sum up to the lag")
    heights = sorted(patch.get_height() for patch in ax.patches)
    expected = flow.share_by_lag("weight_ih_l0", "f")
    assert np.allclose(heights, sorted(expected[: len(heights)]))
    assert total.get_ydata()[-1] == pytest.approx(1, abs=0.002)
    assert "weight_ih_l0, gate f" in ax.get_title(loc="left")


def test_shares_name_the_lags_that_matter() -> None:
    torch.manual_seed(0)
    rnn = torch.nn.RNN(2, 4, dtype=torch.float64)
    torch.nn.init.orthogonal_(rnn.weight_hh_l0, 3.0)  # nearly linear at this input: every step back counts more
    x = torch.randn(20, 2, 2, dtype=torch.float64) * 1e-12
    with torch.no_grad():
        rnn.bias_ih_l0.zero_()
        rnn.bias_hh_l0.zero_()
    flow = rg.gradient_flow(rnn, x, loss=lambda output: output[0][-1].sum(-1))
    title = flow.plot_shares(parameter="weight_ih_l0").get_title(loc="left")
    first, last = (int(n) for n in re.search(r"lags (\d+) to (\d+)", title).groups())  # type: ignore[union-attr]
    assert first > 10
    assert last == 19
    assert "weight_ih_l0: 90 % of the gradient comes from lags" in title
    whole = flow.plot_shares(parameter="weight_ih_l0", fraction=1.0).get_title(loc="left")
    assert "weight_ih_l0: 100 % of the gradient comes from lags" in whole


def test_shares_of_a_layer_that_looks_ahead_leave_out_empty_paper() -> None:
    flow = measured("LSTM", steps=60, num_layers=2, bidirectional=True)
    found = flow.contributions("weight_hh_l0")
    assert found.lags is not None
    assert found.lags[0] < -40
    ax = flow.plot_shares()
    low, high = ax.get_xlim()
    kept = (found.lags >= low) & (found.lags <= high)
    assert low > -40
    assert low < 0
    assert np.abs(found.share[~kept]).sum() < 0.005


def test_truncation_marks_the_shortest_length() -> None:
    flow = measured("RNN")
    shortest = flow.truncation().shortest(0.95)
    ax = flow.plot_truncation(fraction=0.95)
    assert f"L = {shortest}" in [text.get_text() for text in ax.texts]
    title = " ".join(ax.get_title(loc="left").split())
    assert title.startswith(f"{shortest} of 16 steps keep 95 %")
    assert "95 %" in title


def test_spectrum_shows_what_theory_gives() -> None:
    torch.manual_seed(0)
    rnn = torch.nn.RNN(2, 5, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.eye(5, dtype=torch.float64) * 1.1)
        rnn.weight_ih_l0.abs_()
        rnn.bias_ih_l0.fill_(1.0)
        rnn.bias_hh_l0.zero_()
    x = torch.rand(12, 2, 2, dtype=torch.float64)
    flow = rg.gradient_flow(rnn, x, loss=lambda output: output[0].sum(-1))
    ax = flow.plot_spectrum()
    points = next(line for line in ax.lines if len(line.get_xdata()) == 5)
    assert np.allclose(points.get_ydata(), np.log(1.1))
    assert any(np.allclose(line.get_ydata(), np.log(1.1)) for line in ax.lines if line is not points)  # the bound
    assert ax.get_axisbelow() is True  # grid lines are behind the points
    assert "5 of 5 directions grow" in ax.get_title(loc="left")
    logs = flow.plot_spectrum(what="singular")
    points = next(line for line in logs.lines if len(line.get_xdata()) == 5)
    assert np.allclose(points.get_ydata(), 11 * np.log10(1.1))
    with pytest.raises(FlowError, match="lyapunov"):
        flow.plot_spectrum(what="eigen")  # type: ignore[arg-type]


def test_spectrum_counts_directions_that_die() -> None:
    rnn = torch.nn.RNN(2, 4)
    torch.nn.init.zeros_(rnn.weight_hh_l0)
    flow = rg.gradient_flow(rnn, torch.randn(6, 2, 2), loss=lambda output: output[0].sum(-1))
    assert "every direction becomes exactly zero" in flow.plot_spectrum().get_title(loc="left")
    assert "nothing" in flow.plot_spectrum(what="singular").get_title(loc="left")


def test_gates_show_every_unit_and_the_forget_time() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 8)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
        lstm.bias_ih_l0[8:16] = 4.0
    flow = rg.gradient_flow(lstm, torch.randn(10, 2, 3), loss=lambda output: output[0].sum(-1) + 0)
    ax = flow.plot_gates()
    tau = -1 / np.log(1 / (1 + np.exp(-4.0)))
    assert f"units remember {tau:.2g} steps" in " ".join(ax.get_title(loc="left").split())
    assert sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "o") == 3 * 8
    assert "100 %" in [text.get_text() for text in ax.texts]  # f = 0.98: all above 0.9
    assert all(0 < text.get_position()[0] < 1 for text in ax.texts), "inside the axes"


def test_activation_shows_the_arguments_of_f() -> None:
    flow = measured("GRU")
    ax = flow.plot_activation()
    panel = next(other for other in ax.figure.axes if other is not ax)
    values = pre_activations(flow._run("l0"))
    low, high = panel.get_xlim()
    inside = 100 * ((values >= low) & (values <= high)).mean()
    bars = [patch.get_height() for patch in panel.patches if patch.get_height() != 1 and patch.get_width() < 1]
    assert sum(bars) == pytest.approx(inside)
    assert f"{100 * flow.saturation().saturated:.3g} %" in ax.get_title(loc="left")


def test_arguments_of_f_beyond_the_axis_are_counted_below_it() -> None:
    torch.manual_seed(0)
    rnn = torch.nn.RNN(1, 4)
    x = torch.zeros(600, 1, 1)
    x[300] = 1e4  # 4 arguments of 2,400, more than the thousandth that may lie outside
    flow = rg.gradient_flow(rnn, x, loss=lambda output: output[0].sum(-1))
    ax = flow.plot_activation()
    panel = next(other for other in ax.figure.axes if other is not ax)
    values = pre_activations(flow._run("l0"))
    outside = 100 * (np.abs(values) > panel.get_xlim()[1]).mean()
    assert outside > 0 and f"{outside:.2g} % outside the axis" in panel.get_xlabel()


def test_no_gradient_is_said_rather_than_drawn() -> None:
    lstm = torch.nn.LSTM(2, 4)
    flow = rg.gradient_flow(lstm, torch.randn(5, 2, 2), loss=lambda output: output[0].sum(-1) * 0)
    for ax in (flow.plot_shares(), flow.plot_truncation()):
        assert "no gradient" in ax.get_title(loc="left")
        (words,) = ax.texts
        left, bottom = ax.transAxes.inverted().transform(words.get_window_extent().min)
        right, top = ax.transAxes.inverted().transform(words.get_window_extent().max)
        assert words.get_text() == "the gradient is zero" and 0 < left < right < 1 and 0 < bottom < top < 1
    assert "no gradient" in flow.plot_heatmap().get_title(loc="left")


@pytest.mark.parametrize("name", FLOWS)
def test_notebook_and_terminal_forms(name: str) -> None:
    import matplotlib.pyplot as plt

    flow = FLOWS[name]()
    html = flow._repr_html_()
    assert not plt.get_fignums()  # else the notebook would show the picture twice
    picture = re.search(r'base64,([^"]+)"', html)
    assert picture is not None
    assert base64.b64decode(picture[1]).startswith(b"\x89PNG")
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(flow)
    text = console.export_text()
    for label in flow.layers:
        assert label in html
        assert label in text
    assert "…" not in text
    assert "\n" not in repr(flow)
    assert "gradient" in str(flow)


def test_a_direction_that_keeps_its_size_does_not_grow() -> None:
    rnn = torch.nn.RNN(2, 3, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.eye(3))
        rnn.weight_ih_l0.abs_()
        rnn.bias_ih_l0.fill_(1.0)
        rnn.bias_hh_l0.zero_()
    flow = rg.gradient_flow(rnn, torch.rand(6, 2, 2).double(), loss=lambda output: output[0].sum(-1))
    assert "no direction grows" in flow.plot_spectrum().get_title(loc="left")


def test_the_signal_is_drawn_next_to_the_reach_of_the_gradient() -> None:
    torch.manual_seed(0)
    x, rnn, head = torch.randn(20, 200, 1), torch.nn.RNN(1, 16), torch.nn.Linear(16, 1)
    flow = rg.gradient_flow(rnn, x, loss=lambda output: (1e-3 * head(output[0][-1]) - x[8]).square().sum(-1))
    ax = flow.plot_signal()
    assert ax.get_title("left").startswith("l0: a signal up to lag 11; its gradient reaches ")
    assert len(ax.patches) == 20
    noise = torch.randn(200)
    flow = rg.gradient_flow(rnn, x, loss=lambda output: (1e-3 * head(output[0][-1])[:, 0] - noise).square())
    assert "no signal at any lag, in 200 sequences" in flow.plot_signal(bins=5).get_title("left")
    short = rg.gradient_flow(rnn, x[-4:], loss=lambda output: (1e-3 * head(output[0][-1])[:, 0] - noise).square())
    ticks = short.plot_signal().get_xticks()
    assert np.array_equal(ticks, np.round(ticks))  # lags are whole


class TwoLayers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("循环层", torch.nn.GRU(3, 4))
        self.add_module("第二层", torch.nn.GRU(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x, _ = layer(x)
        return x


@pytest.mark.skipif(not _east_asian_fonts(), reason="no font with Chinese is installed")
def test_names_of_layers_in_chinese_are_drawn(recwarn: pytest.WarningsRecorder) -> None:
    flow = rg.gradient_flow(TwoLayers(), torch.randn(6, 2, 3), loss=lambda output: output.square().sum(-1))
    for ax in (flow.plot_by_lag(), flow.plot_heatmap(layer=0)):
        ax.figure.savefig(io.BytesIO(), format="png")
        assert "循环层" in " ".join(one.get_text() for one in ax.findobj(mpl.text.Text))
    assert [str(one.message) for one in recwarn if "Glyph" in str(one.message)] == []
