"""Does the gradient bring back what the data asks the network to remember?

Tests: `tests/doctor/test_vanishing.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from ...errors import FlowError
from ...flow import GradientFlow, jacobians
from ...flow.activation import memory
from ...flow.recurrence.cells import Trajectory
from ...words import counted
from ..examination import Array, Examination, Need
from ..findings import Chart, Curve, Finding, Kind
from ..forward import answers
from ..thresholds import THRESHOLDS
from ..travel import Travel

__all__ = ["RULES", "by_lag"]

WIDEST = 256  # numbers in a state whose Jacobians are multiplied
SPECTRA = 4  # sequences whose products of Jacobians are taken apart


def vanishing(exam: Examination) -> Iterable[Finding]:
    """Need, the longest lag that the data asks for, against reach, where 1 % of the gradient is left."""
    travel = exam.travel
    try:
        need = None if exam.ahead[0] else exam.need
    except FlowError:
        if math.isfinite(travel.reach) and not exam.solved:
            fraction = THRESHOLDS.reach_fraction.value
            exam.notes.append(
                f"The gradient vanishes: {fraction:.0%} of it is left after {counted(travel.reach, 'step')} "
                f"({travel.layer}). Whether that hurts is not known, as what the data asks for is not."
            )
        raise
    if need is None:
        return
    numbers = {"need": float(need.lag)}
    hurts = _hurts(exam, need, travel, numbers) if need.lag > travel.reach else ""
    if not hurts and need.lag > exam.start.reach and (stuck := _stuck_from_start(exam, numbers)):
        yield _hurting(exam, need, exam.start, exam.untrained_flow, numbers, stuck, " of the untrained network")
        return
    if math.isinf(travel.reach):
        return
    if hurts:
        yield _hurting(exam, need, travel, exam.flow, numbers, hurts)
        return
    asks, comparison = _asked(need, travel)
    why = ", but the task is learned" if exam.solved else ""
    if need.lag > travel.reach and not exam.solved:
        exam.notes.append(f"Vanishing may hurt later: {asks}, but most of what is left to learn is nearer.")
        return
    numbers |= {"reach": travel.reach, "share_at_need": travel.at(need.lag)}
    chart = by_lag(exam, _TITLE)
    yield Finding(Kind.VANISHING_HARMLESS, f"{asks}{why}.", numbers, comparison + why, chart=chart)


_TITLE = "What the data asks for, and what is left of the gradient"


def _asked(need: Need, travel: Travel, whose: str = "") -> tuple[str, str]:
    """Need and reach, in words and as a comparison."""
    fraction, sign = THRESHOLDS.reach_fraction.value, ">" if need.lag > travel.reach else "<="
    most = "at most " if need.at_most else ""
    return (
        f"the data asks for {most}{counted(need.lag, 'step')} of memory; {fraction:.0%} of the gradient{whose} is left "
        f"after {counted(travel.reach, 'step')}",
        f"need {need.lag} {sign} reach {travel.reach:.0f}",
    )


def _hurting(
    exam: Examination,
    need: Need,
    travel: Travel,
    flow: GradientFlow,
    numbers: dict[str, float],
    why: str,
    whose: str = "",
) -> Finding:
    (asks, comparison), cause = _asked(need, travel, whose), _cause(flow, travel, need.lag)
    return Finding(
        Kind.VANISHING_HURTS,
        f"{asks}, and {travel.at(need.lag):.1g} of it after {need.lag}. {cause.message}",
        numbers | {"reach": travel.reach, "share_at_need": travel.at(need.lag)} | cause.numbers,
        f"{comparison} and {why}",
        ruled_out=(*cause.ruled_out, "nothing to remember: the signal at that lag is not chance"),
        chart=by_lag(exam, _TITLE),
    )


def _hurts(exam: Examination, need: Need, travel: Travel, numbers: dict[str, float]) -> str:
    """The part of the rule that says that vanishing keeps the network from learning; empty if it does not."""
    if exam.solved:
        return ""
    if unlearned := exam.unlearned:
        if exam.record.updates:
            numbers["middle"] = exam.middle
            beyond = f"half of the signal at lag {exam.middle} or beyond > reach {travel.reach:.0f}"
            return f"{beyond}, and {unlearned}" if exam.middle > travel.reach else ""
        risk, least = exam.risk, THRESHOLDS.prognosis_risk.value
        numbers["risk"] = risk
        return f"risk {risk:.0%} > {least:.0%} before training" if risk > least else ""
    peak = exam.left.peak
    if peak is None or peak <= travel.reach:
        return _left_beyond(exam, travel, numbers)
    numbers["left_peak"] = peak
    return (
        f"what is left to learn is clearest at lag {peak} > reach {travel.reach:.0f}, with loss "
        f"{exam.progress.remaining:.0%} of chance > {THRESHOLDS.solved_share.value:.0%}"
    )


def _left_beyond(exam: Examination, travel: Travel, numbers: dict[str, float]) -> str:
    """The same where no gradient shows it: the errors are predicted from the inputs directly."""
    found, least = exam.remainder, THRESHOLDS.left_share.value
    beyond = int(travel.reach) + 1
    share = 0.0 if found is None else found.explained(beyond)
    if found is None or found.pooled or not share * exam.progress.remaining > least:
        return ""
    lag = found.clearest(beyond)
    numbers |= {"left_lag": lag, "left_share": share}
    return (
        f"inputs of {beyond} steps ago and more explain {share:.0%} of the errors that are left (the clearest of "
        f"{counted(lag, 'step')} ago), {share * exam.progress.remaining:.0%} > {least:.0%} of chance"
    )


def _stuck_from_start(exam: Examination, numbers: dict[str, float]) -> str:
    """The same of a network that has learned only what needs no sequence, such as which targets come at which step.

    Its gradient may reach further by now, but as training began it did not, and nothing else was learned since.
    """
    if not exam.record.updates or exam.solved or exam.unlearned:
        return ""
    peak, share = exam.left.peak, exam.left.error_share or 0.0
    risk, least, most = exam.risk_from(exam.start), THRESHOLDS.prognosis_risk.value, THRESHOLDS.unlearned_share.value
    if peak is None or not peak > exam.start.reach or not share**2 > most or not risk > least:
        return ""
    numbers |= {"left_peak": peak, "risk": risk, "error_share": share**2}
    return (
        f"risk {risk:.0%} > {least:.0%} before training; of the errors that differ between sequences {share**2:.0%} > "
        f"{most:.0%} are left, the clearest at lag {peak}"
    )


@dataclass(frozen=True)
class _Cause:
    """Why a gradient shrinks: what each factor does to it per step."""

    message: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    ruled_out: tuple[str, ...] = ()


def _cause(flow: GradientFlow, travel: Travel, need: int) -> _Cause:
    """Split the shrinking of the gradient into saturation, weights and gates."""
    known = flow.linearization
    run = None if known is None else known.runs.get(travel.layer)
    end = int(travel.reach)
    if run is None or not travel.at(end) > 0:
        return _Cause()
    growth = travel.at(end) ** (1 / max(1, end))
    return _of_weights(flow, travel, growth) if run.cell.vanilla else _of_gates(flow, run, travel.layer, growth, need)


def _of_weights(flow: GradientFlow, travel: Travel, growth: float) -> _Cause:
    saturation, bounds = flow.saturation(travel.layer), flow.bounds(travel.layer)
    slope = saturation.derivative
    part = min(1.0, max(0.0, math.log(slope) / math.log(growth))) if 0 < slope < 1 and growth < 1 else 0.0
    numbers = {"growth": growth, "derivative": slope, "radius": bounds.radius, "norm": bounds.norm}
    numbers |= {"part_of_saturation": part, "part_of_weights": 1 - part}
    name = "mean f′" if saturation.nonlinearity == "tanh" else "share of active ReLU units"
    weights = f"the recurrent weights (spectral radius {bounds.radius:.2g}, norm {bounds.norm:.2g})"
    saturated = part > THRESHOLDS.main_cause.value
    cause = "saturated units" if saturated else weights
    other = weights if saturated else f"saturation: {name} {slope:.2g}"
    return _Cause(
        f"It shrinks to ×{growth:.2g} per step, mostly by {cause} ({part if saturated else 1 - part:.0%} of the "
        f"decay; {name} {slope:.2g}).",
        numbers,
        (
            f"not {other}, which explains {1 - part if saturated else part:.0%} of the decay",
            "not gates: there are none",
        ),
    )


def _of_gates(flow: GradientFlow, run: Trajectory, label: str, growth: float, need: int) -> _Cause:
    keeper = memory(run)
    times = np.asarray(keeper.time_constant)
    alone = float(np.mean(np.exp(-need / np.maximum(times, 1e-9))))
    kept = float(np.exp(-1 / np.maximum(np.quantile(times, 0.9), 1e-9)))
    part = min(1.0, math.log(kept) / math.log(growth)) if 0 < kept < 1 and growth < 1 else 0.0
    numbers = {"growth": growth, "gate": keeper.mean, "share_through_gates": alone, "part_of_gates": part}
    slope = flow.saturation(label).derivative
    numbers["derivative"] = slope
    shut = alone < THRESHOLDS.reach_fraction.value
    name = f"gate {run.cell.keeper}" if run.cell.keeper else "what the gates leave of the state before"
    gates = f"{name} (mean {keeper.mean:.2g}; alone it would leave {alone:.1g} after {need} steps)"
    candidate = f"not saturation: mean f′ of the candidate {slope:.2g}"
    if shut:
        return _Cause(f"It shrinks to ×{growth:.2g} per step: {gates} keeps too little.", numbers, (candidate,))
    return _Cause(
        f"It shrinks to ×{growth:.2g} per step, on its way into the memory, not in it.", numbers, (f"not {gates}",)
    )


def by_lag(exam: Examination, title: str) -> Chart:
    """The gradient by lag of the network, next to how consistent the signal of each lag is, where that is known."""
    travel = exam.travel
    curves = [_curve(f"gradient ({travel.layer})", travel.lags, travel.share)]
    marks = {} if math.isinf(travel.reach) else {"reach": travel.reach}
    try:
        need = exam.need
    except FlowError:  # the rules that need it report the reason
        need = None
    if need is not None:
        curves.append(
            _curve("signal (consistency)", need.lags, np.where(need.consistency > 0, need.consistency, np.nan))
        )
        marks["need"] = need.lag
    return Chart(title, "lag (steps)", "share of the first lag; consistency", curves, log=True, marks=marks)


def _curve(label: str, x: Array, y: Array) -> Curve:
    return Curve(label, [float(v) for v in x], [float(v) if math.isfinite(v) and v > 0 else None for v in y])


def no_signal(exam: Examination) -> Iterable[Finding]:
    """The task is not learned, and no lag has a signal."""
    asked, unlearned = exam.asked, exam.unlearned
    sizes = [float(np.nanmax(signal.size, initial=0.0)) for signal in asked.layers]
    if exam.ahead[0] or exam.need is not None or not unlearned:
        return
    if asked.constant or not max(sizes, default=0.0) > 0:
        raise FlowError("No gradient differs between sequences, so what the data asks for is not known.")
    count = sum(int((~np.isnan(signal.p_value)).sum()) for signal in asked.layers)
    least_effect = _least_effect(asked.sequences, max(1, count))
    together = ""
    if asked.joint is None or not asked.joint.found:
        if least_effect > THRESHOLDS.least_effect.value:
            raise FlowError(
                f"{asked.sequences:,} sequences are too few to say that there is no signal: a lag that explains less "
                f"than {least_effect:.0%} of the errors is not seen."
            )
    else:
        together = f" A test of dependence shows that targets depend on the inputs: {asked.joint}."
    least = min((float(np.nanmin(s.p_value)) for s in asked.layers if not np.isnan(s.p_value).all()), default=1.0)
    yield Finding(
        Kind.NO_FIRST_ORDER_SIGNAL,
        f"no lag has a gradient that {asked.sequences:,} sequences agree on: the targets are noise, or depend on "
        f"several steps only together, or a signal is so weak that it explains less than {least_effect:.1%} of the "
        f"errors, the least that so many sequences show.{together}{_read(exam)}",
        {
            "sequences": asked.sequences,
            "p_value": least,
            "least_effect": least_effect,
            "remaining": exam.progress.remaining,
        },
        f"p {least:.2g} >= {THRESHOLDS.alpha.value:g} at every lag, and {unlearned}",
        ruled_out=("a gradient that does not arrive: its size is not 0", f"a solved task: {unlearned}"),
    )


def _read(exam: Examination) -> str:
    """What the first layer took for time: where input, losses and layer agree, no measurement can tell a wrong axis."""
    call = next((call for call in exam.answer.calls if not isinstance(call.given, PackedSequence)), None)
    if call is None or call.given.ndim != 3:
        return ""
    name, first = call.name or type(call.module).__name__, getattr(call.module, "batch_first", False)
    return (
        f" {name} (batch_first={first}) read {call.steps} steps of {call.batch} sequences: if it should be "
        f"{call.batch} steps of {call.steps}, exchange these axes."
    )


def _least_effect(sequences: int, lags: int) -> float:
    """Share of the errors' variance that a lag must explain to be significant: z² / n for a correlation of n pairs."""
    return NormalDist().inv_cdf(1 - THRESHOLDS.alpha.value / (2 * lags)) ** 2 / sequences


