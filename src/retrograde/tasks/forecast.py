"""Forecasting: the next steps of a series of numbers, one channel or many, given the steps before.

The network adds to the seasonal naive forecast (the value one season before; the last value where there is no season),
so it starts from that baseline and learns what it gets wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import DataError, OptionError, RunError
from .labelled import RECURRENT
from .sequences import Scaler, SequenceModel, Shuffle, fill
from .tables import Columns, Series, Table, columns_for, fingerprint, open_table, series

__all__ = ["ForecastModel", "ForecastTask", "Windows"]

Floats = NDArray[np.float64]
ORIGINS = 2000  # the most forecasts made to judge a model


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
    """

    horizon: int
    context: int
    season: int
    strategy: Literal["direct", "autoregressive"]
    channels: int
    features: int

    @property
    def lag(self) -> int:
        """How far back the value lies that the network adds to: a season, if that much is read."""
        return self.season if self.season <= self.context else 1

    def naive(self, past: NDArray[Any], season: int) -> NDArray[Any]:
        """The last season of ``(T, …)`` repeated over the horizon: ``(horizon, …)``. Season 1: the last value."""
        last = past[len(past) - season :]
        return last[np.arange(self.horizon) % season]


class ForecastBatch(NamedTuple):
    """Windows side by side, scaled.

    Attributes
    ----------
    inputs : Tensor
        ``(T, B, C + F)``: channels first, then features.
    base : Tensor
        What outputs are added to: ``(horizon, B, C)``, or ``(T, B, C)`` where every step puts out the next.
    targets : Tensor
        Of the same shape; NaN where the series has none.
    """

    inputs: Tensor
    base: Tensor
    targets: Tensor

    @property
    def size(self) -> int:
        """How many numbers it trains to forecast."""
        return int((~self.targets.isnan()).sum())

    @property
    def weight(self) -> float:
        """As much as it trains."""
        return float(self.size)

    def part(self, rank: int, size: int) -> ForecastBatch | None:
        """Every ``size``-th window from ``rank`` on."""
        if rank >= self.inputs.shape[1]:
            return None
        return ForecastBatch(*(part[:, rank::size] for part in self))

    def to(self, device: torch.device) -> ForecastBatch:
        """Move to a device."""
        return ForecastBatch(*(part.to(device) for part in self))


