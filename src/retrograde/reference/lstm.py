r"""LSTM, with torch's equations and torch's parameter layout.

::

    i_t = σ(W_ii x_t + b_ii + W_hi h_{t−1} + b_hi)     input gate
    f_t = σ(W_if x_t + b_if + W_hf h_{t−1} + b_hf)     forget gate
    g_t = tanh(W_ig x_t + b_ig + W_hg h_{t−1} + b_hg)  candidate
    o_t = σ(W_io x_t + b_io + W_ho h_{t−1} + b_ho)     output gate
    c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
    h_t = o_t ⊙ tanh(c_t)                              times W_hr with a projection

The state is the pair (h_t, c_t). From c_{t−1} to c_t the gradient is multiplied by the forget gate f_t
instead of W: where f_t is 1, it passes unchanged. Time steps count from 1, as in these equations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Array, checked_array, checked_sequence, checked_size, checked_step, uniform
from .functions import sigmoid
from .gated import GatedGradients, GatedLayer, affine, only_last, truncated_gradients

__all__ = [
    "LSTM",
    "LSTMGradients",
    "LSTMStates",
    "LSTMStep",
    "lstm_forward",
    "lstm_gradients",
    "lstm_jacobian",
    "lstm_step",
    "lstm_step_gradient",
]


@dataclass(frozen=True, eq=False, repr=False)
class LSTM(GatedLayer):
    """The parameters of one LSTM layer, named and laid out as in torch (without ``_l0``).

    Parameters
    ----------
    weight_ih : array_like, (4H, D)
        Input to gates; rows in the order i, f, g, o.
    weight_hh : array_like, (4H, P)
        State to gates; P = H without a projection.
    bias_ih, bias_hh : array_like, (4H,), optional
        The two biases. No bias by default.
    weight_hr : array_like, (P, H), optional
        The projection of the output (P is torch's ``proj_size``). No projection by default.

    Raises
    ------
    DataError
        The shape of a parameter does not fit the others.

    Examples
    --------
    From a layer of torch: ``LSTM(**{name.removesuffix("_l0"): p.numpy() for name, p in layer.state_dict().items()})``.
    For several layers, pass ``states.h[1:]`` of one to the next as inputs, and ``gradients.inputs`` back.
    """

    gates: ClassVar[int] = 4

    weight_hr: Array | None = None

    def __post_init__(self) -> None:
        H = self._hidden_size()
        hr = None if self.weight_hr is None else checked_array("weight_hr", self.weight_hr, "P H", H=H)
        object.__setattr__(self, "weight_hr", hr)
        self._check(P=H if hr is None else len(hr))

    @classmethod
    def random(
        cls,
        input_size: int,
        hidden_size: int,
        *,
        proj_size: int = 0,
        bias: bool = True,
        seed: int | np.random.Generator = 0,
    ) -> LSTM:
        """A layer whose parameters are all drawn uniformly from ±1/√hidden_size, as torch initializes them."""
        D, H = checked_size("input_size", input_size), checked_size("hidden_size", hidden_size)
        P = checked_size("proj_size", proj_size) if proj_size else H
        draw = uniform(H, seed)
        drawn = cls._drawn(D, H, P, bias, draw)
        return cls(**drawn, weight_hr=draw(P, H) if proj_size else None)

    def __repr__(self) -> str:
        D, H = self.weight_ih.shape[1], len(self.weight_ih) // 4
        proj_size = 0 if self.weight_hr is None else len(self.weight_hr)
        return f"LSTM(input_size={D}, hidden_size={H}, proj_size={proj_size}, bias={self.bias_ih is not None})"


# -- one step: forward, backward, Jacobian ---------------------------------------------------------


class LSTMStep(NamedTuple):
    """One step: the gates i, f, g, o ``(H,)``, the cell state c ``(H,)`` and the output h ``(P,)``."""

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


def lstm_step(cell: LSTM, x_t: Array, h_before: Array, c_before: Array) -> LSTMStep:
    """Compute one step: the gates, c_t and h_t from x_t ``(D,)``, h_{t−1} ``(P,)`` and c_{t−1} ``(H,)``."""
    a = affine(cell.weight_ih, x_t, cell.bias_ih) + affine(cell.weight_hh, h_before, cell.bias_hh)
    a_i, a_f, a_g, a_o = np.split(a, 4)  # a_i = W_ii x_t + b_ii + W_hi h_{t−1} + b_hi, and so on
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)  # i, f, o = σ(a);  g = tanh(a)
    c = f * c_before + i * g  # c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
    m = o * np.tanh(c)  # m_t = o_t ⊙ tanh(c_t)
    h = m if cell.weight_hr is None else cell.weight_hr @ m  # h_t = m_t, or W_hr m_t with a projection
    return LSTMStep(i, f, g, o, c, h)


def lstm_step_gradient(cell: LSTM, step: LSTMStep, c_before: Array, dh: Array, dc: Array) -> tuple[Array, Array, Array]:
    """Backpropagate through one step.

    Parameters
    ----------
    cell : LSTM
    step : LSTMStep
        The result of `lstm_step`.
    c_before : (H,)
        c_{t−1}.
    dh, dc : (P,), (H,)
        ∂E/∂h_t, and the part of ∂E/∂c_t that comes from later steps.

    Returns
    -------
    da : (4H,)
        ∂E/∂a_t, by the gates before their nonlinearity.
    dh_before, dc_before : (P,), (H,)
        The parts of ∂E/∂h_{t−1} and ∂E/∂c_{t−1} that come through this step.
    """
    i, f, g, o, c, _ = step
    dm = dh if cell.weight_hr is None else dh @ cell.weight_hr  # ∂E/∂m_t = W_hrᵀ ∂E/∂h_t
    dc = dc + dm * o * (1.0 - np.tanh(c) ** 2)  # ∂E/∂c_t, from later steps and through h_t = o_t ⊙ tanh(c_t)
    da_i = dc * g * i * (1.0 - i)  # ∂E/∂i_t = ∂E/∂c_t ⊙ g_t;  σ′ = i(1 − i)
    da_f = dc * c_before * f * (1.0 - f)  # ∂E/∂f_t = ∂E/∂c_t ⊙ c_{t−1};  σ′ = f(1 − f)
    da_g = dc * i * (1.0 - g**2)  # ∂E/∂g_t = ∂E/∂c_t ⊙ i_t;  tanh′ = 1 − g²
    da_o = dm * np.tanh(c) * o * (1.0 - o)  # ∂E/∂o_t = ∂E/∂m_t ⊙ tanh(c_t);  σ′ = o(1 − o)
    da = np.concatenate([da_i, da_f, da_g, da_o])
    return da, da @ cell.weight_hh, dc * f  # ∂E/∂h_{t−1} = W_hhᵀ ∂E/∂a_t;  ∂E/∂c_{t−1} = ∂E/∂c_t ⊙ f_t


def lstm_jacobian(cell: LSTM, states: LSTMStates, t: int) -> Array:
    """∂(h_t, c_t)/∂(h_{t−1}, c_{t−1}), ``(P + H, P + H)``: h first, then c. t counts from 1."""
    t = checked_step(t, len(states.x))
    i, f, g, o = states.i[t - 1], states.f[t - 1], states.g[t - 1], states.o[t - 1]
    c_before, tanh_c = states.c[t - 1], np.tanh(states.c[t])
    W_i, W_f, W_g, W_o = np.split(cell.weight_hh, 4)
    dc_dh = (
        (g * i * (1.0 - i))[:, None] * W_i  # ∂c_t/∂h_{t−1}: through the input gate,
        + (c_before * f * (1.0 - f))[:, None] * W_f  # the forget gate
        + (i * (1.0 - g**2))[:, None] * W_g  # and the candidate
    )
    dc_dc = np.diag(f)  # ∂c_t/∂c_{t−1} = diag(f_t): the forget gate alone decides how much passes
    dm_dc_t = o * (1.0 - tanh_c**2)  # ∂m_t/∂c_t = diag(o_t ⊙ (1 − tanh² c_t))
    dm_dh = (tanh_c * o * (1.0 - o))[:, None] * W_o + dm_dc_t[:, None] * dc_dh  # ∂m_t/∂h_{t−1}
    dm_dc = dm_dc_t[:, None] * dc_dc  # ∂m_t/∂c_{t−1}
    project = np.eye(len(f)) if cell.weight_hr is None else cell.weight_hr  # ∂h_t/∂m_t
    return np.block([[project @ dm_dh, project @ dm_dc], [dc_dh, dc_dc]])


# -- a whole sequence: forward, backward -----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LSTMStates:
    """The result of `lstm_forward`: x, i, f, g, o hold step t in row t − 1; ``h[t]`` and ``c[t]`` are h_t and c_t.

    Attributes
    ----------
    x : (T, D)
    h : (T + 1, P)
        ``h[0]`` is the initial state; ``h[1:]`` is torch's output.
    c : (T + 1, H)
        ``c[0]`` is the initial state.
    i, f, g, o : (T, H)
        Input gate, forget gate, candidate, output gate.
    """

    x: Array = field(repr=False)
    h: Array
    c: Array = field(repr=False)
    i: Array = field(repr=False)
    f: Array = field(repr=False)
    g: Array = field(repr=False)
    o: Array = field(repr=False)


def lstm_forward(
    cell: LSTM, inputs: ArrayLike, h_0: ArrayLike | None = None, c_0: ArrayLike | None = None
) -> LSTMStates:
    """Run the layer over one sequence.

    Parameters
    ----------
    cell : LSTM
    inputs : array_like, (T, D)
    h_0, c_0 : array_like, (P,), (H,), optional
        Initial states; zero by default.

    Raises
    ------
    DataError
        ``inputs``, ``h_0`` or ``c_0`` do not fit the layer.
    """
    H, P = len(cell.weight_ih) // 4, cell.weight_hh.shape[1]
    x = checked_sequence("inputs", inputs, "T D", D=cell.weight_ih.shape[1])
    h, c, gates = np.zeros((len(x) + 1, P)), np.zeros((len(x) + 1, H)), np.zeros((4, len(x), H))
    h[0] = 0.0 if h_0 is None else checked_array("h_0", h_0, "P", P=P)
    c[0] = 0.0 if c_0 is None else checked_array("c_0", c_0, "H", H=H)
    for t in range(1, len(x) + 1):
        *gates[:, t - 1], c[t], h[t] = lstm_step(cell, x[t - 1], h[t - 1], c[t - 1])
    return LSTMStates(x, h, c, *gates)


@dataclass(frozen=True, eq=False, repr=False)
class LSTMGradients(GatedGradients):
    """The result of `lstm_gradients`; the projection is None if the layer has none."""

    c_0: Array
    weight_hr: Array | None


def lstm_gradients(
    cell: LSTM,
    inputs: ArrayLike,
    grad_output: ArrayLike | None = None,
    grad_h_n: ArrayLike | None = None,
    grad_c_n: ArrayLike | None = None,
    h_0: ArrayLike | None = None,
    c_0: ArrayLike | None = None,
    truncation: int | None = None,
) -> LSTMGradients:
    """Backpropagation through time, given the derivatives of the loss by the outputs of the layer.

    Parameters
    ----------
    cell, inputs, h_0, c_0
        The same as for `lstm_forward`.
    grad_output : array_like, (T, P), optional
        The direct part of ∂E/∂h_t, from a loss that uses the output of step t; zero by default.
    grad_h_n, grad_c_n : array_like, (P,), (H,), optional
        ∂E/∂h_T and ∂E/∂c_T from a loss that also uses the final states; they are added to the above.
    truncation : int, optional
        As in `retrograde.reference.gradients`: follow the loss of each step back through that many steps only.

    Raises
    ------
    DataError, OptionError
        An array does not fit the layer; ``truncation`` below 1.
    """
    states = lstm_forward(cell, inputs, h_0, c_0)
    x, h, c = states.x, states.h, states.c
    T, P, H = len(x), h.shape[1], c.shape[1]
    zeros = np.zeros((T, P))
    from_output = zeros if grad_output is None else checked_array("grad_output", grad_output, "T P", T=T, P=P)
    dh = np.zeros(P) if grad_h_n is None else checked_array("grad_h_n", grad_h_n, "P", P=P)
    dc = np.zeros(H) if grad_c_n is None else checked_array("grad_c_n", grad_c_n, "H", H=H)
    if truncation is not None:

        def of_window(k: int, t: int) -> LSTMGradients:
            dh_T, dc_T = (dh, dc) if t == T else (None, None)
            return lstm_gradients(cell, x[k:t], only_last(from_output[k:t]), dh_T, dc_T, h[k], c[k])

        return LSTMGradients(**truncated_gradients(T, checked_size("truncation", truncation), of_window))

    dW_ih, dW_hh, dx = np.zeros_like(cell.weight_ih), np.zeros_like(cell.weight_hh), np.zeros_like(x)
    db, dW_hr = np.zeros(4 * H), np.zeros((P, H))
    for t in range(T, 0, -1):
        dh = dh + from_output[t - 1]  # ∂E/∂h_t: from the later steps, and directly from the loss at this step
        step = LSTMStep(states.i[t - 1], states.f[t - 1], states.g[t - 1], states.o[t - 1], c[t], h[t])
        dW_hr += np.outer(dh, step.o * np.tanh(step.c))  # ∂E/∂W_hr = Σ_t ∂E/∂h_t ⊗ m_t
        da, dh, dc = lstm_step_gradient(cell, step, c[t - 1], dh, dc)
        dW_ih += np.outer(da, x[t - 1])  # ∂E/∂W_ih = Σ_t ∂E/∂a_t ⊗ x_t
        dW_hh += np.outer(da, h[t - 1])  # ∂E/∂W_hh = Σ_t ∂E/∂a_t ⊗ h_{t−1}
        db += da  # ∂E/∂b_ih = ∂E/∂b_hh = Σ_t ∂E/∂a_t
        dx[t - 1] = da @ cell.weight_ih  # ∂E/∂x_t = W_ihᵀ ∂E/∂a_t
    bias_ih, bias_hh = None if cell.bias_ih is None else db, None if cell.bias_hh is None else db.copy()
    weight_hr = None if cell.weight_hr is None else dW_hr
    return LSTMGradients(dW_ih, dW_hh, bias_ih, bias_hh, dx, dh, dc, weight_hr)
