"""Whether the remedies help, by ``doctor-trial.json``: matched runs with and without each."""

from __future__ import annotations

from ..charts import figure_of
from ..run import RunContents
from ..section import Fact, Section, TextTable
from ..words import duration


def section(run: RunContents) -> Section | None:
    """A row and a curve for each arm; None if no remedy was tried."""
    title, found = "Proof", run.trial
    if found is None:
        why = run.missing.get("doctor-trial.json")
        return Section("proof", title, [f"What was tried cannot be shown: {why}."]) if why else None
    columns, *rows = [[cell.replace("\n", ", ") for cell in row] for row in found.rows]
    helps = len(found.helps)
    remedies = sum(arm.verdict is not None for arm in found.arms)
    words = "The training was repeated with and without the remedies of the doctor, with the same seeds for each."
    if found.interrupted:
        words += " It was interrupted: the same command goes on from there."
    return Section(
        "proof",
        title,
        [words, *found.sentences],
        [
            Fact("proven to help", f"{helps} of {remedies}", ", ".join(found.helps)),
            Fact("tried in", duration(found.seconds)),
        ],
        figures=[figure_of(found.chart, found.chart.title, words)] if found.chart.curves else [],
        tables=[TextTable("Arms", rows, columns)],
    )
