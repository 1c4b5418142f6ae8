"""What a network answers on a sample: output, losses, the recurrent layers that ran; and the best constant answer.

The network runs in eval mode, and nothing of it is changed afterwards.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import FlowError
from ..flow.recording.isolation import isolated
from ..nested import mapped
from ..nn.stepwise import Stepwise
from .thresholds import THRESHOLDS

__all__ = [
    "Answer",
    "LayerCall",
    "Progress",
    "answer",
    "answers",
    "changed",
    "layers_of",
    "line_of_caller",
    "progress",
    "small_update",
    "tensors",
]

SUMS = 1e-3  # from 1 up to which what adds up to about 1 is of probabilities
RECURRENT = (nn.RNNBase, nn.RNNCellBase, Stepwise)
_Loss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class LayerCall:
    """One call of a recurrent module: its name, its input, how many steps and sequences that has."""

    name: str
    module: nn.Module
    given: Any
    steps: int
    batch: int
    state: tuple[Tensor, ...]  # the initial state that was passed; empty for none
    output: Any

    @property
    def by_step(self) -> Tensor:
        """The input as `(T, B, I)`, or packed data `(N, I)`."""
        return _by_step(self.module, self.given)


@dataclass(frozen=True)
class Answer:
    """What a network returned, its losses `(T, B)` (T is 1 with one loss per sequence), and its recurrent calls."""

    output: Any
    losses: Tensor
    final: bool
    calls: Sequence[LayerCall]

    @property
    def sequences(self) -> int:
        """B."""
        return int(self.losses.shape[1])


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The recurrent modules of a model by name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, RECURRENT)}


def line_of_caller() -> str:
    """The line of the model's code that is running, as ``file:line``; empty if it is not known."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("torch", "retrograde"):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a batch or output; packed sequences as their data."""
    found: list[Tensor] = []
    mapped(value, lambda leaf: found.append(leaf.data if isinstance(leaf, PackedSequence) else leaf))
    return found


def changed(a: Tensor, b: Tensor) -> Tensor:
    """Where two results differ by more than rounding."""
    if not a.is_floating_point():
        return a != b
    size = a.detach().nan_to_num(0.0, 0.0, 0.0).abs().max().clamp_min(1e-30)
    return ~torch.isclose(a, b, rtol=0.0, atol=THRESHOLDS.rounding.value * float(size), equal_nan=True)


def answer(model: nn.Module, inputs: tuple[Any, ...], loss: _Loss) -> Answer:
    """Run a network once, without gradients.

    Raises
    ------
    FlowError
        The loss is not a tensor of losses by step or sequence.
    """
    with torch.no_grad(), answers(model, inputs) as ask:
        return ask(inputs, loss)


def small_update(model: nn.Module, own: Answer) -> None:
    """Change the parameters by 0.01 against the gradient of the mean loss, in place (inside `answers`)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters or not own.losses.requires_grad:
        return
    found = torch.autograd.grad(own.losses.mean(), parameters, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(parameters, found, strict=True):
            if g is not None:
                p.sub_(0.01 * g / g.norm().clamp_min(1e-12))


@contextlib.contextmanager
def answers(model: nn.Module, inputs: Any, *, training: bool = False) -> Iterator[Callable[..., Answer]]:
    """Inside the block a network can be asked several times; what it keeps between calls is restored at the end."""
    with isolated(model, notes=[], training=training, freeze=False, inputs=inputs), _watched(model) as calls:

        def ask(given: tuple[Any, ...], loss: _Loss) -> Answer:
            calls.clear()
            output = model(*given)
            table, final = _table(loss(output), calls)
            return Answer(output, table, final, tuple(calls))

        yield ask


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[LayerCall]]:
    calls: list[LayerCall] = []
    names = {module: name for name, module in layers_of(model).items()}

    def ran(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else kwargs.get("input")
        state = args[1] if len(args) > 1 else kwargs.get("hx")
        steps, batch = _shape(module, given)
        calls.append(LayerCall(names[module], module, given, steps, batch, tuple(tensors(state)), output))

    handles = [module.register_forward_hook(ran, with_kwargs=True) for module in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _shape(module: nn.Module, given: Any) -> tuple[int, int]:
    """Steps and sequences of a recurrent module's input."""
    if isinstance(given, PackedSequence):
        return len(given.batch_sizes), int(given.batch_sizes[0])
    whole = _by_step(module, given)
    return int(whole.shape[0]), int(whole.shape[1])


