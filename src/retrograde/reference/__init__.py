r"""Backpropagation through time in float64 NumPy, one function per equation.

This package is written to be read, not to be fast. The fast parts of retrograde are tested against
it, and it is tested against finite differences and against torch.

Reading order
-------------
1. ``functions.py``: tanh, ReLU, the logistic function, softmax and the cross-entropy, each followed
   by its derivative.
2. ``vanilla.py``: the simplest recurrent network. One step and its gradient, then a whole sequence,
   its loss, and the gradient of that loss by backpropagation through time (BPTT).
3. ``terms.py``: the same gradient written as a sum over all earlier steps, term by term: why it
   vanishes or explodes.
4. ``gru.py`` and ``lstm.py``: the two gated cells, with torch's equations and parameter layout.

Two files contain no new equation. ``gated.py`` is what GRU and LSTM share; ``arrays.py`` checks the
arrays that come in, draws random parameters and prints norms.

Conventions
-----------
* One sequence at a time. The gradient of a batch is the sum of the gradients of its sequences.
* **Time steps count from 1 here**, as in the equations: t = 1 … T. ``states.s[t]`` is s_t, and
  ``states.s[0]`` is the initial state. Arrays that have no entry for the initial state hold step t in
  row t − 1. Everywhere else in retrograde time steps count from 0, so the loss E_3 of the equations is
  the loss at step 2 of `rg.gradient_flow`.
* If NaN goes in, NaN comes out.

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
>>> rg.reference.gradient_terms(net, tokens, following, t=3)  # the third step: t counts from 1
∂E_3/∂W = Σ_k ∂E_3/∂ŷ_3 · ∂ŷ_3/∂s_3 · ∂s_3/∂s_k · ∂s_k/∂W, and the same for U (steps count from 1)
  k   lag   ‖∂s_3/∂s_k‖   ‖∂E_3/∂s_k‖   ‖term of W‖   ‖term of U‖
  1     2        0.4257        0.1344             0          0.13
  2     1        0.7829         0.356        0.2382        0.2659
  3     0             1        0.7171        0.6505        0.6807
           sum over k, which is ∂E_3:          0.71        0.7423
"""

from __future__ import annotations

from . import functions, gru, lstm, terms, vanilla
from .functions import *  # noqa: F403
from .gru import *  # noqa: F403
from .lstm import *  # noqa: F403
from .terms import *  # noqa: F403
from .vanilla import *  # noqa: F403

__all__ = functions.__all__ + gru.__all__ + lstm.__all__ + terms.__all__ + vanilla.__all__
