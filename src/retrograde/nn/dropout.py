"""Dropout for recurrent layers: one mask for all steps of a sequence."""

from __future__ import annotations

import re
import warnings
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from ..errors import OptionError
from .acceleration import accelerate_

Model = TypeVar("Model", bound=torch.nn.Module)


def _check(p: float, what: str) -> float:
    if not 0 <= p < 1:
        raise OptionError(f"{what}: p is {p}; it must be at least 0 and below 1.")
    return float(p)


class WeightDrop(torch.nn.Module):
    """Parametrization that drops single weights in training: DropConnect (Wan et al. 2013), as Merity et al. (2018).

    One mask serves all steps of a forward pass; the weights that stay are scaled by 1 / (1 - p).
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = _check(p, "WeightDrop")

    def forward(self, weight: Tensor) -> Tensor:
        """Drop entries of a weight of any shape."""
        return F.dropout(weight, self.p, self.training)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The stored weight is the one that is set."""
        return weight

    def extra_repr(self) -> str:
        """The options, for the printed module."""
        return f"p={self.p}"


def weight_drop_(module: Model, p: float = 0.5) -> Model:
    """Drop recurrent weights (``weight_hh_*``) of every recurrent layer in a module during training, in place.

    The layers become ours (see `accelerate_`): those of ``torch.nn`` would use a stale copy of a computed weight.

    Parameters
    ----------
    module
        An RNN, GRU or LSTM, or a model that contains some.
    p
        The share of weights dropped, 0.5 in the paper.

    Returns
    -------
    torch.nn.Module
        `module` itself.

    Raises
    ------
    OptionError
        There is no recurrent layer, or its weights are dropped already.

    References
    ----------
    Merity, Keskar, Socher, Regularizing and optimizing LSTM language models, ICLR 2018.

    Examples
    --------
    >>> layer = weight_drop_(torch.nn.LSTM(3, 4), p=0.5)
    >>> bool((layer.weight_hh_l0 == 0).any()), bool((layer.eval().weight_hh_l0 == 0).any())
    (True, False)
    """
    _check(p, "weight_drop_")
    layers = [m for m in module.modules() if isinstance(m, torch.nn.RNNBase)]
    if not layers:
        raise OptionError(f"weight_drop_: {type(module).__name__} has no recurrent layer (RNN, GRU or LSTM).")
    with warnings.catch_warnings():  # a layer that cannot be accelerated drops its weights too
        warnings.simplefilter("ignore", UserWarning)
        accelerate_(module)
    for layer in layers:
        for name in [name for name in layer._flat_weights_names if re.match("weight_hh", name)]:
            if parametrize.is_parametrized(layer, name):
                raise OptionError(f"weight_drop_: {name} of this {type(layer).__name__} is parametrized already.")
            parametrize.register_parametrization(layer, name, WeightDrop(p))
    return module


class VariationalDropout(torch.nn.Module):
    """Dropout between layers with one mask for all steps of a sequence (Gal and Ghahramani 2016).

    Parameters
    ----------
    p
        The share of channels dropped.
    batch_first
        The input is ``(B, T, F)`` rather than ``(T, B, F)``.

    Notes
    -----
    Takes a tensor or packed sequences; each sequence has a mask of its own. The paper also drops the state between
    steps: see ``recurrent_dropout`` of `StepwiseLSTM`.

    References
    ----------
    Gal, Ghahramani, A theoretically grounded application of dropout in recurrent neural networks, NeurIPS 2016.

    Examples
    --------
    >>> output = VariationalDropout(0.5)(torch.ones(7, 2, 3))
    >>> bool((output == output[0]).all())
    True
    """

    def __init__(self, p: float = 0.5, batch_first: bool = False):
        super().__init__()
        self.p = _check(p, "VariationalDropout")
        self.batch_first = batch_first

    def forward(self, input: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """Drop channels; the result has the form of the input."""
        if not self.training or self.p == 0:
            return input
        if isinstance(input, PackedSequence):
            data, sizes = input.data, input.batch_sizes
            mask = F.dropout(data.new_ones(int(sizes[0]), data.shape[-1]), self.p)
            rows = torch.cat([mask[: int(size)] for size in sizes])  # the first sizes[t] sequences have a step t
            return PackedSequence(data * rows, sizes, input.sorted_indices, input.unsorted_indices)
        if input.dim() not in (2, 3):
            raise OptionError(f"VariationalDropout: the input is {tuple(input.shape)}; it must be (T, B, F) or (T, F).")
        shape = list(input.shape)
        shape[1 if self.batch_first and input.dim() == 3 else 0] = 1
        return input * F.dropout(input.new_ones(shape), self.p)

    def extra_repr(self) -> str:
        """The options, for the printed module."""
        return f"p={self.p}, batch_first={self.batch_first}"
