"""Lyapunov spectra of recurrences written by hand, compared with published figures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import retrograde as rg


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def flow_of(step: Callable[[Tensor, int], Tensor], state: Tensor, steps: int) -> rg.GradientFlow:
    def model(state: Tensor) -> Tensor:
        states = []
        for k in range(steps):
            state = rg.mark_state(step(state, k))
            states.append(state)
        return torch.stack(states)

    return rg.gradient_flow(model, state, loss=lambda states: states.sum(-1), targets=[-1])


def test_the_henon_map() -> None:
    """λ = 0.419, −1.623 and a Kaplan-Yorke dimension of 1.258 for x ← 1 − 1.4 x² + y, y ← 0.3 x.

    J. C. Sprott, Chaos and Time-Series Analysis, Oxford University Press (2003), table of common chaotic systems; the
    map is M. Hénon's, Commun. Math. Phys. 50 (1976).
    """

    def step(state: Tensor, _: int) -> Tensor:
        x, y = state.unbind(-1)
        return torch.stack([1 - 1.4 * x * x + y, 0.3 * x], -1)

    flow = flow_of(step, 0.1 * torch.rand(200, 2, dtype=torch.float64) - 0.05, 300)
    found = flow.lyapunov_exponents(burn_in=50)
    # Of 200 orbits of 250 steps the mean has a standard error of 0.0016.
    np.testing.assert_allclose(found, [0.419, -1.623], atol=0.006)
    assert found.sum() == pytest.approx(math.log(0.3), rel=1e-12)  # every step shrinks areas by |det| = 0.3
    assert flow.lyapunov_dimension(burn_in=50) == pytest.approx(1.258, abs=0.003)
    np.testing.assert_allclose(flow.lyapunov_exponents(n=1, burn_in=50), found[:1], rtol=1e-9)


def test_random_matrices_new_at_every_step() -> None:
    """λ_i = ½ (ln(2/N) + ψ((N − i + 1)/2)) for s ← W_k s with entries of W_k drawn from N(0, 1/N).

    C. M. Newman, The distribution of Lyapunov exponents: exact results for random matrices, Commun. Math. Phys. 103
    (1986). R. Engelken, F. Wolf and L. F. Abbott, Phys. Rev. Research 5 (2023), find the spectra of random networks in
    discrete time close to those of random matrices.
    """
    size, steps, batch = 5, 250, 40
    weights = torch.randn(steps, batch, size, size, dtype=torch.float64) / size**0.5
    flow = flow_of(
        lambda state, k: (weights[k] @ state.unsqueeze(-1)).squeeze(-1),
        torch.randn(batch, size, dtype=torch.float64),
        steps,
    )
    rank = torch.arange(1, size + 1, dtype=torch.float64)
    expected = (math.log(2 / size) + torch.special.digamma((size - rank + 1) / 2)) / 2
    of_each = flow.lyapunov_exponents(per_sequence=True)
    error = of_each.std(0) / batch**0.5
    assert (error < 0.015).all()
    np.testing.assert_array_less(np.abs(of_each.mean(0) - expected.numpy()), 4 * error)
    assert flow.lyapunov_dimension() == 0  # the largest is ½ (ln(2/5) + ψ(5/2)) = −0.11: nothing is kept
