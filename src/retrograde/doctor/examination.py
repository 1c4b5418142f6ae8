"""What the doctor measures: each measurement is made once, when a rule asks for it, and shared by all rules.

Tests: `tests/doctor/test_vanishing.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..flow import GradientFlow, NetworkSignal, Sample, gradient_flow, need_of, samples_of, signal_left
from ..flow.learning_signal.remainder import Remainder, ahead_of, remainder_of
from ..flow.learning_signal.spans import LABEL as SPANS
from ..flow.learning_signal.stream import fewest_of, gains_of
from ..flow.recording.batches import SequenceSubset
from ..nested import mapped
from ..options import Options
from ..words import counted
from .forward import Answer, Progress, answer, answers, progress, tensors
from .record import TrainingRecord
from .thresholds import THRESHOLDS
from .travel import Travel, travel_of

__all__ = ["Examination", "Origin", "Sample", "samples_of"]

Array = NDArray[np.float64]
EFFORT = 2e10  # multiplications of one measurement of the flow: some seconds of one core
SECOND_EFFORT = 5e9  # of looking for a need again, in the trained network
MOST, FEWEST = 32, 8  # sequences whose gradients are followed
FEWEST_TARGETS = 8  # steps with a loss that are followed
RISK_WIDTH = 0.5  # decades of the gradient over which the risk falls from 73 % to 27 %
WIDEST = 512  # numbers of an output whose covariance is taken apart
AHEAD = 4  # steps after that of a loss whose inputs are compared with it
SCORED, SCORED_LOSSES = 8, 50_000  # samples over which the loss is averaged, and losses in them
SCORED_SEQUENCES = 64  # of small samples more are taken, up to so many sequences


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
    chosen : collection of str
        Options that the data decided, so that the command leaves them out.
    """

    options: Options
    source: str
    out: str = ""
    name_task: bool = False
    chosen: Collection[str] = ()


