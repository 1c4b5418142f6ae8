"""What every task provides: the abstract classes that the trainer, the commands and the report work with.

A task (`Task`) is made from a data source. It splits the data, makes batches, computes the loss and scores the network.
A predictor (`Predictor`) is made from a run folder. It applies the trained network to other data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from ..data.files import AUTO
from ..defaults import DataShape
from ..errors import OptionError
from ..options import Options
from ..runs import Backtest, Scores
from ..words import counted

__all__ = ["EXAMPLE_STEPS", "Batch", "Evaluation", "Examples", "Predictor", "Row", "State", "Task", "TaskInfo"]

State = Tensor | tuple[Tensor, ...] | None
EXAMPLE_STEPS = 100  # the most steps of examples, unless another number is asked for
Row = dict[str, Any]  # of the file that predictions are written to


@dataclass(frozen=True)
class Batch(ABC):
    """Sequences side by side, with their targets. Every tensor field has the batch as its second dimension.

    A tensor of one dimension has one number per sequence and stays on the CPU if its name is ``lengths``.
    """

    inputs: Tensor  # ``(T, B)`` token numbers or ``(T, B, F)`` numbers
    targets: Tensor  # ``(B,)`` or ``(T, B, …)``

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of targets that are scored."""

    @property
    def weight(self) -> float:
        """Weight of this batch's mean loss in the mean over several parts; the size unless targets have weights."""
        return float(self.size)

    def part(self, rank: int, size: int) -> Self | None:
        """Every ``size``-th sequence from ``rank`` on; None if there is none."""
        if rank >= self.inputs.shape[1]:
            return None
        return self._with(lambda name, held: held[rank::size] if held.dim() == 1 else held[:, rank::size])

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        if self.inputs.device == device:
            return self
        return self._with(lambda name, held: held if name == "lengths" else held.to(device))

    def _with(self, change: Callable[[str, Tensor], Tensor]) -> Self:
        tensors = {name: held for name, held in vars(self).items() if isinstance(held, Tensor)}
        return replace(self, **{name: change(name, held) for name, held in tensors.items()})


class Examples(NamedTuple):
    """Sequences to measure the gradient flow on."""

    inputs: tuple[Tensor, ...]  # what the network is called with
    # From the network's output to the loss of each sequence ``(B,)`` or of each step ``(T, B)``.
    loss: Callable[[Any], Tensor]
    notes: tuple[str, ...] = ()  # what a reader should know about the sequences
    # From ``rank, size`` to examples of every ``size``-th sequence from ``rank`` on, as `Batch.part`.
    part: Callable[[int, int], Examples] | None = None
    target: Tensor | None = None  # what the output should be


@dataclass(frozen=True)
class Evaluation:
    """How good a trained network is on some data."""

    counts: dict[str, int]  # how much was scored: ``{"sequences": 250}``
    metrics: dict[str, Any]  # values by name, the loss first. Those that are single numbers are shown.
    # Metrics of simple methods on the same data, by their names.
    baselines: Mapping[str, Scores] = field(default_factory=dict)
    backtest: Backtest | None = None  # metrics by origin and by step, where these were asked for

    def as_dict(self) -> dict[str, Any]:
        """One flat dictionary, as ``retrograde evaluate --json`` prints it."""
        found = self.counts | self.metrics | ({"baselines": self.baselines} if self.baselines else {})
        return found if self.backtest is None else found | {"backtest": self.backtest.as_dict()}


@dataclass(frozen=True)
class TaskInfo:
    """What a page about a run says and shows differently for each task."""

    training: str  # what the network was trained to do; the name of the data follows: ``"was trained to predict … of"``
    data: str = "data"  # what the data is: text, or just data
    unit: str = "sequence"  # what the data consists of, in the singular
    counted: str = "sequences"  # the same as the keys of `Task.describe` call it: ``train_tokens``
    # If True, the loss is the surprise at the next token: in nats per token, with a perplexity.
    predicts_tokens: bool = False
    # If True, the run has a text that the network wrote, ``sample.txt``, instead of ``evaluation.json``.
    writes_text: bool = False
    bptt: int | None = None  # steps that truncated backpropagation went back; None if whole sequences were trained on
    scored: str = "tokens"  # what is scored, in the plural: ``Task.unit``


B = TypeVar("B", bound=Batch)


