"""What is learned: the head, the loss and the metrics of each task, and synthetic tasks of known lag."""

from __future__ import annotations

from . import language, synthetic

__all__ = ["language", "synthetic"]
