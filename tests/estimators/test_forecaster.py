"""Forecaster: arrays, pandas as sktime has it, long frames as neuralforecast has them."""

from __future__ import annotations

import pickle

import numpy as np
import pandas
import polars
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

import retrograde as rg
from retrograde.errors import DataError, OptionError

FAST = {"hidden_size": 4, "max_steps": 3, "threads": 1, "season": 4, "context": 8}
Y = np.tile([1.0, 5.0, 2.0, 8.0], 12) + np.arange(48)


@pytest.fixture(scope="module")
def fitted():
    return rg.Forecaster(**FAST).fit(Y[:40], fh=range(1, 5))


def test_an_array_is_forecast(fitted):
    assert fitted.run_.predictor.reader.plan.horizon == 4
    found = fitted.predict()
    assert found.shape == (4,) and np.array_equal(fitted.predict(fh=[2, 4]), found[[1, 3]])
    assert np.array_equal(fitted.predict(y=Y[:40]), found) and not np.array_equal(fitted.predict(y=Y), found)
    unit = np.abs(Y[4:36] - Y[:32]).mean()
    assert fitted.score(Y[40:]) == pytest.approx(-np.abs(found - Y[40:44]).mean() / 4, rel=1e-5) and unit == 4
    assert fitted.score(Y[40:], fh=[1]) == pytest.approx(-abs(found[0] - Y[40]) / 4, rel=1e-5)


@pytest.mark.parametrize(
    "ask",
    [
        lambda own: own.predict(),
        lambda own: own.predict_quantiles(),
        lambda own: own.backtest(2),
        lambda own: own.score(Y[40:]),
        lambda own: own.flow(),
        lambda own: own.diagnose(),
        lambda own: own.report(),
        lambda own: own.save("forecaster"),
    ],
    ids=["predict", "predict_quantiles", "backtest", "score", "flow", "diagnose", "report", "save"],
)
def test_a_forecaster_that_was_not_fitted_says_so(ask):
    with pytest.raises(NotFittedError, match="This Forecaster instance is not fitted yet"):
        ask(rg.Forecaster(**FAST))


def test_a_backtest_forecasts_from_several_origins(fitted):
    found = fitted.backtest(2, y=Y)
    last = fitted.predict(y=Y[:44])
    assert found.stride == 4 and [len(found.origins), len(found.steps)] == [2, 4]
    assert found.origins[1].scores["mae"] == pytest.approx(np.abs(last - Y[44:]).mean(), rel=1e-4)


def test_channels_and_several_series():
    two = np.stack([Y, -Y], axis=1)
    assert rg.Forecaster(horizon=3, **FAST).fit(two).predict().shape == (3, 2)
    model = rg.Forecaster(horizon=3, **FAST).fit([Y, Y[:30] * 2])
    assert [one.shape for one in model.predict()] == [(3,), (3,)]
    (alone,) = rg.Forecaster(horizon=3, **FAST).fit([Y]).predict()  # a list of one series
    assert alone.shape == (3,)
    with_features = rg.Forecaster(horizon=3, **FAST).fit(Y, X=np.stack([Y, Y], 1))
    assert with_features.run_.predictor.reader.plan.features == 2
    with pytest.raises(OptionError, match="not known ahead"):
        with_features.predict(X=np.zeros((3, 2)))


@pytest.mark.parametrize(
    "index",
    [
        pandas.date_range("2020-01-01", periods=48, freq="MS"),
        pandas.period_range("2020-01", periods=48, freq="M"),
        pandas.date_range("2020-01-01", periods=48, freq="h", tz="UTC"),
        pandas.RangeIndex(48),
    ],
    ids=["dates", "periods", "zone", "numbers"],
)
def test_pandas_with_the_times_as_index(index):
    whole = pandas.Series(Y, index=index, name="sales")
    model = rg.Forecaster(**FAST).fit(whole[:40], fh=[1, 2, 3])
    found = model.predict()
    assert isinstance(found, pandas.Series) and found.name == "sales"
    assert type(found.index) is type(index) or isinstance(index, pandas.RangeIndex)
    assert list(found.index) == list(index[40:43])
    assert model.score(whole[40:]) == pytest.approx(-np.abs(found - whole[40:43]).mean() / 4, rel=1e-5)


def test_pandas_with_series_as_the_first_level():
    index = pandas.MultiIndex.from_product(
        [["a", "b"], pandas.date_range("2024-01-01", periods=40)], names=["store", "day"]
    )
    frame = pandas.DataFrame({"sales": np.concatenate([Y[:40], 2 * Y[:40]])}, index=index)
    found = rg.Forecaster(**FAST).fit(frame, fh=2).predict()
    assert found.index.names == ["store", "day"] and list(found.columns) == ["sales"]
    assert [(one, str(day.date())) for one, day in found.index] == [
        ("a", "2024-02-11"), ("b", "2024-02-11"),
    ]  # fmt: skip


@pytest.mark.parametrize("library", [pandas.DataFrame, polars.DataFrame])
def test_a_long_frame_comes_back_with_its_columns(library, tmp_path):
    days = pandas.date_range("2024-01-01", periods=40)
    frame = library({"unique_id": ["a"] * 40 + ["b"] * 40, "ds": [*days, *days], "y": [*Y[:40], *(2 * Y[:40])]})
    model = rg.Forecaster(**FAST).fit(frame, fh=range(1, 3))
    found = model.predict()
    assert isinstance(found, library) and list(found.columns) == ["unique_id", "ds", "y"]
    assert list(found["unique_id"]) == ["a", "a", "b", "b"]
    assert [str(day)[:10] for day in found["ds"]] == ["2024-02-10", "2024-02-11"] * 2
    assert found["ds"].dtype == frame["ds"].dtype
    again = rg.Forecaster.load(model.save(tmp_path / "run"))
    assert np.array_equal(again.predict(y=frame)["y"], found["y"])
    with pytest.raises(OptionError, match="its series are not there"):
        again.predict()
    copied = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copied.predict()["y"], found["y"])
    later = library({"unique_id": ["a"], "ds": [days[-1] + days.freq], "y": [50.0]})
    unit = model._predictor.reader.units["a"][0]
    assert model.score(later) == pytest.approx(-abs(found["y"][0] - 50) / unit, rel=1e-5)


