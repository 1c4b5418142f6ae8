"""``gradient_flow``: run the model once, send every E_t back, keep ‖∂E_t/∂s_k‖."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import FlowError, OptionError
from .norms import NormOptions, Norms, State
from .recording.capture import NeedsEveryCall
from .recording.losses import known_lengths
from .recording.recorded import MeasuredModel, RecordedRun
from .recording.runs import base
from .result import GradientFlow

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
    """Measure ‖∂E_t/∂s_k‖ for every pair (t, k), exactly, and restore everything afterwards.

    Works for any model with ``RNN``, ``GRU`` or ``LSTM`` (ours or ``torch.nn``'s; stacked, bidirectional, packed,
    projected, called whole or step by step), loops over their cells, or states marked by ``mark_state``, with any other
    modules before, between and after. The gradient is total: all paths from s_k to E_t count, through time, through
    upper layers and through a head that mixes steps; parameters are constants. More in docs/flow.md.

    Parameters
    ----------
    model : callable
        A ``torch.nn.Module``, or any callable of ``inputs``.
    *inputs, kwargs
        Positional arguments of the model, and a dict of keyword arguments.
    loss : callable
        Takes the model's output; returns the losses by step `(T, B)`, or one loss per sequence `(B,)`: use
        ``reduction="none"``. A masked step has loss 0. `check_gradients` takes the same callable.
    state : {"hc", "h", "c"}
        What s_k is. RNN and GRU have only h. For an LSTM, ``"hc"`` is the pair (h_k, c_k) as a point of state space,
        so that ∂E_t/∂s_k = ∂E_t/∂s_t · ∏ ∂s_j/∂s_{j−1}: h_k is constant when c_k varies. ``"h"`` and ``"c"`` are each
        alone, with every path from there: h_k = o∘tanh(c_k) follows c_k, as in ``torch.autograd.grad(E_t, c_k)``.
    reduce : {"mean", "median", "none"} or float or sequence of float
        How the sequences of the batch become one number: quantiles for numbers in [0, 1]; ``"none"`` keeps all. Several
        quantiles, or ``"none"``, add a last axis to ``norms``. Sequences without a loss at t, or step k, do not count.
    targets : sequence of int, optional
        The steps t whose losses are followed; all by default. Negative numbers count from the end.
    layers : sequence of str, optional
        Labels of the layers to keep; all by default. ``l0`` also names all runs of a layer that ran several times
        (``l0#1``, ``l0#2``).
    lengths : sequence of int, optional
        Lengths of the sequences where the input is padded `(B,)`; not needed where it is packed.
    loss_at : int, sequence of int, or dict by layer, optional
        The step of the layer to which each loss belongs, where the measurement cannot tell: one number per step of the
        loss `(T_loss,)`, or the step of the first; with one loss per sequence, one number or one per sequence `(B,)`.
    training : bool
        Measure in training mode (dropout active) instead of eval mode. A model that is in training mode already keeps
        the modes of its parts, such as frozen normalization layers.
    module : Module or list of Module, optional
        The modules behind ``model``, if it finds them in a way that cannot be followed (a registry, a proxy).

    Returns
    -------
    GradientFlow

    Raises
    ------
    FlowError
        No recurrent layer ran; the loss has the wrong shape or does not depend on a recurrent state; a value is not
        finite; the model is on the device ``meta``, or works under ``torch.autocast`` only.
    OptionError
        An argument has the wrong form.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> layer, x = torch.nn.LSTM(3, 8), torch.randn(20, 4, 3)
    >>> rg.gradient_flow(layer, x, loss=lambda output: output[0].square().sum(-1)).norms.shape
    (1, 20, 20)
    """
    if state not in ("h", "c", "hc"):
        raise OptionError(f"state is {state!r}; choose 'h', 'c' or 'hc'.")
    options = NormOptions(state, _quantiles(reduce), loss_at)
    measured = MeasuredModel(model, inputs, loss, kwargs, module, training)
    try:
        return _measure(measured.recorded(freeze=True, finite=True, loops=True), options, targets, layers, lengths)
    except NeedsEveryCall:
        return _measure(measured.recorded(freeze=True, finite=True), options, targets, layers, lengths)


def _measure(
    running: AbstractContextManager[RecordedRun], options: NormOptions, targets: Any, layers: Any, lengths: Any
) -> GradientFlow:
    with running as run:
        losses = run.losses
        known = known_lengths(lengths, run.runs, losses, run.final)
        alive = None
        if known is not None and not run.final:
            steps = torch.arange(len(losses), device=losses.device).unsqueeze(1)
            alive = (steps < known.to(losses.device)).to(losses.dtype)
        graph = run.graph(_wanted(run.runs, layers, options.state), alive)
        norms = Norms(graph, _targets(targets, len(losses), run.final), known, run.final, options)
        linearization = norms.linearization()
        if linearization.local is None:
            norms.by_blocks()
    if linearization.local is not None:  # neither the model nor the recorder is needed any more
        norms.by_lag(linearization)
    return norms.result(linearization)


def _quantiles(reduce: Any) -> list[float] | str:
    if isinstance(reduce, str) and reduce in ("mean", "none", "median"):
        return [0.5] if reduce == "median" else reduce
    try:
        numbers = [float(q) for q in ([reduce] if isinstance(reduce, (int, float)) else reduce)]
    except (TypeError, ValueError):
        numbers = []
    if isinstance(reduce, str) or not numbers or not all(0 <= q <= 1 for q in numbers):
        raise OptionError(f"reduce is {reduce!r:.60}; choose 'mean', 'median', 'none', or quantiles between 0 and 1.")
    return numbers


def _targets(targets: Any, steps: int, final: bool) -> Tensor:
    if targets is None:
        return torch.arange(steps, device="cpu")
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
    return torch.tensor(chosen, device="cpu")


def _wanted(runs: Mapping[str, Any], layers: Any, state: State) -> list[str]:
    try:
        names = None if layers is None else [layers] if isinstance(layers, str) else [str(name) for name in layers]
    except TypeError:
        raise FlowError(f"layers is {layers!r:.60}; give a list of labels: this model has {', '.join(runs)}.") from None
    unknown = [name for name in names or () if name not in runs and name not in map(base, runs)]
    if unknown or (names is not None and not names):
        raise FlowError(f"layers names {', '.join(unknown) or 'no layer'}; this model has {', '.join(runs)}.")
    wanted = [label for label in runs if names is None or label in names or base(label) in names]
    if state == "c" and any("c" not in runs[name][0].state_names for name in wanted):
        fix = "use 'h' or 'hc', or choose layers=" if len(runs) > 1 else "use 'h' or 'hc'"
        raise FlowError(f"state is 'c', but only an LSTM has a cell state; {fix}.")
    return wanted
