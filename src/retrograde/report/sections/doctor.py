"""What hinders the training, by ``doctor.json``: findings with their numbers and figures, and what to change."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..run import RunContents
from ..section import Fact, Figure, Section, Snippet, Table
from ..style import BLUE, GREY, ORANGE, curve, mode_of, plot
from ..words import duration, number

if TYPE_CHECKING:
    from ...doctor import Finding, Prescription
    from ...doctor.findings import Chart

_COLORS, _DASHES = (BLUE, ORANGE, GREY), (None, "dash", "dot")
_MARKUP = str.maketrans({"<": "‹", ">": "›", "&": "+"})  # plotly reads these in a text as markup
_VERDICTS = {
    "sick": "something hinders it",
    "healthy": "nothing hinders it",
    "cannot tell": "the measurements cannot tell",
}


def section(run: RunContents) -> Section | None:
    """The diagnosis; None if there is none."""
    title, found = "Doctor", run.diagnosis
    if found is None:
        why = run.missing.get("doctor.json")
        return Section("doctor", title, [f"The diagnosis cannot be shown: {why}."]) if why else None
    sick = [finding for finding in found.findings if finding.severity == "sick"]
    words = [_told(finding) for finding in found.findings if finding not in sick]
    if not found.findings:
        words.append("No rule of the doctor found anything to remark.")
    if found.prescriptions:
        words.append(
            "What to change is below the figures, the first to try first; a click on a command selects all of it."
        )
    return Section(
        "doctor",
        title,
        words + [f"Note: {note.rstrip('.')}." for note in found.notes],
        [Fact("verdict", found.verdict, _VERDICTS[found.verdict]), Fact("examined in", duration(found.seconds))],
        [_told(finding) for finding in sick],
        [_figure(finding, finding.chart) for finding in found.findings if finding.chart is not None],
        snippets=[_snippet(one) for one in found.prescriptions],
        tables=[_table(finding) for finding in found.findings],
    )


def _told(finding: Finding) -> str:
    title = finding.about.title
    return f"{title[0].upper()}{title[1:]}{_where(finding)}. {finding.about.meaning} Here, {finding.message}"


def _where(finding: Finding) -> str:
    return f" ({finding.where})" if finding.where else ""


def _snippet(one: Prescription) -> Snippet:
    lines = [("On the command line", one.command)] if one.command else []
    lines += [("In Python, for a model that is then trained from the start", one.python)] if one.python else []
    return Snippet(one.remedy, one.arithmetic, lines)


def _table(finding: Finding) -> Table:
    """The numbers, the rule, and what was ruled out."""
    rows = [
        ("rule", finding.rule),
        *((name.replace("_", " "), number(value)) for name, value in finding.numbers.items()),
    ]
    rows += [("ruled out", other) for other in finding.ruled_out]
    rows += [("source", finding.about.source)] if finding.about.source else []
    return Table(f"{finding.about.title}{_where(finding)}", rows)


def _figure(finding: Finding, chart: Chart) -> Figure:
    title = f"{chart.title}{_where(finding)}"
    traces: list[Any] = []
    for i, one in enumerate(chart.curves):
        y = [None if value is None or (chart.log and value <= 0) else value for value in one.y]
        color, dash = _COLORS[i % len(_COLORS)], _DASHES[i // len(_COLORS) % len(_DASHES)]
        hover = f"{_plain(chart.x_label)} %{{x}}<br>%{{y:.3~g}}"
        traces.append(curve(one.x, y, _plain(one.label), color, hover=hover, dash=dash, mode=mode_of(one.x)))
    figure = plot(
        *traces,
        xaxis={"title": {"text": _plain(chart.x_label)}},
        yaxis={
            "title": {"text": _plain(chart.y_label)},
            "type": "log" if chart.log else "linear",
            "exponentformat": "power",
        },
        showlegend=len(chart.curves) > 1,
    )
    marks = {name: at for name, at in chart.marks.items() if math.isfinite(at)}
    for i, (name, at) in enumerate(marks.items()):
        line = {"color": ORANGE, "width": 1.5, "dash": "dash"}
        figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line=line)
        label = {"text": _plain(name), "x": at, "y": 1 - 0.08 * i, "yref": "paper", "xanchor": "left", "xshift": 4}
        figure.add_annotation(label | {"showarrow": False})
    lines = "; ".join(f"{name}: {number(at)}" for name, at in marks.items())
    caption = f"{chart.y_label} by {chart.x_label}." + (f" Vertical lines: {lines}." if lines else "")
    return Figure(figure, title, caption, f"Line chart: {title}. {caption} {finding.message}", _numbers(chart))


def _numbers(chart: Chart) -> Table:
    """Some points of the curves."""
    longest = max((one.x for one in chart.curves), key=len, default=[])
    shown = sorted({round(i * (len(longest) - 1) / 15) for i in range(16)}) if longest else []
    rows = [[number(longest[i]), *(_value(one.y, i) for one in chart.curves)] for i in shown]
    return Table(chart.title, rows, (chart.x_label, *(one.label for one in chart.curves)))


def _value(values: list[float | None], i: int) -> str:
    value = values[i] if i < len(values) else None
    return "—" if value is None else number(value)


def _plain(text: str) -> str:
    return text.translate(_MARKUP)
