"""Is the network connected as it should be? Axes, sequences, states, layers and head.

Each test changes something and looks at what follows: another sequence in one place of the batch, a second call, noise
instead of states. Nothing is changed for good, and dropout is off.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ...flow.recording.batches import Axes, sequences_at, size_of
from ...nested import leaves_of, mapped
from ..examination import Examination, Sample
from ..findings import Finding, Kind
from ..forward import Answer, LayerCall, answer, answers, changed, layers_of, small_update, tensors
from ..thresholds import THRESHOLDS

__all__ = ["RULES"]

_GUESSES = 8  # combinations of axes that are tried as the batch axis
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_RESETS = re.compile(r"reset_(?!parameters)|init_(hidden|state)|zero_state|detach_state|clear_state")


# --- Between sequences -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Influence:
    """Which sequences change when the one in a place of the batch is exchanged, by that place."""

    reached: dict[int, list[int]]  # other places than its own

    @property
    def mixes(self) -> bool:
        return any(self.reached.values())

    @property
    def forward_only(self) -> bool:
        """Whether only later places change, as if the batch were time."""
        return all(other > place for place, others in self.reached.items() for other in others)


def _influence(exam: Examination) -> _Influence | None:
    """The influence of sequences on each other in the first sample; None where it cannot be tested."""
    sample, whole = exam.samples[0], exam.answer
    size = whole.sequences
    if size < 3 or (not whole.final and {call.batch for call in whole.calls} == {1}):
        return None
    options: list[Axes] = []
    for leaf in leaves_of(sample.inputs):
        axes: Axes = [axis for axis in range(_axes(leaf)) if size_of(leaf, axis) == size]
        options.append(axes or [None])
    mixed: _Influence | None = None
    for axes_of_leaves in itertools.islice(itertools.product(*options), _GUESSES):
        if all(axis is None for axis in axes_of_leaves):
            continue
        found = _with_axes(exam, sample, list(axes_of_leaves))
        if found is not None and not found.mixes:
            return found
        mixed = mixed or found
    return mixed


def _axes(leaf: Tensor | PackedSequence) -> int:
    return leaf.ndim if isinstance(leaf, Tensor) else 1


def _with_axes(exam: Examination, sample: Sample, axes: Axes) -> _Influence | None:
    """The influence if these are the batch axes of the inputs; None where the model fails, or nothing changes."""
    whole = exam.answer
    size, reached, moved = whole.sequences, dict[int, list[int]](), False
    for place in (size // 2, size - 1, 0):
        for other in (place + size // 2, place + 1):
            rows = torch.arange(size, device="cpu")
            rows[place] = other % size
            try:
                new = answer(exam.model, sequences_at(sample.inputs, axes, rows), sample.loss)
            except Exception:  # a wrong guess may fail anywhere in the model or the loss
                continue
            if new.losses.shape != whole.losses.shape:
                continue
            losses = changed(whole.losses, new.losses).any(0)
            if not bool(losses.any()):
                continue
            moved = True
            others = set(losses.nonzero().flatten().tolist()) - {place}
            reached[place] = sorted(others & _outputs_reached(whole, new, place, others))
            break
    return _Influence(reached) if moved else None


def _outputs_reached(whole: Answer, new: Answer, place: int, others: set[int]) -> set[int]:
    """The sequences whose outputs change, by any reading of the output's axes; all where it has no batch axis."""
    size, found = whole.sequences, set[int]()
    known = False
    for before, after in zip(tensors(whole.output), tensors(new.output), strict=True):
        axes = [axis for axis in range(before.ndim) if before.shape[axis] == size]
        if before.shape != after.shape or not axes:
            continue
        known, moved = True, changed(before, after)
        if len(axes) == 1:
            found |= set(moved.movedim(axes[0], 0).reshape(size, -1).any(1).nonzero().flatten().tolist()) - {place}
        elif not _is_table_of_pairs(moved, axes, place):
            found |= others
    return found if known else others


