"""``gradient_flow``: run the model once, send every E_t back, keep ‖∂E_t/∂s_k‖."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, count
from math import comb
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import FlowError, OptionError
from . import recurrence
from .capture import Call, Recorder, recording
from .result import GradientFlow

__all__ = ["gradient_flow"]

State = Literal["h", "c", "hc"]
Reduce = Literal["mean", "median", "none"] | float | Sequence[float]
_BLOCK_BYTES = 128 * 2**20


def gradient_flow(
    model: Callable[..., Any],
    *inputs: Any,
    loss: Callable[[Any], Tensor],
    state: State = "hc",
    reduce: Reduce = "mean",
    targets: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    lengths: Sequence[int] | Tensor | None = None,
    training: bool = False,
) -> GradientFlow:
    """Measure ‖∂E_t/∂s_k‖ for every pair (t, k), exactly.

    Works for any PyTorch model whose recurrence is ``RNN``, ``GRU`` or ``LSTM`` (ours or ``torch.nn``'s, stacked,
    bidirectional, packed, projected, called whole or step by step) or a loop over ``RNNCell``, ``GRUCell`` or
    ``LSTMCell``. Anything may stand before, between and after. The gradient is total: all paths from s_k to E_t
    count, through time, through upper layers and through a head that mixes steps; parameters are held.

    The model is left as it was: training flags, buffers, gradients and the random state.

    Parameters
    ----------
    model : callable
        A ``torch.nn.Module``, or any callable of ``inputs``.
    *inputs
        What the model is called with.
    loss : callable
        Takes the model's output; returns the losses by step `(T, B)`, or one loss per sequence `(B,)`. Use
        ``reduction="none"``. A masked step has loss 0.
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
        Labels of the layers to keep; all by default.
    lengths : sequence of int, optional
        Lengths of the sequences where the input is padded `(B,)`; known already where it is packed.
    training : bool
        Measure in the modes the modules are in (dropout active) instead of in eval mode.

    Returns
    -------
    GradientFlow

    Raises
    ------
    FlowError
        No recurrent layer ran; the loss has the wrong shape or hangs on no recurrent state; a value is not finite.

    Notes
    -----
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
    quantiles = _quantiles(reduce)
    notes: list[str] = []
    with _undisturbed(model, training, notes), recording(model) as recorder:
        output = model(*[_thawed(i) for i in inputs])
        losses = loss(output)
        calls = recorder.calls
        if not calls:
            raise FlowError(
                f"{type(model).__name__} ran no recurrent layer: gradient_flow follows torch.nn.RNN, GRU, LSTM, their "
                "cells, and those of retrograde.nn (not scripted modules, nor recurrences written by hand)."
            )
        _check_finite(calls)
        table, final = _losses_by_step(losses, calls)
        known = _lengths(lengths, calls, table, final)
        rows = _targets(targets, table.shape[0], final, calls)
        tracks = _tracks(calls, layers, state)
        measured = _Measured(tracks, calls, table, rows, known, final, state, quantiles, notes)
        local = None if final else _local_adjoints(table, recorder, known)
        if local is None:
            measured.by_blocks()
        else:
            measured.by_lag(local)
    return measured.result()


