"""Files as users have them, read as tables: what is guessed, what becomes of rows, and what is said of broken ones."""

import gc
import gzip
import json
import warnings

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrograde.data.columns import columns_for
from retrograde.data.formats import fingerprint, open_table
from retrograde.data.roles import Columns, Predicts
from retrograde.data.sequences import sequences
from retrograde.data.series import read_series
from retrograde.data.text import read_text
from retrograde.errors import DataError, OptionError
from retrograde.options import Options
from retrograde.tasks.forecast import ForecastTask
from retrograde.tasks.registry import task_class


@pytest.fixture
def write(tmp_path):
    def write(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


def read(path, task="classify", **given_columns):
    table = open_table(path, given_columns.pop("encoding", "utf-8"))
    columns, _ = columns_for(task_class(task).PREDICTS, table, given_columns)
    if task == "forecast":
        found = read_series(table, columns)
        return columns, [(name, found.numbers[place]) for place, name in enumerate(found.names)]
    return columns, list(sequences(table, columns, task == "tag"))


TEXTS = 'text,label\nhello,1\n"two\nlines, quoted",01\n"",NA\n'


@pytest.mark.parametrize("packed", [False, True])
def test_csv_keeps_cells_as_they_are(write, packed):
    path = write("a.csv.gz", gzip.compress(TEXTS.encode())) if packed else write("a.csv", TEXTS)
    columns, records = read(path)
    assert columns == Columns(text="text", label="label")
    assert [(r.tokens, r.label) for r in records] == [("hello", "1"), ("two\nlines, quoted", "01"), ("", "NA")]


def test_the_same_table_in_every_format(write, tmp_path):
    rows = [{"text": "one two", "label": 3}, {"text": "three", "label": 4}]
    paths = [
        write("a.csv", "text,label\none two,3\nthree,4\n"),
        write("b.csv", "text;label\none two;3\nthree;4\n"),
        write("c.tsv", "text\tlabel\r\none two\t3\r\nthree\t4\r\n"),
        write("d.jsonl", "\n".join(map(json.dumps, rows))),
        write("e.json", json.dumps(rows, indent=1)),
        write("f.csv", b"\xef\xbb\xbftext,label\none two,3\nthree,4\n"),
        write("g.csv", "text,label\none two,3\nthree,4\n", "utf-16"),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "h.parquet")
    for path in [*paths, tmp_path / "h.parquet"]:
        _, records = read(path, encoding="utf-16" if path.name == "g.csv" else "utf-8")
        assert [(r.rows, r.tokens, r.label) for r in records] == [([0], "one two", "3"), ([1], "three", "4")], path


def test_folder_of_texts(tmp_path):
    for label in ("neg", "pos"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_text(f"this is {label}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "1.txt").write_text("no")
    _, records = read(tmp_path)
    assert [(r.tokens, r.label) for r in records] == [("this is neg", "neg"), ("this is pos", "pos")]


def test_arrays_with_lengths(tmp_path):
    x = np.arange(30, dtype=float).reshape(2, 5, 3)
    np.savez(tmp_path / "a.npz", x=x, y=[7, 8], lengths=[5, 2])
    columns, records = read(tmp_path / "a.npz")
    assert columns == Columns(label="y", features=("x",))
    assert [r.values.shape for r in records] == [(5, 3), (2, 3)]
    assert [r.label for r in records] == ["7", "8"]
    np.save(tmp_path / "b.npy", x[0])
    columns, ((_, one),) = read(tmp_path / "b.npy", "forecast")
    assert columns.target == ("values_0", "values_1", "values_2")
    np.testing.assert_array_equal(one, x[0])


def test_long_tables_are_grouped_and_put_in_time(write):
    path = write("a.csv", "series,t,x,y,label\nb,2,1,2,A\nc,1,5,6,B\nb,10,7,,A\nb,1,3,4,A\n")
    columns, records = read(path)
    assert (columns.group, columns.time, columns.features) == (("series",), "t", ("x", "y"))
    first, second = records
    assert list(first.rows) == [3, 0, 2]  # by number, not by text: 1, 2, 10
    np.testing.assert_array_equal(first.values, [[3, 4], [1, 2], [7, np.nan]])
    assert (first.label, second.label, list(second.rows)) == ("A", "B", [1])


def test_tags_from_groups_and_from_lists(write):
    want = [(["Joe", "Smith"], ["B-PER", "I-PER"]), (["left"], ["O"])]
    paths = [
        write("a.csv", "Sentence #,Word,Tag\n1,Joe,B-PER\n,Smith,I-PER\n2,left,O\n"),
        write("b.jsonl", '{"tokens":["Joe","Smith"],"tags":["B-PER","I-PER"]}\n{"tokens":["left"],"tags":["O"]}\n'),
    ]
    for path in paths:
        _, records = read(path, "tag")
        assert [(r.tokens, r.label) for r in records] == want


def test_a_row_that_is_a_sequence(write):
    columns, records = read(write("a.csv", "class,p1,p2,p3,id\nA,1,2,,7\nB,3,,5,8\n"))
    assert columns.features == ("p1", "p2", "p3")  # id only counts rows
    np.testing.assert_array_equal(records[0].values, [[1], [2]])  # empty at the end: shorter
    np.testing.assert_array_equal(records[1].values, [[3], [np.nan], [5]])


def test_series_by_date_and_group(write):
    columns, ((_, one),) = read(write("a.csv", "date,value\n2020-01-02,2\n2020-01-01,1\n2020-01-03,\n"), "forecast")
    assert (columns.time, columns.target) == ("date", ("value",))
    np.testing.assert_array_equal(one[:, 0], [1, 2, np.nan])
    columns, found = read(write("b.csv", "unique_id,ds,y,temp\na,1,1,9\nb,2,4,9\na,2,2,9\nb,1,3,9\n"), "forecast")
    assert (columns.group, columns.time, columns.target, columns.features) == (("unique_id",), "ds", ("y",), ())
    assert [(name, one[:, 0].tolist()) for name, one in found] == [(("a",), [1, 2]), (("b",), [3, 4])]
    columns, _ = read(tmp := write("c.csv", "a,b,c\n1,2,3\n4,5,6\n"), "forecast", target="a,b")
    assert columns.target == ("a", "b")
    assert read(tmp, "forecast", target="*", features=())[0].target == ("a", "b", "c")


def test_guesses_are_told_and_flags_go_before_them(write):
    path = write("a.csv", "title,text,stars,label\nt1,long text,5,x\nt2,more text,4,y\n")
    table = open_table(path)
    columns, notes = columns_for(Predicts.LABEL, table, {})
    assert columns == Columns(text="text", label="label")
    assert notes == ["label: 'label' (a guess; --label names another)", "text: 'text' (a guess; --text names another)"]
    columns, notes = columns_for(Predicts.LABEL, table, {"text": "title", "label": "stars"})
    assert (columns, notes) == (Columns(text="title", label="stars"), [])
    with pytest.raises(OptionError, match="no such column; there are 'title', 'text', 'stars', 'label'"):
        columns_for(Predicts.LABEL, table, {"text": "body"})


def test_a_pattern_leaves_out_columns_with_another_role(write):
    content = "series,t,x,y,label\n" + "".join(f"{n // 3},{n % 3},{n},{n},{'AB'[n // 6]}\n" for n in range(12))
    columns, _ = read(path := write("a.csv", content), features="*")
    assert columns == Columns(group=("series",), time="t", features=("x", "y"), label="label")
    columns, _ = read(path, "forecast", target="*", group="series", features="y")
    assert (columns.time, columns.target, columns.features) == ("t", ("x",), ("y",))
    with pytest.raises(OptionError, match=r"column 'x' of .* has two roles"):
        read(path, features="x,y", label="x")
    with pytest.raises(OptionError, match="names only columns that have another role"):
        read(path, features="l*", label="label")


def test_prediction_needs_no_label(write):
    table = open_table(write("a.csv", "text\nhello\nyou\n"))
    with pytest.raises(DataError, match="no column looks like a label; name one with --label"):
        columns_for(Predicts.LABEL, table, {})
    assert columns_for(Predicts.LABEL, table, {}, labelled=False)[0] == Columns(text="text")


def test_builtins():
    _, digits = read("builtin:digits")
    assert len(digits) == 1797
    assert digits[0].values.shape == (64, 1)
    assert {r.label for r in digits} == set("0123456789")
    _, ((_, eeg),) = read("builtin:eeg", "forecast")
    assert eeg.shape == (800, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv is empty"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", "a,a,label\n1,2,3\n", "two columns 'a'"),
        ("a.csv", "text,label\na,b,c\n", "first row has 3 fields, the header has 2"),
        ("a.csv", "text,label\na,b\na,b,c\n", "line 3 has 3 fields, the header has 2"),
        ("a.csv", b"text,label\na\0,b\n", "binary, not text: a NUL at byte offset 12"),
        ("a.csv", "text,label\nкофе,b\n".encode("cp1251"), "byte 0xea at offset 11 .*--encoding"),
        ("a.csv", b"text,label\na,caf\xc3", "byte 0xc3 at offset 16 .*--encoding"),
        ("a.jsonl", '{"text":"a","label":1}\n{"text":"b", broken\n', "line 2 is not JSON"),
        ("a.jsonl", "[1,2]\n[3]\n", "line 1 is not a JSON object"),
        ("a.parquet", b"PAR1junk", "cannot be read"),
        ("a.csv.gz", gzip.compress(TEXTS.encode(), mtime=0)[:30], "damaged gzip file"),
        ("a.npy", b"\x93NUMPYjunk", "cannot be read"),
        ("a.npz", b"PKjunk", "never loaded"),
        ("a.csv", 'text,label\na,b\n"c,d\na,b\n', r'row 2 opens a quote \("\) that is never closed'),
        ("a.csv", "1.5,2,2\n3,4,5\n", "first line holds numbers, 1.5, 2, 2: put one before it"),
        ("a.csv.zip", b"x", r"\.zip is not read; unpack it, and name a file in it"),
        ("a.xls", b"x", r"\.xls is not read; open it and save it as \.xlsx or \.csv"),
        ("a.docx", b"x", r"\.docx is not read; save it as one of \.csv"),
        ("a.conll", "-DOCSTART- O\n\n", "has no rows"),
        ("a.conll", "a O\nb c O\n", "line 2 has 3 columns, those above it have 2"),
    ],
)
def test_broken_files(write, name, content, message):
    with pytest.raises(DataError, match=message):
        read(write(name, content))


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("forecast", "date,value\n2020-01-02,2\n2020-01-03,x\n", "row 2, column 'value': 'x' is not a number"),
        ("forecast", "date,value\n2020-01-02,2\n2020-01-02,1\n", "row 2, column 'date': time '2020-01-02' comes twice"),
        ("forecast", "a,b\nx,y\n", "no column of numbers"),
        ("classify", "group,x,label\na,1,A\na,2,B\n", "row 2: group 'a' has two labels, 'A' and 'B'"),
        ("tag", "text,tag\nhello you,A\n", "row 1, column 'tag': a label for each step is needed"),
    ],
)
def test_cells_that_are_wrong_are_named(write, task, content, message):
    with pytest.raises(DataError, match=message):
        read(write("a.csv", content), task, **({"target": "value"} if "value" in content else {}))


