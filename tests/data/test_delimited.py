"""CSV as people have it: no header, stray carriage returns, short rows, quotes, decimal commas, mixed line ends."""

import gzip

import numpy as np
import pytest

from retrograde.data.columns import columns_for
from retrograde.data.formats import open_table
from retrograde.data.roles import Predicts
from retrograde.data.sequences import sequences
from retrograde.errors import DataError


@pytest.fixture
def table(tmp_path):
    def open_it(content, name="a.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return open_table(path, encoding)

    return open_it


@pytest.mark.parametrize(
    "rows",
    [
        ["5.1,3.5,setosa", "4.9,3.0,setosa", "6.2,2.9,virginica"],
        ["red,1.5", "blue,2.5", "green,3"],
        ["2020-01-01,5,red", "2020-01-02,6,blue", "2020-01-03,7,red"],
        ["0,5,red", "1,6,blue", "2,7,red"],
        ["the film was good,1,x", "so was this,0,y", "the plot,1,x"],
        ["pos,1,2,3", "neg,2,3,4", "pos,4,4,5"],  # ascending numbers, but a word that comes again
        ["good,a fine film", "good,so was this", "good,the plot"],  # no numbers, and a word that comes twice again
    ],
)
def test_a_first_line_of_data_is_a_row(table, rows):
    found = table("\n".join(rows) + "\n")
    width = rows[0].count(",") + 1
    assert len(found) == 3 and found.names == [f"column {place}" for place in range(1, width + 1)]
    assert [cells[0] for cells in found.sample().values()] == rows[0].split(",")
    assert any("has no header, its first line holds data" in note for note in found.notes)


@pytest.mark.parametrize(
    "head",
    [
        "text,label",
        "id,2001,2002,2003",
        "id,1/22/20,1/23/20,1/24/20",
        "x,y,2020-01,2020-02,2020-03",
        "a,v1,v2",
        "day,8",
    ],
)
def test_a_header_stays_one(table, head):
    row = ",".join("z" * (not n) or str(n * 10) for n in range(head.count(",") + 1))
    if head == "day,8":
        row = "monday,x"
    found = table(f"{head}\n{row}\n{row}\n")
    assert found.names == head.split(",") and len(found) == 2 and found.notes == []


@pytest.mark.parametrize("line", ["1,-0.78", "5.1,3.5,1.4,0.2", "-46.4"])
def test_a_first_line_of_measured_numbers_is_a_row(table, line):
    found = table(f"{line}\n" * 3)
    assert len(found) == 3 and found.names[0] == "column 1" and any("has no header" in note for note in found.notes)
    assert table("0.5,1.0,1.5\n" + "3,2,1\n" * 3).names == ["0.5", "1.0", "1.5"]  # wavelengths, say


@pytest.mark.parametrize("head", ["'a' 'b' 'c'", "-1.5 2 1"])
def test_numbers_with_spaces_between(table, head):
    found = table(f"{head}\n" + "1 2.66 -3e-2\n" * 40)
    assert len(found.names) == 3 and len(found) == 40 + head.startswith("-") and set(found.types.values()) == {"text"}
    assert any("columns are separated by ' '" in note for note in found.notes)
    assert table("text\n" + "1 2 3\n" * 5).names == ["text"] and table("a b c\n" + "x y z\n" * 5).names == ["a b c"]


def test_a_header_that_files_put_together_have_again_stays_one(table):
    assert table("text,label\ngood,a\ntext,label\nbad,b\ntext,label\n").names == ["text", "label"]


def test_carriage_returns_within_lines_split_no_row(table):
    rows = [f"a text\rover two lines {n},{'xy'[n % 2]}" for n in range(40)] + [f"a plain one {n},x" for n in range(40)]
    found = table("text,label\n" + "\n".join(rows) + "\n")
    assert len(found) == 80
    columns, _ = columns_for(Predicts.LABEL, found, {})
    records = list(sequences(found, columns, False))
    assert {record.label for record in records} == {"x", "y"} and all(record.tokens for record in records)
    assert records[3].tokens == "a text over two lines 3"
    assert "a.csv: 40 carriage returns within lines are read as spaces." in found.notes


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(table, ends):
    found = table(f"text,label{ends}a,x{ends}b,y{ends}")
    assert found.sample() == {"text": ["a", "b"], "label": ["x", "y"]} and found.notes == []


def test_mixed_line_ends(table):
    assert table("text,label\r\na,x\nb,y\r\nc,x").sample()["text"] == ["a", "b", "c"]


def test_short_rows_are_filled_up_and_open_quotes_found_in_spite_of_them(table):
    assert table("a,b,c\n1\n\"2\n3\",4\n5,6,7\n").sample() == {
        "a": ["1", "2\n3", "5"], "b": [None, "4", "6"], "c": [None, None, "7"]
    }  # fmt: skip
    with pytest.raises(DataError, match=r'row 3 opens a quote \("\) that is never closed'):
        table('a,b\n1\n2,3\n"4,5\n6,7\n')


def test_quotes_that_are_not_doubled(table):
    found = table('text,label\n"he said "no" to me",x\nplain,y\n')
    assert len(found) == 2 and found.sample()["label"] == ["x", "y"]
    assert any("are not doubled" in note for note in found.notes)


def test_blank_lines_hold_nothing_but_in_a_column_of_its_own_an_empty_cell(table):
    assert len(table("text,label\na,x\n\nb,y\n\n\n")) == 2
    assert table("y\n1\n\n3\n\n").sample() == {"y": ["1", None, "3"]}


def test_a_separator_that_the_name_of_the_file_does_not_state_is_said(table):
    note = "a.csv: columns are separated by '{}'.".format
    for content, name, notes in (
        ("text,label\na,x\n", "a.csv", []),
        ("text;label\na;x\n", "a.csv", [note(";")]),
        ("text\tlabel\na\tx\n", "a.csv", [note("\\t")]),
        ("text\tlabel\na\tx\n", "a.tsv", []),
        ("text,label\na,x\n", "a.tsv", []),
    ):
        assert table(content, name).notes == notes


def test_decimal_commas(table):
    found = table("day;value;count\n" + "".join(f"2020-01-{n:02};{n},5;{n}\n" for n in range(1, 29)))
    columns, _ = columns_for(Predicts.FUTURE, found, {})
    assert (columns.time, columns.target) == ("day", ("value",))
    (batch,) = found.batches(found.numbers(columns.target))
    assert found.matrix(batch, columns.target)[:, 0].tolist() == [n + 0.5 for n in range(1, 29)]
    assert "numbers of 'value' are read with a decimal comma." in found.notes
    thousands = table("day;value\n" + "".join(f"2020-01-{n:02};{n},500\n" for n in range(1, 29)))
    with pytest.raises(DataError, match=r"no column of numbers to forecast.*'1,500' is not a number; write 1234\.5"):
        columns_for(Predicts.FUTURE, thousands, {})


def test_a_bad_cell_is_named_wherever_it_is(table):
    found = table("x,label\n" + "1.5,a\n" * 5_000 + "1.5.2,b\n" + "2,a\n")
    columns, _ = columns_for(Predicts.LABEL, found, {"features": "x"})
    with pytest.raises(DataError, match=r"row 5001, column 'x': '1\.5\.2' is not a number"):
        list(sequences(found, columns, False))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1251", "shift_jis"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings(table, encoding, packed):
    word = "кот" if encoding != "shift_jis" else "日本"
    content = f"text,label\n{word},x\nb,y\n".encode(encoding)
    found = table(gzip.compress(content) if packed else content, "a.csv.gz" if packed else "a.csv", encoding)
    assert found.sample()["text"] == [word, "b"]


def test_a_line_too_long_is_refused(table, monkeypatch):
    monkeypatch.setattr("retrograde.data.limits.LINE_BYTES", 2 << 20)
    with pytest.raises(DataError, match="a line of more than 2 MB"):
        table("text,label\n" + "x" * (3 << 20) + ",a\n")


REPORT = "month,sales,visitors\n" + "".join(f"2020-{n:02},{n}.5,{n * 7}\n" for n in range(1, 13))


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ("Quarterly report 2025\n\n", "Quarterly report 2025"),
        ("Sales of 2025\nSource: our own\n", "Sales of 2025"),
        (
            '"Data Source","World Development Indicators",\n\n"Last Updated Date","2024-03-28",\n\n',
            'Data Source","World Development Indicators',
        ),
        ("Report,,\n,,\n", "Report"),
        ('"Umsatz, brutto"\n', "Umsatz, brutto"),
    ],
)
def test_titles_above_the_header(tmp_path, above, said):
    (tmp_path / "a.csv").write_text(above + REPORT)
    table = open_table(tmp_path / "a.csv")
    assert table.names == ["month", "sales", "visitors"] and len(table) == 12 and table.value("sales", 0) == "1.5"
    assert f"a.csv: what lies above its header is not read, {said!r}." in table.notes


