"""Texts that are features: each becomes the number of its category, from 1 on; 0 is an empty or unknown one.

A network reads few categories as one-hot vectors, many by an embedding (`retrograde.tasks.models`).

Tests: `tests/data/test_categories.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .table import Table

MOST = 10_000  # categories of a column; the rarer ones count as unknown
ONE_HOT = 16  # categories up to which they are one-hot vectors
WIDEST = 50  # numbers of an embedding


def found_in(table: Table, name: str) -> tuple[str, ...]:
    """The different texts of a column, the most frequent first."""
    text = table.text(name)
    query = f"SELECT {text}, count(*) FROM cells WHERE {text} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST}"
    return tuple(str(cell) for cell, _ in table.database.execute(query))


def width(categories: int) -> int:
    """Numbers that stand for one of so many categories: one for each, or those of an embedding.

    The size of an embedding is the rule of fastai, 1.6 n^0.56.

    Examples
    --------
    >>> width(3), width(100), width(5000)
    (3, 21, 50)
    """
    return categories if categories <= ONE_HOT else min(WIDEST, round(1.6 * categories**0.56))


def note(categories: Mapping[str, Collection[str]]) -> list[str]:
    """What is made of columns of text, in words."""
    found = []
    for name, texts in categories.items():
        how = "one-hot" if len(texts) <= ONE_HOT else f"an embedding of {width(len(texts))} numbers"
        most = f"the {MOST:,} most frequent " if len(texts) == MOST else f"{len(texts):,} "
        found.append(f"{name!r} is text, read as {most}categories ({how}).")
    return found
