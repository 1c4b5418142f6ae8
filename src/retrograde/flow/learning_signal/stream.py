"""What the data asks a network to remember, and what it has left to learn: the signal by lag over many batches.

Batches are added until the answer is clear. It is looked at after 64 sequences or the first batch, then whenever there
are twice as many, and at the end. The last look spends half of the error rate α, and the j-th of those before it
α/(2j(j+1)): they add up to α, however many there are, and p-values are multiplied accordingly. The answer is clear
where there is a signal, and every lag beyond has less than a tenth of the consistency of the clearest lag (the upper
bound, at three standard deviations).

Tests: `tests/flow/test_signal_stream.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import FlowError
from ..recording.calls import Call
from ..recording.capture import NeedsEveryCall
from ..recording.graph import MIXED_ERRORS
from ..recording.losses import known_lengths
from ..recording.recorded import MeasuredModel
from ..recording.samples import Sample, each_sample
from ..recurrence.cells import Trajectory
from ..wiring.entries import entries_of, reading_of
from .both_ways import Tower
from .encoder_decoder import Relay
from .joint import Joint, JointTest
from .score import SIZE, ScoreTest
from .singles import at_single_steps
from .spans import Compared, SpanTest, compared_of, gains
from .statistic import FEWEST, Array, Signal, Tally, add, check
from .sweep import SIZE as WIDTH
from .sweep import Sides, Stack, Sweep, lags_from_end, stacks_of
from .windows import SEQUENCES, fewest_for, fewest_linear

__all__ = ["NetworkSignal", "fewest_of", "gains_of", "need_of", "signal_left"]

FIRST = 64  # sequences of the first look
EXCHANGES = 2  # of errors, in every batch
NEGLIGIBLE = 0.1  # of the largest consistency
EFFORT = 2e10  # multiplications: a few seconds of one core
PLANNED = 256  # sequences that the effort is planned for: so many targets of each are followed that it is enough
FEWEST_TARGETS = 4
KEPT = 2**25  # numbers of one layer's adjoints that are kept at a time

READS = {
    "many": "the loss reads the states of many steps, so a single step needs no memory: the errors were compared with "
    "the inputs, over how many steps these decide together and in what place",
    "ends": "the loss reads single states of both directions: the errors were compared with the inputs, by the "
    "distance of their step from the nearest",
}

CHANGED = (
    "modules between the layers change the states on their way up: the errors were compared with the inputs, by the "
    "distance of their step from the last that is read"
)

# First lag of each bin: single lags up to 32, then bins that are 6 % of their lag wide.
STARTS = np.unique(np.concatenate([np.arange(32), np.geomspace(32, 1e6, 178).round()]).astype(np.int64))


@dataclass(frozen=True)
class NetworkSignal:
    """The signal by lag of a whole network, over all sequences that were needed.

    Attributes
    ----------
    layers : list of Signal
        By recurrent layer; their p-values are corrected for lags, layers and looks together.
    sequences, looks : int
        How many sequences were seen, and how often it was asked whether the answer is clear.
    decided : bool
        Whether it was clear at the end; if not, more sequences may show more.
    error_share : float or None
        Size of the output error compared with that of a constant output, both centered: near 1, nothing is learned
        yet; near 0, the task is solved, and a signal is of its last errors. None where the errors are those of a
        constant output.
    constant : bool
        Whether the error is the same for all sequences: there is nothing to learn.
    joint : Joint or None
        Where no lag has a signal: whether the targets depend on the inputs in a way that no gradient shows, and at
        which lags by themselves.
    notes : list of str
        What a reader must know.
    """

    layers: list[Signal]
    sequences: int
    looks: int
    decided: bool
    error_share: float | None = None
    constant: bool = False
    joint: Joint | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def need(self) -> int | None:
        """The longest lag with a signal in any layer; None without any."""
        return max((signal.need for signal in self.layers if signal.need is not None), default=None)

    @property
    def peak(self) -> int | None:
        """The lag with the most consistent gradient in any layer; None without a signal."""
        found = [signal for signal in self.layers if signal.need is not None]
        if not found:
            return None
        return max(found, key=lambda s: float(np.nanmax(np.where(s.significant, s.consistency, -np.inf)))).peak

    def layer(self, label: str) -> Signal:
        """The signal of one layer.

        Raises
        ------
        FlowError
            There is none of that name.
        """
        for signal in self.layers:
            if signal.layer == label:
                return signal
        raise FlowError(f"There is no signal of {label!r}; there is one of {', '.join(s.layer for s in self.layers)}.")

    def __str__(self) -> str:
        seen = f"{self.sequences:,} sequences"
        if self.need is not None:
            most = "" if self.peak in (None, self.need) else f", the most consistent at lag {self.peak}"
            return f"a signal up to lag {self.need}{most} ({seen})"
        if self.constant:
            return f"no signal: the error is the same for all of {seen}"
        if self.joint is not None and (self.joint.found or self.joint.by_lag):
            return f"no signal that a gradient can see ({seen}); {self.joint}"
        return (
            f"no signal that a gradient can see ({seen}): the targets may be noise, or depend on several steps only "
            "together"
        )


def need_of(
    model: Callable[..., Any],
    batches: Any,
    loss: Callable[..., Tensor] | None = None,
    *,
    sequences: int = 4096,
    alpha: float = 0.01,
    seed: int = 0,
    effort: float = EFFORT,
) -> NetworkSignal:
    """What the data asks this network to remember, before it has learned anything.

    Measured with the errors of a constant output, so that the network's own random predictions do not count: what is
    left is what the targets ask for. Meant for an untrained network.

    Parameters
    ----------
    model : callable
        A module, or any callable of the inputs, as `gradient_flow` takes.
    batches : iterable
        Batches of sequences, such as a DataLoader: tuples of what the model is called with and, last, the target.
    loss : callable, optional
        Takes the model's output and the target; returns losses by step `(T, B)` or one per sequence `(B,)`. Samples
        (`retrograde.flow.Sample`) have their own.
    sequences : int
        At most so many are used; fewer where the answer is clear before.
    alpha : float
        Family-wise error rate over all lags, layers and looks.
    seed : int
        Of exchanges, of projections, and of the choice of losses where there are too many.
    effort : float
        At most so many multiplications: the same answer on every machine. Of long sequences with a loss at every step,
        the losses of some steps are followed.

    Raises
    ------
    FlowError
        There are fewer than 8 sequences; the head looks at several steps, or layers are not fed by one another as they
        are, while there is a loss for each step; sequences are mixed.

    Notes
    -----
    Where one loss per sequence reads the states of many steps, or of two directions, the lags are spans between inputs:
    see `retrograde.flow.spans`.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(20, 400, 1)
    >>> rnn, head = nn.RNN(1, 16), nn.Linear(16, 1)
    >>> def loss(output, target):
    ...     return (head(output[0]) - target).square().sum(-1)
    >>> rg.flow.need_of(rnn, (x, x.roll(5, 0)), loss).need  # x_{t−5} at every step t
    5
    """
    return _Stream(model, _Limits(sequences, alpha, seed, effort), "zero").over(each_sample(batches, loss))


def signal_left(
    model: Callable[..., Any],
    batches: Any,
    loss: Callable[..., Tensor] | None = None,
    *,
    sequences: int = 4096,
    alpha: float = 0.01,
    seed: int = 0,
    effort: float = EFFORT,
) -> NetworkSignal:
    """What a network, trained or not, has left to learn: the signal by lag of its own errors.

    Takes and raises what `need_of` does. A signal is not important by itself: read it with ``error_share``, how much
    of the error of a constant output is left. A network that has solved its task still shows a signal in its last,
    tiny errors.
    """
    return _Stream(model, _Limits(sequences, alpha, seed, effort), None).over(each_sample(batches, loss))


def fewest_of(
    model: Callable[..., Any],
    batches: Any,
    loss: Callable[..., Tensor] | None,
    longest: int,
    shares: Sequence[float],
    *,
    seed: int = 0,
) -> tuple[int, ...] | None:
    """By share, the lag up to which the last steps explain so much of what those up to lag ``longest`` do.

    At a constant output. Smaller than the lags of the signal where later steps say the same as earlier ones. With a
    loss at every step it is of one of them, the last; of an encoder-decoder, where the first losses may look further
    back or less far than the last, of some of them: the longest for the largest share, for others the median.
    Where single steps, and pairs of them, explain less than half of the errors, by a linear regression
    (`windows.fewest_linear`). None where that does not tell, and where states of several steps are read.
    """
    kept, several = kept_for(model, batches, loss, seed)
    if several or not kept:
        return None
    found = [fewest_for(list(own), longest, shares) for own in zip(*kept, strict=True) if _differ(own)]
    known = [own for own in found if own is not None]
    if not known or len(known) < len(found):
        several_losses, _ = kept_for(model, batches, loss, seed, longest) if len(kept[0]) == 1 else ([], False)
        return fewest_linear(list(map(list, zip(*(several_losses or kept), strict=True))), shares)
    return tuple(
        max(lags) if share == max(shares) else sorted(lags)[len(lags) // 2]
        for share, lags in zip(shares, zip(*known, strict=True), strict=True)
    )


def gains_of(
    model: Callable[..., Any], batches: Any, loss: Callable[..., Tensor] | None, longest: int, *, seed: int = 0
) -> dict[int, float] | None:
    """Where states of several steps are read: the share of the errors explained by so many steps of memory, not fewer.

    At a constant output, by the last lag of each bin up to that of ``longest``. None where one state is read, or there
    is a loss at every step.
    """
    kept, several = kept_for(model, batches, loss, seed)
    return gains([own for (own,) in kept], longest, EFFORT) if several and kept else None


def kept_for(
    model: Callable[..., Any],
    batches: Any,
    loss: Callable[..., Tensor] | None,
    seed: int,
    longest: int | None = None,
    *,
    constant: str | None = "zero",
    ahead: int = 0,
) -> tuple[list[list[Compared]], bool]:
    """By batch, inputs and errors of one loss or some; and whether several states are read.

    ``longest``: of losses by step, some that have so many steps before them.
    ``constant``: the output at which the errors are taken, None for that of the network.
    ``ahead``: how many inputs after the step of the loss are taken, too; of other losses than by step, and layers that
    do not run forward, there is nothing then.
    """
    stream = _Stream(model, _Limits(SEQUENCES, 0.01, seed, EFFORT), constant, compares=True)
    kept: list[list[Compared]] = []
    for sample in each_sample(batches, loss):
        found = stream._stacks(sample)
        by_step = not isinstance(found, Compared) and found[0].lags is None
        if isinstance(found, Compared):
            kept.append([found])
        elif not by_step:
            return [], False
        else:
            kept.append(at_single_steps(found[0], longest, ahead))
        if ahead and (not by_step or not kept[-1]):
            return [], False
        if sum(len(own[0].errors) for own in kept) >= SEQUENCES:
            break
    return kept, bool(set(stream.notes) & set(READS.values()))


def _differ(same: Sequence[Compared]) -> bool:
    """Whether a loss has different errors in different sequences."""
    return any(bool((own.errors != own.errors[:1]).any()) for own in same)


@dataclass(frozen=True)
class _Limits:
    sequences: int
    alpha: float
    seed: int
    effort: float


class _Stream:
    """Adds batches until the answer is clear."""

    def __init__(
        self, model: Callable[..., Any], limits: _Limits, constant: str | None, *, compares: bool = False
    ) -> None:
        """``compares``: whether inputs and errors are asked for where the gradient has a lag, too."""
        self.compares = compares
        check(FEWEST, EXCHANGES, limits.alpha)
        self.model, self.limits, self.constant = model, limits, constant
        self.generator = torch.Generator().manual_seed(limits.seed)
        self.tallies: dict[str, Tally] = {}
        self.scores: dict[str, ScoreTest] = {}
        self.sequences = self.looks = 0
        self.effort = 0.0
        self.error_share: float | None = None
        self.varies, self.weak = False, True  # whether no lag has a signal by itself so far
        self.joint = JointTest()
        self.spans: SpanTest | None = None  # where the head reads more than the states of one step
        self.notes: list[str] = []

    def over(self, samples: Iterator[Sample]) -> NetworkSignal:
        waiting: list[list[Stack]] = []
        left = 0
        for sample in samples:
            stacks = self._stacks(sample)
            if isinstance(stacks, Compared):
                self.spans = SpanTest(self.limits.seed) if self.spans is None else self.spans
                if self.spans.add(stacks, self.limits.sequences):
                    break
                continue
            if waiting and not all(map(_alike, waiting[-1], stacks)):
                left += self._flush(waiting)
            waiting.append(stacks)
            if _count(waiting) >= self._wanted(stacks):
                left += self._flush(waiting)
            if self.sequences >= self.limits.sequences or self.effort >= self.limits.effort:
                break
            if self.sequences >= FIRST * 2**self.looks:
                found = self._look(last=False)
                if found.decided:
                    return self._finished(found)
        if self.spans is not None:
            return self._of_spans(self.spans)
        left += self._flush(waiting)
        if left:
            self._note(f"{left} sequences were left out: give batches of {FEWEST} or more of one length")
        check(self.sequences if self.tallies else _at_least(left), EXCHANGES, self.limits.alpha)
        return self._finished(self._look(last=True))

    def _of_spans(self, spans: SpanTest) -> NetworkSignal:
        """The answer where inputs and errors were compared."""
        check(spans.sequences, EXCHANGES, self.limits.alpha)
        signal = spans.result(self.limits.alpha, self.limits.effort)
        return NetworkSignal(
            [signal], signal.sequences, 1, signal.need is not None, self.error_share, not spans.varies, None, self.notes
        )

    def _wanted(self, stacks: list[Stack]) -> int:
        """How many sequences are taken together: as many as the next look needs, within a bound on memory."""
        numbers = max(run.x.shape[0] * run.weights.hh.shape[0] for stack in stacks for run in stack.runs.values())
        to_come = FIRST * 2**self.looks - self.sequences
        return int(max(FIRST // 2, min(to_come, self.limits.sequences - self.sequences, KEPT // numbers)))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # --- One batch ----------------------------------------------------------------------------------------------------

    def _stacks(self, sample: Sample) -> list[Stack] | Compared:
        """The stacks of one batch, with the targets to follow; or what its inputs and errors are, to be compared."""
        if self.constant is None:
            found = self._recorded(sample)
            if self.error_share is None:
                whole = _size(self._recorded(sample.at_a_constant()))
                self.error_share = _size(found) / whole if whole > 0 else np.nan
            return found
        try:
            return self._recorded(sample.at_a_constant(self.constant))
        except FlowError as error:
            if self.sequences or self.constant == "mean" or "finite" not in str(error) or "The loss" not in str(error):
                raise
        self.constant = "mean"  # a loss that has no value at 0, such as one of probabilities
        return self._recorded(sample.at_a_constant(self.constant))

    def _recorded(self, sample: Sample) -> list[Stack] | Compared:
        measured = MeasuredModel(self.model, sample.inputs, sample.loss, None)
        try:
            return self._recorded_once(measured, loops=True)
        except NeedsEveryCall:
            return self._recorded_once(measured, loops=False)

    def _recorded_once(self, measured: MeasuredModel, *, loops: bool) -> list[Stack] | Compared:
        with measured.recorded(freeze=True, finite=True, loops=loops) as run:
            known = known_lengths(None, run.runs, run.losses, run.final)
            alive = None
            if known is not None and not run.final:
                steps = torch.arange(len(run.losses), device=run.losses.device).unsqueeze(1)
                alive = (steps < known.to(run.losses.device)).to(run.losses.dtype)
            graph = run.graph(list(run.runs), alive)
            entries = entries_of(graph, head=True) if run.final else None
            if entries is not None and ((reading := reading_of(entries)) != "end" or self.compares):
                if self.spans is None and not self.compares and graph.mixes_sequences():
                    raise FlowError(MIXED_ERRORS)
                if reading != "end":
                    self._note(READS[reading])
                return compared_of(graph, entries, pooled=reading == "many")
            try:
                stacks = stacks_of(graph, final=run.final)
            except FlowError:
                if entries is None or graph.recorder.hooked or graph.mixes_sequences():
                    raise
                if not all(call.own_state for call in graph.recorder.calls if isinstance(call, Call)):
                    raise
                self._note(CHANGED)
                return compared_of(graph, entries, pooled=False)
            for note in run.notes:
                self._note(note)
            scored = run.losses.ne(0).any(1).nonzero().flatten().cpu()
            if self.constant is not None:  # a loss may be 0 at a constant output
                scored = torch.arange(len(run.losses), device="cpu")
        for stack in stacks:
            if not all(bool(torch.isfinite(e).all()) for e in stack.errors):
                raise FlowError("The loss has a gradient that is not finite.")
            if run.final:
                stack.lags = lags_from_end(stack)
            else:
                stack.targets = self._targets(stack, scored)
        return stacks

    def _targets(self, stack: Stack, scored: Tensor) -> Tensor:
        """The steps whose losses are followed: all, or as many as the effort allows, always with the last."""
        seen = torch.stack([e.ne(0).any(-1).any(-1) for e in stack.errors]).any(0).nonzero().flatten().cpu()
        scored = scored[torch.isin(scored, seen)] if len(seen) else scored
        one = sum(run.weights.hh.numel() + run.weights.ih.numel() for run in stack.runs.values())
        long = stack.steps if stack.by_pairs else float(scored.double().mean() + 1)
        steps = long * one * (1 + EXCHANGES)
        most = max(FEWEST_TARGETS, int(self.limits.effort / PLANNED / steps))
        if len(scored) <= most:
            return scored
        self._note(f"the losses of {most} of {len(scored)} steps were followed, chosen at random")
        # The same for all batches that are taken together.
        generator = torch.Generator().manual_seed(self.limits.seed + self.sequences)
        chosen = torch.randperm(len(scored) - 1, generator=generator, device="cpu")[: most - 1]
        return scored[torch.cat([chosen.sort().values, torch.tensor([len(scored) - 1], device="cpu")])]

    def _flush(self, waiting: list[list[Stack]]) -> int:
        """Sweep through the batches that wait; returns how many sequences are too few and left out."""
        if not waiting:
            return 0
        count, stacks = _count(waiting), [_joined(list(same)) for same in zip(*waiting, strict=True)]
        waiting.clear()
        if count < FEWEST:
            return count
        for stack in stacks:
            self._sweep(stack)
        self.sequences += max(t.sequences for t in self.tallies.values()) - self.sequences
        return 0

    def _sweep(self, stack: Stack) -> None:
        labels = stack.asked
        narrow = not stack.by_pairs and all(run.x.dtype == torch.float32 for run in stack.runs.values())
        if narrow and stack.lags is not None:
            narrow = not Sweep(stack.of(slice(0, 4)), labels, torch.float64).is_wide
        sweep = Sweep(stack, labels, torch.float32 if narrow else torch.float64)
        self.varies |= any(bool(e.any()) for e in sweep.errors)
        self.joint.add(sweep)
        for label, run in sweep.runs.items():
            if label not in self.tallies:
                sides = Sides(run, self.generator, None, self.limits.sequences)
                self.tallies[label] = Tally(label, STARTS, sides)
                self.scores[label] = ScoreTest(run, STARTS, self.limits.seed)
        own = {label: self.tallies[label] for label in labels}
        widest = max(run.weights.hh.shape[0] for run in sweep.runs.values())
        rows = next(iter(sweep.runs.values())).steps if sweep.final else 1
        if stack.by_pairs:
            rows = stack.steps * max(1, len(stack.targets) * WIDTH // widest)
        most = max(FEWEST, KEPT // (widest * rows))
        starts = list(range(0, sweep.batch_size - FEWEST + 1, most))
        for start, end in pairwise([*starts, sweep.batch_size]):
            part = sweep.of(slice(start, end))
            add(own, part, EXCHANGES, self.generator)
            if sweep.final and self.weak:
                self._score(part, labels)
            self.effort += part.effort * part.batch_size * (1 + EXCHANGES)
            if self.effort >= self.limits.effort:
                break

    def _score(self, sweep: Sweep, labels: list[str]) -> None:
        """Add a batch to the tests of many lags together."""
        basis = sweep.error_directions(SIZE)
        for label, part in sweep.averaged_parts({label: self.scores[label].sides for label in labels}, basis):
            self.scores[label].add(part)
        for label in labels:
            self.scores[label].end()

    # --- Looks --------------------------------------------------------------------------------------------------------

    def _look(self, *, last: bool) -> NetworkSignal:
        self.looks += 1
        spent = 2 if last else 2 * self.looks * (self.looks + 1)
        correction = spent * len(self.tallies) * 3 / 2  # of three ways to look
        seen = [tally for tally in self.tallies.values() if not tally.is_empty]
        pairs = [tally.judged(self.limits.alpha, correction, []) for tally in seen]
        signals = [signal for signal, _ in pairs]
        self.weak = not any(signal.significant.any() for signal in signals)
        if self.weak:
            signals = [self.scores[signal.layer].joined(signal, 2 * correction) for signal in signals]
        decided = self._is_clear(signals, [deviation for _, deviation in pairs])
        return NetworkSignal(signals, self.sequences, self.looks, decided, self.error_share, not self.varies)

    @staticmethod
    def _is_clear(signals: list[Signal], deviations: list[Array]) -> bool:
        found = [s.consistency[s.significant].max() for s in signals if s.significant.any()]
        if not found:
            return False
        need = max(s.need for s in signals if s.need is not None)
        for signal, deviation in zip(signals, deviations, strict=True):
            most = (signal.statistic + 3 * deviation) / (signal.sequences - 1)
            if (most[(signal.first > need) & ~np.isnan(most)] >= NEGLIGIBLE * max(found)).any():
                return False
        return True

    def _finished(self, found: NetworkSignal) -> NetworkSignal:
        joint = None
        if found.need is None and self.varies:
            joint = self.joint.result(self.limits.alpha, self.generator)
        if not found.decided and self.effort >= self.limits.effort and found.sequences < self.limits.sequences:
            self._note(f"stopped after {found.sequences:,} sequences: more would take too long (effort)")
        of_layers = [f"{signal.layer}: {note}" for signal in found.layers for note in signal.notes]
        return replace(found, joint=joint, notes=[*self.notes, *of_layers])


def _at_least(left: int) -> int:
    return min(left, FEWEST - 1)


def _count(waiting: list[list[Stack]]) -> int:
    return sum(next(iter(stacks[0].runs.values())).batch_size for stacks in waiting)


def _alike(a: Stack, b: Stack) -> bool:
    """Whether two batches can be swept through together."""
    steps = [[(label, run.steps) for label, run in stack.runs.items()] for stack in (a, b)]
    links = [[] if stack.tower is None else [link is None for link in stack.tower.links] for stack in (a, b)]
    pairs = [{} if s.relay is None else {pair: link is None for pair, link in s.relay.links.items()} for s in (a, b)]
    alike = links[0] == links[1] and pairs[0] == pairs[1]
    return steps[0] == steps[1] and alike and torch.equal(a.targets, b.targets)


def _joined(same: list[Stack]) -> Stack:
    """The sequences of several batches together."""
    first, *others = same
    if not others:
        return first
    runs = {label: Trajectory.side_by_side([stack.runs[label] for stack in same]) for label in first.runs}
    errors = [torch.cat(parts, 1) for parts in zip(*(stack.errors for stack in same), strict=True)]
    lags = None
    if first.lags is not None:
        lags = {label: torch.cat([s.lags[label] for s in same if s.lags is not None], 1) for label in first.lags}
    tower = first.tower
    if tower is not None:
        every = [stack.tower.links for stack in same if stack.tower is not None]
        links = [
            None if own[0] is None else torch.cat([link for link in own if link is not None], 1)
            for own in zip(*every, strict=True)
        ]
        tower = Tower(tower.levels, links)
    relay = first.relay
    if relay is not None:
        relay = Relay.side_by_side([stack.relay for stack in same if stack.relay is not None])
    return Stack(runs, errors, first.targets, lags, tower, relay)


def _size(stacks: list[Stack] | Compared) -> float:
    """Root mean square of the errors, centered over the sequences."""
    if isinstance(stacks, Compared):
        return float((stacks.errors - stacks.errors.mean(0)).norm())
    every = [e.double() for stack in stacks for e in stack.errors]
    return float(np.sqrt(sum(float((e - e.mean(1, keepdim=True)).square().sum()) for e in every)))
