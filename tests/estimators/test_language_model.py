"""LanguageModel: texts in memory, the next token, generated text."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.errors import DataError

FAST = {"hidden_size": 16, "lr": 0.02, "bptt": 20, "max_steps": 60, "threads": 1}


@pytest.fixture(scope="module")
def fitted():
    return rg.LanguageModel(**FAST).fit("to be or not " * 100)


def test_the_next_token(fitted, tmp_path):
    assert fitted.predict(["to b", "or no"]).tolist() == ["e", "t"]
    shares = fitted.predict_proba(["to b", ""])
    assert shares.shape == (2, len(fitted.classes_)) and np.allclose(shares.sum(1), 1)
    assert fitted.classes_[shares[0].argmax()] == "e"
    again = rg.LanguageModel.load(fitted.save(tmp_path / "run"))
    assert again.generate("to ", length=10, temperature=0) == fitted.generate("to ", length=10, temperature=0)


def test_the_score_is_the_log_probability(fitted):
    text = "to be or not to be"
    shares = [fitted.predict_proba([text[:n]])[0, fitted.classes_.tolist().index(text[n])] for n in range(1, len(text))]
    assert fitted.score(text) == pytest.approx(np.log(shares).mean(), abs=1e-4)
    assert fitted.score(text) > fitted.score("on eb ro ot")


def test_texts_are_read_one_after_the_other():
    model = rg.LanguageModel(**FAST).fit(["to be or not"] * 100)
    assert "\n" in model.classes_ and model.run_.config.data.lost == "100 texts in memory"
    assert model.flow().layers == ["l0"]
    with pytest.raises(DataError, match=r"X\[1\] is a int"):
        model.fit(["a", 3])


@pytest.mark.parametrize(
    ("X", "said"), [(5, "X is 5; give a text"), ("", "X has no text"), (["", ""], "X has no text")]
)
def test_what_is_no_text_is_refused(X, said):
    with pytest.raises(DataError, match=said):
        rg.LanguageModel(max_steps=2).fit(X)
