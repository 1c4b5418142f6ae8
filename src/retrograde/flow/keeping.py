"""Snapshots: everything that running a model may change, and how to put it back.

A model is more than its parameters. It may keep a hidden state in an attribute, a cache in a list, a counter in an
object, a generator of its own; a weight-drop wrapper replaces parameters at every call; and what is called may be a
bound method, a ``functools.partial`` or a closure around modules. ``Keeper`` walks all of that, remembers it, and
restores it exactly: the same objects with the same contents.
"""

from __future__ import annotations

import collections
import functools
import itertools
import operator
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Keeper", "tensors_in"]

# Objects of these packages are not looked into: they are no state of the user's model, and they lead everywhere.
_FOREIGN = frozenset(
    {
        *sys.stdlib_module_names,
        *("torch", "torchvision", "torchaudio", "numpy", "scipy", "pandas", "polars", "pyarrow", "sklearn", "datasets"),
        *(
            "lightning",
            "pytorch_lightning",
            "lightning_fabric",
            "accelerate",
            "ignite",
            "wandb",
            "mlflow",
            "tensorboard",
        ),
        *("jax", "tensorflow", "matplotlib", "plotly", "PIL", "tqdm", "rich", "pytest", "_pytest", "hypothesis"),
        *("retrograde", "IPython", "ipykernel"),
    }
)
_NEUTRAL = frozenset({"object", "Generic", "Protocol", "ABC", "SimpleNamespace"})
_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, slice, range)
_CALLABLES = (nn.Module, functools.partial, types.MethodType, types.FunctionType, weakref.ref)
_DEPTH = 6  # objects inside objects
_MOST = 20_000  # objects and containers that are looked into


class _Kept:
    """A tensor that stays the object it is: its values, flags and place in memory."""

    def __init__(self, tensor: Tensor, known: _Kept | None) -> None:
        with torch._C.DisableTorchFunctionSubclass():  # a lazy parameter refuses most questions
            self._take(tensor, known)

    def _take(self, tensor: Tensor, known: _Kept | None) -> None:
        self.tensor, self.type = tensor, type(tensor)
        self.was_leaf, self.requires_grad = tensor.is_leaf, tensor.requires_grad
        self.version = None if tensor.is_inference() else tensor._version
        self.data = tensor.data  # the same memory, another object
        self.grad = tensor.grad if tensor.is_leaf else None
        if self.grad is not None:
            tensor.grad = None  # out of the model's reach, and the same object afterwards
        self.value: Tensor | None = None
        if known is not None and known.version == self.version and _same_place(known.data, self.data):
            self.value = known.value  # a measurement inside a measurement: one copy serves both
        elif not tensor.is_meta and not nn.parameter.is_lazy(tensor):
            with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
                self.value = self.data.clone()

    def restore(self) -> None:
        """Make the tensor what it was."""
        with torch._C.DisableTorchFunctionSubclass():
            self._put_back(self.tensor)

    def _put_back(self, tensor: Tensor) -> None:
        if self.was_leaf and tensor.grad_fn is not None:
            tensor.detach_()
        with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
            if type(tensor) is not self.type:  # a lazy parameter that was given its shape
                tensor.data = self.data
                tensor.__class__ = self.type
            elif self.value is not None and not _same_place(tensor, self.data):
                tensor.data = self.data
            if self.value is not None and not self._is_for_others_to_write() and not _equal(self.data, self.value):
                self.data.copy_(self.value)
            if self.was_leaf and tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
        if self.was_leaf and tensor.grad is not self.grad:
            tensor.grad = self.grad
        if self.version is not None and tensor._version != self.version:
            # The values are those of that version again: a backward pass of the training may still need them.
            torch._C._autograd._unsafe_set_version_counter((tensor,), (self.version,))

    def _is_for_others_to_write(self) -> bool:
        """Whether other processes may have written new values meanwhile, this one having written none."""
        return _is_shared(self.tensor) and self.tensor._version == self.version


def _is_shared(tensor: Tensor) -> bool:
    try:
        return tensor.device.type == "cpu" and bool(tensor.is_shared()) and not tensor.is_inference()  # type: ignore[no-untyped-call]
    except (RuntimeError, NotImplementedError):  # such a tensor has no storage that processes could share
        return False


