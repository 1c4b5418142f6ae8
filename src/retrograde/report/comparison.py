"""Several runs next to each other: what they were trained with, how far they came, and how their gradients travel.

A run is called by a letter, in tables and figures alike; the first table says which folder it is. Numbers that mean
different things (losses of different tasks, data or tokens) are not put into one figure, and the words say why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np

from ..cells import find
from .run import FRACTION, RunContents, real
from .section import Figure, Section, TextTable
from .sections.configuration import shown
from .style import BLUE, GREY, ORANGE, curve, level, mode_of, plot, share_left_axis
from .words import count, duration, listing, number, share, times

_COLORS, _DASHES = (BLUE, ORANGE, GREY), (None, "dash", "dot", "dashdot")
_ROWS = 12  # of a figure's table


def sections(runs: Sequence[RunContents]) -> list[Section]:
    """All sections of a comparison of two or more runs."""
    named = dict(zip(_letters(len(runs)), runs, strict=True))
    return [_overview(named), _metrics(named), _curves(named), _differences(named), _reach(named), _signals(named)]


def _letters(n: int) -> list[str]:
    return [ascii_uppercase[i] if n <= len(ascii_uppercase) else f"R{i + 1}" for i in range(n)]


def _look(i: int) -> dict[str, Any]:
    return {"color": _COLORS[i % len(_COLORS)], "dash": _DASHES[i // len(_COLORS) % len(_DASHES)]}


# --- Which runs, and what they were trained with ----------------------------------------------------------------------


def _overview(runs: dict[str, RunContents]) -> Section:
    rows = []
    for name, run in runs.items():
        options, outcome = run.config.options, run.outcome
        cell = find(options.cell, options.nonlinearity).words
        size = f"{cell}, {count(options.num_layers)} x {count(options.hidden_size)}"
        steps, seconds = real(outcome.step), real(outcome.seconds)
        cells = [count(steps) if math.isfinite(steps) else "—", duration(seconds) if math.isfinite(seconds) else "—"]
        rows.append([name, str(run.folder), run.config.task, size, outcome.status, *cells])
    bad = {name: run.outcome.message for name, run in runs.items() if run.outcome.status == "diverged"}
    warnings = [f"{name} diverged: {why or 'no reason was kept'}" for name, why in bad.items()]
    words = [f"{name}: {part}: {reason}." for name, run in runs.items() for part, reason in _gaps(run)]
    table = TextTable("The runs", rows, ("", "folder", "task", "network", "status", "steps", "time"))
    return Section("runs", "The runs", words, warnings=warnings, tables=[table])


def _gaps(run: RunContents) -> list[tuple[str, str]]:
    """What is damaged or missing, apart from what has a section of its own."""
    return [(part, why) for part, why in sorted(run.missing.items()) if part in ("metrics.jsonl", "summary.json")]


def _differences(runs: dict[str, RunContents]) -> Section:
    every = {name: _settings(run) for name, run in runs.items()}
    keys = list(dict.fromkeys(key for settings in every.values() for key in settings))
    rows = [[key, *(settings.get(key, "—") for settings in every.values())] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return Section("differences", "Configuration", ["The runs have the same options and data."])
    table = TextTable("What differs", rows, ("", *runs))
    return Section("differences", "Configuration", ["Options that are the same are left out."], tables=[table])


def _settings(run: RunContents) -> dict[str, str]:
    own = {key.replace("_", " "): shown(value) for key, value in run.config.options.as_dict().items()}
    content = (run.config.data.fingerprint or "—").removeprefix("sha256:")[:12]
    about = {"data": run.config.data.source, "content of the data": content}
    return about | own | {"parameters": shown(run.config.parameters), "retrograde": shown(run.config.version)}


# --- How far they came ------------------------------------------------------------------------------------------------


def _groups(runs: dict[str, RunContents]) -> list[dict[str, RunContents]]:
    """Runs whose losses mean the same."""
    found: dict[tuple[object, ...], dict[str, RunContents]] = {}
    for name, run in runs.items():
        tokens = run.config.options.tokens if run.task.predicts_tokens else None
        key = (run.config.task, tokens, run.config.data.fingerprint or run.config.data.source)
        found.setdefault(key, {})[name] = run
    return list(found.values())


def _apart(runs: dict[str, RunContents]) -> list[str]:
    """Why not all losses can be compared; empty if they can."""
    groups = _groups(runs)
    if len(groups) == 1:
        return []
    first = [next(iter(group.values())) for group in groups]
    what: dict[str, set[str]] = {
        "tasks": {run.config.task for run in first},
        "kinds of tokens": {run.config.options.tokens for run in first if run.task.predicts_tokens},
        "data": {run.config.data.fingerprint or run.config.data.source for run in first},
    }
    why = listing([name for name, values in what.items() if len(values) > 1])
    alike = [f"of {listing(list(group))}" for group in groups if len(group) > 1]
    only = f"only {listing(alike)} can be compared" if alike else "none can be compared"
    return [f"The runs have different {why}: of their losses and metrics, {only}."]


def _metrics(runs: dict[str, RunContents]) -> Section:
    scores = {name: {key: run.outcome.scores.get(key) for key in run.outcome.best} for name, run in runs.items()}
    keys = list(dict.fromkeys(key for own in scores.values() for key in own))
    words = _apart(runs)
    if not keys:
        return Section("metrics", "Metrics", [*words, "None of the runs has metrics."])
    rows = [[key.replace("_", " "), *(_number(scores[name].get(key)) for name in runs)] for key in keys]
    baselines = list(dict.fromkeys(base for run in runs.values() for base in run.baselines))
    rows += [[f"loss of {base}", *(_number(run.baseline(base)) for run in runs.values())] for base in baselines]
    rows.append(["at step", *(_number(run.outcome.best_step) for run in runs.values())])
    goals = [run.outcome.goal for run in runs.values()]
    if any(goals):
        rows.append(["solved", *("—" if goal is None else "yes" if goal.solved else "no" for goal in goals)])
    table = TextTable("Of the held-out part, with the best weights", rows, ("", *runs))
    return Section("metrics", "Metrics", words, tables=[table])


def _number(value: object) -> str:
    return "—" if math.isnan(real(value)) else number(real(value), 4)


def _curves(runs: dict[str, RunContents]) -> Section:
    words = [f"{name} has no evaluation to draw." for name, run in runs.items() if not run.metrics]
    places = {name: i for i, name in enumerate(runs)}
    groups = [{name: run for name, run in group.items() if run.metrics} for group in _groups(runs)]
    figures = [_loss(group, places) for group in groups if group]
    return Section("training", "Training curves", words, figures=figures)


def _loss(runs: dict[str, RunContents], places: dict[str, int]) -> Figure:
    traces, rows, ends, every = [], [], [], list[float]()
    for name, run in runs.items():
        losses = run.series(lambda line: line.loss)
        every += [loss for loss in losses if math.isfinite(loss) and loss > 0]
        hover = f"{name}, step %{{x:,}}<br>loss %{{y:.4f}}"
        traces.append(curve(run.steps, losses, name, hover=hover, mode=mode_of(run.steps), **_look(places[name])))
        known = [(step, loss) for step, loss in zip(run.steps, losses, strict=True) if math.isfinite(loss)]
        ends += [f"{name} ends at {number(known[-1][1], 4)}"] if known else []
        for step, loss in [known[i] for i in _thinned(len(known))]:
            rows.append([name, count(step), number(loss, 4)])
    steep = bool(every) and max(every) > 30 * min(every)
    tasks = {run.config.task for run in runs.values()}
    figure = plot(
        *traces,
        xaxis={"title": {"text": "training step"}, "tickformat": ",", "rangemode": "tozero"},
        yaxis={"title": {"text": "loss of held-out data"}, "type": "log" if steep else "linear"},
    )
    return Figure(
        figure,
        f"Loss of held-out data: {listing(list(runs))}",
        f"Task {listing(sorted(tasks))}. Lower is better.",
        f"Line chart of the loss by training step. {'; '.join(ends)}.",
        TextTable("Loss at some steps", rows, ("", "step", "loss")),
    )


def _thinned(n: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, _ROWS))}) if n else []


# --- How their gradients travel ---------------------------------------------------------------------------------------


def _reach(runs: dict[str, RunContents]) -> Section:
    title = "How far back the gradient reaches"
    words, measured = [], {}
    for name, run in runs.items():
        if "trained" in run.flows:
            measured[name] = run
        else:
            words.append(f"{name} has no gradient flow: {run.missing.get('flow/trained', 'it was not measured')}.")
    if not measured:
        return Section("by-lag", title, words)
    rows = []
    for name, run in measured.items():
        for layer, lag in run.horizons["trained"].items():
            window = f"more than {times(run.flows['trained'].norms.shape[-1], 'step')}"
            rows.append([name, layer, times(lag, "step") if math.isfinite(lag) else window])
    tables = [TextTable("Until 1 % of the gradient is left", rows, ("", "layer", "lag"))]
    layers = list(dict.fromkeys(layer for run in measured.values() for layer in run.layers))
    figures = [_by_lag(measured, layers, {name: i for i, name in enumerate(runs)})]
    return Section("by-lag", title, words, figures=figures, choices=layers, tables=tables)


def _by_lag(runs: dict[str, RunContents], layers: list[str], places: dict[str, int]) -> Figure:
    from ..flow.curves import shares  # brings torch, which runs without a flow do not wait for

    traces: list[Any] = []
    lowest = highest = 1.0
    longest = 1
    for name, run in runs.items():
        for layer, norms in zip(run.layers, run.curves["trained"], strict=True):
            left = shares(norms)
            seen = left[np.isfinite(left) & (left > 0)]
            if seen.size:
                lowest, highest = min(lowest, float(seen.min())), max(highest, float(seen.max()))
            longest = max(longest, len(left))
            hover = f"{name}, lag %{{x}}<br>%{{y:.3~g}} of the first"
            more: dict[str, Any] = {"meta": {"choice": layers.index(layer)}, "mode": mode_of(left, 2)}
            y = np.where(left > 0, left, np.nan)
            traces.append(curve(np.arange(len(left)), y, name, hover=hover, **_look(places[name]), **more))
    traces.append(level(longest - 1, FRACTION, "1 %", width=1, dash=None))
    axis, cut = share_left_axis(lowest, highest)
    xaxis = {"title": {"text": "lag: steps back from the loss"}, "rangemode": "tozero"}
    return Figure(
        plot(*traces, height=400, xaxis=xaxis, yaxis=axis),
        "Share of the gradient left, by lag",
        "Of the trained networks. A line that crosses 1 % earlier belongs to a network that can hardly learn from "
        "anything further back." + cut,
        "Line chart of the share of the gradient left by lag, of each run; the table has the lags of 1 %.",
    )


def _signals(runs: dict[str, RunContents]) -> Section:
    title = "What the data asks for"
    words = [
        f"{name}: the signal by lag was not measured (retrograde flow RUN --signal)."
        if "signal.json" not in run.missing
        else f"{name}: the signal by lag cannot be shown: {run.missing['signal.json']}."
        for name, run in runs.items()
        if run.signal is None
    ]
    rows, traces = [], []
    for i, (name, run) in enumerate(runs.items()):
        if run.signal is None:
            continue
        asked, left = run.signal.asked, run.signal.left
        ends = [lag for lag in run.signal.reach.values() if math.isfinite(lag)]
        cells = ["none" if n is None else times(n, "step") for n in (asked.need, left.need)]
        error = real(left.error_share)
        reach = times(max(ends), "step") if ends else "beyond the sequence"
        rows.append([name, cells[0], reach, cells[1], share(error) if math.isfinite(error) else "—"])
        for signal in asked.layers[:1]:
            x, y = (signal.first + signal.last) / 2, np.nan_to_num(signal.consistency).clip(min=0)
            traces.append(curve(x, y, name, hover=f"{name}, lag %{{x}}<br>%{{y:.2%}}", **_look(i)))
    if not rows:
        return Section("signal", title, words)
    columns = ("", "the data asks for", "the gradient reaches", "left to learn up to", "error left")
    figure = Figure(
        plot(
            *traces,
            xaxis={"title": {"text": "lag: steps back from the loss"}, "rangemode": "tozero"},
            yaxis={"title": {"text": "consistency"}, "tickformat": ".2~%", "rangemode": "tozero"},
        ),
        "Consistency of the gradient over sequences, by lag",
        "Of the untrained networks (their lowest layer): high where the targets depend on what happened so many steps "
        "before. Runs on the same data should agree.",
        "Line chart of the consistency by lag of each run; the table has the longest lag with a signal.",
    )
    return Section("signal", title, words, figures=[figure], tables=[TextTable("Memory", rows, columns)])
