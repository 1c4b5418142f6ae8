"""Remedies for the training itself: clipping, the learning rate, and the scale of what goes in and out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...cells import find
from ...errors import FlowError
from ...flow import sequence_gradients
from ...flow.clip import replayed
from ..attempts import Recipe, attempt, updates_within
from ..findings import Kind
from ..prescriptions import Prescription
from ..thresholds import THRESHOLDS
from .case import Case, short
from .memory import scaled

_CLIP = """# in the training loop, between loss.backward() and optimizer.step():
torch.nn.utils.clip_grad_norm_(model.parameters(), {})"""
_SECONDS = 1.0  # longest time of a trial of a remedy
_RATES = 3  # learning rates of a trial, each a tenth of the one before


def clipping(case: Case) -> Iterator[Prescription]:
    """Clip to the threshold that the recorded norms, replayed under every threshold, make the best."""
    record = case.examination.record
    if case.kind == Kind.CHAOS and case.number("interval") is not None:
        return  # of the data: whatever predicts them has such gradients
    norms, what = [norm for norm in record.gradient_norms if math.isfinite(norm)], "updates"
    if len(norms) < 2:
        norms, what = _of_sequences(case), "sequences (no norms of updates are recorded)"
    found = replayed(norms)
    if found is None:
        return
    if not found.clipped and record.gradient_norms and case.kind != Kind.CLIPPING_TOO_TIGHT:
        return  # the norms are alike: clipping them changes nothing but their length, as the learning rate does
    threshold = float(short(found.threshold))
    arithmetic = found.arithmetic(f"{len(norms):,} {what}", float(np.median(norms)), max(norms))
    python = _CLIP.format(short(threshold))
    if record.clip_norm is not None and math.isclose(record.clip_norm, threshold, rel_tol=0.01):
        return
    if case.kind in (Kind.EXPLODING, Kind.NOT_FINITE, Kind.CHAOS) and _diverges(case, threshold):
        return  # gradients that all explode are no measure of a step
    yield case.prescription("clip the gradient norm", arithmetic, python, {"clip_norm": threshold})


def settle(case: Case) -> Iterator[Prescription]:
    """Where training took the loss above chance, states and gates were thrown to their ends: shorter steps first."""
    if case.examination.diverged:
        yield from learning_rate(case)
        yield from clipping(case)


def _diverges(case: Case, threshold: float) -> bool:
    """Whether the untrained network is worse after a few updates with this threshold, at the rate of the training."""
    exam = case.examination
    if exam.record.lr is None or time.perf_counter() > exam.deadline:
        return False
    recipe = replace(Recipe.of(exam.record, exam.record.lr), clip_norm=threshold)
    updates = updates_within(_SECONDS, exam.untrained, exam.samples, recipe)
    tried = attempt(exam.untrained, exam.samples, recipe, updates)
    return bool(tried.losses) and not tried.end <= THRESHOLDS.rise.value * tried.losses[0]


def _of_sequences(case: Case) -> list[float]:
    """Gradient norms of single sequences of the first sample."""
    sample = case.examination.few
    try:
        found = sequence_gradients(case.examination.model, *sample.inputs, loss=sample.loss).total
    except (FlowError, RuntimeError):
        return []
    return [float(norm) for norm in found if math.isfinite(norm)]


def learning_rate(case: Case) -> Iterator[Prescription]:
    """The learning rate that was best in a trial, or else the one at which the measured curvature is stable."""
    lr = case.examination.record.lr
    sharpness, edge, better = case.number("sharpness"), case.number("edge"), case.number("better_lr")
    if lr is None or (better is None and (sharpness is None or sharpness <= 0)):
        return
    if better is not None:
        found, ends = better, [short(case.number(name) or math.nan) for name in ("loss", "loss_better")]
        words = f"a trial of a few updates ends at a loss of {ends[0]} at {short(lr)}, and {ends[1]} at the best rate"
    elif sharpness is None:
        return
    elif edge is None:
        found, words = 2 / sharpness, f"gradient descent is stable below 2 / sharpness = 2 / {short(sharpness)}"
    else:
        found = lr * edge / sharpness
        words = (
            f"the sharpness is {short(sharpness)}, the edge of stability at {short(edge)}: "
            f"{short(lr)} × {short(edge)} / {short(sharpness)}"
        )
    found, raised = float(short(found)), case.kind == Kind.LEARNING_RATE_TOO_LOW
    if not (found > lr if raised else 0 < found < lr):
        return
    python, options = f"for group in optimizer.param_groups:\n    group['lr'] = {short(found)}", {"lr": found}
    remedy, words = f"{'higher' if raised else 'lower'} learning rate", f"{words} = {short(found)}"
    if (clip := case.number("clip")) is not None:
        remedy, options["clip_norm"] = f"{remedy}, and clipping", float(short(clip))
        words += f"; the gradient norms of that trial, replayed under every threshold, call for {short(clip)}"
        python += f"\n{_CLIP.format(short(clip))}"
    yield case.prescription(remedy, words, python, options)


def adaptive(case: Case) -> Iterator[Prescription]:
    """An optimizer that divides by the size of each parameter's gradient."""
    record = case.examination.record
    norms = [norm for norm in record.gradient_norms or _of_sequences(case) if math.isfinite(norm) and norm > 0]
    if record.optimizer != "sgd" or record.lr is None or not norms:
        return
    parameters = sum(parameter.numel() for parameter in case.examination.model.parameters())
    middle = float(np.median(norms))
    lr = float(short(record.lr * middle / math.sqrt(parameters)))
    arithmetic = (
        f"a step of SGD has length lr × norm = {short(record.lr)} × {short(middle)}; a step of Adam has about "
        f"lr × sqrt(parameters) = lr × sqrt({parameters:,}): the same length at lr = {short(lr)}"
    )
    if (tried := _best_rate(case, lr)) is not None and tried[0] != lr:
        best, updates, loss = tried
        arithmetic += (
            f", but of copies trained for {updates} updates the one at {short(best)} has the lowest loss, {short(loss)}"
        )
        lr = best
    python = f"optimizer = torch.optim.Adam(model.parameters(), lr={short(lr)})"
    yield case.prescription("Adam", arithmetic, python, {"optimizer": "adam", "lr": lr})


