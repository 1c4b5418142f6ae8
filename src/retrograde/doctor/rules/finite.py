"""Where does the first NaN or infinity come from? This rule is applied first, and may be the last."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ... import _torch_private
from ...nested import tensors_in
from ..examination import Examination, Sample
from ..findings import Chart, Curve, Finding, Kind
from ..forward import Answer, answers, tensors
from .explosion import exploding_from_start
from .training import learning_rate_from_start

_SPOILED = (
    "the weights are not finite. Build the model again, diagnose it before training, and say how you train it: "
    "record=rg.doctor.TrainingRecord(optimizer='sgd', lr=0.1, updates=0, planned=500), with your values."
)


def not_finite(exam: Examination) -> Iterable[Finding]:
    """The first tensor that is not finite: of the data, the weights, the forward pass, the loss or the gradient."""
    data, weights = _in_data(exam.samples), _in_weights(exam.model)
    number, origin = data if data is not None else (-1, "")
    if weights and number < 0:
        origin, number = weights, 0
    elif weights:
        origin += f" The weights are spoiled too: {weights}"
    if weights or number == 0:
        exam.unusable = (
            (_SPOILED if exam.record.lr is None else "the weights are not finite.")
            if weights
            else ("the first batch is not finite.")
        )
    if not origin:
        origin = _in_run(exam)
        exam.unusable = "the network does not compute finite numbers." if origin else ""
    history = _history(exam)
    if not origin and not history:
        return
    yield Finding(
        Kind.NOT_FINITE,
        " ".join(part for part in (origin, history) if part),
        _numbers(exam) | ({} if data is None else {"batch": number}),
        "a value is NaN or infinite",
        ruled_out=_ruled_out(data is not None, bool(weights)),
        chart=_chart(exam),
    )
    if weights:
        yield from learning_rate_from_start(exam)
        yield from exploding_from_start(exam)


def _ruled_out(data: bool, weights: bool) -> tuple[str, ...]:
    found = [] if data else ["the data: inputs and targets examined are finite"]
    return tuple(found if weights else [*found, "the weights: all are finite"])


def _in_data(samples: Sequence[Sample]) -> tuple[int, str] | None:
    """The number of the first batch that is not finite, and which tensor and where."""
    for number, sample in enumerate(samples):
        target = [] if sample.target is None else tensors(sample.target)
        named = [("input", leaf) for leaf in tensors(sample.inputs)] + [("target", leaf) for leaf in target]
        for name, leaf in named:
            bad = _bad(leaf)
            if bad is not None:
                at = tuple(int(i) for i in bad.nonzero()[0])
                return number, (
                    f"The {name} of batch {number} is {float(leaf[at])} at {list(at)} of {list(leaf.shape)}, "
                    f"{int(bad.sum())} values in all: find these rows in the data, and drop or fill them."
                )
    return None


def _bad(value: Tensor) -> Tensor | None:
    """Where a tensor is not finite; None where it is."""
    if not value.is_floating_point():
        return None
    found = ~torch.isfinite(value.detach())
    return found if bool(found.any()) else None


def _in_weights(model: nn.Module) -> str:
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        bad = _bad(parameter)
        if bad is not None:
            return f"{name} has {int(bad.sum())} of {bad.numel()} values that are not finite."
    return ""


class _First(TorchFunctionMode):
    """Finds the first operator that makes something that is not finite of finite numbers."""

    needs_torch_operators = True  # our own layers then call what this mode sees

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found = ""
        self._running: list[nn.Module] = []
        self._names = {module: name for name, module in model.named_modules()}
        self._calls: Counter[nn.Module] = Counter()

    def enter(self, module: nn.Module, _: Any) -> None:
        self._running.append(module)
        self._calls[module] += 1

    def leave(self, *_: Any) -> None:
        self._running.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        if not self.found and name not in ("__get__", "masked_fill", "masked_fill_", "where"):  # masks before a softmax
            with _torch_private.no_torch_functions():
                bad = [b for leaf in tensors_in(value) if (b := _bad(leaf)) is not None]
                if bad and not any(_bad(leaf) is not None for leaf in tensors_in((args, kwargs))):
                    self.found = f"{self._where(bad[0])}, {name} makes values that are not finite from finite ones."
        return value

    def _where(self, bad: Tensor) -> str:
        module = self._running[-1] if self._running else None
        name = self._names.get(module) if module is not None else None
        layer = f"{name or type(module).__name__}" if module is not None else "the loss"
        if isinstance(module, nn.RNNBase) and bad.ndim == 3:
            steps = bad.transpose(0, 1) if module.batch_first else bad
            return f"In {layer}, from step {int(steps.flatten(1).any(1).nonzero()[0])} on"
        step = (
            f", from its call {self._calls[module] - 1} on (counted from 0)"
            if module is not None and self._calls[module] > 1
            else ""
        )
        return f"In {layer}{step}"


def _in_run(exam: Examination) -> str:
    """What is not finite in the forward pass, the loss or the gradient, in this order."""
    sample, first = exam.samples[0], _First(exam.model)
    handles = [nn.modules.module.register_module_forward_pre_hook(first.enter)]
    handles += [nn.modules.module.register_module_forward_hook(first.leave, always_call=True)]
    try:
        with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
            with first:
                own = ask(sample.inputs, sample.loss)
            if any(_bad(leaf) is not None for leaf in (own.losses, *tensors(own.output))):
                return first.found or "The output is not finite."
            return _in_gradient(exam, own, ask)
    finally:
        for handle in handles:
            handle.remove()


def _in_gradient(exam: Examination, own: Answer, ask: Any) -> str:
    named = [(name, p) for name, p in exam.model.named_parameters() if p.requires_grad]
    if not own.losses.requires_grad or not named:
        return ""
    found = torch.autograd.grad(own.losses.mean(), [p for _, p in named], allow_unused=True)
    bad = [name for (name, _), g in zip(named, found, strict=True) if g is not None and _bad(g) is not None]
    if not bad:
        return ""
    sample, reason = exam.samples[0], ""
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("ignore")
        try:
            torch.autograd.grad(ask(sample.inputs, sample.loss).losses.mean(), [p for _, p in named], allow_unused=True)
        except RuntimeError as error:
            reason = f" ({str(error).splitlines()[0].rstrip('.')})"
    return (
        f"The loss is finite, but the gradient of {bad[-1]}{f' and {len(bad) - 1} more' if len(bad) > 1 else ''} is "
        f"not{reason}: look for a root, a logarithm or a division at 0, or a gradient that explodes."
    )


def _history(exam: Examination) -> str:
    """At which update of the training the first value was not finite, and what came before it."""
    record = exam.record
    at = _first_update(exam)
    if at is None:
        return "Training ended with a value that was not finite." if record.diverged else ""
    before = [norm for norm in record.gradient_norms[:at] if math.isfinite(norm)]
    growth = ""
    if len(before) > 1:
        median, last = float(np.median(before)), before[-1]
        growth = f"; the gradient norm before was {last:.3g}, {last / max(median, 1e-30):.3g} times its median"
    return f"In training, update {at} was the first with a value that was not finite{growth}."


def _first_update(exam: Examination) -> int | None:
    found = [
        next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        for values in (exam.record.losses, exam.record.gradient_norms)
    ]
    return min((i for i in found if i is not None), default=None)


def _numbers(exam: Examination) -> dict[str, float]:
    at = _first_update(exam)
    return {} if at is None else {"update": at}


def _chart(exam: Examination) -> Chart | None:
    norms = exam.record.gradient_norms
    if not norms:
        return None
    values = [float(norm) if math.isfinite(norm) else None for norm in norms]
    return Chart(
        "Gradient norm", "update", "norm before clipping", [Curve("norm", list(range(len(values))), values)], log=True
    )


RULES = (not_finite,)
