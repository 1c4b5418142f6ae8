"""Labelled sequences side by side, as the trainer takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..data.storage import Ragged
from .task import Batch, Probe

__all__ = ["IGNORED", "LabelledBatch", "as_input"]

IGNORED = -100  # the target of a step beyond its sequence, as cross_entropy has it


def as_input(inputs: Tensor) -> Tensor:
    """Token numbers as an embedding takes them; numbers as they are."""
    return inputs.long() if not inputs.is_floating_point() else inputs


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Sequences side by side, the longest first, with their labels.

    Attributes
    ----------
    inputs : Tensor
        ``(T, B)`` int64 or ``(T, B, F)`` float32.
    lengths : Tensor
        ``(B,)`` int64, on the CPU.
    targets : Tensor
        ``(B,)``, or ``(T, B)`` with ``IGNORED`` beyond a sequence.
    weights : Tensor or None
        Class weight of each target, in the shape of the targets.
    """

    lengths: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(
        cls,
        inputs: Ragged,
        targets: Ragged,
        chosen: NDArray[np.int64],
        per_step: bool,
        class_weights: Tensor | None = None,
    ) -> LabelledBatch:
        """Those chosen of encoded sequences and the numbers of their labels, the longest first."""
        padded = targets.padded(chosen, IGNORED)
        wanted = torch.from_numpy(padded if per_step else padded[0])
        return cls(
            as_input(torch.from_numpy(inputs.padded(chosen))),
            wanted,
            torch.from_numpy(inputs.lengths[chosen]),
            None if class_weights is None else class_weights[wanted.clamp(min=0)] * (wanted != IGNORED),
        )

    def probe(self) -> Probe:
        """Inputs of the model and the loss of its output, ``(B,)`` or ``(T, B)``, to measure the gradient with."""

        def loss(output: Tensor) -> Tensor:
            losses = F.cross_entropy(
                output.flatten(0, -2), self.targets.flatten(), reduction="none", ignore_index=IGNORED
            )
            return losses.view_as(self.targets)

        return Probe((self.inputs, self.lengths), loss)

    @property
    def size(self) -> int:
        """How many labels it trains."""
        return int((self.targets != IGNORED).sum())

    @property
    def weight(self) -> float:
        """What the mean loss is a mean over: labels, or their class weights."""
        return float(self.size) if self.weights is None else float(self.weights.sum())
