"""Series of the archives of UCR, UEA and Monash, and sheets of Excel, as they are published."""

import json

import pytest

from retrograde.data.columns import columns_for
from retrograde.data.formats import open_table
from retrograde.data.roles import Predicts
from retrograde.data.sequences import sequences
from retrograde.data.series import read_series
from retrograde.errors import DataError
from retrograde.options import Options
from retrograde.tasks.forecast import ForecastTask
from retrograde.tasks.registry import task_class


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


TS = """# a remark
@problemName Two
@timeStamps false
@missing true
@univariate {univariate}
@equalLength false
@classLabel true up down
@data
{rows}
"""


def records(path, task="classify", **given):
    table = open_table(path)
    columns, _ = columns_for(task_class(task).PREDICTS, table, given)
    return columns, list(sequences(table, columns, False))


def test_ts_of_one_channel(write):
    columns, found = records(write("a.ts", TS.format(univariate="true", rows="1,2,3:up\n4,?,6,7:down\n")))
    assert (columns.label, columns.features) == ("label", ("series",))
    assert [one.label for one in found] == ["up", "down"]
    assert found[0].values[:, 0].tolist() == [1, 2, 3]
    assert str(found[1].values[:, 0].tolist()) == "[4.0, nan, 6.0, 7.0]"


def test_ts_of_several_channels(write):
    path = write("a.ts", TS.format(univariate="false", rows="1,2,3:4,5,6:up\n7,8:9,10:down\n"))
    assert open_table(path).names == ["channel_1", "channel_2", "label"]
    columns, found = records(path)
    assert columns.features == ("channel_1", "channel_2")  # all channels, without being told
    assert found[0].values.tolist() == [[1, 4], [2, 5], [3, 6]] and found[1].values.shape == (2, 2)


def test_ts_with_time_stamps_and_with_a_number_for_a_target(write):
    text = "@timeStamps true\n@targetLabel true\n@data\n(2020-01-01 00:00:00,1.5),(2020-01-02 00:00:00,2.5):0.7\n"
    assert open_table(write("a.ts", text)).sample() == {"series": [[1.5, 2.5]], "label": [0.7]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,2:up\n1,2\n", "line 10 has 1 parts, those above it have 2"),
        ("1,x:up\n", "line 9: 'x' is not a number"),
        ("", "has no rows"),
    ],
)
def test_ts_that_is_wrong(write, rows, message):
    with pytest.raises(DataError, match=message):
        open_table(write("a.ts", TS.format(univariate="true", rows=rows)))


def test_arff(write):
    text = (
        "% remark\n@relation r\n@attribute att0 numeric\n@attribute 'att 1' REAL\n@attribute target {'a b',c}\n@data\n"
    )
    columns, found = records(write("a.arff", text + "1.5,2,'a b'\n?,3,c\n\n% more\n4,5,c\n"))
    assert columns.label == "target" and columns.features == ("att0", "att 1")
    assert [one.label for one in found] == ["a b", "c", "c"]
    assert str(found[1].values[:, 0].tolist()) == "[nan, 3.0]"
    with pytest.raises(DataError, match="line 7 has 2 cells; 3 are named above @data"):
        open_table(write("a.arff", text + "1,2\n"))


def test_arff_of_openml_and_weka(write):
    """Quotes within quotes, marks of Weka, tabs, upper case and names with braces, as files of OpenML have them."""
    text = (
        "@RELATION r\n@ATTRIBUTE\tage\tREAL\n@Attribute 'o\\'clock' string\n"
        "@attribute class{yes,'no way'}\n@DATA\n"
        "1,\"Ellen 'Nellie', Miss\",yes\n2,'it\\'s\\ttrue','no way'\n?, O'Hara ,yes\n"
    )
    assert open_table(write("a.arff", text)).sample() == {
        "age": [1, 2, None],
        "o'clock": ["Ellen 'Nellie', Miss", "it's\ttrue", "O'Hara"],
        "class": ["yes", "no way", "yes"],
    }
    with pytest.raises(DataError, match='line 6: "\'a,yes" opens a quote that does not end its cell'):
        open_table(write("a.arff", text.partition("1,")[0] + "1,'a,yes\n"))


