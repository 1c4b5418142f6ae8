"""The regular steps on which the times of series lie, inferred or stated as ``--freq``.

A season is counted in rows. Where rows are missing it slips, so gaps are found and filled with empty steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import OptionError

DAY = 86400.0
_UNITS = {"w": 7 * DAY, "d": DAY, "h": 3600.0, "min": 60.0, "sec": 1.0, "s": 1.0}
_MONTHS = {"mo": 1, "m": 1, "q": 3, "y": 12}
_MONTH_LIKE = ((28, 31, 1), (59, 62, 2), (89, 92, 3), (181, 184, 6), (365, 366, 12))  # days from, to: months


@dataclass(frozen=True)
class Regular:
    """What is to be done about times that are not regular."""

    # How far steps lie apart, as ``--freq`` has it; None: inferred; empty: rows are steps, whatever their times.
    freq: str | None = None
    # Missing steps become empty ones; no window reaches over one; or they are refused.
    gaps: Literal["fill", "split", "error"] = "fill"
    # Rows of one series with the same time are refused, or one of them, or their
    # mean, is kept.
    duplicates: Literal["error", "first", "last", "mean"] = "error"


@dataclass(frozen=True)
class Gap:
    """Steps that are missing."""

    series: int  # place of the series
    at: int  # the first missing step, counted in the filled series
    missing: int  # number of missing steps
    after: str  # the time before it, as it is written


@dataclass(frozen=True)
class Grid:
    """Times at regular steps."""

    kind: Literal["seconds", "months", "workdays", "numbers"]
    step: float  # seconds, months, or the difference of two numbers

    @classmethod
    def of(cls, freq: str) -> Grid:
        """The grid that ``--freq`` states.

        Raises
        ------
        OptionError

        Examples
        --------
        >>> Grid.of("15min"), Grid.of("3mo").step, str(Grid.of("2h")), str(Grid.of("workdays"))
        (Grid(kind='seconds', step=900.0), 3, '2h', 'workdays')
        """
        text = freq.strip().lower()
        if text in ("workdays", "b"):
            return cls("workdays", 1)
        match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)?\s*([a-z]*)", text)
        if match and text and float(match[1] or 1) > 0:
            number, unit = float(match[1] or 1), match[2]
            if unit in _UNITS:
                return cls("seconds", number * _UNITS[unit])
            if unit in _MONTHS and number.is_integer():
                return cls("months", int(number) * _MONTHS[unit])
            if not unit:
                return cls("numbers", number)
        raise OptionError(
            f"--freq {freq!r} is not a frequency; write 30s, 15min, 1h, 1d, workdays, 1w, 1mo, 1q, 1y, or a number "
            "where times are numbers."
        )

    def __str__(self) -> str:
        if self.kind == "workdays":
            return "workdays"
        if self.kind == "months":
            years, months = divmod(int(self.step), 12)
            return f"{years}y" if not months else f"{int(self.step)}mo"
        number = repr(self.step).removesuffix(".0")
        if self.kind == "numbers":
            return number
        whole = ((unit, seconds) for unit, seconds in _UNITS.items() if seconds > 1 and self.step % seconds == 0)
        return next((f"{int(self.step / seconds)}{unit}" for unit, seconds in whole), f"{number}s")

    @property
    def days(self) -> float | None:
        """Days of a step, None for numbers."""
        return {"seconds": self.step / DAY, "months": self.step * 30.4375, "workdays": 1.0}.get(self.kind)

    def position(self, moment: str) -> str:
        """A time (seconds since 1970, or a number) in steps of the grid, as an expression of SQL; NULL on a weekend."""
        if self.kind in ("seconds", "numbers"):
            return f"({moment}) / {self.step!r}"
        if self.kind == "workdays":  # 1970 began on a Thursday: three days after a Monday
            days = f"(floor(({moment}) / {DAY}) + 3)"
            return f"CASE WHEN {days} - 7 * floor({days} / 7) < 5 THEN {days} - 2 * floor({days} / 7) END"
        date = f"make_timestamp(TRY_CAST(({moment}) * 1000000 AS BIGINT))"
        return f"(12 * year({date}) + month({date}) + day({date}) / 31) / {self.step}"

    def missing(self, moment: str, before: str) -> tuple[str, str]:
        """Expressions of SQL: steps missing between two times in order, and whether the later one is off the grid."""
        apart = f"({self.position(moment)} - {self.position(before)})"
        near = 0.25 / self.step if self.kind == "months" else 0.05
        on = f"coalesce(abs({apart} - round({apart})) <= {near!r} AND round({apart}) >= 1, false)"
        return (
            f"CASE WHEN {before} <> {moment} AND {on} THEN CAST(least(round({apart}), 1e12) AS BIGINT) - 1 ELSE 0 END",
            f"coalesce({before} <> {moment} AND NOT {on}, false)",
        )


def infer(apart: Mapping[float, int], dates: bool, weekend: bool) -> Grid | None:
    """The grid on which times lie, by how often they are how far apart.

    apart: from a distance (seconds, or a difference of numbers) to how often two neighbours lie so.
    dates: whether they are dates rather than numbers.
    weekend: whether any is a Saturday or Sunday.

    Examples
    --------
    >>> str(infer({86400.0: 50, 172800.0: 2}, True, True)), str(infer({2678400.0: 7, 2592000.0: 4}, True, True))
    ('1d', '1mo')
    >>> infer({1.3: 1, 2.6: 1, 0.7: 1}, False, False) is None
    True
    """
    if not apart or min(apart) < 0:
        return None
    usual = min(apart, key=lambda one: (-apart[one], one))
    if usual <= 0:
        return None
    # A distance that is not the most common by far says nothing: measured times, not counted ones.
    common = apart[usual] * 2 > sum(apart.values())
    if not dates:
        return Grid("numbers", usual) if common else None
    days = usual / DAY
    if days == 28 and sum(apart.values()) > 2 and all(one % usual == 0 for one in apart):
        return Grid("seconds", usual)  # no month after another has 28 days
    for low, high, months in _MONTH_LIKE:
        if low <= days <= high and sum(n for one, n in apart.items() if low <= one / DAY <= high) > 1:
            return Grid("months", months)
    if days == 1 and not weekend and sum(apart.values()) >= 7:
        return Grid("workdays", 1)
    return Grid("seconds", usual) if common else None
