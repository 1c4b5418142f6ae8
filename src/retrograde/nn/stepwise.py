"""Recurrent layers computed step by step, for what no fused layer offers: layer normalisation and dropout of the state.

Slower than ``RNN``, ``GRU`` and ``LSTM`` (every step is a handful of torch operators), and equal to them, number for
number, when neither is asked for. They are no subclasses of ``torch.nn``'s layers: their equations are others, and what
takes a ``torch.nn.LSTM`` for granted should not take one of these for it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..errors import OptionError
from .dropout import VariationalDropout
from .marking import mark_state
from .paths import observed

__all__ = ["StepwiseGRU", "StepwiseLSTM", "StepwiseRNN"]

State = tuple[Tensor, ...]  # (h,) or (h, c), each (B, H)


class _Stepwise(torch.nn.Module, ABC):
    """What the three layers share: the parameters, and the walk over layers, directions and steps."""

    gates: ClassVar[int]
    norms: ClassVar[tuple[str, ...]]  # the normalisations a step makes, each with a gain
    shifts: ClassVar[
        tuple[str, ...]
    ] = ()  # those to which no bias of torch's adds, so that they have a shift of their own
    states: ClassVar[int] = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        name = type(self).__name__
        for option, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if size < 1:
                raise OptionError(f"{name}: {option} is {size}; it must be at least 1.")
        for option, p in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= p < 1:
                raise OptionError(f"{name}: {option} is {p}; a share to drop is at least 0 and below 1.")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout, self.layer_norm, self.recurrent_dropout = dropout, layer_norm, recurrent_dropout
        self.between_layers = VariationalDropout(dropout)
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                fan_in = input_size if layer == 0 else hidden_size * (2 if bidirectional else 1)
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, fan_in), "weight_hh": (rows, hidden_size)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if layer_norm:
                    shapes |= {f"gain_{norm}": (self._norm_size(norm),) for norm in self.norms}
                    shapes |= {f"shift_{norm}": (self._norm_size(norm),) for norm in self.shifts}
                for name, shape in shapes.items():
                    empty = torch.empty(shape, device=device, dtype=dtype)
                    self.register_parameter(name + suffix, torch.nn.Parameter(empty))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases as torch.nn does, uniform within 1/√H; the gains of the normalisation are 1."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name.startswith(("gain", "shift")):
                torch.nn.init.constant_(parameter, float(name.startswith("gain")))
            else:
                torch.nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Run over ``(T, B, I)``, ``(B, T, I)`` if ``batch_first``, ``(T, I)`` or packed sequences, as torch.nn."""
        drops = self.training and (self.recurrent_dropout or self.dropout)
        if not (self.layer_norm or drops) and not torch.compiler.is_compiling() and observed():
            output, end = self._fused()(input, hx)  # gradient_flow sees more of torch's own operators than of steps
            return output, end
        packed = isinstance(input, PackedSequence)
        lengths: Tensor | None = None
        if isinstance(input, PackedSequence):
            sequence, lengths = pad_packed_sequence(input)
        else:
            sequence = input
        unbatched = sequence.dim() == 2
        if sequence.dim() not in (2, 3) or sequence.shape[-1] != self.input_size:
            wanted = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise OptionError(
                f"{type(self).__name__}: the input is {tuple(sequence.shape)}; it must be {wanted} or (T, I) "
                f"with I = {self.input_size}."
            )
        if unbatched:
            sequence = sequence.unsqueeze(1)
        elif self.batch_first and not packed:
            sequence = sequence.transpose(0, 1)
        states = self._initial(sequence, hx, unbatched)
        valid = None
        if lengths is not None:
            lengths = lengths.to(sequence.device)
            valid = (torch.arange(len(sequence), device=sequence.device)[:, None] < lengths)[:, :, None]
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer:
                sequence = self.between_layers(sequence)
            outputs = []
            for suffix in self._suffixes(layer):
                output, final = self._scan(sequence, tuple(s[len(finals)] for s in states), suffix, valid)
                outputs.append(output)
                finals.append(final)
            sequence = torch.cat(outputs, dim=-1)
        end = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        if unbatched:
            sequence, end = sequence.squeeze(1), tuple(s.squeeze(1) for s in end)
        elif self.batch_first and not packed:
            sequence = sequence.transpose(0, 1)
        result: Any = sequence
        if isinstance(input, PackedSequence):
            assert lengths is not None
            order = input.sorted_indices
            if order is not None:
                sequence, lengths = sequence[:, order], lengths[order]
            data = pack_padded_sequence(sequence, lengths.cpu()).data
            result = PackedSequence(data, input.batch_sizes, order, input.unsorted_indices)
        return result, end if self.states == 2 else end[0]

    def _fused(self) -> torch.nn.RNNBase:
        """The layer of ``torch.nn`` with these parameters, equal to this one where nothing is normalised or dropped."""
        kind: Any = {1: torch.nn.RNN, 3: torch.nn.GRU, 4: torch.nn.LSTM}[self.gates]
        options = {name: getattr(self, name) for name in ("bias", "batch_first", "bidirectional")}
        if isinstance(self, StepwiseRNN):
            options["nonlinearity"] = self.nonlinearity
        fused: torch.nn.RNNBase = kind(self.input_size, self.hidden_size, self.num_layers, device="meta", **options)
        for name, parameter in self.named_parameters():
            setattr(fused, name, parameter)
        return fused

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        return (f"_l{layer}", f"_l{layer}_reverse") if self.bidirectional else (f"_l{layer}",)

    def _norm_size(self, norm: str) -> int:
        return self.gates * self.hidden_size

    def _initial(self, sequence: Tensor, hx: Any, unbatched: bool) -> State:
        shape = (self.num_layers * (2 if self.bidirectional else 1), sequence.shape[1], self.hidden_size)
        if hx is None:
            return (sequence.new_zeros(shape),) * self.states
        given = tuple(hx) if self.states == 2 else (hx,)
        if unbatched:
            given = tuple(s.unsqueeze(1) for s in given)
        if len(given) != self.states or any(tuple(s.shape) != shape for s in given):
            raise OptionError(
                f"{type(self).__name__}: the initial state is {[tuple(s.shape) for s in given]}; "
                f"{self.states} of shape {shape} are needed."
            )
        return given

    def _scan(self, sequence: Tensor, state: State, suffix: str, valid: Tensor | None) -> tuple[Tensor, State]:
        """One layer in one direction: ``(T, B, ·)`` to ``(T, B, H)``, and the state after the last step of each."""
        weights = {
            name: getattr(self, name + suffix, None)
            for name in (
                *("weight_hh", "bias_ih", "bias_hh"),
                *(f"gain_{norm}" for norm in self.norms),
                *(f"shift_{norm}" for norm in self.shifts),
            )
        }
        projected = F.linear(sequence, getattr(self, f"weight_ih{suffix}"))  # for all steps in one product
        mask = F.dropout(torch.ones_like(state[0]), self.recurrent_dropout, self.training)
        backwards = suffix.endswith("_reverse")
        outputs: list[Tensor] = []
        for t in reversed(range(len(sequence))) if backwards else range(len(sequence)):
            new = self._step(projected[t], state, state[0] * mask, weights)
            if valid is not None:
                new = tuple(torch.where(valid[t], after, before) for after, before in zip(new, state, strict=True))
            live = None if valid is None else valid[t]
            marked = mark_state(*new, layer=suffix[1:], live=live)
            state = marked if self.states == 2 else (marked,)
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if backwards else outputs), state

    @abstractmethod
    def _step(self, x: Tensor, state: State, h: Tensor, w: dict[str, Tensor | None]) -> State:
        """From one state to the next. ``x`` is W_ih x_t, ``h`` the state before with its mask."""