def truncation(exam: Examination) -> Iterable[Finding]:
    """Truncated BPTT leaves out lags that the data asks for, and so points elsewhere, or leaves out most of them."""
    length, need = exam.record.bptt, exam.need
    if length is None or need is None or exam.solved or need.lag < length or length >= exam.steps:
        return
    found, least = exam.flow.truncation(), THRESHOLDS.truncation_cosine.value
    cosines = np.cos(np.radians(found.angle))
    cosine = float(cosines[np.searchsorted(found.length, length)])
    # The cosine is of a gradient that is mostly noise, and large at short lags; the signal says what it is to teach.
    beyond = need.middle >= length
    if not cosine < least and not beyond:
        return
    shortest = found.shortest(least)
    half = f"half of the signal is at lag {need.middle} or beyond" if beyond else ""
    seen = f" (it may ask for more: {exam.steps} steps were looked at)" if exam.steps <= 2 * length else ""
    rule = f"cosine {cosine:.3g} < {least:g}" if cosine < least else half
    yield Finding(
        Kind.TRUNCATION,
        f"gradients are cut off after {length} steps, and the data asks for {need.lag}{seen}{half and f': {half}'}; "
        f"the gradient of training has cosine {cosine:.2g} with the full one. Its share is complete to {least:.0%} "
        f"from {shortest} steps on.",
        {"bptt": length, "need": need.lag, "middle": need.middle, "cosine": cosine, "shortest": shortest},
        f"need {need.lag} >= bptt {length} and {rule}",
        ruled_out=(f"nothing to learn beyond {length} steps: there is a signal up to lag {need.lag}",),
        chart=Chart(
            "Cosine of the truncated with the full gradient",
            "length of truncated BPTT (steps)",
            "cosine",
            [_curve("cosine", found.length.astype(float), cosines)],
            marks={"bptt": length, "need": need.lag},
        ),
    )


