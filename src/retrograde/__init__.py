"""Recurrent networks whose gradient you can see.

``rg.nn`` trains them fast, ``rg.gradient_flow`` measures how the gradient travels
through time, ``rg.reference`` is the mathematics in plain NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what __getattr__ below brings, for type checkers and editors
    from . import errors, flow, gradcheck, integrations, kernels, nn, reference, report, tasks, training
    from .flow import GradientFlow, GradientFlowRecorder, gradient_flow, sequence_gradients
    from .gradcheck import GradientCheck, check_gradients
    from .nn import mark_state

__all__ = [
    "GradientCheck",
    "GradientFlow",
    "GradientFlowRecorder",
    "__version__",
    "check_gradients",
    "errors",
    "flow",
    "gradcheck",
    "gradient_flow",
    "integrations",
    "kernels",
    "mark_state",
    "nn",
    "reference",
    "report",
    "sequence_gradients",
    "tasks",
    "training",
]
__version__ = "0.1.0"

# Parts are imported when first named, so that `retrograde --help` does not wait for torch.
_PARTS = {"errors", "flow", "gradcheck", "integrations", "kernels", "nn", "reference", "report", "tasks", "training"}
_HOME: dict[str, str] = {  # public name -> the part it lives in
    "GradientCheck": "gradcheck",
    "GradientFlow": "flow",
    "GradientFlowRecorder": "flow",
    "check_gradients": "gradcheck",
    "gradient_flow": "flow",
    "mark_state": "nn",
    "sequence_gradients": "flow",
}


def __getattr__(name: str) -> object:
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
