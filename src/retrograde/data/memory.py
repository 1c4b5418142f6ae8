"""Sequences in memory, arrays, lists or texts, as a source of data next to files and frames.

Tests: `tests/data/test_formats.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, located
from ..words import counted
from .roles import Columns
from .sequences import LabelledSequence, label_text, sequences
from .table import Table

LabelType = str  # "bool", "int", "float" or "str"
LABEL_TYPES: dict[LabelType, Callable[[str], Any]] = {
    "bool": lambda label: label == "True",
    "int": int,
    "float": float,
    "str": str,
}
"""What labels were before they became text, and how they become that again."""


class Sequences:
    """Sequences in memory, each with its target if it has one; a source for everything that takes a table.

    Attributes
    ----------
    source : str
        Its name in messages and in ``config.json``.
    records : sequence of LabelledSequence
    columns : Columns
        The roles that the parts of a record have.
    label_type : str
        A key of `LABEL_TYPES`.
    notes : list of str

    Examples
    --------
    >>> found = Sequences.of([[1.0, 2.0, 3.0], [4.0, 5.0]], ["up", "down"])
    >>> [record.steps for record in found.records], found.records[1].label
    ([3, 2], 'down')
    """

    def __init__(self, records: Sequence[LabelledSequence], label_type: LabelType = "str") -> None:
        text = bool(records) and records[0].tokens is not None
        number = bool(records) and records[0].target is not None
        self.records, self.label_type = records, label_type
        self.columns = Columns(
            text="text" if text else None,
            label=None if number else "label",
            target=("target",) if number else (),
            features=() if text else ("values",),
        )
        self.source = f"{counted(len(records), 'text' if text else 'sequence')} in memory"
        self.notes: list[str] = []

    @classmethod
    def of(cls, inputs: Any, labels: Any = None, per_step: bool = False, numbers: bool = False) -> Self:
        """From what people have in memory.

        inputs: numbers: an array ``(N, T)`` or ``(N, T, C)``, or N arrays ``(T,)`` or ``(T, C)`` that may differ in T.
            NaN is an empty cell; at the end of a sequence of an ``(N, …)`` array it is padding. Texts: N strings, or N
            lists of tokens.
        labels: a label for each sequence; with ``per_step`` a sequence of labels for each; with ``numbers`` a number.
        Raises DataError with the place of what is not a sequence or has another number of labels.
        """
        found = _inputs(inputs)
        if labels is None:
            return cls([LabelledSequence([place], *one, None) for place, one in enumerate(found)])
        if not found:
            raise DataError("X has no sequences.")
        if len(labels) != len(found):
            raise DataError(f"X has {len(found):,} sequences and y has {len(labels):,} entries: they must be as many.")
        if numbers:
            targets = _numbers(labels)
            return cls([LabelledSequence([place], *one, None, (), targets[place]) for place, one in enumerate(found)])
        if not per_step:
            kind, names = _labels(labels, "y")
            return cls([LabelledSequence([place], *found[place], name) for place, name in enumerate(names)], kind)
        steps = [_labels(some, f"y[{place}]") for place, some in enumerate(labels)]
        records = [LabelledSequence([place], *found[place], names) for place, (_, names) in enumerate(steps)]
        for place, record in enumerate(records):
            tokens = record.tokens.split() if isinstance(record.tokens, str) else record.tokens
            records[place] = record = record._replace(tokens=tokens)
            if len(record.label or ()) != record.steps:
                raise DataError(
                    f"X[{place}] has {record.steps:,} steps and y[{place}] {len(record.label or ()):,} labels: each "
                    "step needs one."
                )
        kinds = {kind for kind, names in steps if names}
        return cls(records, kinds.pop() if len(kinds) == 1 else "str")

    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        found = hashlib.sha256()
        for record in self.records:
            found.update(repr((record.tokens, record.label, record.target)).encode("utf-8", "replace"))
            found.update(b"" if record.values is None else repr(record.values.shape).encode() + record.values.tobytes())
        return found.hexdigest()


def records_of(source: Table | Sequences, columns: Columns, per_step: bool) -> Iterator[LabelledSequence]:
    """The sequences of a source, see `retrograde.data.sequences.sequences`."""
    if isinstance(source, Sequences):
        yield from source.records
        return
    with located(source.source):
        yield from sequences(source, columns, per_step)


# --- Inputs -----------------------------------------------------------------------------------------------------------

Input = tuple[str | list[str] | None, NDArray[np.float32] | None]  # tokens and values of a record


def _inputs(inputs: Any) -> list[Input]:
    if isinstance(inputs, str) or not (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")):
        what = "one text" if isinstance(inputs, str) else f"{inputs!r:.40}"
        raise DataError(f"X is {what}: give a list of sequences, or an array with one in each row.")
    whole = inputs.dtype.kind in "biufc" if isinstance(inputs, np.ndarray) else False
    if whole and inputs.ndim not in (2, 3):
        raise DataError(
            f"X has the shape {inputs.shape}: an array of sequences is (N, T) or (N, T, C), with N sequences of T "
            "steps and C channels."
        )
    found = [_input(one, f"X[{place}]") for place, one in enumerate(inputs)]
    if whole:
        found = [(None, _without_padding(values)) for _, values in found if values is not None]
    if len({tokens is None for tokens, _ in found}) > 1:
        raise DataError("X has both texts and numbers: give one kind.")
    first = next((values.shape[1] for _, values in found if values is not None and len(values)), 0)
    for place, (_, values) in enumerate(found):
        if values is not None and len(values) and values.shape[1] != first:
            raise DataError(
                f"X[{place}] has {counted(values.shape[1], 'channel')}, those before have {first}: a sequence of T "
                "steps and C channels has the shape (T, C)."
            )
    return found


def _input(one: Any, name: str) -> Input:
    if isinstance(one, str):
        return one, None
    if one is None or (isinstance(one, float) and one != one):
        raise DataError(f"{name} is {one}: the sequence is missing.")
    numeric = isinstance(one, np.ndarray) and one.dtype.kind in "biufc"
    if isinstance(one, list | tuple | np.ndarray) and not numeric and any(isinstance(word, str) for word in one):
        return [str(word) for word in one], None
    try:
        array = np.asarray(one)
        if array.dtype.kind == "c":
            raise TypeError
        with np.errstate(over="ignore"):  # what is infinite in 32 bits is refused by its row
            values = np.asarray(array, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{name} is not an array of numbers, (T,) or (T, C), a text or a list of tokens.") from None
    if values.ndim not in (1, 2):
        raise DataError(f"{name} has {values.ndim} dimensions; a sequence has the shape (T,) or (T, C).")
    return None, values[:, None] if values.ndim == 1 else values


def _without_padding(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the steps at the end that are all NaN, except of a sequence that has nothing else."""
    known = np.flatnonzero((values == values).any(axis=1))
    return values[: known[-1] + 1] if len(known) else values[:0]


