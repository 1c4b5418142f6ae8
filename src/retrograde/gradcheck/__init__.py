"""Check anyone's gradients against float64 and against finite differences.

``check_gradients`` returns a ``GradientCheck``: one ``GradientError`` for each parameter, input and output and
for each of the two comparisons.

A gradient can be wrong for two reasons, so it is compared twice. The arithmetic can be wrong: a kernel on some device,
or in some precision, computes something else than it should. Then the same module in float64 on the CPU disagrees
(``float64.py``). The mathematics can be wrong: a hand-written backward is not the derivative of its forward, or a
``detach`` cuts a path through time. Then float64 is just as wrong, and only finite differences of the forward disagree
(``differences.py``).
"""

from __future__ import annotations

from .check import check_gradients
from .result import GradientCheck, GradientError

__all__ = ["GradientCheck", "GradientError", "check_gradients"]
