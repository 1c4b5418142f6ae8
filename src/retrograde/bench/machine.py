"""The machine that a benchmark runs on: its name, its threads, and its peak of arithmetic.

Tests: tests/bench/test_bench.py
"""

from __future__ import annotations

import os
import platform
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from ..errors import OptionError


def limit_threads(threads: int | None) -> tuple[int, bool]:
    """Limit all peers to as many threads and processors; call it before any of them has computed.

    threads: by default the number of processors.
    Returns threads; jax: whether JAX is installed.
    Raises OptionError if there are fewer processors.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    threads = len(usable) if threads is None else threads
    if threads > len(usable):
        raise OptionError(f"--threads {threads}: this machine has {len(usable)} processors; more would only wait.")
    if threads < len(usable) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, usable[:threads])
    torch.set_num_threads(threads)
    # XLA's CPU client sizes its pool by this variable; without it, by the processors it may run on.
    os.environ["PJRT_NPROC"] = os.environ["NPROC"] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return threads, find_spec("jax") is not None


def fma_peak(threads: int, seconds: float = 0.01) -> float | None:
    """Float32 operations per second of multiply-adds on registers, two for each; None without the engine."""
    try:
        from ..kernels import _engine
    except ImportError:
        return None
    if not hasattr(_engine, "flops"):
        return None
    repeats = 10_000
    while True:
        start = time.perf_counter()
        operations = float(_engine.flops(threads, repeats))
        took = time.perf_counter() - start
        if took > seconds / 2:
            return operations / took
        repeats *= 4


def processor() -> str:
    """Name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
