"""The whole gradient through time: ‖∂E_t/∂s_k‖ for every pair of steps."""

from __future__ import annotations

import base64
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from ..run import RunContents
from ..section import Figure, Section
from ..style import BLUE, GREY, curve, mode_of, plot
from ..words import count, number

if TYPE_CHECKING:
    from ...flow import GradientFlow

_DECADES = 8  # colors span at most so many powers of ten below the largest value
_CELLS = 500_000  # in all heat maps: that many make a page of at most 1.5 MB
_NO_PATH, _ZERO, _INFINITE, _NAN = 32767, 32766, 32765, 32764  # codes that are no logarithm; page.js knows them too
_TITLES = {"trained": "Trained", "untrained": "Before training"}
_CAPTIONS = {
    "trained": "The network after training.",
    "untrained": "The same network with the weights it began with, on the same color scale.",
}

_LOOKS: dict[str, dict[str, Any]] = {"trained": {"color": BLUE}, "untrained": {"color": GREY, "dash": "dot"}}

_READING = (
    "Each cell is one pair of moments: how strongly the error at step t (row) pulls on the state of the network at "
    "step k (column), ‖∂Eₜ/∂sₖ‖. Start on the diagonal, where k = t, and go left, back in time. Bright far from the "
    "diagonal: the network feels, and can learn from, what happened long ago. Dark right next to it: the gradient has "
    "vanished. The scale is logarithmic: each step of it is a factor of ten. Click a cell to follow its path."
)
_ONE_ERROR = (
    "There is one error per sequence, at its end. The curve is how strongly that error pulls on the state of the "
    "network at step k, ‖∂E/∂sₖ‖. Start at the right end and go left, back in time. High far to the left: the network "
    "feels, and can learn from, how the sequence began. The scale is logarithmic: each step of it is a factor of ten."
)

Norms = npt.NDArray[np.float64]


