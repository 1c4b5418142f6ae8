"""What hinders the training, by ``doctor.json``: findings with their numbers and figures, and what to change.

Tests: `tests/report/test_doctor_section.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..charts import figure_of
from ..run import RunContents
from ..section import Fact, Section, Snippet, TextTable
from ..words import duration, number

if TYPE_CHECKING:
    from ...doctor import Finding, Prescription

_VERDICTS = {
    "sick": "something hinders it",
    "healthy": "nothing hinders it",
    "cannot tell": "the measurements cannot tell",
}


def section(run: RunContents) -> Section | None:
    """The diagnosis; None if there is none."""
    title, found = "Doctor", run.diagnosis
    if found is None:
        why = run.missing.get("doctor.json")
        return Section("doctor", title, [f"The diagnosis cannot be shown: {why}."]) if why else None
    sick = [finding for finding in found.findings if finding.severity == "sick"]
    words = [_told(finding) for finding in found.findings if finding not in sick]
    if not found.findings:
        words.append("No rule of the doctor found anything to remark.")
    if found.prescriptions:
        words.append(
            "What to change is below the figures, the first to try first; a click on a command selects all of it."
        )
    return Section(
        "doctor",
        title,
        words + [f"Note: {note.rstrip('.')}." for note in found.notes],
        [Fact("verdict", found.verdict, _VERDICTS[found.verdict]), Fact("examined in", duration(found.seconds))],
        [_told(finding) for finding in sick],
        [
            figure_of(finding.chart, f"{finding.chart.title}{_where(finding)}", finding.message)
            for finding in found.findings
            if finding.chart is not None
        ],
        snippets=[_snippet(one) for one in found.prescriptions],
        tables=[_table(finding) for finding in found.findings],
    )


def _told(finding: Finding) -> str:
    title = finding.about.title
    return f"{title[0].upper()}{title[1:]}{_where(finding)}. {finding.about.meaning} Here, {finding.message}"


def _where(finding: Finding) -> str:
    return f" ({finding.where})" if finding.where else ""


def _snippet(one: Prescription) -> Snippet:
    lines = [("On the command line", one.command)] if one.command else []
    lines += [("In Python, for a model that is then trained from the start", one.python)] if one.python else []
    return Snippet(one.remedy, one.arithmetic, lines)


def _table(finding: Finding) -> TextTable:
    """The numbers, the rule, and what was ruled out."""
    rows = [
        ("rule", finding.rule),
        *((name.replace("_", " "), number(value)) for name, value in finding.numbers.items()),
    ]
    rows += [("ruled out", other) for other in finding.ruled_out]
    rows += [("source", finding.about.source)] if finding.about.source else []
    return TextTable(f"{finding.about.title}{_where(finding)}", rows)
