"""What untrusted files and names of files can do: a table, or one line that names the thing; and frames in memory."""

import datetime
import decimal
import gzip
import json
import sys

import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest

from retrograde.data import database, limits, remote
from retrograde.data.columns import columns_for
from retrograde.data.database import Database, connect
from retrograde.data.formats import fingerprint, is_frame, name_of, open_table
from retrograde.data.roles import Predicts
from retrograde.data.sequences import sequences
from retrograde.data.text import read_text
from retrograde.errors import DataError, OptionError
from retrograde.tasks.registry import task_name


def cells(path, *names):
    sample = open_table(path).sample()
    return [sample[name] for name in names]


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_null_lines_are_rows_without_cells(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('null\n{"text": "a", "label": "x"}\nnull\n{"text": "b", "label": "y"}\n')
    assert cells(path, "text", "label") == [[None, "a", None, "b"], [None, "x", None, "y"]]
    path.write_text("null\nnull\n")
    with pytest.raises(DataError, match=r"a\.jsonl cannot be read"):
        open_table(path)


@pytest.mark.parametrize("depth", [200, 3_000, 30_000])
def test_deep_nesting_is_refused_in_one_line(tmp_path, depth):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ' + "[" * depth + "]" * depth + ', "label": "x"}\n')
    with pytest.raises(
        DataError, match=r"a\.jsonl cannot be read: its objects are nested more than 128 deep"
    ) as caught:
        open_table(path)
    assert "\n" not in str(caught.value)
    path.write_text('{"a": ' * depth + "1" + "}" * depth + "\n")
    with pytest.raises(DataError, match="nested more than 128 deep"):
        open_table(path)


def test_nested_fields_have_dotted_names(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"meta": {"id": n, "who": {"name": f"n{n}"}}, "text": "a b", "label": "xy"[n % 2]} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    table = open_table(path)
    assert table.names == ["meta.id", "meta.who.name", "text", "label"]
    columns, _ = columns_for(Predicts.LABEL, table, {"text": "meta.who.name"})
    assert [one.tokens for one in sequences(table, columns, False)] == ["n0", "n1", "n2", "n3"]


def test_text_of_json_is_never_taken_for_a_date_a_time_or_an_id(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["2020-1-5", "2020-01-05 10:00:00", "10:00:00.000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]
    for text in texts:
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for label in "ab"))
        assert cells(path, "text") == [[text, text]]


def test_a_type_that_only_a_late_line_shows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 30_000 + '{"a": "x"}\n{"a": 2, "late": 3}\n')
    table = open_table(path)
    assert table.names == ["a", "late"]
    assert table.value("a", 30_000) == "x" and str(table.value("a", 0)) == "1"


# --- Sizes ------------------------------------------------------------------------------------------------------------


def test_a_gzip_bomb_of_one_cell_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "LINE_BYTES", 3 << 20)
    path = tmp_path / "a.csv.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"text,label\n")
        for _ in range(40):
            file.write(b"x" * (1 << 20))
    read = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read.append(size) or original(self, size))
    with pytest.raises(DataError, match=r"a\.csv\.gz has a line of more than 3 MB, the most that is read"):
        open_table(path)
    assert len(read) < 8  # it stopped at the limit rather than at the end


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.conll.gz", "a.arff.gz", "a.ts.gz", "a.txt.gz"])
def test_a_gzip_bomb_of_many_lines_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(limits, "UNPACKED_BYTES", 1 << 20)
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"% remarks\n" * 300_000))
    with pytest.raises(DataError, match=r"unpacks to more than 200 times its size and 0\.\d GB: it looks like a"):
        read_text(path) if name == "a.txt.gz" else open_table(path)
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(2 << 20).hex().encode()))  # large, and no bomb
    assert read_text(path).characters == 4 << 20


def test_an_archive_of_arrays_is_measured_before_it_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000)), y=np.zeros(1000))
    monkeypatch.setattr(limits, "ARRAY_BYTES", 1 << 20)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the arrays were read"))
    with pytest.raises(DataError, match=r"a\.npz unpacks to 0\.0 GB; 0 GB are the most for a \.npz file"):
        open_table(tmp_path / "a.npz")


