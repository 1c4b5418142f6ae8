"""Can the outputs be what the loss asks for, and are they the same whenever the network is asked?

Tests: `tests/doctor/test_outputs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from ...nested import mapped
from ..examination import Examination
from ..findings import Finding, Kind
from ..forward import Answer, answers, changed, line_of_caller, tensors
from ..thresholds import THRESHOLDS

__all__ = ["RULES"]

_STEPS, _RATE = 80, 0.5  # of the search for the outputs with the lowest loss
_MOST = 200_000  # numbers of an output that are searched
_CALLS = 4  # over which a random loss is averaged

# Operators that give a tensor another shape, or join several, and leave its values.
_SHAPES = {"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute", "Select", "Slice"}
_SHAPES |= {"Clone", "Stack", "Cat", "ToCopy", "Alias", "Expand", "Index", "Movedim"}


_DROPOUTS = {
    F.dropout, F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout,
    torch.dropout_, torch.alpha_dropout, torch.alpha_dropout_, torch.feature_dropout, torch.feature_dropout_,
    torch.feature_alpha_dropout, torch.feature_alpha_dropout_,
}  # fmt: skip


class _Bounds(NamedTuple):
    """The values that the last function of a network can have: from numbers without bounds."""

    name: str
    words: str
    of: Callable[[Tensor], Tensor]


_BOUNDS = {
    "Sigmoid": _Bounds("sigmoid", "between 0 and 1", torch.sigmoid),
    "Tanh": _Bounds("tanh", "between -1 and 1", torch.tanh),
    "Relu": _Bounds("ReLU", "not below 0", torch.abs),  # the same values; torch.relu has no way back from 0
}


def output_range(exam: Examination) -> Iterable[Finding]:
    """The lowest loss that bounded outputs can have, against that of outputs without bounds."""
    unsolved = exam.progress.above(THRESHOLDS.solved_share.value)
    chance, least = exam.progress.chance, THRESHOLDS.unsolved_share.value
    if not unsolved or not chance > 0:
        return
    sample = exam.samples[0]
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        own = ask(sample.inputs, sample.loss)
        leaves = [leaf for leaf in tensors(own.output) if leaf.is_floating_point()]
        if len(leaves) != 1 or not 0 < leaves[0].numel() <= _MOST:
            return
        bounds = _bounds(leaves[0])
    if bounds is None:
        return
    try:
        inside, start = _lowest(sample.loss, own, leaves[0].detach(), bounds.of)
        outside, _ = _lowest(sample.loss, own, start, lambda z: z)
    except Exception:  # some losses are not defined at other values
        return
    if not outside >= 0 or not inside - outside > least * chance:
        return
    fix = {
        "softmax": "CrossEntropyLoss applies a softmax itself: give it the numbers before yours; apply it to predict.",
        "sigmoid": "BCEWithLogitsLoss applies a sigmoid itself: give it the numbers before yours, or take BCELoss.",
    }.get(bounds.name, "Leave the last function out, or scale the targets into its range.")
    yield Finding(
        Kind.OUTPUT_RANGE,
        f"the outputs are those of a {bounds.name} ({bounds.words}): of such outputs the lowest loss is {inside:.3g}, "
        f"{inside / chance:.0%} of chance; without bounds it is {outside:.2g}. {fix}",
        {"lowest": inside, "lowest_without": outside, "chance": chance, "remaining": exam.progress.remaining},
        f"lowest loss {inside:.3g} - {outside:.2g} > {least:.0%} of chance ({chance:.3g}), and {unsolved}",
        ruled_out=("noise: the outputs are searched for each target by itself", f"a solved task: {unsolved}"),
    )


def _bounds(output: Tensor) -> _Bounds | None:
    """The bounds of the function that an output comes from; None where it has none that are known."""
    found: set[str] = set()
    nodes, axis = [output.grad_fn], output.ndim - 1
    for node in nodes:  # grows while it is read
        if node is None or len(nodes) > 4096:
            return None
        name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
        if name in _SHAPES:
            nodes += [parent for parent, _ in node.next_functions]
        else:
            found.add(name)
    if found == {"Softmax"}:
        axes = [a for a in range(output.ndim) if bool((output.detach().sum(a) - 1).abs().max() < 1e-3)]
        axis = axes[-1] if axes else axis
        return _Bounds("softmax", "which add up to 1", lambda z: torch.softmax(z, axis))
    return _BOUNDS.get(found.pop()) if len(found) == 1 else None


def _lowest(
    loss: Callable[[Any], Tensor], own: Answer, start: Tensor, of: Callable[[Tensor], Tensor]
) -> tuple[float, Tensor]:
    """The lowest mean loss found by descent over the outputs themselves, each by itself, and where it is."""
    size = float(start.detach().abs().max().clamp_min(1.0))
    z = (start.detach().float() + 1e-3 * size).requires_grad_()  # at 0 some functions are flat
    optimizer = torch.optim.Adam([z], _RATE * size)
    scored = own.losses != 0
    best, where = float("inf"), start

    def exchanged(leaf: Any) -> Any:
        data = leaf.data if isinstance(leaf, PackedSequence) else leaf
        new = of(z) if data.is_floating_point() else data
        return leaf._replace(data=new) if isinstance(leaf, PackedSequence) else new

    with torch.enable_grad():
        for _ in range(_STEPS):
            losses = loss(mapped(own.output, exchanged)).reshape(own.losses.shape)
            mean = losses[scored].mean()
            if (value := float(mean.detach())) < best:
                best, where = value, of(z).detach()
            (z.grad,) = torch.autograd.grad(losses.sum(), [z])
            optimizer.step()
    return best, where


class _Dropouts(TorchFunctionMode):
    """Notes every dropout that takes something away, with its line; leaves it out if asked to."""

    def __init__(self, *, leave_out: bool) -> None:
        super().__init__()
        self.leave_out, self.places = leave_out, list[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            at = 2 if len(args) > 2 else None
            on = args[at] if at else kwargs.get("training", kwargs.get("train", True))
            share = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            if on and share:
                self.places.append(line_of_caller())
                if self.leave_out:
                    return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


def random_output(exam: Examination) -> Iterable[Finding]:
    """In eval mode two calls with the same sequences, and other random numbers, have other losses."""
    sample = exam.samples[0]
    with torch.no_grad(), answers(exam.model, sample.inputs) as ask:

        def asked(seed: int, *, leave_out: bool = False) -> tuple[Tensor, list[str]]:
            torch.manual_seed(seed)
            with _Dropouts(leave_out=leave_out) as watch:
                own: Answer = ask(sample.inputs, sample.loss)
            return own.losses, watch.places

        (first, places), (again, _), (other, _) = asked(0), asked(0), asked(1)
        if first.shape != other.shape or bool(changed(first, again).any()) or not bool(changed(first, other).any()):
            return
        calls = torch.stack([asked(seed)[0] for seed in range(_CALLS)])
        without, still = (asked(seed, leave_out=bool(places))[0] for seed in (0, 1))
    differ = float((first - other).abs().mean()) / float(first.abs().mean().clamp_min(1e-30))
    what = f"two calls in eval mode with the same sequences have losses that differ by {differ:.0%} of their size. "
    kept = ("a state that is kept: with the same seed both calls agree",)
    if bool(changed(without, still).any()):
        where = f" A dropout is on, too ({places[0]})." if places else ""
        yield Finding(
            Kind.RANDOM_OUTPUT,
            f"{what}Noise is added or drawn in forward in eval mode, too.{where} Where it is meant (sampling, a "
            "variational model), average over several calls.",
            {"difference": differ},
            "losses in eval mode change with the seed of torch, and not without",
            ruled_out=kept,
        )
        return
    before, after = (float(losses[without != 0].double().mean()) for losses in (calls.mean(0), without))
    share, cost = 1 - after / before, (before - after) / exam.progress.chance
    numbers = {"difference": differ, "cost": cost, "share": share, "loss": before, "loss_without": after}
    fix = f"It is a dropout ({places[0]}): give it training=self.training, or take the module nn.Dropout"
    rule = "losses in eval mode change with the seed of torch, not without, nor if dropout is left out"
    unsolved = exam.progress.above(THRESHOLDS.solved_share.value)
    most, half = THRESHOLDS.solved_share.value, THRESHOLDS.main_cause.value
    if unsolved and (cost > most or share > half):
        costs = f"{cost:.0%} > {most:.0%} of chance" if cost > most else f"{share:.0%} > {half:.0%} of the loss"
        yield Finding(
            Kind.DROPOUT_IN_EVAL,
            f"{what}{fix}. Without it the loss is {after:.3g}, not {before:.3g}: predictions lose {cost:.0%} of "
            "chance. Where it is meant (Monte Carlo dropout), only the mean of many calls is a prediction.",
            numbers,
            f"{rule}; {costs} is due to it, and {unsolved}",
            ruled_out=(*kept, "sampling, or noise that is added: without dropout the losses are the same"),
        )
        return
    yield Finding(
        Kind.RANDOM_OUTPUT,
        f"{what}{fix}. Where it is meant (Monte Carlo dropout), average over several calls.",
        numbers,
        rule,
        ruled_out=kept,
    )


RULES = (output_range, random_output)
