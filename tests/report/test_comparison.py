"""Several runs in one figure; the page and the words are in cli/test_compare.py."""

from __future__ import annotations

from typing import Any

import pytest

from retrograde.report import comparison
from retrograde.report.run import read


@pytest.mark.parametrize(("factor", "axis"), [(20, "linear"), (40, "log")])
def test_losses_that_fall_far_have_a_logarithmic_axis(make_run: Any, factor: int, axis: str) -> None:
    rows = make_run.metrics(3)
    for row, loss in zip(rows, (factor, 2.0, 1.0), strict=True):
        row["validation_loss"] = float(loss)
    runs = [read(make_run(name, metrics=rows)) for name in ("a", "b")]
    (figure,) = next(section.figures for section in comparison.sections(runs) if section.key == "training")
    assert figure.plot.layout.yaxis.type == axis


def test_gradients_by_lag_lie_in_one_figure_with_a_line_at_one_percent(make_run: Any) -> None:
    runs = [read(make_run(name, flow=(which, "trained"))) for name, which in (("a", "trained"), ("b", "untrained"))]
    (figure,) = next(section.figures for section in comparison.sections(runs) if section.key == "by-lag")
    *curves, level = figure.plot.data
    assert [trace.name for trace in curves] == ["A", "B"] and all(len(trace.x) == 30 for trace in curves)
    assert not next(section.warnings for section in comparison.sections(runs) if section.key == "runs")
    assert level.name == "1 %" and list(level.x) == [0, 29] and list(level.y) == [0.01, 0.01]
