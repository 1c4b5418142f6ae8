"""The doctor: what is wrong with a training, by measurement; a remedy with a computed number; and the proof.

``diagnose`` examines a model and its sequences and returns a `Diagnosis`: findings, each with its numbers and the rule
that decided. Read `examination` (what is measured), `rules` (what is concluded), `prescriptions` (what to do),
`trial` (whether it helps).
"""

from __future__ import annotations

from .diagnosis import Diagnosis, diagnose
from .examination import Examination
from .findings import Finding, Kind
from .prescriptions import Prescription
from .record import TrainingRecord

__all__ = ["Diagnosis", "Examination", "Finding", "Kind", "Prescription", "TrainingRecord", "diagnose"]
