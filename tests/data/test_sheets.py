"""Workbooks of Excel as people have them."""

from __future__ import annotations

import datetime
from pathlib import Path

import openpyxl
import pytest

from retrograde.data.columns import columns_for
from retrograde.data.formats import open_table
from retrograde.data.roles import Predicts
from retrograde.data.series import read_series
from retrograde.errors import DataError


@pytest.fixture
def sheet(tmp_path: Path):
    """``sheet(rows)``: the path of a workbook with a sheet of these rows."""

    def write(*rows, empty_first: bool = False) -> Path:
        book = openpyxl.Workbook()
        page = book.create_sheet("data") if empty_first else book.active
        for row in rows:
            page.append(row)
        book.save(tmp_path / "a.xlsx")
        return tmp_path / "a.xlsx"

    return write


def test_xlsx(tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["day", "value", "note"])
    for day in range(1, 29):
        sheet.append([datetime.datetime(2020, 1, day), day * 1.5, None if day % 2 else "x"])
    book.create_sheet("other")
    book.save(tmp_path / "a.xlsx")
    table = open_table(tmp_path / "a.xlsx")
    assert any("'Sheet' is read; save another" in note for note in table.notes)
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert (columns.time, columns.target) == ("day", ("value",))
    assert table.sample()["day"][0] == "2020-01-01" and table.sample()["value"][:2] == [1.5, 3.0]
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04junk")
    with pytest.raises(DataError, match=r"b\.xlsx cannot be read"):
        open_table(tmp_path / "b.xlsx")


def test_titles_above_the_header_of_a_sheet(tmp_path):
    book = openpyxl.Workbook()
    for row in (
        ["Quarterly report"],
        [],
        [None, "in thousands"],
        ["month", "sales"],
        *([f"2020-{n:02}", n] for n in range(1, 13)),
    ):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    table = open_table(tmp_path / "a.xlsx")
    assert table.names == ["month", "sales"] and len(table) == 12
    assert table.notes == ["a.xlsx: what lies above its header is not read, 'Quarterly report'."]


DAYS = [datetime.datetime(2024, 1, day) for day in range(1, 29)]


def test_a_column_of_numbers_is_numbers(sheet):
    """A point in them never groups thousands, whatever the commas of other columns."""
    table = open_table(
        sheet(["n", "price", "mixed"], *([k + 0.228, f"{k},5", [k + 0.125, "n/a"][k % 2]] for k in range(9)))
    )
    assert table.types == {"n": "number", "price": "text", "mixed": "text"}
    assert table.sample()["n"][1] == 1.228
    table.check_numbers(table.names)
    batch = next(table.batches(table.numbers(table.names)))
    assert table.matrix(batch, table.names)[2].tolist() == [2.228, 2.5, 2.125]


def test_serial_days_numbers_as_text_and_empty_rows(sheet):
    rows = [[45292 + k, f"{k}.5", None] for k in range(28)]
    path = sheet(["date", "sales", None], *rows, [None, None, None], [None, " ", None], [])
    table = open_table(path)
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert (len(table), columns.date_form, columns.target) == (28, "excel", ("sales",))
    assert read_series(table, columns).begins == ["2024-01-01"]


def test_times_and_durations(sheet):
    clock = datetime.time(10, 30)
    path = sheet(["day", "clock", "took"], *([day, clock, datetime.timedelta(hours=30, minutes=15)] for day in DAYS))
    table = open_table(path)
    assert table.sample()["clock"][0] == "10:30:00" and table.sample()["took"][0] == 30.25
    assert "durations of 'took' are read in hours." in table.notes


def test_a_header_of_two_rows(sheet):
    rows = [[day, k, k + 1, k + 2, k + 3] for k, day in enumerate(DAYS)]
    table = open_table(
        sheet(["Report"], [None, "north", None, "south", None], ["day", "in", "out", "in", "out"], *rows)
    )
    assert table.names == ["day", "north in", "north out", "south in", "south out"] and len(table) == 28
    assert table.notes == ["a.xlsx: what lies above its header is not read, 'Report'."]


def test_a_sheet_without_a_header(sheet):
    table = open_table(sheet(*([k * 1.5, k * 0.5] for k in range(1, 9))))
    assert table.names == ["column 1", "column 2"] and len(table) == 8


def test_the_first_sheet_that_is_not_empty_is_read(sheet):
    table = open_table(sheet(["day", "sales"], *([day, 1.5] for day in DAYS), empty_first=True))
    assert table.names == ["day", "sales"]
    assert table.notes == ["of the sheets of a.xlsx 'data' is read; save another as a file of its own."]


def test_dates_of_which_excel_has_read_some_are_refused(sheet):
    rows = [[DAYS[k] if k < 12 else f"{k + 1}/01/2024", k] for k in range(28)]
    with pytest.raises(
        DataError, match=r"row 14, column 'date': '13/01/2024' is text, but row 2 has the date 2024-01-01"
    ):
        open_table(sheet(["date", "sales"], *rows))


def test_formulas_that_nobody_calculated_are_refused(sheet):
    path = sheet(["day", "sales"], *([day, f"=B{k}*2"] for k, day in enumerate(DAYS)))
    with pytest.raises(DataError, match=r"row 2, column 'sales': the formula '=B0\*2' has no value: open the file in"):
        open_table(path)


def test_a_workbook_without_cells(sheet):
    with pytest.raises(DataError, match=r"a\.xlsx has no header"):
        open_table(sheet())
