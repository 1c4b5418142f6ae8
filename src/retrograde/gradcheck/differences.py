"""Comparison with finite differences: gradients of the float64 twin against differences of its forward.

Differences are central, with steps of 1e-4 for values up to 1 and in proportion for larger ones. Where they disagree
with the gradient, the step is refined until they agree or settle on another value. At a kink (of a ReLU, say) there is
no derivative: one-sided differences stay apart as the step shrinks. Such a probe is counted and not judged.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .result import DIFFERENCES, GradientError
from .subject import Leaf, Measured, Subject, disturbed_runs
from .wording import largest, place

_TOLERANCE = 1e-6  # of central differences in float64, relative to the largest entry of the gradient
_STEPS = tuple(10.0**-n for n in range(4, 12))  # in the order in which they are tried
_DIRECTIONS = 3  # random directions through each tensor, in addition to the entries probed one by one


class _Probe(NamedTuple):
    """One directional derivative: from autograd, from differences, and the verdict on them."""

    found: float
    expected: float
    verdict: Literal["right", "wrong", "kink", "unsettled"]

    @property
    def error(self) -> float:
        difference = abs(self.found - self.expected)
        return math.inf if math.isnan(difference) else difference


class _Differences:
    """Directional derivatives of the twin's loss with respect to one leaf, by central differences."""

    def __init__(
        self, twin: Subject, leaf: Leaf, measured: Measured, scale: float, noise: float, with_graph: bool
    ) -> None:
        self.twin, self.tensor, self.scale = twin, twin.leaves[leaf], scale
        self.base, self.gradient = self.tensor.detach().clone(), measured.gradients[leaf]
        self.at_base = float(measured.run.loss.detach())
        self.noise, self.with_graph = noise, with_graph

    def _loss(self, direction: Tensor, step: float) -> float:
        with torch.no_grad():
            self.tensor.copy_(self.base + step * direction)
        try:
            with torch.set_grad_enabled(self.with_graph):
                return float(self.twin.run().loss.detach())
        finally:
            with torch.no_grad():
                self.tensor.copy_(self.base)

    def along(self, direction: Tensor) -> _Probe:
        """The derivative along a unit vector; smaller steps follow while the differences disagree with autograd."""
        found = float((self.gradient * direction).sum())
        size = max(1.0, float((self.base * direction).norm()))
        slopes: list[float] = []
        gaps: list[float] = []  # between the two one-sided slopes
        for h in (step * size for step in _STEPS):
            if self.noise / h > 0.01 * max([self.scale, *map(abs, slopes[-1:])]) and (slopes or self.noise == math.inf):
                break  # from here on, differences of the loss are mostly rounding
            ahead, behind = self._loss(direction, h), self._loss(direction, -h)
            slopes.append((ahead - behind) / (2 * h))
            gaps.append(abs((ahead - self.at_base) / h - (self.at_base - behind) / h))
            error = abs(slopes[-1] - found)
            allowed = _TOLERANCE * self.scale + self.noise / h
            if error <= allowed:
                return _Probe(found, slopes[-1], "right")
            # Three slopes that are closer to each other than to the gradient: they settle on another value.
            moves = [abs(a - b) for a, b in itertools.pairwise(slopes[-3:])]
            if len(moves) == 2 and max(moves) <= min(0.01 * abs(slopes[-1]) + self.noise / h, 0.5 * error):
                # With curvature, the gap of the one-sided slopes shrinks tenfold with each step; at a kink it stays.
                kink = gaps[-1] > 0.5 * gaps[-2] and gaps[-1] > 4 * allowed
                return _Probe(found, slopes[-1], "kink" if kink else "wrong")
        return _Probe(found, slopes[-1] if slopes else math.nan, "unsettled")

    def entry(self, index: int) -> _Probe:
        """The derivative by one entry of the tensor."""
        direction = torch.zeros_like(self.base)
        direction.view(-1)[index] = 1.0
        return self.along(direction)

    def trace(self, direction: Tensor) -> int:
        """The entry that causes a wrong derivative along ``direction``: split in halves, keep the worse one."""
        candidates = direction.flatten().nonzero().flatten()
        while len(candidates) > 1:
            halves = []
            for half in candidates.tensor_split(2):
                part = torch.zeros_like(direction)
                part.view(-1)[half] = direction.flatten()[half]
                probe = self.along(part / part.norm())
                halves.append((probe.error * float(part.norm()) if probe.verdict == "wrong" else 0.0, half))
            candidates = max(halves, key=lambda half: half[0])[1]
        return int(candidates[0])


