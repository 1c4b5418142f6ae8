"""The threshold for clipping that recorded gradient norms call for: all of them replayed under every threshold.

Tests: `tests/doctor/test_prescriptions.py`, `tests/flow/test_recorder.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError


class Replay(NamedTuple):
    """What clipping to the best threshold would have done to the gradient norms of a training.

    Attributes
    ----------
    threshold : float
    clipped : float
        Share of the updates that it scales down.
    before, after : float
        Share of the summed norms that those updates have, before and after clipping.
    """

    threshold: float
    clipped: float
    before: float
    after: float

    def arithmetic(self, what: str, median: float, largest: float) -> str:
        """How the threshold follows from the norms of ``what``, in words."""
        value = f"{self.threshold:.3g}"
        text = (
            f"replayed the gradient norms of {what} (median {median:.3g}, largest {largest:.3g}) under every "
            f"threshold: share left as it is × share that counts is largest at {value}"
        )
        if not self.clipped:
            return f"{text}, the largest: none of them is scaled down"
        return (
            f"{text}, where {self.clipped:.2g} of them are scaled down, and have {self.after:.2g} of the summed length "
            f"instead of {self.before:.2g}"
        )


def replayed(norms: Sequence[float]) -> Replay | None:
    """Replay recorded gradient norms under every threshold, and return the best.

    The best threshold c maximizes the product of two shares: of the updates that it leaves as they are, and of the
    updates that effectively contribute, (Σ m)² / (N Σ m²) with m = min(norm, c), which is 1 where all have the same
    length and 1/N where one has all of it. Nothing is gained by clipping where norms are alike, so that the best
    threshold is then the largest norm.

    norms: global gradient norms before clipping.
    Returns None without two norms that are finite and positive.

    Examples
    --------
    >>> found = replayed([1.0] * 99 + [1000.0])
    >>> found.threshold, found.clipped, round(found.before, 3)
    (1.0, 0.01, 0.91)
    """
    found = np.asarray(norms, dtype=np.float64)
    found = np.sort(found[np.isfinite(found) & (found > 0)])
    count = len(found)
    if count < 2:
        return None
    # With norms in rising order, a threshold at the i-th leaves i + 1 as they are and cuts the rest to it.
    rest = count - 1 - np.arange(count)
    unit = found / found[-1]
    sums, squares = np.cumsum(unit) + rest * unit, np.cumsum(unit**2) + rest * unit**2
    kept: NDArray[np.float64] = np.searchsorted(found, found, side="right") / count
    best = int(np.flatnonzero((score := kept * sums**2 / (count * squares)) >= score.max() * (1 - 1e-12))[-1])
    above = found > found[best]
    clipped = float(above.mean())
    after = above.sum() * found[best] / np.minimum(found, found[best]).sum()
    return Replay(float(found[best]), clipped, float(found[above].sum() / found.sum()), float(after))


@dataclass(frozen=True)
class ClipSuggestion:
    """A threshold for ``torch.nn.utils.clip_grad_norm_``, and how it follows from the norms of a training.

    Attributes
    ----------
    value : float
    replay : Replay
        What it would have done to those updates.
    arithmetic : str
    """

    value: float
    replay: Replay
    arithmetic: str

    def __str__(self) -> str:
        return f"clip the gradient norm to {self.value:g}: {self.arithmetic}."


def suggested(norms: Sequence[float]) -> ClipSuggestion:
    """The best threshold for the gradient norms of a training, see `replayed`.

    Raises FlowError if there are fewer than two norms, or they look as if they had been clipped already.
    """
    found = replayed(norms)
    known = [norm for norm in norms if np.isfinite(norm)]
    if found is None:
        raise FlowError(f"{len(known)} gradient norms are known, and two are needed: give step(gradient_norm=…).")
    largest = max(known)
    if len(known) >= 10 and np.mean(np.array(known) > 0.999 * largest) > 0.1 and min(known) < 0.99 * largest:
        raise FlowError(
            f"over a tenth of the gradient norms are {largest:.3g}, the largest: they were clipped before they were "
            "recorded. Give step(gradient_norm=…) what clip_grad_norm_ returns, the norm before clipping."
        )
    value = float(f"{found.threshold:.3g}")
    return ClipSuggestion(value, found, found.arithmetic(f"{len(known):,} updates", float(np.median(known)), largest))
