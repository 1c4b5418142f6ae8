"""`check_gradients`: copy the module, measure it, and compare it with float64 and with finite differences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FlowError, OptionError
from ..measuring import check_loss, check_values, dropout_notes, random_states_kept, without_tf32
from ..nested import named_tensors
from .differences import compare_with_differences
from .float64 import compare_with_float64
from .refusals import check_leaves, check_repeatable
from .result import DIFFERENCES, GradientCheck, GradientError
from .subject import Measured, Subject, check_finite
from .wording import dtype_name


def check_gradients(
    module: nn.Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    loss: Callable[[Any], Tensor] | None = None,
    training: bool = False,
    entries: int = 12,
    rtol: float | None = None,
    seed: int = 0,
) -> GradientCheck:
    """Check the gradients of any recurrent module against float64 and finite differences.

    Every parameter that requires a gradient and every floating-point input is checked twice: the gradient in the
    module's own precision and on its own device against autograd through a float64 copy on the CPU, and the gradient of
    that copy against central differences of its forward. Only copies are measured: the module, its mode, its buffers
    and gradients, the inputs and the random state stay as they are.

    Parameters
    ----------
    module : torch.nn.Module
        A layer, a custom cell or a whole model, on any device and in any precision.
    *inputs
        What the module is called with: tensors, tuples, lists and dicts of them, ``PackedSequence``, None. Integer
        tensors are passed on and not differentiated by.
    kwargs : dict, optional
        What it is called with by keyword.
    loss : callable, optional
        Takes the model's output; returns the losses by step `(T, B)`, or one loss per sequence `(B,)`: the same
        callable as for `gradient_flow`. A floating-point tensor of any other shape works too, also a single number; the
        sum of its entries is differentiated. By default a random projection of all floating-point outputs (of a complex
        one, of its real and imaginary parts).
    training : bool
        Measure in the modes the modules are in (dropout active, one mask for all runs) instead of in eval mode.
    entries : int
        Number of entries of each tensor that are probed one by one by finite differences. Larger tensors are sampled,
        always with their largest gradient, and also probed in 3 random directions through all their entries; an error
        that shows there is traced to its entry. Each probe runs the float64 copy twice, or more if it disagrees.
    rtol : float, optional
        Tolerance of the comparison with float64, relative to the largest entry of each gradient. By default 1e-9 for
        float64, 1e-4 for float32, 2e-2 for float16 and 1e-1 for bfloat16, and an error that rounding the inputs and
        parameters explains is accepted. For finite differences it is 1e-6.
    seed : int
        Seed of the projection, the sample and the directions.

    Raises
    ------
    FlowError
        Nothing to check (no parameter requires a gradient, the output has none); two runs differ; a value is not
        finite; the module cannot be copied or run in float64.
    OptionError
        An impossible option.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> check = rg.check_gradients(torch.nn.GRU(3, 4), torch.randn(5, 2, 3))
    >>> check.ok
    True
    """
    _check_options(module, loss, entries, rtol)
    given = [*inputs, *(kwargs or {}).values()]
    check_values([*module.parameters(), *module.buffers(), *(t for _, t in named_tensors(given, ""))], [module])
    device = _device(module, given)
    with random_states_kept([device]), without_tf32() as notes, torch.inference_mode(False), torch.enable_grad():
        own = Subject.copied(module, inputs, dict(kwargs or {}), loss, seed)
        return _check(own, device, training, entries, rtol, notes if device.type == "cuda" else [])


def _check_options(module: object, loss: object, entries: object, rtol: float | None) -> None:
    if not isinstance(module, nn.Module):
        raise FlowError(f"check_gradients takes a torch.nn.Module; this is of type {type(module).__name__}")
    if loss is not None:
        check_loss(loss)
    if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
        raise OptionError(f"entries = {entries!r}; expected a whole number of at least 1")
    if rtol is not None and not 0 < rtol < 1:
        raise OptionError(f"rtol = {rtol!r}; expected a number between 0 and 1")


def _check(
    own: Subject, device: torch.device, training: bool, entries: int, rtol: float | None, notes: list[str]
) -> GradientCheck:
    check_leaves(own)
    mode = _set_mode(own.module, training, device, notes)
    with _float64_by_default(device):
        twin = own.in_float64()  # before a first run leaves a state behind
    found = own.measure()
    check_repeatable(own, found.run, training)
    dtype = _lowest_precision([*own.leaves.values(), *found.run.outputs.values()], device)
    with _float64_by_default(device):
        expected = twin.measure()
        for leaf, gradient in expected.gradients.items():
            check_finite(f"the gradient of {leaf.name}", gradient, "in float64 already, with finite outputs")
        errors = compare_with_float64(found, twin, expected, dtype, rtol)
        if training and not all(e.ok for e in errors if e.kind == "output") and _is_stochastic(twin, expected):
            errors = []
            notes.append(f"{dtype_name(dtype)} draws other random numbers than float64: not compared with it")
        errors += compare_with_differences(twin, expected, entries)
    errors.sort(key=lambda error: (error.ok, -error.relative_error / error.tolerance))
    notes += _unjudged(errors)
    return GradientCheck(tuple(errors), type(own.module).__name__, dtype, device, mode, tuple(notes))


def _unjudged(errors: Sequence[GradientError]) -> list[str]:
    """Notes about differences that could not be judged."""
    differences = [error for error in errors if error.oracle == DIFFERENCES]
    probes = sum(error.probes for error in differences)
    notes = []
    if kinks := sum(error.kinks for error in differences):
        notes.append(f"{kinks} of {probes} differences are at a kink, where no derivative exists; not judged")
    if unsettled := sum(error.unsettled for error in differences):
        notes.append(
            f"{unsettled} of {probes} differences do not settle, because the gradient explodes or is lost in rounding; "
            "not judged"
        )
    return notes


def _is_stochastic(twin: Subject, expected: Measured) -> bool:
    other = twin.run(seed=twin.seed + 1)
    return any(not torch.equal(output, other.outputs[name]) for name, output in expected.run.outputs.items())


def _set_mode(module: nn.Module, training: bool, device: torch.device, notes: list[str]) -> str:
    """Put the copy in the mode to measure in; add a note about dropout."""
    notes += dropout_notes((m for m in module.modules() if m.training), training)
    recurrent = [part for part in module.modules() if isinstance(part, nn.RNNBase)] if device.type == "cuda" else []
    for part in recurrent:
        part.flatten_parameters()  # a copy's weights lie apart, of which cuDNN warns
    if training:
        return "training" if module.training else "eval"
    module.eval()
    for part in recurrent:  # cuDNN has no backward in eval mode: use training mode without dropout
        part.train()
        part.dropout = 0.0
    return "eval"


@contextlib.contextmanager
def _float64_by_default(device: torch.device) -> Iterator[None]:
    """Make tensors that a module creates itself (a zero state, say) float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast(device.type, enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


def _device(module: nn.Module, inputs: Sequence[Any]) -> torch.device:
    for parameter in module.parameters():
        return parameter.device
    for _, tensor in named_tensors(inputs, ""):
        return tensor.device
    return torch.device("cpu")


def _lowest_precision(tensors: Sequence[Tensor], device: torch.device) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in tensors}
    if torch.is_autocast_enabled(device.type):
        dtypes.add(torch.get_autocast_dtype(device.type))
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