@pytest.mark.parametrize(
    "text",
    [
        "text\nHello, world\nGood, bad\nOne, two\nThree, four\n",  # texts that should have been quoted
        "review\n2024-01-05, fine\n2024-01-06, bad, too\n2024-01-07, fine\n2024-01-08, x\n",
        "x\n1,2\n3,4\n5,6\n7,8\n",  # row names without a name: no header below
    ],
)
def test_a_header_of_one_column_is_no_title(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match="the header has 1"):
        open_table(tmp_path / "a.csv")


def test_a_header_whose_row_names_have_none(tmp_path):
    """R and pandas write one; that a name of a column is a value below, too, makes it no row of data."""
    rows = "".join(f"{n},{'yn'[n % 2]},p,{'hi' if n % 3 else 'lo'}\n" for n in range(1, 40))
    (tmp_path / "a.csv").write_text(",y,ap,hilo\n" + rows)
    table = open_table(tmp_path / "a.csv")
    assert table.names == ["column 1", "y", "ap", "hilo"] and len(table) == 39


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ('"Weight","Feed"\n"1",26.5,NA\n"2",27.6,5.2\n', "1"),
        ("mpg,cyl\nMazda RX4,21,6\nDatsun 710,22.8,4\nValiant,18.1,6\n", "Mazda RX4"),
    ],
)
def test_a_header_of_r_lacks_a_field_above_the_names_of_rows(tmp_path, text, first):
    (tmp_path / "a.csv").write_text(text)
    table = open_table(tmp_path / "a.csv")
    assert table.names[0] == "column 1" and len(table.names) == 3 and table.value("column 1", 0) == first


