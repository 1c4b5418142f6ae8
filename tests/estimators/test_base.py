"""What every estimator can do: parameters from the options, saving, copies, pages, measurements."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import FAST, TINY, ragged
from sklearn.base import clone

import retrograde as rg
from retrograde.doctor.diagnosis import RULES
from retrograde.errors import OptionError, RunError
from retrograde.options import OPTIONS, Options


@pytest.fixture(scope="module")
def fitted():
    X, y = ragged()
    return rg.Classifier(**FAST).fit(X, y), X, y


def test_parameters_are_the_options_of_the_task():
    parameters = rg.Classifier().get_params()
    assert parameters["embedding_size"] == Options().for_task("classify", {}).embedding_size
    assert parameters["hidden_size"] is None  # the data decides
    assert {"pooling", "chrono", "random_state"} <= set(parameters) and not {"horizon", "task", "seed"} & set(
        parameters
    )
    assert all(name == "random_state" or name in OPTIONS for name in parameters)
    signature = str(inspect.signature(rg.Classifier))  # None: the data decides
    assert "cell=None" in signature and "num_layers=1" in signature and OPTIONS["chrono"].help in rg.Classifier.__doc__
    assert clone(rg.Classifier(cell="gru")).set_params(lr=0.1).get_params()["cell"] == "gru"


def test_a_misspelled_parameter_is_refused_at_once_and_an_impossible_one_by_fit():
    with pytest.raises(OptionError, match="no parameter 'hiden_size'; did you mean hidden_size"):
        rg.Classifier(hiden_size=3)
    with pytest.raises(OptionError, match="--hidden-size 0 is impossible"):
        rg.Classifier(hidden_size=0).fit(*ragged(20))


def random_states():
    numpy = np.random.get_state()[1]  # noqa: NPY002 (this is about its global state)
    return torch.get_rng_state().tolist(), numpy.tolist(), torch.get_num_threads()


def test_a_fit_is_repeated_by_its_seed_and_leaves_the_random_states_alone(fitted):
    model, X, y = fitted
    before = random_states()
    again = clone(model).fit(X, y)
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert random_states() == before
    other = clone(model).set_params(random_state=np.random.RandomState(3)).fit(X, y)
    assert not np.array_equal(other.predict_proba(X), model.predict_proba(X))


def test_saving_copies_the_run_folder(fitted, tmp_path):
    model, X, _ = fitted
    saved = model.save(tmp_path / "run")
    assert {"config.json", "model.safetensors", "summary.json"} <= {path.name for path in saved.iterdir()}
    run = rg.load(saved)
    assert [row["prediction"] for row in run.predictor.predict(model._source(X, None))] == list(
        map(str, model.predict(X))
    )
    again = rg.Classifier.load(saved)
    assert again.get_params()["lr"] == FAST["lr"] and np.array_equal(again.predict(X), model.predict(X))
    with pytest.raises(RunError, match="already contains a run"):
        model.save(saved)
    assert model.save(saved, overwrite=True) == saved
    with pytest.raises(RunError, match="trained with --task classify"):
        rg.Tagger.load(saved)


def test_pickles_and_copies_have_a_folder_of_their_own(fitted):
    model, X, _ = fitted
    for copied in (lambda: pickle.loads(pickle.dumps(model)), lambda: copy.deepcopy(model)):
        again = copied()
        assert np.array_equal(again.predict(X), model.predict(X))
        folder = again.run_.folder
        assert folder != model.run_.folder and folder.exists()
        del again
        assert not folder.exists() and model.run_.folder.exists()


def test_flow_diagnosis_and_page(fitted, tmp_path):
    model, X, y = fitted
    assert model.flow().layers == ["l0", "l0_reverse"] and model.flow(X[:9], y[:9]).norms.shape[0] == 2
    page = model.report()
    assert page.name == "report.html" and "until 1 % of the gradient" in page.read_text()
    again = rg.Classifier.load(model.save(tmp_path / "run"))
    assert (tmp_path / "run" / "report.html").exists() and again.flow(X, y).layers == ["l0", "l0_reverse"]
    with pytest.raises(OptionError, match="its training data is not there: give X and y"):
        again.diagnose()


def test_a_diagnosis_has_the_training_data_or_other(fitted, monkeypatch):
    model, X, y = fitted
    monkeypatch.setattr("retrograde.doctor.diagnosis.RULES", RULES[:1])
    model.diagnose()
    found = model.diagnose(X[:9], y[:9])
    assert isinstance(found, rg.Diagnosis) and found.notes


def test_a_run_of_the_command_line_is_an_estimator():
    released = Path(__file__).parents[1] / "runs" / "released" / "0.1.0" / "classify"
    model = rg.Classifier.load(released)
    assert model.classes_.dtype.kind == "U" and len(model.predict(["some words", "others"])) == 2


def test_a_value_that_is_set_is_kept_where_the_data_would_decide():
    X, y = ragged(20)
    for cell in ("lstm", "gru"):
        options = rg.Classifier(cell=cell, bidirectional=False, **TINY).fit(X, y).run_.config.options
        assert options.cell == cell and options.bidirectional is False


def test_notes_say_what_was_guessed():
    X, y = ragged(20)
    X[3][1, 0] = np.nan
    assert any("1 empty cell was filled" in note for note in rg.Classifier(**TINY).fit(X, y).notes_)