def section(run: RunContents) -> Section:
    """The heat maps, trained and untrained side by side, on one color scale per layer."""
    title = "The gradient through time"
    if not run.flows:
        why = run.missing.get("flow/trained", "it was not measured")
        return Section("heat-map", title, [f"There is no gradient flow in this run: {why}."])
    first = next(iter(run.flows.values()))
    words = [_ONE_ERROR if first.final else _READING]
    if any(first.reverse):
        words.append("A layer named _reverse reads the sequence from its end: go right instead of left.")
    words += [
        f"The {name} network is missing here: {run.missing[f'flow/{name}']}."
        for name in _TITLES
        if name not in run.flows
    ]
    if first.final:
        return Section("heat-map", title, words, figures=[_curves(run.flows)], path=_path(run), choices=run.layers)
    scales = [_scale([flow.norms[i] for flow in run.flows.values()]) for i in range(len(run.layers))]
    every = -(-sum(flow.norms.size for flow in run.flows.values()) // _CELLS)
    if every > 1:
        words.append(f"Of every {count(every)} errors one is shown, so that the page stays small.")
    figures = [_figure(name, flow, scales, every) for name, flow in run.flows.items()]
    return Section("heat-map", title, words, figures=figures, path=_path(run), choices=run.layers)


def _path(run: RunContents) -> Figure:
    """The norms along one row, back from the error to the state that is chosen; page.js fills in the numbers."""
    traces = [curve([], [], _TITLES[name], hover="norm %{y:.3g}", **_LOOKS[name]) for name in run.flows]
    axis = {"title": {"text": "‖∂Eₜ/∂sₖ‖"}, "type": "log", "exponentformat": "power"}
    return Figure(
        plot(*traces, height=300, xaxis={"title": {"text": "state at step k"}}, yaxis=axis, hovermode="x"),
        "The path of one gradient",
        "The gradient of one error on its way back to the state chosen (shaded). Between two states lies one Jacobian; "
        "its factor is what the norm is multiplied by on this step, and the product of the factors is the share left.",
        "Line chart of the gradient norm at each step of the path; the words above it and the table below have the "
        "numbers.",
    )


def _way(flow: GradientFlow, layer: int, rows: slice = slice(None)) -> dict[str, Any]:
    """For page.js: the column where the path of each row starts (−1: nowhere), its direction, and whether it is one."""
    lag = flow.lag(layer)[rows, : flow.steps[layer]]
    ahead = np.where(lag < 0, np.iinfo(np.int64).max, lag)
    start = np.where((lag < 0).all(1), -1, ahead.argmin(1))
    mixed = flow.alignments[layer].by_sequence  # then the norms of a row are of losses at different steps
    return {"choice": layer, "start": start.tolist(), "back": 1 if flow.reverse[layer] else -1, "mixed": mixed}


def pack(norms: Norms, no_path: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A matrix of norms as small as a page wants it, no cell left out.

    Each cell becomes one 16-bit code, log10 of the norm in steps of ``unit`` (so fine that for values within
    1e±80 it is right to 0.3 %). Each code less the one to its left, low bytes first and then high bytes, which
    compresses best, is deflated and written in base64. Zeros where `no_path` leads are left blank.
    """
    rows, columns = norms.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(norms)
    usual = np.isfinite(logs)
    unit = max(0.0025, float(np.abs(logs[usual]).max(initial=0)) / 32_000)
    codes = np.zeros(norms.shape, dtype=np.int16)
    codes[usual] = np.round(logs[usual] / unit).astype(np.int16)
    codes[norms == 0] = _ZERO
    codes[(norms == 0) & no_path] = _NO_PATH
    codes[np.isposinf(norms)] = _INFINITE
    codes[np.isnan(norms)] = _NAN
    steps = np.diff(codes, axis=1, prepend=np.int16(0)).astype("<i2")  # modulo 2^16, and so are the sums of page.js
    split = np.ascontiguousarray(steps).view(np.uint8).reshape(-1, 2).T.tobytes()
    data = base64.b64encode(zlib.compress(split, 9)).decode("ascii")
    return {"rows": rows, "columns": columns, "unit": unit, "deflated": data}


def _scale(matrices: list[Norms]) -> tuple[float, float, bool]:
    """Decades where the colors of one layer begin and end, and whether anything lies below."""
    values = np.concatenate([matrix.ravel() for matrix in matrices])
    shown = values[np.isfinite(values) & (values > 0)]
    if not shown.size:
        return -1.0, 0.0, False
    top, least = math.log10(float(shown.max())), math.log10(float(shown.min()))
    bottom = max(least, math.floor(top) - _DECADES)
    return (bottom if bottom < top else top - 1), top, least < bottom


def _curves(flows: dict[str, GradientFlow]) -> Figure:
    """Where there is one error: what a heat map of one row would show, as curves."""
    traces, beyond, below_range = [], 0, 0
    for name, flow in flows.items():
        for choice, count_of_steps in enumerate(flow.steps):
            norms = np.asarray(flow.norms[choice, 0, :count_of_steps], dtype=np.float64)
            lost = np.zeros(len(norms), bool) if flow.below is None else flow.below[choice, 0, :count_of_steps]
            beyond, below_range = beyond + int(np.count_nonzero(~np.isfinite(norms))), below_range + int(lost.sum())
            shown = np.where(np.isfinite(norms) & (norms > 0) & ~lost, norms, np.nan)
            logs = [None if np.isnan(value) else round(float(np.log10(value)), 4) for value in shown]
            look = _LOOKS[name] | {"meta": _way(flow, choice) | {"logs": [logs]}, "mode": mode_of(shown)}
            hover = "state at step k = %{x}<br>norm %{y:.3g}"
            traces.append(curve(np.arange(len(shown)), shown, _TITLES[name], hover=hover, **look))
    axis = {"title": {"text": "‖∂E/∂sₖ‖"}, "type": "log", "exponentformat": "power"}
    broken = f" {count(beyond)} values are too large to be measured." if beyond else ""
    broken += f" {count(below_range)} values are too small to be measured: they have no point." if below_range else ""
    return Figure(
        plot(*traces, xaxis={"title": {"text": "state at step k"}}, yaxis=axis),
        "From the error back to every step",
        f"Point at a curve to read its value, click it to follow the gradient; a value of 0 has no point.{broken}",
        "Line chart of the gradient norm at each step, trained and untrained; the section on how far back the gradient "
        "reaches gives the same in numbers.",
    )


def _figure(name: str, flow: GradientFlow, scales: list[tuple[float, float, bool]], every: int) -> Figure:
    rows = slice((len(flow.targets) - 1) % every, None, every)  # the last error is one of them
    traces, floors, beyond, below_range = [], [], 0, 0
    for choice, (bottom, top, below) in enumerate(scales):
        norms = np.asarray(flow.norms[choice, rows, : flow.steps[choice]], dtype=np.float64)
        beyond += int(np.count_nonzero(~np.isfinite(norms)))
        if flow.below is not None:
            lost = flow.below[choice, rows, : flow.steps[choice]]
            below_range += int(lost.sum())
            norms = np.where(lost, np.nan, norms)
        floors.append(10**bottom if below else 0.0)
        ahead = flow.lag(choice)[rows, : flow.steps[choice]] < 0  # a loss does not depend on states yet to come
        traces.append(
            go.Heatmap(
                y=_rows(flow.targets[rows]),
                name=_TITLES[name],
                meta=_way(flow, choice, rows) | {"packed": pack(norms, np.broadcast_to(ahead, norms.shape))},
                zmin=bottom,
                zmax=top,
                colorscale="Viridis",
                hoverongaps=False,
                hovertemplate="error at step t = %{y}<br>state at step k = %{x}<br>norm %{customdata}<extra></extra>",
                colorbar=_color_bar(bottom, top, below) | {"y": -0.16},
            )
        )
    figure = plot(
        *traces,
        height=490,
        margin={"l": 62, "r": 12, "t": 34, "b": 48},
        xaxis={"title": {"text": "state at step k"}, "constrain": "domain", "showgrid": False},
        yaxis={
            "title": {"text": "error at step t"},
            "autorange": "reversed",
            "scaleanchor": "x",
            "constrain": "domain",
            "showgrid": False,
        },
    )
    floor = f" Values below {number(max(floors), 1)} share the darkest color." if any(floors) else ""
    broken = f" {count(beyond)} values are too large to be measured." if beyond else ""
    broken += (
        f" {count(below_range)} values are too small to be measured: their cells are blank." if below_range else ""
    )
    return Figure(
        figure,
        _TITLES[name],
        f"{_CAPTIONS[name]} Point at a cell to read its value, click it to follow its path.{floor}{broken}",
        f"Heat map of the gradient norm of the {name} network for each pair of steps; "
        "the section on how far back the gradient reaches gives the same in numbers.",
    )


def _rows(targets: npt.NDArray[np.int64]) -> list[Any]:
    """The step t of each row, as numbers while they are evenly spaced (plotly then draws exact cells)."""
    steps = targets.tolist()
    if len(steps) < 2:
        return list(map(str, steps))
    return steps if len(set(np.diff(steps).tolist())) == 1 else list(map(str, steps))


def _color_bar(bottom: float, top: float, below: bool) -> dict[str, Any]:
    decades = range(math.ceil(bottom), math.floor(top) + 1)
    ticks: list[float] = list(decades[:: max(1, len(decades) // 4)])
    names = [f"10<sup>{tick}</sup>" for tick in ticks]
    if len(ticks) < 2:  # less than a decade of range: name both ends
        ticks, names = [bottom, top], [number(10**bottom, 2), number(10**top, 2)]
    elif below:  # then the scale begins at a whole decade, its first tick
        names[0] = f"≤ {names[0]}"
    return {
        "orientation": "h",
        "yanchor": "top",
        "thickness": 10,
        "len": 0.9,
        "outlinewidth": 0,
        "tickvals": ticks,
        "ticktext": names,
    }
