"""Files and frames become sequences: DuckDB reads tables, ``tokenizers`` text, NumPy arrays."""

from __future__ import annotations

from . import formats, text

__all__ = ["formats", "text"]
