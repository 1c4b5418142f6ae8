"""Is the training itself in order? Clipping, and the learning rate at the curvature of the loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import FlowError
from ...flow import gradient_flow, sequence_gradients
from ...flow.clip import replayed
from ...words import counted
from ..attempts import Recipe, attempt, updates_within
from ..examination import Examination, Sample
from ..findings import Chart, Curve, Finding, Kind
from ..forward import answers
from ..record import TrainingRecord
from ..thresholds import THRESHOLDS

_BATCHES = 8  # whose gradient norms are measured before training
_ITERATIONS = 30  # products with the Hessian
_SETTLED, _ALIKE = 1e-4, 4  # share by which so many of its estimates in turn may differ at the end
_NOTHING_LEFT = 1e-5  # share of the largest product: what is left is rounding
_FOLLOWED = 128  # sequences of which each has its gradient measured
_RATES = 5  # most learning rates of a trial, each a tenth of the one before
_SECONDS = 5.0  # longest time of a trial, and of the curvature


def _norms(record: TrainingRecord) -> list[float]:
    return [norm for norm in record.gradient_norms if math.isfinite(norm)]


def _chart(record: TrainingRecord, norms: Sequence[float]) -> Chart:
    updates = [float(i) for i in range(len(norms))]
    clip = float(record.clip_norm or 0)
    curves = [Curve("norm", updates, list(norms)), Curve("threshold", updates, [clip] * len(norms))]
    return Chart("Gradient norm and clipping", "update", "norm before clipping", curves, log=True)


def memorized(exam: Examination) -> Iterable[Finding]:
    """Other sequences than those of the training are predicted worse than by a constant answer."""
    record = exam.record
    if record.validation_loss is None or not record.updates:
        return
    chance = exam.progress.chance if record.chance is None else record.chance
    remaining, learned = exam.progress.remaining, THRESHOLDS.memorized_share.value
    if not record.validation_loss >= chance or not remaining < learned:
        return
    yield Finding(
        Kind.MEMORIZED,
        f"the loss is {record.validation_loss:.3g} on sequences that training did not see, where a constant answer has "
        f"{chance:.3g}, and {remaining * chance:.3g} on those that it saw. More sequences, a smaller "
        "network, dropout, weight decay or an earlier end may help; more memory does not.",
        {"validation_loss": record.validation_loss, "chance": chance, "remaining": remaining},
        f"loss {record.validation_loss:.3g} >= {chance:.3g} held out, and {remaining:.0%} < {learned:.0%} of "
        "chance in training",
        ruled_out=("not the gradient: the sequences of the training are learned",),
    )


# --- Clipping --------------------------------------------------------------------------------------------------------


def clipping(exam: Examination) -> Iterable[Finding]:
    """The recorded gradient norms against the threshold: never above it, always above it, or above it in spikes.

    Before training, those of the first batches stand for those to come, if it is known how many updates are planned.
    """
    record, norms = exam.record, _norms(exam.record)
    if not record.clip_norm:
        return
    clip, planned = float(record.clip_norm), 0
    if record.updates == 0 and record.planned:
        norms, planned = first_norms(exam), record.planned
    if len(norms) < 2:
        return
    clipped = float(np.mean([norm > clip for norm in norms]))
    median, largest = float(np.median(norms)), max(norms)
    numbers = {"clip_norm": clip, "clipped": clipped, "median": median, "largest": largest}
    if planned:
        yield from _too_tight(exam, norms, clip, numbers, planned)
        return
    if not clipped:
        yield Finding(
            Kind.CLIPPING_NEVER_ACTIVE,
            f"the largest of {len(norms)} gradient norms was {largest:.3g}, below the threshold {clip:g}.",
            numbers,
            f"largest norm {largest:.3g} <= {clip:g}",
            chart=_chart(record, norms),
        )
        return
    yield from _too_tight(exam, norms, clip, numbers, len(norms))
    factor, most = THRESHOLDS.spike.value, THRESHOLDS.spikes_share.value
    spikes = float(np.mean([norm > factor * median for norm in norms]))
    if largest > clip and 0 < spikes <= most:
        which = _spiking(exam)
        yield Finding(
            Kind.CLIPPING_HIDES_SPIKES,
            f"{spikes:.1%} of the gradient norms are above {factor:g} times the median {median:.3g} (the largest is "
            f"{largest:.3g}), and are clipped to {clip:g}. {which}",
            numbers | {"spikes": spikes},
            f"norms above {factor:g} times the median in {spikes:.1%} <= {most:.0%} of the updates",
            chart=_chart(record, norms),
        )


def first_norms(exam: Examination) -> list[float]:
    """Norms of the gradients of the first batches, with the weights as they are."""
    parameters, found = [p for p in exam.model.parameters() if p.requires_grad], list[float]()
    for sample in exam.samples[:_BATCHES]:
        with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
            losses = ask(sample.inputs, sample.loss).losses
            scored = losses[losses != 0]
            if not parameters or not scored.requires_grad or not scored.numel():
                return []
            gradients = torch.autograd.grad(scored.mean(), parameters, allow_unused=True)
        found.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None)))
    return [norm for norm in found if math.isfinite(norm)]


def _too_tight(
    exam: Examination, norms: Sequence[float], clip: float, numbers: dict[str, float], updates: int
) -> Iterable[Finding]:
    """Nearly every gradient is clipped, and the steps that remain cannot take the weights anywhere."""
    record, most, least = exam.record, THRESHOLDS.clipped_share.value, THRESHOLDS.path_share.value
    unsolved = exam.progress.above(THRESHOLDS.unsolved_share.value)
    if not unsolved or numbers["clipped"] < most or record.lr is None:
        return
    size = _size(exam.model)
    if record.is_adaptive:  # which divides by the norm, unless its constant is larger
        count = sum(p.numel() for p in exam.model.parameters())
        each, what = clip / math.sqrt(count), "Adam's constant"
        if each > _EPSILON * 10:
            return
        rule = f"clipped gradients {each:.1g} a parameter <= 10 × {what} {_EPSILON:g}"
        numbers = numbers | {"each": each}
    else:
        path = record.lr / (1 - record.momentum) * updates * float(np.mean([min(norm, clip) for norm in norms]))
        whole = record.lr / (1 - record.momentum) * numbers["median"] / size
        if path >= least * size or whole > 1:  # without clipping, one update would replace the weights
            return
        rate = _rate(exam)
        if rate is not None and rate.ratio > 1:  # longer steps would overshoot
            return
        rule = f"path {path:.2g} < {least:.0%} of the weights' norm {size:.3g}"
        numbers = numbers | {"path": path, "weights": size}
    yield Finding(
        Kind.CLIPPING_TOO_TIGHT,
        f"{numbers['clipped']:.0%} of the gradients {'are' if record.updates == 0 else 'were'} scaled down to {clip:g} "
        f"(median {numbers['median']:.3g}): {rule} in {updates:,} updates, so that training cannot take the network "
        "anywhere. Raise the threshold.",
        numbers,
        f"clipped {numbers['clipped']:.0%} >= {most:.0%}, {rule}, and {unsolved}",
        ruled_out=(
            f"a network that learned all the same: {unsolved}",
            "a gradient that has to be clipped: without, an update would be smaller than the weights and not overshoot",
        ),
        chart=_chart(record, norms),
    )


_EPSILON = 1e-8  # torch's default in Adam


def _spiking(exam: Examination) -> str:
    """Which sequences of the first sample have gradients far above the others', and at which lags."""
    whole, factor = exam.answer.sequences <= _FOLLOWED, THRESHOLDS.spike.value
    sample = exam.samples[0] if whole else exam.few
    try:
        found = sequence_gradients(exam.model, *sample.inputs, loss=sample.loss).exploding(factor)
        if not found:
            looked = "" if whole else "that was looked at "
            return f"With the present weights, no sequence of the first batch {looked}has {factor:g} times the median."
        if not whole:
            some = counted(len(found), "sequence", "has")
            return f"Of some sequences of the first batch that were looked at, {some} {factor:g} times the median."
        names = ", ".join(f"{name} ({norm:.3g})" for name, norm in found[:3])
        flow = gradient_flow(exam.model, *sample.inputs, loss=sample.loss, reduce="none")
        lags = flow.by_lag()[0]  # (lags, B)
    except FlowError as error:
        return f"Which sequences cause them is not known: {error}"
    own = lags[:, int(found[0][0])]
    with np.errstate(invalid="ignore", divide="ignore"):
        above = np.flatnonzero(own > factor * np.nanmedian(lags, axis=1))
    where = f"lags {above[0]} to {above[-1]}" if len(above) else "no lag by itself"
    return f"In the first batch: sequences {names}; the first is {factor:g} times the median of the others at {where}."


