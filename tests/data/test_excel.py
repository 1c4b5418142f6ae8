"""Days as Excel counts them, in columns that are named as dates."""

from __future__ import annotations

import datetime

import pytest

from retrograde.data.columns import columns_for
from retrograde.data.excel import is_named_date
from retrograde.data.formats import open_table
from retrograde.data.roles import Predicts
from retrograde.data.series import read_series
from retrograde.errors import DataError

FIRST = datetime.date(1899, 12, 30)


@pytest.fixture
def read(tmp_path):
    """``read(text, **options)``: the columns, the notes and the series of a table to forecast."""

    def opened(text, **given):
        (tmp_path / "a.csv").write_text(text, encoding="utf-8")
        table = open_table(tmp_path / "a.csv")
        columns, notes = columns_for(Predicts.FUTURE, table, given)
        return columns, notes, read_series(table, columns)

    return opened


def test_months_as_days_of_excel(read):
    days = [(datetime.date(2015 + k // 12, k % 12 + 1, 1) - FIRST).days for k in range(36)]
    columns, notes, series = read("date,sales\n" + "".join(f"{day},{k}.5\n" for k, day in enumerate(days)))
    assert (columns.time, columns.date_form, columns.target) == ("date", "excel", ("sales",))
    assert series.begins == ["2015-01-01"] and series.times[0][-1] == "2017-12-01"
    assert notes[-1] == (
        "times are read as days of Excel: '42005' is 2015-01-01 (a guess; --date-format number takes them for plain "
        "numbers)."
    )


def test_hours_with_a_decimal_comma(read):
    rows = "".join(f"{45292 + k / 24:.5f};{k},5\n".replace(".", ",") for k in range(50))
    columns, _, series = read("Order Date;sales\n" + rows)
    assert (columns.time, columns.date_form) == ("Order Date", "excel")
    assert series.times[0][:3] == ["2024-01-01", "2024-01-01 01:00:00", "2024-01-01 02:00:00"]


def test_it_is_stated_that_they_are_numbers_or_days(read):
    text = "{},sales\n" + "".join(f"{45292 + k},{k}.5\n" for k in range(30))
    assert read(text.format("day"), date_format="number")[0].date_form == ""
    assert read(text.format("time"))[0].date_form == ""  # seconds, say
    assert read(text.format("time"), date_format="excel")[2].begins == ["2024-01-01"]


@pytest.mark.parametrize("start", [0, 19000, 73000])
def test_other_numbers_are_no_days_of_excel(read, start):
    """Among them days since 1970, which are fewer."""
    columns, _, _ = read("day,sales\n" + "".join(f"{start + k},{k}.5\n" for k in range(60)))
    assert (columns.time, columns.date_form) == ("day", "")


def test_days_of_excel_among_dates_as_text_are_refused(read):
    rows = "".join(f"{45292 + k if k % 2 else f'{13 + k}/01/2024'},{k}.5\n" for k in range(16))
    with pytest.raises(DataError, match=r"row 2, column 'date': '45293' is a day of Excel, but row 1 has '13/01/2024'"):
        read("date,sales\n" + rows)


def test_names_of_dates():
    assert all(map(is_named_date, ("date", "OrderDate", "Datum", "ship_date", "fecha", "Día")))
    assert not any(map(is_named_date, ("update", "candidate", "time", "value", "daylight")))