def _is_table_of_pairs(moved: Tensor, axes: Sequence[int], place: int) -> bool:
    """Whether what changed is a sequence's own row and its column, as of similarities between all sequences."""
    first, second = (moved.select(axis, place).clone() for axis in axes[:2])
    both = bool((first.sum() > 1) & (second.sum() > 1))
    return both and int(moved.sum()) <= int(first.sum()) + int(second.sum())


def mixed_sequences(exam: Examination) -> Iterable[Finding]:
    """What one sequence contains changes another: the batch is taken as time, or states leak."""
    found = _influence(exam)
    if found is None or not found.mixes:
        return
    afresh = copy.copy(exam)
    vars(afresh).pop("answer")  # which may once have been rounded otherwise, on more threads
    found = _influence(afresh)
    if found is None or not found.mixes:
        return
    norms = [m for m in exam.model.modules() if isinstance(m, _BATCH_NORMS)]
    if any(not norm.track_running_stats for norm in norms):
        exam.notes.append(
            "sequences are mixed by a batch normalization without running statistics; not examined further"
        )
        return
    size, whole = exam.answer.sequences, exam.answer
    place, others = next((place, others) for place, others in found.reached.items() if others)
    numbers = {"sequences": size, "changed": place, "reached": len(others)}
    what = f"exchanging sequence {place} of {size} changes {len(others)} more ({_listed(others)})"
    steps = {name: sum(c.steps for c in whole.calls if c.name == name) for name in {c.name for c in whole.calls}}
    along = [call for call in whole.calls if steps[call.name] == size or call.steps == size]
    wrong = [call for call in along if call.batch != size or found.forward_only]
    if wrong:
        call = wrong[0]
        one = f"{call.name or type(exam.model).__name__} runs over {size} steps of {call.batch} sequences"
        first = getattr(call.module, "batch_first", None)
        fix = "" if first is None else f" It has batch_first={first}: does the input have its batch there?"
        yield Finding(
            Kind.WRONG_TIME_AXIS,
            f"{what}: {one}, but the losses are of {size} sequences.{fix} (Or the losses are transposed: they must be "
            "by step and sequence, (T, B).)",
            numbers | {"steps": size, "batch": call.batch},
            f"another sequence changes, and the layer's steps {size} = the sequences {size}",
            call.name,
            ruled_out=("dropout (eval mode)", "batch normalization (eval mode uses running statistics)"),
        )
        return
    yield Finding(
        Kind.STATE_LEAKS,
        f"{what}. Look for an index, a roll, a reshape or a mean over the batch axis between input and output.",
        numbers,
        f"another sequence changes by more than rounding ({THRESHOLDS.rounding.value:g} of the largest value)",
        ruled_out=(
            "dropout (eval mode)",
            "batch normalization (eval mode uses running statistics)",
            "a batch taken as time: no layer has as many steps as there are sequences",
        ),
    )


def targets_broadcast(exam: Examination) -> Iterable[Finding]:
    """Outputs and targets of as many numbers in other shapes: the difference of (B, 1) and (B,) is (B, B)."""
    sample = exam.samples[0]
    outputs = [leaf.detach() for leaf in tensors(exam.answer.output) if leaf.is_floating_point()]
    targets = [leaf for leaf in tensors(sample.target) if leaf.is_floating_point()]
    if sample.judge is None or len(outputs) != 1 or len(targets) != 1:
        return
    (output,), (target,) = outputs, targets
    if output.shape == target.shape or output.numel() != target.numel() or output.numel() < 2:
        return
    if not _compares_with_all(exam, target) or _compares_with_all(exam, target.reshape(output.shape)):
        return
    shapes = f"{tuple(output.shape)} and {tuple(target.shape)}"
    yield Finding(
        Kind.TARGETS_BROADCAST,
        f"the output has shape {tuple(output.shape)} and the target {tuple(target.shape)}: the loss broadcasts them, "
        "and so compares each output with the targets of other sequences or steps, too. Give both one shape.",
        {"numbers": output.numel()},
        f"shapes {shapes}; another target changes the gradient of other outputs, and not if both have one shape",
        ruled_out=("losses that compare sequences on purpose: in the shape of the output no target counts elsewhere",),
    )


