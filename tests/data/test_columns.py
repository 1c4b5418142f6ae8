"""Which columns are guessed to play which part where rows are steps, and what is said of those that are not read."""

import numpy as np
import pytest

from retrograde.data.columns import columns_for, unused
from retrograde.data.formats import open_table
from retrograde.data.roles import Predicts
from retrograde.data.sequences import sequences
from retrograde.errors import DataError
from retrograde.options import Options
from retrograde.tasks.registry import task_class


def labelled(task, source, **given):
    return task_class(task)(
        source, Options.of({"task": task, "hidden_size": 4, "embedding_size": 4, "cell": "rnn", **given})
    )


@pytest.fixture
def machines(tmp_path):
    """20 machines with 12 steps each, in an order of their own; two channels; a state of the machine or of the step."""

    def write(group="machine", time="when", per_step=False, extra=""):
        steps = [(m, t) for m in range(20) for t in range(12)]
        order = np.random.default_rng(0).permutation(len(steps))
        rows = []
        for place in order:
            m, t = steps[place]
            state = ("ok", "worn")[(t > 6) if per_step else m % 2]
            rows.append(f"m{m},2024-01-{t + 1:02},{m + t / 10},{(m * t) % 7},{state}{',q' * bool(extra)}\n")
        path = tmp_path / "a.csv"
        path.write_text(f"{group},{time},x,y,state{',' + extra if extra else ''}\n" + "".join(rows))
        return str(path)

    return write


@pytest.mark.parametrize("group", ["machine", "gizmo", "unit_id"])
@pytest.mark.parametrize("time", ["when", "time"])
def test_groups_and_times_are_guessed_to_classify_as_to_forecast(machines, group, time):
    table = open_table(machines(group, time))
    columns, notes = columns_for(Predicts.LABEL, table, {"label": "state"})
    assert (columns.group, columns.time, columns.features) == ((group,), time, ("x", "y"))
    assert f"group: '{group}' (a guess; --group names another)" in notes
    found = list(sequences(table, columns, False))
    assert len(found) == 20 and all(one.values.shape == (12, 2) for one in found)
    for one in found:
        np.testing.assert_allclose(np.diff(one.values[:, 0]), 0.1, atol=1e-5)  # in order of time


def test_rows_of_a_sample_are_a_sequence_also_where_no_column_is_named_as_time(tmp_path):
    rows = [f"s{i},{band},{i + band / 10},{i}" for i in range(30) for band in range(8)]
    (tmp_path / "spectra.csv").write_text("\n".join(["sample,band,absorbance,fat", *rows]))
    columns, notes = columns_for(Predicts.NUMBER, open_table(str(tmp_path / "spectra.csv")), {"target": "fat"})
    assert columns.group == ("sample",) and columns.features == ("band", "absorbance")
    assert "group: 'sample' (a guess; --group names another)" in notes


def test_no_group_is_on_both_sides_of_a_split(machines):
    task = labelled("classify", machines("gizmo"), label="state", validation_fraction=0.3)
    assert len(task.training[0]) + len(task.validation[0]) == 20 and set(task.training[0].lengths) == {12}


def test_rows_with_labels_of_their_own_are_held_out_by_machine(machines):
    path = machines("gizmo", per_step=True)
    task = labelled("classify", path, label="state", validation_fraction=0.25)
    assert (
        task.reader.columns.group == ()
        and task.reader.columns.split == ("gizmo",)
        and task.reader.columns.features == ("x", "y")
    )
    assert any("have different labels" in note and "--task tag --group gizmo" in note for note in task.notes)
    table = open_table(path)
    cells, parts = table.sample(), task._split(table, task.reader.columns)
    for part in (0, 1):
        assert (parts == part).any()
    held_out = {m for m, part in zip(cells["gizmo"], parts, strict=True) if part == 1}
    trained = {m for m, part in zip(cells["gizmo"], parts, strict=True) if part == 0}
    assert held_out.isdisjoint(trained) and len(held_out) == 5
    tagged = labelled("tag", path, label="state")
    assert tagged.reader.columns.group == ("gizmo",) and set(tagged.training[0].lengths) == {12}


