"""The adjoint recursion (Pascanu, Mikolov and Bengio 2013, eq. 5): ∂E_t/∂s_k for many t at once.

``backward`` serves any model: it is the gradient of one recorded layer, vectorized over targets t, so that autograd can
carry a whole block of losses through the operators between the layers. ``by_lag`` is faster, for stacks whose head
looks at one step at a time: all pairs (t, t−ℓ) of one lag ℓ in one product. ``norms`` computes the norms of the same
pairs in the native engine, from the last step to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ... import kernels
from ...cells import FUSED
from .cells import Trajectory


@dataclass
class Adjoints:
    """Adjoints of one layer for a block of N targets."""

    h: Tensor  # (N, T, B) squared norms of ∂E_t/∂h_k
    c: Tensor | None  # (N, T, B) of ∂E_t/∂c_k with h_k constant
    c_total: Tensor | None  # (N, T, B) of ∂E_t/∂c_k with h_k following
    hidden: Tensor | None = None  # (N, T, B, G·H) ∂E_t/∂(W_hh h + b_hh), where asked for
    inputs: Tensor | None = None  # (N, T, B, G·H) ∂E_t/∂(W_ih x + b_ih), where asked for
    states: Tensor | None = None  # (N, T, B, P) ∂E_t/∂h_k itself, where asked for

    def rows(self, chosen: list[int]) -> Adjoints:
        """The adjoints of some of the targets."""
        kept: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        own: dict[str, Any] = {name: None if a is None else a[chosen] for name, a in kept.items()}
        return Adjoints(**own)


def squared(a: Tensor) -> Tensor:
    """Squared norms over the last axis, in float64."""
    # Summed in float64 whatever the model's type: the square of a float32 below 1e-19 would be rounded towards zero.
    norms: Tensor = torch.linalg.vector_norm(a, dim=-1, dtype=torch.float64)
    return norms.square()


def _normal(a: Tensor) -> Tensor:
    """Subnormal numbers as zeros: arithmetic with them takes a hundred times as long, and they are below the range."""
    return torch.nn.functional.hardshrink(a, torch.finfo(a.dtype).tiny)


def backward(
    run: Trajectory, g_out: Tensor, g_h: Tensor | None, g_c: Tensor | None, *, need_x: bool, keep: bool
) -> tuple[Adjoints, Tensor | None, Tensor, Tensor | None]:
    """Backpropagate N losses through one layer.

    run: the layer's trajectory.
    g_out: ∂E/∂(outputs) `(N, T, B, P)`.
    g_h, g_c: ∂E/∂h_n `(N, B, P)` and ∂E/∂c_n `(N, B, H)`, or None for zero; the latter also of every step
        `(N, T, B, H)`.
    need_x: whether ∂E/∂x is wanted.
    keep: whether the adjoints of the pre-activations are kept in the result.
    Returns squared norms per target, step and sequence, and ∂E/∂x `(N, T, B, I)`, ∂E/∂h_0, ∂E/∂c_0.
    """
    targets, steps, batch = g_out.shape[:3]
    has_c = "c" in run.cell.states
    hidden_size = run.hidden_size
    carry_h = g_out.new_zeros(targets, batch, g_out.shape[3]) if g_h is None else g_h
    carry_c = None
    inner_c = g_c if g_c is not None and g_c.dim() == 4 else None
    if has_c:
        carry_c = g_out.new_zeros(targets, batch, hidden_size) if g_c is None or g_c.dim() == 4 else g_c
    squares = torch.zeros(targets, steps, batch, dtype=torch.float64, device=g_out.device)
    adjoints = Adjoints(squares, squares.clone() if has_c else None, squares.clone() if has_c else None)
    width = run.weights.hh.shape[0]
    if keep or need_x:
        adjoints.inputs = g_out.new_zeros(targets, steps, batch, width)
    if keep:
        adjoints.hidden = adjoints.inputs if run.cell.summed else g_out.new_zeros(targets, steps, batch, width)
        adjoints.states = torch.zeros_like(g_out) if run.weights.hr is not None else None
    # Steps after the last that any of these losses depends on have no adjoint: begin there.
    order = list(range(steps)) if run.reverse else list(range(steps - 1, -1, -1))
    if not (carry_h.any() or (carry_c is not None and carry_c.any())):
        seen = g_out.ne(0).any(dim=3).any(dim=2).any(dim=0).tolist()
        if inner_c is not None:
            seen = (torch.tensor(seen, device="cpu") | inner_c.ne(0).any(dim=3).any(dim=2).any(dim=0).cpu()).tolist()
        while order and not seen[order[0]]:
            order.pop(0)
    for k in order:
        h = g_out[:, k] + carry_h
        adjoints.h[:, k] = squared(h)
        if carry_c is not None and inner_c is not None:
            carry_c = carry_c + inner_c[:, k]
        if carry_c is not None and adjoints.c is not None and adjoints.c_total is not None:
            adjoints.c[:, k] = squared(carry_c)
            adjoints.c_total[:, k] = squared(run.total_cell(k, h, carry_c))
        pulled = run.pull(k, h, carry_c)
        if adjoints.inputs is not None:
            adjoints.inputs[:, k] = run.input_side(k, h, carry_c, pulled.hidden)
        if adjoints.hidden is not None and adjoints.hidden is not adjoints.inputs:
            adjoints.hidden[:, k] = pulled.hidden
        if adjoints.states is not None:
            adjoints.states[:, k] = h if run.mask is None else h * run.mask[k].unsqueeze(-1)
        carry_h = _normal(pulled.hidden) @ run.weights.hh
        if pulled.direct is not None:
            carry_h += pulled.direct
        carry_h, carry_c = _normal(carry_h), None if pulled.cell is None else _normal(pulled.cell)
    if run.mask is not None:
        live = run.mask.unsqueeze(0)
        adjoints.h *= live
        if adjoints.c is not None and adjoints.c_total is not None:
            adjoints.c *= live
            adjoints.c_total *= live
    g_x = adjoints.inputs @ run.weights.ih if need_x and adjoints.inputs is not None else None
    if not keep:
        adjoints.inputs = adjoints.hidden = None
    return adjoints, g_x, carry_h, carry_c


def weight_gradients(run: Trajectory, adjoints: Adjoints) -> list[Tensor]:
    """∂E/∂(weights) for each of N losses, `(N, …)`, in the order of ``Weights.tensors``."""
    assert adjoints.inputs is not None and adjoints.hidden is not None

    def product(left: Tensor, right: Tensor) -> Tensor:
        return left.flatten(1, 2).transpose(1, 2) @ right.flatten(0, 1)

    found = [product(adjoints.inputs, run.x), product(adjoints.hidden, run.h_before)]
    if run.weights.bias_ih is not None:
        found += [adjoints.inputs.sum((1, 2)), adjoints.hidden.sum((1, 2))]
    if adjoints.states is not None:
        found.append(product(adjoints.states, run.projected_from()))
    return found


@dataclass
class LagAdjoints:
    """Adjoints of one layer at one lag ℓ: a row is ∂E_t/∂s_{t−ℓ} for each followed t ≥ ℓ, in rising order.

    The tensors are work space: they are valid until the next lag.
    """

    at: slice | Tensor  # the steps t−ℓ
    h: Tensor  # (rows, B, P)
    c: Tensor | None  # (rows, B, H) with h constant
    hidden: Tensor  # (rows, B, G·H) towards W_hh h_{k−1} + b_hh
    norm_h: Tensor  # (rows, B)
    norm_c: Tensor | None
    scale: Tensor | None  # (rows, B) float64: factor of all of the above; None for 1


class _Workspace:
    """Work space of one layer: nothing is allocated from lag to lag."""

    def __init__(self, run: Trajectory, local: Tensor, targets: Tensor) -> None:
        rows, batch, size = len(targets), local.shape[1], run.hidden_size
        self.run = run
        self.h = local[targets].contiguous()  # of a head that permutes axes it is not
        self.next_h = torch.empty_like(self.h)
        self.hidden = local.new_empty(rows, batch, run.weights.hh.shape[0])
        self.norms = local.new_empty(2, rows, batch)
        self.c = self.next_c = None
        if "c" in run.cell.states:
            self.c, self.next_c = local.new_zeros(2, rows, batch, size).unbind()
        self.scale: Tensor | None = None  # (rows, B), powers of two: exact

    def advance(self, gone: int, at: slice | Tensor, above: Tensor | None) -> LagAdjoints:
        """From the adjoints at this lag to those at the next; the first ``gone`` rows have reached step 0."""
        run, weights = self.run, self.run.weights
        self.h, c = self.h[gone:], None if self.c is None else self.c[gone:]
        self.scale = None if self.scale is None else self.scale[gone:]
        rows = len(self.h)
        h = self.h if above is None else self.h.add_(above)
        norm_h = torch.linalg.vector_norm(h, dim=-1, out=self.norms[0, :rows])
        norm_c = None if c is None else torch.linalg.vector_norm(c, dim=-1, out=self.norms[1, :rows])
        hidden, carry = self.hidden[:rows], self.next_h[:rows]
        cell = None if self.next_c is None else self.next_c[:rows]
        pulled = run.pull(at, h, c, out=(hidden, cell))
        torch.mm(hidden.view(-1, hidden.shape[-1]), weights.hh, out=carry.view(-1, carry.shape[-1]))
        run.add_direct(at, h, c, carry)
        self.h, self.next_h = carry, self.h
        self.c, self.next_c = pulled.cell, c
        return LagAdjoints(at, h, c, pulled.hidden, norm_h, norm_c, self.scale)

    def meet(self, gone: int, above: Tensor, upper: Tensor | None) -> Tensor:
        """``above``, whose rows have the scale ``upper``, brought to one scale with this layer's: the larger one."""
        h, c = self.h[gone:], None if self.c is None else self.c[gone:]
        one = torch.ones(above.shape[:2], dtype=torch.float64, device=above.device)
        own, upper = one if self.scale is None else self.scale[gone:], one if upper is None else upper
        blank = h.eq(0).all(-1) if c is None else h.eq(0).all(-1) & c.eq(0).all(-1)
        scale = torch.where(above.eq(0).all(-1), own, torch.where(blank, upper, torch.maximum(own, upper)))
        # Equal scales may be 0 or infinite.
        factor = torch.where(blank | own.eq(scale), 1.0, own / scale).to(h.dtype).unsqueeze(-1)
        h.mul_(factor)
        if c is not None:
            c.mul_(factor)
        self.scale = torch.cat([one[:1].expand(gone, -1), scale])
        return above * torch.where(above.eq(0).all(-1) | upper.eq(scale), 1.0, upper / scale).to(above.dtype).unsqueeze(
            -1
        )

    def rescale(self, lag: LagAdjoints) -> None:
        """Rescale rows that approach the ends of the number range to about 1.

        The recursion is linear, so this changes no result; otherwise float32 gradients would vanish below 1e-38, and
        arithmetic with subnormal numbers is a hundred times slower.
        """
        norm = lag.norm_h if lag.norm_c is None else torch.maximum(lag.norm_h, lag.norm_c)
        low = torch.finfo(norm.dtype).tiny ** 0.25
        least, most = (float(edge) for edge in torch.aminmax(norm))
        if low < least and most < 1 / low:
            return
        far = ((norm < low) & (norm > 0)) | (norm > 1 / low)
        far &= torch.isfinite(norm)
        if not far.any():
            return
        _, exponent = torch.frexp(norm.double())
        factor = torch.where(far, torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), -exponent), 1.0)
        self.scale = (1.0 if self.scale is None else self.scale) / factor
        factor = factor.to(norm.dtype).unsqueeze(-1)
        self.h.mul_(factor)
        if self.c is not None:
            self.c.mul_(factor)


