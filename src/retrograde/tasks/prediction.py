"""Predictions as rows of a file: what `retrograde predict` writes, for every task, in the order of the data."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ..errors import DataError, OptionError
from .forecast import ForecastModel
from .labelled import LabelledModel
from .tables import Record, sequences
from .text import Text, Vocabulary

__all__ = ["SUFFIXES", "forecasts", "labels", "tokens", "write_rows"]

SUFFIXES = (".jsonl", ".csv", ".parquet")
BLOCK = 1000  # rows written at once
Row = dict[str, Any]


def labels(model: LabelledModel, source: str, encoding: str, probabilities: bool) -> Iterator[Row]:
    """Rows with ``prediction`` (and ``probability of X`` for each label X) for a table, in its order.

    One row for each row of the table that is a sequence, with a list of predictions to tag; for a table of steps one
    row for each group to classify, one for each row to tag.
    """
    table = model.open(source, encoding, labelled=False)
    columns = replace(model.columns, label=None)
    names = np.asarray(model.labels, dtype=object)
    grouped = columns.group is not None
    later: list[tuple[int, Row]] = []
    for record, found in model.predict(sequences(table, columns, model.per_step)):
        if model.per_step:
            found = found[: _steps(record)]  # an empty sequence is read as one step of nothing
        best = names[found.argmax(-1)]
        if model.per_step and grouped:
            for row, prediction, shares in zip(record.rows, best, found, strict=True):
                later.append((row, {str(columns.group): record.name, "prediction": prediction}))
                if probabilities:
                    later[-1][1].update(_shares(model.labels, shares))
            continue
        row_of = {columns.group: record.name} if columns.group is not None else {}
        prediction = list(best) if model.per_step else str(best)
        yield row_of | {"prediction": prediction} | (_shares(model.labels, found) if probabilities else {})
    yield from (row for _, row in sorted(later, key=lambda pair: pair[0]))


def _steps(record: Record) -> int:
    if record.values is not None:
        return len(record.values)
    return len(record.tokens.split() if isinstance(record.tokens, str) else record.tokens or ())


def _shares(names: Sequence[str], found: NDArray[np.float64]) -> Row:
    if found.ndim == 1:
        return {f"probability of {name}": float(share) for name, share in zip(names, found, strict=True)}
    return {f"probability of {name}": found[:, place].tolist() for place, name in enumerate(names)}


def forecasts(model: ForecastModel, source: str, encoding: str) -> Iterator[Row]:
    """Rows with the forecast channels for each step after the end of each series, the series in the table's order."""
    found = model.read(source, encoding)
    for one, values in model.forecast(found):
        times = _times_after(one.times, model.plan.horizon)
        for step, numbers in enumerate(values):
            row: Row = {model.columns.group: one.name} if model.columns.group is not None else {}
            if model.columns.time is not None and times is not None:
                row[model.columns.time] = times[step]
            row["step"] = step + 1
            yield row | dict(zip(model.columns.target, map(float, numbers), strict=True))


def _times_after(times: list[Any] | None, horizon: int) -> list[Any] | None:
    """The times that follow, where they lie evenly: numbers, or dates of a regular calendar."""
    if times is None or len(times) < 3:
        return None
    try:
        numbers = np.array([float(time) for time in times])
        apart = float(np.median(np.diff(numbers)))
        return [float(numbers[-1] + apart * (steps + 1)) for steps in range(horizon)]
    except (TypeError, ValueError):
        pass
    import pandas

    try:
        dates = pandas.DatetimeIndex(pandas.to_datetime(pandas.Series(times), format="mixed"))
        months = np.unique(np.diff(dates.year * 12 + dates.month))
        step: Any = pandas.Timedelta(np.median(np.diff(dates)))
        if len(months) == 1 and months[0] > 0 and dates.is_month_end.all():
            step = pandas.offsets.MonthEnd(int(months[0]))
        elif len(months) == 1 and months[0] > 0 and len(np.unique(dates.day)) == 1:
            step = pandas.DateOffset(months=int(months[0]))
        ahead = [dates[-1] + step * (steps + 1) for steps in range(horizon)]
    except (TypeError, ValueError, OverflowError):
        return None
    days = all(date == date.normalize() for date in ahead)
    return [date.strftime("%Y-%m-%d") if days else date.isoformat() for date in ahead]


@torch.no_grad()
def tokens(model: nn.Module, vocabulary: Vocabulary, text: Text, probabilities: bool) -> Iterator[Row]:
    """Rows for each token of a text but the first: the token, the most likely one there, given all before it.

    With probabilities also the probability of either.
    """
    numbers = torch.from_numpy(vocabulary.encode(text.content)).long()
    if len(numbers) < 2:
        raise DataError(f"{text.source} is too short: at least 2 tokens are needed.")
    state = None
    model.eval()
    for start in range(0, len(numbers) - 1, BLOCK):
        part = numbers[start : start + BLOCK + 1]
        logits, state = model(part[:-1, None], state)
        shares = F.softmax(logits[:, 0].double(), dim=-1)
        best = shares.argmax(-1)
        for place, (truth, guess) in enumerate(zip(part[1:].tolist(), best.tolist(), strict=True)):
            row: Row = {"token": vocabulary.decode([truth]), "prediction": vocabulary.decode([guess])}
            if probabilities:
                row["probability of token"] = float(shares[place, truth])
                row["probability of prediction"] = float(shares[place, guess])
            yield row


# --- Writing ----------------------------------------------------------------------------------------------------------


def write_rows(path: str | Path, rows: Iterator[Row]) -> int:
    """Write rows, as they come, to ``.jsonl``, ``.csv`` or ``.parquet``; the file is there only when it is whole.

    Returns
    -------
    int
        How many there were.

    Raises
    ------
    OptionError
        If the name ends otherwise, or cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise OptionError(f"--out {path}: the name must end in one of {', '.join(SUFFIXES)}.")
    if path.is_dir() or not path.parent.is_dir():
        raise OptionError(f"--out {path}: name a file in a folder that is there.")
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise OptionError(f"--out {path} cannot be written: {error.strerror}.") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            count = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[kind](file, rows)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise OptionError(f"--out {path} cannot be written: {error.strerror or error}.") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return count


def _jsonl(file: Any, rows: Iterator[Row]) -> int:
    count = 0
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
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
    """Lists as words between spaces."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _parquet(file: Any, rows: Iterator[Row]) -> int:
    import pyarrow
    import pyarrow.parquet

    count, writer = 0, None
    block: list[Row] = []

    def flush() -> None:
        nonlocal writer
        table = pyarrow.Table.from_pylist(block, schema=writer.schema if writer is not None else None)
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
