"""Broken data through train, evaluate and predict: one line and exit code 2, or a whole run; never anything between."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrograde.cli import main

FAST = ["--hidden-size", "4", "--max-steps", "2", "--threads", "1", "--quiet", "--no-report"]

GOOD = "text,label\n" + "".join(f"some words {'good' if n % 2 else 'bad'},{'ab'[n % 2]}\n" for n in range(12))
SERIES = "date,value\n" + "".join(f"2020-{n // 28 + 1:02d}-{n % 28 + 1:02d},{n % 7}\n" for n in range(60))
CORPUS = {
    "empty.csv": b"",
    "header.csv": b"text,label\n",
    "one-row.csv": b"text,label\na,b\n",
    "one-class.csv": b"text,label\na,b\nc,b\nd,b\n",
    "two-rows.csv": b"text,label\na,x\nb,y\n",
    "truncated.csv": GOOD.encode()[:-5] + b'"open',
    "nul.csv": GOOD.encode().replace(b"words", b"wo\0ds", 1),
    "latin.csv": GOOD.encode() + "caf\u00e9,a\n".encode("latin-1"),
    "utf16.csv": GOOD.encode("utf-16"),
    "ragged.csv": GOOD.encode() + b"a,b,c,d\n",
    "short-rows.csv": GOOD.encode() + b"alone\n",
    "long-line.csv": GOOD.encode() + b"word " * 2_000 + b"x" * 10_000_000 + b",a\n",
    "no-label.csv": GOOD.encode() + b"nothing,\n",
    "empty-text.csv": GOOD.encode() + b",a\n,b\n",
    "blank-lines.csv": GOOD.encode().replace(b"\n", b"\n\n"),
    "numbers-as-labels.csv": b"text,label\n" + b"".join(b"w,%d.5\n" % n for n in range(60)),
    "duplicate-columns.csv": b"text,text,label\na,b,c\nd,e,f\n",
    "control.csv": b"text,label\n"
    + b"".join(b"\x1b[31mred\x07 %d,\x1b]0;%c\x07\n" % (n, 97 + n % 2) for n in range(9)),
    "binary.csv": bytes(range(256)) * 20,
    "quotes.csv": b'text,label\n"a,b\n' * 5,
    "infinite.csv": b"x1,x2,label\n1,inf,a\n2,3,b\n4,5,a\n",
    "nan-cells.csv": b"x1,x2,label\n1,,a\n,3,b\nnan,5,a\nNA,?,b\n1,2,a\n2,2,b\n",
    "words-as-numbers.csv": b"x1,x2,label\n" + b"1,2,a\n2,1,b\n" * 9 + b"oops,2,a\n",
    "series.csv": SERIES.encode(),
    "series-twice.csv": (SERIES + "2020-01-01,3\n").encode(),
    "series-words.csv": SERIES.encode() + b"soon,3\n",
    "series-short.csv": SERIES.encode()[:60],
    "series-constant.csv": b"value\n" + b"5\n" * 60,
    "series-empty.csv": b"date,value\n" + b"".join(b"2020-01-%02d,\n" % n for n in range(1, 29)),
    "series-huge.csv": b"value\n" + b"".join(b"%de300\n" % (n % 9 - 4) for n in range(60)),
    "series-wide.csv": b"id,"
    + b",".join(b"v%d" % n for n in range(20))
    + (b"\na" + b",1,2" * 10 + b"\nb" + b"," * 20) * 2,
    "series-wide-words.csv": b"id,2001,2002,2003\na,1,2,3\nb,1,two,3\n" * 9,
    "series-lists.jsonl": b'{"target": [1, 2]}\n{"target": [[1, 2], [3, 4]]}\n{"target": []}\n{"target": "x"}\n',
    "series-nested.jsonl": b'{"target": [[[1]], [[2]]]}\n' * 6,
    "broken.jsonl": b'{"text": "a", "label": "b"}\n{"text": \n',
    "arrays.jsonl": b"[1, 2]\n[3]\n",
    "nested.jsonl": b'{"text": {"a": 1}, "label": {"b": [2]}}\n{"text": {"a": 2}, "label": {"b": [3]}}\n',
    "mixed.jsonl": b'{"text": "a", "label": 1}\n{"text": 5, "label": "x"}\n{"label": null}\n' * 4,
    "tags.jsonl": b'{"tokens": ["a", "b"], "tags": ["B-X", "O"]}\n{"tokens": ["a"], "tags": ["O"]}\n' * 6,
    "tags-uneven.jsonl": b'{"tokens": ["a", "b"], "tags": ["B-X"]}\n',
    "tags-empty.jsonl": b'{"tokens": [], "tags": []}\n' * 4,
    "junk.parquet": b"PAR1" + b"junk" * 9,
    "junk.npy": b"\x93NUMPY\x01\x00junk",
    "junk.npz": b"PK\x03\x04junk",
    "junk.csv.gz": gzip.compress(GOOD.encode(), mtime=0)[:25],
    "not-gzip.csv.gz": GOOD.encode(),
    "gzip.csv": gzip.compress(GOOD.encode(), mtime=0),
    "bom-crlf.csv": b"\xef\xbb\xbf" + GOOD.encode().replace(b"\n", b"\r\n"),
    "unclosed.csv": GOOD.encode() + b'"never closed ' + b"x\n" * 100,
    "long-header.csv": b"x" * 100_000 + b",label\n" + b"a,x\nb,y\n" * 8,
    "deep.jsonl": b'{"text": ' + b"[" * 3000 + b"]" * 3000 + b', "label": "x"}\n',
    "tags.conll": b"Joe B-X\nleft O\n\nHe O\n\n" * 6,
    "tags-uneven.conll": b"Joe B-X\nleft\n\n" * 6,
    "junk.arrow": b"ARROW1\0\0junk",
    "lists-uneven.jsonl": b'{"x": [[1, 2], [3]], "label": "x"}\n{"x": [[2]], "label": "y"}\n' * 6,
}


@pytest.fixture(autouse=True)
def no_warnings():
    """A warning would be printed to the user beside the line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("default", category=DeprecationWarning)
        yield


