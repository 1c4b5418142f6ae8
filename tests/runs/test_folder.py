"""What is read of a run folder that somebody else may have made: regular files up to a limit, one meaning for all."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrograde.cli import main
from retrograde.errors import RunError
from retrograde.experiment import train
from retrograde.runs import RunFolder
from retrograde.runs.folder import LIMITS, LINES, limit_of

pytestmark = pytest.mark.timeout(60)
SMALL = {"hidden_size": 6, "max_steps": 8, "eval_every": 4, "threads": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of text, with its flow and page, and one of a table."""
    folder = tmp_path_factory.mktemp("made")
    text, table = folder / "text.txt", folder / "table.csv"
    text.write_text("".join(f"line {i}: cat {i % 7} sat on mat {i % 5}.\n" for i in range(40)))
    table.write_text("text,label\n" + "good words,a\nbad words,b\n" * 12)
    train(text, folder / "language", bptt=9, batch_size=3, record_flow=True, **SMALL)
    train(table, folder / "classify", task="classify", report=False, **SMALL)
    return {"language": folder / "language", "classify": folder / "classify", "text": text, "table": table}


@pytest.fixture
def run(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["language"], tmp_path / "run"))


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return int(ended.value.code or 0), shown.err


def commands(run: Path, made: dict[str, Path]) -> dict[str, list[object]]:
    data = made["table"] if "classify" in run.name else made["text"]
    return {
        "info": ["info", run],
        "report": ["report", run],
        "evaluate": ["evaluate", run, data],
        "generate": ["generate", run, "--length", 3],
        "predict": ["predict", run, data, "--out", run.parent / "out.csv"],
        "flow": ["flow", run, data, "--sequences", 1, "--steps", 4],
        "resume": ["train", data, "--out", run, "--resume", "--no-report", "--quiet"],
        "overwrite": ["train", data, "--out", run, "--overwrite", "--no-report", "--quiet", "--max-steps", "1"],
    }


def replaced(path: Path, kind: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 42)


NAMES = [*LIMITS, "model.safetensors", "flow/trained.safetensors", "checkpoints/step-000000009.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_anything_but_a_regular_file_is_refused_by_every_command(
    name: str, run: Path, made: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("pipe", "folder", "device", "huge"):
        replaced(run / name, kind)
        for which, words in commands(run, made).items():
            if kind == "pipe" or which in ("info", "report", "resume"):
                code, said = command(capsys, *words)
                assert code == 2 and said.count("\n") == 1 and Path(name).name in said, (kind, words, said)
        if kind == "folder":
            (run / name).rmdir()
    assert not (run.parent / "out.csv").exists()


@pytest.mark.parametrize("name", [".lock", "report.html"])
def test_what_is_only_written_does_not_hang_either(
    name: str, run: Path, made: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(run / name, "pipe")
    for words in commands(run, made).values():
        code, said = command(capsys, *words)
        assert code == 2 and said.count("\n") == 1 and name in said


def test_folders_of_the_run_that_are_pipes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("checkpoints", "flow"):
        shutil.rmtree(run / name)
        os.mkfifo(run / name)
        code, said = command(capsys, "report", run)
        assert code == 2 and f"{name} is not a folder" in said
        (run / name).unlink()


FORMATS = [0, -1, 2, 10**400, True, None, "1", 1.0, [1]]


@pytest.mark.parametrize("version", FORMATS, ids=lambda version: repr(version)[:9])
def test_a_format_means_the_same_to_every_command(
    version: Any, made: dict[str, Path], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (run, Path(shutil.copytree(made["classify"], tmp_path / "classify")))[: 2 if version == 0 else 1]:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"format": version}))
        for words in commands(folder, made).values():
            code, said = command(capsys, *words)
            assert code == 2 and said.count("\n") == 1, words
            assert "upgrade retrograde" in said or "was not written by retrograde" in said or "digits" in said


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda config: [config],
    "no options": lambda config: {key: value for key, value in config.items() if key != "options"},
    "an option unknown": lambda config: config | {"options": config["options"] | {"nonsense": 1}},
    "an option impossible": lambda config: config | {"options": config["options"] | {"hidden_size": -1}},
    "another task": lambda config: config | {"task": "tag"},
    "true parameters": lambda config: config | {"parameters": True},
    "no source": lambda config: config | {"data": {}},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_configuration_is_refused_by_every_command(
    damage: str, made: dict[str, Path], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(DAMAGE[damage](config)))
    said = {name: command(capsys, *words) for name, words in commands(run, made).items()}
    assert {code for code, _ in said.values()} == {2}, said
    assert len({line for _, line in said.values()}) == 1, said  # one reader, one line


@pytest.mark.parametrize(
    ("content", "words"), [('{"format": 1, ', "damaged, not complete JSON"), ("[1, 2]", "not a JSON object")]
)
def test_json_that_is_not_read_is_named(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=f"config.json cannot be read: it is {words}"):
        RunFolder(tmp_path).read_json("config.json")


def test_many_lines_are_read_fast_or_refused_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Processor time, so that other work on the machine does not count.
    metrics = run / "metrics.jsonl"
    line = metrics.read_text().splitlines()[-1]
    metrics.write_text(f"{line}\n" * 25_000)
    began = time.process_time()
    assert command(capsys, "info", run)[0] == 0
    assert time.process_time() - began < 2
    metrics.write_bytes(b"{}\n" * 3_000_000)
    began = time.process_time()
    code, said = command(capsys, "info", run)
    assert code == 2 and f"3,000,000 lines; no more than {LINES:,} are read" in said
    assert command(capsys, "report", run)[0] == 0  # a page without what is not read
    assert "no more than" in (run / "report.html").read_text()
    assert time.process_time() - began < 10


def test_lines_that_are_no_objects_are_counted(run: Path) -> None:
    folder = RunFolder(run)
    rows = ['{"step": 1}', "", "[1]", "{", '{"step": 2}, {"step": 3}', '{"a": [1', "2]}", '{"step": 4}']
    (run / "metrics.jsonl").write_text("\n".join(rows))
    found = folder.lines("metrics.jsonl", dict)
    assert [row["step"] for row in found.rows] == [1, 4] and found.broken == 5
    with pytest.raises(RunError, match="5 of its lines are no JSON objects"):
        folder.metrics()


def test_links_within_the_run_are_followed(run: Path) -> None:
    (run / "config.json").rename(run / "kept.json")
    (run / "config.json").symlink_to("kept.json")
    assert RunFolder(run).config().task == "language"


def test_an_empty_name_is_no_run() -> None:
    with pytest.raises(RunError, match="the name of the run folder is empty"):
        RunFolder("")


@pytest.mark.parametrize(("name", "megabytes"), [("flow/recorded.jsonl", 64), ("summary.json", 16), ("sample.txt", 1)])
def test_files_are_read_up_to_their_limit(name, megabytes):
    assert limit_of(name) == megabytes << 20
