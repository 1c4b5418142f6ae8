"""Dates as people write them: recognised, put in order, and what comes after them written the same way."""

import datetime

import numpy as np
import pytest

from retrograde.data.columns import Predicts, columns_for
from retrograde.data.dates import as_iso, as_written, date_form, looks_like_date, moments
from retrograde.data.formats import open_table
from retrograde.data.series import read_series, times_after
from retrograde.errors import DataError

DAY = datetime.date(2004, 3, 30)
DAYS = [DAY + datetime.timedelta(days) for days in range(40)]  # over the end of two months
FORMS = [
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m/%d/%y", "%Y%m%d"),
    *("%b %d %Y", "%d %B %Y", "%B %d, %Y", "%d-%b-%Y", "%d-%b-%y", "%a, %d %b %Y", "%a %b %d 10:00:00 %Y"),
    *("%Y-%m-%dT00:00:00Z", "%Y-%m-%dT00:00:00.000+05:30", "%Y-%m-%d 00:00", "%d/%m/%Y 12:30"),
    *("%Y年%m月%d日", "%Y年%m月%d日 10:00"),
]


@pytest.mark.parametrize("form", FORMS)
def test_days_are_recognised_and_ordered(tmp_path, form):
    order = np.random.default_rng(0).permutation(len(DAYS))
    rows = [f'"{DAYS[place].strftime(form)}",{place}' for place in order]
    (tmp_path / "a.csv").write_text("day of trade,price\n" + "\n".join(rows) + "\n", encoding="utf-8")
    table = open_table(tmp_path / "a.csv")
    columns, notes = columns_for(Predicts.FUTURE, table, {})
    assert (columns.time, columns.target) == ("day of trade", ("price",))
    found = read_series(table, columns)
    assert found.numbers[0][:, 0].tolist() == list(range(len(DAYS)))
    (next_one,) = as_written(times_after(found.times[0], 1), columns.date_form)
    numbered = form in ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m/%d/%y", "%Y%m%d")
    written = (DAYS[-1] + datetime.timedelta(1)).strftime(form if numbered else "%Y-%m-%d")
    assert next_one.startswith(written) or "12:30" in form or "10:00" in form
    assert any("times are read as" in note for note in notes) == (numbered or form == "%d/%m/%Y 12:30")


def test_a_form_is_that_of_the_whole_table(tmp_path):
    """The last rows alone could be either: they are read as those before them."""
    days = [datetime.date(2000, 1, 1) + datetime.timedelta(days) for days in range(1003)]
    days += [datetime.date(2002, 10, day) for day in (1, 2, 3)]
    text = "date,x\n" + "".join(f"{day:%d/%m/%Y},{place}\n" for place, day in enumerate(days))
    (tmp_path / "a.csv").write_text(text)
    table = open_table(tmp_path / "a.csv")
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert columns.date_form == "%d/%m/%Y"
    found = read_series(table, columns)
    assert found.numbers[0][:, 0].tolist() == list(range(len(days)))
    assert found.times[0][-1] == "2002-10-03"
    (tmp_path / "b.csv").write_text(text + "03/31/2003,5\n")
    with pytest.raises(DataError, match="row 1007, column 'date': '03/31/2003' is not a time"):
        read_series(open_table(tmp_path / "b.csv"), columns)


def test_months_first_or_days_first():
    assert date_form(["1/1/2004", "1/2/2004", "1/3/2004"]) == "%d/%m/%Y"  # the first of each month
    assert date_form(["1/1/2004", "2/1/2004", "3/1/2004"]) == "%m/%d/%Y"
    assert date_form(["5/2/2004", "6/2/2004", "7/2/2004"]) == "%d/%m/%Y"  # the days lie even, the months would not
    assert date_form(["1.3.2004"]) == "%d.%m.%Y"
    assert date_form(["200411", "200412", "200501"]) == "%Y%m"
    assert date_form(["200411", "200412"]) == date_form(["20040231", "20040232", "20040233"]) == ""
    assert as_iso(["13/13/2004", None, "1/2/99"], "%d/%m/%y") == ["13/13/2004", None, "1999-02-01"]


def test_what_is_no_date():
    assert not any(map(looks_like_date, ["May be", "12 monkeys", "decent", "", "v1", "marble 12"]))
    with pytest.raises(ValueError, match="no time") as caught:
        moments(["2004-03-01", "2004-03-02", "soon"])
    assert caught.value.args[1] == 2


def test_zones():
    assert moments(["2004-03-01T00:00:00+01:00", "2004-02-29T23:00:00Z"]).tolist() == [1078095600.0] * 2
    hours = [f"2004-03-01T{hour:02}:00:00+05:30" for hour in range(20, 24)]
    assert times_after(hours, 1) == ["2004-03-02T00:00:00+05:30"]
    assert moments([np.datetime64("1970-01-02"), np.datetime64("1970-01-03")]).tolist() == [86400, 172800]
