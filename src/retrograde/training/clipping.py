"""What is done to a gradient that is too large, behind one interface whose state a checkpoint can hold."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from ..errors import OptionError

__all__ = ["AdaptiveClipping", "Clipped", "Clipping", "NormClipping", "ValueClipping", "clipping"]


class Clipped(NamedTuple):
    """What a call of `Clipping.clip_` saw and did.

    Attributes
    ----------
    norm
        Global L2 norm of all gradients before clipping.
    threshold
        What it was held against; infinite where nothing is clipped.
    clipped
        Whether a gradient was changed.
    """

    norm: float
    threshold: float
    clipped: bool


class Clipping(ABC):
    """Changes gradients in place. The kinds differ in `clip_` only; all but the adaptive one have no state."""

    @abstractmethod
    def clip_(self, parameters: Iterable[Tensor]) -> Clipped:
        """Clip the gradients of the parameters in place. Where the norm is no number, nothing is changed."""

    def state_dict(self) -> dict[str, Tensor]:
        """What goes into a checkpoint: tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict` of one of the same kind."""
        if set(state) != set(self.state_dict()):
            raise OptionError(f"{type(self).__name__}: the state has {sorted(state)}; it is that of another clipping.")


class NoClipping(Clipping):
    """Measures the norm and changes nothing."""

    def clip_(self, parameters: Iterable[Tensor]) -> Clipped:
        """Measure."""
        return Clipped(float(get_total_norm(_gradients(parameters))), math.inf, False)


class NormClipping(Clipping):
    """Scale all gradients by max_norm / norm where the global norm is larger (Pascanu, Mikolov, Bengio 2013).

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> NormClipping(1.0).clip_([weight])
    Clipped(norm=5.0, threshold=1.0, clipped=True)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """

    def __init__(self, max_norm: float):
        self.max_norm = _above_zero(max_norm, "clip_norm")

    def clip_(self, parameters: Iterable[Tensor]) -> Clipped:
        """Clip to the global norm."""
        return _scale(list(parameters), self.max_norm)


class ValueClipping(Clipping):
    """Cut every component of every gradient to [-max_value, max_value] (Mikolov 2012). The threshold is that value."""

    def __init__(self, max_value: float):
        self.max_value = _above_zero(max_value, "clip_value")

    def clip_(self, parameters: Iterable[Tensor]) -> Clipped:
        """Clip each component."""
        parameters = list(parameters)
        gradients = _gradients(parameters)
        norm = float(get_total_norm(gradients))
        largest = float(get_total_norm(gradients, norm_type=math.inf))
        if not math.isfinite(norm):
            return Clipped(norm, self.max_value, False)
        if largest > self.max_value:
            clip_grad_value_(parameters, self.max_value)
        return Clipped(norm, self.max_value, largest > self.max_value)


class AdaptiveClipping(Clipping):
    """Clip to a running quantile of the norms seen, this one included: AutoClip (Seetharaman et al. 2020).

    Parameters
    ----------
    quantile
        Share of the norms that are at most the threshold. The paper clips to the tenth percentile, 0.1, so that most
        steps are clipped and the threshold follows the gradients down; 0.9 cuts off the largest tenth only.
    window
        How many of the newest norms count; the paper counts all.

    Examples
    --------
    >>> clip, weight = AdaptiveClipping(quantile=0.5), torch.nn.Parameter(torch.zeros(1))
    >>> for norm in (1.0, 3.0, 100.0):
    ...     weight.grad = torch.tensor([norm])
    ...     print(clip.clip_([weight]).threshold)
    1.0
    2.0
    3.0
    """

    def __init__(self, quantile: float = 0.1, window: int = 10_000):
        if not 0 < quantile <= 1:
            raise OptionError(f"clip_quantile is {quantile}; a share must be above 0 and at most 1.")
        if window < 1:
            raise OptionError(f"clip_window is {window}; it must be at least 1.")
        self.quantile = quantile
        self.window = window
        self._norms: list[float] = []

    def clip_(self, parameters: Iterable[Tensor]) -> Clipped:
        """Note the norm, then clip to the quantile of those noted."""
        parameters = list(parameters)
        norm = float(get_total_norm(_gradients(parameters)))
        if math.isfinite(norm):  # one explosion to infinity must not move the threshold there
            self._norms = [*self._norms, norm][-self.window :]
        if not self._norms:
            return Clipped(norm, math.inf, False)
        threshold = float(torch.tensor(self._norms, dtype=torch.float64).quantile(self.quantile))
        return _scale(parameters, threshold)

    def state_dict(self) -> dict[str, Tensor]:
        """The norms seen."""
        return {"norms": torch.tensor(self._norms, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the norms seen."""
        super().load_state_dict(state)
        self._norms = state["norms"].tolist()[-self.window :]


def clipping(
    *, clip_norm: float | None = None, clip_value: float | None = None, clip_quantile: float | None = None
) -> Clipping:
    """The clipping that options ask for: by norm, by value, adaptive, or none.

    Raises
    ------
    OptionError
        If more than one is asked for, or one is impossible.
    """
    asked: dict[str, Any] = {"clip_norm": clip_norm, "clip_value": clip_value, "clip_quantile": clip_quantile}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)} exclude one another; give one of them.")
    if clip_norm is not None:
        return NormClipping(clip_norm)
    if clip_value is not None:
        return ValueClipping(clip_value)
    return NoClipping() if clip_quantile is None else AdaptiveClipping(clip_quantile)


def _above_zero(value: float, name: str) -> float:
    if not 0 < value < math.inf:
        raise OptionError(f"{name} is {value}; it must be above 0. For no clipping leave it out.")
    return float(value)


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _scale(parameters: list[Tensor], threshold: float) -> Clipped:
    norm = get_total_norm(_gradients(parameters))
    value = float(norm)
    clipped = math.isfinite(value) and value > threshold
    if clipped:
        clip_grads_with_norm_(parameters, threshold, norm)
    return Clipped(value, threshold, clipped)
