"""Every name of torch that this package uses and that torch does not document: the only file that may name them.

Each was seen in torch 2.6 and in torch 2.13. `NAMES` says what happens if a later version no longer has one: a slower
way with the same result, or a refusal in one line; never a wrong number. Other modules call the functions here through
the module (``_torch_private.storage_users(s)``), and a test takes each name away in turn.

Attributes of public objects that have no public name are listed in `ATTRIBUTES`; a test checks that each exists.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.autograd.forward_ad
import torch.func
import torch.overrides
import torch.utils.checkpoint

from .errors import FlowError

_FLOW = "gradient_flow refuses to measure"
_ENGINE = "the layers compute through torch's operators"
NAMES = {  # name: what happens without it
    "torch._C.DisableTorchFunction": _FLOW,
    "torch._C.DisableTorchFunctionSubclass": _FLOW,
    "torch._C._set_grad_enabled": _FLOW,
    "torch._C._autograd._unsafe_set_version_counter": _FLOW,
    "torch.utils.checkpoint._checkpoint_without_reentrant_generator": "gradient_flow refuses models with checkpoints",
    "torch._C._len_torch_function_stack": f"{_ENGINE}; {_FLOW}",
    "torch.overrides._get_current_function_mode_stack": f"{_ENGINE}; {_FLOW}",
    "torch._C._are_functorch_transforms_active": _ENGINE,
    "torch.autograd.forward_ad._current_level": _ENGINE,
    "torch._C._len_torch_dispatch_stack": "the engine is always called through its torch.library operator",
    "torch._C._functorch.is_batchedtensor": "gradients are computed by the equations in torch's operators",
    "torch._C._functorch.is_legacy_batchedtensor": "gradients are computed by the equations in torch's operators",
    "torch._C._storage_Use_Count": "training steps do not use their memory again",
}
# Of modules that are imported only when a tool needs them: the module, and the class and function in it.
COMPILER = "torch._dynamo"  # imported once something is compiled
BUILDER = ("torch._dynamo.variables.builder", "VariableBuilder", "wrap_module")  # without it, layers break the graph
# The functions through which tools look at a model's classes; without one, its tool sees our classes.
LOOK_AT_CLASSES = (
    ("torch.jit._recursive", None, "create_script_module"),
    ("torch.fx._symbolic_trace", "Tracer", "trace"),
    ("torch.ao.quantization.quantize", None, "propagate_qconfig_"),
    ("torch.ao.quantization.quantize", None, "_add_observer_"),
    ("torch.ao.quantization.quantize", None, "_convert"),
    ("torch.ao.quantization.quantize_fx", None, "_prepare_fx"),
    ("torch.ao.quantization.quantize_fx", None, "_convert_fx"),
)
# A subclass of torch's layers whose forward reads one of these computes its steps itself.
READ_BY_FORWARD = frozenset(("_VF", "_flat_weights", "_flat_weight_refs", "all_weights", "_all_weights"))
ATTRIBUTES = {  # class of torch: attributes of its objects
    "Tensor": ("_version", "_base", "_backward_hooks"),
    "UntypedStorage": ("_cdata",),
    "Module": (
        *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks"),
        "_backward_pre_hooks",
    ),
    "RNNBase": (
        *("_flat_weights", "_flat_weights_names", "_flat_weight_refs", "_init_flat_weights", "_update_flat_weights"),
        "_weights_have_changed",
    ),
}


def _find(name: str) -> Any:
    """The object of a dotted name, or None."""
    found: Any = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    return found


_MISSING = frozenset(name for name in NAMES if _find(name) is None)


def _first_missing(what: str) -> str | None:
    return next((name for name, without in NAMES.items() if name in _MISSING and what in without), None)


def _lacking(what: str) -> str | None:
    name = _first_missing(what)
    return None if name is None else f"torch {torch.__version__} has no {name}, which retrograde needs"


LACKING_FOR_ENGINE = _lacking(_ENGINE)


def check_flow() -> None:
    """Refuse to measure if a name is missing that a measurement needs.

    Raises FlowError.
    """
    if (reason := _lacking(_FLOW)) is not None:
        raise FlowError(f"{reason} to measure the gradient flow: install a version from 2.6 to 2.13.")


# ---- torch function modes and transforms -------------------------------------------------------------------------

_functions_off: Callable[[], AbstractContextManager[None]] = _find("torch._C.DisableTorchFunction")
no_tensor_subclasses: Callable[[], AbstractContextManager[None]] = _find("torch._C.DisableTorchFunctionSubclass")
SET_GRAD_ENABLED: object = _find("torch._C._set_grad_enabled")  # what a torch function mode sees of torch.no_grad()
functorch_active: Callable[[], bool] = _find("torch._C._are_functorch_transforms_active") or (lambda: True)
_count_modes: Callable[[], int] = _find("torch._C._len_torch_function_stack") or (lambda: 1)
_modes: Callable[[], list[Any]] | None = _find("torch.overrides._get_current_function_mode_stack")
_count_dispatch: Callable[[], int] = _find("torch._C._len_torch_dispatch_stack") or (lambda: 1)
_batched = tuple(_find(f"torch._C._functorch.{name}") for name in ("is_batchedtensor", "is_legacy_batchedtensor"))


def no_torch_functions() -> AbstractContextManager[None]:
    """Switch torch functions off inside the block."""
    if (
        COMPILER in torch.func.vmap.__code__.co_names
    ):  # torch 2.6: its first call imports the compiler, which needs them
        import_module(COMPILER)
    return _functions_off()


def function_mode_needs_operators() -> bool:
    """Whether a torch function mode is active that has to see torch's own operators; True if nothing tells."""
    if _count_modes() == 0:
        return False
    return _modes is None or any(getattr(mode, "needs_torch_operators", False) for mode in _modes())


