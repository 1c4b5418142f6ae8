"""Labels from a table of sequences: one per sequence (``classify``) or one per step (``tag``)."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.encoding import Encoder
from ..data.files import AUTO
from ..data.memory import LabelType, Sequences, label_type_of, records_of, typed_labels
from ..data.roles import Columns, Predicts
from ..data.sequences import LabelledSequence
from ..data.storage import scattered
from ..data.table import Table
from ..errors import DataError, OptionError
from ..options import Options
from ..runs import Scores
from . import metrics
from .sequences import IGNORED, Encoded, SequenceBatch, SequencePredictor, SequenceReader, SequenceTask, padded
from .sequences import scored_batches as scored_batches
from .task import Row, State

__all__ = ["LabelledBatch", "LabelledPredictor", "LabelledTask", "TaggingPredictor", "TaggingTask"]

MANY_CLASSES = 1000
FEW = 40  # validation sequences below which one more that is right says little


# --- Batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledBatch(SequenceBatch):
    """Sequences side by side, the longest first, with their labels: ``(B,)``, or ``(T, B)`` padded with `IGNORED`.

    Attributes
    ----------
    weights : Tensor or None
        Class weight of each target, in the shape of the targets; of a mixture, the mean of its two labels' weights.
    others : Tensor or None
        ``(B,)``: second label of each sequence, where the inputs are mixtures of two.
    share : float
        Share of the targets in a mixture; that of ``others`` is the rest.
    """

    weights: Tensor | None = None
    others: Tensor | None = None
    share: float = 1.0

    @property
    def size(self) -> int:
        """Number of labels."""
        return int((self.targets != IGNORED).sum())

    @property
    def weight(self) -> float:
        """Number of labels, or the sum of their class weights."""
        return float(self.size) if self.weights is None else float(self.weights.sum())

    def mixed(self, order: Tensor, share: float, categories: Collection[int]) -> Self:
        """Mix each sequence of numbers with another of the batch (mixup; Zhang et al. 2018, arXiv:1710.09412).

        A sequence keeps its length; beyond the end of the other it is mixed with zeros, the mean of every channel.

        order: ``(B,)`` int64: the other sequence of each.
        share: share of the sequence itself.
        categories: channels that are numbers of categories. They stay as they are.
        """
        inputs = share * self.inputs + (1 - share) * self.inputs[:, order]
        kept = list(categories)
        inputs[..., kept] = self.inputs[..., kept]
        weights = None if self.weights is None else share * self.weights + (1 - share) * self.weights[order]
        return replace(self, inputs=inputs, weights=weights, others=self.targets[order], share=share)

    def losses(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of every label, in the shape of the targets."""
        return _cross_entropy(outputs, self.targets, reduction="none").view_as(self.targets)


def _cross_entropy(outputs: Tensor, targets: Tensor, weights: Tensor | None = None, reduction: str = "mean") -> Tensor:
    flat = outputs.flatten(0, -2), targets.flatten()
    return F.cross_entropy(*flat, weights, ignore_index=IGNORED, reduction=reduction)


# --- Between a source and the network ---------------------------------------------------------------------------------


@dataclass
class LabelledReader(SequenceReader):
    """Turns sources into encoded sequences and label numbers.

    Attributes
    ----------
    labels : list of str
        By their number.
    label_type : str
        What they were before they became text, a key of `retrograde.data.memory.LABEL_TYPES`.
    """

    labels: list[str]
    label_type: LabelType = "str"
    target_type = np.int64

    def __post_init__(self) -> None:
        self._number = {label: place for place, label in enumerate(self.labels)}

    @property
    def outputs(self) -> int:
        """Number of labels."""
        return len(self.labels)

    def kept(self) -> dict[str, Any]:
        """See `SequenceReader.kept`."""
        return {"labels": self.labels, "label_type": self.label_type}

    @classmethod
    def of(cls, columns: Columns, encoder: Encoder, kept: Mapping[str, Any]) -> Self:
        """See `SequenceReader.of`."""
        found = cls(columns, encoder, list(kept["labels"]), kept.get("label_type", "str"))
        typed_labels(found.labels, found.label_type)
        return found

    def targets(self, record: LabelledSequence, steps: int, source: str) -> NDArray[np.int64]:
        """The numbers of a record's labels; DataError if one is missing or not one of `labels`."""
        labels = labels_of(record, self.columns, self.per_step)
        if wrong := next((label for label in labels if label not in self._number), None):
            known = ", ".join(map(repr, self.labels[:10])) + (", …" if len(self.labels) > 10 else "")
            raise DataError(
                f"{source}, row {record.rows[0] + 1}: label {wrong!r} does not occur in the training data, which has "
                f"{known}."
            )
        labels = labels[:steps] if self.per_step else labels  # as --max-length cut the steps
        return np.array([self._number[label] for label in labels], dtype=np.int64)

    def batch(self, data: Encoded, chosen: NDArray[np.int64], class_weights: Tensor | None = None) -> LabelledBatch:
        """Some sequences as a batch; the longest come first."""
        numbers = torch.from_numpy(data[1].padded(chosen, IGNORED))
        targets = numbers if self.per_step else numbers[0]
        weights = None if class_weights is None else class_weights[targets.clamp(min=0)] * (targets != IGNORED)
        inputs, lengths = padded(data[0], chosen)
        return LabelledBatch(inputs, targets, lengths, weights)

    def score(self, network: nn.Module, data: Encoded) -> dict[str, Any]:
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


