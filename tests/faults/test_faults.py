"""Every call that touches a file fails in turn, during one run of each task and each command.

What is asked then: exit code 2 and one line, or, where the failing call does not matter, the result as if nothing had
been; what was saved is whole; training goes on to the same weights. `make test` tries a sample that is the same every
time; `make faults` tries every call with every error.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from injection import CODES, Faults
from safetensors.torch import load_file

from retrograde.cli import main
from retrograde.errors import RunError
from retrograde.runs import RunFolder, Summary

SAMPLE = os.environ.get("FAULTS", "5")  # faults of each case, or "all"
pytestmark = pytest.mark.timeout(0 if "FAULTS" in os.environ else 120)

SMALL = [
    "--hidden-size",
    "4",
    "--max-steps",
    "4",
    "--eval-every",
    "2",
    "--threads",
    "1",
    "--quiet",
    "--batch-size",
    "3",
]
TASKS = {
    "language": ["text.txt", "--bptt", "9", "--embedding-size", "3"],
    "classify": ["table.csv", "--task", "classify", "--embedding-size", "3"],
    "tag": ["tags.jsonl", "--task", "tag", "--embedding-size", "3"],
    "forecast": ["series.csv", "--task", "forecast", "--horizon", "2", "--context", "4"],
    "synthetic": ["builtin:latch?length=5"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of every task, and a run of each: whole, and one that was stopped halfway."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text("".join(f"line {i}: cat {i % 7} sat on mat {i % 5}.\n" for i in range(20)))
    (folder / "table.csv").write_text("text,label\n" + "good words,a\nbad words,b\n" * 8)
    (folder / "tags.jsonl").write_text('{"tokens": ["a", "b"], "tags": ["B-X", "O"]}\n' * 12)
    (folder / "series.csv").write_text("value\n" + "".join(f"{i % 7}\n" for i in range(40)))
    for task, words in TASKS.items():
        before = Path.cwd()
        os.chdir(folder)
        try:
            assert run(["train", *words, "--out", f"whole-{task}", *SMALL]) == 0
            half = [
                word if word != "4" or SMALL[place - 1] != "--max-steps" else "2" for place, word in enumerate(SMALL)
            ]
            assert run(["train", *words, "--out", f"half-{task}", *half, "--no-report"]) == 0
        finally:
            os.chdir(before)
    return folder


def run(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


RESUME = ["--resume", "--max-steps", "4", "--quiet", "--no-report"]
CASES = {
    **{f"train {task}": ["train", *words, "--out", "run", *SMALL, "--no-report"] for task, words in TASKS.items()},
    "train with a page": ["train", *TASKS["language"], "--out", "run", *SMALL, "--record-flow"],
    **{f"resume {task}": ["train", "--out", f"half-{task}", *RESUME] for task in TASKS},
    "overwrite": ["train", *TASKS["classify"], "--out", "whole-language", "--overwrite", *SMALL, "--no-report"],
    "info": ["info", "whole-language"],
    "report": ["report", "whole-language"],
    "generate": ["generate", "whole-language", "--length", "3", "--seed", "1"],
    **{
        f"evaluate {task}": ["evaluate", f"whole-{task}", words[0]]
        for task, words in TASKS.items()
    },
    **{
        f"predict {task}": ["predict", f"whole-{task}", words[0], "--out", f"out{kind}"]
        for (task, words), kind in zip(TASKS.items(), (".csv", ".jsonl", ".parquet", ".csv", ".jsonl"), strict=True)
    },
    "flow": ["flow", "whole-language", "--csv", "f.csv", "--out", "f", "--plot", "f.png", "--sequences", "1"],
    "flow of weights": ["flow", "--checkpoint", "whole-language/model.safetensors", "--steps", "4", "--sequences", "1"],
    "flow of numbers": ["flow", "--checkpoint", "whole-language/model.safetensors", "--input", "input.npy"],
}  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Bench:
    """A copy of the data and runs, in which one command is run again and again with other faults."""

    def __init__(self, made: Path, folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        import numpy as np

        self.made, self.folder, self.words, self.capsys = made, folder, words, capsys
        np.save(made / "input.npy", np.zeros((4, 1, 3), np.float32))
        self.writes = words[0] == "train"
        self.run = Path(words[words.index("--out") + 1]) if self.writes else None

    def fresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.made, self.folder)
        (self.folder / "tmp").mkdir()

    def once(self, faults: Faults) -> int:
        self.fresh()
        os.chdir(self.folder)
        tempfile.tempdir = str(self.folder / "tmp")
        self.capsys.readouterr()
        with faults.active():
            code = run(self.words)
        return code

    def check(self, faults: Faults, code: int, whole: dict[str, torch.Tensor] | None) -> None:
        shown = self.capsys.readouterr()
        what = f"{faults.failed} ({errno.errorcode[faults.code]}, {'lasting' if faults.lasting else 'once'})"
        lines = [line for line in shown.err.splitlines() if not line.startswith("note: ")]
        assert "Traceback" not in shown.err, f"{what}: {shown.err}"
        assert code in (0, 2), f"{what}: exit code {code}; {shown.err}"
        assert len(lines) == (1 if code else 0), f"{what}: {shown.err}"
        kept = [path for path in self.made.iterdir() if path.is_file()]
        assert all((self.folder / path.name).read_bytes() == path.read_bytes() for path in kept), what
        if self.run is None:
            name = next((word for word in self.words if word.startswith("whole-")), "").split("/")[0]
            found, before = contents(self.folder / name), contents(self.made / name)
            found.pop("report.html"), before.pop("report.html")
            assert found == before, what
            return
        assert whole is not None
        self.whole_and_resumable(what, code, whole)

    def whole_and_resumable(self, what: str, code: int, whole: dict[str, torch.Tensor]) -> None:
        assert self.run is not None
        folder = RunFolder(self.folder / self.run)
        for path in folder.path.rglob("*.safetensors"):
            if "flow" not in path.parts:
                folder.read_tensors(str(path.relative_to(folder.path)))
        if code == 0:
            assert (folder.summary() or Summary("")).status == "finished", what
        elif folder.has_run():
            again = ["train", "--out", str(self.run), *RESUME]
            if "--overwrite" in self.words and folder.config().task == "language":
                again = self.words  # the old run is still there
            assert run(again) == 0, f"{what}: {self.capsys.readouterr().err}"
        else:  # nothing stands in the way of beginning again
            assert run(self.words) == 0, f"{what}: {self.capsys.readouterr().err}"
        found = load_file(folder / "model.safetensors")
        assert found.keys() == whole.keys() and all(torch.equal(found[key], whole[key]) for key in whole), what
        assert not list(folder.path.rglob("*.partial")), what


@pytest.fixture
def here() -> None:
    before, temporary = Path.cwd(), tempfile.tempdir
    yield
    os.chdir(before)
    tempfile.tempdir = temporary


def test_a_write_that_is_not_atomic_is_found(
    made: Path, tmp_path: Path, here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the tests."""
    bench = Bench(made, tmp_path / "bench", CASES["resume language"], capsys)
    monkeypatch.setattr("retrograde.runs.folder.write_file", lambda path, content: path.write_bytes(content))
    counted = Faults(tmp_path)
    assert bench.once(counted) == 0
    whole = load_file(bench.folder / "half-language" / "model.safetensors")
    at = next(
        place for place, call in enumerate(counted.calls, 1) if call.startswith("open") and "step-000000004" in call
    )
    faults = Faults(tmp_path, at + 1, errno.ENOSPC, lasting=True)
    code = bench.once(faults)
    with pytest.raises((AssertionError, RunError)):
        bench.check(faults, code, whole)


@pytest.mark.parametrize("case", CASES)
def test_every_call_fails_in_turn(
    case: str, made: Path, tmp_path: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(made, tmp_path / "bench", CASES[case], capsys)
    counted = Faults(tmp_path)
    assert bench.once(counted) == 0, capsys.readouterr().err
    assert counted.count > 2
    whole = load_file(bench.folder / bench.run / "model.safetensors") if bench.run is not None else None
    chosen = [(at, code, False) for at in range(1, counted.count + 1) for code in CODES]
    chosen += [(at, errno.ENOSPC, True) for at in range(1, counted.count + 1)]
    random.Random(case).shuffle(chosen)
    chosen = chosen if SAMPLE == "all" else chosen[: int(SAMPLE)]
    with capsys.disabled():
        if "FAULTS" in os.environ:
            print(f"\n{case}: {counted.count} calls, {len(chosen)} faults", flush=True)
    for at, code, lasting in chosen:
        faults = Faults(tmp_path, at, code, lasting)
        bench.check(faults, bench.once(faults), whole)
