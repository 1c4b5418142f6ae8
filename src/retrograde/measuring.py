"""Rules shared by everything that measures a model: `gradient_flow`, `sequence_gradients` and `check_gradients`.

A measurement keeps the random states, says what it does about dropout, and refuses a model without values, a loss that
cannot be called, and a result that has no gradient.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import FlowError, OptionError

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def check_loss(loss: object) -> None:
    """Refuse a loss that cannot be called.

    Raises OptionError.
    """
    if not callable(loss):
        raise OptionError(f"loss is {type(loss).__name__}; give a function of the model's output.")


def differentiable_losses(losses: object, expected: str) -> Tensor:
    """Return what a loss returned, if it is a tensor of real floating-point numbers.

    Parameters
    ----------
    losses
        The return value of the loss.
    expected : str
        What the loss should have returned, for the error message.

    Raises
    ------
    FlowError
        ``losses`` is not a tensor, or its type has no gradient.
    """
    if not isinstance(losses, Tensor):
        raise FlowError(f"loss returned {type(losses).__name__}; expected {expected}.")
    if not losses.is_floating_point():
        fix = "numbers of other types have no gradient"
        if losses.is_complex():
            fix = "take a real quantity of it, such as .abs() or .real"
        raise FlowError(f"loss returned {losses.dtype}; expected floating-point numbers: {fix}.")
    return losses


def check_values(tensors: Iterable[Tensor], modules: Iterable[nn.Module]) -> None:
    """Refuse a model or an input on the device ``meta``.

    Raises FlowError with the name of the parameter or buffer, if one of ``modules`` has it.
    """
    if not any(tensor.is_meta for tensor in tensors):
        return
    for module in modules:
        for name, parameter in (*module.named_parameters(), *module.named_buffers()):
            if parameter.is_meta:
                raise FlowError(
                    f"{name} of {type(module).__name__} is on the device 'meta', which holds no values: allocate the "
                    "model (model.to_empty(device='cpu')) and load its weights, then measure."
                )
    raise FlowError("An input is on the device 'meta', which holds no values: measure with a batch that has some.")


@contextlib.contextmanager
def backward_in_eval_mode() -> Iterator[None]:
    """Compute recurrent layers without cuDNN, which has no backward pass for networks in eval mode."""
    with torch.backends.cudnn.flags(enabled=False):
        yield


@contextlib.contextmanager
def without_tf32() -> Iterator[list[str]]:
    """Switch TensorFloat-32 off inside, which CUDA rounds float32 to in products; yield what was done, in words."""
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    notes = []
    if cudnn.allow_tf32 or before != "highest":
        notes.append("TensorFloat-32 is switched off for the check: it rounds products to 10 bits")
    own = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(**own, allow_tf32=False):
            yield notes
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def random_states_kept(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Restore the random states of torch (on the CPU and on ``devices``), NumPy and Python at the end."""
    by_kind: dict[str, list[torch.device]] = {}
    for device in devices:
        by_kind.setdefault(device.type, []).append(device)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # the model may use the current device
        current = torch.device("cuda", torch.cuda.current_device())
        named = {device if device.index is not None else current for device in by_kind.get("cuda", [])}
        by_kind["cuda"] = [*(named | {current})]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (this is about its global state)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            for kind, own in sorted(by_kind.items()):
                if _has_random_state(kind):  # not "cpu", whose state fork_rng keeps anyway, nor "meta"
                    stack.enter_context(torch.random.fork_rng(devices=sorted(set(own), key=str), device_type=kind))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _has_random_state(kind: str) -> bool:
    try:
        module: Any = torch.get_device_module(kind)
    except RuntimeError:
        return False
    return hasattr(module, "get_rng_state") and hasattr(module, "set_rng_state")


def dropout_notes(active: Iterable[nn.Module], training: bool) -> list[str]:
    """The note about dropout for modules that were in training mode; an empty list if none of them has any."""
    drops = any(
        (isinstance(m, _DROPOUT) and m.p > 0) or (isinstance(m, nn.RNNBase) and m.dropout > 0 and m.num_layers > 1)
        for m in active
    )
    if not drops:
        return []
    if training:
        return ["dropout is active: one random mask was measured"]
    return ["dropout was active; measured in eval mode, without it (training=True measures with it)"]