def test_tags_that_do_not_fit_their_tokens(write):
    with pytest.raises(DataError, match="row 1: 2 steps, but 1 labels in column 'tags'"):
        read(write("a.jsonl", '{"tokens":["a","b"],"tags":["B"]}\n'), "tag")


def test_no_pickle_is_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{1: 2}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="never loaded"):
        open_table(tmp_path / "a.npy")


cell = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(cell, cell), min_size=2, max_size=8))
def test_any_text_survives_csv_and_json(tmp_path_factory, rows):
    import csv
    import io

    folder = tmp_path_factory.mktemp("any")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([("text", "label"), *rows])
    (folder / "a.csv").write_bytes(buffer.getvalue().encode())
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n", newline="\n")
    for name in ("a.csv", "a.jsonl"):
        records = list(sequences(open_table(folder / name), Columns(text="text", label="label"), False))
        assert [r.tokens for r in records] == [text for text, _ in rows]
        assert [r.label or "" for r in records] == [label.strip() for _, label in rows]


def test_a_matrix_beside_times_is_one_series(tmp_path):
    values = np.arange(60.0).reshape(20, 3)
    np.savez(tmp_path / "a.npz", data=values, time=np.datetime64("2024-01-01") + np.arange(20))
    table = open_table(tmp_path / "a.npz")
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    found = read_series(table, columns)
    assert (columns.layout, columns.time, columns.target) == ("long", "time", ("data_0", "data_1", "data_2"))
    assert len(found) == 1 and np.array_equal(found.numbers[0], values)
    assert columns_for(Predicts.FUTURE, table, {"target": "data"})[0].target == columns.target
    np.savez(tmp_path / "b.npz", data=values, y=np.arange(20) % 2)  # beside labels each row is a sequence
    assert open_table(tmp_path / "b.npz").names == ["data", "y"]


