"""Windows of several series: each run of steps that may be read is there once, and is cut where it lies."""

from __future__ import annotations

import numpy as np
import pytest

from retrograde.data.grid import Gap
from retrograde.data.storage import Ragged
from retrograde.errors import DataError
from retrograde.tasks.windows import ForecastPlan, Windows

CONTEXT, HORIZON = 5, 3
PLAN = ForecastPlan(HORIZON, CONTEXT, season=1, strategy="direct", channels=1, features=0)
LENGTHS = np.array([30, 6, 24, 40])
PADDING = PLAN.padding(LENGTHS)
GAPS = [Gap(0, 12, 2, ""), Gap(2, 3, 1, ""), Gap(2, 23, 1, ""), Gap(3, 25, 4, ""), Gap(3, 32, 1, "")]
PARTS = {
    "all": [(0, int(n)) for n in LENGTHS],
    "first": [(0, 20), (0, 6), (0, 15), (0, 28)],
    "last": [(18, 30), (2, 6), (12, 24), (20, 40)],
}


def numbered(series):
    """The steps of a series with its padding, numbered: 1,000 for each series before it."""
    return 1000.0 * series + np.arange(PADDING[series] + LENGTHS[series])[:, None]


def windows(part, history, gaps):
    values = Ragged.of(map(numbered, range(len(LENGTHS))), np.float32)
    return Windows(PLAN, values, values, PADDING, PARTS[part], history, gaps)


def expected(part, history, gaps):
    """Series and first step of every window, by trying all."""
    found = []
    for series, (begin, end) in enumerate(PARTS[part]):
        pad = int(PADDING[series])
        begin, end = begin + pad if begin else 0, end + pad
        missing = {pad + gap.at + i for gap in gaps if gap.series == series for i in range(gap.missing)}
        for first in range(pad + int(LENGTHS[series]) - CONTEXT - HORIZON + 1):
            forecast, stop = first + CONTEXT, first + CONTEXT + HORIZON
            inside = begin <= (forecast if history else first) and stop <= end
            if inside and forecast > pad and not missing & set(range(first, stop)):
                found.append((series, first))
    return found


@pytest.mark.parametrize("gaps", [[], GAPS], ids=["whole", "gaps"])
@pytest.mark.parametrize(("part", "history"), [("all", False), ("first", False), ("last", True), ("last", False)])
def test_every_window_is_there_once_and_cut_where_it_lies(part, history, gaps):
    found, wanted = windows(part, history, gaps), expected(part, history, gaps)
    chosen = np.arange(len(found))
    assert len(found) == len(wanted) > 5 and found.owners(chosen).tolist() == [series for series, _ in wanted]
    cut = found.cut(found.values, chosen)[..., 0]
    np.testing.assert_array_equal(cut[0], [1000 * series + first for series, first in wanted])
    np.testing.assert_array_equal(np.diff(cut, axis=0), 1)
    np.testing.assert_array_equal(found.cut(found.truths, chosen[::-1], 2, 4)[..., 0], cut[2:4, ::-1])


@pytest.mark.parametrize("gaps", [[], GAPS], ids=["whole", "gaps"])
@pytest.mark.parametrize(("count", "stride"), [(1, 3), (2, 3), (4, 3), (6, 3), (9, 2), (18, 1)])
def test_rolling_origins_end_with_the_series_and_leave_out_gaps(count, stride, gaps):
    found = windows("last", True, gaps)
    longest = 40 - 20 - HORIZON + 1
    assert longest == 18
    steps, origins = found.origins(count)
    assert steps == stride and len(origins) == count
    wanted = expected("last", True, gaps)
    for number, chosen in enumerate(origins):
        back = (count - 1 - number) * stride
        ends = [1000 * s + int(PADDING[s]) + end - HORIZON - back for s, (_, end) in enumerate(PARTS["last"])]
        there = [end for s, end in enumerate(ends) if (s, end - 1000 * s - CONTEXT) in wanted]
        assert found.cut(found.values, chosen, CONTEXT, CONTEXT + 1).ravel().tolist() == there


def test_more_origins_than_the_longest_series_has_room_for_are_refused():
    with pytest.raises(DataError, match=r"--backtest 19 needs 19 forecasts of 3 steps .* room for 18: ask for fewer"):
        windows("last", True, GAPS).origins(19)
