"""What the data decides about options that were not given."""

from __future__ import annotations

import pytest

from retrograde.defaults import LEAST_OF_NUMBERS, DataShape, chosen, least_count
from retrograde.options import OPTIONS, DataOptions, Options

SHAPES = [
    DataShape("classify", batches=5, sequences=45, steps=150),
    DataShape("classify", batches=500, sequences=32_000, steps=30, reads_tokens=True),
    DataShape("classify", batches=130, sequences=8_000, steps=784),
    DataShape("tag", batches=3, sequences=40, steps=20, reads_tokens=True),
    DataShape("forecast", batches=4, sequences=90, steps=36),
    DataShape("language", batches=6, sequences=192),
    DataShape("synthetic", batches=100, sequences=6_400),
]


def usual(shape: DataShape, **given: object) -> Options:
    return Options.of(given).for_task(shape.task, given)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_decided_is_possible_declared_and_has_a_reason(shape: DataShape) -> None:
    found = chosen(shape, usual(shape), {})
    for name, choice in found.items():
        assert shape.task in OPTIONS[name].by_data and choice.why
    Options.of(usual(shape).as_dict() | {name: choice.value for name, choice in found.items()})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_given_wins(shape: DataShape) -> None:
    for name in chosen(shape, usual(shape), {}):
        given = {name: getattr(usual(shape), name) if name != "eval_every" else 7}
        assert name not in chosen(shape, usual(shape, **given), given)


def test_small_data_gets_a_least_number_of_updates_and_large_data_its_epochs() -> None:
    small, large = SHAPES[0], SHAPES[1]
    found = chosen(small, usual(small), {})
    assert found["epochs"].value * small.batches >= LEAST_OF_NUMBERS
    assert "epochs" not in chosen(large, usual(large), {})
    steps = {"max_steps": 20}
    assert "epochs" not in chosen(small, usual(small, **steps), steps)
    assert chosen(small, usual(small, **steps), steps)["eval_every"].value == 10


def test_part_of_an_epoch_has_one_update_at_least() -> None:
    given = {"epochs": 0.001}
    why = chosen(SHAPES[0], usual(SHAPES[0], **given), given)["eval_every"].why
    assert why.endswith("in 1 updates")


def test_sequences_of_numbers_that_are_seen_many_times_are_mixed() -> None:
    mixed = ["mixup" in chosen(shape, usual(shape), {}) for shape in SHAPES]
    assert mixed == [True, False, False, False, False, False, False]
    assert "mixup" not in chosen(SHAPES[0], usual(SHAPES[0], max_steps=100), {"max_steps": 100})


def test_the_laboratory_is_left_alone() -> None:
    assert set(chosen(SHAPES[-1], usual(SHAPES[-1]), {})) == {"eval_every"}


# --- Each line of the table in docs/training.md -----------------------------------------------------------------------

TABLE = {"cell": "gru", "patience": 12}
SEQUENCE = TABLE | {"bidirectional": True, "lr": 0.005, "schedule": "cosine"}
WORDS = SEQUENCE | {"dropout": 0.5}
NUMBERS = {name: value for name, value in SEQUENCE.items() if name != "patience"} | {"pooling": "max"}
FEW = {"epochs": 60, "eval_every": 12}
TEXT = WORDS | {"pooling": "max"}


