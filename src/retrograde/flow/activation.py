"""Why a gradient vanishes or not: saturated and dead units, gates.

Tests: `tests/flow/test_flow_models.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .recurrence.cells import Trajectory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Saturation:
    """Saturation of the units that carry the recurrence through f: h of a vanilla layer, n of a GRU, g of an LSTM.

    Attributes
    ----------
    nonlinearity
        ``"tanh"`` or ``"relu"``.
    threshold
        A tanh unit is saturated where f′ is below this.
    saturated
        Share of saturated tanh units, over steps, sequences and units; NaN for ReLU.
    dead
        Share of ReLU units that give zero at every step of every sequence; NaN for tanh.
    saturated_by_unit, saturated_by_step
        The share per unit `(H,)` and per step `(T,)`; for ReLU the share of zeros.
    derivative_by_unit, derivative_by_step
        Mean f′ per unit `(H,)` and per step `(T,)`.
    derivative
        Mean f′ of all.
    """

    nonlinearity: str
    threshold: float
    saturated: float
    dead: float
    saturated_by_unit: Array
    saturated_by_step: Array
    derivative_by_unit: Array
    derivative_by_step: Array
    derivative: float


@dataclass(frozen=True)
class Gate:
    """Statistics of one gate over steps and sequences.

    Attributes
    ----------
    mean
        Over everything.
    open, closed
        Share above 0.9, share under 0.1.
    mean_by_unit
        `(H,)`.
    mean_by_step
        `(T,)`.
    time_constant
        For the gate that keeps the state (f of an LSTM, z of a GRU): steps in which a unit's memory falls to 1/e,
        −1/mean(log f), `(H,)`; else None.
    """

    mean: float
    open: float
    closed: float
    mean_by_unit: Array
    mean_by_step: Array
    time_constant: Array | None = None


def saturation(run: Trajectory, threshold: float) -> Saturation:
    """Saturation of one layer, without padding."""
    value = run.gates[..., run.cell.rows(run.cell.candidate, run.hidden_size)]
    relu = run.cell.nonlinearity == "relu"
    derivative = run.cell.slope(value.double())
    flat = (derivative == 0) if relu else (derivative < threshold)
    zero = _over(run, (value <= 0).double(), (0, 1))
    return Saturation(
        nonlinearity=run.cell.nonlinearity,
        threshold=threshold,
        saturated=float("nan") if relu else float(_over(run, flat.double(), (0, 1)).mean()),
        dead=float((zero == 1).mean()) if relu else float("nan"),
        saturated_by_unit=_over(run, flat.double(), (0, 1)),
        saturated_by_step=_over(run, flat.double(), (1, 2)),
        derivative_by_unit=_over(run, derivative, (0, 1)),
        derivative_by_step=_over(run, derivative, (1, 2)),
        derivative=float(_over(run, derivative, (0, 1)).mean()),
    )


def gates(run: Trajectory) -> dict[str, Gate]:
    """Statistics of the gates by name: r, z of a GRU; i, f, o of an LSTM; none for a vanilla layer."""
    cell, found = run.cell, {}
    for name in cell.gates:
        if name == cell.candidate:
            continue
        found[name] = _gate(run, run.gates[..., cell.rows(name, run.hidden_size)], keeps=name == cell.keeper)
    return found


def memory(run: Trajectory) -> Gate:
    """The same statistics of |∂m_k/∂m_{k−1}|, how much of its memory m (c, or h) a unit keeps without W_hh.

    That is the gate that keeps the state where a cell has one; of other cells it says what such a gate would.
    """
    return _gate(run, run.kept.abs(), keeps=True)


def _gate(run: Trajectory, value: Tensor, *, keeps: bool) -> Gate:
    value = value.double()
    by_unit = _over(run, value, (0, 1))
    time_constant = None
    if keeps:
        logarithm = _over(run, value.log(), (0, 1))
        with np.errstate(divide="ignore"):
            time_constant = np.where(logarithm < 0, -1 / logarithm, np.inf)
    return Gate(
        float(by_unit.mean()),
        float(_over(run, (value > 0.9).double(), (0, 1)).mean()),
        float(_over(run, (value < 0.1).double(), (0, 1)).mean()),
        by_unit,
        _over(run, value, (1, 2)),
        time_constant,
    )


def pre_activations(run: Trajectory) -> Array:
    """Arguments of f, flat, computed again from inputs and states."""
    _, computed = run.cell.step(*run.products())
    values = computed[run.cell.computed.index("a" if run.cell.vanilla else f"a_{run.cell.candidate}")]
    return np.asarray((values if run.mask is None else values[run.mask]).double().cpu()).ravel()


def _over(run: Trajectory, values: Tensor, axes: tuple[int, ...]) -> Array:
    """Mean over axes of `(T, B, H)`, leaving padding out."""
    if run.mask is None:
        result: Any = values.mean(axes)
    else:
        live = run.mask.unsqueeze(-1).double().expand_as(values)
        result = (values * live).sum(axes) / live.sum(axes)
    return np.asarray(result.cpu(), dtype=np.float64)
