"""Where many trainings are computed: in this process, in processes of this machine, or on a Ray cluster.

A pool has ``workers``, ``submit(run, job)``, which returns a `concurrent.futures.Future`, and ``close()``.

Tests: `tests/searching/test_search.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol, TypeVar

from .extras import import_or_explain

J = TypeVar("J")
R = TypeVar("R")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Pool(Protocol):
    """Computes runs."""

    workers: int

    def submit(self, run: Callable[[J], R], job: J) -> Future[R]:
        """Start a run."""

    def close(self) -> None:
        """End all processes; runs that are still going are lost."""


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def open_pool(workers: int, ray: bool) -> Pool:
    """The pool for so many runs at a time.

    Raises MissingExtraError if ray, or joblib for several processes, is not installed.
    """
    if ray:
        return _RayPool()
    return HerePool() if workers == 1 else _ProcessPool(workers)


class HerePool:
    """One run after the other, in this process."""

    workers = 1

    def submit(self, run: Callable[[J], R], job: J) -> Future[R]:
        """Run it now."""
        future: Future[R] = Future()
        try:
            future.set_result(run(job))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing is left to end."""


class _ProcessPool:
    """Processes of this machine, by joblib's loky: fresh ones, which do not run the user's script again."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        loky = import_or_explain("joblib.externals.loky")
        self._executor = loky.ProcessPoolExecutor(max_workers=workers, env=ONE_THREAD, initializer=_leave_interrupts)

    def submit(self, run: Callable[[J], R], job: J) -> Future[R]:
        future: Future[R] = self._executor.submit(run, job)
        return future

    def close(self) -> None:
        self._executor.shutdown(kill_workers=True)


class _RayPool:
    """Tasks of one core each on the Ray cluster at RAY_ADDRESS, or on a local one that is started."""

    def __init__(self) -> None:
        self._ray = import_or_explain("ray")
        self._own = not self._ray.is_initialized()
        if self._own:
            self._ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._task = self._ray.remote(num_cpus=1, max_retries=3)(_call)  # Ray gives it one thread

    def submit(self, run: Callable[[J], R], job: J) -> Future[R]:
        future: Future[R] = self._task.remote(run, job).future()
        return future

    def close(self) -> None:
        if self._own:
            with suppress(Exception):  # the cluster is gone already
                self._ray.shutdown()


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _call(run: Callable[[J], R], job: J) -> R:
    return run(job)
