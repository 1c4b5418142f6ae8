"""How far back the gradient travels in each layer of a network, and in the network as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError
from ..flow import GradientFlow
from ..flow.curves import horizon_of, shares
from ..flow.summary import growth_per_step
from .thresholds import THRESHOLDS

Array = NDArray[np.float64]
EFFORT = 4e9  # multiplications, of all layers together


@dataclass(frozen=True)
class Travel:
    """How far the gradient travels back in a network as a whole: in the layer where it fades the least."""

    layer: str  # label of that layer
    # By lag, what is left of the gradient at the first lag that has one; NaN where not known, 0 below the range.
    lags: Array
    share: Array
    reach: float  # the first lag at which less than 1 % is left (or another fraction); infinite if there is none
    # Factor per lag of the line fitted to the logarithm of the norms; NaN where there are too few.
    per_step: float = math.nan
    # Whether lags count steps of the layer from where the gradient enters it (`GradientFlow.by_entry`).
    entered: bool = False

    def at(self, lag: int) -> float:
        """What is left at a lag, or at the last lag measured before it."""
        known = np.flatnonzero(np.isfinite(self.share[: lag + 1]))
        return float(self.share[known[-1]]) if len(known) else math.nan

    @property
    def growth(self) -> float:
        """The largest share at any lag."""
        return float(np.nanmax(self.share))


def travels_of(flow: GradientFlow, fraction: float = THRESHOLDS.reach_fraction.value) -> list[Travel]:
    """How far back the gradient travels in each layer whose lags are known and that has a gradient."""
    entered = flow.by_entry(EFFORT)
    lags = flow.by_lag() if flow.known_layers else None
    found: list[Travel] = []
    for label in flow.layers:
        if _encodes(flow, label):
            curve = _typical(flow, label)
            reach = horizon_of(curve, fraction)
        elif label in entered:
            curve = entered[label]
            reach = horizon_of(curve, fraction)
        elif lags is not None and label in flow.known_layers:
            i = flow.layer_index(label)
            curve = np.asarray(lags[i])
            reach = float(flow.horizon(fraction)[i])
        else:
            continue
        if not (np.isfinite(curve) & (curve > 0)).any():
            continue
        share = shares(curve)
        share[share > np.finfo(np.float64).max] = np.nan
        lag = np.arange(len(share), dtype=np.float64)
        reach, per_step = math.inf if math.isnan(reach) else reach, growth_per_step(curve)
        found.append(Travel(label, lag, share, reach, per_step, label in entered))
    return found


def travel_of(flow: GradientFlow) -> Travel:
    """How far back the gradient of a network reaches: judged by the layer where it fades the least.

    Raises FlowError if lags are not known of any layer.
    """
    # With a loss per sequence, and in an encoder, the lag of a reverse layer is counted from the wrong end.
    every = travels_of(flow)
    found = [
        own
        for own in every
        if own.entered or not ((flow.final or _encodes(flow, own.layer)) and _is_reverse(flow, own.layer))
    ]
    # What an encoder forgets never comes to the decoder, however long that remembers.
    found = [own for own in found if _encodes(flow, own.layer)] or found
    if not found:
        raise FlowError("No layer has a gradient at a known lag.")
    return max(found, key=lambda own: (own.reach, own.at(len(own.share))))


def _encodes(flow: GradientFlow, label: str) -> bool:
    """Whether a layer is an encoder: all of its steps come before the losses."""
    return flow.alignments[flow.layer_index(label)].kind == "encoder"


def _typical(flow: GradientFlow, label: str) -> Array:
    """The norm by lag in an encoder, as the geometric mean over the pairs of a lag.

    A lag of so many steps is spent in the decoder for one pair, in the encoder for another: where the two fade
    differently, the mean would be of the pairs with the longer way through the one that fades less.
    """
    i = flow.layer_index(label)
    lags = flow.lag(label)[:, : flow.steps[i]]
    norms = np.asarray(flow.norms[i, :, : flow.steps[i]], dtype=np.float64)
    least = np.min(norms, initial=np.inf, where=norms > 0)
    if flow.below is not None:
        norms = np.where(flow.below[i, :, : flow.steps[i]], least, norms)
    there = (norms > 0) & (lags >= 0)
    counts = np.bincount(lags[there])
    sums = np.bincount(lags[there], np.log(norms[there]))
    return np.where(counts > 0, np.exp(sums / np.maximum(counts, 1)), np.nan)


def _is_reverse(flow: GradientFlow, label: str) -> bool:
    return bool(flow.reverse[flow.layer_index(label)])
