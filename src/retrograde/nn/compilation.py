"""What ``torch.compile`` is told about the layers.

It refuses every subclass of ``torch.nn.RNN``, ``GRU`` and ``LSTM``, because their operators would be
unrolled over time. On the engine's path ours are one operator, which belongs in the graph; on
torch's path a call breaks the graph, as torch.nn's own layers do.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["admit_to_graphs", "breaks_graph"]

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

    if _BUILDER in sys.modules:
        admit(sys.modules[_BUILDER])
    else:  # importing torch._dynamo takes as long as torch itself: wait until someone does
        sys.meta_path.insert(0, _AfterImport(_BUILDER, admit))


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
    return torch.compiler.is_dynamo_compiling() and not getattr(torch.compiler, "is_exporting", lambda: False)()
