"""Regressor: a number for each sequence, in the units of the data."""

from __future__ import annotations

import numpy as np
import pandas
import polars
import pytest
from fits import FAST, HALF, TINY, ragged
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import retrograde as rg
from retrograde.errors import DataError, OptionError


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([rg.Regressor(hidden_size=8, max_steps=2, threads=1)])
def test_what_scikit_learn_expects_of_a_regressor(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def numbers():
    X, _ = ragged()
    return X, np.array([1000 + 5 * x[-1, 0] for x in X])


def test_numbers_come_in_the_units_of_the_data(numbers, tmp_path):
    X, y = numbers
    model = rg.Regressor(**FAST).fit(X, y)
    assert model.score(X, y) > 0.8 and 980 < model.predict(X).mean() < 1020
    again = rg.Regressor.load(model.save(tmp_path / "run"))
    assert np.array_equal(again.predict(X), model.predict(X))
    assert model.run_.summary.baselines["mean"]["mse"] > model.run_.summary.best["mse"]
    assert cross_val_score(rg.Regressor(**FAST), X, y, cv=HALF).mean() > 0.3


@pytest.fixture(scope="module")
def of_arrays(numbers):
    X, y = numbers
    return rg.Regressor(**TINY).fit(X, y).predict(X)


@pytest.mark.parametrize("library", [pandas.DataFrame, polars.DataFrame])
def test_frames(library, numbers, of_arrays):
    X, y = numbers
    steps = [(n, value) for n, x in enumerate(X) for value in x.tolist()]
    long = library({"id": [n for n, _ in steps], "a": [v[0] for _, v in steps], "b": [v[1] for _, v in steps],
                    "life": [float(y[n]) for n, _ in steps]})  # fmt: skip
    model = rg.Regressor(group="id", features="a,b", **TINY).fit(long, "life")
    found = model.predict(long)
    assert np.allclose(found, of_arrays, atol=1e-3)
    assert model.score(long, "life") == pytest.approx(1 - ((found - y) ** 2).mean() / y.var(), abs=1e-6)
    with pytest.raises(OptionError, match="sample_weight is not for a DataFrame"):
        model.score(long, "life", sample_weight=np.ones(len(long)))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1.0, 2.0, "x"], "one number for each"),
        ([1.0, np.nan, 2.0], r"y\[1\] is nan"),
        ([1.0, 2.0], "3 sequences and y"),
    ],
)
def test_what_is_no_number(y, message):
    with pytest.raises(DataError, match=message):
        rg.Regressor(**TINY).fit([np.zeros(3)] * 3, y)


def test_quantiles(numbers):
    X, y = numbers
    model = rg.Regressor(quantiles=[0.1, 0.9], **FAST).fit(X, y)
    found = model.predict_quantiles(X)
    assert found.shape == (len(X), 2) and (found[:, 0] <= model.predict(X)).all()
    assert ((found[:, 0] <= y) & (y <= found[:, 1])).mean() > 0.5
    assert np.array_equal(model.predict_quantiles(X, alpha=0.5)[:, 0], model.predict(X))
