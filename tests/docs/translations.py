"""Which English page a Chinese one translates, and as of which text.

A translation begins with ``<!-- Translation of docs/tour.md, 1a2b3c4d5e6f -->``: the first digits of the SHA-256 of the
English page. After the translation was brought up to date, ``python tests/docs/translations.py docs/zh/tour.md`` copies
the snippets and outputs from the English page and writes the digits of its text.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from pages import FENCE, HOME

STAMP = re.compile(r"<!-- Translation of (\S+), (\w+) -->\n")


def digits(page: Path) -> str:
    """The digits that name the text of a page."""
    return hashlib.sha256(page.read_bytes()).hexdigest()[:12]


def fences(text: str) -> list[str]:
    """Snippets, outputs and commands of a page."""
    return [match[0] for match in FENCE.finditer(text)]


def bring_up_to_date(page: Path) -> None:
    """Copy what is the same in all languages, and name the English text."""
    text = page.read_text(encoding="utf-8")
    stamp = STAMP.match(text)
    if stamp is None:
        raise SystemExit(f"{page} does not begin with <!-- Translation of PAGE, 0 -->")
    english = HOME / stamp[1]
    copied = iter(fences(english.read_text(encoding="utf-8")))
    text = FENCE.sub(lambda _: next(copied), text)
    page.write_text(STAMP.sub(f"<!-- Translation of {stamp[1]}, {digits(english)} -->\n", text), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        bring_up_to_date(Path(name))
