"""The factory of recurrent layers: from options, remedies included, to a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..cells import FUSED, Cell, find
from ..errors import OptionError
from . import layers
from .dropout import weight_drop_
from .initialization import initialize
from .stepwise import Stepwise, StepwiseGRU, StepwiseLSTM, StepwiseRNN

_STEPWISE: Mapping[str, type[Stepwise]] = {own.cell_name: own for own in (StepwiseRNN, StepwiseGRU, StepwiseLSTM)}


def stepwise_layer(cell: Cell, **options: Any) -> Stepwise:
    """The layer of a cell that runs step by step, which every cell has."""
    kind: Callable[..., Stepwise] = _STEPWISE.get(cell.name, Stepwise)
    return kind(**options, **({"cell": cell.name} if kind is Stepwise else cell.options))


def recurrent_layer(
    input_size: int,
    hidden_size: int,
    *,
    cell: str = "lstm",
    num_layers: int = 1,
    nonlinearity: str = "tanh",
    dropout: float = 0.0,
    bidirectional: bool = False,
    layer_norm: bool = False,
    recurrent_dropout: float = 0.0,
    weight_drop: float = 0.0,
    init: str = "default",
    spectral_radius: float | None = None,
    forget_bias: float | None = None,
    chrono: int | None = None,
) -> torch.nn.Module:
    """Build a recurrent layer, time first.

    Parameters
    ----------
    input_size, hidden_size, num_layers, nonlinearity, dropout, bidirectional
        As in ``torch.nn``; ``nonlinearity`` is for the vanilla cell.
    cell : CellName
    layer_norm, recurrent_dropout
        See `StepwiseLSTM`. With either, the layer is computed step by step.
    weight_drop
        See `weight_drop_`. Not together with those two.
    init : {"default", "orthogonal", "identity", "xavier"}
        Of the weights from state to state; with ``identity`` the input weights are drawn as in the IRNN's paper, with
        ``xavier`` they are xavier too.
    spectral_radius, forget_bias, chrono
        See `initialize`.

    Raises
    ------
    OptionError
        Options contradict one another.

    Examples
    --------
    >>> recurrent_layer(3, 5, cell="rnn", nonlinearity="relu", init="identity")
    RNN(3, 5)
    """
    own = find(cell, nonlinearity)
    if weight_drop and own not in FUSED:
        whole = dict.fromkeys(cell.name for cell in FUSED)
        raise OptionError(f"weight drop is for {', '.join(whole)}, not for {cell}; leave it out.")
    normalized = layer_norm or recurrent_dropout > 0
    if normalized and weight_drop:
        raise OptionError("weight drop excludes layer normalization and recurrent dropout; leave one of them out.")
    options: dict[str, Any] = {"num_layers": num_layers, "bidirectional": bidirectional}
    options["dropout"] = dropout if num_layers > 1 else 0.0
    if normalized or own not in FUSED:
        options |= {"layer_norm": layer_norm, "recurrent_dropout": recurrent_dropout}
        layer: torch.nn.Module = stepwise_layer(own, input_size=input_size, hidden_size=hidden_size, **options)
    else:
        layer = getattr(layers, own.title)(input_size, hidden_size, **own.options, **options)
    asked: dict[str, Any] = {"spectral_radius": spectral_radius, "forget_bias": forget_bias, "chrono": chrono}
    if init != "default":
        asked["recurrent"] = init
    if init in ("identity", "xavier"):
        asked["input"] = 0.001 if init == "identity" else "xavier"
    if any(value is not None for value in asked.values()):
        initialize(layer, **asked)
    return weight_drop_(layer, weight_drop) if weight_drop else layer
