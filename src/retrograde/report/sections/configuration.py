"""With what the run was made: options, data, environment."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ..run import RunContents, real
from ..section import Section, TextTable
from ..words import count, duration, number

_LONGEST = 300  # characters of one value: an option may hold a whole text


def section(run: RunContents) -> Section:
    """The tables of configuration, data, environment and outcome."""
    about = {
        "run": run.folder.resolve().name,
        "task": run.config.task,
        "created": run.config.created,
        "retrograde": run.config.version,
        "parameters": run.config.parameters,
    }
    outcome = run.summary.as_dict() if run.summary else {}
    outcome.pop("baselines", None)
    if "seconds" in outcome:
        outcome["seconds"] = duration(real(outcome["seconds"]))
    for name, values in run.baselines.items():
        for key, value in values.items():
            outcome[f"{name} baseline {key.replace('_', ' ')}"] = value
    tables = [
        _table("Run", about),
        _table("Outcome", outcome),
        _table("Data", run.config.data.details),
        _table("Environment", run.config.environment),
        _table("Training options", run.config.options.as_dict()),
    ]
    words = [f"{name}: {reason}." for name, reason in sorted(run.missing.items())]
    if words:
        words.insert(0, "Not all parts of the run folder could be read:")
    return Section("configuration", "Configuration and environment", words, tables=[t for t in tables if t.rows])


def _table(title: str, values: Mapping[str, object]) -> TextTable:
    return TextTable(title, [(key.replace("_", " "), shown(value)) for key, value in values.items()])


def shown(value: object) -> str:
    """A value of the configuration as a reader sees it."""
    if value is None or value == "":
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:,.6g}" if math.isfinite(value) else number(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({count(len(text))} characters)"