def test_a_group_can_be_refused(machines):
    table = open_table(machines())
    columns, _ = columns_for(Predicts.LABEL, table, {"label": "state", "group": "", "features": "x,y"})
    assert columns.group == () and len(list(sequences(table, columns, False))) == 240


def test_texts_that_share_an_author_are_texts_by_themselves(tmp_path):
    rows = [f"user{n % 5},a text of some words {n},{'ab'[n % 2]}\n" for n in range(40)]
    (tmp_path / "a.csv").write_text("user,text,label\n" + "".join(rows))
    columns, _ = columns_for(Predicts.LABEL, open_table(tmp_path / "a.csv"), {})
    assert (columns.group, columns.text, columns.label) == ((), "text", "label")


def test_columns_that_are_not_read_are_told(machines, tmp_path):
    task = labelled("classify", machines(extra="remark"), label="state", features="x")
    assert "not read: 'y', 'remark' (--features names the columns to read)." in task.notes
    (tmp_path / "b.csv").write_text("text,label\n" + "a b,x\nc d,y\n" * 20)
    assert not any("not read" in note for note in labelled("classify", str(tmp_path / "b.csv")).notes)
    wide = "id,kind,v1,v2,v3,v4,v5,v6\n" + "".join(f"s{n},k,1,2,3,4,5,6\n" for n in range(9))
    (tmp_path / "c.csv").write_text(wide)
    table = open_table(tmp_path / "c.csv")
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert columns.layout == "wide" and unused(table, columns) == [
        "not read: 'kind' (--features names the columns to read)."
    ]


def test_counts_since_1970_are_times(tmp_path):
    for unit, form in ((1, "epoch s"), (1000, "epoch ms"), (1_000_000, "epoch us"), (10**9, "epoch ns")):
        rows = [f"{(1_600_000_000 + 60 * n) * unit},{n % 5}\n" for n in range(40)]
        (tmp_path / "a.csv").write_text("ts,value\n" + "".join(rows))
        columns, notes = columns_for(Predicts.FUTURE, open_table(tmp_path / "a.csv"), {})
        assert (columns.time, columns.date_form) == ("ts", form)
        assert f"times are read as {form}: '{1_600_000_000 * unit}' is 2020-09-13T12:26:40." in notes
    (tmp_path / "a.csv").write_text("t,value\n" + "".join(f"{n},{n}\n" for n in range(40)))
    assert columns_for(Predicts.FUTURE, open_table(tmp_path / "a.csv"), {})[0].date_form == ""


def test_days_and_months_are_told_apart_by_all_of_a_column(tmp_path):
    """The first 1,200 dates could be either; the last one cannot."""
    rows = [f"{n % 12 + 1:02}/{n % 11 + 1:02}/{1900 + n},{n}\n" for n in range(1_200)]
    (tmp_path / "a.csv").write_text("date,value\n" + "".join(rows) + "25/03/3200,5\n")
    columns, _ = columns_for(Predicts.FUTURE, open_table(tmp_path / "a.csv"), {"time": "date", "target": "value"})
    assert columns.date_form == "%d/%m/%Y"


def test_a_series_whose_target_repeats_is_no_group(tmp_path):
    rows = [f"2020-01-{n % 28 + 1:02},{n % 7}\n" for n in range(30)]
    (tmp_path / "a.csv").write_text("date,value\n" + "".join(rows))
    columns, _ = columns_for(Predicts.FUTURE, open_table(tmp_path / "a.csv"), {})
    assert (columns.group, columns.target) == ((), ("value",))