def test_a_text_without_quotes_is_no_name_of_a_row(tmp_path):
    (tmp_path / "a.csv").write_text("name,score\nDoe, John,3\nRoe, Jane,4\n")
    with pytest.raises(DataError, match="the first row has 3 fields, the header has 2"):
        open_table(tmp_path / "a.csv")


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_rows_of_numbers_that_are_aligned_with_spaces(tmp_path, ending):
    """As NumPy and the archive of UCR of 2015 write them."""
    rows = [[k % 2, *(0.1 * ((3 * k + 5 * n) % 11) - 0.5 for n in range(6))] for k in range(8)]
    (tmp_path / f"a{ending}").write_text("".join("".join(f"{x:16.7e}" for x in row) + "\n" for row in rows))
    table = open_table(tmp_path / f"a{ending}")
    assert len(table) == 8 and len(table.names) == 7
    assert [float(table.value("column 3", k)) for k in range(8)] == pytest.approx([row[2] for row in rows])


UCR = {
    "measured": lambda k, n: f"{np.sin(0.7 * k + n):.7f}",
    "measured, some twice": lambda k, n: f"{round(np.sin(0.7 * k + n), 1)}",
    "counted": lambda k, n: str(100 + (37 * k + 11 * n) % 61),
    "counted, some twice": lambda k, n: str((37 * k + 11 * n) % 23),
}