# --- The learning rate -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rate:
    """A learning rate next to the curvature."""

    sharpness: float  # largest eigenvalue of the Hessian of the mean loss, in Adam's own scale for Adam
    edge: float  # above which updates overshoot

    @property
    def ratio(self) -> float:
        return self.sharpness / self.edge


def learning_rate(exam: Examination) -> Iterable[Finding]:
    """A loss that does not settle, and updates that overshoot: by the curvature, or by a trial at smaller rates."""
    record = exam.record
    if record.lr is None or not record.optimizer:
        return
    unsolved = exam.progress.above(THRESHOLDS.unsolved_share.value)
    unsettled = exam.unsettled
    if not unsolved or not (unsettled or not record.updates):
        return
    # Weights that were thrown too far say little about the rate that suits the start, and may not be trained at any.
    thrown = record.updates and exam.progress.above(THRESHOLDS.rise.value)
    trial = _trial(exam.untrained, exam, trained=False, seen=True) if thrown else None
    if trial is None:
        trial = _trial(exam.model, exam, trained=bool(record.updates))
    if trial is None and record.updates and not thrown:
        trial = _trial(exam.untrained, exam, trained=False, seen=True)
    if trial is not None:
        yield _overshoots(exam, _rate(exam), trial, unsettled, unsolved)


