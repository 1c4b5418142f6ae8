"""How the gradient travels through time, measured exactly."""

from __future__ import annotations

from .measure import gradient_flow
from .result import GradientFlow
from .sequences import SequenceGradients, sequence_gradients

__all__ = ["GradientFlow", "SequenceGradients", "gradient_flow", "sequence_gradients"]
