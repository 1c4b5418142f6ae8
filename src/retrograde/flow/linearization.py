"""The linearized model, from which later questions are answered without running it again.

That is every layer's trajectory, and either the gradient of each loss with respect to each layer at its own step
(``local``; the adjoints of any pair then follow from the recursion alone) or the graph of the user's model.

Tests: `tests/flow/test_adjoint.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cells import find
from ..errors import FlowError, first_line
from .recording.graph import Graph
from .recording.stepwise_run import StepwiseRun
from .recording.torch_patches import without_checkpoints
from .recurrence import adjoint
from .recurrence.adjoint import Adjoints, LagAdjoints
from .recurrence.cells import BY_STEP, Trajectory, Weights

_BLOCK_BYTES = 256 * 2**20


@dataclass
class Linearization:
    """What is kept of a measurement."""

    runs: dict[str, Trajectory]  # by label, bottom layer first, sequences in the user's order
    # By label, the module's name and torch's suffix: ``("encoder", "l0_reverse")``; suffix "" for a cell.
    modules: dict[str, tuple[str, str]]
    targets: Tensor  # the steps t followed, in rising order
    # For each layer of causal stacks ∂E_t/∂(output_t) `(T, B, P)`, if the head looks at one step at a time.
    local: list[Tensor] | None = None
    # Labels of the layers that no other feeds, if there is ``local``: each begins a stack.
    bottoms: frozenset[str] = frozenset()
    graph: Graph | None = None  # otherwise the user's graph
    # By label, the runs whose Jacobians come from the user's graph: those written by hand, whose states were marked,
    # and layers with operators between their steps.
    stepwise: dict[str, StepwiseRun] = field(default_factory=dict)
    altered: frozenset[str] = frozenset()  # labels of the latter

    def run(self, label: str) -> Trajectory:
        """The trajectory of a layer."""
        if label not in self.runs:
            raise FlowError(
                f"The states of {label} were marked by hand, or by a layer with normalization or dropout of its state: "
                "norms and Jacobians are known, but no weights and gates."
            )
        return self.runs[label]

    def walk(self, label: str) -> Trajectory | StepwiseRun:
        """The source of a layer's Jacobians."""
        if label in self.stepwise:
            return self.stepwise[label]
        if label not in self.runs or label in self.altered:
            why = "are changed between steps" if label in self.runs else "were marked by hand"
            raise FlowError(
                f"The states of {label} {why}: their Jacobians need the model's graph, which is not saved: use the "
                "flow that gradient_flow returns."
            )
        return self.runs[label]

    def total(self) -> dict[str, Adjoints]:
        """Adjoints of E = Σ_t Σ_b E_{t,b} over the targets followed: N = 1, pre-activations kept."""
        if self.local is not None:
            chosen = torch.zeros(self.local[0].shape[0], 1, 1, dtype=torch.bool, device=self.local[0].device)
            chosen[self.targets] = True
            return self._through_stack([(g * chosen)[None] for g in self.local])
        directions = torch.zeros_like(self.needed_graph.losses)
        directions[self.targets] = 1
        return self._send(directions[None])

    def by_lag(self, *, scaled: bool = False) -> Iterator[tuple[int, list[LagAdjoints]]]:
        """With ``local``: lags 0, 1, … with the adjoints of every layer, in the order of ``runs``."""
        walks = [adjoint.by_lag(runs, local, self.targets, scaled=scaled) for runs, local in self.stacks()]
        for steps in zip(*walks, strict=True):  # all have the same targets, so the same lags
            yield steps[0][0], [found for _, own in steps for found in own]

    def stacks(self) -> list[tuple[list[Trajectory], list[Tensor]]]:
        """With ``local``: each stack's runs, and ∂E_t/∂(output_t) of each layer."""
        assert self.local is not None
        found: list[tuple[list[Trajectory], list[Tensor]]] = []
        for (label, run), g in zip(self.runs.items(), self.local, strict=True):
            if not found or label in self.bottoms:
                found.append(([], []))
            found[-1][0].append(run)
            found[-1][1].append(g)
        return found

    def by_target(self) -> Iterator[tuple[Tensor, dict[str, Adjoints]]]:
        """Blocks of targets t with their adjoints, pre-activations kept."""
        if self.local is not None:
            widest = max(r.steps * r.batch_size * r.weights.hh.shape[0] for r in self.runs.values())
            size = max(1, min(64, _BLOCK_BYTES // (4 * widest * self.local[0].element_size())))
            for rows in torch.split(self.targets, size):
                directions = [g.new_zeros(len(rows), *g.shape) for g in self.local]
                for whole, g in zip(directions, self.local, strict=True):
                    whole[torch.arange(len(rows), device="cpu"), rows] = g[rows]
                yield rows, self._through_stack(directions)
            return
        losses = self.needed_graph.losses
        for rows in torch.split(self.targets, self.needed_graph.block_kept):
            block = losses.new_zeros(len(rows), *losses.shape)
            block[torch.arange(len(rows), device="cpu"), rows] = 1
            yield rows, self._send(block)

    @property
    def needed_graph(self) -> Graph:
        """The user's graph.

        Raises FlowError if it was not saved.
        """
        if self.graph is None:
            raise FlowError(
                "This needs the model's graph (its loss looks at more than one step, or a layer looks ahead), which is "
                "not saved: use the flow that gradient_flow returns."
            )
        return self.graph

    def _send(self, directions: Tensor) -> dict[str, Adjoints]:
        try:
            with without_checkpoints():
                return self.needed_graph.send(directions, keep=True)
        except RuntimeError as changed:
            if "version" not in str(changed):
                raise
            raise FlowError(
                "A tensor of the model was changed in place since the flow was measured "
                f"({first_line(changed)}): ask earlier, or measure again."
            ) from None

    def _through_stack(self, directions: list[Tensor]) -> dict[str, Adjoints]:
        found: dict[str, Adjoints] = {}
        above: Tensor | None = None
        for (label, run), g in reversed(list(zip(self.runs.items(), directions, strict=True))):
            whole = g if above is None else g + above
            below = label not in self.bottoms
            adjoints, above, _, _ = adjoint.backward(run, whole, None, None, need_x=below, keep=True)
            found[label] = adjoints
        return {label: found[label] for label in self.runs}

    def parameters(self, label: str) -> dict[str, tuple[str, int]]:
        """Parameters of a layer: kind (``weight_hh`` …) to its name in the model's ``state_dict`` and its gates."""
        if label not in self.runs:
            return {}
        module, suffix = self.modules[label]
        weights = self.runs[label].weights
        gates = len(self.runs[label].cell.gates)
        kinds = {"weight_ih": gates, "weight_hh": gates}
        if weights.bias_ih is not None:
            kinds |= {"bias_ih": gates, "bias_hh": gates}
        if weights.hr is not None:
            kinds["weight_hr"] = 1
        prefix, ending = f"{module}." if module else "", f"_{suffix}" if suffix else ""
        return {kind: (f"{prefix}{kind}{ending}", n) for kind, n in kinds.items()}


_WEIGHTS = ("ih", "hh", "bias_ih", "bias_hh", "hr")


def to_arrays(linearization: Linearization) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Arrays and labels to save, without the graph."""
    arrays: dict[str, Tensor | None] = {}
    labels = []
    for i, (label, run) in enumerate(linearization.runs.items()):
        arrays |= {f"{i}.{name}": getattr(run, name) for name in BY_STEP}
        arrays |= {f"{i}.weight.{name}": getattr(run.weights, name) for name in _WEIGHTS}
        for before, after in (("h_before", run.h), ("c_before", run.c)):
            # Usually the states before are those after, one step later: the first is enough.
            whole = getattr(run, before)
            if whole is not None and after is not None:
                follows = (whole[:-1], after[1:]) if run.reverse else (whole[1:], after[:-1])
                if torch.equal(*follows):
                    arrays[f"{i}.{before}"] = whole[-1:] if run.reverse else whole[:1]
        if linearization.local is not None:
            arrays[f"{i}.local"] = linearization.local[i]
        module, suffix = linearization.modules[label]
        labels.append(
            {
                "label": label,
                "module": module,
                "suffix": suffix,
                "kind": run.cell.name,
                "nonlinearity": run.cell.nonlinearity,
                "reverse": run.reverse,
                "bottom": label in linearization.bottoms,
                "altered": label in linearization.altered,
            }
        )
    return {name: _array(a) for name, a in arrays.items() if a is not None}, labels


def _array(tensor: Tensor) -> NDArray[Any]:
    """In NumPy, which has no bfloat16: float32 represents the same numbers."""
    own = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.asarray(own.cpu().contiguous().numpy())


def from_arrays(
    arrays: dict[str, NDArray[Any]], labels: list[dict[str, Any]], targets: NDArray[np.int64]
) -> Linearization:
    """The linearization that ``to_arrays`` gave."""
    runs, modules, local = {}, {}, []
    for i, about in enumerate(labels):
        own = {n: torch.from_numpy(arrays[f"{i}.{n}"]) if f"{i}.{n}" in arrays else None for n in (*BY_STEP, "local")}
        weights = {n: torch.from_numpy(arrays[k]) if (k := f"{i}.weight.{n}") in arrays else None for n in _WEIGHTS}
        for before, after in (("h_before", own["h"]), ("c_before", own["c"])):
            first = own[before]
            if first is not None and after is not None and len(first) < len(after):
                own[before] = torch.cat([after[1:], first] if about["reverse"] else [first, after[:-1]])
        if (g := own.pop("local")) is not None:
            local.append(g)
        kept: dict[str, Any] = own
        runs[about["label"]] = Trajectory(
            find(about["kind"], about["nonlinearity"]),
            Weights(**weights),  # type: ignore[arg-type]
            about["reverse"],
            **kept,
        )
        modules[about["label"]] = (about["module"], about["suffix"])
    bottoms = frozenset(about["label"] for about in labels if about.get("bottom"))
    altered = frozenset(about["label"] for about in labels if about.get("altered"))
    return Linearization(runs, modules, torch.from_numpy(targets), local or None, bottoms, altered=altered)


def factors(
    run: Trajectory, kind: str, at: Any, inputs: Tensor, hidden: Tensor, states: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The two whose product over steps and sequences ``at`` is ∂E_t/∂(parameter): `(…, rows)`, `(…, columns)`."""
    if kind == "weight_hr":
        assert states is not None
        return states, run.projected_from()[at]
    multiplied = {"weight_ih": run.x, "weight_hh": run.h_before}.get(kind)
    return inputs if kind.endswith("ih") else hidden, None if multiplied is None else multiplied[at]
