"""What is learnt: reading data, the head and the loss of each task, and synthetic tasks of known lag."""

from __future__ import annotations

from . import language, synthetic, text

__all__ = ["language", "synthetic", "text"]
