"""A number from each sequence (``regress``): a price from a description, a remaining life from measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.encoding import Encoder, Scaler
from ..data.files import AUTO
from ..data.memory import Sequences, records_of
from ..data.roles import Columns, Predicts
from ..data.sequences import LabelledSequence
from ..data.storage import Ragged
from ..data.table import Table
from ..errors import DataError, OptionError
from ..options import ModelOptions, Options
from ..runs.scores import RIDGE
from . import metrics, quantiles
from .models import RIDGE_SHARE, SequenceModel
from .quantiles import Intervals, column, levels_of, middle_of, ordered, pinball, places_of
from .ridge import AVERAGED_FROM, Ridge
from .sequences import Encoded, SequenceBatch, SequencePredictor, SequenceReader, SequenceTask, padded, scored_batches
from .task import Row, share_kept
from .whole import WholePrediction


@dataclass(frozen=True)
class NumberBatch(SequenceBatch):
    """Sequences side by side, the longest first, each with a scaled number: ``(B,)``."""

    levels: tuple[float, ...] = ()  # levels of the quantiles that the network puts out; none: the number alone

    @property
    def size(self) -> int:
        """Number of sequences."""
        return len(self.targets)

    def losses(self, outputs: Tensor) -> Tensor:
        """Squared error of every scaled number, or pinball loss of its quantiles, ``(B,)``."""
        found: Tensor = pinball(outputs.T - self.targets, self.levels)
        return found


@dataclass
class RegressionReader(SequenceReader):
    """Turns sources into encoded sequences and scaled numbers."""

    target: Scaler  # scale of the numbers, fitted on the training part
    quantiles: str | None = None  # as in ``--quantiles``
    # The scaled quantiles of the numbers of the training part, of each level that the network puts out.
    usual: list[float] = field(default_factory=list)
    ridge: Ridge | None = None  # of the scaled numbers; None where there can be none
    averages: bool = False  # whether predictions are a mean of the network's and the ridge regression's
    target_type = np.float32

    def __post_init__(self) -> None:
        self.levels = levels_of(self.quantiles)

    @property
    def outputs(self) -> int:
        """Numbers that the network puts out: one, or the quantiles."""
        return max(1, len(self.levels))

    def kept(self) -> dict[str, Any]:
        """See `SequenceReader.kept`."""
        ridge = None if self.ridge is None else self.ridge.as_dict() | {"averages": self.averages}
        return {"target": self.target.as_dict(), "quantiles": self.quantiles, "usual": self.usual, "ridge": ridge}

    @classmethod
    def of(cls, columns: Columns, encoder: Encoder, kept: Mapping[str, Any]) -> Self:
        """See `SequenceReader.of`."""
        found = kept.get("ridge")
        ridge = Ridge.from_dict(found) if found else None
        target, usual = Scaler.from_dict(kept["target"]), kept.get("usual", [])
        return cls(columns, encoder, target, kept.get("quantiles"), usual, ridge, bool(found and found["averages"]))

    def targets(self, record: LabelledSequence, steps: int, source: str) -> NDArray[np.float32]:
        """The scaled number of a record, ``(1,)``; DataError if there is none."""
        if record.target is None:
            raise DataError(f"{source}, row {record.rows[0] + 1}: there is no number to compare with.")
        return self.target(np.array([record.target])).astype(np.float32)

    def network(self, options: ModelOptions) -> SequenceModel:
        """See `SequenceReader.network`; a buffer of it is the share of the ridge regression in the predictions."""
        network = super().network(options)
        if self.averages:
            network.register_buffer(RIDGE_SHARE, torch.zeros(()))
        return network

    def added(self, network: nn.Module, inputs: Ragged, chosen: NDArray[np.int64]) -> Any:
        """See `SequenceReader.added`: the share of the ridge regression; that of the network is in its weights."""
        share = float(network.get_buffer(RIDGE_SHARE)) if self.averages else 0.0
        return share * self.ridge(inputs, chosen)[:, None] if self.ridge is not None and share else 0.0

    def batch(self, data: Encoded, chosen: NDArray[np.int64]) -> NumberBatch:
        """Some sequences as a batch; the longest come first."""
        inputs, lengths = padded(data[0], chosen)
        return NumberBatch(inputs, torch.from_numpy(data[1].padded(chosen)[0]), lengths, self.levels)

    def score(self, network: nn.Module, data: Encoded) -> dict[str, Any]:
        """Loss and every metric of `retrograde.tasks.metrics.of_numbers`, see `judge`."""
        return self.judge(self.predictions(network, data), data)

    def predictions(self, network: nn.Module, data: Encoded) -> NDArray[np.float64]:
        """Scaled predictions of a network, ``(levels, N)``."""
        found = np.empty((self.outputs, len(data[0])))
        for chosen, outputs in scored_batches(network, data[0]):
            found[:, chosen] = (ordered(outputs.T, self.levels).T.numpy() + self.added(network, data[0], chosen)).T
        return found

    def truths(self, data: Encoded) -> NDArray[np.float64]:
        """The scaled numbers themselves, ``(N,)``."""
        return np.concatenate([data[1][place] for place in range(len(data[1]))]).astype(np.float64)

    def judge(self, found: NDArray[np.float64], data: Encoded) -> dict[str, Any]:
        """Scores of what a network puts out, ``(levels, N)``.

        The loss is the mean squared error of scaled numbers, or the pinball loss of their quantiles; then there is the
        share of the truth in each interval too.
        """
        truth = self.truths(data)
        error, intervals = found - truth, Intervals(self.levels)
        numbers = self.target.undo(truth), self.target.undo(found[middle_of(self.levels)])
        shares = dict(zip(intervals.names, intervals.holds(error).mean(1).tolist(), strict=True))
        return {"loss": float(pinball(error, self.levels).mean()), **metrics.of_numbers(*numbers), **shares}

    def simple_scores(self, data: Encoded) -> dict[str, dict[str, float]]:
        """The scores of always predicting the mean of the training part, or its quantiles, and of ridge regression."""
        usual = np.repeat(np.array(self.usual or [0.0])[:, None], len(data[0]), axis=1)
        found = {"median" if self.levels else "mean": self.judge(usual, data)}
        if self.ridge is not None and self.ridge.fits(data[0]):
            found[RIDGE] = self.judge(self.ridge(data[0])[None], data)
        return found


class RegressionPredictor(SequencePredictor[RegressionReader]):
    """A trained network for numbers, with what it needs to read sequences."""

    reader_type = RegressionReader

    def whole(self) -> WholePrediction:
        """See `Predictor.whole`."""
        reader, columns = self.reader, self.reader.columns
        scaler = reader.encoder.scaler
        if reader.levels or scaler is None or columns.classes(columns.features):
            what = "quantiles" if reader.levels else "texts" if scaler is None else "categories"
            raise OptionError(f"a run with {what} cannot be exported as a whole: export run.model, its network alone.")
        share = float(self.network.get_buffer(RIDGE_SHARE)) if reader.averages else 0.0
        return WholePrediction(self.network, scaler, reader.target, reader.ridge if share else None, share)

    def _baselines(self, data: Encoded) -> dict[str, dict[str, float]]:
        return self.reader.simple_scores(data)

    def numbers(self, source: Any, encoding: str = AUTO) -> Iterator[tuple[LabelledSequence, NDArray[np.float64]]]:
        """Each sequence of a source with what is predicted for it, ``(levels,)``; one number without quantiles."""
        for record, outputs in self.outputs(source, encoding):
            yield record, self.reader.target.undo(ordered(torch.from_numpy(outputs), self.reader.levels).numpy())

    def predict(self, source: Any, encoding: str = AUTO, probabilities: bool = False) -> Iterator[Row]:
        """Rows with ``prediction``, in the order of the source: for each row that is a sequence, or each group."""
        if probabilities:
            raise OptionError("--probabilities: a number has none; leave it out.")
        reader = self.reader
        asked = places_of(None, reader.quantiles) if reader.quantiles else []
        for record, numbers in self.numbers(source, encoding):
            row: Row = dict(zip(reader.columns.group, record.group, strict=False))
            row["prediction"] = float(numbers[middle_of(reader.levels)])
            yield row | {column("", level): float(numbers[at]) for level, at in asked}


class RegressionTask(SequenceTask[NumberBatch, RegressionReader]):
    """Learn a number for each sequence. See `SequenceTask`."""

    COLUMNS = ("text", "target", "group", "time", "date_format", "features")
    PREDICTS = Predicts.NUMBER
    predictor = RegressionPredictor
    reader_type = RegressionReader

    def __init__(self, source: Any, options: Options, files: Mapping[str, str] | None = None) -> None:
        super().__init__(source, options, files)
        if files is None:
            self._fit_ridge()

    def _fit_ridge(self) -> None:
        """Fit the ridge regression on the training part, and let it have a share in the predictions if it may help."""
        reader = self.reader
        if reader.levels or reader.encoder.reads_tokens or reader.columns.classes(reader.columns.features):
            return
        reader.ridge = ridge = Ridge.fit(self.training[0], reader.truths(self.training))
        parts = [self.training, self.validation, *([self.test] if self.test is not None else [])]
        if ridge is None or ridge.explained < AVERAGED_FROM or not all(ridge.fits(part[0]) for part in parts):
            return
        reader.averages = True
        self.notes.append(
            f"ridge regression on the {ridge.steps} steps explains {ridge.explained:.1%} of the variance of sequences "
            "that are left out; at the end, the validation part decides its share in the predictions."
        )

    def _fit(self, parts: NDArray[np.int8], table: Table | Sequences, columns: Columns) -> RegressionReader:
        """Learn vocabulary and scales from the training sequences."""
        numbers: list[float] = []

        def training() -> Iterator[LabelledSequence]:
            for part, record in zip(parts, records_of(table, columns, False), strict=True):
                if part == 0:
                    numbers.append(np.nan if record.target is None else record.target)
                    yield record

        encoder = self._encoder(training(), int((parts == 0).sum()), columns)
        target, asked = np.array(numbers)[:, None], self.options.quantiles
        if asked:
            self.notes.append(quantiles.note(asked))
        scaler = Scaler.fit([target], 1)
        usual = np.quantile(scaler(target[:, 0]), levels_of(asked)).tolist()
        return RegressionReader(columns, encoder, scaler, asked, usual)

    def model(self) -> SequenceModel:
        """A new network, initialized from torch's random state; its quantiles start as those of the training part."""
        network = super().model()
        if self.reader.levels:
            with torch.no_grad():
                network.output.bias.copy_(torch.tensor(self.reader.usual))
        return network

    def settle(self, network: nn.Module) -> str:
        """See `Task.settle`.

        Corrects quantiles, which are too narrow on data that was not trained on. Divides the predictions between the
        network and ridge regression, as what a forecast adds to its baseline is scaled (`share_kept`).
        """
        if self.reader.averages:
            return self._divide(network)
        if not self.reader.levels:
            return ""
        found = self.reader.predictions(network, self.validation) - self.reader.truths(self.validation)
        output: Any = network.get_submodule("output")
        with torch.no_grad():
            shift = quantiles.corrections(found, self.reader.levels, found.shape[1])
            output.bias.add_(torch.from_numpy(shift).to(output.bias))
        return f"the {quantiles.CORRECTED}"

    def _divide(self, network: nn.Module) -> str:
        assert self.reader.ridge is not None
        truth = self.reader.truths(self.validation)
        errors = (self.reader.predictions(network, self.validation)[0] - truth) ** 2
        gain = (self.reader.ridge(self.validation[0]) - truth) ** 2 - errors
        error = float(gain.std()) / len(gain) ** 0.5
        certainty = float(gain.mean()) / error if error > 0 else 0.0
        share = share_kept(certainty)
        output: Any = network.get_submodule("output")
        with torch.no_grad():
            output.weight.mul_(share)
            output.bias.mul_(share)
            network.get_buffer(RIDGE_SHARE).fill_(1 - share)
        return (
            f"the network is {'better' if certainty >= 0 else 'worse'} than ridge regression by {abs(certainty):.1f} "
            f"standard errors on the validation part, so its share in the predictions is {share:.0%}, that of ridge "
            f"regression {1 - share:.0%}."
        )

    def simple_scores(self, part: Encoded) -> dict[str, dict[str, float]]:
        """See `RegressionReader.simple_scores`."""
        return self.reader.simple_scores(part)
