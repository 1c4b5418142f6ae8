"""Sources on other machines. They are read only if the user has installed DuckDB's extension for that.

Tests: `tests/data/test_formats.py`.
"""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path, PurePosixPath

import duckdb

from ..errors import DataError
from .database import connect, literal

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # of the copies, which go away with the process


def is_remote(name: str) -> bool:
    """Whether a source is named by an address, ``https://…`` or ``s3://…``."""
    return re.match(r"(https?|s3|gs|gcs|r2|hf)://", name) is not None


@cache
def local_copy(url: str) -> Path:
    """A temporary copy of a remote file, made once in a process with DuckDB's extension ``httpfs``.

    The extension is loaded if it is on this machine, and never downloaded: without it nothing leaves the machine.

    Raises DataError with how to get the file, if the extension is not installed; or if the file cannot be read.
    """
    connection = connect()
    installed = connection.execute("SELECT installed FROM duckdb_extensions() WHERE extension_name = 'httpfs'")
    if installed.fetchone() != (True,):
        raise DataError(
            f"{url} is not a file here, and nothing is fetched from a hub or the web: download it (curl -LO '{url}') "
            "and name the file. To read such addresses, install DuckDB's extension once: "
            "python -c \"import duckdb; duckdb.sql('INSTALL httpfs')\"."
        )
    connection.execute("LOAD httpfs")
    return _copied(connection, url)


def _copied(connection: duckdb.DuckDBPyConnection, url: str) -> Path:
    try:
        found = connection.execute(f"SELECT content FROM read_blob({literal(url)})").fetchall()
    except duckdb.Error as error:
        raise DataError(f"{url} cannot be read: {str(error).partition(chr(10))[0][:300].rstrip('.')}.") from None
    if not found:
        raise DataError(f"{url} does not exist: name a file.")
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="retrograde-"))
    path = Path(_FOLDERS[-1].name) / (PurePosixPath(url.partition("?")[0]).name or "data")
    path.write_bytes(found[0][0])
    return path
