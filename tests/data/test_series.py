"""Series as users keep them, what is guessed of them, and what forecasts are judged beside."""

import json
import math

import numpy as np
import pytest
import torch

from retrograde.data.columns import columns_for
from retrograde.data.dates import moments
from retrograde.data.formats import open_table
from retrograde.data.roles import Columns, Predicts
from retrograde.data.series import guess_season, irregular, names_after, read_series, times_after
from retrograde.data.steps import step_columns
from retrograde.errors import DataError, OptionError
from retrograde.options import Options
from retrograde.tasks.forecast import ForecastPredictor, ForecastTask

WIDE = "name,kind,{}\n".format(",".join(f"v{n}" for n in range(1, 9)))


@pytest.fixture
def read(tmp_path):
    def read(name, content, **given):
        path = tmp_path / name
        path.write_text(content)
        table = open_table(path)
        columns, notes = columns_for(Predicts.FUTURE, table, given)
        found = read_series(table, columns)
        return columns, notes, {" ".join(name): found.numbers[place] for place, name in enumerate(found.names)}

    return read


def test_numbered_columns_are_steps_of_a_series_a_row(read):
    columns, notes, found = read("a.csv", WIDE + "a,x,1,2,3,4,5,6,7,8\nb,x,,9,8,,7,6,,\n")
    assert columns == Columns(group=("name",), target=("v",), layout="wide")
    assert notes[0].startswith("layout: wide, a row is a series, 8 steps from 'v1' to 'v8' (a guess; --layout long")
    assert found["a"][:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(found["b"][:, 0], [9, 8, np.nan, 7, 6])  # shorter, and with a hole
    columns, _, _ = read("a.csv", WIDE + "a,x,1,2,3,4,5,6,7,8\n", layout="long", target="v*")
    assert (columns.layout, len(columns.target)) == ("long", 8)


def test_dated_columns_end_where_the_table_ends(read):
    head = "Province,Country,Lat,1/30/20,1/31/20,2/1/20,2/2/20\n"
    columns, _, found = read("a.csv", head + ",Peru,1.5,1,2,3,\nNSW,Australia,2.5,,4,5,6\nVIC,Australia,3.5,1,1,1,1\n")
    assert (columns.group, columns.target) == (("Province", "Country"), ("",))
    np.testing.assert_array_equal(found[" Peru"][:, 0], [1, 2, 3, np.nan])
    assert found["NSW Australia"][:, 0].tolist() == [4, 5, 6]


def test_a_date_of_each_series_is_no_time_of_steps(read):
    head = "name,opened,{}\n".format(",".join(f"v{n}" for n in range(1, 9)))
    days = ("2020-03-01", "2019-01-01", "2021-07-01")
    columns, _, _ = read(
        "a.csv", head + "".join(f"{n},{day},1,2,3,4,5,6,7,8\n" for n, day in zip("abc", days, strict=True))
    )
    assert (columns.layout, columns.group) == ("wide", ("name",))


def test_channels_of_wide_tables(read):
    lines = "id,price_2,price_1,sales_1,sales_2,price_3,sales_3\na,20,10,1,2,30,3\n"
    columns, _, found = read("a.csv", lines, layout="wide", target="sales", features="price*")
    assert (columns.target, columns.features) == (("sales",), ("price",))
    assert found["a"].tolist() == [[1, 10], [2, 20], [3, 30]]  # in the order of the numbers
    rows = [{"item_id": "a", "target": [[1, 2], [3, 4], [5, 6]]}, {"item_id": "b", "target": [[7, 8]]}]
    columns, _, found = read("b.jsonl", "\n".join(map(json.dumps, rows)))
    assert (columns.layout, columns.group) == ("wide", ("item_id",))
    assert found["a"].tolist() == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(OptionError, match="no such columns of steps; there are 'price', 'sales'"):
        read("a.csv", lines, layout="wide", target="cost")
    with pytest.raises(DataError, match=r"a\.csv has no numbers to forecast apart from the --features"):
        read("a.csv", lines, layout="wide", features="price,sales")
    with pytest.raises(DataError, match="--layout wide needs columns of steps whose names end in a number or a date"):
        read("c.csv", "a,b\n1,2\n", layout="wide")
    with pytest.raises(DataError, match="row 2: series 'a' comes twice"):
        read("a.csv", WIDE + "a,x,1,2,3,4,5,6,7,8\na,y,1,2,3,4,5,6,7,8\n", group="name", layout="wide")


def test_dates_in_order_are_steps_however_close(read):
    head = "measured,{}\n".format(",".join(f"s{n}" for n in range(1, 13)))
    rows = "".join(f"2024-01-01 00:00:0{n},{','.join([str(n)] * 12)}\n" for n in range(8))
    columns, _, found = read("a.csv", head + rows, time="measured", target="s*")
    assert (columns.layout, found[""].shape) == ("long", (8, 12))
    for parts in (rows, rows.replace("00:00:0", "00:00:00.0")):  # seconds, and hundredths of them
        columns, _, _ = read("a.csv", head + parts)
        assert columns.layout == "long"


def test_columns_that_tell_series_apart_are_guessed(read):
    rows = [f"2024-01-{day:02d},{shop},{item},{day}" for day in range(1, 10) for shop in (1, 2) for item in "ab"]
    columns, _, found = read("a.csv", "date,shop,item,sold\n" + "\n".join(rows) + "\n")
    assert (columns.group, columns.target) == (("shop", "item"), ("sold",))
    assert list(found) == ["1 a", "1 b", "2 a", "2 b"]


@pytest.mark.parametrize(
    ("when", "season", "following"),
    [
        (["2024-01-29", "2024-01-30", "2024-01-31"], 7, ["2024-02-01"]),
        (["2024Q3", "2024Q4", "2025Q1"], 4, ["2025-04-01"]),
        (["2024M11", "2024M12", "2025M01"], 12, ["2025-02-01"]),
        (["Nov-19", "Dec-19", "Jan-20"], 12, ["2020-02-01"]),
        (["2024-01-31", "2024-02-29", "2024-03-31"], 12, ["2024-04-30"]),
        (["2024-01-01 21:00", "2024-01-01 22:00", "2024-01-01 23:00"], 24, ["2024-01-02"]),
        ([f"2024-01-{day:02d}" for day in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12)], 5, ["2024-01-15"]),
        (["2001", "2002", "2003"], 1, [2004]),
        (["soon", "later", "then"], 1, None),
    ],
)
def test_times(when, season, following):
    assert guess_season(when)[0] == season
    assert times_after(when, 1) == following


