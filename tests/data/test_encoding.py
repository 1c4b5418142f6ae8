"""`retrograde.data.encoding`: what a token of a text is."""

import pytest

from retrograde.data.encoding import Encoder
from retrograde.data.sequences import Record
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
    encoder = Encoder.fit([Record([0], text, None, "a")], DataOptions(tokens="word"))
    (numbers,) = encoder.encode([Record([0], text, None, None)])
    assert [encoder.tokenizer.id_to_token(number) for number in numbers] == tokens
