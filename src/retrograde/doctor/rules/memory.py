"""Does the gradient reach as far back as the data asks for?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..examination import Examination
from ..findings import Chart, Curve, Finding, Kind
from ..thresholds import THRESHOLDS

__all__ = ["RULES"]


def vanishing(exam: Examination) -> Iterable[Finding]:
    """Need, the longest lag with a signal in the untrained twin, against reach, where 1 % of the gradient is left."""
    fraction = THRESHOLDS.reach_fraction.value
    for label in exam.flow.known_layers:
        i = exam.flow.layer_index(label)
        signal = exam.untrained_flow.signal_by_lag(label, alpha=THRESHOLDS.alpha.value)
        reach = float(exam.flow.horizon(fraction)[i])
        if math.isnan(reach) or signal.need is None:
            continue
        curve = exam.flow.by_lag()[i]
        chart = Chart(
            "Gradient by lag, and what the data asks for",
            "lag (steps)",
            "share of its first value",
            [Curve("gradient", list(range(len(curve))), [float(v / curve[0]) for v in curve])],
            log=True,
            marks={"need": signal.need, "reach": reach},
        )
        hurts = signal.need > reach
        kind = Kind.VANISHING_HURTS if hurts else Kind.VANISHING_HARMLESS
        sign = ">" if hurts else "<="
        yield Finding(
            kind,
            f"the data asks for {signal.need} steps of memory; {fraction:.0%} of the gradient is left "
            f"after {reach:.0f}.",
            {"need": signal.need, "reach": reach},
            f"need {signal.need} {sign} reach {reach:.0f}",
            label,
            chart=chart,
        )


RULES = (vanishing,)
