"""The native engine and the torch operators over it; knows tensors, not modules.

For users there are `available`, `info`, `empty_cache` and `matmul`. Other parts of the package use ``native``, which
calls the engine, ``operators``, which makes torch operators of it, ``shapes``, the checks between a tensor and its
pointer, and ``equations``, the same mathematics in torch's elementary operators, for second derivatives and for
looking inside.
"""

from __future__ import annotations

# Not public: the measurements of retrograde.flow use these names.
from .native import MOST_ADJOINT_LAYERS as MOST_ADJOINT_LAYERS
from .native import Adjoint as Adjoint
from .native import adjoint_norms as adjoint_norms
from .native import available, empty_cache, info, matmul
from .operators import kept_layer as kept_layer

__all__ = ["available", "empty_cache", "info", "matmul"]