@dataclass(frozen=True)
class Need:
    """What the data asks the network to remember.

    Attributes
    ----------
    lag : int
        How many steps are needed: the longest lag with a signal, less those about which later steps say the same.
    signal : int
        The longest lag with a signal that is not negligible next to the clearest.
    middle : int
        Half of the signal (of the sum of its consistency over lags) is at this lag or beyond.
    lags, consistency : ndarray
        How consistent the gradient of each lag is over sequences; 0 without a significant signal.
    """

    lag: int
    signal: int
    middle: int
    lags: Array
    consistency: Array
    at_most: bool = False  # whether inputs resemble earlier ones, and explain too little to say how few are enough


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
        Its twin with initial weights; the network itself where it is untrained.
    record : TrainingRecord
    notes : list of str
        What could not be measured, and why.
    unusable : str
        Why nothing else can be measured: a rule that sets it is the last to be applied.
    origin : Origin or None
        Data and options of the training, where it is a run or is to become one.
    deadline : float
        By `time.perf_counter`, when no further rule or trial of a remedy is begun.
    start_given : bool
        Whether `untrained` has the weights from which training began.
    beats : str
        The simple method, such as a seasonal naive forecast, that the training ended better than where "chance" is its
        loss; empty if there is none. What remains of its loss may then be noise.
    """

    model: nn.Module
    samples: list[Sample]
    untrained: nn.Module
    record: TrainingRecord = field(default_factory=TrainingRecord)
    notes: list[str] = field(default_factory=list)
    unusable: str = ""
    origin: Origin | None = None
    deadline: float = math.inf
    start_given: bool = False
    beats: str = ""

    # --- The gradient through time ------------------------------------------------------------------------------------

    @cached_property
    def flow(self) -> GradientFlow:
        """The gradient flow of the network on some sequences of the first sample."""
        return self.flow_of(self.model)

    @cached_property
    def untrained_flow(self) -> GradientFlow:
        """The gradient flow of the untrained twin on the same."""
        return self.flow if self.untrained is self.model else self.flow_of(self.untrained)

    @cached_property
    def first_sensitivity(self) -> float | None:
        """Relative change of the loss over that of all weights, by the first recorded gradient; None if not known."""
        losses, norms = self.record.losses, self.record.gradient_norms
        if not losses or not norms or not 0 < losses[0] < math.inf or math.isnan(norms[0]):
            return None
        size = math.sqrt(sum(float(p.detach().double().square().sum()) for p in self.untrained.parameters()))
        return norms[0] * size / losses[0]

    def flow_of(self, model: nn.Module) -> GradientFlow:
        """The gradient flow of another network, such as one with a remedy, on the same."""
        sample = self.few
        return gradient_flow(model, *sample.inputs, loss=sample.loss, targets=self._targets)

    @cached_property
    def few(self) -> Sample:
        """As many sequences of the first sample as every gradient can be followed of in seconds."""
        sample, own = self.samples[0], self.answer
        count = max(FEWEST, min(MOST, int(EFFORT / max(1.0, self._effort * min(len(own.losses), FEWEST_TARGETS)))))
        if own.sequences <= count or (sample.target is not None and sample.judge is None):
            return sample
        batch = (sample.inputs, sample.target)
        with torch.no_grad(), answers(self.model, sample.inputs) as ask:
            subset = SequenceSubset(count, batch_first=False)
            (inputs, target), _ = subset.choose(batch, lambda given: ask(given[0], sample.judged(given[1])).losses)
        return Sample(inputs, sample.judged(target), target, sample.judge)

    @cached_property
    def _targets(self) -> list[int] | None:
        """The steps whose losses are followed: None for all of them, or as many as can be in seconds."""
        own = self.answer
        if own.final:
            return None
        scored = own.losses.ne(0).any(1).nonzero().flatten().tolist()
        sequences = min(own.sequences, MOST)
        most = max(FEWEST_TARGETS, int(EFFORT / max(1.0, self._effort / 2 * sequences)))
        if len(scored) <= most:
            return None
        return sorted({scored[i] for i in np.linspace(len(scored) - 1, 0, most).round().astype(int)})

    @property
    def _effort(self) -> float:
        """Multiplications that one loss at the last step of one sequence takes."""
        sizes = [
            call.steps * sum(p.numel() for p in call.module.parameters() if p.dim() > 1) for call in self.answer.calls
        ]
        return float(sum(sizes))

    @cached_property
    def travel(self) -> Travel:
        """How far back the gradient of the network reaches."""
        return travel_of(self.flow)

    @cached_property
    def start(self) -> Travel:
        """How far back it reached as training began."""
        return self.travel if self.untrained is self.model else travel_of(self.untrained_flow)

    @cached_property
    def exponents(self) -> dict[str, Array]:
        """By layer, the largest Lyapunov exponent along each sequence, without a first quarter of the steps."""
        flow = self.flow
        every = zip(flow.layers, flow.steps, strict=True)
        return {label: flow.largest_exponents(label, burn_in=steps // 4) for label, steps in every}

    # --- What the data asks for ---------------------------------------------------------------------------------------

    @cached_property
    def asked(self) -> NetworkSignal:
        """What the data asks the network to remember, measured on its untrained twin."""
        return need_of(self.untrained, self.samples, _own, alpha=THRESHOLDS.alpha.value)

    @cached_property
    def left(self) -> NetworkSignal:
        """What the network has left to learn."""
        return signal_left(self.model, self.samples, _own, alpha=THRESHOLDS.alpha.value)

    @cached_property
    def remainder(self) -> Remainder | None:
        """What the inputs explain of what the network has not learned; None if that is not known."""
        return remainder_of(self.model, self.samples, _own)

    @cached_property
    def ahead(self) -> tuple[int, float]:
        """How many steps later the input is that tells the target of a step, and how much it explains; 0 if none does.

        Asked where nothing is learned of targets by step. What was before the step, or at it, must explain nearly
        nothing; before training, when it is not known what can be learned from it, nothing.
        """
        if self.answer.final or not self.unlearned:
            return 0, 0.0
        found = ahead_of(self.untrained, self.samples, _own, AHEAD)
        if found is None:
            return 0, 0.0
        share, least = found.explained(0, AHEAD - 1), THRESHOLDS.ahead_share.value
        most = THRESHOLDS.unsolved_share.value if self.record.updates else 0.0
        if not share > least or found.explained(AHEAD) > most:
            return 0, 0.0
        return AHEAD - int(found.consistency()[:AHEAD].argmax()), share

    @cached_property
    def need(self) -> Need | None:
        """The lags that the data asks for; None without any signal.

        Inputs that repeat themselves (chains, waves, trends) have a signal at all lags at which they resemble the step
        that counts, so only as many of the last steps are needed as explain what all explain (`_fewest`).
        """
        signal, fewest = self._signal, self._fewest
        if signal is None:
            return None
        if fewest is None:
            spans = any(own.layer == SPANS for own in self.asked.layers)  # these count as far as they add something
            if spans or self._told_later(signal.lag) == signal.lag:
                return signal
            self.notes.append(
                f"The need of {signal.lag} steps is an upper bound: inputs resemble those of earlier steps, and "
                "explain too little of the errors to tell how few of the last steps are enough. Bring more sequences."
            )
            return replace(signal, at_most=True)
        return replace(signal, lag=fewest[1], middle=min(signal.middle, fewest[1]))

    @cached_property
    def _fewest(self) -> tuple[int, ...] | None:
        """Up to which lag the last steps explain half, and nearly all, of what the inputs explain of the errors."""
        if self._signal is None:
            return None
        shares = (0.5, THRESHOLDS.explained_share.value)
        return fewest_of(self.untrained, self.samples, _own, self._signal.signal, shares)

    @cached_property
    def _signal(self) -> Need | None:
        """The lags that have a signal.

        Where no gradient of the untrained network shows one, inputs and errors are compared directly; then the network
        as it is takes the place of its twin, if it has learned nothing, again with the errors of a constant output.
        """
        asked = self.asked
        if asked.need is None and asked.joint is not None and asked.joint.by_lag:
            return _need_by(np.arange(len(asked.joint.by_lag)), np.array(asked.joint.by_lag))
        if asked.need is None and self.record.updates and self.unlearned:
            asked = need_of(self.model, self.samples, _own, alpha=THRESHOLDS.alpha.value, effort=SECOND_EFFORT)
        if not asked.layers:  # no sequence has an error
            return None
        lags = np.unique(np.concatenate([signal.last for signal in asked.layers]))
        alone, together, tails = np.zeros(len(lags)), np.zeros(len(lags)), np.ones(len(lags))
        for signal in asked.layers:  # the last lags of a bin may differ by layer
            own = np.nan_to_num(signal.consistency).clip(min=0)
            at = np.searchsorted(lags, signal.last)
            alone[at] = np.maximum(alone[at], np.where(signal.significant, own, 0.0))
            together[at] = np.maximum(together[at], np.where(signal.last <= (signal.need or -1), own, 0.0))
            tails[at] = np.fmin(tails[at], signal.tail_p_value)
        # Where many lags have a weak signal each, such as in the adding problem, only all of them together show it.
        consistency = alone if alone.any() else together
        if not consistency.any():
            return None
        if alone.any() or asked.need is None:
            return _need_by(lags, consistency)
        # How consistent a lag is by itself is then mostly chance. Evidence, -log p, grows as the share of the errors
        # that the lags from one on explain: the middle is the last of which half of it is left.
        evidence = -np.log(np.maximum(tails, np.finfo(np.float64).tiny))
        middle = lags[np.flatnonzero(evidence >= evidence.max() / 2)[-1]]
        return Need(asked.need, asked.need, min(int(middle), asked.need), lags.astype(np.float64), consistency)

    @cached_property
    def middle(self) -> int:
        """Half of what the targets depend on is at this lag or beyond, where a later step does not say the same.

        By windows of the last steps (`flow/learning_signal/stream.py`, `fewest_of`); where these do not tell, by the
        signal, less the steps after which inputs repeat themselves.
        """
        if self.need is None:
            return 0
        return self._fewest[0] if self._fewest is not None else self._told_later(self.need.middle)

    def _told_later(self, lag: int) -> int:
        """The shortest lag at which the inputs of the first layer resemble those at this lag.

        That is where their autocorrelation is a half or more: what a series showed earlier (a step or a season before)
        can then be learned from a later step as well.
        """
        calls = [call for call in self.answer.calls if call.name == self.answer.calls[0].name]
        if not calls or any(isinstance(call.given, PackedSequence) for call in calls):
            return lag
        x = torch.cat([call.by_step for call in calls]).detach().double()
        x = x - x.mean(1, keepdim=True)
        whole = float(x.square().sum(-1).mean())
        for apart in range(min(lag, len(x) - 1), 0, -1):
            pairs = (x[apart:] * x[:-apart]).sum(-1)
            if float(pairs.mean()) >= max(THRESHOLDS.repetition.value, 3 / pairs.numel() ** 0.5) * whole > 0:
                return lag - apart
        return lag

    @cached_property
    def _gains(self) -> dict[int, float] | None:
        """Where states of several steps are read: by steps of memory, what these add to what is explained, in shares.

        None where one state is read, or nothing is explained.
        """
        if self.need is None or not self.need.lag or not self.answer.final:
            return None
        found = gains_of(self.untrained, self.samples, _own, self.need.lag)
        if found is None or not any(found.values()):
            return None
        return {lag: gain / sum(found.values()) for lag, gain in found.items()}

    @cached_property
    def risk(self) -> float:
        """How likely the task will not be solved as it stands, by what is left of the gradient where the signal is.

        Of 17 trainings (tanh, ReLU, GRU, LSTM; echo, first symbol, early sum), those with 10^-2 or more left at the
        lag of the signal were solved, those with less than 10^-4 were not, and between it was either.
        """
        if self.solved:
            return 0.0
        if self.need is None:
            learned = self.record.updates and not self.unlearned  # in part, although no signal is seen
            return math.nan if learned or self.asked.constant else THRESHOLDS.risk_without_signal.value
        return self.risk_from(self.travel)

    def risk_from(self, travel: Travel) -> float:
        """The risk by a gradient that travels so far.

        Where states of several steps are read, training begins with what needs little memory (one of two events is near
        an end of some sequences), and that makes the memory longer: it is by the mean over the signal.
        """
        if self._gains is None:
            left, even = travel.at(self.middle), THRESHOLDS.risk_share.value
        else:
            left = sum(gain * travel.at(lag) for lag, gain in self._gains.items())
            even = THRESHOLDS.pooled_risk_share.value
        return 1 / (1 + math.exp(min(math.log10(max(left, 1e-300) / even) / RISK_WIDTH, 700.0)))

    @cached_property
    def error_directions(self) -> float:
        """In how many directions the output errors of the first sample differ: the participation ratio (Σλ)² / Σλ².

        λ are the eigenvalues of the covariance of ∂E/∂output; NaN where the loss does not look at one tensor alone.
        """
        own, sample = self.answer, self.samples[0]
        leaves = [leaf.detach().clone() for leaf in tensors(own.output) if leaf.is_floating_point()]
        with torch.enable_grad():
            rest = iter([leaf.requires_grad_() for leaf in leaves])
            total = sample.loss(mapped(own.output, lambda leaf: _same_place(leaf, rest))).sum()
            found = torch.autograd.grad(total, leaves, allow_unused=True)
        errors = [g.double() for g in found if g is not None]
        if len(errors) != 1:
            return math.nan
        if errors[0].numel() <= own.losses.numel():
            return 1.0
        if own.sequences not in errors[0].shape[:-1]:
            return math.nan
        rows = errors[0].flatten(0, -2)
        rows = rows[rows.ne(0).any(1)]
        if rows.shape[0] < 2 or rows.shape[1] > WIDEST:
            return math.nan
        values = torch.linalg.eigvalsh(torch.cov(rows.T).reshape(rows.shape[1], -1)).clamp(min=0)
        return float(values.sum().square() / values.square().sum()) if values.any() else math.nan

    # --- What the network answers -------------------------------------------------------------------------------------

    @cached_property
    def answer(self) -> Answer:
        """What the network returns for the first sample."""
        return answer(self.model, self.samples[0].inputs, self.samples[0].loss)

    @cached_property
    def progress(self) -> Progress:
        """How much of the task the network has learned, compared with the best constant answer."""
        asked, sequences = [(self.answer, self.samples[0].loss)], self.answer.sequences
        for sample in self.samples[1:]:
            enough = len(asked) >= SCORED and sequences >= SCORED_SEQUENCES
            if enough or len(asked) * self.answer.losses.numel() > SCORED_LOSSES:
                break
            own = answer(self.model, sample.inputs, sample.loss)
            if not bool(torch.isfinite(own.losses).all()):
                break
            asked.append((own, sample.loss))
            sequences += own.sequences
        whole = progress(asked, self.record.chance, self.record.floor)
        if math.isnan(whole.remaining) and len(asked) > 1:  # outputs of several shapes
            whole = progress(asked[:1], self.record.chance, self.record.floor)
        return whole

    @property
    def solved(self) -> bool:
        """Whether the network has learned its task."""
        return self.progress.remaining <= THRESHOLDS.solved_share.value

    @property
    def unlearned(self) -> str:
        """The part of a rule that says that the task was not learned; empty if some of it was."""
        remaining, least = self.progress.remaining, THRESHOLDS.unlearned_share.value
        if self.beats:
            return ""
        if math.isnan(remaining) and self.record.updates == 0:
            return "the network is untrained"
        return f"loss {remaining:.0%} of chance > {least:.0%}" if remaining > least else ""

    @cached_property
    def unsettled(self) -> str:
        """What is wrong with the history of the loss (if there is none: with the loss as it is); empty if nothing."""
        every = np.asarray(self.record.losses, dtype=np.float64)
        if self.record.diverged or not np.isfinite(every).all():
            return "the loss became NaN or infinite"
        rise, chance = THRESHOLDS.rise.value, self.progress.chance
        if len(every) < 8:
            now = self.progress.loss if self.record.updates else 0.0
            return f"the loss is {now:.3g}, above chance ({chance:.3g})" if now > rise * chance else ""
        quarters = [float(part.mean()) for part in np.array_split(every, 4)]
        if quarters[-1] > rise * min(quarters[:-1]):
            return f"the loss rose from {min(quarters[:-1]):.3g} to {quarters[-1]:.3g}"
        if quarters[-1] > rise * chance:
            return f"the loss stayed at {quarters[-1]:.3g}, above chance ({chance:.3g})"
        smooth = np.median(np.lib.stride_tricks.sliding_window_view(every, 5), axis=1)
        peak, factor = float(smooth.max()), THRESHOLDS.peak.value
        if peak > factor * max(chance, float(every[0])):
            return f"the loss rose to {peak:.3g}, {peak / chance:.2g} times chance"
        half = every[len(every) // 2 :]
        swing = float(np.abs(np.diff(half)).mean() / max(half.mean(), 1e-30))
        if swing > THRESHOLDS.swing.value:
            return f"the loss swings by {swing:.0%} of its size from update to update"
        return ""

    @property
    def unfinished(self) -> str:
        """What says that the training may only have been too short; empty if nothing does."""
        made = self.record.updates
        if made and made < THRESHOLDS.fewest_updates.value:
            return f"only {counted(made, 'update', 'was')} made"
        every = np.asarray(self.record.losses, dtype=np.float64)
        if len(every) < 8 or not np.isfinite(every).all():
            return ""
        quarters = np.array_split(every, 4)
        before, last = quarters[2].mean(), quarters[3].mean()
        noise = math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in quarters[2:]))
        return f"the loss still fell, from {before:.3g} to {last:.3g}" if before - last > 3 * noise else ""

    @property
    def diverged(self) -> bool:
        """Whether the last quarter of training has a loss above chance and above that of the first update."""
        every = np.asarray(self.record.losses, dtype=np.float64)
        if self.record.diverged or not np.isfinite(every).all():
            return True
        return len(every) >= 8 and float(every[-(len(every) // 4) :].mean()) > THRESHOLDS.rise.value * max(
            self.progress.chance, float(every[0])
        )

    @cached_property
    def loss(self) -> float:
        """Mean loss over the scored steps of the first sample."""
        return self.progress.loss

    @property
    def steps(self) -> int:
        """T, the length of the longest sequence."""
        return max(self.flow.steps)


def _same_place(leaf: Any, values: Iterator[Tensor]) -> Any:
    data = leaf.data if isinstance(leaf, PackedSequence) else leaf
    new = next(values) if data.is_floating_point() else data
    return leaf._replace(data=new) if isinstance(leaf, PackedSequence) else new


def _need_by(lags: NDArray[np.int64], consistency: Array) -> Need:
    """The need by how consistent each lag is."""
    needed = consistency >= THRESHOLDS.need_share.value * consistency.max()
    sums = np.cumsum(consistency[needed][::-1])
    middle = lags[needed][::-1][np.searchsorted(sums, sums[-1] / 2)]
    longest = int(lags[needed][-1])
    return Need(longest, longest, int(middle), lags.astype(np.float64), consistency)


def _own(*_: Any) -> Tensor:
    """Samples have their own loss."""
    raise AssertionError


def untrained_twin(model: nn.Module, seed: int = 0, notes: list[str] | None = None) -> nn.Module:
    """A copy of a network with initial weights, drawn by each module's own ``reset_parameters``.

    Modules that cannot be initialized again keep their parameters; ``notes`` then gets a line.
    """
    kept: list[str] = []
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # a module may keep what cannot be copied
        if notes is not None:
            notes.append(f"What the data asks for was measured on the network as it is: no copy ({error!s:.100}).")
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in twin.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            try:
                reset()  # type: ignore[misc]
            except (AttributeError, TypeError, RuntimeError):
                kept.append(name or type(module).__name__)
    if kept and notes is not None:
        notes.append(
            f"The untrained twin, by which is found what the data asks for, keeps the parameters of {', '.join(kept)}: "
            "there is no reset_parameters. Give untrained=, the network before training."
        )
    return twin