class Windows:
    """Every stretch of ``context + horizon`` steps of some series, of which at least the horizon lies in a part.

    Parameters
    ----------
    values : sequence of array
        ``(T, C + F)`` each, scaled and filled.
    observed : sequence of array
        ``(T, C)``, bool: which numbers the series really has.
    bounds : sequence of (int, int)
        Of each series: where the part begins and ends. History before it may be read, nothing after it.
    """

    def __init__(
        self,
        plan: Plan,
        values: Sequence[NDArray[np.float32]],
        observed: Sequence[NDArray[np.bool_]],
        bounds: Sequence[tuple[int, int]],
        history: bool,
    ) -> None:
        self.plan, self.values = plan, values
        self._values, self._observed = np.concatenate(values), np.concatenate(observed)
        self._offsets = np.concatenate([[0], np.cumsum([len(one) for one in values])])
        starts: list[tuple[int, int]] = []
        for place, (begin, end) in enumerate(bounds):
            first = max(0, begin - plan.context) if history else begin
            starts += [(place, at) for at in range(first, end - plan.context - plan.horizon + 1)]
        self.starts = np.array(starts, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.starts)

    def thinned(self, most: int) -> NDArray[np.int64]:
        """Numbers of at most so many windows, spread evenly."""
        return np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(np.int64))

    def cut(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """``(context + horizon, B, C + F)`` and which of the channels are observed, ``(…, B, C)``."""
        size = self.plan.context + self.plan.horizon
        places = self.starts[chosen]
        rows = self._offsets[places[:, 0]] + places[:, 1] + np.arange(size)[:, None]
        return self._values[rows], self._observed[rows]

    def batch(self, chosen: NDArray[np.int64]) -> ForecastBatch:
        """The windows of these numbers, as the strategy learns from them."""
        plan = self.plan
        values, observed = self.cut(chosen)
        channels = values[..., : plan.channels]
        targets = np.where(observed, channels, np.float32(np.nan))
        if plan.strategy == "direct":
            past = channels[: plan.context]
            parts = (values[: plan.context], plan.naive(past, plan.lag), targets[plan.context :])
        else:
            # Step t puts out t + 1, added to the value a season before that; the first steps have none.
            base = np.concatenate([channels[: plan.lag - 1], channels])[: len(channels) - 1]
            after = targets[1:].copy()
            after[: plan.lag - 1] = np.nan
            parts = (values[:-1], base, after)
        return ForecastBatch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


class ForecastModel:
    """A network with all that its inputs and outputs need: what a run folder holds.

    Attributes
    ----------
    columns : Columns
    plan : Plan
    scalers : dict
        Of each series by its name, fitted on its training part: channels, then features.
    units : dict
        What the seasonal naive forecast of one step misses by in that part, of each channel: the unit of MASE
        (Hyndman and Koehler 2006).
    network : Module
        A `SequenceModel`, prepared for its device as it may be.
    """

    def __init__(
        self,
        columns: Columns,
        plan: Plan,
        scalers: Mapping[str, Scaler],
        units: Mapping[str, Floats],
        network: nn.Module,
    ) -> None:
        self.columns, self.plan, self.network = columns, plan, network
        self.scalers, self.units = dict(scalers), dict(units)

    def files(self) -> dict[str, str]:
        """What a run folder keeps beside the weights, by file name."""
        kept = {
            "columns": asdict(self.columns),
            "plan": asdict(self.plan),
            "scalers": {name: scaler.as_dict() for name, scaler in self.scalers.items()},
            "units": {name: unit.tolist() for name, unit in self.units.items()},
        }
        return {"preprocessing.json": json.dumps(kept, indent=1, ensure_ascii=False) + "\n"}

    @classmethod
    def from_files(cls, files: Mapping[str, str], options: Mapping[str, Any]) -> ForecastModel:
        """Undo `files`; the weights are to be loaded into ``network``.

        Raises
        ------
        RunError
            If they are not what `files` wrote.
        """
        try:
            columns, plan, scalers, units = _parts_of(files)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"preprocessing.json is missing or damaged: {error}.") from None
        return cls(columns, plan, scalers, units, _network(plan, options))

    def read(self, source: str, encoding: str = "utf-8") -> list[Series]:
        """The series of a table.

        Raises
        ------
        DataError
            If a column is missing, or a number infinite.
        """
        table = open_table(source, encoding)
        for name in self.columns.used():
            if name not in table.names:
                raise DataError(
                    f"{source} has no column {name!r}, which the model was trained with; "
                    f"there are {', '.join(map(repr, table.names[:20]))}."
                )
        return read_series(table, self.columns)

    def values(self, found: Sequence[Series]) -> tuple[list[NDArray[np.float32]], int]:
        """Series as the network reads them, ``(T, C + F)``, and how many empty cells were filled.

        A series that training did not have gets its scale and unit from what is given of it.
        """
        values, filled = [], 0
        for one in found:
            if one.name not in self.scalers:
                self.scalers[one.name] = Scaler.fit([_numbers(one)])
            if one.name not in self.units:
                self.units[one.name] = _naive_error(one.target, self.plan.season)
            scaled, count = _scaled(one, self.scalers[one.name])
            values.append(scaled)
            filled += count
        return values, filled

    def windows(self, found: Sequence[Series]) -> tuple[Windows, list[str]]:
        """Every window of some series, and the names of these."""
        values, _ = self.values(found)
        observed = [~np.isnan(one.target) for one in found]
        windows = Windows(self.plan, values, observed, [(0, len(v)) for v in values], False)
        return windows, [one.name for one in found]

    def score(self, windows: Windows, names: Sequence[str]) -> dict[str, float]:
        """Judge the network, see `judge`."""
        was_training = self.network.training
        self.network.eval()
        device = next(self.network.parameters()).device
        try:
            return self.judge(
                windows, names, lambda past: self.outputs(torch.from_numpy(past).to(device)).cpu().numpy()
            )
        finally:
            self.network.train(was_training)

    def evaluate(self, source: str, encoding: str = "utf-8") -> dict[str, Any]:
        """Every metric of forecasts made all along the series of a table, beside the baselines'."""
        found = self.read(source, encoding)
        windows, names = self.windows(found)
        if not len(windows):
            need = self.plan.context + self.plan.horizon
            raise DataError(f"{source}: no series has the {need} steps that one forecast and its check need.")
        return {
            "series": len(found),
            "forecasts": len(windows.thinned(ORIGINS)),
            **self.score(windows, names),
            "baselines": self.baselines(windows, names),
        }

    def baselines(self, windows: Windows, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """The naive and, with a season, the seasonal naive forecast, judged at the same places."""
        plan = self.plan
        found = {"naive": self.judge(windows, names, lambda past: plan.naive(past[..., : plan.channels], 1))}
        if 1 < plan.season <= plan.context:
            found["seasonal naive"] = self.judge(
                windows, names, lambda past: plan.naive(past[..., : plan.channels], plan.season)
            )
        return found

    def judge(
        self, windows: Windows, names: Sequence[str], outputs: Callable[[NDArray[np.float32]], NDArray[Any]]
    ) -> dict[str, float]:
        """Loss (scaled), MAE and RMSE (in the units of the data) and MASE of forecasts made along windows.

        Parameters
        ----------
        names
            Of the series, by their place.
        outputs
            Scaled windows ``(context, B, C + F)`` to scaled forecasts ``(horizon, B, C)``.
        """
        plan = self.plan
        chosen = windows.thinned(ORIGINS)
        scaled, absolute, squared, relative, count = 0.0, 0.0, 0.0, 0.0, 0
        for start in range(0, len(chosen), 256):
            some = chosen[start : start + 256]
            values, observed = windows.cut(some)
            truth, known = values[plan.context :, :, : plan.channels], observed[plan.context :]
            error = (outputs(values[: plan.context]) - truth).astype(np.float64) * known
            owners = [names[place] for place, _ in windows.starts[some]]
            scale = np.stack([self.scalers[name].scale[: plan.channels] for name in owners])
            unit = np.stack([self.units[name] for name in owners])
            scaled += float((error**2).sum())
            absolute += float((np.abs(error) * scale).sum())
            squared += float(((error * scale) ** 2).sum())
            relative += float((np.abs(error) * scale / unit).sum())
            count += int(known.sum())
        count = max(1, count)
        return {
            "loss": scaled / count,
            "mae": absolute / count,
            "rmse": math.sqrt(squared / count),
            "mase": relative / count,
        }

    @torch.no_grad()
    def outputs(self, past: Tensor) -> Tensor:
        """Scaled forecasts ``(horizon, B, C)`` from scaled windows ``(context, B, C + F)``, in eval mode."""
        plan = self.plan
        channels = past[..., : plan.channels]
        if plan.strategy == "direct":
            change = self.network(past).view(-1, plan.horizon, plan.channels).transpose(0, 1)
            last = channels[len(channels) - plan.lag :]
            return last[torch.arange(plan.horizon, device=past.device) % plan.lag] + change  # type: ignore[no-any-return]
        network: Any = getattr(self.network, "module", self.network)
        hidden, state = network.recurrent(past)
        known = list(channels.unbind(0))
        found = []
        for _ in range(plan.horizon):
            value = network.output(hidden[-1]) + known[-plan.lag]
            found.append(value)
            known.append(value)
            # What is read besides the channels is not known ahead: it stays as it was last.
            step = torch.cat([value, past[-1, :, plan.channels :]], dim=-1)
            hidden, state = network.recurrent(step[None], state)
        return torch.stack(found)

    def forecast(self, found: Sequence[Series]) -> Iterator[tuple[Series, Floats]]:
        """What comes after each series: ``(horizon, C)`` in the units of the data.

        Raises
        ------
        DataError
            If a series is shorter than what the network reads.
        """
        was_training = self.network.training
        self.network.eval()
        device = next(self.network.parameters()).device
        try:
            for one in found:
                if len(one.rows) < self.plan.context:
                    name = f"series {one.name!r}" if one.name else "the series"
                    raise DataError(
                        f"{name} has {len(one.rows)} steps; the model reads {self.plan.context} to forecast."
                    )
                values, _ = self.values([one])
                scaler, scaled = self.scalers[one.name], values[0][-self.plan.context :]
                result = self.outputs(torch.from_numpy(scaled)[:, None].to(device))[:, 0].cpu().numpy()
                yield one, _channels(scaler, self.plan).undo(result)
        finally:
            self.network.train(was_training)


def _parts_of(files: Mapping[str, str]) -> tuple[Columns, Plan, dict[str, Scaler], dict[str, Floats]]:
    kept = json.loads(files["preprocessing.json"])
    parts: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in kept["columns"].items()}
    scalers = {name: Scaler.from_dict(scaler) for name, scaler in kept["scalers"].items()}
    units = {name: np.asarray(unit, dtype=np.float64) for name, unit in kept["units"].items()}
    return Columns(**parts), Plan(**kept["plan"]), scalers, units


