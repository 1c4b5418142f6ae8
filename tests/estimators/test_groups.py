"""A forecaster for each group of series."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas
import polars
import pytest

import retrograde as rg
from retrograde.errors import DataError, OptionError
from retrograde.estimators import forecast_each

FAST = {"hidden_size": 4, "max_steps": 3, "threads": 1, "season": 4, "context": 8, "horizon": 3}
Y = np.tile([1.0, 5.0, 2.0, 8.0], 12) + np.arange(48)


def frame(lengths):
    """Two series in each store; the stores differ in scale and length."""
    days = pandas.date_range("2024-01-01", periods=48)
    parts = [
        pandas.DataFrame({"store": store, "unique_id": item, "ds": days[:length], "y": (store + 1) * Y[:length]})
        for store, length in enumerate(lengths)
        for item in ("a", "b")
    ]
    return pandas.concat(parts, ignore_index=True)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_each_group_has_the_network_that_it_would_have_alone(library, tmp_path):
    data = frame([48, 40])
    given = data if library == "pandas" else polars.from_pandas(data)
    told = []
    found = forecast_each(rg.Forecaster(**FAST), given, by="store", progress=lambda *counts: told.append(counts))
    assert list(found.models) == [(0,), (1,)] and told == [(1, 2), (2, 2)] and not found.failed
    forecast = found.predict()
    assert type(forecast) is type(given) and list(forecast.columns) == ["store", "unique_id", "ds", "y"]
    assert len(forecast) == 2 * 2 * 3
    one = data[data.store == 1].drop(columns="store")
    alone = rg.Forecaster(**FAST).fit(one if library == "pandas" else polars.from_pandas(one)).predict()
    values = np.asarray(forecast["y"])[np.asarray(forecast["store"]) == 1]
    assert np.array_equal(values, np.asarray(alone["y"]))
    assert [rg.load(path).config.task for path in found.save(tmp_path / "stores")] == ["forecast"] * 2


def test_a_group_that_cannot_be_trained_is_named():
    found = forecast_each(rg.Forecaster(**FAST), frame([48, 2]), by=["store"])
    assert list(found.models) == [(0,)] and "1 step to train on" in found.failed[1,]
    with pytest.raises(DataError, match=r"no group could be trained; 0: .* 1 step to train on"):
        forecast_each(rg.Forecaster(**FAST), frame([2]), by="store")
    for by in ("shop", []):
        with pytest.raises(OptionError, match="the columns are store, unique_id, ds, y"):
            forecast_each(rg.Forecaster(**FAST), frame([48]), by=by)
    with pytest.raises(DataError, match="data is a ndarray"):
        forecast_each(rg.Forecaster(**FAST), Y, by="store")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_groups_on_a_ray_cluster():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        many = forecast_each(rg.Forecaster(**FAST), frame([48, 40]), by="store", ray=True).predict()
    finally:
        ray.shutdown()
    pandas.testing.assert_frame_equal(many, forecast_each(rg.Forecaster(**FAST), frame([48, 40]), by="store").predict())
