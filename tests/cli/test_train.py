"""Training as a user runs it: options, refusals, interruption, going on."""

from __future__ import annotations

import gzip
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from tiny import TINY

from retrograde.cli import app
from retrograde.options import OPTIONS
from retrograde.training.state import Progress


def newest(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run / "checkpoints").glob("step-*.safetensors")))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, object]]:
    clocks = {"seconds", "tokens_per_second", "waiting_share"}
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines(run)]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_holds_what_other_commands_read(retrograde, text, tmp_path):
    run = tmp_path / "run"
    options = [option for option in TINY if option != "--no-report"]
    outcome = retrograde("train", text, "--out", run, *options, "--max-steps", 30, "--eval-every", 10)
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""  # --quiet
    config, summary = (json.loads((run / name).read_text()) for name in ("config.json", "summary.json"))
    assert config["format"] == 1 and config["task"] == "language"
    assert config["options"]["hidden_size"] == 12 and config["options"]["lr"] == 0.002
    assert config["data"]["characters"] == len(text.read_text())
    assert config["parameters"] == sum(v.numel() for v in load_file(run / "model.safetensors").values())
    assert [line["step"] for line in lines(run)] == [0, 10, 20, 30]
    for line in lines(run)[1:]:
        assert 0 < line["gradient_norm_min"] <= line["gradient_norm_median"] <= line["gradient_norm_max"]
        assert line["validation_bits_per_character"] == pytest.approx(line["validation_loss"] / 0.6931471805599453)
    assert summary["status"] == "finished" and summary["step"] == 30
    assert summary["best_validation_loss"] == min(line["validation_loss"] for line in lines(run))
    assert summary["baselines"]["bigram"]["loss"] < summary["baselines"]["unigram"]["loss"]
    assert len((run / "sample.txt").read_text()) == 300
    assert sorted(path.name for path in (run / "flow").iterdir()) == sorted(
        f"{name}.{end}" for name in ("trained", "untrained") for end in ("json", "safetensors")
    )
    assert "<html" in (run / "report.html").read_text()


def test_the_loss_falls_below_the_bigram_where_more_than_a_pair_matters(retrograde, text, tmp_path):
    run = tmp_path / "run"
    options = "--hidden-size 64 --bptt 40 --batch-size 4 --lr 0.01 --epochs 12 --threads 1 --no-report --json"
    outcome = retrograde("train", text, "--out", run, *options.split())
    summary = json.loads(outcome.out)  # nothing but JSON on stdout
    assert summary["best_validation_loss"] < 0.8 * summary["baselines"]["bigram"]["loss"]
    assert "validation loss" in outcome.err
    assert " 64 units, " in outcome.err and " parameters; " in outcome.err and " steps of " in outcome.err


