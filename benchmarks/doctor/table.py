"""The results as tables, in the terminal and in README.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log
from pathlib import Path
from statistics import mean, median

from retrograde.doctor.findings import FINDINGS, Kind

from . import peers
from .case import Case
from .proof import Treatment
from .run import Outcome
from .scoring import auc, counts, is_alarm, need_is_right

MARKS = ("<!-- results -->", "<!-- end of results -->")
Pairs = Sequence[tuple[Case, Outcome]]


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _found(pairs: Pairs, tool: str, first: bool = False) -> list[set[str]]:
    if tool == "doctor":
        return [set(o.found_first if first else o.found) for _, o in pairs]
    return [set((o.peers_first if first else o.peers)[tool]) for _, o in pairs]


def _risks(pairs: Pairs, tool: str) -> list[float]:
    if tool == "doctor":
        return [o.risk for _, o in pairs]
    return [float(is_alarm(found)) for found in _found(pairs, tool, first=True)]


def per_tool(pairs: Pairs) -> str:
    """The doctor and its peers: sick trainings noticed, causes named, false alarms, prognosis."""
    rows = []
    for tool in ("doctor", *peers.RULES):
        found = _found(pairs, tool)
        alarms = [is_alarm(f) for f in found]
        well = [a for (c, _), a in zip(pairs, alarms, strict=True) if c.healthy]
        ill = [
            (is_alarm(f), bool(f & c.findings))
            for (c, _), f in zip(pairs, found, strict=True)
            if not c.healthy and any(FINDINGS[k].severity == "sick" for k in c.findings)
        ]
        total = counts(_against(pairs, found))
        sums = [sum(getattr(c, name) for c in total.values()) for name in ("right", "wrong", "missed")]
        rows.append(
            [
                tool,
                f"{sum(a for a, _ in ill)} of {len(ill)}",
                f"{sum(n for _, n in ill)} of {len(ill)}",
                f"{sums[0] / max(sums[0] + sums[1], 1):.2f}",
                f"{sums[0] / max(sums[0] + sums[2], 1):.2f}",
                f"{sum(well)} of {len(well)}",
                _share(auc(_risks(pairs, tool), [not o.solved for _, o in pairs])),
            ]
        )
    header = ["", "sick noticed", "cause named", "precision", "recall", "false alarms", "prognosis (AUC)"]
    return _rows(header, rows)


def _against(pairs: Pairs, found: Sequence[set[str]]) -> Iterable[tuple[set[str], set[str], set[str]]]:
    for (case, _), f in zip(pairs, found, strict=True):
        yield f, {k.value for k in case.findings}, {k.value for k in case.also}


def per_finding(pairs: Pairs) -> str:
    """Precision and recall of the doctor by finding, with counts."""
    rows = []
    for kind, count in counts(_against(pairs, _found(pairs, "doctor"))).items():
        true = count.right + count.missed
        if true or count.wrong:
            rows.append(
                [
                    FINDINGS[Kind(kind)].title,
                    f"{_share(count.precision)} ({count.right} of {count.right + count.wrong})",
                    f"{_share(count.recall)} ({count.right} of {true})",
                ]
            )
    return _rows(["finding", "precision", "recall"], rows)


def proof(pairs: Pairs) -> str:
    """The first prescription against the other arms, by case: the mean over seeds of the logarithm of the loss."""
    ill = {c.name: c for c, _ in pairs if not c.healthy and any(FINDINGS[k].severity == "sick" for k in c.findings)}
    tried = {name: [o for c, o in pairs if c.name == name and "prescription" in o.shares] for name in ill}
    tried = {name: found for name, found in tried.items() if found}
    if not tried:
        return ""
    rows = []
    for arm in ("untreated", "placebo", "random"):
        better = [_mean_log(found, "prescription") < _mean_log(found, arm) for found in tried.values()]
        rows.append([arm, f"{sum(better)} of {len(better)}"])
    solved = {
        arm: sum(o.shares[arm] <= ill[name].goal for name, found in tried.items() for o in found)
        for arm in ("prescription", "untreated", "placebo", "random")
    }
    total = sum(map(len, tried.values()))
    reached = ", ".join(f"{arm} {count}" for arm, count in solved.items())
    by_hand = sum(any(c.name == name and _by_hand(o) for c, o in pairs) for name in ill)
    none = sum(any(c.name == name and o.prescription == {} for c, o in pairs) for name in ill)
    return (
        f"The first prescription was tried in {len(tried)} of {len(ill)} sick cases; {none} have none, and those of "
        f"{by_hand} are lines for code that only the user has.\n\n"
        + _rows(["first prescription better than", "cases"], rows)
        + f"\n\nTrainings that reached their goal, of {total} each: {reached}."
    )


def _by_hand(outcome: Outcome) -> bool:
    found = outcome.prescription
    return bool(found) and Treatment(found["options"], found["python"]).by_hand


def _mean_log(found: list[Outcome], arm: str) -> float:
    return mean(log(max(o.shares[arm], 1e-9)) for o in found)


def summary(pairs: Pairs) -> str:
    """Need, time, and how many cases are what they are said to be."""
    needs = [(c.lag, o.need) for c, o in pairs if c.measurable]
    right = sum(need_is_right(need, lag) for lag, need in needs)
    true = sum(_as_said(c, o) for c, o in pairs)
    cured = [o for c, o in pairs if not c.healthy and c.remedies and o.seed == 0]
    seconds = [o.seconds for _, o in pairs if not o.error]
    return "\n".join(
        [
            f"- {len(pairs)} trainings, {sum(c.healthy for c, _ in pairs)} healthy; {true} are what they are said to "
            f"be, and a listed remedy cured {sum(o.cured_by is not None for o in cured)} of {len(cured)} sick ones.",
            f"- Need within a factor of 1.5 of the true lag: {right} of {len(needs)}.",
            f"- A diagnosis took {median(seconds):.1f} s (median; most {max(seconds):.1f}); "
            f"{sum(bool(o.error) for _, o in pairs)} ended with an error.",
        ]
        if seconds
        else ["- Nothing examined."]
    )


def _as_said(case: Case, outcome: Outcome) -> bool:
    """Whether a healthy case is solved, and a sick one not, even by as many updates as its remedy had."""
    if case.healthy or case.built:
        return outcome.solved or bool(case.built)
    later = outcome.untreated_share
    return not outcome.solved and (later is None or later > case.goal)


def report(pairs: Pairs) -> str:
    """Everything, for all cases and for each half."""
    halves = [("Cases looked at while rules were written", "open"), ("Cases held out", "held out")]
    parts = []
    for title, half in halves:
        chosen = [(c, o) for c, o in pairs if o.half == half]
        if chosen:
            parts += [f"### {title}", summary(chosen), per_tool(chosen)]
    if pairs:
        parts += ["### By finding, both halves", per_finding(pairs)]
    if trials := proof(pairs):
        parts += ["### The first prescription, both halves", trials]
    return "\n\n".join(parts)


def misses(pairs: Pairs) -> str:
    """What was missed and what is a false finding, case by case."""
    lines = []
    for case, outcome in pairs:
        found = set(outcome.found)
        missed = sorted(k.value for k in case.findings if k.value not in found)
        wrong = sorted(found - {k.value for k in case.findings | case.also})
        if missed or wrong or outcome.error:
            lines.append(f"{case.name} [{outcome.seed}]: missed {missed}, wrong {wrong} {outcome.error}".rstrip())
    return "\n".join(lines)


def write(pairs: Pairs, readme: Path) -> None:
    """Put the report between the marks of README.md."""
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    readme.write_text(f"{before}{MARKS[0]}\n\n{report(pairs)}\n\n{MARKS[1]}{after}", encoding="utf-8")
