"""What the tasks on sequences (classify, tag, regress) have in common: reading, batches, the split, examples.

A sequence is a row of a table, the rows of a group, or an array in memory. `labelled` predicts labels from it,
`regress` a number.

Tests: `tests/tasks/test_labelled.py`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..data.encoding import Encoder, Scaler
from ..data.files import AUTO
from ..data.formats import fingerprint, open_source
from ..data.memory import Sequences, records_of
from ..data.roles import Columns
from ..data.sequences import LabelledSequence
from ..data.storage import Ragged
from ..data.table import Table
from ..defaults import DataShape, least_count
from ..errors import DataError, RunError, located
from ..options import DataOptions, ModelOptions, Options
from ..words import counted
from .models import SequenceModel, evaluation_mode
from .tables import TableTask, to_json
from .task import EXAMPLE_STEPS, Batch, Evaluation, Examples, Predictor, State

BLOCK = 1000  # sequences encoded at once
STEPS = 1 << 16  # the most steps, padding included, in a batch that is scored
IGNORED = -100  # target of a step beyond its sequence, as in `torch.nn.functional.cross_entropy`
Encoded = tuple[Ragged, Ragged]  # sequences as the network reads them, and their targets


# --- Batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SequenceBatch(Batch):
    """Sequences side by side, the longest first, with their targets: ``(B,)``, or ``(T, B)`` padded with `IGNORED`."""

    lengths: Tensor  # ``(B,)`` int64, on the CPU

    @abstractmethod
    def losses(self, outputs: Tensor) -> Tensor:
        """Loss of every target, in the shape of the targets."""

    def examples(self) -> Examples:
        """The batch as `retrograde.flow.gradient_flow` takes it."""

        def part(rank: int, size: int) -> Examples:
            return (self.part(rank, size) or self).examples()

        return Examples((self.inputs, self.lengths), self.losses, part=part, target=self.targets)


def padded(inputs: Ragged, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Sequences side by side, and their lengths."""
    found = torch.from_numpy(inputs.padded(chosen))
    found = found if found.is_floating_point() else found.long()
    return found, torch.from_numpy(inputs.lengths[chosen])


# --- Between a source and the network ---------------------------------------------------------------------------------