def test_resumed_is_bit_for_bit_never_stopped(retrograde, text, tmp_path):
    """Stopped amid an epoch and between two evaluations, with dropout drawing random numbers."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*TINY, "--num-layers", 2, "--dropout", 0.3, "--eval-every", 20]
    assert retrograde("train", text, "--out", whole, *options, "--max-steps", 90).code == 0
    assert retrograde("train", text, "--out", parts, *options, "--max-steps", 47).code == 0
    assert lines(parts)[-1]["step"] == 47
    assert retrograde("train", "--out", parts, "--resume", "--max-steps", 70, "--quiet", "--no-report").code == 0
    assert retrograde("train", text, "--out", parts, "--resume", "--max-steps", 90, "--quiet", "--no-report").code == 0
    assert same(newest(whole), newest(parts))
    assert same(load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors"))
    assert timeless(whole) == timeless(parts)
    assert (whole / "sample.txt").read_text() == (parts / "sample.txt").read_text()


@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer", "sgd", "--lr", "0.5"],
        ["--optimizer", "sgd", "--momentum", "0.9", "--lr", "0.1", "--clip-value", "0.05"],
        ["--optimizer", "adamw", "--weight-decay", "0.1", "--no-clip", "--warmup", "10"],
        ["--schedule", "step", "--decay-every", "0.5", "--tie"],
        ["--tokens", "word", "--min-count", "2", "--cell", "rnn", "--nonlinearity", "relu"],
        ["--tokens", "bpe", "--vocab-size", "300", "--schedule", "cosine", "--epochs", "3"],
    ],
)
def test_every_kind_of_option_trains_and_resumes(retrograde, text, tmp_path, options):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    short = ["--hidden-size", 12, "--embedding-size", 6, "--bptt", 10, "--threads", 1, "--quiet", "--no-report"]
    common = [text, *short, "--eval-every", 7, *options]
    assert retrograde("train", *common, "--out", whole, "--max-steps", 24).code == 0
    # The cosine's end is where the planned steps end, so this one is stopped by time instead, at once.
    assert retrograde("train", *common, "--out", parts, "--max-steps", 24, "--max-time", "0.02s").code == 0
    assert lines(parts)[-1]["step"] < 24
    assert retrograde("train", "--out", parts, "--resume", "--quiet", "--no-report").code == 0
    assert same(newest(whole), newest(parts))
    assert timeless(whole) == timeless(parts)


def test_interrupted_it_leaves_a_usable_run(retrograde, text, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*TINY, "--eval-every", 15, "--dropout", 0.2, "--max-steps", 50]
    count = Progress.count

    def interrupt(progress: Progress, *arguments: float) -> None:
        count(progress, *arguments)
        if progress.step == 20:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "count", interrupt)
        assert retrograde("train", text, "--out", parts, *options).code == 130
    summary = json.loads((parts / "summary.json").read_text())
    assert summary["status"] == "interrupted" and summary["step"] == 20
    assert len(retrograde("generate", parts, "--length", 20).out) >= 20
    assert retrograde("train", "--out", parts, "--resume", "--quiet", "--no-report").code == 0
    assert retrograde("train", text, "--out", whole, *options).code == 0
    assert same(newest(whole), newest(parts))
    assert timeless(whole) == timeless(parts)


def test_a_process_keeps_others_out_and_may_be_killed(retrograde, text, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*TINY, "--eval-every", 15, "--dropout", 0.2, "--max-steps", 60]
    command = [sys.executable, "-m", "retrograde", "train", text, "--out", parts, *options]
    command[-1] = 1_000_000
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while not list((parts / "checkpoints").glob("step-*[1-9].safetensors")):
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.005)
        outcome = retrograde("train", "--out", parts, "--resume")
        assert outcome.code == 2 and "in use by another process" in outcome.err
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    reached = max(int(path.name[5:14]) for path in (parts / "checkpoints").glob("step-*"))
    steps = ["--max-steps", reached + 5]
    assert retrograde("train", "--out", parts, "--resume", "--quiet", "--no-report", *steps).code == 0
    assert retrograde("train", text, "--out", whole, *options, *steps).code == 0
    assert same(newest(whole), newest(parts))
    assert timeless(whole) == timeless(parts)


DIVERGES = ["--optimizer", "sgd", "--cell", "rnn", "--nonlinearity", "relu", "--no-clip", "--lr", "100"]


@pytest.mark.parametrize("eval_every", [1, 1000])
def test_a_loss_that_is_no_number_stops_with_what_to_change(retrograde, text, tmp_path, eval_every):
    run = tmp_path / "run"
    outcome = retrograde("train", text, "--out", run, *TINY, *DIVERGES, "--eval-every", eval_every)
    assert outcome.code == 3
    assert outcome.err.count("\n") == 1
    for word in ("diverged at step", "last gradient norms", "--lr 25", "--clip-norm 1"):
        assert word in outcome.err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "diverged" and summary["message"] in outcome.err
    assert all(torch.isfinite(tensor.double()).all() for tensor in newest(run).values())
    assert lines(run)[0]["step"] == 0 and (len(lines(run)) > 1) == (eval_every == 1)
    assert retrograde("generate", run, "--length", 5).code == 0  # the good weights before it are kept
    (run / "model.safetensors").unlink()
    written = retrograde("generate", run, "--length", 5)
    assert written.code == 2 and "before its first evaluation" in written.err


def test_an_output_folder_is_never_overwritten_by_surprise(retrograde, text, tmp_path):
    run = tmp_path / "run"
    assert retrograde("train", text, "--out", run, *TINY, "--max-steps", 3).code == 0
    (run / "my notes.txt").write_text("keep")
    (run / "checkpoints" / "mine.bin").write_text("keep")
    before = snapshot(run)
    outcome = retrograde("train", text, "--out", run, *TINY, "--max-steps", 3)
    assert outcome.code == 2 and "--resume" in outcome.err and "--overwrite" in outcome.err
    assert retrograde("train", tmp_path / "missing", "--out", run, "--overwrite").code == 2
    assert snapshot(run) == before  # bad data with --overwrite costs nothing either
    outcome = retrograde("train", text, "--out", run, *TINY, "--max-steps", 5, "--overwrite", "--hidden-size", 8)
    assert outcome.code == 0
    assert (run / "my notes.txt").read_text() == (run / "checkpoints" / "mine.bin").read_text() == "keep"
    assert json.loads((run / "config.json").read_text())["options"]["hidden_size"] == 8
    assert lines(run)[-1]["step"] == 5


def test_max_steps_are_taken_however_many_epochs_they_are(retrograde, text, tmp_path):
    run, few = tmp_path / "run", [*TINY, "--bptt", 2000]  # an epoch is one step, ten are the default
    assert retrograde("train", text, "--out", run, *few, "--max-steps", 13).code == 0
    assert lines(run)[-1]["step"] == 13
    assert retrograde("train", "--out", run, "--resume", "--max-steps", 15, "--quiet", "--no-report").code == 0
    assert lines(run)[-1]["step"] == 15
    both = ["--epochs", 2, "--max-steps", 13]
    assert retrograde("train", text, "--out", tmp_path / "both", *few, *both).code == 0
    assert lines(tmp_path / "both")[-1]["step"] == 2


def test_a_folder_that_is_no_run_is_not_touched_even_with_overwrite(retrograde, text, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    for more in ([], ["--overwrite"]):
        outcome = retrograde("train", text, "--out", home, *TINY, *more)
        assert outcome.code == 2 and "contains no run" in outcome.err
    assert snapshot(home) == {"thesis.tex": b"years of work"}


def test_resume_refuses_what_contradicts_the_run(retrograde, text, tmp_path):
    run = tmp_path / "run"
    assert retrograde("train", text, "--out", run, *TINY, "--max-steps", 5).code == 0
    before = snapshot(run)
    outcome = retrograde("train", "--out", run, "--resume", "--hidden-size", 99)
    assert outcome.code == 2 and "--hidden-size 99 contradicts the run, which has 12" in outcome.err
    other = tmp_path / "other.txt"
    other.write_text(text.read_text().upper())
    outcome = retrograde("train", other, "--out", run, "--resume")
    assert outcome.code == 2 and "is not " in outcome.err
    outcome = retrograde("train", "--out", run, "--resume", "--overwrite")
    assert outcome.code == 2 and "exclude one another" in outcome.err
    outcome = retrograde("train", "--out", run, "--resume", "--validation", other)
    assert outcome.code == 2 and "--validation is for --task" in outcome.err
    assert snapshot(run) == before
    assert retrograde("train", "--out", run, "--resume", "--hidden-size", 12, "--max-steps", 6, "--quiet").code == 0
    assert lines(run)[-1]["step"] == 6


def test_a_damaged_checkpoint_gives_way_to_the_one_before(retrograde, text, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = [*TINY, "--eval-every", 10, "--max-steps", 40]
    assert retrograde("train", text, "--out", whole, *options).code == 0
    assert retrograde("train", text, "--out", run, *options).code == 0
    newest_file = max((run / "checkpoints").glob("step-*.safetensors"))
    newest_file.write_bytes(newest_file.read_bytes()[:-100])
    outcome = retrograde("train", "--out", run, "--resume", "--no-report")
    assert outcome.code == 0 and "cannot be read" in outcome.err
    assert same(newest(whole), newest(run))
    for file in (run / "checkpoints").glob("step-*.safetensors"):
        file.write_bytes(b"")
    outcome = retrograde("train", "--out", run, "--resume", "--no-report")
    assert outcome.code == 2 and "none can be read" in outcome.err


def test_resume_before_the_first_evaluation(retrograde, text, tmp_path):
    """What is left if the process is killed at once: options, vocabulary, the checkpoint of step 0."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = [*TINY, "--eval-every", 10, "--max-steps", 15]
    assert retrograde("train", text, "--out", whole, *options).code == 0
    assert retrograde("train", text, "--out", run, *options, "--max-time", "0.000001s").code == 0
    (run / "model.safetensors").unlink()
    (run / "summary.json").unlink()
    for command in ("generate", "evaluate"):
        outcome = retrograde(command, run, *([text] if command == "evaluate" else []))
        assert outcome.code == 2 and "contains no trained weights" in outcome.err
    assert "killed" in retrograde("info", run).out
    assert retrograde("train", "--out", run, "--resume", "--quiet", "--no-report").code == 0
    assert same(newest(whole), newest(run))


