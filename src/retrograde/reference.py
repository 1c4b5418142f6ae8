r"""Backpropagation through time, written to be read: float64 NumPy, one function per equation.

Fast does not matter here, clear does. The faster parts of this package are tested against this
page, and this page is tested against finite differences and against torch.

The model
---------
A recurrent network reads a sequence x_1 … x_T and keeps a state s_t, starting from a given s_0
(zero if nobody says otherwise)::

    s_t = f(U x_t + W s_{t−1} + b)        f = tanh or ReLU
    ŷ_t = softmax(V s_t + c)              at every step, or only at the last

U brings the input in, W carries the state on, V reads it out. The same three matrices serve every
step: that is the whole difference between this and a network of T layers.

The loss
--------
E_t = −Σ_i y_{t,i} log ŷ_{t,i}, the cross-entropy of step t, and E = Σ_t E_t.

The chain rule through time
---------------------------
V acts on step t alone, so ∂E_t/∂V = (ŷ_t − y_t) ⊗ s_t and the past does not enter. W acts at every
step up to t, so its gradient has one term for each step k at which it acted::

    ∂E_t/∂W = Σ_{k=1..t}  ∂E_t/∂ŷ_t · ∂ŷ_t/∂s_t · ( Π_{j=k+1..t} ∂s_j/∂s_{j−1} ) · ∂s_k/∂W

and the same for U. The product is the way back from step t to step k, one Jacobian per step, the
latest on the left: ∂s_t/∂s_k = J_t J_{t−1} … J_{k+1} with J_j = ∂s_j/∂s_{j−1} = diag(f′(z_j)) W,
where z_j = U x_j + W s_{j−1} + b. `gradient_terms` computes that sum as it stands, term by term.
`gradients` computes Σ_t of it in one sweep from the last step to the first, because the terms share
their factors: with δ_t = ∂E/∂z_t ::

    δ_t = f′(z_t) ⊙ ( Vᵀ(ŷ_t − y_t) + Wᵀ δ_{t+1} ),    ∂E/∂W = Σ_t δ_t ⊗ s_{t−1},    ∂E/∂U = Σ_t δ_t ⊗ x_t

Vanishing and exploding
-----------------------
A term at lag t − k carries a product of t − k Jacobians, and ‖J_j‖₂ ≤ σ_max(W) · max f′, where σ_max
is the largest singular value and max f′ is 1 for tanh and ReLU (1/4 for the logistic function).
If σ_max(W) · max f′ < 1, the terms shrink at least as fast as the powers of that number: vanishing is
certain. If the gradient explodes, that number was above 1.

Slips that popular texts make, set right
----------------------------------------
* *The condition is a norm below or above 1, never a sign.* Gradients do not vanish because entries,
  derivatives or eigenvalues are "below 0", nor explode because they are "above 0".
* *Sufficient is not necessary.* σ_max(W) · max f′ < 1 suffices for vanishing but is not needed for it:
  with large W the units saturate, f′ ≈ 0, and the gradient vanishes all the same.
  σ_max(W) · max f′ > 1 is needed for exploding but does not suffice for it.
* *Singular value and eigenvalue are two things.* The spectral radius ρ(W) ≤ σ_max(W) tells how powers
  of W behave in the end; before that, a W with ρ(W) < 1 can still make the gradient grow for many steps.
* *What vanishes is the terms of long lag, not the gradient.* The term k = t has no Jacobian in it. The
  sum stays of ordinary size and points where the short lags want: nothing learns from far back.
* *The sum runs over k from the first step*, not over t alone and not from k = 0: s_0 is not computed
  with W. (Texts that count steps from 0 call the initial state s_{−1}; there the sum starts at 0.)
* *The last factor ∂s_k/∂W is an immediate derivative*: W in step k alone, s_{k−1} held constant (some
  write ∂⁺). With the total derivative in its place every path would be counted more than once.
* *s_0 has a role.* Where s_0 = 0, the term k = 1 of ∂E/∂W is exactly zero, as W multiplied nothing there;
  that of ∂E/∂U is not. Where s_0 is learnt or carried over, its gradient is ∂E/∂s_0 = Wᵀ δ_1.
* *The order of an outer product is part of the formula*: ∂E_t/∂V = (ŷ_t − y_t) ⊗ s_t has V's shape,
  s_t ⊗ (ŷ_t − y_t) has not. So is the order in J_j = diag(f′(z_j)) W: f′ scales the rows.

Conventions
-----------
One sequence at a time; the gradient of a batch is the sum of its sequences' gradients. Steps count
from 1, as in the equations: ``states.s[t]`` is s_t with ``s[0]`` the initial state, while arrays that
have no entry 0 hold step t in row t − 1. NaN in gives NaN out.

LSTM and GRU follow further down, with torch's equations and torch's parameter layout.

Sources: Werbos, Backpropagation through time (1990); Pascanu, Mikolov and Bengio, On the difficulty of
training recurrent neural networks (2013); Hochreiter and Schmidhuber, Long short-term memory (1997);
Cho et al., Learning phrase representations (2014).

Examples
--------
>>> import retrograde as rg
>>> net = rg.reference.Network.random(input_size=5, hidden_size=4, output_size=5, seed=0)
>>> tokens, following = [0, 3, 1, 4], [3, 1, 4, 2]
>>> round(rg.reference.loss(net, tokens, following), 6)
6.314901
>>> gradient = rg.reference.gradients(net, tokens, following)
>>> gradient.W.shape == net.W.shape
True
>>> rg.reference.gradient_terms(net, tokens, following, t=3)
∂E_3/∂W = Σ_k ∂E_3/∂ŷ_3 · ∂ŷ_3/∂s_3 · ∂s_3/∂s_k · ∂s_k/∂W, and the same for U
  k   lag   ‖∂s_3/∂s_k‖   ‖∂E_3/∂s_k‖   ‖term of W‖   ‖term of U‖
  1     2        0.4257        0.1344             0          0.13
  2     1        0.7829         0.356        0.2382        0.2659
  3     0             1        0.7171        0.6505        0.6807
           sum over k, which is ∂E_3:          0.71        0.7423
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DataError, OptionError

__all__ = [
    "GRU",
    "LSTM",
    "GRUGradients",
    "GRUStates",
    "GRUStep",
    "GradientTerms",
    "Gradients",
    "LSTMGradients",
    "LSTMStates",
    "LSTMStep",
    "Network",
    "States",
    "Term",
    "activation",
    "activation_gradient",
    "cross_entropy",
    "cross_entropy_gradient",
    "forward",
    "gradient_terms",
    "gradients",
    "gru_forward",
    "gru_gradients",
    "gru_jacobian",
    "gru_step",
    "gru_step_gradient",
    "jacobian",
    "loss",
    "losses",
    "lstm_forward",
    "lstm_gradients",
    "lstm_jacobian",
    "lstm_step",
    "lstm_step_gradient",
    "sigmoid",
    "softmax",
    "step",
    "step_gradient",
]

Array = NDArray[np.float64]
Nonlinearity = Literal["tanh", "relu"]


# ------------------------------------------------------------------------------------------------
# The two curved lines in the model, each with its derivative
# ------------------------------------------------------------------------------------------------


def activation(nonlinearity: Nonlinearity, z: Array) -> Array:
    """f(z), entry by entry."""
    if nonlinearity == "tanh":
        return np.tanh(z)  # f(z) = tanh z
    return np.maximum(z, 0.0)  # f(z) = max(z, 0)


def activation_gradient(nonlinearity: Nonlinearity, s: Array) -> Array:
    """f′(z), from s = f(z): both functions let their slope be read off their value."""
    if nonlinearity == "tanh":
        return 1.0 - s**2  # f′(z) = 1 − tanh² z
    return np.where(np.isnan(s), s, s > 0.0)  # f′(z) = 1 where z > 0, else 0 (torch's choice at the kink)


def sigmoid(z: Array) -> Array:
    """σ(z), the logistic function, without overflow at either end; σ′ = σ(1 − σ)."""
    e = np.exp(-np.abs(z))  # the exponent is never positive
    return np.asarray(np.where(z >= 0.0, 1.0, e) / (1.0 + e))  # σ(z) = 1 / (1 + e^{−z}) = e^z / (1 + e^z)


def softmax(o: Array) -> Array:
    """ŷ = softmax(o) over the last axis."""
    e = np.exp(o - o.max(axis=-1, keepdims=True))  # subtracting the maximum changes nothing but the overflow
    return np.asarray(e / e.sum(axis=-1, keepdims=True))  # ŷ_i = e^{o_i} / Σ_j e^{o_j}


def cross_entropy(o: Array, y: Array) -> Array:
    """E_t = −Σ_i y_i log softmax(o)_i over the last axis, from the logits o."""
    shifted = o - o.max(axis=-1, keepdims=True)
    log_y_hat = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))  # log ŷ_i = o_i − log Σ_j e^{o_j}
    return np.asarray(-(y * np.where(y == 0.0, 0.0, log_y_hat)).sum(axis=-1))  # E_t = −Σ_i y_i log ŷ_i


def cross_entropy_gradient(o: Array, y: Array) -> Array:
    """∂E_t/∂o_t: the two factors ∂E_t/∂ŷ_t and ∂ŷ_t/∂o_t, multiplied out, leave a difference."""
    return softmax(o) - y  # ∂E_t/∂o_t = ŷ_t − y_t, as Σ_i y_i = 1


# ------------------------------------------------------------------------------------------------
# The vanilla network
# ------------------------------------------------------------------------------------------------


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
        Bias of the state; none if left out.
    c : array_like, (K,), optional
        Bias of the logits; none if left out.
    nonlinearity : {"tanh", "relu"}
        f.
    outputs : {"every", "last"}
        Whether there is an output, and a loss, at every step or only at the last.

    Raises
    ------
    DataError
        A parameter's shape does not fit the others.
    OptionError
        An unknown nonlinearity or place of outputs.
    """

    U: Array
    W: Array
    V: Array
    b: Array | None = None
    c: Array | None = None
    nonlinearity: Nonlinearity = "tanh"
    outputs: Literal["every", "last"] = "every"

    def __post_init__(self) -> None:
        W = _array("W", self.W, "H H")
        U = _array("U", self.U, "H D", H=len(W))
        V = _array("V", self.V, "K H", H=len(W))
        b = None if self.b is None else _array("b", self.b, "H", H=len(W))
        c = None if self.c is None else _array("c", self.c, "K", K=len(V))
        for name, value in {"W": W, "U": U, "V": V, "b": b, "c": c}.items():
            object.__setattr__(self, name, value)
        _one_of("nonlinearity", self.nonlinearity, ("tanh", "relu"))
        _one_of("outputs", self.outputs, ("every", "last"))

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
        """A network with every parameter uniform in ±1/√hidden_size, as torch begins.

        Examples
        --------
        >>> Network.random(3, 4, 2, nonlinearity="relu")
        Network(input_size=3, hidden_size=4, output_size=2, bias=True, nonlinearity='relu', outputs='every')
        """
        D, H, K = _size("input_size", input_size), _size("hidden_size", hidden_size), _size("output_size", output_size)
        draw = _uniform(H, seed)
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


