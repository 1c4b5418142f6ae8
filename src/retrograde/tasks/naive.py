"""Naive forecasts, with and without a season: what a network is compared with, and what empty cells are filled by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data.encoding import fill
from ..data.storage import PIECE, Rows
from .windows import Plan

__all__ = ["fill_by_season", "naive", "naive_error"]

Floats = NDArray[np.float64]


def fill_by_season(values: Floats, plan: Plan) -> Floats:
    """Empty cells of ``(T, C + F)`` filled: of a channel with the value a season before, else with the one before."""
    if plan.lag > 1 and np.isnan(values).any():
        values = values.copy()
        for place in range(plan.lag):
            values[place :: plan.lag, : plan.channels], _ = fill(values[place :: plan.lag, : plan.channels])
    return fill(values)[0]


def naive(
    past: NDArray[np.float32], observed: NDArray[np.bool_], season: int, horizon: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The last number observed at each place of the season in ``(T, …)``, over the horizon; and where there is one."""
    steps = np.where(observed, np.arange(len(past)).reshape(-1, *[1] * (past.ndim - 1)), -1)
    found, there = [], []
    for step in range(min(season, horizon)):
        places = slice((len(past) + step) % season, None, season)
        latest = steps[places].max(0)
        found.append(np.take_along_axis(past, np.maximum(latest, 0)[None], axis=0)[0])
        there.append(latest >= 0)
    repeat = np.arange(horizon) % season
    return np.stack(found)[repeat], np.stack(there)[repeat]


def naive_error(rows: Rows, start: int, stop: int, plan: Plan) -> Floats:
    """Mean absolute error of the seasonal naive forecast by one step, of each channel of rows ``(T, C + F)``."""
    season = plan.season if stop - start > plan.season else 1
    sums, counts = np.zeros(plan.channels), np.zeros(plan.channels, dtype=np.int64)
    for at in range(start + season, stop, PIECE):
        values = rows[at - season : min(stop, at + PIECE)][:, : plan.channels]
        errors = np.abs(values[season:] - values[:-season])
        known = ~np.isnan(errors)
        sums, counts = sums + np.where(known, errors, 0).sum(0), counts + known.sum(0)
    found = np.divide(sums, counts, out=np.ones(plan.channels), where=counts > 0)
    return np.where(found > 0, found, 1.0)