def test_a_run_of_a_newer_format_is_refused_by_every_command(retrograde, text, tmp_path):
    run = tmp_path / "run"
    assert retrograde("train", text, "--out", run, *TINY, "--max-steps", 2).code == 0
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "format": 2, "retrograde": "9.0"}))
    for arguments in (
        ("generate", run),
        ("evaluate", run, text),
        ("info", run),
        ("train", "--out", run, "--resume"),
        ("train", text, "--out", run, "--overwrite"),
    ):
        outcome = retrograde(*arguments)
        assert outcome.code == 2 and "9.0" in outcome.err and "upgrade" in outcome.err, arguments


def test_the_help_lists_every_option_with_its_default_and_the_docs_name_no_other(retrograde):
    commands = typer.main.get_command(app).commands
    parameters = {parameter.name: parameter for parameter in commands["train"].params}
    for name, option in OPTIONS.items():
        assert option.help.format(choices=", ".join(option.choices)) in parameters[name].help
        assert option.default_words() in parameters[name].help
        assert parameters[name].rich_help_panel == option.panel and parameters[name].default == option.default
        assert option.flag in parameters[name].opts
    known = {
        name for command in commands.values() for one in command.params for name in (*one.opts, *one.secondary_opts)
    }
    home = Path(__file__).parents[2]
    for page in (home / "README.md", *(home / "docs").rglob("*.md")):
        for line in page.read_text().splitlines():
            for code in [line, *re.findall(r"`([^`]+)`", line)]:
                ours = code if code.startswith("--") else code.partition("retrograde ")[2]
                assert set(re.findall(r"(?<![\w-])--[a-z-]+", ours)) <= {"--help", "--version", *known}, (page, code)


