"""Cells that tell when: recognised as dates however people write them, and turned into numbers that grow with time."""

from __future__ import annotations

import datetime
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_iso", "as_written", "date_form", "looks_like_date", "moments"]

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = re.compile(
    r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? +)?(?:"
    r"\d{1,4}[-/.]\d{1,2}(?:[-/.]\d{1,4})?\b"  # 2004-03-01 and all that follows; 01/03/2004; 1.3.04; 2004-03
    r"|\d{4}[-_ ]?[qm]\d{1,2}$"  # 2004Q1
    rf"|{_MONTH}[-_ ]?(?:\d{{4}}|\d{{2}})$"  # Mar 2004
    rf"|{_MONTH}[-_ /]?\d{{1,2}}(?:st|nd|rd|th)?[-_ ,/].*\d{{2}}"  # Mar 1, 2004; Mar 1 10:00:00 2004
    rf"|\d{{1,2}}(?:st|nd|rd|th)?[-_ /.]*{_MONTH}[-_ ,/.]*\d{{2,4}}\b"  # 1 March 2004; 01-Mar-04
    rf"|\d{{4}}[-_ /]?{_MONTH}(?:[-_ /]?\d{{1,2}}\b|$))",  # 2004-Mar-01
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<a>\d{1,2})(?P<gap>[-/.])(?P<b>\d{1,2})(?P=gap)(?P<year>\d{4}|\d{2})(?P<rest>\D.*)?")
_COMPACT = {"%Y%m%d": (18000101, 21001231), "%Y%m": (180001, 210012)}


def looks_like_date(cell: Any) -> bool:
    """Whether a cell is written as dates are.

    Examples
    --------
    >>> [looks_like_date(cell) for cell in ("2004-03-01T10:00Z", "Mar 1 2004", "1.3.04", "2004Q1", "may be")]
    [True, True, True, True, False]
    """
    return _DATE.match(str(cell).strip()) is not None


def date_form(values: Sequence[Any]) -> str:
    """How dates are written that do not say themselves what is their day and what their month; else nothing.

    A number above 12 is a day, and so is one that is always 1. Where there is neither, the dates are read so that they
    lie more evenly; where that tells nothing, those with dots have the day first and others the month.

    Returns
    -------
    str
        As ``strftime`` has it.

    Examples
    --------
    >>> date_form(["01/03/2004", "15/03/2004"]), date_form(["20040331", "20040401"]), date_form(["2004-03-01"])
    ('%d/%m/%Y', '%Y%m%d', '')
    """
    cells = [str(value).strip() for value in values if value is not None]
    for form, (low, high) in _COMPACT.items():
        if len(cells) > 2 and all(re.fullmatch(r"\d{6}|\d{8}", cell) and low <= int(cell) <= high for cell in cells):
            days = _parsed(cells, form)
            # Six digits could count anything: they are months if they step over the end of a year.
            steps = np.diff(np.unique(np.array(cells, dtype=np.int64)))
            if not np.isnan(days).any() and (form == "%Y%m%d" or (89 in steps and (steps <= 89).all())):
                return form
    matches = [match for cell in cells if (match := _NUMBERED.fullmatch(cell))]
    if not matches or len(matches) < 0.9 * len(cells):
        return ""
    gap, year = matches[0]["gap"], "%Y" if len(matches[0]["year"]) == 4 else "%y"
    month_first, day_first = f"%m{gap}%d{gap}{year}", f"%d{gap}%m{gap}{year}"
    big = [sum(int(match[part]) > 12 for match in matches) for part in "ab"]
    if big[0] != big[1]:
        return day_first if big[0] > big[1] else month_first
    always = [all(int(match[part]) == 1 for match in matches) for part in "ab"]
    if always[0] != always[1] and len(matches) > 1:
        return day_first if always[0] else month_first
    uneven = {form: _unevenness([match[0] for match in matches], form) for form in (month_first, day_first)}
    if uneven[month_first] == uneven[day_first]:
        return day_first if gap == "." else month_first
    return min(uneven, key=uneven.__getitem__)


def _unevenness(cells: Sequence[str], form: str) -> float:
    found = np.unique(moments(as_iso(cells, form)))
    apart = np.diff(found)
    return float(apart.std() / apart.mean()) if len(apart) > 1 else 0.0


