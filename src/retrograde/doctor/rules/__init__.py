"""The rules: each looks at an examination and returns what it finds.

The order is that of the report. Those that measure how the gradient travels take the most time and are applied last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..examination import Examination
from ..findings import Finding
from . import data, explosion, finite, loop, memory, outputs, padding, training, units, wiring

__all__ = ["BY_EFFORT", "RULES", "Rule"]

Rule = Callable[[Examination], Iterable[Finding]]

RULES: tuple[Rule, ...] = (
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

_TRAVEL = {*explosion.RULES, *memory.RULES, *units.RULES}
BY_EFFORT = tuple(sorted(RULES, key=_TRAVEL.__contains__))  # so that no quick rule waits until the time is up
