"""Batches made in a thread while the step before them is computed.

Tests: `tests/training/test_trainer.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
AHEAD, AHEAD_SECONDS = 8, 0.01


@contextmanager
def prefetched(make: Callable[[int], T], first: int, stop: int) -> Iterator[Iterator[T]]:
    """An iterator over ``make(first)`` … ``make(stop - 1)`` that is ahead of its reader.

    Small batches are handed over several at a time, because passing one between threads takes longer than making it.
    """

    def some(step: int) -> list[T]:
        began = time.perf_counter()
        made: list[T] = []
        while step < stop and len(made) < AHEAD and (not made or time.perf_counter() - began < AHEAD_SECONDS):
            made.append(make(step))
            step += 1
        return made

    def read(worker: ThreadPoolExecutor) -> Iterator[T]:
        step, coming = first, worker.submit(some, first)
        while made := coming.result():
            step += len(made)
            coming = worker.submit(some, step)
            yield from made

    with ThreadPoolExecutor(1, "retrograde-batches") as worker:
        yield read(worker)
