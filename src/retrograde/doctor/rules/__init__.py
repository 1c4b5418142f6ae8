"""The rules: each looks at an examination and returns what it finds. The order is that of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..examination import Examination
from ..findings import Finding
from . import data, explosion, finite, loop, memory, outputs, padding, training, units, wiring

__all__ = ["RULES"]

RULES: tuple[Callable[[Examination], Iterable[Finding]], ...] = (
    *finite.RULES,
    *wiring.RULES,
    *padding.RULES,
    *data.RULES,
    *outputs.RULES,
    *loop.RULES,
    *explosion.RULES,
    *memory.RULES,
    *units.RULES,
    *training.RULES,
)