def test_a_year_has_twelve_months_of_first_mondays_and_thirteen_times_four_weeks():
    assert guess_season(["2024-01-01", "2024-02-05", "2024-03-04", "2024-04-01"])[0] == 12
    assert guess_season(None, "4w") == (13, "a year of four weeks") and guess_season(None, "1mo")[0] == 12


def test_times_as_numbers_and_steps_that_are_missing():
    assert moments(["1970-01-02", "1970-01-03"]).tolist() == [86400, 172800]
    with pytest.raises(ValueError, match="no time"):
        moments(["1970-01-02", "never"])
    days = [f"2024-03-{day:02d}" for day in (1, 2, 3, 6, 7, 8, 11, 12, 13)]
    assert irregular(days)
    assert not irregular([f"2024-03-{day:02d}" for day in range(1, 20)])
    assert names_after(["w09", "w10", "w11"], 2) == ["w12", "w13"]
    assert step_columns(["b_10", "b_9", "c_1", "b_11"], "b") == ["b_9", "b_10", "b_11"]


def options(**more):
    given = {"task": "forecast", "hidden_size": 4, "cell": "rnn", "horizon": 4, "context": 8, "season": 4, **more}
    return Options.of(given)


def baselines(tmp_path, values, **more):
    path = tmp_path / "series.csv"
    path.write_text("y\n" + "\n".join("" if math.isnan(value) else str(value) for value in values) + "\n\n")
    rows = [json.dumps({"y": None if math.isnan(value) else value}) for value in values]
    (tmp_path / "series.jsonl").write_text("\n".join(rows) + "\n")
    task = ForecastTask(str(tmp_path / "series.jsonl"), options(**more))
    return task, task.baselines()


