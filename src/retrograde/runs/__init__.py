"""The run folder: what training leaves behind, typed; who may write to it, and how much of it is read.

>>> from retrograde.runs import RunFolder
>>> RunFolder("runs/first").config().options.cell  # doctest: +SKIP
'lstm'
"""

from __future__ import annotations

from .folder import RunFolder, digest
from .records import (
    FORMAT,
    Backtest,
    BacktestRow,
    Config,
    DataDescription,
    Forecast,
    Goal,
    Metrics,
    Part,
    Results,
    Scores,
    SearchedTrial,
    Summary,
    interval,
    not_better_than,
)

__all__ = [
    "FORMAT",
    "Backtest",
    "BacktestRow",
    "Config",
    "DataDescription",
    "Forecast",
    "Goal",
    "Metrics",
    "Part",
    "Results",
    "RunFolder",
    "Scores",
    "SearchedTrial",
    "Summary",
    "digest",
    "interval",
    "not_better_than",
]
