"""Did a run learn anything? By its summary, compared with the simple methods there.

Tests: `tests/doctor/test_doctor_runs.py`.
"""

from __future__ import annotations

from ..runs import Summary
from ..runs.scores import CONSTANT_ANSWERS, RIDGE
from .thresholds import THRESHOLDS


def _baseline(summary: Summary) -> tuple[str, float] | None:
    """The best of the simple methods that a run was compared with, and its loss."""
    found = {
        name: values["loss"]
        for name, values in (summary.baselines or {}).items()
        if name != "optimum" and values.get("loss") is not None
    }
    if not found:
        return None
    best = min(found, key=lambda name: found[name] or 0.0)
    return best, float(found[best] or 0.0)


def _loss(summary: Summary) -> float | None:
    """The loss of a run as it predicts, after `Task.settle`."""
    as_it_predicts = (summary.results or {}).get("validation", {})
    return as_it_predicts.get("loss", summary.best.get("loss"))


def was_not_learned(summary: Summary | None) -> str:
    """Why a run counts as not learned, in words: it diverged, or is no better than a simple method; else empty."""
    if summary is None or (summary.goal is not None and summary.goal.solved):
        return ""
    if summary.status == "diverged":
        return "it diverged"
    loss, baseline = _loss(summary), _baseline(summary)
    if loss is None or baseline is None:
        return ""
    name, level = baseline
    margin = THRESHOLDS.no_better.value
    # What a network as good as ridge regression knows, it has learned or predicts with; and what is solved is learned.
    mean = (summary.baselines or {}).get("mean", {}).get("loss") or 0.0
    solved = name == RIDGE and loss <= THRESHOLDS.solved_share.value * mean
    learned = solved or loss < (1 + margin if name == RIDGE else 1 - margin) * level
    return "" if learned else f"its loss of {loss:.4g} is no better than {name} ({level:.4g})"


def method_beaten(summary: Summary | None) -> str:
    """The best simple method, if it is more than a constant answer and the run ended better; else empty."""
    loss, baseline = (None, None) if summary is None else (_loss(summary), _baseline(summary))
    if loss is None or baseline is None or was_not_learned(summary):
        return ""
    name, level = baseline
    return name if name not in CONSTANT_ANSWERS and loss < (1 - THRESHOLDS.no_better.value) * level else ""
