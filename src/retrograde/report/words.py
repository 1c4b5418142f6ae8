"""How numbers, durations and untrusted text become words that a person can read and trust.

Tests: `tests/report/test_write.py`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Characters that reorder, hide or fake the text around them. Joiners (U+200C, U+200D) stay: Persian and
# emoji need them.
_DECEPTIVE = {0x061C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF}


def number(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits: ``1,234``, ``0.0312``, ``4.2 × 10⁻⁹``.

    >>> number(0.031234), number(1234567), number(4.2e-9), number(1.0), number(float("nan"))
    ('0.0312', '1,230,000', '4.2 × 10⁻⁹', '1', 'not a number')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    power, sign = int(exponent), "−" if value < 0 else ""
    if float(f"{mantissa}e{exponent}") == abs(value):  # exact with fewer digits: 1, not 1.00
        digits = len(mantissa.rstrip("0").replace(".", ""))
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    if -4 <= power < 7:
        rounded = round(abs(value), digits - 1 - power)
        return f"{sign}{rounded:,.{max(0, digits - 1 - power)}f}"
    ten = f"10{str(power).translate(_SUPERSCRIPT)}"
    return f"{sign}{ten}" if mantissa == "1" else f"{sign}{mantissa} × {ten}"


def count(value: float) -> str:
    """A whole number with thousands marked: ``1,234,567``."""
    return f"{int(value):,}" if math.isfinite(value) else number(value)


def times(value: float, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def share(value: float) -> str:
    """A fraction in per cent: ``12 %``, ``less than 0.1 %``.

    >>> share(0.1234), share(0.0312), share(0.001), share(0.0009), share(1.0), share(0.9999)
    ('12 %', '3.1 %', '0.1 %', 'less than 0.1 %', '100 %', '99.9 %')
    """
    if not math.isfinite(value):
        return number(value)
    per_cent = 100 * value
    if 0 < per_cent < 0.1:
        return "less than 0.1 %"
    if 99.5 <= per_cent < 100:
        return f"{math.floor(per_cent * 10) / 10:.1f} %"  # never rounds up to a false "all"
    return f"{per_cent:,.0f} %" if per_cent == 0 or per_cent >= 9.95 else f"{per_cent:.1f} %"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``48 s``, ``1 min 30 s``, ``2 h 5 min``.

    >>> duration(0.84), duration(90), duration(7500)
    ('0.84 s', '1 min 30 s', '2 h 5 min')
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 9.5:
        return f"{number(seconds, 2)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def listing(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def visible(text: str) -> str:
    r"""`text` with every character that could hide, reorder or break something replaced by a sign that shows it.

    Line feeds and tabs stay. Escaping for HTML is a second step, done by the template.

    >>> visible("a\x00b\u202ec"), visible("tab\tline\n")
    ('a⟨U+0000⟩b⟨U+202E⟩c', 'tab\tline\n')
    """
    return "".join(map(_sign, text.replace("\r\n", "\n")))


def _sign(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code in _DECEPTIVE or unicodedata.category(character) in {"Cc", "Cs"} or 0xE0000 <= code < 0xE0080:
        return f"⟨U+{code:04X}⟩"
    return character
