"""Between a table and the network of a forecast: series, their scales, windows, and what the network makes of them.

Tests: `tests/tasks/test_forecast.py`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.encoding import Scaler
from ..data.formats import open_table
from ..data.roles import Columns
from ..data.series import Series, read_series
from ..data.steps import listed
from ..data.storage import Ragged, Rows
from ..errors import DataError, RunError
from ..options import ModelOptions
from .models import Pooling, SequenceModel
from .quantiles import middle_of, ordered
from .tables import to_json
from .windows import ForecastPlan, Past, Windows, fill_by_season, naive, naive_error, split, tensors

Floats = NDArray[np.float64]
Name = tuple[str, ...]  # of a series: what its group columns contain
Part = tuple[Windows, Sequence[Name]]  # windows, and the names of their series
ORIGINS = 2000  # the most windows that a model is scored on
TOGETHER = 256  # forecasts made at once


@dataclass
class ForecastReader:
    """Turns tables into scaled series and windows, and scores forecasts."""

    columns: Columns
    plan: ForecastPlan
    # Of each series by its name, fitted on its training part: channels, features, features known ahead.
    scalers: dict[str, Scaler] = field(default_factory=dict)
    # Error of the seasonal naive forecast by one step in that part, of each channel: the unit of MASE (Hyndman and
    # Koehler 2006).
    units: dict[str, Floats] = field(default_factory=dict)
    # With quantiles, of the naive forecast of each lag: by how much more the truth was in the training part, by level,
    # step and channel, scaled; 0 for the median, so that this stays the naive forecast.
    spreads: dict[int, Floats] = field(default_factory=dict)
    static_scaler: Scaler | None = None  # of static features, over the series

    def files(self) -> dict[str, str]:
        """What a run folder keeps of it, by file name."""
        kept = {
            "columns": self.columns.as_dict(),
            "plan": asdict(self.plan),
            "scalers": {name: scaler.as_dict() for name, scaler in self.scalers.items()},
            "units": {name: unit.tolist() for name, unit in self.units.items()},
            "spreads": {str(lag): spread.tolist() for lag, spread in self.spreads.items()},
            "static": self.static_scaler.as_dict() if self.static_scaler is not None else None,
        }
        return {"preprocessing.json": to_json(kept)}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Undo `files`; RunError if they are damaged."""
        try:
            kept = json.loads(files["preprocessing.json"])
            scalers = {name: Scaler.from_dict(scaler) for name, scaler in kept["scalers"].items()}
            units = {name: np.asarray(unit, dtype=np.float64) for name, unit in kept["units"].items()}
            spreads = {int(lag): np.asarray(spread) for lag, spread in kept.get("spreads", {}).items()}
            static = Scaler.from_dict(kept["static"]) if kept.get("static") else None
            plan = ForecastPlan(**kept["plan"])
            return cls(Columns.from_dict(kept["columns"]), plan, scalers, units, spreads, static)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"preprocessing.json is missing or damaged: {error}.") from None

    def network(self, options: ModelOptions) -> SequenceModel:
        """A new network, initialized from torch's random state."""
        plan = self.plan
        at_once = plan.strategy == "direct" and not plan.by_step
        outputs = plan.channels * max(1, len(plan.levels)) * (plan.horizon if at_once else 1)
        pooling: Pooling = "last" if at_once else "none"
        classes = {plan.channels + at: count for at, count in self.columns.classes(self.columns.read).items()}
        return SequenceModel.of(plan.input_size, outputs, options, pooling, classes=classes)

    def read(self, source: Any, encoding: str) -> tuple[Series, list[str]]:
        """The series of a table, and the names of its columns; DataError if a column is missing."""
        table = open_table(source, encoding)
        self.columns.check(table)
        found = read_series(table, self.columns, self.plan.regular)
        if found.channels != self.plan.channels:
            raise DataError(f"{source} has {found.channels} channels; the model was trained with {self.plan.channels}.")
        found.notes += [*filter(None, [table.assumed]), *table.unknown]
        return found, table.names

    def fit(self, name: Name, rows: Rows, start: int, stop: int) -> None:
        """Fit scale and unit of a series on some of its rows, unless it has them."""
        key, width = key_of(name), self.plan.width
        if key not in self.scalers:
            classes = self.columns.classes((*self.columns.features, *self.columns.known_future))
            found = Scaler.fit(rows.pieces(start, stop), width)
            self.scalers[key] = found.leaving(self.plan.channels + at for at in classes)
        if key not in self.units:
            self.units[key] = naive_error(rows, start, stop, self.plan)

    def scaled(self, found: Series, padding: NDArray[np.int64]) -> tuple[Ragged, Ragged, int]:
        """Series as the network reads them, what was observed of them, and how many empty cells were filled.

        Before the beginning of a series its first numbers are repeated, ``padding`` times. A series that does not occur
        in the training data is scaled by its own numbers.

        Returns values, truths: ``(T, C + F + K)`` and ``(T, C)`` each, see `Windows`; filled.
        """
        values, truths, filled = Rows(np.float32), Rows(np.float32), 0
        channels, width = self.plan.channels, self.plan.width
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
        return Windows(self.plan, values, truths, padding, bounds, True, static=self.static(found))

    def ahead(self, found: Series, places: Sequence[int]) -> NDArray[np.float32]:
        """Features known at the steps after some series, scaled, ``(horizon, B, K)``.

        Raises DataError if one is missing.
        """
        plan, columns = self.plan, self.columns
        result = np.zeros((plan.horizon, len(places), plan.known), np.float32)
        for column, place in enumerate(places if plan.known else ()):
            values = found.ahead[place][: plan.horizon]
            whole = np.full((plan.horizon, plan.known), np.nan)
            whole[: len(values)] = values
            missing = np.argwhere(np.isnan(whole))
            if len(missing):
                step, at = missing[0].tolist()
                series = f"series {' '.join(found.names[place])!r}" if found.names[place] else "the series"
                raise DataError(
                    f"{series} has no {columns.known_future[at]!r} at step {step + 1} of the {plan.horizon} to "
                    f"forecast: add rows for these steps, with {listed(columns.known_future)} and an empty "
                    f"{columns.target[0]!r}."
                )
            scaler = Scaler(*(part[plan.width - plan.known :] for part in self.scalers[key_of(found.names[place])]))
            result[:, column] = scaler(whole)
        return result

    def static(self, found: Series) -> NDArray[np.float32]:
        """Static features of each series, scaled, ``(series, S)``."""
        if not self.plan.static:
            return np.empty((len(found), 0), np.float32)
        if self.static_scaler is None:
            scaler = Scaler.fit([found.static], self.plan.static)
            self.static_scaler = scaler.leaving(self.columns.classes(self.columns.static))
        return np.nan_to_num(self.static_scaler(found.static), nan=0.0).astype(np.float32)

    # --- What the network makes of them -------------------------------------------------------------------------------

    def forecast(self, network: nn.Module, past: Past) -> NDArray[Any]:
        """Scaled forecasts of a network in eval mode: ``(levels, horizon, B, C)``; one level without quantiles."""
        found = tensors(past, next(network.parameters()).device)
        with torch.no_grad():
            return self.outputs(network, *found[:3]).float().cpu().numpy()

    def outputs(
        self, network: Any, values: Tensor, ahead: Tensor | None = None, static: Tensor | None = None
    ) -> Tensor:
        """Scaled forecasts ``(levels, horizon, B, C)`` of a network from scaled windows, see `Past`."""
        plan = self.plan
        channels = values[..., : plan.channels]
        nothing = values.new_empty(plan.horizon, values.shape[1], 0)
        ahead, static = nothing if ahead is None else ahead, nothing[0] if static is None else static
        if plan.strategy == "direct":
            base = plan.repeated(channels, plan.added_to)
            outputs = network(plan.read(Past(values, ahead, static)))
            change = split(outputs[-plan.horizon :] if plan.by_step else outputs, base, len(plan.levels))
            return ordered(base + change, plan.levels)
        network = getattr(network, "module", network)
        known = torch.cat([values[1:, :, plan.width - plan.known :], ahead[:1]])
        hidden, state = network.recurrent(network.read(plan.one_ahead(values, known, static)))
        steps = list(channels.unbind(0))
        for step in range(plan.horizon):
            value = network.output(hidden[-1]) + steps[-plan.added_to]
            steps.append(value)
            if step == plan.horizon - 1:
                break
            # Features that are not known ahead stay as they were last.
            here = torch.cat([value, values[-1, :, plan.channels :]], dim=-1)[None]
            read = network.read(plan.one_ahead(here, ahead[step + 1 : step + 2], static))
            hidden, state = network.recurrent(read, state)
        return torch.stack(steps[-plan.horizon :])[None]

    def naive(self, past: Past, season: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The naive forecast by what was observed, with its spread in the training part, and where there is one."""
        plan = self.plan
        found, there = naive(past.values[..., : plan.channels], past.observed, season, plan.horizon)
        return self._spread(found, season), there

    def base(self, past: Past) -> NDArray[Any]:
        """The naive forecast that the network adds to, with its spread in the training part."""
        plan = self.plan
        return self._spread(plan.repeated(past.values[..., : plan.channels], plan.added_to), plan.added_to)

    def _spread(self, found: NDArray[Any], lag: int) -> NDArray[Any]:
        if not self.plan.levels:
            return found[None]
        made = found + self.spreads[lag][:, :, None].astype(np.float32)
        return ordered(torch.from_numpy(made), self.plan.levels).numpy()

    def fit_spreads(self, windows: Windows) -> None:
        """Fit the spread of the naive forecasts on windows to train with."""
        plan, chosen = self.plan, windows.thinned(ORIGINS)
        for lag in {1, plan.lag}:
            found = []
            for start in range(0, len(chosen), TOGETHER):
                some = chosen[start : start + TOGETHER]
                past = windows.cut(windows.values, some, 0, plan.context)[..., : plan.channels]
                found.append(windows.cut(windows.truths, some, plan.context) - plan.repeated(past, lag))
            error = np.concatenate(found, axis=1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of steps where nothing was observed
                spread = np.nanquantile(error.astype(np.float64), plan.levels, axis=1)
            spread = np.nan_to_num(spread)
            spread[middle_of(plan.levels)] = 0
            self.spreads[lag] = spread


def key_of(name: Name) -> str:
    """Name of a series as a key of a JSON object."""
    return name[0] if len(name) == 1 else json.dumps(name, ensure_ascii=False) if name else ""
