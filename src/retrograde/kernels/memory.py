"""Memory that training steps use again."""

from __future__ import annotations

import math
import os
import threading

import torch
from torch import Tensor

__all__ = ["RESERVE"]


class _Reserve:
    """Memory for what a training step fills, handed out again once no tensor lies in it.

    Pages fresh from the system cost as much as filling them with gates does: a training loop that takes the
    same step again should not pay for them again.
    """

    SMALLEST, MOST = 1 << 20, 512 << 20  # bytes: less is the allocator's own business; more is given back

    def __init__(self) -> None:
        self._storages: list[tuple[torch.UntypedStorage, bool]] = []  # and whether it was taken as exact
        self._lock = threading.Lock()

    def take(self, like: Tensor, *shape: int, exact: bool = False) -> Tensor:
        """An unfilled tensor of `like`'s type; `exact` is for what the user sees, a storage of just its size."""
        size = math.prod(shape) * like.element_size()
        most = size if exact else 2 * size
        if not self.SMALLEST <= size <= self.MOST:
            return like.new_empty(shape)
        with self._lock:
            # another process may read what was shared with it, whatever lies there here
            self._storages = [(s, own) for s, own in self._storages if not s.is_shared()]
            storage = next((s for s, _ in self._storages if size <= s.nbytes() <= most and self._free(s)), None)
            if storage is None:  # shapes have changed: what no longer fits makes room
                self._storages = [
                    (s, own)
                    for s, own in self._storages
                    if not self._free(s) or (s.nbytes() >= size and not (exact and own))
                ]
                storage = like.new_empty(shape).untyped_storage()
                if size + sum(s.nbytes() for s, _ in self._storages) <= self.MOST:
                    self._storages.append((storage, exact))
            return like.new_empty(0).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]

    def empty(self) -> None:
        """Give back what no tensor lies in."""
        with self._lock:
            self._storages = [(s, own) for s, own in self._storages if not self._free(s)]

    def forked(self) -> None:
        """In the child of a fork: the lock may have been held by a thread that is not there."""
        self._lock = threading.Lock()

    @staticmethod
    def _free(storage: torch.UntypedStorage) -> bool:
        return torch._C._storage_Use_Count(storage._cdata) == 1


RESERVE = _Reserve()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RESERVE.forked)