def learning_rate_from_start(exam: Examination) -> Iterable[Finding]:
    """Where training has spoiled the weights: whether it does so again from the start, and not at a smaller rate."""
    record = exam.record
    if record.lr is None or not exam.unusable or not record.updates:
        return
    trial = _trial(exam.untrained, exam, trained=False)
    if trial is not None:
        yield _overshoots(exam, None, trial, "values became NaN or infinite", "not solved")


def _overshoots(exam: Examination, rate: _Rate | None, trial: _Trial, unsettled: str, unsolved: str) -> Finding:
    record = exam.record
    lr = float(record.lr or 0)
    numbers = {"lr": lr, "better_lr": trial.better, "loss": trial.losses[lr], "loss_better": trial.losses[trial.better]}
    if record.clip_norm is None and (exam.unusable or record.diverged):  # values that were thrown away once
        clipped = replayed(trial.norms[trial.better])
        numbers |= {} if clipped is None else {"clip": clipped.threshold}
    curvature = ""
    if rate is not None:
        numbers |= {"sharpness": rate.sharpness, "edge": rate.edge}
        curvature = f" The sharpness is {rate.sharpness:.3g}, the edge of stability {rate.edge:.3g}."
    return Finding(
        Kind.LEARNING_RATE_TOO_HIGH,
        f"{trial.updates} updates from {'these' if trial.trained else 'the initial'} weights at the learning rate "
        f"{lr:g} end at a loss of {trial.losses[lr]:.3g}, at {trial.better:g} at {trial.losses[trial.better]:.3g}."
        f"{f' In training, {unsettled}.' if unsettled else ''}{curvature}",
        numbers,
        f"trial at {lr:g} / trial at {trial.better:g} = {trial.gain:.3g} > {THRESHOLDS.rate_gain.value:g}, and "
        f"{unsettled or unsolved}",
        ruled_out=(f"a loss that settles: {unsettled or 'no updates were made'}",),
        chart=_losses(record),
    )


def _losses(record: TrainingRecord) -> Chart | None:
    losses = [loss if math.isfinite(loss) else None for loss in record.losses]
    curve = Curve("loss", [float(i) for i in range(len(losses))], losses)
    return Chart("Training loss", "update", "loss", [curve]) if losses else None


