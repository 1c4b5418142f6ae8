"""Series as people have them (arrays, pandas with times as index, long frames), as a table and back.

Tests: `tests/estimators/test_forecaster.py`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pyarrow
from numpy.typing import NDArray

from ..data.frames import array_of, arrow_of, as_frame, frame_of
from ..data.roles import Columns
from ..errors import DataError
from ..tasks.forecast import ForecastPredictor
from ..tasks.quantiles import MEDIAN, QUANTILE, column
from ..tasks.task import Row

Form = Literal["array", "arrays", "pandas", "frame"]


@dataclass(frozen=True)
class GivenSeries:
    """Series as a table whose rows are steps, with what is needed to return forecasts as they came."""

    table: pyarrow.Table
    form: Form  # what was given: an array, a list of arrays, pandas with the times as index, or a long frame
    roles: Mapping[str, str] = field(default_factory=dict)  # options that name the columns, where that is known
    original: Any = None  # what was given, without its rows

    @classmethod
    def of(cls, y: Any, X: Any = None) -> Self:
        """From series and the numbers to read next to them.

        Raises DataError if y has none of these forms, or X has another number of rows than y.
        """
        if _has_times(y):
            return cls._of_pandas(y, X)
        frame = as_frame(y)
        if frame is not None:
            table = arrow_of(frame)
            if X is not None:
                table, names = _beside(table, X)
                return cls(table, "frame", {"features": ",".join(names)}, frame.head(0))
            return cls(table, "frame", {}, frame.head(0))
        many = isinstance(y, list | tuple) and len(y) > 0 and np.ndim(y[0]) > 0
        series = [_matrix(one, "y") for one in (y if many else [y])]
        more = [] if X is None else [_matrix(one, "X") for one in (X if many else [X])]
        if more and [len(one) for one in more] != [len(one) for one in series]:
            raise DataError("X must have a row for each step of y.")
        if len({one.shape[1] for one in series}) > 1:
            raise DataError("the series of y differ in their channels: all must have as many.")
        targets, features = _names("y", series[0].shape[1]), _names("x", more[0].shape[1] if more else 0)
        numbers = np.concatenate([np.hstack(parts) for parts in zip(series, more, strict=True)] if more else series)
        columns = {name: pyarrow.array(numbers[:, at]) for at, name in enumerate([*targets, *features])}
        roles = {"target": ",".join(targets), "features": ",".join(features), "layout": "long", "group": ""}
        if many:
            owner = np.repeat(np.arange(len(series)), [len(one) for one in series])
            columns, roles["group"] = {"series": pyarrow.array(owner), **columns}, "series"
        roles = {name: value for name, value in roles.items() if value or name == "group"}
        flat = np.ndim(y[0] if many else y) == 1
        return cls(pyarrow.table(columns), "arrays" if many else "array", roles, flat)

    @classmethod
    def continued(cls, y: Any, X: Any) -> tuple[Self, Any]:
        """From series and X with their rows and those of the steps that follow, which come back apart."""
        if X is None or (as_frame(y) is not None and not _has_times(y)):
            return cls.of(y), X
        if _has_times(y):
            return cls.of(y, X), X.loc[~X.index.isin(y.index)]
        if isinstance(y, list | tuple) and len(y) > 0 and np.ndim(y[0]) > 0:
            both = list(zip(X, map(len, y), strict=True))
            return cls.of(y, [one[:steps] for one, steps in both]), [one[steps:] for one, steps in both]
        return cls.of(y, X[: len(y)]), X[len(y) :]

    @classmethod
    def _of_pandas(cls, y: Any, X: Any) -> Self:
        """Times and names of series from the index."""
        frame = y.to_frame(y.name if y.name is not None else "y") if y.ndim == 1 else y
        frame = frame.rename(columns=str)
        targets, index = [str(name) for name in frame.columns], frame.index
        if X is not None:
            frame = frame.join(X.rename(columns=str).rename(columns={name: f"{name}_x" for name in targets}))
        levels = [str(name) if name is not None else f"level_{at}" for at, name in enumerate(index.names)]
        if len(levels) == 1 and index.names[0] is None:
            levels = ["time"]
        columns: dict[str, Any] = {}
        for at, name in enumerate(levels):
            values = index.get_level_values(at)
            columns[name] = values.to_timestamp() if hasattr(values, "to_timestamp") else values
        columns |= {str(name): frame[name].to_numpy() for name in frame.columns}
        roles = {"target": ",".join(targets), "time": levels[-1], "group": ",".join(levels[:-1]), "layout": "long"}
        if features := [str(name) for name in frame.columns if name not in targets]:
            roles["features"] = ",".join(features)
        table = pyarrow.table({name: array_of(values, name) for name, values in columns.items()})
        return cls(table, "pandas", roles, y.iloc[:0] if len(levels) > 1 else y.iloc[-1:])

    def apart(self, patterns: Sequence[str]) -> dict[str, str]:
        """The roles, without features that are named to be another kind of them."""
        roles = dict(self.roles)
        names = [name for name in roles.pop("features", "").split(",") if name]
        kept = [name for name in names if not any(fnmatch.fnmatch(name, one.strip()) for one in patterns)]
        return roles | ({"features": ",".join(kept)} if kept else {})

    def with_ahead(self, X: Any, columns: Columns) -> pyarrow.Table:
        """These series with the features of the steps that follow, whose targets are empty.

        Raises DataError if X has another form, or lacks a column.
        """
        table = self.table
        if self.form in ("array", "arrays"):
            blocks = [_matrix(one, "X") for one in (X if self.form == "arrays" else [X]) if len(one)]
            names = [name for name in table.column_names if re.fullmatch(r"x(_\d+)?", name)]
            wrong = next((one.shape[1] for one in blocks if one.shape[1] != len(names)), None)
            if wrong is not None or (self.form == "arrays" and len(blocks) != table["series"].to_numpy().max() + 1):
                raise DataError(f"X must have the {len(names)} columns that it had in fit, for each series.")
            more = {name: np.concatenate([one[:, at] for one in blocks]) for at, name in enumerate(names)}
            if self.form == "arrays":
                more["series"] = np.repeat(np.arange(len(blocks)), [len(one) for one in blocks])
            ahead = pyarrow.table(more)
        elif self.form == "pandas":
            ahead = self._of_pandas(X.rename_axis(index=self.original.index.names), None).table
        else:
            frame = as_frame(X)
            if frame is None:
                raise DataError("X must be a DataFrame, as the series are.")
            ahead = arrow_of(frame)
        needed = [*columns.group, *filter(None, [columns.time]), *columns.known_future]
        if lacking := [name for name in needed if name not in ahead.column_names]:
            raise DataError(f"X lacks the column {lacking[0]!r} of the steps to come.")
        ahead = ahead.select([name for name in needed if name in table.column_names])
        fields = {name: table.schema.field(name).type for name in ahead.column_names}
        try:
            ahead = ahead.cast(pyarrow.schema([(name, fields[name]) for name in ahead.column_names]))
        except pyarrow.ArrowInvalid as error:
            raise DataError(f"X does not fit the series: {' '.join(str(error).split()):.200}.") from None
        return pyarrow.concat_tables([table, ahead], promote_options="permissive")

    def followed_by(self, other: GivenSeries) -> pyarrow.Table:
        """These series with the steps that another part of them has."""
        if self.form != other.form:
            raise DataError("y must have the form of the series that fit was given.")
        return pyarrow.concat_tables([self.table, other.table], promote_options="permissive")

    # --- Back ---------------------------------------------------------------------------------------------------------

    def like(
        self,
        rows: Sequence[Row],
        predictor: ForecastPredictor,
        steps: NDArray[np.int64],
        levels: Sequence[float] | None = None,
    ) -> Any:
        """Forecasts, the rows of a `ForecastPredictor`, in the form of the series; or quantiles of some levels."""
        columns = predictor.reader.columns
        if columns.layout == "wide":
            assert self.form == "frame"
            return frame_of(_transposed(*_of_levels(rows, columns.group, levels)), self.original)
        kept = [row for row in rows if row["step"] in set(steps.tolist())]
        named: dict[Any, str] = {name: name for name in columns.target}  # columns of the result -> of the rows
        if levels is not None:
            named = {(name, one): column(name, one) for name in columns.target for one in levels}
            kept = [row | {column(name, MEDIAN): row[name] for name in columns.target} for row in kept]
        found = _transposed(kept, [*columns.group, *named.values()])
        if self.form in ("array", "arrays"):
            numbers = np.array([found[name] for name in named.values()], dtype=np.float64).T
            if levels is not None:
                numbers = numbers.reshape(len(kept), -1, len(levels))
            numbers = numbers[:, 0] if self.original else numbers
            return numbers if self.form == "array" else np.split(numbers, len(kept) // len(steps))
        when = _times([row.get(str(columns.time)) for row in kept], self.table, columns.time)
        if self.form == "frame":
            times = {} if columns.time is None or when is None else {columns.time: when}
            groups = {name: found.pop(name) for name in columns.group}
            return frame_of({**groups, **(times or {"step": [row["step"] for row in kept]}), **found}, self.original)
        return self._as_pandas(found, list(columns.group), when, named)

    def _as_pandas(self, found: Mapping[str, Any], groups: list[str], when: Any, named: Mapping[Any, str]) -> Any:
        import pandas  # type: ignore[import-untyped]  # it came in, so it is there

        own = self.original.index
        last = own.levels[-1] if groups else own
        times = (
            pandas.Index(when.to_pandas() if hasattr(when, "to_pandas") else when)
            if when is not None
            else pandas.RangeIndex(len(next(iter(found.values()))))
        )
        if isinstance(last, pandas.PeriodIndex):
            times = pandas.PeriodIndex(times, freq=last.freq)
        index = times.rename(own.names[-1])
        if groups:
            index = pandas.MultiIndex.from_arrays([*(found[name] for name in groups), times], names=own.names)
        values = {name: found[given] for name, given in named.items()}
        if self.original.ndim == 1 and isinstance(next(iter(values)), str):
            return pandas.Series(*values.values(), index=index, name=self.original.name, dtype=float)
        return pandas.DataFrame(values, index=index, dtype=float)


def _transposed(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in names}


def _of_levels(
    rows: Sequence[Row], groups: Sequence[str], levels: Sequence[float] | None
) -> tuple[Sequence[Row], list[str]]:
    """Rows of a wide table with the forecasts alone, or with quantiles of some levels; and their columns."""
    if levels is None:
        return rows, [name for name in rows[0] if QUANTILE not in name or name in groups]
    medians = [
        row | {column(name, MEDIAN): row[name] for name in row if QUANTILE not in name and name not in groups}
        for row in rows
    ]
    wanted = {column("", level) for level in levels}
    return medians, [name for name in medians[0] if name in groups or name.endswith(tuple(wanted))]


def _has_times(y: Any) -> bool:
    """Whether this is pandas with an index that has times, or names of series, rather than row numbers."""
    if type(y).__module__.partition(".")[0] != "pandas":
        return False
    index = getattr(y, "index", None)
    return y.ndim == 1 or getattr(index, "nlevels", 1) > 1 or type(index).__name__ in ("DatetimeIndex", "PeriodIndex")


def _matrix(one: Any, name: str) -> NDArray[np.float64]:
    try:
        found = np.asarray(one, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(())
    if found.ndim not in (1, 2) or not found.size:
        raise DataError(f"{name} is not a series of numbers, (T,) or (T, channels), or a list of these.")
    return found[:, None] if found.ndim == 1 else found


def _names(stem: str, count: int) -> list[str]:
    return [stem] if count == 1 else [f"{stem}_{place}" for place in range(count)]


def _beside(table: pyarrow.Table, X: Any) -> tuple[pyarrow.Table, list[str]]:
    """A table with the columns of a frame next to its own."""
    other = as_frame(X)
    if other is None or len(other) != len(table):
        raise DataError("X must be a DataFrame with a row for each row of y.")
    more = arrow_of(other)
    names = [name for name in more.column_names if name not in table.column_names]
    for name in names:
        table = table.append_column(name, more[name])
    return table, names


def _times(texts: Sequence[Any], table: pyarrow.Table, column: str | None) -> Any:
    """Times to come in the type of the table's own; None where there are none."""
    if column is None or any(text is None for text in texts):
        return None
    kind = table.schema.field(column).type
    if pyarrow.types.is_temporal(kind):
        utc = np.array([np.datetime64(re.sub(r"(Z|[+-]00:?(00)?)$", "", str(text)), "us") for text in texts])
        return pyarrow.array(utc, pyarrow.timestamp("us", getattr(kind, "tz", None))).cast(kind)
    return list(texts)
