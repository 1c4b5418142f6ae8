"""What to do: remedies with a number computed from the measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..option import flag
from ..options import OPTIONS
from .findings import Kind


@dataclass(frozen=True)
class Prescription:
    """A remedy for a finding.

    Attributes
    ----------
    remedy : str
        What it is, in a few words: ``"chrono initialization"``.
    finding : Kind
        What it is for.
    options : dict
        The change as options of training (`retrograde.options.Options`): ``{"chrono": 31}``.
    arithmetic : str
        How the number follows from the measurement.
    command : str
        The exact command, where a run folder or data is known; empty otherwise.
    python : str
        The lines for a model in Python, where it is ``model`` and retrograde is ``rg``; ``x`` is a batch of inputs,
        ``inputs`` all that the model is called with, ``target`` the targets. A new start or cell is for a model that
        is then trained from the beginning. Lines that begin with ``# where`` belong into the user's own code.
    apply : callable or None
        Applies it in place to a model of the same structure that is to be trained from the start; None where that is
        impossible (another kind of cell).
    """

    remedy: str
    finding: Kind
    options: Mapping[str, Any]
    arithmetic: str
    command: str
    python: str
    apply: Callable[[nn.Module], None] | None = field(default=None, repr=False)

    @property
    def flags(self) -> str:
        """The change as options of the command line; empty if there is no option for it."""
        words = []
        for name, value in self.options.items():
            if value is True:
                words.append(flag(name))
            elif value is not None and value != OPTIONS[name].default:
                words.append(f"{flag(name)} {value}")
        return " ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "remedy": self.remedy,
            "finding": str(self.finding),
            "options": dict(self.options),
            "arithmetic": self.arithmetic,
            "command": self.command,
            "python": self.python,
            "in_place": self.apply is not None,
        }
