r"""The gradient as the sum over time steps that it is, term by term; why it vanishes or explodes.

The model and its notation are in ``vanilla.py``. The gradient of the loss of one step is::

    ∂E_t/∂W = Σ_{k=1..t}  ∂E_t/∂ŷ_t · ∂ŷ_t/∂s_t · ( Π_{j=k+1..t} ∂s_j/∂s_{j−1} ) · ∂s_k/∂W

Vanishing and exploding
-----------------------
A term with lag t − k contains a product of t − k Jacobians, and ‖J_j‖₂ ≤ σ_max(W) · max f′. Here σ_max
is the largest singular value, and max f′ is 1 for tanh and ReLU (1/4 for the logistic function). If
σ_max(W) · max f′ < 1, the terms shrink at least as fast as the powers of that number: the gradient
certainly vanishes. If the gradient explodes, that number is above 1.

Common mistakes in popular texts, corrected
-------------------------------------------
* *The condition is about a norm below or above 1, never about a sign.* Gradients do not vanish because
  entries, derivatives or eigenvalues are "below 0", and they do not explode because these are "above 0".
* *Sufficient does not mean necessary.* σ_max(W) · max f′ < 1 is sufficient for vanishing but not
  necessary: with a large W the units saturate, f′ ≈ 0, and the gradient vanishes as well.
  σ_max(W) · max f′ > 1 is necessary for exploding but not sufficient.
* *Singular values are not eigenvalues.* The spectral radius ρ(W) ≤ σ_max(W) determines how powers of W
  behave in the end; before that, a W with ρ(W) < 1 can still make the gradient grow for many steps.
* *The terms of long lag vanish, not the gradient.* The term k = t contains no Jacobian. The sum keeps
  an ordinary size, but its direction comes from the short lags: the network learns nothing from
  distant steps.
* *The sum starts at the first step*: it does not consist of k = t alone, and it does not start at
  k = 0, because s_0 is not computed with W. (Texts that count steps from 0 call the initial state
  s_{−1}; there the sum starts at 0.)
* *The last factor ∂s_k/∂W is an immediate derivative*: only the W of step k varies, and s_{k−1} is
  constant (some texts write ∂⁺). The total derivative in its place would count every path several
  times.
* *s_0 matters.* If s_0 = 0, the term k = 1 of ∂E/∂W is exactly zero, because W was multiplied by zero
  at that step; the term of ∂E/∂U is not. If s_0 is trained or carried over, its gradient is
  ∂E/∂s_0 = Wᵀ δ_1.
* *The order of an outer product is part of the formula*: ∂E_t/∂V = (ŷ_t − y_t) ⊗ s_t has the shape of
  V, s_t ⊗ (ŷ_t − y_t) does not. The same is true of J_j = diag(f′(z_j)) W: f′ scales the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from ..errors import OptionError
from .arrays import Array, checked_step, checked_targets, norm
from .functions import activation_gradient
from .vanilla import Network, forward, jacobian

__all__ = ["GradientTerms", "Term", "gradient_terms"]


@dataclass(frozen=True, eq=False)
class Term:
    """The term of step k in the sum ∂E_t/∂W (and in ∂E_t/∂U and ∂E_t/∂b).

    Attributes
    ----------
    k : int
        The step at which the parameter acted, counted from 1.
    lag : int
        t − k, the number of Jacobians in the product.
    product : (H, H)
        ∂s_t/∂s_k = Π_{j=k+1..t} ∂s_j/∂s_{j−1}; the identity if k = t.
    state_gradient : (H,)
        ∂E_t/∂s_k: the factors up to and including the product.
    W, U, b : (H, H), (H, D), (H,)
        The term itself, for each of the three parameters; b also if the network has no b.
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
        """‖∂s_t/∂s_k‖₂, the largest singular value of the product; below 1 it shrinks every gradient it multiplies."""
        return float(np.linalg.norm(self.product, 2)) if np.isfinite(self.product).all() else float("nan")


