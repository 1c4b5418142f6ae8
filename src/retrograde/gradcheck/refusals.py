"""What cannot be checked is refused here, before or after a first run, with a message that says why."""

from __future__ import annotations

import torch

from ..errors import FlowError
from ..nested import named_tensors
from .subject import Evaluation, Subject
from .wording import kind_of, largest


def check_leaves(own: Subject) -> None:
    """Refuse complex parameters and inputs, and a module with nothing to differentiate by."""
    name = type(own.module).__name__
    parameters = list(own.module.parameters())
    if any(t.is_complex() for t in (*parameters, *own.module.buffers())):
        raise FlowError(f"{name} has complex parameters or buffers; check_gradients covers real ones only")
    for path, tensor in named_tensors(own.inputs, "", and_complex=True):
        if tensor.is_complex():
            raise FlowError(
                f"input {path!r} is {kind_of(tensor)}; check_gradients covers real ones only: let the module take "
                "torch.view_as_real of it"
            )
    if parameters and not any(p.requires_grad for p in parameters):
        raise FlowError(
            f"no parameter of {name} requires a gradient; call requires_grad_(True) on what is to be checked"
        )
    if not own.leaves:
        raise FlowError(
            f"{name} has no parameters, and none of its inputs is a floating-point tensor: nothing to check"
        )


def check_repeatable(own: Subject, first: Evaluation, training: bool) -> None:
    """Refuse a module that returns something else each time: its gradients cannot be compared."""
    second = own.run(seed=None if training else own.seed + 1)
    for name, tensor in first.outputs.items():
        again = second.outputs.get(name)
        moved = largest(tensor.detach() - again.detach()) if again is not None and again.shape == tensor.shape else None
        if moved is None or moved > 16 * torch.finfo(tensor.dtype).eps * max(largest(tensor.detach()), 1e-30):
            by = "has another shape" if moved is None else f"differs by up to {moved:.2g}"
            raise FlowError(
                f"two runs of {type(own.module).__name__} on the same inputs disagree ({name} {by}): it draws random "
                f"numbers{'' if training else ' in eval mode'} or keeps a state between calls. Turn that off for the "
                f"check{'' if training else ', or pass training=True if it is dropout: one seed then serves all runs'}"
            )
