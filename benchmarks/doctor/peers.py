"""The published rules of four tools, applied to what was recorded of the same training.

Thresholds are those of the papers and of the tool's documentation. A tool raises an alarm where its rule holds at more
than half of the recorded updates (one is enough for NaN), which favors it: the tools themselves report any.

AutoTrainer: Zhang et al., ICSE 2021. SageMaker Debugger: its built-in rules (VanishingGradient, ExplodingTensor,
DeadRelu, TanhSaturation). DeepDiagnosis: Wardat et al., ICSE 2022. DLCheck: as quoted in issue 15.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from retrograde.doctor import Kind

from .training import Snapshot

Alarm = str | Kind  # a Kind where a finding of the doctor says the same

TINY = 1e-7  # mean |g|: SageMaker Debugger, DeepDiagnosis, DLCheck


def _weights(snapshot: Snapshot) -> list[int]:
    """Places of the weight matrices: the tools leave biases out."""
    return [i for i, name in enumerate(snapshot.names) if "weight" in name]


def _not_finite(snapshot: Snapshot) -> bool:
    return not all(map(math.isfinite, [snapshot.loss, *snapshot.norm]))


def _vanishing(snapshot: Snapshot) -> bool:
    """Mean |g| of a weight matrix below 1e-7."""
    return any(snapshot.mean[i] < TINY for i in _weights(snapshot))


def _ends(snapshot: Snapshot) -> tuple[float, float]:
    """Gradient norms of the first and of the last weight matrix."""
    places = _weights(snapshot)
    return snapshot.norm[places[0]], snapshot.norm[places[-1]]


def _auto_vanishing(snapshot: Snapshot) -> bool:
    first, last = _ends(snapshot)
    return first < 1e-4 and first < 1e-3 * last


def _auto_exploding(snapshot: Snapshot) -> bool:
    first, last = _ends(snapshot)
    return first > 70 * last


def _auto_dead(snapshot: Snapshot) -> bool:
    return any(snapshot.zeros[i] >= 0.7 for i in _weights(snapshot))


RULES: dict[str, list[tuple[Alarm, Callable[[Snapshot], bool]]]] = {
    "AutoTrainer": [
        (Kind.VANISHING_HURTS, _auto_vanishing),
        (Kind.EXPLODING, _auto_exploding),
        (Kind.DEAD_RELU, _auto_dead),
    ],
    "SageMaker Debugger": [
        (Kind.VANISHING_HURTS, _vanishing),
        (Kind.NOT_FINITE, _not_finite),
        (Kind.DEAD_RELU, lambda p: any(layer.inactive > 0.5 for layer in p.layers)),
        (Kind.SATURATION, lambda p: any(layer.beyond_9 > 0.5 for layer in p.layers)),
    ],
    "DeepDiagnosis": [
        (Kind.VANISHING_HURTS, _vanishing),
        (Kind.NOT_FINITE, _not_finite),
        (Kind.SATURATION, lambda p: any(layer.beyond_5 > 0.5 for layer in p.layers)),
        (Kind.LEARNING_RATE_TOO_HIGH, lambda p: any(p.ratio[i] > 1e-1 for i in _weights(p) if p.ratio)),
        ("updates too small", lambda p: any(p.ratio[i] < 1e-5 for i in _weights(p) if p.ratio)),
    ],
    "DLCheck": [
        (Kind.VANISHING_HURTS, _vanishing),
        (Kind.EXPLODING, lambda p: any(p.mean[i] > 1e6 for i in _weights(p))),
        (Kind.NOT_FINITE, _not_finite),
        (Kind.DEAD_RELU, lambda p: any(layer.zeros > 0.95 for layer in p.layers)),
    ],
}
ONCE = {_not_finite}


def alarms(tool: str, snapshots: Sequence[Snapshot]) -> set[Alarm]:
    """What a tool finds in a training, or, from its first snapshot alone, before it."""
    found: set[Alarm] = set()
    for alarm, rule in RULES[tool]:
        times = sum(rule(snapshot) for snapshot in snapshots)
        if times and (rule in ONCE or times > len(snapshots) / 2):
            found.add(alarm)
    return found
