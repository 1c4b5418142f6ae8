"""The scripts of benchmarks/ run, and compare like with like."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_speed_trains_both_twins_alike(tmp_path):
    draw = random.Random(0)
    text = tmp_path / "words.txt"
    text.write_text(" ".join(draw.choice(["one", "two", "three", "five"]) for _ in range(20_000)), encoding="utf-8")
    figures = tmp_path / "figures.json"
    arguments = ["--data", text, "--cell", "gru", "--rounds", 1, "--steps", 1, "--threads", 1, "--json", figures]
    run(BENCHMARKS / "training_speed.py", *arguments)
    found = json.loads(figures.read_text())["gru"]
    assert found["difference_of_validation_loss"] < 1e-4
    assert set(found["tokens_per_second"]) == {"retrograde", "torch"}


def test_the_grid_is_kept_in_the_run_folder(tmp_path):
    shape = ["--hidden-size", "4", "--batch-size", "1", "--steps", "3", "--num-layers", "1", "--cell", "rnn"]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *shape, "--seconds", "0", "--threads", "1", "--no-jax"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "runs" / "bench" / "bench.json").read_text())["points"]) == 2
    assert (tmp_path / "runs" / "bench" / "bench.png").exists()


def test_products_takes_every_product_of_every_cell():
    out = run(BENCHMARKS / "products.py", "--hidden", 16, "--rows", 30, "--rounds", 1, "--threads", 1)
    assert "9 products alone: geometric mean" in out
    for cell in ("RNN", "GRU", "LSTM"):
        own = [line for line in out.splitlines() if f" {cell} " in line]
        assert len(own) == 4 and "in layer" in own[-1]


def test_flow_vs_autograd_finds_the_same_norms():
    shape = ["--batch", 2, "--steps", 15, "--hidden", 16, "--rounds", 1, "--threads", 1]
    out = run(BENCHMARKS / "flow_vs_autograd.py", *shape)
    errors = [float(line.rpartition(" ")[2]) for line in out.splitlines() if "largest relative difference" in line]
    assert len(errors) == 3
    assert max(errors) < 1e-4


def test_step_loops_are_compared_with_the_whole_call():
    out = run(BENCHMARKS / "step_loops.py", "--rounds", 1, "--steps", 8)
    assert [line.split()[0] for line in out.splitlines()] == ["RNN", "RNN", "GRU", "GRU", "LSTM", "LSTM"]
    assert all("steps x" in line and "cells x" in line for line in out.splitlines())
