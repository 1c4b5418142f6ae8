"""Training: a loop to read, callbacks, clipping, checkpoints, resuming.

`train` writes a run folder, `load` reads the trained network in it. ``rg.train`` writes the page of the run as well.

>>> from retrograde.training import load, train
>>> result = train("corpus.txt", "runs/first", cell="lstm", epochs=3)  # doctest: +SKIP
>>> run = load("runs/first")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras import import_or_explain

if TYPE_CHECKING:
    from ..options import Options
    from ..runs import RunFolder
    from .callback import Callback
    from .clipping import Clipping
    from .loading import TrainedRun, load
    from .session import Result, train
    from .trainer import Trainer

__all__ = ["Callback", "Clipping", "Options", "Result", "RunFolder", "TrainedRun", "Trainer", "load", "train"]

# Imported when first named: the command line reads Options without waiting for torch.
_HOME = {
    "Callback": ".callback",
    "Clipping": ".clipping",
    "Options": "..options",
    "Result": ".session",
    "RunFolder": "..runs",
    "TrainedRun": ".loading",
    "Trainer": ".trainer",
    "load": ".loading",
    "train": ".session",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_or_explain(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
