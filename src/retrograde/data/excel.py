"""Dates as Excel keeps them: days since 30 December 1899, the time of day as a fraction. 45292 is 1 January 2024.

Tests: `tests/data/test_excel.py`.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import DataError
from .cells import Cells
from .dates import EXCEL, as_iso, form_of, looks_like_date
from .table import Table

_FIRST, _LAST = 25569, 73050  # 1970 to 2099; days that are counted from 1970 on are fewer
_NAMES = {"date", "dates", "datetime", "day", "month", "week", "datum", "tag", "monat", "woche", "jour", "mois",
          "fecha", "dia", "día", "mes", "mês", "giorno", "mese", "dag", "maand"}  # fmt: skip
NUMBER = "number"  # of --date-format: these are plain numbers


def is_named_date(name: str) -> bool:
    """Whether a column is named as one of dates: ``date``, ``Order Date``, ``orderDate``, ``Datum``.

    Examples
    --------
    >>> [is_named_date(name) for name in ("Order Date", "orderDate", "Datum", "candidates", "time")]
    [True, True, True, False, False]
    """
    words = re.split(r"[\W_\d]+", re.sub(r"([a-zß-ÿ])([A-Z])", r"\1 \2", name))
    return not _NAMES.isdisjoint(word.lower() for word in words)


def are_excel_dates(name: str, cells: Cells) -> bool:
    """Whether numbers of a column that is named as one of dates are Excel's days, of 1970 to 2099."""
    if cells.kind != "number" or len(cells.present) < 3 or not is_named_date(name):
        return False
    return all(_FIRST <= float(cell) < _LAST for cell in cells.present)


def form_of_times(table: Table, name: str, cells: Cells, stated: str | None) -> str:
    """How a column of times is written, see `retrograde.data.dates.date_form`: as it is stated, else by its cells."""
    if stated is not None:
        return "" if stated == NUMBER else stated
    return EXCEL if are_excel_dates(name, cells) else form_of(table.text(name), table.ask)


def how_form_is_read(form: str, first: str, stated: bool) -> str:
    """A note on how times are read, with the first of them."""
    (iso,) = as_iso([first], form)
    guess = ""
    if not stated and form == EXCEL:
        guess = f" (a guess; --date-format {NUMBER} takes them for plain numbers)"
    elif not stated and form[:2] in ("%d", "%m"):
        guess = " (a guess; --date-format states another)"
    return f"times are read as {'days of Excel' if form == EXCEL else form}: {first!r} is {iso}{guess}."


def check_not_mixed(source: str, name: str, cells: Cells) -> None:
    """Refuse a column with both days of Excel and dates as text.

    Excel makes days of the dates that it understands, with day and month in its own order, and leaves the others.

    Raises DataError with a row of each kind.
    """
    days = [row for row, cell in enumerate(cells.all) if _is_day(cell)]
    dates = [row for row, cell in enumerate(cells.all) if looks_like_date(cell) and not _is_day(cell)]
    if days and dates:
        day, date = min(days), min(dates)
        raise DataError(
            f"{source}: row {day + 1}, column {name!r}: {str(cells.all[day])!r} is a day of Excel, but row {date + 1} "
            f"has {str(cells.all[date])[:40]!r}. Excel may have taken days for months: write all dates as 2024-01-31."
        )


def _is_day(cell: Any) -> bool:
    return bool(re.fullmatch(r"\d{5}(\.\d+)?", str(cell).strip())) and _FIRST <= float(cell) < _LAST