def test_arff_that_is_sparse(write):
    text = "@attribute y {1,'-1'}\n@attribute a numeric\n@attribute b integer\n@attribute n string\n@data\n"
    rows = "{0 -1, 2 3, 3 'a, b'}\n{3 c}\n{1 ?,3 d}\n"
    assert open_table(write("a.arff", text + rows)).sample() == {
        "y": ["-1", "1", "1"], "a": [0, 0, None], "b": [3, 0, 0], "n": ["a, b", "c", "d"]
    }  # fmt: skip
    for row, message in (
        ("{0 1}", "line 6: attribute 3 is text and has no cell in this sparse row"),
        ("{4 1}", r"line 6: '4 1' has no number of an attribute, from 0 to 3"),
        ("{3 c", "line 6: a sparse row ends with }"),
    ):
        with pytest.raises(DataError, match=message):
            open_table(write("a.arff", text + row))


def test_arff_with_a_long_series(write):
    """Of 64 channels and 3,000 steps a row has a million characters in one pair of quotes."""
    series = ",".join(map(str, range(30_000)))
    assert len(series) > 131_072  # the most that Python's csv reads
    head = "@relation r\n@attribute bag relational\n@attribute t0 numeric\n@end bag\n@attribute class {x,y}\n@data\n"
    found = open_table(write("a.arff", head + f"'{series}\\n{series}',x\n")).sample()
    assert found["bag_1"] == found["bag_2"] == [list(range(30_000))] and found["class"] == ["x"]


def test_arff_with_several_channels(write):
    head = "@relation r\n@attribute bag relational\n@attribute t0 numeric\n@attribute t1 numeric\n@end bag\n"
    text = head + "@attribute class {x,y}\n@data\n'1,2\\n3,4',x\n'5,6\\n7,8',y\n"
    assert open_table(write("a.arff", text)).sample() == {
        "bag_1": [[1, 2], [5, 6]], "bag_2": [[3, 4], [7, 8]], "class": ["x", "y"]
    }  # fmt: skip


def test_tsf(write):
    text = (
        "# remark\n@relation test\n@attribute series_name string\n@attribute start_timestamp date\n@frequency hourly\n"
        "@horizon 24\n@missing true\n@equallength false\n@data\n"
        + "".join(f"T{k}:2020-01-01 00-00-00:{','.join(str((n + k) % 24) for n in range(200 + k))}\n" for k in range(3))
    )
    path = write("a.tsf", text)
    table = open_table(path)
    assert table.names == ["series_name", "start_timestamp", "target"] and table.frequency == "1h"
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert (columns.layout, columns.group, columns.target) == ("wide", ("series_name",), ("target",))
    found = read_series(table, columns)
    assert found.names == [("T0",), ("T1",), ("T2",)] and found.numbers.lengths.tolist() == [200, 201, 202]
    task = ForecastTask(str(path), Options.of({"task": "forecast", "hidden_size": 4, "cell": "rnn"}))
    assert task.plan.season == 24 and task.plan.horizon == 24
    assert ForecastTask(str(path), Options.of({"task": "forecast", "horizon": 5})).plan.horizon == 5
    assert task.baselines()["seasonal naive"]["mae"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(DataError, match="line 10 has 2 parts; 3 are named above @data"):
        open_table(write("a.tsf", text.replace("T0:2020-01-01 00-00-00:", "T0:")))


def test_conll_whose_first_sentence_is_one_token(write):
    found = open_table(write("a.conll", "Joe B-PER\n\nleft O\nhome O\n")).sample()
    assert json.dumps(found) == json.dumps({"tokens": [["Joe"], ["left", "home"]], "tags": [["B-PER"], ["O", "O"]]})


@pytest.mark.parametrize(
    ("words", "freq"),
    [("10_minutes", "10min"), ("4_seconds", "4s"), ("Half_Hourly", "30min"), ("weekly", "1w"), ("fortnightly", "")],
)
def test_the_frequency_of_a_tsf(write, words, freq):
    table = open_table(write("a.tsf", f"@attribute n string\n@frequency {words}\n@horizon 6\n@data\na:1,2\n"))
    assert (table.frequency, table.horizon) == (freq, 6)
    assert [note[:35] for note in table.notes] == ([] if freq else ["@frequency 'fortnightly' is not kno"])
