"""Measure rebuilt layers without data: ``drive`` feeds them noise, or an input from a file.

Tests: `tests/flow/test_state_dict.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import FlowError
from .measure import gradient_flow
from .result import GradientFlow
from .state_dict import Found, module_kind


def read_input(path: str | Path) -> Tensor:
    """An input from a ``.npy`` file, ``(T, B, I)``, or ``(T, I)`` for one sequence; no pickle.

    Raises FlowError.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FlowError(f"{path} cannot be read: there is no such file.") from None
    except OSError as error:
        raise FlowError(f"{path} cannot be read: {error.strerror or 'it is damaged'}.") from None
    except MemoryError:
        raise
    except Exception:  # also TokenError, BadZipFile …; NumPy's message advises to load the pickle
        raise FlowError(f"{path} is not a complete .npy file of numbers (Python objects are not read).") from None
    if not isinstance(array, np.ndarray):
        raise FlowError(f"{path} is an archive of several arrays: give a .npy file with one.")
    if array.dtype.kind not in "fiu":
        raise FlowError(f"{path} has type {array.dtype}, not real numbers.")
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or not array.size:
        raise FlowError(
            f"{path} has shape {array.shape}; expected (T, B, I): steps, sequences, inputs, at least one of each."
        )
    values = torch.from_numpy(np.array(array, dtype=np.float64))
    if not torch.isfinite(values).all():
        t, b, i = (int(place) for place in torch.isfinite(values).logical_not().nonzero()[0])
        raise FlowError(f"{path} is not finite: {float(values[t, b, i])} at step {t}, sequence {b}, input {i}.")
    return values


class _Parallel(nn.Module):
    """Recurrent modules that each read an input of their own, under their names in the state_dict."""

    def __init__(self, found: Sequence[Found]) -> None:
        super().__init__()
        self.parts = list(found)
        for one in found:
            # add_module refuses dots, and names that a module uses for something else ("forward").
            self._modules[one.name or "root"] = one.module

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [one.module(x)[0] for one, x in zip(self.parts, inputs, strict=True)]


def choose(found: Sequence[Found], asked: Sequence[str]) -> tuple[list[Found], list[str]]:
    """The modules that have the layers asked for, and the labels of these layers in ``drive`` of those modules.

    ``encoder.l0`` names a layer, ``l0`` that of every module, ``encoder`` all layers of one module.

    Raises FlowError if there is no such layer.
    """
    labels = {f"{one.name or 'root'}.{label}": (one, label) for one in found for label in one.labels}
    wanted: dict[str, tuple[Found, str]] = {}
    for name in asked:
        matching = {full: owner for full, owner in labels.items() if full == name or full.endswith(f".{name}")}
        matching = matching or {full: owner for full, owner in labels.items() if full.startswith(f"{name}.")}
        if not matching:
            raise FlowError(f"There is no layer {name!r}; this checkpoint has {', '.join(labels)}.")
        wanted |= matching
    chosen = [one for one in found if any(one is owner for owner, _ in wanted.values())]
    return chosen, [full if len(chosen) > 1 else label for full, (_, label) in wanted.items()]


def drive(
    found: Sequence[Found],
    *,
    steps: int = 100,
    sequences: int = 8,
    seed: int = 0,
    given: Tensor | None = None,
    layers: Sequence[str] | None = None,
) -> GradientFlow:
    """Measure how rebuilt layers carry a gradient, with noise as input and a random projection as loss.

    A file of weights has neither data nor a head. Each module reads standard-normal input (or the input given);
    E_t = ⟨r, output_t⟩ with r one random direction of length 1, the same at every step. So ∂E_t/∂output_t is r, and
    ‖∂E_t/∂s_k‖ shows the layer alone.

    Parameters
    ----------
    found
        From ``find_recurrent``. Labels are ``l0``, … or, of several modules, ``encoder.l0``, ….
    steps, sequences : int
        T and B of the noise; the most that is used of an input given.
    seed : int
        Seed of noise and directions; torch's random state is not used.
    given : Tensor, optional
        Input ``(T, B, I)`` instead of noise.
    layers
        Labels to measure; all if not given.

    Raises
    ------
    FlowError
        The input does not fit, a label is unknown, or a value stops being finite.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, directions = [], []
    for one in found:
        module, dtype = one.module, next(one.module.parameters()).dtype
        outputs = (getattr(module, "proj_size", 0) or module.hidden_size) * (2 if module.bidirectional else 1)
        direction = torch.randn(outputs, generator=generator, dtype=torch.float64, device="cpu")
        directions.append((direction / direction.norm()).to(dtype))
        if given is None:
            noise = torch.randn(
                steps, sequences, module.input_size, generator=generator, dtype=torch.float64, device="cpu"
            )
            inputs.append(noise.to(dtype))
            continue
        if given.shape[2] != module.input_size:
            fix = " Choose other layers." if len(found) > 1 else ""
            raise FlowError(
                f"The input has {given.shape[2]} numbers per step (shape {tuple(given.shape)}), but "
                f"{one.name or 'the'} {module_kind(module)} takes {module.input_size}: "
                f"give (T, B, {module.input_size}).{fix}"
            )
        inputs.append(given[:steps, :sequences].to(dtype))
    together = len(found) > 1

    def loss(output: Any) -> Tensor:
        outputs = output if together else [output[0]]
        first, *others = [o @ r for o, r in zip(outputs, directions, strict=True)]
        total: Tensor = sum(others, first)
        return total

    if together:
        return gradient_flow(_Parallel(found), inputs, loss=loss, layers=layers)
    return gradient_flow(found[0].module, inputs[0], loss=loss, layers=layers)
