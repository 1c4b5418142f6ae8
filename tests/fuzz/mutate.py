"""Valid files made invalid: bits flipped, cut, spliced; in JSON other types, huge numbers, deep nests, odd names."""

from __future__ import annotations

import json
import random
from typing import Any

ODD_BYTES = (
    *(b"\x00", b"\xff" * 8, b"\n", b"\r", b'"', b",", b"[" * 2000, b"{" * 2000, b"\x1b[31m"),
    *(b"\xed\xa0\x80", b"\xe2\x80\xae", b"9" * 400, b"-1", b"1e999", b"NaN", b"\xff\xff\xff\x7f"),
    *(b"\x00\x00\x00\x80", b"PAR1", b"PK\x03\x04", b"\x1f\x8b"),
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**300, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\x1b]0;own\x07", "\u202e", "../../x", "/dev/zero", "x" * 100_000),
    *([], {}, [[]], [None], {"a": {"b": []}}),
)  # fmt: skip


def mutated(content: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """One to four changes of any kind."""
    for _ in range(draw.randint(1, 4)):
        content = draw.choice(_CHANGES)(content, draw, other)
    return content


def _flip(content: bytes, draw: random.Random, other: bytes) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 20))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _head(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """Most formats keep their lengths and offsets in the first bytes, or the last."""
    if not content:
        return content
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 4))):
        place = draw.randrange(min(64, len(changed)))
        place = place if draw.random() < 0.6 else len(changed) - 1 - place
        changed[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(changed)


def _cut(content: bytes, draw: random.Random, other: bytes) -> bytes:
    return content[: draw.randint(0, len(content))]


def _drop(content: bytes, draw: random.Random, other: bytes) -> bytes:
    start = draw.randint(0, len(content))
    return content[:start] + content[start + draw.choice((1, 4, 100, 5000)) :]


def _repeat(content: bytes, draw: random.Random, other: bytes) -> bytes:
    start = draw.randint(0, len(content))
    part = content[start : start + draw.choice((1, 10, 1000))]
    return content[:start] + part * draw.choice((2, 3, 50)) + content[start:]


def _insert(content: bytes, draw: random.Random, other: bytes) -> bytes:
    start = draw.randint(0, len(content))
    return content[:start] + draw.choice(ODD_BYTES) + content[start:]


def _splice(content: bytes, draw: random.Random, other: bytes) -> bytes:
    return content[: draw.randint(0, len(content))] + other[draw.randint(0, len(other)) :]


def _swap_digit(content: bytes, draw: random.Random, other: bytes) -> bytes:
    places = [place for place, byte in enumerate(content[:20_000]) if 48 <= byte < 58]
    if not places:
        return content
    place = draw.choice(places)
    return content[:place] + draw.choice((b"0", b"9", b"99999999999", b"-", b"1e400", b"")) + content[place + 1 :]


def _json(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """Change the value at some place of a JSON object, or of one of the lines that are such."""
    lines = (
        content.split(b"\n")
        if content.count(b"\n{") or (content.startswith(b"{") and b"}\n{" in content)
        else [content]
    )
    place = draw.randrange(len(lines))
    try:
        value = json.loads(lines[place])
    except (ValueError, RecursionError):
        return _swap_digit(content, draw, other)
    lines[place] = json.dumps(_changed(value, draw)).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _changed(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.2:
            return value | {draw.choice(("\x1b[31m", "", "format", "x" * 1000, key + " ")): draw.choice(ODD_VALUES)}
        return value | {key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], _changed(value[place], draw), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.5:
        return draw.choice((value + 1, -value, value * 1000, value + 0.5, value * 10**6, str(value)))
    return draw.choice(ODD_VALUES)


_CHANGES = (_flip, _head, _cut, _drop, _repeat, _insert, _splice, _swap_digit, _json, _json, _json)