def _compares_with_all(exam: Examination, target: Tensor) -> bool:
    """Whether the first number of a target changes the gradient of other outputs than its own."""
    other = target.contiguous().clone()
    other.view(-1)[0] += 1
    try:
        first, second = (_by_output(exam, one) for one in (target, other))
    except Exception:  # a loss of anyone's may not take that shape
        return False
    return bool(changed(first, second)[1:].any())


def _by_output(exam: Examination, target: Tensor) -> Tensor:
    """The gradient of all losses with respect to the output, with another target for the one of real numbers."""
    leaves: list[Tensor] = []

    def leaf(given: Any) -> Any:
        data = given.data if isinstance(given, PackedSequence) else given
        new = data.detach().clone().requires_grad_(data.is_floating_point())
        leaves.extend([new] if new.requires_grad else [])
        return given._replace(data=new) if isinstance(given, PackedSequence) else new

    def exchanged(given: Any) -> Any:
        return target if given.is_floating_point() else given

    sample = exam.samples[0]
    with torch.enable_grad():
        losses = sample.judged(mapped(sample.target, exchanged))(mapped(exam.answer.output, leaf))
        return torch.autograd.grad(losses.sum(), leaves)[0].flatten()


def _listed(places: Sequence[int]) -> str:
    return ", ".join(map(str, places[:4])) + (", …" if len(places) > 4 else "")


# --- Between calls and steps -----------------------------------------------------------------------------------------


def kept_state(exam: Examination) -> Iterable[Finding]:
    """Two calls with the same input give different outputs: a state is kept from batch to batch."""
    sample = exam.samples[0]
    with torch.no_grad(), answers(exam.model, sample.inputs) as ask:
        first, second = (_seeded(ask, sample) for _ in range(2))
    mode = "eval"
    if not _other(first, second):
        if len(exam.samples) < 3:
            return
        # In training mode calls may differ by what they count or draw, but not by what the call before contained.
        first, second = (_after(exam, before, sample, training=True) for before in exam.samples[1:3])
        mode = "training"
        if not _other(first, second):
            return
    difference = abs(float(second.losses.mean() - first.losses.mean())) / max(abs(float(first.losses.mean())), 1e-30)
    if exam.record.bptt is not None or (resets := _resets(exam.model)):
        why = "trained in windows" if exam.record.bptt is not None else f"there is {resets}"
        exam.notes.append(f"a state is kept from call to call ({why}): start it from zero where other sequences begin")
        return
    if _helps(exam):
        exam.notes.append("a state is kept from call to call, and it helps: batches seem to continue each other")
        return
    yield Finding(
        Kind.STATE_LEAKS,
        f"a second call with the same sequences starts from another state (the mean loss changes by {difference:.2g} "
        "of its size): it is kept from one batch to the next, which contains other sequences. Start each batch from a "
        "state of zeros, or give the model a method that resets it.",
        {"difference": difference},
        f"two calls in {mode} mode differ by more than rounding ({THRESHOLDS.rounding.value:g})",
        ruled_out=(
            f"dropout ({'eval mode, and ' if mode == 'eval' else ''}the same random numbers)",
            "batches that continue each other: no gain from it",
        ),
    )


def _other(first: Answer, second: Answer) -> bool:
    """Whether losses, or the states that layers started from, differ."""
    pairs = zip(_results(first), _results(second), strict=False)
    return len(_results(first)) != len(_results(second)) or any(_differ(a, b) for a, b in pairs)


def _results(own: Answer) -> list[Tensor]:
    """The losses, and the states that layers started from."""
    return [own.losses, *(state for call in own.calls for state in call.state)]


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.shape != b.shape or bool(changed(a, b).any())


def _seeded(ask: Any, sample: Sample) -> Answer:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (a model may use the global state, which is restored)
    found: Answer = ask(sample.inputs, sample.loss)
    return found


def _resets(model: nn.Module) -> str:
    """A method by which the state is meant to be reset."""
    for module in model.modules():
        for name in dir(type(module)):
            if _RESETS.match(name) and callable(getattr(type(module), name)):
                return f"{type(module).__name__}.{name}"
    return ""


