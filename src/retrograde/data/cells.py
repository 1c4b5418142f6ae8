"""The first cells of a column, and what they look like: numbers, times, lists or text; and the ones that do not fit.

Tests: `tests/data/test_formats.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dates import MONTH_AND_YEAR, date_form, looks_like_date, moments
from .numerals import NO_NUMBER, THOUSANDS, UNITS
from .table import number_of

_FLAGS = ("label", "labels", "class", "anomaly", "is_anomaly", "outlier", "is_outlier")


class Cells:
    """The first cells of a column.

    Attributes
    ----------
    all : list
        In their order.
    present : list
        Those that are not empty.
    """

    def __init__(self, cells: list[Any]) -> None:
        self.all = cells
        self.present = [cell for cell in cells if not is_missing(cell)]

    @cached_property
    def kind(self) -> str:
        """What the cells are: number, time, list, text or, where all are, empty."""
        cells = self.present
        if all(isinstance(cell, str) and cell.strip().lower() == "nan" for cell in cells):
            return "empty"
        if all(isinstance(cell, list | tuple | np.ndarray) for cell in cells):
            return "list"
        if _is_instant(cells[0]):
            return "time"
        if _are_numbers(cells):
            # The first says most: tables may be wide.
            dated = re.fullmatch(rf"\d{{6}}|\d{{8}}|{MONTH_AND_YEAR}", str(cells[0]).strip())
            return "time" if dated and date_form(cells) else "number"
        if not isinstance(cells[0], str):
            return "text"
        return "time" if all(map(looks_like_date, cells)) and are_dates(list(map(str, cells))) else "text"

    @property
    def differ(self) -> bool:
        """Whether no value occurs twice, an empty one included."""
        return len(set(map(str, self.all))) == len(self.all)

    @property
    def grow(self) -> bool:
        """Whether each date is later than the one above it, as those of steps are."""
        return len(self.all) == len(self.present) > 2 and bool((np.diff(moments(self.all)) > 0).all())

    @property
    def whole(self) -> bool:
        """Whether all numbers are whole."""
        return bool((np.isnan(self.numbers) | (self.numbers == np.floor(self.numbers))).all())

    @property
    def repeat(self) -> bool:
        """Whether values repeat the way labels do."""
        distinct, rows = len(set(map(str, self.all))), len(self.all)
        return 2 <= distinct <= max(2, min(50, rows // 5)) and distinct < rows

    @property
    def count(self) -> bool:
        """Whether these may count steps: dates, or numbers that are whole or grow."""
        return self.kind == "time" or self.whole or bool((np.diff(self.numbers) > 0).all())

    @property
    def few(self) -> bool:
        """Whether these are whole numbers, each of them in three rows or more on average."""
        return self.whole and 3 * len(set(map(str, self.all))) <= len(self.all)

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The numbers of a column of numbers, NaN where there is none."""
        return _numbers_of(self.all)

    @property
    def could_be_labels(self) -> bool:
        """Whether these are labels rather than amounts: numbers are if they are whole and there are few of them."""
        return self.kind != "number" or (self.whole and len(np.unique(self.numbers)) <= max(20, len(self.all) // 2))

    @property
    def numeric_lists(self) -> bool:
        """Whether these are lists of numbers, by the first that is not empty."""
        cell = next((cell for cell in self.present if self.kind == "list" and len(cell)), None)
        if cell is None:
            return False
        try:
            return np.asarray(cell).dtype.kind in "fiub"
        except ValueError:  # lists of unequal lengths inside: refused by its row where it is read
            return True

    @property
    def suspect(self) -> bool:
        """Whether the cells of text could be numbers in other than the plain notation (see `numerals_of`)."""
        numbers = (cell for cell in self.present if cell.strip().lower() not in NO_NUMBER)
        return all(re.fullmatch(rf"[-+\d,.eE'’\s(){UNITS}]+", cell) for cell in numbers)

    @property
    def grouped(self) -> bool:
        """Whether these are numbers whose points could group thousands."""
        texts = [cell for cell in self.present if isinstance(cell, str) and "." in cell]
        return self.kind == "number" and bool(texts) and all(re.match(THOUSANDS, cell.strip()) for cell in texts)

    @cached_property
    def odd(self) -> tuple[str, int, Any] | None:
        """What a column of text would be but for at most a tenth of its cells; with the first of these and its row."""
        if self.kind != "text":
            return None
        cells = [(row, cell) for row, cell in enumerate(self.all) if not is_missing(cell)]
        few = max(1, len(cells) // 10)
        for kind, fits in (("number", _is_number), ("time", _is_time)):
            wrong = [cell for cell in cells if not fits(cell[1])]
            if kind == "time" and not wrong and len(cells) > 5:  # written as dates are, with one that no calendar has
                try:
                    moments(self.present)
                except ValueError as error:
                    wrong = [cells[error.args[1]]]
            if wrong and len(wrong) <= few and len(cells) - len(wrong) >= 5:
                return kind, *wrong[0]
        return None


def determines(times: Cells, part: Cells) -> bool:
    """Whether each time of a column stands next to one number of another, which stands next to many times."""
    pairs = set(zip(map(str, times.all), map(str, part.all), strict=True))
    before, after = (len({pair[place] for pair in pairs}) for place in (0, 1))
    return len(pairs) == before > after


def begins_with_class(columns: Mapping[str, Cells]) -> bool:
    """Whether a table of numbers without names is as UCR writes it: a class, then the steps of a sequence.

    The first column then has fewer different numbers than the last one that is mostly filled, and than nine in ten.
    """
    first, *rest = columns.values()
    numbers = all(one.kind in ("number", "empty") for one in rest) and len(rest) >= 9
    if next(iter(columns)) != "column 1" or not numbers or first.kind != "number" or not first.could_be_labels:
        return False
    filled = [one.numbers for one in rest if 2 * np.isfinite(one.numbers).sum() > len(one.all)]
    more = [len(np.unique(one)) > len(np.unique(first.numbers)) for one in filled]
    return not first.differ and bool(more) and more[-1] and float(np.mean(more)) >= 0.9


def is_flag(name: str, cells: Cells) -> bool:
    """Whether a column of 0 and 1 marks steps, rather than being a series itself."""
    known = cells.numbers[np.isfinite(cells.numbers)]
    return name.lower() in _FLAGS and set(known.tolist()) <= {0.0, 1.0}


def is_missing(cell: Any) -> bool:
    """Whether a cell is empty."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def are_dates(labels: Sequence[str]) -> bool:
    """Whether the labels of steps are dates, or whole years of our times."""
    if all(re.fullmatch(r"\d+", label) for label in labels):
        return bool(date_form(labels)) or all(re.fullmatch(r"1[6-9]\d\d|20\d\d", label) for label in labels)
    try:
        moments(labels)
    except ValueError:
        return False
    return not all(re.fullmatch(r"\d+\.\d+", label) for label in labels)  # x_1.5


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
        return not bool(np.isnan(_numbers_of(cells)).all())
    except (TypeError, ValueError):
        return False


def _numbers_of(cells: Sequence[Any]) -> NDArray[np.float64]:
    try:
        found = np.array(cells, dtype=np.float64)  # a hundred times as fast, where no cell is empty
    except (TypeError, ValueError):
        found = np.empty(0)
    return found if found.shape == (len(cells),) else np.array([number_of(cell) for cell in cells], dtype=np.float64)
