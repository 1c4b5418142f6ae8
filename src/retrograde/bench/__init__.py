"""The speed of the layers compared with ``torch.nn`` and JAX: the same mathematics in one process, in turns.

A :class:`Point` is a shape and a task (forward pass, or training step); :func:`measure` times every peer on it; a
:class:`Benchmark` contains the measurements and summarizes them.
"""

from __future__ import annotations

from .points import GRID, QUICK, Point, grid
from .result import Benchmark
from .timing import Measurement, Timing, measure

__all__ = ["GRID", "QUICK", "Benchmark", "Measurement", "Point", "Timing", "grid", "measure"]