def _best_rate(case: Case, lr: float) -> tuple[float, int, float] | None:
    """Of a learning rate of Adam and smaller ones the best, updates, and what is left of the loss.

    Copies are tried of the network as it is and of its untrained twin, whose start may be another one.
    """
    exam, found = case.examination, {}
    if time.perf_counter() > exam.deadline:
        return None
    recipe = Recipe(adam=True, lr=lr, clip_norm=exam.record.clip_norm)
    updates = updates_within(_SECONDS / _RATES, exam.untrained, exam.samples, recipe)
    for rate in (float(short(lr / 10**k)) for k in range(_RATES)):
        tried = [attempt(own, exam.samples, replace(recipe, lr=rate), updates) for own in (exam.untrained, exam.model)]
        found[rate] = max((one.end / max(one.losses[0], 1e-30) for one in tried if one.losses), default=math.inf)
    best = min(found, key=lambda rate: found[rate])
    return (best, updates, found[best]) if math.isfinite(found[best]) else None


def spread(case: Case) -> Iterator[Prescription]:
    """Weights so small that what goes into tanh has a root mean square of 1."""
    inputs, states = case.number("size_of_inputs"), case.number("size_of_recurrent weights")
    if inputs is None or states is None or not case.vanilla:
        return
    yield from biases(case)
    if inputs >= states and inputs > 1:
        before = max(float(getattr(p.module, name).detach().std()) for p in case.measured for name in p.inputs)
        std = float(short(before / inputs))
        arithmetic = (
            f"the inputs add {short(inputs)} (root mean square) to what goes into tanh, by weights with a standard "
            f"deviation of {short(before)}; with {short(before)} / {short(inputs)} = {short(std)} they add 1"
        )
        yield case.started("smaller input weights", arithmetic, {}, input=std)
    elif states > 1:
        yield from scaled(case, 1 / states, f"the states add {short(states)} (root mean square) to what goes into tanh")


