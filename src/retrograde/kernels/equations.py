"""The recurrent layers of the engine once more, step by step in torch's elementary operators.

Slow, and differentiable any number of times: second derivatives are computed here, and what torch's fused layers hide
(gates, sums before the activations) is read here.

Tests: `tests/kernels/test_operators.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cells import CELLS
from .shapes import Inputs, LayerSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["gradients", "layer"]


def _direction(
    spec: LayerSpec,
    x: Tensor,
    initial: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    sizes: list[int] | None,
    reverse: bool,
    record: list[tuple[Tensor, ...]],
) -> tuple[Tensor, list[Tensor]]:
    """The output and the final states; to `record` goes what ``Cell.computed`` lists, for each step in time's order."""
    w_ih, w_hh = weights[:2]
    b_ih, b_hh = (weights[2], weights[3]) if spec.bias else (None, None)
    w_hr = weights[-1] if spec.projected else None
    step = CELLS[spec.cell].step
    sums = F.linear(x, w_ih, b_ih)
    steps = sums.unbind(0) if sizes is None else torch.split(sums, sizes)
    state = tuple(s[:0] for s in initial) if sizes is not None and reverse else initial
    outputs, ended = [], []
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        batch, running = steps[t].shape[0], state[0].shape[0]
        if running < batch:  # in reverse, the shorter sequences start at their own ends
            state = tuple(torch.cat([s, s_0[running:batch]]) for s, s_0 in zip(state, initial, strict=True))
        elif running > batch:  # otherwise they end
            ended.append(tuple(s[batch:] for s in state))
            state = tuple(s[:batch] for s in state)
        state, computed = step(steps[t], F.linear(state[0], w_hh, b_hh), state, w_hr)
        outputs.append(state[0])
        record.append(computed)
    if reverse:
        outputs.reverse()
        record.reverse()
    final = [torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True)]
    if not outputs:
        return x.new_empty((*x.shape[:-1], initial[0].shape[-1])), final
    return torch.stack(outputs) if sizes is None else torch.cat(outputs), final


def layer(
    spec: LayerSpec, inputs: Inputs, records: list[list[tuple[Tensor, ...]]] | None = None
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
    x, h_0, c_0, weights, batch_sizes = inputs
    D, n = spec.directions, len(weights) // spec.directions
    sizes = batch_sizes.tolist() if batch_sizes is not None else None
    batch = sizes[0] if sizes is not None else x.shape[1]
    if h_0 is None:
        h_0 = x.new_zeros((D, batch, weights[1].shape[1]))
    states = [h_0]
    if len(CELLS[spec.cell].states) > 1:
        states.append(x.new_zeros((D, batch, weights[0].shape[0] // 4)) if c_0 is None else c_0)
    outputs, finals = [], []
    for d in range(D):
        record: list[tuple[Tensor, ...]] = []
        initial = tuple(s[d] for s in states)
        output, final = _direction(spec, x, initial, weights[d * n : (d + 1) * n], sizes, d == 1, record)
        outputs.append(output)
        finals.append(final)
        if records is not None:
            records.append(record)
    h_n, *c_n = (torch.stack(parts) for parts in zip(*finals, strict=True))
    return torch.cat(outputs, -1) if D == 2 else outputs[0], h_n, c_n[0] if c_n else None


def gradients(
    spec: LayerSpec, grads: Sequence[Tensor | None], inputs: Inputs, needs: Sequence[bool]
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
        # Views, so that the derivative stops here even if one tensor is given twice.
        views = [None if t is None else t.view_as(t) for t in inputs.differentiable()]
        outputs = layer(spec, Inputs.of(views, inputs.batch_sizes))
        pairs = [
            (o, g) for o, g in zip(outputs, grads, strict=True) if o is not None and g is not None and o.requires_grad
        ]
        wanted = [t for t, need in zip(views, needs, strict=True) if need and t is not None]
        if pairs and wanted:
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
        else:
            found = iter([torch.zeros_like(t) for t in wanted])
    return [next(found) if need and t is not None else None for t, need in zip(views, needs, strict=True)]
