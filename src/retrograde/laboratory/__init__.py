"""The laboratory: a page in which a reader trains a recurrent network and sees its gradient between any two steps.

``lab.html`` is one file that needs no network. It is built from ``lab/`` in the repository (TypeScript, esbuild).
"""

from __future__ import annotations

from .page import PAGE, write

__all__ = ["PAGE", "write"]
