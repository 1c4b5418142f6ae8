"""The coefficients of one step's adjoint: of any cell by autograd, of torch's cells in closed form, which is faster.

Unit j of the new state depends on unit j of the state before and on row j of each block of the two products only, so
all derivatives are numbers per unit. By name, each `(T, B, …)`:

k, k_c
    ∂h_k and ∂c_k by W_hh h_{k−1} + b_hh, the blocks side by side `(T, B, G·H)`. The closed form of an LSTM has for k
    the blocks i, f and g of ∂c_k, and as ``k_o`` that of ∂h_k by o.
k_x, k_xc
    The same by W_ih x_k + b_ih, where a cell does not only add the two products; or the last blocks of it, where only
    these differ.
pass, f, c_of_h, h_of_c
    What reaches a state without W_hh: h from h, c from c, c from h and h from c; absent where nothing does.
q
    ∂h_k/∂c_k, where h_k is computed from c_k.

Tests: `tests/test_new_cell.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cells import Trajectory


def coefficients(run: Trajectory) -> dict[str, Tensor]:
    """The coefficients of every step of a run; a padded step hands its state on unchanged."""
    found = _CLOSED.get(run.cell.name, by_autograd)(run)
    if run.mask is not None:
        live = run.mask.unsqueeze(-1).to(run.h.dtype)
        keep = 1 - live
        found = {name: a * live + keep if name in ("pass", "f") else a * live for name, a in found.items()}
        found.setdefault("pass", keep.expand_as(run.h))
    return found


def by_autograd(run: Trajectory) -> dict[str, Tensor]:
    """The coefficients of any cell, by differentiating `Cell.step`; padding is not considered."""

    def derivatives(of: Tensor, by: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(of.sum(), by, retain_graph=True, allow_unused=True, materialize_grads=True)
        return tuple(a.detach() for a in found)  # torch 2.6: the zeros of what is unused ask for a gradient

    with torch.inference_mode(False), torch.enable_grad():
        x, u, state = run.products()
        leaves = tuple(a.detach().clone().requires_grad_() for a in (x, u, *state))
        new, _ = run.cell.step(leaves[0], leaves[1], leaves[2:])
        of_h = derivatives(new[0], leaves)
        of_c, q = (derivatives(new[1], leaves), derivatives(new[0], new[1:])) if len(new) > 1 else ((), ())
    found = {"k": of_h[1], "pass": of_h[2]}
    if not run.cell.summed:
        found["k_x"] = of_h[0]
    if of_c:
        found |= {"k_c": of_c[1], "f": of_c[3], "c_of_h": of_c[2], "h_of_c": of_h[3], "q": q[0]}
        if not run.cell.summed:
            found["k_xc"] = of_c[0]
    return found


def _vanilla(run: Trajectory) -> dict[str, Tensor]:
    return {"k": run.cell.slope(run.h)}  # h = f(a):  ∂E/∂a = ∂E/∂h ∘ f′(a)


def _gru(run: Trajectory) -> dict[str, Tensor]:
    assert run.inner is not None
    r, z, n = run.gates.chunk(len(run.cell.gates), -1)
    k_n = (1 - z) * (1 - n * n)  # h = (1−z)∘n + z∘h₋,  n = tanh(a_n + r∘q)
    k_r = k_n * run.inner * r * (1 - r)
    k_z = (run.h_before - n) * z * (1 - z)
    return {"k": torch.cat([k_r, k_z, k_n * r], -1), "k_x": k_n, "pass": z}


def _lstm(run: Trajectory) -> dict[str, Tensor]:
    assert run.c is not None and run.c_before is not None
    i, f, g, o = run.gates.chunk(len(run.cell.gates), -1)
    tanh_c = torch.tanh(run.c)
    return {
        "q": o * (1 - tanh_c * tanh_c),  # h = o∘tanh(c):  ∂h/∂c
        # c = f∘c₋ + i∘g
        "k": torch.cat([g * i * (1 - i), run.c_before * f * (1 - f), i * (1 - g * g)], -1),
        "k_o": tanh_c * o * (1 - o),
        "f": f,
    }


_CLOSED: dict[str, Callable[[Trajectory], dict[str, Tensor]]] = {"rnn": _vanilla, "gru": _gru, "lstm": _lstm}
