"""How cases are written down: shorthands for healthy ones, sick ones, and remedies."""

from __future__ import annotations

from typing import Any

from retrograde.doctor import Kind

from ..case import Case, Remedy, Training
from ..networks import Model
from ..tasks import Task

NOTES = frozenset({Kind.VANISHING_HARMLESS, Kind.CLIPPING_NEVER_ACTIVE, Kind.CLIPPING_HIDES_SPIKES})


def healthy(name: str, task: Task, model: Model, training: Training | None = None, *notes: Kind, **more: Any) -> Case:
    """A case that is solved; notes may be made, and those given must be."""
    return Case(
        name, task, model, training or Training(), frozenset(notes), NOTES - frozenset(notes), healthy=True, **more
    )


def sick(
    name: str,
    kind: Kind | tuple[Kind, ...],
    task: Task,
    model: Model,
    training: Training | None = None,
    remedies: tuple[Remedy, ...] = (),
    also: tuple[Kind, ...] = (),
    **more: Any,
) -> Case:
    """A case that is not solved; `kind` is what must be found."""
    kinds = frozenset(kind if isinstance(kind, tuple) else (kind,))
    return Case(name, task, model, training or Training(), kinds, (NOTES | set(also)) - kinds, False, remedies, **more)


def cell(name: str, **training: Any) -> Remedy:
    return Remedy(f"cell {name}", {"cell": name, "start": ()}, training)


def start(name: str, value: float, cell: str | None = None, hidden: int | None = None, **training: Any) -> Remedy:
    """Another start of the weights, in place of the one that the case has."""
    model = {"start": ((name, value),), "cell": cell, "hidden": hidden}
    words = f"{name} {value:g}" if cell is None else f"cell {cell}, {name} {value:g}"
    return Remedy(words, {key: value for key, value in model.items() if value is not None}, training)


def lr(value: float, **more: Any) -> Remedy:
    return Remedy(f"learning rate {value:g}", training={"lr": value, **more})


def wired(words: str = "wire it right") -> Remedy:
    return Remedy(words, {"wiring": ""})


DEFAULT = Remedy("default start", {"start": ()})
