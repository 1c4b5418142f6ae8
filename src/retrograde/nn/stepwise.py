"""Recurrent layers computed step by step, with two options no fused layer has: layer normalization and state dropout.

They are slower than ``RNN``, ``GRU`` and ``LSTM`` (a step is a handful of torch operators), and give the same numbers
if neither option is used. They are not subclasses of ``torch.nn``'s layers, because their equations differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .. import _torch_private
from ..cells import FUSED, Cell, find
from ..errors import OptionError
from .dropout import VariationalDropout
from .marking import mark_state

State = tuple[Tensor, ...]  # (h,) or (h, c), each (B, H)


class Stepwise(torch.nn.Module):
    """A layer of any cell: the parameters, and the loops over layers, directions and steps.

    Of torch's cells there are subclasses, which say what ``layer_norm`` normalizes; of any other (``cell=``) it
    normalizes each gate by itself.
    """

    cell_name: str  # the cell, whose equations are in ``cells.py``
    nonlinearity = "tanh"
    # What is normalized, each with a gain ``gain_<name>``: ``"ih"`` is W_ih x_t, ``"hh"`` is W_hh h_{t-1}.
    norms: ClassVar[tuple[str, ...]] = ("ih", "hh")
    # Those of `norms` that have a shift too, because none of torch's biases is added to them.
    shifts: ClassVar[tuple[str, ...]] = ()
    # How many gates are normalized together: ``(2, 1)`` is the first two, then the third by itself.
    groups: tuple[int, ...]

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
        cell: str | None = None,
    ):
        super().__init__()
        name = type(self).__name__
        if cell is not None:
            self.cell_name, self.groups = cell, (1,) * len(find(cell).gates)
        for option, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if size < 1:
                raise OptionError(f"{name}: {option} is {size}; it must be at least 1.")
        for option, p in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= p < 1:
                raise OptionError(f"{name}: {option} is {p}; it must be at least 0 and below 1.")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout, self.layer_norm, self.recurrent_dropout = dropout, layer_norm, recurrent_dropout
        self.between_layers = VariationalDropout(dropout)
        rows = len(self.cell.gates) * hidden_size
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

    @property
    def cell(self) -> Cell:
        """The gates, states and equations of the layer."""
        return find(self.cell_name, self.nonlinearity)

    def reset_parameters(self) -> None:
        """Draw weights and biases as torch.nn does, uniform within 1/√H; the gains of the normalization are 1."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name.startswith(("gain", "shift")):
                torch.nn.init.constant_(parameter, float(name.startswith("gain")))
            else:
                torch.nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Run over ``(T, B, I)``, ``(B, T, I)`` if ``batch_first``, ``(T, I)`` or packed sequences, as torch.nn."""
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
        drops = self.training and (self.recurrent_dropout or self.dropout)
        if not (self.layer_norm or drops or torch.compiler.is_compiling()):
            recorder = _torch_private.function_mode_with("take_layer")
            if recorder is not None and _is_elementwise(self.cell):
                return self._taken(recorder, sequence if unbatched else input, states, unbatched)
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
        return result, end if len(end) > 1 else end[0]

    def _taken(self, recorder: Any, input: Any, states: State, unbatched: bool) -> tuple[Any, Any]:
        """`forward` as one operation of a measurement, which gets what torch's layers give to an operator of torch."""
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ()))
        suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        weights = [getattr(self, name + suffix) for suffix in suffixes for name in names]
        layout = (weights, self.bias, self.num_layers, 0.0, False, self.bidirectional)
        if isinstance(input, PackedSequence):
            data, sizes, order, back = input
            states = states if order is None else tuple(s.index_select(1, order) for s in states)
            data, *end = recorder.take_layer(self.cell, data, sizes, states, *layout)
            end = end if back is None else [s.index_select(1, back) for s in end]
            output: Any = PackedSequence(data, sizes, order, back)
        else:
            output, *end = recorder.take_layer(self.cell, input, states, *layout, self.batch_first and not unbatched)
        if unbatched:
            output, end = output.squeeze(1), [s.squeeze(1) for s in end]
        return output, tuple(end) if len(end) > 1 else end[0]

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        return (f"_l{layer}", f"_l{layer}_reverse") if self.bidirectional else (f"_l{layer}",)

    def _norm_size(self, norm: str) -> int:
        return len(self.cell.gates) * self.hidden_size

    def _initial(self, sequence: Tensor, hx: Any, unbatched: bool) -> State:
        shape = (self.num_layers * (2 if self.bidirectional else 1), sequence.shape[1], self.hidden_size)
        states = len(self.cell.states)
        if hx is None:
            return (sequence.new_zeros(shape),) * states
        given = tuple(hx) if states > 1 else (hx,)
        if unbatched:
            given = tuple(s.unsqueeze(1) for s in given)
        if len(given) != states or any(tuple(s.shape) != shape for s in given):
            raise OptionError(
                f"{type(self).__name__}: the initial state is {[tuple(s.shape) for s in given]}; "
                f"{states} of shape {shape} are needed."
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
            state = marked if len(new) > 1 else (marked,)
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if backwards else outputs), state

    def _step(self, x: Tensor, state: State, h: Tensor, w: dict[str, Tensor | None]) -> State:
        """From one state to the next. ``x`` is W_ih x_t, ``h`` the state before with its mask."""
        assert w["weight_hh"] is not None
        x, u = self._products(x, F.linear(h, w["weight_hh"]), w)
        x, u = _plus(x, w["bias_ih"]), _plus(u, w["bias_hh"])
        return self.cell.step(x, u, state, norm=lambda c: _norm(c, w.get("gain_c"), w.get("shift_c")))[0]

    def _products(self, x: Tensor, u: Tensor, w: dict[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Normalize W_ih x_t and W_hh h_{t-1}."""
        sizes = [n * self.hidden_size for n in self.groups]
        return _norm(x, w["gain_ih"], sizes=sizes), _norm(u, w["gain_hh"], sizes=sizes)


@cache
def _is_elementwise(cell: Cell) -> bool:
    """Whether a unit's new state depends on that unit's state and rows of the products only, found by derivatives."""
    if cell in FUSED or len(cell.states) > 2:
        return cell in FUSED
    generator, units = torch.Generator().manual_seed(0), 5

    def drawn(blocks: int) -> Tensor:
        return torch.randn(8, blocks * units, dtype=torch.float64, generator=generator)

    def derivatives(of: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(of, leaves, weight, retain_graph=True, allow_unused=True, materialize_grads=True)

    with _torch_private.no_torch_functions(), torch.enable_grad():
        blocks = (len(cell.gates), len(cell.gates), *(1 for _ in cell.states))
        leaves = tuple(drawn(n).requires_grad_() for n in blocks)
        for new in cell.step(leaves[0], leaves[1], leaves[2:])[0]:
            weight = drawn(1)
            each, weighed = derivatives(new, torch.ones_like(new)), derivatives(new, weight)
            if not all(
                torch.allclose(a * weight.repeat(1, n), b) for a, b, n in zip(each, weighed, blocks, strict=True)
            ):
                return False
    return True


def _norm(a: Tensor, gain: Tensor | None, shift: Tensor | None = None, sizes: Sequence[int] | None = None) -> Tensor:
    """LN(a) ⊙ gain + shift over the last axis, or over parts of it; the identity if the layer has no normalization."""
    if gain is None:
        return a
    if sizes is None or len(sizes) == 1:
        return F.layer_norm(a, gain.shape, gain, shift)
    parts = zip(torch.split(a, list(sizes), -1), torch.split(gain, list(sizes)), strict=True)
    return torch.cat([F.layer_norm(part, own.shape, own) for part, own in parts], dim=-1)


def _plus(a: Tensor, bias: Tensor | None) -> Tensor:
    return a if bias is None else a + bias


class StepwiseRNN(Stepwise):
    """Vanilla network, h_t = f(LN(W_ih x_t + W_hh h_{t-1}) + b): Ba, Kiros, Hinton (2016), equation 4.

    Parameters
    ----------
    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, bidirectional, device, dtype
        As in ``torch.nn.RNN``.
    dropout
        Dropout between layers, one mask for all steps of a sequence (`VariationalDropout`).
    layer_norm
        Layer normalization; the gains are ``gain_sum_l0``, …, and torch's biases are added after it.
    recurrent_dropout
        Dropout of the state between steps, one mask for all steps (Gal and Ghahramani 2016).

    Examples
    --------
    >>> output, h_n = StepwiseRNN(3, 5, layer_norm=True, recurrent_dropout=0.2)(torch.zeros(7, 2, 3))
    >>> output.shape, h_n.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    cell_name = "rnn"
    norms = ("sum",)

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", **options: Any
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise OptionError(f"StepwiseRNN: nonlinearity is {nonlinearity!r}; it must be 'tanh' or 'relu'.")
        super().__init__(input_size, hidden_size, num_layers, **options)
        self.nonlinearity = nonlinearity

    def _products(self, x: Tensor, u: Tensor, w: dict[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        if (gain := w["gain_sum"]) is None:
            return x, u
        return _norm(x + u, gain), x.new_zeros(())


class StepwiseGRU(Stepwise):
    """Gated recurrent unit, torch's equations, with LN(W_ih x_t) and LN(W_hh h_{t-1}): Ba, Kiros, Hinton (2016).

    r and z are normalized together, n by itself, as in the paper's equations 27 and 28.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional, device, dtype
        As in ``torch.nn.GRU``.
    dropout, layer_norm, recurrent_dropout
        As in `StepwiseRNN`; the gains are ``gain_ih_l0``, ``gain_hh_l0``, ….
    """

    cell_name = "gru"
    groups = (2, 1)


class StepwiseLSTM(Stepwise):
    """Long short-term memory with LN(W_ih x_t) + LN(W_hh h_{t-1}) + b in the gates and o ⊙ tanh(LN(c_t)) at the output.

    Ba, Kiros, Hinton (2016), equations 20 to 22.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional, device, dtype
        As in ``torch.nn.LSTM``, without a projection.
    dropout, layer_norm, recurrent_dropout
        As in `StepwiseRNN`; the gains are ``gain_ih_l0``, ``gain_hh_l0`` and, for the cell, ``gain_c_l0``
        and ``shift_c_l0``.
    """

    cell_name = "lstm"
    norms = ("ih", "hh", "c")
    shifts = ("c",)
    groups = (4,)

    def _norm_size(self, norm: str) -> int:
        return self.hidden_size if norm == "c" else super()._norm_size(norm)