def test_a_table_of_one_machine_cannot_be_split(tmp_path):
    rows = [f"m1,{n},{n % 3},{'ab'[n % 2]}\n" for n in range(30)]
    (tmp_path / "a.csv").write_text("machine,t,x,state\n" + "".join(rows))
    with pytest.raises(DataError, match="has 1 of machine: too few to train and validate with"):
        labelled("classify", str(tmp_path / "a.csv"), label="state")


@pytest.mark.parametrize(
    ("labels", "rows", "found"),
    [(2, 9, True), (3, 9, False), (11, 55, True), (12, 55, False), (50, 400, True), (51, 400, False)],
)
def test_a_label_is_guessed_where_values_repeat(tmp_path, labels, rows, found):
    """At most a fifth of the rows, at most 50, but always two."""
    lines = [f"a text of some words number {n},c{n % labels}\n" for n in range(rows)]
    (tmp_path / "a.csv").write_text("text,kind\n" + "".join(lines))
    table = open_table(tmp_path / "a.csv")
    if found:
        assert columns_for(Predicts.LABEL, table, {"text": "text"})[0].label == "kind"
    else:
        with pytest.raises(DataError, match="label"):
            columns_for(Predicts.LABEL, table, {"text": "text"})


def test_subjects_with_a_number_in_each_row_are_held_out_together(tmp_path):
    rows = "".join(
        f"{subject},{day},{250 + subject * day % 17}.5\n" for subject in range(300, 318) for day in range(10)
    )
    (tmp_path / "a.csv").write_text("Subject,Days,Reaction\n" + rows)
    columns, notes = columns_for(Predicts.NUMBER, open_table(tmp_path / "a.csv"), {})
    assert (columns.target, columns.features, columns.group) == (("Reaction",), ("Days",), ())
    assert columns.split == ("Subject",) and any(
        "have different numbers" in note and "To forecast them, --task forecast --group Subject" in note
        for note in notes
    )


def test_columns_are_no_groups_where_nothing_would_be_left_to_read(tmp_path):
    random = np.random.default_rng(0)
    rows = "".join(
        f"{time},{dead},{age},{male}\n" for time, dead, age, male in random.integers(0, 9, (200, 4)) % [9, 2, 9, 2]
    )
    (tmp_path / "a.csv").write_text("time,death,age,male\n" + rows)
    columns, _ = columns_for(Predicts.NUMBER, open_table(tmp_path / "a.csv"), {})
    assert columns.target == ("male",) and {"death", "age"} <= {*columns.features}


def test_amounts_that_are_called_labels_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("x,z,label\n" + "".join(f"{n}.5,{n}.25,{n / 7}\n" for n in range(1, 60)))
    with pytest.raises(
        DataError, match="'label' has amounts, not labels; name one with --label, or predict it with --task regress"
    ):
        columns_for(Predicts.LABEL, open_table(tmp_path / "a.csv"), {})


@pytest.mark.parametrize(("rows", "labels"), [(30, 20), (30, 21), (60, 30), (60, 31)])
def test_whole_numbers_are_labels_where_there_are_few(tmp_path, rows, labels):
    """At most twenty, or half as many as there are rows."""
    lines = [f"some words {n},{n % labels}" for n in range(rows)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *lines]))
    table = open_table(str(tmp_path / "a.csv"))
    if labels in (20, 30):
        assert columns_for(Predicts.LABEL, table, {})[0].label == "label"
    else:
        with pytest.raises(DataError, match="'label' has amounts, not labels"):
            columns_for(Predicts.LABEL, table, {})


def test_dates_are_the_times_where_their_month_is_a_column_too(tmp_path):
    """As the weather of nycflights13: origin, year, month, day, hour, …, time_hour."""
    rows = [
        f"{origin},2013,{1 + day // 20},{1 + day % 20},{hour},{origin[0] == 'E'}{day % 9}.{hour},"
        f"2013-{1 + day // 20:02}-{1 + day % 20:02}T{hour:02}:00:00Z\n".replace("True", "1").replace("False", "2")
        for origin in ("EWR", "JFK")
        for day in range(25)
        for hour in range(0, 24, 6)
    ]
    (tmp_path / "a.csv").write_text("origin,year,month,day,hour,temp,time_hour\n" + "".join(rows))
    columns, _ = columns_for(Predicts.FUTURE, open_table(tmp_path / "a.csv"), {"target": "temp"})
    assert (columns.time, columns.group) == ("time_hour", ("origin",))


