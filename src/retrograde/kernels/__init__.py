"""The native engine and the torch operators over it; knows tensors, not modules."""

from __future__ import annotations

try:
    from . import _engine
except ImportError:  # installed where no C++ compiler was found
    _engine = None  # type: ignore[assignment]

__all__ = ["available", "info"]


def available() -> bool:
    """Whether the native engine was built and can be loaded.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.kernels.available() in (True, False)
    True
    """
    return _engine is not None


def info() -> dict[str, object]:
    """What the engine runs on: whether it is there, and the instruction set chosen.

    Returns
    -------
    dict
        ``available`` (bool) and ``instruction_set`` (str, ``"none"`` without the engine).
    """
    return {
        "available": available(),
        "instruction_set": _engine.instruction_set() if _engine is not None else "none",
    }
