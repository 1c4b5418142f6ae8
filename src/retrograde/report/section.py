"""The parts of a section of the page: plain text, numbers and figures, and no HTML.

Only the template writes HTML. It escapes everything, so a section may contain text from anywhere.

Tests: `tests/report/test_write.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

SHOWN_LAGS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000)
"""Lags with a row in the table of a figure by lag."""


@dataclass(frozen=True)
class Fact:
    """One number in large type: what it is, its value, and what to compare it with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class TextTable:
    """Rows of plain strings under `columns`; without columns, pairs of name and value."""

    title: str
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """A plot with what it means, in words for those who see it and for those who do not.

    A trace whose ``meta`` contains ``{"choice": i}`` is shown while the i-th of the section's `choices` is selected.
    Text inside `plot` must not come from the data, because plotly reads it as markup.
    """

    plot: go.Figure
    title: str
    caption: str
    alt: str
    numbers: TextTable | None = None  # the same figure as a table, folded away below it


@dataclass(frozen=True)
class Snippet:
    """Something to do: a title, why, and lines to copy, each with what they are for."""

    title: str
    words: str
    lines: Sequence[tuple[str, str]]  # label and text; a click selects the whole text


@dataclass(frozen=True)
class Section:
    """A part of the page, in the order shown: facts, words, warnings, figures, path, snippets, text, tables."""

    key: str
    title: str
    words: Sequence[str] = ()
    facts: Sequence[Fact] = ()
    warnings: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    path: Figure | None = None  # follows one gradient through `figures`; page.js draws it for the pair that is chosen
    choices: Sequence[str] = ()  # e.g. the layers: one selector for all figures of the section
    snippets: Sequence[Snippet] = ()
    text: str | None = None
    tables: Sequence[TextTable] = ()
