"""A measured gradient flow as the page reads it. Tests: tests/laboratory/test_measured.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cells import FUSED
from ..errors import FlowError, OptionError
from ..flow import GradientFlow, gradient_flow
from ..flow.recurrence.cells import Trajectory

Array = NDArray[np.float64]
LONGEST = 300  # steps: a picture of more has no cells to point at


@dataclass(frozen=True)
class Layer:
    """The weights of a layer and one sequence of its run, as the page's own network has them (lab/network.ts).

    U `(G·H, D)`, W `(G·H, H)`, b `(G·H,)`, n `(H,)` (b_hn of a GRU), x `(T, D)`, the states before the first step, and
    ``own``: ∂E_t/∂h_t `(T, H)`; each as one list.
    """

    D: int
    U: list[float]
    W: list[float]
    b: list[float]
    n: list[float]
    x: list[float]
    h: list[float]
    c: list[float]
    own: list[float]


@dataclass(frozen=True)
class Measured:
    """One layer and one sequence of a measurement."""

    title: str
    notes: list[str]  # what a reader must know
    cell: str | None  # ``"tanh"``, ``"relu"``, ``"gru"``, ``"lstm"``; None for a recurrence of another kind
    # Hidden units, steps of the sequence.
    H: int
    T: int
    norms: list[float]  # ‖∂E_t/∂s_k‖ `(T, T)`, zero where there is no loss or no path
    share: list[float] | None  # share of each lag in ∂E/∂W, of the whole batch
    jacobians: list[float] | None  # ‖∂s_j/∂s_{j−1}‖₂ `(T,)`
    # Weights and inputs, if they alone explain the norms: the top layer of a stack, under losses that look at one step
    # each.
    layer: Layer | None

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return asdict(self)


def measure(
    model: Callable[..., Any],
    *inputs: Any,
    loss: Callable[[Any], Tensor],
    layer: str | int = 0,
    sequence: int = 0,
    **options: Any,
) -> Measured:
    """Measure a model as `retrograde.gradient_flow` does, and keep what the page shows of it.

    Raises FlowError if the flow cannot be measured, or not be drawn: a layer that runs backwards, losses that are at no
    step of the layer, more than 300 steps.
    Raises OptionError if there is no such sequence.
    """
    flow = gradient_flow(model, *inputs, loss=loss, reduce="none", **options)
    i, label = flow.layer_index(layer), flow.layer(layer)
    if not 0 <= sequence < flow.norms.shape[3]:
        raise OptionError(f"sequence is {sequence}; this batch has sequences 0 to {flow.norms.shape[3] - 1}.")
    if flow.reverse[i]:
        raise FlowError(f"rg.lab draws layers that run forward in time, and {label} runs backwards: choose layer=.")
    run = flow.linearization.runs.get(label) if flow.linearization else None
    T = flow.steps[i] if run is None or run.mask is None else int(run.mask[:, sequence].sum())
    if T > LONGEST:
        raise FlowError(f"rg.lab draws up to {LONGEST} steps, and {label} has {T}: give it shorter sequences.")
    norms = _square(flow, i, T, sequence)
    own = run if run is not None and run.cell in FUSED else None  # what the page can compute itself
    inside = None if own is None else _explained(flow, i, own, T, sequence, norms)
    name = type(model).__name__ if isinstance(model, torch.nn.Module) else getattr(model, "__name__", "model")
    return Measured(
        title=f"{name}, {label}" if len(flow.layers) > 1 else name,
        notes=list(flow.notes),
        cell=None if own is None else _cell(own),
        H=0 if own is None else own.h.shape[2],
        T=T,
        norms=_listed(norms),
        share=_share(flow, label, T),
        jacobians=_jacobians(flow, label, T, sequence),
        layer=inside,
    )


def _square(flow: GradientFlow, i: int, T: int, sequence: int) -> Array:
    """The norms with a row for each step of the layer."""
    alignment = flow.alignments[i]
    if alignment.kind in ("refused", "encoder"):
        why = alignment.reason or "all losses come after its last step"
        raise FlowError(f"rg.lab draws losses at the steps of a layer, and those of {flow.layers[i]} are not: {why}")
    at = alignment.at[:, min(sequence, alignment.at.shape[1] - 1)]
    found = np.zeros((T, T))
    for target, step in enumerate(at):
        if 0 <= step < T:
            found[step] += flow.norms[i, target, :T, sequence]
    return found


def _cell(run: Trajectory) -> str:
    return run.cell.nonlinearity if run.cell.vanilla else run.cell.name


def _explained(flow: GradientFlow, i: int, run: Trajectory, T: int, sequence: int, norms: Array) -> Layer | None:
    """Weights, inputs and ∂E_t/∂h_t, if the norms follow from them; None where other paths carry gradient too."""
    linearization, weights = flow.linearization, run.weights
    if linearization is None or linearization.local is None or weights.hr is not None:
        return None
    if flow.layers[i] in linearization.altered or flow.layers[i] in linearization.stepwise:
        return None
    own = linearization.local[list(linearization.runs).index(flow.layers[i])][:T, sequence].double()
    if not np.allclose(_sent_back(run, own, T, sequence), norms[T - 1], rtol=1e-3, atol=1e-6 * norms.max()):
        return None
    H, gru = run.h.shape[2], not run.cell.summed
    zero = torch.zeros(len(weights.ih), dtype=weights.ih.dtype, device=weights.ih.device)
    input_bias = zero if weights.bias_ih is None else weights.bias_ih
    state_bias = zero if weights.bias_hh is None else weights.bias_hh
    inner = state_bias[2 * H :] if gru else state_bias[:0]  # inside the reset gate of a GRU
    state_bias = torch.cat([state_bias[: 2 * H], torch.zeros_like(inner)]) if gru else state_bias
    c = zero[:0] if run.c_before is None else run.c_before[0, sequence]
    parts = (weights.ih, weights.hh, input_bias + state_bias, inner, run.x[:T, sequence], run.h_before[0, sequence])
    return Layer(run.x.shape[2], *(_listed(part) for part in (*parts, c, own)))


def _sent_back(run: Trajectory, own: Tensor, T: int, sequence: int) -> Array:
    """‖∂E_t/∂s_k‖ of the last step t, from ∂E_t/∂h_t and the layer alone."""
    h = run.h.new_zeros(run.h.shape[1:])
    h[sequence] = own[T - 1].to(h)
    c = torch.zeros_like(run.c[0]) if run.c is not None else None
    found = np.zeros(T)
    for k in range(T - 1, -1, -1):
        state = h[sequence] if c is None else torch.cat([h[sequence], c[sequence]])
        found[k] = float(state.norm())
        pulled = run.pull(k, h, c)
        h = pulled.hidden @ run.weights.hh
        h = h if pulled.direct is None else h + pulled.direct
        c = pulled.cell
    return found


def _share(flow: GradientFlow, label: str, T: int) -> list[float] | None:
    try:
        found = flow.contributions(flow.weight(label))
    except FlowError:
        return None
    if found.lags is None or (found.lags < 0).any() or not np.isfinite(found.share).all():
        return None
    share, kept = np.zeros(T), found.lags < T
    share[found.lags[kept]] = found.share[kept]
    return _listed(share)


def _jacobians(flow: GradientFlow, label: str, T: int, sequence: int) -> list[float] | None:
    try:
        found = flow.jacobian_norms(label)[:T, sequence]
    except FlowError:
        return None
    return _listed(found) if np.isfinite(found).all() else None


def _listed(values: Array | Tensor) -> list[float]:
    """Numbers in a row, with the digits of float32."""
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    return [float(f"{value:.9g}") for value in array.ravel()]
