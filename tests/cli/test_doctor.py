"""``retrograde doctor`` as a user types it."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path

import pytest
import torch
from tiny import TINY

COLUMNS = ("--task", "classify", "--group", "id", "--time", "t", "--label", "label", "--features", "x")
COLUMNS += ("--no-bidirectional", "--pooling", "last", "--schedule", "constant")  # not what the data decides


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences whose label is the sign of their first number."""
    draw, file = random.Random(0), tmp_path_factory.mktemp("data") / "my table.csv"
    with file.open("w") as out:
        out.write("id,t,x,label\n")
        for sequence in range(120):
            values = [draw.gauss(0, 1) for _ in range(20)]
            label = "up" if values[0] > 0 else "down"
            out.writelines(f"{sequence},{t},{x:.4f},{label}\n" for t, x in enumerate(values))
    return file


@pytest.fixture
def run(trained, table) -> Path:
    options = ("--cell", "rnn", "--hidden-size", "8", "--threads", "1", "--quiet", "--no-report", "--max-steps", "4")
    options += ("--lr", "0.002")
    return trained(table, *COLUMNS, *options)


def test_a_run_gets_a_verdict_a_number_and_a_command_that_works(retrograde, run):
    found = retrograde("doctor", run)
    assert found.code == 0, found.err
    assert "Verdict: sick" in found.out and "need 19 > reach" in found.out
    kept = json.loads((run / "doctor.json").read_text())
    assert kept["findings"][0]["numbers"]["need"] == 19
    first = kept["prescriptions"][0]
    assert first["command"] in found.out, "in one line, to copy"
    assert retrograde(*shlex.split(first["command"])[1:], "--quiet", "--no-report").code == 0


def test_a_terminal_shows_what_is_being_examined_and_a_file_does_not(retrograde, run, monkeypatch):
    assert "Examining" not in retrograde("doctor", run, "--no-save").err
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    found = retrograde("doctor", run, "--no-save")
    assert "Examining: " in found.err and "Examining" not in found.out


def test_json_is_all_that_is_printed_and_nothing_is_kept_if_not_wanted(retrograde, run):
    found = retrograde("doctor", run, "--json", "--no-save")
    told = json.loads(found.out)
    assert found.code == 0 and told["verdict"] == "sick" and told["run"] == str(run)
    assert {"remedy", "arithmetic", "command", "python", "options"} <= set(told["prescriptions"][0])
    assert not (run / "doctor.json").exists()


def test_other_data_is_examined_without_changing_the_run(retrograde, run, table):
    assert retrograde("doctor", run, table).code == 0
    assert not (run / "doctor.json").exists()


def test_data_gets_a_prognosis_before_the_first_update(retrograde, table):
    found = retrograde(
        "doctor", table, *COLUMNS, "--cell", "lstm", "--hidden-size", "8", "--threads", "1", "--lr", "0.002"
    )
    assert found.code == 0, found.err
    assert "need 19 > reach" in found.out and "--forget-bias" in found.out and "--hidden-size 8" in found.out


def test_data_that_has_moved_is_named_with_what_to_do(retrograde, run, table):
    moved = table.rename(table.with_name("moved.csv"))
    found = retrograde("doctor", run)
    moved.rename(table)
    assert found.code == 2 and "my table.csv does not exist" in found.err
    assert f"It is what {run} was trained on: give DATA to examine it on." in " ".join(found.err.split())


