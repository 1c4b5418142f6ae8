"""Missing and repeated times: found, told, filled or refused, so that a season does not slip."""

import datetime
from dataclasses import replace

import numpy as np
import pytest

from retrograde.data.columns import columns_for
from retrograde.data.formats import open_table
from retrograde.data.grid import Grid, Regular, infer
from retrograde.data.roles import Columns, Predicts
from retrograde.data.series import read_series
from retrograde.errors import DataError, OptionError
from retrograde.options import Options
from retrograde.tasks.forecast import ForecastTask

DAY = datetime.date(2015, 1, 1)
STAMPS = {
    "1d": lambda n: DAY + datetime.timedelta(n),
    "1h": lambda n: datetime.datetime(2015, 1, 1) + datetime.timedelta(hours=n),
    "15min": lambda n: (datetime.datetime(2015, 1, 1) + datetime.timedelta(minutes=15 * n)).strftime("%d/%m/%Y %H:%M"),
    "1w": lambda n: DAY + datetime.timedelta(7 * n),
    "1mo": lambda n: f"{1900 + n // 12}-{n % 12 + 1:02}",
    "3mo": lambda n: f"{1900 + n // 4}Q{n % 4 + 1}",
    "1y": lambda n: f"{1500 + n}-07-01",
    "workdays": lambda n: np.busday_offset("2015-01-01", n, roll="forward"),
    "1": lambda n: n,
    "0.25": lambda n: n / 4,
}
END_OF_MONTH = {"1mo": lambda n: datetime.date(1900 + (n + 1) // 12, (n + 1) % 12 + 1, 1) - datetime.timedelta(1)}
EPOCHS = {"1h": lambda n: 1_500_000_000 + 3600 * n, "1min": lambda n: (1_500_000_000 + 60 * n) * 1000}
SMALL = {"task": "forecast", "hidden_size": 4, "cell": "rnn", "horizon": 7, "context": 21, "season": 7}
OPTIONS = Options.of(SMALL)


def write(path, stamp, kept, values=None):
    values = np.arange(len(kept)) % 7 if values is None else values
    rows = [f"{stamp(n)},{values[n]}\n" for n in range(len(kept)) if kept[n]]
    path.write_text("date,value\n" + "".join(rows))
    return str(path)


def holes(count=400, share=0.02, seed=0):
    kept = np.random.default_rng(seed).random(count) > share
    kept[[0, -1]] = True
    return kept


CASES = [*STAMPS.items(), *END_OF_MONTH.items(), *EPOCHS.items()]


@pytest.mark.parametrize(("freq", "stamp"), CASES, ids=[f"{freq}-{n}" for n, (freq, _) in enumerate(CASES)])
def test_a_season_does_not_slip_where_rows_are_missing(tmp_path, freq, stamp):
    kept = holes()
    task = ForecastTask(write(tmp_path / "a.csv", stamp, kept), OPTIONS)
    assert task.plan.freq == freq
    assert sum(gap.missing for gap in task.gaps) == (~kept).sum() > 0
    assert task.baselines()["seasonal naive"]["mase"] == pytest.approx(0, abs=1e-6)
    (told,) = (note for note in task.notes if "are missing" in note)
    assert told.startswith(f"{(~kept).sum():,} steps of {freq} are missing in {len(task.gaps)} gaps: 1 after ")
    data = task.describe()
    assert len(data["gaps"]) == len(task.gaps) and set(data["gaps"][0]) == {"series", "after", "missing"}


def test_half_a_percent_of_the_rows(tmp_path):
    """What the issue measured: the seasonal naive forecast of a periodic series stays exact."""
    kept = holes(2000, 0.005)
    path = write(tmp_path / "a.csv", STAMPS["1d"], kept)
    assert ForecastTask(path, OPTIONS).baselines()["seasonal naive"]["mase"] == pytest.approx(0, abs=1e-6)
    table = open_table(path)
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    raw, filled = read_series(table, columns), read_series(table, columns, Regular())
    assert len(raw.numbers[0]) == kept.sum() and len(filled.numbers[0]) == 2000
    np.testing.assert_array_equal(np.isnan(filled.numbers[0][:, 0]), ~kept)
    np.testing.assert_array_equal(filled.numbers[0][kept, 0], (np.arange(2000) % 7)[kept])
    for gap in filled.gaps:
        assert np.isnan(filled.numbers[0][gap.at : gap.at + gap.missing]).all()
        assert gap.after == str(STAMPS["1d"](gap.at - 1))


def test_gaps_of_several_series_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("retrograde.data.table.BLOCK", 7)
    lines, wanted = [], {}
    for name in ("a", "b", "c"):
        kept = holes(60, 0.2, ord(name))
        wanted[name] = np.where(kept, np.arange(60) * 1.0, np.nan)
        lines += [f"{name},{STAMPS['1d'](n)},{n}\n" for n in range(60) if kept[n]]
    order = np.random.default_rng(1).permutation(len(lines))
    (tmp_path / "a.csv").write_text("series,date,value\n" + "".join(lines[n] for n in order))
    table = open_table(tmp_path / "a.csv")
    found = read_series(table, Columns(group=("series",), time="date", target=("value",)), Regular())
    for place, (name,) in enumerate(found.names):
        np.testing.assert_array_equal(found.numbers[place][:, 0], wanted[name])
    assert sum(gap.missing for gap in found.gaps) == sum(int(np.isnan(one).sum()) for one in wanted.values())
    for gap in found.gaps:
        assert np.isnan(found.numbers[gap.series][gap.at : gap.at + gap.missing]).all()
    assert any("in 3 of 3 series" in note for note in found.notes)


def test_no_window_reaches_over_a_gap_that_splits(tmp_path):
    kept = np.ones(300, dtype=bool)
    kept[[100, 101, 200, 280]] = False
    path = write(tmp_path / "a.csv", STAMPS["1d"], kept)
    whole, split = (ForecastTask(path, replace(OPTIONS, gaps=gaps)) for gaps in ("fill", "split"))
    assert len(whole.training) == 240 - 28 + 1
    assert len(split.training) == (100 - 28 + 1) + (98 - 28 + 1) + (39 - 28 + 1)
    every = np.arange(len(split.training))
    assert not np.isnan(split.training.cut(split.training.truths, every)).any()
    assert np.isnan(whole.training.cut(whole.training.truths, np.arange(len(whole.training)))).any()
    assert len(split.validation[0]) < len(whole.validation[0])
    assert split.plan.gaps == "split" and '"gaps": "split"' in split.files()["preprocessing.json"]


def test_gaps_that_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", STAMPS["1d"], holes())
    with pytest.raises(DataError, match=r"steps of 1d are missing in \d gaps: 1 after '2015-.*--gaps fill puts empty"):
        ForecastTask(path, replace(OPTIONS, gaps="error"))
    assert (
        ForecastTask(write(tmp_path / "b.csv", STAMPS["1d"], np.ones(200)), replace(OPTIONS, gaps="error")).gaps == []
    )


def test_a_frequency_that_is_stated(tmp_path):
    kept = np.zeros(400, dtype=bool)
    kept[::2] = True  # every other day
    path = write(tmp_path / "a.csv", STAMPS["1d"], kept)
    assert ForecastTask(path, OPTIONS).plan.freq == "2d"
    task = ForecastTask(path, replace(OPTIONS, freq="1d"))
    assert task.plan.freq == "1d" and sum(gap.missing for gap in task.gaps) == 199
    with pytest.raises(DataError, match="time '2015-01-03' is not on the grid of --freq 1w"):
        ForecastTask(path, replace(OPTIONS, freq="1w"))
    with pytest.raises(DataError, match="--freq 5 does not fit column 'date', whose cells are dates"):
        ForecastTask(path, replace(OPTIONS, freq="5"))
    for freq in ("soon", "0d", "-1h", "1x", ""):
        with pytest.raises(OptionError, match="is not a frequency"):
            Grid.of(freq)
    assert [str(Grid.of(freq)) for freq in ("1D", "24h", "90 s", "q", "12mo", "B", "0.5")] == [
        "1d", "1d", "90s", "3mo", "1y", "workdays", "0.5"
    ]  # fmt: skip


def test_times_without_regular_steps_are_rows_as_they_are(tmp_path):
    random = np.random.default_rng(0)
    stamps = np.cumsum(random.integers(1, 10_000, 200)) + 1_500_000_000
    path = write(
        tmp_path / "a.csv", lambda n: datetime.datetime.fromtimestamp(int(stamps[n]), datetime.UTC), np.ones(200)
    )
    task = ForecastTask(path, OPTIONS)
    assert task.plan.freq == "" and task.gaps == []
    assert any("has no regular steps: rows are read as steps" in note for note in task.notes)
    late = write(tmp_path / "b.csv", lambda n: STAMPS["1h"](n) if n != 77 else "2015-01-04 05:20:00", np.ones(200))
    task = ForecastTask(late, OPTIONS)
    assert any("1 times, such as" in note or "are not on it" in note for note in task.notes) and task.plan.freq == ""


def test_times_that_come_twice(tmp_path):
    path = write(tmp_path / "a.csv", STAMPS["1d"], np.ones(200))
    with (tmp_path / "a.csv").open("a") as file:
        file.write("2015-01-05,94\n2015-01-07,95\n")
    with pytest.raises(DataError, match=r"row 201, column 'date': time '2015-01-05' comes twice.*--duplicates first"):
        ForecastTask(path, OPTIONS)
    table = open_table(path)
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    for keep, wanted in (("first", [4, 5, 6]), ("last", [94, 5, 95]), ("mean", [49, 5, 50.5])):
        found = read_series(table, columns, Regular(duplicates=keep))
        assert found.numbers[0][4:7, 0].tolist() == wanted and len(found.numbers[0]) == 200
        assert any(note.startswith("2 rows repeat a time of the series") for note in found.notes)


def test_series_are_told_apart_although_some_rows_come_twice(tmp_path):
    rows = [f"{name},{STAMPS['1d'](n)},{n + k}\n" for k, name in enumerate("abc") for n in range(60)]
    (tmp_path / "a.csv").write_text("share,date,price\n" + "".join([*rows, rows[7], rows[99]]))
    table = open_table(tmp_path / "a.csv")
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert (columns.group, columns.time, columns.target) == (("share",), "date", ("price",))
    with pytest.raises(
        DataError, match=r"time '2015-01-08' comes twice in group 'a'; --duplicates first, last or mean"
    ):
        read_series(table, columns, Regular())
    found = read_series(table, columns, Regular(duplicates="first"))
    assert found.numbers.lengths.tolist() == [60] * 3


def test_a_model_fills_the_gaps_of_other_data_as_it_was_trained(tmp_path):
    task = ForecastTask(write(tmp_path / "a.csv", STAMPS["1d"], holes()), OPTIONS)
    kept = np.ones(100, dtype=bool)
    kept[50:53] = False
    found, _ = task.reader.read(write(tmp_path / "b.csv", STAMPS["1d"], kept), "utf-8")
    assert len(found.numbers[0]) == 100 and np.isnan(found.numbers[0][50:53]).all()
    assert any("3 steps of 1d are missing" in note for note in found.notes)


def test_runs_from_before_have_no_grid(tmp_path):
    path = write(tmp_path / "a.csv", STAMPS["1d"], holes())
    task = ForecastTask(path, OPTIONS)
    import json

    kept = json.loads(task.files()["preprocessing.json"])
    for name in ("freq", "gaps", "duplicates"):
        del kept["plan"][name]
    del kept["columns"]["split"]
    before = ForecastTask(path, OPTIONS, {"preprocessing.json": json.dumps(kept)})
    assert before.plan.freq == "" and before.gaps == []
    assert len(before.training) < len(task.training)


def test_columns_that_are_missing_from_a_wide_table(tmp_path):
    months = [f"{2018 + n // 12}-{n % 12 + 1:02}" for n in range(48) if n not in (10, 20, 21)]
    values = [str(n % 12) for n in range(48) if n not in (10, 20, 21)]
    (tmp_path / "a.csv").write_text(
        f"shop,{','.join(months)}\n" + "".join(f"s{k},{','.join(values)}\n" for k in range(3))
    )
    table = open_table(tmp_path / "a.csv")
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    found = read_series(table, columns, Regular())
    assert found.freq == "1mo" and found.numbers.lengths.tolist() == [48] * 3
    assert np.flatnonzero(np.isnan(found.numbers[0][:, 0])).tolist() == [10, 20, 21]
    assert any("3 steps of 1mo are missing between the columns, the first after '2018-10'" in n for n in found.notes)


def test_a_grid_is_written_as_exactly_as_it_is_read():
    for step in (0.1, 1 / 3, 1e297, 2.5e-7, 1.0, 123456.789):
        for grid in (Grid("numbers", step), Grid("seconds", step)):
            assert Grid.of(str(grid)) == grid


def test_what_is_inferred():
    assert infer({}, True, True) is None and infer({0.0: 5}, False, False) is None
    assert str(infer({3600.0: 99, 7200.0: 1}, True, True)) == "1h"
    assert infer({10.0: 3, 11.0: 3, 12.0: 3}, True, True) is None
    assert str(infer({28 * 86400.0: 20, 56 * 86400.0: 1}, True, True)) == "4w"
    assert str(infer({28 * 86400.0: 20, 35 * 86400.0: 9}, True, True)) == "1mo"  # first Mondays
    assert str(infer({28 * 86400.0: 1, 30 * 86400.0: 4, 31 * 86400.0: 7}, True, True)) == "1mo"
