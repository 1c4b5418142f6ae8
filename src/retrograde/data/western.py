"""Which encoding a table has that is not the UTF-8 that it is taken for: by its mark, or cp1252, which Excel writes.

Every byte but five is a character of cp1252, so that bytes of any other encoding decode too. They are taken for it only
where the words that come out are written as those of Western European languages are.

Tests: `tests/data/test_western.py`.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ..errors import DataError
from .files import bytes_of, decoded

WESTERN = "cp1252"
_BEYOND = re.compile(r"[^\x00-\x7f]")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ACCENTED = "àáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿœšžß"
_CAPITALS = _ACCENTED.rstrip("ß").upper()
_SMALL, _LARGE = f"a-z{_ACCENTED}", f"A-Z{_CAPITALS}"
_FOREIGN = re.compile(
    rf"[^\x00-\x7f]{{3}}"  # Cyrillic, Greek, Hebrew and Asian words are of nothing else
    rf"|[{_SMALL}][^\x00-\x7f·’–—­\xa0{_SMALL}{_LARGE}][{_SMALL}]"  # ł, ą, ő and those of DOS come out as signs
    rf"|[a-z](?![ªº])[^\x00-\x7f{_SMALL}·’‘”“»–—…€°²³®™©£\xa0]"  # a capital after a small letter: those of old Macs
    # Cyrillic words of two letters
    rf"|(?<![A-Za-z0-9])[{_ACCENTED}{_CAPITALS}]{{2}}(?![A-Za-z])"
)


def assumed_encoding(path: Path) -> tuple[str, str] | None:
    """The encoding of a text file that is not UTF-8, and a line on it; None where it is not certain enough."""
    with path.open("rb") as file:
        head = file.read(4)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked, f"{path.name} begins with the mark of {marked}, and is read as that."
    rest, word = "", ""
    try:
        for piece in decoded(bytes_of(path), WESTERN, str(path)):
            if _FOREIGN.search(rest + piece):
                return None
            rest = piece[-3:]
            word = word or _first_word(piece)
    except DataError:  # binary, damaged, or with a byte that cp1252 does not have
        return None
    return WESTERN, (
        f"{path.name} is not UTF-8 and is read as {WESTERN} (Windows, Western European): {word!r:.40} (a guess; "
        "--encoding states another)."
    )


def _first_word(text: str) -> str:
    """The first word of a text that has other than ASCII characters."""
    found = _BEYOND.search(text)
    if found is None:
        return ""
    at = found.start()
    before, after = text[max(0, at - 20) : at], text[at : at + 20]
    return re.split(r"[^\w’]", before)[-1] + (re.match(r".\w*", after) or found)[0]
