from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from retrograde.cli import main


def test_help_does_not_wait_for_torch():
    program = """if True:
        import sys
        from retrograde.cli import main
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