def test_complex_numbers_are_refused(tmp_path):
    np.save(tmp_path / "c.npy", np.ones((20, 2)) * 1j)
    with pytest.raises(DataError, match="complex"):
        open_table(tmp_path / "c.npy")


def test_truths_and_the_index_of_pandas_are_no_guesses(tmp_path):
    table = pyarrow.table(
        {"f": [True, False] * 10, "n": range(20), "label": ["a", "b"] * 10, "__index_level_0__": [0, 1] * 10}
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    columns, _ = columns_for(Predicts.LABEL, open_table(tmp_path / "t.parquet"), {})
    assert (columns.label, columns.features) == ("label", ("n",))


DAILY = "".join(f"2020-01-{day:02},{day},{day * day}\n" for day in range(1, 29))


def test_a_cell_that_spoils_a_column_is_named(write):
    """One cell does not make a column of times or numbers one of words that nobody looks at."""
    spoilt = [
        (
            DAILY.replace("2020-01-07", "soon"),
            "row 7, column 'day': 'soon' is not a time, as the other cells are; fix it",
        ),
        (DAILY.replace("2020-01-03,3", "2020-01-03,three"), "row 3, column 'value': 'three' is not a number"),
        (DAILY.replace("2020-01-07", "07.01.2020"), r"'07\.01\.2020' is not written as the other times are; fix it"),
    ]
    for rows, message in spoilt:
        path = write("a.csv", "day,value,more\n" + rows)
        with pytest.raises(DataError, match=message):
            read(path, "forecast")
    # Named by flag, the column is what it is said to be.
    with pytest.raises(DataError, match="row 7, column 'day': 'soon' is not a time"):
        read(write("a.csv", "day,value,more\n" + spoilt[0][0]), "forecast", time="day")
    path = write("c.csv", "day,value,more\n" + spoilt[1][0])
    columns, ((_, one),) = read(path, "forecast", target="more")
    assert (columns.target, len(one)) == (("more",), 28)
    wide = "id,v1,v2,v3,v4,v5,v6\n" + "a,1,2,3,4,5,6\n" * 8 + "b,1,2,x,4,5,6\n"
    with pytest.raises(DataError, match="row 9, column 'v3': 'x' is not a number"):
        read(write("b.csv", wide), "forecast", layout="wide")


def test_a_feature_that_is_left_out_for_a_cell_is_named(write):
    path = write("a.csv", "x1,x2,label\n" + "1,2,a\n2,1,b\n" * 9 + "oops,2,a\n")
    columns, notes = columns_for(Predicts.LABEL, open_table(path), {})
    assert columns.features == ("x2",)
    said = "row 19, column 'x1': 'oops' is not a number, as the other cells are: the column is left out"
    assert any(note.startswith(said) for note in notes)
    with pytest.raises(DataError, match="row 19, column 'x1': 'oops' is not a number"):
        read(path, features="x1,x2")
    _, notes = columns_for(Predicts.LABEL, open_table(write("b.csv", "x,y,label\n" + "1,red,a\n2,blue,b\n" * 9)), {})
    assert not any("left out" in note for note in notes)


def test_what_datasets_saved(tmp_path):
    """Folders and Arrow files of Hugging Face datasets, classes by their names."""
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"])),
        }
    )
    rows = {"tokens": [["Joe", "Smith"], ["left"]], "ner_tags": [[1, 2], [0]]}
    one = datasets.Dataset.from_dict(rows, features=features)
    datasets.disable_progress_bars()
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "both")
    one.to_parquet(tmp_path / "a.parquet")
    (arrow,) = (tmp_path / "one").glob("*.arrow")
    for path in (tmp_path / "one", tmp_path / "both", tmp_path / "both" / "test", tmp_path / "a.parquet", arrow):
        _, records = read(path, "tag")
        assert [(r.tokens, r.label) for r in records] == [
            (["Joe", "Smith"], ["B-PER", "I-PER"]),
            (["left"], ["O"]),
        ]
    assert "of the splits of" in open_table(tmp_path / "both").notes[0]
    assert fingerprint(str(tmp_path / "one")) == fingerprint(str(tmp_path / "both" / "train"))
    assert fingerprint(str(tmp_path / "one")) != fingerprint(str(tmp_path / "both"))
    with pytest.raises(DataError, match="is a table"):
        read_text(tmp_path / "one")
    (tmp_path / "both" / "train").rename(tmp_path / "both" / "dev")
    with pytest.raises(DataError, match="holds the splits dev, test: name the folder of one"):
        open_table(tmp_path / "both")


