"""How the gradient travels through time, measured exactly."""

from __future__ import annotations

from .check import GradientCheck, GradientError, check_gradients
from .measure import gradient_flow
from .recorder import GradientFlowRecorder
from .result import GradientFlow
from .sequences import SequenceGradients, sequence_gradients

__all__ = [
    "GradientCheck",
    "GradientError",
    "GradientFlow",
    "GradientFlowRecorder",
    "SequenceGradients",
    "check_gradients",
    "gradient_flow",
    "sequence_gradients",
]