def compare_with_differences(twin: Subject, measured: Measured, entries: int) -> list[GradientError]:
    """One `GradientError` for each gradient of the twin.

    twin, measured: the module in float64 on the CPU, and its measurement.
    entries: number of entries of each tensor that are probed one by one.
    """
    generator = torch.Generator().manual_seed(twin.seed)
    largest_gradient = max(map(largest, measured.gradients.values()))
    noise = _noise(twin, measured)
    # Without a graph the runs are faster, if the module then still computes exactly the same.
    with torch.no_grad():
        with_graph = not torch.equal(twin.run().loss, measured.run.loss.detach())
    errors = []
    for leaf, gradient in measured.gradients.items():
        if not gradient.numel():
            continue
        scale = max(largest(gradient), 1e-4 * largest_gradient)
        differences = _Differences(twin, leaf, measured, scale, noise, with_graph)
        probes, verdicts = _probes(differences, gradient, entries, generator)
        errors.append(_error(leaf, gradient, probes, verdicts, scale, leaf in measured.missing))
    return errors


def _noise(twin: Subject, measured: Measured) -> float:
    """How much rounding changes the loss: this limits how small a difference can be measured.

    It is infinite if the loss is chaotic: then rounding alone decides it, and no difference means anything.
    """
    epsilon = torch.finfo(torch.float64).eps
    at_base, magnitude = float(measured.run.loss.detach()), measured.run.magnitude
    changes = [abs(float(run.loss.detach()) - at_base) for run in disturbed_runs(twin, 2 * epsilon)]
    noise = 8 * epsilon * magnitude + 4 * max(changes)
    return noise if noise <= 1e-6 * magnitude else math.inf


def _probes(
    differences: _Differences, gradient: Tensor, entries: int, generator: torch.Generator
) -> tuple[dict[int, _Probe], list[str]]:
    """Probe entries one by one, and a large tensor also in random directions through all its entries.

    Returns the probes by entry, and all verdicts.
    """
    n = gradient.numel()
    if n <= entries:
        chosen = list(range(n))
    else:  # the largest gradient is always in the sample
        chosen = [
            int(gradient.abs().argmax()),
            *torch.randperm(n, generator=generator, device="cpu")[: entries - 1].tolist(),
        ]
    probes = {index: differences.entry(index) for index in chosen}
    verdicts: list[str] = [probe.verdict for probe in probes.values()]
    for _ in range(_DIRECTIONS if n > entries else 0):
        signs = torch.randint(0, 2, gradient.shape, generator=generator, device="cpu") * 2.0 - 1.0
        direction = signs / signs.norm()
        verdict = differences.along(direction).verdict
        if verdict == "wrong" and "wrong" not in verdicts:
            culprit = differences.trace(direction)
            probes[culprit] = differences.entry(culprit)
        verdicts.append(verdict)
    return probes, verdicts


def _error(
    leaf: Leaf, gradient: Tensor, probes: dict[int, _Probe], verdicts: list[str], scale: float, unreached: bool
) -> GradientError:
    """The worst probe of one gradient."""
    agree = "wrong" not in verdicts
    judged = {index: probe for index, probe in probes.items() if probe.verdict in ("right", "wrong")}
    at = max(judged, key=lambda index: (judged[index].verdict == "wrong", judged[index].error), default=None)
    worst = _Probe(math.nan, math.nan, "unsettled") if at is None else judged[at]
    error = 0.0 if at is None else worst.error
    return GradientError(
        leaf.name,
        leaf.kind,
        DIFFERENCES,
        tuple(gradient.shape),
        max_abs_error=error,
        relative_error=error / scale if scale else math.inf if error else 0.0,
        where=None if at is None else place(at, gradient),
        found=worst.found,
        expected=worst.expected,
        tolerance=_TOLERANCE,
        ok=agree,
        probes=len(verdicts),
        kinks=verdicts.count("kink"),
        unsettled=verdicts.count("unsettled"),
        remark="" if not unreached else "unused" if agree else "autograd does not reach it at all",
    )
