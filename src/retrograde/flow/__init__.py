"""How the gradient travels through time, measured exactly."""

from __future__ import annotations

from .check import GradientCheck, GradientError, check_gradients
from .measure import gradient_flow
from .recorder import GradientFlowRecorder
from .result import GradientFlow
from .sequences import SequenceGradients, sequence_gradients
from .summary import Summary, summarise

__all__ = [
    "GradientCheck",
    "GradientError",
    "GradientFlow",
    "GradientFlowRecorder",
    "SequenceGradients",
    "Summary",
    "check_gradients",
    "gradient_flow",
    "sequence_gradients",
    "summarise",
]