@dataclass(frozen=True, eq=False)
class States:
    """What `forward` computed.

    Attributes
    ----------
    x : (T, D)
        The inputs, tokens turned into one-hot vectors; ``x[t - 1]`` is x_t.
    s : (T + 1, H)
        The states; ``s[t]`` is s_t, ``s[0]`` the initial one.
    o : (T, K), or (1, K) with outputs at the last step only
        The logits V s_t + c.
    y_hat : like o
        ŷ, the softmax of the logits.
    """

    x: Array = field(repr=False)
    s: Array
    o: Array = field(repr=False)
    y_hat: Array


def step(net: Network, x_t: Array, s_before: Array) -> Array:
    """One step: s_t from x_t ``(D,)`` and s_{t−1} ``(H,)``."""
    b = 0.0 if net.b is None else net.b
    z_t = net.U @ x_t + net.W @ s_before + b  # z_t = U x_t + W s_{t−1} + b
    return activation(net.nonlinearity, z_t)  # s_t = f(z_t)


def step_gradient(net: Network, s_t: Array, dE_ds: Array) -> tuple[Array, Array]:
    """The same step, backwards.

    Parameters
    ----------
    net : Network
    s_t : (H,)
        The state after the step.
    dE_ds : (H,) or (N, H)
        ∂E/∂s_t, or N of them side by side.

    Returns
    -------
    delta : like dE_ds
        δ_t = ∂E/∂z_t, from which every parameter's gradient follows.
    dE_ds_before : like dE_ds
        ∂E/∂s_{t−1}, as far as it comes through this step.
    """
    delta = activation_gradient(net.nonlinearity, s_t) * dE_ds  # δ_t = f′(z_t) ⊙ ∂E/∂s_t
    return delta, delta @ net.W  # ∂E/∂s_{t−1} = Wᵀ δ_t


def jacobian(net: Network, states: States, t: int) -> Array:
    """∂s_t/∂s_{t−1}, ``(H, H)``: entry (i, j) says how s_t,i answers to s_{t−1},j. t counts from 1."""
    t = _step_index(t, len(states.x))
    slope = activation_gradient(net.nonlinearity, states.s[t])
    return slope[:, None] * net.W  # J_t = diag(f′(z_t)) W


