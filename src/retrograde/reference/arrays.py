"""Checks of the arrays given, random parameters, and printed norms; no equations.

Tests: tests/reference/test_checked_arrays.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError, OptionError

__all__ = [
    "Array",
    "checked_array",
    "checked_choice",
    "checked_inputs",
    "checked_sequence",
    "checked_size",
    "checked_step",
    "checked_targets",
    "norm",
    "norms_table",
    "uniform",
]

Array = NDArray[np.float64]


def checked_array(name: str, value: ArrayLike, axes: str, **sizes: int) -> Array:
    """Convert ``value`` to float64 and check its shape.

    ``axes`` names the axes, for example ``"H D"``; ``sizes`` fixes some of them. Every other axis may have any size
    above 0.
    """
    raw = np.asarray(value)
    if raw.dtype.kind not in "biuf":
        raise DataError(f"{name} is of type {raw.dtype}; expected real numbers")
    names = axes.split()
    if raw.ndim == len(names) and raw.size:
        found = dict(zip(names, raw.shape, strict=True)) | sizes
        if raw.shape == tuple(found[axis] for axis in names):
            return raw.astype(np.float64)
    fixed = ", ".join(f"{axis} = {sizes[axis]}" for axis in dict.fromkeys(names) if axis in sizes)
    expected = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
    raise DataError(f"{name} has shape {raw.shape}; expected {expected}{' with ' if fixed else ''}{fixed}")


def checked_sequence(name: str, value: ArrayLike, axes: str, **sizes: int) -> Array:
    """Check an array as `checked_array` does; its first axis is T, and T = 0 has an error message of its own."""
    raw = np.asarray(value)
    if raw.ndim == len(axes.split()) and not len(raw):
        raise DataError(f"{name} has shape {raw.shape}, which has no time step; expected T of at least 1")
    return checked_array(name, value, axes, **sizes)


def checked_inputs(inputs: ArrayLike, D: int) -> Array:
    """Input vectors ``(T, D)``. Tokens become one-hot vectors: U times a one-hot vector is a column of U."""
    raw = np.asarray(inputs)
    if raw.ndim == 1 and raw.size and raw.dtype.kind in "iu":
        return _one_hot("inputs", raw, D)
    if raw.ndim == 1 and raw.size:
        raise DataError(
            f"inputs has shape {raw.shape} and type {raw.dtype}; expected vectors (T, D) with D = {D}, "
            "or tokens (T,) of an integer type"
        )
    return checked_sequence("inputs", inputs, "T D", D=D)


def checked_targets(targets: ArrayLike, shape: tuple[int, ...]) -> Array:
    """y_t ``(N, K)``: a distribution over the K classes for each of the N steps that have an output."""
    N, K = shape
    raw = np.asarray(targets)
    if raw.dtype.kind in "iu" and (raw.shape == (N,) or (N == 1 and raw.ndim == 0)):
        return _one_hot("targets", raw.reshape(N), K)
    if raw.ndim == 1 and not (N == 1 and raw.shape == (K,)):
        raise DataError(
            f"targets has shape {raw.shape} and type {raw.dtype}; expected {N} integer class{'es' * (N > 1)}, "
            f"one for each output, or distributions ({N}, {K})"
        )
    y = checked_array("targets", raw.reshape(N, K) if raw.shape == (K,) else raw, "N K", N=N, K=K)
    error = np.abs(y.sum(axis=1) - 1.0)
    if (error > 1e-6).any():
        row = int(error.argmax())
        raise DataError(f"targets, row {row}, sums to {y[row].sum():.6g}; expected a distribution, which sums to 1")
    return y


def _one_hot(name: str, indices: NDArray[np.integer], size: int) -> Array:
    if ((indices < 0) | (indices >= size)).any():
        bad = indices[(indices < 0) | (indices >= size)][0]
        raise DataError(f"{name} contains {bad}; expected indices from 0 to {size - 1}")
    one_hot = np.zeros((len(indices), size))
    one_hot[np.arange(len(indices)), indices] = 1.0
    return one_hot


def checked_step(t: int, T: int) -> int:
    """A time step from 1 to T."""
    if isinstance(t, bool) or not isinstance(t, int | np.integer) or not 1 <= t <= T:
        raise OptionError(
            f"t = {t} is not a step of this sequence; expected a whole number from 1 to {T} "
            "(in rg.reference, time steps count from 1)"
        )
    return int(t)


def checked_size(name: str, value: int) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise OptionError(f"{name} = {value!r}; expected a whole number of at least 1")
    return int(value)


def checked_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise an error if ``value`` is not one of ``choices``."""
    if value not in choices:
        raise OptionError(f"{name} = {value!r}; expected one of {', '.join(map(repr, choices))}")


def uniform(hidden_size: int, seed: int | np.random.Generator) -> Callable[..., Array]:
    """A function of a shape that draws arrays uniform in ±1/√hidden_size, as torch initializes its layers."""
    bound, rng = hidden_size**-0.5, np.random.default_rng(seed)
    return lambda *shape: rng.uniform(-bound, bound, shape)


def norm(a: Array) -> float:
    """‖a‖, the root of the sum of squares."""
    return float(np.linalg.norm(a))


def norms_table(gradients: object) -> str:
    """One line for each array of a dataclass of gradients: its norm and its shape."""
    lines = [type(gradients).__name__]
    for name, value in vars(gradients).items():
        if value is not None:
            lines.append(f"  ‖∂E/∂{name}‖ = {norm(value):.4g}   {value.shape}")
    return "\n".join(lines)
