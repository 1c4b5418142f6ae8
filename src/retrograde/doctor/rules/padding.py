"""Does padding count? Steps beyond the end of a sequence must neither have a loss nor change one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ...nested import leaves_of, mapped
from ..examination import Examination
from ..findings import Finding, Kind
from ..forward import Answer, answer, answers, changed, tensors
from ..thresholds import THRESHOLDS


def mask_error(exam: Examination) -> Iterable[Finding]:
    """Steps beyond the end of a sequence have a loss, or change one."""
    ends = _ends(exam)
    if ends is None or (ends.presumed and not exam.progress.above(THRESHOLDS.unsolved_share.value)):
        return
    lengths = ends.lengths
    whole, sample = exam.answer, exam.samples[0]
    share = _share_of_padding(exam, lengths)
    if share > 0:
        yield _padding_counts(
            f"{share:.0%} of the loss is at steps beyond the end of their sequence: multiply the losses by the mask, "
            "or use ignore_index.",
            {"padding_share": share},
            "losses beyond a sequence's end are not 0",
        )
        return
    if whole.final and (unread := _unread(exam, lengths)):
        yield _padding_counts(
            f"{unread} sequences that are shorter than the longest get no gradient at all: the last step of the padded "
            "batch is read, which is padding. Read each sequence's own last step, or the final state that the layer "
            "returns.",
            {"unread": unread, "sequences": len(lengths)},
            "no loss of a shorter sequence depends on its states",
        )
        return
    if (lost := _packed_from_the_wrong_end(exam, lengths)) > 0:
        yield _padding_counts(
            f"{lost:.0%} of the real steps are cut off: the sequences are padded at their start, and packed as if they "
            "were at their end. Pad at the end, or turn them around before packing.",
            {"lost": lost, "sequences": len(lengths)},
            "the first steps of packed sequences that are shorter than the longest have one value, those cut off have "
            "not",
        )
        return
    leaves = [leaf for leaf in leaves_of(sample.inputs) if isinstance(leaf, Tensor) and leaf is not ends.mask]
    padded = [leaf for leaf in leaves if _is_padded(leaf, lengths)]
    if not padded:
        return
    inputs = mapped(
        sample.inputs, lambda leaf: _other_padding(leaf, lengths) if any(leaf is p for p in padded) else leaf
    )
    try:
        new = answer(exam.model, inputs, sample.loss)
    except Exception:  # not padding, and the model cannot take other values there
        return
    other = changed(whole.losses, new.losses).any(0)
    if bool(other.any()):
        yield _padding_counts(
            f"other values in the padding change the losses of {int(other.sum())} of {len(other)} sequences: read "
            "the state at each sequence's own last step, or pack the sequences.",
            {"changed": int(other.sum()), "sequences": len(other)},
            f"losses change by more than rounding ({THRESHOLDS.rounding.value:g}) with the values of the padding",
        )


def _padding_counts(message: str, numbers: dict[str, float], rule: str) -> Finding:
    return Finding(Kind.MASK_ERROR, message, numbers, rule, ruled_out=("dropout (eval mode)",))


class _Ends(NamedTuple):
    """Where the sequences end."""

    lengths: Tensor  # (B,)
    mask: Tensor | None = None  # the input that says so
    presumed: bool = False  # from the number that an embedding has for padding: many learn to read past it


def _ends(exam: Examination) -> _Ends | None:
    """By packed input, an input with lengths or a mask, or an embedding's padding; None where nothing is padded."""
    size = exam.answer.sequences
    given = [call.given for call in exam.answer.calls] + leaves_of(exam.samples[0].inputs)
    for value in given:
        if isinstance(value, PackedSequence) and int(value.batch_sizes[0]) == size:
            known = pad_packed_sequence(value)[1]
            return _Ends(known) if int(known.min()) < int(known.max()) else None
    leaves = [leaf for leaf in leaves_of(exam.samples[0].inputs) if isinstance(leaf, Tensor)]
    for leaf in leaves:
        lengths = _lengths_in(leaf, size)
        if lengths is not None and any(_is_padded(other, lengths) for other in leaves if other is not leaf):
            return _Ends(lengths, leaf)
    numbers = {m.padding_idx for m in exam.model.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None}
    for leaf, number in product(leaves, numbers):
        if leaf.ndim == 2 and not leaf.is_floating_point() and (lengths := _prefixes(leaf != number, size)) is not None:
            return _Ends(lengths, presumed=True)
    return None


