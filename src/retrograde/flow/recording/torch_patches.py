"""Features of torch that are switched off while a gradient is measured: checkpoints, compiled code and autocast.

An activation checkpoint (``torch.utils.checkpoint``) saves memory in training. A measurement cannot see through it: a
reentrant one runs its layers without a graph and again, unseen, in the backward pass; the other kind refuses more than
one backward pass. The gradient is the same without it.

Compiled code runs no hooks of the modules inside it, so the model runs as it is written.

A measurement runs in the model's own precision, so ``torch.autocast`` is off, and the notes of the result say so.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.utils.checkpoint import CheckpointError, CheckpointFunction

from ... import _torch_private
from ...errors import FlowError, RetrogradeError

_CHECKPOINT: Any = torch.utils.checkpoint
_GENERATOR = _torch_private.CHECKPOINT_GENERATOR
_HALF = (torch.float16, torch.bfloat16)


class _Patch:
    """A change to torch that is in place while any thread measures, and takes effect in those threads only.

    ``install`` makes the change and returns what undoes it.
    """

    def __init__(self, install: Callable[[], Callable[[], None]]) -> None:
        self._install, self._lock = install, threading.Lock()
        self._users: list[tuple[int, Any]] = []
        self._undo: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def active(self, value: Any = None) -> Iterator[None]:
        """In this thread, inside the block."""
        user = threading.get_ident(), value
        with self._lock:
            if not self._users:
                self._undo = self._install()
            self._users.append(user)
        try:
            yield
        finally:
            with self._lock:
                self._users.remove(user)
                if not self._users:
                    self._undo()

    def values(self) -> list[Any]:
        """What this thread passed to the blocks it is in."""
        return [value for thread, value in self._users if thread == threading.get_ident()]


# --- Activation checkpoints -------------------------------------------------------------------------------------------


def _patch_checkpoints() -> Callable[[], None]:
    apply, generator = CheckpointFunction.apply, _torch_private.checkpoint_generator

    def applied(run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return run(*args) if _NO_CHECKPOINTS.values() else apply(run, preserve, *args)  # type: ignore[no-untyped-call]

    def generated(
        run: Callable[..., Any], preserve: bool = True, contexts: Any = None, *args: Any, **kwargs: Any
    ) -> Iterator[None]:
        contexts = contexts or _CHECKPOINT.noop_context_fn
        if _NO_CHECKPOINTS.values():
            with contexts()[0]:
                yield
        else:
            assert generator is not None
            yield from generator(run, preserve, contexts, *args, **kwargs)

    def undo() -> None:
        del CheckpointFunction.apply  # it inherits the original
        if generator is not None:
            setattr(_CHECKPOINT, _GENERATOR, generator)

    CheckpointFunction.apply = applied  # type: ignore[method-assign]
    if generator is not None:
        setattr(_CHECKPOINT, _GENERATOR, generated)
    return undo


_NO_CHECKPOINTS = _Patch(_patch_checkpoints)


@contextlib.contextmanager
def without_checkpoints() -> Iterator[None]:
    """Disable activation checkpointing inside.

    Raises FlowError if the model has checkpoints that are not torch's.
    """
    try:
        with _NO_CHECKPOINTS.active():
            yield
    except RuntimeError as error:
        if not isinstance(error, CheckpointError) and "torch.utils.checkpoint is incompatible" not in str(error):
            raise
        raise FlowError(
            "The model recomputes parts in the backward pass (activation checkpointing): disable that while its "
            "gradient is measured."
        ) from None


# --- Compiled code ----------------------------------------------------------------------------------------------------


def _patch_compile() -> Callable[[], None]:
    original = torch.compile

    def compiled(*args: Any, **kwargs: Any) -> Any:
        if not args and kwargs.get("model") is None:  # a decorator with options
            return functools.partial(compiled, **kwargs)
        result = original(*args, **kwargs)
        for stack in _COMPILE.values():
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        return result

    def undo() -> None:
        torch.compile = original

    torch.compile = compiled
    return undo


_COMPILE = _Patch(_patch_compile)


@contextlib.contextmanager
def without_compiled_code() -> Iterator[None]:
    """Inside, what is compiled runs as it is written.

    Saying so to torch imports its compiler, which takes longer than most measurements: only where something is
    compiled.
    """
    with contextlib.ExitStack() as stack:
        if _torch_private.compiler_is_imported():
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        else:
            stack.enter_context(_COMPILE.active(stack))
        yield


# --- Autocast ---------------------------------------------------------------------------------------------------------


class Precision:
    """The types that a measurement runs in.

    Attributes
    ----------
    cast : set of torch.dtype
        The types autocast was active in around the measurement.
    cast_inside : set of torch.dtype
        Those that the model itself switched on (``with torch.autocast(...)`` in its forward, or as a decorator).
    own : list of torch.dtype
        Floating-point types of the model's parameters, the most common first.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.cast: set[torch.dtype] = set()
        self.cast_inside: set[torch.dtype] = set()
        count = Counter(parameter.dtype for parameter in parameters if parameter.is_floating_point())
        self.own = [dtype for dtype, _ in count.most_common()]

    def given(self, value: Any) -> Any:
        """An input in the model's precision: autocast would have accepted a lower one."""
        if isinstance(value, Tensor):
            lower = self.cast and self.own and value.dtype in _HALF and self.own[0] not in _HALF
            return value.to(self.own[0]) if lower else value
        if isinstance(value, dict):
            return {key: self.given(item) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.given, value))
        return type(value)(map(self.given, value)) if type(value) in (list, tuple) else value

    def notes(self) -> list[str]:
        """Notes about autocast."""
        own, found = _names(self.own[:1]) or "float32", []
        if self.cast:
            found.append(f"autocast was active ({_names(self.cast)}); measured in {own}, without it")
        if self.cast_inside - self.cast:
            found.append(f"the model switches autocast on ({_names(self.cast_inside)}); measured in {own}, without it")
        return found

    def failure(self, error: Exception) -> FlowError | None:
        """The error to raise where types are the reason and torch's own message does not say what to do."""
        if isinstance(error, RetrogradeError) or not isinstance(error, (RuntimeError, ValueError, TypeError)):
            return None
        line = (str(error).strip().splitlines() or [""])[0].split(". ")[0].rstrip(".")
        words = line.lower()
        cast = sorted(self.cast | self.cast_inside, key=str)
        if cast and any(word in words for word in ("dtype", "scalar type", "same type", "have the type")):
            own = _names(self.own[:1]) or "float32"
            return FlowError(
                f"autocast ({_names(cast)}) is switched off while the gradient is measured, in {own}, and without it "
                f"the model mixes types ({line}): leave out its own casts to {_names(cast)}, or measure a copy made "
                f"with .to({cast[0]})."
            )
        if any(dtype in _HALF for dtype in self.own) and "not implemented for" in words:
            return FlowError(
                f"{_names(self.own[:1])} cannot be measured on this device ({line}): measure a copy of the model in "
                "float32, made with .float()."
            )
        return None