def _same_place(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or a.layout != b.layout:
        return False
    try:
        return a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    except (RuntimeError, NotImplementedError):  # sparse tensors and some subclasses have no address to compare
        return True


def _equal(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(a, b)
    except (RuntimeError, NotImplementedError):  # torch cannot compare these types: written back, as if they differed
        return False


class Keeper:
    """Remembers a model and everything within its reach; ``restore`` puts it back.

    Parameters
    ----------
    cut : bool
        Whether states that hang on an earlier graph are cut off it while the model runs (its parameters are constants
        then), or stay connected.
    outer : Keeper, optional
        Of a measurement around this one.
    looking : bool
        Only find the modules: nothing is remembered, and there is nothing to restore.

    Attributes
    ----------
    modules : list of Module
        All that were found, in the order of finding.
    roots : dict of Module
        Those that are part of no other, by where they were found: ``""``, ``"policy"``, ``"agent.net"``.
    """

    def __init__(self, *, cut: bool = True, outer: Keeper | None = None, looking: bool = False) -> None:
        self.cut, self.outer, self.looking = cut, outer, looking
        self.modules: list[nn.Module] = []
        self.roots: dict[str, nn.Module] = {}
        self.complete = True  # whether everything was looked at
        self._undo: list[Callable[[], object]] = []
        self._seen: dict[int, Any] = {}  # holds what it names, so that no id is used twice
        self._leaves: dict[int, _Kept] = {}
        self._stand_ins: dict[int, Tensor] = {}

    # --- What is known ------------------------------------------------------------------------------------------------

    def knows(self, module: nn.Module) -> bool:
        """Whether a module has been looked at."""
        return id(module) in self._seen

    @property
    def tensors(self) -> list[Tensor]:
        """Parameters, buffers and other tensors that are kept."""
        return [kept.tensor for kept in self._leaves.values()]

    def named(self) -> dict[str, nn.Module]:
        """The roots, without those that are part of another, and modules that no other has registered, by name."""
        parts = {id(part) for root in self.roots.values() for part in root.modules() if part is not root}
        found = {name: root for name, root in self.roots.items() if id(root) not in parts}
        covered = {id(part) for root in found.values() for part in root.modules()}
        for module in self.modules:
            if id(module) not in covered:
                name = next(n for i in itertools.count() if (n := f"module{i}") not in found)
                found[name] = module
                covered |= {id(part) for part in module.modules()}
        return found

    # --- Looking around -----------------------------------------------------------------------------------------------

    def keep(self, model: Any, path: str = "") -> None:
        """Look at a module or any other callable."""
        self._callable(model, path, 0)

    def keep_values(self, value: Any) -> None:
        """Keep the values of the tensors in a batch; the batch itself is not changed."""
        for tensor in tensors_in(value):
            self._leaf(tensor)

    def restore(self) -> None:
        """Put everything back; what fails does not keep the rest from it."""
        failure: BaseException | None = None
        for undo in reversed(self._undo):
            try:
                undo()
            except Exception as error:
                failure = failure or error
        self._undo.clear()
        if failure is not None:
            raise failure

    def _new(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        if len(self._seen) >= _MOST and not isinstance(value, nn.Module):
            self.complete = False
            return False
        self._seen[id(value)] = value
        return True

    def _callable(self, value: Any, path: str, depth: int) -> None:
        """What a call of ``value`` reaches: modules, what functions close over, what objects hold."""
        if depth > _DEPTH or isinstance(value, _PLAIN):
            return
        if isinstance(value, nn.Module):
            if id(value) not in self._seen:
                name = next(n for i in itertools.count() if (n := path if not i else f"{path}{i}") not in self.roots)
                self.roots[name] = value
            self._module(value)
        elif isinstance(value, functools.partial):
            if self._new(value):
                self._callable(value.func, path, depth + 1)
                for i, item in enumerate(value.args):
                    self._held(item, f"{path}[{i}]", depth + 1)
                for name, item in value.keywords.items():
                    self._held(item, _join(path, name), depth + 1)
        elif isinstance(value, types.MethodType):
            self._callable(value.__self__, path, depth + 1)
            if not isinstance(value.__self__, nn.Module):
                self._callable(value.__func__, path, depth + 1)
        elif isinstance(value, types.FunctionType):
            self._function(value, path, depth)
        elif isinstance(value, weakref.ref):
            self._callable(value(), path, depth + 1)
        elif isinstance(value, (staticmethod, classmethod)):
            self._callable(value.__func__, path, depth + 1)
        elif isinstance(value, type):
            self._class(value, path, depth)
        else:
            wrapped = getattr(value, "__wrapped__", None)  # of functools.lru_cache and other wrappers
            if wrapped is not None and wrapped is not value and callable(wrapped):
                self._callable(wrapped, path, depth + 1)
            self._held(value, path, depth)

    def _held(self, value: Any, path: str, depth: int) -> Any:
        """Something that a function or object holds; returns what is to stand in for it."""
        return self._value(value, path, depth, callables=True)

    def _function(self, function: types.FunctionType, path: str, depth: int) -> None:
        if not self._new(function) or _package(function.__module__) in _FOREIGN:
            return
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._cell(name, cell, path, depth)
        for i, value in enumerate(function.__defaults__ or ()):
            self._held(value, _join(path, f"default{i}"), depth + 1)
        for name, value in (function.__kwdefaults__ or {}).items():
            self._held(value, _join(path, name), depth + 1)
        if function.__dict__:
            self._mapping(function.__dict__, path, depth + 1, callables=True)
        names = set(_names(function.__code__))
        space = function.__globals__
        for name in sorted(names & space.keys()):
            value = space[name]
            if isinstance(value, types.ModuleType):  # ``models.net(x)``
                if _package(value.__name__) not in _FOREIGN:
                    for inner in sorted(names & vars(value).keys()):
                        if isinstance(vars(value)[inner], nn.Module):
                            self._callable(vars(value)[inner], inner, depth + 1)
            elif not isinstance(value, type):
                self._global(space, name, self._held(value, name, depth + 1))

    def _cell(self, name: str, cell: types.CellType, path: str, depth: int) -> None:
        if not self._new(cell):
            return
        try:
            before = cell.cell_contents
        except ValueError:  # empty as yet
            return
        now = self._held(before, _join(path, name), depth + 1)
        if now is not before:
            cell.cell_contents = now

        def undo() -> None:
            if cell.cell_contents is not before:
                cell.cell_contents = before

        self._undo.append(undo)

    def _global(self, space: dict[str, Any], name: str, now: Any) -> None:
        """A global that the function may set (``global h``)."""
        before = space[name]
        if now is not before:
            space[name] = now

        def undo() -> None:
            if space.get(name) is not before:
                space[name] = before

        self._undo.append(undo)

    def _class(self, value: type, path: str, depth: int) -> None:
        if self._new(value) and not _is_foreign(value):
            for name, item in list(vars(value).items()):
                if isinstance(item, nn.Module):
                    self._callable(item, _join(path, name), depth + 1)

    # --- Modules, objects, containers ---------------------------------------------------------------------------------

    def _module(self, module: nn.Module) -> None:
        if not self._new(module):
            return
        self.modules.append(module)
        if isinstance(module, torch.jit.ScriptModule):  # its attributes are torch's own
            self._undo.append(functools.partial(_set_mode, module, module.training))
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._leaf(tensor)
            for child in module.children():
                self._module(child)
            return
        self._class_of(module)
        self._mapping(module.__dict__, "", 0, callables=False)

    def _class_of(self, value: Any) -> None:
        kind = type(value)

        def undo() -> None:
            if type(value) is not kind:  # a lazy module that became what it stands for
                value.__class__ = kind

        self._undo.append(undo)

    def _value(self, value: Any, path: str, depth: int, *, callables: bool) -> Any:
        """Anything but a function; returns what is to stand in for it: itself, or a copy of a tensor in a graph."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, Tensor):
            return value if self.looking else self._tensor(value)
        if callables and isinstance(value, _CALLABLES):
            self._callable(value, path, depth)
            return value
        if isinstance(value, nn.Module):
            self._module(value)
            return value
        if isinstance(value, tuple):
            return self._tuple(value, path, depth, callables)
        if depth > _DEPTH or not self._new(value):
            return value
        if isinstance(value, dict):
            self._mapping(value, path, depth + 1, callables=callables)
        elif isinstance(value, (list, collections.deque)):
            self._sequence(value, path, depth + 1, callables)
        elif isinstance(value, set):
            self._set(value, path, depth + 1, callables)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif (keep := _generator(value)) is not None:
            self._undo.append(keep)
        elif not isinstance(value, (type, types.ModuleType)) and not _is_foreign(type(value)):
            self._object(value, path, depth + 1, callables)
        return value

    def _object(self, value: Any, path: str, depth: int, callables: bool) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._mapping(attributes, path, depth, callables=callables)
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    self._slot(value, name, path, depth, callables)
        if callables:
            for kind in type(value).__mro__:
                self._class(kind, path, depth)
                if isinstance(call := vars(kind).get("__call__"), types.FunctionType):
                    self._function(call, path, depth)

    def _slot(self, value: Any, name: str, path: str, depth: int, callables: bool) -> None:
        before = getattr(value, name)
        now = self._value(before, _join(path, name), depth, callables=callables)
        try:
            if now is not before:
                object.__setattr__(value, name, now)
        except (AttributeError, TypeError):  # read-only
            return

        def undo() -> None:
            if getattr(value, name, undo) is not before:
                object.__setattr__(value, name, before)

        self._undo.append(undo)

    def _mapping(self, mapping: dict[Any, Any], path: str, depth: int, *, callables: bool) -> None:
        self._seen[id(mapping)] = mapping
        # The base class's own methods: a subclass may refuse to be written to.
        put: Any = collections.OrderedDict if isinstance(mapping, collections.OrderedDict) else dict
        keys, values = list(put.keys(mapping)), list(put.values(mapping))
        if not all(map(_is_plain, set(map(type, values)))):
            for key, before in zip(keys, values, strict=True):
                now = self._value(before, _join(path, str(key)), depth, callables=callables)
                if now is not before:
                    put.__setitem__(mapping, key, now)

        def undo() -> None:
            own_keys, own_values = list(put.keys(mapping)), list(put.values(mapping))
            if (
                len(own_keys) == len(keys)
                and all(map(operator.is_, own_values, values))
                and all(map(operator.is_, own_keys, keys))
            ):
                return
            put.clear(mapping)
            for key, value in zip(keys, values, strict=True):
                put.__setitem__(mapping, key, value)

        self._undo.append(undo)

    def _sequence(self, sequence: list[Any] | collections.deque[Any], path: str, depth: int, callables: bool) -> None:
        before = list(sequence)
        if not all(map(_is_plain, set(map(type, before)))):
            for i, value in enumerate(before):
                now = self._value(value, f"{path}.{i}", depth, callables=callables)
                if now is not value:
                    sequence[i] = now

        def undo() -> None:
            if len(sequence) != len(before) or not all(map(operator.is_, sequence, before)):
                sequence.clear()
                sequence.extend(before)

        self._undo.append(undo)

    def _set(self, own: set[Any], path: str, depth: int, callables: bool) -> None:
        before = list(own)
        for value in before:
            self._value(value, path, depth, callables=callables)

        def undo() -> None:
            if set(map(id, own)) != set(map(id, before)):
                own.clear()
                own.update(before)

        self._undo.append(undo)

    def _tuple(self, value: tuple[Any, ...], path: str, depth: int, callables: bool) -> Any:
        if depth > _DEPTH:
            return value
        now = [self._value(item, f"{path}.{i}", depth + 1, callables=callables) for i, item in enumerate(value)]
        if all(map(operator.is_, now, value)):
            return value
        return type(value)(*now) if hasattr(value, "_fields") else tuple(now)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        if self.looking or not array.flags.writeable or array.dtype.hasobject:
            return
        before = array.copy()

        def undo() -> None:
            if not np.array_equal(array, before):
                array[...] = before

        self._undo.append(undo)

    # --- Tensors ------------------------------------------------------------------------------------------------------

    def _tensor(self, tensor: Tensor) -> Tensor:
        # A state that hangs on a graph can be written to and cut off, but not put back: a copy stands in for it. So
        # does one for a view, which cannot be cut off in place.
        stays = isinstance(tensor, nn.Parameter) or nn.parameter.is_lazy(tensor)
        if stays or (tensor.is_leaf and (tensor.is_inference() or tensor._base is None)):
            self._leaf(tensor)
            return tensor
        if id(tensor) not in self._stand_ins:
            self._seen[id(tensor)] = tensor
            copy = tensor.detach().clone() if self.cut or not tensor.requires_grad else tensor.clone()
            self._stand_ins[id(tensor)] = copy
        return self._stand_ins[id(tensor)]

    def _leaf(self, tensor: Tensor) -> None:
        if id(tensor) not in self._leaves and not self.looking:
            known = None if self.outer is None else self.outer._known(tensor)
            kept = self._leaves[id(tensor)] = _Kept(tensor, known)
            self._undo.append(kept.restore)

    def _known(self, tensor: Tensor) -> _Kept | None:
        found = self._leaves.get(id(tensor))
        if found is None and self.outer is not None:
            found = self.outer._known(tensor)
        return found


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in nested tuples (``PackedSequence`` among them), lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def _generator(value: Any) -> Callable[[], object] | None:
    """How to put a random number generator back to where it is."""
    if isinstance(value, torch.Generator):
        position = value.get_state()
        return lambda: value.set_state(position)
    if isinstance(value, np.random.Generator):
        source, state = value.bit_generator, value.bit_generator.state
        return lambda: setattr(source, "state", state)
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return functools.partial(value.setstate, value.getstate())
    return None


def _set_mode(module: nn.Module, training: bool) -> None:
    if module.training != training:
        module.train(training)


def _names(code: types.CodeType) -> Iterator[str]:
    """Global names (and attributes) that a function and those inside it mention."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _is_foreign(kind: type) -> bool:
    return any(
        _package(base.__module__) in _FOREIGN and base.__name__ not in _NEUTRAL
        for base in kind.__mro__
        if base is not object
    )


def _is_plain(kind: type) -> bool:
    return issubclass(kind, _PLAIN)
