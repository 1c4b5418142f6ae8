"""Columns of text that are read as categories: which, how they become numbers, and what is unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrograde.data.categories import width
from retrograde.data.columns import columns_for
from retrograde.data.formats import open_table
from retrograde.data.roles import Columns, Predicts
from retrograde.data.sequences import sequences
from retrograde.data.series import read_series
from retrograde.errors import DataError, OptionError

NAMES = ("Rome", "Lima", "O'Hara")


@pytest.fixture
def homes(tmp_path: Path) -> Path:
    path = tmp_path / "homes.csv"
    rows = [f"{n},{NAMES[0] if n < 6 else NAMES[n % 3]},{10 * n}" for n in range(12)]
    path.write_text("size,city,price\n" + "\n".join(rows) + "\n")
    return path


def test_the_most_frequent_category_is_number_one_and_an_unknown_one_is_0_and_said(homes: Path) -> None:
    table = open_table(str(homes))
    columns, notes = columns_for(Predicts.NUMBER, table, {"features": "size,city"})
    assert columns.categories == {"city": ("Rome", "Lima", "O'Hara")} and columns.classes(columns.features) == {1: 3}
    assert "'city' is text, read as 3 categories (one-hot)." in notes
    assert any("a row is read as one step" in note for note in notes)
    columns.check(table)
    found = [record.values for record in sequences(table, columns, False)]
    assert [one.shape for one in found] == [(1, 2)] * 12
    assert [int(one[0, 1]) for one in found] == [1] * 7 + [2, 3] + [1, 2, 3]

    homes.write_text("size,city,price\n1,Oslo,3\n2, Lima ,4\n3,,5\n")
    other = open_table(str(homes))
    Columns.from_dict(columns.as_dict()).check(other)
    assert [int(record.values[0, 1]) for record in sequences(other, columns, False)] == [0, 2, 0]
    assert other.unknown == ["1 cell of 'city' have a category that the training part lacks ('Oslo'): unknown."]


def test_a_column_of_numbers_with_a_bad_cell_is_not_taken_for_categories(homes: Path) -> None:
    homes.write_text(homes.read_text().replace("3,Rome", "n/q,Rome"))
    table = open_table(str(homes))
    columns, _ = columns_for(Predicts.NUMBER, table, {"features": "size,city"})
    columns.check(table)
    with pytest.raises(DataError, match="row 4, column 'size': 'n/q' is not a number"):
        list(sequences(table, columns, False))


def test_categories_of_steps_are_guessed_where_there_are_few(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    rows = [f"m{n // 8},{n % 8},{n},{'eco' if n % 3 else 'boost'},note {n},{n // 8 % 2}" for n in range(64)]
    path.write_text("machine,t,temp,mode,remark,label\n" + "\n".join(rows) + "\n")
    columns, notes = columns_for(Predicts.LABEL, open_table(str(path)), {})
    assert columns.features == ("temp", "mode") and set(columns.categories) == {"mode"}
    assert any(note.startswith("features: 'temp', 'mode' (a guess") for note in notes)


LONG = """shop,t,kind,area,y,promo
a,1,big,5,1,0
a,2,big,,2,1
b,1,small,7,3,0
a,3,,5,,1
b,2,small,7,4,1
b,3,small,7,,0
"""


@pytest.fixture
def shops(tmp_path: Path) -> Path:
    path = tmp_path / "shops.csv"
    path.write_text(LONG)
    return path


def test_series_end_with_their_last_number_and_what_is_known_ahead_is_put_aside(shops: Path) -> None:
    table = open_table(str(shops))
    given = {"group": "shop", "time": "t", "known_future": "promo", "static": "kind,area", "target": "y"}
    columns, _ = columns_for(Predicts.FUTURE, table, given)
    columns.check(table)
    found = read_series(table, columns)
    assert [found.numbers[place].tolist() for place in (0, 1)] == [[[1, 0], [2, 1]], [[3, 0], [4, 1]]]
    assert [one.tolist() for one in found.ahead] == [[[1]], [[0]]] and found.times == [["1", "2"], ["1", "2"]]
    kinds = columns.categories["kind"]
    assert found.static.tolist() == [[1 + kinds.index("big"), 5], [1 + kinds.index("small"), 7]]


def test_a_static_feature_has_one_value_for_each_series(shops: Path) -> None:
    shops.write_text(LONG.replace("a,2,big,,", "a,2,small,,"))
    table = open_table(str(shops))
    columns, _ = columns_for(Predicts.FUTURE, table, {"group": "shop", "target": "y", "static": "kind"})
    columns.check(table)
    with pytest.raises(DataError, match="series 'a' has several values of 'kind', which is to be --static"):
        read_series(table, columns)


def test_a_wide_table_has_static_features_and_none_known_ahead(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("shop,kind,area,v1,v2,v3\na,big,5,1,2,3\nb,small,,4,5,6\n")
    table = open_table(str(path))
    columns, _ = columns_for(Predicts.FUTURE, table, {"layout": "wide", "static": ("kind", "area", "shop")})
    assert columns.target == ("v",) and columns.group == ("shop",)
    columns.check(table)
    found = read_series(table, columns)
    assert found.static[:, 0].tolist() == [1, 2] and found.static[0, 1] == 5 and np.isnan(found.static[1, 1])
    with pytest.raises(OptionError, match="--known-future is for a table whose rows are steps"):
        columns_for(Predicts.FUTURE, table, {"layout": "wide", "known_future": "area"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"known_future": "sale"}, "--known-future 'sale': .* has no such column"),
        ({"known_future": "promo", "features": "promo"}, "column 'promo' of .* has two roles"),
    ],
)
def test_columns_that_cannot_be_features(shops: Path, given: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        columns_for(Predicts.FUTURE, open_table(str(shops)), {"group": "shop", "target": "y", **given})


def test_the_size_of_an_embedding_grows_slower_than_the_categories() -> None:
    sizes = [width(count) for count in range(1, 10_000)]
    assert sizes[:16] == list(range(1, 17)) and max(sizes) == 50 and sizes[16:] == sorted(sizes[16:])
