"""Text from data, made safe to print: a terminal obeys control characters, and data must not give it orders."""

from __future__ import annotations

__all__ = ["printable"]

# Line end and tab stay; the others become their pictures (U+2400 …), those of the C1 block a replacement character.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def printable(text: str) -> str:
    r"""The text with its control characters neutralised.

    Examples
    --------
    >>> printable("a\tb\x1b[31m")
    'a\tb␛[31m'
    """
    return text.translate(_PICTURES)
