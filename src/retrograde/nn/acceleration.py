"""``accelerate_``: the recurrent layers of somebody else's finished model become ours."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from ..errors import OptionError
from .layers import GRU, LSTM, RNN, Recurrent

__all__ = ["accelerate_"]

Model = TypeVar("Model", bound=torch.nn.Module)

_OURS: dict[type, type[Recurrent]] = {torch.nn.RNN: RNN, torch.nn.GRU: GRU, torch.nn.LSTM: LSTM}


def accelerate_(model: Model) -> Model:
    """Make each ``torch.nn.RNN``, ``GRU`` and ``LSTM`` in `model`, at any depth, one of ours, in place.

    Each layer stays the object that it is, with its parameters, hooks, parametrisations and training
    flag: only its class changes. An optimiser that holds the parameters goes on undisturbed.
    Only torch.nn's own types are changed; subclasses of them, quantized and scripted layers, and
    layers that `model` has not registered as modules are left alone.

    Parameters
    ----------
    model : torch.nn.Module
        May itself be a recurrent layer.

    Returns
    -------
    torch.nn.Module
        `model` itself.

    Raises
    ------
    OptionError
        If `model` is no ``torch.nn.Module``.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.LSTM(8, 16))
    >>> isinstance(rg.nn.accelerate_(model)[1], rg.nn.LSTM)
    True
    """
    if not isinstance(model, torch.nn.Module):
        raise OptionError(f"accelerate_ takes a torch.nn.Module, not {type(model).__name__}")
    for layer in model.modules():
        ours = _OURS.get(type_before_parametrizations(layer))
        if ours is not None:
            _become(layer, ours)
    return model


def _become(layer: torch.nn.Module, ours: type[Recurrent]) -> None:
    cls = type(layer)
    if cls not in _OURS:
        # Parametrised: torch gave the layer a class of its own, a subclass that computes the weights.
        body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        ours = type(cls.__name__, (ours,), body)
    layer.__dict__.pop("_flat_weights", None)  # torch.nn's copy; ours reads the weights afresh
    layer.__class__ = ours
