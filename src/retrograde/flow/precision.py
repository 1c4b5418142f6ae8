"""A measurement runs in the model's own precision: ``torch.autocast`` is switched off meanwhile, and that is said."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import FlowError, RetrogradeError

__all__ = ["Precision", "own_precision", "without_autocast"]

_HALF = (torch.float16, torch.bfloat16)


class Precision:
    """What is known of the types a measurement runs in.

    Attributes
    ----------
    cast : set of torch.dtype
        What autocast would have computed in: the types it was active in around the measurement.
    cast_inside : set of torch.dtype
        Those that the model itself switched on (``with torch.autocast(...)`` in its forward, or as a decorator).
    own : list of torch.dtype
        Floating-point types of the model's parameters, the most common first.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.cast: set[torch.dtype] = set()
        self.cast_inside: set[torch.dtype] = set()
        count: dict[torch.dtype, int] = {}
        for parameter in parameters:
            if parameter.is_floating_point():
                count[parameter.dtype] = count.get(parameter.dtype, 0) + 1
        self.own = sorted(count, key=lambda dtype: -count[dtype])

    def given(self, value: Any) -> Any:
        """An input as the model takes it: autocast would have accepted the lower precision it may be in."""
        if isinstance(value, Tensor):
            lower = self.cast and self.own and value.dtype in _HALF and self.own[0] not in _HALF
            return value.to(self.own[0]) if lower else value
        if isinstance(value, dict):
            return {key: self.given(item) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.given, value))
        return type(value)(map(self.given, value)) if type(value) in (list, tuple) else value

    def notes(self) -> list[str]:
        """What to say of autocast."""
        own = _words(self.own[:1]) or "float32"
        found = []
        if self.cast:
            found.append(f"autocast was active ({_words(self.cast)}); measured in {own}, without it")
        if self.cast_inside - self.cast:
            found.append(f"the model switches autocast on ({_words(self.cast_inside)}); measured in {own}, without it")
        return found

    def failure(self, error: Exception) -> FlowError | None:
        """What went wrong, where it is a matter of types and torch's own error does not say what to do."""
        if isinstance(error, RetrogradeError) or not isinstance(error, (RuntimeError, ValueError, TypeError)):
            return None
        line = (str(error).strip().splitlines() or [""])[0].split(". ")[0].rstrip(".")
        words = line.lower()
        if (self.cast or self.cast_inside) and any(word in words for word in ("dtype", "scalar type", "same type")):
            own, cast = _words(self.own[:1]) or "float32", sorted(self.cast | self.cast_inside, key=str)
            return FlowError(
                f"autocast ({_words(cast)}) is switched off while the gradient is measured, in {own}, and without it "
                f"the model mixes types ({line}): leave out its own casts to {_words(cast)}, or measure a copy made "
                f"with .to({cast[0]})."
            )
        if any(dtype in _HALF for dtype in self.own) and "not implemented for" in words:
            return FlowError(
                f"{_words(self.own[:1])} cannot be measured on this device ({line}): measure a copy of the model in "
                "float32, made with .float()."
            )
        return None


def _words(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


class _Autocast:
    """Keeps ``torch.autocast`` from switching itself on, in the threads that measure and while any does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measuring: dict[int, list[Precision]] = {}
        self._enter: Any = torch.autocast.__enter__

    @contextlib.contextmanager
    def off(self, precision: Precision) -> Iterator[None]:
        """In this thread, inside the block."""
        thread = threading.get_ident()
        with self._lock:
            if not self._measuring:
                self._enter = torch.autocast.__enter__
                torch.autocast.__enter__ = self._entered(self._enter)  # type: ignore[method-assign]
            self._measuring.setdefault(thread, []).append(precision)
        try:
            yield
        finally:
            with self._lock:
                self._measuring[thread].remove(precision)
                if not self._measuring[thread]:
                    del self._measuring[thread]
                if not self._measuring:
                    torch.autocast.__enter__ = self._enter  # type: ignore[method-assign]

    def _entered(self, enter: Any) -> Any:
        def entered(context: Any) -> Any:
            measuring = self._measuring.get(threading.get_ident())
            if not measuring or not context._enabled:
                return enter(context)
            for precision in measuring:
                precision.cast_inside.add(context.fast_dtype)
            context._enabled = False
            try:
                return enter(context)
            finally:
                context._enabled = True  # the same object may be entered again later, as a decorator is

        return entered


_AUTOCAST = _Autocast()


@contextlib.contextmanager
def own_precision(
    parameters: Iterable[Tensor], devices: Iterable[torch.device], notes: list[str]
) -> Iterator[Precision]:
    """Switch autocast off inside, also where the model itself would switch it on, and say so in ``notes``.

    Raises
    ------
    FlowError
        The model fails for a reason of types that only autocast made good.
    """
    precision = Precision(parameters)
    active = _active(devices)
    precision.cast |= {torch.get_autocast_dtype(kind) for kind in active}
    before = set(notes)
    try:
        with contextlib.ExitStack() as stack:
            for kind in active:
                stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(_AUTOCAST.off(precision))
            yield precision
    except Exception as error:
        failure = precision.failure(error)
        if failure is None:
            raise
        raise failure from error
    finally:
        notes += [note for note in precision.notes() if note not in before]


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Switch autocast off inside, for arithmetic of our own."""
    with contextlib.ExitStack() as stack:
        for kind in _active(()):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _active(devices: Iterable[torch.device]) -> list[str]:
    """Kinds of devices, of these and those this machine has, on which autocast is active."""
    kinds = {"cpu", *(device.type for device in devices)}
    accelerator = torch.accelerator.current_accelerator()
    kinds |= {accelerator.type} if accelerator is not None else set()
    return sorted(kind for kind in kinds if _is_active(kind))


def _is_active(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except RuntimeError:  # a device that has no autocast
        return False
