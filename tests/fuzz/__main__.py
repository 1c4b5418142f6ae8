"""Fuzz every reader and every file of a run folder, each input in a process of its own, until the time is up.

    python tests/fuzz --minutes 10 --seed 0 --keep build/fuzz

A process that crashes, hangs, needs too much memory, prints a traceback, more than one line, or something that a
terminal would obey, is a finding: its input is kept, and a line says what happened. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from mutate import mutated  # type: ignore[import-not-found]

SECONDS = 30  # of processor time, for an input of a few kilobytes
MEMORY = 3 << 30  # bytes beyond what is needed to begin
RELEASED = Path(__file__).parent.parent / "runs" / "released"
QUICK = ["--max-steps", "1", "--threads", "1", "--quiet", "--no-report", "--hidden-size", "3"]
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Target:
    """A file that is mutated, and the commands that read it."""

    name: str
    content: bytes
    file: str  # where it is put, in the folder of the case
    commands: tuple[tuple[str, ...], ...]
    run: str | None = None  # the run folder that is copied there


def data_targets() -> list[Target]:
    """Every kind of file that data may come in."""
    import numpy as np
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet

    rows = {"text": ["good words", "bad words"] * 8, "label": ["a", "b"] * 8}
    series = {
        "month": [f"{2000 + i // 12}-{i % 12 + 1:02d}" for i in range(40)],
        "sales": [i % 7 + 0.5 for i in range(40)],
    }
    signals = {"x": [[0.5, 1.0, 2.0], [1.0, 2.0]] * 8, "label": ["a", "b"] * 8}
    made: dict[str, tuple[bytes, str]] = {}

    def table(name: str, columns: dict[str, list[Any]], task: str) -> None:
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        text = ("\n".join(lines) + "\n").encode()
        made[f"{name}.csv"] = text, task
        made[f"{name}.tsv"] = text.replace(b",", b"\t"), task
        made[f"{name}.csv.gz"] = gzip.compress(text), task
        arrow = pyarrow.table(columns)
        for kind, write in (("parquet", pyarrow.parquet.write_table), ("arrow", _stream)):
            sink = io.BytesIO()
            write(arrow, sink)
            made[f"{name}.{kind}"] = sink.getvalue(), task

    def lines(name: str, columns: dict[str, list[Any]], task: str) -> None:
        records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        made[f"{name}.jsonl"] = "".join(json.dumps(record) + "\n" for record in records).encode(), task

    table("reviews", rows, "classify")
    table("sales", series, "forecast")
    for name, columns, task in (
        ("reviews", rows, "classify"),
        ("sales", series, "forecast"),
        ("signals", signals, "classify"),
    ):
        lines(name, columns, task)
    lines("names", {"tokens": [["Ann", "left"], ["he"]] * 8, "tags": [["B-X", "O"], ["O"]] * 8}, "tag")
    made["names.conll"] = b"Ann B-X\nleft O\n\nhe O\n\n" * 8, "tag"
    made["text.txt"] = (RELEASED / "data" / "text.txt").read_bytes(), "language"
    made["text.txt.gz"] = gzip.compress(made["text.txt"][0]), "language"
    for kind, save in (("npy", np.save), ("npz", lambda sink, value: np.savez(sink, x=value, label=np.arange(16) % 2))):
        sink = io.BytesIO()
        save(sink, np.sin(np.arange(16 * 5.0)).reshape(16, 5))
        made[f"numbers.{kind}"] = sink.getvalue(), "forecast" if kind == "npy" else "classify"
    found = []
    for name, (content, task) in made.items():
        commands: list[tuple[str, ...]] = [("train", name, "--task", task, "--out", "new", *QUICK)]
        if "signals" not in name and "numbers" not in name:
            commands += [("evaluate", task, name), ("predict", task, name, "--out", "out.csv")]
        found.append(Target(f"data {name}", content, name, tuple(commands), task))
    return found


def _stream(table: Any, sink: io.BytesIO) -> None:
    import pyarrow

    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def run_targets() -> list[Target]:
    """Every file of the run folder of every task."""
    data = {"language": "text.txt", "classify": "reviews.csv", "tag": "names.jsonl", "forecast": "sales.csv"}
    found = []
    version = max(path for path in RELEASED.iterdir() if path.name[0].isdigit())
    for run in sorted(path for path in version.iterdir() if path.is_dir()):
        source = data.get(run.name, "builtin:latch?length=5")
        commands = [
            ("info", run.name),
            ("info", run.name, "--json"),
            ("report", run.name),
            ("evaluate", run.name, source),
            ("predict", run.name, source, "--out", "out.jsonl"),
            ("flow", run.name, source, "--sequences", "1"),
            ("train", source, "--out", run.name, "--resume", "--max-steps", "7", "--quiet", "--no-report"),
        ]  # fmt: skip
        if run.name == "language":
            commands.append(("generate", run.name, "--length", "5"))
        for file in sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size):
            name = file.relative_to(run)
            found.append(
                Target(f"run {run.name}/{name}", file.read_bytes(), f"{run.name}/{name}", tuple(commands), run.name)
            )
    return found


def weight_targets() -> list[Target]:
    """Files of weights, and of numbers to drive them."""
    import numpy as np
    import torch

    weights, numbers = io.BytesIO(), io.BytesIO()
    torch.save(torch.nn.LSTM(2, 3).state_dict(), weights)
    np.save(numbers, np.zeros((4, 1, 2), np.float32))
    model = (RELEASED / "0.1.0" / "language" / "model.safetensors").read_bytes()
    plain = ("flow", "--steps", "4", "--sequences", "1", "--checkpoint")
    return [
        Target("weights.safetensors", model, "weights.safetensors", ((*plain, "weights.safetensors"),)),
        Target("weights.pt", weights.getvalue(), "weights.pt", ((*plain, "weights.pt"),)),
        Target(
            "input.npy",
            numbers.getvalue(),
            "input.npy",
            (("flow", "--checkpoint", "language/model.safetensors", "--input", "input.npy"),),
            "language",
        ),
    ]


def in_a_process(action: Callable[[], int], log: Path) -> tuple[int, str]:
    """Do something in a fork of this process, under limits: its wait status, and what it printed on stderr."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor, target in ((nothing, 0), (nothing, 1), (errors, 2)):
                os.dup2(descriptor, target)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = action()
            sys.stderr.flush()
        finally:
            os._exit(code)
    until = time.monotonic() + 4 * SECONDS  # it may wait for something without using the processor
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status, log.read_text(encoding="utf-8", errors="surrogateescape")
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1, ""
        time.sleep(0.002)


