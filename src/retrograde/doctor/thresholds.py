"""Every threshold of the rules, with its reason: the only place where one is written."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["THRESHOLDS", "Threshold"]


@dataclass(frozen=True)
class Threshold:
    """A number that decides, and where it is from."""

    value: float
    meaning: str
    source: str


class THRESHOLDS:
    """The table. Rules read ``THRESHOLDS.reach_fraction.value``."""

    reach_fraction = Threshold(0.01, "share of the gradient at lag 0 at which its reach ends", "docs/flow.md: horizon")
    alpha = Threshold(0.01, "family-wise error rate of a signal", "Holm 1979; one healthy run in a hundred")
    solved_share = Threshold(
        0.05, "share of the loss at chance below which a task counts as solved", "benchmarks/doctor"
    )


def table() -> list[tuple[str, Threshold]]:
    """All thresholds by name."""
    return [(name, value) for name, value in vars(THRESHOLDS).items() if isinstance(value, Threshold)]