def forward(net: Network, inputs: ArrayLike, s_0: ArrayLike | None = None) -> States:
    """Run the network over one sequence.

    Parameters
    ----------
    net : Network
    inputs : array_like, (T, D) or (T,)
        Vectors, or token indices from 0 to D − 1 (integers), which stand for one-hot vectors.
    s_0 : array_like, (H,), optional
        Initial state; zero if left out.

    Returns
    -------
    States

    Raises
    ------
    DataError
        Inputs or s_0 do not fit the network.

    Examples
    --------
    >>> net = Network(U=[[1.0]], W=[[0.5]], V=[[1.0], [0.0]], nonlinearity="relu")
    >>> forward(net, [[1.0], [1.0], [0.0]]).s.ravel().tolist()
    [0.0, 1.0, 1.5, 0.75]
    """
    H, D = net.U.shape
    x = _inputs(inputs, D)
    s = np.zeros((len(x) + 1, H))
    s[0] = 0.0 if s_0 is None else _array("s_0", s_0, "H", H=H)
    for t in range(1, len(x) + 1):
        s[t] = step(net, x[t - 1], s[t - 1])
    c = 0.0 if net.c is None else net.c
    o = s[_output_steps(net, len(x))] @ net.V.T + c  # o_t = V s_t + c
    return States(x, s, o, softmax(o))  # ŷ_t = softmax(o_t)


def losses(net: Network, inputs: ArrayLike, targets: ArrayLike, s_0: ArrayLike | None = None) -> Array:
    """E_t for every step that has an output: ``(T,)``, or ``(1,)`` with outputs at the last step only.

    Arguments as for `loss`.
    """
    states = forward(net, inputs, s_0)
    return cross_entropy(states.o, _targets(targets, states.o.shape))


def loss(net: Network, inputs: ArrayLike, targets: ArrayLike, s_0: ArrayLike | None = None) -> float:
    """E = Σ_t E_t, the cross-entropy summed over the steps that have an output, in nats.

    Parameters
    ----------
    net : Network
    inputs : array_like, (T, D) or (T,)
        Vectors, or token indices.
    targets : array_like, (T,) or (T, K)
        The right class at each step (integers), or y_t itself: a distribution over the classes in each row.
        With outputs at the last step only: one class, or one distribution ``(K,)``.
    s_0 : array_like, (H,), optional
        Initial state; zero if left out.

    Raises
    ------
    DataError
        Inputs, targets or s_0 do not fit the network.
    """
    return float(losses(net, inputs, targets, s_0).sum())  # E = Σ_t E_t


@dataclass(frozen=True, eq=False, repr=False)
class Gradients:
    """∂E with respect to everything that `loss` depends on; each has the shape of its namesake.

    b and c are None where the network has none. For token inputs, ``inputs`` is the gradient with
    respect to their one-hot vectors, ``(T, D)``.
    """

    U: Array
    W: Array
    V: Array
    b: Array | None
    c: Array | None
    inputs: Array
    s_0: Array

    def __repr__(self) -> str:
        return _norms_repr(self)


def gradients(
    net: Network,
    inputs: ArrayLike,
    targets: ArrayLike,
    s_0: ArrayLike | None = None,
    *,
    truncation: int | None = None,
) -> Gradients:
    """∂E/∂U, ∂E/∂W, ∂E/∂V and the rest, by backpropagation through time: one sweep from t = T to 1.

    Parameters
    ----------
    net, inputs, targets, s_0
        As for `loss`.
    truncation : int, optional
        Follow each E_t back through the last ``truncation`` steps only: of the double sum over t and k,
        exactly the terms with lag t − k < truncation are kept. So 1 keeps the immediate derivatives alone,
        and T or more keeps all. It is what autograd gives if, for each E_t by itself, s_{t−truncation} is
        detached; the same holds for the gradients of inputs and of s_0 (which counts as k = 0, and so
        takes T + 1 to be whole). V and c lose nothing. Left out, nothing is cut.

    Raises
    ------
    DataError, OptionError
        Arrays that do not fit the network; a truncation below 1.

    Notes
    -----
    Everything from ∂E/∂s_t downwards is linear in it, so the errors of later steps may be added up on
    the way: one vector goes back. A truncated error must be dropped once it has gone far enough, so then
    up to ``truncation`` vectors go back, one for each age.
    """
    if truncation is not None:
        truncation = _size("truncation", truncation)
    states = forward(net, inputs, s_0)
    x, s = states.x, states.s
    at = _output_steps(net, len(x))
    dE_do = np.zeros((len(x) + 1, len(net.V)))
    dE_do[at] = cross_entropy_gradient(states.o, _targets(targets, states.o.shape))  # ∂E_t/∂o_t = ŷ_t − y_t

    dU, dW, dx = np.zeros_like(net.U), np.zeros_like(net.W), np.zeros_like(x)
    db = np.zeros(len(net.W))
    from_later = np.zeros((0, len(net.W)))  # row l: ∂E_{t+1+l}/∂s_t, l growing with age
    for t in range(len(x), 0, -1):
        dE_ds = np.vstack([dE_do[t] @ net.V, from_later])  # ∂E_t/∂s_t = Vᵀ(ŷ_t − y_t), and what comes from later
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


@dataclass(frozen=True, eq=False)
class Term:
    """The term of step k in the sum that is ∂E_t/∂W (and ∂E_t/∂U, ∂E_t/∂b).

    Attributes
    ----------
    k : int
        The step at which the parameter acted.
    lag : int
        t − k, the number of Jacobians in the product.
    product : (H, H)
        ∂s_t/∂s_k = Π_{j=k+1..t} ∂s_j/∂s_{j−1}; the identity at k = t.
    state_gradient : (H,)
        ∂E_t/∂s_k: the factors up to and with the product.
    W, U, b : (H, H), (H, D), (H,)
        The term itself, for each of the three; b also where the network has none.
    """

    k: int
    lag: int
    product: Array = field(repr=False)
    state_gradient: Array = field(repr=False)
    W: Array = field(repr=False)
    U: Array = field(repr=False)
    b: Array = field(repr=False)

    @property
    def product_norm(self) -> float:
        """‖∂s_t/∂s_k‖₂, the largest singular value of the product: below 1 it shrinks what it carries."""
        return float(np.linalg.norm(self.product, 2)) if np.isfinite(self.product).all() else float("nan")


