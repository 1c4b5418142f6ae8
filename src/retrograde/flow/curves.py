"""One curve a layer, the norm by lag: where it begins, what share of that is left, and where it ends.

Everything that is said of a curve (the horizon, the summary, the pictures, the report) begins at the same lag: the
first that has any gradient. That is lag 0, unless the loss does not look at its own step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .underflow import mean_of_known

if TYPE_CHECKING:
    from .result import GradientFlow

__all__ = ["below", "first", "first_lag", "horizon", "mean_curves", "of_layer", "shares", "smallest"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def first_lag(curve: Array) -> int | None:
    """The first lag that has any gradient; None if none has.

    >>> first_lag(np.array([np.nan, 0.0, 0.5, 0.1])), first_lag(np.zeros(3))
    (2, None)
    """
    reached = np.flatnonzero(np.isfinite(curve) & (curve > 0))
    return int(reached[0]) if len(reached) else None


def first(curve: Array) -> float:
    """The norm at the first lag that has any; NaN if none has."""
    lag = first_lag(curve)
    return float("nan") if lag is None else float(curve[lag])


def shares(curve: Array) -> Array:
    """Each norm as a share of the first: 1 where the curve begins, 0 before.

    >>> shares(np.array([0.0, 0.5, 0.25])).tolist()
    [0.0, 1.0, 0.5]
    """
    return np.where(curve == 0, 0.0, curve / first(curve))


def horizon(curve: Array, lost: Mask, fraction: float, least: float) -> float:
    """The first lag from which on less than ``fraction`` of the first norm is left; NaN if there is none.

    ``lost`` are the lags whose norm is below the range of the type, under ``least``, the smallest known.
    """
    start = first_lag(curve)
    if start is None:
        return float("nan")
    limit = fraction * curve[start]
    under = np.isfinite(curve) & (curve < limit)
    if limit >= least:
        under |= lost
    after = np.flatnonzero(under[start:])
    return float(start + after[0]) if len(after) else float("nan")


def smallest(flow: GradientFlow, i: int) -> float:
    """The smallest norm of a layer; one that is below the range is smaller still."""
    near = flow.by_distance[i] if flow.by_distance else None
    every = [flow.norms[i]] if near is None else [flow.norms[i], near]
    return min(float(np.min(own, initial=np.inf, where=own > 0)) for own in every)


def below(flow: GradientFlow, i: int) -> Mask:
    """Which norms of a layer are below the range, `(targets, steps, …)`."""
    steps = flow.steps[i]
    if flow.below is None:
        return np.zeros(flow.norms[i, :, :steps].shape, dtype=bool)
    return flow.below[i, :, :steps]


def of_layer(flow: GradientFlow, i: int) -> tuple[Array, Mask]:
    """Norms by lag, mean over t, of one layer `(lags, …)`; and at which lags some are below the range.

    NaN where no pair has that lag, and where what is below the range could change the mean.
    """
    steps, own, near = flow.steps[i], flow.alignments[i], flow.by_distance[i] if flow.by_distance else None
    if near is not None:
        values = near[:, :steps]
        delay = own.delay if own.delay is not None else np.zeros(len(values), dtype=np.int64)
        lag = delay[:, None] + np.arange(steps)[None, :]
        lost = np.isneginf(values)
        lag = np.where((np.isfinite(values) | lost).reshape(*lag.shape, -1).any(-1), lag, -1)
    else:
        values, lost = flow.norms[i, :, :steps], below(flow, i)
        lag = np.where((flow.sequences > 0)[:, None], own.lags(steps)[..., 0], -1)
    values, lost = values.reshape(lag.size, -1), lost.reshape(lag.size, -1)
    at = lag.ravel()
    longest = int(at.max(initial=0)) + 1
    least = smallest(flow, i)
    found, unknown = np.full((longest, values.shape[1]), np.nan), np.zeros((longest, values.shape[1]), dtype=bool)
    for j, (column, missing) in enumerate(zip(values.T, lost.T, strict=True)):
        counted = (at >= 0) & ~((near is not None) & np.isnan(column))
        here = at[counted]
        number = np.bincount(here, minlength=longest)
        total = np.bincount(here, np.where(missing, 0.0, column)[counted], minlength=longest)
        few = np.bincount(here, missing[counted], minlength=longest)
        found[:, j], unknown[:, j] = mean_of_known(total, number, few, least), few > 0
    tail = flow.norms.shape[3:]
    return found.reshape(longest, *tail), unknown.reshape(longest, *tail)


def mean_curves(flow: GradientFlow) -> tuple[Array, Mask]:
    """``by_lag`` as one curve a layer, mean over sequences or middle quantile; and where that is below the range."""
    curves = flow.by_lag()
    unknown = np.zeros(curves.shape, dtype=bool)
    for i, own in enumerate(flow.alignments):
        if own.kind != "refused":
            lost = of_layer(flow, i)[1]
            unknown[i, : len(lost)] = lost
    unknown &= np.isnan(curves)
    if curves.ndim == 2:
        return curves, unknown
    if flow.reduce != "none":
        middle = curves.shape[-1] // 2
        return np.asarray(curves[..., middle]), np.asarray(unknown[..., middle])
    number = (~np.isnan(curves) | unknown).sum(-1)  # sequences that end earlier have no value at the far lags
    lost = unknown.sum(-1)
    least = np.array([smallest(flow, i) for i in range(len(curves))])[:, None]
    found = mean_of_known(np.nan_to_num(curves, nan=0.0).sum(-1), number, lost, least)
    return found, (lost > 0) & np.isnan(found)
