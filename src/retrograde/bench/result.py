"""The result of a benchmark: ratios, means and worst points, saved as JSON.

Tests: tests/bench/test_bench.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__, kernels
from ..cells import BY_NAME
from ..errors import DataError
from ..files import write_file
from .machine import processor
from .points import Point
from .timing import LIMIT, Measurement, Timing


@dataclass(frozen=True)
class Row:
    """All points of one cell and task, compared with one peer."""

    cell: str
    task: str
    peer: str
    points: int  # number of points that were timed
    mean: float  # geometric mean of the ratios, how many times faster ours is
    worst: Measurement  # the point with the smallest ratio

    def __str__(self) -> str:
        ratio = self.worst.ratios[self.peer]
        return (
            f"{self.cell:<5}{self.task:<8} vs {self.peer:<6} geometric mean {self.mean:6.2f}x over {self.points} "
            f"points, worst {ratio.median:5.2f}x ({self.worst.point})"
        )


@dataclass
class Benchmark:
    """Measurements and the machine they were made on."""

    environment: dict[str, Any]  # machine, threads, versions
    measurements: list[Measurement] = field(default_factory=list)
    not_reached: int = 0  # number of points for which there was no time

    @classmethod
    def here(cls, threads: int, *, jax: bool) -> Benchmark:
        """An empty benchmark of this machine."""
        environment: dict[str, Any] = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "processors": os.cpu_count(),
            "threads": threads,
            "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # processes that wanted to run
            "instruction_set": kernels.info()["instruction_set"],
            "retrograde": __version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "jax": None,
        }
        if jax:
            try:
                environment["jax"] = version("jax")
            except PackageNotFoundError:
                environment["jax"] = "unknown"
        return cls(environment)

    @property
    def timed(self) -> list[Measurement]:
        """The measurements with times."""
        return [m for m in self.measurements if m.left_out is None]

    @property
    def left_out(self) -> list[Measurement]:
        """The points that were left out, because torch.nn takes too long."""
        return [m for m in self.measurements if m.left_out is not None]

    def rows(self) -> list[Row]:
        """One row for each cell, task and peer."""
        rows = []
        peers = list(dict.fromkeys(peer for m in self.timed for peer in m.ratios))
        for peer in peers:
            for task in ("train", "forward"):
                for cell in BY_NAME:
                    group = [m for m in self.timed if (m.point.cell, m.point.task) == (cell, task) and peer in m.ratios]
                    if group:
                        mean = statistics.geometric_mean(m.ratios[peer].median for m in group)
                        worst = min(group, key=lambda m: m.ratios[peer].median)
                        rows.append(Row(cell, task, peer, len(group), mean, worst))
        return rows

    def large(self) -> dict[str, list[float]]:
        """Share of the machine's peak in training steps of B ≥ 64 and hidden_size ≥ 512, by cell."""
        shares: dict[str, list[float]] = {}
        for m in self.timed:
            big = m.point.batch_size >= 64 and m.point.hidden_size >= 512 and m.point.task == "train"
            if big and m.share_of_peak is not None:
                shares.setdefault(m.point.cell, []).append(m.share_of_peak)
        return shares

    def summary(self) -> list[str]:
        """The summary, in lines."""
        lines = [str(row) for row in self.rows()]
        peaks = [m.peak.median for m in self.timed if m.peak is not None]
        if peaks:
            lines.append(
                f"multiply-add peak of this machine, measured between the rounds: {statistics.median(peaks) / 1e9:.0f} "
                f"GFLOP/s on {self.environment['threads']} threads"
            )
        for cell, shares in self.large().items():
            lines.append(
                f"{cell:<5}training, B >= 64 and H >= 512: {statistics.median(shares):.0%} of that peak, "
                f"at the least {min(shares):.0%} ({len(shares)} points)"
            )
        load = self.environment["load_before"]
        if load is not None and load > 0.5:
            lines.append(f"the machine had other work (load {load:.1f} when this began): trust no single figure")
        paths = {m.path for m in self.timed}
        if paths == {"torch"}:
            lines.append("our layers computed through torch's operators: the native engine took no part")
        if self.left_out:
            lines.append(f"{len(self.left_out)} points left out: one step of torch.nn takes over {LIMIT:.0f} s there")
        if self.not_reached:
            lines.append(f"{self.not_reached} points not reached in the time given")
        return lines

    def save(self, path: Path) -> None:
        """Write everything to `path` as JSON; seconds, ratios, and operations per second."""
        rows = [
            {
                "cell": row.cell,
                "task": row.task,
                "peer": row.peer,
                "points": row.points,
                "geometric_mean": row.mean,
                "worst": row.worst.ratios[row.peer].median,
                "worst_point": asdict(row.worst.point),
            }
            for row in self.rows()
        ]
        points = [
            {
                **asdict(m.point),
                "operations": m.point.operations,
                "path": m.path,
                "rounds": m.rounds,
                "seconds": {name: asdict(t) for name, t in m.seconds.items()},
                "ratios": {name: asdict(t) for name, t in m.ratios.items()},
                "peak": asdict(m.peak) if m.peak is not None else None,
                "share_of_peak": m.share_of_peak,
                "left_out": m.left_out,
            }
            for m in self.measurements
        ]
        document = {
            "format": 1,
            "environment": self.environment,
            "not_reached": self.not_reached,
            "summary": rows,
            "points": points,
        }
        write_file(path, (json.dumps(document, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Benchmark:
        """Read what :meth:`save` wrote.

        Raises DataError if `path` does not contain a benchmark.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] != 1:
                raise DataError(f"{path}: benchmark format {document['format']} is newer than this version reads.")
            return cls(document["environment"], list(_measurements(document["points"])), document["not_reached"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: no benchmark can be read from it ({error}).") from error


def _measurements(points: Iterable[dict[str, Any]]) -> Iterable[Measurement]:
    for p in points:
        yield Measurement(
            Point(**{name: p[name] for name in Point.__dataclass_fields__}),
            {name: Timing(**t) for name, t in p["seconds"].items()},
            {name: Timing(**t) for name, t in p["ratios"].items()},
            Timing(**p["peak"]) if p["peak"] is not None else None,
            p["rounds"],
            p["path"],
            p["left_out"],
        )
