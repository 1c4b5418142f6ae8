"""Limits on what is read from a file. Readers check them before they allocate; a message states the limit.

Tests: `tests/data/test_formats.py`.
"""

from __future__ import annotations

LINE_BYTES = 32 << 20
"""The longest line (or unquoted row) of a text table. A compressed file without a line end is refused after as much."""

UNPACKED_BYTES = 1 << 30
"""A gzip file, or a member of an archive, may unpack to this much whatever its ratio."""

UNPACKED_RATIO = 200
"""Beyond `UNPACKED_BYTES`, a compressed file may unpack to at most so many times its size (text reaches 20 to 50)."""

ARRAY_BYTES = 2 << 30
"""The arrays of a ``.npz`` file together, unpacked: they are kept in memory. A ``.npy`` file is mapped."""

COLUMNS = 100_000
"""The most columns of a table."""

WIDE = 1000
"""From so many columns on, numbers are kept in one array: DuckDB needs about 40 KB for each column."""

MEMORY = 256 << 20
"""Bytes that DuckDB keeps in memory for one table; the rest goes to a temporary file (``TMPDIR``)."""
