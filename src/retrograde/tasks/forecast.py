"""Forecasting: the next steps of a series of numbers, one channel or many, given the steps before.

The network adds to the seasonal naive forecast (the value one season before; the last value where there is no season),
so it starts from that baseline and learns what it gets wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.columns import Columns, columns_for, unused
from ..data.encoding import Scaler
from ..data.formats import fingerprint, is_frame, name_of, open_table
from ..data.grid import Regular
from ..data.series import Series, continued, guess_season, irregular, read_series
from ..data.shuffle import Shuffle
from ..data.storage import Ragged, Rows
from ..errors import DataError, OptionError, RunError
from .models import RECURRENT, SequenceModel
from .naive import fill_by_season, naive, naive_error
from .task import Probe, State, Task
from .windows import ForecastBatch, Plan, Windows

__all__ = ["ForecastModel", "ForecastTask", "Windows"]

Floats = NDArray[np.float64]
ORIGINS = 2000  # the most forecasts made to judge a model
TOGETHER = 256  # forecasts made at once


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
    notes : list of str
        What a user should know about what was forecast last.
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
        self.notes: list[str] = []
        self.column_names: list[str] = []  # of the table read last

    def files(self) -> dict[str, str]:
        """What a run folder keeps beside the weights, by file name."""
        kept = {
            "columns": self.columns.as_dict(),
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
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"preprocessing.json is missing or damaged: {error}.") from None
        return cls(columns, plan, scalers, units, _network(plan, options))

    def read(self, source: str, encoding: str = "utf-8") -> Series:
        """The series of a table.

        Raises
        ------
        DataError
            If a column is missing, or a number infinite.
        """
        table = open_table(source, encoding)
        self.columns.check(table)
        self.column_names = table.names
        found = read_series(table, self.columns, self.plan.regular)
        if found.channels != self.plan.channels:
            raise DataError(f"{source} has {found.channels} channels; the model was trained with {self.plan.channels}.")
        return found

    def _on_reading(self, found: Series, steps: int) -> list[str]:
        """What is to be said about series that have fewer than so many steps, or that training did not have."""
        said, short = [], int((found.numbers.lengths < steps).sum())
        if short:
            said.append(
                f"{short:,} of {len(found):,} series have fewer than {steps} steps; before their beginning they are "
                "taken to be as at their beginning. Only this file is read: if it goes on with the training data, put "
                f"the end of that ({self.plan.context} steps) before it."
            )
        if new := [name for name in found.names if key_of(name) not in self.scalers]:
            said.append(
                f"{len(new):,} series are not among those trained on ({' '.join(new[0])!r}); "
                "each is scaled by its own numbers."
            )
        return said

    def scaled(self, found: Series, padding: NDArray[np.int64]) -> tuple[Ragged, Ragged, int]:
        """Series as the network reads them, what was observed of them, and how many empty cells were filled.

        Before the beginning of a series its first numbers are repeated, ``padding`` times. A series that training did
        not have gets its scale and unit from what is given of it.

        Returns
        -------
        values, truths : Ragged
            ``(T, C + F)`` and ``(T, C)`` each, see `Windows`.
        filled : int
        """
        values, truths, filled = Rows(np.float32), Rows(np.float32), 0
        channels, width = self.plan.channels, self.plan.channels + self.plan.features
        for place, name in enumerate(found.names):
            key, start, stop = key_of(name), int(found.numbers.starts[place]), int(found.numbers.starts[place + 1])
            if key not in self.scalers:
                self.scalers[key] = Scaler.fit(found.numbers.rows.pieces(start, stop), width)
            if key not in self.units:
                self.units[key] = naive_error(found.numbers.rows, start, stop, self.plan)
            before, pad = np.full((self.plan.lag, width), np.nan), int(padding[place])
            truths.append(np.full((pad, channels), np.nan))
            if start == stop:
                values.append(np.zeros((pad, width)))
            for piece in found.numbers.rows.pieces(start, stop):
                whole = fill_by_season(np.concatenate([before, piece]), self.plan)
                before, filled = whole[len(piece) :], filled + int(np.isnan(piece).sum())
                ready = np.nan_to_num(self.scalers[key](whole[self.plan.lag :]), nan=0.0)
                values.append(np.repeat(ready[:1], pad, axis=0))
                pad = 0
                values.append(ready)
                truths.append(np.where(np.isnan(piece), np.nan, ready)[:, :channels])
        lengths = found.numbers.lengths + padding
        return Ragged(values, lengths), Ragged(truths, lengths), filled

    def windows(self, found: Series, bounds: Sequence[tuple[int, int]] | None = None) -> Windows:
        """Every window of some series, or of a part of each; one of each that is too short for one by itself."""
        lengths = found.numbers.lengths
        bounds = bounds if bounds is not None else [(0, int(length)) for length in lengths]
        padding = self.plan.padding(lengths)
        values, truths, _ = self.scaled(found, padding)
        return Windows(self.plan, values, truths, padding, bounds, True)

    def score(self, windows: Windows, names: Sequence[tuple[str, ...]]) -> dict[str, float]:
        """Judge the network, see `judge`."""
        was_training = self.network.training
        self.network.eval()
        device = next(self.network.parameters()).device

        def outputs(past: NDArray[np.float32], observed: NDArray[np.bool_]) -> tuple[NDArray[Any], bool]:
            return self.outputs(torch.from_numpy(past).to(device)).float().cpu().numpy(), True

        try:
            scores = self.judge(windows, names, outputs)
        finally:
            self.network.train(was_training)
        if scores is None:
            raise DataError("there is no number to compare a forecast with: the target cells are empty.")
        return scores

    def evaluate(self, source: str, encoding: str = "utf-8") -> dict[str, Any]:
        """Every metric of forecasts made all along the series of a table, beside the baselines'."""
        found = self.read(source, encoding)
        self.notes = found.notes + self._on_reading(found, self.plan.context + self.plan.horizon)
        if (found.numbers.lengths >= self.plan.context + self.plan.horizon).any():
            self.notes.append(
                f"a forecast reads the {self.plan.context} steps before it from this file alone, so the first "
                f"{self.plan.context} of each series are read, not judged; to judge these too, put the end of the data "
                "before them into the file."
            )
        windows = self.windows(found)
        if not len(windows):
            raise DataError(
                f"{source}: no series has the {self.plan.horizon + 1} steps that one forecast and its check need."
            )
        return {
            "series": len(found),
            "forecasts": len(windows.thinned(ORIGINS)),
            **self.score(windows, found.names),
            "baselines": self.baselines(windows, found.names),
        }

    def baselines(self, windows: Windows, names: Sequence[tuple[str, ...]]) -> dict[str, dict[str, float]]:
        """The naive and, with a season, the seasonal naive forecast, judged at the same places.

        They know only what was observed within the context: the last number there, or the last one at that place of
        the season. Where there is none they forecast nothing and are not judged; ``coverage`` is then the share of the
        numbers that they are judged by.
        """
        plan = self.plan
        found = {}
        for name, season in (("naive", 1), ("seasonal naive", plan.season)):
            if season > plan.context or name in found or (name != "naive" and season == 1):
                continue

            def outputs(
                past: NDArray[np.float32], observed: NDArray[np.bool_], season: int = season
            ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
                return naive(past[..., : plan.channels], observed, season, plan.horizon)

            if (scores := self.judge(windows, names, outputs)) is not None:
                found[name] = scores
        return found

    def judge(
        self,
        windows: Windows,
        names: Sequence[tuple[str, ...]],
        outputs: Callable[[NDArray[np.float32], NDArray[np.bool_]], tuple[NDArray[Any], NDArray[np.bool_] | bool]],
    ) -> dict[str, float] | None:
        """Loss (scaled), MAE and RMSE (in the units of the data) and MASE of forecasts made along windows.

        Parameters
        ----------
        names
            Of the series, by their place.
        outputs
            From scaled windows ``(context, B, C + F)`` and which channels were observed in them, ``(context, B, C)``,
            to scaled forecasts ``(horizon, B, C)`` and which of these are made.

        Returns
        -------
        dict or None
            None if there is nothing to compare.
        """
        plan = self.plan
        chosen = windows.thinned(ORIGINS)
        scaled, absolute, squared, relative, count, most = 0.0, 0.0, 0.0, 0.0, 0, 0
        for start in range(0, len(chosen), TOGETHER):
            some = chosen[start : start + TOGETHER]
            truths = windows.cut(windows.truths, some)
            past, truth = windows.cut(windows.values, some, 0, plan.context), truths[plan.context :]
            known = ~np.isnan(truth)
            made, available = outputs(past, ~np.isnan(truths[: plan.context]))
            most += int(known.sum())
            known = known & available
            error = np.where(known, made - truth, 0).astype(np.float64)
            owners = [key_of(names[place]) for place in windows.owners(some)]
            scale = np.stack([self.scalers[key].scale[: plan.channels] for key in owners])
            unit = np.stack([self.units[key] for key in owners])
            scaled += float((error**2).sum())
            absolute += float((np.abs(error) * scale).sum())
            squared += float(((error * scale) ** 2).sum())
            relative += float((np.abs(error) * scale / unit).sum())
            count += int(known.sum())
        if not count:
            return None
        found = {
            "loss": scaled / count,
            "mae": absolute / count,
            "rmse": math.sqrt(squared / count),
            "mase": relative / count,
        }
        return found if count == most else found | {"coverage": count / most}

    @torch.no_grad()
    def outputs(self, past: Tensor) -> Tensor:
        """Scaled forecasts ``(horizon, B, C)`` from scaled windows ``(context, B, C + F)``, in eval mode."""
        plan = self.plan
        channels = past[..., : plan.channels]
        if plan.strategy == "direct":
            change = self.network(past).view(-1, plan.horizon, plan.channels).transpose(0, 1)
            return plan.repeated(channels, plan.lag) + change  # type: ignore[no-any-return]
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

    def forecast(self, found: Series) -> Iterator[tuple[int, Floats]]:
        """What comes after each series: its place, and ``(horizon, C)`` in the units of the data.

        NaN after a series that has no numbers at all and that training did not have.
        """
        plan, lengths = self.plan, found.numbers.lengths
        self.notes = found.notes + self._on_reading(found, plan.context)
        known = {key for key in map(key_of, found.names) if key in self.scalers}
        data, _, _ = self.scaled(found, np.maximum(0, plan.context - lengths))
        was_training = self.network.training
        self.network.eval()
        device = next(self.network.parameters()).device
        try:
            for start in range(0, len(found), TOGETHER):
                places = range(start, min(start + TOGETHER, len(found)))
                ends = [int(data.starts[place + 1]) for place in places]
                past = np.stack([data.rows[end - plan.context : end] for end in ends], axis=1)
                result = self.outputs(torch.from_numpy(past).to(device)).float().cpu().numpy()
                for column, place in enumerate(places):
                    key = key_of(found.names[place])
                    scaler = self.scalers[key]
                    channels = Scaler(scaler.mean[: plan.channels], scaler.scale[: plan.channels])
                    values = channels.undo(result[:, column])
                    yield place, values if lengths[place] or key in known else values * np.nan
        finally:
            self.network.train(was_training)


def key_of(name: tuple[str, ...]) -> str:
    """A series' name as a JSON file can have it for a key."""
    return name[0] if len(name) == 1 else json.dumps(name, ensure_ascii=False) if name else ""


def _parts_of(files: Mapping[str, str]) -> tuple[Columns, Plan, dict[str, Scaler], dict[str, Floats]]:
    kept = json.loads(files["preprocessing.json"])
    scalers = {name: Scaler.from_dict(scaler) for name, scaler in kept["scalers"].items()}
    units = {name: np.asarray(unit, dtype=np.float64) for name, unit in kept["units"].items()}
    return Columns.from_dict(kept["columns"]), Plan(**kept["plan"]), scalers, units


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


class ForecastTask(Task[ForecastBatch]):
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

    name = "forecast"

    def __init__(self, source: Any, options: Mapping[str, Any], files: Mapping[str, str] | None = None) -> None:
        self.options, self.source = dict(options), name_of(source)
        self.in_memory = is_frame(source)
        self.notes: list[str] = []
        table = open_table(source, options.get("encoding") or "utf-8")
        self.fingerprint = fingerprint(source, options.get("validation"), options.get("test"))
        if files is not None:
            self.columns, self.plan, self.scalers, self.units = _parts_of(files)
            self.columns.check(table)
        else:
            given = {part: options.get(part) for part in ("group", "time", "target", "features", "layout")}
            self.columns, notes = columns_for("forecast", table, given)
            self.notes += [*table.notes, *notes, *unused(table, self.columns)]
        found = read_series(table, self.columns, self._regular() if files is None else self.plan.regular)
        self.gaps = found.gaps
        self.notes += found.notes if files is None else []
        bounds = self._bounds(found)
        if files is None:
            self.plan = self._plan(found, bounds)
            self.scalers, self.units = {}, {}
            for name, start, (train, _, _) in zip(found.names, found.numbers.starts.tolist(), bounds, strict=False):
                part = found.numbers.rows.pieces(start, start + train)
                self.scalers[key_of(name)] = Scaler.fit(part, self.plan.channels + self.plan.features)
                self.units[key_of(name)] = naive_error(found.numbers.rows, start, start + train, self.plan)
        self.train_steps = sum(train for train, _, _ in bounds)
        self._load(found, bounds)
        self.batch_size = options.get("batch_size") or min(64, max(1, len(self.training) // 4))
        self.shuffle = Shuffle(len(self.training), self.batch_size, options["seed"])
        self.steps_per_epoch = self.shuffle.steps_per_epoch

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _bounds(self, found: Series) -> list[tuple[int, int, int]]:
        """Of each series, where training, validation and test end."""
        asked = self.options.get("validation_fraction")
        validation = 0.0 if self.options.get("validation") else asked or 0.2
        test = 0.0 if self.options.get("test") else (self.options.get("test_fraction") or 0.0)
        if validation + test >= 1:
            raise OptionError("--validation-fraction and --test-fraction leave nothing to train on.")
        # Where no share was asked for, at least one forecast is to be judged.
        least = 0 if asked or not validation else self.options.get("horizon") or 0
        bounds = []
        for steps in found.numbers.lengths.tolist():
            end = steps - math.ceil(test * steps)
            held = math.ceil(validation * steps)
            bounds.append((end - (max(held, least) if end > 2 * least else held), end, steps))
        return bounds

    def _regular(self) -> Regular:
        """What the options say about times that are not regular."""
        given = {name: self.options[name] for name in ("freq", "gaps", "duplicates") if self.options.get(name)}
        return Regular(**given)

    def _plan(self, found: Series, bounds: Sequence[tuple[int, int, int]]) -> Plan:
        options = self.options
        season = options.get("season")
        if season is None:
            when = found.times[int(found.numbers.lengths.argmax())]
            season, why = guess_season(when, found.freq)
            if not found.freq and irregular(when):
                self.notes.append("steps are missing between the dates: rows are read as steps, one after the other.")
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
        regular = self._regular()
        return Plan(
            horizon, context, season, strategy, found.channels, len(self.columns.features),
            found.freq, regular.gaps, regular.duplicates,
        )  # fmt: skip

    def _load(self, found: Series, bounds: Sequence[tuple[int, int, int]]) -> None:
        padding = self.plan.padding(np.array([train for train, _, _ in bounds]))
        values, truths, filled = self._with(nn.Module()).scaled(found, padding)
        if filled:
            where = "a season before, else" if self.plan.lag > 1 else "just"
            self.notes.append(
                f"{filled:,} empty cells were filled with the value {where} before (at the start: the mean)."
            )
        self.names = found.names
        short = int((padding > 0).sum())
        if short:
            self.notes.append(
                f"{short:,} of {len(found):,} series are shorter than the {self.plan.context} + {self.plan.horizon} "
                "steps of a window: before their beginning they are taken to be as at their beginning."
            )
        self._split_at = found.gaps if self.plan.gaps == "split" else []
        parts = [(0, train) for train, _, _ in bounds]
        self.training = Windows(self.plan, values, truths, padding, parts, False, self._split_at)
        if not len(self.training):
            raise DataError(f"{self.source} has no {self.plan.context + self.plan.horizon} steps in a row to train on.")
        self.validation = self._part("validation", found, padding, [(train, end) for train, end, _ in bounds])
        has_test = self.options.get("test") or self.options.get("test_fraction")
        self.test: tuple[Windows, list[tuple[str, ...]]] | None = None
        if has_test:
            self.test = self._part("test", found, padding, [(end, stop) for _, end, stop in bounds])

    def _part(
        self, part: str, found: Series, padding: NDArray[np.int64], bounds: Sequence[tuple[int, int]]
    ) -> tuple[Windows, list[tuple[str, ...]]]:
        """Windows to judge with, and the names of their series: of the held-out ends, or of a file of their own."""
        other = self.options.get(part)
        if other is None:
            windows, names = (
                Windows(self.plan, self.training.values, self.training.truths, padding, bounds, True, self._split_at),
                self.names,
            )
        else:
            # A series of that file which training has too keeps its scale; where it goes on with it, it is read on.
            reader = self._with(nn.Module())
            later, bounds = continued(
                found, reader.read(other, self.options.get("encoding") or "utf-8"), self.plan.context
            )
            windows, names = reader.windows(later, bounds), later.names
            self.scalers, self.units = reader.scalers, reader.units
        if not len(windows):
            raise DataError(
                f"the {part} part is shorter than the horizon of {self.plan.horizon} steps: give more of it "
                f"(--{part}-fraction) or a lower --horizon."
            )
        if self._with(nn.Module()).judge(windows, names, lambda past, _: (past[:1, :, :1], True)) is None:
            raise DataError(f"the {part} part has no number to compare a forecast with: its target cells are empty.")
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

    def loss(self, model: nn.Module, batch: ForecastBatch, state: State) -> tuple[Tensor, None]:
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

    def probe(self, count: int, steps: int) -> Probe:
        """Inputs of the model and the loss of its output, ``(B,)`` or ``(T, B)``, to measure the gradient with."""
        windows, _ = self.validation
        batch = windows.batch(windows.thinned(count))
        direct = self.plan.strategy == "direct"

        def loss(output: Tensor) -> Tensor:
            change = output.view(-1, self.plan.horizon, self.plan.channels).transpose(0, 1) if direct else output
            known = ~batch.targets.isnan()
            errors = (batch.base + change - batch.targets.nan_to_num(0.0)) ** 2 * known
            return errors.sum((0, 2)) if direct else errors.sum(2)

        return Probe((batch.inputs,), loss)

    def describe(self) -> dict[str, object]:
        """What ``config.json`` keeps about the data."""
        return {
            "source": self.source,
            **({"in_memory": True} if self.in_memory else {}),
            "encoding": self.options.get("encoding") or "utf-8",
            "columns": self.columns.as_dict(),
            "plan": asdict(self.plan),
            "series": len(self.names),
            "train_sequences": len(self.training),
            "validation_sequences": len(self.validation[0]),
            "test_sequences": len(self.test[0]) if self.test is not None else 0,
            "train_tokens": self.train_steps,
            "validation_tokens": len(self.validation[0]) * self.plan.horizon,
            "vocabulary_size": None,
            "gaps": [
                {"series": key_of(self.names[gap.series]), "after": gap.after, "missing": gap.missing}
                for gap in self.gaps
            ],
            "fingerprint": self.fingerprint,
        }