# --- Labels -----------------------------------------------------------------------------------------------------------


def _labels(labels: Any, name: str) -> tuple[LabelType, list[str]]:
    """The type of labels, and the labels as text; DataError if one is missing."""
    whole = isinstance(labels, str) or not hasattr(labels, "__len__")
    array = np.asarray(labels if whole else labels.tolist() if hasattr(labels, "tolist") else list(labels))
    if array.ndim != 1:
        what = f"has the shape {array.shape}" if array.ndim else f"is {array.item()!r:.40}"
        each = "sequence" if name == "y" else f"step of X{name.removeprefix('y')}"
        raise DataError(f"{name} {what}: give a label for each {each}.")
    kind = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(array.dtype.kind, "str")
    names = [str(one) if kind == "str" else label_text(one) or "" for one in array.tolist()]
    for place, (one, text) in enumerate(zip(labels, names, strict=True)):
        if one is None or one != one or not text:
            raise DataError(f"{name}[{place}] is {one}, which is not a label.")
    return kind, names


def _numbers(numbers: Any) -> list[float]:
    """Finite numbers; DataError with the place of what is none."""
    try:
        found = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty((0, 0))
    if found.ndim != 1:
        raise DataError("y must have one number for each sequence.")
    if (wrong := np.flatnonzero(~np.isfinite(found))).size:
        raise DataError(f"y[{wrong[0]}] is {found[wrong[0]]}, which is not a finite number.")
    return [float(one) for one in found]


def label_type_of(source: Table | Sequences, column: str | None) -> LabelType:
    """What the labels of a source are, apart from their text; cells of files without types are text."""
    if isinstance(source, Sequences):
        return source.label_type
    if column is None:
        return "str"
    kind = str(source.ask(f"any_value(typeof({source.cell(column)}))")[0]).removesuffix("[]")
    if kind == "BOOLEAN":
        return "bool"
    return "int" if "INT" in kind else "float" if kind in ("FLOAT", "DOUBLE") else "str"


def typed_labels(labels: Sequence[str], kind: LabelType) -> NDArray[Any]:
    """Labels as they were before they became text.

    Examples
    --------
    >>> typed_labels(["2", "10"], "int").tolist()
    [2, 10]
    """
    return np.array([LABEL_TYPES[kind](label) for label in labels])