def _helps(exam: Examination) -> bool:
    """Whether a batch is easier after the one before it than after another, as where batches continue each other."""
    count = len(exam.samples)
    gains: list[Tensor] = []
    for i in range(1, count if count > 2 else 0):
        own = exam.samples[i]
        losses = [_after(exam, exam.samples[before], own).losses for before in (i - 1, (i + 1) % count)]
        if losses[0].shape == losses[1].shape:
            gains.append((losses[1] - losses[0]).sum(0).double())
    gain = torch.cat(gains) if gains else torch.zeros(2, device="cpu")
    if len(gain) < 2:
        return False
    t = float(gain.mean()) / max(float(gain.std()) / len(gain) ** 0.5, 1e-300)
    return t > 0 and _tail(t, len(gain) - 1) < THRESHOLDS.continues.value


def _tail(t: float, freedom: int) -> float:
    """The probability that Student's t is larger: the mean of a few sequences may be three standard errors off."""

    def area(low: float) -> float:  # x = √ν tan θ has the density cos^(ν−1) θ
        width = (math.pi / 2 - low) / 2000
        return float((np.cos(low + width * (np.arange(2000) + 0.5)) ** (freedom - 1)).sum() * width)

    return area(math.atan(t / math.sqrt(freedom))) / area(-math.pi / 2)


def _after(exam: Examination, before: Sample, sample: Sample, *, training: bool = False) -> Answer:
    """The answer to a sample right after another one."""
    with torch.no_grad(), answers(exam.model, (before.inputs, sample.inputs), training=training) as ask:
        _seeded(ask, before)
        return _seeded(ask, sample)


def state_not_carried(exam: Examination) -> Iterable[Finding]:
    """A layer is called for single steps, or for windows, and starts each from the same state."""
    whole = exam.answer
    times = {leaf.shape[axis] for leaf in tensors(exam.samples[0].inputs) for axis in range(leaf.ndim)}
    for name in dict.fromkeys(call.name for call in whole.calls):
        own = [call for call in whole.calls if call.name == name]
        rows, steps = sum(call.batch for call in own), sum(call.steps for call in own)
        single = all(call.steps == 1 for call in own) and rows >= 2 * whole.sequences
        alone = len({call.name for call in whole.calls}) == 1
        windows = len(own) > 1 and alone and steps in times and all(call.batch == whole.sequences for call in own)
        if not (single or windows) or not _same_starts(own):
            continue
        length = max(call.steps for call in own)
        what = "every step" if single else f"every {length} steps"
        yield Finding(
            Kind.STATE_NOT_CARRIED,
            f"{name or 'the layer'} starts {what} from the same state ({len(own)} calls): nothing can be remembered "
            "longer. Pass the state that a call returns to the next call, or call the layer once for all steps.",
            {"calls": len(own), "steps": steps, "window": length},
            f"{len(own)} calls of {length} steps, each from the same initial state",
            name,
            ruled_out=("a state that is 0 by itself: outputs are not",),
        )


def _same_starts(calls: Sequence[LayerCall]) -> bool:
    """Whether all calls start from one state, though their outputs are not that state."""
    count = max(len(call.state) for call in calls) or 1
    first = calls[0].state or tuple(torch.zeros((), device="cpu") for _ in range(count))
    for call in calls:
        state = call.state or tuple(torch.zeros((), device="cpu") for _ in range(len(first)))
        if len(state) != len(first):
            return False
        for a, b in zip(state, first, strict=True):
            if a.shape != b.shape and 0 not in (a.ndim, b.ndim):
                return False
            if bool((a != b).any()):
                return False
    return any(bool((output != 0).any()) for call in calls for output in tensors(call.output))