IMPOSSIBLE = [
    (["--hidden-size", "-3"], "--hidden-size -3"),
    (["--num-layers", "0"], "--num-layers 0"),
    (["--embedding-size", "0"], "--embedding-size 0"),
    (["--vocab-size", "0"], "--vocab-size 0"),
    (["--tokens", "bpe", "--vocab-size", "10"], "--vocab-size 10"),
    (["--min-count", "99999"], "--min-count 99999"),
    (["--clip-norm", "0"], "--clip-norm 0"),
    (["--clip-value", "-1"], "--clip-value -1"),
    (["--clip-norm", "1", "--clip-value", "1"], "exclude one another"),
    (["--no-clip", "--clip-norm", "1"], "--no-clip excludes"),
    (["--dropout", "1"], "--dropout 1"),
    (["--dropout", "nan"], "--dropout nan"),
    (["--lr", "0"], "--lr 0"),
    (["--lr", "inf"], "--lr inf"),
    (["--momentum", "0.9", "--optimizer", "adam"], "--momentum"),
    (["--nonlinearity", "relu", "--cell", "gru"], "--nonlinearity"),
    (["--bptt", "100000"], "--bptt 100000"),
    (["--batch-size", "100000"], "--batch-size 100000"),
    (["--validation-fraction", "1"], "--validation-fraction 1"),
    (["--epochs", "0"], "--epochs 0"),
    (["--max-steps", "0"], "--max-steps 0"),
    (["--max-time", "soon"], "--max-time 'soon'"),
    (["--max-time", "0s"], "--max-time"),
    (["--seed", "-1"], "--seed -1"),
    (["--threads", "0"], "--threads 0"),
    (["--encoding", "klingon"], "--encoding 'klingon'"),
    (["--encoding", "rot13"], "--encoding 'rot13'"),
    (["--cell", "transformer"], "--cell"),
    (["--hidden-size", "many"], "--hidden-size"),
    (["--hiden-size", "3"], "--hidden-size"),
]


@pytest.mark.parametrize(("options", "said"), IMPOSSIBLE, ids=lambda value: " ".join(value) if value else None)
def test_impossible_options_get_one_line_and_leave_nothing(retrograde, text, tmp_path, options, said):
    run = tmp_path / "run"
    outcome = retrograde("train", text, "--out", run, *options)
    assert outcome.code == 2
    assert outcome.out == "" and outcome.err.count("\n") == 1
    assert said in outcome.err and "Traceback" not in outcome.err
    assert not run.exists()


