"""``diagnose``: examine a network, apply every rule, and say what was found."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.console import RenderableType
from rich.text import Text
from torch import Tensor, nn

from ..errors import FlowError, OptionError
from ..flow.summary import sparkline
from ..runs.folder import without_nan
from .examination import Examination, TrainingRecord, samples_of, untrained_twin
from .findings import Finding, Kind
from .prescriptions import Prescription
from .remedies import prescribe
from .rules import RULES

if TYPE_CHECKING:
    from ..training import TrainedRun

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
        """The terminal form: the verdict, findings with their charts, prescriptions."""
        text = Text(f"Verdict: {self.verdict}\n", style="bold")
        for finding in self.findings:
            where = f" ({finding.where})" if finding.where else ""
            text.append(f"\n{finding.about.title}{where}\n", style="bold red" if finding.severity == "sick" else "bold")
            text.append(f"  {finding.message}\n", style="")
            text.append(f"  rule: {finding.rule}\n", style="dim")
            text.append("".join(f"  ruled out: {other}\n" for other in finding.ruled_out), style="dim")
            for curve in finding.chart.curves if finding.chart else ():
                line = sparkline(np.array([math.nan if y is None else y for y in curve.y]))
                text.append(f"  {line}  {curve.label} by {finding.chart.x_label}\n" if finding.chart else "", style="")
        if self.prescriptions:
            text.append("\nPrescriptions, the first to try first:\n", style="bold")
        for i, prescription in enumerate(self.prescriptions, 1):
            text.append(f"\n{i}. {prescription.remedy}\n", style="bold")
            text.append(f"   {prescription.arithmetic}\n", style="")
            text.append(f"   $ {prescription.command}\n" if prescription.command else "", style="green")
            text.append("".join(f"   >>> {line}\n" for line in prescription.python.splitlines()), style="cyan")
        text.append("".join(f"\nNote: {note}" for note in self.notes), style="dim")
        return text

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
        """The diagnosis as JSON; numbers that are not finite are null."""
        return json.dumps(without_nan(self.as_dict()), indent=2, ensure_ascii=False, allow_nan=False)


def diagnose(
    model: nn.Module | str | Path | TrainedRun,
    batches: Any = None,
    loss: Callable[..., Tensor] | None = None,
    *,
    untrained: nn.Module | None = None,
    record: TrainingRecord | None = None,
) -> Diagnosis:
    """Examine a network on some of its sequences: what hinders its training, if anything does.

    Parameters
    ----------
    model : Module, or a run
        A network with recurrent layers, trained or not; or a run folder, by its name or as `retrograde.load` returns
        it: network, start, sequences, loss and record then come from there.
    batches : iterable
        Batches of sequences, such as a DataLoader: tuples of what the model is called with and, last, the target. For
        a run the name of other data; by default its own.
    loss : callable
        Takes the model's output and the target; returns the losses by step ``(T, B)`` or one per sequence ``(B,)``.
        Runs have their own.
    untrained : Module, optional
        The network with its initial weights; by default a copy whose modules are initialized again.
    record : TrainingRecord, optional
        How it was trained: with it, clipping, learning rate and divergence are judged too.

    Returns
    -------
    Diagnosis

    Raises
    ------
    OptionError
        If an argument is missing, or given for a run, which has its own.
    RunError, DataError
        If a run, or its data, cannot be read.

    Examples
    --------
    >>> diagnosis = diagnose("runs/book")  # doctest: +SKIP
    >>> print(diagnosis.prescriptions[0].command)  # doctest: +SKIP
    """
    began = time.perf_counter()
    if not isinstance(model, nn.Module):
        from . import runs  # brings the trainer and the readers of data, which a network in Python does not need

        if loss is not None or untrained is not None or record is not None:
            raise OptionError("A run has its own loss, start and record: leave loss=, untrained= and record= out.")
        return examined(runs.examination_of(model, batches), began)
    if batches is None or loss is None:
        raise OptionError("diagnose needs batches and a loss: rg.diagnose(model, batches, loss), or a run folder.")
    samples = samples_of(batches, loss)
    twin = untrained_twin(model) if untrained is None else untrained
    examination = Examination(model, samples, twin, record or TrainingRecord())
    return examined(examination, began)


def examined(
    examination: Examination, began: float | None = None, stage: Callable[[str], None] = lambda text: None
) -> Diagnosis:
    """Apply every rule to an examination; ``stage`` is called with the name of what is done."""
    began = time.perf_counter() if began is None else began
    findings: list[Finding] = []
    for rule in RULES:
        if examination.unusable:
            examination.notes.append(f"Nothing else was examined: {examination.unusable}")
            break
        stage(rule.__name__.replace("_", " "))
        try:
            findings += rule(examination)
        except FlowError as error:
            examination.notes.append(f"{rule.__name__.replace('_', ' ')}: not known. {error}")
    order = {"sick": 0, "unknown": 1, "note": 2}
    findings.sort(key=lambda finding: order[finding.severity])
    stage("prescriptions")
    prescriptions = prescribe(examination, findings)
    return Diagnosis(findings, prescriptions, list(examination.notes), time.perf_counter() - began)
