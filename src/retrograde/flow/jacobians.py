"""The Jacobians ∂s_k/∂s_{k−1} of one layer, their products over long spans, and the spectrum these tend to.

A product of many Jacobians overflows or vanishes, and its small singular values drown in the rounding of the large
ones. So it is never formed: it is kept as Q · D · N, Q orthogonal, D diagonal as logarithms, N triangular and tame.

References
----------
Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013 (the bounds).
Benettin, Galgani, Giorgilli, Strelcyn, Lyapunov characteristic exponents, Meccanica 15 (1980) (QR at every step).
Engelken, Wolf, Abbott, Lyapunov spectra of chaotic recurrent neural networks, Phys. Rev. Research 5 (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FlowError
from .recording.stepwise_run import StepwiseRun
from .recurrence.cells import Trajectory

Array = NDArray[np.float64]
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Bounds:
    """What theory says without a measurement (vanilla layers only).

    Attributes
    ----------
    norm
        ‖W_hh‖₂, its largest singular value.
    radius
        The modulus of its largest eigenvalue.
    max_derivative
        max f′: 1 for tanh and for ReLU.
    contraction
        ‖W_hh‖₂ · max f′: no step can stretch a gradient by more.
    vanishing_certain
        contraction < 1: every ∂s_t/∂s_k shrinks at least as contraction^(t−k). Sufficient, not necessary.
    exploding_possible
        ‖W_hh‖₂ > 1 / max f′: necessary for a gradient to grow, not sufficient.
    """

    norm: float
    radius: float
    max_derivative: float

    @property
    def contraction(self) -> float:
        """‖W_hh‖₂ · max f′."""
        return self.norm * self.max_derivative

    @property
    def vanishing_certain(self) -> bool:
        """Whether every product of Jacobians must shrink."""
        return self.contraction < 1

    @property
    def exploding_possible(self) -> bool:
        """Whether some product of Jacobians can grow."""
        return self.norm > 1 / self.max_derivative


def bounds(run: Trajectory) -> Bounds:
    """‖W_hh‖₂ and its consequences for a vanilla layer."""
    if not run.cell.vanilla:
        raise FlowError(
            f"The bound ‖W‖₂·max f′ is a theorem about the vanilla network; for a {run.kind.upper()} look at "
            "jacobian_norms() and lyapunov_exponents()."
        )
    w = run.weights.hh.double()
    return Bounds(float(torch.linalg.matrix_norm(w, 2)), float(torch.linalg.eigvals(w).abs().max()), 1.0)


Run = Trajectory | StepwiseRun


def _known(run: Run) -> range:
    """The steps, in the direction the layer runs, whose Jacobian is known."""
    return run.known if isinstance(run, StepwiseRun) else range(run.steps)


def of_steps(run: Run, first: int, last: int) -> Iterator[Tensor]:
    """Jacobians ∂s_k/∂s_{k−1} `(B, S, S)` in float64, in the direction the layer runs, k = first … last − 1 of its run.

    s is h, for an LSTM h and c next to each other.
    """
    if isinstance(run, StepwiseRun):
        yield from run.jacobians(first, last)
        return
    p = run.h.shape[-1]
    size = run.state_size
    per_step = run.batch_size * size * run.weights.hh.shape[0] * run.x.element_size()
    chunk = max(1, _CHUNK_BYTES // per_step)
    # Row i of the Jacobian is the adjoint of ∂s_k's i-th coordinate.
    basis = torch.eye(size, dtype=run.h.dtype, device=run.h.device).view(size, 1, 1, size)
    for start in range(first, last, chunk):
        stop = min(start + chunk, last)
        steps = slice(run.steps - stop, run.steps - start) if run.reverse else slice(start, stop)
        unit = basis.expand(size, stop - start, run.batch_size, size)
        h, c = (unit[..., :p], unit[..., p:]) if "c" in run.cell.states else (unit, None)
        pulled = run.pull(steps, h, c)
        rows = pulled.hidden @ run.weights.hh
        if pulled.direct is not None:
            rows = rows + pulled.direct
        if pulled.cell is not None:
            rows = torch.cat([rows, pulled.cell], -1)
        whole = rows.permute(1, 2, 0, 3).double()  # (steps, B, S, S)
        yield from (whole.flip(0) if run.reverse else whole)


def norms(run: Run) -> Array:
    """Spectral norm of the Jacobian at every step and sequence, `(T, B)`; NaN where not known."""
    return _per_step(run, lambda j: torch.linalg.matrix_norm(j, 2))


def radii(run: Run) -> Array:
    """Spectral radius of the Jacobian at every step and sequence, `(T, B)`; NaN where not known."""
    return _per_step(run, lambda j: torch.linalg.eigvals(j).abs().amax(-1))


def _per_step(run: Run, what: Callable[[Tensor], Tensor]) -> Array:
    known = _known(run)
    if not known:
        return np.full((run.steps, run.batch_size), np.nan)
    found = torch.stack([what(j) for j in of_steps(run, known.start, known.stop)])
    values = found.new_full((run.steps, run.batch_size), torch.nan)
    values[known.start : known.stop] = found
    values = values.flip(0) if run.reverse else values
    if run.mask is not None:
        values = torch.where(run.mask, values, torch.nan)
    return np.asarray(values.cpu(), dtype=np.float64)


def _orthonormal(batch: int, size: int, columns: int) -> Tensor:
    """Random orthonormal columns, always the same: not aligned with an eigenvector of a special matrix."""
    generator = torch.Generator().manual_seed(0)
    q: Tensor = torch.linalg.qr(torch.randn(size, columns, dtype=torch.float64, generator=generator, device="cpu"))[0]
    many: Tensor = q.expand(batch, -1, -1)
    return many


def lyapunov_exponents(run: Run, count: int | None, burn_in: int) -> Array:
    """Finite-time exponents, falling, `(B, n)`: mean over the steps of log |R_ii|; −inf for one that becomes 0."""
    size = run.state_size
    count = size if count is None else count
    if not 1 <= count <= size:
        raise FlowError(f"n is {count}; this layer has {size} exponents.")
    steps = _known(run)
    if not 0 <= burn_in < len(steps):
        raise FlowError(f"burn_in is {burn_in}; expected steps between 0 and {len(steps) - 1}.")
    q = _orthonormal(run.batch_size, size, count)
    logs = torch.zeros(run.batch_size, count, dtype=torch.float64, device="cpu")
    lived = torch.zeros(run.batch_size, 1, dtype=torch.float64, device="cpu")
    dead = torch.zeros(run.batch_size, count, dtype=torch.bool, device="cpu")
    masks = None if run.mask is None else (run.mask.flip(0) if run.reverse else run.mask)
    for k, j in zip(steps, of_steps(run, steps.start, steps.stop), strict=True):
        if k == steps[0]:
            q, logs, lived, dead = (a.to(j.device) for a in (q, logs, lived, dead))
        new, r = torch.linalg.qr(j @ q)
        diagonal = _above_rounding(r.diagonal(dim1=-2, dim2=-1).abs(), j)
        live = torch.ones_like(lived, dtype=torch.bool) if masks is None else masks[k].unsqueeze(-1)
        q = torch.where(live.unsqueeze(-1), new, q)
        dead |= live & (diagonal == 0)
        if k - steps[0] >= burn_in:
            logs += torch.where(live, diagonal.log(), 0.0)
            lived += live
    found = torch.where(dead, -torch.inf, logs / lived.clamp(min=1))
    return np.asarray(found.sort(-1, descending=True).values.cpu())


def largest_exponents(run: Run, burn_in: int) -> Array:
    """The largest finite-time exponent of every sequence `(B,)`, by sending one random adjoint back.

    No Jacobian is formed: T·B products of a vector with the recurrent weights. The last ``burn_in`` steps, during
    which the adjoint aligns, are not counted.
    """
    if isinstance(run, StepwiseRun):
        return lyapunov_exponents(run, 1, burn_in)[:, 0]
    if not 0 <= burn_in < run.steps:
        raise FlowError(f"burn_in is {burn_in}; expected steps between 0 and {run.steps - 1}.")
    vector = _orthonormal(run.batch_size, run.state_size, 1)[..., 0].to(run.h)
    p = run.h.shape[-1]
    logs, steps = torch.zeros(2, run.batch_size, dtype=torch.float64, device=run.h.device)
    for walked, k in enumerate(range(run.steps) if run.reverse else reversed(range(run.steps))):
        h, c = (vector[..., :p], vector[..., p:]) if "c" in run.cell.states else (vector, None)
        pulled = run.pull(k, h, c)
        h = pulled.hidden @ run.weights.hh
        h = h if pulled.direct is None else h + pulled.direct
        vector = h if pulled.cell is None else torch.cat([h, pulled.cell], -1)
        norm = vector.norm(dim=-1, keepdim=True)
        vector = torch.where(norm > 0, vector / norm, vector)
        if walked >= burn_in:
            live = torch.ones_like(logs) if run.mask is None else run.mask[k].double()
            logs += torch.where(live > 0, norm[..., 0].double().log(), 0.0)
            steps += live
    return np.asarray((logs / steps.clamp(min=1)).cpu())


def lyapunov_dimension(exponents: Array) -> float:
    """Kaplan and Yorke's dimension of a falling spectrum: how many directions a set of states keeps.

    j + Σ_{i≤j} λ_i / |λ_{j+1}| for the largest j whose sum is not negative; 0 if all shrink, n if all sums
    are not negative.
    """
    sums = np.cumsum(exponents)
    positive = np.flatnonzero(sums >= 0)
    if not len(positive):
        return 0.0
    j = int(positive[-1]) + 1
    if j == len(exponents):
        return float(j)
    return j + float(sums[j - 1] / abs(exponents[j]))


def log_singular_values(run: Run, first: int, last: int) -> Array:
    """Natural logarithms of the singular values of ∂s_last/∂s_first, falling, `(B, S)`; −inf for zero."""
    if run.reverse:  # in the order the layer runs
        begin, end = run.steps - 1 - first, run.steps - 1 - last
    else:
        begin, end = first, last
    if not -1 <= begin < end < run.steps:
        raise FlowError(
            f"The span from step {first} to {last} is not inside the layer's run of {run.steps} steps, in its "
            "direction (-1 names the state before the first step)."
        )
    known = _known(run)
    if begin + 1 < known.start or end >= known.stop:
        raise FlowError(
            f"The state before the first step, or after the last, is not known: let the span lie between steps "
            f"{known.start - 1} and {known.stop - 1} of its run."
        )
    return product_spectrum(of_steps(run, begin + 1, end + 1))


def product_spectrum(jacobians: Iterable[Tensor]) -> Array:
    """Log singular values of J_n ⋯ J_1, falling, `(B, S)`, from `(B, S, S)` float64 factors in the order they act."""
    q = log_d = n = torch.empty(0, device="cpu")
    for j in jacobians:
        batch, size = j.shape[:2]
        if not len(n):
            q = _orthonormal(batch, size, size).to(j.device)
            log_d = torch.zeros(batch, size, dtype=j.dtype, device=j.device)
            n = torch.eye(size, dtype=j.dtype, device=j.device).expand(batch, -1, -1)
        q, r = torch.linalg.qr(j @ q)
        sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(j.dtype)
        q, r = q * sign.unsqueeze(-2), r * sign.unsqueeze(-1)
        new_log = log_d + _above_rounding(r.diagonal(dim1=-2, dim2=-1), j).log()
        # R D N = D′ (D′⁻¹ R D) N with D′ = diag(R) D: the bracket has a unit diagonal and entries that die away.
        n = _similar(r, new_log, log_d) @ n
        log_d = new_log
    found = np.full(log_d.shape, -np.inf)
    for b, (own_log, own_n) in enumerate(zip(log_d.cpu(), n.cpu(), strict=True)):
        alive = own_log > -torch.inf  # directions that become zero leave a product of lower rank
        if alive.any():
            found[b, : int(alive.sum())] = _graded(own_log[alive], own_n[alive])
    return found


def _above_rounding(diagonal: Tensor, j: Tensor) -> Tensor:
    """Set diagonal entries of R that are only rounding to 0: the direction is zero, not merely small."""
    noise = 4 * j.shape[-1] * torch.finfo(j.dtype).eps * torch.linalg.matrix_norm(j).unsqueeze(-1)
    return torch.where(diagonal > noise, diagonal, 0.0)


def _similar(r: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """diag(e^left)⁻¹ · R · diag(e^right), zero where R is or where a scale is dead."""
    difference = right.unsqueeze(-2) - left.unsqueeze(-1)
    scale = torch.where(torch.isfinite(difference), difference, -torch.inf).clamp(max=600).exp()
    result: Tensor = torch.where(r != 0, r * scale, 0.0)
    return result


def _graded(log_d: Tensor, n: Tensor) -> Array:
    """Log singular values of diag(e^log_d) · N for N `(m, S)` of full row rank.

    Alternating an LQ step and a QR step is orthogonal iteration on both sides: entries off the diagonal vanish as the
    squared ratio of neighbors. Groups of close neighbors are left to an ordinary SVD.
    """
    order = log_d.argsort(descending=True)
    log_d, n = log_d[order], n[order]
    for _ in range(60):
        # D N = D L Q → D L;  L = LQ factor of N, lower triangular
        lower = torch.linalg.qr(n.T)[1].T
        # D L = (D L D⁻¹) D =: M D
        gap = log_d.unsqueeze(1) - log_d.unsqueeze(0)
        m = torch.where(lower != 0, lower * gap.clamp(max=600).exp(), 0.0)
        # M D = Q R D → R D = D (D⁻¹ R D), upper triangular
        r = torch.linalg.qr(m)[1]
        upper = torch.where(r != 0, r * (-gap).clamp(max=600).exp(), 0.0)
        diagonal = upper.diagonal()
        if not (diagonal.abs() > 0).all():
            break
        log_d = log_d + diagonal.abs().log()
        n = upper / diagonal.unsqueeze(1)
        order = log_d.argsort(descending=True)
        if (order == torch.arange(len(order), device="cpu")).all():
            if (n.triu(1).abs() < 1e-15).all():
                break
        else:  # an unsorted pair: sort it, and continue with a full matrix
            log_d, n = log_d[order], n[order][:, order]
    values = log_d.clone()
    # Rows of close neighbors that are still coupled.
    bond = n.abs() > 1e-15
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or not bond[start:i, i:].any():
            if i - start > 1:
                top = log_d[start]
                block = (log_d[start:i] - top).exp().unsqueeze(1) * n[start:i, start:i]
                singular = torch.linalg.svdvals(block)
                values[start:i] = singular.log() + top
            start = i
    return np.asarray(values.sort(descending=True).values)
