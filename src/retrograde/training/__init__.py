"""Training: one readable loop, clipping, truncation, checkpoints, the run folder.

>>> import retrograde as rg
>>> result = rg.training.train("corpus.txt", "runs/first", cell="lstm", epochs=3)  # doctest: +SKIP
>>> run = rg.training.load("runs/first")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras import import_or_explain

if TYPE_CHECKING:
    from ..options import Options
    from ..runs import RunFolder
    from .clipping import Clipping
    from .loading import Run, load
    from .loop import Listener, Progress, Task
    from .session import Result, train

__all__ = ["Clipping", "Listener", "Options", "Progress", "Result", "Run", "RunFolder", "Task", "load", "train"]

# Imported when first named: the command line reads Options without waiting for torch.
_HOME = {
    "Clipping": ".clipping",
    "Listener": ".loop",
    "Options": "..options",
    "Progress": ".loop",
    "Result": ".session",
    "Run": ".loading",
    "RunFolder": "..runs",
    "Task": ".loop",
    "load": ".loading",
    "train": ".session",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_or_explain(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