@dataclass(frozen=True, eq=False, repr=False)
class GradientTerms(Sequence[Term]):
    """∂E_t/∂W as the sum that it is: a sequence of `Term`, one per k from 1 to t; print it.

    Attributes
    ----------
    t : int
        The step whose loss is meant, from 1.
    dE_dy : (K,)
        The first factor, ∂E_t/∂ŷ_t = −y_t/ŷ_t (infinite where ŷ_t has underflowed to 0).
    dy_ds : (K, H)
        The second factor, ∂ŷ_t/∂s_t = (diag(ŷ_t) − ŷ_t ŷ_tᵀ) V.
    terms : tuple of Term
        k = 1 … t.
    W, U, b : (H, H), (H, D), (H,)
        The sums over k: ∂E_t/∂W, ∂E_t/∂U, ∂E_t/∂b.
    """

    t: int
    dE_dy: Array
    dy_ds: Array
    terms: tuple[Term, ...]

    @overload
    def __getitem__(self, index: int) -> Term: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Term]: ...
    def __getitem__(self, index: int | slice) -> Term | Sequence[Term]:
        return self.terms[index]

    def __len__(self) -> int:
        return len(self.terms)

    @property
    def W(self) -> Array:
        """∂E_t/∂W, the sum of the terms."""
        return np.asarray(sum(term.W for term in self.terms))

    @property
    def U(self) -> Array:
        """∂E_t/∂U, the sum of the terms."""
        return np.asarray(sum(term.U for term in self.terms))

    @property
    def b(self) -> Array:
        """∂E_t/∂b, the sum of the terms."""
        return np.asarray(sum(term.b for term in self.terms))

    def __repr__(self) -> str:
        t = self.t
        heads = (f"‖∂s_{t}/∂s_k‖", f"‖∂E_{t}/∂s_k‖", "‖term of W‖", "‖term of U‖")
        widths = [max(len(head), 11) + 3 for head in heads]
        lines = [
            f"∂E_{t}/∂W = Σ_k ∂E_{t}/∂ŷ_{t} · ∂ŷ_{t}/∂s_{t} · ∂s_{t}/∂s_k · ∂s_k/∂W, and the same for U",
            f"{'k':>3}{'lag':>6}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)),
        ]
        for term in self.terms:
            figures = (term.product_norm, *map(_norm, (term.state_gradient, term.W, term.U)))
            row = "".join(f"{figure:>{width}.4g}" for figure, width in zip(figures, widths, strict=True))
            lines.append(f"{term.k:>3}{term.lag:>6}" + row)
        label = f"sum over k, which is ∂E_{t}:"
        lines.append(
            f"{label:>{9 + widths[0] + widths[1]}}{_norm(self.W):>{widths[2]}.4g}{_norm(self.U):>{widths[3]}.4g}"
        )
        return "\n".join(lines)


def gradient_terms(
    net: Network, inputs: ArrayLike, targets: ArrayLike, t: int, s_0: ArrayLike | None = None
) -> GradientTerms:
    """The literal sum over k that is ∂E_t/∂W, term by term, and that of ∂E_t/∂U and ∂E_t/∂b.

    Parameters
    ----------
    net, inputs, targets, s_0
        As for `loss`.
    t : int
        The step whose loss E_t is meant, counted from 1. With outputs at the last step only, T.

    Returns
    -------
    GradientTerms
        A sequence of terms that prints as a table; its ``.W`` and ``.U`` are the sums. Summed over t as
        well, they are ``gradients(...).W`` and ``.U``.

    Raises
    ------
    DataError, OptionError
        Arrays that do not fit the network; a step t that has no loss.

    Examples
    --------
    With W a quarter of a rotation, each step back quarters what is left of the gradient, at least:

    >>> net = Network(U=np.eye(2), W=[[0, -0.25], [0.25, 0]], V=np.eye(2))
    >>> terms = gradient_terms(net, np.zeros((4, 2)), [0, 1, 1, 0], t=4)
    >>> [term.product_norm for term in terms]
    [0.015625, 0.0625, 0.25, 1.0]
    """
    states = forward(net, inputs, s_0)
    x, s = states.x, states.s
    t = _step_index(t, len(x))
    if net.outputs == "last" and t != len(x):
        raise OptionError(f"t = {t} has no loss: this network has an output at its last step only, t = {len(x)}")
    row = -1 if net.outputs == "last" else t - 1
    y_hat, y = states.y_hat[row], _targets(targets, states.o.shape)[row]

    with np.errstate(divide="ignore", invalid="ignore"):
        dE_dy = np.where(y == 0.0, 0.0, -y / y_hat)  # ∂E_t/∂ŷ_t = −y_t / ŷ_t
    dy_ds = (np.diag(y_hat) - np.outer(y_hat, y_hat)) @ net.V  # ∂ŷ_t/∂s_t = (diag(ŷ_t) − ŷ_t ŷ_tᵀ) V
    dE_ds = (y_hat - y) @ net.V  # the two multiplied out, safe where ŷ_t is 0: Vᵀ(ŷ_t − y_t)

    terms = []
    product = np.eye(len(net.W))  # the empty product: ∂s_t/∂s_t = 1
    for k in range(t, 0, -1):
        dE_ds_k = dE_ds @ product  # ∂E_t/∂s_k = ∂E_t/∂s_t · ∂s_t/∂s_k
        # ∂s_k/∂W, immediate: (∂s_k,i/∂W_ij) = f′(z_k,i) s_{k−1},j. A row vector times it is an outer product.
        delta = dE_ds_k * activation_gradient(net.nonlinearity, s[k])
        term_W, term_U = np.outer(delta, s[k - 1]), np.outer(delta, x[k - 1])
        terms.append(Term(k, t - k, product, dE_ds_k, term_W, term_U, delta))
        product = product @ jacobian(net, states, k)  # ∂s_t/∂s_{k−1} = ∂s_t/∂s_k · ∂s_k/∂s_{k−1}
    return GradientTerms(t, dE_dy, dy_ds, tuple(reversed(terms)))


# ------------------------------------------------------------------------------------------------
# LSTM: the state is (h, c), and the way from c_{t−1} to c_t is a product with f_t instead of with W
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class LSTM:
    """The parameters of one LSTM layer, named and laid out as torch does (without its ``_l0``).

    Parameters
    ----------
    weight_ih : array_like, (4H, D)
        Input to gates; rows in the order i, f, g, o.
    weight_hh : array_like, (4H, P)
        State to gates; P = H without projection.
    bias_ih, bias_hh : array_like, (4H,), optional
        The two biases; none if left out.
    weight_hr : array_like, (P, H), optional
        The projection of the output (torch's ``proj_size`` P); none if left out.

    Raises
    ------
    DataError
        A parameter's shape does not fit the others.

    Examples
    --------
    From a layer of torch: ``LSTM(**{name.removesuffix("_l0"): p.numpy() for name, p in layer.state_dict().items()})``.
    For more layers, feed ``states.h[1:]`` of one to the next, and ``gradients.inputs`` back.
    """

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array | None = None
    bias_hh: Array | None = None
    weight_hr: Array | None = None

    def __post_init__(self) -> None:
        H = _hidden_size(self, gates=4)
        hr = None if self.weight_hr is None else _array("weight_hr", self.weight_hr, "P H", H=H)
        object.__setattr__(self, "weight_hr", hr)
        _set_gate_parameters(self, gates=4, H=H, P=H if hr is None else len(hr))

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
        """A layer with every parameter uniform in ±1/√hidden_size, as torch begins."""
        D, H = _size("input_size", input_size), _size("hidden_size", hidden_size)
        P = _size("proj_size", proj_size) if proj_size else H
        draw = _uniform(H, seed)
        weight_ih, weight_hh = draw(4 * H, D), draw(4 * H, P)
        bias_ih, bias_hh = (draw(4 * H), draw(4 * H)) if bias else (None, None)
        return cls(weight_ih, weight_hh, bias_ih, bias_hh, draw(P, H) if proj_size else None)

    def __repr__(self) -> str:
        D, H = self.weight_ih.shape[1], len(self.weight_ih) // 4
        proj_size = 0 if self.weight_hr is None else len(self.weight_hr)
        return f"LSTM(input_size={D}, hidden_size={H}, proj_size={proj_size}, bias={self.bias_ih is not None})"


