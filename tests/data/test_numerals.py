"""Numbers as people write them: decimal commas, and marks between thousands, by the whole column."""

import numpy as np
import pytest

from retrograde.data.columns import columns_for
from retrograde.data.formats import open_table
from retrograde.data.roles import Predicts
from retrograde.errors import DataError

VALUES = [0.5 + 17.25 * n**2 for n in range(60)]


def written(mark, point, digits=2):
    return lambda value: f"{value:,.{digits}f}".translate(str.maketrans(",.", mark + point))


def target(tmp_path, cells, **given):
    rows = (f'2020-{n // 28 + 1:02}-{n % 28 + 1:02};"{cell}"\n' for n, cell in enumerate(cells))
    (tmp_path / "a.csv").write_text("day;x\n" + "".join(rows), encoding="utf-8")
    table = open_table(tmp_path / "a.csv")
    columns, _ = columns_for(Predicts.FUTURE, table, given)
    table.check_numbers(columns.target)
    (batch,) = table.batches(table.numbers(columns.target))
    return table.matrix(batch, columns.target)[:, 0], table.notes


@pytest.mark.parametrize(
    ("mark", "point", "said"),
    [
        (".", ",", "'.' between thousands and a decimal comma"),
        (",", ".", "',' between thousands and a decimal point"),
        *((mark, ",", "spaces or apostrophes between thousands and a decimal comma") for mark in " \u00a0\u202f"),
        *((mark, ".", "spaces or apostrophes between thousands and a decimal point") for mark in " '’"),
    ],
)
def test_thousands(tmp_path, mark, point, said):
    cells = [written(mark, point)(value) for value in VALUES]
    cells[3], cells[4], cells[5] = "n/a", "", f"-{cells[5]}"
    found, notes = target(tmp_path, cells)
    np.testing.assert_allclose(found, [*VALUES[:3], np.nan, np.nan, -VALUES[5], *VALUES[6:]])
    assert f"numbers of 'x' are read with {said}." in notes


def test_whole_numbers_with_thousands(tmp_path):
    counts = [10 * 17**n % 1_999_990 for n in range(60)]  # over a million: two marks
    for mark in ",. ":
        np.testing.assert_array_equal(target(tmp_path, [written(mark, ".", 0)(one) for one in counts])[0], counts)
    few = [n * 55 for n in range(60)]  # 55 has no comma, and 2,200 ends in 0: these are no decimals
    np.testing.assert_array_equal(target(tmp_path, [f"{one:,}" for one in few])[0], few)


@pytest.mark.parametrize(
    "cells",
    [
        [f"{n},500" for n in range(1, 60)],  # three decimals, or thousands
        [f"{n},{n}37" for n in range(1, 10)] * 5,  # decimals that are shortened, or thousands
    ],
)
def test_what_could_be_either_is_refused(tmp_path, cells):
    for given in ({}, {"target": "x"}):
        with pytest.raises(
            DataError, match=r"is not a number; write 1234.5 \(the comma could group thousands or begin"
        ):
            target(tmp_path, cells, **given)


@pytest.mark.parametrize("odd", ["1,234.5", "1.2.3", "12.34,5", "1.234"])
def test_two_notations_in_a_column_are_refused(tmp_path, odd):
    cells = ["1,5", "2,25", odd] * 10 if odd == "1.234" else ["1.234,5", "2.345,25", odd] * 10
    with pytest.raises(DataError, match="is not a number"):
        target(tmp_path, cells, target="x")


def test_decimals_after_zero(tmp_path):
    cells = [f"0,{n:03}" for n in range(1, 40)]
    np.testing.assert_allclose(target(tmp_path, cells)[0], np.arange(1, 40) / 1000)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda one: f"${one:,.2f}", "',' between thousands and a decimal point, without '$'"),
        (lambda one: f"{one:.2f} %".replace(".", ","), "a decimal comma, without '%'"),
        (lambda one: f"{one:.1f}%", "a decimal point, without '%'"),
        (lambda one: f"{one:,.2f} €".translate(str.maketrans(",.", ".,")),
         "'.' between thousands and a decimal comma, without '€'"),
        (lambda one: f"({one:,.2f})" if one > 40 else f"{-one:,.2f}",
         "',' between thousands and a decimal point, those in parentheses as negative"),
        (lambda one: f"($ {one:,.2f})" if one > 40 else f"$ {-one:,.2f}",
         "',' between thousands and a decimal point, without '$', those in parentheses as negative"),
    ],
)  # fmt: skip
def test_signs_of_units(tmp_path, write, said):
    found, notes = target(tmp_path, [write(one) for one in VALUES])
    np.testing.assert_allclose(found, [-one for one in VALUES] if "(" in write(50) else VALUES, atol=0.06)
    assert f"numbers of 'x' are read with {said}." in notes


@pytest.mark.parametrize("cells", [["$5", "€6", "$7"], ["5", "6%", "7%"], ["$5 $6", "$7 $8", "$9"]])
def test_numbers_with_different_units_are_refused(tmp_path, cells):
    with pytest.raises(DataError, match="is not a number"):
        target(tmp_path, cells * 10, target="x")


def grouped(tmp_path, header, row):
    (tmp_path / "a.csv").write_text(header + "".join(map(row, range(60))), encoding="utf-8")
    table = open_table(tmp_path / "a.csv")
    table.check_numbers(["x"])
    (batch,) = table.batches(table.numbers(["x"]))
    return table.matrix(batch, ["x"])[:, 0], table.notes


def test_points_are_thousands_where_another_column_has_decimal_commas(tmp_path):
    found, notes = grouped(tmp_path, "x;price\n", lambda n: f"{1 + n // 10}.{n:03};{n},5\n")
    np.testing.assert_array_equal(found, [1000 * (1 + n // 10) + n for n in range(60)])
    assert notes[-1] == "numbers of 'x' are read with '.' between thousands and a decimal comma."


def test_points_that_could_be_thousands_are_said(tmp_path):
    found, notes = grouped(tmp_path, "x;y\n", lambda n: f"{1 + n // 10}.{n:03};{n}\n")
    np.testing.assert_allclose(found, [1 + n // 10 + n / 1000 for n in range(60)])
    assert notes[-1] == (
        "all numbers of 'x' have three digits after each point, and '1.000' is read as 1: if the point groups "
        "thousands, write 1000."
    )
    for header, row in (("x,y\n", "{1}.{0:03},{0}\n"), ("x;y\n", "{1}.{0};{0}\n"), ("x;y\n", "0.{0:03};{0},5\n")):
        found, notes = grouped(tmp_path, header, lambda n, row=row: row.format(n, 1 + n // 10))
        assert found.max() < 8 and not [note for note in notes if "three digits" in note or "thousands" in note]
