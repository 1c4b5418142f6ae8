"""What torch's tools are told about the layers.

``torch.compile`` refuses every subclass of ``torch.nn.RNN``, ``GRU`` and ``LSTM``, because their operators would be
unrolled over time. On the engine's path ours are one operator, which belongs in the graph; on
torch's path a call breaks the graph, as torch.nn's own layers do.

Programs that leave the process (``torch.export``, ONNX, ``torch.jit``) have torch's own operators in them, so that
they run where this package is not installed. Tools that know torch.nn's layers by their class (``torch.jit.script``,
``torch.fx``, ``torch.ao.quantization``) see layers of torch.nn's classes for as long as they look.
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

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["admit_to_graphs", "breaks_graph", "exporting", "show_torchs_classes"]

_BUILDER = "torch._dynamo.variables.builder"  # where the refusal is


def admit_to_graphs(layer: type[torch.nn.Module]) -> None:
    """Have ``torch.compile`` trace into modules of type `layer`, now or as soon as it is imported."""

    def admit(builder: ModuleType) -> None:
        wrap_module = builder.VariableBuilder.wrap_module

        def wrap(self: Any, value: torch.nn.Module) -> Any:
            if not isinstance(value, layer):
                return wrap_module(self, value)
            with torch._dynamo.config.patch(allow_rnn=True):  # for this module, and no other
                return wrap_module(self, value)

        builder.VariableBuilder.wrap_module = wrap

    _once_imported(_BUILDER, admit)


# Every function through which a tool looks at a model's classes: the module it is in, its owner there if that is not
# the module, and its name. The names are private to torch (seen in 2.13); where one is missing, that
# tool sees our classes.
_LOOK_AT_CLASSES = (
    ("torch.jit._recursive", None, "create_script_module"),
    ("torch.fx._symbolic_trace", "Tracer", "trace"),
    ("torch.ao.quantization.quantize", None, "propagate_qconfig_"),
    ("torch.ao.quantization.quantize", None, "_add_observer_"),
    ("torch.ao.quantization.quantize", None, "_convert"),
    ("torch.ao.quantization.quantize_fx", None, "_prepare_fx"),
    ("torch.ao.quantization.quantize_fx", None, "_convert_fx"),
)


def show_torchs_classes(
    as_torch: Callable[[object], AbstractContextManager[None]], original_class: Callable[[type], type]
) -> None:
    """Have torch's tools look at models within ``as_torch(model)``, and at ``original_class(c)`` of a class ``c``."""

    def keyed(given: Any) -> Any:
        """A dictionary by class (as ``qconfig_spec``), by torch's classes where it has ours."""
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

    for module, owner, name in _LOOK_AT_CLASSES:
        _once_imported(module, functools.partial(wrap, owner=owner, name=name))


def _once_imported(name: str, action: Callable[[ModuleType], None]) -> None:
    if name in sys.modules:
        action(sys.modules[name])
    else:  # importing torch._dynamo takes as long as torch itself: wait until someone does
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
    """Whether ``torch.compile`` is tracing, and may leave its graph for a while (an export may not)."""
    return torch.compiler.is_dynamo_compiling() and not _is_exporting()


def exporting() -> bool:
    """Whether this call is recorded for a program that leaves the process."""
    return torch._C._get_tracing_state() is not None or _is_exporting()


def _never() -> bool:
    return False


_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", _never)  # new in torch 2.7
