"""Gradients too small for the type they were computed in: measured again with larger losses, or marked.

Float32 has no numbers below 1e-45, and few digits below 1e-38. A vanishing gradient gets there within a few hundred
steps; the result is then rounding, or an exact zero, and neither is a measurement. Two things are done:

- The adjoint is linear in the loss, so losses that are multiplied by a large power of two give the same norms, times
  that power, without a single digit changed: a second pass reaches some thirty decades further down in float32.
- What is still below the range is marked, NaN by lag, counts as smaller than everything that was measured, and is said
  in ``notes``. A true zero (no path, a dead unit) stays zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
_SAFE = 256.0  # so much larger than what may be lost, a mean is right to half a per cent


@dataclass(frozen=True)
class Range:
    """The range that a type represents with full precision."""

    name: str  # name of the type
    floor: float  # norms from here on are correct
    zero_ratio: float  # a zero that follows a norm of at least this many floors is a true zero
    most: float  # the largest power of two by which a loss may be multiplied, if the gradients are about 1
    tolerance: float  # relative difference of norms that rounding alone may cause

    @classmethod
    def of(cls, dtype: torch.dtype) -> Range:
        """The range of a backward pass in this type, whose squares are added in float64."""
        info = torch.finfo(dtype)
        name = str(dtype).removeprefix("torch.")
        if dtype == torch.float64:  # the square of a smaller one is subnormal
            return cls(name, 4 * math.sqrt(info.tiny), 1 / info.eps, 1.0, 0.0)
        # Types with a wide range may flush subnormal numbers to zero.
        spare = 4.0 if dtype == torch.float16 else 1024.0
        power = math.floor(0.75 * math.log2(info.max))
        return cls(name, spare * info.tiny, 1 / info.eps, 2.0**power, max(1e-3, 8 * info.eps))

    @classmethod
    def of_numbers(cls) -> Range:
        """The range of float64 itself, for norms whose scale was kept separately."""
        info = np.finfo(np.float64)
        return cls("float64", 4 * float(info.tiny), 1 / float(info.eps), 1.0, 0.0)

    def may_be_lost(self, norms: Array) -> bool:
        """Whether any of these (…) norms is below the range, or a zero next to one that nearly is."""
        smallest = float(np.min(norms, initial=np.inf, where=norms > 0))
        return smallest < self.floor * self.zero_ratio

    def lost(self, norms: Array, *, axis: int, ahead: bool) -> Mask:
        """Which norms are below the range.

        norms: with the steps k along ``axis``.
        ahead: whether the gradient runs towards larger k (a reverse layer) rather than smaller.
        """
        found = np.zeros(norms.shape, dtype=bool)
        if not self.may_be_lost(norms):
            return found
        steps = np.moveaxis(norms, axis, 0)
        mask = np.moveaxis(found, axis, 0)
        near = np.full(steps.shape[1:], np.inf)  # the last norm on the way that was not zero
        lost = np.zeros(steps.shape[1:], dtype=bool)
        for k in range(len(steps)) if ahead else reversed(range(len(steps))):
            norm = steps[k]
            zero = norm == 0
            # A gradient that went below the range has lost its digits, even if it grows again; one that is far above it
            # came by another path.
            lost = np.where(zero, lost | (near < self.floor * self.zero_ratio), lost & (norm < self.floor * _SAFE))
            lost |= ~zero & (norm < self.floor)
            near = np.where(zero, near, norm)
            mask[k] = lost
        return found

    def wider(
        self, norms: Mapping[str, Array], again: Callable[[float], Mapping[str, Array]]
    ) -> tuple[dict[str, Array], Range]:
        """Norms by layer with small ones measured again, and the range they now have.

        ``again`` gives the norms for losses multiplied by a number.
        """
        known = dict(norms)
        if self.most == 1 or not any(self.may_be_lost(own) for own in norms.values()):
            return known, self
        largest = max(float(np.max(own, initial=0.0, where=np.isfinite(own))) for own in norms.values())
        factor = self.most / 2.0 ** max(0, math.ceil(math.log2(largest or 1.0)))
        if factor <= 1 or not all(np.isfinite(own).all() for own in norms.values()):
            return known, self
        larger = {label: own / factor for label, own in again(factor).items()}
        for label, own in norms.items():
            plain = own > self.floor
            other = larger.get(label)
            # The user's hooks may clip a gradient, which is then not linear in the loss.
            if other is None or not np.isfinite(other).all():
                return known, self
            if not np.allclose(other[plain], own[plain], rtol=self.tolerance, atol=self.tolerance * self.floor):
                return known, self
            known[label] = np.where(own > _SAFE * self.floor, own, other)
        return known, Range(self.name, self.floor / factor, self.zero_ratio, 1.0, self.tolerance)

    def uncertain(self, values: Array, lost: Mask, *, whole: bool) -> Mask:
        """Which values over a batch are uncertain, because some of its sequences `(…, B)` are below the range.

        ``whole`` says that the sequences were kept separate.
        """
        if whole or not lost.any():
            return lost if whole else np.zeros(values.shape, dtype=bool)
        some = np.asarray(lost.any(-1))
        some = some if some.ndim == values.ndim else some[..., None]
        return np.asarray(some & (values < _SAFE**2 * self.floor))  # each of them may be _SAFE floors large

    def note(self, norms: Array, below: Mask) -> str:
        """The note about norms of which some are below the range."""
        count, known = int(below.sum()), int(np.count_nonzero(norms))
        how = "" if self.name == "float64" else "; a model in float64 (model.double()) reaches further"
        return (
            f"{count} of {count + known} norms are below the range of {self.name} (under {self.floor:.0e}), too small "
            f"to be measured: they are 0 in norms, marked in below, and NaN in by_lag{how}"
        )


def mean_of_known(total: Any, number: Any, unknown: Any, smallest: Any) -> Array:
    """Means of groups, of which ``unknown`` of each ``number`` are below a range that begins under ``smallest``.

    NaN for a group without members, and where what is unknown could change the mean.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / number
        sure = (unknown == 0) | (total >= _SAFE**3 * np.where(unknown == 0, 1.0, smallest) * unknown)  # as in uncertain
    return np.asarray(np.where(sure, mean, np.nan))
