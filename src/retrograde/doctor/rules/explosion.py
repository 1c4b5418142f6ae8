"""Does the gradient grow without limit, and why: the product of the Jacobians, or chaos?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import FlowError
from ...flow import sequence_gradients
from ...flow.divergence import divergence_of
from ..examination import Array, Examination
from ..findings import Chart, Curve, Finding, Kind
from ..forward import Answer, answers
from ..thresholds import THRESHOLDS
from .memory import by_lag


def chaos(exam: Examination) -> Iterable[Finding]:
    """The largest Lyapunov exponent, on the inputs given, of a network with bounded states that has not learned."""
    unlearned = exam.unlearned
    if not unlearned:
        return
    for label in exam.flow.layers:
        if _is_bounded(exam, label) and (found := _chaotic(exam, label, unlearned)) is not None:
            yield found
            return


def _is_bounded(exam: Examination, label: str) -> bool:
    """Whether the states of a layer cannot grow without limit, as those of ReLU units can."""
    known = exam.flow.linearization
    return known is not None and label in known.runs and known.runs[label].cell.nonlinearity != "relu"


def _exponent(values: Array) -> tuple[float, float]:
    """Mean over the sequences, and its standard error."""
    finite = values[np.isfinite(values)]
    if len(finite) < max(2, len(values)):  # a direction that becomes 0 is not chaos
        return -math.inf, math.nan
    return float(finite.mean()), float(finite.std(ddof=1) / math.sqrt(len(finite)))


def _chaotic(exam: Examination, label: str, unlearned: str) -> Finding | None:
    exponent, error = _exponent(exam.exponents[label])
    errors, growth = THRESHOLDS.chaos_errors.value, THRESHOLDS.growth.value
    steps = exam.flow.steps[exam.flow.layer_index(label)]
    if not exponent > errors * error or not exponent * steps > math.log(growth):
        return None
    doubling, spread = math.log(2) / exponent, math.exp(min(exponent * steps, 700))
    by_sequence = np.sort(exam.exponents[label])
    return Finding(
        Kind.CHAOS,
        f"the largest Lyapunov exponent is {exponent:.3g} ± {error:.1g} per step: a disturbance doubles every "
        f"{doubling:.2g} steps (τ = ln 2 / λ) and grows ×{spread:.1g} over {steps} steps. "
        "Clipping does not change that.",
        {"exponent": exponent, "standard_error": error, "tau": doubling, "growth": exam.travel.growth},
        f"λ {exponent:.3g} > {errors:g} standard errors of {error:.1g}, e^(λT) {spread:.1g} > "
        f"{growth:g}, and {unlearned}",
        label,
        ruled_out=("states that grow without limit: the nonlinearity bounds them", f"a solved task: {unlearned}"),
        chart=Chart(
            "Largest Lyapunov exponent of every sequence",
            "sequence, in rising order",
            "λ per step",
            [Curve(label, [float(i) for i in range(len(by_sequence))], [float(v) for v in by_sequence])],
        ),
    )


def chaotic_data(exam: Examination) -> Iterable[Finding]:
    """Trajectories that move apart exponentially, of which the network sees the true state too rarely."""
    if exam.solved or exam.answer.final:
        return
    targets = _by_step(exam.samples[0].target, exam.answer)
    interval, moving = (0, None) if targets is None else (_unseen(exam), divergence_of(targets))
    errors, most = THRESHOLDS.chaos_errors.value, THRESHOLDS.unseen_doublings.value
    if moving is None or not moving.exponent > errors * moving.error:
        return
    tau = math.log(2) / moving.exponent
    if not interval > most * tau:
        return
    growth = math.exp(min(moving.exponent * interval, 700))
    yield Finding(
        Kind.CHAOS,
        f"the data are chaotic: neighboring trajectories move apart by λ = {moving.exponent:.3g} ± {moving.error:.1g} "
        f"per step and double their distance every {tau:.2g} steps (τ = ln 2 / λ), but the network sees no input over "
        f"{interval} steps, in which an error grows ×{growth:.2g}. Whatever predicts such data has gradients that "
        "explode over so many steps; clipping does not change that.",
        {"lyapunov": moving.exponent, "standard_error": moving.error, "tau": tau, "interval": interval},
        f"λ {moving.exponent:.3g} > {errors:g} standard errors of {moving.error:.1g} in the targets, and {interval} "
        f"steps without an input > {most:g} τ",
        ruled_out=(
            "noise: neighbors move apart step by step, not at once",
            f"a solved task: loss {exam.progress.remaining:.0%} of chance",
        ),
    )


def _by_step(target: Any, own: Answer) -> Tensor | None:
    """The targets as `(T, B, D)`, where they are numbers of every step; None otherwise."""
    if not isinstance(target, Tensor) or not target.is_floating_point():
        return None
    steps, sequences = own.losses.shape
    whole = target.unsqueeze(-1) if target.ndim == 2 else target
    if whole.ndim != 3:
        return None
    if whole.shape[:2] == (steps, sequences):
        return whole
    return whole.transpose(0, 1) if whole.shape[:2] == (sequences, steps) else None


def _unseen(exam: Examination) -> int:
    """The longest run of steps at which no input has any effect on a loss, counted from the input before."""
    sample = exam.samples[0]
    given = sample.inputs[0] if sample.inputs and isinstance(sample.inputs[0], Tensor) else None
    steps = len(exam.answer.losses)
    if given is None or not given.is_floating_point() or given.ndim != 3 or steps not in given.shape[:2]:
        return 0
    x = given.detach().clone().requires_grad_()
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        losses = ask((x, *sample.inputs[1:]), sample.loss).losses
        if not losses.requires_grad:
            return 0
        gradient: Tensor | None = torch.autograd.grad(losses.sum(), x, allow_unused=True)[0]
    if gradient is None:
        return 0
    read = gradient.ne(0).any(2).any(0 if x.shape[0] != steps else 1)
    at = [*read.nonzero().flatten().tolist(), steps]
    return max((b - a for a, b in pairwise(at)), default=0)


def exploding(exam: Examination) -> Iterable[Finding]:
    """The gradient at some lag is far above that at the first, in a network that has not learned and is not chaotic."""
    growth, unlearned = THRESHOLDS.growth.value, exam.unlearned
    travel = exam.travel
    if not unlearned or not travel.growth > growth or any(True for _ in chaos(exam)):
        return
    lag = int(travel.lags[np.nanargmax(travel.share)])
    exponent, error = _exponent(exam.exponents[travel.layer])
    numbers = {"growth": travel.growth, "lag": lag, "exponent": exponent if math.isfinite(exponent) else 0.0}
    tail = ""
    try:
        totals = sequence_gradients(exam.model, *exam.few.inputs, loss=exam.few.loss).total
        middle = float(np.median(totals))
        if middle > 0 and np.isfinite(totals).all():
            numbers |= {"tail": float(totals.max()) / middle, "median": middle}
            tail = f" Over the sequences, the largest gradient is {numbers['tail']:.2g} times the median {middle:.2g}."
    except FlowError as failed:
        exam.notes.append(f"exploding: gradients of single sequences are not known. {failed}")
    bounded = _is_bounded(exam, travel.layer)
    other = f"chaos: λ = {exponent:.2g} ± {error:.1g}" if bounded else "chaos: ReLU states are not bounded"
    yield Finding(
        Kind.EXPLODING,
        f"the gradient {lag} steps back is ×{travel.growth:.2g} that of the first lag.{tail}",
        numbers,
        f"growth {travel.growth:.2g} > {growth:g}, and {unlearned}",
        travel.layer,
        ruled_out=(other, f"large gradients of a solved task: {unlearned}"),
        chart=by_lag(exam, "Gradient by lag"),
    )


def exploding_from_start(exam: Examination) -> Iterable[Finding]:
    """Of weights that are spoiled nothing is known: whether the gradient exploded in the network as training began.

    Measured on the untrained network; where that is a twin with another start, by the first recorded gradient: in units
    of the weights and the loss, it is of about 1 in size unless it grows on its way.
    """
    if not exam.record.updates:
        return
    start = replace(exam, model=exam.untrained, record=replace(exam.record, updates=0, losses=(), diverged=False))
    found = [*chaos(start), *exploding(start)]
    for finding in found:
        yield replace(finding, message=f"Before training, {finding.message}", rule=f"{finding.rule}, before training")
    sensitivity, least = exam.first_sensitivity, THRESHOLDS.sensitivity.value
    if found or sensitivity is None:
        return
    losses, norms = exam.record.losses, exam.record.gradient_norms
    if sensitivity > least:
        yield Finding(
            Kind.EXPLODING,
            f"the first gradient of training has norm {norms[0]:.3g} at a loss of {losses[0]:.3g}: weights that change "
            f"by 1 % change the loss by {sensitivity / 100:.3g} times its size. Nothing else had been changed yet, so "
            "the gradient grows on its way back through the steps.",
            {"sensitivity": sensitivity, "norm": norms[0], "loss": losses[0]},
            f"first gradient, relative to weights and loss, {sensitivity:.3g} > {least:g}, and not solved",
            ruled_out=("a learning rate that is too large alone: it was the first gradient",),
        )


RULES = (chaos, chaotic_data, exploding)
