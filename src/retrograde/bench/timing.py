"""Timing: the peers take turns in one process, round after round, so that a slow moment affects them all.

Tests: tests/bench/test_bench.py
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import RetrogradeError
from .machine import fma_peak
from .peers import Peer, peers
from .points import Point

LIMIT = 3.0  # seconds; a point is left out where one step of torch.nn takes longer
_TURN = 0.02  # seconds that a turn lasts at least


@dataclass(frozen=True)
class Timing:
    """A median with its spread: a quarter of the rounds is below `low`, a quarter above `high`."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Timing:
    """Median and quartiles of `values`.

    Examples
    --------
    >>> spread([1.0, 2.0, 3.0, 4.0, 50.0])
    Timing(median=3.0, low=2.0, high=4.0)
    """
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Timing(median, low, high)


@dataclass(frozen=True)
class Measurement:
    """The times of one point."""

    point: Point
    seconds: dict[str, Timing]  # for one step of each peer
    ratios: dict[str, Timing]  # for each other peer, its time divided by ours in the same round
    peak: Timing | None  # operations per second of this machine's multiply-add units, measured between the same rounds
    rounds: int
    path: str  # the path of our layer, ``"engine"`` or ``"torch"``
    # If nothing was timed: the seconds that one step of ``torch.nn`` would take, which is over the limit.
    left_out: float | None = None

    @property
    def share_of_peak(self) -> float | None:
        """The operations of our step, divided by what the multiply-add units can do in its time."""
        if self.peak is None or "retrograde" not in self.seconds:
            return None
        return self.point.operations / self.seconds["retrograde"].median / self.peak.median


def measure(
    points: Iterable[Point],
    *,
    threads: int,
    jax: bool,
    seconds: float = 2.0,
    until: float = math.inf,
) -> Iterator[Measurement]:
    """Time every peer on each of `points`.

    Parameters
    ----------
    points : iterable of Point
    threads : int
        The limit of the peers (`limit_threads`).
    jax : bool
        Whether JAX takes part.
    seconds : float
        For the rounds of a point; there are at least 3 rounds.
    until : float
        The ``time.monotonic()`` after which no further point is started.

    Yields
    ------
    Measurement
        One by one.

    Raises
    ------
    RetrogradeError
        The peers do not compute the same numbers.
    """
    for point in points:
        if time.monotonic() > until:
            return
        yield _measure(point, threads, jax, seconds)


def _measure(point: Point, threads: int, jax: bool, seconds: float) -> Measurement:
    all_peers, shorter, path = peers(point, jax=jax)
    expected = _expected_seconds(point, shorter)
    if expected > LIMIT:
        return Measurement(point, {}, {}, None, 0, path, left_out=expected)
    _agree(point, all_peers)

    once = {peer.name: min(_clock(peer.run, 1) for _ in range(2)) for peer in all_peers}
    turns = {name: max(1, min(200, math.ceil(_TURN / one))) for name, one in once.items()}
    per_round = sum((turns[name] + (one < 10 * _TURN)) * one for name, one in once.items())
    rounds = max(3, min(15, int(seconds / per_round)))
    times: dict[str, list[float]] = {peer.name: [] for peer in all_peers}
    peaks = []
    order = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for peer in order.sample(all_peers, len(all_peers)):
                if once[peer.name] < 10 * _TURN:
                    peer.run()  # warm up caches and threads
                times[peer.name].append(_clock(peer.run, turns[peer.name]))
            peak = fma_peak(threads)
            if peak is not None:
                peaks.append(peak)
    finally:
        gc.enable()
    ours = times["retrograde"]
    ratios = {
        name: spread([t / o for t, o in zip(them, ours, strict=True)])
        for name, them in times.items()
        if name != "retrograde"
    }
    return Measurement(
        point,
        {name: spread(them) for name, them in times.items()},
        ratios,
        spread(peaks) if peaks else None,
        rounds,
        path,
    )


def _clock(run: Callable[[], object], times: int) -> float:
    """Seconds of one of `times` runs."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def _expected_seconds(point: Point, shorter: Callable[[int], Callable[[], object]]) -> float:
    """Seconds of one step of torch.nn, estimated from its first time steps; 0 if it is far below the limit."""
    if point.operations < 10e9:
        return 0.0
    steps = max(2, point.steps // 20)
    run = shorter(steps)
    return min(_clock(run, 1) for _ in range(3)) * point.steps / steps


def _agree(point: Point, all_peers: list[Peer]) -> None:
    """Refuse peers that do not compute the same numbers."""
    ours = all_peers[0].answer()
    for peer in all_peers[1:]:
        for i, (mine, other) in enumerate(zip(ours, peer.answer(), strict=True)):
            scale = float(np.linalg.norm(other)) or 1.0
            error = float(np.linalg.norm(mine - other)) / scale
            if not error < 1e-3:  # float32, sums over up to 128 000 rows; NaN does not pass either
                what = "outputs" if point.task == "forward" else f"gradients (number {i})"
                raise RetrogradeError(f"{point}: our {what} differ from those of {peer.name} by {error:.1e} relative.")
