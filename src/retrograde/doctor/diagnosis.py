"""``diagnose``: examine a network, apply every rule, and say what was found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text
from torch import Tensor, nn

from ..errors import FlowError
from .examination import Examination, TrainingRecord, samples_of, untrained_twin
from .findings import Finding, Kind
from .prescriptions import Prescription
from .remedies import prescribe
from .rules import RULES

__all__ = ["Diagnosis", "diagnose"]

Verdict = Literal["sick", "healthy", "cannot tell"]


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes
    ----------
    findings : list of Finding
        The most important first.
    prescriptions : list of Prescription
        Remedies, the first to try first.
    notes : list of str
        What could not be measured, and why.
    seconds : float
        How long the examination took.
    """

    findings: list[Finding]
    prescriptions: list[Prescription] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """``"sick"`` if a finding says so, ``"cannot tell"`` if one could not be decided, else ``"healthy"``."""
        severities = {finding.severity for finding in self.findings}
        return "sick" if "sick" in severities else "cannot tell" if "unknown" in severities else "healthy"

    def found(self, kind: Kind | str) -> list[Finding]:
        """The findings of a kind."""
        return [finding for finding in self.findings if finding.kind == Kind(kind)]

    def apply(self, model: nn.Module) -> Prescription:
        """Apply the first prescription that can be applied in place, and return it.

        Raises
        ------
        FlowError
            None can: each needs another model, or another training.
        """
        for prescription in self.prescriptions:
            if prescription.apply is not None:
                prescription.apply(model)
                return prescription
        raise FlowError("No prescription can be applied to a model in place; see `prescriptions` for what to change.")

    def __str__(self) -> str:
        lines = [f"Verdict: {self.verdict}"]
        for finding in self.findings:
            where = f" ({finding.where})" if finding.where else ""
            lines += [f"- {finding.about.title}{where}: {finding.message}", f"  rule: {finding.rule}"]
        for i, prescription in enumerate(self.prescriptions, 1):
            lines += ["", f"{i}. {prescription.remedy}: {prescription.arithmetic}."]
            lines += [f"   $ {prescription.command}"] if prescription.command else []
            lines += [f"   {line}" for line in prescription.python.splitlines()]
        return "\n".join(lines + [f"Note: {note}" for note in self.notes])

    def __rich__(self) -> RenderableType:
        return Group(Text(str(self)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "verdict": self.verdict,
            "findings": [finding.as_dict() for finding in self.findings],
            "prescriptions": [prescription.as_dict() for prescription in self.prescriptions],
            "notes": self.notes,
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """The diagnosis as JSON."""
        return json.dumps(self.as_dict(), indent=2)


def diagnose(
    model: nn.Module,
    batches: Any,
    loss: Callable[..., Tensor],
    *,
    untrained: nn.Module | None = None,
    record: TrainingRecord | None = None,
) -> Diagnosis:
    """Examine a network on some of its sequences: what hinders its training, if anything does.

    Parameters
    ----------
    model : Module
        A network with recurrent layers, trained or not.
    batches : iterable
        Batches of sequences, such as a DataLoader: tuples of what the model is called with and, last, the target.
    loss : callable
        Takes the model's output and the target; returns the losses by step ``(T, B)`` or one per sequence ``(B,)``.
    untrained : Module, optional
        The network with its initial weights; by default a copy whose modules are initialized again.
    record : TrainingRecord, optional
        How it was trained: with it, clipping, learning rate and divergence are judged too.

    Returns
    -------
    Diagnosis
    """
    began = time.perf_counter()
    samples = samples_of(batches, loss)
    twin = untrained_twin(model) if untrained is None else untrained
    examination = Examination(model, samples, twin, record or TrainingRecord())
    return examined(examination, began)


def examined(examination: Examination, began: float | None = None) -> Diagnosis:
    """Apply every rule to an examination."""
    began = time.perf_counter() if began is None else began
    findings: list[Finding] = []
    for rule in RULES:
        if examination.unusable:
            examination.notes.append(f"Nothing else was examined: {examination.unusable}")
            break
        try:
            findings += rule(examination)
        except FlowError as error:
            examination.notes.append(f"{rule.__name__.replace('_', ' ')}: not known. {error}")
    order = {"sick": 0, "unknown": 1, "note": 2}
    findings.sort(key=lambda finding: order[finding.severity])
    prescriptions = prescribe(examination, findings)
    return Diagnosis(findings, prescriptions, list(examination.notes), time.perf_counter() - began)
