"""Find loops over steps that are not measured, in autograd's graph between the losses and the recorded layers.

A recurrence that is written by hand and not marked leaves a trace: the tensors that it stacks are deeper in the graph
with every step, or a chain of nodes multiplies by the same parameter again and again.

Tests: `tests/flow/test_flow_models.py`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ..recording.calls import call_of, node_name
from ..recording.capture import VIEWS
from ..recording.graph import Graph

_MOST_NODES = 200_000
_FEWEST_STEPS = 3


def has_unseen_loop(graph: Graph) -> bool:
    """Whether there is a recurrence between the losses and the recorded layers."""
    depth, deepest = _depths(graph.losses)
    fewest = max(_FEWEST_STEPS, len(graph.losses) // 2)
    for node in depth:
        if node_name(node) in ("StackBackward", "CatBackward"):
            rows = [depth.get(before, 0) for before, _ in node.next_functions]
            steps = [later - earlier for earlier, later in itertools.pairwise(rows)]
            if len(rows) >= fewest and (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
                return True
    parameters = {tensor.untyped_storage().data_ptr() for tensor in graph.recorder.kept_parameters()}
    uses: Counter[int] = Counter()
    node = graph.losses.grad_fn
    while node is not None:
        uses.update(parameters.intersection(_saved(node)))
        node = deepest.get(node)
    return any(count >= _FEWEST_STEPS for count in uses.values())


def _depths(losses: Tensor) -> tuple[dict[Any, int], dict[Any, Any]]:
    """The longest path from each node to a recorded layer, in nodes; and the next node on it.

    Sums do not count: adding losses step by step is not a recurrence. A node from which no recorded layer is reached
    has no depth: it does not depend on a state.
    """
    depth: dict[Any, int] = {}
    deepest: dict[Any, Any] = {}
    reaching: set[Any] = set()
    open_nodes: list[tuple[Any, bool]] = [(losses.grad_fn, False)]
    seen: set[Any] = set()
    while open_nodes and len(seen) < _MOST_NODES:
        node, done = open_nodes.pop()
        if not done:
            if node is None or node in seen:
                continue
            seen.add(node)
            if call_of(node) is not None:
                reaching.add(node)
                depth[node] = 0
                continue
            open_nodes.append((node, True))
            open_nodes += [(before, False) for before, _ in node.next_functions if before is not None]
            continue
        best = None
        for before, _ in node.next_functions:
            if before in reaching and (best is None or depth[before] > depth[best]):
                best = before
        if best is not None:
            reaching.add(node)
            depth[node], deepest[node] = depth[best] + (not _only_adds(node)), best
    return depth, deepest


def _only_adds(node: Any) -> bool:
    """Whether a node adds, multiplies by a number, or only changes the shape."""
    name = node_name(node)
    if name in ("MulBackward", "DivBackward"):
        factors = (getattr(node, "_saved_self", None), getattr(node, "_saved_other", None))
        # Operators in C++ save plain numbers as they are.
        return not any(isinstance(factor, Tensor) and factor.dim() for factor in factors)
    return name in VIEWS or name in ("AddBackward", "SubBackward", "NegBackward")


def _saved(node: Any) -> set[int]:
    """The memory of the tensors that a product saves for its backward pass."""
    found = set()
    for name in ("_saved_self", "_saved_other", "_saved_mat1", "_saved_mat2", "_saved_weight", "_saved_vec"):
        try:
            tensor = getattr(node, name, None)
        except RuntimeError:  # written to since, or freed
            continue
        if isinstance(tensor, torch.Tensor):
            found.add(tensor.untyped_storage().data_ptr())
    return found
