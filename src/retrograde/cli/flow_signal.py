"""``retrograde flow RUN --signal``: the learning signal by lag.

Tests: `tests/cli/test_flow.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .terminal import console, note, printable, say, say_json

if TYPE_CHECKING:
    from ..flow.learning_signal.saving import RunSignal
    from ..flow.learning_signal.statistic import Signal

ROWS = 14


def show_signal(run: Path, data: str | None, fraction: float, *, json: bool) -> None:
    """Measure, print, and keep in the run folder if it is of the run's own data."""
    from ..doctor.runs import examination_of
    from ..doctor.travel import travels_of
    from ..flow.learning_signal.saving import NAME, RunSignal, save
    from ..flow.learning_signal.stream import need_of, signal_left
    from ..runs import RunFolder

    with console(stderr=True).status(f"Measuring the signal of {run} …"):
        exam = examination_of(run, data)
        asked = need_of(exam.untrained, exam.samples)
        left = signal_left(exam.model, exam.samples)
        reach = {own.layer: math.nan if math.isinf(own.reach) else own.reach for own in travels_of(exam.flow, fraction)}
    found = RunSignal(asked, left, reach)
    if data is None:
        save(found, RunFolder(run))
    for remark in exam.notes:
        note(remark)
    if json:
        say_json({"run": str(run), "fraction": fraction, **found.as_dict()})
        return
    _print(run, found, fraction)
    if data is None:
        say(f"Written: {run / NAME} (retrograde report shows it)")


def _print(run: Path, found: RunSignal, fraction: float) -> None:
    from ..flow.summary import sparkline

    screen = console(soft_wrap=False)
    share = found.left.error_share
    error = "" if share is None or share != share else f"; {share:.0%} of the error of a constant output is left"
    lines = [
        f"{printable(str(run))}: the learning signal by lag",
        f"What the data asks for (untrained network): {found.asked}.",
        f"What is left to learn (trained network): {found.left}{error}.",
    ]
    for label, lag in found.reach.items():
        ends = f"at lag {lag:.0f}" if lag == lag else "beyond the sequence"
        lines.append(f"The gradient of {printable(label)} falls to {fraction:.0%} {ends}.")
    screen.print("\n".join(lines), markup=False, highlight=False)
    left = {signal.layer: signal for signal in found.left.layers}
    for signal in found.asked.layers:
        say()
        strong = np.where(signal.significant, signal.consistency, np.nan)
        blocks = sparkline(np.nan_to_num(strong).clip(min=0), 40)
        say(f"{printable(signal.layer)}  lag {signal.first[0]} {blocks} {signal.last[-1]}")
        screen.print(_table(signal, left.get(signal.layer)))
    for remark in dict.fromkeys([*found.asked.notes, *found.left.notes]):
        say(f"Note: {printable(remark)}")


def _table(asked: Signal, left: Signal | None) -> object:
    """The lags with the most consistent gradients, and the first and last, in order."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("lag", "asked for", "p", "left to learn", "p"):
        table.add_column(column, justify="right")
    order = np.argsort(-np.nan_to_num(asked.consistency, nan=-1))[: ROWS - 2]
    for i in sorted({0, len(asked.first) - 1, *order.tolist()}):
        lag = str(asked.first[i]) if asked.first[i] == asked.last[i] else f"{asked.first[i]}-{asked.last[i]}"
        at = [] if left is None else np.flatnonzero(left.first == asked.first[i]).tolist()
        rest = _cells(left, at[0]) if left is not None and at else ["", ""]
        table.add_row(lag, *_cells(asked, i), *rest)
    return table


def _cells(signal: Signal, i: int) -> list[str]:
    consistency, p = float(signal.consistency[i]), float(signal.p_value[i])
    if consistency != consistency:
        return ["no gradient", ""]
    mark = "*" if signal.significant[i] else " "
    return [f"{max(consistency, 0):.1%}{mark}", "<1e-99" if p < 1e-99 else f"{p:.1g}"]
