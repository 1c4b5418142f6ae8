"""What a forecast reads and puts out: windows of series, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.grid import Gap, Regular
from ..data.storage import Ragged
from .task import Batch

__all__ = ["ForecastBatch", "Plan", "Windows"]


@dataclass(frozen=True)
class Plan:
    """What is forecast from what.

    Attributes
    ----------
    horizon, context : int
        Steps forecast, and steps read before them.
    season : int
        Steps after which the series repeats; 1 for none.
    strategy : {"direct", "autoregressive"}
        All steps of the horizon put out at once after the last step read, or one by one, each read before the next.
    channels, features : int
        Numbers forecast, and further numbers read, at each step.
    freq, gaps, duplicates : str
        See `retrograde.data.grid.Regular`.
    """

    horizon: int
    context: int
    season: int
    strategy: Literal["direct", "autoregressive"]
    channels: int
    features: int
    freq: str = ""  # as runs before version 0.2 have it: rows are steps
    gaps: Literal["fill", "split", "error"] = "fill"
    duplicates: Literal["error", "first", "last", "mean"] = "error"

    @property
    def regular(self) -> Regular:
        """What is done about times that are not regular."""
        return Regular(self.freq, self.gaps, self.duplicates)

    @property
    def lag(self) -> int:
        """How far back the value lies that the network adds to: a season, if that much is read."""
        return self.season if self.season <= self.context else 1

    def padding(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps that series of these lengths lack for one window."""
        return np.maximum(0, self.context + self.horizon - lengths)

    def repeated(self, past: Any, lag: int) -> Any:
        """The last ``lag`` steps of ``(T, …)`` repeated over the horizon: ``(horizon, …)``."""
        last = past[len(past) - lag :]
        return last[np.arange(self.horizon) % lag]


@dataclass(frozen=True)
class ForecastBatch(Batch):
    """Windows side by side, scaled.

    Attributes
    ----------
    inputs : Tensor
        ``(T, B, C + F)``: channels first, then features.
    targets : Tensor
        ``(horizon, B, C)``, or ``(T, B, C)`` where every step puts out the next; NaN where the series has none.
    base : Tensor
        What outputs are added to, in the shape of the targets.
    """

    base: Tensor

    @property
    def size(self) -> int:
        """How many numbers it trains to forecast."""
        return int((~self.targets.isnan()).sum())


class Windows:
    """Every stretch of ``context + horizon`` steps of some series, of which at least the horizon lies in a part.

    Parameters
    ----------
    values, truths : Ragged
        Of each series, float32: its numbers, scaled and filled, ``(T, C + F)``; and those of its channels that were
        observed, NaN elsewhere, ``(T, C)``. See `ForecastModel.scaled`.
    padding : array
        How many of these steps come before the series begins.
    bounds : sequence of (int, int)
        Of each series: where the part begins and ends, without the padding.
    history : bool
        Whether what comes before the part may be read.
    gaps : sequence of Gap
        Missing steps, over which no window may reach.
    """

    def __init__(
        self,
        plan: Plan,
        values: Ragged,
        truths: Ragged,
        padding: NDArray[np.int64],
        bounds: Sequence[tuple[int, int]],
        history: bool,
        gaps: Sequence[Gap] = (),
    ) -> None:
        self.plan, self.values, self.truths = plan, values, truths
        begin, end = np.array(bounds, dtype=np.int64).reshape(-1, 2).T
        begin, end = np.where(begin > 0, begin + padding, 0), end + padding
        # At least one of the steps read is real.
        self._first = np.maximum(begin - (plan.context if history else 0), padding - plan.context + 1).clip(0)
        self._counts = np.maximum(0, end - plan.context - plan.horizon + 1 - self._first)
        self._ends = np.cumsum(self._counts)
        self._kept = self._without(gaps, padding) if gaps else None

    def _without(self, gaps: Sequence[Gap], padding: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows that reach over none of some gaps."""
        kept = np.ones(int(self._ends[-1]), dtype=bool)
        starts = self._ends - self._counts
        for gap in gaps:
            at = (
                int(padding[gap.series]) + gap.at - int(self._first[gap.series])
            )  # as windows of the series are counted
            low = max(0, at - self.plan.context - self.plan.horizon + 1)
            high = min(int(self._counts[gap.series]), at + gap.missing)
            kept[starts[gap.series] + low : starts[gap.series] + max(low, high)] = False
        return np.flatnonzero(kept)

    def __len__(self) -> int:
        if self._kept is not None:
            return len(self._kept)
        return int(self._ends[-1]) if len(self._ends) else 0

    def thinned(self, most: int) -> NDArray[np.int64]:
        """Numbers of at most so many windows, spread evenly."""
        return np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(np.int64))

    def owners(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of the series that windows belong to."""
        return np.searchsorted(self._ends, self._numbered(chosen), side="right")

    def _numbered(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of windows among all, those that reach over gaps included."""
        return chosen if self._kept is None else self._kept[chosen]

    def cut(
        self, part: Ragged, chosen: NDArray[np.int64], begin: int = 0, end: int | None = None
    ) -> NDArray[np.float32]:
        """Steps of windows side by side, ``(T, B, …)``: of ``values`` or ``truths``, from ``begin`` to ``end``."""
        end = self.plan.context + self.plan.horizon if end is None else end
        owners = self.owners(chosen)
        place = self._numbered(chosen) - (self._ends - self._counts)[owners]
        start = part.starts[owners] + self._first[owners] + place
        held = part.rows.in_memory
        if held is not None:
            found: NDArray[np.float32] = held.take(start + np.arange(begin, end)[:, None], axis=0)
            return found
        return np.stack([part.rows[at + begin : at + end] for at in start.tolist()], axis=1)

    def batch(self, chosen: NDArray[np.int64]) -> ForecastBatch:
        """The windows of these numbers, as the strategy learns from them."""
        plan = self.plan
        if plan.strategy == "direct":
            values = self.cut(self.values, chosen, 0, plan.context)
            base = plan.repeated(values[..., : plan.channels], plan.lag)
            truths = self.cut(self.truths, chosen, plan.context)
        else:
            # Step t puts out t + 1, added to the value a season before that; the first steps have none.
            values = self.cut(self.values, chosen, 0, plan.context + plan.horizon - 1)
            channels = values[..., : plan.channels]
            base = np.concatenate([channels[: plan.lag - 1], channels])[: len(channels)]
            truths = self.cut(self.truths, chosen, 1)
            truths[: plan.lag - 1] = np.nan
        return ForecastBatch(torch.from_numpy(values), torch.from_numpy(truths), torch.from_numpy(base))
