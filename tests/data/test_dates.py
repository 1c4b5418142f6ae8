"""Dates as people write them: recognised, put in order, and what comes after them written the same way."""

import datetime

import numpy as np
import pytest

from retrograde.data.cells import Cells
from retrograde.data.columns import columns_for
from retrograde.data.dates import as_iso, as_written, date_form, looks_like_date, moments, month_of
from retrograde.data.formats import open_table
from retrograde.data.grid import Regular
from retrograde.data.roles import Predicts
from retrograde.data.series import guess_season, read_series, times_after
from retrograde.errors import DataError, OptionError

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


def hours(count=40, form="%Y-%m-%d %H:%M:%S"):
    return [f"{datetime.datetime(2004, 3, 1) + datetime.timedelta(hours=n):{form}}" for n in range(count)]


def series_of(tmp_path, times, given=None, values=None):
    values = range(len(times)) if values is None else values
    rows = (f"{when};{value}\n" for when, value in zip(times, values, strict=True))
    (tmp_path / "a.csv").write_text("when;x\n" + "".join(rows), encoding="utf-8")
    table = open_table(tmp_path / "a.csv")
    columns, notes = columns_for(Predicts.FUTURE, table, given or {})
    return read_series(table, columns, Regular()), columns, [*notes, *table.notes]


@pytest.mark.parametrize("zone", ["Z", "+00:00", " UTC", "-0500"])
def test_times_of_which_only_some_state_their_zone_are_refused(tmp_path, zone):
    times = hours()
    few = [when + zone * (n == 33) for n, when in enumerate(times)]
    with pytest.raises(DataError, match=r"row 34, column 'when': '2004-03-02 09.* states its time zone, unlike .* row"):
        series_of(tmp_path, few)
    most = [when + zone * (n != 7) for n, when in enumerate(times)]
    with pytest.raises(DataError, match=r"row 8, column 'when': '2004-03-01 07:00:00' states no time zone, unlike"):
        series_of(tmp_path, most)
    found, _, _ = series_of(tmp_path, [when + zone for when in times])
    assert found.freq == "1h"
    after = "-05:00" if zone == "-0500" else "+00:00"
    assert times_after(found.times[0], 1) == [f"2004-03-02T16:00:00{after}"]


def test_clocks_that_change_keep_their_hours(tmp_path):
    times = [f"2004-03-28 0{n}:30:00+01:00" for n in range(2)] + [f"2004-03-28 0{n}:30:00+02:00" for n in range(3, 8)]
    assert series_of(tmp_path, times)[0].freq == "1h"


QUARTERS = ["{y}Q{q}", "{y}-Q{q}", "{y} q{q}", "{y}:Q{q}", "Q{q} {y}", "Q{q}-{y}", "Q{q}/{y}", "{q}Q{y}", "{q}Q {y}"]


