from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from retrograde.cli import _commands_of, app, main


def test_help_does_not_wait_for_torch():
    program = """if True:
        import sys
        from retrograde.cli import _commands_of, app, main
        for line in sys.stdin:
            try:
                main(line.split())
            except SystemExit as end:
                assert end.code == (2 if "nonsense" in line else 0), (line, end.code)
            assert "torch" not in sys.modules, line
    """
    commands = "--help\ntrain --help\n--version\ntrain --nonsense\n"
    done = subprocess.run([sys.executable, "-c", program], input=commands, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_option_is_explained(retrograde):
    shown = retrograde("train", "--help").out
    options = (
        "--out --cell --nonlinearity --tokens --vocab-size --min-count --embedding-size --hidden-size --num-layers "
        "--dropout --tie --optimizer --lr --momentum --weight-decay --clip-norm --clip-value --bptt --batch-size "
        "--epochs --max-steps --max-time --schedule --warmup --seed --threads --device --resume --overwrite --json "
        "--encoding --validation-fraction --eval-every --no-report --quiet"
    )
    for option in options.split():
        assert option in shown, option
    assert "Examples" in shown


def test_no_arguments_show_the_help(retrograde):
    outcome = retrograde()
    assert outcome.code == 0 and "train" in outcome.out and "generate" in outcome.out


def test_an_unknown_command_gets_one_line(retrograde):
    outcome = retrograde("trian")
    assert outcome.code == 2 and outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "", "--out", "run"], "an argument is empty"),
        (["train", "a.txt", "--out", ""], "--out is empty"),
        (["train", "a.txt", "--out="], "--out is empty"),
        (["train", "a.txt", "--out", "run", "--validation", ""], "--validation is empty"),
        (["info", ""], "an argument is empty"),
        (["report", ""], "an argument is empty"),
        (["evaluate", "run", ""], "an argument is empty"),
        (["flow", "run", ""], "an argument is empty"),
        (["flow", "--checkpoint", ""], "--checkpoint is empty"),
        (["train", "/dev/zero", "--out", "run"], "/dev/zero is a device, not a file"),
        (["train", "/", "--out", "run"], "/ is the whole file system"),
        (["train", "a.csv", "--task", "classify", "--out", "run"], "a.csv is a device"),
        (["train", "b.csv", "--task", "classify", "--validation", "/dev/zero", "--out", "run"], "/dev/zero"),
        (["train", "b.csv", "--task", "classify", "--test", "a.csv", "--out", "run"], "a.csv is a device"),
        (["flow", "--checkpoint", "/dev/zero"], "/dev/zero is a device"),
        (["flow", "--checkpoint", "pipe"], "pipe is a pipe"),
        (["flow", "--checkpoint", "b.csv", "--input", "/dev/urandom"], "/dev/urandom is a device"),
    ],
)
def test_names_that_lead_nowhere_or_have_no_end(retrograde, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("words " * 1000)
    (tmp_path / "a.csv").symlink_to("/dev/urandom")
    (tmp_path / "b.csv").write_text("text,label\n" + "good words,a\nbad words,b\n" * 9)
    os.mkfifo(tmp_path / "pipe")
    outcome = retrograde(*arguments)
    assert outcome.code == 2 and named in outcome.err and outcome.err.count("\n") == 1 and outcome.out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    ["train", "train --lr -1", "train --task classify --out run", "train --search 3", "doctor", "doctor --task tag"],
)
def test_data_that_does_not_exist_comes_before_all_other_questions(retrograde, arguments):
    command, *options = arguments.split()
    for name in ("gone.csv", "gone.txt", "gone/there"):
        outcome = retrograde(command, name, *options)
        assert outcome.code == 2 and outcome.err.count("\n") == 1
        assert outcome.err.startswith(f"retrograde: {name} ") and "does not exist" in outcome.err.replace(
            "is not a file here", "does not exist"
        )


@pytest.mark.parametrize("arguments", ["predict gone", "predict gone a.csv", "evaluate gone", "evaluate gone a.csv"])
def test_a_run_that_does_not_exist_comes_before_all_other_questions(retrograde, arguments):
    outcome = retrograde(*arguments.split())
    assert (outcome.code, outcome.err) == (
        2,
        "retrograde: gone does not exist: name the --out folder of a training run.\n",
    )


def test_an_empty_prompt_is_no_empty_name(retrograde, tmp_path):
    assert "does not exist" in retrograde("generate", tmp_path / "none", "--prompt", "").err


def test_a_reader_that_has_enough_ends_the_command(monkeypatch):
    """As in ``retrograde generate run | head``."""

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            return descriptor

    descriptor = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    os.close(descriptor)
    assert caught.value.code == 141


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in, with files that the commands name."""
    monkeypatch.chdir(tmp_path)
    for name in ("x", "x.csv", "run", "new.csv"):
        (tmp_path / name).write_text("x,y\n1,2\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("train x.csv", "--out is missing: run folder to write, e.g. --out runs/first."),
        ("train x.csv --out", "--out needs a value: run folder to write, e.g. --out runs/first."),
        ("train x.csv -o", "--out needs a value: run folder to write, e.g. --out runs/first."),
        ("train x.csv --out y --lr fast", "--lr 'fast': it must be a valid number."),
        ("train x.csv --out y --hidden-size=1.5", "--hidden-size '1.5': it must be a valid integer."),
        ("train x.csv --out y --pooling none", "--pooling 'none': 'none' is not one of 'last', 'mean', 'max'."),
        ("predict run new.csv", "--out is missing: the file to write: .jsonl, .csv or .parquet, e.g. --out stars.csv."),
        ("info", "RUN is missing: a run folder, e.g. retrograde info runs/first."),
        ("doctor run --budget", "--budget needs a value: time for that: 90s, 1h30m, e.g. --budget 30m."),
        ("bench --cell", "--cell needs a value: rnn, gru, lstm."),
    ],
)
def test_what_is_missing_is_named_with_an_example(retrograde, here, arguments, line):
    outcome = retrograde(*arguments.split())
    assert outcome.code == 2 and outcome.err == f"retrograde: {line}\n"


def test_every_required_parameter_says_what_to_give(retrograde, here):
    """Each command with one required parameter less than it needs: a line with its help and an example."""
    for name, command in _commands_of(app).commands.items():
        required = [one for one in command.params if one.required]
        for missing in required:
            others = [word for one in required if one is not missing for word in (*one.opts[:1], "x")]
            words = [word for word in others if word.startswith("-") or word == "x"]
            line = retrograde(name, *words).err
            example = missing.opts[0] if missing.opts[0].startswith("-") else f"retrograde {name}"
            assert line.count("\n") == 1 and " is missing: " in line and f", e.g. {example} " in line, (name, line)
