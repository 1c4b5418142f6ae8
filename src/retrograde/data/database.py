"""One private DuckDB database for each table: bounded memory, no network, no extension is ever installed.

Tests: `tests/data/test_formats.py`.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow

from ..errors import DataError
from . import limits
from .storage import no_room

WHITESPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # what str.strip removes
_OFFLINE = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "preserve_insertion_order": "true",
    "threads": "2",
}


def connect(**settings: str) -> duckdb.DuckDBPyConnection:
    """A connection to a new database in memory that never installs an extension."""
    connection = duckdb.connect(":memory:", config={**_OFFLINE, **settings})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


class Database:
    """An empty database in memory. What exceeds `limits.MEMORY` goes to a temporary folder.

    Parameters
    ----------
    source : str
        The table's name, for messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        folder = tempfile.mkdtemp(prefix="retrograde-")
        self.connection = connect(memory_limit=f"{limits.MEMORY >> 20}MiB", temp_directory=folder)
        weakref.finalize(self, _close, self.connection, folder)

    def lock(self) -> None:
        """Forbid access to files from now on."""
        self.connection.execute("SET enable_external_access = false")
        self.connection.execute("SET lock_configuration = true")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query that has few."""
        with self.reading():
            return self.connection.execute(sql).fetchall()

    def batches(self, sql: str, size: int) -> Iterator[pyarrow.RecordBatch]:
        """The rows of a query, ``size`` at a time, as they are computed."""
        with self.reading():
            reader = self.connection.cursor().sql(sql).to_arrow_reader(size)
        while True:
            with self.reading():
                batch = next(reader, None)
            if batch is None:
                return
            if batch.num_rows:
                yield batch

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn the errors of DuckDB into one line."""
        try:
            yield
        except duckdb.Error as error:
            words = str(error)
            line = words.partition("\n")[0]
            line = (line.partition(": ")[2] or line)[:300].rstrip(". ")
            memory = isinstance(error, duckdb.OutOfMemoryException)
            if "No space left" in words or (memory and "temp" in words.lower() and "disk" in words.lower()):
                raise no_room("No space left on device" if "No space left" in words else line) from None
            if memory:
                line = f"needs more than {limits.MEMORY >> 20} MB at once: a row or a column of it is too large"
                raise DataError(f"{self.source} {line}.") from None
            raise DataError(f"{self.source} cannot be read: {line}.") from None


def _close(connection: duckdb.DuckDBPyConnection, folder: str) -> None:
    connection.close()
    shutil.rmtree(folder, ignore_errors=True)


def literal(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name of SQL, quoted."""
    return '"' + name.replace('"', '""') + '"'


def trimmed(cell: str) -> str:
    """Text without the space around it that ``str.strip`` removes, NULL where nothing is left."""
    # Few cells have any, and to look for all kinds of it takes ten times as long as to see that.
    plain = f"unicode({cell}) BETWEEN 33 AND 126 AND unicode(right({cell}, 1)) BETWEEN 33 AND 126"
    return f"CASE WHEN {plain} THEN {cell} ELSE nullif(trim({cell}, {literal(WHITESPACE)}), '') END"


def path_pattern(path: Path) -> str:
    """The name of one file as DuckDB reads it literally: its functions take names for glob patterns."""
    return "".join(f"[{mark}]" if mark in "*?[" else mark for mark in str(path.resolve()))


@cache
def _shared() -> duckdb.DuckDBPyConnection:
    return connect(enable_external_access="false")


def evaluated(values: Sequence[Any], *expressions: str) -> list[tuple[Any, ...]]:
    """Expressions of the column ``c``, computed over some values, which are taken as text.

    A short list is written into the query: to look at an Arrow table, DuckDB imports pandas if it is installed (47 MB).

    Examples
    --------
    >>> evaluated(["a", None], "upper(c)"), evaluated(["a", "b"], "max(c)", "count(c)")
    ([('A',), (None,)], [('b', 2)])
    """
    cells = [None if one is None else str(one).replace("\0", "") for one in values]
    cursor, source = _shared().cursor(), "cells_of_list"
    if len(cells) > 2000:
        cursor.register(source, pyarrow.table({"c": pyarrow.array(cells, pyarrow.large_string())}))
    else:
        listed = ", ".join("NULL" if cell is None else literal(cell) for cell in cells)
        source = f"(SELECT unnest([{listed}]::VARCHAR[]) AS c)"
    return cursor.execute(f"SELECT {', '.join(expressions)} FROM {source}").fetchall()
