"""Are inputs, targets and outputs in a range that a network can work with?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..examination import Examination
from ..findings import Chart, Curve, Finding, Kind
from ..forward import Answer, answer, answers, changed, small_update, tensors
from ..thresholds import THRESHOLDS


def input_scale(exam: Examination) -> Iterable[Finding]:
    """Mean and standard deviation of every feature that the first recurrent layer gets, where the data are numbers."""
    unsolved = exam.progress.above(THRESHOLDS.unsolved_share.value)
    given = [leaf for sample in exam.samples for leaf in tensors(sample.inputs)]
    if not unsolved or not any(leaf.is_floating_point() for leaf in given):
        return  # tokens come from an embedding
    calls = [own.calls[0] for own in _answers(exam) if own.calls]
    if not calls:
        return
    rows = torch.cat([call.by_step.detach().double().flatten(0, -2) for call in calls])
    if not bool(torch.isfinite(rows).all()):
        return
    mean, std = rows.mean(0), rows.std(0)
    size, top = rows.square().mean(0).sqrt(), rows.abs().amax(0)
    large, small, offset = (t.value for t in (THRESHOLDS.large, THRESHOLDS.small, THRESHOLDS.offset))
    varies = std > 1e-6 * size.clamp_min(1e-30)
    if not bool(varies.any()):
        return  # nothing is given: see constant_output
    off = mean.abs() / std.clamp_min(1e-30)
    if bool((size > large).any()):
        worst = int(size.argmax())
        rule, fix = (
            f"size {float(size[worst]):.3g} > {large:g}",
            "Subtract the mean and divide by the standard deviation",
        )
    elif bool((top[varies] < small).all()):
        worst = int(top.argmax())
        rule, fix = f"largest value {float(top[worst]):.2g} < {small:g}", "Divide by the standard deviation"
    elif bool((off[varies] > offset).all()):
        worst = int(torch.where(varies, off, 0.0).argmax())
        rule, fix = f"|mean| / std {float(off[worst]):.3g} > {offset:g}", "Subtract the mean"
    else:
        return
    label = calls[0].name or type(exam.model).__name__
    features = [float(i) for i in range(len(mean))]
    yield Finding(
        Kind.INPUT_SCALE,
        f"input {worst} of {len(mean)} of {label} has mean {float(mean[worst]):.3g} and standard deviation "
        f"{float(std[worst]):.3g}. {fix}, by numbers of the training data.",
        {
            "feature": worst,
            "mean": float(mean[worst]),
            "std": float(std[worst]),
            "size": float(size[worst]),
            "remaining": exam.progress.remaining,
        },
        f"{rule}, and {unsolved}",
        calls[0].name,
        ruled_out=(f"a network that copes with it: {unsolved}",),
        chart=Chart(
            "Scale of the inputs",
            "input",
            "over sequences and steps",
            [
                Curve("|mean|", features, [float(v) for v in mean.abs()]),
                Curve("standard deviation", features, [float(v) for v in std]),
            ],
        ),
    )


def _answers(exam: Examination) -> list[Answer]:
    return [exam.answer, *(answer(exam.model, sample.inputs, sample.loss) for sample in exam.samples[1:4])]


def target_scale(exam: Examination) -> Iterable[Finding]:
    """Targets of a regression against the range in which the output starts."""
    unsolved = exam.progress.above(THRESHOLDS.unsolved_share.value)
    targets = _targets(exam)
    if not unsolved or targets is None:
        return
    sample = exam.samples[0]
    start = tensors(answer(exam.untrained, sample.inputs, sample.loss).output)[0].double()
    before = float(start.square().mean().sqrt()) if bool(torch.isfinite(start).all()) else 1.0
    mean, std, size = float(targets.mean()), float(targets.std()), float(targets.square().mean().sqrt())
    large, small = THRESHOLDS.large.value * max(1.0, before), THRESHOLDS.small.value
    if size > large:
        rule = f"size {size:.3g} > {large:.3g}"
    elif 0 < std < small and size < small:
        rule = f"size {size:.2g} < {small:g}"
    else:
        return
    yield Finding(
        Kind.TARGET_SCALE,
        f"the targets have mean {mean:.3g} and standard deviation {std:.3g}; the output starts at a size of "
        f"{before:.2g}. Train on (target - mean) / std, by numbers of the training data, and undo it in predictions.",
        {"mean": mean, "std": std, "size": size, "output": before, "remaining": exam.progress.remaining},
        f"{rule}, and {unsolved}",
        ruled_out=(f"a network that has reached them: {unsolved}",),
    )


def _targets(exam: Examination) -> Tensor | None:
    """The targets of a regression, all samples; None where there are none."""
    found = [sample.target for sample in exam.samples]
    if not all(isinstance(target, Tensor) and target.is_floating_point() for target in found):
        return None
    whole = torch.cat([target.detach().double().flatten() for target in found])
    return whole[torch.isfinite(whole)] if len(whole) > 1 else None


def constant_output(exam: Examination) -> Iterable[Finding]:
    """How much outputs differ between sequences, against how much the targets do."""
    unlearned, least = exam.progress.above(THRESHOLDS.unlearned_share.value), THRESHOLDS.constant_share.value
    own = exam.answer
    if not unlearned or own.sequences < 3 or not _data_vary(exam):
        return
    outputs = [leaf for leaf in tensors(own.output) if leaf.is_floating_point()]
    spreads = [spread for leaf in outputs if (spread := _spread(leaf, own)) is not None]
    target = exam.samples[0].target
    like = isinstance(target, Tensor) and target.is_floating_point() and bool(outputs)
    wanted = min((_spread(target, own) if like else None) or 1.0, 1.0)  # 1 is much for logits, and where outputs start
    if not spreads or max(spreads) >= least * wanted or _moves(exam):
        return
    states = max(
        (s for call in own.calls for t in tensors(call.output) if (s := _spread(t, own)) is not None), default=0.0
    )
    rounding = THRESHOLDS.rounding.value
    sizes = [_size(outputs), _size([t for call in own.calls for t in tensors(call.output)])]
    moves = all(spread > rounding * size for spread, size in zip((max(spreads), states), sizes, strict=True))
    if exam.record.updates and moves and exam.progress.remaining <= 1 + THRESHOLDS.solved_share.value:
        exam.notes.append("The output is nearly constant, and at the best constant: training found nothing better.")
        return
    given = max((_spread(tensors(call.given)[0], own) or 0.0 for call in own.calls), default=0.0)
    where = (
        "the inputs of the recurrent layer are the same already: look at what comes before it"
        if given == 0
        else "the recurrent states are the same already: look at biases, weights and the scale of the inputs"
        if states < least
        else "the recurrent states differ: look at the head"
    )
    yield Finding(
        Kind.CONSTANT_OUTPUT,
        f"the outputs of different sequences differ by {max(spreads):.2g} (targets: {wanted:.2g}); {where}.",
        {
            "output": max(spreads),
            "wanted": wanted,
            "states": states,
            "inputs": given,
            "remaining": exam.progress.remaining,
        },
        f"spread of outputs {max(spreads):.2g} < {least:g} × {wanted:.2g}, and {unlearned}",
        ruled_out=(
            "the start of training: one small update does not change it"
            if not exam.record.updates
            else f"the start of training: {exam.record.updates} updates were made",
            "data that do not differ: inputs and targets do",
        ),
    )


def _size(leaves: Sequence[Tensor]) -> float:
    """The largest root mean square of any."""
    return max((float(leaf.detach().double().square().mean().sqrt()) for leaf in leaves), default=0.0)


def _spread(leaf: Tensor, own: Answer) -> float | None:
    """Standard deviation over sequences, root mean square over the rest; None where there is no axis of sequences."""
    axes = [axis for axis in range(leaf.ndim) if leaf.shape[axis] == own.sequences]
    if not axes:
        return None
    value = leaf.detach().double()
    return min(float(value.var(axis).mean().sqrt()) for axis in axes)


def _data_vary(exam: Examination) -> bool:
    """Whether sequences of the first sample differ in their inputs and their targets."""
    sample, own = exam.samples[0], exam.answer
    spreads = [_spread(leaf.double(), own) for leaf in tensors(sample.inputs) if leaf.dtype != torch.bool]
    if not any(s is None or s > 0 for s in spreads):
        return False
    return not isinstance(sample.target, Tensor) or (_spread(sample.target.double(), own) or 1.0) > 0


def _moves(exam: Examination) -> bool:
    """Whether an untrained network gives different outputs after one small update, as from a head of zeros."""
    if exam.record.updates:
        return False
    sample = exam.samples[0]
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        small_update(exam.model, ask(sample.inputs, sample.loss))
        own = ask(sample.inputs, sample.loss)
    found = [t for t in tensors(own.output) if t.is_floating_point()]
    return any(bool(changed(t, t.mean(_axis(t, own), keepdim=True).expand_as(t)).any()) for t in found)


def _axis(leaf: Tensor, own: Answer) -> int:
    return next((axis for axis in range(leaf.ndim) if leaf.shape[axis] == own.sequences), 0)


RULES = (input_scale, target_scale, constant_output)
