"""Results that are compared with what was recorded when somebody last looked at them.

For what has no other source to compare with: the words of a note, the lines of a picture, a table as it is printed.
The fixture ``recorded`` compares any value with ``recorded/test_x.json`` next to ``test_x.py``:

    RECORD=1 pytest tests/flow/test_pictures.py

writes these files. Read the difference before you commit it: it is what users will see. ``RECORD=again`` leaves out, as
``…``, what comes out otherwise this time: run it with ``ATEN_CPU_CAPABILITY=default RETROGRADE_ISA=portable``, whose
rounding differs from machine to machine.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
LEFT_OUT = "…"
FEW = 8  # numbers of an array that are all kept; of a larger one, some that any change shows in


def described(value: Any) -> Any:
    """Any value as JSON has it: arrays in a few numbers, objects by their fields."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy() if value.dtype != torch.bfloat16 else value.float().numpy()
    if isinstance(value, np.ndarray):
        return _array(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: described(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): described(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) > FEW and all(isinstance(one, (int, float)) for one in value):
            return _array(np.array(value, dtype=float))
        return [described(one) for one in value]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (np.generic, bool)) or value is None:
        return value.item() if isinstance(value, np.generic) and value.dtype.kind in "biufU" else _plain(value)
    if isinstance(value, (int, float)):
        return _number(value)
    return str(value)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool) else str(value)


def _number(value: float) -> Any:
    return value if isinstance(value, int) else float(f"{value:.5g}") if math.isfinite(value) else str(value)


def _array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind not in "biuf":
        return [described(one) for one in array.tolist()]
    if array.size <= FEW:
        return json.loads(json.dumps(_listed(array.astype(float).tolist())))
    flat = array.astype(np.float64).ravel()
    known = flat[np.isfinite(flat)]
    waves = [float(known @ np.cos(rate * np.arange(len(known)))) for rate in (0.37, 1.9)] if len(known) else []
    ends = [known.min(), known.max(), known.sum()] if len(known) else []
    scale = float(np.abs(known).sum()) if len(known) else 0.0
    return {
        "shape": list(array.shape),
        "known": len(known),
        "ends": _listed([float(one) for one in ends]),
        "waves": [round(wave / scale, 4) if scale else 0.0 for wave in waves],
    }


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, list) else _number(value)


def common(new: Any, old: Any, rel: float) -> Any:
    """What is recorded, without what differs."""
    if not differences(new, old, rel):
        return old
    if isinstance(new, dict) and isinstance(old, dict) and new.keys() == old.keys():
        return {key: common(new[key], old[key], rel) for key in old}
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [common(a, b, rel) for a, b in zip(new, old, strict=True)]
    return LEFT_OUT


def differences(new: Any, old: Any, rel: float, where: str = "") -> list[str]:
    """Where two descriptions differ by more than rounding."""
    if old == LEFT_OUT:
        return []
    if isinstance(new, dict) and isinstance(old, dict):
        missing = [f"{where}.{key} is only {'new' if key in new else 'recorded'}" for key in new.keys() ^ old.keys()]
        return missing + [
            one for key in new if key in old for one in differences(new[key], old[key], rel, f"{where}.{key}")
        ]
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        pairs = enumerate(zip(new, old, strict=True))
        return [one for i, (a, b) in pairs for one in differences(a, b, rel, f"{where}[{i}]")]
    if isinstance(new, str) and isinstance(old, str) and NUMBER.sub("#", new) == NUMBER.sub("#", old):
        numbers = ([float(one.replace(",", "")) for one in NUMBER.findall(text)] for text in (new, old))
        if all(_close(a, b, rel) for a, b in zip(*numbers, strict=True)):
            return []
    elif _is_number(new) and _is_number(old) and _close(new, old, rel):
        return []
    return [] if type(new) is type(old) and new == old else [f"{where}: {new!r}, recorded {old!r}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _close(a: float, b: float, rel: float) -> bool:
    return math.isclose(a, b, rel_tol=rel, abs_tol=rel * 1e-3)


def place_of(request: pytest.FixtureRequest) -> Path:
    """The file in which the results of a test are recorded."""
    return Path(request.path).parent / "recorded" / f"{Path(request.path).stem}.json"


@functools.lru_cache
def _read(place: Path, written: float) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.read_text("utf-8"))
    return found


def read(place: Path) -> dict[str, Any]:
    """What is recorded in a file, by test."""
    return _read(place, place.stat().st_mtime) if place.exists() else {}


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``recorded(value, rel=1e-3)`` compares a value with the one recorded for this test."""
    place, name = place_of(request), request.node.name

    def compare(value: Any, rel: float = 1e-3) -> None:
        new, known = json.loads(json.dumps(described(value))), read(place)
        if os.environ.get("RECORD"):
            known = dict(known)
            place.parent.mkdir(exist_ok=True)
            again = os.environ["RECORD"] == "again" and name in known
            known[name] = common(new, known[name], rel) if again else new
            lines = (f"{json.dumps(one)}: {json.dumps(known[one], ensure_ascii=False)}" for one in sorted(known))
            place.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
        assert name in known, f"nothing is recorded: RECORD=1 pytest {request.path} writes it"
        found = differences(new, known[name], rel)
        assert not found, "\n".join([*found[:20], f"RECORD=1 pytest {request.path} writes it, if this is meant"])

    return compare
