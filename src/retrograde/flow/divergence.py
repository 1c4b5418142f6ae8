"""How fast the trajectories in the data move apart: their largest Lyapunov exponent, without any network.

The method of Rosenstein, Collins and De Luca (Physica D 1993): each of many points is followed together with its
nearest neighbor in another sequence, and the mean logarithm of their distance grows by λ per step until it is as large
as that of any two points. Noise has no such growth: neighbors are far apart one step later. That of random walks slows
down, √k, so a growth counts as exponential only if it is as steep in its second half.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Divergence", "divergence_of"]

NUMBERS = 4  # of a point at least: of data with fewer at a step, some steps together are one
REFERENCES, POINTS = 800, 20_000  # points that are followed; points among which neighbors are looked for
SETTLED = 3.0  # ratio of the variances at the end and at the start, beyond which sequences spread like random walks
VARIED = 0.1  # of the values that must differ: symbols and counts have no distance that grows
LONGEST = 200  # steps that they are followed
RANGE = math.log(5)  # growth that must be seen
SHORTEST = 6  # steps over which it is fitted
STEADY = 0.55  # slope of the second half over that of the first; 0.51 of the growth of a random walk


class Divergence(NamedTuple):
    """The largest Lyapunov exponent of a set of trajectories, per step."""

    exponent: float
    error: float  # standard error
    steps: int  # over which it was fitted


def divergence_of(trajectories: Tensor) -> Divergence | None:
    """The exponent of trajectories `(T, B, D)`; None where they do not move apart exponentially."""
    x = trajectories.detach().double().cpu()
    x = (x - x.mean((0, 1))) / x.std((0, 1)).clamp(min=1e-12)
    early, late = (float(part.var(1).mean()) for part in (x[: len(x) // 4 + 1], x[-(len(x) // 4 + 1) :]))
    if x.shape[1] < 3 or not 1 / SETTLED < late / max(early, 1e-12) < SETTLED:
        return None
    size = -(-NUMBERS // x.shape[2])
    points = torch.cat([x[i : len(x) - size + 1 + i] for i in range(size)], -1)  # (T', B, D·size)
    steps, batch = points.shape[:2]
    follow = min(LONGEST, steps // 2)
    if batch < 3 or follow < 4:
        return None
    generator = torch.Generator().manual_seed(0)
    starts = steps - follow
    rows = torch.randperm(starts * batch, generator=generator, device="cpu")
    pool, chosen = rows[:POINTS], rows[:REFERENCES]
    flat = points[:starts].flatten(0, 1)
    if any(len(column.unique()) < VARIED * len(column) for column in flat.T):
        return None
    distance = torch.cdist(flat[chosen], flat[pool])
    typical = float(distance.median().log())
    # Windows of one long trajectory may overlap: a sequence with the same point is the same trajectory.
    own = pool % batch == (chosen % batch).unsqueeze(1)
    for one in range(batch):
        its = pool % batch == one
        if bool(its.any()):
            own[:, its] |= (distance[:, its] < 1e-9).any(1, keepdim=True)
    distance[own] = math.inf
    nearest = pool[distance.argmin(1)]
    known = distance.isfinite().any(1)
    if int(known.sum()) < 30:
        return None
    at = [(index[known] // batch, index[known] % batch) for index in (chosen, nearest)]
    (t, b), (s, c) = at
    logs = torch.stack(
        [(points[t + k, b] - points[s + k, c]).norm(dim=-1).clamp(min=1e-12).log() for k in range(follow)]
    )
    return _fitted(logs, typical)


def _fitted(logs: Tensor, typical: float) -> Divergence | None:
    """The slope of the mean logarithm `(steps, points)` until half of the way to that of any two points."""
    mean = logs.mean(1)
    far = (mean > (mean[1] + typical) / 2).nonzero().flatten()
    far = far[far > 1]
    if not len(far) or int(far[0]) < SHORTEST or typical - float(mean[1]) < 2 * RANGE:
        return None
    end = int(far[0])
    start = 1 + end // 4  # neighbors turn into the direction that grows
    middle = (start + end) // 2
    first, second = (mean[middle] - mean[start]) / (middle - start), (mean[end] - mean[middle]) / (end - middle)
    if not float(second) >= STEADY * float(first) > 0:
        return None
    slopes = (logs[end] - logs[1]) / (end - 1)
    return Divergence(float(slopes.mean()), float(slopes.std() / math.sqrt(len(slopes))), end)
