"""What to try first with a run that was not learned: a line after training, and after its gradient flow.

Tests: `tests/cli/test_doctor.py`.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import RunError
from ..runs import RunFolder


def advice(run: Path) -> str:
    """The line; empty for a run that is better than simple methods, or of which nothing is known."""
    folder = RunFolder(run)
    if not folder.has("summary.json"):
        return ""
    from ..doctor import saving  # brings torch, which the help does not wait for
    from ..doctor.outcome import was_not_learned

    try:
        why = was_not_learned(folder.summary())
        found = saving.load(folder) if why else None
    except RunError:
        return ""
    if not why:
        return ""
    if found is None:
        return f"Not learned: {why}. retrograde doctor {run} looks for the cause."
    if not found.advice:
        return f"Not learned: {why}. The doctor's verdict: {found.verdict} (retrograde doctor {run})."
    return f"Not learned: {why}. Doctor: {found.advice} (retrograde doctor {run} says why)."