def test_conll(write):
    content = "-DOCSTART- -X- -X- O\n\nJoe NNP B-NP B-PER\nSmith NNP I-NP I-PER\n\n\nleft VBD B-VP O"
    path = write("a.conll", content)
    _, records = read(path, "tag")
    assert [(r.tokens, r.label) for r in records] == [(["Joe", "Smith"], ["B-PER", "I-PER"]), (["left"], ["O"])]
    assert read(path, "tag", label="column 2")[1][0].label == ["NNP", "NNP"]
    assert open_table(write("b.conll", "New York\tB\nis\tO\n")).sample() == {
        "tokens": [["New York", "is"]],
        "tags": [["B", "O"]],
    }


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 3, 2, 2)), "y": np.arange(4)}, r"array 'x' has 4 dimensions, \(4, 3, 2, 2\)"),
        ({"x": np.zeros((2, 5)), "lengths": [5, -1]}, "'lengths' has -1 in row 2; the rows have 5 steps"),
        ({"x": np.zeros((2, 5)), "lengths": [6, 5]}, "'lengths' has 6 in row 1"),
        ({"x": np.zeros((2, 5)), "lengths": [1.5, 5]}, "'lengths' has 1.5 in row 1"),
        ({"x": np.arange("2004-01-01", "2004-02-01", dtype="M8[D]")}, "holds times and nothing else"),
    ],
)
def test_arrays_that_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_table(tmp_path / "a.npz")


