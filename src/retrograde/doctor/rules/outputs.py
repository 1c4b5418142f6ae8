"""Can the outputs be what the loss asks for, and are they the same whenever the network is asked?

Tests: `tests/doctor/test_outputs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ...nested import mapped
from ..examination import Examination
from ..findings import Finding, Kind
from ..forward import Answer, answers, changed, tensors
from ..thresholds import THRESHOLDS

__all__ = ["RULES"]

_STEPS, _RATE = 80, 0.5  # of the search for the outputs with the lowest loss
_MOST = 200_000  # numbers of an output that are searched
_SEEDS = 3

# Operators that give a tensor another shape, or join several, and leave its values.
_SHAPES = {"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute", "Select", "Slice"}
_SHAPES |= {"Clone", "Stack", "Cat", "ToCopy", "Alias", "Expand", "Index", "Movedim"}


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


def random_output(exam: Examination) -> Iterable[Finding]:
    """In eval mode two calls with the same sequences, and other random numbers, have other losses."""
    sample = exam.samples[0]
    with torch.no_grad(), answers(exam.model, sample.inputs) as ask:

        def asked(seed: int) -> Tensor:
            torch.manual_seed(seed)
            found: Answer = ask(sample.inputs, sample.loss)
            return found.losses

        first, again, other = asked(0), asked(0), asked(1)
    if first.shape != other.shape or bool(changed(first, again).any()) or not bool(changed(first, other).any()):
        return
    size = float(first.abs().mean().clamp_min(1e-30))
    differ = float((first - other).abs().mean()) / size
    yield Finding(
        Kind.RANDOM_OUTPUT,
        f"two calls in eval mode with the same sequences have losses that differ by {differ:.0%} of their size. Look "
        "for F.dropout without training=self.training, or noise that is added in forward; where it is meant (sampling, "
        "Monte Carlo dropout), average over several calls.",
        {"difference": differ},
        "losses in eval mode change with the seed of torch, and not without",
        ruled_out=("a state that is kept: with the same seed both calls agree",),
    )


RULES = (output_range, random_output)
