"""Change the class of a layer from torch.nn's to ours and back; the object stays the same.

A layer of exactly ``torch.nn.LSTM`` becomes ``retrograde.nn.LSTM``. A layer of a user's subclass becomes an instance of
a new class that inherits from both: the user's methods first, then our forward pass. There is one such class for each
subclass; it has the subclass's name, and pickles contain the subclass it is made from.

Tests: tests/nn/test_acceleration.py
"""

from __future__ import annotations

import copyreg
import weakref
from abc import ABCMeta
from contextlib import contextmanager, suppress
from types import new_class
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from .. import _torch_private
from .compilation import show_torchs_classes
from .layers import GRU, LSTM, RNN, Recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS: dict[type, type[Recurrent]] = {torch.nn.RNN: RNN, torch.nn.GRU: GRU, torch.nn.LSTM: LSTM}
_TORCHS: dict[type, type[torch.nn.RNNBase]] = {RNN: torch.nn.RNN, GRU: torch.nn.GRU, LSTM: torch.nn.LSTM}

# A subclass that overrides one of these is skipped: our forward pass replaces torch's and calls none of them.
_RELIED_ON = (
    "__getattribute__",
    "__setattr__",
    "_flat_weights",
    "_flat_weights_names",
    "_init_flat_weights",
    "_update_flat_weights",
    "_weights_have_changed",
    "check_forward_args",
    "check_hidden_size",
    "check_input",
    "flatten_parameters",
    "get_expected_hidden_size",
    "permute_hidden",
)
# So is one whose forward does not pass on to super().forward. Nor may one of these be replaced on a single layer.
_RELIED_ON_IN_INSTANCES = ("forward", "check_forward_args", "check_hidden_size", "check_input", "permute_hidden")
# Names that our forward pass uses in addition to torch's.
_OUR_NAMES = ("_accelerated", "_as_given", "_call", "_state_as_given", "recompute")


# ---- classes made for subclasses -----------------------------------------------------------------------------


class _Combining(type):
    """Metaclass of the classes that are made here, so that pickle can find them."""


class _CombiningABC(_Combining, ABCMeta):
    """The same for abstract subclasses."""


_METACLASSES: dict[type, type[_Combining]] = {type: _Combining, ABCMeta: _CombiningABC}
_COMBINED: weakref.WeakKeyDictionary[type, weakref.ref[type[Recurrent]]] = weakref.WeakKeyDictionary()


def _combined(theirs: type) -> type[Recurrent]:
    """The class that is `theirs` with our forward pass; made on first use."""
    reference = _COMBINED.get(theirs)
    made = reference() if reference is not None else None
    if made is None:
        ours = next(_OURS[cls] for cls in theirs.__mro__ if cls in _OURS)

        def fill(body: dict[str, Any]) -> None:
            body["__module__"], body["__qualname__"] = theirs.__module__, theirs.__qualname__
            body["__doc__"] = theirs.__doc__
            body["_original"], body["_accelerated"] = theirs, True

        made = new_class(theirs.__name__, (theirs, ours), {"metaclass": _METACLASSES[type(theirs)]}, fill)
        _COMBINED[theirs] = weakref.ref(made)
    return made


def _reduce(cls: type) -> str | tuple[Any, ...]:
    """How a class of these metaclasses is pickled: one that was made here by the class it was made from."""
    return (_combined, (vars(cls)["_original"],)) if "_original" in vars(cls) else cls.__qualname__


for _metaclass in (_Combining, _CombiningABC):
    copyreg.pickle(_metaclass, _reduce)


# ---- may it be changed? ----------------------------------------------------------------------------------------


def reason_to_skip(layer: torch.nn.RNNBase) -> str | None:
    """Why `layer` cannot become one of ours, in one line; None if it can, or is one."""
    if isinstance(layer, Recurrent):
        return None
    cls = type_before_parametrizations(layer)
    for name in _RELIED_ON_IN_INSTANCES:
        if name in vars(layer):
            return f"{name} was replaced on this one layer"
    for name in _OUR_NAMES:
        if name in vars(layer):
            return f"it has an attribute {name}, a name that our layers use themselves"
    if cls in _OURS:
        return None
    base = next((c for c in cls.__mro__ if c in _OURS), None)
    if base is None:
        return "it is neither a torch.nn.RNN, a GRU nor an LSTM"
    if isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params():
        return "its parameters have no shape yet; call the model once, then accelerate_ it"
    theirs = [c for c in cls.__mro__ if c not in base.__mro__]
    for each in theirs:
        if "forward" in vars(each) and not _passes_on(vars(each)["forward"]):
            return f"{each.__name__} has its own forward, which our forward pass would bypass or misread"
    for name in (*_RELIED_ON, *_OUR_NAMES):
        owner = next((c for c in cls.__mro__ if name in vars(c)), None)
        if owner in theirs:
            return f"{owner.__name__} has its own {name}, which our forward pass would bypass or misread"
    if type(cls) not in _METACLASSES:
        return f"{cls.__name__} has the metaclass {type(cls).__name__}, which may change a class made from it"
    if any("__init_subclass__" in vars(owner) for owner in theirs if owner is not Generic):
        return f"{cls.__name__} has __init_subclass__, which would run for the class that has to be made from it"
    try:
        _combined(cls)
    except TypeError as error:
        return f"no class can inherit from both {cls.__name__} and ours: {error}"
    return None


