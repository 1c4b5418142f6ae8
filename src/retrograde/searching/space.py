"""The space that a search looks through: which options, and which of their values. The only place that says so.

Tests: `tests/searching/test_search.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..cells import GATED
from ..errors import OptionError
from ..option import flag
from ..options import OPTIONS, Options


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``; ``log``: each ratio is as likely as any other."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked."""
        return (self.low, self.high)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int if self.whole else int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choices:
    """A few values."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked."""
        return self.values

    def __contains__(self, value: object) -> bool:
        return value in self.values


Dimension = Range | Choices
Space = Mapping[str, Dimension]

# Around what the training would use without a search (`retrograde.defaults`), which is the first trial.
_USUAL: Mapping[str, Callable[[Options], Dimension | None]] = {
    "lr": lambda options: Range((options.lr or 0.002) / 10, (options.lr or 0.002) * 10, log=True),
    "hidden_size": lambda options: Range(max(1, options.hidden_size // 4), 2 * options.hidden_size, log=True),
    "num_layers": lambda options: Range(1, max(3, options.num_layers)),
    "dropout": lambda options: Range(0.0, max(0.6, options.dropout)),
    "cell": lambda options: Choices(GATED) if options.cell in GATED else None,
    "bidirectional": lambda options: Choices((False, True)) if options.task in OPTIONS["bidirectional"].tasks else None,
    "pooling": lambda options: Choices(("last", "mean", "max")) if options.task in OPTIONS["pooling"].tasks else None,
}


def space_for(options: Options, given: Collection[str], own: Mapping[str, Any] | None = None) -> Space:
    """The space of a search.

    options: what a training without a search would use.
    given: options that the user gave: they stay as they are.
    own: the user's space in place of the usual one: ``(low, high)`` or a list of values by option.
    Raises OptionError if an option is unknown, impossible or given, or nothing is left to search.
    """
    if own is None:
        usual = {name: make(options) for name, make in _USUAL.items() if name not in given}
        space: Space = {name: found for name, found in usual.items() if found is not None}
    else:
        space = {name: _dimension(name, value) for name, value in own.items()}
        Options.check_task(options.task, list(space))
        if both := [name for name in space if name in given]:
            raise OptionError(f"{flag(both[0])} is given and searched: leave it out of one.")
    if not space:
        raise OptionError(f"nothing is left to search: leave out one of {', '.join(map(flag, _USUAL))}.")
    return space


def _dimension(name: str, given: Any) -> Dimension:
    """What the user wrote for an option, checked."""
    if name not in OPTIONS:
        raise OptionError(f"there is no training option {name!r}; there are {', '.join(sorted(OPTIONS))}.")
    if name in ("task", "seed", "epochs", "max_steps", "max_time", "eval_every"):
        raise OptionError(f"{flag(name)} cannot be searched: trials that differ in it cannot be compared.")
    option = OPTIONS[name]
    found: Any = given
    if isinstance(given, tuple) and len(given) == 2 and all(type(end) in (int, float) for end in given):
        low, high = given if option.kind is int else map(float, given)
        found = Range(low, high, log=low > 0 and high >= 10 * low)
    elif isinstance(given, list | tuple):
        found = Choices(tuple(given))
    if (
        not isinstance(found, Range | Choices)
        or not found.ends
        or (isinstance(found, Range) and found.low > found.high)
    ):
        raise OptionError(f"the space of {name} is {given!r:.60}; give (low, high) or a list of values.")
    if isinstance(found, Range) and option.kind not in (int, float):
        raise OptionError(f"the space of {name} is {given!r:.60}; it is not a number: give a list of values.")
    for value in found.ends:
        option.check(value)
    return (
        found
        if not isinstance(found, Range) or option.kind is int
        else replace(found, low=float(found.low), high=float(found.high))
    )