def judged(status: int, said: str) -> str | None:
    """What is wrong with how a command ended; None if nothing is."""
    if status == -1:
        return "it hangs"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        slow = " (the limit of processor time)" if number in (signal.SIGXCPU, signal.SIGKILL) else ""
        return f"it ended by {signal.Signals(number).name}{slow}"
    code, lines = os.WEXITSTATUS(status), [line for line in said.splitlines() if not line.startswith("note: ")]
    if "Traceback" in said:
        return "a traceback: " + said.strip().splitlines()[-1][:200]
    if code not in (0, 2, 3):
        return f"exit code {code}: {said[:200]}"
    if len(lines) != (1 if code else 0):
        return f"{len(lines)} lines with exit code {code}: {' / '.join(lines)[:300]}"
    if UNSAFE.search(said):
        return f"what it prints gives orders to a terminal: {said[:200]!r}"
    return None


def command(words: tuple[str, ...]) -> int:
    from retrograde.cli import main

    try:
        main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 1


def prepared(folder: Path, target: Target, content: bytes) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(RELEASED / "data", folder)
    if target.run is not None:
        shutil.copytree(RELEASED / "0.1.0" / target.run, folder / target.run)
    (folder / target.file).write_bytes(content)


def warm_up(targets: list[Target], folder: Path) -> None:
    """Run each command on something valid here, so that the forks find everything imported."""
    seen = set()
    for target in targets:
        for words in target.commands:
            kind = (words[0], Path(target.file).suffix if target.name.startswith("data") else target.run)
            if kind not in seen:
                seen.add(kind)
                prepared(folder, target, target.content)
                os.chdir(folder)
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    code = command(words)
                os.chdir(folder.parent)
                assert code == 0, f"{target.name}, not mutated: {' '.join(words)} ends with {code}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cases", type=int, default=10**9, help="end after so many, whatever the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    parser.add_argument("--keep", type=Path, default=Path("build", "fuzz"), help="where inputs with findings are kept")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # type: ignore[assignment] # power does not fail here
    targets = [one for one in [*data_targets(), *run_targets(), *weight_targets()] if asked.only in one.name]
    draw, counts, findings = random.Random(asked.seed), Counter[str](), Counter[str]()
    cases = 0
    keep = asked.keep.absolute()
    with tempfile.TemporaryDirectory() as home:
        folder, log = Path(home, "case"), Path(home, "stderr")
        warm_up(targets, folder)
        until = time.monotonic() + 60 * asked.minutes
        while cases < asked.cases and time.monotonic() < until:
            target = draw.choice(targets)
            content = mutated(target.content, draw, draw.choice(targets).content)
            for words in draw.sample(target.commands, min(2, len(target.commands))):
                prepared(folder, target, content)
                os.chdir(folder)
                status, said = in_a_process(lambda words=words: command(words), log)  # type: ignore[misc]
                os.chdir(home)
                ended = f"exit code {os.WEXITSTATUS(status)}" if status >= 0 and os.WIFEXITED(status) else "a signal"
                counts[ended] += 1
                if (wrong := judged(status, said)) is not None:
                    findings[f"{target.name.split('/')[-1]}: {words[0]}"] += 1
                    keep.mkdir(parents=True, exist_ok=True)
                    kept = keep / f"{asked.seed}-{cases}-{Path(target.file).name}"
                    kept.write_bytes(content)
                    print(f"{target.name}: retrograde {' '.join(words)}: {wrong} ({kept})", flush=True)
            cases += 1
    print(f"{cases:,} inputs to {len(targets)} targets, {sum(counts.values()):,} commands: {dict(counts)}")
    print(f"{sum(findings.values())} findings {dict(findings) if findings else ''}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