def one_direction(exam: Examination) -> Iterable[Finding]:
    """At the lag to be remembered the gradient arrives in the best direction, but in fewer than the errors have."""
    lag, why = _lag_to_learn(exam)
    travel = exam.travel
    if lag < 1 or exam.flow.linearization is None:
        return
    run = exam.flow.linearization.runs.get(travel.layer)
    if run is None or run.reverse:
        return
    if run.state_size > WIDEST:
        raise FlowError(f"A state of {run.state_size} numbers is too large to multiply its Jacobians.")
    run = run.reordered(torch.arange(min(SPECTRA, run.batch_size), device="cpu"))
    last = run.steps - 1 if run.mask is None else int(run.mask.sum(0).min()) - 1
    if last - lag < -1:
        return
    logarithms = jacobians.log_singular_values(run, last - lag, last)
    with np.errstate(invalid="ignore"):  # where nothing arrives, no direction has a share
        relative = np.exp(logarithms - logarithms[:, :1])
    least, best = THRESHOLDS.direction_share.value, float(np.median(np.exp(logarithms[:, 0])))
    arriving = float(np.median((relative >= least).sum(1)))
    asked, second = exam.error_directions, float(np.median(relative[:, 1])) if relative.shape[1] > 1 else 0.0
    gap, most = second ** (1 / lag), THRESHOLDS.direction_gap.value
    # Of all directions that shrink alike none is left: the gradient vanishes.
    if not best >= THRESHOLDS.reach_fraction.value and not gap <= most:
        return
    if math.isnan(asked) or arriving + 0.5 > asked or not np.isfinite(relative).all():
        return
    alone = f"the first keeps {best:.2g} over {lag} steps"
    yield Finding(
        Kind.ONE_DIRECTION,
        f"over {lag} steps the gradient arrives in {arriving:.0f} of {run.state_size} directions of the state, "
        f"and the errors have {asked:.1f}: the second is {second:.1g} of the first, so most of what is to be "
        "remembered is lost.",
        {"directions": arriving, "asked": asked, "first": best, "second": second, "need": lag}
        | {"condition": 1 / max(second, 1e-300)},
        f"directions above {least:.0%} of the largest {arriving:.0f} < {asked:.1f} of the errors, and {why}",
        ruled_out=(
            f"vanishing in all directions: {alone}"
            if best >= THRESHOLDS.reach_fraction.value
            else f"vanishing in all directions alike: {alone}, the second loses {1 - gap:.0%} more at every step",
        ),
        chart=Chart(
            f"Singular values of the Jacobians' product over {lag} steps",
            "direction",
            "share of the largest",
            [_curve("median over sequences", np.arange(1.0, relative.shape[1] + 1), np.median(relative, 0))],
            log=True,
        ),
    )