def test_what_a_database_may_do(tmp_path):
    opened = Database("here")
    found = dict(opened.execute("SELECT name, value FROM duckdb_settings()"))
    assert found["autoinstall_known_extensions"] == found["autoload_known_extensions"] == "false"
    assert found["memory_limit"].startswith("256")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    opened.lock()
    with pytest.raises(DataError, match="disabled by configuration"):
        opened.execute(f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')")
    with pytest.raises(DataError, match="locked"):
        opened.execute("SET enable_external_access = true")


def test_a_file_that_goes_away_with_its_database(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    kept = Database("here")
    assert len(list(tmp_path.iterdir())) == 1
    del kept
    assert list(tmp_path.iterdir()) == []


class Recorded:
    """A connection that keeps the queries it runs."""

    def __init__(self, connection, queries):
        self.connection, self.queries = connection, queries

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def execute(self, sql, *arguments):
        self.queries.append(sql)
        return self.connection.execute(sql, *arguments)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_is_parsed_once(tmp_path, monkeypatch, suffix):
    """However often its sequences are read: to split, to fit the vocabulary, to encode."""
    rows = {"text": ["a b", "c d"] * 20, "label": ["x", "y"] * 20}
    path, queries = tmp_path / f"a.{suffix}", []
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(rows), path)
    else:
        getattr(pandas.DataFrame(rows), {"csv": "to_csv", "jsonl": "to_json"}[suffix])(
            path, **({"index": False} if suffix == "csv" else {"orient": "records", "lines": True})
        )
    monkeypatch.setattr(database, "connect", lambda **settings: Recorded(connect(**settings), queries))
    table = open_table(path)
    columns, _ = columns_for(Predicts.LABEL, table, {})
    for _ in range(3):
        assert len(list(sequences(table, columns, False))) == 40
    assert sum(query.startswith("CREATE") and str(path) in query for query in queries) == 1
    assert queries.index("SET enable_external_access = false") < len(queries) - 1


# --- Names of files ---------------------------------------------------------------------------------------------------

NAMES = [
    "a[1].csv",
    "*.csv",
    "what?.csv",
    "x'; DROP TABLE cells; --.csv",
    'q"uote.csv',
    "{a,b}.csv",
    "$1.csv",
    "a b=c.csv",
]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such names")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_name_is_read_literally(tmp_path, name, suffix):
    path = tmp_path / name.replace(".csv", suffix)
    for other in ("a1", "b", "whatx", "xyz"):  # which a pattern would find
        (tmp_path / f"{other}{suffix}").write_bytes(b"junk")
    rows = {"text": ["right", "too"], "label": ["a", "b"]}
    if suffix == ".csv":
        path.write_text("text,label\nright,a\ntoo,b\n")
    elif suffix == ".jsonl":
        path.write_text('{"text": "right", "label": "a"}\n{"text": "too", "label": "b"}\n')
    else:
        pyarrow.parquet.write_table(pyarrow.table(rows), path)
    table = open_table(path)
    assert table.names == ["text", "label"] and table.sample() == rows


def test_folders_named_like_partitions_add_no_columns(tmp_path):
    folder = tmp_path / "year=2020"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": ["x", "y"]}), folder / "a.parquet")
    assert open_table(folder / "a.parquet").names == ["text", "label"]


def test_nothing_is_fetched(tmp_path, monkeypatch):
    """Without DuckDB's extension for it an address is one line; the extension is never downloaded."""
    connections = []

    def without_extensions():
        connections.append(connect(extension_directory=str(tmp_path)))
        return connections[-1]

    monkeypatch.setattr(remote, "connect", without_extensions)
    for name in ("https://example.com/a.csv", "s3://bucket/a.parquet", "http://localhost:1/a.jsonl"):
        for read in (open_table, fingerprint, read_text):
            with pytest.raises(DataError, match="nothing is fetched from a hub or the web: download it") as caught:
                read(name)
            assert f"curl -LO '{name}'" in str(caught.value) and "INSTALL httpfs" in str(caught.value)
            assert "\n" not in str(caught.value)
    assert len(connections) == 9 and list(tmp_path.iterdir()) == []
    for name in ("user/dataset", "ftp://example.com/a.csv"):
        with pytest.raises(DataError, match="nothing is fetched from a hub or the web: download it"):
            open_table(name)


def test_an_address_is_read_where_the_extension_is_installed(tmp_path, monkeypatch):
    """With a file in place of the network: what DuckDB brings is copied once, and messages have the address."""
    (tmp_path / "a.csv").write_text("text,label\nhello,x\nyou,y\n")
    (tmp_path / "b.csv").write_text("text,label\n")
    copies = {f"https://example.com/{name}": tmp_path / name for name in ("a.csv", "b.csv")}
    monkeypatch.setattr("retrograde.data.formats.local_copy", copies.__getitem__)
    monkeypatch.setattr("retrograde.data.text.local_copy", copies.__getitem__)
    table = open_table("https://example.com/a.csv")
    assert table.source == "https://example.com/a.csv" and table.sample()["text"] == ["hello", "you"]
    assert fingerprint("https://example.com/a.csv") == fingerprint(str(tmp_path / "a.csv"))
    assert read_text("https://example.com/a.csv").characters == 25
    with pytest.raises(DataError, match=r"^https://example\.com/b\.csv has no rows"):
        open_table("https://example.com/b.csv")
    copied = remote._copied(connect(), str(tmp_path / "a.csv"))
    assert copied.name == "a.csv" and copied.read_text() == (tmp_path / "a.csv").read_text()
    with pytest.raises(DataError, match=r"/none\.csv does not exist"):
        remote._copied(connect(), str(tmp_path / "none.csv"))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_in_a_folder_of_texts_are_not_followed(tmp_path):
    folder = tmp_path / "texts"
    for label in ("neg", "pos"):
        (folder / label).mkdir(parents=True)
        (folder / label / "1.txt").write_text(f"this is {label}")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("not of this folder")
    (folder / "pos" / "2.txt").symlink_to(folder / "neg" / "1.txt")
    (folder / "pos" / "3.txt").symlink_to("/dev/zero")
    (folder / "more").symlink_to(outside, target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    table = open_table(folder)
    assert table.sample() == {
        "text": ["this is neg", "this is pos"], "label": ["neg", "pos"], "file": ["neg/1.txt", "pos/1.txt"]
    }  # fmt: skip
    assert any("symbolic links" in note and "loop, more, pos/2.txt, …" in note for note in table.notes)
    text = read_text(folder)
    assert text.content == "this is neg\nthis is pos\n"
    assert any("symbolic links" in note for note in text.notes)
    before = fingerprint(str(folder))
    (outside / "secret.txt").write_text("changed")
    assert fingerprint(str(folder)) == before


def test_archives_are_tables_without_being_told(tmp_path):
    for name in ("a.ts", "a.tsf", "a.arff", "a.xlsx", "a.ts.gz"):
        (tmp_path / name).write_text("@data\n1,2:a\n")
        with pytest.raises(OptionError, match="is a table: say what to learn from it"):
            task_name(str(tmp_path / name), "auto")
        assert task_name(str(tmp_path / name), "language") == "language"
    with pytest.raises(DataError, match=r"has no line @data: it is not such an archive \(as text .* --task language\)"):
        (tmp_path / "b.ts").write_text("export const a = 1;\n")
        open_table(tmp_path / "b.ts")


# --- Arrow, Parquet and frames ----------------------------------------------------------------------------------------

PEOPLE = {"kind": ["a", "b", "a", None], "value": [1.5, 2.0, None, 4.0]}


def test_categories_of_polars(tmp_path):
    frame = polars.DataFrame(PEOPLE, schema={"kind": polars.Categorical, "value": polars.Float64})
    frame.write_ipc(tmp_path / "a.arrow")
    frame.write_ipc_stream(tmp_path / "b.arrow")
    frame.with_columns(polars.col("kind").cast(polars.Enum(["a", "b"]))).write_ipc(tmp_path / "c.arrow")
    frame.write_parquet(tmp_path / "d.parquet")
    for name in ("a.arrow", "b.arrow", "c.arrow", "d.parquet"):
        assert open_table(tmp_path / name).sample() == PEOPLE


@pytest.mark.parametrize("kind", ["pandas", "polars", "lazy", "arrow"])
def test_frames_are_tables(kind):
    frame = {
        "pandas": lambda: pandas.DataFrame(PEOPLE),
        "polars": lambda: polars.DataFrame(PEOPLE),
        "lazy": lambda: polars.LazyFrame(PEOPLE),
        "arrow": lambda: pyarrow.table(PEOPLE),
    }[kind]()
    table = open_table(frame)
    assert is_frame(frame) and table.sample() == PEOPLE
    assert table.source == name_of(frame)
    with pytest.raises(OptionError, match="is a table: say what to learn from it"):
        task_name(frame, "auto")
    assert task_name(frame, "forecast") == "forecast"
    assert fingerprint(frame) == fingerprint(pyarrow.table(PEOPLE)) != fingerprint(pyarrow.table({"a": [1]}))


def test_an_index_of_dates_orders_a_frame():
    days = [datetime.datetime(2020, 1, day) for day in range(1, 31)]
    frame = pandas.DataFrame({"y": np.arange(30.0)[::-1]}, index=days[::-1])
    columns, _ = columns_for(Predicts.FUTURE, open_table(frame), {})
    assert (columns.time, columns.target) == ("index", ("y",))


def test_frames_that_cannot_be_read():
    with pytest.raises(DataError, match="column 'a' of the frame cannot be read"):
        open_table(pandas.DataFrame({"a": [1, "x", object()]}))
    with pytest.raises(DataError, match="a DataFrame of pandas has no "):
        open_table(pandas.DataFrame())
    with pytest.raises(DataError, match="a DataFrame of polars has no rows"):
        open_table(polars.DataFrame({"a": []}, schema={"a": polars.Float64}))


def test_names_that_differ_by_case_alone(tmp_path):
    (tmp_path / "a.csv").write_text("X,x,label\n1,2,a\n3,4,b\n")
    assert open_table(tmp_path / "a.csv").sample() == {"X": ["1", "3"], "x": ["2", "4"], "label": ["a", "b"]}
    assert open_table(pyarrow.table({"X": [1], "x": [2]})).sample() == {"X": [1], "x": [2]}


def test_truths_and_dates_are_labels_as_they_were(tmp_path):
    table = pyarrow.table(
        {"text": ["a", "b"], "ok": [True, False], "on": [datetime.date(2020, 1, 2)] * 2, "n": [1.0, 2.5]}
    )
    opened = open_table(table)
    asked = opened.ask(*(f"list({opened.text(name)} ORDER BY rowid)" for name in ("ok", "on", "n")))
    assert asked == [["True", "False"], ["2020-01-02"] * 2, ["1", "2.5"]]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow", "npy"])
def test_very_many_columns(tmp_path, suffix):
    """A table of 5,000 columns is read in a moment: the cells are one array, not a column each."""
    width, path = 5_000, tmp_path / f"a.{suffix}"
    values = np.random.default_rng(0).normal(size=(12, width)).round(3)
    names = [f"p{n}" for n in range(width)]
    if suffix == "csv":
        lines = [
            ",".join(["label", *names]),
            *(",".join(["ab"[n % 2], *map(str, row)]) for n, row in enumerate(values)),
        ]
        path.write_text("\n".join(lines) + "\n")
    elif suffix == "npy":
        np.save(path, values)
    else:
        table = pyarrow.table({"label": ["a", "b"] * 6, **dict(zip(names, values.T, strict=True))})
        if suffix == "parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            with pyarrow.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
    table = open_table(path)
    if suffix == "npy":
        columns, _ = columns_for(Predicts.FUTURE, table, {"layout": "long"})
        (batch,) = table.batches(table.numbers(columns.target))
        np.testing.assert_array_equal(table.matrix(batch, columns.target), values)
        return
    columns, _ = columns_for(Predicts.LABEL, table, {})
    assert columns.label == "label" and len(columns.features) == width
    found = np.stack([one.values[:, 0] for one in sequences(table, columns, False)])
    np.testing.assert_allclose(found, values, rtol=1e-6)
    if suffix == "csv":
        with pytest.raises(OptionError, match=r"column 'p7' of .* is one of .* columns of numbers"):
            list(sequences(table, columns_for(Predicts.LABEL, table, {"label": "p7"})[0], False))
        wrong = lines[3].split(",")
        wrong[2500] = "oops"
        path.write_text("\n".join([*lines[:1], *lines[1:3] * 40, ",".join(wrong)]) + "\n")
        with pytest.raises(DataError, match="row 81, column 'p2499': 'oops' is not a number"):
            open_table(path)


def test_an_arrow_file_whose_offsets_lie_is_one_line(tmp_path):
    """The column claims more bytes of text than it has: pyarrow says so, without the way it took to say it."""
    batch = pyarrow.record_batch({"text": ["good", "bad"], "label": ["x", "y"]})
    path = tmp_path / "reviews.arrow"
    with pyarrow.ipc.new_file(path, batch.schema) as file:
        file.write_batch(batch)
    whole, offsets = path.read_bytes(), np.array([0, 4, 7], dtype="<i4").tobytes()
    assert whole.count(offsets) == 1
    path.write_bytes(whole.replace(offsets, np.array([0, 4, 8_716_288], dtype="<i4").tobytes()))
    with pytest.raises(DataError, match="offsets") as caught:
        open_table(str(path))
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_decimals_of_a_database_are_numbers(tmp_path):
    values = [decimal.Decimal("1.25"), None, decimal.Decimal("-3.50")]
    prices = pyarrow.array(values, pyarrow.decimal128(9, 2))
    lists = pyarrow.array([[values[0], values[2]], [], None], pyarrow.list_(pyarrow.decimal128(9, 2)))
    pyarrow.parquet.write_table(pyarrow.table({"price": prices, "prices": lists}), tmp_path / "a.parquet")
    table = open_table(str(tmp_path / "a.parquet"))
    assert table.types["price"] == "number" and cells(str(tmp_path / "a.parquet"), "price") == [[1.25, None, -3.5]]
    assert list(table.sample()["prices"][0]) == [1.25, -3.5]
