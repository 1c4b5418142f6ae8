"""A number from each sequence (``regress``): a price from a description, a remaining life from measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.columns import Columns, Predicts
from ..data.encoding import Encoder, Scaler
from ..data.memory import Sequences, records_of
from ..data.sequences import Record
from ..data.table import Table
from ..errors import DataError, OptionError
from ..options import Options
from . import metrics
from .sequences import Encoded, SequenceBatch, SequencePredictor, SequenceReader, SequenceTask, padded, scored_batches
from .task import Row, State

__all__ = ["RegressionPredictor", "RegressionReader", "RegressionTask"]


@dataclass(frozen=True)
class NumberBatch(SequenceBatch):
    """Sequences side by side, the longest first, each with a scaled number: ``(B,)``."""

    @property
    def size(self) -> int:
        """Number of sequences."""
        return len(self.targets)

    def losses(self, outputs: Tensor) -> Tensor:
        """Squared error of every scaled number, ``(B,)``."""
        return (outputs[:, 0] - self.targets) ** 2


@dataclass
class RegressionReader(SequenceReader):
    """Turns sources into encoded sequences and scaled numbers.

    Attributes
    ----------
    target : Scaler
        Scale of the numbers, fitted on the training part.
    """

    target: Scaler
    outputs = 1
    target_type = np.float32

    def kept(self) -> dict[str, Any]:
        """See `SequenceReader.kept`."""
        return {"target": self.target.as_dict()}

    @classmethod
    def of(cls, columns: Columns, encoder: Encoder, kept: Mapping[str, Any]) -> Self:
        """See `SequenceReader.of`."""
        return cls(columns, encoder, Scaler.from_dict(kept["target"]))

    def targets(self, record: Record, steps: int, source: str) -> NDArray[np.float32]:
        """The scaled number of a record, ``(1,)``; DataError if there is none."""
        if record.target is None:
            raise DataError(f"{source}, row {record.rows[0] + 1}: there is no number to compare with.")
        return self.target(np.array([record.target])).astype(np.float32)

    def batch(self, data: Encoded, chosen: NDArray[np.int64]) -> NumberBatch:
        """Some sequences as a batch; the longest come first."""
        inputs, lengths = padded(data[0], chosen)
        return NumberBatch(inputs, torch.from_numpy(data[1].padded(chosen)[0]), lengths)

    def score(self, network: nn.Module, data: Encoded) -> dict[str, Any]:
        """Loss (mean squared error of scaled numbers) and every metric of `retrograde.tasks.metrics.of_numbers`."""
        found = np.empty(len(data[0]))
        for chosen, outputs in scored_batches(network, data[0]):
            found[chosen] = outputs[:, 0].numpy()
        return self.judge(found, data)

    def judge(self, found: NDArray[np.float64], data: Encoded) -> dict[str, Any]:
        """The same of scaled predictions ``(N,)``."""
        truth = np.concatenate([data[1][place] for place in range(len(data[1]))]).astype(np.float64)
        loss = float(((found - truth) ** 2).mean())
        return {"loss": loss, **metrics.of_numbers(self.target.undo(truth), self.target.undo(found))}


class RegressionPredictor(SequencePredictor[RegressionReader]):
    """A trained network for numbers, with what it needs to read sequences."""

    @classmethod
    def from_files(cls, files: Mapping[str, str], options: Options, source: str) -> Self:
        """See `Predictor.from_files`."""
        reader = RegressionReader.from_files(files)
        return cls(reader, reader.network(options))

    def numbers(self, source: Any, encoding: str = "utf-8") -> Iterator[tuple[Record, float]]:
        """Each sequence of a source with the number predicted for it."""
        for record, outputs in self.outputs(source, encoding):
            yield record, float(self.reader.target.undo(outputs)[0])

    def predict(self, source: Any, encoding: str = "utf-8", probabilities: bool = False) -> Iterator[Row]:
        """Rows with ``prediction``, in the order of the source: for each row that is a sequence, or each group."""
        if probabilities:
            raise OptionError("--probabilities: a number has none; leave it out.")
        for record, number in self.numbers(source, encoding):
            row: Row = dict(zip(self.reader.columns.group, record.group, strict=False))
            yield row | {"prediction": number}


class RegressionTask(SequenceTask[NumberBatch, RegressionReader]):
    """Learn a number for each sequence. See `SequenceTask`."""

    COLUMNS = ("text", "target", "group", "time", "features")
    PREDICTS = Predicts.NUMBER
    predictor = RegressionPredictor
    reader_type = RegressionReader

    def _strata(self, table: Table | Sequences, columns: Columns) -> NDArray[np.int64]:
        """All sequences alike."""
        return np.zeros(sum(1 for _ in records_of(table, columns, False)), dtype=np.int64)

    def _fit(self, parts: NDArray[np.int8], table: Table | Sequences, columns: Columns) -> RegressionReader:
        """Learn vocabulary and scales from the training sequences."""
        numbers: list[float] = []

        def training() -> Iterator[Record]:
            for part, record in zip(parts, records_of(table, columns, False), strict=True):
                if part == 0:
                    numbers.append(np.nan if record.target is None else record.target)
                    yield record

        encoder = self._encoder(training(), int((parts == 0).sum()))
        return RegressionReader(columns, encoder, Scaler.fit([np.array(numbers)[:, None]], 1))

    def batch(self, step: int) -> NumberBatch:
        """The batch of a training step."""
        return self.reader.batch(self.training, self.shuffle(step))

    def loss(self, model: nn.Module, batch: NumberBatch, state: State) -> tuple[Tensor, None]:
        """Mean squared error of the scaled numbers; no state is carried."""
        return batch.losses(model(batch.inputs, batch.lengths)).mean(), None

    def simple_scores(self, part: Encoded) -> dict[str, dict[str, float]]:
        """The scores of always predicting the mean of the training part."""
        return {"mean": self.reader.judge(np.zeros(len(part[0])), part)}
