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
        if label in entered:
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
    # With a loss per sequence, the lag of a reverse layer is counted from the wrong end.
    found = [own for own in travels_of(flow) if own.entered or not (flow.final and _is_reverse(flow, own.layer))]
    if not found:
        raise FlowError("No layer has a gradient at a known lag.")
    return max(found, key=lambda own: (own.reach, own.at(len(own.share))))


def _is_reverse(flow: GradientFlow, label: str) -> bool:
    return bool(flow.reverse[flow.layer_index(label)])
