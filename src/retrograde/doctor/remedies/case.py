"""A finding with all that is needed to prescribe for it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ...cells import find
from ...errors import FlowError, RetrogradeError
from ...flow import GradientFlow
from ...nn import initialize
from ..examination import Examination
from ..findings import Finding, Kind
from ..prescriptions import Prescription
from ..thresholds import THRESHOLDS
from ..travel import travels_of
from .parts import Part, recurrent_parts

DELAYED = 0.75  # share of the need within which no step asks for an input, if each asks for its own from the need ago

Change = Callable[[nn.Module], nn.Module | None]  # in place; or another model


def short(value: float) -> str:
    """Three significant digits, as the arithmetic shows a number and the remedy uses it."""
    return f"{float(f'{value:.3g}'):g}"


@dataclass(frozen=True)
class Case:
    """All findings of one kind, and what remedies for them are computed from."""

    kind: Kind
    findings: Sequence[Finding]  # of this kind, in one or several layers
    examination: Examination
    every: Sequence[Finding]  # all findings: what one rule has measured can be a number for another's remedy

    @cached_property
    def flow(self) -> GradientFlow | None:
        """The flow of the network with its initial weights, which a remedy must change; None if it is refused."""
        try:
            return self.examination.untrained_flow
        except FlowError:
            return None

    @cached_property
    def present(self) -> GradientFlow | None:
        """The flow of the network with its present weights; None if it is refused."""
        try:
            return self.examination.flow
        except FlowError:
            return None

    @cached_property
    def parts(self) -> list[Part]:
        """The recurrent modules that the findings are about."""
        labels = [finding.where for finding in self.findings if finding.where]
        return recurrent_parts(self.examination.untrained, self.flow, labels)

    @cached_property
    def measured(self) -> list[Part]:
        """The same modules of the network that was examined, with the weights that it has now."""
        paths = {part.path for part in self.parts}
        return [part for part in recurrent_parts(self.examination.model) if part.path in paths]

    @property
    def everywhere(self) -> Case:
        """The same findings, but about all recurrent modules."""
        return replace(self, findings=[replace(finding, where="") for finding in self.findings])

    @property
    def vanilla(self) -> bool:
        """Whether all of `parts` are vanilla networks."""
        return bool(self.parts) and all(find(part.cell).vanilla for part in self.parts)

    @property
    def gated(self) -> bool:
        """Whether all of `parts` have a gate that keeps the state."""
        return bool(self.parts) and all(find(part.cell).keeper is not None for part in self.parts)

    def number(self, name: str) -> float | None:
        """A number of the findings of this kind, the largest of several layers; None if no rule gave it."""
        return _largest(self.findings, name)

    @cached_property
    def need(self) -> int | None:
        """The longest lag that the data asks for, by whichever rule measured it."""
        found = self.number("need")
        found = _largest(self.every, "need") if found is None else found
        if found is not None:
            return int(found)
        with suppress(FlowError):
            return None if self.examination.need is None else self.examination.need.lag
        return None

    @cached_property
    def reach(self) -> float | None:
        """The lag at which 1 % of the gradient is left."""
        return _largest(self.findings, "reach")

    @property
    def steps(self) -> int:
        """T, the length of the longest sequence."""
        return max(self.flow.steps) if self.flow is not None else 0

    @cached_property
    def delayed(self) -> bool:
        """Whether step after step asks for an input of its own from about `need` steps ago, and for none that is near.

        The state then holds all inputs that came in between, not one thing for long.
        """
        try:
            need, own = self.examination.need, self.examination.answer
        except FlowError:
            return False
        if need is None or own.final:
            return False
        asked = need.lags[need.consistency >= THRESHOLDS.need_share.value * need.consistency.max()]
        scored = int((own.losses[need.lag :] != 0).any(1).sum())
        return scored >= need.lag and float(asked.min()) >= DELAYED * need.lag

    # --- Making a prescription ----------------------------------------------------------------------------------------

    def prescription(
        self, remedy: str, arithmetic: str, python: str, options: dict[str, Any] | None = None, **more: Any
    ) -> Prescription:
        """A prescription for this case; the command is added where data is known."""
        return Prescription(remedy, self.kind, options or {}, arithmetic, "", python, **more)

    def started(
        self, remedy: str, arithmetic: str, options: dict[str, Any], seed: int = 0, **arguments: Any
    ) -> Prescription:
        """A prescription of `retrograde.nn.initialize` for the modules of this case."""
        return self.prescription(remedy, arithmetic, self.lines(**arguments), options, apply=self.start(**arguments))

    def start(self, **arguments: Any) -> Change:
        """The change that initializes the modules of this case, in any model of the same structure."""
        paths = self._paths()

        def apply(model: nn.Module) -> None:
            for path in paths:
                initialize(model.get_submodule(path), **arguments)

        return apply

    def lines(self, **arguments: Any) -> str:
        """The same in Python."""
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        names = [
            "model" if not path else next(p.python for p in self.parts if p.path == path) for path in self._paths()
        ]
        return "\n".join(f"rg.nn.initialize({name}, {given})" for name in names)

    def _paths(self) -> list[str]:
        every = recurrent_parts(self.examination.untrained)
        return [""] if len(every) == len(self.parts) else [part.path for part in self.parts]

    # --- Trying a change on a copy ------------------------------------------------------------------------------------

    def changed(self, change: Change) -> GradientFlow | None:
        """The gradient flow of a copy of the untrained network after a change; None if it cannot be measured."""
        if time.perf_counter() > self.examination.deadline:
            return None
        try:
            model = copy.deepcopy(self.examination.untrained)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = change(model) or model
            return self.examination.flow_of(model)
        except (RetrogradeError, RuntimeError, TypeError, ValueError, IndexError):
            return None  # a network that takes no other cell

    def reach_of(self, flow: GradientFlow | None) -> float | None:
        """The lag at which 1 % is left, in the layer where it is the shortest; infinite beyond the last."""
        return None if flow is None else min((own.reach for own in travels_of(flow)), default=None)

    def share_at(self, flow: GradientFlow | None, lag: int, which: Callable[..., Any] = min) -> float | None:
        """What is left of the gradient at a lag, in the layer where that is the smallest (or largest)."""
        known = [] if flow is None else [own.at(lag) for own in travels_of(flow)]
        found: float | None = which((share for share in known if math.isfinite(share)), default=None)
        return found

    def growth_of(self, flow: GradientFlow | None, which: Callable[..., Any] = min) -> float | None:
        """Factor per step of the gradient, in the layer where it is the smallest (or largest); None if not known."""
        known = [] if flow is None else [own.per_step for own in travels_of(flow)]
        found: float | None = which((rate for rate in known if math.isfinite(rate) and rate > 0), default=None)
        return found


def _largest(findings: Sequence[Finding], name: str) -> float | None:
    values = [finding.numbers[name] for finding in findings if name in finding.numbers]
    return max((value for value in values if math.isfinite(value)), default=None)
