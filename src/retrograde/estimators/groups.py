"""`forecast_each`: a network of its own for each group of series, side by side in processes or on Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import pyarrow
from sklearn.base import clone

from ..data.frames import Frame, as_frame
from ..errors import DataError, OptionError, RetrogradeError
from ..pools import open_pool
from .forecaster import Forecaster

Key = tuple[Any, ...]


@dataclass(frozen=True)
class ForecastGroups:
    """A fitted `Forecaster` for each group.

    Attributes
    ----------
    by : list of str
        The columns whose values make a group.
    models : mapping
        Fitted forecasters by those values, a tuple.
    failed : mapping
        Why a group could not be trained, by its values.
    """

    by: list[str]
    models: Mapping[Key, Forecaster]
    failed: Mapping[Key, str]

    def predict(self, fh: Any = None) -> Any:
        """Forecast the steps after the series of all groups: one DataFrame, with the columns of ``by`` first."""
        parts = [self._with_key(key, model.predict(fh)) for key, model in self.models.items()]
        return nw.concat(parts, how="vertical").to_native()

    def _with_key(self, key: Key, forecast: Any) -> Frame:
        frame = nw.from_native(forecast, eager_only=True)
        columns = [nw.lit(value).alias(name) for name, value in zip(self.by, key, strict=True)]
        found: Frame = frame.select(*columns, nw.all())
        return found

    def save(self, path: str | Path, overwrite: bool = False) -> list[Path]:
        """Write a run folder for each group, ``PATH/0``, ``PATH/1``, …, in the order of ``models``."""
        models = self.models.values()
        return [model.save(Path(path) / str(number), overwrite) for number, model in enumerate(models)]


@dataclass(frozen=True)
class _Job:
    """An estimator that is not fitted, and the series of one group."""

    estimator: Forecaster
    series: pyarrow.Table
    backend: Any  # as narwhals names it
    fh: Any


def _fit(job: _Job) -> Forecaster | str:
    frame = nw.from_arrow(job.series, backend=job.backend).to_native()
    try:
        return job.estimator.fit(frame, fh=job.fh)
    except RetrogradeError as error:
        return str(error)


def forecast_each(
    estimator: Forecaster,
    data: Any,
    by: str | Sequence[str],
    *,
    fh: Any = None,
    workers: int = 1,
    ray: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ForecastGroups:
    """Fit a forecaster for each group of series.

    `Forecaster.fit` trains one network on all series, which is better where they are alike. This is for series that are
    not, or for more of them than one machine trains in time.

    Parameters
    ----------
    estimator : Forecaster
        Not fitted; each group has a copy of it.
    data : DataFrame
        A long frame of pandas, Polars or another library, a row for each step.
    by : str or sequence of str
        Columns whose values make a group; they are no features of it.
    fh : int or sequence of int, optional
        As in `Forecaster.fit`.
    workers : int
        Groups at a time, in processes of their own with one thread each.
    ray : bool
        Compute them on the Ray cluster at RAY_ADDRESS, or on a local one.
    progress : callable, optional
        Called with the number of groups that are done, and of all.

    Raises
    ------
    OptionError, DataError
        There is no such column, or no group could be trained.
    MissingExtraError
        Ray is not installed.

    Examples
    --------
    >>> found = forecast_each(rg.Forecaster(horizon=12), frame, by="store", workers=8)  # doctest: +SKIP
    >>> found.predict()  # doctest: +SKIP
    """
    frame, columns = as_frame(data), [by] if isinstance(by, str) else list(by)
    if frame is None:
        raise DataError(f"data is a {type(data).__name__}: give a DataFrame with a row for each step.")
    if not columns or set(columns) - set(frame.columns):
        raise OptionError(f"by is {by!r}, and the columns are {', '.join(frame.columns)}: name some of them.")
    if not isinstance(workers, int) or workers < 1:
        raise OptionError(f"workers is {workers}; it must be a whole number of at least 1.")
    backend = frame.implementation.value
    models, failed = dict[Key, Forecaster](), dict[Key, str]()
    pool = open_pool(workers, ray)
    try:
        running = dict[Key, Future[Forecaster | str]]()
        for key, part in frame.group_by(*columns):
            job = _Job(clone(estimator), part.drop(*columns).to_arrow(), backend, fh)
            running[key] = pool.submit(_fit, job)
        for key in sorted(running, key=repr):
            fitted = running[key].result()
            if isinstance(fitted, str):
                failed[key] = fitted
            else:
                models[key] = fitted
            if progress is not None:
                progress(len(models) + len(failed), len(running))
    finally:
        pool.close()
    if not models:
        key, why = next(iter(failed.items()), ((), "there is no row"))
        raise DataError(f"no group could be trained; {', '.join(map(str, key))}: {why}")
    return ForecastGroups(columns, models, failed)