def state_detached(exam: Examination) -> Iterable[Finding]:
    """A layer is called for single steps, and each call gets the state of the one before without its gradient."""
    unsolved = exam.progress.above(THRESHOLDS.unsolved_share.value)
    if not unsolved or not any(call.steps == 1 for call in exam.answer.calls):
        return
    sample = exam.samples[0]
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        whole = ask(sample.inputs, sample.loss)
    for name in dict.fromkeys(call.name for call in whole.calls):
        own = [call for call in whole.calls if call.name == name]
        if len(own) < 3 or any(call.steps != 1 or not call.state for call in own[1:]):
            continue
        pairs = list(itertools.pairwise(own))
        if _same_starts(own) or not all(any(t.requires_grad for t in tensors(a.output)) for a, _ in pairs):
            continue
        if any(t.requires_grad for _, b in pairs for t in b.state) or not all(_passed_on(a, b) for a, b in pairs):
            continue
        yield Finding(
            Kind.STATE_DETACHED,
            f"the layer {name or type(own[0].module).__name__} gets its state at every step without the gradient "
            f"({len(own)} calls): nothing can be learned about earlier steps. Pass the state on as it is; where "
            "sequences are long, detach it only every so many steps, or between batches (look for detach(), .data, "
            "no_grad(), torch.tensor(h)).",
            {"calls": len(own)},
            f"in {len(own)} calls of one step each state is that of the call before, without a path, and {unsolved}",
            name,
            ruled_out=(
                "frozen layers: their outputs have a gradient",
                "a state of zeros: it is that of the call before",
            ),
        )


def _passed_on(before: LayerCall, after: LayerCall) -> bool:
    """Whether a call starts from the state that the one before returned."""
    given = {tuple(t.shape[-2:]): t for t in tensors(before.output)}
    return any(
        (own := given.get(tuple(t.shape[-2:]))) is not None and not _differ(own.reshape(t.shape), t)
        for t in after.state
    )


# --- Layers and head -------------------------------------------------------------------------------------------------


def layer_not_called(exam: Examination) -> Iterable[Finding]:
    """A recurrent layer that does not run, or whose output nothing is made of."""
    layers = layers_of(exam.model)
    ran: set[str] = set()
    used: set[str] = set()
    for sample in exam.samples[:4]:
        with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
            own = ask(sample.inputs, sample.loss)
            ran |= {call.name for call in own.calls}
            used |= _with_gradient(own, layers)
        if used == set(layers):
            break
    for name, module in layers.items():
        trainable = any(p.requires_grad for p in module.parameters())
        if name in used or (name in ran and (not trainable or not used)):
            continue
        what = "runs, but no loss is made of its output" if name in ran else "is never called"
        yield Finding(
            Kind.LAYER_NOT_CALLED,
            f"the layer {name} ({type(module).__name__}) {what}. Call it in forward, or remove it.",
            {"parameters": sum(p.numel() for p in module.parameters()), "calls": float(name in ran)},
            f"no path from the losses to any of its parameters, and it {'ran' if name in ran else 'did not run'}",
            name,
            ruled_out=(f"other batches that use it: {len(exam.samples[:4])} were tried",),
        )
    yield from _unused_directions(exam, used)


def _unused_directions(exam: Examination, names: set[str]) -> Iterable[Finding]:
    """A direction of a layer whose states no loss depends on, while some depend on the other's."""
    layers = {name: module for name, module in layers_of(exam.model).items() if name in names}
    ways = {
        f"{name}.{suffix}".lstrip("."): getattr(module, f"weight_ih_{suffix}")
        for name, module in layers.items()
        if isinstance(module, nn.RNNBase) and module.bidirectional
        for suffix in (f"l{module.num_layers - 1}", f"l{module.num_layers - 1}_reverse")
    }
    ways = {where: weight for where, weight in ways.items() if weight.requires_grad}
    used: set[str] = set()
    for sample in exam.samples[:4] if ways else ():
        with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
            total = ask(sample.inputs, sample.loss).losses.sum()
            found = torch.autograd.grad(total, list(ways.values()), allow_unused=True)
        used |= {where for where, g in zip(ways, found, strict=True) if g is not None and bool(g.any())}
    for where, weight in ways.items():
        other = where.removesuffix("_reverse") if where.endswith("_reverse") else f"{where}_reverse"
        if where not in used and other in used:
            yield Finding(
                Kind.LAYER_NOT_CALLED,
                f"no loss depends on the direction {where}. Read its states, or leave the direction out.",
                {"parameters": weight.numel(), "calls": 1.0},
                f"the gradient of its input weights is exactly 0, and that of {other} is not",
                where,
                ruled_out=(f"other batches that use it: {len(exam.samples[:4])} were tried",),
            )


