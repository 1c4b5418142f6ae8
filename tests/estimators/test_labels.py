"""Classifier and Tagger: every form of data, scikit-learn's own checks, its searches and pipelines."""

from __future__ import annotations

import numpy as np
import pandas
import polars
import pytest
from fits import FAST, HALF, TINY, ragged
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import retrograde as rg
from retrograde.errors import DataError, OptionError


@pytest.fixture(scope="module")
def fitted():
    X, y = ragged()
    return rg.Classifier(**FAST).fit(X, np.where(y, "up", "down")), X, np.where(y, "up", "down")


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([rg.Classifier(hidden_size=8, max_steps=6, lr=0.1, threads=1)])
def test_what_scikit_learn_expects_of_a_classifier(estimator, check):
    check(estimator)


def test_sequences_of_any_length_are_classified(fitted):
    model, X, y = fitted
    assert model.score(X, y) > 0.9 and model.classes_.tolist() == ["down", "up"]
    shares = model.predict_proba(X)
    assert shares.shape == (60, 2) and np.allclose(shares.sum(1), 1)
    assert (model.classes_[shares.argmax(1)] == model.predict(X)).all()
    assert model.n_features_in_ == 2 and model.predict([]).shape == (0,)


@pytest.mark.parametrize(
    "labels", [[True, False], [7, 10], [1.0, 2.0], ["b", "a"]], ids=["bool", "int", "float", "str"]
)
def test_labels_come_back_as_they_were(labels, tmp_path):
    X, y = ragged(20)
    y = np.where(y, *labels)
    model = rg.Classifier(**TINY).fit(X, y)
    again = rg.Classifier.load(model.save(tmp_path / "run"))
    for one in (model, again):
        assert one.classes_.tolist() == sorted(labels) and one.classes_.dtype.kind == y.dtype.kind
        assert set(one.predict(X).tolist()) <= set(labels)
    assert (again.predict_proba(X) == model.predict_proba(X)).all()


def test_an_array_is_padded_with_nan():
    X, y = ragged()
    padded = np.full((60, 9, 2), np.nan)
    for place, x in enumerate(X):
        padded[place, : len(x)] = x
    assert np.array_equal(
        rg.Classifier(**TINY).fit(X, y).predict_proba(X), rg.Classifier(**TINY).fit(padded, y).predict_proba(padded)
    )


def test_texts_and_tokens():
    texts = [f"a {word} film {n}" for n in range(30) for word in ("good", "bad")]
    y = ["+", "-"] * 30
    assert rg.Classifier(**FAST).fit(texts, y).score(texts, y) == 1.0
    tokens = [text.split() for text in texts]
    assert rg.Classifier(**FAST).fit(tokens, y).score(tokens, y) == 1.0


@pytest.fixture(scope="module")
def of_arrays():
    X, y = ragged(40, channels=1)
    y = np.where(y, "up", "down")
    return rg.Classifier(**TINY).fit([x[:, 0] for x in X], y), X, y


@pytest.mark.parametrize("library", [pandas.DataFrame, polars.DataFrame])
def test_frames(library, of_arrays):
    of_arrays, X, y = of_arrays
    lists = library({"values": [x[:, 0].tolist() for x in X], "what": y.tolist()})
    model = rg.Classifier(**TINY).fit(lists, "what")
    assert len(model.predict(lists[["values"]])) == 40
    assert np.allclose(model.predict_proba(lists), of_arrays.predict_proba(X), atol=1e-6)

    steps = [(n, t, value) for n, x in enumerate(X) for t, value in enumerate(x[:, 0])]
    columns = dict(zip(("id", "t", "x"), zip(*steps, strict=True), strict=True))
    long = library({**{name: list(cells) for name, cells in columns.items()}, "what": [y[n] for n, _, _ in steps]})
    grouped = rg.Classifier(group="id", time="t", **TINY).fit(long, "what")
    assert np.allclose(grouped.predict_proba(long), model.predict_proba(lists), atol=1e-6)
    assert grouped.score(long, "what") == model.score(lists, "what")
    by_row = rg.Classifier(group="id", time="t", features="x", **TINY).fit(long, long["what"])
    assert len(by_row.predict(long)) == 40


def test_a_frame_of_numbers_has_a_step_in_each_column():
    X = np.random.default_rng(0).normal(size=(40, 5))
    y = X[:, 4] > 0
    frame = pandas.DataFrame(X, columns=list("abcde"))
    model = rg.Classifier(**TINY).fit(frame, y)
    assert model.feature_names_in_.tolist() == list("abcde")
    assert np.array_equal(model.predict_proba(frame), rg.Classifier(**TINY).fit(X, y).predict_proba(X))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a", "c", "d", "e"]])


