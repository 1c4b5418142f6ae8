"""A layer on a stream: one step at a time, with the state held between the calls."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..cells import BY_MODE
from ..errors import OptionError
from ..kernels.stream import NativeStream


class Stream:
    """A recurrent layer that reads a sequence step by step, as it arrives, and remembers its state.

    Made by ``layer.stream()``. It copies the weights as they are then: make a new one after training goes on. In the
    engine (float32 and float64 on the CPU) the state never leaves it; elsewhere a step is the layer's own.

    Parameters
    ----------
    layer : retrograde.nn.RNN, GRU or LSTM
    batch_size : int, optional
        Sequences that are read side by side; one without a batch dimension by default.
    hx : Tensor or (Tensor, Tensor), optional
        The first state, as for the layer; zeros by default.

    Attributes
    ----------
    batch_size : int or None

    Raises
    ------
    OptionError
        The layer is bidirectional, or in training with dropout; or a shape does not fit.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> layer = rg.nn.GRU(3, 4)
    >>> stream = layer.stream()
    >>> for x in torch.zeros(5, 3):
    ...     h = stream(x)
    >>> h.shape, stream.state.shape
    (torch.Size([4]), torch.Size([1, 4]))
    """

    def __init__(self, layer: Any, batch_size: int | None = None, hx: Any = None) -> None:
        _check(layer, batch_size)
        self.batch_size = batch_size
        weights = [weight.detach() for weight in layer._flat_weights]
        first, rows = weights[0], () if batch_size is None else (batch_size,)
        self._in, self._out = (*rows, layer.input_size), (*rows, layer.proj_size or layer.hidden_size)
        self._dtype, self._device = first.dtype, first.device
        per_layer = len(weights) // layer.num_layers
        stack = [weights[i : i + per_layer] for i in range(0, len(weights), per_layer)]
        self._native: NativeStream | None = None
        if kernels.available() and first.is_cpu and first.dtype in (torch.float32, torch.float64):
            self._native = NativeStream(layer.mode, stack, batch_size or 1, layer.hidden_size, layer.bias)
            self._step = self._native.step
        else:
            self._copy = copy.deepcopy(layer).eval()
            self._copy.flatten_parameters()  # cuDNN wants the weights side by side
        sizes = {"h": layer.proj_size or layer.hidden_size, "c": layer.hidden_size}
        self._shapes = [(layer.num_layers, *rows, sizes[name]) for name in BY_MODE[layer.mode].states]
        self.reset(hx)

    def __call__(self, x: Any) -> Tensor:
        """Read the next step and return h_t of the last layer.

        Parameters
        ----------
        x : Tensor or array
            ``(input_size,)``, or ``(B, input_size)`` with `batch_size`.

        Returns
        -------
        Tensor
            ``(hidden_size,)`` or ``(B, hidden_size)``; `proj_size` with a projection. It is new at each step and
            needs no gradient.

        Raises
        ------
        OptionError
            The input has another shape or type.
        """
        native = self._native
        if native is None:
            return self._torch_step(self._prepared(x))
        if not (type(x) is Tensor and x.dtype is self._dtype and x.shape == self._in and _is_dense(x)):
            x = self._prepared(x)
        out = torch.empty(self._out, dtype=self._dtype, device="cpu")
        self._step(x, out)
        return out

    @property
    def state(self) -> Any:
        """A copy of the state: h, or (h, c) of an LSTM, each ``(num_layers, B, ·)``, B only if it was given."""
        if self._native is None:
            found = self._state
        else:
            columns = zip(*self._native.states, strict=True)
            found = tuple(
                torch.stack(list(every)).reshape(shape) for every, shape in zip(columns, self._shapes, strict=True)
            )
        return tuple(s.clone() for s in found) if len(found) > 1 else found[0].clone()

    def reset(self, hx: Any = None) -> None:
        """Begin a new sequence, from this state or, by default, from zeros.

        Raises
        ------
        OptionError
            The state has another shape.
        """
        given = (torch.zeros(shape, device="cpu") for shape in self._shapes) if hx is None else hx
        state = tuple(given) if hx is None or isinstance(hx, (tuple, list)) else (hx,)
        shapes = [tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__ for s in state]
        if shapes != self._shapes:
            raise OptionError(f"a state of this stream is {self._shapes}; this one is {shapes}")
        state = tuple(s.detach().to(self._device, self._dtype) for s in state)
        if self._native is None:
            self._state = state
            return
        for i, own in enumerate(self._native.states):
            for to, new in zip(own, state, strict=True):
                to.copy_(new[i].reshape(to.shape))

    def __repr__(self) -> str:
        how = "the native engine" if self._native is not None else "torch's operators"
        return f"Stream({self._in} -> {self._out}, {how})"

    def _prepared(self, x: Any) -> Tensor:
        try:
            given: Tensor = torch.as_tensor(x)
        except (TypeError, ValueError, RuntimeError):
            raise OptionError(f"a step of this stream is a tensor {self._in}, not {type(x).__name__}") from None
        if given.shape != self._in:
            raise OptionError(f"a step of this stream is {self._in}; this one is {tuple(given.shape)}")
        if given.is_complex() or (given.is_floating_point() and given.dtype != self._dtype):
            raise OptionError(f"a step of this stream is {self._dtype}; this one is {given.dtype}: convert it first")
        return given.detach().resolve_neg().to(self._device, self._dtype).contiguous()

    def _torch_step(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            along = 1 if self._copy.batch_first and self.batch_size is not None else 0
            output, state = self._copy(x.unsqueeze(along), self._state if len(self._state) > 1 else self._state[0])
        found: Tensor = output.squeeze(along)
        self._state = state if isinstance(state, tuple) else (state,)
        return found


def _is_dense(x: Tensor) -> bool:
    """Whether the engine can read a tensor where it is."""
    return x.is_cpu and x.is_contiguous() and not x.is_neg()


def _check(layer: Any, batch_size: int | None) -> None:
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise OptionError(f"batch_size={batch_size}: it is at least 1, or None for sequences without a batch")
    if layer.bidirectional:
        raise OptionError("stream: a bidirectional layer needs a sequence's end; call it on whole sequences")
    if layer.training and layer.dropout and layer.num_layers > 1:
        raise OptionError(f"stream: the layer is in training with dropout={layer.dropout}; call layer.eval() first")
