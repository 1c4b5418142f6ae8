"""Learning labels from a table of sequences: what `classify` (one a sequence) and `tag` (one a step) have in common."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.columns import Columns, columns_for, unused
from ..data.encoding import Encoder, Scaler
from ..data.formats import fingerprint, is_frame, name_of, open_table
from ..data.sequences import Record, sequences
from ..data.shuffle import Shuffle
from ..data.storage import Ragged
from ..data.table import Table
from ..errors import DataError, OptionError, RunError
from . import metrics
from .batches import IGNORED, LabelledBatch, as_input
from .models import RECURRENT, SequenceModel
from .task import Probe, State, Task

__all__ = ["LabelledModel", "LabelledTask"]

BLOCK = 1000  # sequences encoded at once
MANY_CLASSES = 1000


def network(encoder: Encoder, outputs: int, pooling: Any, options: Mapping[str, Any]) -> SequenceModel:
    """The network that options ask for, initialised from torch's random state."""
    return SequenceModel(
        encoder.size,
        outputs,
        options["hidden_size"],
        options["embedding_size"] if encoder.reads_tokens else None,
        pooling=pooling,
        dropout=options.get("dropout", 0.0),
        bidirectional=bool(options.get("bidirectional", False)),
        **{name: options[name] for name in RECURRENT if name in options},
    )


