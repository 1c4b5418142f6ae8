"""Does the training change the weights as its record says? Optimizer and training loop.

Tests: `tests/doctor/test_loop.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from ...words import counted
from ..attempts import Recipe, attempt, updates_within
from ..examination import Examination
from ..findings import Chart, Curve, Finding, Kind
from ..forward import answers, tensors
from ..thresholds import THRESHOLDS
from .training import first_norms

__all__ = ["RULES"]

_SECONDS, _UPDATES = 3.0, 300  # of the trial, at most
_SEEN = 1e-3  # share of the largest gradient from which updates are seen in float32
# The fewest batches, and sequences to judge, with which half of the batches are trained on and the others judge.
_SAMPLES, _SEQUENCES = 4, 64


def not_trained(exam: Examination) -> Iterable[Finding]:
    """Parameters with a gradient that the optimizer does not have, or that are those of the start bit for bit."""
    unsolved = exam.progress.above(THRESHOLDS.unsolved_share.value)
    if not unsolved or exam.record.updates == 0:
        return
    named = {name: p for name, p in exam.model.named_parameters() if p.requires_grad}
    sizes = _gradients(exam)
    missing, why, least = _missing(exam, named)
    missing = [name for name in missing if sizes.get(name, 0.0) > least * max(sizes.values())]
    if not missing:
        return
    are = "is" if len(missing) == 1 else "are"
    count = sum(named[name].numel() for name in missing)
    whole = sum(p.numel() for p in named.values())
    yield Finding(
        Kind.NOT_TRAINED,
        f"{counted(len(missing), 'tensor')} {are} {why} ({', '.join(missing[:4])}{', …' if len(missing) > 4 else ''}; "
        f"{count / whole:.0%} of the parameters that have a gradient). Give the optimizer model.parameters(), after "
        "all modules are made; what shall stay as it is gets requires_grad_(False).",
        {"tensors": len(missing), "parameters": count, "share": count / whole},
        f"requires_grad, a gradient that is not 0, and {why}; {unsolved}",
        ruled_out=("frozen parameters: they require a gradient", f"a solved task: {unsolved}"),
    )


def _missing(exam: Examination, named: dict[str, nn.Parameter]) -> tuple[list[str], str, float]:
    """Names of parameters that are not trained, how that is known, and the least share of the largest gradient.

    Updates by a gradient that is far smaller than the largest, and clipped with it, may be below rounding.
    """
    optimizer = exam.record.torch_optimizer
    if optimizer is not None:
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [name for name, p in named.items() if id(p) not in own]
        if 0 < len(missing) < len(named):  # else it may be the optimizer of a copy
            return missing, "not in the optimizer", 0.0
    if not exam.start_given or exam.untrained is exam.model or not exam.record.updates:
        return [], "", 0.0
    start = dict(exam.untrained.named_parameters())
    same = [name for name, p in named.items() if name in start and torch.equal(start[name].detach(), p.detach())]
    if exam.origin is not None and len(same) == len(named):  # of a run the best weights are kept: those of the start
        return [], "", 0.0
    return same, "as at the start, bit for bit", _SEEN


def _gradients(exam: Examination) -> dict[str, float]:
    """By parameter, the largest norm of its gradient in up to four batches."""
    named = [(name, p) for name, p in exam.model.named_parameters() if p.requires_grad]
    found: dict[str, float] = {}
    for sample in exam.samples[:4]:
        with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
            losses = ask(sample.inputs, sample.loss).losses
            if not losses.requires_grad:
                continue
            gradients = torch.autograd.grad(losses.sum(), [p for _, p in named], allow_unused=True)
        for (name, _), g in zip(named, gradients, strict=True):
            found[name] = max(found.get(name, 0.0), 0.0 if g is None else float(g.double().norm()))
    return found


def not_registered(exam: Examination) -> Iterable[Finding]:
    """Parameters that the outputs are made of, and ``model.parameters()`` does not have: of modules in a plain list."""
    unsolved = exam.progress.above(THRESHOLDS.unsolved_share.value)
    whole = sum(p.numel() for p in exam.model.parameters() if p.requires_grad)
    if not unsolved or not whole:  # without any, no optimizer can be made of it
        return
    optimizer, sample = exam.record.torch_optimizer, exam.samples[0]
    groups = [] if optimizer is None else optimizer.param_groups
    known = {id(p) for p in exam.model.parameters()} | {id(p) for group in groups for p in group["params"]}
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        hidden = [p for p in _parameters_behind(ask(sample.inputs, sample.loss).output) if id(p) not in known]
    if not hidden:
        return
    count = sum(p.numel() for p in hidden)
    shapes = ", ".join(str(tuple(p.shape)) for p in hidden[:4]) + (", …" if len(hidden) > 4 else "")
    where = "model.parameters()" if optimizer is None else "model.parameters() or the optimizer"
    yield Finding(
        Kind.NOT_TRAINED,
        f"the outputs are made of {counted(len(hidden), 'parameter tensor')} ({shapes}; {count:,} numbers, "
        f"{count / (count + whole):.0%} of those that have a gradient) that {where} does not contain, so they stay as "
        "they are, and are not saved. Modules in a plain list, tuple or dict are not registered: take nn.ModuleList "
        "or nn.ModuleDict.",
        {"tensors": len(hidden), "parameters": count, "share": count / (count + whole)},
        f"nn.Parameter in the graph of the outputs, not in {where}; {unsolved}",
        ruled_out=("frozen parameters: they require a gradient", f"a solved task: {unsolved}"),
    )


def _parameters_behind(output: Any) -> list[nn.Parameter]:
    """The parameters that an output was computed from."""
    found: list[nn.Parameter] = []
    nodes, seen = [leaf.grad_fn for leaf in tensors(output)], set[Any]()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]
        if isinstance(variable := getattr(node, "variable", None), nn.Parameter):
            found.append(variable)
    return found


def training_loop(exam: Examination) -> Iterable[Finding]:
    """Plain updates of the initial weights learn in a moment what the recorded training did not learn at all."""
    record = exam.record
    if not exam.start_given:  # a twin may start better than the network did
        return
    losses = np.asarray(record.losses, dtype=np.float64)
    if record.lr is None or not record.optimizer or not record.updates:
        return
    few = len(losses) < 8 or len(exam.samples) < _SAMPLES or not np.isfinite(losses).all()
    if few or record.updates < THRESHOLDS.fewest_updates.value or not (unlearned := exam.unlearned):
        return
    chance, least = exam.progress.chance, THRESHOLDS.unlearned_share.value
    lowest = min(float(part.mean()) for part in np.array_split(losses, min(20, len(losses) // 4)))
    if not chance > 0 or not lowest > least * chance:
        return
    half, judges = exam.samples[::2], exam.samples[1::2]
    if len(judges) * exam.answer.sequences < _SEQUENCES:
        return
    recipe = Recipe.of(record, float(record.lr))
    updates = min(record.updates, updates_within(_SECONDS, exam.untrained, half, recipe, _UPDATES))
    tried = attempt(exam.untrained, half, recipe, updates, judges[:8])
    share = tried.judged / chance
    if not share < THRESHOLDS.learned_in_trial.value:
        return
    yield Finding(
        Kind.TRAINING_LOOP,
        f"{counted(updates, 'update', 'was')} made here from the initial weights at the learning rate {record.lr:g}: "
        f"the loss of batches that these did not see is then {tried.judged:.3g}, {share:.0%} of chance. The training "
        f"recorded {lowest:.3g} at its lowest. So network, data and learning rate are enough; look at the training "
        "loop: zero_grad() before each backward(), the optimizer's parameters, what is detached, batches and targets "
        "that are drawn or shuffled apart, a schedule that ends too early.",
        {"updates": updates, "trial": tried.judged, "recorded": lowest, "chance": chance},
        f"trial {share:.0%} < {THRESHOLDS.learned_in_trial.value:.0%} of chance, recorded {lowest / chance:.0%} > "
        f"{least:.0%}, and {unlearned}",
        ruled_out=(
            f"the learning rate {record.lr:g}: it is that of the trial",
            "learning by heart: other batches than those of the trial are judged",
        ),
        chart=Chart(
            "Training loss",
            "update",
            "loss",
            [
                Curve("recorded", [float(i) for i in range(len(losses))], [float(v) for v in losses]),
                Curve("trial", [float(i) for i in range(len(tried.losses))], list(tried.losses)),
            ],
        ),
    )


def gradients_add_up(exam: Examination) -> Iterable[Finding]:
    """Recorded gradient norms that grow, and hardly change from update to update, while those of batches differ.

    A gradient to which each update adds that of its batch does so (after n updates it changes by 1 / n of its size).
    """
    record, norms = exam.record, np.asarray(exam.record.gradient_norms, dtype=np.float64)
    unsolved = exam.progress.above(THRESHOLDS.solved_share.value)
    few = len(norms) < THRESHOLDS.fewest_updates.value or not np.isfinite(norms).all()
    if few or not unsolved or not record.updates or exam.origin is not None:  # a run's norms are interpolated
        return
    now, last = np.asarray(first_norms(exam)), norms[len(norms) // 2 :]
    if len(now) < _SAMPLES or not np.median(last) > np.median(now) > 0:
        return
    change, usual = (float(np.median(np.abs(np.diff(own))) / np.median(own)) for own in (last, now))
    growth = float(np.median(last)) / max(float(norms[0]), 1e-300)
    least, most = THRESHOLDS.peak.value, THRESHOLDS.smooth_share.value
    if not growth > least or not change < most * usual:
        return
    yield Finding(
        Kind.TRAINING_LOOP,
        f"the recorded gradient norms grew from {norms[0]:.3g} to {np.median(last):.3g} and change by {change:.1%} of "
        f"their size from update to update; those of the batches, with the weights as they are, are "
        f"{np.median(now):.3g} and differ by {usual:.0%}. So gradients of earlier updates are still in them: call "
        "optimizer.zero_grad() before each backward().",
        {"first": float(norms[0]), "last": float(np.median(last)), "change": change, "usual": usual},
        f"norms grew ×{growth:.2g} > {least:g}, their change {change:.1%} < {most:.0%} of the usual {usual:.0%}, and "
        f"{unsolved}",
        ruled_out=(
            "updates with all sequences at once, if training was in these batches",
            f"a solved task: {unsolved}",
        ),
        chart=Chart(
            "Gradient norm",
            "update",
            "recorded norm",
            [Curve("norm", [float(i) for i in range(len(norms))], list(norms))],
        ),
    )


RULES = (not_trained, not_registered, gradients_add_up, training_loop)