@pytest.mark.parametrize(
    ("shape", "decided"),
    [
        (DataShape("classify", 5, 45, steps=150), NUMBERS | {"epochs": 300, "eval_every": 30, "mixup": 0.4}),
        (DataShape("classify", 150, 45, steps=399), NUMBERS | {"eval_every": 75}),
        (
            DataShape("classify", 150, 45, steps=400),
            NUMBERS | {"eval_every": 75, "chrono": 400, "hidden_size": 64},
        ),
        (DataShape("classify", 149, 359, steps=3), NUMBERS | {"eval_every": 75, "epochs": 11}),
        (DataShape("classify", 149, 360, steps=3), NUMBERS | {"eval_every": 75, "epochs": 11, "patience": 12}),
        (DataShape("classify", 10, 200, reads_tokens=True), TEXT | {"min_count": 2} | FEW),
        (DataShape("classify", 10, 199, reads_tokens=True), TEXT | FEW),
        (DataShape("classify", 2000, 9, steps=500, reads_tokens=True), TEXT | {"eval_every": 500}),
        (DataShape("tag", 3, 4000, steps=500, reads_tokens=True), WORDS | {"epochs": 200, "eval_every": 12}),
        (DataShape("tag", 60, 40), SEQUENCE | {"eval_every": 30}),
        (DataShape("regress", 10, 100, steps=500), SEQUENCE | {"epochs": 150, "eval_every": 30}),
        (DataShape("regress", 10, 300, reads_tokens=True), TEXT | FEW),
        (DataShape("forecast", 4, 90, steps=500), TABLE | {"epochs": 150, "eval_every": 12}),
        (DataShape("forecast", 60, 90), TABLE | {"eval_every": 30}),
        (DataShape("language", 7, 192), {"epochs": 86, "eval_every": 13, "patience": 12}),
        (DataShape("synthetic", 1, 64), {"eval_every": 10}),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_shape_of_the_data_decides(shape: DataShape, decided: dict[str, object]) -> None:
    assert {name: choice.value for name, choice in chosen(shape, usual(shape), {}).items()} == decided


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"max_steps": 599}, "schedule", None),
        ({"max_steps": 600}, "schedule", "cosine"),
        ({"max_steps": 600}, "lr", 0.005),
        ({"optimizer": "sgd"}, "lr", None),
        ({"optimizer": "sgd"}, "schedule", None),
        ({"nonlinearity": "relu", "cell": "rnn"}, "cell", None),
        ({"forget_bias": 1.0}, "chrono", None),
        ({"forget_bias": 1.0}, "hidden_size", 64),
        ({"cell": "rnn"}, "chrono", None),
        ({"cell": "rnn"}, "hidden_size", 64),
        ({"cell": "lstm"}, "chrono", 400),
        ({"max_steps": 750}, "mixup", None),  # 150 times each of 5 batches, not more
        ({"max_steps": 751}, "mixup", 0.4),
        ({"max_steps": 751, "mixup": 0.0}, "mixup", None),
        ({"max_steps": 2000, "epochs": 200.0}, "eval_every", 20),
        ({"max_steps": 501, "epochs": 200.0}, "eval_every", 11),
        ({"epochs": 299.0}, "epochs", None),
        ({"eval_every": 3}, "eval_every", None),
        ({"patience": 0}, "patience", None),
    ],
)
def test_what_is_given_decides_about_the_rest(given: dict[str, object], name: str, value: object) -> None:
    shape = DataShape("classify", 5, 45, steps=400)
    found = chosen(shape, usual(shape, **given), given)
    assert (found[name].value if name in found else None) == value


def test_reasons_have_the_numbers_of_the_data() -> None:
    shape = DataShape("classify", 5, 45, steps=1400)
    whys = {name: choice.why for name, choice in chosen(shape, usual(shape), {}).items()}
    assert whys["eval_every"] == "half an epoch, and at most 50 times in 1,500 updates"
    assert whys["mixup"] == "seen 300 times, sequences are learned by heart otherwise"
    assert whys["chrono"] == "sequences of 1,400 steps: gates that keep the state that long"
    assert whys["epochs"] == "at least 1,500 updates: an epoch has 5"


@pytest.mark.parametrize(
    ("options", "sequences", "least"),
    [
        ({}, 200, 2),
        ({}, 199, None),
        ({"min_count": 3}, 200, 3),
        ({"min_count": 3}, 10, 3),
        ({"tokens": "char"}, 200, None),
        ({"task": "tag"}, 200, None),
    ],
)
def test_how_often_a_word_must_occur(options: dict[str, object], sequences: int, least: int | None) -> None:
    asked = DataOptions(**{"task": "classify", "tokens": "word"} | options)  # type: ignore[arg-type]
    assert least_count(asked, sequences) == least
