"""Tensors inside nested tuples, lists, dicts, dataclasses and packed sequences: what modules take and return.

Tests: `tests/flow/test_isolation.py`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

# Attributes of nn.Module that .to() converts itself, or that hold no tensors of their own.
_CONVERTED_BY_TO = {"_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs"}


def named_tensors(value: Any, path: str, *, and_complex: bool = False) -> Iterator[tuple[str, Tensor]]:
    """The floating-point (and complex) tensors in ``value``, each with its path, e.g. ``hx[0]``."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or (and_complex and value.is_complex()):
            yield path, value
    elif isinstance(value, PackedSequence):
        yield f"{path}.data", value.data
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{path}[{key!r}]" if path else str(key), and_complex=and_complex)
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from named_tensors(item, f"{path}[{i}]", and_complex=and_complex)
    elif _is_record(value):
        for field in dataclasses.fields(value):
            yield from named_tensors(getattr(value, field.name), f"{path}.{field.name}", and_complex=and_complex)


def map_tensors(
    value: Any,
    function: Callable[[Any], Any],
    leaves: type | tuple[type, ...] = Tensor,
    other: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """A copy of the structure in which every tensor is replaced by ``function`` of it.

    leaves: what counts as a tensor; with `PackedSequence`, packed sequences are changed as a whole.
    other: what becomes of a value that is neither a tensor nor contains others; it stays by default.
    """

    def changed(item: Any) -> Any:
        return map_tensors(item, function, leaves, other)

    if isinstance(value, leaves):
        return function(value)
    if isinstance(value, MutableMapping):
        copied = copy.copy(value)
        for key, item in value.items():
            copied[key] = changed(item)
        return copied
    if isinstance(value, Mapping):
        return {key: changed(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # named tuples, also PackedSequence
        return type(value)(*map(changed, value))
    if isinstance(value, tuple | list):
        return type(value)(map(changed, value))
    if _is_record(value):
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(copied, field.name, changed(getattr(value, field.name)))
        return copied
    return other(value)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A batch, or what a model returns, with every tensor and packed sequence in it changed."""
    return map_tensors(value, change, (Tensor, PackedSequence))


def leaves_of(value: Any) -> list[Tensor | PackedSequence]:
    """The tensors and packed sequences in a batch, in order."""
    found: list[Tensor | PackedSequence] = []

    def keep(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    mapped(value, keep)
    return found


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors of any type in nested tuples (`PackedSequence` among them), lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, tuple, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def attribute_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Floating-point tensors in ordinary attributes of the modules: neither parameters nor buffers."""
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in _CONVERTED_BY_TO:
                yield from (tensor for _, tensor in named_tensors(value, name))


def map_attributes(module: nn.Module, needed: Callable[[Tensor], bool], function: Callable[[Tensor], Tensor]) -> None:
    """Replace tensors in ordinary attributes of the modules by ``function`` of them, in place.

    Only attributes that contain a tensor for which ``needed`` is true are replaced. What several modules share, such as
    a memory that one writes and another reads, they share afterwards.
    """
    replaced: dict[int, tuple[object, object]] = {}  # with the original, whose number another may have once it is gone
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if name not in _CONVERTED_BY_TO and any(needed(tensor) for _, tensor in named_tensors(value, name)):
                if id(value) not in replaced:
                    replaced[id(value)] = (value, map_tensors(value, function))
                vars(part)[name] = replaced[id(value)][1]


def _is_record(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
