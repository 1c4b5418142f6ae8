"""The data of the cases: sequences drawn at random, each family with a lag that is known by construction."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SKIPPED = -100  # the class of a step that is not scored


class Batch(NamedTuple):
    """Sequences: inputs `(T, B, I)` or symbols `(T, B)`, targets `(T, B, …)` or `(B, …)`, lengths if they differ."""

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """A family of sequences and what was done to it.

    `scale` and `offset` are of the inputs, `target_scale` and `target_offset` of the targets; `mask` says how the loss
    treats the padding of sequences of several lengths ("right", "counted", "inverted"); of the sequences, a share of
    `nan` has one input that is NaN, and a share of `outliers` has inputs 30 times as large.
    """

    family: str
    steps: int
    lag: int = 0
    symbols: int = 4
    scale: float = 1.0
    offset: float = 0.0
    target_scale: float = 1.0
    target_offset: float = 0.0
    mask: Literal["right", "counted", "inverted"] = "right"
    nan: float = 0.0
    outliers: float = 0.0
    batch_first: bool = False

    @property
    def about(self) -> Family:
        return FAMILIES[self.family]

    @property
    def lengths_differ(self) -> bool:
        return self.family.startswith("padded")

    @property
    def input_size(self) -> int:
        """Channels of the input; 0: symbols, for an embedding."""
        return self.about.inputs(self)

    @property
    def output_size(self) -> int:
        return self.about.outputs(self)

    def draw(self, sequences: int, generator: torch.Generator) -> Batch:
        inputs, targets, lengths = self.about.draw(self, sequences, generator)
        if inputs.is_floating_point():
            inputs = self._spoiled(inputs * self.scale + self.offset, generator)
        if targets.is_floating_point():
            targets = targets * self.target_scale + self.target_offset
        elif lengths is not None:
            padding = torch.arange(self.steps)[:, None] >= lengths
            if self.mask == "counted":
                targets = targets.masked_fill(padding, 0)
            elif self.mask == "inverted":
                targets = torch.where(padding, 0, SKIPPED)
        if self.batch_first:
            inputs, targets = inputs.transpose(0, 1), targets.transpose(0, 1) if self.about.each else targets
        return Batch(inputs.contiguous(), targets.contiguous(), lengths)

    def _spoiled(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        sequences = inputs.shape[1]
        if self.outliers:
            large = torch.rand(sequences, generator=generator) < self.outliers
            inputs = torch.where(large[None, :, None], 30 * inputs, inputs)
        if self.nan:
            step = torch.randint(self.steps, (sequences,), generator=generator)
            bad = torch.rand(sequences, generator=generator) < self.nan
            where = (torch.arange(self.steps)[:, None] == step) & bad
            inputs = inputs.masked_fill(where[..., None], math.nan)
        return inputs

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Losses by step `(T, B)`, 0 where not scored, or one per sequence `(B,)`."""
        if target.is_floating_point():
            losses = (output - target).square().mean(-1)
        else:
            flat = F.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none", ignore_index=SKIPPED)
            losses = flat.view_as(target)
        return losses.transpose(0, 1) if self.batch_first and self.about.each else losses

    def mean_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """What training minimizes: the mean over what is scored."""
        losses = self.loss(output, target)
        scored = losses.numel() if target.is_floating_point() else (target != SKIPPED).sum()
        return losses.sum() / scored

    @property
    def meant(self) -> Task:
        """What the network is to learn: without mistakes of the mask, without NaN."""
        return replace(self, mask="right", nan=0.0)

    @property
    def chance(self) -> float:
        """Loss of the best constant prediction."""
        targets = self.draw(2000, torch.Generator().manual_seed(1)).targets
        if targets.is_floating_point():
            return float(targets.flatten(0, -2).var(0, correction=0).mean())
        counts = torch.bincount(targets[targets != SKIPPED]).double()
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * shares.log()).sum())


Drawn = tuple[Tensor, Tensor, Tensor | None]


class Family(NamedTuple):
    draw: Callable[[Task, int, torch.Generator], Drawn]
    each: bool  # every step has a target
    inputs: Callable[[Task], int]
    outputs: Callable[[Task], int]
    first_order: bool = True  # the targets send a signal that a gradient sees
    lag: Callable[[Task], int | None] = lambda task: task.lag  # longest that matters


def _symbols(task: Task, sequences: int, generator: torch.Generator) -> Tensor:
    return torch.randint(task.symbols, (task.steps, sequences), generator=generator)


def _one_hot(task: Task, symbols: Tensor) -> Tensor:
    return F.one_hot(symbols, task.symbols).float()


def _shifted(values: Tensor, lag: int, fill: float) -> Tensor:
    head = torch.full_like(values[:lag], fill)
    return torch.cat([head, values[: len(values) - lag]])