@pytest.mark.parametrize("form", QUARTERS)
def test_quarters(tmp_path, form):
    times = [form.format(y=1990 + n // 4, q=n % 4 + 1) for n in range(30) if n not in (4, 5)]
    found, columns, _ = series_of(tmp_path, times)
    assert (columns.time, found.freq, len(found.numbers[0])) == ("when", "3mo", 30)
    assert as_written(times_after(found.times[0], 3, found.freq), "", found.times[0]) == [
        form.format(y=y, q=q) for y, q in ((1997, 3), (1997, 4), (1998, 1))
    ]
    assert not any(map(looks_like_date, ["1990Q5", "Q0 1990", "5Q1990", "IQ 1990"]))


def test_quarters_of_two_digits():
    assert moments(["Q1 68", "4Q69", "Q2'04"]).tolist() == moments(["2068-01-01", "1969-10-01", "2004-04-01"]).tolist()


def test_day_and_month_by_order_and_by_regular_steps(tmp_path):
    """Every day is at most 12: rows that ascend in one of the readings, then even steps, decide."""
    days = [datetime.date(2021, month, day) for month in range(1, 13) for day in range(1, 13)]
    some = [days[n] for n in sorted(np.random.default_rng(0).choice(len(days), 25, replace=False))]
    for form in ("%d/%m/%Y", "%m/%d/%Y"):
        for dates in (days, some, days[::-1], [*some, *some, *some]):
            assert date_form([f"{day:{form}}" for day in dates]) == form
        daily = [f"{datetime.date(2021, 4, 3) + datetime.timedelta(n):{form}}" for n in range(10)]
        monthly = [f"{datetime.date(2000 + n // 12, n % 12 + 1, 5):{form}}" for n in range(40)]
        for dates in (daily, monthly):
            mixed = np.random.default_rng(1).permutation(dates).tolist()
            assert date_form(dates) == date_form(mixed) == form


def test_a_date_format_that_is_stated(tmp_path):
    quarters = [f"03/04/2021 {n // 4:02}:{n % 4 * 15:02}" for n in range(40)]  # of one day: nothing decides
    found, columns, notes = series_of(tmp_path, quarters)
    assert columns.date_form == "%m/%d/%Y" and found.times[0][0] == "2021-03-04 00:00"
    assert any("'03/04/2021 00:00' is 2021-03-04 00:00 (a guess; --date-format states another)" in n for n in notes)
    found, _, notes = series_of(tmp_path, quarters, {"date_format": "%d/%m/%Y"})
    assert (
        found.times[0][0] == "2021-04-03 00:00"
        and found.freq == "15min"
        and not any("guess; --date" in n for n in notes)
    )
    strange = [f"{day:%y:%j}" for day in DAYS]
    found, columns, _ = series_of(tmp_path, strange, {"date_format": "%y:%j", "time": "when"})
    assert found.freq == "1d" and as_written(times_after(found.times[0], 1), columns.date_form) == ["04:130"]
    with pytest.raises(DataError, match="row 1, column 'when': '04:090' is not a time"):
        series_of(tmp_path, strange, {"date_format": "%H:%M", "time": "when"})
    with pytest.raises(OptionError, match=r"--date-format .*: name the column with --time"):
        series_of(tmp_path, list("abcd") * 10, {"date_format": "%d/%m/%Y"})


def test_next_month_after_months_that_are_missing(tmp_path):
    times = [f"05/{n % 12 + 1:02}/{2000 + n // 12}" for n in range(40) if n not in (3, 4, 17, 30)]
    found, columns, _ = series_of(tmp_path, times)
    assert as_written(times_after(found.times[0], 2, found.freq), columns.date_form) == ["05/05/2003", "05/06/2003"]


def test_next_month_keeps_the_time_of_day(tmp_path):
    times = [f"{2000 + n // 12}-{n % 12 + 1:02}-05 06:30" for n in range(40) if n not in (3, 4, 17, 30)]
    found, columns, _ = series_of(tmp_path, times)
    assert as_written(times_after(found.times[0], 2, found.freq), columns.date_form, found.times[0]) == [
        "2003-05-05T06:30:00",
        "2003-06-05T06:30:00",
    ]


MONTHS = {  # how months are written: year and number of the month
    "%m.%Y": lambda year, month: f"{month:02}.{year}",
    "%m/%Y": lambda year, month: f"{month}/{year}",
    "%m-%Y": lambda year, month: f"{month:02}-{year}",
    "years by months": lambda year, month: f"{year + (month - 1) / 12:.3f}",
}


@pytest.mark.parametrize("form", MONTHS)
def test_months_in_numbers(tmp_path, form):
    months = [(2003 + n // 12, n % 12 + 1) for n in range(40) if n not in (3, 17)]
    found, columns, notes = series_of(tmp_path, [MONTHS[form](*one) for one in months], {"time": "when"})
    assert (columns.date_form, found.freq, len(found.numbers[0])) == (form, "1mo", 40)
    assert found.times[0][0].startswith("2003-01") and any(f"times are read as {form}" in note for note in notes)
    (after,) = as_written(times_after(found.times[0], 1, found.freq), columns.date_form)
    assert after == (2006.3333 if form.startswith("years") else f"05{form[2]}2006")


def test_decimal_years_are_months_or_quarters_where_they_lie_on_these(tmp_path):
    found, columns, _ = series_of(tmp_path, [1945 + n / 4 for n in range(30)], {"time": "when"})
    assert (columns.date_form, found.freq, guess_season(found.times[0], found.freq)[0]) == (
        "years by quarters", "3mo", 4
    )  # fmt: skip
    random = np.random.default_rng(0)
    for times in (range(1900, 1960), np.sort(random.uniform(1900, 1960, 60)), 1900 + np.arange(60) / 10,
                  1960.5 + np.arange(0, 300, 7) / 365.25):  # fmt: skip
        assert date_form(list(times)) == ""


def test_measured_numbers_are_no_months():
    assert Cells([f"{one:.4f}" for one in np.linspace(1.1987, 12.2, 40)]).kind == "number"
    assert Cells(["10.1987", "11.2034", "12.1999"]).kind == "number"  # no leading zero: as numbers are written


WEEKS = ["{y}-W{w:02}", "{y}W{w:02}", "{y}-W{w:02}-1"]


@pytest.mark.parametrize("form", WEEKS)
def test_weeks(tmp_path, form):
    mondays = [datetime.date(2019, 1, 7) + datetime.timedelta(7 * n) for n in range(110)]
    times = [form.format(y=day.isocalendar()[0], w=day.isocalendar()[1]) for day in mondays]
    found, columns, _ = series_of(tmp_path, times)
    assert (columns.time, found.freq, guess_season(found.times[0], found.freq)[0]) == ("when", "1w", 52)
    assert moments(times).tolist() == moments([str(day) for day in mondays]).tolist()
    (after,) = as_written(times_after(found.times[0], 1, found.freq), "", found.times[0])
    assert after == ("2021-02-15" if form.endswith("-1") else form.format(y=2021, w=7))


@pytest.mark.parametrize(
    "names",
    [
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc.",
        "JANVIER FÉVRIER MARS AVRIL MAI JUIN JUILLET AOÛT SEPTEMBRE OCTOBRE NOVEMBRE DÉCEMBRE",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        "gen feb mar apr mag giu lug ago set ott nov dic",
        "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
        "januari februari maart april mei juni juli augustus september oktober november december",
    ],
)
def test_months_of_other_languages(tmp_path, names):
    names = names.split()
    assert [month_of(name) for name in names] == list(range(1, 13))
    for form, day in (("{name} {year}", 1), ("3. {name} {year}", 3), ("3-{name}-{year}", 3)):
        times = [form.format(name=names[n % 12], year=2010 + n // 12) for n in range(30)]
        found = [f"{2010 + n // 12}-{n % 12 + 1:02}-{day:02}" for n in range(30)]
        assert moments(times).tolist() == moments(found).tolist() and all(map(looks_like_date, times))
