"""``gradient_flow``: run the model once, send every E_t back, keep ‖∂E_t/∂s_k‖."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import FlowError, OptionError
from . import recurrence
from .calls import Call
from .capture import NeedsEveryCall, recording
from .evidence import Evidence
from .graph import Graph
from .isolation import isolated
from .losses import (
    check_axes,
    check_callable,
    check_finite,
    check_keywords,
    known_lengths,
    losses_by_step,
    nothing_ran,
    steps_there,
)
from .positions import LossPositions
from .recurrence import Swept
from .result import GradientFlow
from .runs import base, labeled_runs
from .torch_patches import without_autocast
from .underflow import Range

__all__ = ["gradient_flow"]

State = Literal["h", "c", "hc"]
Reduce = Literal["mean", "median", "none"] | float | Sequence[float]


def gradient_flow(
    model: Callable[..., Any],
    *inputs: Any,
    loss: Callable[[Any], Tensor],
    kwargs: Mapping[str, Any] | None = None,
    state: State = "hc",
    reduce: Reduce = "mean",
    targets: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    lengths: Sequence[int] | Tensor | None = None,
    loss_at: int | Sequence[int] | Mapping[str, Any] | None = None,
    training: bool = False,
    module: nn.Module | Sequence[nn.Module] | None = None,
) -> GradientFlow:
    """Measure ‖∂E_t/∂s_k‖ for every pair (t, k), exactly.

    Works for any PyTorch model whose recurrence is ``RNN``, ``GRU`` or ``LSTM`` (ours or ``torch.nn``'s, stacked,
    bidirectional, packed, projected, called whole or step by step), a loop over ``RNNCell``, ``GRUCell`` or
    ``LSTMCell``, or any recurrence whose states are marked by ``mark_state``. Anything may stand before, between and
    after. The gradient is total: all paths from s_k to E_t count, through time, through upper layers and through a head
    that mixes steps; parameters are held.

    The model is left as it was: modes, parameters, gradients, buffers, attributes (a state kept between calls, a cache,
    a counter) and what they contain; so are its inputs and the random states of torch, NumPy and Python. If it is a
    bound method, a lambda, a ``functools.partial`` or an object that holds networks, the modules behind it are found
    there, and what the function closes over is part of the model.

    Parameters
    ----------
    model : callable
        A ``torch.nn.Module``, or any callable of ``inputs``.
    *inputs
        What the model is called with.
    kwargs : dict, optional
        What it is called with by keyword.
    loss : callable
        Takes the model's output; returns the losses by step `(T, B)`, or one loss per sequence `(B,)`: the same
        callable as for `check_gradients`. Use ``reduction="none"``: the steps cannot be separated in a single number.
        A masked step has loss 0.
    state : {"hc", "h", "c"}
        What s_k is. RNN and GRU have only h. For an LSTM, ``"hc"`` is the pair (h_k, c_k) as a point of state space,
        so that ∂E_t/∂s_k = ∂E_t/∂s_t · ∏ ∂s_j/∂s_{j−1}: h_k is held when c_k moves. ``"h"`` and ``"c"`` are each alone,
        with every path that leaves it: h_k = o∘tanh(c_k) follows c_k, as in ``torch.autograd.grad(E_t, c_k)``.
    reduce : {"mean", "median", "none"} or float or sequence of float
        How the sequences of the batch become one number: quantiles for numbers in [0, 1]; ``"none"`` keeps all. Several
        quantiles, or ``"none"``, add a last axis to ``norms``. Sequences that have no loss at t, or no step k, are left
        out rather than counted as zero.
    targets : sequence of int, optional
        The steps t whose losses are followed; all by default. Negative numbers count from the end.
    layers : sequence of str, optional
        Labels of the layers to keep; all by default. A layer that ran several times (``l0#1``, ``l0#2``) may be
        named by ``l0``.
    lengths : sequence of int, optional
        Lengths of the sequences where the input is padded `(B,)`; known already where it is packed.
    loss_at : int, sequence of int, or dict by layer, optional
        At which step of a layer each loss stands, where the measurement cannot tell: one number per step of the loss
        `(T_loss,)`, or the step of the first loss. The lag of (t, k) is then ``loss_at[t]`` − k. With one loss per
        sequence, one number or one per sequence `(B,)`.
    training : bool
        Measure in training mode (dropout active) instead of eval mode. A model that is in training mode already keeps
        the modes of its parts, such as frozen normalization layers.
    module : Module or list of Module, optional
        The modules behind ``model`` where it is a function that reaches them by a way that cannot be followed (a
        registry, another process's proxy). Modules that run are looked after in any case, from their first call on.

    Returns
    -------
    GradientFlow

    Raises
    ------
    FlowError
        No recurrent layer ran; the loss has the wrong shape or hangs on no recurrent state; a value is not finite; the
        model is on the device ``meta``, or works under ``torch.autocast`` only.

    Notes
    -----
    The model is measured in its own precision: ``torch.autocast`` is switched off meanwhile, also inside the model, and
    ``notes`` says so. A model whose parameters are bfloat16 or float16 is measured in that type.

    Sequences of a batch are taken to be independent of each other, as they are unless the model mixes them (batch
    normalisation in training mode). The adjoint recursion is that of Pascanu, Mikolov and Bengio (2013), eq. 5, for
    many t at once.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> layer, x = torch.nn.LSTM(3, 8), torch.randn(20, 4, 3)
    >>> flow = rg.gradient_flow(layer, x, loss=lambda output: output[0].square().sum(-1))
    >>> flow.layers, flow.norms.shape
    (['l0'], (1, 20, 20))
    """
    if state not in ("h", "c", "hc"):
        raise OptionError(f"state is {state!r}; it is one of 'h', 'c' and 'hc'.")
    check_callable(model, loss)
    check_keywords(kwargs)
    quantiles = _quantiles(reduce)
    measure = partial(
        _measured,
        model,
        inputs,
        loss,
        kwargs or {},
        state,
        quantiles,
        targets,
        layers,
        lengths,
        loss_at,
        training,
        module,
    )
    try:
        return measure(loops=True)
    except NeedsEveryCall:
        return measure(loops=False)


def _measured(
    model: Callable[..., Any],
    inputs: tuple[Any, ...],
    loss: Callable[[Any], Tensor],
    kwargs: Mapping[str, Any],
    state: State,
    quantiles: list[float] | str,
    targets: Sequence[int] | None,
    layers: Sequence[str] | None,
    lengths: Sequence[int] | Tensor | None,
    loss_at: int | Sequence[int] | Mapping[str, Any] | None,
    training: bool,
    module: nn.Module | Sequence[nn.Module] | None,
    *,
    loops: bool,
) -> GradientFlow:
    """``gradient_flow``, its arguments checked."""
    notes: list[str] = []
    with (
        isolated(model, module=module, training=training, notes=notes, inputs=(inputs, kwargs)) as isolation,
        recording(isolation.module, loops=loops) as recorder,
    ):
        given = {name: isolation.given(value) for name, value in kwargs.items()}
        output = model(*map(isolation.given, inputs), **given)
        losses = loss(output)
        with recorder.at_rest():
            if not recorder.calls:
                raise nothing_ran(isolation.module, model)
            runs = labeled_runs(recorder.calls)
            check_finite(runs)
            table, final = losses_by_step(losses, recorder.calls)
            known = known_lengths(lengths, runs, table, final)
            alive = torch.ones_like(table) if known is None or final else _alive(known, table)
            graph = Graph(table, recorder, runs, _wanted(runs, layers, state), alive, notes)
            if not final:
                check_axes(graph)
            rows = _targets(targets, table.shape[0], final)
            measured = _Measured(graph, rows, known, final, state, quantiles, loss_at)
            evidence = measured.evidence()
            if evidence.local is None:
                measured.by_blocks()
    if evidence.local is not None:  # the model is not needed any more, nor is what watched it
        measured.by_lag(evidence)
        measured.check_range()
    return measured.result(evidence)


_BLOCK = 1 << 20  # norms that the engine finds at a time: those of a block of targets, of one at least


class _Measured:
    """Collects squared norms as they come, reduced over the batch."""

    def __init__(
        self,
        graph: Graph,
        rows: Tensor,
        lengths: Tensor | None,
        final: bool,
        state: State,
        quantiles: list[float] | str,
        loss_at: Any,
    ) -> None:
        self.graph, self.losses = graph, graph.losses
        self.runs = {label: graph.runs[label] for label in graph.wanted}
        self.rows, self.lengths, self.final, self.state, self.quantiles = rows, lengths, final, state, quantiles
        self.steps = [sum(len(c.h) for c in own) for own in self.runs.values()]
        batch = self.losses.shape[1]
        tail: tuple[int, ...] = ()
        if quantiles == "none":
            others = [label for label, own in self.runs.items() if own[0].h.shape[1] != batch]
            if others:
                mend = "Reduce, or leave it out with layers=." if len(self.runs) > 1 else "Reduce over the batch."
                raise FlowError(
                    f"The loss has {batch} sequences but layer {others[0]} ran with "
                    f"{self.runs[others[0]][0].h.shape[1]}: reduce='none' has no single axis of sequences. {mend}"
                )
            tail = (batch,)
        elif isinstance(quantiles, list) and len(quantiles) > 1:
            tail = (len(quantiles),)
        self.norms = np.zeros((len(self.runs), len(rows), max(self.steps), *tail))
        self.below = np.zeros(self.norms.shape, dtype=bool)  # what is too small to be measured
        self.range = Range.of_numbers()
        self.positions = LossPositions(graph, rows, final=final, loss_at=loss_at)
        self.last: np.ndarray[Any, Any] | None = None  # with one loss a sequence: (layers, T, B)
        if final and all(own[0].h.shape[1] == batch for own in self.runs.values()):
            self.last = np.zeros((len(self.runs), max(self.steps), batch))

    def evidence(self) -> Evidence:
        """What later questions need."""
        every = list(self.graph.runs)
        local = None if self.final else self.graph.local_adjoints()
        # Layers under the lowest that is asked for send nothing up.
        kept = every[every.index(self.graph.wanted[0]) :] if local is not None else self.graph.wanted
        stepwise = {label: self.graph.marked(label) for label in kept if self.graph.is_marked(label)}
        kept = [label for label in kept if label not in stepwise]
        modules = {}
        for label in kept:
            module, suffix = self.graph.runs[label][0].track
            modules[label] = (module, "" if suffix == "cell" else suffix)
        runs = {label: self.graph.trajectory(label) for label in kept}
        if local is None:
            changing = {label: run for label in kept if (run := self.graph.stepwise(label)) is not None}
            for label in changing:
                self.graph.notes.append(
                    f"the state of {label} is changed between its steps (zoneout, a mask, weights that change): s_k is "
                    "what the cell gives; Jacobians and Lyapunov exponents are of the states that are handed on, with "
                    "the changes"
                )
            altered = frozenset(changing)
            return Evidence(runs, modules, self.rows, graph=self.graph, stepwise=stepwise | changing, altered=altered)
        first = {label: self.graph.runs[label][0] for label in kept}
        return Evidence(
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

    def _reduced(self, norms: Tensor, exists: Tensor) -> np.ndarray[Any, Any]:
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
        found = torch.nanquantile(blank, torch.tensor(self.quantiles, dtype=norms.dtype), dim=-1).movedim(0, -1)
        found = torch.where(exists.expand_as(norms).any(-1, keepdim=True), found, 0.0)
        return np.asarray((found[..., 0] if len(self.quantiles) == 1 else found).cpu())

    def _spread(self, own: Range, norms: Tensor, exists: Tensor) -> np.ndarray[Any, Any]:
        """As ``_reduced``, with NaN where no sequence exists; −1 is a norm below the range, −∞ a result."""
        lost = (norms < 0) & exists
        found = self._reduced(norms.clamp(min=0), exists)
        below = own.leaves_open(found, lost.cpu().numpy(), whole=self.quantiles == "none")
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
        """Any model: autograd carries blocks of targets through the graph, vectorised."""
        has_loss = self._has_loss()
        dtypes = {self.losses.dtype, *(call.h.dtype for own in self.runs.values() for call in own)}
        narrowest = max(map(Range.of, dtypes), key=lambda found: found.floor)
        ranges = []
        at = 0
        for rows in torch.split(self.rows, self.graph.block):
            place = slice(at, at + len(rows))
            at += len(rows)
            swept = self.graph.send_rows(rows)
            self.positions.note(rows, swept)
            found, own = narrowest.wider(self._norms(swept), partial(self._sent_larger, rows))
            ranges.append(own)
            for i, label in enumerate(self.runs):
                if label in found:
                    self._place(i, label, place, found[label], own, has_loss[place])
        self.range = max(ranges, key=lambda own: own.floor)
        self.positions.settle()

    def _norms(self, swept: dict[str, Swept]) -> dict[str, np.ndarray[Any, Any]]:
        """Norms `(N, T, B)` of each layer for N losses."""
        own = {label: s for label, s in swept.items() if label in self.runs}
        return {label: self._pick(s.h, s.c, s.c_total).cpu().numpy() for label, s in own.items()}

    def _sent_larger(self, rows: Tensor, factor: float) -> dict[str, np.ndarray[Any, Any]]:
        with torch.autograd.set_detect_anomaly(False):  # a number beyond the range is found out afterwards
            return self._norms(self.graph.send_rows(rows, factor=factor))

    def _place(
        self, i: int, label: str, place: slice, found: np.ndarray[Any, Any], own: Range, has_loss: Tensor
    ) -> None:
        """Norms `(N, T, B)` of a layer for a block of targets, reduced over the sequences."""
        calls = self.runs[label]
        lost = own.lost(found, axis=1, ahead=calls[0].reverse)
        norms = torch.from_numpy(np.where(lost, 0.0, found) if lost.any() else found)
        steps, batch = norms.shape[1:]
        exists = norms.ne(0).any(1)
        if batch == has_loss.shape[1]:
            exists = exists | has_loss
        exists = exists.unsqueeze(1) & steps_there(calls)
        if batch == has_loss.shape[1] and self.lengths is not None and (self.final or steps == len(self.losses)):
            exists = exists & (torch.arange(steps).unsqueeze(1) < self.lengths)
        reduced = self._reduced(norms, exists)
        below = own.leaves_open(reduced, lost & exists.numpy(), whole=self.quantiles == "none")
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
    def by_lag(self, evidence: Evidence) -> None:
        """Causal stacks under a head that looks at one step at a time: all targets of a lag in one product."""
        assert evidence.local is not None
        here = self._has_loss()
        if all(recurrence.has_engine(runs) for runs, _ in evidence.stacks()):
            self._by_engine(evidence, here)
            return
        labels = list(evidence.runs)
        place = {labels.index(label): i for i, label in enumerate(self.runs)}
        rows, batch = len(self.rows), self.losses.shape[1]
        # Norms of a block of lags at a time are reduced in one go: work space like a state's, O(T·B·H).
        block = min(32, int(self.rows[-1]) + 1)
        table = torch.zeros(len(place), block, rows, batch, dtype=torch.float64)
        for lag, found in evidence.by_lag(scaled=True):
            gone = rows - len(found[0].norm_h)
            for j, i in place.items():
                step = found[j]
                into = table[i, lag % block, gone:]
                if step.norm_c is None or self.state == "h":
                    into.copy_(step.norm_h)
                elif self.state == "hc":
                    into.copy_(torch.hypot(step.norm_h, step.norm_c))
                else:
                    assert step.c is not None
                    run = evidence.runs[labels[j]]
                    into.copy_(torch.linalg.vector_norm(run.total_cell(step.at, step.h, step.c), dim=-1))
                if step.scale is not None:
                    into *= step.scale
                if lag == 0:
                    here = here | into.cpu().ne(0)
            if lag % block == block - 1 or lag == int(self.rows[-1]):
                lags = torch.arange(lag - lag % block, lag + 1)
                at, which = (self.rows.unsqueeze(1) >= lags).nonzero(as_tuple=True)
                k = self.rows[at] - lags[which]
                for i in range(len(place)):
                    reduced = self._reduced(table[i, : len(lags)], here)
                    self.norms[i, at.numpy(), k.numpy()] = reduced[which.numpy(), at.numpy()]

    def check_range(self) -> None:
        """Of norms whose scale was kept apart: what no float64 holds."""
        self.below = self.range.lost(self.norms, axis=2, ahead=False)
        self.norms[self.below] = 0.0

    def _by_engine(self, evidence: Evidence, here: Tensor) -> None:
        block = max(1, _BLOCK // (len(evidence.runs) * self.losses.numel()))
        for part in (slice(at, at + block) for at in range(0, len(self.rows), block)):
            t = self.rows[part]
            norms = [own for runs, local in evidence.stacks() for own in recurrence.norms(runs, local, t, self.state)]
            exists = here[part]
            for own in norms:
                exists = exists | own[torch.arange(len(t)), t].ne(0)  # lag 0
            for label, own in zip(evidence.runs, norms, strict=True):
                if label in self.runs:
                    self.norms[list(self.runs).index(label), part] = self._reduced(own, exists.unsqueeze(1))

    def result(self, evidence: Evidence) -> GradientFlow:
        notes = self.graph.notes
        if self.below.any():
            notes.append(self.range.note(self.norms, self.below))
        if not np.isfinite(self.norms).all():
            i, t, k = (int(j) for j in np.argwhere(~np.isfinite(self.norms))[0][:3])
            notes.append(
                f"the gradient leaves the range of {self.losses.dtype}: layer {list(self.runs)[i]}, "
                f"t = {int(self.rows[t])}, k = {k}; measure the model in float64"
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
            evidence=evidence,
        )


def _alive(lengths: Tensor, losses: Tensor) -> Tensor:
    steps = torch.arange(losses.shape[0], device=losses.device).unsqueeze(1)
    return (steps < lengths.to(losses.device)).to(losses.dtype)


def _quantiles(reduce: Any) -> list[float] | str:
    if isinstance(reduce, str) and reduce in ("mean", "none", "median"):
        return [0.5] if reduce == "median" else reduce
    try:
        numbers = [float(q) for q in ([reduce] if isinstance(reduce, (int, float)) else reduce)]
    except (TypeError, ValueError):
        numbers = []
    if isinstance(reduce, str) or not numbers or not all(0 <= q <= 1 for q in numbers):
        raise OptionError(f"reduce is {reduce!r:.60}; it is 'mean', 'median', 'none', or quantiles between 0 and 1.")
    return numbers


def _targets(targets: Any, steps: int, final: bool) -> Tensor:
    if targets is None:
        return torch.arange(steps)
    if final:
        raise FlowError("targets= chooses among losses by step (T, B), but this loss is one per sequence (B,).")
    try:
        chosen = sorted({operator.index(t) for t in targets})
    except TypeError:
        raise FlowError(
            f"targets is {targets!r:.60}; give a list of steps, whole numbers between 0 and {steps - 1}."
        ) from None
    chosen = sorted({t + steps if t < 0 else t for t in chosen})
    if not chosen or chosen[0] < 0 or chosen[-1] >= steps:
        raise FlowError(f"targets is {list(targets)}; expected steps between 0 and {steps - 1}.")
    return torch.tensor(chosen)


def _wanted(runs: Mapping[str, Any], layers: Any, state: State) -> list[str]:
    try:
        names = None if layers is None else [layers] if isinstance(layers, str) else [str(name) for name in layers]
    except TypeError:
        raise FlowError(f"layers is {layers!r:.60}; give a list of labels: this model has {', '.join(runs)}.") from None
    unknown = [name for name in names or () if name not in runs and name not in map(base, runs)]
    if unknown or (names is not None and not names):
        raise FlowError(f"layers names {', '.join(unknown) or 'none'}; this model has {', '.join(runs)}.")
    wanted = [label for label in runs if names is None or label in names or base(label) in names]
    if state == "c" and any(runs[name][0].kind != "lstm" for name in wanted):
        mend = "use 'h' or 'hc', or choose layers=" if len(runs) > 1 else "use 'h' or 'hc'"
        raise FlowError(f"state is 'c', but only an LSTM has a cell state; {mend}.")
    return wanted
