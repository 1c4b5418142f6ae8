"""Which encoding a table has that is not the UTF-8 that it is taken for: by its mark, or cp1252, which Excel writes.

Every byte but five is a character of cp1252, so that bytes of any other encoding decode too. They are taken for it only
where the words that come out are written as those of Western European languages are, and are not those of another
language in the encoding of its Excel.
charset-normalizer is not used: of nine short tables in as many languages it takes half of the German and Spanish ones
for Central European, and what is read wrongly is worse than what is refused.

Tests: `tests/data/test_western.py`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .files import bytes_of, decoded

WESTERN = "cp1252"
MOST_SHOWN = 5  # words of a guess
MOST_WORDS = 10_000  # words that are looked at
MOST = 0.8  # share of them that must be as in another language
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
_WORD = re.compile(rf"[{_SMALL}{_LARGE}]*[^\x00-\x7f][{_SMALL}{_LARGE}]*")


class _Language(NamedTuple):
    """How the words of a language look."""

    letters: str  # that are not those of English
    never: str = r"(?!)"  # what no word has


# French; Italian; German, Dutch; Spanish, Catalan; Portuguese; Danish, Norwegian; Swedish to Estonian; Icelandic.
_OF_WESTERN = (
    _Language("àâæçèéêëîïôœùûüÿñ", never=r"ù\w|\bè[^rs\W]"),
    _Language("àèéìíîòóùú", never=r"[ìù]\w|\bè\w"),
    _Language("äöüßéàâçèêëïîôû", never=r"\b[èêëïîôû]|[èîû]\b"),
    _Language("áéíóúüñçàòèïªº", never=r"\b[èï]|è\b"),
    _Language("áâãàçéêíóôõúüªº", never=r"õ[^e]|õ\b|ã[^eoisn\W]"),
    _Language("æøåéèêòóôäöüà", never=r"\b[èê]"),
    _Language("åäöéüàèšžõ", never=r"\bè|è[^rs\W]"),
    _Language("áðéíóúýþæöø"),
)
_OF_OTHERS = {  # Czech and Slovak, Polish, Hungarian, Romanian, Slovene and Croatian; Turkish; the Baltic states
    "cp1250": ("áčďéěíňóřšťúůýžäĺľôŕ", "ąćęłńóśźż", "áéíóöőúüű", "ăâîşţșț", "čćđšž"),
    "cp1254": ("çğıöşüâî",),
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž"),
}


def assumed_encoding(path: Path) -> tuple[str, str] | None:
    """The encoding of a text file that is not UTF-8, and a line on it; None where it is not certain enough."""
    with path.open("rb") as file:
        head = file.read(4)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked, f"{path.name} begins with the mark of {marked}, and is read as that."
    words: dict[str, None] = {}  # each once, as they come
    rest = ""
    try:
        for piece in decoded(bytes_of(path), WESTERN, str(path)):
            if _FOREIGN.search(rest + piece):
                return None
            rest = piece[-3:]
            words |= dict.fromkeys(_WORD.findall(piece))
    except DataError:  # binary, damaged, or with a byte that cp1252 does not have
        return None
    if not is_western(words):
        return None
    return WESTERN, (
        f"{path.name} is not UTF-8 and is read as {WESTERN} (Windows, Western European): "
        f"{_shown(words)} (a guess; --encoding states another)."
    )


def is_western(words: Collection[str]) -> bool:
    """Whether words that were decoded as cp1252 are of Western European languages.

    They are where all are as in one such language; otherwise unless most are as in another language, and more of them
    than in any Western European one.
    """
    known = [word.lower() for word in islice(words, MOST_WORDS)]
    western = max(_share(known, one) for one in _OF_WESTERN)
    if western == 1:
        return True
    for encoding, languages in _OF_OTHERS.items():
        others = [word.encode(WESTERN, "replace").decode(encoding, "replace").lower() for word in known]
        if max(_share(others, _Language(letters)) for letters in languages) > max(western, MOST):
            return False
    return True


def _share(words: Sequence[str], language: _Language) -> float:
    """The share of words that are written as those of a language are."""
    found = re.compile(rf"[a-z{language.letters}]*")
    never = re.compile(language.never)
    return sum(found.fullmatch(word) is not None and not never.search(word) for word in words) / max(1, len(words))


def _shown(words: Iterable[str]) -> str:
    """Some words that together have the most different letters, none of them seen before."""
    shown: list[str] = []
    seen: set[str] = set()
    for word in words:
        letters = {*_BEYOND.findall(word.lower())}
        if letters - seen and len(shown) < MOST_SHOWN and word.isalpha():
            shown, seen = [*shown, repr(word[:40])], seen | letters
    return ", ".join(shown) or "signs only"
