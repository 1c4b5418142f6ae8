r"""The vanilla recurrent network: forward, loss, and the gradient by backpropagation through time.

The model
---------
A recurrent network reads a sequence x_1 … x_T and keeps a state s_t. It starts from a given s_0, which
is zero by default::

    s_t = f(U x_t + W s_{t−1} + b)        f = tanh or ReLU
    ŷ_t = softmax(V s_t + c)              at every step, or only at the last

U maps the input to the state, W maps the previous state to the next, and V maps the state to the
output. Every step uses the same three matrices: this is the whole difference between a recurrent
network and a network of T layers.

The loss
--------
E_t = −Σ_i y_{t,i} log ŷ_{t,i} is the cross-entropy of step t, and E = Σ_t E_t.

The chain rule through time
---------------------------
V acts on step t alone, so ∂E_t/∂V = (ŷ_t − y_t) ⊗ s_t and the past does not matter. W acts at every
step up to t, so its gradient has one term for each step k at which it acted::

    ∂E_t/∂W = Σ_{k=1..t}  ∂E_t/∂ŷ_t · ∂ŷ_t/∂s_t · ( Π_{j=k+1..t} ∂s_j/∂s_{j−1} ) · ∂s_k/∂W

The same holds for U and b. The product leads back from step t to step k. It has one Jacobian per step,
the latest on the left: ∂s_t/∂s_k = J_t J_{t−1} … J_{k+1} with J_j = ∂s_j/∂s_{j−1} = diag(f′(z_j)) W,
where z_j = U x_j + W s_{j−1} + b.

`retrograde.reference.gradient_terms` computes this sum as it is written, term by term. `gradients`
computes its sum over t in one sweep from the last step to the first, because the terms share their
factors. With δ_t = ∂E/∂z_t ::

    δ_t = f′(z_t) ⊙ ( Vᵀ(ŷ_t − y_t) + Wᵀ δ_{t+1} ),    ∂E/∂W = Σ_t δ_t ⊗ s_{t−1},    ∂E/∂U = Σ_t δ_t ⊗ x_t

This sweep is backpropagation through time. Time steps count from 1, as in these equations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .arrays import (
    Array,
    checked_array,
    checked_choice,
    checked_inputs,
    checked_size,
    checked_step,
    checked_targets,
    norms_table,
    uniform,
)
from .functions import (
    Nonlinearity,
    activation,
    activation_gradient,
    cross_entropy,
    cross_entropy_gradient,
    softmax,
)

__all__ = [
    "Gradients",
    "Network",
    "States",
    "forward",
    "gradients",
    "jacobian",
    "loss",
    "losses",
    "step",
    "step_gradient",
]


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """The parameters of a vanilla network: s_t = f(U x_t + W s_{t−1} + b), ŷ_t = softmax(V s_t + c).

    Parameters
    ----------
    U : array_like, (H, D)
        Input to state.
    W : array_like, (H, H)
        State to state.
    V : array_like, (K, H)
        State to logits.
    b : array_like, (H,), optional
        Bias of the state. No bias by default.
    c : array_like, (K,), optional
        Bias of the logits. No bias by default.
    nonlinearity : {"tanh", "relu"}
        f.
    outputs : {"every", "last"}
        Whether the network has an output, and so a loss, at every step or only at the last.

    Raises
    ------
    DataError
        The shape of a parameter does not fit the others.
    OptionError
        Unknown ``nonlinearity`` or ``outputs``.
    """

    U: Array
    W: Array
    V: Array
    b: Array | None = None
    c: Array | None = None
    nonlinearity: Nonlinearity = "tanh"
    outputs: Literal["every", "last"] = "every"

    def __post_init__(self) -> None:
        W = checked_array("W", self.W, "H H")
        U = checked_array("U", self.U, "H D", H=len(W))
        V = checked_array("V", self.V, "K H", H=len(W))
        b = None if self.b is None else checked_array("b", self.b, "H", H=len(W))
        c = None if self.c is None else checked_array("c", self.c, "K", K=len(V))
        for name, value in {"W": W, "U": U, "V": V, "b": b, "c": c}.items():
            object.__setattr__(self, name, value)
        checked_choice("nonlinearity", self.nonlinearity, ("tanh", "relu"))
        checked_choice("outputs", self.outputs, ("every", "last"))

    @classmethod
    def random(
        cls,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        bias: bool = True,
        nonlinearity: Nonlinearity = "tanh",
        outputs: Literal["every", "last"] = "every",
        seed: int | np.random.Generator = 0,
    ) -> Network:
        """A network whose parameters are all drawn uniformly from ±1/√hidden_size, as torch initializes them.

        Examples
        --------
        >>> Network.random(3, 4, 2, nonlinearity="relu")
        Network(input_size=3, hidden_size=4, output_size=2, bias=True, nonlinearity='relu', outputs='every')
        """
        D, H = checked_size("input_size", input_size), checked_size("hidden_size", hidden_size)
        K = checked_size("output_size", output_size)
        draw = uniform(H, seed)
        U, W, V = draw(H, D), draw(H, H), draw(K, H)
        b, c = (draw(H), draw(K)) if bias else (None, None)
        return cls(U, W, V, b, c, nonlinearity, outputs)

    def __repr__(self) -> str:
        K, H = self.V.shape
        bias = self.b is not None or self.c is not None
        return (
            f"Network(input_size={self.U.shape[1]}, hidden_size={H}, output_size={K}, "
            f"bias={bias}, nonlinearity={self.nonlinearity!r}, outputs={self.outputs!r})"
        )


# -- one step: forward, backward, Jacobian ---------------------------------------------------------


def step(net: Network, x_t: Array, s_before: Array) -> Array:
    """Compute one step: s_t from x_t ``(D,)`` and s_{t−1} ``(H,)``."""
    b = 0.0 if net.b is None else net.b
    z_t = net.U @ x_t + net.W @ s_before + b  # z_t = U x_t + W s_{t−1} + b
    return activation(net.nonlinearity, z_t)  # s_t = f(z_t)


def step_gradient(net: Network, s_t: Array, dE_ds: Array) -> tuple[Array, Array]:
    """Backpropagate through one step.

    Parameters
    ----------
    net : Network
    s_t : (H,)
        The state after the step.
    dE_ds : (H,) or (N, H)
        ∂E/∂s_t, or N such vectors, one per row.

    Returns
    -------
    delta : like dE_ds
        δ_t = ∂E/∂z_t, from which the gradient of every parameter follows.
    dE_ds_before : like dE_ds
        The part of ∂E/∂s_{t−1} that comes through this step.
    """
    delta = activation_gradient(net.nonlinearity, s_t) * dE_ds  # δ_t = f′(z_t) ⊙ ∂E/∂s_t
    return delta, delta @ net.W  # ∂E/∂s_{t−1} = Wᵀ δ_t


def jacobian(net: Network, states: States, t: int) -> Array:
    """∂s_t/∂s_{t−1}, ``(H, H)``: entry (i, j) is the derivative of s_t,i by s_{t−1},j. t counts from 1."""
    t = checked_step(t, len(states.x))
    slope = activation_gradient(net.nonlinearity, states.s[t])
    return slope[:, None] * net.W  # J_t = diag(f′(z_t)) W


# -- a whole sequence: forward, loss, backward -----------------------------------------------------


@dataclass(frozen=True, eq=False)
class States:
    """The result of `forward`.

    Attributes
    ----------
    x : (T, D)
        The inputs, with tokens as one-hot vectors; ``x[t - 1]`` is x_t.
    s : (T + 1, H)
        The states; ``s[t]`` is s_t, and ``s[0]`` is the initial state.
    o : (T, K), or (1, K) if the network has an output at the last step only
        The logits V s_t + c.
    y_hat : like o
        ŷ, the softmax of the logits.
    """

    x: Array = field(repr=False)
    s: Array
    o: Array = field(repr=False)
    y_hat: Array


def forward(net: Network, inputs: ArrayLike, s_0: ArrayLike | None = None) -> States:
    """Run the network over one sequence.

    Parameters
    ----------
    net : Network
    inputs : array_like, (T, D) or (T,)
        Vectors, or token indices from 0 to D − 1 (integers). A token stands for its one-hot vector.
    s_0 : array_like, (H,), optional
        Initial state; zero by default.

    Returns
    -------
    States

    Raises
    ------
    DataError
        ``inputs`` or ``s_0`` do not fit the network.

    Examples
    --------
    >>> net = Network(U=[[1.0]], W=[[0.5]], V=[[1.0], [0.0]], nonlinearity="relu")
    >>> forward(net, [[1.0], [1.0], [0.0]]).s.ravel().tolist()
    [0.0, 1.0, 1.5, 0.75]
    """
    H, D = net.U.shape
    x = checked_inputs(inputs, D)
    s = np.zeros((len(x) + 1, H))
    s[0] = 0.0 if s_0 is None else checked_array("s_0", s_0, "H", H=H)
    for t in range(1, len(x) + 1):
        s[t] = step(net, x[t - 1], s[t - 1])
    c = 0.0 if net.c is None else net.c
    o = s[_output_steps(net, len(x))] @ net.V.T + c  # o_t = V s_t + c
    return States(x, s, o, softmax(o))  # ŷ_t = softmax(o_t)


def _output_steps(net: Network, T: int) -> slice:
    return slice(1, None) if net.outputs == "every" else slice(T, None)


def losses(net: Network, inputs: ArrayLike, targets: ArrayLike, s_0: ArrayLike | None = None) -> Array:
    """E_t for every step that has an output: ``(T,)``, or ``(1,)`` if only the last step has one.

    The arguments are those of `loss`.
    """
    states = forward(net, inputs, s_0)
    return cross_entropy(states.o, checked_targets(targets, states.o.shape))


def loss(net: Network, inputs: ArrayLike, targets: ArrayLike, s_0: ArrayLike | None = None) -> float:
    """E = Σ_t E_t: the cross-entropy, summed over the steps that have an output, in nats.

    Parameters
    ----------
    net : Network
    inputs : array_like, (T, D) or (T,)
        Vectors, or token indices.
    targets : array_like, (T,) or (T, K)
        The correct class at each step (integers), or y_t itself: in each row a distribution over the classes.
        If only the last step has an output: one class, or one distribution ``(K,)``.
    s_0 : array_like, (H,), optional
        Initial state; zero by default.

    Raises
    ------
    DataError
        ``inputs``, ``targets`` or ``s_0`` do not fit the network.
    """
    return float(losses(net, inputs, targets, s_0).sum())  # E = Σ_t E_t


@dataclass(frozen=True, eq=False, repr=False)
class Gradients:
    """The derivatives of E by everything that `loss` depends on; each has the shape of what it is the derivative by.

    b and c are None if the network has none. If the inputs are tokens, ``inputs`` is the gradient by
    their one-hot vectors, ``(T, D)``.
    """

    U: Array
    W: Array
    V: Array
    b: Array | None
    c: Array | None
    inputs: Array
    s_0: Array

    def __repr__(self) -> str:
        return norms_table(self)


def gradients(
    net: Network,
    inputs: ArrayLike,
    targets: ArrayLike,
    s_0: ArrayLike | None = None,
    *,
    truncation: int | None = None,
) -> Gradients:
    """∂E/∂U, ∂E/∂W, ∂E/∂V and the others by backpropagation through time: one sweep from t = T to t = 1.

    Parameters
    ----------
    net, inputs, targets, s_0
        The same as for `loss`.
    truncation : int, optional
        Follow each E_t back through the last ``truncation`` steps only. Of the double sum over t and k,
        this keeps exactly the terms with lag t − k < truncation: 1 keeps the immediate derivatives
        alone, T or more keeps everything. Autograd gives the same result if, for each E_t separately,
        s_{t−truncation} is detached. The same rule holds for the gradients of ``inputs`` and of ``s_0``
        (s_0 counts as k = 0, so its gradient is complete from T + 1 on). V and c lose nothing. By
        default nothing is truncated.

    Raises
    ------
    DataError, OptionError
        Arrays that do not fit the network; ``truncation`` below 1.

    Notes
    -----
    Everything that follows from ∂E/∂s_t is linear in it. The errors of later steps can therefore be
    added on the way, so that a single vector travels back. With truncation each error must be dropped
    once it has gone far enough; then up to ``truncation`` vectors travel back, one for each age.
    """
    if truncation is not None:
        truncation = checked_size("truncation", truncation)
    states = forward(net, inputs, s_0)
    x, s = states.x, states.s
    at = _output_steps(net, len(x))
    dE_do = np.zeros((len(x) + 1, len(net.V)))
    dE_do[at] = cross_entropy_gradient(states.o, checked_targets(targets, states.o.shape))  # ∂E_t/∂o_t = ŷ_t − y_t

    dU, dW, dx = np.zeros_like(net.U), np.zeros_like(net.W), np.zeros_like(x)
    db = np.zeros(len(net.W))
    from_later = np.zeros((0, len(net.W)))  # row l: ∂E_{t+1+l}/∂s_t; the age l grows downwards
    for t in range(len(x), 0, -1):
        dE_ds = np.vstack([dE_do[t] @ net.V, from_later])  # ∂E_t/∂s_t = Vᵀ(ŷ_t − y_t), then the rows from later steps
        if truncation is None:
            dE_ds = dE_ds.sum(axis=0, keepdims=True)  # ∂E/∂s_t = Vᵀ(ŷ_t − y_t) + Wᵀ δ_{t+1}
        deltas, from_later = step_gradient(net, s[t], dE_ds)
        delta = deltas.sum(axis=0)
        dW += np.outer(delta, s[t - 1])  # ∂E/∂W = Σ_t δ_t ⊗ s_{t−1}
        dU += np.outer(delta, x[t - 1])  # ∂E/∂U = Σ_t δ_t ⊗ x_t
        db += delta  # ∂E/∂b = Σ_t δ_t
        dx[t - 1] = delta @ net.U  # ∂E/∂x_t = Uᵀ δ_t
        if truncation is not None:
            from_later = from_later[: truncation - 1]  # the oldest has gone through `truncation` steps
    dV = dE_do[at].T @ s[at]  # ∂E/∂V = Σ_t (ŷ_t − y_t) ⊗ s_t
    dc = dE_do[at].sum(axis=0)  # ∂E/∂c = Σ_t (ŷ_t − y_t)
    ds_0 = from_later.sum(axis=0)  # ∂E/∂s_0 = Wᵀ δ_1
    return Gradients(dU, dW, dV, None if net.b is None else db, None if net.c is None else dc, dx, ds_0)
