"""The native engine and the torch operators over it; knows tensors, not modules.

Public are `available`, `info`, `empty_cache` and `matmul`. Other parts of the package use ``native``, which calls the
engine, ``operators``, torch operators made of it, ``shapes``, what a layer's tensors must be, and ``equations``, the
same mathematics in torch's elementary operators, for second derivatives and for what happens inside a step. The engine
itself is C++, in ``csrc``; begin with ``csrc/naive.cpp`` and ``csrc/layer.hpp``.
"""

from __future__ import annotations

# Not public: the measurements of retrograde.flow use these names.
from .native import adjoint_norms as adjoint_norms
from .native import available, empty_cache, info, matmul
from .operators import kept_layer as kept_layer
from .shapes import MAX_ADJOINT_LAYERS as MAX_ADJOINT_LAYERS
from .shapes import Adjoint as Adjoint

__all__ = ["available", "empty_cache", "info", "matmul"]