@pytest.mark.parametrize("kind", UCR)
def test_tables_of_ucr_have_no_header(tmp_path, kind):
    """A class and the steps in each row; NaN where a sequence has ended (the archive of 2018)."""
    rows = [[str(1 + k % 3), *(UCR[kind](k, n) for n in range(20)), *["NaN"] * 3] for k in range(30)]
    (tmp_path / "a.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    table = open_table(tmp_path / "a.tsv")
    columns, notes = columns_for(Predicts.LABEL, table, {})
    assert len(table) == 30 and columns.label == "column 1" and columns.features == tuple(table.names[1:])
    assert any("'column 1' (a guess; --label names another)" in note for note in notes)
    found = list(sequences(table, columns, False))
    assert [one.label for one in found] == [row[0] for row in rows]
    assert found[4].values[:, 0].tolist() == pytest.approx([float(cell) for cell in rows[4][1:21]])


def test_the_last_column_without_a_name_is_the_label_where_the_first_is_measured_too(tmp_path):
    rows = [[k % 7, *(round(np.sin(k + n), 3) for n in range(10)), k % 2] for k in range(40)]
    (tmp_path / "a.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    columns, _ = columns_for(Predicts.LABEL, open_table(tmp_path / "a.csv"), {})
    assert columns.label == "column 12"


@pytest.mark.parametrize("value", ["{}.5", "{}", "{},7"])
@pytest.mark.parametrize("day", ["2020-01-{:02}", "{}/1/2020", "Jan {} 2020"])
def test_a_date_and_a_number_are_no_header(tmp_path, day, value):
    (tmp_path / "a.csv").write_text("".join(f"{day.format(k)},{value.format(k * 7 % 30)}\n" for k in range(1, 29)))
    table = open_table(tmp_path / "a.csv")
    assert len(table) == 28 and table.names[:2] == ["column 1", "column 2"]
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert columns.time == "column 1" and "column 2" in columns.target


def test_numbers_that_are_not_like_those_below_name_columns(tmp_path):
    (tmp_path / "a.csv").write_text("801,17,640,25,333\n" + "".join(f"{k},{k + 1},2,{k},4\n" for k in range(9)))
    table = open_table(tmp_path / "a.csv")
    assert table.names == ["801", "17", "640", "25", "333"] and len(table) == 9


@pytest.mark.parametrize("above", ["", "Seat belts\n"])
def test_a_header_of_pandas_is_no_title(tmp_path, above):
    rows = "".join(f"{1969 + n // 12}-{n % 12 + 1:02}-01,{1687 - n},{n % 2}\n" for n in range(30))
    (tmp_path / "a.csv").write_text(f"{above},KSI,label\n{rows}")
    table = open_table(tmp_path / "a.csv")
    assert table.names == ["column 1", "KSI", "label"] and len(table) == 30 and table.value("KSI", 0) == "1687"


@pytest.mark.parametrize(("header", "first"), [("time,0", "time"), (",0", "column 1")])
def test_a_series_of_pandas_without_a_name(tmp_path, header, first):
    (tmp_path / "a.csv").write_text(header + "\n" + "".join(f"{1821 + n},{269 + n}\n" for n in range(20)))
    table = open_table(tmp_path / "a.csv")
    assert table.names == [first, "0"] and len(table) == 20
    (tmp_path / "a.csv").write_text("NA,0\n" + "".join(f"{1821 + n},{269 + n}\n" for n in range(20)))
    assert len(open_table(tmp_path / "a.csv")) == 21  # a row with an empty cell


def test_a_row_is_no_header(tmp_path):
    (tmp_path / "a.csv").write_text("name,age\nAnn,n/a\nBob,5\nCid,6\nDot,7\nEve,8\n")
    assert open_table(tmp_path / "a.csv").names == ["name", "age"]


def test_rows_of_separators_alone_are_blank_lines(tmp_path):
    """Excel writes them for rows below a table."""
    path = tmp_path / "a.csv"
    path.write_text("month,sales\n" + "".join(f"2020-{k:02},{k}\n" for k in range(1, 13)) + ",\n,\n")
    table = open_table(path)
    assert len(table) == 12 and columns_for(Predicts.FUTURE, table, {})[0].time == "month"
    wide = ",".join(f"x{k}" for k in range(1200))
    path.write_text(f"{wide}\n{','.join(['1'] * 1200)}\n{',' * 1199}\n")
    assert len(open_table(path)) == 1
