"""What a trial found: a row for each arm, with its losses, its evidence and its verdict.

Tests: `tests/doctor/test_trial.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..runs.folder import without_nan
from ..words import counted
from .charts import drawn
from .evidence import Evidence, Verdict
from .findings import Chart, Curve
from .matched import Measure, Outcome
from .reading import each, known, number_of, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ArmResult:
    """The runs of one arm.

    Attributes
    ----------
    name, role : str
    remedies : list of str
        What was changed, by seed; one for all seeds, except in the arm of random remedies.
    seeds : list of int
        In the order in which they count.
    values : list of float
        Losses (or scores) by seed; infinite where training diverged.
    differences : list of float
        Value minus that of no treatment, by seed.
    seconds : list of float
    at_equal_seconds : list of float
        The differences when both have trained for as long as the faster of the two; empty where not known.
    reach, growth : (before, after) or None
        Of the gradient, in the first few updates: see `retrograde.doctor.matched.Outcome`.
    evidence : Evidence or None
        None for controls, and for remedies that were not run.
    why : str
        Why it was stopped early, or what its mechanism did.
    curve : list of (updates, median value)
    """

    name: str
    role: str
    remedies: Sequence[str]
    seeds: Sequence[int]
    values: Sequence[float]
    differences: Sequence[float]
    seconds: Sequence[float]
    at_equal_seconds: Sequence[float] = ()
    reach: Sequence[float] | None = None
    growth: Sequence[float] | None = None
    evidence: Evidence | None = None
    why: str = ""
    curve: Sequence[tuple[float, float]] = ()

    @property
    def verdict(self) -> Verdict | None:
        """None for controls."""
        if self.role in ("untreated", "placebo", "random"):
            return None
        return "cannot tell" if self.evidence is None else self.evidence.verdict


@dataclass(frozen=True)
class Trial:
    """The result of `retrograde.trial`: printed, it is a table.

    Attributes
    ----------
    arms : list of ArmResult
        No treatment, placebo and random remedy first.
    measure : str
        ``"loss"`` or ``"score"``.
    updates : int or None
        Of each run.
    bar : float
        The e-value that a proof takes.
    seconds : float
        Of the whole trial, in all its sessions.
    interrupted : bool
        Whether Ctrl-C ended it: the same call goes on from there.
    notes : list of str
    """

    arms: Sequence[ArmResult]
    measure: Measure
    updates: int | None
    bar: float
    seconds: float
    interrupted: bool = False
    notes: Sequence[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> ArmResult:
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(f"{name!r} is no arm of this trial; there are {', '.join(arm.name for arm in self.arms)}")

    @property
    def helps(self) -> list[str]:
        """Names of the remedies that are proven to help."""
        return [arm.name for arm in self.arms if arm.verdict == "helps"]

    @property
    def chart(self) -> Chart:
        """The median curve of every arm."""
        curves = [
            Curve(arm.name, [float(x) for x, _ in arm.curve], [y if math.isfinite(y) else None for _, y in arm.curve])
            for arm in self.arms
            if arm.curve
        ]
        return Chart("Matched runs", "update", f"validation {self.measure} (median)", curves)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the median curve of every arm on the matplotlib axes given, or on new ones."""
        return drawn(self.chart, ax)

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Trial:
        """From plain values; ValueError, KeyError or TypeError if something is missing or of another type."""
        measure: Measure = json["measure"]
        if measure not in get_args(Measure):
            raise ValueError(f"measure {measure!r:.40}")
        arms = each(json["arms"], lambda arm: _arm(arm, math.inf if measure == "loss" else -math.inf))
        base = arms[0].values if arms else []
        arms = [
            replace(arm, differences=[a - b for a, b in zip(arm.values, base, strict=False)]) for arm in arms
        ]  # not as written, where infinity is null too
        updates = json["updates"]
        return cls(
            arms,
            measure,
            None if updates is None else int(known(updates)),
            known(json["bar"]),
            known(json["seconds"]),
            bool(json["interrupted"]),
            each(json["notes"], text),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = asdict(self)
        for own, arm in zip(found["arms"], self.arms, strict=True):
            own["verdict"] = arm.verdict
        return found

    def to_json(self) -> str:
        """The trial as JSON; numbers that it does not have are null."""
        return json.dumps(without_nan(self.as_dict()), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        rows = [" | ".join(row).replace("\n", " ") for row in self.rows]
        return "\n".join([*rows, "", *self.sentences])

    def __rich__(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        heading, *rows = self.rows
        for i, title in enumerate(heading):
            words = i in (0, len(heading) - 1)
            table.add_column(Text(title), justify="left" if words else "right", no_wrap=i > 0)
        for row in rows:
            table.add_row(*map(Text, row))
        return Group(table, Text(""), *map(Text, self.sentences))

    @property
    def rows(self) -> list[list[str]]:
        """What is printed as a table, the names of the columns first."""
        rows = [["arm", "seeds", f"median {self.measure}", "change", "in equal s", "e-value", "s", "verdict"]]
        for arm in self.arms:
            base = arm.role == "untreated"
            rows.append(
                [
                    arm.name,
                    str(len(arm.seeds)),
                    _spread(arm.values),
                    "–" if base else _median(arm.differences),
                    "–" if base else _median(arm.at_equal_seconds),
                    "–" if arm.evidence is None else f"{arm.evidence.e_value:.3g}",
                    f"{np.median(arm.seconds):.2g}" if len(arm.seconds) else "–",
                    arm.verdict or "control",
                ]
            )
        return rows

    @property
    def sentences(self) -> list[str]:
        """What is printed below the table."""
        lines = []
        if self.updates is not None:
            lines.append(f"Every run made {self.updates:,} updates. With each median: the middle half of the seeds.")
        lines.append(
            f"Proven at an e-value of {self.bar:.0f}, against every control: a false proof in this trial then has a "
            "probability of at most 5 %, however often one looks. n seeds give at most 2^n."
        )
        for arm in self.arms:
            if arm.verdict is not None:
                lines.append(f"{arm.name}: {_said(arm)}")
        return lines + [f"Note: {note}" for note in self.notes]


def _arm(json: Mapping[str, Any], diverged: float) -> ArmResult:
    """An arm without its differences; a value that JSON does not have is that of a run that diverged."""
    reach, growth = (None if json[name] is None else each(json[name], number_of) for name in ("reach", "growth"))
    return ArmResult(
        name=text(json["name"]),
        role=text(json["role"]),
        remedies=each(json["remedies"], text),
        seeds=[int(known(seed)) for seed in each(json["seeds"], known)],
        values=[diverged if math.isnan(value) else value for value in each(json["values"], number_of)],
        differences=[],
        seconds=each(json["seconds"], number_of),
        at_equal_seconds=each(json["at_equal_seconds"], number_of),
        reach=reach,
        growth=growth,
        evidence=None if json["evidence"] is None else _evidence(json["evidence"]),
        why=text(json["why"]),
        curve=[(known(x), number_of(y)) for x, y in json["curve"]],
    )


def _evidence(json: Mapping[str, Any]) -> Evidence:
    verdict: Verdict = json["verdict"]
    if verdict not in get_args(Verdict):
        raise ValueError(f"verdict {verdict!r:.40}")
    wins, losses = ({text(name): int(known(n)) for name, n in json[key].items()} for key in ("wins", "losses"))
    more = json["expected_more"]
    return Evidence(
        verdict=verdict,
        e_value=known(json["e_value"]),
        e_useless=known(json["e_useless"]),
        bar=known(json["bar"]),
        seeds=int(known(json["seeds"])),
        wins=wins,
        losses=losses,
        fewest_more=int(known(json["fewest_more"])),
        expected_more=None if more is None else int(known(more)),
    )


def _said(arm: ArmResult) -> str:
    found, why = arm.evidence, f" {arm.why}" if arm.why else ""
    if found is None or not found.seeds:
        return f"cannot tell.{why}"
    won = ", ".join(f"{found.wins[name]} of {found.seeds} against {name}" for name in found.wins)
    if found.verdict == "helps":
        return f"helps: better for {won}.{why}"
    if found.verdict == "does not help":
        return f"does not help: better for {won}; that it wins in 4 seeds of 5 is excluded.{why}"
    more = "more than 200" if found.expected_more is None else f"about {found.expected_more}"
    least = counted(found.fewest_more, "more seed")
    return f"cannot tell: better for {won}. At least {least} would decide; {more} if it goes on as so far.{why}"


def _spread(values: Sequence[float]) -> str:
    """Median and the middle half, in two lines."""
    if not len(values):
        return "–"
    low, middle, high = (float(np.quantile(values, q, method="inverted_cdf")) for q in (0.25, 0.5, 0.75))
    return f"{middle:.3g}\n{low:.3g}–{high:.3g}"


def _median(values: Sequence[float]) -> str:
    middle = float(np.quantile(values, 0.5, method="inverted_cdf")) if len(values) else math.nan
    return "–" if math.isnan(middle) else f"{middle:+.2g}"


def equal_seconds(own: Outcome, other: Outcome) -> float | None:
    """The difference of two runs when both have trained for as long as the faster of them; None where not known."""
    if not own.curve or not other.curve:
        return None
    until = min(own.curve[-1][1], other.curve[-1][1])
    # Where the user's function did not say when, no point is early enough.
    best = [min((value for _, when, value in one.curve if when <= until), default=math.nan) for one in (own, other)]
    return None if any(math.isnan(value) for value in best) else best[0] - best[1]


def median_curve(outcomes: Sequence[Outcome]) -> list[tuple[float, float]]:
    """The median over seeds at every point that all of them have."""
    curves = [one.curve for one in outcomes if one.curve]
    if not curves:
        return []
    length = min(len(curve) for curve in curves)
    return [(curves[0][i][0], float(np.median([curve[i][2] for curve in curves]))) for i in range(length)]
