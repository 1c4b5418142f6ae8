"""`Forecaster`: the next steps of series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pyarrow
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ..data.files import AUTO
from ..errors import DataError, OptionError
from ..options import Options
from ..runs import Backtest
from ..tasks.forecast import ForecastPredictor
from ..tasks.forecast_reader import key_of
from ..tasks.quantiles import middle_of, places_of
from .base import Estimator
from .series import GivenSeries


class Forecaster(Estimator, task="forecast"):
    """Forecast the next steps of one series or many with a recurrent network.

    It follows sktime (``fit(y, X, fh)``, ``predict(fh)``; pandas in, pandas out, with the times that follow) and
    neuralforecast (a long DataFrame ``unique_id``, ``ds``, ``y``).

    Attributes
    ----------
    run_ : TrainedRun
        The run that was trained; its folder is temporary, see `save`.
    notes_ : list of str
        What training said about the data: guesses, the season, gaps.

    Examples
    --------
    >>> import numpy as np, retrograde as rg
    >>> y = np.sin(np.arange(120) * 2 * np.pi / 12) + 0.01 * np.arange(120)
    >>> model = rg.Forecaster(season=12, hidden_size=8, max_steps=20, threads=1).fit(y[:108], fh=range(1, 13))
    >>> model.predict().shape, model.predict(fh=[1, 12]).shape, model.score(y[108:]) > -1
    ((12,), (2,), True)
    """

    def fit(self, y: Any, X: Any = None, fh: Any = None) -> Self:
        """Train on series.

        Parameters
        ----------
        y : array, list, Series or DataFrame
            One series, ``(T,)`` or ``(T, C)`` for C channels; a list of such arrays; a Series or DataFrame of pandas
            whose index has the times (and, as its first levels, the names of series); or a long DataFrame of pandas,
            Polars or Arrow with a row for each step, such as ``unique_id``, ``ds``, ``y`` (``group=``, ``time=``,
            ``target=`` and ``features=`` name other columns).
        X : like y, optional
            Further numbers to read at each step: of the past, or with ``known_future=`` (of arrays the columns are
            ``x``, or ``x_0``, ``x_1``, …: ``"x*"`` names all) known at the steps to forecast too, or with ``static=``
            of a whole series.
        fh : int or sequence of int, optional
            The steps ahead to forecast, from 1; the last is the ``horizon`` where that is not given.

        Raises
        ------
        DataError, OptionError
            If the data is not suitable, or an option is impossible or does not fit it.
        """
        self._given_series: GivenSeries | None = None
        given = GivenSeries.of(y, X)
        own = [Options.of({name: getattr(self, name)}) for name in ("known_future", "static")]
        patterns = ",".join(filter(None, [own[0].known_future, own[1].static])).split(",")
        roles: dict[str, Any] = given.apart(patterns)
        roles |= {name: value for name in given.roles if (value := getattr(self, name, None))}
        steps = _steps(fh)
        if steps is not None and self.horizon is None:
            roles["horizon"] = int(steps.max())
        self._train(given.table, **roles)
        self._given_series = given
        self._fh = steps
        self._check(steps)
        return self

    @property
    def _predictor(self) -> ForecastPredictor:
        return cast(ForecastPredictor, self.run_.predictor)

    def _source(self, X: Any, y: Any) -> pyarrow.Table:
        return GivenSeries.of(X, y).table

    def _check(self, steps: NDArray[np.int64] | None) -> NDArray[np.int64]:
        horizon = self._predictor.reader.plan.horizon
        if steps is None:
            return np.arange(1, horizon + 1)
        if steps.max() > horizon:
            raise OptionError(f"fh has {steps.max()}, and the model forecasts {horizon} steps: fit with that horizon.")
        return steps

    def predict(self, fh: Any = None, X: Any = None, y: Any = None) -> Any:
        """Forecast the steps after series.

        Parameters
        ----------
        fh : int or sequence of int, optional
            Steps ahead, from 1; by default those that `fit` was given, else the whole horizon.
        X : like that of `fit`
            With ``known_future`` the rows of the steps to come; a frame or an index has their groups and times.
        y : like that of `fit`, optional
            The series to forecast; by default those of `fit`. Where X came apart from y, X begins with its rows.

        Returns
        -------
        array, list, Series or DataFrame
            The same as the series came in: arrays ``(steps,)`` or ``(steps, C)``; for pandas the times that follow as
            index; of a long DataFrame one with its columns of groups, times and targets.
        """
        return self._forecast(fh, X, y)

    def predict_quantiles(self, fh: Any = None, X: Any = None, alpha: Any = None, y: Any = None) -> Any:
        """Forecast quantiles of the steps after series.

        Parameters
        ----------
        fh, X, y
            As in `predict`.
        alpha : float or sequence of float, optional
            Levels; by default the ``quantiles`` that it was trained with.

        Returns
        -------
        array, list or DataFrame
            Arrays ``(steps, levels)`` or ``(steps, C, levels)``; for pandas with the times as index, columns of two
            levels, name and level, as sktime has them; of a long DataFrame a column ``y quantile 0.1`` for each.

        Raises
        ------
        OptionError
            If it was not trained with these ``quantiles``.
        """
        check_is_fitted(self, "run_")
        levels = [level for level, _ in places_of(alpha, self._predictor.reader.plan.quantiles)]
        return self._forecast(fh, X, y, levels)

    def _forecast(self, fh: Any, X: Any, y: Any, levels: Sequence[float] | None = None) -> Any:
        check_is_fitted(self, "run_")
        steps = self._check(_steps(fh) if fh is not None else self._fh)
        read = self._predictor.reader.columns.read
        given, X = (self._own(), X) if y is None else GivenSeries.continued(y, X) if read else (GivenSeries.of(y), X)
        return given.like(list(self._predictor.predict(self._ahead(given, X))), self._predictor, steps, levels)

    def _ahead(self, given: GivenSeries, X: Any) -> pyarrow.Table:
        """Series with what is known of the steps to come."""
        columns = self._predictor.reader.columns
        if X is None:
            return given.table
        if not columns.known_future:
            raise OptionError(
                "X has numbers of steps to come, and the features of this forecast are not known ahead: name those "
                "that are with known_future=."
            )
        return given.with_ahead(X, columns)

    def _own(self) -> GivenSeries:
        if self._given_series is None:
            raise OptionError("this estimator was loaded, and its series are not there: give y, those to forecast.")
        return self._given_series

    def backtest(self, origins: int, y: Any = None) -> Backtest:
        """Errors of forecasts from some origins at the end of series, by origin and by step of the horizon.

        The network stays as it is, and reads what came before each origin.

        Parameters
        ----------
        origins : int
            Their number; they lie a horizon apart.
        y : like that of `fit`, optional
            By default the series of `fit`, most of which were trained on: give longer or other ones.

        Returns
        -------
        Backtest
            Scores and those of the naive forecasts: ``overall``, ``origins`` and ``steps``.
        """
        check_is_fitted(self, "run_")
        table = self._own().table if y is None else GivenSeries.of(y).table
        found = self._predictor.backtest(table, AUTO, origins).backtest
        assert found is not None
        return found

    def score(self, y: Any, X: Any = None, fh: Any = None) -> float:
        """Compare a forecast with what came after the series of `fit`: minus the MASE, so that higher is better.

        Parameters
        ----------
        y : like that of `fit`
            What directly follows the series of `fit`; of more than the horizon, the first steps.
        X : like y, optional
            Where `fit` had it.
        fh : int or sequence of int, optional
            As in `predict`.
        """
        check_is_fitted(self, "run_")
        steps, reader = self._check(_steps(fh) if fh is not None else self._fh), self._predictor.reader
        own = self._own()
        to_come = (y if own.form == "frame" and X is None else X) if reader.columns.known_future else None
        before, _ = reader.read(self._ahead(own, to_come), AUTO)
        after, _ = reader.read(own.followed_by(GivenSeries.of(y, X)), AUTO)
        place_of, errors = {name: place for place, name in enumerate(after.names)}, []
        for place, levels in self._predictor.forecast(before):
            forecast = levels[middle_of(reader.plan.levels)]
            name = before.names[place]
            start = int(after.numbers.starts[place_of[name]]) + int(before.numbers.lengths[place])
            stop = int(after.numbers.starts[place_of[name] + 1])
            truth = after.numbers.rows[start : min(stop, start + len(forecast))][:, : reader.plan.channels]
            rows = steps[steps <= len(truth)] - 1
            errors.append((np.abs(forecast[rows] - truth[rows]) / reader.units[key_of(name)]).ravel())
        found = np.concatenate(errors)
        if not (known := np.isfinite(found)).any():
            raise DataError("y has no number that a forecast could be compared with: it must follow the series of fit.")
        return -float(found[known].mean())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Make a fitted estimator of a run folder; the series to forecast are then given to `predict`."""
        found = super().load(path)
        found._given_series = found._fh = None
        return found


def _steps(fh: Any) -> NDArray[np.int64] | None:
    """A forecasting horizon as whole numbers of steps ahead."""
    if fh is None:
        return None
    found = np.atleast_1d(np.asarray(fh.to_numpy() if hasattr(fh, "to_numpy") else _listed(fh)))
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "iu" or found.min() < 1:
        raise OptionError(f"fh is {fh!r:.60}: give the steps ahead as whole numbers from 1, such as range(1, 13).")
    return np.unique(found).astype(np.int64)


def _listed(fh: Any) -> Any:
    return fh if isinstance(fh, int | np.ndarray) or not isinstance(fh, Sequence) else list(fh)
