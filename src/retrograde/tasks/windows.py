"""What a forecast reads and predicts: windows of series, batches of them, and naive forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.encoding import fill
from ..data.grid import Gap, Regular
from ..data.storage import PIECE, Ragged, Rows
from .task import Batch, Probe

__all__ = ["ForecastBatch", "ForecastPlan", "Windows", "fill_by_season", "naive", "naive_error"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ForecastPlan:
    """What is forecast from what.

    Attributes
    ----------
    horizon, context : int
        Number of steps to forecast, and of steps to read before them.
    season : int
        Number of steps after which the series repeats; 1 for none.
    strategy : {"direct", "autoregressive"}
        Forecast all steps at once after the last step read, or one by one, each read before the next.
    channels, features : int
        Numbers to forecast, and further numbers to read, at each step.
    freq, gaps, duplicates : str
        See `retrograde.data.grid.Regular`.
    base : int or None
        Steps back to the value that the network adds to; None: as many as ``lag``.
    relative : bool
        Whether the network reads channels as differences from the last step read, so that it forecasts a level it has
        never seen as well as others (NLinear; Zeng et al. 2023, arXiv:2205.13504). Only of the direct strategy.
    """

    horizon: int
    context: int
    season: int
    strategy: Literal["direct", "autoregressive"]
    channels: int
    features: int
    freq: str = ""  # as in runs before version 0.2: rows are steps
    gaps: Literal["fill", "split", "error"] = "fill"
    duplicates: Literal["error", "first", "last", "mean"] = "error"
    base: int | None = None  # this and the next: as in runs before version 0.2
    relative: bool = False

    @property
    def regular(self) -> Regular:
        """How times that are not regular are treated."""
        return Regular(self.freq, self.gaps, self.duplicates)

    @property
    def lag(self) -> int:
        """Steps back to the value that an empty cell is filled with: a season, if that many steps are read."""
        return self.season if self.season <= self.context else 1

    @property
    def added_to(self) -> int:
        """Steps back to the value that the network adds to."""
        return self.base or self.lag

    def read(self, past: Any) -> Any:
        """Windows ``(T, B, C + F)`` as the network reads them."""
        if not self.relative:
            return past
        found = past.clone() if isinstance(past, Tensor) else past.copy()
        found[..., : self.channels] -= past[-1:, :, : self.channels]
        return found

    def padding(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of steps that series of these lengths are too short for one window."""
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
        ``(horizon, B, C)``, or ``(T, B, C)`` where every step predicts the next; NaN where nothing was observed.
    base : Tensor
        What outputs are added to, in the shape of the targets.
    """

    base: Tensor

    @property
    def size(self) -> int:
        """Number of observed targets."""
        return int((~self.targets.isnan()).sum())

    def errors(self, outputs: Tensor) -> Tensor:
        """Squared errors of the network's outputs, in the shape of the targets; 0 where nothing was observed."""
        if outputs.dim() == 2:  # all steps at once
            outputs = outputs.view(-1, len(self.targets), self.targets.shape[-1]).transpose(0, 1)
        error: Tensor = self.base + outputs - self.targets.nan_to_num(0.0)
        return error**2 * ~self.targets.isnan()