def _lengths_in(leaf: Tensor, size: int) -> Tensor | None:
    """The lengths that a tensor of numbers `(B,)`, or a mask, contains."""
    if leaf.ndim == 1 and len(leaf) == size and not leaf.is_floating_point() and leaf.dtype != torch.bool:
        return leaf.cpu() if int(leaf.min()) >= 1 and int(leaf.min()) < int(leaf.max()) else None
    if leaf.ndim != 2 or not bool(((leaf == 0) | (leaf == 1)).all()):
        return None
    lengths = _prefixes(leaf != 0, size)
    return _prefixes(leaf == 0, size) if lengths is None else lengths


def _prefixes(mask: Tensor, size: int) -> Tensor | None:
    """How many steps of each sequence are true, if these are its first ones, and their number differs."""
    if size not in mask.shape:
        return None
    by_step = mask.cpu() if mask.shape[1] == size else mask.cpu().T
    lengths = by_step.sum(0)
    prefix = torch.arange(len(by_step), device="cpu").unsqueeze(1) < lengths
    differ = int(lengths.min()) >= 1 and int(lengths.min()) < int(lengths.max())
    return lengths if differ and torch.equal(prefix, by_step) else None


def _time_first(leaf: Tensor, lengths: Tensor) -> Tensor | None:
    """A padded input with its axes of steps and sequences first; None where it has none."""
    size, longest = len(lengths), int(lengths.max())
    if leaf.ndim < 2 or leaf.dtype == torch.bool:
        return None
    if leaf.shape[1] == size and leaf.shape[0] >= longest:
        return leaf
    return leaf.transpose(0, 1) if leaf.shape[0] == size and leaf.shape[1] >= longest else None


def _beyond(leaf: Tensor, lengths: Tensor) -> Tensor:
    """`(T, B)`, true beyond the end of a sequence."""
    return torch.arange(len(leaf), device=leaf.device).unsqueeze(1) >= lengths.to(leaf.device)


def _is_padded(leaf: Tensor, lengths: Tensor) -> bool:
    """Whether an input has one value beyond the lengths, as padding does, and others before."""
    by_step = _time_first(leaf, lengths)
    if by_step is None:
        return False
    beyond = _beyond(by_step, lengths)
    padding, real = by_step[beyond], by_step[~beyond]
    return (
        padding.numel() > 0
        and bool((padding == padding.flatten()[0]).all())
        and bool((real != real.flatten()[0]).any())
    )


def _packed_from_the_wrong_end(exam: Examination, lengths: Tensor) -> float:
    """Share of the real steps that a packed layer does not read, because they are where padding is expected."""
    given = [call.given for call in exam.answer.calls if isinstance(call.given, PackedSequence)]
    if not given:
        return 0.0
    if _begin_with_padding(given[0], lengths):
        longest = int(lengths.max())
        return 1 - float((2 * lengths - longest).clamp(min=0).sum() / lengths.sum())
    lost = 0.0
    for leaf in leaves_of(exam.samples[0].inputs):
        if not isinstance(leaf, Tensor) or _is_padded(leaf, lengths):
            continue
        by_step = _time_first(leaf, lengths)
        if by_step is None or len(by_step) != int(lengths.max()):
            continue
        turned = by_step.flip(0)
        if _is_padded(turned, lengths):
            start = _beyond(turned, lengths).flip(0)
            lost = float((_beyond(by_step, lengths) & ~start).sum() / (~start).sum())
    return lost


