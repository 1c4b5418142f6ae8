"""The arms of a trial: no treatment, a placebo, a random remedy, each remedy, and pairs of remedies.

Tests: `tests/doctor/test_trial.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from ..cells import BY_NAME, find
from ..errors import OptionError
from ..options import OPTIONS, Options
from .diagnosis import Diagnosis
from .findings import Kind
from .prescriptions import Prescription
from .remedies.command import compatible

Claim = Literal["reach", "growth"]
Role = Literal["untreated", "placebo", "random", "remedy", "pair"]
PAIRED = 3  # remedies of which pairs are made: the first ones

# Options that change how the gradient travels, and the findings whose remedies claim that it will.
_OF_FLOW = {"cell", "nonlinearity", "init", "spectral_radius", "forget_bias", "chrono", "layer_norm", "omega", "floss"}
_CLAIMS: Mapping[Kind, Claim] = {Kind.VANISHING_HURTS: "reach", Kind.EXPLODING: "growth", Kind.CHAOS: "growth"}


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    role: Role
    remedy: Any = None  # changes of options, or whatever the user's function is given; None for no treatment
    # What the remedy is to change of the flow: ``"reach"``, a gradient that goes further back; ``"growth"``, one that
    # grows less per step.
    claim: Claim | None = None


def named(given: Any) -> list[tuple[str, Any]]:
    """Remedies with their names: those of a diagnosis, of a mapping from names, or of a sequence.

    Raises OptionError if there is none, or two have the same name.
    """
    if isinstance(given, Diagnosis):
        given = given.prescriptions
    if isinstance(given, Mapping) and given and all(isinstance(value, Mapping) for value in given.values()):
        pairs = [(str(name), value) for name, value in given.items()]
    else:
        several = isinstance(given, Sequence) and not isinstance(given, str)
        own = list(given) if several else [given]
        short = [_name(remedy) for remedy in own]
        pairs = [(_name(r, full=short.count(name) > 1), r) for name, r in zip(short, own, strict=True)]
    if not pairs:
        raise OptionError("there is no remedy to try: give a diagnosis with prescriptions, or changes of options.")
    for name in (names := [name for name, _ in pairs]):
        if name in ("untreated", "placebo", "random") or names.count(name) > 1:
            raise OptionError(f"two arms of the trial would be named {name!r}: give a dict from names to remedies.")
    return pairs


def _name(remedy: Any, full: bool = False) -> str:
    if isinstance(remedy, Prescription):
        return f"{remedy.remedy} ({_words(remedy.options)})" if full else remedy.remedy
    return _words(remedy) if isinstance(remedy, Mapping) else str(getattr(remedy, "__name__", remedy))


def _words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items()) or "nothing"


def treated(options: Options, name: str, remedy: Any) -> Arm:
    """An arm that changes options of training.

    Raises OptionError if the remedy is no change of options, changes nothing, is impossible, or is not for this task.
    """
    changes, claim = remedy, None
    if isinstance(remedy, Prescription):
        changes = remedy.options
        claim = _CLAIMS.get(remedy.finding) if _OF_FLOW.intersection(changes) else None
    if not isinstance(changes, Mapping) or not changes:
        raise OptionError(f"the remedy {name} is no change of training options: give a dict such as {{'lr': 0.001}}.")
    if unknown := sorted(set(changes) - set(OPTIONS)):
        raise OptionError(f"there is no training option {unknown[0]!r}; there are {', '.join(sorted(OPTIONS))}.")
    full = compatible(options, changes)
    Options.check_task(options.task, changes)
    if changed_options(options, full) == options:
        raise OptionError(f"the remedy {name} changes nothing: the training has these options already.")
    return Arm(name, "remedy", full, claim)


def changed_options(options: Options, changes: Mapping[str, Any]) -> Options:
    """The options with some changed, checked.

    Raises OptionError.
    """
    return Options.of(replace(options, **changes).as_dict())


def _pair(options: Options | None, one: Arm, other: Arm) -> Arm | None:
    """Two remedies at once; None if they contradict each other, or are not changes of options."""
    first, second = one.remedy, other.remedy
    if isinstance(first, Prescription) and isinstance(second, Prescription):
        first, second = first.options, second.options
    if not isinstance(first, Mapping) or not isinstance(second, Mapping) or set(first) & set(second):
        return None
    both = {**first, **second}
    if options is not None:
        try:
            for own, others in ((first, second), (second, first)):
                if set(own) & set(compatible(changed_options(options, own), others)):
                    return None  # one of them excludes the other
            changed_options(options, both)
        except OptionError:
            return None
    return Arm(f"{one.name} + {other.name}", "pair", both, one.claim or other.claim)


def pairs(options: Options | None, arms: Sequence[Arm]) -> list[Arm]:
    """All pairs of the first remedies that do not contradict each other."""
    made = [_pair(options, one, other) for one, other in combinations(arms[:PAIRED], 2)]
    return [arm for arm in made if arm is not None]


# --- Random remedies --------------------------------------------------------------------------------------------------

_Draw = Callable[[np.random.Generator, Options], dict[str, Any] | None]


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    """Uniform in the logarithm, three digits."""
    return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.3g}")


def _gated(options: Options) -> bool:
    return find(options.cell).keeper is not None


# What people change when a network does not learn, with a random value from the usual range.
_REMEDIES: Mapping[str, _Draw] = {
    "lr": lambda rng, options: {"lr": _between(0.03, 30, rng) * (options.lr or 0.002)},
    "clip_norm": lambda rng, options: {"clip_norm": _between(0.03, 30, rng)},
    "init": lambda rng, options: {"init": str(rng.choice(["orthogonal", "xavier"]))},
    "spectral_radius": lambda rng, options: {"spectral_radius": _between(0.3, 1.5, rng)},
    "forget_bias": lambda rng, options: {"forget_bias": round(rng.uniform(-2, 5), 2)} if _gated(options) else None,
    "chrono": lambda rng, options: {"chrono": round(_between(3, 1000, rng))} if _gated(options) else None,
    "cell": lambda rng, options: {"cell": str(rng.choice([c for c in BY_NAME if c != options.cell]))},
    "optimizer": lambda rng, options: (
        {"optimizer": "sgd", "lr": 1.0} if options.optimizer != "sgd" else {"optimizer": "adam", "lr": 0.002}
    ),
    "weight_decay": lambda rng, options: {"weight_decay": _between(1e-5, 0.1, rng)},
    "dropout": lambda rng, options: {"dropout": round(rng.uniform(0.05, 0.5), 2)},
    "layer_norm": lambda rng, options: {"layer_norm": True},
    "weight_drop": lambda rng, options: {"weight_drop": round(rng.uniform(0.05, 0.5), 2)},
    "bptt": lambda rng, options: {"bptt": round(options.bptt * _between(0.25, 2, rng)) or 1},
    "warmup": lambda rng, options: {"warmup": int(rng.integers(10, 500))},
}


def random_remedies(options: Options, prescribed: Sequence[Arm]) -> list[str]:
    """Names of the options that a random remedy may change: they apply to this training, and none was prescribed."""
    taken = {name for arm in prescribed for name in arm.remedy}
    return [name for name in _REMEDIES if name not in taken and _draw(name, options, 0) is not None]


def drawn(names: Sequence[str], options: Options, seed: int) -> dict[str, Any]:
    """A remedy for one seed, drawn from those of `random_remedies`, with a random value."""
    rng = np.random.default_rng([seed, 0xD0C])
    name = names[int(rng.integers(len(names)))]
    return _draw(name, options, seed) or {}


def _draw(name: str, options: Options, seed: int) -> dict[str, Any] | None:
    """Changes with a random value; None if the remedy does not apply to this task and cell."""
    if OPTIONS[name].tasks and options.task not in OPTIONS[name].tasks:
        return None
    for attempt in range(8):
        changes = _REMEDIES[name](np.random.default_rng([seed, attempt]), options)
        if changes is None:
            return None
        try:
            full = compatible(options, changes)
            if changed_options(options, full) != options:
                return full
        except OptionError:
            continue
    return None
