"""``dependence.py``: spans of steps. ``test_positions.py`` tests how they are found."""

from __future__ import annotations

import numpy as np

from retrograde.flow.wiring.dependence import Span


def test_the_union_of_spans_reaches_from_the_first_step_to_the_last() -> None:
    one = Span(np.array([2, -1, 3, -1]), np.array([4, -1, 3, -1]), 2)
    other = Span(np.array([1, 5, -1, -1]), np.array([3, 6, -1, -1]), 3)
    for union in (one.union(other), other.union(one)):
        assert union.first.tolist() == [1, 5, 3, -1] and union.last.tolist() == [4, 6, 3, -1] and union.number == 3
    assert one.same_as(one) and not one.same_as(other)
