"""The norms of all pairs (t, k), taken as losses are sent back, reduced over the batch.

Tests: `tests/flow/test_flow_models.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FlowError
from .linearization import Linearization
from .recording.calls import Call
from .recording.graph import Graph
from .recording.losses import valid_steps
from .recording.runs import batch_of, steps_of
from .recording.stepwise_run import StepwiseRun
from .recording.torch_patches import without_autocast
from .recurrence import adjoint
from .recurrence.adjoint import Adjoints
from .result import GradientFlow
from .underflow import Range
from .wiring.head import local_adjoints
from .wiring.positions import LossPositions

Array = NDArray[np.float64]
State = Literal["h", "c", "hc"]
_BLOCK = 1 << 20  # norms that the engine computes at a time: those of a block of targets, at least of one


@dataclass(frozen=True)
class NormOptions:
    """How norms are taken: of which state, over which quantiles of the batch (or "mean", "none"), with which lags."""

    state: State
    reduce: list[float] | str
    loss_at: Any


class Norms:
    """Collects the norms of all pairs, reduced over the batch."""

    def __init__(
        self,
        graph: Graph,
        rows: Tensor,
        lengths: Tensor | None,
        final: bool,
        options: NormOptions,
    ) -> None:
        self.graph, self.losses = graph, graph.losses
        self.runs = {label: graph.runs[label] for label in graph.wanted}
        self.rows, self.lengths, self.final = rows, lengths, final
        self.state, self.quantiles = options.state, options.reduce
        quantiles = self.quantiles
        self.steps = [steps_of(own) for own in self.runs.values()]
        batch = self.losses.shape[1]
        others = [label for label, own in self.runs.items() if batch_of(own) != batch]
        tail: tuple[int, ...] = ()
        if quantiles == "none":
            if others:
                fix = "Reduce, or leave it out with layers=." if len(self.runs) > 1 else "Reduce over the batch."
                raise FlowError(
                    f"The loss has {batch} sequences but layer {others[0]} ran with "
                    f"{batch_of(self.runs[others[0]])}: reduce='none' has no single axis of sequences. {fix}"
                )
            tail = (batch,)
        elif isinstance(quantiles, list) and len(quantiles) > 1:
            tail = (len(quantiles),)
        self.norms = np.zeros((len(self.runs), len(rows), max(self.steps), *tail))
        self.below = np.zeros(self.norms.shape, dtype=bool)  # below the range of the type
        self.range = Range.of_numbers()
        self.positions = LossPositions(graph, rows, final=final, loss_at=options.loss_at)
        self.last: Array | None = None  # with one loss per sequence: (layers, T, B)
        if final and not others:
            self.last = np.zeros((len(self.runs), max(self.steps), batch))

    def linearization(self) -> Linearization:
        """What is needed to answer later questions."""
        every = list(self.graph.runs)
        local = None if self.final else local_adjoints(self.graph)
        # Layers below the lowest that is asked for are not needed: adjoints go downwards.
        kept = every[every.index(self.graph.wanted[0]) :] if local is not None else self.graph.wanted
        stepwise = {label: run for label in kept if (run := StepwiseRun.of_marks(self.graph.runs[label])) is not None}
        kept = [label for label in kept if label not in stepwise]
        modules = {}
        for label in kept:
            module, suffix = self.graph.runs[label][0].track
            modules[label] = (module, "" if suffix == "cell" else suffix)
        runs = {label: self.graph.trajectory(label) for label in kept}
        if local is None:
            changing = {
                label: run for label in kept if (run := StepwiseRun.of_changed(self.graph.runs[label])) is not None
            }
            for label in changing:
                self.graph.notes.append(
                    f"the state of {label} is changed between its steps (zoneout, a mask, weights that change): s_k is "
                    "the output of the cell; Jacobians and Lyapunov exponents are those of the states that are passed "
                    "on, with the changes"
                )
            altered = frozenset(changing)
            return Linearization(
                runs, modules, self.rows, graph=self.graph, stepwise=stepwise | changing, altered=altered
            )
        first = {label: self.graph.runs[label][0] for label in kept}
        return Linearization(
            runs,
            modules,
            self.rows,
            bottoms=frozenset(label for label, call in first.items() if isinstance(call, Call) and call.own_input),
            local=[local[label] for label in kept],
        )

    def _pick(self, h: Tensor, c: Tensor | None, c_total: Tensor | None) -> Tensor:
        if c is None or self.state == "h":
            return h.sqrt()
        if self.state == "c":
            assert c_total is not None
            return c_total.sqrt()
        return (h + c).sqrt()

    def _reduced(self, norms: Tensor, exists: Tensor) -> Array:
        """`(…, B)` to `(…)` or `(…, Q)`, over the sequences that exist."""
        if self.quantiles == "none":
            return np.asarray(torch.where(exists, norms, 0.0).cpu())
        if self.quantiles == "mean":
            if exists.all():
                return np.asarray(norms.mean(-1).cpu())
            total = torch.where(exists, norms, 0.0).sum(-1)
            return np.asarray((total / exists.expand_as(norms).sum(-1).clamp(min=1)).cpu())
        assert isinstance(self.quantiles, list)
        blank = torch.where(exists, norms, torch.nan)
        found = torch.nanquantile(blank, torch.tensor(self.quantiles, dtype=norms.dtype, device="cpu"), dim=-1).movedim(
            0, -1
        )
        found = torch.where(exists.expand_as(norms).any(-1, keepdim=True), found, 0.0)
        return np.asarray((found[..., 0] if len(self.quantiles) == 1 else found).cpu())

    def _spread(self, own: Range, norms: Tensor, exists: Tensor) -> Array:
        """As ``_reduced``, with NaN where no sequence exists; −1 is a norm below the range, −∞ a result."""
        lost = (norms < 0) & exists
        found = self._reduced(norms.clamp(min=0), exists)
        below = own.uncertain(found, lost.cpu().numpy(), whole=self.quantiles == "none")
        found = np.where(below, -np.inf, found)
        if self.quantiles == "none":
            return np.where(exists.cpu().numpy(), found, np.nan)
        some = exists.any(-1).cpu().numpy()
        return np.where(some if found.ndim == some.ndim else some[..., None], found, np.nan)

    def _has_loss(self) -> Tensor:
        """`(targets, B)`: whether the sequence has a loss at t; a masked loss is exactly zero."""
        here = (self.losses.detach()[self.rows] != 0) & (self.graph.alive[self.rows] != 0)
        return here.cpu()

    def by_blocks(self) -> None:
        """Any model: autograd carries blocks of targets through the graph, vectorized."""
        has_loss = self._has_loss()
        dtypes = {self.losses.dtype, *(call.h.dtype for own in self.runs.values() for call in own)}
        narrowest = max(map(Range.of, dtypes), key=lambda found: found.floor)
        ranges = []
        at = 0
        for rows in torch.split(self.rows, self.graph.block):
            place = slice(at, at + len(rows))
            at += len(rows)
            adjoints = self.graph.send_rows(rows)
            self.positions.note(rows, adjoints)
            found, own = narrowest.wider(self._norms(adjoints), partial(self._sent_larger, rows))
            ranges.append(own)
            for i, label in enumerate(self.runs):
                if label in found:
                    self._place(i, label, place, found[label], own, has_loss[place])
        self.range = max(ranges, key=lambda own: own.floor)
        self.positions.settle()

    def _norms(self, adjoints: dict[str, Adjoints]) -> dict[str, Array]:
        """Norms `(N, T, B)` of each layer for N losses."""
        own = {label: s for label, s in adjoints.items() if label in self.runs}
        return {label: self._pick(s.h, s.c, s.c_total).cpu().numpy() for label, s in own.items()}

    def _sent_larger(self, rows: Tensor, factor: float) -> dict[str, Array]:
        with torch.autograd.set_detect_anomaly(False):  # numbers beyond the range are detected afterwards
            return self._norms(self.graph.send_rows(rows, factor=factor))

    def _place(self, i: int, label: str, place: slice, found: Array, own: Range, has_loss: Tensor) -> None:
        """Norms `(N, T, B)` of a layer for a block of targets, reduced over the sequences."""
        calls = self.runs[label]
        lost = own.lost(found, axis=1, ahead=calls[0].reverse)
        norms = torch.from_numpy(np.where(lost, 0.0, found) if lost.any() else found)
        steps, batch = norms.shape[1:]
        exists = norms.ne(0).any(1)
        if batch == has_loss.shape[1]:
            exists = exists | has_loss
        exists = exists.unsqueeze(1) & valid_steps(calls)
        if batch == has_loss.shape[1] and self.lengths is not None and (self.final or steps == len(self.losses)):
            exists = exists & (torch.arange(steps, device="cpu").unsqueeze(1) < self.lengths)
        reduced = self._reduced(norms, exists)
        below = own.uncertain(reduced, lost & exists.numpy(), whole=self.quantiles == "none")
        self.norms[i, place, :steps] = np.where(below, 0.0, reduced)
        self.below[i, place, :steps] = below
        self.positions.keep(
            i, label, place, torch.where(torch.from_numpy(lost), -1.0, norms), exists, partial(self._spread, own)
        )
        if self.last is not None:
            self.last[i, :steps] = torch.where(exists, norms, torch.nan)[0].numpy()

    @without_autocast()
    @torch.inference_mode(False)
    @torch.no_grad()
    def by_lag(self, linearization: Linearization) -> None:
        """Causal stacks under a head that looks at one step at a time: all targets of a lag in one product."""
        here = self._has_loss()
        if all(adjoint.has_engine(runs) for runs, _ in linearization.stacks()):
            self._by_engine(linearization, here)
        else:
            self._by_torch(linearization, here)
        self.below = self.range.lost(self.norms, axis=2, ahead=False)  # what a float64 cannot represent
        self.norms[self.below] = 0.0

    def _by_torch(self, linearization: Linearization, here: Tensor) -> None:
        labels = list(linearization.runs)
        place = {labels.index(label): i for i, label in enumerate(self.runs)}
        rows, batch = len(self.rows), self.losses.shape[1]
        # Norms of a block of lags are reduced together: work space of the size of a state's, O(T·B·H).
        block = min(32, int(self.rows[-1]) + 1)
        table = torch.zeros(len(place), block, rows, batch, dtype=torch.float64, device="cpu")
        for lag, found in linearization.by_lag(scaled=True):
            gone = rows - len(found[0].norm_h)
            for j, i in place.items():
                step, into = found[j], table[i, lag % block, gone:]
                if step.norm_c is None or self.state == "h":
                    into.copy_(step.norm_h)
                elif self.state == "hc":
                    into.copy_(torch.hypot(step.norm_h, step.norm_c))
                else:
                    assert step.c is not None
                    run = linearization.runs[labels[j]]
                    into.copy_(torch.linalg.vector_norm(run.total_cell(step.at, step.h, step.c), dim=-1))
                if step.scale is not None:
                    into *= step.scale.cpu()
                if lag == 0:
                    here = here | into.cpu().ne(0)
            if lag % block == block - 1 or lag == int(self.rows[-1]):
                lags = torch.arange(lag - lag % block, lag + 1, device="cpu")
                at, which = (self.rows.unsqueeze(1) >= lags).nonzero(as_tuple=True)
                k = self.rows[at] - lags[which]
                for i in range(len(place)):
                    reduced = self._reduced(table[i, : len(lags)], here)
                    self.norms[i, at.numpy(), k.numpy()] = reduced[which.numpy(), at.numpy()]

    def _by_engine(self, linearization: Linearization, here: Tensor) -> None:
        block = max(1, _BLOCK // (len(linearization.runs) * self.losses.numel()))
        for part in (slice(at, at + block) for at in range(0, len(self.rows), block)):
            t = self.rows[part]
            norms = [own for runs, local in linearization.stacks() for own in adjoint.norms(runs, local, t, self.state)]
            exists = here[part]
            for own in norms:
                exists = exists | own[torch.arange(len(t), device="cpu"), t].ne(0)  # lag 0
            for label, own in zip(linearization.runs, norms, strict=True):
                if label in self.runs:
                    self.norms[list(self.runs).index(label), part] = self._reduced(own, exists.unsqueeze(1))

    def result(self, linearization: Linearization) -> GradientFlow:
        """The result, with notes about what is out of range."""
        notes = self.graph.notes
        if self.below.any():
            notes.append(self.range.note(self.norms, self.below))
        if not np.isfinite(self.norms).all():
            i, t, k = (int(j) for j in np.argwhere(~np.isfinite(self.norms))[0][:3])
            fix = "" if self.losses.dtype == torch.float64 else "; measure the model in float64"
            notes.append(
                f"the gradient is too large for {str(self.losses.dtype).removeprefix('torch.')}: "
                f"layer {list(self.runs)[i]}, t = {int(self.rows[t])}, k = {k}{fix}"
            )
        return GradientFlow(
            layers=list(self.runs),
            norms=self.norms,
            targets=self.rows.numpy(),
            steps=self.steps,
            state=self.state,
            reduce=self.quantiles,
            final=self.final,
            lengths=None if self.lengths is None else self.lengths.numpy(),
            sequences=self._has_loss().sum(1).numpy(),
            cells=[own[0].kind for own in self.runs.values()],
            reverse=[own[0].reverse for own in self.runs.values()],
            losses=self.losses.detach()[self.rows].double().cpu().numpy(),
            loss_steps=self.losses.shape[0],
            last=self.last,
            alignments=self.positions.alignments(),
            by_distance=self.positions.by_distance(np.where(self.below, -np.inf, self.norms)),
            below=self.below if self.below.any() else None,
            notes=notes,
            linearization=linearization,
        )
