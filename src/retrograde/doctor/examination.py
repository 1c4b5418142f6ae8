"""What the doctor measures: each measurement is made once, when a rule asks for it, and shared by all rules."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from ..errors import FlowError
from ..flow import GradientFlow, Sample, gradient_flow, samples_of
from ..options import Options
from .forward import Answer, Progress, answer, progress

__all__ = ["Examination", "Origin", "Sample", "TrainingRecord", "samples_of"]


@dataclass(frozen=True)
class TrainingRecord:
    """How the network was trained; what is not known is None or empty.

    Attributes
    ----------
    optimizer, lr, clip_norm, bptt
        As in `retrograde.options.Options`.
    updates : int
        How many updates were made; 0: the network is untrained.
    losses : sequence of float
        Training losses, in order.
    gradient_norms : sequence of float
        Global norms before clipping, in order.
    chance, floor : float or None
        Loss of the best constant prediction, and the lowest possible.
    diverged : bool
        Whether training ended with a loss or gradient that was NaN or infinite.
    torch_optimizer : torch.optim.Optimizer or None
        The optimizer itself: its state says how it scales each parameter's update.
    """

    optimizer: str | None = None
    lr: float | None = None
    clip_norm: float | None = None
    bptt: int | None = None
    updates: int | None = None
    losses: Sequence[float] = ()
    gradient_norms: Sequence[float] = ()
    chance: float | None = None
    floor: float | None = None
    diverged: bool = False
    torch_optimizer: torch.optim.Optimizer | None = None


@dataclass(frozen=True)
class Origin:
    """Data and options of a training: what the command of a prescription is made of.

    Attributes
    ----------
    options : Options
    source : str
        Name of the data; empty if it is gone.
    out : str
        The run folder; empty before training.
    name_task : bool
        Whether the command must name the task.
    resolved : tuple of str
        Options that training itself computed, so that the command leaves them out.
    """

    options: Options
    source: str
    out: str = ""
    name_task: bool = False
    resolved: tuple[str, ...] = ()


@dataclass
class Examination:
    """A network, its sequences, and all that was measured of them so far.

    Attributes
    ----------
    model : Module
        The network as it is now.
    samples : list of Sample
        Batches of sequences; most measurements take the first.
    untrained : Module
        Its twin with initial weights.
    record : TrainingRecord
    notes : list of str
        What could not be measured, and why.
    unusable : str
        Why nothing else can be measured: a rule that sets it is the last to be applied.
    origin : Origin or None
        Data and options of the training, where it is a run or is to become one.
    """

    model: nn.Module
    samples: list[Sample]
    untrained: nn.Module
    record: TrainingRecord = field(default_factory=TrainingRecord)
    notes: list[str] = field(default_factory=list)
    unusable: str = ""
    origin: Origin | None = None

    @cached_property
    def flow(self) -> GradientFlow:
        """The gradient flow of the network on the first sample."""
        sample = self.samples[0]
        return gradient_flow(self.model, *sample.inputs, loss=sample.loss)

    @cached_property
    def untrained_flow(self) -> GradientFlow:
        """The gradient flow of the untrained twin on the first sample."""
        sample = self.samples[0]
        return gradient_flow(self.untrained, *sample.inputs, loss=sample.loss)

    @cached_property
    def answer(self) -> Answer:
        """What the network returns for the first sample."""
        return answer(self.model, self.samples[0].inputs, self.samples[0].loss)

    @cached_property
    def progress(self) -> Progress:
        """How much of the task the network has learned, compared with the best constant answer."""
        return progress(self.answer, self.samples[0].loss, self.record.chance, self.record.floor)

    @cached_property
    def loss(self) -> float:
        """Mean loss over the scored steps of the first sample."""
        return _mean(self.flow)

    @property
    def steps(self) -> int:
        """T, the length of the longest sequence."""
        return max(self.flow.steps)


def _mean(flow: GradientFlow) -> float:
    scored = flow.losses[flow.losses != 0]
    return float(scored.mean()) if scored.size else math.nan


def untrained_twin(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a network with initial weights, drawn by each module's own ``reset_parameters``.

    Raises
    ------
    FlowError
        If a module with parameters cannot be initialized again; give ``untrained=``.
    """
    twin = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in twin.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            reset = getattr(module, "reset_parameters", None)
            if reset is None:
                raise FlowError(
                    f"{name or type(module).__name__} has no reset_parameters, so its initial weights are not known: "
                    "give untrained=, the network before training."
                )
            reset()
    return twin