def _begin_with_padding(packed: PackedSequence, lengths: Tensor) -> bool:
    """Whether shorter sequences begin with one value for as many steps as they are shorter, by more than chance."""
    data = pad_packed_sequence(packed)[0].detach()
    if data.shape[1] != len(lengths):
        return False
    step = torch.arange(len(data), device=data.device).unsqueeze(1)
    read, first = ~_beyond(data, lengths), step < len(data) - lengths.to(data.device)
    padding, real = data[read & first].flatten(1), data[read & ~first].flatten(1)
    if not len(padding) or not len(real) or not bool((padding == padding[0]).all()):
        return False
    share = max(float((real == padding[0]).all(1).double().mean()), 1 / len(real))
    return bool(share ** len(padding) < THRESHOLDS.padding_chance.value)


def _other_padding(leaf: Tensor, lengths: Tensor) -> Tensor:
    """The same input with values of real steps in its padding."""
    new = leaf.clone()
    by_step = _time_first(new, lengths)
    if by_step is None:
        return leaf
    beyond = _beyond(by_step, lengths)
    real = by_step[~beyond]
    picked = torch.arange(int(beyond.sum()), device=leaf.device) * 7 % len(real)
    by_step[beyond] = real[picked]
    return new


def _share_of_padding(exam: Examination, lengths: Tensor) -> float:
    """Share of the loss, or of its gradient by outputs, at steps beyond the end of a sequence."""
    whole, sample = exam.answer, exam.samples[0]
    leaves = [leaf for leaf in leaves_of(sample.inputs) if isinstance(leaf, Tensor)]
    tables = [_time_first(leaf, lengths) for leaf in leaves if _is_padded(leaf, lengths)]
    steps = {int(lengths.max()), *(len(table) for table in tables if table is not None)}  # longer in some batches
    if not whole.final:
        return _share_beyond(whole.losses, lengths, steps)
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        own = ask(sample.inputs, sample.loss)
        outputs = [leaf for leaf in tensors(own.output) if leaf.requires_grad and leaf.ndim >= 2]
        found = _gradients(own, outputs)
    tables = [_time_first(gradient, lengths) for gradient in found if gradient is not None]
    return max((_share_beyond(t, lengths, steps) for t in tables if t is not None), default=0.0)


def _share_beyond(by_step: Tensor, lengths: Tensor, steps: Collection[int]) -> float:
    """Share of a table's size `(T, B, …)` beyond the end of a sequence; 0 if it has other steps than padded input."""
    if len(by_step) not in steps:
        return 0.0
    sizes = by_step.abs().double()
    return float(sizes[_beyond(by_step, lengths)].sum() / sizes.sum().clamp_min(1e-300))


def _gradients(own: Answer, outputs: list[Tensor]) -> Sequence[Tensor | None]:
    if not outputs or not own.losses.requires_grad:
        return []
    return torch.autograd.grad(own.losses.sum(), outputs, allow_unused=True, retain_graph=True)


def _unread(exam: Examination, lengths: Tensor) -> int:
    """How many sequences do not depend on any state of packed layers, though the longest do."""
    sample = exam.samples[0]
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        own = ask(sample.inputs, sample.loss)
        packed = [call for call in own.calls if isinstance(call.given, PackedSequence)]
        size = torch.zeros(len(lengths), dtype=torch.float64, device="cpu")
        for call in packed:
            outputs, last = call.output[0], tensors(call.output[1])
            for gradient in _gradients(own, [t for t in last if t.requires_grad]):
                if gradient is not None:
                    size += gradient.abs().double().sum((0, 2)).cpu()
            for gradient in _gradients(own, [outputs.data] if outputs.data.requires_grad else []):
                if gradient is not None:
                    size += pad_packed_sequence(outputs._replace(data=gradient))[0].abs().double().sum((0, 2)).cpu()
    short = lengths < lengths.max()
    return int(short.sum()) if bool((size[~short] > 0).all()) and not bool((size[short] > 0).any()) else 0


RULES = (mask_error,)
