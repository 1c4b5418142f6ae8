"""Labels from a table of sequences: one per sequence (``classify``) or one per step (``tag``)."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.columns import Columns
from ..data.encoding import Encoder, Scaler
from ..data.formats import open_table
from ..data.sequences import Record, sequences
from ..data.storage import Ragged, scattered
from ..data.table import Table
from ..errors import DataError, RunError
from ..options import ModelOptions, Options
from . import metrics
from .models import SequenceModel, evaluation_mode
from .tables import TableTask, to_json
from .task import PROBE_STEPS, Batch, Evaluation, Predictor, Probe, Row, State

__all__ = ["LabelledBatch", "LabelledPredictor", "LabelledTask"]

BLOCK = 1000  # sequences encoded at once
STEPS = 1 << 16  # the most steps, padding included, in a batch that is scored
MANY_CLASSES = 1000
IGNORED = -100  # target of a step beyond its sequence, as in `torch.nn.functional.cross_entropy`
Labelled = tuple[Ragged, Ragged]  # encoded sequences, and the numbers of their labels


# --- Batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Sequences side by side, the longest first, with their labels: ``(B,)``, or ``(T, B)`` padded with `IGNORED`.

    Attributes
    ----------
    lengths : Tensor
        ``(B,)`` int64, on the CPU.
    weights : Tensor or None
        Class weight of each target, in the shape of the targets.
    """

    lengths: Tensor
    weights: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of labels."""
        return int((self.targets != IGNORED).sum())

    @property
    def weight(self) -> float:
        """Number of labels, or the sum of their class weights."""
        return float(self.size) if self.weights is None else float(self.weights.sum())

    def losses(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of every label, in the shape of the targets."""
        return _cross_entropy(outputs, self.targets, reduction="none").view_as(self.targets)

    def probe(self) -> Probe:
        """The batch as `retrograde.flow.gradient_flow` takes it."""

        def part(rank: int, size: int) -> Probe:
            return (self.part(rank, size) or self).probe()

        return Probe((self.inputs, self.lengths), self.losses, part=part, target=self.targets)


def _cross_entropy(outputs: Tensor, targets: Tensor, weights: Tensor | None = None, reduction: str = "mean") -> Tensor:
    flat = outputs.flatten(0, -2), targets.flatten()
    return F.cross_entropy(*flat, weights, ignore_index=IGNORED, reduction=reduction)