@dataclass
class SequenceReader:
    """Turns sources into encoded sequences and their targets."""

    columns: Columns
    encoder: Encoder
    per_step: ClassVar[bool] = False
    target_type: ClassVar[type[np.generic]]

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers the network puts out for each target."""

    @abstractmethod
    def targets(self, record: LabelledSequence, steps: int, source: str) -> NDArray[Any]:
        """The targets of a record of which ``steps`` steps are read; DataError if one is missing or impossible."""

    @abstractmethod
    def score(self, network: nn.Module, data: Encoded) -> dict[str, Any]:
        """Loss and every metric of a network."""

    @abstractmethod
    def kept(self) -> dict[str, Any]:
        """What ``preprocessing.json`` contains besides columns and scale."""

    @classmethod
    @abstractmethod
    def of(cls, columns: Columns, encoder: Encoder, kept: Mapping[str, Any]) -> Self:
        """From the result of `kept`."""

    def files(self) -> dict[str, str]:
        """What a run folder keeps of it, by file name."""
        scaler, tokenizer = self.encoder.scaler, self.encoder.tokenizer
        kept = {
            "columns": self.columns.as_dict(),
            **self.kept(),
            "scaler": scaler.as_dict() if scaler is not None else None,
            "max_length": self.encoder.max_length,
        }
        files = {"preprocessing.json": to_json(kept)}
        return files if tokenizer is None else files | {"vocabulary.json": tokenizer.to_str(pretty=True)}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Undo `files`; RunError if they are damaged."""
        if "preprocessing.json" not in files:
            raise RunError("preprocessing.json is missing: the run is incomplete.")
        try:
            kept = json.loads(files["preprocessing.json"])
            if kept["scaler"] is not None:
                encoder = Encoder(scaler=Scaler.from_dict(kept["scaler"]))
            elif "vocabulary.json" in files:
                encoder = Encoder(Tokenizer.from_str(files["vocabulary.json"]), max_length=kept["max_length"])
            else:
                raise RunError("vocabulary.json is missing: the run is incomplete.")
            return cls.of(Columns.from_dict(kept["columns"]), encoder, kept)
        except RunError:
            raise
        except Exception as error:  # tokenizers raises bare Exceptions
            raise RunError(f"preprocessing.json or vocabulary.json is damaged: {error}.") from None

    def network(self, options: ModelOptions) -> SequenceModel:
        """A new network, initialized from torch's random state."""
        pooling = "none" if self.per_step else options.pooling
        tokens, classes = self.encoder.reads_tokens, self.columns.classes(self.columns.features)
        return SequenceModel.of(self.encoder.size, self.outputs, options, pooling, tokens, classes)

    def open(self, source: Any, encoding: str, with_targets: bool = True) -> Table | Sequences:
        """Open a source; DataError if it lacks a column."""
        opened = open_source(source, encoding)
        if isinstance(opened, Table):
            (self.columns if with_targets else self.blind).check(opened)
        return opened

    @property
    def blind(self) -> Columns:
        """The columns that are read to predict."""
        return replace(self.columns, label=None, target=())

    @property
    def input_type(self) -> type[np.generic]:
        """What encoded sequences consist of."""
        return np.int32 if self.encoder.reads_tokens else np.float32

    def read(self, source: Table | Sequences, chosen: NDArray[np.bool_] | None = None) -> Encoded:
        """The sequences of a source, or those chosen, with their targets."""
        targets: list[NDArray[Any]] = []

        def inputs() -> Iterator[NDArray[Any]]:
            records = records_of(source, self.columns, self.per_step)
            if chosen is not None:
                records = (record for take, record in zip(chosen, records, strict=True) if take)
            while block := list(islice(records, BLOCK)):
                for record, encoded in zip(block, self.encoder.encode(block), strict=True):
                    targets.append(self.targets(record, len(encoded), source.source))
                    yield encoded

        with located(source.source, isinstance(source, Sequences)):
            arrays = Ragged.of(inputs(), self.input_type)
        if not len(arrays):
            raise DataError(f"{source.source} has no sequences.")
        return arrays, Ragged.of(targets, self.target_type)

    def added(self, network: nn.Module, inputs: Ragged, chosen: NDArray[np.int64]) -> Any:
        """What is added to the outputs of a network for some sequences, ``(B, 1)``; here nothing."""
        return 0.0

    @abstractmethod
    def batch(self, data: Encoded, chosen: NDArray[np.int64]) -> SequenceBatch:
        """Some sequences as a batch; the longest come first."""

    def outputs_of(
        self, network: nn.Module, source: Table | Sequences, columns: Columns
    ) -> Iterator[tuple[LabelledSequence, NDArray[np.float64]]]:
        """What the network puts out for each record of a source, ``(L,)`` or ``(T, L)``, in their order."""
        records = records_of(source, columns, self.per_step)
        while block := list(islice(records, BLOCK)):
            found: list[Any] = [None] * len(block)
            with located(source.source, isinstance(source, Sequences)):
                inputs = Ragged.of(self.encoder.encode(block), self.input_type)
            for chosen, outputs in scored_batches(network, inputs):
                numbers = outputs.numpy() + self.added(network, inputs, chosen)
                for column, place in enumerate(chosen):
                    # Without the one step that an empty sequence is read as.
                    found[place] = numbers[: block[place].steps, column] if self.per_step else numbers[column]
            yield from zip(block, found, strict=True)