@dataclass(frozen=True, eq=False, repr=False)
class GradientTerms(Sequence[Term]):
    """The sum ∂E_t/∂W as a sequence of `Term`, one per k from 1 to t. It prints as a table.

    Attributes
    ----------
    t : int
        The step of the loss E_t, counted from 1.
    dE_dy : (K,)
        The first factor, ∂E_t/∂ŷ_t = −y_t/ŷ_t (infinite if ŷ_t has underflowed to 0).
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
            f"∂E_{t}/∂W = Σ_k ∂E_{t}/∂ŷ_{t} · ∂ŷ_{t}/∂s_{t} · ∂s_{t}/∂s_k · ∂s_k/∂W, "
            "and the same for U (steps count from 1)",
            f"{'k':>3}{'lag':>6}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)),
        ]
        for term in self.terms:
            figures = (term.product_norm, *map(norm, (term.state_gradient, term.W, term.U)))
            row = "".join(f"{figure:>{width}.4g}" for figure, width in zip(figures, widths, strict=True))
            lines.append(f"{term.k:>3}{term.lag:>6}" + row)
        label = f"sum over k, which is ∂E_{t}:"
        lines.append(
            f"{label:>{9 + widths[0] + widths[1]}}{norm(self.W):>{widths[2]}.4g}{norm(self.U):>{widths[3]}.4g}"
        )
        return "\n".join(lines)


def gradient_terms(
    net: Network, inputs: ArrayLike, targets: ArrayLike, t: int, s_0: ArrayLike | None = None
) -> GradientTerms:
    """Compute the sum ∂E_t/∂W term by term, and the sums ∂E_t/∂U and ∂E_t/∂b with it.

    Parameters
    ----------
    net, inputs, targets, s_0
        The same as for `retrograde.reference.loss`.
    t : int
        The step of the loss E_t, counted from 1 as in the equations. If the network has an output at the last step
        only, t must be T.

    Returns
    -------
    GradientTerms
        A sequence of terms that prints as a table; its ``.W`` and ``.U`` are the sums over k. Their sums over t are
        ``gradients(...).W`` and ``.U``.

    Raises
    ------
    DataError, OptionError
        Arrays that do not fit the network; a step t that has no loss.

    Examples
    --------
    If W is a rotation by a right angle times 1/4, each step back shrinks the gradient to at most a quarter:

    >>> net = Network(U=np.eye(2), W=[[0, -0.25], [0.25, 0]], V=np.eye(2))
    >>> terms = gradient_terms(net, np.zeros((4, 2)), [0, 1, 1, 0], t=4)
    >>> [term.product_norm for term in terms]
    [0.015625, 0.0625, 0.25, 1.0]
    """
    states = forward(net, inputs, s_0)
    x, s = states.x, states.s
    t = checked_step(t, len(x))
    if net.outputs == "last" and t != len(x):
        raise OptionError(f"t = {t} has no loss: this network has an output at its last step only, t = {len(x)}")
    row = -1 if net.outputs == "last" else t - 1
    y_hat, y = states.y_hat[row], checked_targets(targets, states.o.shape)[row]

    with np.errstate(divide="ignore", invalid="ignore"):
        dE_dy = np.where(y == 0.0, 0.0, -y / y_hat)  # ∂E_t/∂ŷ_t = −y_t / ŷ_t
    dy_ds = (np.diag(y_hat) - np.outer(y_hat, y_hat)) @ net.V  # ∂ŷ_t/∂s_t = (diag(ŷ_t) − ŷ_t ŷ_tᵀ) V
    dE_ds = (y_hat - y) @ net.V  # the product of the two, also correct where ŷ_t is 0: Vᵀ(ŷ_t − y_t)

    terms = []
    product = np.eye(len(net.W))  # the empty product: ∂s_t/∂s_t = 1
    for k in range(t, 0, -1):
        dE_ds_k = dE_ds @ product  # ∂E_t/∂s_k = ∂E_t/∂s_t · ∂s_t/∂s_k
        # ∂s_k/∂W, immediate: (∂s_k,i/∂W_ij) = f′(z_k,i) s_{k−1},j. A row vector times this is an outer product.
        delta = dE_ds_k * activation_gradient(net.nonlinearity, s[k])
        term_W, term_U = np.outer(delta, s[k - 1]), np.outer(delta, x[k - 1])
        terms.append(Term(k, t - k, product, dE_ds_k, term_W, term_U, delta))
        product = product @ jacobian(net, states, k)  # ∂s_t/∂s_{k−1} = ∂s_t/∂s_k · ∂s_k/∂s_{k−1}
    return GradientTerms(t, dE_dy, dy_ds, tuple(reversed(terms)))