def _by_step(module: nn.Module, given: Any) -> Tensor:
    if isinstance(given, PackedSequence):
        return given.data
    value: Tensor = given
    if isinstance(module, nn.RNNCellBase):
        return value.reshape(1, -1, value.shape[-1])
    if value.ndim == 2:
        return value.unsqueeze(1)
    return value.transpose(0, 1) if getattr(module, "batch_first", False) else value


def _table(losses: Any, calls: Sequence[LayerCall]) -> tuple[Tensor, bool]:
    """The losses as `(T, B)`, and whether they came as one per sequence."""
    if not isinstance(losses, Tensor) or losses.ndim not in (1, 2) or not losses.numel():
        what = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise FlowError(
            f"loss returned {what}; expected losses by step (T, B), or one per sequence "
            "(B,): leave out the mean, as reduction='none' does."
        )
    if losses.ndim == 2:
        steps = Counter[str]()
        for call in calls:
            steps[call.name] += call.steps
        return losses, len(losses) == 1 and bool(steps) and min(steps.values()) > 1
    unbatched = len(losses) > 1 and bool(calls) and all(call.batch == 1 for call in calls)
    return (losses.unsqueeze(1), False) if unbatched else (losses.unsqueeze(0), True)


@dataclass(frozen=True)
class Progress:
    """How much of the task was learned.

    Attributes
    ----------
    loss : float
        Mean over what is scored.
    chance : float
        Mean loss of the best constant answer.
    remaining : float
        Share of the loss at chance, above the floor, that remains: 1 is chance, 0 is solved; NaN where not known.
    """

    loss: float
    chance: float
    remaining: float

    def above(self, least: float) -> str:
        """The part of a rule that says that more than a share remains; empty if not so, or not known."""
        return f"loss {self.remaining:.0%} of chance > {least:.0%}" if self.remaining > least else ""


def progress(asked: Sequence[tuple[Answer, _Loss]], chance: float | None, floor: float | None) -> Progress:
    """Compare the losses of some answers with those of the best constant one, the same for all."""
    losses = [own.losses.detach().double() for own, _ in asked]
    constant = _constant_losses(asked)
    scored = [a != 0 if constant is None else (a != 0) | (constant[i] != 0) for i, a in enumerate(losses)]
    count = sum(int(one.sum()) for one in scored)
    if not count:
        return Progress(0.0, math.nan, math.nan)
    mean = sum(float(one.sum()) for one in losses) / count
    if not math.isfinite(mean):
        return Progress(mean, math.nan if chance is None else chance, math.inf)
    if constant is None:
        if chance is None:
            return Progress(mean, math.nan, math.nan)
        best = chance
    else:
        best = sum(float(one.sum()) for one in constant) / count
        if chance is not None:
            best = max(best, chance) if best > 0 else chance
    if mean >= best:
        return Progress(mean, best, mean / best if best > 0 else 1.0)
    lowest = min(0.0, mean) if floor is None else floor  # a density's loss may be negative
    return Progress(mean, best, max(0.0, mean - lowest) / (best - lowest))


def _constant_losses(asked: Sequence[tuple[Answer, _Loss]]) -> list[Tensor] | None:
    """The losses `(T, B)` if all outputs were the same best one, at all steps; None where not known.

    It is one that the network could give: of (log) probabilities of classes, others are of none, and many losses of
    numbers from 0 to 1 have no value elsewhere.
    """
    outputs = [[leaf.detach() for leaf in tensors(own.output) if leaf.is_floating_point()] for own, _ in asked]
    means = [
        [_mean_over_sequences(leaf, own.losses) for leaf in wanted]
        for (own, _), wanted in zip(asked, outputs, strict=True)
    ]
    shapes = [[mean.shape for mean in own] for own in means]
    if not means[0] or any(shape != shapes[0] for shape in shapes):
        return None
    start = [torch.stack(own).mean(0) for own in zip(*means, strict=True)]
    every = list(zip(*outputs, strict=True))
    kinds = [_of_classes(leaves, mean) for leaves, mean in zip(every, start, strict=True)]
    best = _best_constant(asked, outputs, start, kinds)
    if best is None and all(bool(((leaf >= 0) & (leaf <= 1)).all()) for leaves in every for leaf in leaves):
        best = _best_constant(asked, outputs, start, [kind or _UNIT for kind in kinds])
    return best


