"""How a column of text writes its numbers: 1234.5, 1234,5, 1.234,5, 1,234.5, 1 234,5, $1,234.50, 8,3 % or (1,234).

All cells of the column decide together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .database import literal, trimmed

NO_NUMBER = ("na", "n/a", "n.a.", "#n/a", "<na>", "null", "none", "?", ".", "..", "-", "–", "—")
"""What people write in place of a number."""
_SPACES = " '’\u00a0\u2009\u202f"
UNITS = "$€£¥₹%‰"
"""Signs of units that are left out where all numbers of a column have the same one."""
_UNIT = rf"[{_SPACES}]*[{UNITS}][{_SPACES}]*"
_NEGATIVE = r"^\((.*)\)$"  # as accountants write it
SUSPECT = rf"\d[.,{_SPACES}]\d*[.,{_SPACES}]|[,{_SPACES}]\d|[{UNITS}]|^\("
"""Pattern of a cell that could be a number in other than the plain notation."""


@dataclass(frozen=True)
class Numerals:
    """A notation of numbers."""

    point: str = "."  # the decimal mark
    thousands: str = ""  # the marks between groups of three digits, each a character; empty where there are none
    unit: str = ""  # the sign that each number has
    accounting: bool = False  # whether numbers in parentheses are negative

    def sql(self, cell: str) -> str:
        """A cell in the plain notation, as an expression of SQL."""
        cell = _bare(cell) if self.unit or self.accounting else cell
        text = f"translate({cell}, {literal(self.thousands)}, '')" if self.thousands else cell
        return f"replace({text}, {literal(self.point)}, '.')" if self.point != "." else text

    def plain(self, cell: str) -> str:
        """A cell in the plain notation."""
        if self.unit or self.accounting:
            cell = re.sub(_NEGATIVE, r"-\1", re.sub(_UNIT, "", cell.strip()))
        return cell.translate(dict.fromkeys(map(ord, self.thousands))).replace(self.point, ".")

    def __str__(self) -> str:
        point = "a decimal comma" if self.point == "," else "a decimal point"
        marks = "spaces or apostrophes" if " " in self.thousands else repr(self.thousands)
        notation = f"{marks} between thousands and {point}" if self.thousands else point
        unit = f", without {self.unit!r}" if self.unit else ""
        return notation + unit + ", those in parentheses as negative" * self.accounting

    @property
    def number(self) -> str:
        """Pattern of a number."""
        point, group = f"[{self.point}]", f"[{self.thousands}]"
        whole = rf"(\d+|[1-9]\d{{0,2}}({group}\d{{3}})+)" if self.thousands else r"\d*"
        return rf"^[-+]?{whole}({point}\d+)?([eE][-+]?\d+)?$"

    @property
    def proof(self) -> str:
        """Pattern of a number that is none in another notation.

        A mark before exactly three digits could group thousands or begin decimals, but after a zero.
        """
        point, group = f"[{self.point}]", f"[{self.thousands}]"
        if not self.thousands:
            return rf"^[-+]?0*{point}\d|{point}(\d\d?|\d{{4,}})([eE]|$)"
        return rf"\d{group}\d" if " " in self.thousands else rf"{group}\d{{3}}[,.]"


PLAIN = Numerals()
_COMMA, _ENGLISH = Numerals(","), Numerals(".", ",")
_OTHERS = (_COMMA, _ENGLISH, Numerals(",", "."), *(Numerals(mark, _SPACES) for mark in ".,"))


THOUSANDS = r"^[-+]?[1-9]\d{0,2}(\.\d{3})+$"
"""Pattern of a cell whose points could group thousands."""
GROUPED = Numerals(",", ".")


def _bare(cell: str) -> str:
    """A cell without the sign of its unit, and with a minus in place of parentheses, as an expression of SQL."""
    bare = f"regexp_replace({trimmed(cell)}, {literal(_UNIT)}, '', 'g')"
    return f"regexp_replace({bare}, {literal(_NEGATIVE)}, '-\\1')"


def no_number(cell: str) -> str:
    """Why a cell is refused, and what to write instead.

    >>> no_number("1.2.3")
    "'1.2.3' is not a number; write 1234.5"
    >>> no_number("1,500")
    "'1,500' is not a number; write 1234.5 (the comma could group thousands or begin decimals)"
    """
    unclear = re.fullmatch(r"\s*[-+]?[1-9]\d{0,2},\d{3}\s*", cell)
    why = " (the comma could group thousands or begin decimals)" if unclear else ""
    return f"{cell[:40]!r} is not a number; write 1234.5{why}"


def numerals_of(cell: str, ask: Callable[..., list[Any]]) -> Numerals:
    """The notation of a column of text, the plain one where no other is certain.

    A notation is certain if all cells fit it and one of them fits no other. Commas before three digits are thousands
    too where a cell without a comma shows that numbers do not all have three decimals, and a last digit 0 that
    decimals are not shortened either. The sign of a unit is left out where all cells have the same one.

    cell: expression of the cells.
    ask: from aggregates of SQL to their values.
    """
    text = trimmed(cell)
    known = ", ".join(map(literal, NO_NUMBER))
    filled = f"{text} IS NOT NULL AND lower({text}) NOT IN ({known})"

    def some(pattern: str) -> str:
        return f"bool_or(regexp_matches({text}, {literal(pattern)}))"

    sign = f"regexp_extract({text}, '[{UNITS}]')"
    first, last, several, accounting = ask(
        *(f"{end}({sign}) FILTER ({filled})" for end in ("min", "max")), some(rf"[{UNITS}].*[{UNITS}]"), some(r"^\(")
    )  # fmt: skip
    signed = bool(first or accounting) and first == last and not several
    if signed:
        text = _bare(text)
    found = ask(
        *(f"bool_and(regexp_matches({text}, {literal(one.number)})) FILTER ({filled})" for one in _OTHERS),
        *(some(one.proof) for one in _OTHERS),
        f"bool_and(regexp_matches({text}, {literal(PLAIN.number)})) FILTER ({filled})",
        some(r",\d\d0$"), some(r"^[-+]?\d{1,3}$"),
    )  # fmt: skip
    fits, proofs = found[: len(_OTHERS)], found[len(_OTHERS) : 2 * len(_OTHERS)]
    extra = {"unit": first, "accounting": accounting} if signed else {}
    for one, fit, proof in zip(_OTHERS, fits, proofs, strict=True):
        if fit and (proof or (one is _ENGLISH and all(found[2 * len(_OTHERS) + 1 :]))):
            return replace(one, **extra)
    return replace(PLAIN, **extra) if signed and found[2 * len(_OTHERS)] else PLAIN