def learning_rate_too_low(exam: Examination) -> Iterable[Finding]:
    """Updates so short that all of them cannot take the weights anywhere, where longer ones lower the loss."""
    record, updates = exam.record, exam.record.updates or exam.record.planned or 0
    if record.lr is None or not record.optimizer:
        return
    if updates < THRESHOLDS.fewest_updates.value or not (unlearned := exam.unlearned):
        return
    if exam.progress.above(THRESHOLDS.peak.value):  # which has another cause: every way down is long then
        return
    size, path, least = _size(exam.model), _path(exam, updates), THRESHOLDS.path_share.value
    if not 0 < path < least * size:
        return
    trial = _longer_steps(exam, path / updates, least * size)
    if trial is None or not trial.gain > THRESHOLDS.rise.value:
        return
    lr, better = record.lr, trial.better
    yield Finding(
        Kind.LEARNING_RATE_TOO_LOW,
        f"in {updates:,} updates at the learning rate {lr:g} the weights {'went' if record.updates else 'can go'} "
        f"{path:.2g} at most, {path / size:.2g} of their norm. {trial.updates} updates from these weights end at a "
        f"loss of {trial.losses[lr]:.3g} at this rate, at {better:g} at {trial.losses[better]:.3g}. Raise it, or make "
        "many more updates.",
        {"lr": lr, "better_lr": better, "path": path, "weights": size, "loss": trial.losses[lr]}
        | {"loss_better": trial.losses[better]},
        f"path {path:.2g} < {least:.0%} of the weights' norm {size:.3g}, trial at {lr:g} / trial at {better:g} = "
        f"{trial.gain:.3g} > {THRESHOLDS.rise.value:g}, and {unlearned}",
        ruled_out=("clipping: the path is that of gradients as they are",),
        chart=_losses(record),
    )


def _size(model: nn.Module) -> float:
    """Norm of all weights."""
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in model.parameters()))


def _path(exam: Examination, updates: int) -> float:
    """The longest way that so many updates can go, without clipping; 0 where it is not known.

    Adam moves every parameter by the learning rate at most (about), SGD by the learning rate times the gradient.
    """
    record, lr = exam.record, float(exam.record.lr or 0)
    if record.is_adaptive:
        return lr * updates * math.sqrt(sum(p.numel() for p in exam.model.parameters() if p.requires_grad))
    norms = _norms(record) or first_norms(exam)
    return lr / (1 - record.momentum) * updates * float(np.mean(norms)) if norms else 0.0


def _longer_steps(exam: Examination, each: float, way: float) -> _Trial | None:
    """Updates at the learning rate, at that with which they could go so far, and at larger ones; None if it fails."""
    lr = float(exam.record.lr or 0)
    recipe = Recipe.of(exam.record, lr)
    updates = updates_within(_SECONDS / _RATES, exam.model, exam.samples, recipe)
    first = max(1, math.ceil(math.log10(way / (each * updates))))
    tried = {
        rate: attempt(exam.model, exam.samples, replace(recipe, lr=rate), updates)
        for rate in (lr, *(lr * 10 ** (first + k) for k in range(_RATES - 2)))
    }
    if not all(one.losses for one in tried.values()):
        return None
    ends = {rate: one.end for rate, one in tried.items()}
    return _Trial(bool(exam.record.updates), updates, ends, lr, {rate: one.norms for rate, one in tried.items()})


@dataclass(frozen=True)
class _Trial:
    """Updates of a network at the learning rate of the training and at others."""

    trained: bool
    updates: int
    losses: dict[float, float]  # at the end, by learning rate; infinite where not finite
    lr: float
    norms: dict[float, list[float]]  # of the gradients, by learning rate

    @property
    def better(self) -> float:
        """The learning rate with the lowest loss."""
        return min(self.losses, key=lambda lr: self.losses[lr])

    @property
    def gain(self) -> float:
        return self.losses[self.lr] / max(self.losses[self.better], 1e-30)


def _trial(model: nn.Module, exam: Examination, *, trained: bool, seen: bool = False) -> _Trial | None:
    """Train copies of a network for a few updates at several rates, on the samples; None if the rate does no harm.

    It does where a smaller one is clearly better; before training, it must also make the loss worse. That is enough
    where training is ``seen`` to do so: chance is the least that a few updates can come back to. The loss may also
    have come back there after it was thrown far above chance, if a smaller rate is clearly better.
    """
    lr = float(exam.record.lr or 0)
    found: dict[float, float] = {}
    norms: dict[float, list[float]] = {}
    back = False
    before, recipe = math.nan, Recipe.of(exam.record, lr)
    updates = updates_within(_SECONDS / _RATES, model, exam.samples, recipe)
    for rate in (lr / 10**k for k in range(_RATES)):
        tried = attempt(model, exam.samples, replace(recipe, lr=rate), updates)
        if not tried.losses:
            return None
        before, found[rate], norms[rate] = tried.losses[0], tried.end, tried.norms
        if rate == lr and not trained and found[rate] <= THRESHOLDS.rise.value * before:
            back = seen and max(tried.losses) > THRESHOLDS.peak.value * before
            if not back:
                return None
        best = min(found.values())
        if best < found[lr] and found[rate] > best:
            break
    own = _Trial(trained, updates, found, lr, norms)
    least = THRESHOLDS.rise.value if seen and not back else THRESHOLDS.rate_gain.value
    return own if math.isfinite(before) and own.gain > least else None