def test_a_year_is_the_time_where_dates_say_something_else(tmp_path):
    rows = "".join(f"{c},{2000 + t},{t * 3 % 7},19{50 + k}-01-01\n" for k, c in enumerate("abc") for t in range(12))
    (tmp_path / "a.csv").write_text("country,year,sales,joined\n" + rows)
    columns, _ = columns_for(Predicts.FUTURE, open_table(tmp_path / "a.csv"), {"target": "sales"})
    assert (columns.time, columns.group) == ("year", ("country",))


def test_a_year_is_not_guessed_to_be_the_number_to_predict(tmp_path):
    rows = "".join(f"{k * 7 % 13}.5,{k % 3},{1931 + k % 2}\n" for k in range(30))
    (tmp_path / "a.csv").write_text("yield,site,year\n" + rows)
    columns, _ = columns_for(Predicts.NUMBER, open_table(tmp_path / "a.csv"), {})
    assert columns.target == ("site",) and set(columns.features) == {"yield", "year"}


def test_rows_of_a_machine_with_most_rows_are_trained_on(tmp_path):
    """Engines of planes: held out together, a type with five rows in six would leave nothing to train on."""
    rows = "".join(
        f"{'jet' if k % 6 else f'prop {k % 4}'},{k % 9},{k * 5 % 11},{'ab'[k % 7 > 2]}\n" for k in range(240)
    )
    (tmp_path / "a.csv").write_text("engine,seats,speed,kind\n" + rows)
    for seed in range(4):
        task = labelled("classify", str(tmp_path / "a.csv"), label="kind", seed=seed)
        assert task.reader.columns.split == ("engine",)
        assert len(task.training[0]) >= 200 and len(task.validation[0]) in (20, 40)


def test_taxes_that_are_called_t_put_nothing_in_order(tmp_path):
    """As Klein's table of the USA."""
    rows = "".join(f"{1920 + k},{40 + k}.8,{3 + (k * 7) % 11}.{k % 10}\n" for k in range(22))
    (tmp_path / "a.csv").write_text("Year,C,T\n" + rows)
    columns, _ = columns_for(Predicts.FUTURE, open_table(tmp_path / "a.csv"), {})
    assert columns.time == "Year" and columns.target == ("C", "T")
    for times in ([k / 10 for k in range(22)], [f"2024-01-{k + 1:02}" for k in range(22)]):
        (tmp_path / "b.csv").write_text("t,C\n" + "".join(f"{one},{k * 7 % 11}\n" for k, one in enumerate(times)))
        columns, _ = columns_for(Predicts.FUTURE, open_table(tmp_path / "b.csv"), {})
        assert columns.time == "t"


@pytest.mark.parametrize("name", ["label", "is_anomaly"])
def test_flags_of_steps_are_not_forecast(tmp_path, name):
    """As the sets of sktime and aeon for change points and anomalies have them."""
    (tmp_path / "a.csv").write_text(f"data,{name}\n" + "".join(f"{k * 7 % 23},{int(k == 9)}\n" for k in range(40)))
    table = open_table(tmp_path / "a.csv")
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert columns.target == ("data",) and unused(table, columns) == [
        f"not read: '{name}' (--features names the columns to read)."
    ]
    (tmp_path / "b.csv").write_text("class\n" + "".join(f"{k % 2}\n" for k in range(40)))
    columns, _ = columns_for(Predicts.FUTURE, open_table(tmp_path / "b.csv"), {})
    assert columns.target == ("class",)