def test_a_new_training_in_the_folder_removes_the_old_diagnosis(retrograde, run, table):
    retrograde("doctor", run)
    options = ("--cell", "gru", "--hidden-size", "8", "--quiet", "--no-report", "--max-steps", "2", "--overwrite")
    assert retrograde("train", table, "--out", run, *COLUMNS, *options).code == 0
    assert not (run / "doctor.json").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["RUN", "--chrono", "30"], "--chrono is for DATA"),
        (["nothing.txt"], "nothing.txt"),
        (["TABLE", "TABLE", *COLUMNS], "contains no run"),
        (["TABLE"], "is a table"),
        (["TABLE", *COLUMNS, "--bptt", "5"], "--bptt is for --task language"),
        (["TABLE", *COLUMNS, "--no-clip", "--clip-norm", "1"], "--no-clip excludes"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(retrograde, run, table, arguments, complaint):
    names = {"RUN": run, "TABLE": table}
    found = retrograde("doctor", *[names.get(word, word) for word in arguments])
    assert found.code == 2 and complaint in found.err and found.err.count("\n") == 1, found.err


def test_a_damaged_run_gets_one_line(retrograde, run):
    (run / "config.json").write_text("{")
    found = retrograde("doctor", run)
    assert found.code == 2 and "damaged" in found.err and found.err.count("\n") == 1


def test_text_is_examined(retrograde, text, tmp_path):
    assert retrograde("train", text, "--out", tmp_path / "run", *TINY, "--max-steps", "2").code == 0
    assert retrograde("doctor", tmp_path / "run").code == 0


def test_training_that_learned_nothing_ends_with_advice_and_so_does_flow(retrograde, table, tmp_path):
    options = ("--cell", "rnn", "--hidden-size", "8", "--threads", "1", "--max-steps", "2", "--lr", "1e-5")
    found = retrograde("train", table, "--out", tmp_path / "stuck", *COLUMNS, *options)
    assert found.code == 0 and "Not learned" in found.out and "need 19: try --cell gru" in found.out
    assert 'id="doctor"' in (tmp_path / "stuck" / "report.html").read_text()
    assert "need 19: try --cell gru" in " ".join(retrograde("flow", tmp_path / "stuck").out.split())


def test_a_run_that_learned_gets_no_advice(retrograde, text, tmp_path):
    options = [word for word in TINY if word not in ("--quiet", "--no-report")]
    found = retrograde("train", text, "--out", tmp_path / "run", *options, "--max-steps", "150", "--lr", "0.02")
    assert found.code == 0 and "Not learned" not in found.out, found.out
    assert not (tmp_path / "run" / "doctor.json").exists()
    assert "Not learned" not in retrograde("flow", tmp_path / "run").out


def test_a_proof_tries_the_prescriptions_and_is_kept(retrograde, run):
    found = retrograde("doctor", run, "--prove", "--budget", "1h", "--seeds", "1", "--workers", "1")
    assert found.code == 0, found.err
    assert "examined in" in found.out
    assert "untreated" in found.out and "placebo" in found.out and "cannot tell" in found.out
    kept = json.loads((run / "doctor-trial.json").read_text())
    assert kept["updates"] == 4 and {"untreated", "placebo", "random", "remedy"} <= {a["role"] for a in kept["arms"]}
    tried = [arm for arm in kept["arms"] if arm["role"] == "remedy" and not arm["why"]]
    assert tried and all(len(arm["values"]) == 1 for arm in tried)
    again = retrograde("doctor", run, "--prove", "--budget", "1h", "--seeds", "1", "--workers", "1", "--json")
    assert json.loads(again.out)["trial"]["arms"][0]["seconds"] == kept["arms"][0]["seconds"], "nothing was run again"
    shown = retrograde("doctor", run, "--prove", "--budget", "1h", "--seeds", "1", "--workers", "1")
    assert shown.code == 0 and "examined in" not in shown.out, "a proof goes on with the remedies it began with"


def test_settings_of_a_proof_are_checked_before_anything_is_measured(retrograde, run):
    for words, text in (
        (("--budget", "10m"), "--budget is for --prove"),
        (("--prove", "--seeds", "0"), "--seeds 0 is impossible"),
        (("--prove", "--budget", "soon"), "--budget 'soon' is not a duration"),
    ):
        found = retrograde("doctor", run, *words)
        assert found.code == 2 and text in found.err


def test_the_doctor_computes_with_as_many_threads_as_are_asked_for(retrograde, run, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert retrograde("doctor", run, "--threads", "3", "--no-save").code == 0 and 3 in asked
