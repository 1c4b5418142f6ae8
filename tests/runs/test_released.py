"""Run folders that released versions wrote: read, applied, measured, resumed by the present code."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from retrograde.cli import main
from retrograde.flow import GradientFlow

HOME = Path(__file__).parent / "released"
DATA = {
    "language": HOME / "data" / "text.txt",
    "classify": HOME / "data" / "reviews.csv",
    "tag": HOME / "data" / "names.jsonl",
    "forecast": HOME / "data" / "sales.csv",
    "synthetic": "builtin:latch?length=5",
}
RUNS = sorted(path for version in HOME.glob("[0-9]*") for path in version.iterdir() if path.is_dir())


@pytest.fixture(params=RUNS, ids=lambda path: f"{path.parent.name} {path.name}")
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    return shown.out


def test_every_task_of_every_version_is_there() -> None:
    assert RUNS and all({path.name for path in version.iterdir()} >= set(DATA) for version in HOME.glob("[0-9]*"))


def test_it_is_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "finished: all 6 steps taken" in command(capsys, "info", run)
    before = json.loads((run / "summary.json").read_text())
    assert json.loads(command(capsys, "info", run, "--json"))["summary"] == before
    command(capsys, "report", run)
    assert run.name in (run / "report.html").read_text(encoding="utf-8")
    for name in ("trained", "untrained"):
        assert GradientFlow.load(run / "flow" / name).norms.any()


def test_it_is_applied(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = DATA[run.name]
    found = json.loads(command(capsys, "evaluate", run, data, "--json"))
    assert found["loss"] > 0
    out = run.parent / "out.csv"
    command(capsys, "predict", run, data, "--out", out)
    with out.open(newline="") as file:
        assert len(list(csv.reader(file))) > 2
    if run.name == "language":
        assert len(command(capsys, "generate", run, "--length", 20, "--seed", 1)) >= 20
    measured = json.loads(command(capsys, "flow", run, data, "--sequences", 2, "--json"))
    assert measured["layers"]


def test_it_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = DATA[run.name]
    command(capsys, "train", data, "--out", run, "--resume", "--max-steps", 9, "--no-report", "--quiet")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["step"] == 9
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 6, 9]