class LSTMStep(NamedTuple):
    """One step's gates i, f, g, o ``(H,)``, cell state c ``(H,)`` and output h ``(P,)``."""

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


@dataclass(frozen=True, eq=False)
class LSTMStates:
    """What `lstm_forward` computed: x, i, f, g, o hold step t in row t − 1; ``h[t]``, ``c[t]`` are h_t, c_t.

    Attributes
    ----------
    x : (T, D)
    h : (T + 1, P)
        ``h[0]`` is the initial state; ``h[1:]`` is torch's output.
    c : (T + 1, H)
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


def lstm_step(cell: LSTM, x_t: Array, h_before: Array, c_before: Array) -> LSTMStep:
    """One step: gates, c_t and h_t from x_t ``(D,)``, h_{t−1} ``(P,)`` and c_{t−1} ``(H,)``."""
    a = _affine(cell.weight_ih, x_t, cell.bias_ih) + _affine(cell.weight_hh, h_before, cell.bias_hh)
    a_i, a_f, a_g, a_o = np.split(a, 4)  # a_i = W_ii x_t + b_ii + W_hi h_{t−1} + b_hi, and so on
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)  # i, f, o = σ(a);  g = tanh(a)
    c = f * c_before + i * g  # c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
    m = o * np.tanh(c)  # m_t = o_t ⊙ tanh(c_t)
    h = m if cell.weight_hr is None else cell.weight_hr @ m  # h_t = m_t, or W_hr m_t with a projection
    return LSTMStep(i, f, g, o, c, h)


def lstm_step_gradient(cell: LSTM, step: LSTMStep, c_before: Array, dh: Array, dc: Array) -> tuple[Array, Array, Array]:
    """The same step, backwards.

    Parameters
    ----------
    cell : LSTM
    step : LSTMStep
        What the step computed.
    c_before : (H,)
        c_{t−1}.
    dh, dc : (P,), (H,)
        ∂E/∂h_t, and ∂E/∂c_t as far as it comes from later steps.

    Returns
    -------
    da : (4H,)
        ∂E/∂a_t, of the gates before their nonlinearity.
    dh_before, dc_before : (P,), (H,)
        ∂E/∂h_{t−1} and ∂E/∂c_{t−1}, as far as they come through this step.
    """
    i, f, g, o, c, _ = step
    dm = dh if cell.weight_hr is None else dh @ cell.weight_hr  # ∂E/∂m_t = W_hrᵀ ∂E/∂h_t
    dc = dc + dm * o * (1.0 - np.tanh(c) ** 2)  # ∂E/∂c_t, from later and through h_t = o_t ⊙ tanh(c_t)
    da_i = dc * g * i * (1.0 - i)  # ∂E/∂i_t = ∂E/∂c_t ⊙ g_t;  σ′ = i(1 − i)
    da_f = dc * c_before * f * (1.0 - f)  # ∂E/∂f_t = ∂E/∂c_t ⊙ c_{t−1};  σ′ = f(1 − f)
    da_g = dc * i * (1.0 - g**2)  # ∂E/∂g_t = ∂E/∂c_t ⊙ i_t;  tanh′ = 1 − g²
    da_o = dm * np.tanh(c) * o * (1.0 - o)  # ∂E/∂o_t = ∂E/∂m_t ⊙ tanh(c_t);  σ′ = o(1 − o)
    da = np.concatenate([da_i, da_f, da_g, da_o])
    return da, da @ cell.weight_hh, dc * f  # ∂E/∂h_{t−1} = W_hhᵀ ∂E/∂a_t;  ∂E/∂c_{t−1} = ∂E/∂c_t ⊙ f_t


def lstm_jacobian(cell: LSTM, states: LSTMStates, t: int) -> Array:
    """∂(h_t, c_t)/∂(h_{t−1}, c_{t−1}), ``(P + H, P + H)``: h first, then c. t counts from 1."""
    t = _step_index(t, len(states.x))
    i, f, g, o = states.i[t - 1], states.f[t - 1], states.g[t - 1], states.o[t - 1]
    c_before, tanh_c = states.c[t - 1], np.tanh(states.c[t])
    W_i, W_f, W_g, W_o = np.split(cell.weight_hh, 4)
    dc_dh = (
        (g * i * (1.0 - i))[:, None] * W_i  # ∂c_t/∂h_{t−1}, through the input gate,
        + (c_before * f * (1.0 - f))[:, None] * W_f  # the forget gate
        + (i * (1.0 - g**2))[:, None] * W_g  # and the candidate
    )
    dc_dc = np.diag(f)  # ∂c_t/∂c_{t−1} = diag(f_t): the gate alone decides how much comes through
    dm_dc_t = o * (1.0 - tanh_c**2)  # ∂m_t/∂c_t = diag(o_t ⊙ (1 − tanh² c_t))
    dm_dh = (tanh_c * o * (1.0 - o))[:, None] * W_o + dm_dc_t[:, None] * dc_dh  # ∂m_t/∂h_{t−1}
    dm_dc = dm_dc_t[:, None] * dc_dc  # ∂m_t/∂c_{t−1}
    project = np.eye(len(f)) if cell.weight_hr is None else cell.weight_hr  # ∂h_t/∂m_t
    return np.block([[project @ dm_dh, project @ dm_dc], [dc_dh, dc_dc]])


def lstm_forward(
    cell: LSTM, inputs: ArrayLike, h_0: ArrayLike | None = None, c_0: ArrayLike | None = None
) -> LSTMStates:
    """Run the layer over one sequence.

    Parameters
    ----------
    cell : LSTM
    inputs : array_like, (T, D)
    h_0, c_0 : array_like, (P,), (H,), optional
        Initial states; zero if left out.

    Raises
    ------
    DataError
        Inputs or initial states do not fit the layer.
    """
    H, P = len(cell.weight_ih) // 4, cell.weight_hh.shape[1]
    x = _sequence("inputs", inputs, "T D", D=cell.weight_ih.shape[1])
    h, c, gates = np.zeros((len(x) + 1, P)), np.zeros((len(x) + 1, H)), np.zeros((4, len(x), H))
    h[0] = 0.0 if h_0 is None else _array("h_0", h_0, "P", P=P)
    c[0] = 0.0 if c_0 is None else _array("c_0", c_0, "H", H=H)
    for t in range(1, len(x) + 1):
        *gates[:, t - 1], c[t], h[t] = lstm_step(cell, x[t - 1], h[t - 1], c[t - 1])
    return LSTMStates(x, h, c, *gates)


@dataclass(frozen=True, eq=False, repr=False)
class LSTMGradients:
    """∂E with respect to everything an LSTM layer depends on; each has the shape of its namesake.

    Biases and projection are None where the layer has none.
    """

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array | None
    bias_hh: Array | None
    weight_hr: Array | None
    inputs: Array
    h_0: Array
    c_0: Array

    def __repr__(self) -> str:
        return _norms_repr(self)


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
    """Backpropagation through time, given what the loss says of the layer's outputs.

    Parameters
    ----------
    cell, inputs, h_0, c_0
        As for `lstm_forward`.
    grad_output : array_like, (T, P), optional
        ∂E/∂h_t where the loss uses the output of step t; zero if left out.
    grad_h_n, grad_c_n : array_like, (P,), (H,), optional
        ∂E/∂h_T and ∂E/∂c_T where the loss uses the final states as well; they add to the above.
    truncation : int, optional
        As in `gradients`: what the loss says of each step t is followed back through that many steps only.

    Raises
    ------
    DataError
        An array does not fit the layer; a truncation below 1.
    """
    states = lstm_forward(cell, inputs, h_0, c_0)
    x, h, c = states.x, states.h, states.c
    T, P, H = len(x), h.shape[1], c.shape[1]
    from_output = np.zeros((T, P)) if grad_output is None else _array("grad_output", grad_output, "T P", T=T, P=P)
    dh = np.zeros(P) if grad_h_n is None else _array("grad_h_n", grad_h_n, "P", P=P)
    dc = np.zeros(H) if grad_c_n is None else _array("grad_c_n", grad_c_n, "H", H=H)
    if truncation is not None:
        return LSTMGradients(
            **_windows(
                T,
                _size("truncation", truncation),
                lambda k, t, at_end: lstm_gradients(
                    cell, x[k:t], at_end(from_output), dh * (t == T), dc * (t == T), h[k], c[k]
                ),
            )
        )

    dW_ih, dW_hh, dx = np.zeros_like(cell.weight_ih), np.zeros_like(cell.weight_hh), np.zeros_like(x)
    db, dW_hr = np.zeros(4 * H), np.zeros((P, H))
    for t in range(T, 0, -1):
        dh = dh + from_output[t - 1]  # ∂E/∂h_t: from the later steps, and from the loss at this one
        step = LSTMStep(states.i[t - 1], states.f[t - 1], states.g[t - 1], states.o[t - 1], c[t], h[t])
        dW_hr += np.outer(dh, step.o * np.tanh(step.c))  # ∂E/∂W_hr = Σ_t ∂E/∂h_t ⊗ m_t
        da, dh, dc = lstm_step_gradient(cell, step, c[t - 1], dh, dc)
        dW_ih += np.outer(da, x[t - 1])  # ∂E/∂W_ih = Σ_t ∂E/∂a_t ⊗ x_t
        dW_hh += np.outer(da, h[t - 1])  # ∂E/∂W_hh = Σ_t ∂E/∂a_t ⊗ h_{t−1}
        db += da  # ∂E/∂b_ih = ∂E/∂b_hh = Σ_t ∂E/∂a_t
        dx[t - 1] = da @ cell.weight_ih  # ∂E/∂x_t = W_ihᵀ ∂E/∂a_t
    return LSTMGradients(
        dW_ih,
        dW_hh,
        None if cell.bias_ih is None else db,
        None if cell.bias_hh is None else db.copy(),
        None if cell.weight_hr is None else dW_hr,
        dx,
        dh,
        dc,
    )


# ------------------------------------------------------------------------------------------------
# GRU: one state again; the update gate z_t decides how much of it goes on untouched
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class GRU:
    """The parameters of one GRU layer, named and laid out as torch does (without its ``_l0``).

    The reset gate acts after the product with h_{t−1}, and b_hn stands inside it; the paper of Cho et
    al. resets h_{t−1} before the product.

    Parameters
    ----------
    weight_ih : array_like, (3H, D)
        Input to gates; rows in the order r, z, n.
    weight_hh : array_like, (3H, H)
        State to gates.
    bias_ih, bias_hh : array_like, (3H,), optional
        The two biases; none if left out.

    Raises
    ------
    DataError
        A parameter's shape does not fit the others.
    """

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array | None = None
    bias_hh: Array | None = None

    def __post_init__(self) -> None:
        H = _hidden_size(self, gates=3)
        _set_gate_parameters(self, gates=3, H=H, P=H)

    @classmethod
    def random(
        cls, input_size: int, hidden_size: int, *, bias: bool = True, seed: int | np.random.Generator = 0
    ) -> GRU:
        """A layer with every parameter uniform in ±1/√hidden_size, as torch begins."""
        D, H = _size("input_size", input_size), _size("hidden_size", hidden_size)
        draw = _uniform(H, seed)
        weight_ih, weight_hh = draw(3 * H, D), draw(3 * H, H)
        bias_ih, bias_hh = (draw(3 * H), draw(3 * H)) if bias else (None, None)
        return cls(weight_ih, weight_hh, bias_ih, bias_hh)

    def __repr__(self) -> str:
        D, H = self.weight_ih.shape[1], len(self.weight_ih) // 3
        return f"GRU(input_size={D}, hidden_size={H}, bias={self.bias_ih is not None})"


class GRUStep(NamedTuple):
    """One step's gates r, z, n, the product q = W_hn h_{t−1} + b_hn that r resets, and h; all ``(H,)``."""

    r: Array
    z: Array
    n: Array
    q: Array
    h: Array


