"""The three recurrent layers: ``torch.nn``'s own, with a forward pass that can use the engine.

They inherit the constructor, the parameters, their initialization and every check from ``torch.nn``. Two things
differ. The weights are read from the module at each call (``torch.nn`` keeps a list of them that goes stale when one
is parametrized, pruned or replaced); and a well-formed call becomes a :class:`~retrograde.nn.paths.ForwardPass`, which
takes the fastest path. A call that is not well formed goes to ``torch.nn``'s own forward, so that the error is the one
of the installed torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..cells import BY_MODE
from ..errors import OptionError
from ..kernels import native
from .compilation import admit_to_graphs, exporting
from .paths import Explanation, ForwardPass, compute, compute_traced, explanation, state_of_torch
from .streaming import Stream
from .trace import Trace


class Recurrent(torch.nn.RNNBase):
    """What the three layers share: fresh weights, and one forward pass over any form of input."""

    recompute = False  # of the class, so that layers from old pickles and accelerate_ have it too
    _accelerated = False  # True for a layer that accelerate_ has changed

    def __init__(self, *args: Any, recompute: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if recompute:
            self.recompute = True

    def extra_repr(self) -> str:
        """The options, for the printed module."""
        return super().extra_repr() + (", recompute=True" if self.recompute else "")

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run the layer over a sequence.

        Parameters
        ----------
        input : Tensor or PackedSequence
            ``(T, B, input_size)``; ``(B, T, input_size)`` if ``batch_first``; ``(T, input_size)`` without a batch; or
            packed sequences of different lengths.
        hx : Tensor or (Tensor, Tensor), optional
            The initial state h_0, for an LSTM (h_0, c_0), each ``(num_layers * D, B, ·)``, without the B if the input
            has none; D is 2 if ``bidirectional``, else 1. Zeros by default.

        Returns
        -------
        output : Tensor or PackedSequence
            h_t of the last layer at each step, laid out as the input.
        h_n : Tensor or (Tensor, Tensor)
            The final state, shaped as `hx`.

        Raises
        ------
        ValueError, RuntimeError, TypeError, ...
            Whatever ``torch.nn`` raises on the same bad input.
        """
        if exporting():
            return super().forward(input, hx)
        weights = self._flat_weights
        call = self._call(input, hx, weights)
        if call is None:
            return super().forward(input, hx)
        output, state = compute(call)
        return self._as_given(output, input), self._state_as_given(state, input)

    def _as_given(self, rows: Tensor, input: Any) -> Any:
        """Rows of all steps in the form of the input: packed, batched or not."""
        if isinstance(input, PackedSequence):
            return PackedSequence(rows, *input[1:])
        return rows.squeeze(0 if self.batch_first else 1) if input.dim() == 2 else rows

    def _state_as_given(self, state: tuple[Tensor, ...], input: Any) -> Any:
        if isinstance(input, PackedSequence):
            if input.unsorted_indices is not None:
                state = tuple(s.index_select(1, input.unsorted_indices) for s in state)
        elif input.dim() == 2:
            state = tuple(s.squeeze(1) for s in state)
        return state if len(state) > 1 else state[0]

    def trace(self, input: Any, hx: Any = None) -> Trace:
        """Run the layer as :meth:`forward` does, and return also what it computes on the way.

        Slower than `forward` (each step is a handful of torch operators), and differentiable like it.

        Parameters
        ----------
        input, hx
            As for :meth:`forward`.

        Returns
        -------
        Trace
            By layer and direction (``"l0"``, ``"l0_reverse"``, ...), as the parameters are called: h_t, c_t, the gates
            and the sums before the activations by the names of torch's documentation.

        Raises
        ------
        ValueError, RuntimeError, TypeError, ...
            Whatever ``torch.nn`` raises on the same bad input.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> trace = rg.nn.LSTM(3, 4, num_layers=2).trace(torch.zeros(5, 2, 3))
        >>> trace
        Trace of l0, l1: h, i, f, g, o, a_i, a_f, a_g, a_o, c
        >>> trace["l0"]["f"].shape
        torch.Size([5, 2, 4])
        """
        self._refuse_own_forward("trace")
        call = self._call(input, hx, self._flat_weights)
        if call is None or 0 in call.input.shape:
            super().forward(input, hx)  # raises what torch raises
            given = call and call.input.shape
            raise OptionError(f"trace takes one sequence or more, of one step and one feature at least, not {given}")
        output, state, seen = compute_traced(call)
        suffixes = [f"l{i}{end}" for i in range(self.num_layers) for end in ("", "_reverse")[: 1 + self.bidirectional]]
        steps = {}
        for name, found in zip(suffixes, seen, strict=True):
            columns = found.items()
            if self.batch_first and not isinstance(input, PackedSequence):
                columns = {key: value.transpose(0, 1) for key, value in columns}.items()
            steps[name] = {key: self._as_given(value, input) for key, value in columns}
        return Trace(self._as_given(output, input), self._state_as_given(state, input), steps)

    def step(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Take one step of a stream: from its next input and the state to the output and the new state.

        Equal to ``forward`` on a sequence of one step, and faster.

        Parameters
        ----------
        input : Tensor
            ``(B, input_size)``.
        hx : Tensor or (Tensor, Tensor), optional
            As for :meth:`forward`, ``(num_layers, B, ·)``; zeros by default.

        Returns
        -------
        output : Tensor
            ``(B, hidden_size)``, or ``(B, proj_size)`` with a projection.
        state : Tensor or (Tensor, Tensor)
            For the next call.

        Raises
        ------
        OptionError
            The layer is bidirectional (the backward direction begins at a sequence's end), or the input is not
            ``(B, input_size)``.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> layer, state = rg.nn.GRU(3, 4), None
        >>> for x in torch.zeros(5, 2, 3):
        ...     output, state = layer.step(x, state)
        >>> output.shape, state.shape
        (torch.Size([2, 4]), torch.Size([1, 2, 4]))
        """
        if self.bidirectional:
            raise OptionError("step: a bidirectional layer needs a sequence's end; call it on whole sequences")
        if input.dim() != 2 or input.shape[1] != self.input_size:
            raise OptionError(f"step: the input is {tuple(input.shape)}; it must be (B, {self.input_size})")
        alone = self.num_layers == 1 and type(self).forward is Recurrent.forward
        if alone and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            h_0, c_0 = hx if hx is not None and len(BY_MODE[self.mode].states) > 1 else (hx, None)
            if state_of_torch(False) is None:
                sizes = (self.hidden_size, self.proj_size)
                found = native.step(self.mode, input, h_0, c_0, self._flat_weights, *sizes, self.bias)
                if found is not None:
                    output, h_n, c_n = found
                    return output, h_n if c_n is None else (h_n, c_n)
        along = 1 if self.batch_first else 0
        output, state = self.forward(input.unsqueeze(along), hx)
        return output.squeeze(along), state

    def stream(self, batch_size: int | None = None, hx: Any = None) -> Stream:
        """Make a :class:`Stream` of this layer: it takes one step a call, holds the state, and is faster than `step`.

        Parameters
        ----------
        batch_size : int, optional
            Sequences that are read side by side; one without a batch dimension by default.
        hx : Tensor or (Tensor, Tensor), optional
            The first state, as for :meth:`forward`; zeros by default.

        Raises
        ------
        OptionError
            The layer is bidirectional, or in training with dropout; or a shape does not fit.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> layer = rg.nn.LSTM(3, 4, num_layers=2)
        >>> stream, x = layer.stream(), torch.randn(5, 3)
        >>> torch.allclose(torch.stack([stream(x_t) for x_t in x]), layer(x)[0], atol=1e-6)
        True
        """
        self._refuse_own_forward("stream")
        return Stream(self, batch_size, hx)

    def _refuse_own_forward(self, what: str) -> None:
        """OptionError if a subclass has a forward of its own, which ``what`` would leave out."""
        if type(self).forward is not Recurrent.forward:
            raise OptionError(f"{what}: {type(self).__name__} has its own forward, which would be left out; call that.")

    def _call(self, input: Any, hx: Any, weights: list[Any]) -> ForwardPass | None:
        """The forward pass in tensors, or None if the layer does not take this input and state."""
        cell = BY_MODE[self.mode]
        batch_sizes = sorted_indices = None
        if isinstance(input, PackedSequence):
            input, batch_sizes, sorted_indices, _ = input
        if not isinstance(input, Tensor) or input.dim() == 0 or input.size(-1) != self.input_size:
            return None
        for weight in weights:
            if weight is None:
                return None
        if input.dtype != weights[0].dtype and not torch.is_autocast_enabled(input.device.type):
            return None
        unbatched = batch_sizes is None and input.dim() == 2
        if input.dim() != (3 if batch_sizes is None and not unbatched else 2):
            return None

        state: tuple[Tensor, ...] | None = None
        if hx is not None:
            state = tuple(hx) if len(cell.states) > 1 and isinstance(hx, (tuple, list)) else (hx,)
            rows = self.num_layers * (2 if self.bidirectional else 1)
            # (rows, B, ·); a sequence without a batch has states without one
            batch: tuple[int, ...] = ()
            if batch_sizes is not None:
                batch = (int(batch_sizes[0]),)
            elif not unbatched:
                batch = (input.size(0 if self.batch_first else 1),)
            shapes = [(rows, *batch, self.proj_size or self.hidden_size)]
            if len(cell.states) > 1:
                shapes.append((rows, *batch, self.hidden_size))
            if len(state) != len(shapes):
                return None
            for given, shape in zip(state, shapes, strict=True):
                if not isinstance(given, Tensor) or given.shape != shape:
                    return None
            if unbatched:
                state = tuple(s.unsqueeze(1) for s in state)
            elif sorted_indices is not None:  # the state follows the order in which the user gave the sequences
                state = tuple(s.index_select(1, sorted_indices) for s in state)
        if unbatched:
            input = input.unsqueeze(0 if self.batch_first else 1)
        return ForwardPass(self, cell, 2 if self.bidirectional else 1, input, batch_sizes, state, weights)

    # torch.nn keeps `_flat_weights`, a list of the weights that is filled when a parameter is set. Here it is read from
    # the module each time: no copy can go stale, keep a finished graph alive, or prevent deepcopy and pickle once a
    # weight is computed from another.

    @property
    def _flat_weights(self) -> list[Any]:
        parameters = self._parameters
        weights: list[Any] = []  # tensors; None where one was deleted, as in torch.nn
        for name in self._flat_weights_names:
            weight = parameters.get(name)
            weights.append(getattr(self, name, None) if weight is None else weight)
        return weights

    @_flat_weights.setter
    def _flat_weights(self, _: object) -> None:
        """Ignored: torch's constructor and `__setstate__` set their copy."""

    def __setattr__(self, name: str, value: Any) -> None:
        super(torch.nn.RNNBase, self).__setattr__(name, value)  # RNNBase would write into its copy

    def _init_flat_weights(self) -> None:
        self.flatten_parameters()

    def _update_flat_weights(self) -> None:
        pass

    def flatten_parameters(self) -> None:
        """Lay the parameters out in one block for cuDNN; a no-op on the CPU."""
        # A weight that is computed from another has no memory of its own, and computing it here could change its state
        # (the power iteration of spectral_norm).
        if all(self._parameters.get(name) is not None for name in self._flat_weights_names):
            super().flatten_parameters()


admit_to_graphs(Recurrent)


class RNN(Recurrent, torch.nn.RNN):
    """Elman network, h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu; as ``torch.nn.RNN``.

    Parameters
    ----------
    input_size, hidden_size : int
    num_layers : int, default 1
    nonlinearity : {"tanh", "relu"}
    bias : bool, default True
    batch_first : bool, default False
    dropout : float, default 0
        Between layers, in training.
    bidirectional : bool, default False
    recompute : bool, default False
        Keep the states of every ~√T-th step for the backward pass and recompute the rest there: less memory, more
        time, the same gradients bit for bit.
    device, dtype : optional

    References
    ----------
    Elman, Finding structure in time, Cognitive Science 14 (1990).

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> layer = rg.nn.RNN(10, 20, nonlinearity="relu")
    >>> output, h_n = layer(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
    """


class GRU(Recurrent, torch.nn.GRU):
    """Gated recurrent unit, the reset gate after the product; as ``torch.nn.GRU``.

    r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr), z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz),
    n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_{t-1} + b_hn)), h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t-1}.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, recompute, device, dtype
        As for `RNN`.

    References
    ----------
    Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> layer = rg.nn.GRU(10, 20, num_layers=2, bidirectional=True)
    >>> output, h_n = layer(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 40]), torch.Size([4, 3, 20]))
    """


class LSTM(Recurrent, torch.nn.LSTM):
    """Long short-term memory, with or without projection; as ``torch.nn.LSTM``.

    i_t, f_t, o_t = σ(W_i· x_t + b_i· + W_h· h_{t-1} + b_h·), g_t = tanh(the same with its own weights),
    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t, h_t = o_t ⊙ tanh(c_t), then h_t = W_hr h_t with a projection.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, recompute, device, dtype
        As for `RNN`.
    proj_size : int, default 0
        The size of h_t after the projection; 0 for no projection.

    References
    ----------
    Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9 (1997);
    Gers et al., Learning to forget (2000); the projection: Sak et al., arXiv:1402.1128.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> layer = rg.nn.LSTM(10, 20, batch_first=True)
    >>> output, (h_n, c_n) = layer(torch.randn(3, 5, 10))
    >>> output.shape, h_n.shape, c_n.shape
    (torch.Size([3, 5, 20]), torch.Size([1, 3, 20]), torch.Size([1, 3, 20]))
    """


def explain(module: torch.nn.Module, input: Any, hx: Any = None) -> Explanation:
    """Say which path ``module(input, hx)`` takes, and why, without computing it.

    Parameters
    ----------
    module : retrograde.nn.RNN, GRU or LSTM, or one of torch.nn's
    input, hx
        What the module would be called with.

    Returns
    -------
    Explanation
        ``.path`` is ``"engine"`` or ``"torch"``, ``.reason`` one line.

    Raises
    ------
    OptionError
        `module` is not a recurrent layer.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> rg.nn.explain(rg.nn.GRU(3, 4, dtype=torch.bfloat16), torch.zeros(5, 2, 3, dtype=torch.bfloat16)).path
    'torch'
    >>> rg.nn.explain(torch.nn.GRU(3, 4), torch.zeros(5, 2, 3))
    torch's operators: this is torch.nn's GRU; retrograde.nn.accelerate_ makes it one of ours
    """
    if not isinstance(module, Recurrent):
        name = type(module).__name__
        if isinstance(module, torch.nn.RNNBase):
            return Explanation("torch", f"this is torch.nn's {name}; retrograde.nn.accelerate_ makes it one of ours")
        raise OptionError(f"explain takes a recurrent layer (RNN, GRU, LSTM), not {name}: name one of its layers")
    # Computing a parametrization in training may change its state (spectral_norm): compute it in eval mode.
    parametrizations = [m for m in module.modules() if m is not module and m.training]
    try:
        for m in parametrizations:
            m.training = False
        with torch.no_grad():
            call = module._call(input, hx, module._flat_weights)
    finally:
        for m in parametrizations:
            m.training = True
    if call is None:
        return Explanation("torch", "the input is not of the form this layer takes, and torch.nn will say why")
    return explanation(call)
