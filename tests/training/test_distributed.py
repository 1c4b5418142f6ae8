"""Two processes on one model, over gloo on the CPU: the curve of one, one run folder, and the death of a process."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrograde.experiment import train


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launcher(kind: str) -> list[str]:
    here = Path(sys.executable).parent
    if kind == "torchrun":
        return [str(here / "torchrun"), "--nproc-per-node=2", f"--master-port={free_port()}"]
    options = ["--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
    port = [f"--main_process_port={free_port()}", "--dynamo_backend=no"]
    return [str(here / "accelerate"), "launch", *options, *port]


def start(kind: str, arguments: list[object]) -> subprocess.Popen[str]:
    command = [*launcher(kind), "-m", "retrograde", "train", *map(str, arguments), "--threads", "1", "--no-report"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def curve(run: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["train_loss"], line["validation_loss"]) for line in lines if line["step"]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i}: the cat number {i % 7} sat on mat {i % 5}.\n" for i in range(120)))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draw, path = random.Random(0), tmp_path / "table.csv"
    words = ["the", "film", "plot", "good", "bad"]
    lines = [f"{' '.join(draw.choices(words, k=draw.randint(1, 9)))},{draw.choice('aab')}" for _ in range(101)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def rank_of(job: subprocess.Popen[str], rank: int) -> int:
    """The process of a job that has this rank."""
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
    for child in children.read_text().split() if children.exists() else []:
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    job.kill()
    pytest.skip("the processes of the job cannot be told apart on this system")


def test_two_processes_take_the_steps_of_one(table: Path, tmp_path: Path) -> None:
    """A last batch of one sequence, so that a process has none; class weights; Ω over the sequences of both."""
    options = {"task": "classify", "cell": "rnn", "omega": 2.0, "class_weights": "balanced", "batch_size": 9}
    options |= {"hidden_size": 8, "max_steps": 24, "eval_every": 8, "threads": 1, "dropout": 0.0}
    two = tmp_path / "two"
    flags = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), value)]
    job = start("accelerate", [table, "--out", two, *flags])
    train(table, tmp_path / "one", report=False, **options)
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, err[-2000:]
    assert out.count("finished: all 24 steps taken") == 1  # one of them speaks
    for one, other in zip(curve(tmp_path / "one"), curve(two), strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert json.loads((two / "summary.json").read_text())["status"] == "finished"


def test_a_process_that_dies_ends_the_job_with_a_checkpoint(text: Path, tmp_path: Path) -> None:
    """Streams that do not divide by two, whose state is carried; until then the curve of one process."""
    run = tmp_path / "run"
    options = {"hidden_size": 8, "bptt": 20, "update_every": 7, "batch_size": 5, "epochs": 100_000, "eval_every": 5}
    flags = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), value)]
    job = start("torchrun", [text, "--out", run, *flags])
    end = time.monotonic() + 180
    while not (run / "checkpoints").exists() or not list((run / "checkpoints").glob("step-*[1-9]?.safetensors")):
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.2)
    survivor = rank_of(job, 0)
    os.kill(rank_of(job, 1), signal.SIGKILL)
    _, err = job.communicate(timeout=120)
    assert job.returncode != 0
    # In about 1 of 300 deaths gloo does not notice while it sends, and waits: the launcher then ends the survivor.
    assert "lost the others at step" in err or f"Unable to shutdown process {survivor}" in err
    train(text, tmp_path / "one", report=False, threads=1, **options, max_steps=15)
    lines = curve(run)
    for one, other in zip(curve(tmp_path / "one"), lines, strict=False):
        assert other == pytest.approx(one, rel=1e-4)
    result = train(None, run, resume=True, report=False, max_steps=5 * len(lines) + 5)
    assert result.summary.status == "finished"
    assert curve(run)[: len(lines)] == lines and len(curve(run)) == len(lines) + 1


def test_a_process_that_stalls_ends_the_job_after_the_time_stated(text: Path, tmp_path: Path) -> None:
    """Stopped, not dead: nothing but the time tells the others."""
    run = tmp_path / "run"
    words = [text, "--out", run, "--hidden-size", 8, "--bptt", 20, "--batch-size", 4, "--epochs", 100_000]
    job = start("torchrun", [*words, "--eval-every", 5, "--stall-minutes", 0.15])
    end = time.monotonic() + 180
    while not (run / "checkpoints").exists() or not list((run / "checkpoints").glob("step-*[1-9]?.safetensors")):
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.2)
    stalled = rank_of(job, 1)
    os.kill(stalled, signal.SIGSTOP)
    began = time.monotonic()
    try:
        assert job.stderr is not None
        said = next(line for line in job.stderr if "lost the others" in line)
        assert 5 < time.monotonic() - began < 60
        assert "nothing was heard for 0.15 minutes, --stall-minutes" in said and said.startswith("retrograde: ")
    finally:
        os.kill(stalled, signal.SIGKILL)
        job.communicate(timeout=120)
    assert job.returncode != 0
    assert train(None, run, resume=True, report=False, epochs=2).summary.status == "finished"


def test_a_signal_to_one_process_ends_them_all_alike(text: Path, tmp_path: Path) -> None:
    """A scheduler may reach the second process first; the summary, which the first one writes, tells of it."""
    run = tmp_path / "run"
    words = [text, "--out", run, "--hidden-size", 8, "--bptt", 20, "--batch-size", 4, "--epochs", 100_000]
    job = start("torchrun", [*words, "--eval-every", 5])
    end = time.monotonic() + 180
    while not (run / "checkpoints").exists() or not list((run / "checkpoints").glob("step-*[1-9]?.safetensors")):
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.2)
    os.kill(rank_of(job, 1), signal.SIGUSR1)
    _, err = job.communicate(timeout=120)
    summary = json.loads((run / "summary.json").read_text())
    assert job.returncode != 0 and summary["status"] == "interrupted", err
    assert (run / "checkpoints" / f"step-{summary['step']:09d}.safetensors").exists()


GROUPS = """
import sys
import torch
import retrograde as rg

options = {"max_steps": 2, "hidden_size": 4, "batch_size": 2, "bptt": 8, "device": "cpu", "report": False}
for i in range(2):  # a second training makes a group of its own
    rg.train(sys.argv[1], out=f"{sys.argv[2]}/{i}", **options)
    assert not torch.distributed.is_initialized()
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/store", rank=0, world_size=1)
rg.train(sys.argv[1], out=f"{sys.argv[2]}/mine", **options)
assert torch.distributed.is_initialized()
torch.distributed.destroy_process_group()
"""


def test_training_destroys_the_process_group_that_it_made_and_no_other(text: Path, tmp_path: Path) -> None:
    job = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **job, "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", GROUPS, text, tmp_path]
    subprocess.run(command, env=environment, timeout=120, check=True)