@dataclass(frozen=True, eq=False)
class GRUStates:
    """What `gru_forward` computed: x, r, z, n, q hold step t in row t − 1; ``h[t]`` is h_t.

    Attributes
    ----------
    x : (T, D)
    h : (T + 1, H)
        ``h[0]`` is the initial state; ``h[1:]`` is torch's output.
    r, z, n, q : (T, H)
        Reset gate, update gate, candidate, and W_hn h_{t−1} + b_hn, the product that r resets.
    """

    x: Array = field(repr=False)
    h: Array
    r: Array = field(repr=False)
    z: Array = field(repr=False)
    n: Array = field(repr=False)
    q: Array = field(repr=False)


def gru_step(cell: GRU, x_t: Array, h_before: Array) -> GRUStep:
    """One step: gates and h_t from x_t ``(D,)`` and h_{t−1} ``(H,)``."""
    p_r, p_z, p_n = np.split(_affine(cell.weight_ih, x_t, cell.bias_ih), 3)  # p = W_ih x_t + b_ih
    q_r, q_z, q_n = np.split(_affine(cell.weight_hh, h_before, cell.bias_hh), 3)  # q = W_hh h_{t−1} + b_hh
    r = sigmoid(p_r + q_r)  # r_t = σ(W_ir x_t + b_ir + W_hr h_{t−1} + b_hr)
    z = sigmoid(p_z + q_z)  # z_t = σ(W_iz x_t + b_iz + W_hz h_{t−1} + b_hz)
    n = np.tanh(p_n + r * q_n)  # n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_{t−1} + b_hn))
    h = (1.0 - z) * n + z * h_before  # h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}
    return GRUStep(r, z, n, q_n, h)