class _Measured:
    """Collects squared norms as they come, reduced over the batch."""

    def __init__(
        self,
        tracks: dict[str, list[Call]],
        calls: list[Call],
        losses: Tensor,
        rows: list[int],
        lengths: Tensor | None,
        final: bool,
        state: State,
        quantiles: list[float] | str,
        notes: list[str],
    ) -> None:
        self.tracks, self.calls, self.losses, self.rows = tracks, calls, losses, rows
        self.lengths, self.final, self.state, self.quantiles, self.notes = lengths, final, state, quantiles, notes
        steps = [sum(c.run.steps for c in own) for own in tracks.values()]
        self.steps = steps
        batch = losses.shape[1]
        tail: tuple[int, ...] = ()
        if quantiles == "none":
            if any(c.run.batch_size != batch for own in tracks.values() for c in own):
                raise FlowError(
                    f"The loss has {batch} sequences but a recurrent layer ran with another batch size: reduce='none' "
                    "has no single axis of sequences. Reduce, or choose layers=."
                )
            tail = (batch,)
        elif isinstance(quantiles, list) and len(quantiles) > 1:
            tail = (len(quantiles),)
        self.norms = np.zeros((len(tracks), len(rows), max(steps), *tail))

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
            total = torch.where(exists, norms, 0.0).sum(-1)
            return np.asarray((total / exists.expand_as(norms).sum(-1).clamp(min=1)).cpu())
        assert isinstance(self.quantiles, list)
        blank = torch.where(exists, norms, torch.nan)
        found = torch.nanquantile(blank, torch.tensor(self.quantiles, dtype=norms.dtype), dim=-1).movedim(0, -1)
        found = torch.where(exists.expand_as(norms).any(-1, keepdim=True), found, 0.0)
        return np.asarray((found[..., 0] if len(self.quantiles) == 1 else found).cpu())

    def _has_loss(self) -> Tensor:
        """`(targets, B)`: whether the sequence has a loss at t; a masked loss is exactly zero."""
        chosen = self.losses.detach()[self.rows]
        here = chosen != 0
        if self.lengths is not None and not self.final:
            here = here & (torch.tensor(self.rows).unsqueeze(1) < self.lengths)
        return here

    def by_blocks(self) -> None:
        """Any model: autograd carries blocks of targets through the graph, vectorised."""
        table, rows = self.losses, self.rows
        probes = [call.probe for own in self.tracks.values() for call in own]
        widest = max(
            c.run.steps * c.run.batch_size * (c.run.weights.hh.shape[0] + c.run.x.shape[2]) for c in self.calls
        )
        block = max(1, min(64, len(rows), _BLOCK_BYTES // (3 * widest * table.element_size())))
        vectorised = True
        has_loss = self._has_loss()
        for start in range(0, len(rows), block):
            chosen = rows[start : start + block]
            directions = torch.zeros(len(chosen), *table.shape, dtype=table.dtype, device=table.device)
            alive = torch.ones_like(table) if self.lengths is None or self.final else _alive(self.lengths, table)
            for n, t in enumerate(chosen):
                directions[n, t] = alive[t]
            swept: list[dict[Call, recurrence.Swept]] = []
            if vectorised:
                try:
                    swept = [_send_back(table, probes, directions, self.calls, batched=True)]
                except RuntimeError as refusal:
                    vectorised = False
                    self.notes.append(f"one target at a time: vmap refused this model ({str(refusal).splitlines()[0]})")
            if not vectorised:
                swept = [_send_back(table, probes, d, self.calls, batched=False) for d in directions]
            here = has_loss[start : start + len(chosen)]
            for i, own in enumerate(self.tracks.values()):
                at = 0
                for call in own:
                    found = [s.get(call) for s in swept]
                    k = slice(at, at + call.run.steps)
                    at += call.run.steps
                    if all(f is None for f in found):
                        continue
                    norms = torch.cat([self._norms(f, call) for f in found])
                    exists = torch.ones((), dtype=torch.bool).expand_as(norms)
                    if norms.shape[-1] == here.shape[-1]:
                        touched = norms.flatten(1, -2).ne(0).any(1)
                        exists = (here | touched).unsqueeze(1).expand_as(norms)
                    if self.lengths is not None and norms.shape[1:] == self.losses.shape:
                        exists = exists & _alive(self.lengths, self.losses).bool()
                    self.norms[i, start : start + len(chosen), k] = self._reduced(norms, exists)

    def _norms(self, swept: recurrence.Swept | None, call: Call) -> Tensor:
        if swept is None:
            return torch.zeros(1, call.run.steps, call.run.batch_size, dtype=torch.float64)
        norms = self._pick(swept.h, swept.c, swept.c_total)
        return norms if call.order is None else norms[..., call.order]

    def by_lag(self, local: list[Tensor]) -> None:
        """Causal stacks under a head that looks at one step at a time: all targets of a lag in one product."""
        here = self._has_loss()
        place = {id(own[0]): i for i, own in enumerate(self.tracks.values())}
        deepest = min(i for i, call in enumerate(self.calls) if id(call) in place)
        stack = self.calls[deepest:]
        rows = torch.tensor(self.rows)
        where = torch.arange(len(rows))
        for lag, found in recurrence.by_lag([c.run for c in stack], local[deepest:], rows):
            reach = rows >= lag
            at, k = where[reach], rows[reach] - lag
            for call, adjoint in zip(stack, found, strict=True):
                if id(call) not in place:
                    continue
                h = recurrence.squared(adjoint.h)
                c = total = None
                if adjoint.c is not None:
                    if self.state == "c":
                        total = recurrence.squared(call.run.total_cell(adjoint.at, adjoint.h, adjoint.c))
                    c = recurrence.squared(adjoint.c)
                norms = self._pick(h, c, total)
                if call.order is not None:
                    norms = norms[..., call.order]
                if lag == 0:
                    here = here | norms.ne(0)
                self.norms[place[id(call)], at.numpy(), k.numpy()] = self._reduced(norms, here[at])

    def result(self) -> GradientFlow:
        if not np.isfinite(self.norms).all():
            bad = np.argwhere(~np.isfinite(self.norms))[0]
            self.notes.append(
                f"the gradient leaves the range of {self.losses.dtype} from "
                f"{list(self.tracks)[bad[0]]}, t={self.rows[bad[1]]}, k={bad[2]} on; measure the model in float64"
            )
        counts = self._has_loss().sum(1)
        return GradientFlow(
            layers=list(self.tracks),
            norms=self.norms,
            targets=np.asarray(self.rows),
            steps=self.steps,
            state=self.state,
            reduce=self.quantiles,
            final=self.final,
            lengths=None if self.lengths is None else np.asarray(self.lengths.cpu()),
            sequences=np.asarray(counts.cpu()),
            cells=[own[0].run.kind for own in self.tracks.values()],
            reverse=[own[0].run.reverse for own in self.tracks.values()],
            loss_steps=self.losses.shape[0],
            losses=np.asarray(self.losses.detach().double().cpu())[self.rows],
            notes=self.notes,
        )


def _send_back(
    losses: Tensor, probes: list[Tensor], directions: Tensor, calls: list[Call], *, batched: bool
) -> dict[Call, recurrence.Swept]:
    """Backward passes of ⟨direction, losses⟩ through the graph; what each layer's sweep recorded."""
    for call in calls:
        call.swept = None

    def once(direction: Tensor) -> Tensor:
        torch.autograd.grad(losses, probes, direction, retain_graph=True, allow_unused=True)
        return direction.sum()

    if batched:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*performance drop because we have not yet implemented.*")
            torch.func.vmap(once)(directions)
    else:
        once(directions)
    return {call: call.swept for call in calls if call.swept is not None}


def _local_adjoints(losses: Tensor, recorder: Recorder, lengths: Tensor | None) -> list[Tensor] | None:
    """∂E_t/∂(output_t) of each layer if the head looks at one step of one sequence at a time, else None.

    The test is exact. Give every (t, b) a set of its own, out of equal-sized sets of which none contains another.
    Then for any two there is a set with the first and without the second; a backward pass of the losses in that set
    must leave zero at all the others, or the head mixes.
    """
    calls = recorder.calls
    chain = all(
        not call.run.reverse
        and (i == 0 or (call.fed_by is calls[i - 1] and call.own_state))
        and call.run.h.shape[:2] == losses.shape
        for i, call in enumerate(calls)
    )
    if not chain or not recorder.only_layers or len({call.track for call in calls}) != len(calls):
        return None
    tensors = [e.tensor for e in recorder.exposed]
    alive = torch.ones_like(losses) if lengths is None else _alive(lengths, losses)

    def gradients(direction: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(losses, tensors, direction * alive, retain_graph=True, allow_unused=True))

    size = next(m for m in count(2) if comb(m, m // 2) >= losses.numel())
    sets = torch.zeros(losses.numel(), size, dtype=torch.bool)
    for row, chosen in zip(range(losses.numel()), combinations(range(size), size // 2), strict=False):
        sets[row, list(chosen)] = True
    weights = 0.5 + torch.arange(1, losses.numel() + 1, dtype=losses.dtype).mul(0.6180339887498949).frac()
    for column in sets.T:
        inside = column.view(losses.shape).to(losses.device)
        for exposed, g in zip(recorder.exposed, gradients(inside * weights.view(losses.shape)), strict=True):
            if g is None:
                continue
            if exposed.call is None:
                if g.any():
                    return None
                continue
            outside = ~inside if exposed.call.order is None else ~_sorted(inside, exposed.call.order)
            if g[outside].any():
                return None
    local = {id(c): torch.zeros_like(c.run.h) for c in calls}
    for exposed, g in zip(recorder.exposed, gradients(torch.ones_like(losses)), strict=True):
        if exposed.call is not None and g is not None:
            local[id(exposed.call)] += g
    return [local[id(c)] for c in calls]


def _sorted(table: Tensor, order: Tensor) -> Tensor:
    """`(T, B)` in the user's order to the order of the packed run (the inverse of ``[:, order]``)."""
    result = torch.empty_like(table)
    result[:, order] = table
    return result


def _alive(lengths: Tensor, losses: Tensor) -> Tensor:
    return (torch.arange(losses.shape[0], device=losses.device).unsqueeze(1) < lengths.to(losses.device)).to(
        losses.dtype
    )


def _quantiles(reduce: Reduce) -> list[float] | str:
    if reduce in ("mean", "none"):
        return str(reduce)
    if reduce == "median":
        return [0.5]
    numbers = [reduce] if isinstance(reduce, (int, float)) else reduce
    if isinstance(numbers, str) or not len(numbers) or not all(0 <= float(q) <= 1 for q in numbers):
        raise OptionError(f"reduce is {reduce!r}; it is 'mean', 'median', 'none', or quantiles between 0 and 1.")
    return [float(q) for q in numbers]


def _losses_by_step(losses: Any, calls: list[Call]) -> tuple[Tensor, bool]:
    """The losses as `(T, B)`, and whether they came as one per sequence."""
    batch, steps = calls[0].run.batch_size, sum(c.run.steps for c in calls if c.track == calls[0].track)
    wanted = f"losses by step (T, B) = ({steps}, {batch}), or one per sequence (B,) = ({batch},)"
    if not isinstance(losses, Tensor):
        raise FlowError(f"loss returned {type(losses).__name__}; expected a tensor of {wanted}.")
    shape = tuple(losses.shape)
    if losses.ndim == 0 and batch == 1:
        losses = losses.reshape(1)
    if losses.ndim == 0:
        raise FlowError(f"loss returned a single number; expected {wanted}. Use reduction='none'.")
    if losses.ndim == 1 and batch == 1 and losses.shape[0] == steps > 1:
        losses = losses.unsqueeze(1)  # unbatched input: losses by step (T,)
    final = losses.ndim == 1
    table = losses.unsqueeze(0) if final else losses
    if table.ndim != 2 or (table.shape[1] != batch and not any(c.run.batch_size == table.shape[1] for c in calls)):
        mend = ""
        if shape == (batch, steps):
            mend = " It looks transposed: return losses.T (or .transpose(0, 1) for batch_first)."
        elif losses.ndim > 2:
            mend = " Sum over the axes of the output."
        raise FlowError(f"loss returned shape {shape}; expected {wanted}.{mend}")
    if not table.requires_grad:
        raise FlowError("The loss does not depend on any recurrent layer (is it detached, or made of integers?).")
    if not torch.isfinite(table).all():
        t, b = (int(i) for i in torch.isfinite(table).logical_not().nonzero()[0])
        raise FlowError(f"The loss is {float(table[t, b])} from step {t} (sequence {b}) on; the states are finite.")
    return table, final


def _check_finite(calls: list[Call]) -> None:
    for call in calls:
        for name, values in (("input", call.run.x), ("state", call.run.h)):
            bad = torch.isfinite(values).all(-1).logical_not()
            if bad.any():
                steps = bad.any(1).nonzero().flatten()
                k = int(steps[-1] if call.run.reverse and name == "state" else steps[0])
                b = int(bad[k].nonzero()[0])
                if call.order is not None:
                    b = int((call.order == b).nonzero()[0])
                label = ".".join(part for part in call.track if part)
                raise FlowError(f"The {name} of layer {label} is not finite from step {k} on (sequence {b}).")


def _lengths(given: Sequence[int] | Tensor | None, calls: list[Call], losses: Tensor, final: bool) -> Tensor | None:
    batch = losses.shape[1]
    if given is not None:
        lengths = torch.as_tensor(given).cpu()
        longest = calls[0].run.steps if final else losses.shape[0]
        if lengths.shape != (batch,) or bool((lengths < 1).any()) or bool((lengths > longest).any()):
            raise FlowError(
                f"lengths is {lengths.tolist()}; expected {batch} numbers between 1 and {longest}, one per sequence."
            )
        return lengths
    for call in calls:
        if call.run.mask is not None and call.run.batch_size == batch:
            lengths = call.run.mask.sum(0).cpu()
            return lengths if call.order is None else lengths[call.order.cpu()]
    return None


def _targets(targets: Sequence[int] | None, steps: int, final: bool, calls: list[Call]) -> list[int]:
    if final or targets is None:
        if final and targets is not None:
            raise FlowError("targets= chooses among losses by step (T, B), but this loss is one per sequence (B,).")
        return list(range(steps))
    chosen = sorted({int(t) + steps if int(t) < 0 else int(t) for t in targets})
    if not chosen or chosen[0] < 0 or chosen[-1] >= steps:
        raise FlowError(f"targets is {list(targets)}; expected steps between 0 and {steps - 1}.")
    return chosen


def _tracks(calls: list[Call], layers: Sequence[str] | None, state: State) -> dict[str, list[Call]]:
    """Calls by label: as torch labels them, after the module's name where there are several modules."""
    several = len({call.track[0] for call in calls}) > 1
    tracks: dict[str, list[Call]] = {}
    for call in calls:
        module, suffix = call.track
        if suffix == "cell":
            label = module if several else "l0"
        else:
            label = f"{module}.{suffix}" if several and module else suffix
        tracks.setdefault(label, []).append(call)
    if layers is not None:
        unknown = [name for name in layers if name not in tracks]
        if unknown or not layers:
            raise FlowError(f"layers names {unknown or 'none'}; this model has {', '.join(tracks)}.")
        tracks = {name: own for name, own in tracks.items() if name in layers}
    if state == "c" and any(own[0].run.kind != "lstm" for own in tracks.values()):
        raise FlowError("state is 'c', but only an LSTM has a cell state; use 'h' or 'hc', or choose layers=.")
    return tracks


def _thawed(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


@contextlib.contextmanager
def _undisturbed(model: object, training: bool, notes: list[str]) -> Iterator[None]:
    """Leave modes, buffers, ``requires_grad`` and random state as they were found."""
    if not isinstance(model, nn.Module):
        with torch.random.fork_rng(devices=[]):
            yield
        return
    modes = [(module, module.training) for module in model.modules()]
    dropouts = [
        m
        for m, active in modes
        if active
        and (
            (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0)
            or (isinstance(m, nn.RNNBase) and m.dropout > 0 and m.num_layers > 1)
        )
    ]
    if dropouts and not training:
        notes.append("dropout was active; measured in eval mode, without it (training=True measures with it)")
    elif dropouts:
        notes.append("dropout is active: one random mask was measured")
    buffers = [(b, b.detach().clone()) for b in model.buffers()] if training else []
    wanted = [p for p in model.parameters() if p.requires_grad]
    devices = {b.device for b in model.parameters() if b.device.type != "cpu"}
    if not training:
        model.eval()
    # Only what hangs on a recurrent state needs a gradient here.
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