def scored_batches(network: nn.Module, inputs: Ragged) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Places of encoded sequences, the longest first, with the outputs in float64: ``(B, L)`` or ``(T, B, L)``."""
    order = np.argsort(-inputs.lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, min(512, STEPS // int(inputs.lengths[order[start]])))
        chosen = order[start : start + size]
        with evaluation_mode(network) as device:
            numbers, lengths = padded(inputs, chosen)
            outputs = network(numbers.to(device), lengths).cpu().double()
        yield chosen, outputs
        start += size


R = TypeVar("R", bound=SequenceReader)


# --- The trained network ----------------------------------------------------------------------------------------------


class SequencePredictor(Predictor, Generic[R]):
    """A trained network for sequences, with what it needs to read them."""

    reader_type: ClassVar[type[SequenceReader]]

    def __init__(self, reader: R, network: nn.Module) -> None:
        super().__init__(network)
        self.reader = reader

    @classmethod
    def from_files(cls, files: Mapping[str, str], options: Options, source: str) -> Self:
        """See `Predictor.from_files`."""
        reader: R = cls.reader_type.from_files(files)  # type: ignore[assignment]  # reader_type is its class
        if reader.per_step:
            reader.encoder.max_length = None  # only training cuts sequences: every step needs its target
        return cls(reader, reader.network(options))

    def open(self, source: Any, encoding: str, with_targets: bool = True) -> Table | Sequences:
        """Open a source, and note what of it is unknown; DataError if it lacks a column."""
        opened = self.reader.open(source, encoding, with_targets)
        self.notes = [*filter(None, [opened.assumed]), *opened.unknown] if isinstance(opened, Table) else []
        return opened

    def evaluate(self, source: Any, encoding: str = AUTO) -> Evaluation:
        """Every metric on data with targets."""
        data = self.reader.read(self.open(source, encoding))
        counts = {"sequences": len(data[0]), "steps": int(data[0].lengths.sum())}
        return Evaluation(counts, self.reader.score(self.network, data), self._baselines(data))

    def _baselines(self, data: Encoded) -> dict[str, dict[str, float]]:
        """Metrics of simple methods on the same data."""
        return {}

    def examples(self, source: Any, encoding: str, count: int, steps: int | None = None) -> Examples:
        """The longest sequences of data with targets that have at most ``steps`` steps."""
        steps = steps or EXAMPLE_STEPS
        data = self.reader.read(self.open(source, encoding))
        order = np.argsort(data[0].lengths, kind="stable")
        fitting = int(np.searchsorted(data[0].lengths[order], steps, side="right")) or count
        return self.reader.batch(data, order[max(0, fitting - count) : fitting][::-1].copy()).examples()

    def outputs(self, source: Any, encoding: str = AUTO) -> Iterator[tuple[LabelledSequence, NDArray[np.float64]]]:
        """Each sequence of a source, no targets needed, with what the network puts out: ``(L,)`` or ``(T, L)``."""
        return self.reader.outputs_of(self.network, self.open(source, encoding, False), self.reader.blind)


# --- The task ---------------------------------------------------------------------------------------------------------

S = TypeVar("S", bound=SequenceBatch)


class SequenceTask(TableTask[S, Encoded], Generic[S, R]):
    """A task on sequences, each with a target or with one for each step.

    Parameters
    ----------
    source : str, frame or Sequences
        See `retrograde.data.formats.open_table`.
    options : Options
    files : mapping, optional
        Files of the run that is resumed; vocabulary, scale, columns and the like come from there.

    Raises
    ------
    DataError, OptionError
        If the data is not suitable, or an option does not fit it.
    """

    reader_type: ClassVar[type[SequenceReader]]
    unit = "sequences"

    def __init__(self, source: Any, options: Options, files: Mapping[str, str] | None = None) -> None:
        super().__init__(source, options, files)
        table = open_source(source, options.encoding)
        self.arrays = isinstance(table, Sequences)  # rather than rows of a table
        self.fingerprint = fingerprint(source, options.validation, options.test)
        if files is not None:
            self.reader: R = self.reader_type.from_files(files)  # type: ignore[assignment]  # reader_type is its class
            if isinstance(table, Table):
                self.reader.columns.check(table)
            parts = self._split(table, self.reader.columns)
        else:
            columns = table.columns if isinstance(table, Sequences) else self._columns(table)
            parts = self._split(table, columns)
            self.reader = self._fit(parts, table, self._only_seen(parts, table, columns))
        data = {part: self.reader.read(table, parts == part) for part in range(3) if (parts == part).any()}
        for part, other in enumerate((options.validation, options.test), 1):
            if other is not None:
                data[part] = self.reader.read(self.reader.open(other, options.encoding))
        self.training, self.validation, self.test = data[0], data[1], data.get(2)
        encoder = self.reader.encoder
        self.notes += encoder.notes()
        self.vocabulary_size = encoder.size if encoder.reads_tokens else None
        self.shuffle = self._shuffled(self.training[0].lengths, len(self.training[0]))

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _strata(self, table: Table | Sequences, columns: Columns) -> NDArray[np.int64]:
        """For each sequence a number: those of each are spread over the parts of the data alike. Here: all alike."""
        return np.zeros(sum(1 for _ in records_of(table, columns, self.reader_type.per_step)), dtype=np.int64)

    @abstractmethod
    def _fit(self, parts: NDArray[np.int8], table: Table | Sequences, columns: Columns) -> R:
        """A reader fitted on the training sequences."""

    def _only_seen(self, parts: NDArray[np.int8], table: Table | Sequences, columns: Columns) -> Columns:
        """The columns with only those categories that occur in the training part."""
        classes = columns.classes(columns.features)
        if not classes or not isinstance(table, Table):
            return columns
        seen: dict[int, set[float]] = {at: set() for at in classes}
        for part, record in zip(parts, records_of(table, columns, self.reader_type.per_step), strict=True):
            if part == 0 and record.values is not None:
                for at, some in seen.items():
                    some.update(np.unique(record.values[:, at]).tolist())
        columns = columns.only(columns.features, seen)
        columns.check(table)
        self.notes += table.unknown
        return columns

    def _encoder(self, records: Iterator[LabelledSequence], count: int, columns: Columns) -> Encoder:
        """An encoder with vocabulary or scale of ``count`` training sequences."""
        asked, per_step = self.options, self.reader_type.per_step
        lowercase = not per_step if asked.lowercase is None else asked.lowercase
        max_length = asked.max_length or (None if per_step else 1000)
        options: DataOptions = replace(
            asked, lowercase=lowercase, max_length=max_length, min_count=least_count(asked, count)
        )
        with located(self.source, self.arrays):
            return Encoder.fit(records, options, columns.classes(columns.features))

    def _split(self, table: Table | Sequences, columns: Columns) -> NDArray[np.int8]:
        """For each sequence of the source: 0 to train, 1 to validate, 2 to test with."""
        strata, shares = self._strata(table, columns), self._shares(usual=0.1)
        random = np.random.default_rng([self.options.seed, 0x5E9])
        if columns.split and isinstance(table, Table):
            return self._split_groups(table, columns, strata, shares, random)
        parts = np.zeros(len(strata), dtype=np.int8)
        # Stratified: the parts take turns along an order in which equal labels are neighbors.
        order = random.permutation(len(strata))
        order = order[np.argsort(strata[order], kind="stable")]
        for part, share in enumerate(shares, 1):
            if share:
                free = order[parts[order] == 0]
                count = max(1, round(share * len(strata)))
                if count >= len(free):
                    raise DataError(
                        f"{table.source} has {counted(len(strata), 'sequence')}: too few to train and validate with."
                    )
                parts[free[((np.arange(count) + random.random()) * len(free) / count).astype(int)]] = part
        for stratum in np.setdiff1d(strata, strata[parts == 0]):  # each label occurs in the training part
            parts[np.flatnonzero(strata == stratum)[0]] = 0
        if not (parts == 1).any() and shares[0]:
            raise DataError(
                f"{table.source} has {counted(len(strata), 'sequence')}: too few to train and validate with."
            )
        return parts

    def _split_groups(
        self,
        table: Table,
        columns: Columns,
        strata: NDArray[np.int64],
        shares: tuple[float, float],
        random: np.random.Generator,
    ) -> NDArray[np.int8]:
        """A split in which rows that belong together are in the same part."""
        select = {f"k{place}": table.text(name) for place, name in enumerate(columns.split)}
        known: dict[tuple[Any, ...], int] = {}
        units = np.array(
            [known.setdefault(key, len(known)) for batch in table.batches(select)
             for key in zip(*(column.to_pylist() for column in batch.columns), strict=True)]
        )  # fmt: skip
        part_of, sizes = np.zeros(len(known), dtype=np.int8), np.bincount(units)
        # One with more than half of all rows would leave too few to train with.
        rest = [unit for unit in random.permutation(len(known)) if 2 * sizes[unit] <= len(strata) or len(known) == 2]
        for part, share in enumerate(shares, 1):
            taken = 0
            while share and taken < share * len(strata) and len(rest) > 1:
                unit = rest.pop()
                part_of[unit], taken = part, taken + int(sizes[unit])
        for stratum in np.setdiff1d(strata, strata[part_of[units] == 0]):  # each label occurs in the training part
            part_of[units[np.flatnonzero(strata == stratum)[0]]] = 0
        parts: NDArray[np.int8] = part_of[units]
        if not (parts == 0).any() or (shares[0] and not (parts == 1).any()):
            names = ", ".join(columns.split)
            raise DataError(f"{table.source} has {len(known)} of {names}: too few to train and validate with.")
        return parts

    # --- Training -----------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> S:
        """The batch of a training step."""
        found: S = self.reader.batch(self.training, self.shuffle(step))  # type: ignore[assignment]  # its reader's kind
        return found

    def loss(self, model: nn.Module, batch: S, state: State) -> tuple[Tensor, State]:
        """The mean of `SequenceBatch.losses`; no state is carried."""
        return batch.losses(model(batch.inputs, batch.lengths)).mean(), None

    def shape(self) -> DataShape:
        """What of the data decides about options that are not given."""
        lengths = self.training[0].lengths
        steps = int(np.quantile(lengths, 0.9))
        return DataShape(self.name, self.steps_per_epoch, len(lengths), steps, self.reader.encoder.reads_tokens)

    def model(self) -> SequenceModel:
        """A new network, initialized from torch's random state."""
        return self.reader.network(self.options)

    def files(self) -> dict[str, str]:
        """``preprocessing.json`` and, for text, ``vocabulary.json``."""
        return self.reader.files()

    def score(self, model: nn.Module, part: Encoded) -> dict[str, Any]:
        """Every metric of a network on a part of the data."""
        return self.reader.score(model, part)

    def held_out(self, count: int, steps: int | None = None) -> Examples:
        """Sequences of the validation part: of medium length, or as near to it as ``steps`` allows."""
        return self._examples(self.validation, count, steps)

    def examples(self, count: int, steps: int | None = None) -> Examples:
        """The same of the training part, which has more of them."""
        return self._examples(self.training, count, steps)

    def _examples(self, part: Encoded, count: int, steps: int | None) -> Examples:
        lengths = part[0].lengths
        order = np.argsort(lengths, kind="stable")
        most = int(np.searchsorted(lengths[order], steps or EXAMPLE_STEPS, side="right"))
        at = min(len(order) // 2, most)
        return self.reader.batch(part, order[max(0, at - count // 2) :][:count][::-1].copy()).examples()

    def describe(self) -> dict[str, object]:
        """What ``config.json`` says about the data."""
        encoder = self.reader.encoder
        return super().describe() | {
            "columns": self.reader.columns.as_dict(),
            "train_sequences": len(self.training[0]),
            "validation_sequences": len(self.validation[0]),
            "test_sequences": len(self.test[0]) if self.test is not None else 0,
            "train_tokens": int(self.training[0].lengths.sum()),
            "validation_tokens": int(self.validation[0].lengths.sum()),
            "longest": int(self.training[0].lengths.max()),
            "vocabulary_size": self.vocabulary_size,
            "channels": None if encoder.reads_tokens else encoder.size,
        }