def test_pipelines_and_searches(fitted):
    _, X, y = fitted
    search = GridSearchCV(rg.Classifier(**FAST), {"max_steps": [2, 40]}, cv=HALF)
    found = search.fit(X, y)
    assert found.best_params_["max_steps"] == 40 and found.score(X, y) > 0.8
    halves = FunctionTransformer(lambda X: [x[len(x) // 2 :] for x in X])
    assert cross_val_score(make_pipeline(halves, rg.Classifier(**FAST)), X, y, cv=HALF).mean() > 0.7
    flat = np.stack([x[-4:, 0] for x in X])
    assert make_pipeline(StandardScaler(), rg.Classifier(**FAST)).fit(flat, y).score(flat, y) > 0.8


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ("one text", ["a"], "X is one text: give a list of sequences"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], ["a", "b"], r"X\[1\] has 1 channel, those before have 2"),
        ([np.zeros((3, 2)), object()], ["a", "b"], r"X\[1\] is not an array of numbers"),
        ([np.zeros((3, 2, 2))] * 2, ["a", "b"], r"X\[0\] has 3 dimensions"),
        ([np.zeros(3), "text"], ["a", "b"], "both texts and numbers"),
        (np.zeros((3, 2, 2, 2)), [0, 1, 0], r"X has the shape \(3, 2, 2, 2\): an array of sequences is"),
        ([np.zeros(3)] * 3, ["a", "b"], "X has 3 sequences and y has 2"),
        ([np.zeros(3)] * 4, ["a", None, "b", "a"], r"y\[1\] is None"),
        ([np.zeros(3)] * 4, "label", "goes with a DataFrame"),
        ([np.zeros(3)] * 4, None, "requires y to be passed"),
        ([np.full(3, np.inf)] * 20, ["a", "b"] * 10, "infinite"),
        (pandas.DataFrame({"x": [[1.0], [2.0]], "y": [0, 1]}), [1], "X has 2 rows and y has 1 entries"),
    ],
)
def test_what_cannot_be_classified(X, y, message):
    with pytest.raises(ValueError, match=message):
        rg.Classifier(**TINY).fit(X, y)


def test_columns_are_named_for_frames_only():
    with pytest.raises(OptionError, match="group='id' names a column of a DataFrame"):
        rg.Classifier(group="id", **TINY).fit(*ragged(20))


def test_other_data_is_refused_after_fit(fitted):
    model, X, _ = fitted
    with pytest.raises(DataError, match="1 channel; 2 are needed"):
        model.predict([x[:, :1] for x in X])
    with pytest.raises(DataError, match="reads numbers"):
        model.predict(["a text"])


def test_each_step_is_tagged():
    X, _ = ragged()
    y = [(x[:, 0] > 0).astype(int) for x in X]
    model = rg.Tagger(**FAST).fit(X, y)
    assert model.score(X, y) > 0.9 and model.classes_.tolist() == [0, 1]
    assert [len(tags) for tags in model.predict(X)] == [len(x) for x in X]
    assert all(np.allclose(shares.sum(1), 1) for shares in model.predict_proba(X))
    words = [["Ann", "went", "to", "Rome"], ["to", "Rome"]] * 10
    tags = [["B", "O", "O", "B"], ["O", "B"]] * 10
    tagger = rg.Tagger(**FAST).fit(words, tags)
    assert tagger.predict([["Ann", "to"]])[0].tolist() == ["B", "O"]
    frame = polars.DataFrame({"words": words, "tags": tags})
    assert rg.Tagger(**FAST).fit(frame, "tags").score(frame, "tags") == tagger.score(words, tags) == 1.0
    assert GridSearchCV(rg.Tagger(**TINY), {"cell": ["gru", "lstm"]}, cv=HALF).fit(words, tags).best_score_ > 0


def test_a_tag_is_needed_for_each_step():
    with pytest.raises(DataError, match=r"X\[0\] has 4 steps and y\[0\] 1 labels"):
        rg.Tagger(**TINY).fit([["a", "b", "c", "d"]] * 9, [["O"]] * 9)


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (np.arange(6.0), list("ababab"), "Expected 2D array, got 1D array instead: Reshape your data either using"),
        (np.ones((6, 3, 4, 2)), list("ababab"), "N sequences of T steps and C channels"),
        ([np.ones(4)] * 6, [["a", "b"]] * 6, r"y should be a 1d array, got an array of shape \(6, 2\)"),
        (5, list("ababab"), "X is 5: give a list of sequences"),
        ([], [], "X has no sequences"),
        ([np.full(4, np.nan)] * 20, list("ab") * 10, "all cells of the sequences are empty"),
        ([np.ones(4)] * 6, [np.nan, *[1.0] * 5], r"y\[0\] is nan, which is not a label"),
        ([np.ones((4, 2))] * 5 + [np.ones((4, 1))], list("ababab"), r"X\[5\] has 1 channel, those before have 2"),
    ],
)
def test_wrong_inputs_get_one_line(X, y, said):
    with pytest.raises(DataError, match=said) as error:
        rg.Classifier(max_steps=2).fit(X, y)
    assert "\n" not in str(error.value)


def test_a_tagger_wants_labels_for_each_step():
    with pytest.raises(DataError, match=r"y\[0\] is 'a': give a label for each step of X\[0\]"):
        rg.Tagger(max_steps=2).fit([np.ones(4)] * 6, list("ababab"))
