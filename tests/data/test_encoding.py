"""`retrograde.data.encoding`: what a token of a text is."""

import numpy as np
import pytest

from retrograde.data.encoding import Encoder, Scaler
from retrograde.data.sequences import LabelledSequence
from retrograde.options import DataOptions


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It doesn't matter: naïve!", ["It", "doesn't", "matter", ":", "naïve", "!"]),
        ("这个iPhone15很好用。", ["这", "个", "iPhone15", "很", "好", "用", "。"]),
        ("私はラーメンが好き", ["私", "は", "ラ", "ー", "メ", "ン", "が", "好", "き"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
    ],
)
def test_words_are_signs_where_no_space_is_written_between_words(text, tokens):
    encoder = Encoder.fit([LabelledSequence([0], text, None, "a")], DataOptions(tokens="word"))
    (numbers,) = encoder.encode([LabelledSequence([0], text, None, None)])
    assert [encoder.tokenizer.id_to_token(number) for number in numbers] == tokens


def test_texts_are_split_as_the_texts_of_training_were():
    def tokens(training, text, **options):
        encoder = Encoder.fit([LabelledSequence([0], training, None, "a")], DataOptions(**options))
        (numbers,) = encoder.encode([LabelledSequence([0], text, None, None)])
        return [encoder.tokenizer.id_to_token(number) for number in numbers]

    assert tokens("ab a", "b a", tokens="char") == ["b", " ", "a"]
    assert tokens(["New York", "is", "big"], "big is", tokens="word") == ["big", "is"]


def test_a_channel_has_mean_0_and_standard_deviation_1_and_goes_back():
    arrays = [np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[5.0, 5.0], [7.0, np.nan]])]
    scaler = Scaler.fit(arrays, 2)
    given = np.array([[4.0, 5.0], [4.0 + 5**0.5, 6.0]])
    np.testing.assert_allclose(scaler(given), [[0, 0], [1, 1]], atol=1e-12)
    np.testing.assert_allclose(scaler.undo(scaler(given)), given)
    np.testing.assert_allclose(scaler.leaving([0])(given), [[4, 0], [4 + 5**0.5, 1]], atol=1e-12)


def test_sequences_that_are_cut_are_counted():
    records = [
        LabelledSequence([row], text, None, "a")
        for row, text in enumerate(("one two three", "one two", "three two one"))
    ]
    encoder = Encoder.fit(records, DataOptions(tokens="word", max_length=2))
    assert [len(one) for one in encoder.encode(records)] == [2, 2, 2]
    assert encoder.notes() == ["2 sequences are longer than --max-length 2 and are cut there."]
    encoder = Encoder.fit(records, DataOptions(tokens="word"))
    assert [len(one) for one in encoder.encode(records)] == [3, 2, 3] and encoder.notes() == []
