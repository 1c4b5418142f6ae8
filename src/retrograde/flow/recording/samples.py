"""Batches as anyone has them (tensors, tuples, a DataLoader), as what a model is called with and the losses of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ...errors import FlowError, OptionError
from ...nested import map_tensors, named_tensors


@dataclass(frozen=True)
class Sample:
    """A batch of sequences: what the network is called with, and the losses of what it returns."""

    inputs: tuple[Any, ...]
    loss: Callable[[Any], Tensor]  # to `(B,)` or `(T, B)`
    target: Any = None  # None where the loss knows it
    judge: Callable[[Any, Any], Tensor] | None = None  # the loss as a function of output and target

    def judged(self, target: Any) -> Callable[[Any], Tensor]:
        """The loss with other targets, such as those of some of the sequences."""
        judge = self.judge
        return self.loss if judge is None else lambda output: judge(output, target)

    def at_a_constant(self, value: str = "zero") -> Sample:
        """The same with the loss at a constant output: its gradient is that of a network that predicts nothing yet.

        The network's own predictions then do not count, only what the targets ask for. The constant is 0, or the
        ``"mean"`` of each output tensor: of probabilities, and for a loss that has no value at 0. The mean gradient of
        the outputs is taken off, as the nonlinearity of a head (sigmoid, softmax) would pass it on according to what
        the network predicts.
        """

        def loss(output: Any) -> Tensor:
            constant = _constant(output, value)
            losses = self.loss(constant)
            for _, part in named_tensors(constant, ""):
                if not (part.requires_grad and isinstance(losses, Tensor)):
                    continue
                if (shift := _of_the_mean(losses, part)) is not None:
                    losses = losses - shift
            return losses

        return dataclasses.replace(self, loss=loss)


def _constant(output: Any, value: str) -> Any:
    """An output with every number replaced by a constant, whose gradient still reaches the network."""

    def constant(part: Tensor) -> Tensor:
        if not part.is_floating_point():
            return part
        known = part.detach()
        probabilities = bool(((known >= 0) & (known <= 1)).all())  # many losses of them have no value at 0
        return part - (known - known.mean() if probabilities or value == "mean" else known)

    def as_it_is(part: Any) -> Any:
        if part is None or isinstance(part, bool | int | float | str):
            return part
        raise FlowError(
            f"The model returns {type(part).__name__}, in which the output cannot be found: let it return a tensor, or "
            "a tuple, dict or dataclass of tensors."
        )

    return map_tensors(output, constant, other=as_it_is)


def _of_the_mean(losses: Tensor, output: Tensor) -> Tensor | None:
    """What the mean over the sequences of ∂E/∂output adds to each loss, to first order, shaped as the losses.

    None where the axes of sequences and steps cannot be found in the output.
    """
    if losses.dim() not in (1, 2) or not losses.requires_grad:
        return None

    def gradient(of: Tensor) -> Tensor | None:
        found: Tensor | None = torch.autograd.grad(of.sum(), output, retain_graph=True, allow_unused=True)[0]
        return found

    whole = gradient(losses)
    if whole is None or not bool(torch.isfinite(whole).all()):
        return None
    axes: list[int] = []
    for axis in range(losses.dim()):  # each loss has a gradient at one index of its axis only
        alone = [gradient(losses.select(axis, i)) for i in range(min(2, losses.shape[axis]))]
        places = [
            i
            for i, size in enumerate(output.shape)
            if size == losses.shape[axis]
            and i not in axes
            and all(g is not None and bool(g.eq(whole).select(i, j).all()) for j, g in enumerate(alone))
            and all(
                g is not None and not g.index_fill(i, torch.tensor(j, device=g.device), 0).any()
                for j, g in enumerate(alone)
            )
        ]
        if len(places) != 1:
            return None
        axes.append(places[0])
    others = [i for i in range(output.dim()) if i not in axes]
    live = whole.ne(0).any(others, keepdim=True) if others else whole.ne(0)
    count = live.sum(axes[-1], keepdim=True).clamp(min=1)
    mean = whole.sum(axes[-1], keepdim=True) / count * live
    shift = (output * mean).permute(*axes, *others)
    return shift.flatten(losses.dim()).sum(-1) if others else shift


def each_sample(batches: Any, loss: Callable[..., Tensor] | None) -> Iterator[Sample]:
    """The batches as samples, one after the other.

    A batch is what the model is called with, a tensor or packed sequence, or a tuple of that and, last, the target;
    ``batches`` is one batch, an iterable of them, or samples. The loss takes the model's output, and the target if
    there is one; samples have their own.

    Raises OptionError if ``batches`` has another form.
    """
    one = isinstance(batches, Tensor | PackedSequence | Sample) or (
        isinstance(batches, tuple)
        and bool(batches)
        and all(isinstance(part, Tensor | PackedSequence) for part in batches)
    )
    try:
        chosen = iter([batches] if one else batches)
    except TypeError:
        raise OptionError(
            f"batches is a {type(batches).__name__}; give an iterable of batches, such as a DataLoader."
        ) from None
    for batch in chosen:
        if not isinstance(batch, Sample) and loss is None:
            raise OptionError("loss is None; give the loss by step, or samples, which have their own.")
        yield batch if isinstance(batch, Sample) or loss is None else _sample(batch, loss)


def samples_of(batches: Any, loss: Callable[..., Tensor], most: int = 16) -> list[Sample]:
    """The first batches as samples; see `each_sample`."""
    chosen = list(islice(each_sample(batches, loss), most))
    if not chosen:
        raise OptionError("batches is empty; give at least one batch of sequences.")
    return chosen


def _sample(batch: Any, loss: Callable[..., Tensor]) -> Sample:
    if isinstance(batch, PackedSequence) or not isinstance(batch, tuple | list):
        batch = (batch,)
    if len(batch) == 1:
        return Sample(tuple(batch), loss)
    target = batch[-1]
    return Sample(tuple(batch[:-1]), lambda output: loss(output, target), target, loss)
