"""The whole of a prediction as one module: from numbers in the units of the data to numbers in those of the target.

It is what `retrograde.export` writes of a run, whose network reads scaled numbers, puts out scaled ones and may share
the prediction with ridge regression.

Tests: `tests/tasks/test_whole.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..data.encoding import Scaler
from .ridge import Ridge


class Ranges(NamedTuple):
    """The ranges of the numbers that a module reads and writes, so that a test of it draws from them."""

    mean: Tensor  # of the inputs, ``(F,)``
    scale: Tensor
    unit: float  # of the outputs
    steps: int | None  # that a sequence must have; None: any number


class WholePrediction(nn.Module):
    """Scaling, network, ridge regression and scaling back, the sums around the network in float64.

    Parameters
    ----------
    network : Module
        From ``(T, B, F)`` scaled numbers to ``(B, 1)``.
    inputs, target : Scaler
    ridge : Ridge, optional
    share : float
        Of the ridge regression in the prediction; that of the network is in its weights.
    """

    inputs_mean: Tensor
    inputs_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor
    weights: Tensor | None
    bias: Tensor

    def __init__(
        self, network: nn.Module, inputs: Scaler, target: Scaler, ridge: Ridge | None, share: float = 0.0
    ) -> None:
        super().__init__()
        self.network = network
        self.steps = None if ridge is None else ridge.steps
        for name, scaler in (("inputs", inputs), ("target", target)):
            self.register_buffer(f"{name}_mean", torch.from_numpy(np.array(scaler.mean, dtype=np.float64)))
            self.register_buffer(f"{name}_scale", torch.from_numpy(np.array(scaler.scale, dtype=np.float64)))
        self.register_buffer(
            "weights", None if ridge is None else torch.from_numpy(share * ridge.weights.astype(np.float64))
        )
        self.register_buffer("bias", torch.tensor(0.0 if ridge is None else share * ridge.bias, dtype=torch.float64))

    @property
    def ranges(self) -> Ranges:
        """See `Ranges`."""
        return Ranges(self.inputs_mean, self.inputs_scale, float(self.target_scale), self.steps)

    @property
    def example(self) -> Tensor:
        """Two sequences of the mean."""
        return self.inputs_mean.float().expand(self.steps or 3, 2, -1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Predictions ``(B,)`` in the units of the target for sequences ``(T, B, F)`` in the units of the data."""
        scaled = ((x.double() - self.inputs_mean) / self.inputs_scale).to(next(self.network.parameters()).dtype)
        found = self.network(scaled)[:, 0].double()
        if self.steps is not None and self.weights is not None:
            rows = scaled.transpose(0, 1).reshape(-1, self.steps * scaled.shape[2])
            found = found + rows.double() @ self.weights + self.bias
        whole: Tensor = found * self.target_scale + self.target_mean
        return whole.to(x.dtype)
