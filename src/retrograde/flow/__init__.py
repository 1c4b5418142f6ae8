"""How the gradient travels through time, measured exactly."""

from __future__ import annotations

from .measure import gradient_flow
from .result import GradientFlow

__all__ = ["GradientFlow", "gradient_flow"]
