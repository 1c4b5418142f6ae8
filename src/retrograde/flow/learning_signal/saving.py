"""The signal of a run as JSON and back: ``flow/signal.json`` of its folder.

Tests: `tests/flow/test_saving.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ...errors import RunError
from ...runs import RunFolder
from ...runs.records import number
from .joint import Joint
from .statistic import Signal
from .stream import NetworkSignal

NAME = "flow/signal.json"
_ARRAYS = ("statistic", "consistency", "size", "z", "p_value", "tail_p_value")
_LAGS = ("first", "last")


@dataclass(frozen=True)
class RunSignal:
    """What the data of a run asks for, and what its network has left to learn."""

    asked: NetworkSignal  # of the network as training started it, with the errors of a constant output
    left: NetworkSignal  # of the trained network, with its own errors
    # By layer of the trained network, the lag at which 1 % of the gradient is left; NaN beyond the sequence.
    reach: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; None for what is not known."""
        return {
            "need": self.asked.need,
            "peak": self.asked.peak,
            "asked": _plain(self.asked),
            "left": _plain(self.left),
            "reach": {label: number(lag) for label, lag in self.reach.items()},
        }


def save(found: RunSignal, folder: RunFolder) -> None:
    """Write ``flow/signal.json``; RunError if it cannot be written."""
    (folder / "flow").mkdir(exist_ok=True)
    folder.write(NAME, json.dumps(found.as_dict()) + "\n")


def load(folder: RunFolder) -> RunSignal | None:
    """Read ``flow/signal.json``; None if it was not measured, RunError if the file is damaged."""
    if not folder.has(NAME):
        return None
    found = folder.read_json(NAME)
    try:
        reach = {str(label): _real(lag) for label, lag in found["reach"].items()}
        return RunSignal(_network(found["asked"]), _network(found["left"]), reach)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / NAME} is damaged: {type(error).__name__}: {error!s:.100}.") from None


def _plain(found: NetworkSignal) -> dict[str, Any]:
    layers = []
    for signal in found.layers:
        own = asdict(signal)
        own |= {name: [number(v) for v in own[name].tolist()] for name in _ARRAYS}
        own |= {name: own[name].tolist() for name in _LAGS}
        layers.append(own)
    share = None if found.error_share is None else number(found.error_share)
    return asdict(found) | {"layers": layers, "error_share": share}


def _network(given: Mapping[str, Any]) -> NetworkSignal:
    own = {field.name: given[field.name] for field in fields(NetworkSignal)}
    known = own["joint"]
    joint = None if known is None else Joint(**known | {"by_lag": tuple(known.get("by_lag", ()))})
    return NetworkSignal(**own | {"layers": [_signal(layer) for layer in own["layers"]], "joint": joint})


def _signal(given: Mapping[str, Any]) -> Signal:
    own = {field.name: given[field.name] for field in fields(Signal)}
    own |= {name: np.array([_real(v) for v in own[name]]) for name in _ARRAYS}
    own |= {name: np.array(own[name], dtype=np.int64) for name in _LAGS}
    if len({len(own[name]) for name in (*_ARRAYS, *_LAGS)}) != 1:
        raise ValueError("its arrays differ in length")
    return Signal(**own)


def _real(value: Any) -> float:
    found = float("nan") if value is None else number(value)
    if found is None:
        raise ValueError(f"{value!r:.40} is no number")
    return found
