"""Predictions as rows of a file: what `retrograde predict` writes, for every task, in the order of the data."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ..data.columns import Columns
from ..data.dates import as_written
from ..data.sequences import Record, sequences
from ..data.series import names_after, times_after
from ..data.storage import scattered
from ..data.table import Table
from ..data.text import Text
from ..data.vocabulary import Vocabulary
from ..errors import DataError, OptionError
from ..files import replacing
from .forecast import ForecastModel
from .labelled import LabelledModel
from .language import encoded
from .synthetic.training import SyntheticTraining

__all__ = ["SUFFIXES", "forecasts", "labels", "sequences_of", "tokens", "write_rows"]

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
    found = _trimmed(model, model.predict(sequences(table, columns, model.per_step)))
    if model.per_step and columns.group:
        return _of_steps(model, table, columns, found, probabilities)
    return _of_sequences(model, columns, found, probabilities)


_Found = Iterator[tuple[Record, NDArray[np.float64]]]


def _trimmed(model: LabelledModel, found: _Found) -> _Found:
    """Without the step of nothing that an empty sequence is read as."""
    for record, shares in found:
        yield record, shares[: record.steps] if model.per_step else shares


def _of_sequences(model: LabelledModel, columns: Columns, found: _Found, probabilities: bool) -> Iterator[Row]:
    names = np.asarray(model.labels, dtype=object)
    for record, shares in found:
        best = names[shares.argmax(-1)]
        row: Row = dict(zip(columns.group, record.group, strict=True))
        row["prediction"] = list(best) if model.per_step else str(best)
        yield row | (_shares(model.labels, shares) if probabilities else {})


def _of_steps(
    model: LabelledModel, table: Table, columns: Columns, found: _Found, probabilities: bool
) -> Iterator[Row]:
    """A row for each row of a table of steps, as they lie there, not by group."""
    width, dtype = (len(model.labels), np.float32) if probabilities else (1, np.int32)
    kept = scattered(len(table), width, dtype)
    for record, shares in found:
        kept[record.rows] = shares if probabilities else shares.argmax(-1)[:, None]
    above, row = [""] * len(columns.group), 0
    for batch in table.batches({name: table.text(name) for name in columns.group}):
        for key in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            above = [old if cell is None else cell for cell, old in zip(key, above, strict=True)]
            best = model.labels[int(kept[row].argmax() if probabilities else kept[row, 0])]
            written: Row = dict(zip(columns.group, above, strict=True)) | {"prediction": best}
            yield written | (_shares(model.labels, kept[row]) if probabilities else {})
            row += 1


def _shares(names: Sequence[str], found: NDArray[Any]) -> Row:
    if found.ndim == 1:
        return {f"probability of {name}": float(share) for name, share in zip(names, found, strict=True)}
    return {f"probability of {name}": found[:, place].tolist() for place, name in enumerate(names)}


def forecasts(model: ForecastModel, source: str, encoding: str) -> Iterator[Row]:
    """Rows with what comes after each series, the series in the table's order.

    Of a table of steps a row for each step to come; of a table with a row for each series one row each, its columns
    the steps to come.
    """
    columns, plan = model.columns, model.plan
    found = model.read(source, encoding)
    later = {}
    if columns.layout == "wide":
        steps = {name: columns.steps(model.column_names, name) for name in columns.target}
        later = {name: names_after(some, plan.horizon) for name, some in steps.items() if some != [name]}
    for place, values in model.forecast(found):
        row: Row = dict(zip(columns.group, found.names[place], strict=True))
        channels: dict[str, list[Any]]
        channels = {name: _known(values[:, channel]) for channel, name in enumerate(columns.target)}
        if columns.layout == "wide":
            if len(values[0]) > len(channels):  # lists of several channels
                channels = {columns.target[0]: [_known(step) for step in values]}
            for name, numbers in channels.items():
                row |= dict(zip(later[name], numbers, strict=True)) if name in later else {name: numbers}
            yield row
            continue
        times = times_after(found.times[place], plan.horizon)
        times = as_written(times, columns.date_form) if times is not None else None
        for step in range(plan.horizon):
            when = {columns.time: times[step]} if columns.time is not None and times is not None else {}
            yield row | when | {"step": step + 1} | {name: numbers[step] for name, numbers in channels.items()}


def _known(numbers: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(number) else float(number) for number in numbers]


def sequences_of(training: SyntheticTraining, source: str, probabilities: bool) -> Iterator[Row]:
    """Rows with ``target`` and ``prediction`` for new sequences of a synthetic task; lists if several steps count."""
    classes = training.task.kind == "classes"
    for outputs, batch in training.unseen(source):
        values = outputs.softmax(-1) if classes else outputs.squeeze(-1)
        for column in range(len(batch.lengths)):
            if training.task.many_to_one:
                target, found = batch.targets[column], values[column]
            else:
                scored = batch.mask[:, column]
                target, found = batch.targets[scored, column], values[scored, column]
            row: Row = {"target": target.tolist(), "prediction": (found.argmax(-1) if classes else found).tolist()}
            if probabilities and classes:
                row |= _shares([str(label) for label in range(found.shape[-1])], found.numpy())
            yield row


def tokens(model: nn.Module, vocabulary: Vocabulary, text: Text, probabilities: bool) -> Iterator[Row]:
    """Rows for each token of a text but the first: the token, the most likely one there, given all before it.

    With probabilities also the probability of either.
    """
    numbers = encoded(vocabulary, text.pieces())
    if len(numbers) < 2:
        raise DataError(f"{text.source} is too short: at least 2 tokens are needed.")
    words = [vocabulary.decode([number]) for number in range(len(vocabulary))]
    state = None
    model.eval()
    for start in range(0, len(numbers) - 1, BLOCK):
        part = torch.from_numpy(numbers[start : start + BLOCK + 1].astype(np.int64))
        with torch.no_grad():  # of the whole generator it would be entered and left for every row
            logits, state = model(part[:-1, None], state)
        shares = F.softmax(logits[:, 0].double(), dim=-1)
        best = shares.argmax(-1)
        columns = [[words[truth] for truth in part[1:].tolist()], [words[guess] for guess in best.tolist()]]
        names = ["token", "prediction"]
        if probabilities:
            names += ["probability of token", "probability of prediction"]
            columns += [shares.gather(1, one[:, None])[:, 0].tolist() for one in (part[1:], best)]
        for cells in zip(*columns, strict=True):
            yield dict(zip(names, cells, strict=True))


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
        with replacing(path, follow=True) as file:
            count = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[kind](file, rows)
    except OSError as error:
        raise OptionError(f"--out {path} cannot be written: {error.strerror or error}.") from None
    return count


def _jsonl(file: Any, rows: Iterator[Row]) -> int:
    count, encode = 0, json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes one anew for each row
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
