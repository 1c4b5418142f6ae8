"""What the gated cells share: parameters in blocks of rows, one block per gate, and truncated BPTT over a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from ..errors import DataError
from .arrays import Array, checked_array, checked_size, norms_table, uniform

__all__ = ["GatedGradients", "GatedLayer", "affine", "only_last", "truncated_gradients"]


@dataclass(frozen=True, eq=False, repr=False)
class GatedLayer:
    """The four parameters that gated cells have in common, named and laid out as in torch (without ``_l0``).

    H is the number of hidden units and P the size of the state that is fed back; P = H without a projection.
    """

    gates: ClassVar[int]

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array | None = None
    bias_hh: Array | None = None

    def __post_init__(self) -> None:
        self._check(P=self._hidden_size())

    @classmethod
    def random(
        cls, input_size: int, hidden_size: int, *, bias: bool = True, seed: int | np.random.Generator = 0
    ) -> Self:
        """A layer whose parameters are all drawn uniformly from ±1/√hidden_size, as torch initializes them."""
        D, H = checked_size("input_size", input_size), checked_size("hidden_size", hidden_size)
        return cls(**cls._drawn(D, H, H, bias, uniform(H, seed)))

    @classmethod
    def _drawn(cls, D: int, H: int, P: int, bias: bool, draw: Callable[..., Array]) -> dict[str, Array]:
        """Random parameters by name."""
        rows = cls.gates * H
        found = {"weight_ih": draw(rows, D), "weight_hh": draw(rows, P)}
        return found | {"bias_ih": draw(rows), "bias_hh": draw(rows)} if bias else found

    def __repr__(self) -> str:
        H, D = self._hidden_size(), self.weight_ih.shape[1]
        return f"{type(self).__name__}(input_size={D}, hidden_size={H}, bias={self.bias_ih is not None})"

    def _hidden_size(self) -> int:
        """H, computed from weight_ih."""
        rows = len(checked_array("weight_ih", self.weight_ih, f"{self.gates}H D"))
        if rows % self.gates:
            raise DataError(
                f"weight_ih has {rows} rows; expected a multiple of {self.gates}, one block of rows per gate"
            )
        return rows // self.gates

    def _check(self, P: int) -> None:
        """Check the four parameters and store them as float64."""
        rows = f"{self.gates}H"
        sizes = {rows: self.gates * self._hidden_size()}
        shapes = {"weight_ih": f"{rows} D", "weight_hh": f"{rows} P", "bias_ih": rows, "bias_hh": rows}
        for name, axes in shapes.items():
            value = getattr(self, name)
            if value is not None or name.startswith("weight"):
                value = checked_array(name, value, axes, **(sizes | {"P": P} if "P" in axes else sizes))
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False, repr=False)
class GatedGradients:
    """The derivatives of E by everything that a gated layer with one state depends on, each in the shape of that.

    A bias is None if the layer has none.
    """

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array | None
    bias_hh: Array | None
    inputs: Array
    h_0: Array

    def __repr__(self) -> str:
        return norms_table(self)


def affine(weight: Array, x: Array, bias: Array | None) -> Array:
    """``weight @ x + bias``."""
    return weight @ x if bias is None else weight @ x + bias


def only_last(from_output: Array) -> Array:
    """The same rows with all but the last set to zero: the loss of the last step alone."""
    alone = np.zeros_like(from_output)
    alone[-1] = from_output[-1]
    return alone


def truncated_gradients(T: int, truncation: int, of_window: Callable[[int, int], object]) -> dict[str, Any]:
    """Truncated BPTT over a layer: the sum over t of the gradient of step t's loss, each followed back to one window.

    Parameters
    ----------
    T : int
        Number of steps.
    truncation : int
        Number of steps that each loss is followed back.
    of_window : callable
        Takes k and t, returns the gradients (a dataclass) of the loss of step t alone, over the steps k + 1 … t. The
        state at step k is a constant. It is the initial state of the layer if k = 0.

    Returns
    -------
    dict
        The sums by name. The gradient of the initial states includes only the losses that reach them within fewer than
        ``truncation`` steps.
    """
    total: dict[str, Any] = {}
    for t in range(1, T + 1):
        k = max(0, t - truncation)
        for name, part in vars(of_window(k, t)).items():
            if name == "inputs":
                part = np.pad(part, ((k, T - t), (0, 0)))
            elif name in ("h_0", "c_0") and t >= truncation:
                part = np.zeros_like(part)
            total[name] = part if total.get(name) is None or part is None else total[name] + part
    return total