def test_a_broken_archive_is_closed(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="cannot be read"):
            open_table(write("a.npz", b"PK\x03\x04junk"))
        gc.collect()


def test_a_folder_without_texts_says_what_it_holds(tmp_path):
    with pytest.raises(DataError, match=r"no text files \(\.txt\), nothing"):
        open_table(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"no text files \(\.txt\), only a\.png"):
        open_table(tmp_path)
    (tmp_path / "b.txt").touch()
    with pytest.raises(DataError, match=r"no text: only empty ones \(b\.txt\)\. 1 binary file of .* left out: a\.png"):
        read_text(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_remarks_above_a_table_are_passed_over(write, packed):
    text = "# Data source: somebody\n# in a few words, of two columns\nday;value\n2020-01-01;1\n2020-01-02;2\n"
    path = write("a.csv.gz", gzip.compress(text.encode())) if packed else write("a.csv", text)
    columns, ((_, one),) = read(path, "forecast")
    assert (columns.time, columns.target, one[:, 0].tolist()) == ("day", ("value",), [1, 2])
    assert open_table(write("b.csv", "#id,text,label\n1,a,b\n")).names == ["#id", "text", "label"]


def test_records_of_numpy_are_columns(tmp_path):
    kind = [("date", "M8[D]"), ("close", "f8"), ("volume", "i8")]
    records = np.array([(np.datetime64("2004-03-01") + day, day / 2, day) for day in range(30)], dtype=kind)
    np.savez(tmp_path / "a.npz", price_data=records)
    np.save(tmp_path / "b.npy", records)
    for name in ("a.npz", "b.npy"):
        columns, ((_, one),) = read(tmp_path / name, "forecast")
        assert (columns.time, columns.target) == ("date", ("close",))
        np.testing.assert_array_equal(one[:, 0], records["close"])


def test_rows_of_several_series_are_not_mixed_unsaid(write):
    months = [f"{2020 + n // 12}{n % 12 + 1:02}" for n in range(24)]
    long = "store,when,sales\n" + "".join(f"{store},{month},{n}\n" for store in "ab" for n, month in enumerate(months))
    columns, found = read(write("a.csv", long), "forecast")
    assert (columns.group, columns.time, columns.target) == (("store",), "when", ("sales",))
    assert [len(one) for _, one in found] == [24, 24]
    _, notes = columns_for(
        Predicts.FUTURE, open_table(write("b.csv", long.replace("when", "w").replace(",202", ",x"))), {}
    )
    assert "all rows are read as one series; if 'store', 'w' tell series apart, name the --group." in notes


def test_years_and_months_in_two_columns(write):
    rows = "".join(f"{2020 + n // 12},{n % 12 + 1},{n}\n" for n in range(36))
    path = write("a.csv", "year,month,sales\n" + rows)
    columns, ((_, one),) = read(path, "forecast")
    assert (columns.group, columns.time, columns.target, len(one)) == ((), None, ("sales",), 36)
    _, notes = columns_for(Predicts.FUTURE, open_table(path), {})
    assert any(note.startswith("times are spread over 'year', 'month': rows are read in the order") for note in notes)


def test_years_and_quarters_are_no_groups_and_tell_the_season(write):
    for unit, season in (("quarter", 4), ("month", 12)):
        rows = "".join(f"{2000 + n // season},{n % season + 1},{n % season}\n" for n in range(10 * season))
        path = str(write("a.csv", f"Year,{unit},sales\n" + rows))
        columns, ((_, one),) = read(path, "forecast")
        assert (columns.group, columns.time, columns.target, len(one)) == ((), None, ("sales",), 10 * season)
        task = ForecastTask(path, Options.of({"task": "forecast", "hidden_size": 4}))
        assert task.plan.season == season and task.baselines()["seasonal naive"]["mase"] == pytest.approx(0, abs=1e-6)


def test_times_and_numbers_that_are_not_understood(write):
    with pytest.raises(DataError, match="row 29, column 'day': '2020-02-30' is not written as the other times are"):
        read(write("a.csv", "day,value,more\n" + DAILY + "2020-02-30,1,1\n"), "forecast")
    weeks = "date,value\n" + "".join(f"week {week} of 2020,{week}\n" for week in range(1, 30))
    _, notes = columns_for(Predicts.FUTURE, open_table(write("b.csv", weeks)), {})
    assert any(note.startswith("column 'date' puts nothing in order: 'week 1 of 2020' is not a time") for note in notes)
    short = "date,value\n2020-01-01,3\n2020-02-30,4\n2020-03-01,5\n"  # too few rows to tell a slip: said, not refused
    _, notes = columns_for(Predicts.FUTURE, open_table(write("d.csv", short)), {})
    assert any(note.startswith("column 'date' puts nothing in order: '2020-02-30' is not a time") for note in notes)
    kroner = "date,value\n" + "".join(f"2020-01-{day:02},{day} kr\n" for day in range(1, 29))
    with pytest.raises(DataError, match=r"no column of numbers to forecast; .* '1 kr' is not a number; write 1234\.5"):
        read(write("c.csv", kroner), "forecast")
    seconds = "ts,value\n" + "".join(f"{1600000000 - 60 * row},{row}\n" for row in range(30))
    assert read(write("d.csv", seconds), "forecast")[0].time == "ts"
