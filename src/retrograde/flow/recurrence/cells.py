"""A layer's run, each step as one forward step of its cell and one step of the adjoint, with shapes that broadcast.

Everything the flow measures comes from the adjoint step: it takes ∂E/∂s_k to ∂E/∂(pre-activations of step k)
and to the part of ∂E/∂s_{k−1} that does not pass through the recurrent matrix. Because its coefficients do not
depend on which loss is sent back, one step serves any number of losses at once: the leading axes of an adjoint
are the caller's (targets, lags, or none).

T: steps, B: sequences, I: input size, H: hidden size, P: size of h (H unless an LSTM has ``proj_size``).

Tests: `tests/flow/test_flow_models.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import kernels
from ...cells import FUSED, Cell, CellName
from ...errors import FlowError
from .coefficients import coefficients

Steps = int | slice | Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer in one direction, in torch's layout (gates stacked along the rows)."""

    ih: Tensor  # (G·H, I)
    hh: Tensor  # (G·H, P)
    bias_ih: Tensor | None = None  # (G·H,)
    bias_hh: Tensor | None = None  # (G·H,)
    hr: Tensor | None = None  # (P, H), the projection of an LSTM with proj_size

    def tensors(self) -> list[Tensor]:
        """The tensors that are not None, in torch's order."""
        return [w for w in (self.ih, self.hh, self.bias_ih, self.bias_hh, self.hr) if w is not None]

    def equals(self, other: Weights) -> bool:
        """Whether these are the same numbers."""
        own, others = self.tensors(), other.tensors()
        return len(own) == len(others) and all(
            a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
            for a, b in zip(own, others, strict=True)
        )

    def copied(self) -> Weights:
        """A copy: training changes the model's own in place."""
        own = (self.ih, self.hh, self.bias_ih, self.bias_hh, self.hr)
        return Weights(*(None if w is None else w.detach().clone() for w in own))  # type: ignore[arg-type]


class Pulled(NamedTuple):
    """What one adjoint step yields from the adjoint of (h_k, c_k)."""

    hidden: Tensor  # (…, B, G·H)  ∂E/∂(W_hh h_{k−1} + b_hh)
    direct: Tensor | None  # (…, B, P)  part of ∂E/∂h_{k−1} that avoids W_hh
    cell: Tensor | None  # (…, B, H)  ∂E/∂c_{k−1}


class Step(NamedTuple):
    """The inputs of a single step; its coefficients are computed later, for many steps in one product."""

    cell: Cell
    weights: Weights
    x: Tensor  # (1, B, I)
    h_0: Tensor  # (B, H)
    c_0: Tensor | None
    h: Tensor  # (1, B, H), the state after the step


BY_STEP = ("x", "h_before", "h", "gates", "c_before", "c", "inner", "mask")  # the tensors of a trajectory


