"""Marks: how a recurrence written by hand shows its states to a measurement.

Tests: tests/flow/test_marked.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..errors import OptionError

Watcher = Callable[[tuple[Tensor, ...], str, Tensor | None], tuple[Tensor, ...]]
_watchers: list[Watcher] = []


def mark_state(*state: Tensor, layer: str = "l0", live: Tensor | None = None) -> Any:
    """Mark these tensors as the state s_k of a recurrence written by hand.

    Call it once per step, in the order of the steps, and continue with what it returns. ``gradient_flow`` finds the
    states by these marks; at any other time the tensors are returned unchanged.

    Parameters
    ----------
    *state
        The state after step k, `(B, …)` each (or `(H,)` without a batch): h, or h and c.
    layer
        Label of the recurrence, as torch labels layers; each recurrence in the module needs its own. A label that ends
        in ``_reverse`` stands for a layer that runs from the last step to the first.
    live
        `(B,)` or `(B, 1)` bool, False for sequences that have ended before step k.

    Returns
    -------
    Tensor, or tuple of Tensor
        The state to continue with: one tensor for one, a tuple for several.

    Raises
    ------
    OptionError
        The arguments are not tensors (B, …) of real numbers with one B.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> class Own(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.into, self.back = torch.nn.Linear(2, 4), torch.nn.Linear(4, 4)
    ...
    ...     def forward(self, x):
    ...         h, outputs = x.new_zeros(x.shape[1], 4), []
    ...         for x_t in x:
    ...             h = rg.mark_state(torch.tanh(self.into(x_t) + self.back(h)))
    ...             outputs.append(h)
    ...         return torch.stack(outputs)
    >>> flow = rg.gradient_flow(Own(), torch.randn(9, 3, 2), loss=lambda output: output.square().sum(-1))
    >>> flow.norms.shape, flow.jacobian_norms().shape
    ((1, 9, 9), (9, 3))
    """
    if not state or not all(isinstance(s, Tensor) and s.is_floating_point() and s.dim() for s in state):
        found = ", ".join(str(s.dtype) if isinstance(s, Tensor) else type(s).__name__ for s in state) or "nothing"
        raise OptionError(f"mark_state was given {found}; it takes a step's state, tensors (B, ...) of real numbers.")
    if len({s.shape[0] if s.dim() > 1 else 1 for s in state}) > 1:
        raise OptionError(f"mark_state was given shapes {[tuple(s.shape) for s in state]}: not one batch (B, ...).")
    if _watchers:
        state = _watchers[-1](state, layer, live)
    return state[0] if len(state) == 1 else state


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Pass every state that is marked inside the block to ``watcher``, which returns the state to continue with."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