def _lag_to_learn(exam: Examination) -> tuple[int, str]:
    """The lag that is to be learned, and why: the need, or, of a task that is learned in part, where most is left."""
    if unlearned := exam.unlearned:
        return (0 if exam.need is None else exam.need.lag), unlearned
    unsolved, remaining = exam.progress.above(THRESHOLDS.unsolved_share.value), exam.progress.remaining
    if not unsolved or exam.need is None:
        return 0, ""
    lag = min(exam.left.peak or 0, exam.need.lag)
    # A signal may be significant and not worth a step; what is left may be noise.
    share = 1.0 if exam.remainder is None else exam.remainder.explained(lag)
    if not share * remaining > THRESHOLDS.left_share.value:
        return 0, ""
    return lag, f"{unsolved}, clearest at lag {exam.left.peak}"


def curse(exam: Examination) -> Iterable[Finding]:
    """The gradient of the states is calm, that of the recurrent weights is huge because the memory is long."""
    unlearned, travel, calm = exam.unlearned, exam.travel, THRESHOLDS.calm_growth.value
    if not unlearned or travel.growth > calm or exam.flow.linearization is None:
        return
    label = travel.layer
    if label not in exam.flow.linearization.runs:
        return
    memory = float(np.median(1 / np.maximum(1e-9, -np.expm1(2 * exam.exponents[label]))))  # 1 / (1 - λ²)
    span = min(memory, exam.steps)
    if span < THRESHOLDS.long_memory.value:
        return
    own = exam.flow.contributions(exam.flow.weight(label))
    first = float(own.norm[np.flatnonzero(own.norm)[0]]) if own.norm.any() else math.nan
    whole = float(np.abs(np.sum(own.cosine * own.norm, where=np.isfinite(own.cosine))))
    amplified, sensitivity, huge = (
        whole / first,
        _sensitivity(exam, exam.flow.weight(label)),
        THRESHOLDS.sensitivity.value,
    )
    if not amplified > THRESHOLDS.amplified.value or not sensitivity > huge:
        return
    yield Finding(
        Kind.CURSE_OF_MEMORY,
        f"units remember for {memory:.0f} steps (1 / (1 − λ²)), the gradient of the states grows at most to "
        f"×{travel.growth:.2g}, but that of the recurrent weights is {amplified:.0f} times its part of one lag: the "
        f"parts of all lags add up. Its variance goes as (1 − λ²)^-3 = {span**3:.1g}: recurrent weights that change by "
        f"0.1 % change the loss by {sensitivity / 1000:.0%}.",
        {
            "memory": memory,
            "amplified": amplified,
            "growth": travel.growth,
            "cube": span**3,
            "sensitivity": sensitivity,
        },
        f"memory {span:.0f} > {THRESHOLDS.long_memory.value:g} steps, parameter gradient ×{amplified:.0f} > "
        f"{THRESHOLDS.amplified.value:g} and {sensitivity:.3g} > {huge:g} relative to weights and "
        f"loss, state gradient ×{travel.growth:.2g} <= {calm:g}, and {unlearned}",
        ruled_out=(f"exploding states: their gradient grows to ×{travel.growth:.2g}",),
        chart=Chart(
            "Gradient of the recurrent weights by lag",
            "lag (steps)",
            "size, compared with the first",
            [
                _curve("parameter", np.asarray(own.lags, dtype=float), own.norm / first),
                _curve("state", travel.lags, travel.share),
            ],
            log=True,
        ),
    )


