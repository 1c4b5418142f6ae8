"""DataFrames of pandas, Polars and others, through ``narwhals``: in as tables of Arrow, out as they came.

Tests: `tests/data/test_formats.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow

from ..errors import DataError

Frame = nw.DataFrame[Any]


def as_frame(data: Any) -> Frame | None:
    """A frame as narwhals sees it; None if it is something else."""
    columns = getattr(data, "columns", None)
    if columns is not None and hasattr(data, "iloc") and not columns.is_unique:
        raise DataError(f"X has two columns of the name {columns[columns.duplicated()][0]!r}: rename one.")
    found = nw.from_native(data, pass_through=True)
    if isinstance(found, nw.LazyFrame):
        return found.collect()
    return found if isinstance(found, nw.DataFrame) else None


def arrow_of(frame: Frame) -> pyarrow.Table:
    """A frame as a table of Arrow; cells that are arrays (T, C) become lists of lists.

    Raises DataError if a column has cells that no table can have.
    """
    try:
        return frame.to_arrow()
    except (pyarrow.ArrowException, TypeError, ValueError):
        pass
    columns = {name: [_plain(cell) for cell in frame[name].to_list()] for name in frame.columns}
    return pyarrow.table({name: array_of(cells, name) for name, cells in columns.items()})


def array_of(cells: Any, name: str) -> pyarrow.Array:
    """The cells of a column of a frame as an array of Arrow.

    Raises DataError with the name of the column if no table can have them.
    """
    try:
        return pyarrow.array(cells, from_pandas=True)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        words = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"column {name!r} of the frame cannot be read: {words:.150}.") from None


def _plain(cell: Any) -> Any:
    return cell.tolist() if isinstance(cell, np.ndarray) else cell


def is_wide(frame: Frame) -> bool:
    """Whether every column has numbers, so that a row can be a sequence with a step in each column."""
    return all(kind.is_numeric() or kind == nw.Boolean for kind in frame.schema.values())


def with_column(frame: Frame, usual: str, values: Any) -> tuple[pyarrow.Table, str]:
    """A frame as a table of Arrow with one more column, and the name of that: the usual one, if it is free."""
    if len(values) != len(frame):
        raise DataError(
            f"X has {len(frame):,} rows and y has {len(values):,} entries: give one for each row, or the name of a "
            "column."
        )
    table, name = arrow_of(frame), usual
    while name in table.column_names:
        name += "_"
    cells = [one.tolist() if isinstance(one, np.ndarray) else one for one in values]
    cells = [one.item() if isinstance(one, np.generic) else one for one in cells]
    try:
        return table.append_column(name, pyarrow.array(cells)), name
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"y cannot be a column of a table: {' '.join(str(error).split()):.200}.") from None


def frame_of(columns: Mapping[str, Sequence[Any]], like: Frame) -> Any:
    """Columns as a frame of the same library as another one."""
    return nw.from_arrow(pyarrow.table(dict(columns)), backend=like.implementation).to_native()
