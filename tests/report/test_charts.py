"""A chart of the doctor as a figure of the page."""

from __future__ import annotations

import math

from retrograde.doctor.findings import Chart, Curve
from retrograde.report.charts import figure_of


def test_names_of_vertical_lines_are_within_the_figure_one_below_the_other() -> None:
    marks = {"need": 2.0, "reach": 1.0, "unknown": math.nan}
    chart = Chart("Gradient by lag", "lag", "norm", [Curve("l0", [0.0, 1.0, 2.0], [1.0, 0.1, 0.01])], True, marks)
    figure = figure_of(chart, chart.title, "the gradient vanishes")
    labels = figure.plot.layout.annotations
    assert [(one.text, one.x) for one in labels] == [("need", 2.0), ("reach", 1.0)]
    assert 1 >= labels[0].y > labels[1].y + 0.05
    assert "Vertical lines: need: 2; reach: 1." in figure.caption