def by_lag(
    stack: list[Trajectory], local: list[Tensor], targets: Tensor, *, scaled: bool = False
) -> Iterator[tuple[int, list[LagAdjoints]]]:
    """Walk the lags 0, 1, … of a causal stack, all targets of a lag at once.

    D_ℓ[t] = ∂E_t/∂s_{t−ℓ} obeys D_ℓ[t] = J_{t−ℓ+1}ᵀ D_{ℓ−1}[t], so one product of (T−ℓ)·B rows advances every
    pair by a lag; an upper layer hands ∂E_t/∂x_{t−ℓ} down at the same lag.

    stack: trajectories from the bottom layer to the top, each fed by the one before.
    local: for each layer ∂E_t/∂(output_t) `(T, B, P)`.
    targets: the steps t to follow, rising.
    scaled: whether rows may have a ``scale``, so that gradients far outside the range of the type are followed too.
    """
    every = len(targets) == stack[0].steps
    spaces = [_Workspace(run, g, targets) for run, g in zip(stack, local, strict=True)]
    lags = torch.arange(int(targets[-1]) + 1, device="cpu")
    first = torch.searchsorted(targets, lags).tolist()  # row of the first t ≥ ℓ
    for lag, row in enumerate(first):
        gone = row - first[lag - 1] if lag else 0
        at: slice | Tensor = slice(0, len(targets) - lag) if every else targets[targets >= lag] - lag
        found: list[LagAdjoints] = []
        above: Tensor | None = None
        upper: Tensor | None = None
        for space in reversed(spaces):
            if above is not None and (space.scale is not None or upper is not None):
                above = space.meet(gone, above, upper)
            step = space.advance(gone, at, above)
            if space is not spaces[0]:
                above = space.run.input_side(at, step.h, step.c, step.hidden) @ space.run.weights.ih
                upper = step.scale
            found.append(step)
        yield lag, found[::-1]
        if scaled:
            for space, step in zip(reversed(spaces), found, strict=True):
                space.rescale(step)


def has_engine(stack: list[Trajectory]) -> bool:
    """Whether the native engine can walk this stack."""
    dtype = stack[0].h.dtype
    return (
        kernels.available()
        and dtype in (torch.float32, torch.float64)
        and len(stack) <= kernels.MAX_ADJOINT_LAYERS
        and all(run.cell in FUSED and run.h.is_cpu and run.h.dtype is dtype and run.weights.hr is None for run in stack)
    )


def norms(stack: list[Trajectory], local: list[Tensor], targets: Tensor, state: str) -> Tensor:
    """What :func:`by_lag` finds, norms only, for a stack that ``has_engine`` admits.

    Returns `(layers, targets, T, B)` float64: ‖∂E_t/∂s_k‖, zero for k > t.
    """
    return kernels.adjoint_norms([run.adjoint(g) for run, g in zip(stack, local, strict=True)], targets, state)
