"""The sections of the page, one a file, in reading order.

A section is a function ``section(run) -> Section | None`` (None: it has no place in a run of this task).
It reads the run, computes nothing new, and says in words what is missing. To add one, write its file
next to these and name it in `SECTIONS`.

Tests: `tests/report/test_write.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..run import RunContents
from ..section import Section
from . import (
    by_lag,
    configuration,
    doctor,
    forecasts,
    gradient_norms,
    heatmap,
    proof,
    recorded,
    results,
    sample,
    search,
    signal,
    training_curve,
    truncation,
    verdict,
)

__all__ = ["SECTIONS"]

SECTIONS: list[Callable[[RunContents], Section | None]] = [
    verdict.section,
    results.section,
    forecasts.section,
    sample.section,
    training_curve.section,
    search.section,
    doctor.section,
    proof.section,
    heatmap.section,
    by_lag.section,
    signal.section,
    truncation.section,
    gradient_norms.section,
    recorded.section,
    configuration.section,
]