def _passes_on(forward: Any) -> bool:
    """Whether a method calls ``super().forward`` and reads nothing that only torch's forward pass has."""
    code = getattr(forward, "__code__", None)
    if code is None or "__class__" not in code.co_freevars:
        return False
    names = set(code.co_names)
    return {"super", "forward"} <= names and not names & _torch_private.READ_BY_FORWARD


# ---- the changes -----------------------------------------------------------------------------------------------


def was_accelerated(layer: torch.nn.Module) -> bool:
    """Whether `layer` was made one of ours by accelerate_, not built as one."""
    return bool(getattr(layer, "_accelerated", False)) and isinstance(layer, Recurrent)


def to_engine(layer: torch.nn.RNNBase) -> None:
    """Make `layer`, for which :func:`reason_to_skip` is None, one of ours."""
    cls, base = type(layer), type_before_parametrizations(layer)
    target = _OURS.get(base) or _combined(base)
    if is_parametrized(layer):
        # torch gave the layer its own class, a subclass that computes the weights
        target = _with_body_of(cls, (target,))
    layer.__class__ = target
    vars(layer).pop("_flat_weights", None)
    layer.__dict__["_flat_weight_refs"] = []  # torch's constructor and pickles have it
    if base in _OURS:
        layer.__dict__["_accelerated"] = True


def to_torch(layer: torch.nn.Module) -> None:
    """Make `layer`, one of ours, torch.nn's (or the user's subclass) again."""
    target = original_class(type(layer))
    # torch.nn reads a list of its weights, which must contain the present ones
    layer.__dict__["_flat_weights"] = weights = [_stored(layer, name) for name in layer._flat_weights_names]  # type: ignore[union-attr]
    before = layer.__dict__.get("_flat_weight_refs", [])
    layer.__dict__["_flat_weight_refs"] = [weakref.ref(w) if w is not None else None for w in weights]
    try:
        layer.__class__ = target
    except TypeError:  # a class with __slots__ that was made like another one
        del layer.__dict__["_flat_weights"]
        layer.__dict__["_flat_weight_refs"] = before
        raise
    for ours in ("_accelerated", "recompute"):
        layer.__dict__.pop(ours, None)


def _stored(layer: torch.nn.Module, name: str) -> Any:
    """The stored weight; nothing is computed, because that may change a parametrization's state."""
    if layer._parameters.get(name) is not None:
        return layer._parameters[name]
    if is_parametrized(layer, name):
        return next(layer.parametrizations[name].parameters(), None)  # type: ignore[index,union-attr]
    return vars(layer).get(name)  # pruned, or removed by hand


def original_class(cls: type) -> type:
    """The class of a layer before acceleration: torch.nn's, the user's, or a class made like it."""
    theirs: type | None = _TORCHS.get(cls) or vars(cls).get("_original")
    if theirs is not None:
        return theirs
    if not issubclass(cls, Recurrent):
        return cls
    made: type = _with_body_of(cls, tuple(original_class(base) for base in cls.__bases__))
    return made


def _with_body_of(cls: type, bases: tuple[type, ...]) -> Any:
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__", "__slots__")}
    return new_class(cls.__name__, bases, {}, lambda namespace: namespace.update(body))


@contextmanager
def as_torch(module: object) -> Iterator[None]:
    """Make every layer of ours in `module` torch.nn's inside the block, for tools that recognize layers by class."""
    changed: list[tuple[torch.nn.Module, type, dict[str, Any]]] = []
    try:
        if isinstance(module, torch.nn.Module):
            for layer in [m for m in module.modules() if isinstance(m, Recurrent)]:
                cls: type = type(layer)
                kept = {name: vars(layer)[name] for name in _OWN_STATE if name in vars(layer)}
                with suppress(TypeError):
                    to_torch(layer)
                    changed.append((layer, cls, kept))
        yield
    finally:
        for changed_layer, cls, kept in changed:
            changed_layer.__class__ = cls
            for name in ("_flat_weights", *_OWN_STATE):
                changed_layer.__dict__.pop(name, None)
            changed_layer.__dict__.update(kept)


_OWN_STATE = ("_flat_weight_refs", "_accelerated", "recompute")


show_torchs_classes(as_torch, original_class)