def function_mode_with(method: str) -> Any:
    """The innermost active torch function mode with a method of that name; None without one, or if nothing tells."""
    if _count_modes() == 0 or _modes is None:
        return None
    return next((mode for mode in reversed(_modes()) if hasattr(mode, method)), None)


def forward_mode_active() -> bool:
    """Whether this runs inside ``torch.autograd.forward_ad.dual_level``; True if nothing tells."""
    return bool(getattr(torch.autograd.forward_ad, "_current_level", 0) >= 0)


def dispatch_mode_active() -> bool:
    """Whether a torch dispatch mode is active (as of tracers); True if nothing tells."""
    return _count_dispatch() > 0


def is_batched(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of ``torch.vmap``'s, without memory of its own; True if nothing tells."""
    return any(test is None or test(tensor) for test in _batched)


# ---- memory and versions -----------------------------------------------------------------------------------------

_use_count = _find("torch._C._storage_Use_Count")
_set_versions = _find("torch._C._autograd._unsafe_set_version_counter")


def storage_users(storage: torch.UntypedStorage) -> int:
    """How many objects refer to the memory; 2 if nothing tells, so that it counts as in use."""
    return 2 if _use_count is None else int(_use_count(storage._cdata))


def set_version(tensor: torch.Tensor, version: int) -> None:
    """Set the version counter of a tensor, whose values are those of that version again."""
    try:
        _set_versions((tensor,), (version,))
    except TypeError:  # torch 2.6 takes one at a time
        _set_versions(tensor, version)


# ---- torch.compile and checkpoints -------------------------------------------------------------------------------


def compiler_is_imported() -> bool:
    """Whether something may have been compiled; always, if the compiler's module has another name."""
    return COMPILER in sys.modules or find_spec(COMPILER) is None


def rnns_allowed_in_graphs() -> AbstractContextManager[None]:
    """Let ``torch.compile`` trace into an RNN inside the block."""
    allowed: AbstractContextManager[None] = torch._dynamo.config.patch(allow_rnn=True)
    return allowed


CHECKPOINT_GENERATOR = "_checkpoint_without_reentrant_generator"  # its name in torch.utils.checkpoint
checkpoint_generator: Any = _find(f"torch.utils.checkpoint.{CHECKPOINT_GENERATOR}")  # None if it is missing
