"""How good forecasts are: errors next to those of naive forecasts, by series, by origin and by step of the horizon.

Tests: `tests/tasks/test_forecast.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..data.encoding import Scaler
from ..errors import DataError
from ..runs import Backtest, BacktestRow, Forecast
from .forecast_reader import ORIGINS, TOGETHER, ForecastReader, Part, key_of
from .models import evaluation_mode
from .quantiles import Intervals, column, corrections, middle_of, pinball, places_of
from .windows import Past

Floats = NDArray[np.float64]
# From what forecasts are made from to them, ``(levels, horizon, B, C)``, and which of them are made.
Method = Callable[[Past], tuple[NDArray[Any], NDArray[np.bool_] | bool]]
SHOWN, CURVES = 200, 6  # series whose errors, and curves that, ``evaluation.json`` contains
NUMBERS = ("loss", "mae", "mse", "mase", "known", "observed")  # sums of a step of the horizon


@dataclass(frozen=True)
class Judged:
    """Some forecasts next to what was observed."""

    error: Floats  # ``(levels, horizon, B, C)``, scaled; 0 where nothing was observed or forecast
    known: NDArray[np.bool_]  # ``(horizon, B, C)``: where both are there
    observed: NDArray[np.int64]  # ``(horizon,)``: how many numbers were observed
    owners: list[str]  # the series of each window, as `key_of` names it


class Judge:
    """Scores forecasts of a network and naive ones on parts of the data.

    Parameters
    ----------
    reader : ForecastReader
    """

    def __init__(self, reader: ForecastReader) -> None:
        self.reader, self.plan = reader, reader.plan
        self.intervals, self._middle = Intervals(self.plan.levels), middle_of(self.plan.levels)

    # --- Methods ------------------------------------------------------------------------------------------------------

    def of_network(self, network: nn.Module) -> Method:
        """The forecasts of a network, which is in eval mode."""
        return lambda past: (self.reader.forecast(network, past), True)

    def of_base(self, past: Past) -> tuple[NDArray[Any], bool]:
        """The naive forecast that the network adds to."""
        return self.reader.base(past), True

    def simple(self) -> dict[str, Method]:
        """The naive and, with a season, the seasonal naive forecast.

        They know only what was observed within the context: the last number there, or the last one at that place of
        the season. Without one they make no forecast. Their quantiles are those of their errors in the training part.
        """
        plan = self.plan
        seasons = {"naive": 1, "seasonal naive": plan.season}
        fitting = {name: season for name, season in seasons.items() if season <= plan.context}
        if plan.season == 1:
            del fitting["seasonal naive"]
        return {name: partial(self.reader.naive, season=season) for name, season in fitting.items()}

    # --- Scores -------------------------------------------------------------------------------------------------------

    def score(self, network: nn.Module, part: Part) -> dict[str, float]:
        """Scores of a network, see `judge`; DataError if nothing was observed."""
        with evaluation_mode(network):
            scores = self.judge(part, self.of_network(network))
        if scores is None:
            raise DataError("there is no number to compare a forecast with: the target cells are empty.")
        return scores

    def baselines(self, part: Part) -> dict[str, dict[str, float]]:
        """Scores of the naive forecasts on the same windows; ``coverage``: the share of numbers that they forecast."""
        found = {name: self.judge(part, method) for name, method in self.simple().items()}
        return {name: scores for name, scores in found.items() if scores is not None}

    def judged(self, part: Part, method: Method, chosen: NDArray[np.int64] | None = None) -> Iterator[Judged]:
        """Forecasts by a method in windows, by default some spread evenly over a part; some at a time."""
        (windows, names), plan = part, self.plan
        chosen = windows.thinned(ORIGINS) if chosen is None else chosen
        for start in range(0, len(chosen), TOGETHER):
            some = chosen[start : start + TOGETHER]
            truth = windows.cut(windows.truths, some, plan.context)
            observed = ~np.isnan(truth)
            made, available = method(windows.past(some))
            known = observed & available
            error = np.where(known, made - truth, 0).astype(np.float64)
            yield Judged(error, known, observed.sum((1, 2)), [key_of(names[place]) for place in windows.owners(some)])

    def judge(self, part: Part, method: Method) -> dict[str, float] | None:
        """Loss (scaled), MAE and RMSE (in the units of the data), MASE and the share of the truth in each interval.

        None if nothing was observed.
        """
        return self._named(sum(map(self._sums, self.judged(part, method)), self._nothing()).sum(0))

    def _nothing(self) -> Floats:
        return np.zeros((self.plan.horizon, len(NUMBERS) + len(self.intervals.names)))

    def _sums(self, some: Judged) -> Floats:
        """Sums over windows and channels, a row for each step: those of `NUMBERS`, and the truths in each interval."""
        error = some.error[self._middle]
        real = error * np.stack([self.reader.scalers[key].scale[: self.plan.channels] for key in some.owners])
        relative = np.abs(real) / np.stack([self.reader.units[key] for key in some.owners])
        parts = [pinball(some.error, self.plan.levels), np.abs(real), real**2, relative, some.known]
        sums = [part.sum((1, 2)) for part in parts] + [some.observed]
        return np.stack([*sums, *(self.intervals.holds(some.error) & some.known).sum((2, 3))], axis=1).astype(float)

    def _named(self, sums: Floats) -> dict[str, float] | None:
        """Scores from sums over steps."""
        known, observed = sums[4], sums[5]
        if not known:
            return None
        loss, mae, mse, mase = (sums[:4] / known).tolist()
        found = {"loss": loss, "mae": mae, "rmse": math.sqrt(mse), "mase": mase}
        found |= dict(zip(self.intervals.names, (sums[len(NUMBERS) :] / known).tolist(), strict=True))
        return found if known == observed else found | {"coverage": float(known / observed)}

    def certainty(self, network: nn.Module, part: Part) -> float:
        """By how many standard errors the network is better than the baseline that it adds to.

        Of the loss of a window, and with quantiles of the absolute error of the median too: the lower of both counts.
        Windows overlap, so there are only as many independent ones as horizons fit into the part. Of a single window
        its steps are compared instead.
        """
        with evaluation_mode(network):
            both = zip(self.judged(part, self.of_base), self.judged(part, self.of_network(network)), strict=True)
            found = [(self._losses(there), self._losses(here)) for there, here in both]
        independent = max(1.0, len(part[0]) / self.plan.horizon)
        certain = []
        for kind in range(2 if self.plan.levels else 1):
            gain = np.concatenate([there[kind] - here[kind] for there, here in found], axis=1)
            gains = gain.mean((0, 2)) if gain.shape[1] > 1 else gain.mean((1, 2))
            spread = float(gains.std()) / math.sqrt(min(len(gains), independent))
            certain.append(float(gains.mean()) / spread if spread > 0 else 0.0)
        return min(certain)

    def _losses(self, some: Judged) -> tuple[Floats, Floats]:
        return pinball(some.error, self.plan.levels), np.abs(some.error[self._middle])

    def corrections(self, network: nn.Module, part: Part) -> Floats:
        """What to add to the scaled quantiles of each channel, ``(levels, C)``, so that they hold on a part."""
        with evaluation_mode(network):
            found = list(self.judged(part, self.of_network(network)))
        independent = len(part[0]) + self.plan.horizon - 1
        by_channel = []
        for channel in range(self.plan.channels):
            errors = [some.error[..., channel][:, some.known[..., channel]] for some in found]
            by_channel.append(corrections(np.concatenate(errors, axis=1), self.plan.levels, independent))
        return np.stack(by_channel, axis=1)

    # --- In detail ----------------------------------------------------------------------------------------------------

    def by_series(self, network: nn.Module, part: Part) -> dict[str, dict[str, float]]:
        """MAE and MASE of each of the first series, and the MASE of what the network adds to."""
        sums: dict[str, Floats] = {}
        with evaluation_mode(network):
            both = zip(self.judged(part, self.of_network(network)), self.judged(part, self.of_base), strict=True)
            for own, base in both:
                for place, key in enumerate(own.owners):
                    error = np.abs(np.stack([one.error[self._middle][:, place] for one in (own, base)]))
                    real = error * self.reader.scalers[key].scale[: self.plan.channels]
                    mase, known = real / self.reader.units[key], own.known[:, place].sum()
                    found = [real[0].sum(), mase[0].sum(), mase[1].sum(), known]
                    sums[key] = sums.get(key, np.zeros(4)) + found
        names = list(islice((key for key in sums if sums[key][3]), SHOWN))
        means = {key: sums[key][:3] / sums[key][3] for key in names}
        return {key: {"mae": mean[0], "mase": mean[1], "baseline_mase": mean[2]} for key, mean in means.items()}

    def latest(self, network: nn.Module, part: Part) -> list[Forecast]:
        """The last forecast of each of the first series next to what came, in the units of the data."""
        (windows, names), plan, found = part, self.plan, list[Forecast]()
        owners = windows.owners(np.arange(len(windows)))
        places, ends = np.unique(owners[::-1], return_index=True)
        some = len(owners) - 1 - ends[: max(1, CURVES // plan.channels)]
        truths, past = windows.cut(windows.truths, some), windows.past(some)
        with evaluation_mode(network):
            made = self.reader.forecast(network, past)
        base = self.reader.base(past)[self._middle]
        asked = places_of(None, plan.quantiles) if plan.quantiles else []
        for place, owner in enumerate(places[: len(some)]):
            scaler = Scaler(*(one[: plan.channels] for one in self.reader.scalers[key_of(names[owner])]))

            def real(curve: NDArray[Any], channel: int, place: int = place, scaler: Scaler = scaler) -> list[Any]:
                return [None if math.isnan(x) else float(x) for x in scaler.undo(curve[:, place])[:, channel]]

            for channel in range(min(plan.channels, CURVES)):
                curves = (truths[: plan.context], truths[plan.context :], made[self._middle], base)
                read, came, forecast, naive = (real(curve, channel) for curve in curves)
                quantiles = {column("", level): real(made[at], channel) for level, at in asked}
                name = " ".join(names[owner])
                found.append(Forecast(name, self._channel(channel), read, came, forecast, naive, quantiles))
        return found

    def _channel(self, place: int) -> str:
        target = self.reader.columns.target
        return target[place] if len(target) == self.plan.channels else f"channel {place + 1}"

    # --- Rolling origins ----------------------------------------------------------------------------------------------

    def backtest(self, network: nn.Module, part: Part, count: int) -> Backtest:
        """Errors of forecasts from ``count`` origins at the end of each series, by origin and by step of the horizon.

        Origins lie a horizon apart, so that each step is forecast once; closer where the part is too short for that.
        The network stays as it is, but reads what came before each origin.

        Raises DataError if no series of the part has so many origins.
        """
        windows, _ = part
        stride, origins = windows.origins(count)
        with evaluation_mode(network):
            methods = {"": self.of_network(network), **self.simple()}
            sums = {
                name: np.stack(
                    [sum(map(self._sums, self.judged(part, how, some)), self._nothing()) for some in origins]
                )
                for name, how in methods.items()
            }  # of each method (origins, horizon, sums)

        def row(name: str, origins: slice = slice(None), steps: slice = slice(None)) -> BacktestRow:
            found = {method: self._named(one[origins, steps].sum((0, 1))) for method, one in sums.items()}
            own = found.pop("") or {}
            return BacktestRow(name, own, {method: scores for method, scores in found.items() if scores is not None})

        last, horizon = self.plan.horizon + stride * (count - 1), self.plan.horizon
        by_origin = [
            row(f"{last - stride * at} steps before the end", origins=slice(at, at + 1)) for at in range(count)
        ]
        by_step = [row(f"step {at + 1}", steps=slice(at, at + 1)) for at in range(horizon)]
        return Backtest(stride, row("all"), by_origin, by_step)
