"""What the benchmark times: points, each a cell, a shape, and a forward pass or a whole training step.

Tests: tests/bench/test_bench.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ..cells import FUSED, find

_CELLS = tuple(dict.fromkeys(cell.name for cell in FUSED))  # those that the peers have too
GRID: dict[str, tuple[object, ...]] = {
    "num_layers": (1, 2),
    "steps": (50, 200, 1000),
    "batch_size": (1, 8, 32, 128),
    "hidden_size": (32, 64, 128, 256, 512, 1024),
    "cell": _CELLS,
    "task": ("forward", "train"),
}
QUICK: dict[str, tuple[object, ...]] = {
    "num_layers": (1,),
    "steps": (200,),
    "batch_size": (1, 32),
    "hidden_size": (64, 256),
    "cell": _CELLS,
    "task": ("forward", "train"),
}


@dataclass(frozen=True)
class Point:
    """One case to time; the input is as wide as the hidden state."""

    cell: str
    # A forward pass in inference mode, or forward and backward: the loss is Σ w ⊙ output for a
    # fixed w, its gradient is taken for the input and every parameter.
    task: str
    batch_size: int
    steps: int
    hidden_size: int
    num_layers: int

    @property
    def operations(self) -> int:
        """Additions and multiplications of the products; a training step is three times its forward pass."""
        size = self.hidden_size
        # per step, sequence and layer: W_ih x_t and W_hh h_{t-1}, a multiplication and an addition each
        forward = 2 * (2 * len(find(self.cell).gates) * size * size) * self.num_layers * self.batch_size * self.steps
        return forward * (3 if self.task == "train" else 1)

    def __str__(self) -> str:
        layers = "" if self.num_layers == 1 else f" {self.num_layers} layers"
        return f"{self.cell} {self.task} B={self.batch_size} T={self.steps} H={self.hidden_size}{layers}"


def grid(axes: Mapping[str, Sequence[object]]) -> list[Point]:
    """Every combination of `axes`, the cells and tasks of one shape together, cheap shapes first."""
    names = list(GRID)
    points = [
        Point(**dict(zip(names, values, strict=True)))  # type: ignore[arg-type]  # names are Point's own
        for values in product(*(axes[name] for name in names))
    ]
    work = {_shape(p): p.num_layers * p.batch_size * p.steps * p.hidden_size**2 for p in points}
    return sorted(points, key=lambda p: (work[_shape(p)], _shape(p)))  # stable: cells and tasks keep their order


def _shape(point: Point) -> tuple[int, ...]:
    return point.num_layers, point.steps, point.batch_size, point.hidden_size
