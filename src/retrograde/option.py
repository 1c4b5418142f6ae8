"""What one option of training is: its type, bounds and help, how a value is checked, and how it is put into words.

Tests: tests/test_options.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from .errors import OptionError


def flag(name: str) -> str:
    """Name of an option on the command line."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Option:
    """All that is known about an option.

    Attributes
    ----------
    name, kind, optional, default
        Name and default of the field; its type, and whether None is allowed as well.
    help : str
        What it does, for a user; ``{choices}`` stands for the values that are allowed.
    panel : str
        Heading under which the help lists it.
    minimum, maximum, above, below : float or None
        Bounds of a number; ``minimum`` and ``maximum`` are allowed values, ``above`` and ``below`` are not.
    tasks : tuple of str
        Tasks that have this option; all if empty.
    by_task : dict
        Defaults of tasks that differ from the usual one.
    by_data : tuple of str
        Tasks whose data decides about it where it is not given (`retrograde.defaults`).
    may_change : bool
        Whether a run may be resumed with another value.
    otherwise : str
        What happens where the default is None, in words for the help.
    names : tuple of str
        Names on the command line, where they do not follow from the field's.
    parse : callable or None
        Turns text into the value.
    fix : str
        What else to do about an impossible value.
    """

    help: str
    panel: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    tasks: tuple[str, ...] = ()
    by_task: Mapping[str, Any] = field(default_factory=dict)
    by_data: tuple[str, ...] = ()
    may_change: bool = False
    otherwise: str = ""
    names: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None
    fix: str = ""

    name: str = ""
    kind: Any = None
    optional: bool = False
    default: Any = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that are allowed, where they are words of a list."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return flag(self.name)

    def words(self, value: Any) -> list[str]:
        """What to write on the command line for a value; nothing for one that no word stands for."""
        if self.kind is bool:
            yes, _, no = (self.names or (self.flag,))[0].partition("/")
            return list(filter(None, [yes if value else no]))
        if value is None:
            return [self.flag, "0"] if self.minimum == 0 else []
        text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
        return [self.flag, text + "s" if self.parse else text]

    def default_words(self) -> str:
        """The default in words, with those of single tasks; empty where None or False needs no explanation."""
        shown = self.kind is not bool and self.default not in (None, "auto")
        tasks: dict[str, list[str]] = {}
        for task, value in self.by_task.items():
            tasks.setdefault(_text(value), []).append(task)
        own = [f"{', '.join(names)}: {value}" for value, names in tasks.items()]
        own += [f"{', '.join(self.by_data)}: by the data"] if self.by_data else []
        return "; ".join([*([_text(self.default)] if shown else []), *own, *filter(None, [self.otherwise])])

    def check(self, value: Any) -> None:
        """Refuse a value of another type or out of bounds.

        Raises
        ------
        OptionError
        """
        if (value is None and self.optional) or value in self.choices:
            return
        if self.choices:
            raise OptionError(f"{self.flag} {value!r:.60} is unknown: choose from {', '.join(self.choices)}.")
        kinds = (int, float) if self.kind is float else (self.kind,)
        right = isinstance(value, kinds) and isinstance(value, bool) == (self.kind is bool)
        if right and (self.kind not in (int, float) or self._allows(value)):
            return
        shown = f"{value!s:.40}" if isinstance(value, int | float | NoneType) else f"{value!r:.60}"
        fix = f"; {self.fix}" if self.fix else ""
        raise OptionError(f"{self.flag} {shown} is impossible: it must be {self._wanted()}{fix}.")

    def _allows(self, value: float) -> bool:
        return (
            abs(value) < 1e19
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _wanted(self) -> str:
        """Type and bounds in words."""
        words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}[self.kind]
        given = {"at least": self.minimum, "above": self.above, "at most": self.maximum, "below": self.below}
        bounds = " and ".join(f"{limit} {_number(bound)}" for limit, bound in given.items() if bound is not None)
        return f"{words}{', ' if bounds.startswith('at') else ' '}{bounds}".strip()


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"2**{value.bit_length() - 1}" if isinstance(value, int) and value >= 2**32 else f"{value:,}"


def seconds(text: str, name: str = "--max-time") -> float:
    """Seconds of a duration such as ``90``, ``90s``, ``5m`` or ``1h30m``.

    Examples
    --------
    >>> seconds("1h30m"), seconds("90s"), seconds("0.5m")
    (5400.0, 90.0, 30.0)
    """
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    if re.fullmatch(number, text.strip()):
        return float(text)
    match = re.fullmatch(rf"(?:{number}d)?(?:{number}h)?(?:{number}m)?(?:{number}s)?", text.strip().lower())
    if not text.strip() or match is None:
        raise OptionError(f"{name} {text!r} is not a duration; write 90s, 5m or 1h30m.")
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))


def quantile_levels(text: str) -> tuple[float, ...]:
    """Levels of quantiles, in rising order.

    >>> quantile_levels("0.9, 0.1,0.5")
    (0.1, 0.5, 0.9)
    """
    try:
        found = sorted({float(one) for one in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 < one < 1 for one in found):
        raise OptionError(f"--quantiles {text!r:.60} is impossible: write levels between 0 and 1, such as 0.1,0.5,0.9.")
    return tuple(found)
