"""The kernels of one instruction set, or the naive ones, for as long as a test needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from retrograde import kernels
from retrograde.kernels import native

SETS: list[str] = native._engine.runnable() if kernels.available() else []


@contextlib.contextmanager
def chosen(name: str) -> Iterator[None]:
    """Compute with the kernels of this name."""
    before = native._engine.instruction_set()
    native._engine.choose(name)
    try:
        yield
    finally:
        native._engine.choose(before)