def _names(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _patch_autocast() -> Callable[[], None]:
    enter: Any = torch.autocast.__enter__

    def entered(context: Any) -> Any:
        measuring = _NO_AUTOCAST.values()
        if not measuring or not context._enabled:
            return enter(context)
        for precision in measuring:
            precision.cast_inside.add(context.fast_dtype)
        context._enabled = False
        try:
            return enter(context)
        finally:
            context._enabled = True  # the same object may be entered again later, as a decorator is

    torch.autocast.__enter__ = entered  # type: ignore[method-assign]
    return lambda: setattr(torch.autocast, "__enter__", enter)


_NO_AUTOCAST = _Patch(_patch_autocast)


@contextlib.contextmanager
def own_precision(
    parameters: Iterable[Tensor], devices: Iterable[torch.device], notes: list[str]
) -> Iterator[Precision]:
    """Disable autocast inside, also where the model itself would enable it, and say so in ``notes``.

    Raises FlowError if the model mixes types, which only works under autocast.
    """
    precision = Precision(parameters)
    precision.cast |= {torch.get_autocast_dtype(kind) for kind in _active(devices)}
    before = set(notes)
    try:
        with without_autocast(devices), _NO_AUTOCAST.active(precision):
            yield precision
    except Exception as error:
        failure = precision.failure(error)
        if failure is None:
            raise
        raise failure from error
    finally:
        notes += [note for note in precision.notes() if note not in before]


@contextlib.contextmanager
def without_autocast(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Disable autocast inside."""
    with contextlib.ExitStack() as stack:
        for kind in _active(devices):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _active(devices: Iterable[torch.device]) -> list[str]:
    """Kinds of devices, of these and those this machine has, on which autocast is active."""
    kinds = {"cpu", *(device.type for device in devices)}
    # Without one, torch 2.6 raises, and later versions return None.
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kinds |= {accelerator.type} if accelerator is not None else set()
    return sorted(kind for kind in kinds if _is_active(kind))


def _is_active(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except RuntimeError:  # a device without autocast
        return False