def as_iso(values: Sequence[Any], form: str) -> list[Any]:
    """Dates of a form, see `date_form`, as ISO 8601 has them; cells that are none stay as they are.

    Examples
    --------
    >>> as_iso(["1/3/04 10:30", "soon"], "%d/%m/%y")
    ['2004-03-01 10:30', 'soon']
    """
    if not form:
        return list(values)
    return [_iso(value, form) for value in values]


def _iso(value: Any, form: str) -> Any:
    cell = str(value).strip()
    if form in _COMPACT:
        return "-".join(filter(None, (cell[:4], cell[4:6], cell[6:]))) if re.fullmatch(r"\d{6}|\d{8}", cell) else value
    match = _NUMBERED.fullmatch(cell)
    if match is None:
        return value
    day, month = (match["a"], match["b"]) if form.startswith("%d") else (match["b"], match["a"])
    if int(month) > 12:
        return value
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 1900 if year > 68 else 2000  # as POSIX has it
    return f"{year:04}-{int(month):02}-{int(day):02}{match['rest'] or ''}"


def as_written(times: Sequence[Any], form: str) -> list[Any]:
    """Undo `as_iso` for dates without a time of day.

    Examples
    --------
    >>> as_written(["2004-03", "2004-04"], "%Y%m"), as_written([7, 8], "")
    (['200403', '200404'], [7, 8])
    """
    if not form or not all(isinstance(one, str) and len(one) <= 10 for one in times):
        return list(times)
    return [datetime.date.fromisoformat(one if len(one) == 10 else f"{one}-01").strftime(form) for one in times]


def _parsed(cells: Sequence[str], form: str) -> NDArray[np.float64]:
    """Seconds since 1970, NaN where a cell is not of the form."""
    import pandas

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about formats that it guesses
        try:
            found = pandas.to_datetime(pandas.Series(cells, dtype="object"), utc=True, format=form, errors="coerce")
        except (ValueError, TypeError, OverflowError):
            return np.full(len(cells), np.nan)
    # Not by way of nanoseconds, which end in the year 2262.
    seconds = found.dt.tz_localize(None).to_numpy().astype("datetime64[ms]")
    return np.where(np.isnat(seconds), np.nan, seconds.astype(np.int64) / 1000)


def moments(values: Sequence[Any]) -> NDArray[np.float64]:
    """Cells of a time column as numbers that grow with time: numbers as they are, dates in seconds since 1970 (UTC).

    Raises
    ------
    ValueError
        If one is neither; its place is the exception's second argument.
    """
    form = date_form(values)
    if len(values) and all(isinstance(value, np.datetime64) for value in values):
        instants = np.array(values, dtype="datetime64[ms]")
        return np.where(np.isnat(instants), np.nan, instants.astype(np.int64) / 1000)
    if not form:
        try:
            return np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            pass
    text = [re.sub(r" \[YR\d{4}\]$", "", str(cell).strip()) for cell in as_iso(values, form)]
    quarters = [re.fullmatch(r"(\d{4})[-_ ]?([qQmM])(\d{1,2})", cell) for cell in text]
    if all(quarters):
        numbered = [(one[1], int(one[3]) * (1 if one[2] in "mM" else 3)) for one in quarters if one]
        text = [f"{year}-{month if one and one[2] in 'mM' else month - 2}-1"
                for (year, month), one in zip(numbered, quarters, strict=True)]  # fmt: skip
    found = np.full(len(text), np.nan)
    if all(re.fullmatch(r"[A-Za-z]{3,9}[-_ .]?(\d{4}|\d{2})", cell) for cell in text):
        short = [re.sub(r"^([A-Za-z]{3})[a-z]*[-_ .]?(\d+)$", r"\1 \2", cell) for cell in text]
        found = _parsed(short, "%b %Y" if all(len(cell) == 8 for cell in short) else "%b %y")
    if np.isnan(found).any():
        found = _parsed(text, "mixed")
        # What is left of these does not fit the others: pandas would take the day for the month.
        found[[_NUMBERED.fullmatch(cell) is not None for cell in text]] = np.nan
    if np.isnan(found).any():
        raise ValueError("no time", int(np.argmax(np.isnan(found))))
    return found
