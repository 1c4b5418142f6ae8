"""Parts of a model that are computed anew in the backward pass: kept while the gradient is measured, or named.

A checkpoint (``torch.utils.checkpoint``) saves memory in training. To a measurement it is in the way: a reentrant one
runs its layers without a graph and again, unseen, in the backward pass; one that is not reentrant refuses to be walked
more than once. The gradient is the same without it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.checkpoint
from torch.utils.checkpoint import CheckpointError, CheckpointFunction

from ..errors import FlowError

__all__ = ["nothing_computed_anew"]

_MODULE = torch.utils.checkpoint
_WITHOUT_REENTRANCE = "_checkpoint_without_reentrant_generator"  # no public part of torch: it may not be there


class _Kept:
    """Lets ``torch.utils.checkpoint`` keep everything, in the threads that measure and while any does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[int] = []
        self._apply: Callable[..., Any] = CheckpointFunction.apply
        self._generator: Callable[..., Iterator[None]] | None = getattr(_MODULE, _WITHOUT_REENTRANCE, None)

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """In this thread, inside the block."""
        with self._lock:
            self._threads.append(threading.get_ident())
            CheckpointFunction.apply = self._applied  # type: ignore[method-assign]
            if self._generator is not None:
                setattr(_MODULE, _WITHOUT_REENTRANCE, self._generated)
        try:
            yield
        finally:
            with self._lock:
                self._threads.remove(threading.get_ident())
                if not self._threads:
                    del CheckpointFunction.apply  # back to the one it inherits
                    if self._generator is not None:
                        setattr(_MODULE, _WITHOUT_REENTRANCE, self._generator)

    def _applied(self, run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return run(*args) if threading.get_ident() in self._threads else self._apply(run, preserve, *args)

    def _generated(
        self, run: Callable[..., Any], preserve: bool = True, contexts: Any = None, *args: Any, **kwargs: Any
    ) -> Iterator[None]:
        contexts = contexts or _MODULE.noop_context_fn
        if threading.get_ident() in self._threads:
            with contexts()[0]:
                yield
        else:
            assert self._generator is not None
            yield from self._generator(run, preserve, contexts, *args, **kwargs)


_KEPT = _Kept()


@contextlib.contextmanager
def nothing_computed_anew() -> Iterator[None]:
    """Keep what checkpoints would compute anew; name a model that has others than torch's."""
    try:
        with _KEPT.here():
            yield
    except RuntimeError as error:
        if not isinstance(error, CheckpointError) and "torch.utils.checkpoint is incompatible" not in str(error):
            raise
        raise FlowError(
            "The model computes parts anew in the backward pass (a checkpoint): switch that off while its gradient is "
            "measured."
        ) from None
