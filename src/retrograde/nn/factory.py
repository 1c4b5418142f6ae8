"""The factory of recurrent layers: from options, remedies included, to a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import OptionError
from .dropout import weight_drop_
from .initialization import initialize
from .layers import GRU, LSTM, RNN
from .stepwise import Stepwise, StepwiseGRU, StepwiseLSTM, StepwiseRNN

__all__ = ["STEPWISE", "recurrent_layer"]

# Every cell has a layer that runs step by step; some have one that is computed as a whole, which is faster.
_WHOLE: Mapping[str, type[torch.nn.Module]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
STEPWISE: Mapping[str, type[Stepwise]] = {own.cell_name: own for own in (StepwiseRNN, StepwiseGRU, StepwiseLSTM)}


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
    if cell not in STEPWISE:
        raise OptionError(f"there is no cell {cell!r}; choose one of {', '.join(STEPWISE)}.")
    if weight_drop and cell not in _WHOLE:
        raise OptionError(f"weight drop is for {', '.join(_WHOLE)}, not for {cell}; leave it out.")
    normalized = layer_norm or recurrent_dropout > 0
    if normalized and weight_drop:
        raise OptionError("weight drop excludes layer normalization and recurrent dropout; leave one of them out.")
    options: dict[str, Any] = {"num_layers": num_layers, "bidirectional": bidirectional}
    options["dropout"] = dropout if num_layers > 1 else 0.0
    if cell == "rnn":
        options["nonlinearity"] = nonlinearity
    if normalized:
        options |= {"layer_norm": layer_norm, "recurrent_dropout": recurrent_dropout}
    layer = (STEPWISE if normalized or cell not in _WHOLE else _WHOLE)[cell](input_size, hidden_size, **options)
    asked: dict[str, Any] = {"spectral_radius": spectral_radius, "forget_bias": forget_bias, "chrono": chrono}
    if init != "default":
        asked["recurrent"] = init
    if init in ("identity", "xavier"):
        asked["input"] = 0.001 if init == "identity" else "xavier"
    if any(value is not None for value in asked.values()):
        initialize(layer, **asked)
    return weight_drop_(layer, weight_drop) if weight_drop else layer
