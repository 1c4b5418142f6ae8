"""What the data decides about options that were not given."""

from __future__ import annotations

import pytest

from retrograde.defaults import LEAST_OF_NUMBERS, DataShape, chosen
from retrograde.options import OPTIONS, Options

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
