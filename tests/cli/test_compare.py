"""``retrograde compare``: in the terminal and as a page."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from tiny import TINY

from retrograde.report import comparison
from retrograde.report.run import read


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs of one synthetic task, with gradient flow, trained once."""
    import retrograde as rg

    parent = tmp_path_factory.mktemp("compared")
    shared = {"hidden_size": 8, "max_steps": 4, "eval_every": 2, "threads": 1, "batch_size": 4}
    for name, cell in (("first", "rnn"), ("second", "gru")):
        rg.train("builtin:adding?length=20", parent / name, cell=cell, report=False, **shared)
    return parent


@pytest.fixture
def runs(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


def test_metrics_curves_and_options_that_differ(runs, retrograde, tmp_path):
    page = tmp_path / "out" / "compare.html"
    done = retrograde("compare", runs / "first", runs / "second", "--page", page)
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    for part in ("A", "B", "cell rnn gru", "Metrics", "loss", "has no gradient flow", "retrograde flow RUN --signal"):
        assert part in words
    assert "cannot" not in words.split("Configuration")[0] and "batch size" not in words
    html = page.read_text()
    assert "2 runs compared" in html and 'id="training"' in html and "http-equiv" in html
    assert "src=" not in html.split("</style>")[1].split("<script>")[0], "one file that fetches nothing"


def test_runs_of_different_tasks_say_what_cannot_be_compared(runs, text, retrograde, tmp_path):
    assert retrograde("train", text, "--out", tmp_path / "c", *TINY, "--max-steps", 2, "--no-report").code == 0
    done = retrograde("compare", runs / "first", runs / "second", tmp_path / "c")
    words = " ".join(done.out.split())
    assert "different tasks and data: of their losses and metrics, only of A and B can be compared" in words
    assert "perplexity — —" in words


def test_flow_and_signal_are_compared_where_they_were_measured(runs, retrograde):
    assert retrograde("flow", runs / "second", "--signal").code == 0
    done = retrograde("compare", runs / "first", runs / "second")
    words = " ".join(done.out.split())
    assert "A: the signal by lag was not measured" in words and "B: the signal" not in words
    assert "the data asks for the gradient reaches" in words
    run = read(runs / "second")
    (figure,) = next(one.figures for one in comparison.sections([run, run]) if one.key == "signal")
    layer = run.signal.asked.layers[0]
    for line in figure.plot.data:
        np.testing.assert_allclose(line.x, (layer.first + layer.last) / 2)  # in the middle of each bin


def test_a_diverged_run_and_a_damaged_one(runs, retrograde, tmp_path):
    summary = json.loads((runs / "first" / "summary.json").read_text())
    summary |= {"status": "diverged", "message": "loss nan at step 3"}
    (runs / "first" / "summary.json").write_text(json.dumps(summary))
    (runs / "second" / "metrics.jsonl").unlink()
    (runs / "second" / "summary.json").write_text("{")
    done = retrograde("compare", runs / "first", runs / "second", "--page", tmp_path / "x.html")
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert "A diverged: loss nan at step 3" in words
    assert "B has no evaluation to draw" in words and "B: summary.json" in words


def test_names_of_folders_are_shown_as_they_are(runs, retrograde, tmp_path):
    strange = (runs / "first").rename(runs / "<b>[red]x")
    done = retrograde("compare", strange, runs / "second", "--page", tmp_path / "x.html")
    assert "<b>[red]x" in done.out.replace("\n", "").replace(" ", "")
    assert "<b>" not in (tmp_path / "x.html").read_text().split("<main>")[1].split("</main>")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((".",), "two or more"),
        ((".", "./"), "two or more"),
        (("missing", "."), "does not exist"),
        (("a", "b", "--page", "x.pdf"), "must end in .html"),
    ],
)
def test_bad_arguments_get_one_line(retrograde, arguments, message):
    done = retrograde("compare", *arguments)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1
