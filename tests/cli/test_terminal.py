"""Nothing that comes from data gives orders to a terminal: not by its content, its names, its path, nor in JSON."""

from __future__ import annotations

import ast
import json
import os
import pty
import shutil
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY

import retrograde.cli
from retrograde.cli import main
from retrograde.cli.terminal import _UNSAFE, console, guarded, note, printable, say, say_json, write

# A title, a colour, C1's CSI, DEL, an order of text turned round, half a character, ends of lines, tags, a backspace.
HOSTILE = "\x1b]0;own\x07\x1b[31m\x9b2J\x7f\u202egnp\u2066\ud800\r\n\u2028\x00\b\u200b\ufeff\U000e0041"
KEY = f"k{HOSTILE}"


def is_safe(text: str, lines: int | None = None) -> bool:
    """Whether nothing unsafe is left but ends of lines (so many, if given)."""
    return not _UNSAFE.search(text.replace("\n", "").replace("\t", "")) and lines in (None, text.count("\n"))


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_printable(text: str) -> None:
    shown = printable(text)
    assert is_safe(shown) and printable(shown) == shown
    shown.encode()
    assert "\n" not in printable(text, lines=False) and "\t" not in printable(text, lines=False)


def test_what_cannot_be_seen_becomes_an_escape() -> None:
    joins = "\u200c\u200d"  # within words of Persian and Hindi, and within emoji
    signs = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"  # drawn around numbers and words
    hidden = [one for one in map(chr, range(0x10000)) if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp", "Cs")]
    assert len(hidden) > 2_100
    kept = [one for one in hidden if one in printable(f"a{one}b", lines=False)]
    assert "".join(kept) == "".join(sorted(joins + signs))


def test_letters_of_any_language_stay_as_they_are() -> None:
    text = "naïve 汉字 עברית ไทย 👩\u200d👧 e\u0301"
    assert printable(text) == text


@given(st.recursive(st.text() | st.floats() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_json_is_escaped_and_reads_back(value: object) -> None:
    import io
    from contextlib import redirect_stdout

    with redirect_stdout(io.StringIO()) as shown:
        say_json({"a": value, KEY: HOSTILE})
    line = shown.getvalue()
    assert is_safe(line, lines=1)
    line.encode()
    assert json.loads(line, parse_constant=pytest.fail)[KEY] == HOSTILE


def test_every_way_to_print_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command() -> None:
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        sys.stdout.writelines([HOSTILE])
        warnings.warn(HOSTILE, stacklevel=1)
        say(HOSTILE)
        note(HOSTILE)
        write(HOSTILE)
        console().print(HOSTILE)

    command()
    shown = capsys.readouterr()
    assert is_safe(shown.out) and is_safe(shown.err) and shown.err.count("own") == 3
    assert not isinstance(sys.stdout, type(None)) and "Door" not in type(sys.stdout).__name__


def test_no_other_module_of_the_command_line_prints() -> None:
    """Every print is one of the door's, so that none can be forgotten."""
    for path in sorted(Path(retrograde.cli.__file__).parent.glob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                named = ast.unparse(node.func)
                assert named not in ("print", "typer.echo", "typer.secho", "click.echo", "Console", "input"), where
                assert not named.endswith((".stdout.write", ".stderr.write", "print_exc", "print_exception")), where
                assert named != "rich.print", where


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    text, table = folder / "text.txt", folder / "table.csv"
    text.write_text("".join(f"line {i}: the cat \x1b[31m {i % 7} sat on \u202e mat {i % 5}.\n" for i in range(99)))
    with table.open("w", encoding="utf-8", newline="") as file:
        odd = HOSTILE.replace("\ud800", "").replace("\x00", "").replace("\r\n", "")
        file.write(f"text,label,{odd}\n" + f"good {odd} words,a{odd},1\nbad words,b{odd},2\n" * 12)
    for task, data in (("language", text), ("classify", table)):
        with pytest.raises(SystemExit) as ended:
            options = ["--bptt", "20"] if task == "language" else ["--text", "text", "--label", "label"]
            options += ["--hidden-size", "8", "--embedding-size", "6", "--quiet", "--no-report", "--max-steps", "4"]
            main(["train", str(data), "--task", task, *options, "--out", str(folder / task)])
        assert ended.value.code == 0
    return {"language": folder / "language", "classify": folder / "classify", "text": text, "table": table}


def spoiled(value: object) -> object:
    """With hostile names and texts wherever there may be some."""
    if isinstance(value, dict):
        return {key: spoiled(item) for key, item in value.items()} | {KEY: HOSTILE, f"{KEY}2": {"loss": 1.0, KEY: KEY}}
    if isinstance(value, list):
        return [spoiled(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize("task", ["language", "classify"])
@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "evaluation.json", "config.json"])
def test_a_hostile_run_folder(task: str, name: str, made: dict[str, Path], tmp_path: Path, retrograde) -> None:
    odd = HOSTILE.replace("\x00", "").replace("\ud800", "").replace("\n", "")
    run = Path(shutil.copytree(made[task], tmp_path / f"run{odd}"))
    data = made["text" if task == "language" else "table"]
    if (run / name).exists():
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()] if name[-1] == "l" else None
        if lines is not None:
            (run / name).write_text("".join(json.dumps(spoiled(line)) + "\n" for line in lines))
        else:
            value = json.loads((run / name).read_text())
            if name == "config.json":  # what decides how the run is loaded stays
                value |= {"created": HOSTILE, "retrograde": HOSTILE, KEY: HOSTILE}
                value["environment"], value["data"] = spoiled(value["environment"]), spoiled(value["data"])
            else:
                value = spoiled(value)
            (run / name).write_text(json.dumps(value))
    for words in (
        ["info", run],
        ["info", run, "--json"],
        ["report", run],
        ["evaluate", run, data],
        ["evaluate", run, data, "--json"],
        ["predict", run, data, "--out", tmp_path / f"{odd}.csv"],
        ["flow", run, data, "--sequences", 1, "--steps", 4],
        ["flow", run, data, "--sequences", 1, "--steps", 4, "--json", "--csv", tmp_path / f"{odd}2.csv"],
        ["generate", run, "--length", 30, "--prompt", HOSTILE.replace("\ud800", "")],
        ["train", data, "--out", run, "--resume", "--no-report", "--max-steps", 6],
        ["train", data, "--out", run, "--resume", "--no-report", "--max-steps", 8, "--json"],
    ):
        outcome = retrograde(*words)
        assert is_safe(outcome.out) and is_safe(outcome.err), words
        assert "Traceback" not in outcome.err, words
        if "--json" in words and outcome.code == 0:
            json.loads(outcome.out)
        if outcome.code == 2:
            assert outcome.err.count("\n") == 1


def test_names_have_no_lines_of_their_own(made: dict[str, Path], tmp_path: Path, retrograde) -> None:
    """A name with a line end in it cannot pretend to be a line of the output."""
    run = Path(shutil.copytree(made["language"], tmp_path / "run"))
    summary = json.loads((run / "summary.json").read_text())
    before = retrograde("info", run).out.count("\n")
    summary["baselines"] = {"a\nstatus       finished": {"loss": 1.0}}
    (run / "summary.json").write_text(json.dumps(summary))
    assert retrograde("info", run).out.count("\n") <= before
    assert retrograde("info", tmp_path / "a\nretrograde: done").err.count("\n") == 1


def test_hostile_words_of_the_command_itself(retrograde, tmp_path: Path) -> None:
    odd = HOSTILE.replace("\x00", "")
    for words in (
        [odd],
        ["train", odd, "--out", tmp_path / "run"],
        ["train", tmp_path / "none", f"--{odd}"],
        ["evaluate", odd, odd],
        ["flow", "--checkpoint", odd],
        ["bench", "--cell", odd],
        ["train", "builtin:adding", "--out", tmp_path / "run", "--cell", odd],
    ):
        outcome = retrograde(*words)
        assert outcome.code == 2 and is_safe(outcome.err, lines=1) and outcome.out == ""


def test_a_bug_is_told_through_the_door(retrograde, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError(HOSTILE)

    monkeypatch.setattr("retrograde.runs.RunFolder.config", broken)
    outcome = retrograde("info", tmp_path)
    assert outcome.code == 1 and "KeyError" in outcome.err and is_safe(outcome.err)


def test_generated_text_is_raw_only_where_that_is_asked_for(made: dict[str, Path], retrograde) -> None:
    odd = "\x1b[31m"
    assert "\x1b" not in retrograde("generate", made["language"], "--prompt", odd, "--length", 3).out
    assert retrograde("generate", made["language"], "--prompt", odd, "--length", 3, "--raw").out.startswith(odd)


def test_on_a_terminal_colours_come_from_us_alone(made: dict[str, Path], tmp_path: Path) -> None:
    """The live display: escapes of its own reach the terminal, those of a path and a text do not."""
    odd = tmp_path / "a\x1b]0;own\x07\x9b31m.txt"
    shutil.copy(made["text"], odd)
    main_end, other_end = pty.openpty()
    words = [sys.executable, "-m", "retrograde", "train", odd, "--out", tmp_path / "run\x1b]0;own\x07", *TINY]
    words = [str(word) for word in words if word != "--quiet"] + ["--max-steps", "3"]
    done = subprocess.Popen(words, stdout=other_end, stderr=other_end, env=os.environ | {"TERM": "xterm"})
    os.close(other_end)
    shown = b""
    while True:
        try:
            part = os.read(main_end, 1 << 16)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(main_end)
    assert done.wait() == 0, shown
    assert b"\x1b[" in shown and b"own" in shown
    assert b"\x1b]0;own" not in shown and "\x9b".encode() not in shown and b"\x07" not in shown