def read_series(table: Table, columns: Columns) -> list[Series]:
    """The series of a table, all of their numbers finite or missing."""
    found = series(table, columns)
    for one in found:
        if np.isinf(_numbers(one)).any():
            where = f"series {one.name!r}" if one.name else "the series"
            raise DataError(f"{table.source}: {where} holds an infinite number.")
    return found


def _network(plan: Plan, options: Mapping[str, Any]) -> SequenceModel:
    direct = plan.strategy == "direct"
    return SequenceModel(
        plan.channels + plan.features,
        plan.channels * (plan.horizon if direct else 1),
        options["hidden_size"],
        pooling="last" if direct else "none",
        dropout=options.get("dropout", 0.0),
        **{name: options[name] for name in RECURRENT if name in options},
    )


def _numbers(one: Series) -> Floats:
    return np.concatenate([one.target, one.features], axis=1)


def _channels(scaler: Scaler, plan: Plan) -> Scaler:
    return Scaler(scaler.mean[: plan.channels], scaler.scale[: plan.channels])


def _scaled(one: Series, scaler: Scaler) -> tuple[NDArray[np.float32], int]:
    """A series as the network reads it, and how many empty cells were filled."""
    filled, count = fill(_numbers(one))
    return np.nan_to_num(scaler(filled), nan=0.0).astype(np.float32), count


