"""Words for numbers, in messages."""

from __future__ import annotations

import pytest

from retrograde.words import agreed, counted


@pytest.mark.parametrize(
    ("number", "noun", "verb", "words"),
    [
        (1, "step", "", "1 step"),
        (0, "step", "is", "0 steps are"),
        (2, "series", "has", "2 series have"),
        (1, "empty cell", "was", "1 empty cell was"),
        (12_345, "row", "was", "12,345 rows were"),
    ],
)
def test_a_number_of_things_and_their_verb(number: float, noun: str, verb: str, words: str) -> None:
    assert counted(number, noun, verb) == words


def test_words_that_stand_for_the_things_agree_too() -> None:
    assert [agreed(2, word) for word in ("it", "it is", "lag")] == ["them", "they are", "lags"]
    assert [agreed(1, word) for word in ("it", "it is", "lag")] == ["it", "it is", "lag"]