def test_baselines_know_only_what_was_observed(tmp_path):
    values = np.tile([1.0, 2.0, 3.0, 10.0], 15)
    whole, found = baselines(tmp_path, values)
    assert found["seasonal naive"]["mae"] == 0
    assert "coverage" not in found["naive"]
    # A hole is bridged by the same place of the season before, not by the value beside it.
    holed = values.copy()
    holed[[50, 51]] = np.nan
    task, found = baselines(tmp_path, holed)
    assert found["seasonal naive"]["mae"] == pytest.approx(0, abs=1e-6)
    assert set(task.reader.units) == set(whole.reader.units)
    assert any("2 empty cells were filled with the value a season before" in note for note in task.notes)
    assert any("with the value just before" in note for note in baselines(tmp_path, holed, season=1)[0].notes)
    # Where nothing was observed there is no forecast, rather than one from a filled cell.
    empty = values.copy()
    empty[36:48] = np.nan
    _, found = baselines(tmp_path, empty)
    assert 0 < found["naive"]["coverage"] < 1
    assert found["seasonal naive"]["mae"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(DataError, match="the validation part has no number to compare a forecast with"):
        baselines(tmp_path, np.where(np.arange(60) < 40, values, np.nan))


@pytest.mark.parametrize("strategy", ["direct", "autoregressive"])
def test_a_network_that_adds_nothing_is_the_seasonal_naive_forecast(tmp_path, strategy):
    random = np.random.default_rng(0)
    values = np.tile([1.0, 2.0, 3.0, 10.0], 15) + random.normal(size=60)
    values[[13, 30, 45]] = np.nan
    task, found = baselines(tmp_path, values, strategy=strategy)
    model = task.model()
    torch.nn.init.zeros_(model.output.weight)
    scores = task.evaluate(model)
    for name in ("loss", "mae", "rmse", "mase"):
        assert scores[f"validation_{name}"] == pytest.approx(found["seasonal naive"][name], rel=1e-4)


def test_series_too_short_for_a_window_are_trained_and_forecast(tmp_path):
    path = tmp_path / "a.csv"
    lengths = {"long": 60, "shorter": 9, "s": 2}
    rows = [f"{name},{t},{t + len(name)}" for name, steps in lengths.items() for t in range(steps)]
    path.write_text("series,t,value\n" + "\n".join(rows) + "\n")
    task = ForecastTask(str(path), options(season=1))
    assert any("2 of 3 series are shorter" in note for note in task.notes)
    owners = task.training.owners(np.arange(len(task.training)))
    assert np.bincount(owners, minlength=3).tolist() == [60 - 12 - 12 + 1, 1, 0]
    predictor = ForecastPredictor(task.reader, task.model())
    found = list(predictor.forecast(task.reader.read(str(path), "utf-8")[0]))
    assert [place for place, _ in found] == [0, 1, 2]
    assert all(np.isfinite(values).all() for _, values in found)


def test_a_validation_file_that_goes_on_with_a_series_is_read_on(tmp_path):
    values = np.tile([1.0, 2.0, 3.0, 10.0], 15)
    for name, part in (("train", slice(0, 52)), ("valid", slice(52, 60)), ("other", slice(0, 20))):
        steps = range(60)[part]
        (tmp_path / f"{name}.csv").write_text("t,y\n" + "".join(f"{t},{values[t]}\n" for t in steps))
    task = ForecastTask(str(tmp_path / "train.csv"), options(validation=str(tmp_path / "valid.csv")))
    windows, _ = task.validation
    assert len(windows) == 8 - 4 + 1
    assert task.baselines()["seasonal naive"]["mae"] == pytest.approx(0, abs=1e-6)
    first = windows.cut(windows.truths, np.array([0]))[:, 0, 0]
    scaler = task.reader.scalers[""]
    np.testing.assert_allclose(first * scaler.scale + scaler.mean, values[44:56], rtol=1e-5)
    task = ForecastTask(str(tmp_path / "train.csv"), options(validation=str(tmp_path / "other.csv")))
    assert len(task.validation[0]) == 20 - 12 + 1