def _padded(inputs: Ragged, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Sequences side by side, and their lengths."""
    padded = torch.from_numpy(inputs.padded(chosen))
    padded = padded if padded.is_floating_point() else padded.long()
    return padded, torch.from_numpy(inputs.lengths[chosen])


# --- Between a table and the network ----------------------------------------------------------------------------------


@dataclass
class LabelledReader:
    """Turns tables into encoded sequences and label numbers.

    Attributes
    ----------
    columns : Columns
    encoder : Encoder
    labels : list of str
        By their number.
    per_step : bool
        Whether each step has a label.
    """

    columns: Columns
    encoder: Encoder
    labels: list[str]
    per_step: bool

    def files(self) -> dict[str, str]:
        """What a run folder keeps of it, by file name."""
        scaler, tokenizer = self.encoder.scaler, self.encoder.tokenizer
        kept = {
            "columns": self.columns.as_dict(),
            "labels": self.labels,
            "scaler": scaler.as_dict() if scaler is not None else None,
            "max_length": self.encoder.max_length,
        }
        files = {"preprocessing.json": to_json(kept)}
        return files if tokenizer is None else files | {"vocabulary.json": tokenizer.to_str(pretty=True)}

    @classmethod
    def from_files(cls, files: Mapping[str, str], per_step: bool) -> Self:
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
            return cls(Columns.from_dict(kept["columns"]), encoder, list(kept["labels"]), per_step)
        except RunError:
            raise
        except Exception as error:  # tokenizers raises bare Exceptions
            raise RunError(f"preprocessing.json or vocabulary.json is damaged: {error}.") from None

    def network(self, options: ModelOptions) -> SequenceModel:
        """A new network, initialized from torch's random state."""
        pooling = "none" if self.per_step else options.pooling
        return SequenceModel.of(self.encoder.size, len(self.labels), options, pooling, self.encoder.reads_tokens)

    def open(self, source: Any, encoding: str, labelled: bool = True) -> Table:
        """Open a table; DataError if it lacks a column."""
        table = open_table(source, encoding)
        (self.columns if labelled else replace(self.columns, label=None)).check(table)
        return table

    def read(self, table: Table, chosen: NDArray[np.bool_] | None = None) -> Labelled:
        """The sequences of a table, or those chosen; DataError if a label is missing or not one of `labels`."""
        number = {label: place for place, label in enumerate(self.labels)}
        targets: list[NDArray[np.int64]] = []

        def inputs() -> Iterator[NDArray[Any]]:
            records = sequences(table, self.columns, self.per_step)
            if chosen is not None:
                records = (record for take, record in zip(chosen, records, strict=True) if take)
            while block := list(islice(records, BLOCK)):
                for record, encoded in zip(block, self.encoder.encode(block), strict=True):
                    labels = labels_of(record, self.columns, self.per_step)
                    if wrong := next((label for label in labels if label not in number), None):
                        known = ", ".join(map(repr, self.labels[:10])) + (", …" if len(self.labels) > 10 else "")
                        raise DataError(
                            f"{table.source}, row {record.rows[0] + 1}: label {wrong!r} does not occur in the training "
                            f"data, which has {known}."
                        )
                    if self.per_step:
                        labels = labels[: len(encoded)]  # as --max-length cut the steps
                    targets.append(np.array([number[label] for label in labels], dtype=np.int64))
                    yield encoded

        arrays = Ragged.of(inputs(), np.int32 if self.encoder.reads_tokens else np.float32)
        if not len(arrays):
            raise DataError(f"{table.source} has no sequences.")
        return arrays, Ragged.of(targets, np.int64)

    def batch(self, data: Labelled, chosen: NDArray[np.int64], class_weights: Tensor | None = None) -> LabelledBatch:
        """Some sequences as a batch; the longest come first."""
        padded = torch.from_numpy(data[1].padded(chosen, IGNORED))
        targets = padded if self.per_step else padded[0]
        weights = None if class_weights is None else class_weights[targets.clamp(min=0)] * (targets != IGNORED)
        inputs, lengths = _padded(data[0], chosen)
        return LabelledBatch(inputs, targets, lengths, weights)

    def score(self, network: nn.Module, data: Labelled) -> dict[str, Any]:
        """Loss (nats per label) and every metric of `retrograde.tasks.metrics`."""
        nats, predicted = 0.0, [np.empty(0, np.int64)] * len(data[0])
        for chosen, outputs in scored_batches(network, data[0]):
            targets = self.batch(data, chosen).targets
            nats += float(_cross_entropy(outputs, targets, reduction="sum"))
            for column, place in enumerate(chosen):
                best = outputs[: data[0].lengths[place], column] if self.per_step else outputs[None, column]
                predicted[place] = best.argmax(-1).numpy()
        truths = [data[1][place] for place in range(len(data[1]))]
        judge = metrics.of_steps if self.per_step else metrics.of_sequences
        return {"loss": nats / max(1, len(data[1].rows)), **judge(self.labels, truths, predicted)}


def scored_batches(network: nn.Module, inputs: Ragged) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Places of encoded sequences, the longest first, with their logits in float64: ``(B, L)`` or ``(T, B, L)``."""
    order = np.argsort(-inputs.lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, min(512, STEPS // int(inputs.lengths[order[start]])))
        chosen = order[start : start + size]
        with evaluation_mode(network) as device:
            padded, lengths = _padded(inputs, chosen)
            outputs = network(padded.to(device), lengths).cpu().double()
        yield chosen, outputs
        start += size


def labels_of(record: Record, columns: Columns, per_step: bool) -> list[str]:
    """The labels of a record, one or one per step; DataError if one is missing."""
    labels = record.label if isinstance(record.label, list) else [record.label or ""]
    for step, label in enumerate(labels):
        if not label:
            row = record.rows[step if len(record.rows) == len(labels) else 0]
            which = f"step {step + 1} has" if per_step else "there is"
            raise DataError(f"row {row + 1}, column {columns.label!r}: {which} no label.")
    if not labels:
        raise DataError(f"row {record.rows[0] + 1}, column {columns.label!r}: there are no labels.")
    return labels


# --- The trained network ----------------------------------------------------------------------------------------------


class LabelledPredictor(Predictor):
    """A trained network for labels, with what it needs to read tables."""

    per_step: ClassVar[bool] = False

    def __init__(self, reader: LabelledReader, network: nn.Module) -> None:
        super().__init__(network)
        self.reader = reader

    @classmethod
    def from_files(cls, files: Mapping[str, str], options: Options, source: str) -> Self:
        """See `Predictor.from_files`."""
        reader = LabelledReader.from_files(files, cls.per_step)
        if reader.per_step:
            reader.encoder.max_length = None  # only training cuts sequences: every step needs its label
        return cls(reader, reader.network(options))

    def evaluate(self, source: Any, encoding: str = "utf-8") -> Evaluation:
        """Every metric on a labelled table."""
        data = self.reader.read(self.reader.open(source, encoding))
        counts = {"sequences": len(data[0]), "steps": int(data[0].lengths.sum())}
        return Evaluation(counts, self.reader.score(self.network, data))

    def probe(self, source: Any, encoding: str, count: int, steps: int | None = None) -> Probe:
        """The longest sequences of a labelled table that have at most ``steps`` steps."""
        steps = steps or PROBE_STEPS
        data = self.reader.read(self.reader.open(source, encoding))
        order = np.argsort(data[0].lengths, kind="stable")
        fitting = int(np.searchsorted(data[0].lengths[order], steps, side="right")) or count
        return self.reader.batch(data, order[max(0, fitting - count) : fitting][::-1].copy()).probe()

    def predict(self, source: Any, encoding: str = "utf-8", probabilities: bool = False) -> Iterator[Row]:
        """Rows with ``prediction`` (and ``probability of X`` for each label X), in the order of the table.

        One row for each row of the table that is a sequence, with a list of predictions to tag. For a table of steps:
        one row for each group to classify, one for each row to tag.
        """
        table = self.reader.open(source, encoding, labelled=False)
        columns = replace(self.reader.columns, label=None)
        found = self._shares(sequences(table, columns, self.reader.per_step))
        if self.reader.per_step and columns.group:
            yield from self._by_step(table, columns, found, probabilities)
            return
        names = np.asarray(self.reader.labels, dtype=object)
        for record, shares in found:
            best = names[shares.argmax(-1)]
            row: Row = dict(zip(columns.group, record.group, strict=True))
            row["prediction"] = list(best) if self.reader.per_step else str(best)
            yield row | (named_shares(self.reader.labels, shares) if probabilities else {})

    def _shares(self, records: Iterator[Record]) -> Iterator[tuple[Record, NDArray[np.float64]]]:
        """Probabilities of the labels of each record, ``(L,)`` or ``(T, L)``, block by block."""
        dtype = np.int32 if self.reader.encoder.reads_tokens else np.float32
        while block := list(islice(records, BLOCK)):
            found: list[Any] = [None] * len(block)
            for chosen, outputs in scored_batches(self.network, Ragged.of(self.reader.encoder.encode(block), dtype)):
                shares = outputs.softmax(-1).numpy()
                for column, place in enumerate(chosen):
                    # Without the one step that an empty sequence is read as.
                    found[place] = shares[: block[place].steps, column] if self.reader.per_step else shares[column]
            yield from zip(block, found, strict=True)

    def _by_step(
        self,
        table: Table,
        columns: Columns,
        found: Iterator[tuple[Record, NDArray[np.float64]]],
        probabilities: bool,
    ) -> Iterator[Row]:
        """A row for each row of a table of steps, in the table's order rather than by group."""
        labels = self.reader.labels
        width, dtype = (len(labels), np.float32) if probabilities else (1, np.int32)
        kept = scattered(len(table), width, dtype)
        for record, shares in found:
            kept[record.rows] = shares if probabilities else shares.argmax(-1)[:, None]
        above, row = [""] * len(columns.group), 0
        for batch in table.batches({name: table.text(name) for name in columns.group}):
            for key in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                above = [old if cell is None else cell for cell, old in zip(key, above, strict=True)]
                best = labels[int(kept[row].argmax() if probabilities else kept[row, 0])]
                written: Row = dict(zip(columns.group, above, strict=True)) | {"prediction": best}
                yield written | (named_shares(labels, kept[row]) if probabilities else {})
                row += 1


def named_shares(names: Sequence[str], shares: NDArray[Any]) -> Row:
    """Probabilities ``(L,)`` or ``(T, L)`` as columns of a row."""
    return {f"probability of {name}": shares[..., place].tolist() for place, name in enumerate(names)}


# --- The task ---------------------------------------------------------------------------------------------------------


class LabelledTask(TableTask[LabelledBatch, Labelled]):
    """Learn labels from a table: one for each sequence, or one for each step.

    Parameters
    ----------
    source : str or frame
        See `retrograde.data.formats.open_table`.
    options : Options
    files : mapping, optional
        Files of the run that is resumed; vocabulary, scale, columns and labels come from there.

    Raises
    ------
    DataError, OptionError
        If the data is not suitable, or an option does not fit it.
    """

    COLUMNS = ("text", "label", "group", "time", "features")
    predictor = LabelledPredictor
    per_step: ClassVar[bool] = False
    unit = "sequences"

    def __init__(self, source: Any, options: Options, files: Mapping[str, str] | None = None) -> None:
        super().__init__(source, options, files)
        table = self._open(source)
        if files is not None:
            self.reader = LabelledReader.from_files(files, self.per_step)
            self.reader.columns.check(table)
            parts = self._split(table, self.reader.columns)
        else:
            columns = self._columns(table)
            parts = self._split(table, columns)
            self.reader = self._fit(parts, table, columns)
        data = {part: self.reader.read(table, parts == part) for part in range(3) if (parts == part).any()}
        for part, other in enumerate((options.validation, options.test), 1):
            if other is not None:
                data[part] = self.reader.read(self.reader.open(other, options.encoding))
        self.training, self.validation, self.test = data[0], data[1], data.get(2)
        encoder = self.reader.encoder
        self.notes += encoder.notes()
        self.vocabulary_size = encoder.size if encoder.reads_tokens else None
        self.shuffle = self._shuffled(self.training[0].lengths, len(self.training[0]))
        self.class_weights = self._class_weights() if options.class_weights == "balanced" else None

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _split(self, table: Table, columns: Columns) -> NDArray[np.int8]:
        """For each sequence of the table: 0 to train, 1 to validate, 2 to test with."""
        codes, number = array("q"), {"": 0} if self.per_step else {}
        for record in sequences(table, columns, self.per_step):
            found = labels_of(record, columns, self.per_step)
            codes.append(0 if self.per_step else number.setdefault(found[0], len(number)))
        strata = np.array(codes, dtype=np.int64)
        if not self.per_step:
            self._check_labels(Counter(dict(zip(number, np.bincount(strata).tolist(), strict=True))), columns)
        shares = self._shares(usual=0.1)
        random = np.random.default_rng([self.options.seed, 0x5E9])
        if columns.split:
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
                    raise DataError(f"{table.source} has {len(strata)} sequences: too few to train and validate with.")
                parts[free[((np.arange(count) + random.random()) * len(free) / count).astype(int)]] = part
        for stratum in np.setdiff1d(strata, strata[parts == 0]):  # each label occurs in the training part
            parts[np.flatnonzero(strata == stratum)[0]] = 0
        if not (parts == 1).any() and shares[0]:
            raise DataError(f"{table.source} has {len(strata)} sequences: too few to train and validate with.")
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
        rest = list(random.permutation(len(known)))
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

    def _fit(self, parts: NDArray[np.int8], table: Table, columns: Columns) -> LabelledReader:
        """Learn labels, vocabulary and scale from the training sequences."""
        counts: Counter[str] = Counter()  # of all parts: a tag that training lacks can still be missed

        def training() -> Iterator[Record]:
            for part, record in zip(parts, sequences(table, columns, self.per_step), strict=True):
                counts.update([record.label] if isinstance(record.label, str) else record.label or [])
                if part == 0:
                    yield record

        asked = self.options
        lowercase = not self.per_step if asked.lowercase is None else asked.lowercase
        max_length = asked.max_length or (None if self.per_step else 1000)
        encoder = Encoder.fit(training(), replace(asked, lowercase=lowercase, max_length=max_length))
        self._check_labels(counts, columns)
        return LabelledReader(columns, encoder, sorted(counts, key=_natural), self.per_step)

    def _check_labels(self, counts: Counter[str], columns: Columns) -> None:
        """Refuse labels that are not classes."""
        name, total = columns.label, counts.total()
        if len(counts) < 2:
            only_one = f"only {next(iter(counts))!r}" if counts else "none"
            raise DataError(f"column {name!r} has {only_one} for a label: there is nothing to tell apart.")
        if len(counts) > MANY_CLASSES or len(counts) > max(20, 0.5 * total):
            raise DataError(
                f"column {name!r} has {len(counts):,} different labels in {total:,}: they look like numbers or names, "
                "not classes; name another --label, or forecast numbers with --task forecast."
            )
        if len(counts) > 20 and (numbers := _as_numbers(counts)) is not None:
            what = f"column {name!r} has {len(counts):,} different numbers in {total:,}"
            fix = (
                "put them into a few classes (low, middle, high), or forecast them with --task forecast if the rows "
                "are steps in time"
            )
            if (numbers != np.floor(numbers)).any():
                some = next(one for one in counts if not float(one).is_integer())
                raise DataError(f"{what}, such as {some}: they look like amounts to predict, not classes; {fix}.")
            note = f"{what}: each is taken for a class. If they are amounts to predict, {fix}."
            if total < 10 * len(counts) and np.ptp(numbers) >= len(counts) and note not in self.notes:
                self.notes.append(note)

    def _class_weights(self) -> Tensor:
        """N / (classes · n_c): every class has the same weight in the sum."""
        counts = self.training[1].counts(len(self.reader.labels))
        return torch.tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)

    # --- Training -----------------------------------------------------------------------------------------------------

    def model(self) -> SequenceModel:
        """A new network, initialized from torch's random state."""
        return self.reader.network(self.options)

    def files(self) -> dict[str, str]:
        """``preprocessing.json`` and, for text, ``vocabulary.json``."""
        return self.reader.files()

    def batch(self, step: int) -> LabelledBatch:
        """The batch of a training step."""
        return self.reader.batch(self.training, self.shuffle(step), self.class_weights)

    def loss(self, model: nn.Module, batch: LabelledBatch, state: State) -> tuple[Tensor, None]:
        """Mean cross-entropy per label, weighted by class if asked for; no state is carried."""
        outputs = model(batch.inputs, batch.lengths)
        weights = self.class_weights.to(outputs.device) if self.class_weights is not None else None
        return _cross_entropy(outputs, batch.targets, weights), None

    def score(self, model: nn.Module, part: Labelled) -> dict[str, Any]:
        """Every metric of a network on a part of the data."""
        return self.reader.score(model, part)

    def baselines(self) -> dict[str, dict[str, float]]:
        """The scores of always predicting the most frequent label of the training part."""
        classes = len(self.reader.labels)
        counts, truth = self.training[1].counts(classes), self.validation[1].counts(classes)
        smoothed = (counts + 1) / (counts + 1).sum()
        return {
            "most frequent": {
                "loss": float(-(np.log(smoothed) * truth).sum() / truth.sum()),
                "accuracy": float(truth[counts.argmax()] / truth.sum()),
            }
        }

    def _about_results(self) -> dict[str, Any]:
        return {"labels": self.reader.labels}

    def probe(self, count: int, steps: int | None = None) -> Probe:
        """Sequences of the validation part: of medium length, or as near to it as ``steps`` allows."""
        return self._probe(self.validation, count, steps)

    def examples(self, count: int, steps: int | None = None) -> Probe:
        """The same of the training part, which has more of them."""
        return self._probe(self.training, count, steps)

    def _probe(self, part: Labelled, count: int, steps: int | None) -> Probe:
        lengths = part[0].lengths
        order = np.argsort(lengths, kind="stable")
        most = int(np.searchsorted(lengths[order], steps or PROBE_STEPS, side="right"))
        at = min(len(order) // 2, most)
        return self.reader.batch(part, order[max(0, at - count // 2) :][:count][::-1].copy()).probe()

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
            "labels": len(self.reader.labels),
            "vocabulary_size": self.vocabulary_size,
            "channels": None if encoder.reads_tokens else encoder.size,
        }


def _as_numbers(labels: Iterable[str]) -> NDArray[np.float64] | None:
    """Labels as numbers, None if one is not a number."""
    try:
        found = np.array(list(labels), dtype=np.float64)
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _natural(label: str) -> tuple[Any, ...]:
    """Sort key that orders labels that are numbers as numbers."""
    return (0, float(label), label) if re.fullmatch(r"-?\d+(\.\d+)?", label) else (1, 0.0, label)


class TaggingPredictor(LabelledPredictor):
    """A trained network for the labels of single steps."""

    per_step = True


class TaggingTask(LabelledTask):
    """A label for each step of a sequence."""

    predictor = TaggingPredictor
    per_step = True
    unit = "labels"
