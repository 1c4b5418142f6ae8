"""``diagnose``: examine a network, apply every rule, and say what was found."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.text import Text
from torch import Tensor, nn

from ..errors import FlowError, OptionError
from ..flow.summary import sparkline
from ..measuring import backward_in_eval_mode
from ..runs.folder import without_nan
from .charts import drawn
from .examination import Examination, samples_of, untrained_twin
from .findings import Finding, Kind
from .prescriptions import Prescription
from .reading import each, finding_of, known, number_of, prescription_of, text
from .record import TrainingRecord
from .remedies import prescribe
from .rules import BY_EFFORT, RULES, Rule
from .thresholds import THRESHOLDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..training import TrainedRun

__all__ = ["Diagnosis", "diagnose"]

MOST_BATCHES = 128  # that are looked at: of 32 sequences each, as many as the signal by lag takes

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
    risk : float
        How likely the task will not be solved as it stands, 0 to 1: 0 for a solved one; NaN where not known.
    remaining : float
        Share of the loss at chance that remains: 1 is chance, 0 is solved; NaN where not known.
    undecided : bool
        Whether the task is not known to be solved, and what a verdict rests on could not be measured or explained.
    """

    findings: list[Finding]
    prescriptions: list[Prescription] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    risk: float = math.nan
    remaining: float = math.nan
    undecided: bool = False

    @property
    def verdict(self) -> Verdict:
        """``"sick"`` if a finding says so, ``"cannot tell"`` if something could not be decided, else ``"healthy"``."""
        severities = {finding.severity for finding in self.findings}
        if "sick" in severities:
            return "sick"
        return "cannot tell" if self.undecided or "unknown" in severities else "healthy"

    def found(self, kind: Kind | str) -> list[Finding]:
        """The findings of a kind."""
        return [finding for finding in self.findings if finding.kind == Kind(kind)]

    @property
    def advice(self) -> str:
        """What was found and what to try first, in a line; empty if nothing is prescribed."""
        if not self.prescriptions:
            return ""
        first = self.prescriptions[0]
        found = self.found(first.finding)
        words = found[0].about.title if found else str(first.finding)
        numbers = found[0].numbers if found else {}
        if {"need", "reach"} <= set(numbers):
            words = f"reach {numbers['reach']:.0f} steps, need {numbers['need']:.0f}"
        return f"{words}: try {first.flags or first.remedy}"

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

    def __repr__(self) -> str:
        """One line; ``print(diagnosis)`` is the report."""
        kinds = ", ".join(dict.fromkeys(str(finding.kind) for finding in self.findings))
        return f"<Diagnosis: {self.verdict}{': ' if kinds else ''}{kinds}>"

    def __str__(self) -> str:
        return self.__rich__().plain.rstrip()

    def __rich__(self) -> Text:
        """The terminal form: the verdict, findings with their charts, prescriptions."""
        text = Text(f"Verdict: {self.verdict}", style="bold")
        known = [] if not math.isfinite(self.remaining) else [f"loss {self.remaining:.0%} of chance"]
        known += [] if math.isnan(self.risk) else [f"risk of not being solved as it stands {self.risk:.0%}"]
        text.append(f" ({'; '.join(known)})\n" if known else "\n", style="")
        for finding in self.findings:
            _append(text, finding)
        if self.prescriptions:
            text.append("\nPrescriptions, the first to try first:\n", style="bold")
        for i, prescription in enumerate(self.prescriptions, 1):
            text.append(f"\n{i}. {prescription.remedy}\n", style="bold")
            text.append(f"   {prescription.arithmetic}\n", style="")
            text.append(f"   $ {prescription.command}\n" if prescription.command else "", style="green")
            text.append("".join(f"   >>> {line}\n" for line in prescription.python.splitlines()), style="cyan")
        text.append("".join(f"\nNote: {note}" for note in self.notes), style="dim")
        return text

    def plot(self, axes: Sequence[Axes] | None = None) -> list[Axes]:
        """Draw the figures of the findings on matplotlib axes, one each; new ones unless given.

        Raises
        ------
        FlowError
            No finding has a figure, or there are fewer axes than figures.
        """
        charts = [finding.chart for finding in self.findings if finding.chart is not None]
        if not charts:
            raise FlowError("No finding has a figure.")
        if axes is None:
            import matplotlib.pyplot as plt

            size = (6.4, 4.2 * len(charts))
            axes = list(plt.subplots(len(charts), figsize=size, layout="constrained", squeeze=False)[1].flat)
        if len(axes) < len(charts):
            raise FlowError(f"There are {len(charts)} figures and {len(axes)} axes; give one for each.")
        return [drawn(chart, ax) for chart, ax in zip(charts, axes, strict=False)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "verdict": self.verdict,
            "risk": self.risk,
            "remaining": self.remaining,
            "undecided": self.undecided,
            "findings": [finding.as_dict() for finding in self.findings],
            "prescriptions": [prescription.as_dict() for prescription in self.prescriptions],
            "notes": self.notes,
            "seconds": self.seconds,
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Diagnosis:
        """A diagnosis from `as_dict`, or from its JSON; prescriptions cannot be applied in place any more.

        Raises
        ------
        ValueError, KeyError, TypeError
            If something is missing, or of another type.
        """
        return cls(
            each(values["findings"], finding_of),
            each(values["prescriptions"], prescription_of),
            each(values["notes"], text),
            known(values["seconds"]),
            number_of(values.get("risk")),
            number_of(values.get("remaining")),
            bool(values.get("undecided", False)),
        )

    def to_json(self) -> str:
        """The diagnosis as JSON; numbers that are not finite are null."""
        return json.dumps(without_nan(self.as_dict()), indent=2, ensure_ascii=False, allow_nan=False)


@backward_in_eval_mode()
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
    FlowError
        If the loss does not return one number by step or by sequence.

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
    record = record or TrainingRecord()
    notes: list[str] = []
    samples = samples_of(batches, loss, MOST_BATCHES)
    start_given = untrained is not None
    if untrained is None:
        untrained = model if record.updates == 0 else untrained_twin(model, notes=notes)
    examination = Examination(model, samples, untrained, record, notes, start_given=start_given)
    try:
        _ = examination.answer
    except Exception as error:  # of the model itself: every rule says so
        if isinstance(error, FlowError):
            raise
    return examined(examination, began)


_NESTED = ". A batch is one flat tuple of the model's arguments and the target: (a, b, target), not ((a, b), target)."


@backward_in_eval_mode()
def examined(
    examination: Examination, began: float | None = None, stage: Callable[[str], None] = lambda text: None
) -> Diagnosis:
    """Apply every rule to an examination; ``stage`` is called with the name of what is done."""
    began = time.perf_counter() if began is None else began
    found: dict[Rule, list[Finding]] = {rule: [] for rule in RULES}
    failures: dict[str, list[str]] = {}  # by reason, the rules that could not be applied
    for rule in BY_EFFORT:
        if examination.unusable:
            examination.notes.append(f"Nothing else was examined: {examination.unusable}")
            break
        name = rule.__name__.replace("_", " ")
        if time.perf_counter() > examination.deadline:
            failures.setdefault("The time was up.", []).append(name)
            continue
        stage(name)
        try:
            found[rule] += rule(examination)
        except FlowError as error:
            failures.setdefault(str(error), []).append(name)
        except Exception as error:  # the model, or the loss, fails on its own
            nested = isinstance(error, TypeError) and any(
                isinstance(a, (tuple, list)) for a in examination.samples[0].inputs
            )
            hint = _NESTED if nested else ""
            failures.setdefault(f"{type(error).__name__}: {error!s:.200}{hint}", []).append(name)
    examination.notes += [f"Not known: {', '.join(names)}. {reason}" for reason, names in failures.items()]
    findings = list(chain.from_iterable(found.values()))
    sick = [finding for finding in findings if finding.severity == "sick"]
    if sick:  # what keeps the signal from being seen is known
        findings = [finding for finding in findings if finding.kind != Kind.NO_FIRST_ORDER_SIGNAL]
    order = {"sick": 0, "unknown": 1, "note": 2}
    findings.sort(key=lambda finding: order[finding.severity])
    stage("prescriptions")
    prescriptions = prescribe(examination, findings)
    remaining, risk = _outlook(examination, sick)
    trained = bool(examination.record.updates)
    unlearned = trained and remaining > THRESHOLDS.unlearned_share.value and not examination.beats
    unexplained = math.isnan(remaining) or unlearned
    learnable = "" if sick or failures or unexplained else _learnable(examination)
    if learnable:
        examination.notes.append(learnable)
    if unexplained and not failures and all(finding.severity == "note" for finding in findings):
        examination.notes.append(
            "How much of the task is learned is not known: give record=TrainingRecord(chance=…, floor=…)."
            if math.isnan(remaining)
            else "The task is not learned, and none of the findings that are looked for explains it"
            + (f"; but {examination.unfinished}: it may only take more updates." if examination.unfinished else ".")
        )
    return Diagnosis(
        findings,
        prescriptions,
        list(dict.fromkeys(examination.notes)),
        time.perf_counter() - began,
        risk,
        remaining,
        not remaining <= THRESHOLDS.solved_share.value and (bool(failures) or unexplained or bool(learnable)),
    )


def _learnable(examination: Examination) -> str:
    """What says that a training that has ended has left something that its inputs explain; empty if nothing does.

    Noise that is left is explained by no input.
    """
    remaining, solved = examination.progress.remaining, THRESHOLDS.solved_share.value
    trained = examination.record.updates or remaining < THRESHOLDS.unlearned_share.value
    if not remaining > solved or not trained or examination.record.updates == 0 or examination.unfinished:
        return ""
    try:
        found = examination.remainder
    except FlowError:  # said in the notes of the rules
        return ""
    share = 0.0 if found is None else found.explained()
    if found is None or not share * remaining > THRESHOLDS.learnable_share.value:
        return ""
    return (
        f"The loss is {remaining:.0%} of chance, and of the errors that are left the inputs explain {share:.0%} (a "
        f"linear regression of {found.sequences} sequences from all others; the clearest are of "
        f"{found.where(found.clearest())}): there is more to learn, and none of the findings that are looked "
        "for explains why it was not."
    )


def _outlook(examination: Examination, sick: Sequence[Finding]) -> tuple[float, float]:
    """What remains of the loss at chance, and the risk that the task will not be solved."""
    try:
        remaining = examination.progress.remaining
    except Exception:  # said in the notes of the rules
        remaining = math.nan
    try:
        risk = examination.risk
    except Exception:
        risk = math.nan
    prognosis = not examination.record.updates  # of vanishing, the risk itself is one; after training it came true
    if any(
        not (finding.about.spares_training or (prognosis and finding.kind == Kind.VANISHING_HURTS)) for finding in sick
    ):
        risk = max(THRESHOLDS.risk_of_finding.value, 0.0 if math.isnan(risk) else risk)
    return remaining, risk


def _append(text: Text, finding: Finding) -> None:
    """A finding, as it is shown in the terminal."""
    where = f" ({finding.where})" if finding.where else ""
    style = {"sick": "bold red", "unknown": "bold yellow"}.get(finding.severity, "bold")
    text.append(f"\n{finding.about.title}{where}\n", style=style)
    text.append(f"  {finding.message[:1].upper()}{finding.message[1:]}\n", style="")
    text.append(f"  {finding.about.meaning}", style="italic")
    text.append(f" ({finding.about.source})\n" if finding.about.source else "\n", style="dim")
    text.append(f"  rule: {finding.rule}\n", style="dim")
    text.append("".join(f"  ruled out: {other}\n" for other in finding.ruled_out), style="dim")
    if finding.chart is not None:
        for curve in finding.chart.curves:
            line = sparkline(np.array([math.nan if y is None else y for y in curve.y]))
            text.append(f"  {line}  {curve.label} by {finding.chart.x_label}\n", style="")
