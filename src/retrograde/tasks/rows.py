"""Write predictions to a file: JSON lines, CSV or Parquet.

Tests: `tests/tasks/test_metrics.py`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..files import replacing
from .task import Row

SUFFIXES = (".jsonl", ".csv", ".parquet")
BLOCK = 1000  # rows written at once


def write_rows(path: str | Path, rows: Iterator[Row]) -> int:
    """Write rows, as they come, to ``.jsonl``, ``.csv`` or ``.parquet``; the file appears only when it is complete.

    Returns number of rows.
    Raises OptionError if the name has another ending, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise OptionError(f"--out {path}: the name must end in one of {', '.join(SUFFIXES)}.")
    if path.is_dir() or not path.parent.is_dir():
        raise OptionError(f"--out {path}: name a file in a folder that is there.")
    try:
        with replacing(path, follow=True) as file:
            count = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[kind](file, rows)
    except OSError as error:
        raise OptionError(f"--out {path} cannot be written: {error.strerror or error}.") from None
    return count


def _jsonl(file: Any, rows: Iterator[Row]) -> int:
    count, encode = 0, json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes one for each row
    for row in rows:
        file.write(encode(row).encode("utf-8", "replace") + b"\n")
        count += 1
    return count


def _csv(file: Any, rows: Iterator[Row]) -> int:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="", write_through=True)
    writer, count = csv.writer(text, lineterminator="\n"), 0
    for row in rows:
        if not count:
            writer.writerow(row)
        writer.writerow([_cell(value) for value in row.values()])
        count += 1
    text.flush()
    text.detach()
    return count


def _cell(value: Any) -> Any:
    """Lists as words between spaces; lists of lists as JSON."""
    if not isinstance(value, list):
        return value
    return json.dumps(value) if value and isinstance(value[0], list) else " ".join(map(str, value))


def _parquet(file: Any, rows: Iterator[Row]) -> int:
    import pyarrow
    import pyarrow.parquet

    count, writer = 0, None
    block: list[Row] = []

    def flush() -> None:
        nonlocal writer
        try:
            table = pyarrow.Table.from_pylist(block, schema=writer.schema if writer is not None else None)
        except (OverflowError, pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            words = " ".join(str(error).split())
            raise OptionError(
                f"--out: the rows do not fit the types of Parquet ({words:.200}): write .csv or .jsonl instead."
            ) from None
        writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
        block.clear()

    for row in rows:
        block.append(row)
        count += 1
        if len(block) == BLOCK:
            flush()
    if block or writer is None:
        flush()
    assert writer is not None
    writer.close()
    return count