class LabelledModel:
    """A network with all that its inputs and outputs need: what a run folder holds.

    Attributes
    ----------
    columns : Columns
        What it reads of a table.
    encoder : Encoder
    labels : list of str
        By their number.
    per_step : bool
        Whether it puts out a label per step.
    network : Module
        A `SequenceModel`, prepared for its device as it may be.
    """

    def __init__(
        self, columns: Columns, encoder: Encoder, labels: list[str], per_step: bool, network: nn.Module
    ) -> None:
        self.columns, self.encoder, self.labels, self.per_step = columns, encoder, labels, per_step
        self.network = network

    def files(self) -> dict[str, str]:
        """What a run folder keeps beside the weights, by file name."""
        scaler = self.encoder.scaler
        kept = {
            "columns": self.columns.as_dict(),
            "labels": self.labels,
            "scaler": scaler.as_dict() if scaler is not None else None,
            "max_length": self.encoder.max_length,
        }
        files = {"preprocessing.json": json.dumps(kept, indent=1, ensure_ascii=False) + "\n"}
        if self.encoder.tokenizer is not None:
            files["vocabulary.json"] = self.encoder.tokenizer.to_str(pretty=True)
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, str], per_step: bool, options: Mapping[str, Any]) -> LabelledModel:
        """Undo `files`; the weights are to be loaded into ``network``.

        Raises
        ------
        RunError
            If they are not what `files` wrote.
        """
        try:
            columns, encoder, labels = parts_of(files)
        except RunError:
            raise
        except Exception as error:  # tokenizers raises bare Exceptions
            raise RunError(f"preprocessing.json or vocabulary.json is damaged: {error}.") from None
        if per_step:
            encoder.max_length = None  # training alone is cut short: every step is to have its label
        pooling = "none" if per_step else options.get("pooling") or "last"
        return cls(columns, encoder, labels, per_step, network(encoder, len(labels), pooling, options))

    @torch.no_grad()
    def logits(self, arrays: Ragged, steps: int = 1 << 16) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Logits of encoded sequences, longest first: a sequence's place with ``(outputs,)`` or ``(T, outputs)``.

        Parameters
        ----------
        arrays
            Encoded.
        steps
            The most steps, padding counted, in one batch.
        """
        device = next(self.network.parameters()).device
        lengths = arrays.lengths
        order = np.argsort(-lengths, kind="stable")
        was_training = self.network.training
        self.network.eval()
        try:
            start = 0
            while start < len(order):
                size = max(1, min(512, steps // int(lengths[order[start]])))
                chosen = order[start : start + size]
                start += size
                inputs = as_input(torch.from_numpy(arrays.padded(chosen))).to(device)
                outputs = self.network(inputs, torch.from_numpy(lengths[chosen])).float().cpu().numpy()
                for column, place in enumerate(chosen):
                    yield int(place), outputs[: lengths[place], column] if self.per_step else outputs[column]
        finally:
            self.network.train(was_training)

    def open(self, source: str, encoding: str = "utf-8", labelled: bool = True) -> Table:
        """A table to read with this model.

        Raises
        ------
        DataError
            If it lacks a column.
        """
        table = open_table(source, encoding)
        (self.columns if labelled else replace(self.columns, label=None)).check(table)
        return table

    def read(self, table: Table, chosen: NDArray[np.bool_] | None = None) -> tuple[Ragged, Ragged]:
        """Encoded sequences of a table, those chosen, and the numbers of their labels.

        Raises
        ------
        DataError
            If a label is missing, or none of those the model knows.
        """
        number = {label: place for place, label in enumerate(self.labels)}
        targets: list[NDArray[np.int64]] = []

        def inputs() -> Iterator[NDArray[Any]]:
            records = sequences(table, self.columns, self.per_step)
            if chosen is not None:
                records = (record for take, record in zip(chosen, records, strict=True) if take)
            while block := list(islice(records, BLOCK)):
                for record, encoded in zip(block, self.encoder.encode(block), strict=True):
                    labels = checked(record, self.columns, self.per_step)
                    if wrong := next((label for label in labels if label not in number), None):
                        known = ", ".join(map(repr, self.labels[:10])) + (", …" if len(self.labels) > 10 else "")
                        raise DataError(
                            f"{table.source}, row {record.rows[0] + 1}: label {wrong!r} is none of training: {known}."
                        )
                    if self.per_step:
                        labels = labels[: len(encoded)]  # as --max-length cut the steps
                    targets.append(np.array([number[label] for label in labels], dtype=np.int64))
                    yield encoded

        arrays = Ragged.of(inputs(), np.int32 if self.encoder.reads_tokens else np.float32)
        if not len(arrays):
            raise DataError(f"{table.source} has no sequences.")
        return arrays, Ragged.of(targets, np.int64)

    def score(self, inputs: Ragged, targets: Ragged) -> dict[str, Any]:
        """Loss (nats per label) and every metric: `retrograde.tasks.metrics`."""
        nats = 0.0
        predicted = [np.empty(0, np.int64)] * len(inputs)
        for place, logits in self.logits(inputs):
            table = np.atleast_2d(logits).astype(np.float64)
            truth = targets[place]
            largest = table.max(-1)
            logs = largest + np.log(np.exp(table - largest[:, None]).sum(-1))
            nats += float((logs - table[np.arange(len(truth)), truth]).sum())
            predicted[place] = table.argmax(-1)
        judge = metrics.of_steps if self.per_step else metrics.of_sequences
        truths = [targets[i] for i in range(len(targets))]
        return {"loss": nats / max(1, len(targets.rows)), **judge(self.labels, truths, predicted)}

    def evaluate(self, source: str, encoding: str = "utf-8") -> dict[str, Any]:
        """Every metric of a labelled table."""
        inputs, targets = self.read(self.open(source, encoding))
        return {"sequences": len(inputs), "steps": int(inputs.lengths.sum()), **self.score(inputs, targets)}

    def probe(self, source: str, count: int, steps: int, encoding: str = "utf-8") -> Probe:
        """What to measure the gradient with on another table: its longest sequences of no more than ``steps``."""
        inputs, targets = self.read(self.open(source, encoding))
        order = np.argsort(inputs.lengths, kind="stable")
        fitting = int(np.searchsorted(inputs.lengths[order], steps, side="right")) or count
        chosen = order[max(0, fitting - count) : fitting][::-1].copy()
        return LabelledBatch.of(inputs, targets, chosen, self.per_step).probe()

    def predict(self, records: Iterator[Record]) -> Iterator[tuple[Record, NDArray[np.float64]]]:
        """Class probabilities of records, in their order, block by block: ``(labels,)`` or ``(T, labels)`` each."""
        while block := list(islice(records, BLOCK)):
            found: list[Any] = [None] * len(block)
            dtype = np.int32 if self.encoder.reads_tokens else np.float32
            for place, logits in self.logits(Ragged.of(self.encoder.encode(block), dtype)):
                found[place] = softmax(logits)
            yield from zip(block, found, strict=True)


def checked(record: Record, columns: Columns, per_step: bool) -> list[str]:
    """The labels of a record, one or one a step.

    Raises
    ------
    DataError
        If one is missing.
    """
    labels = record.label if isinstance(record.label, list) else [record.label or ""]
    for step, label in enumerate(labels):
        if not label:
            row = record.rows[step if len(record.rows) == len(labels) else 0]
            which = f"step {step + 1} has" if per_step else "there is"
            raise DataError(f"row {row + 1}, column {columns.label!r}: {which} no label.")
    if not labels:
        raise DataError(f"row {record.rows[0] + 1}, column {columns.label!r}: there are no labels.")
    return labels


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities over the last dimension, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def parts_of(files: Mapping[str, str]) -> tuple[Columns, Encoder, list[str]]:
    """Columns, encoder and labels from the files of a run folder."""
    if "preprocessing.json" not in files:
        raise RunError("preprocessing.json is missing: the run is incomplete.")
    kept = json.loads(files["preprocessing.json"])
    if kept["scaler"] is not None:
        encoder = Encoder(scaler=Scaler.from_dict(kept["scaler"]))
    elif "vocabulary.json" in files:
        encoder = Encoder(Tokenizer.from_str(files["vocabulary.json"]), max_length=kept["max_length"])
    else:
        raise RunError("vocabulary.json is missing: the run is incomplete.")
    return Columns.from_dict(kept["columns"]), encoder, list(kept["labels"])


class LabelledTask(Task[LabelledBatch]):
    """What the training loop asks for, over the labelled sequences of a table.

    Parameters
    ----------
    name : {"classify", "tag"}
        One label for a sequence, from its last real step or the pool of all; or a label for each step.
    source : str
        See `open_table`.
    options : mapping
        Training options by name.
    files : mapping, optional
        Of the run folder of a run that is resumed: vocabulary, scale, columns and labels are then those.

    Raises
    ------
    DataError, OptionError
        If the data cannot be learnt from, or an option does not fit it.
    """

    def __init__(
        self, name: str, source: Any, options: Mapping[str, Any], files: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.per_step = name, name == "tag"
        self.options = dict(options)
        self.source = name_of(source)
        self.in_memory = is_frame(source)
        self.notes: list[str] = []
        table = open_table(source, options.get("encoding") or "utf-8")
        self.fingerprint = fingerprint(source, options.get("validation"), options.get("test"))
        if files is not None:
            self.columns, self.encoder, self.labels = parts_of(files)
            self._with(nn.Module()).open(source, options.get("encoding") or "utf-8")
        else:
            given = {part: options.get(part) for part in ("text", "label", "group", "time", "features")}
            self.columns, notes = columns_for(self.name, table, given)
            self.notes += [*table.notes, *notes, *unused(table, self.columns)]
        parts = self._split(table)
        if files is None:
            self._fit(parts, table)
        self._load(parts, table)
        self.batch_size = options.get("batch_size") or min(64, max(1, len(self.inputs) // 4))
        self.shuffle = Shuffle(self.inputs.lengths, self.batch_size, options["seed"])
        self.steps_per_epoch = self.shuffle.steps_per_epoch
        self.class_weights = self._class_weights()
        self.vocabulary_size = self.encoder.size if self.encoder.reads_tokens else None

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _split(self, table: Table) -> NDArray[np.int8]:
        """Of each sequence of the table: 0 to train, 1 to validate, 2 to test with."""
        codes, number = array("q"), {"": 0} if self.per_step else {}
        for record in sequences(table, self.columns, self.per_step):
            found = checked(record, self.columns, self.per_step)
            codes.append(0 if self.per_step else number.setdefault(found[0], len(number)))
        strata = np.array(codes, dtype=np.int64)
        if not self.per_step:
            self._check_labels(Counter(dict(zip(number, np.bincount(strata).tolist(), strict=True))))
        shares = [0.0, 0.0]
        if self.options.get("validation") is None:
            shares[0] = self.options.get("validation_fraction") or 0.1
        if self.options.get("test") is None:
            shares[1] = self.options.get("test_fraction") or 0.0
        if sum(shares) >= 1:
            raise OptionError("--validation-fraction and --test-fraction leave nothing to train on.")
        random = np.random.default_rng([self.options["seed"], 0x5E9])
        if self.columns.split:
            return self._split_together(table, strata, shares, random)
        parts = np.zeros(len(strata), dtype=np.int8)
        # Stratified: the parts take turns along an order in which like labels are neighbours.
        order = random.permutation(len(strata))
        order = order[np.argsort(strata[order], kind="stable")]
        for part, share in enumerate(shares, 1):
            if share:
                free = order[parts[order] == 0]
                count = max(1, round(share * len(strata)))
                if count >= len(free):
                    raise DataError(f"{table.source} has {len(strata)} sequences: too few to train and validate with.")
                parts[free[((np.arange(count) + random.random()) * len(free) / count).astype(int)]] = part
        for stratum in np.setdiff1d(strata, strata[parts == 0]):  # what is not trained cannot be learnt
            parts[np.flatnonzero(strata == stratum)[0]] = 0
        if not (parts == 1).any() and shares[0]:
            raise DataError(f"{table.source} has {len(strata)} sequences: too few to train and validate with.")
        return parts

    def _split_together(
        self, table: Table, strata: NDArray[np.int64], shares: list[float], random: np.random.Generator
    ) -> NDArray[np.int8]:
        """A split in which rows that belong together are on one side."""
        select = {f"k{place}": table.text(name) for place, name in enumerate(self.columns.split)}
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
        for stratum in np.setdiff1d(strata, strata[part_of[units] == 0]):  # what is not trained cannot be learned
            part_of[units[np.flatnonzero(strata == stratum)[0]]] = 0
        parts: NDArray[np.int8] = part_of[units]
        if not (parts == 0).any() or (shares[0] and not (parts == 1).any()):
            names = ", ".join(self.columns.split)
            raise DataError(f"{table.source} has {len(known)} of {names}: too few to train and validate with.")
        return parts

    def _fit(self, parts: NDArray[np.int8], table: Table) -> None:
        """Learn labels, vocabulary and scale from the training sequences."""
        counts: Counter[str] = Counter()  # of all parts: a tag that training lacks is still one that can be missed

        def training() -> Iterator[Record]:
            for part, record in zip(parts, sequences(table, self.columns, self.per_step), strict=True):
                counts.update([record.label] if isinstance(record.label, str) else record.label or [])
                if part == 0:
                    yield record

        options = {**self.options, "lowercase": self._lowercase()}
        self.encoder = Encoder.fit(training(), options, self._max_length())
        self._check_labels(counts)
        self.labels = sorted(counts, key=_natural)

    def _check_labels(self, counts: Counter[str]) -> None:
        """Refuse labels that are no classes."""
        if len(counts) < 2:
            only_one = f"only {next(iter(counts))!r}" if counts else "none"
            raise DataError(
                f"column {self.columns.label!r} has {only_one} for a label: there is nothing to tell apart."
            )
        if len(counts) > MANY_CLASSES or len(counts) > max(20, 0.5 * counts.total()):
            raise DataError(
                f"column {self.columns.label!r} has {len(counts):,} different labels in {counts.total():,}: "
                "they look like numbers or names, not classes; name another --label, or forecast numbers with "
                "--task forecast."
            )
        if len(counts) > 20 and (numbers := _as_numbers(counts)) is not None:
            what = f"column {self.columns.label!r} has {len(counts):,} different numbers in {counts.total():,}"
            mend = (
                "put them into a few classes (low, middle, high), or forecast them with --task forecast if the rows "
                "are steps in time"
            )
            if (numbers != np.floor(numbers)).any():
                some = next(one for one in counts if not float(one).is_integer())
                raise DataError(f"{what}, such as {some}: they look like amounts to predict, not classes; {mend}.")
            note = f"{what}: each is taken for a class. If they are amounts to predict, {mend}."
            if counts.total() < 10 * len(counts) and np.ptp(numbers) >= len(counts) and note not in self.notes:
                self.notes.append(note)

    def _lowercase(self) -> bool:
        asked = self.options.get("lowercase")
        return (not self.per_step) if asked is None else bool(asked)

    def _max_length(self) -> int | None:
        return self.options.get("max_length") or (None if self.per_step else 1000)

    def _load(self, parts: NDArray[np.int8], table: Table) -> None:
        """Encode everything that is read more than once."""
        reader = self._with(nn.Module())
        held: dict[int, tuple[Ragged, Ragged]] = {}
        for part, other in enumerate((None, self.options.get("validation"), self.options.get("test"))):
            if other is not None:
                held[part] = reader.read(reader.open(other, self.options.get("encoding") or "utf-8"))
            elif (parts == part).any():
                held[part] = reader.read(table, parts == part)
        self.inputs, self.targets = held[0]
        self.validation = held[1]
        self.test = held.get(2)
        self.notes += self.encoder.notes()

    def _class_weights(self) -> Tensor | None:
        asked = self.options.get("class_weights")
        if asked in (None, "none"):
            return None
        if asked != "balanced":
            raise OptionError(f"--class-weights {asked!r} is none of balanced, none.")
        counts = self.targets.counts(len(self.labels))
        # n / (classes · n_c): every class weighs the same in the sum
        return torch.tensor(counts.sum() / (len(self.labels) * np.maximum(counts, 1)), dtype=torch.float32)

    # --- What the loop asks for ---------------------------------------------------------------------------------------

    def model(self) -> SequenceModel:
        """A new network, initialised from torch's random state."""
        pooling = "none" if self.per_step else self.options.get("pooling") or "last"
        return network(self.encoder, len(self.labels), pooling, self.options)

    def files(self) -> dict[str, str]:
        """What a run folder keeps beside the weights, by file name."""
        return self._with(nn.Module()).files()

    def _with(self, network: nn.Module) -> LabelledModel:
        return LabelledModel(self.columns, self.encoder, self.labels, self.per_step, network)

    def batch(self, step: int) -> LabelledBatch:
        """The batch of a training step."""
        return self._batch(self.inputs, self.targets, self.shuffle(step))

    def _batch(self, inputs: Ragged, targets: Ragged, chosen: NDArray[np.int64]) -> LabelledBatch:
        return LabelledBatch.of(inputs, targets, chosen, self.per_step, self.class_weights)

    def loss(self, model: nn.Module, batch: LabelledBatch, state: State) -> tuple[Tensor, None]:
        """Mean cross-entropy per label, weighted by class if asked for; no state is carried."""
        logits = model(batch.inputs, batch.lengths).flatten(0, -2)
        weights = self.class_weights.to(logits.device) if self.class_weights is not None else None
        return F.cross_entropy(logits, batch.targets.flatten(), weights, ignore_index=IGNORED), None

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the validation part, their names beginning with ``validation_``."""
        scores = self._with(model).score(*self.validation)
        return {f"validation_{name}": value for name, value in scores.items() if isinstance(value, int | float)}

    def baselines(self) -> dict[str, dict[str, float]]:
        """What always naming the most frequent label of training reaches on the validation part."""
        counts, truth = self.targets.counts(len(self.labels)), self.validation[1].counts(len(self.labels))
        smoothed = (counts + 1) / (counts + 1).sum()
        return {
            "most frequent": {
                "loss": float(-(np.log(smoothed) * truth).sum() / truth.sum()),
                "accuracy": float(truth[counts.argmax()] / truth.sum()),
            }
        }

    def results(self, model: nn.Module) -> dict[str, str]:
        """What is made with the trained model for the run folder, by file name: every metric of every part."""
        parts = {"validation": self.validation} | ({"test": self.test} if self.test is not None else {})
        found = {part: self._with(model).score(*data) for part, data in parts.items()}
        return {"evaluation.json": json.dumps({"labels": self.labels, **found}, indent=1, ensure_ascii=False) + "\n"}

    def probe(self, count: int, steps: int) -> Probe:
        """Inputs of the model and the loss of its output, ``(B,)`` or ``(T, B)``, to measure the gradient with."""
        return self._held_out(count, steps).probe()

    def _held_out(self, count: int, steps: int) -> LabelledBatch:
        """Some sequences of the validation part: of middling length, or as near it as is no longer than ``steps``."""
        inputs, targets = self.validation
        order = np.argsort(inputs.lengths, kind="stable")
        most = int(np.searchsorted(inputs.lengths[order], steps, side="right"))
        at = min(len(order) // 2, most)
        middle = order[max(0, at - count // 2) :][:count][::-1].copy()
        return self._batch(inputs, targets, middle)

    def describe(self) -> dict[str, object]:
        """What ``config.json`` keeps about the data."""
        return {
            "source": self.source,
            **({"in_memory": True} if self.in_memory else {}),
            "encoding": self.options.get("encoding") or "utf-8",
            "columns": self.columns.as_dict(),
            "train_sequences": len(self.inputs),
            "validation_sequences": len(self.validation[0]),
            "test_sequences": len(self.test[0]) if self.test is not None else 0,
            "train_tokens": int(self.inputs.lengths.sum()),
            "validation_tokens": int(self.validation[0].lengths.sum()),
            "longest": int(self.inputs.lengths.max()),
            "labels": len(self.labels),
            "vocabulary_size": self.vocabulary_size,
            "channels": None if self.encoder.reads_tokens else self.encoder.size,
            "fingerprint": self.fingerprint,
        }


def _as_numbers(labels: Iterable[str]) -> NDArray[np.float64] | None:
    """Labels as numbers, None if one is none."""
    try:
        found = np.array(list(labels), dtype=np.float64)
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _natural(label: str) -> tuple[Any, ...]:
    """Sort labels that are numbers as numbers."""
    return (0, float(label), label) if re.fullmatch(r"-?\d+(\.\d+)?", label) else (1, 0.0, label)
