"""Recurrent networks whose gradient you can see.

``rg.nn`` trains them fast, ``rg.gradient_flow`` measures how the gradient travels
through time, ``rg.reference`` is the mathematics in plain NumPy.
"""

from __future__ import annotations

from . import errors, kernels

__all__ = ["__version__", "errors", "kernels"]
__version__ = "0.1.0"