@dataclass
class Trajectory:
    """One layer's run through T steps, kept as the coefficients of its linearization."""

    cell: Cell
    weights: Weights
    reverse: bool
    # Inputs `(T, B, I)`, states before and after each step `(T, B, P)`.
    x: Tensor
    h_before: Tensor
    h: Tensor
    gates: Tensor  # activations after their nonlinearity `(T, B, G·H)`, gates in torch's order
    # LSTM cell states `(T, B, H)`.
    c_before: Tensor | None = None
    c: Tensor | None = None
    inner: Tensor | None = None  # ``W_hn h + b_hn`` of a GRU, or what else a cell computes as ``hn``, `(T, B, H)`
    mask: Tensor | None = None  # `(T, B)` bool, false on padding; there the state is carried over unchanged

    def __post_init__(self) -> None:
        self._coefficients = coefficients(self)

    @classmethod
    def joined(cls, runs: list[Trajectory]) -> Trajectory:
        """Runs of one layer, one after the other, as one."""
        if len(runs) == 1:
            return runs[0]
        if any(run.mask is not None for run in runs):
            runs = [run.masked() for run in runs]
        return runs[0]._changed(lambda name, _: torch.cat([getattr(run, name) for run in runs]))

    @classmethod
    def side_by_side(cls, runs: list[Trajectory]) -> Trajectory:
        """Runs of one layer through as many steps, of different sequences, as one."""
        if any(run.mask is not None for run in runs):
            runs = [run.masked() for run in runs]
        return runs[0]._changed(lambda name, _: torch.cat([getattr(run, name) for run in runs], 1))

    def masked(self) -> Trajectory:
        """The same with a mask, of all steps where there was none."""
        full = torch.ones(self.x.shape[:2], dtype=torch.bool, device=self.x.device)
        return self if self.mask is not None else replace(self, mask=full)

    def reordered(self, order: Tensor) -> Trajectory:
        """The same with the sequences in another order."""
        return self._changed(lambda _, a: a[:, order])

    def _changed(self, change: Callable[[str, Tensor], Tensor]) -> Trajectory:
        """The same with every tensor changed, by its name."""
        own = {name: getattr(self, name) for name in BY_STEP}
        changed: dict[str, Any] = {name: None if a is None else change(name, a) for name, a in own.items()}
        return replace(self, **changed)

    def part(self, at: slice) -> Trajectory:
        """The run of some of the steps, its coefficients included."""
        own = copy.copy(self)  # which does not linearize again
        for name in BY_STEP:
            whole = getattr(self, name)
            setattr(own, name, None if whole is None else whole[at])
        own._coefficients = {name: whole[at] for name, whole in self._coefficients.items()}
        return own

    @property
    def kind(self) -> CellName:
        """Name of the cell."""
        return self.cell.name

    @property
    def steps(self) -> int:
        """T."""
        return self.x.shape[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.x.shape[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.weights.hh.shape[0] // len(self.cell.gates)

    @property
    def state_size(self) -> int:
        """Numbers in s_k: h, of an LSTM h and c."""
        return self.h.shape[-1] + (self.hidden_size if "c" in self.cell.states else 0)

    def projected_from(self) -> Tensor:
        """o∘tanh(c), what an LSTM's projection is applied to, `(T, B, H)`."""
        assert self.c is not None
        return self.gates[..., self.cell.rows("o", self.hidden_size)] * torch.tanh(self.c)

    def pull(
        self,
        at: Steps,
        h: Tensor,
        c: Tensor | None,
        out: tuple[Tensor, Tensor | None] | None = None,
    ) -> Pulled:
        """One step of the adjoint.

        at: a step, a step of each sequence and their indices, or a slice of steps when the adjoint has steps as an axis
            before its batch axis.
        h, c: ∂E/∂h_k `(…, B, P)` and, for an LSTM, ∂E/∂c_k `(…, B, H)` with h_k constant.
        out: where ``hidden`` and ``cell`` are to be written; ``direct`` is then left to ``add_direct``.
        """
        known, shape = self._coefficients, (*h.shape[:-1], self.weights.hh.shape[0])
        direct = self._direct(at, h, c) if out is None else None
        hidden, cell = (h.new_empty(shape), None) if out is None else out
        if "k_o" not in known:
            _scale_gates(known["k"][at], h, hidden)
            if c is None or "k_c" not in known:
                return Pulled(hidden, direct, None)
            hidden.add_(_scale_gates(known["k_c"][at], c, torch.empty_like(hidden)))
            return Pulled(hidden, direct, torch.mul(c, known["f"][at], out=cell).addcmul_(h, known["h_of_c"][at]))
        assert c is not None
        m = h if self.weights.hr is None else h @ self.weights.hr
        total = torch.addcmul(c, m, known["q"][at], out=cell)  # ∂E/∂c_k with h_k following c_k
        size = 3 * self.hidden_size
        _scale_gates(known["k"][at], total, hidden[..., :size])
        torch.mul(m, known["k_o"][at], out=hidden[..., size:])
        return Pulled(hidden, direct, total.mul_(known["f"][at]))

    def adjoint(self, local: Tensor) -> kernels.Adjoint:
        """The layer as the native engine takes it; ``local`` is ∂E_t/∂(output_t) `(T, B, P)`."""
        known = self._coefficients
        side = known.get("k_x", known.get("k_o"))
        weights = self.weights
        q, f, passed = (known.get(name) for name in ("q", "f", "pass"))
        return kernels.Adjoint(self.cell.mode, known["k"], side, q, f, passed, weights.hh, weights.ih, local)

    def _direct(self, at: Steps, h: Tensor, c: Tensor | None) -> Tensor | None:
        known = self._coefficients
        direct = h * known["pass"][at] if "pass" in known else None
        if c is None or "c_of_h" not in known:
            return direct
        through_c = c * known["c_of_h"][at]
        return through_c if direct is None else direct + through_c

    def add_direct(self, at: Steps, h: Tensor, c: Tensor | None, to: Tensor) -> None:
        """Add the part of ∂E/∂h_{k−1} that avoids W_hh to ``to``, in place."""
        for name, a in (("pass", h), ("c_of_h", c)):
            if a is not None and name in self._coefficients:
                to.addcmul_(a, self._coefficients[name][at])

    def total_cell(self, at: Steps, h: Tensor, c: Tensor) -> Tensor:
        """∂E/∂c_k with h_k, which an LSTM computes from c_k, following it: what autograd gives for the tensor c_k."""
        m = h if self.weights.hr is None else h @ self.weights.hr
        return torch.addcmul(c, m, self._coefficients["q"][at])

    def input_side(self, at: Steps, h: Tensor, c: Tensor | None, hidden: Tensor) -> Tensor:
        """∂E/∂(W_ih x + b_ih), where ∂E/∂(W_hh h + b_hh) is ``hidden``: the same if the two are only added."""
        if self.cell.summed:
            return hidden
        k = self._coefficients["k_x"][at]
        own = _scale_gates(k, h, h.new_empty(*h.shape[:-1], k.shape[-1]))
        if c is not None and "k_xc" in self._coefficients:
            own.add_(_scale_gates(self._coefficients["k_xc"][at], c, torch.empty_like(own)))
        return own if own.shape == hidden.shape else torch.cat([hidden[..., : -own.shape[-1]], own], -1)

    def products(self) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """W_ih x_k + b_ih, W_hh h_{k−1} + b_hh and the state before: what `Cell.step` computes every step from."""
        linear, w = torch.nn.functional.linear, self.weights
        state = tuple(s for s in (self.h_before, self.c_before) if s is not None)
        return linear(self.x, w.ih, w.bias_ih), linear(self.h_before, w.hh, w.bias_hh), state

    @property
    def kept(self) -> Tensor:
        """How much of a unit's memory (c, or h without one) a step keeps, weights aside, `(T, B, H)`."""
        known = self._coefficients.get("f" if "c" in self.cell.states else "pass")
        return torch.zeros_like(self.h) if known is None else known


def _scale_gates(k: Tensor, a: Tensor, out: Tensor) -> Tensor:
    """``k`` `(…, gates·H)` times ``a`` `(…, H)` in every gate, in ``out``."""
    size = a.shape[-1]
    torch.mul(_by_gate(k, k.shape[-1] // size), a.unsqueeze(-2), out=_by_gate(out, k.shape[-1] // size))
    return out


def _by_gate(a: Tensor, gates: int) -> Tensor:
    """`(…, gates·H)` viewed as `(…, gates, H)`."""
    return a.view(*a.shape[:-1], gates, a.shape[-1] // gates)


def run(
    cell: Cell,
    weights: Weights,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor | None,
    *,
    reverse: bool = False,
    mask: Tensor | None = None,
) -> tuple[Trajectory, Tensor, Tensor | None]:
    """Run one layer over `(T, B, I)`; returns its trajectory, h_n `(B, P)` and c_n `(B, H)`."""
    steps = x.shape[0]
    if 0 in x.shape[:2]:
        raise FlowError(
            f"A recurrent layer was given no {'sequences' if steps else 'steps'}: (T, B, I) {tuple(x.shape)}."
        )
    if mask is None and weights.hr is None and _engine_takes(cell, x, h_0, c_0, weights):
        return _run_by_engine(cell, weights, x, h_0, c_0, reverse)
    linear = torch.nn.functional.linear
    into = linear(x, weights.ih, weights.bias_ih)
    state: tuple[Tensor, ...] = (h_0,) if c_0 is None else (h_0, c_0)
    states, gates = [state], []
    inner: list[Tensor] = []
    for k in range(steps - 1, -1, -1) if reverse else range(steps):
        new, computed = cell.step(into[k], linear(state[0], weights.hh, weights.bias_hh), state, weights.hr)
        if mask is not None:
            new = tuple(torch.where(mask[k].unsqueeze(-1), s, before) for s, before in zip(new, state, strict=True))
        state = new
        states.append(state)
        gates.append(torch.cat(computed[: len(cell.gates)], -1))
        if "hn" in cell.computed:
            inner.append(computed[cell.computed.index("hn")])

    def in_time(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(tuple(values)[::-1] if reverse else tuple(values))

    h, c = [s[0] for s in states], [s[1] for s in states] if c_0 is not None else None
    trajectory = Trajectory(
        cell,
        weights,
        reverse,
        x,
        in_time(h[:-1]),
        in_time(h[1:]),
        in_time(gates),
        in_time(c[:-1]) if c else None,
        in_time(c[1:]) if c else None,
        in_time(inner) if inner else None,
        mask,
    )
    return trajectory, h[-1], c[-1] if c else None


def together(steps: Sequence[Step]) -> Trajectory:
    """Single steps by the same weights as one trajectory `(n, B, ·)`, from one product for all of them."""
    first = steps[0]
    x = torch.cat([step.x for step in steps])
    n, batch = x.shape[:2]
    h_0 = torch.cat([step.h_0.reshape(-1, step.h_0.shape[-1]) for step in steps])
    c_0 = [step.c_0.reshape(-1, step.c_0.shape[-1]) for step in steps if step.c_0 is not None]
    with torch.no_grad():  # the steps become a batch, as if they were sequences
        whole, _, _ = run(
            first.cell,
            first.weights,
            x.reshape(1, n * batch, -1),
            h_0,
            torch.cat(c_0) if c_0 else None,
        )
        return whole._changed(lambda _, a: a.reshape(n, batch, -1))


def _engine_takes(cell: Cell, x: Tensor, h_0: Tensor, c_0: Tensor | None, weights: Weights) -> bool:
    given = [x, h_0, *([] if c_0 is None else [c_0]), *weights.tensors()]
    plain = all(t.is_cpu and t.dtype == x.dtype and type(t) in (Tensor, torch.nn.Parameter) for t in given)
    biases = (weights.bias_ih is None) == (weights.bias_hh is None)
    return (
        cell in FUSED
        and kernels.available()
        and plain
        and biases
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_grad_enabled()
        and 0 not in x.shape
    )


def _run_by_engine(
    cell: Cell, weights: Weights, x: Tensor, h_0: Tensor, c_0: Tensor | None, reverse: bool
) -> tuple[Trajectory, Tensor, Tensor | None]:
    """``run`` in the native engine, which keeps the gates for its own backward pass."""
    first = None if c_0 is None else c_0.unsqueeze(0)
    walked = x.flip(0) if reverse else x
    h, kept, c = kernels.kept_layer(
        cell.mode, walked, h_0.unsqueeze(0), first, weights.tensors(), weights.bias_ih is not None
    )

    def before(states: Tensor, initial: Tensor) -> Tensor:
        return torch.cat([initial.unsqueeze(0), states[:-1]])

    def in_time(values: Tensor) -> Tensor:
        return values.flip(0) if reverse else values

    rows = weights.hh.shape[0]
    trajectory = Trajectory(
        cell,
        weights,
        reverse,
        x,
        in_time(before(h, h_0)),
        in_time(h),
        in_time(kept[..., :rows]),
        None if c_0 is None else in_time(before(c, c_0)),
        None if c_0 is None else in_time(c),
        None if cell.summed else in_time(kept[..., rows:]),
    )
    return trajectory, h[-1], None if c_0 is None else c[-1]
