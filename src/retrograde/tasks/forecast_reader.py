"""Between a table and the network of a forecast: series, their scales, windows, and the scores of forecasts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.columns import Columns
from ..data.encoding import Scaler
from ..data.formats import open_table
from ..data.series import Series, read_series
from ..data.storage import Ragged, Rows
from ..errors import DataError, RunError
from ..options import ModelOptions
from .models import SequenceModel, evaluation_mode
from .tables import to_json
from .windows import ForecastPlan, Windows, fill_by_season, naive, naive_error

__all__ = ["ORIGINS", "TOGETHER", "ForecastReader", "Part", "key_of"]

Floats = NDArray[np.float64]
Name = tuple[str, ...]  # of a series: what its group columns contain
Part = tuple[Windows, Sequence[Name]]  # windows, and the names of their series
# From scaled windows (context, B, C + F), and which channels were observed in them, to forecasts (horizon, B, C), and
# which of these are made.
Method = Callable[[NDArray[np.float32], NDArray[np.bool_]], tuple[NDArray[Any], NDArray[np.bool_] | bool]]
ORIGINS = 2000  # the most forecasts made to score a model
TOGETHER = 256  # forecasts made at once
SHOWN, CURVES = 200, 6  # series whose errors, and curves that, ``evaluation.json`` contains


@dataclass(frozen=True)
class Judged:
    """Some forecasts next to what was observed.

    Attributes
    ----------
    error : array
        ``(horizon, B, C)``, scaled; 0 where nothing was observed or forecast.
    known : array
        Where both are there.
    observed : int
        How many numbers were observed.
    owners : list of str
        The series of each window, as `key_of` names it.
    """

    error: Floats
    known: NDArray[np.bool_]
    observed: int
    owners: list[str]


@dataclass
class ForecastReader:
    """Turns tables into scaled series and windows, and scores forecasts.

    Attributes
    ----------
    columns : Columns
    plan : ForecastPlan
    scalers : dict
        Of each series by its name, fitted on its training part: channels, then features.
    units : dict
        Error of the seasonal naive forecast by one step in that part, of each channel: the unit of MASE (Hyndman and
        Koehler 2006).
    """

    columns: Columns
    plan: ForecastPlan
    scalers: dict[str, Scaler] = field(default_factory=dict)
    units: dict[str, Floats] = field(default_factory=dict)

    def files(self) -> dict[str, str]:
        """What a run folder keeps of it, by file name."""
        kept = {
            "columns": self.columns.as_dict(),
            "plan": asdict(self.plan),
            "scalers": {name: scaler.as_dict() for name, scaler in self.scalers.items()},
            "units": {name: unit.tolist() for name, unit in self.units.items()},
        }
        return {"preprocessing.json": to_json(kept)}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Undo `files`; RunError if they are damaged."""
        try:
            kept = json.loads(files["preprocessing.json"])
            scalers = {name: Scaler.from_dict(scaler) for name, scaler in kept["scalers"].items()}
            units = {name: np.asarray(unit, dtype=np.float64) for name, unit in kept["units"].items()}
            return cls(Columns.from_dict(kept["columns"]), ForecastPlan(**kept["plan"]), scalers, units)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"preprocessing.json is missing or damaged: {error}.") from None

    def network(self, options: ModelOptions) -> SequenceModel:
        """A new network, initialized from torch's random state."""
        plan, direct = self.plan, self.plan.strategy == "direct"
        outputs = plan.channels * (plan.horizon if direct else 1)
        return SequenceModel.of(plan.channels + plan.features, outputs, options, "last" if direct else "none")

    def read(self, source: Any, encoding: str) -> tuple[Series, list[str]]:
        """The series of a table, and the names of its columns; DataError if a column is missing."""
        table = open_table(source, encoding)
        self.columns.check(table)
        found = read_series(table, self.columns, self.plan.regular)
        if found.channels != self.plan.channels:
            raise DataError(f"{source} has {found.channels} channels; the model was trained with {self.plan.channels}.")
        return found, table.names

    def fit(self, name: Name, rows: Rows, start: int, stop: int) -> None:
        """Fit scale and unit of a series on some of its rows, unless it has them."""
        key, width = key_of(name), self.plan.channels + self.plan.features
        if key not in self.scalers:
            self.scalers[key] = Scaler.fit(rows.pieces(start, stop), width)
        if key not in self.units:
            self.units[key] = naive_error(rows, start, stop, self.plan)

    def scaled(self, found: Series, padding: NDArray[np.int64]) -> tuple[Ragged, Ragged, int]:
        """Series as the network reads them, what was observed of them, and how many empty cells were filled.

        Before the beginning of a series its first numbers are repeated, ``padding`` times. A series that does not occur
        in the training data is scaled by its own numbers.

        Returns
        -------
        values, truths : Ragged
            ``(T, C + F)`` and ``(T, C)`` each, see `Windows`.
        filled : int
        """
        values, truths, filled = Rows(np.float32), Rows(np.float32), 0
        channels, width = self.plan.channels, self.plan.channels + self.plan.features
        for place, name in enumerate(found.names):
            start, stop = int(found.numbers.starts[place]), int(found.numbers.starts[place + 1])
            self.fit(name, found.numbers.rows, start, stop)
            before, pad = np.full((self.plan.lag, width), np.nan), int(padding[place])
            truths.append(np.full((pad, channels), np.nan))
            if start == stop:
                values.append(np.zeros((pad, width)))
            for piece in found.numbers.rows.pieces(start, stop):
                whole = fill_by_season(np.concatenate([before, piece]), self.plan)
                before, filled = whole[len(piece) :], filled + int(np.isnan(piece).sum())
                ready = np.nan_to_num(self.scalers[key_of(name)](whole[self.plan.lag :]), nan=0.0)
                values.append(np.repeat(ready[:1], pad, axis=0))
                pad = 0
                values.append(ready)
                truths.append(np.where(np.isnan(piece), np.nan, ready)[:, :channels])
        lengths = found.numbers.lengths + padding
        return Ragged(values, lengths), Ragged(truths, lengths), filled

    def windows(self, found: Series, bounds: Sequence[tuple[int, int]] | None = None) -> Windows:
        """Every window of some series, or of a part of each; one of each series that is too short for a window."""
        lengths = found.numbers.lengths
        bounds = bounds if bounds is not None else [(0, int(length)) for length in lengths]
        padding = self.plan.padding(lengths)
        values, truths, _ = self.scaled(found, padding)
        return Windows(self.plan, values, truths, padding, bounds, True)

    # --- Forecasts and their scores -----------------------------------------------------------------------------------

    def outputs(self, network: Any, past: Tensor) -> Tensor:
        """Scaled forecasts ``(horizon, B, C)`` of a network from scaled windows ``(context, B, C + F)``."""
        plan = self.plan
        channels = past[..., : plan.channels]
        if plan.strategy == "direct":
            change = network(plan.read(past)).view(-1, plan.horizon, plan.channels).transpose(0, 1)
            return plan.repeated(channels, plan.added_to) + change  # type: ignore[no-any-return]
        network = getattr(network, "module", network)
        hidden, state = network.recurrent(past)
        known = list(channels.unbind(0))
        for _ in range(plan.horizon):
            value = network.output(hidden[-1]) + known[-plan.added_to]
            known.append(value)
            # The features are not known ahead: they stay as they were last.
            step = torch.cat([value, past[-1, :, plan.channels :]], dim=-1)
            hidden, state = network.recurrent(step[None], state)
        return torch.stack(known[-plan.horizon :])

    def score(self, network: nn.Module, part: Part) -> dict[str, float]:
        """Scores of a network, see `judge`; DataError if nothing was observed."""
        with evaluation_mode(network):
            scores = self.judge(part, self._of_network(network))
        if scores is None:
            raise DataError("there is no number to compare a forecast with: the target cells are empty.")
        return scores

    def _forecast(self, network: nn.Module, device: torch.device, past: NDArray[np.float32]) -> NDArray[Any]:
        return self.outputs(network, torch.from_numpy(past).to(device)).float().cpu().numpy()

    def baselines(self, part: Part) -> dict[str, dict[str, float]]:
        """Scores of the naive and, with a season, the seasonal naive forecast, on the same windows.

        They know only what was observed within the context: the last number there, or the last one at that place of
        the season. Without one they make no forecast; ``coverage`` is then the share of numbers that are forecast.
        """
        plan, found = self.plan, {}
        for name, season in {"naive": 1, "seasonal naive": plan.season}.items():
            if season > plan.context or (name != "naive" and season == 1):
                continue

            def method(
                past: NDArray[np.float32], observed: NDArray[np.bool_], season: int = season
            ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
                return naive(past[..., : plan.channels], observed, season, plan.horizon)

            if (scores := self.judge(part, method)) is not None:
                found[name] = scores
        return found

    def judged(self, part: Part, method: Method) -> Iterator[Judged]:
        """Forecasts by a method from windows spread evenly over a part, some at a time."""
        (windows, names), plan = part, self.plan
        chosen = windows.thinned(ORIGINS)
        for start in range(0, len(chosen), TOGETHER):
            some = chosen[start : start + TOGETHER]
            truths = windows.cut(windows.truths, some)
            past, truth = windows.cut(windows.values, some, 0, plan.context), truths[plan.context :]
            observed = ~np.isnan(truth)
            made, available = method(past, ~np.isnan(truths[: plan.context]))
            known = observed & available
            error = np.where(known, made - truth, 0).astype(np.float64)
            yield Judged(error, known, int(observed.sum()), [key_of(names[place]) for place in windows.owners(some)])

    def judge(self, part: Part, method: Method) -> dict[str, float] | None:
        """Loss (scaled), MAE and RMSE (in the units of the data) and MASE of a method; None if nothing was observed."""
        sums, count, most = np.zeros(4), 0, 0
        for some in self.judged(part, method):
            real = some.error * np.stack([self.scalers[key].scale[: self.plan.channels] for key in some.owners])
            relative = np.abs(real) / np.stack([self.units[key] for key in some.owners])
            sums += [(some.error**2).sum(), np.abs(real).sum(), (real**2).sum(), relative.sum()]
            count, most = count + int(some.known.sum()), most + some.observed
        if not count:
            return None
        loss, mae, mse, mase = (sums / count).tolist()
        found = {"loss": loss, "mae": mae, "rmse": math.sqrt(mse), "mase": mase}
        return found if count == most else found | {"coverage": count / most}

    def _of_network(self, network: nn.Module) -> Method:
        """The forecasts of a network, which is in eval mode."""
        device = next(network.parameters()).device
        return lambda past, _: (self._forecast(network, device, past), True)

    def _of_base(self, past: NDArray[np.float32], _: Any) -> tuple[NDArray[Any], bool]:
        """The naive forecast that the network adds to."""
        return self.plan.repeated(past[..., : self.plan.channels], self.plan.added_to), True

    def by_series(self, network: nn.Module, part: Part) -> dict[str, dict[str, float]]:
        """MAE and MASE of each of the first series, and the MASE of what the network adds to."""
        sums: dict[str, Floats] = {}
        with evaluation_mode(network):
            both = zip(self.judged(part, self._of_network(network)), self.judged(part, self._of_base), strict=True)
            for own, base in both:
                for place, key in enumerate(own.owners):
                    error = np.abs(np.stack([own.error[:, place], base.error[:, place]]))  # (2, horizon, C)
                    real = error * self.scalers[key].scale[: self.plan.channels]
                    mase, known = real / self.units[key], own.known[:, place].sum()
                    found = [real[0].sum(), mase[0].sum(), mase[1].sum(), known]
                    sums[key] = sums.get(key, np.zeros(4)) + found
        names = list(islice((key for key in sums if sums[key][3]), SHOWN))
        means = {key: sums[key][:3] / sums[key][3] for key in names}
        return {key: {"mae": mean[0], "mase": mean[1], "baseline_mase": mean[2]} for key, mean in means.items()}

    def latest(self, network: nn.Module, part: Part) -> list[dict[str, Any]]:
        """The last forecast of each of the first series next to what came, in the units of the data."""
        (windows, names), plan, found = part, self.plan, list[dict[str, Any]]()
        owners = windows.owners(np.arange(len(windows)))
        places, ends = np.unique(owners[::-1], return_index=True)
        some = len(owners) - 1 - ends[: max(1, CURVES // plan.channels)]
        truths = windows.cut(windows.truths, some)
        past = windows.cut(windows.values, some, 0, plan.context)
        with evaluation_mode(network):
            made = self._of_network(network)(past, ~np.isnan(truths[: plan.context]))[0]
        for place, owner in enumerate(places[: len(some)]):
            scaler = Scaler(*(one[: plan.channels] for one in self.scalers[key_of(names[owner])]))
            curves = (truths[: plan.context], truths[plan.context :], made, self._of_base(past, None)[0])
            real = [scaler.undo(curve[:, place]) for curve in curves]
            for channel in range(min(plan.channels, CURVES)):
                rows = [[None if math.isnan(x) else float(x) for x in curve[:, channel]] for curve in real]
                named = dict(zip(("past", "actual", "forecast", "baseline"), rows, strict=True))
                found.append({"series": " ".join(names[owner]), "channel": self._channel(channel), **named})
        return found

    def _channel(self, place: int) -> str:
        return self.columns.target[place] if len(self.columns.target) == self.plan.channels else f"channel {place + 1}"

    def certainty(self, network: nn.Module, part: Part) -> float:
        """By how many standard errors the network is better than the baseline that it adds to.

        Of the squared error of a window. Windows overlap, so there are only as many independent ones as horizons fit
        into the part. Of a single window its steps are compared instead.
        """
        with evaluation_mode(network):
            both = zip(self.judged(part, self._of_base), self.judged(part, self._of_network(network)), strict=True)
            found = [there.error**2 - here.error**2 for there, here in both]
        gain = np.concatenate(found, axis=1)
        gains = gain.mean((0, 2)) if gain.shape[1] > 1 else gain.mean((1, 2))
        independent = max(1.0, len(part[0]) / self.plan.horizon)
        spread = float(gains.std()) / math.sqrt(min(len(gains), independent))
        return float(gains.mean()) / spread if spread > 0 else 0.0


def key_of(name: Name) -> str:
    """Name of a series as a key of a JSON object."""
    return name[0] if len(name) == 1 else json.dumps(name, ensure_ascii=False) if name else ""
