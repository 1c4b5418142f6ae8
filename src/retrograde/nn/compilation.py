"""How the layers work with ``torch.compile``, ``torch.export``, ``torch.jit``, ``torch.fx`` and quantization.

``torch.compile`` refuses every subclass of ``torch.nn.RNN``, ``GRU`` and ``LSTM``, because it would unroll their
operators over time. In the engine our layers are one operator, which belongs in the graph; on torch's path a call
breaks the graph, as a call of torch.nn's layers does.

Exported programs (``torch.export``, ONNX, ``torch.jit``) contain torch's own operators, so that they run where this
package is not installed. Tools that recognize torch.nn's layers by their class (``torch.jit.script``, ``torch.fx``,
``torch.ao.quantization``) see layers of torch.nn's classes while they inspect a model.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from .. import _torch_private

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def admit_to_graphs(layer: type[torch.nn.Module]) -> None:
    """Have ``torch.compile`` trace into modules of type `layer`, now, or as soon as its code is imported."""
    module, owner, name = _torch_private.BUILDER

    def admit(builder: ModuleType) -> None:
        place = getattr(builder, owner, None)
        wrap_module = getattr(place, name, None)
        if wrap_module is None:
            return

        def wrap(self: Any, value: torch.nn.Module) -> Any:
            if not isinstance(value, layer):
                return wrap_module(self, value)
            with _torch_private.rnns_allowed_in_graphs():  # for this module, and no other
                return wrap_module(self, value)

        setattr(place, name, wrap)

    _once_imported(module, admit)


def show_torchs_classes(
    as_torch: Callable[[object], AbstractContextManager[None]], original_class: Callable[[type], type]
) -> None:
    """Let torch's tools see models inside ``as_torch(model)``, and ``original_class(c)`` in place of a class ``c``."""

    def keyed(given: Any) -> Any:
        """A dictionary by class (as ``qconfig_spec``), with torch's classes in place of ours."""
        if type(given) is not dict or not any(isinstance(key, type) for key in given):
            return given
        return {original_class(k) if isinstance(k, type) else k: v for k, v in given.items()}

    def wrap(home: ModuleType, owner: str | None, name: str) -> None:
        place = home if owner is None else getattr(home, owner, None)
        looks = getattr(place, name, None)
        if looks is None:
            return

        @functools.wraps(looks)
        def looks_as_torch(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                for given in (*args, *kwargs.values()):
                    if isinstance(given, torch.nn.Module):
                        stack.enter_context(as_torch(given))
                return looks(*map(keyed, args), **{name: keyed(given) for name, given in kwargs.items()})

        setattr(place, name, looks_as_torch)

    for module, owner, name in _torch_private.LOOK_AT_CLASSES:
        _once_imported(module, functools.partial(wrap, owner=owner, name=name))


def _once_imported(name: str, action: Callable[[ModuleType], None]) -> None:
    if name in sys.modules:
        action(sys.modules[name])
    else:  # importing torch.compile's code takes as long as torch itself: wait until it is imported
        sys.meta_path.insert(0, _AfterImport(name, action))


class _AfterImport(MetaPathFinder):
    """Runs `action` on the module `name` once it has been imported."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self.name, self.action = name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_act(module: ModuleType) -> None:
                load(module)
                self.action(module)

            spec.loader.exec_module = load_and_act  # type: ignore[method-assign]
        return spec


def breaks_graph() -> bool:
    """Whether ``torch.compile`` is tracing and can break its graph (an export cannot)."""
    return torch.compiler.is_dynamo_compiling() and not _is_exporting()


def exporting() -> bool:
    """Whether this call is recorded for an exported program."""
    return tracing() or _is_exporting()


def tracing() -> bool:
    """Whether ``torch.jit.trace`` records this call."""
    return torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call, no-any-return]


def _never() -> bool:
    return False


_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", _never)  # new in torch 2.7