def test_quantiles_come_as_the_series_do():
    options = {**FAST, "quantiles": [0.1, 0.9], "horizon": 3}
    model = rg.Forecaster(**options).fit(np.stack([Y, -Y], 1))
    found = model.predict_quantiles()
    assert found.shape == (3, 2, 2) and (found[..., 0] <= found[..., 1]).all()
    assert np.array_equal(model.predict_quantiles(alpha=[0.1, 0.5], fh=[2])[0, :, 1], model.predict(fh=2)[0])
    with pytest.raises(OptionError, match=r"quantile 0\.25 was not trained: the model has 0\.1, 0\.5, 0\.9"):
        model.predict_quantiles(alpha=0.25)
    days = pandas.date_range("2024-01-01", periods=48, name="day")
    model = rg.Forecaster(**options).fit(pandas.Series(Y, days, name="sales"))
    found = model.predict_quantiles(fh=[1, 3])
    assert list(found.columns) == [("sales", 0.1), ("sales", 0.9)] and list(found.index) == list(
        model.predict(fh=[1, 3]).index
    )


def test_quantiles_that_were_not_trained(fitted):
    with pytest.raises(OptionError, match="trained without quantiles: train with --quantiles"):
        fitted.predict_quantiles()


PROMOTION = (np.arange(52) % 7 == 0).astype(float)


def test_what_is_known_ahead_comes_as_x():
    model = rg.Forecaster(known_future="x", horizon=3, **FAST).fit(Y, X=PROMOTION[:48])
    assert model.run_.predictor.reader.plan.known == 1 and model.run_.predictor.reader.plan.features == 0
    found = model.predict(X=PROMOTION[48:])
    assert np.array_equal(model.predict(y=Y, X=PROMOTION), found) and found.shape == (3,)
    assert model.score(Y[:3], X=PROMOTION[48:51]) < 0
    with pytest.raises(DataError, match="the series has no 'x' at step 2 of the 3 to forecast"):
        model.predict(X=PROMOTION[48:49])
    with pytest.raises(DataError, match="X must have the 1 columns that it had in fit"):
        model.predict(X=np.zeros((3, 2)))


def test_pandas_and_frames_with_what_is_known_ahead_and_what_is_static():
    days = pandas.date_range("2024-01-01", periods=52, name="day")
    X = pandas.DataFrame({"promotion": PROMOTION, "heat": np.arange(52.0)}, days)
    series = pandas.Series(Y, days[:48], name="sales")
    model = rg.Forecaster(known_future=["promotion"], horizon=3, **FAST).fit(series, X=X[:48])
    columns = model.run_.predictor.reader.columns
    assert columns.features == ("heat",) and columns.known_future == ("promotion",)
    found = model.predict(X=X[48:][["promotion"]])
    assert list(found.index) == list(days[48:51]) and model.predict(y=series, X=X).equals(found)

    both = [
        pandas.DataFrame({"unique_id": one, "ds": days, "y": [*Y, *[np.nan] * 4], "promotion": PROMOTION, "kind": kind})
        for one, kind in (("a", "big"), ("b", "small"))
    ]
    frame = pandas.concat(both)
    past, later = frame[frame.y.notna()], frame[frame.y.isna()]
    model = rg.Forecaster(known_future="promotion", static="kind", quantiles=[0.9], horizon=3, **FAST)
    found = model.fit(past).predict_quantiles(X=later)
    assert list(found.columns) == ["unique_id", "ds", "y quantile 0.9"]
    found = model.predict(X=later[["unique_id", "ds", "promotion"]])
    assert found.shape == (6, 3) and model.predict(y=frame).equals(found)
    with pytest.raises(DataError, match="X lacks the column 'promotion' of the steps to come"):
        model.predict(X=later[["unique_id", "ds"]])


def test_flow_and_page(fitted):
    assert fitted.flow().steps == {"l0": 8} or fitted.flow().layers == ["l0"]
    assert fitted.report().exists()


def test_searches():
    search = GridSearchCV(
        rg.Forecaster(horizon=3, **FAST), {"cell": ["gru", "rnn"]}, cv=list(TimeSeriesSplit(2).split(Y))[1:]
    )
    assert search.fit(Y).best_score_ < 0 and len(search.predict(None)) == 3


@pytest.mark.parametrize(
    ("y", "options", "error", "message"),
    [
        ("text", {}, DataError, "not a series of numbers"),
        ([Y, np.zeros((9, 2))], {}, DataError, "differ in their channels"),
        (Y, {"fh": 0}, OptionError, "fh is 0: give the steps ahead"),
        (Y, {"fh": [1.5]}, OptionError, "whole numbers from 1"),
        (Y, {"X": Y[:3]}, DataError, "a row for each step"),
    ],
)
def test_what_cannot_be_forecast(y, options, error, message):
    with pytest.raises(error, match=message):
        rg.Forecaster(**FAST).fit(y, **options)


def test_what_cannot_be_compared(fitted):
    with pytest.raises(OptionError, match="fh has 9, and the model forecasts 4 steps"):
        fitted.predict(fh=9)
    with pytest.raises(DataError, match="the form of the series"):
        fitted.score(pandas.Series(Y))
