"""What is known of a training: as the user states it, and as the optimizer itself says.

Tests: `tests/doctor/test_record.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["TrainingRecord"]

_ADAPTIVE = ("adam", "adamw", "nadam", "radam", "adamax", "rmsprop")


@dataclass(frozen=True)
class TrainingRecord:
    """How the network was trained; what is not known is None or empty.

    Attributes
    ----------
    optimizer, lr, clip_norm, bptt
        As in `retrograde.options.Options`. Name and learning rate are taken from ``torch_optimizer`` if they are not
        given; of a rate that a schedule changes, the highest that it knows.
    updates : int
        How many updates were made; 0: the network is untrained. If not given: as many as ``torch_optimizer`` counted,
        or as there are gradient norms.
    losses : sequence of float
        Training losses, in order.
    gradient_norms : sequence of float
        Global norms before clipping, in order, one for each update.
    chance, floor : float or None
        Loss of the best constant prediction, and the lowest possible.
    validation_loss : float or None
        Loss of the network, as it is, on sequences that it was not trained on.
    diverged : bool
        Whether training ended with a loss or gradient that was NaN or infinite.
    torch_optimizer : torch.optim.Optimizer or None
        The optimizer itself: its state says how it scales each parameter's update.
    planned : int or None
        How many updates are to be made, of a network that is untrained.
    """

    optimizer: str | None = None
    lr: float | None = None
    clip_norm: float | None = None
    bptt: int | None = None
    updates: int | None = None
    losses: Sequence[float] = ()
    gradient_norms: Sequence[float] = ()
    chance: float | None = None
    floor: float | None = None
    validation_loss: float | None = None
    diverged: bool = False
    torch_optimizer: torch.optim.Optimizer | None = None
    planned: int | None = None

    def __post_init__(self) -> None:
        own = self.torch_optimizer
        known = {
            "optimizer": type(own).__name__.lower() if own is not None else None,
            "lr": _highest_rate(own) if own is not None else None,
            "updates": (_counted_updates(own) if own is not None else None) or len(self.gradient_norms) or None,
        }
        for name, value in known.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def is_adaptive(self) -> bool:
        """Whether the optimizer divides each parameter's gradient by its size, as Adam does."""
        own = self.torch_optimizer
        return (type(own).__name__.lower() if own is not None else (self.optimizer or "").lower()) in _ADAPTIVE

    @property
    def momentum(self) -> float:
        """The momentum of the optimizer, 0 where it has none."""
        groups = self.torch_optimizer.param_groups if self.torch_optimizer is not None else [{}]
        return float(groups[0].get("momentum", 0.0))


def _highest_rate(optimizer: torch.optim.Optimizer) -> float | None:
    """Now, where a schedule began, or the most that it goes to (its optimizer's groups say so)."""
    rates = (group.get(name) for group in optimizer.param_groups for name in ("lr", "initial_lr", "max_lr"))
    return max((float(rate) for rate in rates if rate is not None), default=None)


def _counted_updates(optimizer: torch.optim.Optimizer) -> int | None:
    """How many updates the optimizer has made, if it counts them."""
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=None)
