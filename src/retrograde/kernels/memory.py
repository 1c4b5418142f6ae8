"""A cache of the memory that training steps fill.

Tests: `tests/kernels/test_allocation.py`.
"""

from __future__ import annotations

import math
import os
import threading

import torch
from torch import Tensor

from .. import _torch_private

__all__ = ["CACHE"]


class _Cache:
    """Storages that are used again once no tensor refers to them.

    A page fault for memory that is new from the system costs as much as filling the page with gates. A training loop
    that repeats a step pays for it once.
    """

    SMALLEST, MOST = 1 << 20, 512 << 20  # bytes: smaller tensors, and those beyond MOST in total, are not cached

    def __init__(self) -> None:
        self._storages: list[tuple[torch.UntypedStorage, bool]] = []  # and whether it was taken as exact
        self._lock = threading.Lock()

    def take(self, like: Tensor, *shape: int, exact: bool = False) -> Tensor:
        """An uninitialized tensor of `like`'s type; `exact` is for results, whose storage has exactly their size."""
        size = math.prod(shape) * like.element_size()
        most = size if exact else 2 * size
        if not self.SMALLEST <= size <= self.MOST:
            return like.new_empty(shape)
        with self._lock:
            # a storage that is shared with another process may be read there after its tensors are gone here
            self._storages = [(s, own) for s, own in self._storages if not s.is_shared()]
            storage = next((s for s, _ in self._storages if size <= s.nbytes() <= most and self._free(s)), None)
            if storage is None:  # shapes have changed: free those that no longer fit
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
        """Free the storages that no tensor refers to."""
        with self._lock:
            self._storages = [(s, own) for s, own in self._storages if not self._free(s)]

    def forked(self) -> None:
        """In a forked child: a thread that does not exist there may have locked the lock."""
        self._lock = threading.Lock()

    @staticmethod
    def _free(storage: torch.UntypedStorage) -> bool:
        return _torch_private.storage_users(storage) == 1


CACHE = _Cache()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CACHE.forked)
