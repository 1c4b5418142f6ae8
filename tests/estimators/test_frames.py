"""Estimators of sequences on frames: a column as y, what is predicted without it, what is no frame."""

from __future__ import annotations

import warnings

import numpy as np
import pandas
import polars
import pytest
from fits import TINY, ragged
from scipy.sparse import csr_array

import retrograde as rg
from retrograde.errors import DataError, OptionError, RunError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 6))
WIDE = pandas.DataFrame(X, columns=[f"v{step}" for step in range(6)])
SIGNS = WIDE.assign(label=np.where(X.sum(1) > 0, "up", "down"), life=X.sum(1))


@pytest.mark.parametrize("library", [pandas.DataFrame, polars.DataFrame])
@pytest.mark.parametrize(("kind", "column"), [(rg.Classifier, "label"), (rg.Regressor, "life")])
def test_what_was_fitted_by_a_column_predicts_without_it(library, kind, column, tmp_path):
    model = kind(**TINY).fit(library(WIDE.assign(**{column: SIGNS[column]})), column)
    with_y = model.predict(library(SIGNS))
    for other in (model, kind.load(model.save(tmp_path / "run"))):
        for frame in (WIDE, WIDE[WIDE.columns[::-1]], WIDE.assign(more=1.0)):
            assert other.predict(library(frame)).tolist() == with_y.tolist()
    with pytest.raises(DataError, match="has no column 'v3', which the model was trained with"):
        model.predict(library(WIDE.drop(columns="v3")))


def test_a_score_is_of_the_y_that_is_given():
    model = rg.Classifier(**TINY).fit(SIGNS.drop(columns="life"), "label")
    guessed = model.predict(WIDE)
    assert model.score(SIGNS, guessed) == model.score(WIDE, guessed) == 1.0
    assert model.score(SIGNS, "label") == (guessed == SIGNS.label).mean()
    assert model.score(SIGNS.assign(guessed=guessed), "guessed") == 1.0
    with pytest.raises(DataError, match="X has no column 'gone'"):
        model.score(SIGNS, "gone")


def test_cells_of_a_frame_may_be_arrays_of_channels():
    cells = [np.stack([x, -x], 1) for x in X]
    frame = pandas.DataFrame({"x": cells, "label": SIGNS.label})
    model = rg.Classifier(**TINY).fit(frame, "label")
    assert (model.predict_proba(frame) == rg.Classifier(**TINY).fit(cells, SIGNS.label).predict_proba(cells)).all()


@pytest.mark.parametrize(
    ("frame", "y", "message"),
    [
        (pandas.concat([SIGNS, WIDE[["v1"]]], axis=1), "label", "two columns of the name 'v1'"),
        (SIGNS.assign(v1=[object()] * 40), "label", "column 'v1' of the frame cannot be read: Could not convert"),
        (SIGNS.to_dict("list"), "label", "y is 'label': the name of a column goes with a DataFrame; X is a dict"),
        (X, X[:, 0], "Unknown label type: continuous"),
        (X, [np.nan, *["a", "b"] * 19, "a"], r"y\[0\] is nan, which is not a label"),
        (csr_array(X), SIGNS.label, "Sparse data was passed"),
        (X + 1j, SIGNS.label, r"^Complex data not supported$"),
        ([np.where(X[0] > 0, np.inf, 0.0)] * 40, SIGNS.label, r"^X\[\d+\] holds an infinite number"),
        (["a film", None] * 20, SIGNS.label, r"X\[1\] is None: the sequence is missing"),
    ],
)
def test_what_no_estimator_can_take(frame, y, message):
    with pytest.raises(DataError, match=message):
        rg.Classifier(**TINY).fit(frame, y)


def test_other_sequences_are_named_by_their_place():
    model = rg.Classifier(**TINY).fit(*ragged(20))
    with pytest.raises(DataError, match=r"^X\[0\] has 1 channel; 2 are needed"):
        model.predict([np.zeros((3, 1))] * 2)
    with pytest.raises(DataError, match=r"^X\[0\] is a text, and this model reads numbers"):
        model.predict(["text"])


def test_a_run_is_replaced_only_when_asked(tmp_path):
    model = rg.Classifier(**TINY).fit(*ragged(20))
    model.save(tmp_path / "run")
    with pytest.raises(RunError, match="already contains a run: give overwrite=True to replace it"):
        model.save(tmp_path / "run")
    assert model.save(tmp_path / "run", overwrite=True) == tmp_path / "run"


def test_temporary_folders_go_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = rg.Classifier(**TINY).fit(*ragged(20))
        folder = model.run_.folder
        del model
    assert not folder.exists()


def test_rg_train_takes_the_same_frames(tmp_path):
    cells = [np.stack([x, -x], 1) for x in X]
    frame = pandas.DataFrame({"x": cells, "life": SIGNS.life})
    found = rg.train(frame, tmp_path / "run", task="regress", target="life", report=False, **TINY)
    assert found.summary.scores == rg.Regressor(**TINY).fit(frame, "life").run_.summary.scores
    assert rg.load(tmp_path / "run").predict(frame[["x"]]).prediction.notna().all()
    for data, message in (
        (pandas.concat([SIGNS, WIDE[["v1"]]], axis=1), "two columns of the name 'v1': rename one"),
        (SIGNS.assign(v1=[object()] * 40), "column 'v1' of the frame cannot be read: Could not convert"),
        (SIGNS.life, r"a Series of pandas is one column: give a DataFrame that has its times too"),
    ):
        with pytest.raises(DataError, match=message):
            rg.train(data, tmp_path / "no", task="regress", target="life")
    with pytest.raises(OptionError, match=r"no training option 'hiden_size'; did you mean 'hidden_size'\?$"):
        rg.train(SIGNS, tmp_path / "no", task="regress", hiden_size=3)


def test_a_series_of_objects_is_refused_in_one_line():
    cells = [1.0, "x", *np.arange(40.0)]
    with pytest.raises(DataError, match="column 'y' of the frame cannot be read: Could not convert 'x'"):
        rg.Forecaster(horizon=2, **TINY).fit(pandas.Series(cells, name="y", dtype=object))