class TaggingReader(LabelledReader):
    """The same with a label for each step."""

    per_step = True


def labels_of(record: LabelledSequence, columns: Columns, per_step: bool) -> list[str]:
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


class LabelledPredictor(SequencePredictor[LabelledReader]):
    """A trained network for labels, with what it needs to read sequences."""

    reader_type: ClassVar[type[LabelledReader]] = LabelledReader

    def _baselines(self, data: Encoded) -> dict[str, dict[str, float]]:
        counts = data[1].counts(len(self.reader.labels))
        return {"most frequent label here": {"accuracy": float(counts.max() / max(1, counts.sum()))}}

    @property
    def classes(self) -> NDArray[Any]:
        """The labels by their number, of the type that they had in the training data."""
        return typed_labels(self.reader.labels, self.reader.label_type)

    def predict(self, source: Any, encoding: str = AUTO, probabilities: bool = False) -> Iterator[Row]:
        """Rows with ``prediction`` (and ``probability of X`` for each label X), in the order of the table.

        One row for each row of the table that is a sequence, with a list of predictions to tag. For a table of steps:
        one row for each group to classify, one for each row to tag.
        """
        table, columns = self.open(source, encoding, with_targets=False), self.reader.blind
        found = self._shares(self.reader.outputs_of(self.network, table, columns))
        if self.reader.per_step and columns.group and isinstance(table, Table):
            yield from self._by_step(table, columns, found, probabilities)
            return
        names = np.asarray(self.reader.labels, dtype=object)
        for record, shares in found:
            best = names[shares.argmax(-1)]
            row: Row = dict(zip(columns.group, record.group, strict=False))
            row["prediction"] = list(best) if self.reader.per_step else str(best)
            yield row | (named_shares(self.reader.labels, shares) if probabilities else {})

    def shares(self, source: Any, encoding: str = AUTO) -> Iterator[tuple[LabelledSequence, NDArray[np.float64]]]:
        """Each sequence of a source with the probabilities of its labels, ``(L,)``, or of its steps, ``(T, L)``."""
        return self._shares(self.outputs(source, encoding))

    def _shares(
        self, found: Iterator[tuple[LabelledSequence, NDArray[np.float64]]]
    ) -> Iterator[tuple[LabelledSequence, NDArray[np.float64]]]:
        return ((record, torch.from_numpy(logits).softmax(-1).numpy()) for record, logits in found)

    def _by_step(
        self,
        table: Table,
        columns: Columns,
        found: Iterator[tuple[LabelledSequence, NDArray[np.float64]]],
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


class LabelledTask(SequenceTask[LabelledBatch, LabelledReader]):
    """Learn labels from sequences: one for each sequence, or one for each step. See `SequenceTask`."""

    COLUMNS = ("text", "label", "group", "time", "date_format", "features")
    PREDICTS = Predicts.LABEL
    predictor = LabelledPredictor
    reader_type: ClassVar[type[LabelledReader]] = LabelledReader

    def __init__(self, source: Any, options: Options, files: Mapping[str, str] | None = None) -> None:
        super().__init__(source, options, files)
        if options.mixup and self.reader.encoder.reads_tokens:
            raise OptionError("--mixup mixes sequences of numbers, but these are texts; leave it out.")
        self.class_weights = self._class_weights() if options.class_weights == "balanced" else None

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _strata(self, table: Table | Sequences, columns: Columns) -> NDArray[np.int64]:
        """The number of each sequence's label; all alike where each step has one."""
        per_step = self.reader_type.per_step
        codes, number = array("q"), {"": 0} if per_step else {}
        for record in records_of(table, columns, per_step):
            found = labels_of(record, columns, per_step)
            codes.append(0 if per_step else number.setdefault(found[0], len(number)))
        strata = np.array(codes, dtype=np.int64)
        if not per_step:
            self._check_labels(Counter(dict(zip(number, np.bincount(strata).tolist(), strict=True))), columns)
        return strata

    def _fit(self, parts: NDArray[np.int8], table: Table | Sequences, columns: Columns) -> LabelledReader:
        """Learn labels, vocabulary and scale from the training sequences."""
        counts: Counter[str] = Counter()  # of all parts: a tag that training lacks can still be missed

        def training() -> Iterator[LabelledSequence]:
            records = records_of(table, columns, self.reader_type.per_step)
            for part, record in zip(parts, records, strict=True):
                counts.update([record.label] if isinstance(record.label, str) else record.label or [])
                if part == 0:
                    yield record

        encoder = self._encoder(training(), int((parts == 0).sum()), columns)
        self._check_labels(counts, columns)
        kind = label_type_of(table, columns.label)
        return self.reader_type(columns, encoder, sorted(counts, key=_natural), kind)

    def _check_labels(self, counts: Counter[str], columns: Columns) -> None:
        """Refuse labels that are not classes."""
        name, total = columns.label, counts.total()
        if len(counts) < 2:
            only_one = f"only one class, {next(iter(counts))!r}" if counts else "no label"
            raise DataError(f"column {name!r} has {only_one}: there is nothing to tell apart.")
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
                raise DataError(
                    f"{what}, such as {some}: they look like amounts to predict, not classes; name another "
                    f"--label, predict them with --task regress, {fix}."
                )
            note = f"{what}: each is taken for a class. If they are amounts to predict, {fix}."
            if total < 10 * len(counts) and np.ptp(numbers) >= len(counts) and note not in self.notes:
                self.notes.append(note)

    def _class_weights(self) -> Tensor:
        """N / (classes · n_c): every class has the same weight in the sum."""
        counts = self.training[1].counts(len(self.reader.labels))
        return torch.tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)

    # --- Training -----------------------------------------------------------------------------------------------------

    def improves(self, scores: Scores, earlier: Sequence[Scores]) -> bool:
        """See `Task.improves`; by what labels are judged by, the share that is right.

        The loss rises, while more labels become right, where a network grows certain (Guo et al. 2017,
        arXiv:1706.04599). A few sequences do not tell weights apart: there the later are kept, which have seen more
        updates, unless they label two sequences fewer right than the best.
        """
        own, others = scores.get(self._metric), [one.get(self._metric) or 0.0 for one in earlier]
        if own is None or not others:
            return super().improves(scores, earlier)
        count = len(self.validation[1].rows)  # labels
        return own >= max(others) - 1.5 / count if count < FEW else own > max(others)

    def prefers(self, scores: Scores, best: Scores) -> bool:
        """See `Task.prefers`: of weights that label as many right, those with the lower loss."""
        return scores.get(self._metric) == best.get(self._metric) and super().improves(scores, [best])

    def cost(self, scores: Scores) -> float:
        """See `Task.cost`: the share that is wrong; of two that are alike, the one with the lower loss costs less."""
        own, loss = scores.get(self._metric), super().cost(scores)
        if own is None:
            return loss
        return 1 - own + (loss / (1 + loss) if math.isfinite(loss) else 1) / (len(self.validation[1].rows) + 1)

    @property
    def _metric(self) -> str:
        """By what weights are judged."""
        return "macro_f1" if self.options.class_weights == "balanced" else "accuracy"

    def batch(self, step: int) -> LabelledBatch:
        """The batch of a training step."""
        batch = self.reader.batch(self.training, self.shuffle(step), self.class_weights)
        if not self.options.mixup:
            return batch
        random = np.random.default_rng([self.options.seed, 0x313, step])  # a resumed training mixes alike
        share = random.beta(self.options.mixup, self.options.mixup)
        categories = self.reader.columns.classes(self.reader.columns.features)
        return batch.mixed(torch.from_numpy(random.permutation(len(batch.targets))), share, categories)

    def loss(self, model: nn.Module, batch: LabelledBatch, state: State) -> tuple[Tensor, None]:
        """Mean cross-entropy per label, weighted by class if asked for; no state is carried."""
        outputs = model(batch.inputs, batch.lengths)
        weights = self.class_weights.to(outputs.device) if self.class_weights is not None else None
        if batch.others is None:
            return _cross_entropy(outputs, batch.targets, weights), None
        parts = ((batch.targets, batch.share), (batch.others, 1 - batch.share))
        total = sum(share * _cross_entropy(outputs, labels, weights, "sum") for labels, share in parts)
        return cast(Tensor, total) / batch.weight, None

    def simple_scores(self, part: Encoded) -> dict[str, dict[str, float]]:
        """The scores of always predicting the most frequent label of the training part."""
        classes = len(self.reader.labels)
        counts, truth = self.training[1].counts(classes), part[1].counts(classes)
        smoothed = (counts + 1) / (counts + 1).sum()
        return {
            "most frequent": {
                "loss": float(-(np.log(smoothed) * truth).sum() / truth.sum()),
                "accuracy": float(truth[counts.argmax()] / truth.sum()),
            }
        }

    def _about_results(self) -> dict[str, Any]:
        return {"labels": self.reader.labels}

    def describe(self) -> dict[str, object]:
        """What ``config.json`` says about the data."""
        return super().describe() | {"labels": len(self.reader.labels)}


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

    reader_type = TaggingReader


class TaggingTask(LabelledTask):
    """A label for each step of a sequence."""

    PREDICTS = Predicts.STEP_LABELS
    predictor = TaggingPredictor
    reader_type = TaggingReader
    unit = "labels"