def _sensitivity(exam: Examination, name: str) -> float:
    """Relative change of the loss over that of a weight that changes along its gradient: ‖∂E/∂W‖ · ‖W‖ / E."""
    sample, weight = exam.samples[0], exam.model.get_parameter(name)
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        losses = ask(sample.inputs, sample.loss).losses
        mean = losses[losses != 0].mean()
        if not mean.requires_grad or not weight.requires_grad:
            return math.nan
        (gradient,) = torch.autograd.grad(mean, weight)  # the flow has seen that it is used
    return float(gradient.double().norm() * weight.detach().double().norm() / mean.detach().abs().clamp_min(1e-30))


def targets_ahead(exam: Examination) -> Iterable[Finding]:
    """Targets by step that later inputs tell, in a network that sees only earlier ones."""
    ahead, share = exam.ahead
    if not ahead:
        return
    later, least = counted(ahead, "step"), THRESHOLDS.ahead_share.value
    yield Finding(
        Kind.TARGETS_AHEAD,
        f"the input {later} later tells most of the target of a step (later inputs explain {share:.0%}), and those up "
        "to the step nearly nothing. If each target belongs to an input, the targets are shifted: shift them back by "
        f"{later}, or let the layer run in both directions. If they are a forecast, inputs up to now do not tell it.",
        {"ahead": ahead, "share": share},
        f"explained by later inputs {share:.0%} > {least:.0%}, not by earlier ones, and {exam.unlearned}",
        ruled_out=(f"a solved task: {exam.unlearned}",),
    )


RULES = (targets_ahead, vanishing, no_signal, truncation, one_direction, curse)
