"""How it is timed: the peers take turns in one process, round after round, so that a slow moment hits them all."""

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

__all__ = ["LIMIT", "Measurement", "Timing", "measure", "spread"]

LIMIT = 3.0  # seconds; a point is left out where one step of torch.nn takes longer
_TURN = 0.02  # seconds that a turn lasts at least, in as many steps as it takes


@dataclass(frozen=True)
class Timing:
    """A median with its spread: a quarter of the rounds lie under `low`, a quarter over `high`."""

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
    """What one point came to.

    Attributes
    ----------
    point : Point
    seconds : dict of str to Timing
        One step of each peer.
    ratios : dict of str to Timing
        For each other peer, its time over ours in the same round: how many times faster we are.
    peak : Timing or None
        Operations per second that this machine's multiply-add units reached, between the same rounds.
    rounds : int
    path : str
        What our layer computed with, ``"engine"`` or ``"torch"``.
    left_out : float or None
        The seconds that one step of ``torch.nn`` would have taken, where that is over the limit and
        nothing was timed.
    """

    point: Point
    seconds: dict[str, Timing]
    ratios: dict[str, Timing]
    peak: Timing | None
    rounds: int
    path: str
    left_out: float | None = None

    @property
    def share_of_peak(self) -> float | None:
        """The operations of our step, over what the multiply-add units could have done in its time."""
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
        What the peers have been held to.
    jax : bool
        Whether JAX takes part.
    seconds : float
        To spend on the rounds of a point; never fewer than 3 rounds.
    until : float
        The ``time.monotonic()`` after which no further point is begun.

    Yields
    ------
    Measurement
        As each is ready.

    Raises
    ------
    RetrogradeError
        If the peers do not compute the same.
    """
    for point in points:
        if time.monotonic() > until:
            return
        yield _measure(point, threads, jax, seconds)


def _measure(point: Point, threads: int, jax: bool, seconds: float) -> Measurement:
    everybody, shorter, path = peers(point, jax=jax)
    expected = _expected_seconds(point, shorter)
    if expected > LIMIT:
        return Measurement(point, {}, {}, None, 0, path, left_out=expected)
    _agree(point, everybody)

    once = {peer.name: min(_clock(peer.run, 1) for _ in range(2)) for peer in everybody}
    turns = {name: max(1, min(200, math.ceil(_TURN / one))) for name, one in once.items()}
    per_round = sum((turns[name] + (one < 10 * _TURN)) * one for name, one in once.items())
    rounds = max(3, min(15, int(seconds / per_round)))
    times: dict[str, list[float]] = {peer.name: [] for peer in everybody}
    peaks = []
    order = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for peer in order.sample(everybody, len(everybody)):
                if once[peer.name] < 10 * _TURN:
                    peer.run()  # caches and threads settle to the new peer
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
    """Seconds that one of `times` runs took."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def _expected_seconds(point: Point, shorter: Callable[[int], Callable[[], object]]) -> float:
    """One step of torch.nn, told from the first few of its steps; 0 where it cannot come near the limit."""
    if point.operations < 10e9:
        return 0.0
    steps = max(2, point.steps // 20)
    run = shorter(steps)
    return min(_clock(run, 1) for _ in range(3)) * point.steps / steps


def _agree(point: Point, everybody: list[Peer]) -> None:
    """Refuse to time peers that do not compute the same numbers."""
    ours = everybody[0].answer()
    for peer in everybody[1:]:
        for i, (mine, other) in enumerate(zip(ours, peer.answer(), strict=True)):
            scale = float(np.linalg.norm(other)) or 1.0
            error = float(np.linalg.norm(mine - other)) / scale
            if not error < 1e-3:  # float32, sums over up to 128 000 rows; NaN does not pass either
                what = "outputs" if point.task == "forward" else f"gradients (number {i})"
                raise RetrogradeError(f"{point}: our {what} differ from those of {peer.name} by {error:.1e} relative.")