def check(capsys, *arguments):
    """The exit code; anything but 0, 2 or 3, a traceback, or a second line fails."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    code = int(caught.value.code or 0)
    assert "Traceback" not in captured.err
    assert code in (0, 2, 3), captured.err
    assert len(lines) == (0 if code == 0 else 1), captured.err
    assert all(len(line) < 2_000 for line in lines), captured.err[:4_000]
    assert not any(ord(c) < 32 and c not in "\n\t" for c in captured.err), captured.err
    return code


def likely(name):
    return "forecast" if name.startswith("series") else "tag" if name.startswith("tags") else "classify"


@pytest.mark.parametrize("name", CORPUS)
def test_corpus(capsys, tmp_path, name):
    task = likely(name)
    data, run = tmp_path / name, tmp_path / "run"
    data.write_bytes(CORPUS[name])
    if check(capsys, "train", data, "--task", task, "--out", run, *FAST) == 2:
        assert not run.exists()
        return
    json.loads((run / "summary.json").read_text())
    if (run / "model.safetensors").exists():
        assert check(capsys, "evaluate", run, data) == 0
        assert check(capsys, "predict", run, data, "--out", tmp_path / "out.csv") == 0
    assert check(capsys, "info", run) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for task, name in (("classify", "good.csv"), ("tag", "tags.jsonl"), ("forecast", "series.csv")):
        data = folder / name
        data.write_bytes({"good.csv": GOOD.encode(), **CORPUS}[name])
        made[task] = folder / task
        with pytest.raises(SystemExit):
            main(["train", str(data), "--task", task, "--out", str(made[task]), *FAST])
    return made


@pytest.mark.parametrize("task", ["classify", "tag", "forecast"])
@pytest.mark.parametrize("name", [name for name in CORPUS if name not in ("long-line.csv", "deep.jsonl")])
def test_corpus_into_a_trained_run(capsys, tmp_path, runs, name, task):
    data, out = tmp_path / name, tmp_path / "out.jsonl"
    data.write_bytes(CORPUS[name])
    check(capsys, "evaluate", runs[task], data)
    code = check(capsys, "predict", runs[task], data, "--out", out)
    assert out.exists() == (code == 0)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet", ".npy", ".npz"]))
def test_any_bytes(capsys, tmp_path_factory, data, suffix):
    folder = tmp_path_factory.mktemp("bytes")
    path = folder / f"data{suffix}"
    path.write_bytes(data)
    for task in ("classify", "forecast"):
        check(capsys, "train", path, "--task", task, "--out", folder / task, *FAST)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
            st.one_of(st.sampled_from("ab"), st.text(st.characters(exclude_categories=["Cs"]), max_size=3)),
        ),
        max_size=12,
    )
)
def test_any_cells(capsys, tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("cells")
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in cells), "utf-8")
    run = folder / "run"
    if check(capsys, "train", path, "--task", "classify", "--out", run, *FAST) == 0:
        assert check(capsys, "predict", run, path, "--out", folder / "out.jsonl") == 0
        assert len((folder / "out.jsonl").read_text("utf-8").splitlines()) == len(cells)


@pytest.mark.parametrize("name", ["preprocessing.json", "vocabulary.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\0\xff\0", b'{"columns": 3, "labels": "x"}'])
def test_a_damaged_run_is_named(capsys, tmp_path, runs, name, damage):
    data, run = tmp_path / "good.csv", tmp_path / "run"
    data.write_text(GOOD)
    shutil.copytree(runs["classify"], run)
    (run / name).write_bytes(damage)
    assert check(capsys, "predict", run, data, "--out", tmp_path / "out.csv") == 2
    assert check(capsys, "evaluate", run, data) == 2


def test_arrays_with_pickles_and_odd_shapes(capsys, tmp_path):
    arrays = {
        "object.npz": {"x": np.array([{1: 2}, 3], dtype=object), "y": np.array([0, 1])},
        "scalar.npz": {"x": np.float64(3)},
        "unequal.npz": {"x": np.zeros((4, 3)), "y": np.zeros(5)},
        "four.npz": {"x": np.zeros((6, 3, 2, 2)), "y": np.arange(6) % 2},
        "none.npz": {"x": np.zeros((0, 3)), "y": np.zeros(0)},
        "text.npz": {"x": np.array(["a", "b"] * 4), "y": np.arange(8) % 2},
        "complex.npz": {"x": np.zeros((6, 3), complex), "y": np.arange(6) % 2},
    }
    for name, content in arrays.items():
        np.savez(tmp_path / name, **content)
        for task in ("classify", "tag", "forecast"):
            check(capsys, "train", tmp_path / name, "--task", task, "--out", tmp_path / f"{name}-{task}", *FAST)


def test_a_folder_in_place_of_a_file(capsys, tmp_path, runs):
    for name in ("hollow.csv", "full.jsonl"):
        (tmp_path / name).mkdir()
    (tmp_path / "full.jsonl" / "a.jsonl").write_text("{}")
    for name, task in itertools.product(("hollow.csv", "full.jsonl"), ("classify", "tag", "forecast", "language")):
        assert check(capsys, "train", tmp_path / name, "--task", task, "--out", tmp_path / "run", *FAST) == 2
        if task in runs:
            assert check(capsys, "evaluate", runs[task], tmp_path / name) == 2
    assert not (tmp_path / "run").exists()


def test_a_class_that_only_the_validation_file_has(capsys, tmp_path):
    data, other, run = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "run"
    data.write_text(GOOD)
    other.write_text(GOOD + "new words,c\n")
    arguments = ["train", data, "--task", "classify", "--validation", other, "--out", run, *FAST]
    assert check(capsys, *arguments) == 2
    assert not run.exists()
