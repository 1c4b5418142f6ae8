"""A diagnosis and its proof as JSON and back: ``doctor.json`` and ``doctor-trial.json`` of a run folder.

Tests: `tests/doctor/test_diagnosis.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import RunError
from ..runs import RunFolder
from .diagnosis import Diagnosis
from .ledger import RESULT
from .trial_result import Trial

T = TypeVar("T")
NAME = "doctor.json"


def save(diagnosis: Diagnosis, folder: RunFolder) -> None:
    """Write ``doctor.json``; RunError if it cannot be written."""
    folder.write(NAME, diagnosis.to_json() + "\n")


def load(folder: RunFolder) -> Diagnosis | None:
    """Read ``doctor.json``; None if the run was not diagnosed, RunError if the file is damaged.

    Prescriptions that were read cannot be applied in place.
    """
    return _read(folder, NAME, Diagnosis.of)


def load_trial(folder: RunFolder) -> Trial | None:
    """Read ``doctor-trial.json``; None if no remedy was tried, RunError if the file is damaged."""
    return _read(folder, RESULT, Trial.of)


def _read(folder: RunFolder, name: str, of: Callable[[dict[str, Any]], T]) -> T | None:
    if not folder.has(name):
        return None
    found = folder.read_json(name)
    try:
        return of(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / name} is damaged: {type(error).__name__}: {error!s:.100}.") from None