class _Range(NamedTuple):
    """The values that an output can have: by numbers without a range, and back."""

    of: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


_UNIT = _Range(torch.sigmoid, lambda p: torch.logit(p, 1e-6))


def _of_classes(leaves: Sequence[Tensor], mean: Tensor) -> _Range | None:
    """The range of outputs that are probabilities of classes, or their logarithms; None for others."""
    axes = [axis for axis, size in enumerate(mean.shape) if size > 1]
    if len(axes) != 1 or any(leaf.ndim != mean.ndim for leaf in leaves):
        return None
    axis = axes[0]

    def add_up(values: Callable[[Tensor], Tensor]) -> bool:
        sums = [values(leaf.double()).sum(axis) for leaf in leaves]
        return all(bool((one - 1).abs().max() < SUMS) for one in sums)

    if add_up(torch.exp):
        return _Range(lambda z: torch.log_softmax(z, axis), lambda p: p)
    if all(bool((leaf >= 0).all()) for leaf in leaves) and add_up(lambda p: p):
        return _Range(lambda z: torch.softmax(z, axis), lambda p: p.clamp_min(1e-6).log())
    return None


def _best_constant(
    asked: Sequence[tuple[Answer, _Loss]],
    outputs: Sequence[Sequence[Tensor]],
    start: Sequence[Tensor],
    kinds: Sequence[_Range | None],
) -> list[Tensor] | None:
    """The losses at the best constant of these ranges, from a start; None where none is found."""
    constants = [
        (mean if kind is None else kind.back(mean)).clone().requires_grad_()
        for mean, kind in zip(start, kinds, strict=True)
    ]

    def losses(own: Answer, loss: _Loss, wanted: Sequence[Tensor]) -> Tensor:
        found = [c if kind is None else kind.of(c) for c, kind in zip(constants, kinds, strict=True)]
        values = iter([c.expand_as(leaf) for c, leaf in zip(found, wanted, strict=True)])

        def constant(leaf: Any) -> Any:
            data = leaf.data if isinstance(leaf, PackedSequence) else leaf
            new = next(values) if data.is_floating_point() else data
            return leaf._replace(data=new) if isinstance(leaf, PackedSequence) else new

        given = loss(mapped(own.output, constant))
        return given if given.ndim == 2 else given.reshape(own.losses.shape)

    def every() -> list[Tensor]:
        return [losses(own, loss, wanted) for (own, loss), wanted in zip(asked, outputs, strict=True)]

    optimizer = torch.optim.LBFGS(constants, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        total = torch.cat([one.flatten() for one in every()]).mean()
        found = torch.autograd.grad(total, constants, allow_unused=True)
        for c, g in zip(constants, found, strict=True):
            c.grad = torch.zeros_like(c) if g is None else g
        return total.detach()

    try:
        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        best = [one.detach().double() for one in every()]
    except Exception:  # a loss of anyone's may look at more than the values
        return None
    return best if all(bool(torch.isfinite(one).all()) for one in best) else None


def _mean_over_sequences(leaf: Tensor, losses: Tensor) -> Tensor:
    """The mean of an output over its axes of steps and sequences, which keeps those of features."""
    if leaf.ndim <= 1 or (leaf.ndim == 2 and (leaf.shape == losses.shape or leaf.shape[0] != losses.shape[1])):
        axes = tuple(range(leaf.ndim))
    elif leaf.ndim == 3 and len(losses) > 1 and sorted(leaf.shape[:2]) != sorted(losses.shape):
        # Classes may come before the steps, as cross_entropy takes them.
        steps_last = leaf.shape[2] == len(losses) and losses.shape[1] in leaf.shape[:2]
        axes = (leaf.shape.index(losses.shape[1]), 2) if steps_last else (0, 1)
    else:
        axes = tuple(range(leaf.ndim - 1))
    return leaf.mean(axes, keepdim=True) if axes else leaf.clone()