def gru_step_gradient(cell: GRU, step: GRUStep, h_before: Array, dh: Array) -> tuple[Array, Array, Array]:
    """The same step, backwards.

    Parameters
    ----------
    cell : GRU
    step : GRUStep
        What the step computed.
    h_before : (H,)
        h_{t−1}.
    dh : (H,)
        ∂E/∂h_t.

    Returns
    -------
    dp, dq : (3H,)
        ∂E/∂(W_ih x_t + b_ih) and ∂E/∂(W_hh h_{t−1} + b_hh): two, as r_t stands between them in n_t.
    dh_before : (H,)
        ∂E/∂h_{t−1}, as far as it comes through this step.
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
    t = _step_index(t, len(states.x))
    r, z, n, q, h_before = states.r[t - 1], states.z[t - 1], states.n[t - 1], states.q[t - 1], states.h[t - 1]
    W_r, W_z, W_n = np.split(cell.weight_hh, 3)
    da_n = r[:, None] * W_n + (q * r * (1.0 - r))[:, None] * W_r  # of what stands inside the tanh
    dn = (1.0 - n**2)[:, None] * da_n  # ∂n_t/∂h_{t−1}
    dz = (z * (1.0 - z))[:, None] * W_z  # ∂z_t/∂h_{t−1}
    # ∂h_t/∂h_{t−1} = diag(z_t) + diag(h_{t−1} − n_t) ∂z_t/∂h_{t−1} + diag(1 − z_t) ∂n_t/∂h_{t−1}
    return np.asarray(np.diag(z) + (h_before - n)[:, None] * dz + (1.0 - z)[:, None] * dn)


def gru_forward(cell: GRU, inputs: ArrayLike, h_0: ArrayLike | None = None) -> GRUStates:
    """Run the layer over one sequence.

    Parameters
    ----------
    cell : GRU
    inputs : array_like, (T, D)
    h_0 : array_like, (H,), optional
        Initial state; zero if left out.

    Raises
    ------
    DataError
        Inputs or initial state do not fit the layer.
    """
    H = len(cell.weight_ih) // 3
    x = _sequence("inputs", inputs, "T D", D=cell.weight_ih.shape[1])
    h, gates = np.zeros((len(x) + 1, H)), np.zeros((4, len(x), H))
    h[0] = 0.0 if h_0 is None else _array("h_0", h_0, "H", H=H)
    for t in range(1, len(x) + 1):
        *gates[:, t - 1], h[t] = gru_step(cell, x[t - 1], h[t - 1])
    return GRUStates(x, h, *gates)


@dataclass(frozen=True, eq=False, repr=False)
class GRUGradients:
    """∂E with respect to everything a GRU layer depends on; each has the shape of its namesake.

    Biases are None where the layer has none.
    """

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array | None
    bias_hh: Array | None
    inputs: Array
    h_0: Array

    def __repr__(self) -> str:
        return _norms_repr(self)


def gru_gradients(
    cell: GRU,
    inputs: ArrayLike,
    grad_output: ArrayLike | None = None,
    grad_h_n: ArrayLike | None = None,
    h_0: ArrayLike | None = None,
    truncation: int | None = None,
) -> GRUGradients:
    """Backpropagation through time, given what the loss says of the layer's outputs.

    Parameters
    ----------
    cell, inputs, h_0
        As for `gru_forward`.
    grad_output : array_like, (T, H), optional
        ∂E/∂h_t where the loss uses the output of step t; zero if left out.
    grad_h_n : array_like, (H,), optional
        ∂E/∂h_T where the loss uses the final state as well; it adds to the above.
    truncation : int, optional
        As in `gradients`: what the loss says of each step t is followed back through that many steps only.

    Raises
    ------
    DataError
        An array does not fit the layer; a truncation below 1.
    """
    states = gru_forward(cell, inputs, h_0)
    x, h = states.x, states.h
    T, H = len(x), h.shape[1]
    from_output = np.zeros((T, H)) if grad_output is None else _array("grad_output", grad_output, "T H", T=T, H=H)
    dh = np.zeros(H) if grad_h_n is None else _array("grad_h_n", grad_h_n, "H", H=H)
    if truncation is not None:
        return GRUGradients(
            **_windows(
                T,
                _size("truncation", truncation),
                lambda k, t, at_end: gru_gradients(cell, x[k:t], at_end(from_output), dh * (t == T), h[k]),
            )
        )

    dW_ih, dW_hh, dx = np.zeros_like(cell.weight_ih), np.zeros_like(cell.weight_hh), np.zeros_like(x)
    db_ih, db_hh = np.zeros(3 * H), np.zeros(3 * H)
    for t in range(T, 0, -1):
        dh = dh + from_output[t - 1]  # ∂E/∂h_t: from the later steps, and from the loss at this one
        step = GRUStep(states.r[t - 1], states.z[t - 1], states.n[t - 1], states.q[t - 1], h[t])
        dp, dq, dh = gru_step_gradient(cell, step, h[t - 1], dh)
        dW_ih += np.outer(dp, x[t - 1])  # ∂E/∂W_ih = Σ_t ∂E/∂p_t ⊗ x_t
        dW_hh += np.outer(dq, h[t - 1])  # ∂E/∂W_hh = Σ_t ∂E/∂q_t ⊗ h_{t−1}
        db_ih += dp  # ∂E/∂b_ih = Σ_t ∂E/∂p_t
        db_hh += dq  # ∂E/∂b_hh = Σ_t ∂E/∂q_t
        dx[t - 1] = dp @ cell.weight_ih  # ∂E/∂x_t = W_ihᵀ ∂E/∂p_t
    return GRUGradients(
        dW_ih, dW_hh, None if cell.bias_ih is None else db_ih, None if cell.bias_hh is None else db_hh, dx, dh
    )


def _windows(
    T: int, truncation: int, gradients_of: Callable[[int, int, Callable[[Array], Array]], Any]
) -> dict[str, Any]:
    """Truncated BPTT of a layer: each step's loss by itself, back from t to k = t − truncation, and their sum.

    The state s_k is where a window begins; it is taken as given, unless it is the initial state of the layer and less
    than ``truncation`` steps away.
    """
    whole: dict[str, Any] = {}
    for t in range(1, T + 1):
        k = max(0, t - truncation)

        def at_end(from_output: Array, k: int = k, t: int = t) -> Array:
            alone = np.zeros((t - k, from_output.shape[1]))
            alone[-1] = from_output[t - 1]
            return alone

        for name, part in vars(gradients_of(k, t, at_end)).items():
            if name == "inputs":
                part = np.pad(part, ((k, T - t), (0, 0)))
            elif name in ("h_0", "c_0") and t >= truncation:
                part = np.zeros_like(part)
            whole[name] = part if whole.get(name) is None or part is None else whole[name] + part
    return whole


# ------------------------------------------------------------------------------------------------
# Not mathematics: taking arrays in, and saying what is wrong with them
# ------------------------------------------------------------------------------------------------


def _array(name: str, value: ArrayLike, axes: str, **sizes: int) -> Array:
    """``value`` as float64 of the shape that ``axes`` names, e.g. "H D"; a size not given may be any above 0."""
    raw = np.asarray(value)
    if raw.dtype.kind not in "biuf":
        raise DataError(f"{name} is of type {raw.dtype}; expected real numbers")
    names = axes.split()
    if raw.ndim == len(names) and raw.size:
        found = dict(zip(names, raw.shape, strict=True)) | sizes
        if raw.shape == tuple(found[axis] for axis in names):
            return raw.astype(np.float64)
    fixed = ", ".join(f"{axis} = {sizes[axis]}" for axis in dict.fromkeys(names) if axis in sizes)
    expected = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
    raise DataError(f"{name} has shape {raw.shape}; expected {expected}{' with ' if fixed else ''}{fixed}")


def _sequence(name: str, value: ArrayLike, axes: str, **sizes: int) -> Array:
    """As `_array`, with a first axis T of which a wrong size says nothing about what was expected."""
    raw = np.asarray(value)
    if raw.ndim == len(axes.split()) and not len(raw):
        raise DataError(f"{name} has shape {raw.shape}: no step at all; expected T of at least 1")
    return _array(name, value, axes, **sizes)


def _inputs(inputs: ArrayLike, D: int) -> Array:
    """Input vectors; U times a one-hot vector is a column of U, so a token is one."""
    raw = np.asarray(inputs)
    if raw.ndim == 1 and raw.size and raw.dtype.kind in "iu":
        return _one_hot("inputs", raw, D)
    if raw.ndim == 1 and raw.size:
        raise DataError(
            f"inputs has shape {raw.shape} and type {raw.dtype}; expected vectors (T, D) with D = {D}, "
            "or tokens (T,) of an integer type"
        )
    return _sequence("inputs", inputs, "T D", D=D)


def _targets(targets: ArrayLike, shape: tuple[int, ...]) -> Array:
    """y_t, one distribution over the K classes in each of the N rows that have an output."""
    N, K = shape
    raw = np.asarray(targets)
    if raw.dtype.kind in "iu" and (raw.shape == (N,) or (N == 1 and raw.ndim == 0)):
        return _one_hot("targets", raw.reshape(N), K)
    if raw.ndim == 1 and not (N == 1 and raw.shape == (K,)):
        raise DataError(
            f"targets has shape {raw.shape} and type {raw.dtype}; expected {N} integer class{'es' * (N > 1)}, "
            f"one for each output, or distributions ({N}, {K})"
        )
    y = _array("targets", raw.reshape(N, K) if raw.shape == (K,) else raw, "N K", N=N, K=K)
    off = np.abs(y.sum(axis=1) - 1.0)
    if (off > 1e-6).any():
        row = int(off.argmax())
        raise DataError(f"targets, row {row}, sums to {y[row].sum():.6g}; expected a distribution, which sums to 1")
    return y


def _one_hot(name: str, indices: NDArray[np.integer], size: int) -> Array:
    if ((indices < 0) | (indices >= size)).any():
        bad = indices[(indices < 0) | (indices >= size)][0]
        raise DataError(f"{name} holds {bad}; expected indices from 0 to {size - 1}")
    one_hot = np.zeros((len(indices), size))
    one_hot[np.arange(len(indices)), indices] = 1.0
    return one_hot


def _output_steps(net: Network, T: int) -> slice:
    return slice(1, None) if net.outputs == "every" else slice(T, None)


def _step_index(t: int, T: int) -> int:
    if isinstance(t, bool) or not isinstance(t, int | np.integer) or not 1 <= t <= T:
        raise OptionError(f"t = {t} is no step of this sequence; expected a whole number from 1 to {T}")
    return int(t)


def _size(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise OptionError(f"{name} = {value!r}; expected a whole number of at least 1")
    return int(value)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} = {value!r}; expected one of {', '.join(map(repr, choices))}")


def _hidden_size(layer: LSTM | GRU, gates: int) -> int:
    """H, from weight_ih, which holds one block of H rows per gate."""
    rows = len(_array("weight_ih", layer.weight_ih, f"{gates}H D"))
    if rows % gates:
        raise DataError(f"weight_ih has {rows} rows; expected a multiple of {gates}, one block of rows per gate")
    return rows // gates


def _set_gate_parameters(layer: LSTM | GRU, gates: int, H: int, P: int) -> None:
    """Check, and set as float64, the four parameters that an LSTM and a GRU both have."""
    rows = {f"{gates}H": gates * H}
    shapes = {"weight_ih": f"{gates}H D", "weight_hh": f"{gates}H P", "bias_ih": f"{gates}H", "bias_hh": f"{gates}H"}
    for name, axes in shapes.items():
        value = getattr(layer, name)
        if value is not None or name.startswith("weight"):
            value = _array(name, value, axes, **(rows | {"P": P} if "P" in axes else rows))
        object.__setattr__(layer, name, value)


def _affine(weight: Array, x: Array, bias: Array | None) -> Array:
    return weight @ x if bias is None else weight @ x + bias


class _uniform:
    """Draws arrays uniform in ±1/√hidden_size."""

    def __init__(self, hidden_size: int, seed: int | np.random.Generator) -> None:
        self.bound, self.rng = hidden_size**-0.5, np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Array:
        return self.rng.uniform(-self.bound, self.bound, shape)


def _norm(a: Array) -> float:
    return float(np.linalg.norm(a))


def _norms_repr(gradients: Gradients | LSTMGradients | GRUGradients) -> str:
    """The norm and shape of each gradient, a line each."""
    lines = [type(gradients).__name__]
    for name, value in vars(gradients).items():
        if value is not None:
            lines.append(f"  ‖∂E/∂{name}‖ = {_norm(value):.4g}   {value.shape}")
    return "\n".join(lines)