def echo(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Symbols; the target is the symbol `lag` steps ago."""
    x = _symbols(task, sequences, generator)
    return _one_hot(task, x), _shifted(x, task.lag, SKIPPED), None


def early_echo(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Symbols; the target is the symbol `lag` steps later."""
    x = _symbols(task, sequences, generator)
    return _one_hot(task, x), torch.cat([x[task.lag :], torch.full_like(x[: task.lag], SKIPPED)]), None


def early_copy(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Vectors of three values; the target is the vector `lag` steps later."""
    x = torch.randn(task.steps + task.lag, sequences, 3, generator=generator)
    return x[: task.steps], x[task.lag :], None


def forecast(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """An oscillation with noise, x_t = 1.6 x_{t-1} - 0.9 x_{t-2} + noise, scaled; the target is the next value."""
    noise, x = torch.randn(task.steps + 101, sequences, 1, generator=generator), [torch.zeros(sequences, 1)] * 2
    for e in noise:
        x.append(1.6 * x[-1] - 0.9 * x[-2] + e)
    series = torch.stack(x[-task.steps - 1 :]) / 4.25
    return series[:-1], series[1:].clone(), None


def padded_echo(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """The same in sequences of several lengths, padded with zeros."""
    x = _symbols(task, sequences, generator)
    lengths = torch.randint(task.lag + 2, task.steps // 2 + 1, (sequences,), generator=generator)
    lengths[0] = task.steps
    padding = torch.arange(task.steps)[:, None] >= lengths
    inputs = _one_hot(task, x) * ~padding[..., None]
    return inputs, _shifted(x, task.lag, SKIPPED).masked_fill(padding, SKIPPED), lengths


def padded_last(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Sequences of several lengths, padded with zeros; the class is the symbol `lag` steps before the end."""
    x = _symbols(task, sequences, generator)
    lengths = torch.randint(task.lag + 1, task.steps + 1, (sequences,), generator=generator)
    lengths[0] = task.steps
    padding = torch.arange(task.steps)[:, None] >= lengths
    return _one_hot(task, x) * ~padding[..., None], x[lengths - 1 - task.lag, torch.arange(sequences)], lengths


def padded_first(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Sequences of T/2 to T steps, padded with zeros; the class is the first symbol."""
    x = _symbols(task, sequences, generator)
    lengths = torch.randint(task.steps // 2, task.steps + 1, (sequences,), generator=generator)
    lengths[0] = task.steps
    padding = torch.arange(task.steps)[:, None] >= lengths
    return _one_hot(task, x) * ~padding[..., None], x[0].clone(), lengths


def first_symbol(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Symbols; the class is the first one."""
    x = _symbols(task, sequences, generator)
    return _one_hot(task, x), x[0].clone(), None


def early_sum(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Values; the target is the sum of steps 1 to 3."""
    x = torch.randn(task.steps, sequences, 1, generator=generator)
    return x, x[1:4].sum(0) / math.sqrt(3), None


def late_sum(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Values; the target is the sum of the last `lag` + 1 steps."""
    x = torch.randn(task.steps, sequences, 1, generator=generator)
    return x, x[-task.lag - 1 :].sum(0) / math.sqrt(task.lag + 1), None


def adding(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Values and marks; the target is the sum of the two marked values, one in each half."""
    x = torch.rand(task.steps, sequences, generator=generator)
    half, column = task.steps // 2, torch.arange(sequences)
    first = torch.randint(half, (sequences,), generator=generator)
    second = torch.randint(half, task.steps, (sequences,), generator=generator)
    marks = torch.zeros_like(x)
    marks[first, column] = marks[second, column] = 1.0
    return torch.stack([x, marks], -1), (x[first, column] + x[second, column] - 1)[:, None], None


def delayed_copy(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Vectors of three values; the target is the vector `lag` steps ago (zeros before)."""
    x = torch.randn(task.steps, sequences, 3, generator=generator)
    return x, _shifted(x, task.lag, 0.0), None


def moving_average(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Values; the target at every step is the scaled sum of the last `lag` + 1."""
    x = torch.randn(task.steps + task.lag, sequences, 1, generator=generator)
    sums = x.unfold(0, task.lag + 1, 1).sum(-1) / math.sqrt(task.lag + 1)
    sums[: task.lag] = 0.0
    return x[task.lag :], sums, None


def lorenz(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Pieces of trajectories of the Lorenz system; the target is the change of all three values, scaled by 8."""
    known = _lorenz_series()
    start = torch.randint(len(known) - task.steps - 1, (sequences,), generator=generator)
    which = torch.randint(known.shape[1], (sequences,), generator=generator)
    pieces = known[start + torch.arange(task.steps + 1)[:, None], which]
    return pieces[:-1], 8 * (pieces[1:] - pieces[:-1]), None


@cache
def _lorenz_series() -> Tensor:
    """64 trajectories `(2000, 64, 3)`: σ 10, ρ 28, β 8/3, midpoint steps of 0.02, standardized."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(3, 64, generator=generator).double() * 5 + torch.tensor([[0.0], [0.0], [25.0]])

    def slope(s: Tensor) -> Tensor:
        x, y, z = s
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    states = []
    for _ in range(2200):
        state = state + 0.02 * slope(state + 0.01 * slope(state))
        states.append(state)
    series = torch.stack(states[200:]).transpose(1, 2).float()
    return (series - torch.tensor([0.0, 0.0, 23.5])) / torch.tensor([7.9, 9.0, 8.6])


def order(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Temporal order: two marked symbols (X or Y) among others, one near each end; four classes."""
    x = torch.randint(2, 2 + task.symbols - 2, (task.steps, sequences), generator=generator)
    tenth, column = max(task.steps // 10, 1), torch.arange(sequences)
    kinds = torch.randint(2, (2, sequences), generator=generator)
    first = torch.randint(tenth, 2 * tenth, (sequences,), generator=generator)
    second = torch.randint(5 * tenth, 6 * tenth, (sequences,), generator=generator)
    x[first, column], x[second, column] = kinds[0], kinds[1]
    return _one_hot(task, x), 2 * kinds[0] + kinds[1], None


def noise(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Symbols, and targets that have nothing to do with them."""
    return _one_hot(task, _symbols(task, sequences, generator)), _symbols(task, sequences, generator), None


def noise_values(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Values, and a target per sequence that has nothing to do with them."""
    x = torch.randn(task.steps, sequences, 2, generator=generator)
    return x, torch.randn(sequences, 1, generator=generator), None


def parity(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Bits (±1); the class is the parity of all of them."""
    bits = torch.randint(2, (task.steps, sequences), generator=generator)
    return 2.0 * bits[..., None] - 1, bits.sum(0) % 2, None


def running_parity(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Bits (±1); the class at every step is the parity so far."""
    bits = torch.randint(2, (task.steps, sequences), generator=generator)
    return 2.0 * bits[..., None] - 1, bits.cumsum(0) % 2, None


def text(task: Task, sequences: int, generator: torch.Generator) -> Drawn:
    """Characters of Python's own help texts; the target is the next one."""
    known = _help_texts()
    start = torch.randint(len(known) - task.steps - 1, (sequences,), generator=generator)
    rows = known[start[None] + torch.arange(task.steps + 1)[:, None]]
    return rows[:-1], rows[1:].clone(), None


CHARACTERS = 40


@cache
def _help_texts() -> Tensor:
    from pydoc_data.topics import topics

    whole = " ".join(topics[name] for name in sorted(topics)).lower()
    places = {c: i for i, (c, _) in enumerate(Counter(whole).most_common(CHARACTERS - 1), 1)}  # 0: any other
    return torch.tensor([places.get(c, 0) for c in whole])


def _n(task: Task) -> int:
    return task.symbols


def _size(n: int) -> Callable[[Task], int]:
    return lambda task: n


def _all(task: Task) -> int:
    return task.steps - 1


FAMILIES = {
    "echo": Family(echo, True, _n, _n),
    "early echo": Family(early_echo, True, _n, _n, False, lag=lambda task: None),
    "early copy": Family(early_copy, True, _size(3), _size(3), False, lag=lambda task: None),
    "forecast": Family(forecast, True, _size(1), _size(1), lag=lambda task: None),
    "padded echo": Family(padded_echo, True, _n, _n),
    "padded last": Family(padded_last, False, _n, _n),
    "padded first": Family(padded_first, False, _n, _n, lag=_all),
    "first symbol": Family(first_symbol, False, _n, _n, lag=_all),
    "early sum": Family(early_sum, False, _size(1), _size(1), lag=lambda task: task.steps - 2),
    "late sum": Family(late_sum, False, _size(1), _size(1)),
    "adding": Family(adding, False, _size(2), _size(1), lag=_all),
    "delayed copy": Family(delayed_copy, True, _size(3), _size(3)),
    "moving average": Family(moving_average, True, _size(1), _size(1)),
    "lorenz": Family(lorenz, True, _size(3), _size(3), lag=lambda task: None),
    "order": Family(order, False, _n, _size(4), lag=lambda task: task.steps - 1 - max(task.steps // 10, 1)),
    "noise": Family(noise, True, _n, _n, False, lag=lambda task: None),
    "noise values": Family(noise_values, False, _size(2), _size(1), False, lag=lambda task: None),
    "parity": Family(parity, False, _size(1), _size(2), False, lag=lambda task: None),
    "running parity": Family(running_parity, True, _size(1), _size(2), False, lag=lambda task: None),
    "text": Family(text, True, _size(0), _size(CHARACTERS), lag=lambda task: None),
}
