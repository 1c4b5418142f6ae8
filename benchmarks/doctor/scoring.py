"""Scores of the doctor and its peers: precision and recall by finding, false alarms, AUC of the prognosis, need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from retrograde.doctor.findings import FINDINGS, Kind

NEED_FACTOR = 1.5


@dataclass(frozen=True)
class Count:
    """Of one finding: where it was right, wrong, and missed."""

    right: int = 0
    wrong: int = 0
    missed: int = 0

    @property
    def precision(self) -> float | None:
        """None where it was never found."""
        total = self.right + self.wrong
        return self.right / total if total else None

    @property
    def recall(self) -> float | None:
        """None where it is never true."""
        total = self.right + self.missed
        return self.right / total if total else None

    def __add__(self, other: Count) -> Count:
        return Count(self.right + other.right, self.wrong + other.wrong, self.missed + other.missed)


def counts(runs: Iterable[tuple[set[str], set[str], set[str]]]) -> dict[Kind, Count]:
    """Counts by finding, of runs given as (found, true, true or not decided)."""
    total = {kind: Count() for kind in Kind}
    for found, true, also in runs:
        for kind in Kind:
            here, there = kind.value in found, kind.value in true
            total[kind] += Count(here and there, here and not there and kind.value not in also, there and not here)
    return total


def is_alarm(found: Iterable[str]) -> bool:
    """Whether one of the findings says that a training is sick; what is no finding of the doctor's does so too."""
    known = {kind.value for kind in Kind}
    return any(name not in known or FINDINGS[Kind(name)].severity == "sick" for name in found)


def auc(risks: Sequence[float], fails: Sequence[bool]) -> float | None:
    """The chance that a training which fails has the higher risk (ties count half); None without both kinds."""
    bad = [risk for risk, fail in zip(risks, fails, strict=True) if fail]
    good = [risk for risk, fail in zip(risks, fails, strict=True) if not fail]
    if not bad or not good:
        return None
    above = sum((b > g) + 0.5 * (b == g) for b in bad for g in good)
    return above / (len(bad) * len(good))


def need_is_right(need: float | None, lag: int | None) -> bool:
    """Whether the measured need is within the factor of the true lag; a lag of 0 or 1 allows one step."""
    if need is None or lag is None:
        return False
    return lag / NEED_FACTOR <= need <= lag * NEED_FACTOR or abs(need - lag) <= 1
