"""Quantiles of a prediction: what is said of them. That they are trained and judged is in ``test_forecast.py``."""

from __future__ import annotations

import pytest

from retrograde.tasks.quantiles import levels_of, note


@pytest.mark.parametrize(("asked", "said"), [("0.9", "quantile 0.9 by"), ("0.9,0.1", "quantiles 0.1, 0.9 by")])
def test_the_levels_asked_for_are_named_and_the_median_is_added(asked: str, said: str) -> None:
    assert note(asked).startswith(said)
    assert set(levels_of(asked)) == {float(level) for level in asked.split(",")} | {0.5}