def _norm(a: Tensor, gain: Tensor | None, shift: Tensor | None = None) -> Tensor:
    """LN(a) ⊙ gain + shift over the last dimension; the identity where the layer has no normalisation."""
    return a if gain is None else F.layer_norm(a, gain.shape, gain, shift)


def _plus(a: Tensor, bias: Tensor | None) -> Tensor:
    return a if bias is None else a + bias


class StepwiseRNN(_Stepwise):
    """Vanilla network, h_t = f(LN(W_ih x_t + W_hh h_{t-1}) + b): Ba, Kiros, Hinton (2016), equation 4.

    Parameters
    ----------
    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, bidirectional, device, dtype
        As in ``torch.nn.RNN``.
    dropout
        Between layers, one mask for all steps of a sequence (`VariationalDropout`).
    layer_norm
        Normalise; the gains are ``gain_sum_l0``, …, and torch's biases are added after it.
    recurrent_dropout
        Of the state on its way to the next step, one mask for all steps (Gal and Ghahramani 2016).

    Examples
    --------
    >>> output, h_n = StepwiseRNN(3, 5, layer_norm=True, recurrent_dropout=0.2)(torch.zeros(7, 2, 3))
    >>> output.shape, h_n.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    gates = 1
    norms = ("sum",)

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", **options: Any
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise OptionError(f"StepwiseRNN: nonlinearity is {nonlinearity!r}; it must be 'tanh' or 'relu'.")
        super().__init__(input_size, hidden_size, num_layers, **options)
        self.nonlinearity = nonlinearity

    def _step(self, x: Tensor, state: State, h: Tensor, w: dict[str, Tensor | None]) -> State:
        assert w["weight_hh"] is not None
        a = _norm(x + F.linear(h, w["weight_hh"]), w["gain_sum"])
        a = _plus(_plus(a, w["bias_ih"]), w["bias_hh"])
        return (a.tanh() if self.nonlinearity == "tanh" else a.relu(),)


class StepwiseGRU(_Stepwise):
    """Gated recurrent unit, torch's equations, with LN(W_ih x_t) and LN(W_hh h_{t-1}): Ba, Kiros, Hinton (2016).

    r and z are normalised together, n by itself, as in the paper's equations 27 and 28.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional, device, dtype
        As in ``torch.nn.GRU``.
    dropout, layer_norm, recurrent_dropout
        As in `StepwiseRNN`; the gains are ``gain_ih_l0``, ``gain_hh_l0``, ….
    """

    gates = 3
    norms = ("ih", "hh")

    def _step(self, x: Tensor, state: State, h: Tensor, w: dict[str, Tensor | None]) -> State:
        assert w["weight_hh"] is not None
        size = self.hidden_size
        a, b = self._normalise(x, w["gain_ih"]), self._normalise(F.linear(h, w["weight_hh"]), w["gain_hh"])
        a, b = _plus(a, w["bias_ih"]), _plus(b, w["bias_hh"])
        r, z = (a[:, : 2 * size] + b[:, : 2 * size]).sigmoid().chunk(2, dim=-1)
        n = (a[:, 2 * size :] + r * b[:, 2 * size :]).tanh()
        return ((1 - z) * n + z * state[0],)

    def _normalise(self, a: Tensor, gain: Tensor | None) -> Tensor:
        if gain is None:
            return a
        parts = [2 * self.hidden_size, self.hidden_size]
        return torch.cat(
            [_norm(x, g) for x, g in zip(torch.split(a, parts, -1), torch.split(gain, parts), strict=True)], dim=-1
        )


class StepwiseLSTM(_Stepwise):
    """Long short-term memory with LN(W_ih x_t) + LN(W_hh h_{t-1}) + b in the gates and o ⊙ tanh(LN(c_t)) at the output.

    Ba, Kiros, Hinton (2016), equations 20 to 22.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional, device, dtype
        As in ``torch.nn.LSTM``; there is no projection.
    dropout, layer_norm, recurrent_dropout
        As in `StepwiseRNN`; the gains are ``gain_ih_l0``, ``gain_hh_l0`` and, for the cell, ``gain_c_l0``
        and ``shift_c_l0``.
    """

    gates = 4
    norms = ("ih", "hh", "c")
    shifts = ("c",)
    states = 2

    def _norm_size(self, norm: str) -> int:
        return self.hidden_size if norm == "c" else super()._norm_size(norm)

    def _step(self, x: Tensor, state: State, h: Tensor, w: dict[str, Tensor | None]) -> State:
        assert w["weight_hh"] is not None
        a = _norm(x, w["gain_ih"]) + _norm(F.linear(h, w["weight_hh"]), w["gain_hh"])
        i, f, g, o = _plus(_plus(a, w["bias_ih"]), w["bias_hh"]).chunk(4, dim=-1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * _norm(c, w["gain_c"], w["shift_c"]).tanh(), c
