"""The native engine and the torch operators over it; knows tensors, not modules.

``native`` calls the engine, ``operators`` makes torch operators of it, and ``equations`` is the same
mathematics in torch's elementary operators, for second derivatives and for looking inside.
"""

from __future__ import annotations

from .native import (
    MOST_ADJOINT_LAYERS,
    Adjoint,
    adjoint_norms,
    available,
    can_step,
    empty_cache,
    info,
    matmul,
    step,
)
from .operators import kept_layer, layer, traced_layer

__all__ = [
    "MOST_ADJOINT_LAYERS",
    "Adjoint",
    "adjoint_norms",
    "available",
    "can_step",
    "empty_cache",
    "info",
    "kept_layer",
    "layer",
    "matmul",
    "step",
    "traced_layer",
]
