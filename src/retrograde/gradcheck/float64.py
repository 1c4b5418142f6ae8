"""Comparison with float64: outputs and gradients of the module against those of its float64 twin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import FlowError
from .result import FLOAT64, GradientError
from .subject import Leaf, Measured, Subject, disturbed_runs, to_float64
from .wording import dtype_name, largest, place

# The rounding error to expect, relative to the largest entry of a gradient: about a thousand units of rounding, if the
# format has that many digits.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def tolerance_of(dtype: torch.dtype) -> float:
    """The relative error that a gradient in this dtype may have."""
    return _TOLERANCE.get(dtype, 1e-1)


def compare_with_float64(
    found: Measured, twin: Subject, expected: Measured, dtype: torch.dtype, rtol: float | None
) -> list[GradientError]:
    """One `GradientError` for each output and each gradient.

    found: the module in its own precision, measured.
    twin, expected: the module in float64 on the CPU, and its measurement.
    dtype: the lowest precision in ``found``.
    rtol: tolerance. If it is given, no allowance is made for rounding.
    """
    tolerance = tolerance_of(dtype) if rtol is None else rtol
    epsilon = torch.finfo(dtype).eps
    # Small entries are computed from large ones of the same kind, so they inherit the rounding error of the large ones.
    largest_output = max(map(largest, expected.run.outputs.values()))
    largest_gradient = max(map(largest, expected.gradients.values()))
    moved: dict[Leaf, float] | None = None
    errors: list[GradientError] = []
    for leaf, (ours, theirs) in _pairs(found, expected, dtype).items():
        if not ours.numel():
            continue
        rounding = 4 * epsilon * (largest_output if leaf.kind == "output" else largest_gradient)
        floor = 0.0 if rtol is not None else rounding / tolerance
        scale = max(largest(theirs), floor)
        difference = torch.nan_to_num((ours - theirs).abs(), nan=math.inf)
        at = int(difference.argmax())
        error = float(difference.flatten()[at])
        ok, remark = error <= tolerance * scale, ""
        if not torch.isfinite(ours).all():
            remark = "not finite"
        elif not ok and rtol is None:
            if moved is None:
                moved = _moved_by_rounding(twin, expected, epsilon)
            # If rounding changes even the outputs a lot, the gradients belong to different points altogether.
            outputs_differ = any(e.kind == "output" and e.remark for e in errors)
            ok = outputs_differ or error <= tolerance * scale + 4 * moved[leaf]
            remark = f"ill-conditioned: rounding the inputs moves it by {moved[leaf]:.1e}" if ok else ""
        errors.append(
            GradientError(
                leaf.name,
                leaf.kind,
                FLOAT64,
                tuple(theirs.shape),
                max_abs_error=error,
                relative_error=error / scale if scale else math.inf if error else 0.0,
                where=place(at, theirs),
                found=float(ours.flatten()[at]),
                expected=float(theirs.flatten()[at]),
                tolerance=tolerance,
                ok=ok,
                probes=ours.numel(),
                remark=remark,
            )
        )
    return errors


def _pairs(found: Measured, expected: Measured, dtype: torch.dtype) -> dict[Leaf, tuple[Tensor, Tensor]]:
    """Outputs, then gradients: what was found, and what float64 gives."""
    pairs: dict[Leaf, tuple[Tensor, Tensor]] = {}
    for name, output in found.run.outputs.items():
        other = expected.run.outputs.get(name)
        if other is None or other.shape != output.shape:
            raise FlowError(f"{name} has another shape in float64 than in {dtype_name(dtype)}; nothing can be compared")
        pairs[Leaf("output", name)] = (to_float64(output), other.detach())
    return pairs | {leaf: (gradient, expected.gradients[leaf]) for leaf, gradient in found.gradients.items()}


def _moved_by_rounding(twin: Subject, expected: Measured, epsilon: float) -> dict[Leaf, float]:
    """How far each output and gradient of the twin moves if its leaves change by as much as rounding changes them."""
    moved = dict.fromkeys(twin.leaves, 0.0) | {Leaf("output", name): 0.0 for name in expected.run.outputs}
    for run in disturbed_runs(twin, epsilon):
        gradients = torch.autograd.grad(run.loss, list(twin.leaves.values()), allow_unused=True)
        pairs = [(Leaf("output", name), output, expected.run.outputs[name]) for name, output in run.outputs.items()]
        for leaf, gradient in zip(twin.leaves, gradients, strict=True):
            if gradient is not None:
                pairs.append((leaf, gradient.to_dense(), expected.gradients[leaf]))
        for leaf, now, before in pairs:
            moved[leaf] = max(moved[leaf], largest(now.detach() - before.detach()))
    return moved
