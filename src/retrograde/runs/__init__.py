"""The run folder: what training leaves behind, who may write to it, and how much of it is read.

>>> from retrograde.runs import RunFolder
>>> RunFolder("runs/first").config()["options"]["cell"]  # doctest: +SKIP
'lstm'
"""

from __future__ import annotations

from .folder import FORMAT, RunFolder, digest

__all__ = ["FORMAT", "RunFolder", "digest"]
