"""The norm by lag, one curve per layer: where it begins, what share of that is left, and where it ends.

Horizon, summary, plots and report all begin at the first lag that has a gradient: lag 0, unless the loss does not
depend on its own step.

Tests: `tests/flow/test_underflow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .underflow import mean_of_known

if TYPE_CHECKING:
    from .result import GradientFlow

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
    """A layer's norms by lag `(lags,)`, the lags whose norm is below the range, and the smallest norm known."""

    norms: Array
    lost: Mask
    smallest: float

    @property
    def start(self) -> int | None:
        """The first lag that has a gradient."""
        return first_lag(self.norms)

    def horizon(self, fraction: float) -> float:
        """The first lag at which less than ``fraction`` of the first norm is left; NaN if there is none."""
        if self.start is None:
            return float("nan")
        limit = fraction * self.norms[self.start]
        under = np.isfinite(self.norms) & (self.norms < limit)
        if limit >= self.smallest:
            under |= self.lost
        after = np.flatnonzero(under[self.start :])
        return float(self.start + after[0]) if len(after) else float("nan")


def horizon_of(norms: Array, fraction: float) -> float:
    """The horizon of norms by lag of which none is below the range."""
    return Curve(norms, np.zeros(len(norms), dtype=bool), 0.0).horizon(fraction)


def first_lag(curve: Array) -> int | None:
    """The first lag that has a gradient; None if there is none.

    >>> first_lag(np.array([np.nan, 0.0, 0.5, 0.1])), first_lag(np.zeros(3))
    (2, None)
    """
    reached = np.flatnonzero(np.isfinite(curve) & (curve > 0))
    return int(reached[0]) if len(reached) else None


def first(curve: Array) -> float:
    """The norm at the first lag that has a gradient; NaN if there is none."""
    lag = first_lag(curve)
    return float("nan") if lag is None else float(curve[lag])


def shares(curve: Array) -> Array:
    """Each norm as a share of the first one: 1 where the curve begins, 0 before.

    >>> shares(np.array([0.0, 0.5, 0.25])).tolist()
    [0.0, 1.0, 0.5]
    """
    return np.where(curve == 0, 0.0, curve / first(curve))


def smallest(flow: GradientFlow, i: int) -> float:
    """The smallest norm of a layer that is known."""
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


def mean_curves(flow: GradientFlow) -> list[Curve]:
    """One curve per layer: the mean over sequences, or the middle quantile; all NaN where lags are not known."""
    every = [None if own.kind == "refused" else of_layer(flow, i) for i, own in enumerate(flow.alignments)]
    longest = max((len(found[0]) for found in every if found is not None), default=1)
    curves = []
    for i, found in enumerate(every):
        norms, lost = (
            np.full((longest, *flow.norms.shape[3:]), np.nan),
            np.zeros((longest, *flow.norms.shape[3:]), bool),
        )
        if found is not None:
            norms[: len(found[0])], lost[: len(found[1])] = found
        lost &= np.isnan(norms)
        least = smallest(flow, i)
        if norms.ndim == 2 and flow.reduce != "none":
            norms, lost = norms[:, norms.shape[1] // 2], lost[:, lost.shape[1] // 2]
        elif norms.ndim == 2:
            number = (~np.isnan(norms) | lost).sum(-1)  # shorter sequences have no value at large lags
            few = lost.sum(-1)
            norms = mean_of_known(np.nan_to_num(norms, nan=0.0).sum(-1), number, few, least)
            lost = (few > 0) & np.isnan(norms)
        curves.append(Curve(norms, lost, least))
    return curves
