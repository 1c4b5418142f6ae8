"""Runs whose Jacobians come from the user's graph: written by hand, or with operators between the steps of a layer.

Tests: `tests/flow/test_marked.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import FlowError
from .calls import AnyCall, Call, MarkedStep, StatePart, call_of, flat
from .graph import quiet_vmap
from .runs import same_weights, state_changes


@dataclass
class StepwiseRun:
    """A run whose Jacobians are found in the user's graph: marked by hand, or with more in a step than its cell.

    ``states`` is what each step passes on, in the order of time; None where that is not in the graph.
    """

    calls: Sequence[AnyCall]
    states: Sequence[tuple[StatePart, ...] | None]

    @classmethod
    def of_marks(cls, run: Sequence[AnyCall]) -> StepwiseRun | None:
        """A run of marked states; None for a layer's."""
        own = [call for call in run if isinstance(call, MarkedStep)]
        return cls(own, [tuple(StatePart(state) for state in call.states) for call in own]) if own else None

    @classmethod
    def of_changed(cls, run: Sequence[AnyCall]) -> StepwiseRun | None:
        """A layer's run by the states that each step passes to the next, where that is more than the cell; else None.

        That is where operators are between two steps (zoneout, a mask) or the weights change.
        """
        own = [call for call in run if isinstance(call, Call)]
        if not own or not (state_changes(own) or not same_weights(own)):
            return None
        passed = [call.handed if any(state.requires_grad for state in call.states) else None for call in own]
        return cls(own, [*passed[1:], None])

    @property
    def steps(self) -> int:
        """T."""
        return sum(len(call.h) for call in self.calls)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.calls[0].h.shape[1]

    @property
    def state_size(self) -> int:
        """Numbers in s_k."""
        known = next((states for states in self.states if states is not None), ())
        return sum(flat(part.of(part.tensor)).shape[1] for part in known)

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last step to the first."""
        return self.calls[0].reverse

    @property
    def mask(self) -> Tensor | None:
        """`(T, B)` bool, false on padding."""
        live = [call.mask for call in self.calls if call.mask is not None]
        return torch.cat(live) if len(live) == len(self.calls) else None

    @property
    def known(self) -> range:
        """The steps with a known Jacobian, in the direction the layer runs: those with a state before and after."""
        there = [states is not None for states in (self.states[::-1] if self.reverse else self.states)]
        found = [k for k in range(1, len(there)) if there[k - 1] and there[k]]
        return range(found[0], found[-1] + 1) if found else range(0)

    def jacobians(self, first: int, last: int) -> Iterator[Tensor]:
        """∂s_k/∂s_{k−1} `(B, S, S)` in float64 for ``first`` ≤ k < ``last``, in the order it runs.

        Raises FlowError if the state that a step starts from does not separate it from the steps before.
        """
        if len(self.calls) != self.steps:
            raise FlowError(
                f"{_name(self.calls[0])} ran over several steps at a time, with its state changed between these runs: "
                "its Jacobians are known only of runs without that. Call it once, or step by step."
            )
        states = self.states[::-1] if self.reverse else self.states
        for before, after in zip(states[first - 1 : last - 1], states[first:last], strict=True):
            assert before is not None and after is not None
            if isinstance(self.calls[0], Call):
                self._check_separates(before, after)
            yield _jacobian(before, after)

    def _check_separates(self, before: tuple[StatePart, ...], after: tuple[StatePart, ...]) -> None:
        stop = {part.tensor.grad_fn for part in before}
        crossed = 0
        open_nodes: list[Any] = [part.tensor.grad_fn for part in after]
        seen = set(stop)
        while open_nodes:
            node = open_nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            call = call_of(node)
            if call is not None and call.track == self.calls[0].track:
                crossed += 1
                continue
            open_nodes += [behind for behind, _ in node.next_functions]
        if crossed > 1:
            raise FlowError(
                f"The Jacobians of {_name(self.calls[0])} are not known: a step depends on states before the one that "
                "it starts from. Mark the state that the loop passes on, h = retrograde.mark_state(h), and use that."
            )


def _name(call: AnyCall) -> str:
    return ".".join(part for part in call.track if part and part != "cell") or "the cell"


def _jacobian(before: tuple[StatePart, ...], after: tuple[StatePart, ...]) -> Tensor:
    ends = [part.of(part.tensor) for part in after]
    starts = [part.tensor for part in before]
    sizes = [flat(end).shape[1] for end in ends]
    batch = flat(ends[0]).shape[0]

    def row(unit: Tensor) -> Tensor:
        units = [u.expand(batch, -1).reshape(s.shape) for u, s in zip(torch.split(unit, sizes), ends, strict=True)]
        found = torch.autograd.grad(ends, starts, units, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(s) if g is None else g for g, s in zip(found, starts, strict=True)]
        return torch.cat([flat(part.of(g)) for part, g in zip(before, parts, strict=True)], -1)

    basis = torch.eye(sum(sizes), dtype=ends[0].dtype, device=ends[0].device)
    try:
        with quiet_vmap():
            rows = torch.func.vmap(row, chunk_size=256)(basis)
    except RuntimeError:  # vmap does not support the model's operators
        rows = torch.stack([row(unit) for unit in basis])
    whole: Tensor = rows.transpose(0, 1).double()
    return whole