class Windows:
    """Every run of ``context + horizon`` steps of some series whose horizon lies in a part of the series.

    Parameters
    ----------
    values, truths : Ragged
        Of each series, float32: its numbers, scaled and filled, ``(T, C + F)``; and those of its channels that were
        observed, NaN elsewhere, ``(T, C)``. See `ForecastReader.scaled`.
    padding : array
        Number of these steps that come before the series begins.
    bounds : sequence of (int, int)
        Of each series: where the part begins and ends, without the padding.
    history : bool
        Whether steps before the part may be read.
    gaps : sequence of Gap
        Missing steps; no window may contain one.
    """

    def __init__(
        self,
        plan: ForecastPlan,
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
        """The windows that contain no gap."""
        kept = np.ones(int(self._ends[-1]), dtype=bool)
        starts = self._ends - self._counts
        for gap in gaps:
            # Counted from the start of the first window of the series.
            at = int(padding[gap.series]) + gap.at - int(self._first[gap.series])
            low = max(0, at - self.plan.context - self.plan.horizon + 1)
            high = min(int(self._counts[gap.series]), at + gap.missing)
            kept[starts[gap.series] + low : starts[gap.series] + max(low, high)] = False
        return np.flatnonzero(kept)

    def __len__(self) -> int:
        if self._kept is not None:
            return len(self._kept)
        return int(self._ends[-1]) if len(self._ends) else 0

    def thinned(self, most: int) -> NDArray[np.int64]:
        """Numbers of at most ``most`` windows, spread evenly."""
        return np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(np.int64))

    def owners(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of the series that windows belong to."""
        return np.searchsorted(self._ends, self._numbered(chosen), side="right")

    def _numbered(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of windows among all, including those with gaps."""
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
        """The windows of these numbers as the strategy is trained on them."""
        plan = self.plan
        if plan.strategy == "direct":
            values = self.cut(self.values, chosen, 0, plan.context)
            base = plan.repeated(values[..., : plan.channels], plan.added_to)
            values = plan.read(values)
            truths = self.cut(self.truths, chosen, plan.context)
        else:
            # Step t predicts t + 1, added to the value `added_to` steps before that; the first steps have none.
            values = self.cut(self.values, chosen, 0, plan.context + plan.horizon - 1)
            channels = values[..., : plan.channels]
            base = np.concatenate([channels[: plan.added_to - 1], channels])[: len(channels)]
            truths = self.cut(self.truths, chosen, 1)
            truths[: plan.added_to - 1] = np.nan
        return ForecastBatch(torch.from_numpy(values), torch.from_numpy(truths), torch.from_numpy(base))

    def probe(self, count: int) -> Probe:
        """Windows spread evenly, and the sum of the squared errors of each window or of each step."""
        return self._probe_of(self.batch(self.thinned(count)))

    def _probe_of(self, batch: ForecastBatch) -> Probe:
        summed = (0, 2) if self.plan.strategy == "direct" else (2,)

        def part(rank: int, size: int) -> Probe:
            return self._probe_of(batch.part(rank, size) or batch)

        target = (batch.targets - batch.base).nan_to_num(0.0)
        return Probe((batch.inputs,), lambda outputs: batch.errors(outputs).sum(summed), part=part, target=target)


# --- Naive forecasts: what a network is compared with, and what empty cells are filled with ---------------------------


def fill_by_season(values: Floats, plan: ForecastPlan) -> Floats:
    """Fill empty cells of ``(T, C + F)``: in a channel with the value a season before, else with the one before."""
    if plan.lag > 1 and np.isnan(values).any():
        values = values.copy()
        for place in range(plan.lag):
            values[place :: plan.lag, : plan.channels], _ = fill(values[place :: plan.lag, : plan.channels])
    return fill(values)[0]


def naive(
    past: NDArray[np.float32], observed: NDArray[np.bool_], season: int, horizon: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The last number observed at each place of the season in ``(T, …)``, for the horizon; and where there is one."""
    steps = np.where(observed, np.arange(len(past)).reshape(-1, *[1] * (past.ndim - 1)), -1)
    found, there = [], []
    for step in range(min(season, horizon)):
        places = slice((len(past) + step) % season, None, season)
        latest = steps[places].max(0)
        found.append(np.take_along_axis(past, np.maximum(latest, 0)[None], axis=0)[0])
        there.append(latest >= 0)
    repeat = np.arange(horizon) % season
    return np.stack(found)[repeat], np.stack(there)[repeat]


def naive_error(rows: Rows, start: int, stop: int, plan: ForecastPlan) -> Floats:
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
