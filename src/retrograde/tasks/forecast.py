"""Forecasting: the next steps of a series of numbers, with one channel or many, from the steps before.

The network adds to the seasonal naive forecast (the value one season before) or to the naive one (the last value),
whichever forecasts the held-out part better, so it starts at that baseline and learns what the baseline gets wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.dates import as_written
from ..data.encoding import Scaler
from ..data.files import AUTO
from ..data.grid import Regular
from ..data.roles import Columns, Predicts
from ..data.series import Series, continued, guess_season, irregular, names_after, read_series, times_after
from ..errors import DataError, OptionError
from ..options import Options
from ..words import agreed, counted
from . import quantiles
from .forecast_reader import ORIGINS, TOGETHER, ForecastReader, Part, key_of
from .forecast_scores import Judge
from .models import SequenceModel, evaluation_mode
from .quantiles import column, middle_of, places_of
from .tables import TableTask
from .task import Evaluation, Examples, Predictor, Row, State, TaskInfo, share_kept
from .windows import ForecastBatch, ForecastPlan, Past, Windows

Floats = NDArray[np.float64]


# --- The trained network ----------------------------------------------------------------------------------------------


class ForecastPredictor(Predictor):
    """A trained network for forecasts, with what it needs to read tables."""

    FIXED_STEPS = "the windows of a forecast are as long as the --context it was trained with"

    def __init__(self, reader: ForecastReader, network: nn.Module) -> None:
        super().__init__(network)
        self.reader = reader

    @classmethod
    def from_files(cls, files: Mapping[str, str], options: Options, source: str) -> Self:
        """See `Predictor.from_files`."""
        reader = ForecastReader.from_files(files)
        return cls(reader, reader.network(options))

    def evaluate(self, source: Any, encoding: str = AUTO) -> Evaluation:
        """Scores of forecasts from everywhere in the series of a table, and those of the baselines."""
        return self._evaluated(source, encoding, None)

    def backtest(self, source: Any, encoding: str, count: int) -> Evaluation:
        """See `Predictor.backtest`."""
        return self._evaluated(source, encoding, count)

    def _evaluated(self, source: Any, encoding: str, origins: int | None) -> Evaluation:
        (found, _), plan = self.reader.read(source, encoding), self.reader.plan
        needed = plan.context + plan.horizon
        self._note(found, needed)
        if origins is None and (found.numbers.lengths >= needed).any():
            self.notes.append(
                f"a forecast reads the {plan.context} steps before it from this file only, so the first {plan.context} "
                "of each series are read, not scored; to score these too, put the end of the data before them into the "
                "file."
            )
        part = self.reader.windows(found), found.names
        if not len(part[0]):
            raise DataError(
                f"{source}: no series has the {plan.horizon + 1} steps that one forecast and its check need."
            )
        judge = Judge(self.reader)
        if origins is not None:
            tested = judge.backtest(self.network, part, origins)
            overall, counts = tested.overall, {"series": len(found), "origins": origins}
            return Evaluation(counts, dict(overall.scores), dict(overall.baselines), tested)
        counts = {"series": len(found), "forecasts": len(part[0].thinned(ORIGINS))}
        return Evaluation(counts, judge.score(self.network, part), judge.baselines(part))

    def _note(self, found: Series, steps: int) -> None:
        """Note series that have fewer steps than needed, or that do not occur in the training data."""
        self.notes, short = list(found.notes), int((found.numbers.lengths < steps).sum())
        if short:
            self.notes.append(
                f"{short:,} of {len(found):,} series {agreed(short, 'has')} fewer than {counted(steps, 'step')}; "
                "before their beginning they are taken to be as at their beginning. Only this file is read: if it "
                f"continues the training data, put the end of that ({self.reader.plan.context} steps) before it."
            )
        if new := [name for name in found.names if key_of(name) not in self.reader.scalers]:
            self.notes.append(
                f"{counted(len(new), 'series', 'is')} not among those trained on ({' '.join(new[0])!r}): each "
                "is scaled by its own numbers."
            )

    def forecast(self, found: Series) -> Iterator[tuple[int, Floats]]:
        """The steps after each series: its place, and ``(levels, horizon, C)`` in the units of the data.

        Without quantiles there is one level. NaN after a series that has no numbers at all and does not occur in the
        training data.
        """
        reader, plan, lengths = self.reader, self.reader.plan, found.numbers.lengths
        self._note(found, plan.context)
        known = {key for key in map(key_of, found.names) if key in reader.scalers}
        data, _, _ = reader.scaled(found, np.maximum(0, plan.context - lengths))
        for start in range(0, len(found), TOGETHER):
            places = range(start, min(start + TOGETHER, len(found)))
            ends = [int(data.starts[place + 1]) for place in places]
            values = np.stack([data.rows[end - plan.context : end] for end in ends], axis=1)
            past = Past(values, reader.ahead(found, places), reader.static(found)[list(places)])
            with evaluation_mode(self.network):
                result = reader.forecast(self.network, past)
            for place in places:
                key = key_of(found.names[place])
                channels = Scaler(*(part[: plan.channels] for part in reader.scalers[key]))
                made = channels.undo(result[:, :, place - start])
                yield place, made if lengths[place] or key in known else made * np.nan

    def examples(self, source: Any, encoding: str, count: int, steps: int | None = None) -> Examples:
        """Windows of the series of a table, spread evenly; their length is fixed."""
        return self.reader.windows(self.reader.read(source, encoding)[0]).examples(count)

    def predict(self, source: Any, encoding: str = AUTO, probabilities: bool = False) -> Iterator[Row]:
        """Rows with the steps after each series, in the table's order.

        For a table of steps one row for each step to come; for a table with one row per series one row each, with the
        steps to come as columns.
        """
        if probabilities:
            raise OptionError("--probabilities: a forecast has none; leave it out.")
        columns, plan = self.reader.columns, self.reader.plan
        found, names = self.reader.read(source, encoding)
        later = {}
        if columns.layout == "wide":
            steps = {name: columns.steps(names, name) for name in columns.target}
            later = {name: names_after(some, plan.horizon) for name, some in steps.items() if some != [name]}
        for place, made in self.forecast(found):
            row: Row = dict(zip(columns.group, found.names[place], strict=True))
            if columns.layout == "wide":
                for name, level, numbers in self._columns(made):
                    titles = [column(step, level) for step in later.get(name, [name])]
                    row |= dict(zip(titles, numbers if name in later else [numbers], strict=True))
                yield row
                continue
            times = times_after(found.times[place], plan.horizon, found.freq)
            times = as_written(times, columns.date_form, found.times[place] or ()) if times is not None else None
            for step in range(plan.horizon):
                when = {columns.time: times[step]} if columns.time is not None and times is not None else {}
                values = {column(name, level): numbers[step] for name, level, numbers in self._columns(made)}
                yield row | when | {"step": step + 1} | values

    def _columns(self, made: Floats) -> Iterator[tuple[str, float | None, list[Any]]]:
        """Forecasts ``(levels, horizon, C)`` of each channel (no level), then its quantiles."""
        plan, target = self.reader.plan, self.reader.columns.target
        asked = places_of(None, plan.quantiles) if plan.quantiles else []
        if made.shape[-1] > len(target):  # lists of several channels
            values: dict[str, list[list[Any]]]
            values = {target[0]: [[_known(step) for step in level] for level in made]}
        else:
            values = {name: [_known(level[:, at]) for level in made] for at, name in enumerate(target)}
        for name, levels in values.items():
            yield name, None, levels[middle_of(plan.levels)]
            yield from ((name, level, levels[at]) for level, at in asked)


def _known(numbers: Floats) -> list[float | None]:
    return [None if math.isnan(number) else float(number) for number in numbers]


# --- The task ---------------------------------------------------------------------------------------------------------


class ForecastTask(TableTask[ForecastBatch, Part]):
    """Learn to forecast series. The end of each series is held out; scales are fitted on what comes before it.

    Parameters
    ----------
    source : str or frame
        See `retrograde.data.formats.open_table`.
    options : Options
    files : mapping, optional
        Files of the run that is resumed.

    Raises
    ------
    DataError, OptionError
        If the data is not suitable, or an option does not fit it.
    """

    COLUMNS = ("group", "time", "target", "features", "known_future", "static", "layout", "date_format")
    PREDICTS = Predicts.FUTURE
    predictor = ForecastPredictor
    unit = "numbers"

    @classmethod
    def info(cls, options: Options) -> TaskInfo:
        """See `Task.info`: the data are windows of series."""
        return replace(super().info(options), unit="window")

    def __init__(self, source: Any, options: Options, files: Mapping[str, str] | None = None) -> None:
        super().__init__(source, options, files)
        table = self._open(source)
        if files is not None:
            self.reader = ForecastReader.from_files(files)
            self.reader.columns.check(table)
            found = read_series(table, self.reader.columns, self.reader.plan.regular)
            bounds = self._bounds(found, self.reader.plan.horizon if options.backtest else options.horizon)
        else:
            columns = self._columns(table)
            regular = Regular(options.freq, options.gaps, options.duplicates)
            found = read_series(table, columns, regular)
            self.notes += found.notes
            season, horizon = self._season(found), options.horizon or table.horizon
            if options.backtest and horizon is None:
                longest = int(found.numbers.lengths.max())
                horizon = min(season if season > 1 else 12, max(1, longest // (4 + options.backtest)))
            bounds = self._bounds(found, horizon)
            if seen := self._seen(found, bounds, columns):
                columns = columns.only((*columns.features, *columns.known_future), seen)
                columns.check(table)
                self.notes += table.unknown
                found = read_series(table, columns, regular)
            self.reader = ForecastReader(columns, self._plan(found, bounds, columns, season, horizon))
            for series, start, (train, _, _) in zip(found.names, found.numbers.starts.tolist(), bounds, strict=False):
                self.reader.fit(series, found.numbers.rows, start, start + train)
        if options.quantiles:
            self.notes.append(quantiles.note(options.quantiles))
        self.plan, self.gaps, self.names = self.reader.plan, found.gaps, found.names
        self.train_steps = sum(train for train, _, _ in bounds)
        self._load(found, bounds)
        if files is None:
            self._start_from_the_better_baseline()
        self.shuffle = self._shuffled(len(self.training), len(self.training))

    @property
    def judge(self) -> Judge:
        """What scores forecasts."""
        return Judge(self.reader)

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _bounds(self, found: Series, horizon: int | None) -> list[tuple[int, int, int]]:
        """Where training, validation and test end in each series."""
        validation, test = self._shares(usual=0.2)
        # Unless a share was asked for, at least one forecast is scored.
        asked = self.options.validation_fraction
        least = 0 if asked or not validation else horizon or 0
        origins = 0 if self.options.test or self.options.test_fraction else self.options.backtest or 0
        bounds = []
        for steps in found.numbers.lengths.tolist():
            end = steps - math.ceil(test * steps)
            if origins and horizon:  # of a short series fewer of them
                end = steps - horizon * min(origins, steps // 2 // horizon)
            held = math.ceil(validation * steps)
            bounds.append((end - (max(held, least) if end > 2 * least else held), end, steps))
        return bounds

    def _seen(self, found: Series, bounds: Sequence[tuple[int, int, int]], columns: Columns) -> dict[int, set[float]]:
        """The categories of features in the training part, where it lacks some."""
        classes = columns.classes((*columns.features, *columns.known_future))
        seen: dict[int, set[float]] = {at: set() for at in classes}
        for start, (train, _, _) in zip(found.numbers.starts.tolist(), bounds if seen else (), strict=False):
            for piece in found.numbers.rows.pieces(start, start + train):
                for at, some in seen.items():
                    some.update(np.unique(piece[:, found.channels + at]).tolist())
        full = all(len(some - {0.0}) >= count for some, count in zip(seen.values(), classes.values(), strict=True))
        return {} if full else seen

    def _season(self, found: Series) -> int:
        """The season asked for, else that of the times."""
        if self.options.season is not None:
            return self.options.season
        when = found.times[int(found.numbers.lengths.argmax())]
        season, why = guess_season(when, found.freq)
        if not found.freq and irregular(when):
            self.notes.append("steps are missing between the dates: rows are read as steps, one after the other.")
        if season > 1:
            self.notes.append(f"season: {season} steps ({why}; a guess; --season gives another)")
        return season

    def _plan(
        self,
        found: Series,
        bounds: Sequence[tuple[int, int, int]],
        columns: Columns,
        season: int,
        horizon: int | None,
    ) -> ForecastPlan:
        options = self.options
        longest = max(train for train, _, _ in bounds)
        horizon = horizon or min(season if season > 1 else 12, max(1, longest // 4))
        context = options.context or max(1, min(max(2 * season, 3 * horizon, 24), longest // 2))
        if context + horizon > longest:
            raise DataError(
                f"{self.source}: the longest series has {counted(longest, 'step')} to train on; --context {context} "
                f"and --horizon {horizon} need {context + horizon}: lower them or give more data."
            )
        if not options.horizon or not options.context:
            self.notes.append(
                f"{counted(horizon, 'step', 'is')} forecast from {context} (--horizon and --context give others)."
            )
        return ForecastPlan(
            horizon, context, season, options.strategy, found.channels, len(columns.features),
            found.freq, options.gaps, options.duplicates, relative=options.strategy == "direct",
            known=len(columns.known_future), static=len(columns.static), quantiles=options.quantiles,
        )  # fmt: skip

    def _load(self, found: Series, bounds: Sequence[tuple[int, int, int]]) -> None:
        plan = self.plan
        padding = plan.padding(np.array([train for train, _, _ in bounds]))
        values, truths, filled = self.reader.scaled(found, padding)
        if filled:
            where = "a season before, else" if plan.lag > 1 else "just"
            self.notes.append(
                f"{counted(filled, 'empty cell', 'was')} filled with the value {where} before (at the start: the mean)."
            )
        if short := int((padding > 0).sum()):
            self.notes.append(
                f"{short:,} of {len(found):,} series {agreed(short, 'is')} shorter than the {plan.context} + "
                f"{plan.horizon} steps of a window: before their beginning they are taken to be as at their beginning."
            )
        split_at = found.gaps if plan.gaps == "split" else []

        def windows(part: Sequence[tuple[int, int]], history: bool) -> Windows:
            return Windows(plan, values, truths, padding, part, history, split_at, self.reader.static(found))

        self.training = windows([(0, train) for train, _, _ in bounds], False)
        if not len(self.training):
            raise DataError(f"{self.source} has no {plan.context + plan.horizon} steps in a row to train on.")
        if plan.levels and not self.reader.spreads:
            self.reader.fit_spreads(self.training)
        validation = windows([(train, end) for train, end, _ in bounds], True)
        self.validation = self._part("validation", self.options.validation, found, validation)
        if self.options.test or self.options.test_fraction or self.options.backtest:
            test = windows([(end, stop) for _, end, stop in bounds], True)
            self.test = self._part("test", self.options.test, found, test)
            if self.options.backtest:
                self.test[0].origins(self.options.backtest)  # refused before training rather than after it

    def _start_from_the_better_baseline(self) -> None:
        """Let the network add to the naive forecast where the seasonal one is worse."""
        scores = {name: found["mase"] for name, found in self.baselines().items() if "coverage" not in found}
        if len(scores) > 1 and scores["naive"] < scores["seasonal naive"]:
            self.plan = self.reader.plan = replace(self.plan, base=1)
            for part in (self.training, self.validation[0], *([self.test[0]] if self.test else [])):
                part.plan = self.plan
            self.notes.append(
                f"forecasts start from the last value, whose MASE of {scores['naive']:.3f} on the validation part is "
                f"below the {scores['seasonal naive']:.3f} of the value a season before."
            )

    def _part(self, name: str, other: str | None, found: Series, held_out: Windows) -> Part:
        """Windows to score with, and the names of their series: the held-out ends, or a file of their own."""
        part: Part = held_out, found.names
        if other is not None:
            # A series that training has too keeps its scale; if the file continues it, the context comes from there.
            given, _ = self.reader.read(other, self.options.encoding)
            later, bounds = continued(found, given, self.plan.context)
            part = self.reader.windows(later, bounds), later.names
        if not len(part[0]):
            raise DataError(
                f"the {name} part is shorter than the horizon of {counted(self.plan.horizon, 'step')}: give more of it "
                f"(--{name}-fraction) or a lower --horizon."
            )
        if self.judge.judge(part, self.judge.of_base) is None:
            raise DataError(f"the {name} part has no number to compare a forecast with: its target cells are empty.")
        return part

    # --- Training -----------------------------------------------------------------------------------------------------

    def model(self) -> SequenceModel:
        """A new network, initialized from torch's random state; its output layer starts small, near the baseline.

        Its quantiles start as those of the baseline's errors in the training part.
        """
        network = self.reader.network(self.options)
        nn.init.normal_(network.output.weight, std=0.01)
        with torch.no_grad():
            network.output.bias.copy_(self._initial_bias(network))
        return network

    def _initial_bias(self, network: nn.Module) -> Tensor:
        bias: Tensor = network.get_submodule("output").bias  # type: ignore[assignment]
        if not self.plan.levels:
            return torch.zeros_like(bias)
        spread = self.reader.spreads[self.plan.added_to].transpose(1, 0, 2)  # (horizon, levels, C), as outputs are
        return torch.from_numpy((spread.mean(0) if self.plan.by_step else spread).ravel()).to(bias)

    def settle(self, network: nn.Module) -> str:
        """See `Task.settle`.

        Scales what the network adds to the baseline, where it is better than that by few standard errors on the
        validation part: a gain that may be luck is not forecast in full. The weights were chosen for that part, so
        without this a forecast may lose to its baseline later (docs/tasks.md has the measurements).
        """
        certainty = self.judge.certainty(network, self.validation)
        factor = share_kept(certainty)
        with torch.no_grad():
            output: Any = network.get_submodule("output")
            start = self._initial_bias(network)
            output.weight.mul_(factor)
            output.bias.sub_(start).mul_(factor).add_(start)
            if self.plan.levels:
                shift = torch.from_numpy(self.judge.corrections(network, self.validation)).to(output.bias)
                output.bias.add_(shift.ravel().repeat(output.bias.numel() // shift.numel()))
        return (
            f"the network is {'better' if certainty >= 0 else 'worse'} than its baseline by {abs(certainty):.1f} "
            f"standard errors on the validation part, so "
            f"{factor:.0%} of what it adds to that is forecast."
            + (f" Its {quantiles.CORRECTED}" * bool(self.plan.levels))
        )

    def files(self) -> dict[str, str]:
        """``preprocessing.json``."""
        return self.reader.files()

    def batch(self, step: int) -> ForecastBatch:
        """The batch of a training step."""
        return self.training.batch(self.shuffle(step))

    def loss(self, model: nn.Module, batch: ForecastBatch, state: State) -> tuple[Tensor, None]:
        """Mean squared error of the scaled numbers, or pinball loss of their quantiles; no state is carried."""
        return batch.losses(model(batch.inputs)).sum() / max(1, batch.size), None

    def score(self, model: nn.Module, part: Part) -> dict[str, Any]:
        """Every metric of a network on a part of the data."""
        return self.judge.score(model, part)

    def simple_scores(self, part: Part) -> dict[str, dict[str, float]]:
        """Scores of the naive and, with a season, the seasonal naive forecast."""
        return self.judge.baselines(part)

    def details(self, model: nn.Module, part: Part) -> dict[str, Any]:
        """See `TableTask.details`; and the errors of each series, and the last forecasts."""
        return (
            super().details(model, part)
            | {
                "series": self.judge.by_series(model, part),
                "forecasts": [one.as_dict() for one in self.judge.latest(model, part)],
            }
            | self._backtest(model, part)
        )

    def _backtest(self, model: nn.Module, part: Part) -> dict[str, Any]:
        if self.options.backtest is None or part is not self.test:
            return {}
        return {"backtest": self.judge.backtest(model, part, self.options.backtest).as_dict()}

    def held_out(self, count: int, steps: int | None = None) -> Examples:
        """Windows of the validation part, spread evenly; their length is fixed."""
        return self.validation[0].examples(count)

    def examples(self, count: int, steps: int | None = None) -> Examples:
        """The same of the training part, which has more of them."""
        return self.training.examples(count)

    def describe(self) -> dict[str, object]:
        """What ``config.json`` says about the data."""
        return super().describe() | {
            "columns": self.reader.columns.as_dict(),
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
        }
