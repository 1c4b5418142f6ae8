"""The same layers step by step in torch's elementary operators.

Slow, and differentiable any number of times: second derivatives go through here, and what torch's
fused layers hide (gates, sums before the activations) is read off here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cells import CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .native import Plan

__all__ = ["gradients", "layer"]


def _direction(
    plan: Plan,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    sizes: list[int] | None,
    reverse: bool,
    record: list[tuple[Tensor, ...]] | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    w_ih, w_hh = weights[:2]
    b_ih, b_hh = (weights[2], weights[3]) if plan.bias else (None, None)
    w_hr = weights[-1] if plan.projected else None
    step = CELLS[plan.cell].step
    projected = F.linear(x, w_ih, b_ih)
    steps = projected.unbind(0) if sizes is None else torch.split(projected, sizes)
    initial = (h_0,) if c_0 is None else (h_0, c_0)
    state = tuple(s[:0] for s in initial) if sizes is not None and reverse else initial
    outputs, ended = [], []
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        batch, running = steps[t].shape[0], state[0].shape[0]
        if running < batch:  # backwards, the shorter sequences join from their own ends
            state = tuple(torch.cat([s, s_0[running:batch]]) for s, s_0 in zip(state, initial, strict=True))
        elif running > batch:  # forwards, they end
            ended.append(tuple(s[batch:] for s in state))
            state = tuple(s[:batch] for s in state)
        state, computed = step(steps[t], F.linear(state[0], w_hh, b_hh), state, w_hr)
        outputs.append(state[0])
        if record is not None:
            record.append(computed)
    if reverse:
        outputs.reverse()
        if record is not None:
            record.reverse()
    final = [torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True)]
    if not outputs:
        output = x.new_empty((*x.shape[:-1], h_0.shape[-1]))
    else:
        output = torch.stack(outputs) if sizes is None else torch.cat(outputs)
    return output, final[0], final[1] if c_0 is not None else None


def layer(
    plan: Plan,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    records: list[list[tuple[Tensor, ...]]] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute what :func:`retrograde.kernels.native.forward` computes; shapes as there.

    Parameters
    ----------
    records : list, optional
        One list per direction is appended: for each step, in the order of time, the tensors of ``Cell.computed``.

    Returns
    -------
    output, h_n, c_n
    """
    n = plan.per_direction
    sizes = batch_sizes.tolist() if batch_sizes is not None else None
    batch = sizes[0] if sizes is not None else x.shape[1]
    if h_0 is None:
        h_0 = x.new_zeros((plan.directions, batch, weights[1].shape[1]))
    if c_0 is None and plan.cell == 3:
        c_0 = x.new_zeros((plan.directions, batch, weights[0].shape[0] // 4))
    parts = []
    for d in range(plan.directions):
        record: list[tuple[Tensor, ...]] | None = None
        if records is not None:
            record = []
            records.append(record)
        c = c_0[d] if c_0 is not None else None
        parts.append(_direction(plan, x, h_0[d], c, weights[d * n : (d + 1) * n], sizes, d == 1, record))
    output = torch.cat([p[0] for p in parts], -1) if plan.directions == 2 else parts[0][0]
    cells = [p[2] for p in parts if p[2] is not None]
    return output, torch.stack([p[1] for p in parts]), torch.stack(cells) if cells else None


def gradients(
    plan: Plan,
    grads: Sequence[Tensor | None],
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Differentiate the layer so that the result can be differentiated again.

    Parameters
    ----------
    grads
        Of output, h_n, c_n; None is zero.
    needs
        Whether the gradient of x, h_0, c_0 and of each weight is asked for.

    Returns
    -------
    list
        These gradients, in this order, None where not asked for.
    """
    with torch.enable_grad():
        # Views, so that the derivative stops here even where one tensor is handed in twice.
        given = [t.view_as(t) if t is not None else None for t in (x, h_0, c_0, *weights)]
        view_x = given[0]
        assert view_x is not None
        outputs = layer(plan, view_x, given[1], given[2], [w for w in given[3:] if w is not None], batch_sizes)
        pairs = [
            (o, g) for o, g in zip(outputs, grads, strict=True) if o is not None and g is not None and o.requires_grad
        ]
        wanted = [t for t, need in zip(given, needs, strict=True) if need and t is not None]
        if not pairs or not wanted:
            return [
                torch.zeros_like(t) if need and t is not None else None for t, need in zip(given, needs, strict=True)
            ]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs],
                wanted,
                [g for _, g in pairs],
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
    return [next(found) if need and t is not None else None for t, need in zip(given, needs, strict=True)]
