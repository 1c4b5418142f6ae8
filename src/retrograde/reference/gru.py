r"""GRU, with torch's equations and torch's parameter layout.

::

    r_t = σ(W_ir x_t + b_ir + W_hr h_{t−1} + b_hr)             reset gate
    z_t = σ(W_iz x_t + b_iz + W_hz h_{t−1} + b_hz)             update gate
    n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_{t−1} + b_hn))  candidate
    h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}

The state is one vector h_t. Where the update gate z_t is 1, h_{t−1} is copied, and so is the gradient
on its way back. Time steps count from 1, as in these equations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Array, checked_array, checked_sequence, checked_size, checked_step
from .functions import sigmoid
from .gated import GatedGradients, GatedLayer, affine, only_last, truncated_gradients

__all__ = [
    "GRU",
    "GRUGradients",
    "GRUStates",
    "GRUStep",
    "gru_forward",
    "gru_gradients",
    "gru_jacobian",
    "gru_step",
    "gru_step_gradient",
]


@dataclass(frozen=True, eq=False, repr=False)
class GRU(GatedLayer):
    """The parameters of one GRU layer, named and laid out as in torch (without ``_l0``).

    The reset gate acts after the product with h_{t−1}, and b_hn is inside it. The paper of Cho et al.
    resets h_{t−1} before the product.

    Parameters
    ----------
    weight_ih : array_like, (3H, D)
        Input to gates; rows in the order r, z, n.
    weight_hh : array_like, (3H, H)
        State to gates.
    bias_ih, bias_hh : array_like, (3H,), optional
        The two biases. No bias by default.

    Raises
    ------
    DataError
        The shape of a parameter does not fit the others.
    """

    gates: ClassVar[int] = 3


# -- one step: forward, backward, Jacobian ---------------------------------------------------------


class GRUStep(NamedTuple):
    """One step: the gates r, z, n, the product q = W_hn h_{t−1} + b_hn that r multiplies, and h; all ``(H,)``."""

    r: Array
    z: Array
    n: Array
    q: Array
    h: Array


def gru_step(cell: GRU, x_t: Array, h_before: Array) -> GRUStep:
    """Compute one step: the gates and h_t from x_t ``(D,)`` and h_{t−1} ``(H,)``."""
    p_r, p_z, p_n = np.split(affine(cell.weight_ih, x_t, cell.bias_ih), 3)  # p = W_ih x_t + b_ih
    q_r, q_z, q_n = np.split(affine(cell.weight_hh, h_before, cell.bias_hh), 3)  # q = W_hh h_{t−1} + b_hh
    r = sigmoid(p_r + q_r)  # r_t = σ(W_ir x_t + b_ir + W_hr h_{t−1} + b_hr)
    z = sigmoid(p_z + q_z)  # z_t = σ(W_iz x_t + b_iz + W_hz h_{t−1} + b_hz)
    n = np.tanh(p_n + r * q_n)  # n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_{t−1} + b_hn))
    h = (1.0 - z) * n + z * h_before  # h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}
    return GRUStep(r, z, n, q_n, h)


def gru_step_gradient(cell: GRU, step: GRUStep, h_before: Array, dh: Array) -> tuple[Array, Array, Array]:
    """Backpropagate through one step.

    Parameters
    ----------
    cell : GRU
    step : GRUStep
        The result of `gru_step`.
    h_before : (H,)
        h_{t−1}.
    dh : (H,)
        ∂E/∂h_t.

    Returns
    -------
    dp, dq : (3H,)
        ∂E/∂(W_ih x_t + b_ih) and ∂E/∂(W_hh h_{t−1} + b_hh). They differ, because r_t multiplies only the second
        in n_t.
    dh_before : (H,)
        The part of ∂E/∂h_{t−1} that comes through this step.
    """
    r, z, n, q, _ = step
    da_n = dh * (1.0 - z) * (1.0 - n**2)  # ∂E/∂n_t = ∂E/∂h_t ⊙ (1 − z_t);  tanh′ = 1 − n²
    da_z = dh * (h_before - n) * z * (1.0 - z)  # ∂E/∂z_t = ∂E/∂h_t ⊙ (h_{t−1} − n_t);  σ′ = z(1 − z)
    da_r = da_n * q * r * (1.0 - r)  # ∂E/∂r_t = ∂E/∂a_n ⊙ (W_hn h_{t−1} + b_hn);  σ′ = r(1 − r)
    dp = np.concatenate([da_r, da_z, da_n])
    dq = np.concatenate([da_r, da_z, da_n * r])
    return dp, dq, dh * z + dq @ cell.weight_hh  # ∂E/∂h_{t−1} = ∂E/∂h_t ⊙ z_t + W_hhᵀ ∂E/∂q_t


def gru_jacobian(cell: GRU, states: GRUStates, t: int) -> Array:
    """∂h_t/∂h_{t−1}, ``(H, H)``. t counts from 1."""
    t = checked_step(t, len(states.x))
    r, z, n, q, h_before = states.r[t - 1], states.z[t - 1], states.n[t - 1], states.q[t - 1], states.h[t - 1]
    W_r, W_z, W_n = np.split(cell.weight_hh, 3)
    da_n = r[:, None] * W_n + (q * r * (1.0 - r))[:, None] * W_r  # of the argument of tanh
    dn = (1.0 - n**2)[:, None] * da_n  # ∂n_t/∂h_{t−1}
    dz = (z * (1.0 - z))[:, None] * W_z  # ∂z_t/∂h_{t−1}
    # ∂h_t/∂h_{t−1} = diag(z_t) + diag(h_{t−1} − n_t) ∂z_t/∂h_{t−1} + diag(1 − z_t) ∂n_t/∂h_{t−1}
    return np.asarray(np.diag(z) + (h_before - n)[:, None] * dz + (1.0 - z)[:, None] * dn)


# -- a whole sequence: forward, backward -----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GRUStates:
    """The result of `gru_forward`: x, r, z, n, q hold step t in row t − 1; ``h[t]`` is h_t.

    Attributes
    ----------
    x : (T, D)
    h : (T + 1, H)
        ``h[0]`` is the initial state; ``h[1:]`` is torch's output.
    r, z, n, q : (T, H)
        Reset gate, update gate, candidate, and W_hn h_{t−1} + b_hn, the product that r multiplies.
    """

    x: Array = field(repr=False)
    h: Array
    r: Array = field(repr=False)
    z: Array = field(repr=False)
    n: Array = field(repr=False)
    q: Array = field(repr=False)


def gru_forward(cell: GRU, inputs: ArrayLike, h_0: ArrayLike | None = None) -> GRUStates:
    """Run the layer over one sequence.

    Parameters
    ----------
    cell : GRU
    inputs : array_like, (T, D)
    h_0 : array_like, (H,), optional
        Initial state; zero by default.

    Raises
    ------
    DataError
        ``inputs`` or ``h_0`` do not fit the layer.
    """
    H = len(cell.weight_ih) // 3
    x = checked_sequence("inputs", inputs, "T D", D=cell.weight_ih.shape[1])
    h, gates = np.zeros((len(x) + 1, H)), np.zeros((4, len(x), H))
    h[0] = 0.0 if h_0 is None else checked_array("h_0", h_0, "H", H=H)
    for t in range(1, len(x) + 1):
        *gates[:, t - 1], h[t] = gru_step(cell, x[t - 1], h[t - 1])
    return GRUStates(x, h, *gates)


class GRUGradients(GatedGradients):
    """The result of `gru_gradients`."""


def gru_gradients(
    cell: GRU,
    inputs: ArrayLike,
    grad_output: ArrayLike | None = None,
    grad_h_n: ArrayLike | None = None,
    h_0: ArrayLike | None = None,
    truncation: int | None = None,
) -> GRUGradients:
    """Backpropagation through time, given the derivatives of the loss by the outputs of the layer.

    Parameters
    ----------
    cell, inputs, h_0
        The same as for `gru_forward`.
    grad_output : array_like, (T, H), optional
        The direct part of ∂E/∂h_t, from a loss that uses the output of step t; zero by default.
    grad_h_n : array_like, (H,), optional
        ∂E/∂h_T from a loss that also uses the final state; it is added to the above.
    truncation : int, optional
        As in `retrograde.reference.gradients`: follow the loss of each step back through that many steps only.

    Raises
    ------
    DataError, OptionError
        An array does not fit the layer; ``truncation`` below 1.
    """
    states = gru_forward(cell, inputs, h_0)
    x, h = states.x, states.h
    T, H = len(x), h.shape[1]
    zeros = np.zeros((T, H))
    from_output = zeros if grad_output is None else checked_array("grad_output", grad_output, "T H", T=T, H=H)
    dh = np.zeros(H) if grad_h_n is None else checked_array("grad_h_n", grad_h_n, "H", H=H)
    if truncation is not None:

        def of_window(k: int, t: int) -> GRUGradients:
            return gru_gradients(cell, x[k:t], only_last(from_output[k:t]), dh if t == T else None, h[k])

        return GRUGradients(**truncated_gradients(T, checked_size("truncation", truncation), of_window))

    dW_ih, dW_hh, dx = np.zeros_like(cell.weight_ih), np.zeros_like(cell.weight_hh), np.zeros_like(x)
    db_ih, db_hh = np.zeros(3 * H), np.zeros(3 * H)
    for t in range(T, 0, -1):
        dh = dh + from_output[t - 1]  # ∂E/∂h_t: from the later steps, and directly from the loss at this step
        step = GRUStep(states.r[t - 1], states.z[t - 1], states.n[t - 1], states.q[t - 1], h[t])
        dp, dq, dh = gru_step_gradient(cell, step, h[t - 1], dh)
        dW_ih += np.outer(dp, x[t - 1])  # ∂E/∂W_ih = Σ_t ∂E/∂p_t ⊗ x_t
        dW_hh += np.outer(dq, h[t - 1])  # ∂E/∂W_hh = Σ_t ∂E/∂q_t ⊗ h_{t−1}
        db_ih += dp  # ∂E/∂b_ih = Σ_t ∂E/∂p_t
        db_hh += dq  # ∂E/∂b_hh = Σ_t ∂E/∂q_t
        dx[t - 1] = dp @ cell.weight_ih  # ∂E/∂x_t = W_ihᵀ ∂E/∂p_t
    bias_ih, bias_hh = None if cell.bias_ih is None else db_ih, None if cell.bias_hh is None else db_hh
    return GRUGradients(dW_ih, dW_hh, bias_ih, bias_hh, dx, dh)
