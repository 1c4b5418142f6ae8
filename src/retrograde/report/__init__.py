"""A run becomes a page: one self-contained HTML file that fetches nothing.

`write` reads the run folder, asks each of `sections.SECTIONS` for its part, and
writes RUN/report.html; `compared` puts several runs next to each other. Nothing is
computed here that the runs did not measure.
"""

from __future__ import annotations

from .page import compared, write, write_comparison
from .section import Fact, Figure, Section, TextTable

__all__ = ["Fact", "Figure", "Section", "TextTable", "compared", "write", "write_comparison"]
