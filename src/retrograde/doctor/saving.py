"""A diagnosis as JSON and back: ``doctor.json`` of a run folder."""

from __future__ import annotations

from ..errors import RunError
from ..runs import RunFolder
from .diagnosis import Diagnosis

NAME = "doctor.json"


def save(diagnosis: Diagnosis, folder: RunFolder) -> None:
    """Write ``doctor.json``; RunError if it cannot be written."""
    folder.write(NAME, diagnosis.to_json() + "\n")


def load(folder: RunFolder) -> Diagnosis | None:
    """Read ``doctor.json``; None if the run was not diagnosed, RunError if the file is damaged.

    Prescriptions that were read cannot be applied in place.
    """
    if not folder.has(NAME):
        return None
    found = folder.read_json(NAME)
    try:
        return Diagnosis.of(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / NAME} is damaged: {type(error).__name__}: {error!s:.100}.") from None
