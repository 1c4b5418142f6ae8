"""What a forecast reads and predicts: windows of series, batches of them, and naive forecasts.

Tests: `tests/tasks/test_forecast_windows.py`, `tests/tasks/test_forecast.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.encoding import fill
from ..data.grid import Gap, Regular
from ..data.storage import PIECE, Ragged, Rows
from ..errors import DataError
from .quantiles import levels_of, pinball
from .task import Batch, Examples

Floats = NDArray[np.float64]


class Past(NamedTuple):
    """What forecasts are made from, side by side, scaled. Arrays of NumPy, or tensors."""

    values: Any  # ``(context, B, C + F + K)``: channels, features, and features that are known ahead
    ahead: Any  # ``(horizon, B, K)``: these at the steps to come
    static: Any  # ``(B, S)``: what is the same at all steps of a series
    # ``(context, B, C)``: which numbers of the channels were observed; left out where no naive forecast needs it
    observed: NDArray[np.bool_] = np.empty(0, bool)


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
    known, static : int
        Features that are known at the steps to come too, and features of a whole series.
    quantiles : str or None
        As in ``--quantiles``.
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
    base: int | None = None  # this and the following: as in runs before version 0.2
    relative: bool = False
    known: int = 0
    static: int = 0
    quantiles: str | None = None

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

    @property
    def levels(self) -> tuple[float, ...]:
        """Levels of the quantiles that the network puts out; none: only the number that is forecast."""
        return levels_of(self.quantiles)

    @property
    def width(self) -> int:
        """Numbers at each step of a table of series: channels, features, and those known ahead."""
        return self.channels + self.features + self.known

    @property
    def by_step(self) -> bool:
        """Whether the network reads the steps to come, and puts out the forecast of each there."""
        return self.strategy == "direct" and self.known > 0

    @property
    def input_size(self) -> int:
        """Numbers at each step that the network reads."""
        return self.width + self.static + self.by_step

    def read(self, past: Past) -> Tensor:
        """What the network reads of tensors, ``(T, B, input_size)``.

        With features known ahead T has the steps to come too: there the channels are as the network's baseline has
        them, other features as they were last, and a last number says that the step is to come.
        """
        values, steps = past.values, self.context
        last = values[-1:, :, : self.channels] if self.relative else None
        if self.by_step:
            later = values[-1:].repeat(self.horizon, 1, 1)
            later[..., : self.channels] = self.repeated(values[..., : self.channels], self.added_to)
            later[..., self.width - self.known :] = past.ahead
            values, steps = torch.cat([values, later]), steps + self.horizon
        if last is not None:
            values = torch.cat([values[..., : self.channels] - last, values[..., self.channels :]], dim=-1)
        parts = [values, past.static.expand(steps, -1, -1)] if self.static else [values]
        if self.by_step:
            to_come = torch.zeros(steps, values.shape[1], 1, device=values.device)
            to_come[self.context :] = 1
            parts.append(to_come)
        return torch.cat(parts, dim=-1) if len(parts) > 1 else values

    def one_ahead(self, values: Tensor, known: Tensor, static: Tensor) -> Tensor:
        """What the network reads, ``(T, B, input_size)``, where each step predicts the next.

        Of the features known ahead it reads those of the next step, ``(T, B, K)``.
        """
        parts = [values[..., : self.width - self.known], known] if self.known else [values]
        parts += [static.expand(len(values), -1, -1)] if self.static else []
        return torch.cat(parts, dim=-1) if len(parts) > 1 else values

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
        ``(T, B, input_size)``: channels first, see `ForecastPlan.read`.
    targets : Tensor
        ``(horizon, B, C)``, or ``(T, B, C)`` where steps have an output each; NaN where there is no target.
    base : Tensor
        What outputs are added to, in the shape of the targets.
    levels : tuple of float
        See `ForecastPlan.levels`.
    """

    base: Tensor
    levels: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of observed targets."""
        return int((~self.targets.isnan()).sum())

    def losses(self, outputs: Tensor) -> Tensor:
        """Loss of the network's outputs, in the shape of the targets; 0 where nothing was observed."""
        error = self.base + split(outputs, self.targets, len(self.levels)) - self.targets.nan_to_num(0.0)
        found: Tensor = pinball(error, self.levels)
        return found * ~self.targets.isnan()


def split(outputs: Tensor, targets: Tensor, levels: int) -> Tensor:
    """Outputs of a network, of each sequence or of each step, as ``(levels, T, B, C)``."""
    steps, _, channels = targets.shape
    if outputs.dim() == 2:  # all steps at once
        return outputs.view(-1, steps, max(1, levels), channels).permute(2, 1, 0, 3)
    return outputs.view(len(outputs), -1, max(1, levels), channels).permute(2, 0, 1, 3)