def biases(case: Case) -> Iterator[Prescription]:
    """Biases of 0 where those of the network are beyond the range in which torch draws them."""
    if not case.vanilla:
        return
    found = [bias for part in case.measured if (bias := part.total_bias) is not None]
    if not found:
        return
    mean, usual = max((float(bias.mean()) for bias in found), key=abs), 2 / math.sqrt(min(map(len, found)))
    if abs(mean) > usual:
        arithmetic = (
            f"the biases are {short(mean)} on average, where 0 is usual (torch draws their sum from within "
            f"±{short(usual)}); {short(mean)} - {short(mean)} = 0"
        )
        yield case.started("biases of 0", arithmetic, {}, bias=0.0)


def layer_norm(case: Case) -> Iterator[Prescription]:
    """Normalization of what goes into the nonlinearity, at every step."""
    flow, lines = case.flow, []
    sizes = [] if flow is None else _preactivations(case)
    for part in case.parts:
        old = part.module
        if not isinstance(old, torch.nn.RNNBase) or old.proj_size or part.nonlinearity == "relu":
            return
        usual = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        given = "".join(
            f", {name}={getattr(old, name)!r}" for name, value in usual.items() if getattr(old, name) != value
        )
        kind = f"Stepwise{find(part.cell).title}"
        lines.append(
            f"{part.python} = rg.nn.{kind}({old.input_size}, {old.hidden_size}{given}, layer_norm=True)"
            if "get_submodule" not in part.python
            else ""
        )
    if not lines or not all(lines) or not sizes:
        return
    arithmetic = f"what goes into the nonlinearity has a root mean square of {short(max(sizes))}; normalized it has 1"
    yield case.prescription("layer normalization", arithmetic, "\n".join(lines), {"layer_norm": True})


def _preactivations(case: Case) -> list[float]:
    """Root mean square of what goes into tanh, by layer, from the states: a = artanh h for a vanilla layer."""
    found = []
    for finding in case.findings:
        value = finding.numbers.get("preactivation", finding.numbers.get("pre_activation"))
        if value is not None and math.isfinite(value) and value > 0:
            found.append(float(value))
    if found:
        return found
    for layer in case.examination.flow.layers:
        try:
            slope = case.examination.flow.saturation(layer).derivative
        except FlowError:
            continue
        if 0 < slope <= 1:  # tanh' (a) = 1 - tanh(a)^2
            found.append(math.atanh(math.sqrt(1 - slope)) if slope < 1 else 0.0)
    return [value for value in found if value > 0]


# --- Scales -----------------------------------------------------------------------------------------------------------


def input_scale(case: Case) -> Iterator[Prescription]:
    """Standardize the inputs by their measured mean and standard deviation."""
    yield from _standardized(case, "x", case.examination.samples[0].inputs[0], "standardize the inputs")


def target_scale(case: Case) -> Iterator[Prescription]:
    """Standardize the targets; predictions are scaled back by the same numbers."""
    yield from _standardized(case, "target", case.examination.samples[0].target, "standardize the targets")


def _standardized(case: Case, name: str, values: object, remedy: str) -> Iterator[Prescription]:
    data = getattr(values, "data", None)  # of packed sequences too
    if not isinstance(data, Tensor) or not data.is_floating_point() or not data.numel():
        return
    flat = data.detach().double()
    flat = flat.flatten(0, -2) if flat.dim() > 1 else flat[:, None]
    mean, std = flat.mean(0), flat.std(0, unbiased=False)
    if flat.shape[1] > 8 or not bool((std > 0).all()):  # one scale for all channels
        mean, std = flat.mean()[None], flat.std(unbiased=False)[None]
    if not bool((std > 0).all() and torch.isfinite(std).all()):
        return
    means, stds = [short(v) for v in mean.tolist()], [short(v) for v in std.tolist()]
    if len(means) == 1:
        python = f"{name} = ({name} - {means[0]}) / {stds[0]}"
    else:
        python = f"{name} = ({name} - torch.tensor([{', '.join(means)}])) / torch.tensor([{', '.join(stds)}])"
    arithmetic = f"mean {', '.join(means)}, standard deviation {', '.join(stds)} of {len(flat):,} steps"
    yield case.prescription(remedy, arithmetic, python)