class ForecastTask:
    """What the training loop asks for, over windows of series.

    The last part of each series is held out, in time; scales are fitted on what lies before it.

    Parameters
    ----------
    source : str
        See `open_table`.
    options : mapping
        Training options by name.
    files : mapping, optional
        Of the run folder of a run that is resumed.

    Raises
    ------
    DataError, OptionError
        If there is nothing to learn from, or an option does not fit the data.
    """

    name: ClassVar[str] = "forecast"

    def __init__(self, source: str, options: Mapping[str, Any], files: Mapping[str, str] | None = None) -> None:
        self.options, self.source = dict(options), source
        self.notes: list[str] = []
        table = open_table(source, options.get("encoding") or "utf-8")
        self.fingerprint = fingerprint(source, options.get("validation"), options.get("test"))
        if files is not None:
            self.columns, self.plan, self.scalers, self.units = _parts_of(files)
        else:
            given = {part: options.get(part) for part in ("group", "time", "target", "features")}
            self.columns, notes = columns_for("forecast", table, given)
            self.notes += [*table.notes, *notes]
        found = read_series(table, self.columns)
        bounds = self._bounds(found)
        if files is None:
            self.plan = self._plan(found, bounds)
            self.scalers = {
                one.name: Scaler.fit([_numbers(one)[:train]]) for one, (train, _, _) in zip(found, bounds, strict=True)
            }
            self.units = {
                one.name: _naive_error(one.target[:train], self.plan.season)
                for one, (train, _, _) in zip(found, bounds, strict=True)
            }
        self._load(found, bounds)
        self.batch_size = options.get("batch_size") or min(64, max(1, len(self.training) // 4))
        lengths = np.full(len(self.training), self.plan.context, dtype=np.int64)
        self.shuffle = Shuffle(lengths, self.batch_size, options["seed"])
        self.steps_per_epoch = self.shuffle.steps_per_epoch

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _bounds(self, found: Sequence[Series]) -> list[tuple[int, int, int]]:
        """Of each series, where training, validation and test end."""
        validation = 0.0 if self.options.get("validation") else (self.options.get("validation_fraction") or 0.2)
        test = 0.0 if self.options.get("test") else (self.options.get("test_fraction") or 0.0)
        if validation + test >= 1:
            raise OptionError("--validation-fraction and --test-fraction leave nothing to train on.")
        bounds = []
        for one in found:
            steps = len(one.rows)
            end = steps - math.ceil(test * steps)
            bounds.append((end - math.ceil(validation * steps), end, steps))
        return bounds

    def _plan(self, found: Sequence[Series], bounds: Sequence[tuple[int, int, int]]) -> Plan:
        options = self.options
        season = options.get("season")
        if season is None:
            season, why = guess_season(found[0].times)
            if season > 1:
                self.notes.append(f"season: {season} steps ({why}; a guess; --season gives another)")
        horizon = options.get("horizon") or min(season if season > 1 else 12, max(1, max(b[0] for b in bounds) // 4))
        longest = max(train for train, _, _ in bounds)
        context = options.get("context") or max(1, min(max(2 * season, 3 * horizon, 24), longest // 2))
        for name, value in (("season", season), ("horizon", horizon), ("context", context)):
            if value < 1:
                raise OptionError(f"--{name} {value} is impossible: it must be at least 1.")
        if context + horizon > longest:
            raise DataError(
                f"{self.source}: the longest series has {longest} steps to train on; --context {context} and --horizon "
                f"{horizon} need {context + horizon}: lower them or give more data."
            )
        strategy: Any = options.get("strategy") or "direct"
        if strategy not in ("direct", "autoregressive"):
            raise OptionError(f"--strategy {strategy!r} is none of direct, autoregressive.")
        if not options.get("horizon") or not options.get("context"):
            self.notes.append(f"{horizon} steps are forecast from {context} (--horizon and --context give others).")
        return Plan(horizon, context, season, strategy, len(self.columns.target), len(self.columns.features))

    def _load(self, found: Sequence[Series], bounds: Sequence[tuple[int, int, int]]) -> None:
        values, filled = self._with(nn.Module()).values(found)
        observed = [~np.isnan(one.target) for one in found]
        if filled:
            self.notes.append(
                f"{filled:,} empty cells were filled with the value before them (at the start: the mean)."
            )
        self.training = Windows(self.plan, values, observed, [(0, train) for train, _, _ in bounds], False)
        if not len(self.training):
            raise DataError(f"{self.source} has no {self.plan.context + self.plan.horizon} steps in a row to train on.")
        self.names = [one.name for one in found]
        self.validation = self._part("validation", found, values, observed, [(train, end) for train, end, _ in bounds])
        has_test = self.options.get("test") or self.options.get("test_fraction")
        self.test: tuple[Windows, list[str]] | None = None
        if has_test:
            self.test = self._part("test", found, values, observed, [(end, stop) for _, end, stop in bounds])

    def _part(
        self,
        part: str,
        found: Sequence[Series],
        values: Sequence[NDArray[np.float32]],
        observed: Sequence[NDArray[np.bool_]],
        bounds: Sequence[tuple[int, int]],
    ) -> tuple[Windows, list[str]]:
        """Windows to judge with: of the held-out ends, or of a file of their own."""
        other = self.options.get(part)
        if other is None:
            windows, names = Windows(self.plan, values, observed, bounds, True), [one.name for one in found]
        else:
            # A series of that file which training has too keeps its scale.
            reader = self._with(nn.Module())
            windows, names = reader.windows(reader.read(other, self.options.get("encoding") or "utf-8"))
            self.scalers, self.units = reader.scalers, reader.units
        if not len(windows):
            raise DataError(
                f"the {part} part is shorter than the horizon of {self.plan.horizon} steps: give more of it "
                f"(--{part}-fraction) or a lower --horizon."
            )
        return windows, names

    # --- What the loop asks for ---------------------------------------------------------------------------------------

    def model(self) -> SequenceModel:
        """A new network, initialised from torch's random state; its output layer starts small, near the baseline."""
        network = _network(self.plan, self.options)
        nn.init.normal_(network.output.weight, std=0.01)
        nn.init.zeros_(network.output.bias)
        return network

    def files(self) -> dict[str, str]:
        """What a run folder keeps beside the weights, by file name."""
        return self._with(nn.Module()).files()

    def _with(self, network: nn.Module) -> ForecastModel:
        return ForecastModel(self.columns, self.plan, self.scalers, self.units, network)

    def batch(self, step: int) -> ForecastBatch:
        """The batch of a training step."""
        return self.training.batch(self.shuffle(step))

    def loss(self, model: nn.Module, batch: ForecastBatch, state: Any) -> tuple[Tensor, None]:
        """Mean squared error of the scaled numbers; no state is carried."""
        errors = self.errors(model, batch)
        return errors.sum() / max(1, batch.size), None

    def errors(self, model: nn.Module, batch: ForecastBatch) -> Tensor:
        """Squared errors, in the shape of the targets; 0 where there is none."""
        change = model(batch.inputs)
        if self.plan.strategy == "direct":
            change = change.view(-1, self.plan.horizon, self.plan.channels).transpose(0, 1)
        known = ~batch.targets.isnan()
        error: Tensor = batch.base + change - batch.targets.nan_to_num(0.0)
        return error**2 * known

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the validation part, their names beginning with ``validation_``."""
        return {f"validation_{name}": value for name, value in self._with(model).score(*self.validation).items()}

    def baselines(self) -> dict[str, dict[str, float]]:
        """The naive and, with a season, the seasonal naive forecast of the validation part."""
        return self._with(nn.Module()).baselines(*self.validation)

    def results(self, model: nn.Module) -> dict[str, str]:
        """What is made with the trained model for the run folder, by file name: every metric of every part."""
        parts = {"validation": self.validation} | ({"test": self.test} if self.test is not None else {})
        found = {part: self._with(model).score(*data) for part, data in parts.items()}
        return {"evaluation.json": json.dumps(found, indent=1) + "\n"}

    def probe(self, count: int, steps: int) -> tuple[tuple[Tensor, ...], Callable[[Any], Tensor]]:
        """Inputs of the model and the loss of its output, ``(B,)`` or ``(T, B)``, to measure the gradient with."""
        windows, _ = self.validation
        batch = windows.batch(windows.thinned(count))
        direct = self.plan.strategy == "direct"

        def loss(output: Tensor) -> Tensor:
            change = output.view(-1, self.plan.horizon, self.plan.channels).transpose(0, 1) if direct else output
            known = ~batch.targets.isnan()
            errors = (batch.base + change - batch.targets.nan_to_num(0.0)) ** 2 * known
            return errors.sum((0, 2)) if direct else errors.sum(2)

        return (batch.inputs,), loss

    def describe(self) -> dict[str, object]:
        """What ``config.json`` keeps about the data."""
        return {
            "source": self.source,
            "encoding": self.options.get("encoding") or "utf-8",
            "columns": asdict(self.columns),
            "plan": asdict(self.plan),
            "series": len(self.names),
            "train_sequences": len(self.training),
            "validation_sequences": len(self.validation[0]),
            "test_sequences": len(self.test[0]) if self.test is not None else 0,
            "train_tokens": sum(len(values) for values in self.training.values),
            "validation_tokens": len(self.validation[0]) * self.plan.horizon,
            "vocabulary_size": None,
            "fingerprint": self.fingerprint,
        }


def _naive_error(target: Floats, season: int) -> Floats:
    """Mean absolute error of the seasonal naive forecast by one step, of each channel of ``(T, C)``."""
    season = season if len(target) > season else 1
    errors = np.abs(target[season:] - target[:-season])
    known = ~np.isnan(errors)
    sums, counts = np.where(known, errors, 0).sum(0), known.sum(0)
    found = np.divide(sums, counts, out=np.ones(target.shape[1]), where=counts > 0)
    return np.where(found > 0, found, 1.0)


_SEASONS = (  # days between steps, from and to: steps of a season
    (1 / 96.5, 1 / 95.5, 96, "a day of quarters of an hour"),
    (1 / 48.5, 1 / 47.5, 48, "a day of half hours"),
    (1 / 24.5, 1 / 23.5, 24, "a day of hours"),
    (0.95, 1.05, 7, "a week of days"),
    (6.9, 7.1, 52, "a year of weeks"),
    (27.5, 31.5, 12, "a year of months"),
    (89, 93, 4, "a year of quarters"),
)


def guess_season(times: Sequence[Any] | None) -> tuple[int, str]:
    """Steps of a season, by how far the dates of a series lie apart; 1 where they tell nothing.

    Examples
    --------
    >>> guess_season(["2020-01-01", "2020-02-01", "2020-03-01"])
    (12, 'a year of months')
    """
    if times is None or len(times) < 3 or any(isinstance(time, int | float) for time in times[:3]):
        return 1, ""
    import pandas

    try:
        dates = pandas.to_datetime(pandas.Series(list(times)), utc=True, format="mixed")
    except (ValueError, TypeError, OverflowError):
        return 1, ""
    days = float(np.median(np.diff(dates.to_numpy()).astype("timedelta64[s]").astype(np.float64))) / 86400
    return next(((season, why) for low, high, season, why in _SEASONS if low <= days <= high), (1, ""))
