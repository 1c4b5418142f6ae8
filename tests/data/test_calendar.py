"""Times in several columns: tables of years by months, days next to times of day, years next to quarters."""

import numpy as np
import polars
import pytest

from retrograde.data.columns import columns_for, unused
from retrograde.data.formats import open_table
from retrograde.data.grid import Regular
from retrograde.data.roles import Columns, Predicts
from retrograde.data.series import read_series
from retrograde.errors import DataError

MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
GERMAN = ["Jan.", "Feb.", "März", "April", "Mai", "Juni", "Juli", "Aug.", "Sept.", "Okt.", "Nov.", "Dez."]
NUMBERS = np.arange(72) + 0.5


def read(path, **given):
    table = open_table(path)
    columns, notes = columns_for(Predicts.FUTURE, table, given)
    columns.check(table)
    return read_series(table, columns, Regular()), columns, [*notes, *unused(table, columns)]


def by_period(tmp_path, whole, names, cells=None, name="YEAR"):
    cells = [f"{one}" for one in NUMBERS] if cells is None else cells
    rows = [",".join([str(one), *cells[n * len(names) : (n + 1) * len(names)]]) for n, one in enumerate(whole)]
    (tmp_path / "a.csv").write_text("\n".join([",".join([name, *names]), *rows, ""]), encoding="utf-8")
    return tmp_path / "a.csv"


@pytest.mark.parametrize(
    ("whole", "names", "begin", "end", "freq"),
    [
        (range(1950, 1956), MONTHS, "1950-01", "1955-12", "1mo"),
        (range(1950, 1956), [*MONTHS[6:], *MONTHS[:6]], "1950-01", "1955-12", "1mo"),  # in any order
        (range(1950, 1956), GERMAN, "1950-01", "1955-12", "1mo"),
        (range(1950, 1968), ["Q1", "Q2", "Q3", "Q4"], "1950Q1", "1967Q4", "3mo"),
        (["2024-03-01", "2024-03-02", "2024-03-03"], [f"{n:02}:00" for n in range(24)], "2024-03-01 00:00",
         "2024-03-03 23:00", "1h"),
        (["2024-03-01", "2024-03-02", "2024-03-03"], [f"H{n}" for n in range(1, 25)], "2024-03-01 00:00",
         "2024-03-03 23:00", "1h"),
    ],
)  # fmt: skip
def test_a_row_with_its_parts_is_one_series(tmp_path, whole, names, begin, end, freq):
    found, columns, notes = read(by_period(tmp_path, whole, names))
    sums = NUMBERS.reshape(-1, 12)[:, [*range(6, 12), *range(6)]].ravel() if names[0] == "JUL" else NUMBERS
    np.testing.assert_array_equal(found.numbers[0][:, 0], sums)
    assert (found.begins[0], found.times[0][-1], found.freq) == (begin, end, freq)
    assert notes[2].startswith(f"a row is 'YEAR' with its parts from {columns.unrolled[1]!r} to")
    # A table to predict from is read in the same way.
    again = Columns.from_dict(columns.as_dict())
    table = open_table(tmp_path / "a.csv")
    again.check(table)
    np.testing.assert_array_equal(read_series(table, again).numbers[0], found.numbers[0])


def test_months_to_come_and_before_are_no_steps(tmp_path):
    cells = [str(one) for one in NUMBERS]
    cells[:3], cells[30], cells[-4:] = ["", "", "NA"], "", [""] * 4
    found, _, _ = read(by_period(tmp_path, range(1950, 1956), MONTHS, cells))
    expected = NUMBERS[3:-4].copy()
    expected[27] = np.nan  # a gap is filled with an empty step
    np.testing.assert_array_equal(found.numbers[0][:, 0], expected)
    assert found.begins[0] == "1950-04"
    cells[40] = "n/q"
    with pytest.raises(DataError, match=r"row 4, column 'MAY': 'n/q' is not a number"):
        read(by_period(tmp_path, range(1950, 1956), MONTHS, cells), group="")


def test_years_of_several_stations_are_series(tmp_path):
    frame = {"station": ["a"] * 3 + ["b"] * 3, "year": [1990, 1991, 1992] * 2}
    frame |= {name: NUMBERS.reshape(6, 12)[:, n] for n, name in enumerate(MONTHS)}
    polars.DataFrame(frame).write_csv(tmp_path / "a.csv")
    found, columns, _ = read(tmp_path / "a.csv")
    assert found.names == [("a",), ("b",)] and (columns.group, columns.target) == (("station",), ("value",))
    np.testing.assert_array_equal(found.numbers[1][:, 0], NUMBERS[36:])


@pytest.mark.parametrize("given", [{"layout": "long"}, {"target": "JAN,JUL"}, {"time": "YEAR"}])
def test_months_are_channels_where_that_is_said(tmp_path, given):
    found, columns, _ = read(by_period(tmp_path, range(1950, 1956), MONTHS), **given)
    assert columns.unrolled == () and found.numbers[0].shape == (6, 2 if "target" in given else 12)


def test_months_without_a_year_are_channels(tmp_path):
    found, columns, _ = read(by_period(tmp_path, [3, 1, 2, 5, 7, 4], MONTHS, name="rank"))
    assert columns.unrolled == () and len(found.numbers[0]) == 6


