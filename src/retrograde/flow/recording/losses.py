"""The losses as a table of steps and sequences; checks of models, losses and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import FlowError, OptionError
from ...measuring import check_loss, differentiable_losses
from .calls import AnyCall, Call
from .graph import Graph
from .runs import labeled_runs

_ATTRIBUTES = ("module_", "module", "model", "net", "network")  # where wrappers have a network
Runs = Mapping[str, Sequence[AnyCall]]


def check_callable(model: object, loss: object) -> None:
    """Refuse what cannot be called, such as an estimator around a network.

    Raises OptionError.
    """
    if not callable(model):
        found = [name for name in _ATTRIBUTES if isinstance(getattr(model, name, None), nn.Module)]
        what = f"give its {found[0]}" if found else "give a torch.nn.Module, or a function of the inputs"
        raise OptionError(f"model is {type(model).__name__}, which cannot be called: {what}.")
    check_loss(loss)


def check_keywords(kwargs: object) -> None:
    """Refuse ``kwargs`` that is not a dict of keyword arguments.

    Raises OptionError.
    """
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)):
        raise OptionError(f"kwargs is {kwargs!r:.60}; give a dict from the names of the model's arguments to values.")


def no_layer_error(model: object, called: object) -> FlowError:
    """The error for a model in which no recurrent layer was seen, and what to do."""
    parts = list(model.named_modules()) if isinstance(model, nn.Module) else []
    what = f"{type(called).__name__} ran no recurrent layer"
    for name, part in parts:
        if isinstance(part, torch.jit.ScriptModule):
            return FlowError(
                f"{what} that can be seen: {name or type(part).__name__} is scripted (torch.jit), so measure the model "
                "it was made from."
            )
        if "quantized" in type(part).__module__ and ("LSTM" in type(part).__name__ or "GRU" in type(part).__name__):
            return FlowError(
                f"{what} that has a gradient: {name or type(part).__name__} is quantized "
                f"({type(part).__module__}), so measure the floating-point model it was made from."
            )
    if any(isinstance(part, (nn.RNNBase, nn.RNNCellBase)) for _, part in parts):
        return FlowError(f"{what} on these inputs, though it has some: does its forward call them?")
    return FlowError(
        f"{what} that is known (RNN, GRU, LSTM and their cells, of torch.nn and retrograde.nn). If it has a recurrence "
        "of its own, mark the state at every step: h = retrograde.mark_state(h), or h, c = retrograde.mark_state(h, c)."
    )


def losses_by_step(losses: Any, calls: Sequence[AnyCall]) -> tuple[Tensor, bool]:
    """The losses as `(T, B)`, and whether they came as one per sequence.

    Raises FlowError if they have another form, do not depend on a recurrent layer, or are not finite.
    """
    runs = labeled_runs(calls)
    nearest = next(own for own in runs.values() if any(call is calls[-1] for call in own))  # to the loss
    steps, batch = sum(len(call.h) for call in nearest), nearest[0].h.shape[1]
    wanted = f"losses by step (T, B) = ({steps}, {batch}), or one per sequence (B,) = ({batch},)"
    losses = differentiable_losses(losses, f"a tensor of {wanted}")
    shape = tuple(losses.shape)
    if not losses.numel():
        raise FlowError(f"loss returned shape {shape}, which is empty; expected {wanted}.")
    if losses.ndim == 0 and batch == 1:
        losses = losses.reshape(1)
    if losses.ndim == 0:
        raise FlowError(f"loss returned a single number; expected {wanted}. Use reduction='none'.")
    batches = {own[0].h.shape[1] for own in runs.values()}
    alone = batches == {1} or (batch == 1 and losses.shape[0] == steps)
    if losses.ndim == 1 and alone and losses.shape[0] > 1:
        losses = losses.unsqueeze(1)  # unbatched input: losses by step (T,), or of fewer steps
    if losses.ndim == 2 and len(losses) == 1 and all(sum(len(call.h) for call in own) > 1 for own in runs.values()):
        losses = losses[0]  # one per sequence, with the axis of layers of a final state
    final = losses.ndim == 1
    table = losses.unsqueeze(0) if final else losses
    size = table.shape[1]
    flattened = final and size != batch and (size == steps * batch or size not in batches)
    if table.ndim != 2 or flattened or table.shape[1] not in batches:
        raise FlowError(f"loss returned shape {shape}; expected {wanted}.{_reshaping(shape, steps, batch)}")
    if not table.requires_grad:
        blind = [label for label, own in runs.items() if not any(call.in_graph for call in own)]
        if len(blind) == len(runs):
            raise FlowError(
                f"Layer {blind[0]} ran without gradients (torch.no_grad or inference_mode in the model's forward?): "
                "let it run with them while its gradient is measured."
            )
        raise FlowError("The loss does not depend on any recurrent layer (is it detached?).")
    if not torch.isfinite(values := table.detach()).all():
        t, b = (int(i) for i in torch.isfinite(values).logical_not().nonzero()[0])
        raise FlowError(f"The loss is {float(values[t, b])} from step {t} (sequence {b}) on; the states are finite.")
    return table, final


def _reshaping(shape: tuple[int, ...], steps: int, batch: int) -> str:
    """What to do about losses of another shape."""
    if len(shape) > 2:
        return " Sum over the axes of the output."
    if len(shape) == 2 and shape[0] == batch:
        return " It looks transposed: return losses.T (or .transpose(0, 1) for batch_first)."
    if len(shape) == 1 and batch > 1 and shape[0] > batch and shape[0] % batch == 0:
        rows = shape[0] // batch
        return (
            f" It looks flattened, {rows} steps of {batch} sequences: return losses.view({rows}, {batch}), or "
            f"losses.view({batch}, {rows}).T for batch_first."
        )
    return ""


def check_axes(graph: Graph) -> None:
    """Refuse losses `(B, T)`, which only their gradient tells from `(T, B)` where T = B."""
    if graph.is_transposed():
        shape = tuple(graph.losses.shape)
        raise FlowError(
            f"loss returned shape {shape} with an axis of sequences before that of steps: each row depends on one "
            "sequence. Return losses.T (or .transpose(0, 1) for batch_first)."
        )


def check_finite(runs: Runs) -> None:
    """Refuse inputs and states that are not finite, by layer, step and sequence."""
    for label, own in runs.items():
        layers = [call for call in own if isinstance(call, Call)]
        values = {"input": [call.given for call in layers], "state": [call.h for call in own]}
        # Fast; a sum may overflow where no number does.
        sums = [torch.cat([value.flatten() for value in parts]).sum() for parts in values.values() if parts]
        if all(bool(torch.isfinite(total)) for total in sums):
            continue
        before = 0
        for i, call in enumerate(own):
            for name, parts in values.items():
                bad = (
                    torch.isfinite(parts[i]).all(-1).logical_not()
                    if parts
                    else torch.zeros(1, dtype=torch.bool, device="cpu")
                )
                if bad.any():
                    steps = bad.any(1).nonzero().flatten()
                    k = int(steps[-1] if call.reverse and name == "state" else steps[0])
                    b = int(bad[k].nonzero()[0])
                    if call.order is not None:
                        b = int((call.order == b).nonzero()[0])
                    raise FlowError(
                        f"The {name} of layer {label} is not finite from step {before + k} on (sequence {b})."
                    )
            before += len(call.h)


def known_lengths(given: Sequence[int] | Tensor | None, runs: Runs, losses: Tensor, final: bool) -> Tensor | None:
    """Lengths of the sequences `(B,)`, as given or from packed input; None where nothing is padded."""
    batch = losses.shape[1]
    along = [own for own in runs.values() if own[0].h.shape[1] == batch]
    if given is not None:
        lengths = _whole_numbers(given)
        longest = max(sum(len(call.h) for call in own) for own in along) if final else losses.shape[0]
        if lengths is None or lengths.shape != (batch,) or not bool(((lengths >= 1) & (lengths <= longest)).all()):
            value = f"{given!r:.60}" if lengths is None else lengths.tolist()
            raise FlowError(
                f"lengths is {value}; expected {batch} whole numbers between 1 and {longest}, one per sequence."
            )
        return lengths
    # From the layers that run along the losses, if all end at the same steps: not from an encoder, say.
    along = [own for own in along if final or sum(len(call.h) for call in own) == len(losses)]
    if all(call.mask is None for own in along for call in own):
        return None
    first, *others = [valid_steps(own).sum(0) for own in along]
    return first if all(torch.equal(first, other) for other in others) else None


def _whole_numbers(given: Any) -> Tensor | None:
    """Numbers as integers; None where they are not whole."""
    try:
        numbers = torch.as_tensor(given).cpu()
        whole = numbers.long()
    except Exception:
        return None
    return whole if numbers.dtype is not torch.bool and bool(whole.eq(numbers).all()) else None


def valid_steps(own: Sequence[AnyCall]) -> Tensor:
    """`(T, B)` bool: which steps of a layer each of the user's sequences has."""
    parts = []
    for call in own:
        there = torch.ones(call.h.shape[:2], dtype=torch.bool, device="cpu") if call.mask is None else call.mask.cpu()
        parts.append(there if call.order is None else there[:, call.order.cpu()])
    return torch.cat(parts)
