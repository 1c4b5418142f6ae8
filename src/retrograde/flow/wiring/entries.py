"""Where the gradient of one loss per sequence enters a layer, and what is left of it after so many steps of the layer.

A head that pools (mean, maximum, attention) reads the states of many steps, and a second direction runs the other way:
the distance of a state from the end of its sequence is then not the way that its gradient has come. With the layer's
own recurrence cut, the loss has a gradient e_t = ∂E/∂h_t at each step that is read, and

    ∂E/∂h_k = Σ_t (∂h_t/∂h_k)ᵀ e_t

exactly: each t is a loss by itself, whose gradient has come t − k steps of that layer, in the layer's own direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _torch_private
from ..recording.calls import Call
from ..recording.graph import Graph, closed
from ..recurrence import adjoint
from ..recurrence.cells import Trajectory

Reading = Literal["end", "ends", "many"]
MANY = 0.5  # share of a sequence's steps between the first and the last that is read, from which it is pooled


@dataclass(frozen=True)
class Entry:
    """The gradient of one loss per sequence where it enters a layer."""

    run: Trajectory  # of the layer, its steps in the order in which it runs, also of a reverse layer
    local: Tensor  # ∂E_b/∂(output_t) by all ways but the layer's own recurrence, `(T, B, P)`
    reverse: bool  # whether the layer runs from the last step of the data to the first

    @property
    def live(self) -> Tensor:
        """Which steps there are, `(T, B)`."""
        return (
            torch.ones(self.local.shape[:2], dtype=torch.bool, device="cpu")
            if self.run.mask is None
            else self.run.mask.cpu()
        )


def entries_of(graph: Graph, *, head: bool) -> dict[str, Entry] | None:
    """The entries of every layer by label; with ``head`` only what comes from the head, not through other layers.

    None where they are not known: layers called for single steps or for parts of a sequence, marked states, a loss of
    the cell state of an LSTM.
    """
    calls = calls_of(graph)
    if calls is None:
        return None
    send(graph, calls, torch.ones_like(graph.losses), head=head)
    found: dict[str, Entry] = {}
    for label, call in calls.items():
        local = received(call)
        if local is None:
            return None
        run = graph.trajectory(label)
        if run.reverse:
            run, local = replace(run._changed(lambda _, a: a.flip(0)), reverse=False), local.flip(0)
        found[label] = Entry(run, local, call.reverse)
    return found


def calls_of(graph: Graph) -> dict[str, Call] | None:
    """The one call of every layer, by label; None where a layer is called for single steps or several times."""
    calls: dict[str, Call] = {}
    for label, own in graph.runs.items():
        (first, *others) = own
        if others or not isinstance(first, Call) or (first.step is not None and first.block is None):
            return None
        calls[label] = first
    return calls


def send(graph: Graph, calls: Mapping[str, Call], weights: Tensor, *, head: bool) -> None:
    """Send the losses back once, times weights `(T, B)`, and let every call keep what arrives, for `received`.

    With ``head`` only what comes from the head, not through other layers.
    """
    for call in calls.values():
        call.listens, call.arrived = True, None
    anchors = [call.anchor for call in calls.values()]
    try:
        with _torch_private.no_torch_functions(), closed(graph.recorder.calls) if head else nullcontext():
            torch.autograd.grad(graph.losses, anchors, weights, retain_graph=True, allow_unused=True)
    finally:
        for call in calls.values():
            call.listens = False


def received(call: Call) -> Tensor | None:
    """What arrived at the outputs `(T, B, P)`, the final state's at the last step; None for a loss of a cell state.

    Sequences are in the user's order.
    """
    if call.arrived is None:
        return torch.zeros_like(call.h)  # the same in any order
    g_out, g_h, *g_c = call.arrived
    call.arrived = None
    if any(bool(g.any()) for g in g_c):
        return None
    local = g_out.clone()
    batch = torch.arange(local.shape[1], device="cpu")
    if call.reverse:
        last = torch.zeros_like(batch)
    elif call.mask is None:
        last = torch.full_like(batch, len(local) - 1)
    else:
        last = call.mask.cpu().sum(0) - 1
    local[last, batch] += g_h
    return local if call.order is None else local[:, call.order]


def reading_of(entries: dict[str, Entry]) -> Reading:
    """Whether the head reads the states of many steps, or only the ends: of both directions, or of one."""
    for entry in entries.values():
        read = entry.local.ne(0).any(-1).cpu()
        steps = torch.arange(len(read), device="cpu").unsqueeze(1)
        first = torch.where(read, steps, len(read)).amin(0)
        last = torch.where(read, steps, -1).amax(0)
        share = ((last - first).clamp(min=0) / (entry.live.sum(0) - 1).clamp(min=1))[last >= 0]
        if len(share) and float(share.double().median()) > MANY:
            return "many"
    return "ends" if any(entry.reverse and bool(entry.local.any()) for entry in entries.values()) else "end"


def by_layer(graph: Graph, effort: float) -> dict[str, NDArray[np.float64]]:
    """See ``GradientFlow.by_entry``."""
    heads = entries_of(graph, head=True)
    if heads is None or reading_of(heads) == "end":
        return {}
    found = entries_of(graph, head=False) or {}
    return {label: _still_left(found[label], effort / len(found)) for label in graph.wanted if label in found}


def _still_left(entry: Entry, effort: float) -> NDArray[np.float64]:
    """What is left of the gradient after 0, 1, … steps of the layer: the mean over the places at which it enters.

    As ``GradientFlow.by_lag`` it is the norm of the whole state's adjoint (h, of an LSTM h and c); NaN where no
    sequence is so long. ``effort`` limits the multiplications: of long sequences, some entries are followed.
    """
    steps, batch = entry.local.shape[:2]
    read = entry.local.ne(0).any(-1)
    rows = read.any(1).nonzero().flatten().cpu()
    if not len(rows):
        return np.full(steps, np.nan)
    one = batch * steps / 2 * sum(w.numel() for w in (entry.run.weights.hh, entry.run.weights.ih))
    most = max(4, int(effort / max(1.0, one)))
    targets = rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most, device="cpu").round().long()]
    found = np.full(steps, np.nan)
    for lag, (norms, counted) in enumerate(_norms(entry, read[targets], targets)):
        if counted.any():
            found[lag] = float(norms[counted].mean())
    return found


def _norms(entry: Entry, read: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """By lag, the norms `(rows, B)` and which of them there are."""
    live = entry.live
    for _, (found,) in adjoint.by_lag([entry.run], [entry.local], targets, scaled=True):
        norms = found.norm_h if found.norm_c is None else torch.hypot(found.norm_h, found.norm_c)
        norms = norms.double().cpu() if found.scale is None else norms.double().cpu() * found.scale.cpu()
        yield norms, live[found.at] & read[len(read) - len(norms) :].cpu()