@pytest.mark.parametrize(
    ("day", "clock"),
    [
        (lambda n: f"{n // 24 + 1:02}/01/2022", lambda n: f"{n % 24:02}:00"),
        (lambda n: f"2022-01-{n // 24 + 1:02}", lambda n: f"{n % 24:02}.00.00"),
        (lambda n: f"1/{n // 24 + 1}/2022", lambda n: f"{(n + 11) % 12 + 1}:00 {'ap'[n % 24 // 12]}m"),
    ],
)
def test_days_and_times_of_day_are_times_together(tmp_path, day, clock):
    rows = [f"{day(n)};{clock(n)};{n}\n" for n in np.random.default_rng(0).permutation(480)]
    (tmp_path / "a.csv").write_text("Date;Heure;MW\n" + "".join(rows), encoding="utf-8")
    found, columns, notes = read(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.numbers[0][:, 0], np.arange(480))
    assert (columns.time, columns.group, found.freq) == ("Date Heure", (), "1h")
    assert "times are 'Date' and 'Heure' together (a guess; --time names another)." in notes
    assert not [note for note in notes if "not read" in note]
    table = open_table(tmp_path / "a.csv")
    Columns.from_dict(columns.as_dict()).check(table)
    np.testing.assert_array_equal(read_series(table, columns).numbers[0], found.numbers[0])


@pytest.mark.parametrize(
    ("header", "rows", "freq"),
    [
        ("Jahr;Quartal;x", [f"{2000 + n // 4};Q{n % 4 + 1};{n}.5" for n in range(40)], "1q"),
        ("Year;Month;x", [f"{2000 + n // 12};{MONTHS[n % 12]};{n}.5" for n in range(40)], "1mo"),
        ("Month;Day;x", [f"{5 + n // 30};{n % 30 + 1};{n}.5" for n in range(90)], "1d"),
        ("day;time;x", [f"{346 + n // 24};{n % 24 * 100};{n}.5" for n in range(90)], ""),
    ],
)
def test_times_spread_over_columns_are_in_the_order_of_the_rows(tmp_path, header, rows, freq):
    (tmp_path / "a.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    found, columns, notes = read(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.numbers[0][:, 0], np.arange(len(rows)) + 0.5)
    assert (found.freq, columns.time, columns.group, columns.target) == (freq, None, (), ("x",))
    first, second, _ = header.split(";")
    assert any(note.startswith(f"times are spread over {first!r}, {second!r}") for note in notes)


def test_what_only_counts_is_not_forecast(tmp_path):
    random = np.random.default_rng(0)
    frame = polars.DataFrame(
        {"TIME": range(1, 31), "YEAR": range(1951, 1981), "Obs": range(5, 35), "x": random.normal(size=30)}
    )
    frame.write_csv(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv")[1].target == ("x",)
    frame.select("YEAR", "Obs").write_csv(tmp_path / "a.csv")  # nothing else to forecast
    assert read(tmp_path / "a.csv")[1].target == ("Obs",)
    frame.select("YEAR", year2=frame["YEAR"] // 4 * 4, x="x").write_csv(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv")[1].target == ("x",)


@pytest.mark.parametrize(
    ("since", "forecast"),
    [
        ([1800 + n // 4 * 4 for n in range(30)], False),
        ([1799 + n // 4 * 4 for n in range(30)], True),
        ([2100 - (29 - n) // 4 * 4 for n in range(30)], False),
        ([2101 - (29 - n) // 4 * 4 for n in range(30)], True),
        ([1990 + n // 10 for n in range(30)], False),
        ([1990 + n // 15 for n in range(30)], True),
    ],
)
def test_three_years_or_more_from_1800_to_2100_are_not_forecast(tmp_path, since, forecast):
    noise = np.random.default_rng(0).normal(size=30)
    polars.DataFrame({"TIME": range(1, 31), "since": since, "x": noise}).write_csv(tmp_path / "a.csv")
    assert ("since" in read(tmp_path / "a.csv")[1].target) == forecast


def test_what_is_the_same_throughout_each_series_is_not_forecast(tmp_path):
    rows = [f"{chick},{day},{chick % 4},{chick * day + day**2}" for chick in range(1, 9) for day in range(6)]
    (tmp_path / "a.csv").write_text("\n".join(["chick,time,diet,weight", *rows, ""]))
    assert read(tmp_path / "a.csv")[1].target == ("weight",)
    rows = [row.replace(",", ",8.5,", 1) for row in rows]  # subjects by number, no time
    (tmp_path / "a.csv").write_text("\n".join(["Subject,dose,day,diet,reaction", *rows, ""]))
    columns = read(tmp_path / "a.csv", time=None)[1]
    assert columns.group == ("Subject",) and "diet" not in columns.target


def test_numbers_of_days_are_times_by_their_name(tmp_path):
    rows = [f"{736389 + n + n // 9},{n % 7}.5" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["ordinal_date,approval", *rows, ""]))
    found, columns, _ = read(tmp_path / "a.csv")
    assert (columns.time, columns.target, len(found.gaps)) == ("ordinal_date", ("approval",), 6)


def test_an_index_that_is_no_count_is_forecast(tmp_path):
    (tmp_path / "a.csv").write_text("month,index\n" + "".join(f"2020-{n:02},{n}.25\n" for n in range(1, 13)))
    assert read(tmp_path / "a.csv")[1].target == ("index",)
