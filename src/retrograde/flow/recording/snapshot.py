"""Snapshots: everything that running a model may change, and how to restore it.

A model is more than its parameters. It may keep a hidden state in an attribute, a cache in a list, a counter in an
object, a generator of its own; a weight-drop wrapper replaces parameters at every call; and the callable may be a
bound method, a ``functools.partial`` or a closure around modules. ``Snapshot`` walks all of that, remembers it, and
restores it exactly: the same objects with the same contents.

Tests: `tests/flow/test_isolation.py`.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import operator
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import _torch_private
from ...nested import tensors_in

# Objects of these packages are not walked: they are not part of the user's model, and they lead everywhere.
_FOREIGN = {
    *sys.stdlib_module_names,
    *("torch", "torchvision", "torchaudio", "numpy", "scipy", "pandas", "polars", "pyarrow", "sklearn", "datasets"),
    *("lightning", "pytorch_lightning", "lightning_fabric", "accelerate", "ignite", "wandb", "mlflow", "tensorboard"),
    *("jax", "tensorflow", "matplotlib", "plotly", "PIL", "tqdm", "rich", "pytest", "_pytest", "hypothesis"),
    *("retrograde", "IPython", "ipykernel"),
}
_NEUTRAL = frozenset({"object", "Generic", "Protocol", "ABC", "SimpleNamespace"})
_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, slice, range)
_DEPTH = 6  # objects inside objects
_MOST = 20_000  # objects and containers that are walked
_MISSING = object()


class _TensorState:
    """The values, flags and memory of a tensor that stays the same object."""

    def __init__(self, tensor: Tensor, known: _TensorState | None) -> None:
        with _torch_private.no_tensor_subclasses():  # a lazy parameter refuses most questions
            self.tensor, self.type = tensor, type(tensor)
            self.was_leaf, self.requires_grad = tensor.is_leaf, tensor.requires_grad
            self.version = None if tensor.is_inference() else tensor._version
            self.data = tensor.data  # the same memory, another object
            self.grad = tensor.grad if tensor.is_leaf else None
            if self.grad is not None:
                tensor.grad = None  # out of the model's reach, and the same object afterwards
            self.value: Tensor | None = None
            if known is not None and known.version == self.version and _same_memory(known.data, self.data):
                self.value = known.value  # a measurement inside a measurement: one copy serves both
            elif not tensor.is_meta and not nn.parameter.is_lazy(tensor):
                with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
                    self.value = self.data.clone()

    def restore(self) -> None:
        """Make the tensor what it was."""
        with _torch_private.no_tensor_subclasses():
            tensor = self.tensor
            if self.was_leaf and tensor.grad_fn is not None:
                tensor.detach_()
            with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
                if type(tensor) is not self.type:  # a lazy parameter that was given its shape
                    tensor.data = self.data
                    tensor.__class__ = self.type
                elif self.value is not None and not _same_memory(tensor, self.data):
                    tensor.data = self.data
                if self.value is not None and not self._may_change_elsewhere() and not _equal(self.data, self.value):
                    self.data.copy_(self.value)
                if self.was_leaf and tensor.requires_grad != self.requires_grad:
                    tensor.requires_grad_(self.requires_grad)
            if self.was_leaf and tensor.grad is not self.grad:
                tensor.grad = self.grad
            if self.version is not None and tensor._version != self.version:
                # The values are those of that version again: a backward pass of the training may still need them.
                _torch_private.set_version(tensor, self.version)

    def _may_change_elsewhere(self) -> bool:
        """Whether other processes may have written new values, while this one wrote none."""
        tensor = self.tensor
        try:
            shared = tensor.device.type == "cpu" and tensor.is_shared() and not tensor.is_inference()  # type: ignore[no-untyped-call]
        except RuntimeError:  # a tensor without storage of its own is not shared
            return False
        return bool(shared) and tensor._version == self.version


def _same_memory(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or a.layout != b.layout:
        return False
    try:
        return a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    except RuntimeError:  # sparse tensors and some subclasses have no address
        return True


def _equal(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(a, b)
    except RuntimeError:  # torch does not compare these types: they are restored in any case
        return False


class Snapshot:
    """Remembers a model and everything it can reach; ``restore`` restores it.

    Parameters
    ----------
    detach : bool
        Whether states that belong to an earlier graph are detached from it while the model runs (its parameters are
        constants then), or stay connected.
    outer : Snapshot, optional
        The snapshot of a measurement around this one.
    search_only : bool
        Only find the modules: nothing is remembered or restored.

    Attributes
    ----------
    modules : list of Module
        All modules that were found, in the order of finding.
    roots : dict of Module
        Those that are not part of another, by where they were found: ``""``, ``"policy"``, ``"agent.net"``.
    complete : bool
        False if the model has more objects than are walked.
    """

    def __init__(self, *, detach: bool = True, outer: Snapshot | None = None, search_only: bool = False) -> None:
        _torch_private.check_flow()
        self.detach, self.outer, self.search_only = detach, outer, search_only
        self.modules: list[nn.Module] = []
        self.roots: dict[str, nn.Module] = {}
        self.complete = True
        self._undo: list[Callable[[], object]] = []
        self._seen: dict[int, Any] = {}  # keeps what it names alive, so that no id is used twice
        self._leaves: dict[int, _TensorState] = {}
        self._stand_ins: dict[int, Tensor] = {}

    def knows(self, module: nn.Module) -> bool:
        """Whether a module was walked."""
        return id(module) in self._seen

    @property
    def tensors(self) -> list[Tensor]:
        """Parameters, buffers and other tensors that are remembered."""
        return [state.tensor for state in self._leaves.values()]

    def named(self) -> dict[str, nn.Module]:
        """The roots that are not part of another, and modules that no other has registered, by name."""
        parts = {id(part) for root in self.roots.values() for part in root.modules() if part is not root}
        found = {name: root for name, root in self.roots.items() if id(root) not in parts}
        covered = {id(part) for root in found.values() for part in root.modules()}
        for module in self.modules:
            if id(module) not in covered:
                found[_unused("module", found, start=0)] = module
                covered |= {id(part) for part in module.modules()}
        return found

    def add(self, model: Any, path: str = "") -> None:
        """Walk a module or any other callable."""
        if isinstance(model, (staticmethod, classmethod)):
            model = model.__func__
        wrapped = getattr(model, "__wrapped__", None)  # of functools.lru_cache and other wrappers
        if callable(wrapped) and not isinstance(model, (nn.Module, types.FunctionType, types.MethodType)):
            self.add(wrapped, path)
        if isinstance(model, type):
            self._class(model, path, 0)
        else:
            self._visit(model, path, 0)

    def add_tensors(self, batch: Any) -> None:
        """Remember the values of the tensors in a batch; its containers are not changed."""
        for tensor in tensors_in(batch):
            self._leaf(tensor)

    def restore(self) -> None:
        """Restore everything; a failure does not keep the rest from being restored."""
        failure: BaseException | None = None
        for undo in reversed(self._undo):
            try:
                undo()
            except Exception as error:
                failure = failure or error
        self._undo.clear()
        if failure is not None:
            raise failure

    # --- The walk -----------------------------------------------------------------------------------------------------

    def _is_new(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        if len(self._seen) >= _MOST and not isinstance(value, nn.Module):
            self.complete = False
            return False
        self._seen[id(value)] = value
        return True

    def _visit(self, value: Any, path: str, depth: int, callables: bool = True) -> Any:
        """Walk any value; returns what stands in for it: itself, or a copy of a tensor that belongs to a graph.

        ``callables`` says whether functions are followed: those that the model is made of, not a module's attributes.
        """
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, Tensor):
            return value if self.search_only else self._tensor(value)
        if isinstance(value, nn.Module):
            if callables and not self.knows(value):
                self.roots[_unused(path, self.roots)] = value
            self._module(value)
        elif callables and isinstance(value, types.MethodType):
            self._visit(value.__self__, path, depth + 1)
            if not isinstance(value.__self__, nn.Module):
                self._visit(value.__func__, path, depth + 1)
        elif callables and isinstance(value, weakref.ref):
            self._visit(value(), path, depth + 1)
        elif isinstance(value, tuple):
            return self._tuple(value, path, depth, callables)
        elif depth > _DEPTH or not self._is_new(value):
            return value
        elif isinstance(value, types.FunctionType):
            if callables:
                self._function(value, path, depth)
        elif callables and isinstance(value, functools.partial):
            self._visit(value.func, path, depth + 1)
            for i, item in enumerate(value.args):
                self._visit(item, f"{path}[{i}]", depth + 1)
            for name, item in value.keywords.items():
                self._visit(item, _join(path, name), depth + 1)
        elif isinstance(value, dict):
            self._mapping(value, path, depth + 1, callables)
        elif isinstance(value, (list, collections.deque, set)):
            self._collection(value, path, depth + 1, callables)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif (undo := _generator_state(value)) is not None:
            self._undo.append(undo)
        elif not isinstance(value, (type, types.ModuleType)) and not _is_foreign(type(value)):
            self._object(value, path, depth + 1, callables)
        return value

    def _place(
        self,
        get: Callable[[], list[Any]],
        put: Callable[[list[Any]], object],
        names: Sequence[str],
        depth: int,
        callables: bool = True,
    ) -> None:
        """Walk the values in a place, exchange those that need a stand-in, and remember how to restore them."""
        before = get()
        if not all(issubclass(kind, _PLAIN) for kind in set(map(type, before))):
            now = [self._visit(value, name, depth, callables) for value, name in zip(before, names, strict=True)]
            if not _same_objects(now, before):
                put(now)

        def undo() -> None:
            if not _same_objects(get(), before):
                put(before)

        self._undo.append(undo)

    def _function(self, function: types.FunctionType, path: str, depth: int) -> None:
        if _package(function.__module__) in _FOREIGN:
            return
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if self._is_new(cell) and _contents(cell):
                put = functools.partial(_set_contents, cell)
                self._place(functools.partial(_contents, cell), put, [_join(path, name)], depth + 1)
        for i, value in enumerate(function.__defaults__ or ()):
            self._visit(value, _join(path, f"default{i}"), depth + 1)
        for name, value in (function.__kwdefaults__ or {}).items():
            self._visit(value, _join(path, name), depth + 1)
        if function.__dict__:
            self._mapping(function.__dict__, path, depth + 1, True)
        names, space = set(_names(function.__code__)), function.__globals__
        for name in sorted(names & space.keys()):
            value = space[name]
            if isinstance(value, types.ModuleType):  # ``models.net(x)``
                if _package(value.__name__) not in _FOREIGN:
                    for inner in sorted(names & vars(value).keys()):
                        if isinstance(vars(value)[inner], nn.Module):
                            self._visit(vars(value)[inner], inner, depth + 1)
            elif not isinstance(value, type):  # a global that the function may set (``global h``)
                self._place(
                    lambda name=name: [space.get(name, _MISSING)],  # type: ignore[misc]
                    lambda values, name=name: space.__setitem__(name, values[0]),  # type: ignore[misc]
                    [name],
                    depth + 1,
                )

    def _class(self, value: type, path: str, depth: int) -> None:
        if self._is_new(value) and not _is_foreign(value):
            for name, item in list(vars(value).items()):
                if isinstance(item, nn.Module):
                    self._visit(item, _join(path, name), depth + 1)

    def _module(self, module: nn.Module) -> None:
        if not self._is_new(module):
            return
        self.modules.append(module)
        if isinstance(module, torch.jit.ScriptModule):  # its attributes are torch's own
            training = module.training
            self._undo.append(lambda: None if module.training == training else module.train(training))
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._leaf(tensor)
            for child in module.children():
                self._module(child)
            return
        kind = type(module)  # a lazy module becomes another class at its first call
        self._undo.append(lambda: None if type(module) is kind else setattr(module, "__class__", kind))
        self._mapping(module.__dict__, "", 0, False)

    def _object(self, value: Any, path: str, depth: int, callables: bool) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._mapping(attributes, path, depth, callables)
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    put = functools.partial(_set_slot, value, name)
                    get: Any = lambda name=name: [getattr(value, name, _MISSING)]  # noqa: E731
                    self._place(get, put, [_join(path, name)], depth, callables)
            if callables:
                self._class(kind, path, depth)
                if isinstance(call := vars(kind).get("__call__"), types.FunctionType):
                    self._visit(call, path, depth)

    def _mapping(self, mapping: dict[Any, Any], path: str, depth: int, callables: bool) -> None:
        self._seen[id(mapping)] = mapping
        # The base class's own methods: a subclass may refuse to be written to.
        base: Any = collections.OrderedDict if isinstance(mapping, collections.OrderedDict) else dict
        keys = list(base.keys(mapping))

        def get() -> list[Any]:
            same = _same_objects(list(base.keys(mapping)), keys)
            return list(base.values(mapping)) if same else [_MISSING]

        def put(values: list[Any]) -> None:
            if get() == [_MISSING]:
                base.clear(mapping)
            for key, value in zip(keys, values, strict=True):
                base.__setitem__(mapping, key, value)

        self._place(get, put, [_join(path, str(key)) for key in keys], depth, callables)

    def _collection(
        self, own: list[Any] | collections.deque[Any] | set[Any], path: str, depth: int, callables: bool
    ) -> None:
        def put(values: list[Any]) -> None:
            own.clear()
            own.update(values) if isinstance(own, set) else own.extend(values)

        self._place(lambda: list(own), put, [f"{path}.{i}" for i in range(len(own))], depth, callables)

    def _tuple(self, value: tuple[Any, ...], path: str, depth: int, callables: bool) -> Any:
        if depth > _DEPTH:
            return value
        now = [self._visit(item, f"{path}.{i}", depth + 1, callables) for i, item in enumerate(value)]
        if _same_objects(now, value):
            return value
        return type(value)(*now) if hasattr(value, "_fields") else tuple(now)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        if self.search_only or not array.flags.writeable or array.dtype.hasobject:
            return
        before = array.copy()
        self._undo.append(lambda: None if np.array_equal(array, before) else np.copyto(array, before))

    def _tensor(self, tensor: Tensor) -> Tensor:
        # A state in a graph can be written to and detached, but not restored: a copy stands in for it. The same holds
        # for a view, which cannot be detached in place.
        stays = isinstance(tensor, nn.Parameter) or nn.parameter.is_lazy(tensor)
        if stays or (tensor.is_leaf and (tensor.is_inference() or tensor._base is None)):
            self._leaf(tensor)
            return tensor
        if id(tensor) not in self._stand_ins:
            self._seen[id(tensor)] = tensor
            copy = tensor.detach().clone() if self.detach or not tensor.requires_grad else tensor.clone()
            self._stand_ins[id(tensor)] = copy
        return self._stand_ins[id(tensor)]

    def _leaf(self, tensor: Tensor) -> None:
        if id(tensor) not in self._leaves and not self.search_only:
            known = None if self.outer is None else self.outer._state_of(tensor)
            state = self._leaves[id(tensor)] = _TensorState(tensor, known)
            self._undo.append(state.restore)

    def _state_of(self, tensor: Tensor) -> _TensorState | None:
        found = self._leaves.get(id(tensor))
        return found if found is not None or self.outer is None else self.outer._state_of(tensor)


def _same_objects(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))


def _contents(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # empty as yet
        return []


def _set_contents(cell: types.CellType, values: list[Any]) -> None:
    cell.cell_contents = values[0]


def _set_slot(value: Any, name: str, values: list[Any]) -> None:
    with contextlib.suppress(AttributeError, TypeError):  # read-only
        object.__setattr__(value, name, values[0])


def _generator_state(value: Any) -> Callable[[], object] | None:
    """How to restore the state of a random number generator."""
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return functools.partial(value.setstate, value.getstate())
    return None


def _unused(name: str, taken: dict[str, Any], start: int | None = None) -> str:
    """The name, with the first number that makes it new."""
    if start is None and name not in taken:
        return name
    return next(new for i in itertools.count(start or 1) if (new := f"{name}{i}") not in taken)


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
