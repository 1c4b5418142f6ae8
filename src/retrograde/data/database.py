"""One private DuckDB database for each table: bounded memory, no network, no extension is ever installed or loaded."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow

from ..errors import DataError
from . import limits
from .storage import no_room

__all__ = ["Database", "identifier", "literal", "over"]

WHITESPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # what str.strip removes
_OFFLINE = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "preserve_insertion_order": "true",
}


class Database:
    """An empty database in memory that moves to a temporary folder what exceeds `limits.MEMORY`.

    Parameters
    ----------
    source : str
        The table's name for messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        folder = tempfile.mkdtemp(prefix="retrograde-")
        settings = {"memory_limit": f"{limits.MEMORY >> 20}MiB", "temp_directory": folder, "threads": "2"}
        self.connection = duckdb.connect(":memory:", config={**_OFFLINE, **settings})
        self.connection.execute("SET TimeZone = 'UTC'")
        weakref.finalize(self, _close, self.connection, folder)

    def lock(self) -> None:
        """Forbid access to files from now on: everything that is needed was read."""
        self.connection.execute("SET enable_external_access = false")
        self.connection.execute("SET lock_configuration = true")

    def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query that is known to have few."""
        with self.reading():
            return self.connection.execute(sql, parameters).fetchall()

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
        """Turn what DuckDB raises into one line."""
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            if "temp" in str(error).lower() and "disk" in str(error).lower():
                raise no_room(str(error).splitlines()[0]) from None
            raise DataError(
                f"{self.source} needs more than {limits.MEMORY >> 20} MB at once: a row or a column of it is too large."
            ) from None
        except duckdb.IOException as error:
            if "No space left" in str(error):
                raise no_room("No space left on device") from None
            raise DataError(f"{self.source} cannot be read: {_first_line(error)}") from None
        except duckdb.Error as error:
            raise DataError(f"{self.source} cannot be read: {_first_line(error)}") from None


def _close(connection: duckdb.DuckDBPyConnection, folder: str) -> None:
    connection.close()
    shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: BaseException) -> str:
    words = str(error).partition("\n")[0].partition(": ")
    return (words[2] or words[0])[:300].rstrip(". ") + "."


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
def _scratch() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={**_OFFLINE, "threads": "1"})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_external_access = false")
    return connection


def over(values: Sequence[Any], sql: str) -> list[Any]:
    """An expression of the column ``c`` computed for each of some values, which are taken as text.

    Examples
    --------
    >>> over(["a", None], "upper(c)")
    ['A', None]
    """
    cells = pyarrow.array([None if value is None else str(value) for value in values], pyarrow.large_string())
    cursor = _scratch().cursor()
    cursor.register("cells_of_list", pyarrow.table({"c": cells}))
    return [row[0] for row in cursor.execute(f"SELECT {sql} FROM cells_of_list").fetchall()]


Query = Mapping[str, str]  # expressions of SQL by the names of their results