class Windows:
    """Every run of ``context + horizon`` steps of some series whose horizon lies in a part of the series.

    Parameters
    ----------
    values, truths : Ragged
        Of each series, float32: its numbers, scaled and filled, ``(T, C + F + K)``; and those of its channels that were
        observed, NaN elsewhere, ``(T, C)``. See `ForecastReader.scaled`.
    padding : array
        Number of these steps that come before the series begins.
    bounds : sequence of (int, int)
        Of each series: where the part begins and ends, without the padding.
    history : bool
        Whether steps before the part may be read.
    gaps : sequence of Gap
        Missing steps; no window may contain one.
    static : array, optional
        Of each series what is the same at all its steps, ``(series, S)``.
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
        static: NDArray[np.float32] | None = None,
    ) -> None:
        self.plan, self.values, self.truths = plan, values, truths
        self.static = np.empty((len(bounds), 0), np.float32) if static is None else static
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

    def origins(self, count: int) -> tuple[int, list[NDArray[np.int64]]]:
        """The last windows of each series from which ``count`` rolling origins forecast, the earliest origin first.

        Returns stride: steps between two origins: the horizon, or fewer where the longest series is too short for that;
            windows: of each origin: numbers of windows. A series that is too short, or has a gap there, has none.
        Raises DataError if no series has so many windows.
        """
        most = int(self._counts.max(initial=0))
        if most < count:
            raise DataError(
                f"--backtest {count} needs {count} forecasts of {self.plan.horizon} steps one after the other, and the "
                f"longest series has room for {most}: ask for fewer."
            )
        stride = min(self.plan.horizon, (most - 1) // max(1, count - 1)) if count > 1 else self.plan.horizon
        found = []
        for back in range((count - 1) * stride, -1, -stride) if count > 1 else [0]:
            chosen = (self._ends - 1 - back)[self._counts > back]
            if self._kept is not None:
                chosen = np.searchsorted(self._kept, np.intersect1d(chosen, self._kept))
            found.append(chosen)
        return stride, found

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

    def past(self, chosen: NDArray[np.int64]) -> Past:
        """What forecasts in the windows of these numbers are made from."""
        observed = ~np.isnan(self.cut(self.truths, chosen, 0, self.plan.context))
        return self._read(chosen)._replace(observed=observed)

    def _read(self, chosen: NDArray[np.int64]) -> Past:
        """The same without what was observed."""
        plan = self.plan
        ahead = np.empty((plan.horizon, len(chosen), 0), np.float32)
        if plan.known:
            ahead = self.cut(self.values, chosen, plan.context)[..., plan.width - plan.known :]
        return Past(self.cut(self.values, chosen, 0, plan.context), ahead, self._static_of(chosen))

    def _static_of(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.static[self.owners(chosen)]

    def batch(self, chosen: NDArray[np.int64]) -> ForecastBatch:
        """The windows of these numbers as the strategy is trained on them."""
        plan = self.plan
        if plan.strategy == "direct":
            past = tensors(self._read(chosen))
            inputs, truths = plan.read(past), torch.from_numpy(self.cut(self.truths, chosen, plan.context))
            base = plan.repeated(past.values[..., : plan.channels], plan.added_to)
            if plan.by_step:  # the steps that are read have no target
                truths = torch.cat([torch.full((plan.context, *truths.shape[1:]), torch.nan), truths])
                base = torch.cat([torch.zeros(plan.context, *base.shape[1:]), base])
            return ForecastBatch(inputs, truths, base, plan.levels)
        # Step t predicts t + 1, added to the value `added_to` steps before that; the first steps have none.
        values = torch.from_numpy(self.cut(self.values, chosen, 0, plan.context + plan.horizon))
        static = torch.from_numpy(self._static_of(chosen))
        channels = values[:-1, :, : plan.channels]
        base = torch.cat([channels[: plan.added_to - 1], channels])[: len(channels)]
        truths = torch.from_numpy(self.cut(self.truths, chosen, 1))
        truths[: plan.added_to - 1] = torch.nan
        inputs = plan.one_ahead(values[:-1], values[1:, :, plan.width - plan.known :], static)
        return ForecastBatch(inputs, truths, base)

    def examples(self, count: int) -> Examples:
        """Windows spread evenly, and the sum of the losses of each window or of each step."""
        return self._examples_of(self.batch(self.thinned(count)))

    def _examples_of(self, batch: ForecastBatch) -> Examples:
        summed = (2,) if self.plan.by_step or self.plan.strategy == "autoregressive" else (0, 2)

        def part(rank: int, size: int) -> Examples:
            return self._examples_of(batch.part(rank, size) or batch)

        target = (batch.targets - batch.base).nan_to_num(0.0)
        return Examples((batch.inputs,), lambda outputs: batch.losses(outputs).sum(summed), part=part, target=target)


def tensors(past: Past, device: torch.device | None = None) -> Past:
    """The same on a device, what was observed left as it is."""
    values, ahead, static = (torch.from_numpy(np.ascontiguousarray(one)).to(device) for one in past[:3])
    return Past(values, ahead, static, past.observed)


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
