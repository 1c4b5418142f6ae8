"""Inputs and errors of single losses out of one at every step, to be compared as those of one loss per sequence.

Tests: `tests/flow/test_remainder.py`.
"""

from __future__ import annotations

import torch

from .spans import Compared
from .sweep import Stack, Sweep

__all__ = ["at_single_steps"]

PLACES = 3  # losses, where one does not stand for all


def at_single_steps(stack: Stack, longest: int | None, ahead: int = 0) -> list[Compared]:
    """Inputs and errors of the last loss by step, of an encoder-decoder of some losses, as of one per sequence.

    ``longest``: of some losses with so many steps before them in a layer that runs forward.
    """
    count, chosen = 1, None
    if ahead and (stack.relay is not None or stack.tower is not None):
        return []
    if ahead:
        early = stack.targets[(stack.targets + ahead < stack.steps) & (stack.targets >= ahead)]
        if not len(early):
            return []
        count = min(PLACES, len(early))
        chosen = early[torch.linspace(len(early) - 1, 0, count, device="cpu").round().long()]
    elif stack.relay is not None:
        count = min(PLACES, len(stack.targets))
        chosen = stack.targets[torch.linspace(len(stack.targets) - 1, 0, count, device="cpu").round().long()]
    elif longest is not None and stack.tower is None:
        late = stack.targets[stack.targets >= longest]
        count = min(PLACES, max(1, len(late)))
        chosen = late[torch.linspace(len(late) - 1, 0, count, device="cpu").round().long()] if len(late) else None
    found = []
    for latest_first, errors in zip(
        *Sweep(stack, stack.asked, torch.float64).windows(chosen, count, ahead)[:2], strict=True
    ):
        lags, batch = latest_first.shape[:2]
        memory = torch.arange(lags, device="cpu").flip(0).unsqueeze(1).expand(-1, batch)
        found.append(Compared(latest_first.flip(0), memory >= 0, errors, False, memory))
    return found