def _with_gradient(own: Answer, layers: dict[str, nn.Module]) -> set[str]:
    """Names of the layers to whose parameters there is a path from the losses."""
    named = [(name, p) for name, module in layers.items() for p in module.parameters() if p.requires_grad]
    if not own.losses.requires_grad or not named:
        return set()
    gradients = torch.autograd.grad(own.losses.sum(), [p for _, p in named], allow_unused=True)
    return {name for (name, _), g in zip(named, gradients, strict=True) if g is not None}


def dead_head(exam: Examination) -> Iterable[Finding]:
    """The losses do not depend on the recurrent states, or no gradient reaches these."""
    unsolved = exam.progress.above(THRESHOLDS.solved_share.value)
    if not unsolved:
        return
    if not any(p.requires_grad for module in layers_of(exam.model).values() for p in module.parameters()):
        return  # a reservoir
    sample = exam.samples[0]
    with torch.enable_grad(), answers(exam.model, sample.inputs) as ask:
        own = ask(sample.inputs, sample.loss)
        if not own.calls:
            return
        size, path = _gradient_to_states(own)
        if size > 0 or (path and not exam.record.updates and _revives(exam, own, ask)):
            return
    uses = _uses_states(exam)
    if path:
        why = "the path is there, but its derivative is 0 everywhere: look for weights of 0 or a softmax of one number"
    elif uses:
        why = "the output depends on them, but the gradient is cut: look for detach(), no_grad() or .data"
    else:
        why = "nothing is made of them: look at what the head reads"
    yield Finding(
        Kind.DEAD_HEAD,
        f"the gradient of the losses with respect to the recurrent states is exactly 0: {why}.",
        {"gradient": size, "path": float(path), "used": float(uses)},
        f"‖∂loss/∂states‖ = 0, with{'' if path else 'out'} a path in the graph",
        ruled_out=(
            "frozen recurrent layers: they have parameters to train",
            f"a solved task: {unsolved}",
        ),
    )


def _gradient_to_states(own: Answer) -> tuple[float, bool]:
    """Norm of the gradient of all losses with respect to what recurrent layers returned; whether there is a path."""
    outputs = [t for call in own.calls for t in tensors(call.output) if t.requires_grad]
    if not outputs or not own.losses.requires_grad:
        return 0.0, False
    found = torch.autograd.grad(own.losses.sum(), outputs, allow_unused=True, retain_graph=True)
    there = [g for g in found if g is not None]
    return float(sum(float(g.double().norm()) for g in there)), bool(there)


def _revives(exam: Examination, own: Answer, ask: Any) -> bool:
    """Whether the gradient reaches the states after one small update, as behind a head that starts from zero."""
    small_update(exam.model, own)
    sample = exam.samples[0]
    return _gradient_to_states(ask(sample.inputs, sample.loss))[0] > 0


def _uses_states(exam: Examination) -> bool:
    """Whether other states would change the losses."""
    sample = exam.samples[0]

    def other(module: nn.Module, args: Any, output: Any) -> Any:
        def noise(leaf: Any) -> Any:
            if isinstance(leaf, PackedSequence):
                return leaf._replace(data=torch.randn_like(leaf.data))
            return torch.randn_like(leaf)

        return mapped(output, noise)

    handles = [module.register_forward_hook(other) for module in layers_of(exam.model).values()]
    try:
        new = answer(exam.model, sample.inputs, sample.loss)
    finally:
        for handle in handles:
            handle.remove()
    return bool(changed(exam.answer.losses, new.losses).any())


RULES = (
    mixed_sequences,
    kept_state,
    state_not_carried,
    state_detached,
    layer_not_called,
    dead_head,
    targets_broadcast,
)
