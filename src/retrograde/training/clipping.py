"""Clipping of gradients that are too large: by norm, by value, or by a quantile of the norms so far."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from ..errors import OptionError


class Measured(NamedTuple):
    """What a call of `Clipping` measured, as tensors, so that it need not wait for the device."""

    norm: Tensor  # global L2 norm of all gradients, before clipping
    excess: Tensor  # norm (by value: largest component) over the threshold; above 1 if gradients were clipped


class Clipping:
    """Clips the gradients of parameters in place when called with them; without an option it only measures.

    Gradients that are NaN or infinite stay so; the caller finds out by the norm.

    Parameters
    ----------
    clip_norm : float, optional
        Scale all gradients by clip_norm / norm where the global norm is larger (Pascanu, Mikolov, Bengio 2013).
    clip_value : float, optional
        Cut every component to ±clip_value (Mikolov 2012).
    clip_quantile : float, optional
        Adaptive: clip to this quantile of the norms so far, this one included: AutoClip (Seetharaman et al. 2020). They
        use 0.1, so that most steps are clipped and the threshold falls with the gradients; 0.9 clips the largest tenth.
    window : int
        Number of the newest norms that the quantile is taken of; the paper takes all.

    Attributes
    ----------
    threshold : float or None
        What the last gradients were compared with.

    Raises
    ------
    OptionError
        If more than one is given, or one is impossible.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> measured = Clipping(clip_norm=1.0)([weight])
    >>> measured.norm.item(), measured.excess.item() > 1, weight.grad
    (5.0, True, tensor([0.6000, 0.8000]))
    """

    def __init__(
        self,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_quantile: float | None = None,
        window: int = 10_000,
    ) -> None:
        options = {"clip_norm": clip_norm, "clip_value": clip_value, "clip_quantile": clip_quantile}
        given = [name for name, value in options.items() if value is not None]
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)} exclude one another; give one of them.")
        for name, value in options.items():
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"{name} is {value}; it must be above 0. For no clipping leave it out.")
        if clip_quantile is not None and clip_quantile > 1:
            raise OptionError(f"clip_quantile is {clip_quantile}; as a share of norms it is at most 1.")
        if window < 1:
            raise OptionError(f"the window of clip_quantile is {window}; it must be at least 1.")
        self.clip_value, self.clip_quantile, self.window = clip_value, clip_quantile, window
        self.threshold = clip_norm if clip_value is None else clip_value
        self._norms: deque[float] = deque()  # in the order they came, and in order of size
        self._sorted: list[float] = []

    def __call__(self, parameters: Iterable[Tensor]) -> Measured:
        """Measure the gradients of the parameters, then clip them in place."""
        parameters = list(parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        if self.clip_quantile is not None:
            self._note(norm.item())
        if self.threshold is None:
            return Measured(norm, torch.zeros_like(norm))
        if self.clip_value is not None:
            largest = get_total_norm(gradients, norm_type=math.inf)
            clip_grad_value_(parameters, self.clip_value)
            return Measured(norm, largest / self.clip_value)
        clip_grads_with_norm_(parameters, self.threshold, norm)
        return Measured(norm, norm / self.threshold)

    def _note(self, norm: float) -> None:
        if not math.isfinite(norm):  # one explosion must not move the threshold to infinity
            return
        self._norms.append(norm)
        insort(self._sorted, norm)
        if len(self._norms) > self.window:
            del self._sorted[bisect_left(self._sorted, self._norms.popleft())]
        self._set_threshold()

    def _set_threshold(self) -> None:
        """The quantile of the norms, linear between two of them, as in numpy and torch."""
        if self._sorted:
            place = (self.clip_quantile or 0.0) * (len(self._sorted) - 1)
            below, above = self._sorted[math.floor(place)], self._sorted[math.ceil(place)]
            self.threshold = below + (above - below) * (place - math.floor(place))

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must contain: the norms so far if clipping is adaptive, else nothing."""
        return {} if self.clip_quantile is None else {"norms": torch.tensor(list(self._norms), dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict`; OptionError if it is that of another kind of clipping."""
        if set(state) != set(self.state_dict()):
            raise OptionError(f"the state of clipping has {sorted(state)}, not {sorted(self.state_dict())}.")
        if "norms" in state:
            self._norms = deque(state["norms"].tolist()[-self.window :])
            self._sorted = sorted(self._norms)
            self._set_threshold()
