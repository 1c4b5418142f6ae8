"""A case: a network, its data and training, and what is true of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from retrograde.doctor import Kind

from .networks import Model
from .tasks import Task


@dataclass(frozen=True)
class Training:
    """How a network is trained; as in `retrograde.options.Options`, but plain."""

    lr: float = 0.005
    updates: int = 400
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: int = 32
    clip: float | None = 1.0
    bptt: int | None = None
    loss_scale: float = 1.0


LOOPS = ("", "head only", "no step", "never zeroed", "targets moved", "two batches a step")


@dataclass(frozen=True)
class Loop(Training):
    """A training whose loop is another one (its remedy: ``training={"loop": ""}``).

    ``"head only"``: the optimizer has the parameters of the head alone. ``"no step"``: it makes no step.
    ``"never zeroed"``: gradients add up. ``"targets moved"``: each sequence gets the target of its neighbor in the
    batch. ``"two batches a step"`` is right: the gradients of two batches add up on purpose.
    """

    loop: str = ""


@dataclass(frozen=True)
class Remedy:
    """A change that cures a case: of the model, the training, the task (its fields)."""

    name: str
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A sick or healthy training, small enough for a few seconds on one core.

    Attributes
    ----------
    name : str
        What was done, in words.
    findings : frozenset of Kind
        What a right diagnosis of the trained network contains.
    also : frozenset of Kind
        What may be found as well: true consequences of the cause, or not decided by construction. Counted neither way.
    healthy : bool
        Whether training reaches `goal`.
    remedies : tuple of Remedy
        Everything known that cures it. Empty: nothing does (noise), or nothing is to be cured.
    goal : float
        Share of the loss at chance at which the task counts as solved.
    start_given : bool
        Whether the doctor gets the network as it was before training, too (``untrained=``).
    built : str
        For a mistake that does not keep training from its goal: why it is sick all the same.
    """

    name: str
    task: Task
    model: Model
    training: Training = Training()
    findings: frozenset[Kind] = frozenset()
    also: frozenset[Kind] = frozenset()
    healthy: bool = False
    remedies: tuple[Remedy, ...] = ()
    goal: float = 0.05
    built: str = ""
    start_given: bool = False

    @property
    def lag(self) -> int | None:
        """Longest lag that matters, where one is known and a gradient sees it."""
        return self.task.about.lag(self.task)

    @property
    def measurable(self) -> bool:
        """Whether the need of the data can be seen: the network is wired right, and the data are not spoiled."""
        right = (
            self.model.wiring in ("", "step by step", "layer axis") and self.task.mask == "right" and not self.task.nan
        )
        return right and self.task.about.first_order and self.lag is not None

    @property
    def key(self) -> str:
        """Hash of what is trained."""
        return _hash(repr((self.task, self.model, self.training)))

    @property
    def held_out(self) -> bool:
        """Whether it belongs to the half that is not looked at while rules are being written."""
        return int(_hash(self.name), 16) % 2 == 1

    def cured(self, remedy: Remedy) -> Case:
        """The same with a remedy."""
        return replace(
            self,
            task=replace(self.task, **remedy.task),
            model=replace(self.model, **remedy.model),
            training=replace(self.training, **remedy.training),
        )


def _hash(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:12]