def _rate(exam: Examination) -> _Rate | None:
    """The largest eigenvalue of the Hessian of the mean loss; None where it cannot be computed, or not in seconds.

    It is of the first sample, or of some of its sequences if a whole one takes too long.
    """
    record, lr = exam.record, float(exam.record.lr or 0)
    sharpness = _sharpness(exam, exam.samples[0])
    if math.isnan(sharpness) and exam.few is not exam.samples[0]:
        sharpness = _sharpness(exam, exam.few)
    if not math.isfinite(sharpness):
        return None
    if record.is_adaptive:
        return _Rate(sharpness, THRESHOLDS.adam_edge.value / lr)
    return _Rate(sharpness, 2 * (1 + record.momentum) / lr)


def _sharpness(exam: Examination, sample: Sample) -> float:
    """The largest eigenvalue of the Hessian of a sample's mean loss, in the optimizer's own scale; NaN if not known."""
    try:
        with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
            parameters = [p for p in exam.model.parameters() if p.requires_grad]
            losses = ask(sample.inputs, sample.loss).losses
            scored = losses[losses != 0]
            gradient = torch.autograd.grad(scored.mean(), parameters, create_graph=True, allow_unused=True)
            used = [(p, g) for p, g in zip(parameters, gradient, strict=True) if g is not None]
            adaptive = exam.record.is_adaptive
            scale = _scales(exam.record, used) if adaptive else [torch.ones((), device="cpu") for _ in used]
            return _largest_eigenvalue(used, scale)
    except (RuntimeError, FlowError):  # no second derivative
        return math.nan


def _scales(record: TrainingRecord, used: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """1 / (sqrt(v) + ε)^½ of Adam by parameter: from its state, or the present gradient."""
    state = record.torch_optimizer.state if record.torch_optimizer else {}
    found = []
    for p, g in used:
        kept = state.get(p, {}).get("exp_avg_sq")
        second = g.detach().square() if kept is None else kept
        found.append((second.sqrt() + _EPSILON).rsqrt())
    return found


def _largest_eigenvalue(used: Sequence[tuple[Tensor, Tensor]], scale: list[Tensor]) -> float:
    """Of D H D for a diagonal D, by the Lanczos iteration with products of the Hessian and a vector.

    Rounding gives copies of eigenvalues that were found, which leave the largest as it is. NaN if it has not settled
    within some seconds of one core.
    """
    began = time.process_time()
    parameters, gradients = [p for p, _ in used], [g for _, g in used]
    generator = torch.Generator().manual_seed(0)
    v = _unit([torch.randn(p.shape, generator=generator, device="cpu").to(p) for p in parameters])[0]
    before, size = [torch.zeros_like(x) for x in v], 0.0
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    largest: list[float] = []  # by iteration
    while len(diagonal) < _ITERATIONS:
        dot = sum((g * (x * d)).sum() for g, x, d in zip(gradients, v, scale, strict=True))
        product = torch.autograd.grad(dot, parameters, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        hv = [torch.zeros_like(x) if h is None else h * d for h, x, d in zip(product, v, scale, strict=True)]
        own = sum(float((x * h).double().sum()) for x, h in zip(v, hv, strict=True))
        rest = [h - own * x - size * b for h, x, b in zip(hv, v, before, strict=True)]
        diagonal.append(own)
        before, (v, size) = v, _unit(rest)
        if not math.isfinite(own + size):
            return math.nan
        upper = np.diag(off_diagonal, 1)
        largest.append(float(np.linalg.eigvalsh(np.diag(diagonal) + upper + upper.T)[-1]))
        last = largest[-_ALIKE:]
        settled = len(last) == _ALIKE and max(last) - min(last) <= _SETTLED * abs(last[-1])
        if settled or size <= _NOTHING_LEFT * max(map(abs, diagonal)):
            break
        if time.process_time() - began > _SECONDS:
            return math.nan
        off_diagonal.append(size)
    return largest[-1]


def _unit(v: list[Tensor]) -> tuple[list[Tensor], float]:
    """Of length 1, and the length before."""
    size = math.sqrt(sum(float(x.double().square().sum()) for x in v))
    return [x / max(size, 1e-30) for x in v], size


RULES = (memorized, clipping, learning_rate, learning_rate_too_low)
