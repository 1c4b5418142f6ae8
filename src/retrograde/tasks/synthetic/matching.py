"""Delayed match to sample: was the second stimulus the first?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .base import Criterion, Level, SyntheticBatch, SyntheticTask


@dataclass(frozen=True)
class DelayedMatchToSample(SyntheticTask):
    """A sample is shown, a delay passes, a test is shown: was it the same? Miller, Erickson, Desimone (1996).

    One trial is ``fixation`` steps, the sample for ``presentation`` steps, ``length`` steps of delay, the test for
    ``presentation`` steps, then ``decision`` steps, the only ones scored. Channel 0 is 1 until the decision (keep
    fixating), the others stand for one stimulus each. The defaults are the usual timing in steps of 100 ms.

    Parameters
    ----------
    length
        Steps of delay between sample and test.
    stimuli
        Number of different stimuli. Half of the trials match; the others differ at random.
    fixation, presentation, decision
        Steps of those periods.
    noise
        Variance of Gaussian noise on the lines of the stimuli, at every step.
    """

    length: int = 10
    stimuli: int = 2
    fixation: int = 3
    presentation: int = 5
    decision: int = 9
    noise: float = 0.0

    many_to_one: ClassVar[bool] = False
    shortest: ClassVar[int] = 0
    least: ClassVar[Mapping[str, int]] = {"stimuli": 2, "fixation": 0, "presentation": 1, "decision": 1}
    variances: ClassVar[tuple[str, ...]] = ("noise",)

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return self.fixation + 2 * self.presentation + self.length + self.decision

    @property
    def input_size(self) -> int:
        """The fixation signal and one channel a stimulus."""
        return 1 + self.stimuli

    @property
    def lags(self) -> tuple[int, int]:
        """From the sample's last step to the first of the decision; from its first step to the last."""
        shortest = self.length + self.presentation + 1
        return shortest, shortest + self.presentation - 1 + self.decision - 1

    @property
    def optimum(self) -> Level:
        """0 without noise; with noise, the level of the ideal observer of both stimuli."""
        return _ideal_match(self.stimuli, self.presentation, self.noise) if self.noise else super().optimum

    @property
    def criterion(self) -> Criterion:
        """Animals are trained to a share of right trials, not to perfection; ours is 99 % of what is possible."""
        right = self.optimum.accuracy or 0.0
        wrong = math.ceil(1000 * (1 - 0.99 * right)) - 1
        return Criterion(1000, wrong, f"at most {wrong} of 1000 new trials with a wrong answer")

    def batch(self, batch_size: int, generator: torch.Generator | None = None) -> SyntheticBatch:
        """Draw trials."""
        generator = self._generator(generator)
        sample = torch.randint(self.stimuli, (batch_size,), generator=generator)
        match = torch.randint(2, (batch_size,), generator=generator)
        other = (sample + torch.randint(1, self.stimuli, (batch_size,), generator=generator)) % self.stimuli
        test = torch.where(match == 1, sample, other)
        inputs = torch.zeros(self.steps, batch_size, self.input_size)
        inputs[: -self.decision, :, 0] = 1.0
        second = self.fixation + self.presentation + self.length
        for start, stimulus in ((self.fixation, sample), (second, test)):
            inputs[start : start + self.presentation, torch.arange(batch_size), 1 + stimulus] = 1.0
        if self.noise:
            inputs[..., 1:] += torch.randn(inputs[..., 1:].shape, generator=generator) * math.sqrt(self.noise)
        mask = torch.zeros(self.steps, batch_size, dtype=torch.bool)
        mask[-self.decision :] = True
        targets = match.expand(self.steps, batch_size) * mask
        return SyntheticBatch(inputs, targets, mask, torch.full((batch_size,), self.steps))

    def correct(self, outputs: Tensor, batch: SyntheticBatch) -> Tensor:
        """Whether the answer, the mean of the logits over the decision, is right."""
        answer = self._scored(outputs, batch)[-self.decision :].mean(0).argmax(-1)
        return answer == batch.targets[-1]


@cache
def _ideal_match(stimuli: int, presentation: int, noise: float) -> Level:
    """Level of the ideal observer of two noisy stimuli, from 200,000 draws (to about 0.002)."""
    random, draws = np.random.default_rng(0), 200_000
    match = random.integers(2, size=draws)
    sample = random.integers(stimuli, size=draws)
    test = np.where(match == 1, sample, (sample + random.integers(1, stimuli, size=draws)) % stimuli)
    seen = []
    for shown in (sample, test):
        # The mean over the presentation is all there is to know of a stimulus; its likelihood, up to a factor:
        means = np.eye(stimuli)[shown] + random.normal(size=(draws, stimuli)) * math.sqrt(noise / presentation)
        odds = means * presentation / noise
        seen.append(np.exp(odds - odds.max(1, keepdims=True)))
    same = (seen[0] * seen[1]).sum(1)
    other = (seen[0].sum(1) * seen[1].sum(1) - same) / (stimuli - 1)
    right = np.where(match == 1, same, other) / (same + other)
    return Level(float(-np.log(np.maximum(right, 1e-300)).mean()), float((right > 0.5).mean()))
