"""The command of a prescription: that of the run itself, with other options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...cells import find
from ...errors import OptionError
from ...options import OPTIONS, Options
from ..examination import Origin
from ..prescriptions import Prescription

_EXCLUDED: Mapping[str, Mapping[str, Any]] = {  # an option, and what must not be given with it
    "forget_bias": {"chrono": None},
    "chrono": {"forget_bias": None},
    "clip_norm": {"clip_value": None, "clip_quantile": None},
}


def with_command(prescription: Prescription, origin: Origin | None) -> Prescription | None:
    """Add the command; None if the run has these options already, or its task has no such option."""
    if origin is None or not prescription.options:
        return prescription
    changes = compatible(origin.options, prescription.options)
    task = origin.options.task
    if any(OPTIONS[name].tasks and task not in OPTIONS[name].tasks for name in changes):
        return None
    try:
        changed = replace(origin.options, **changes)
        Options.of(changed.as_dict())
    except OptionError:
        return None  # a value out of bounds, or that another option of the run excludes
    if changed == origin.options:
        return None
    return replace(prescription, options=changes, command=command(changed, origin, changes))


def compatible(options: Options, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of options, with those of other options that they exclude."""
    found = dict(changes)
    for name in changes:
        for other, value in _EXCLUDED.get(name, {}).items():
            if getattr(options, other) != value:
                found.setdefault(other, value)
    cell = found.get("cell", options.cell)
    if find(cell).vanilla:
        for gated in ("forget_bias", "chrono"):
            if getattr(options, gated) is not None:
                found.setdefault(gated, None)
    else:
        for name, value in {"nonlinearity": "tanh", "omega": 0.0}.items():
            if getattr(options, name) != value:
                found.setdefault(name, value)
        if found.get("init", options.init) == "identity":
            found["init"] = "default"
    if "bptt" in found and options.update_every is not None and options.update_every > found["bptt"]:
        found.setdefault("update_every", None)
    if "init" in found and "spectral_radius" not in found and options.spectral_radius is not None:
        found["spectral_radius"] = None  # it belonged to other weights
    return found


def command(options: Options, origin: Origin, changes: Mapping[str, Any]) -> str:
    """``retrograde train …`` with every option that differs from its default; empty if the data is gone."""
    if not origin.source:
        return ""
    words = ["retrograde", "train", shlex.quote(origin.source)]
    if origin.name_task:
        words += ["--task", options.task]
    words += ["--out", shlex.quote(_folder(origin.out, changes))]
    for name, option in OPTIONS.items():
        value, usual = getattr(options, name), option.by_task.get(options.task, option.default)
        usual = _usual_lr(options) if name == "lr" else usual
        decided = options.task in option.by_data  # left out, the data would decide about it
        if name == "task" or (name in origin.chosen and name not in changes) or (value == usual and not decided):
            continue
        if name == "clip_norm" and value is None:
            words += [] if options.clip_value or options.clip_quantile else ["--no-clip"]
        else:
            words += map(shlex.quote, option.words(value))
    return " ".join(words)


def _usual_lr(options: Options) -> float | None:
    return Options.of({"optimizer": options.optimizer}).lr


def _folder(out: str, changes: Mapping[str, Any]) -> str:
    """A new run folder: the old name with the changes."""
    parts = [
        f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}"
        for name, value in changes.items()
        if value is not None
    ]
    slug = re.sub(r"[^\w.-]+", "-", "-".join(parts).replace("_", "-"))
    wanted, number = f"{out}-{slug}" if out else f"runs/{slug}", 1
    while Path(found := wanted if number == 1 else f"{wanted}-{number}").exists():
        number += 1
    return found