def test_bad_data_gets_one_line_and_leaves_nothing(retrograde, tmp_path):
    cases = {
        "empty.txt": (b"", "is empty"),
        "binary.bin": (b"\x7fELF\x00\x01\xff\x00", "binary"),
        "nul.txt": (b"some text\x00 and more", "offset 9"),
        "latin.txt": ("déjà vu".encode("latin-1"), "byte 0xe9 at offset 1 "),
        "wide.txt": ("wide text".encode("utf-16"), "--encoding utf-16"),
        "short.txt": (b"abc", "too short"),
        "broken.gz": (gzip.compress(b"hello" * 1000)[:-12], "damaged gzip"),
        "false.gz": (b"not gzip at all", "not a gzip file"),
    }
    for name, (content, said) in cases.items():
        file = tmp_path / name
        file.write_bytes(content)
        outcome = retrograde("train", file, "--out", tmp_path / "run")
        assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1, (name, outcome)
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    for data, said in (
        (hollow, "holds no text"),
        (tmp_path / "gone", "does not exist"),
        ("builtin:x", "builtin:stdlib"),
    ):
        outcome = retrograde("train", data, "--out", tmp_path / "run")
        assert outcome.code == 2 and said in outcome.err
    assert not (tmp_path / "run").exists()


# Root may write everywhere, so it gives up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (24: PR_CAPBSET_DROP) first.
AS_A_USER = """if True:
    import ctypes, os, sys
    if os.geteuid() == 0:
        assert [ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) for capability in (1, 2)] == [0, 0]
    os.execv(sys.executable, [sys.executable, "-m", "retrograde", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the bits of a folder do not keep a process out there")
def test_a_folder_that_may_not_be_written_is_refused_before_any_work(text, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    command = [sys.executable, "-c", AS_A_USER, "train", text, "--out", locked / "run", *TINY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "cannot be written" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(locked.iterdir())


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("utf-8", "私は猫である。名前はまだ無い。\n" * 60),
        ("utf-8", "النصّ العربيّ يُكتب من اليمين إلى اليسار.\n" * 60),
        ("utf-8", "e\u0301a\u0300o\u0302 n\u0303 \U0001f44d\U0001f3fd\n" * 60),
        ("cp1251", "Все счастливые семьи похожи друг на друга.\n" * 60),
        ("latin-1", "Éloge de l'été à l'œil nu\n".replace("œ", "oe") * 60),
        ("utf-16", "Zwölf Boxkämpfer jagen Viktor.\r\n" * 60),
    ],
)
def test_other_languages_and_encodings(retrograde, tmp_path, encoding, content):
    file, run = tmp_path / "text.txt", tmp_path / "run"
    file.write_bytes(content.encode(encoding))
    for tokens in ("char", "word", "bpe"):
        more = ["--tokens", tokens, "--overwrite", "--encoding", encoding, "--bptt", 8, "--max-steps", 4]
        outcome = retrograde("train", file, "--out", run, *TINY, *more)
        assert outcome.code == 0, outcome.err
        prompt = content[:5]
        outcome = retrograde("generate", run, "--prompt", prompt, "--length", 30, "--seed", 1)
        assert outcome.code == 0 and outcome.out.startswith(prompt) and len(outcome.out) == len(prompt) + 30
        outcome = retrograde("evaluate", run, file, "--json")
        scored = json.loads(outcome.out)
        nats = scored["loss"] * scored["tokens"]
        assert scored["bits_per_character"] == pytest.approx(nats / 0.6931471805599453 / scored["characters"])


def test_standard_input(retrograde, tmp_path, monkeypatch):
    content = "".join(f"number {i} of many lines\n" for i in range(100))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    outcome = retrograde("train", "-", "--out", tmp_path / "run", *TINY, "--max-steps", 3)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["source"] == "-"
    outcome = retrograde("train", "--out", tmp_path / "run", "--resume")
    assert outcome.code == 2 and "trained on standard input" in outcome.err


def test_a_line_per_evaluation_where_the_output_is_no_terminal(retrograde, text, tmp_path):
    loud = [option for option in TINY if option != "--quiet"]
    outcome = retrograde("train", text, "--out", tmp_path / "run", *loud, "--max-steps", 20, "--eval-every", 5)
    evaluations = [line for line in outcome.out.splitlines() if line.startswith("step ")]
    assert len(evaluations) == 5  # that of step 0 too
    for word in ("train loss", "perplexity", "bits/character", "tokens/s", "gradient norm", "clipped", "left"):
        assert word in evaluations[1]
    assert "\x1b" not in outcome.out