class Task(ABC, Generic[B]):
    """What a network is trained to do, with the data for it.

    Parameters
    ----------
    source : Any
        Name of the data, or a data frame.
    options : Options
        Options of the task; ``options.task`` is its name.
    files : mapping, optional
        Files of the run that is resumed, by name: vocabulary, columns and scales come from there, not from the data.

    Attributes
    ----------
    predictor : type
        Class of the trained network.
    name : str
        As in ``--task``.
    source : str
        The name of the data.
    fingerprint : str
        Hash of the content of the data; a run is resumed only with the same.
    chosen : dict
        Options that the data decided, and why (`retrograde.defaults`).
    notes : list of str
        What a user should know about the data: guesses, gaps, unknown tokens.
    batch_size : int
        Sequences in a batch.
    steps_per_epoch : int
        Batches that make one pass over the training data.
    unit : str
        What is scored: tokens, labels, ….
    vocabulary_size : int or None
        Number of different tokens; None where the inputs are numbers.
    generated_steps : int
        Length of sequences that are generated for each batch; 0 where they come from data.
    """

    predictor: ClassVar[type[Predictor]]
    source: str
    fingerprint: str
    batch_size: int
    steps_per_epoch: int
    unit: str = "sequences"
    vocabulary_size: int | None = None
    generated_steps: int = 0

    @abstractmethod
    def __init__(self, source: Any, options: Options, files: Mapping[str, str] | None = None) -> None:
        self.name, self.options = options.task, options
        self.notes: list[str] = []
        self.chosen: dict[str, str] = {}

    def shape(self) -> DataShape:
        """What of the data decides about options that are not given."""
        return DataShape(self.name, self.steps_per_epoch, self.batch_size * self.steps_per_epoch)

    @classmethod
    def info(cls, options: Options) -> TaskInfo:
        """What a page about a run with these options must know of the task."""
        return TaskInfo(f"was trained on the task “{options.task}” of", scored=cls.unit)

    @abstractmethod
    def model(self) -> nn.Module:
        """A new network, initialized from torch's random state."""

    @abstractmethod
    def batch(self, step: int) -> B:
        """The batch of a training step (from 0), on the CPU. The same step always gives the same batch."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: B, state: State) -> tuple[Tensor, State]:
        """Mean loss of a batch, and the state to start the next batch with (None: each batch starts at zero)."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the validation part, each name with the prefix ``validation_``; draws no random numbers."""

    def improves(self, scores: Scores, earlier: Sequence[Scores]) -> bool:
        """Whether weights with these scores on the validation part are kept instead of the best of earlier ones."""
        own = scores.get("loss")
        return own is not None and all(own < loss for one in earlier if (loss := one.get("loss")) is not None)

    def prefers(self, scores: Scores, best: Scores) -> bool:
        """Whether weights that improve nothing (see `improves`) replace the best ones, which are as good."""
        return False

    def cost(self, scores: Scores) -> float:
        """What a search over options minimizes, by scores on the validation part: usually the loss."""
        own = scores.get("loss")
        return math.inf if own is None else own

    def settle(self, network: nn.Module) -> str:
        """Change the network with the best weights for good, at the end of training; what there is to say about it."""
        return ""

    def baselines(self) -> dict[str, dict[str, float]]:
        """Metrics of simple methods on the validation part, by their names."""
        return {}

    def results(self, model: nn.Module) -> dict[str, str]:
        """Files to write into the run folder for the trained network, by name: metrics of every part, or a sample."""
        return {}

    def files(self) -> dict[str, str]:
        """Files of the run folder that a `Predictor` needs besides the weights, by name."""
        return {}

    @abstractmethod
    def held_out(self, count: int, steps: int | None = None) -> Examples:
        """At most ``count`` held-out sequences of at most ``steps`` steps, to measure the gradient flow on."""

    def examples(self, count: int, steps: int | None = None) -> Examples:
        """The same to diagnose a training on, where many sequences matter more than that they are held out."""
        return self.held_out(count, steps)

    def batch_words(self) -> str:
        """The size of a batch in words."""
        return counted(self.batch_size, "sequence")

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What ``config.json`` says about the data."""


LUCK = 1.0  # standard errors up to which a gain may be luck; from one more on it counts in full
LEAST = 0.01  # share of what a network adds to its baseline that always stays


def share_kept(certainty: float) -> float:
    """The share that stays of what a network adds to a baseline.

    certainty: by how many standard errors it is better than the baseline on the validation part.
    """
    return min(1.0, max(LEAST, certainty - LUCK))


class Predictor(ABC):
    """A trained network with everything between it and the data: vocabulary, columns, scales, labels.

    Attributes
    ----------
    FIXED_STEPS : str
        Why examples have a fixed length; empty if they do not.
    network : Module
        The network. After `from_files` its weights are still to be loaded.
    notes : list of str
        What a user should know about the data that was read last.
    """

    FIXED_STEPS: ClassVar[str] = ""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.notes: list[str] = []

    @classmethod
    @abstractmethod
    def from_files(cls, files: Mapping[str, str], options: Options, source: str) -> Self:
        """Make a predictor from what `Task.files` wrote; the weights are still to be loaded into ``network``.

        files: content of the files by their names.
        options: options of the run.
        source: name of the data that it was trained on.
        Raises RunError if a file is missing or damaged. The message starts with the name of the file.
        """

    @abstractmethod
    def evaluate(self, source: Any, encoding: str = AUTO) -> Evaluation:
        """Score the network on other data with known answers."""

    def backtest(self, source: Any, encoding: str, count: int) -> Evaluation:
        """Score forecasts from ``count`` origins at the end of each series of other data.

        Raises
        ------
        OptionError
            If the network does not forecast.
        """
        raise OptionError("--backtest is for --task forecast: leave it out.")

    def whole(self) -> nn.Module:
        """The whole prediction as a module, from numbers in the units of the data, for `retrograde.export`.

        Raises
        ------
        OptionError
            If it is more than a module can be.
        """
        raise OptionError("only a run of --task regress is exported as a whole: export run.model, its network alone.")

    @abstractmethod
    def predict(self, source: Any, encoding: str = AUTO, probabilities: bool = False) -> Iterator[Row]:
        """Apply the network to other data: rows in the order of the data, with a column ``prediction``."""

    @abstractmethod
    def examples(self, source: Any, encoding: str, count: int, steps: int | None = None) -> Examples:
        """Sequences of other data to measure the gradient flow on, as in `Task.held_out`."""
