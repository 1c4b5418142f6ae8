"""What cells hold, by the look of the first ones: numbers, times, lists or text; and the ones that do not fit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dates import date_form, looks_like_date, moments
from .table import number_of

__all__ = [
    "all_differ",
    "are_dates",
    "are_numeric_lists",
    "are_whole",
    "have_decimal_commas",
    "is_missing",
    "kind_of",
    "numbers_of",
    "odd_cell",
]


def are_dates(labels: Sequence[str]) -> bool:
    """Whether the labels of steps are dates, or whole years of our times."""
    if all(re.fullmatch(r"\d+", label) for label in labels):
        return bool(date_form(labels)) or all(re.fullmatch(r"1[6-9]\d\d|20\d\d", label) for label in labels)
    try:
        moments(labels)
    except ValueError:
        return False
    return not all(re.fullmatch(r"\d+\.\d+", label) for label in labels)  # x_1.5


def all_differ(values: Sequence[Any]) -> bool:
    """Whether no value comes twice."""
    return max(Counter(map(str, values)).values(), default=1) == 1


def are_whole(values: Sequence[Any]) -> bool:
    """Whether all numbers of a column are whole."""
    numbers = numbers_of(values)
    return bool((np.isnan(numbers) | (numbers == np.floor(numbers))).all())


def kind_of(values: Sequence[Any]) -> str:
    """What a column holds, by its first cells: number, time, list, text or, where all are, empty."""
    cells = [value for value in values if not is_missing(value)]
    if not cells:
        return "empty"
    if all(isinstance(cell, list | tuple | np.ndarray) for cell in cells):
        return "list"
    if _is_instant(cells[0]):
        return "time"
    if _are_numbers(cells):
        dated = re.fullmatch(r"\d{6}|\d{8}", str(cells[0]).strip())  # the first tells most: tables may be wide
        return "time" if dated and date_form(cells) else "number"
    if not isinstance(cells[0], str):
        return "text"
    return "time" if all(map(looks_like_date, cells)) and are_dates(list(map(str, cells))) else "text"


def odd_cell(kind: str, values: Sequence[Any]) -> tuple[str, int, Any] | None:
    """What a column of text would hold but for a few cells, at most a tenth; with the first of these and its row."""
    if kind != "text":
        return None
    cells = [(row, value) for row, value in enumerate(values) if not is_missing(value)]
    few = max(1, len(cells) // 10)
    for kind, fits in (("number", _is_number), ("time", _is_time)):
        wrong = [cell for cell in cells if not fits(cell[1])]
        if kind == "time" and not wrong and len(cells) > 5:  # written as dates are, and one that no calendar has
            try:
                moments([cell for _, cell in cells])
            except ValueError as error:
                wrong = [cells[error.args[1]]]
        if wrong and len(wrong) <= few and len(cells) - len(wrong) >= 5:
            return kind, *wrong[0]
    return None


def _is_number(cell: Any) -> bool:
    return not isinstance(cell, bool | np.bool_) and _are_numbers([cell])


def _is_time(cell: Any) -> bool:
    return _is_instant(cell) or (isinstance(cell, str) and looks_like_date(cell))


def _is_instant(cell: Any) -> bool:
    return hasattr(cell, "isoformat") or isinstance(cell, np.datetime64)


def _are_numbers(cells: Sequence[Any]) -> bool:
    if any(isinstance(cell, bool | np.bool_) for cell in cells):
        return False
    try:
        return not bool(np.isnan(numbers_of(cells)).all())
    except (TypeError, ValueError):
        return False


def numbers_of(cells: Sequence[Any]) -> NDArray[np.float64]:
    """The numbers in cells, NaN where there is none; see `number_of`."""
    try:
        found = np.array(cells, dtype=np.float64)  # a hundred times as fast, where no cell is empty
    except (TypeError, ValueError):
        found = np.empty(0)
    return found if found.shape == (len(cells),) else np.array([number_of(cell) for cell in cells], dtype=np.float64)


def have_decimal_commas(cells: Sequence[Any]) -> bool:
    """Whether the first cells of text are numbers with a decimal comma, or have none."""
    some = [cell for cell in cells[:20] if not is_missing(cell)]
    return any("," in cell for cell in some) and all(re.fullmatch(r"\s*[-+\d,.eE]+\s*", cell) for cell in some)


def are_numeric_lists(values: Sequence[Any]) -> bool:
    """Whether a column holds lists of numbers, by the first that is not empty."""
    if kind_of(values) != "list":
        return False
    cell = next((value for value in values if not is_missing(value) and len(value)), None)
    if cell is None:
        return False
    try:
        return np.asarray(cell).dtype.kind in "fiub"
    except ValueError:  # lists of unequal lengths inside: refused by its row where it is read
        return True


def is_missing(cell: Any) -> bool:
    """Whether a cell is empty."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or (isinstance(cell, float) and math.isnan(cell))
