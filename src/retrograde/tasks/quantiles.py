"""Quantiles of a prediction: their loss, an order that never crosses, the intervals between them and their coverage.

A network with ``--quantiles`` puts out one number for each level, the median among them, which is the prediction.
Arrays have the levels as their first dimension, in rising order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OptionError
from ..option import quantile_levels

MEDIAN = 0.5
QUANTILE = " quantile "  # between the name of a column and the level


def levels_of(quantiles: str | None) -> tuple[float, ...]:
    """The levels that a network puts out for ``--quantiles``: those asked for and the median; none without quantiles.

    Examples
    --------
    >>> levels_of("0.1,0.9"), levels_of(None)
    ((0.1, 0.5, 0.9), ())
    """
    return tuple(sorted({*quantile_levels(quantiles), MEDIAN})) if quantiles else ()


def middle_of(levels: Sequence[float]) -> int:
    """The place of the prediction among the levels; 0 without levels, where it is the only number."""
    return levels.index(MEDIAN) if levels else 0


def note(quantiles: str) -> str:
    """What a user should know about the quantiles that are trained."""
    levels = quantile_levels(quantiles)
    listed = ", ".join(f"{one:g}" for one in levels)
    said = "quantile" if len(levels) == 1 else "quantiles"
    return f"{said} {listed} by the pinball loss; the number predicted is the median, which is quantile 0.5."


def pinball(error: Any, levels: Sequence[float]) -> Any:
    """Twice the pinball loss of errors (prediction minus truth), the mean over the levels.

    For the median alone it is the absolute error; for many levels it approximates the CRPS, the continuous ranked
    probability score (Gneiting and Raftery 2007). Of a single prediction without levels: the squared error.

    error: ``(levels, …)``.
    Returns an array without the first axis, ``(…)``.

    Examples
    --------
    >>> pinball(np.array([[-2.0], [1.0], [4.0]]), (0.25, 0.5, 0.75)).tolist()
    [1.3333333333333333]
    """
    if not levels:
        return error[0] ** 2
    larger = torch.maximum if isinstance(error, Tensor) else np.maximum
    losses = [larger(-level * one, (1 - level) * one) for one, level in zip(error, levels, strict=True)]
    return sum(losses) * (2 / len(levels))


def ordered(found: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles ``(levels, …)`` that do not cross: the median stays, and each other moves at most up to its neighbor.

    Examples
    --------
    >>> ordered(torch.tensor([3.0, 2.0, 1.0, 5.0]), (0.1, 0.5, 0.8, 0.9)).tolist()
    [2.0, 2.0, 2.0, 5.0]
    """
    if len(levels) < 2:
        return found
    middle = middle_of(levels)
    below, above = found[: middle + 1].flip(0).cummin(0).values.flip(0), found[middle:].cummax(0).values
    return torch.cat([below, above[1:]])


def corrections(error: NDArray[np.float64], levels: Sequence[float], independent: float) -> NDArray[np.float64]:
    """What to add to quantiles so that the share of the truth below each is its level on data not trained on.

    A network is too sure of what it has learned by heart, so its quantiles are narrow elsewhere; this is the correction
    of conformal prediction (Romano, Patterson and Candès 2019), of each level by itself. The median stays.

    error: quantile minus truth, ``(levels, N)``.
    independent: how many of the N tell something of their own; few make the intervals wider.

    Examples
    --------
    >>> error = np.array([[-1.0, -2.0, -3.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -3.0]])
    >>> corrections(error, (0.25, 0.5, 0.75), 1e9).round(6).tolist()
    [1.5, 0.0, 2.5]
    """
    found = np.zeros(len(levels))
    for place, level in enumerate(levels):
        if level != MEDIAN and error.shape[1]:
            tail = min(level, 1 - level)
            tail = max(0.0, tail - (1 - tail) / independent)
            found[place] = np.quantile(-error[place], tail if level < MEDIAN else 1 - tail)
    return found


CORRECTED = "quantiles were corrected on the validation part: only a test part says how well they hold elsewhere."


def places_of(asked: Sequence[float] | None, quantiles: str | None) -> list[tuple[float, int]]:
    """Levels that are asked for, by default those of ``--quantiles``, each with its place among those of the network.

    Raises OptionError if the network was not trained with one of them.
    """
    if not quantiles:
        raise OptionError("this model was trained without quantiles: train with --quantiles 0.1,0.5,0.9.")
    levels = levels_of(quantiles)
    wanted = quantile_levels(quantiles) if asked is None else tuple(float(one) for one in np.atleast_1d(asked))
    if missing := [one for one in wanted if one not in levels]:
        known = ", ".join(f"{one:g}" for one in levels)
        raise OptionError(f"quantile {missing[0]:g} was not trained: the model has {known}.")
    return [(one, levels.index(one)) for one in wanted]


def column(name: str, level: float | None) -> str:
    """The name of the column with a quantile of a prediction; None for the prediction itself.

    Examples
    --------
    >>> column("sales", 0.1), column("", 0.9)
    ('sales quantile 0.1', 'quantile 0.9')
    """
    return name if level is None else f"{name}{QUANTILE}{level:g}".strip()


class Intervals:
    """The intervals between quantiles, from the outermost pair around the median, and levels that have no partner.

    Attributes
    ----------
    names : list of str
        Of metrics: ``within_80`` is the share of the truth inside the interval that shall hold 80 %, ``below_95`` the
        share below a quantile without partner.

    Examples
    --------
    >>> found = Intervals((0.1, 0.5, 0.9, 0.95))
    >>> found.names
    ['within_85', 'below_90']
    >>> found.holds(np.array([[-2.0, 1.0], [-1.0, 1.5], [1.0, 2.0], [3.0, 4.0]])).tolist()
    [[True, False], [True, True]]
    """

    def __init__(self, levels: Sequence[float]) -> None:
        low = [place for place, level in enumerate(levels) if level < MEDIAN]
        high = [place for place, level in enumerate(levels) if level > MEDIAN][::-1]
        self._pairs = list(zip(low, high, strict=False))
        self._alone = low[len(self._pairs) :] + high[len(self._pairs) :]
        self.names = [f"within_{100 * (levels[b] - levels[a]):.4g}" for a, b in self._pairs]
        self.names += [f"below_{100 * levels[place]:.4g}" for place in self._alone]

    def holds(self, error: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each interval holds the truth, ``(intervals, …)``, by the errors (quantile minus truth)."""
        found = [(error[low] <= 0) & (error[high] >= 0) for low, high in self._pairs]
        found += [error[place] >= 0 for place in self._alone]
        return np.array(found, dtype=bool).reshape(len(self.names), *error.shape[1:])
