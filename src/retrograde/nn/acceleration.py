"""``accelerate_`` and ``restore_``: a finished model's recurrent layers become ours, and what they were again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from ..errors import OptionError
from .conversion import obstacle_to_engine, original_class, to_engine, to_torch, was_accelerated
from .layers import GRU, LSTM, RNN, Recurrent

__all__ = ["AccelerationReport", "LayerReport", "accelerate_", "acceleration_report", "restore_"]

Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass(frozen=True)
class LayerReport:
    """One recurrent layer of a model, and what :func:`accelerate_` does or did with it.

    Attributes
    ----------
    name : str
        As in ``model.named_modules()``; the first of its names if the model has it under several, and ``""`` for the
        model itself.
    type : str
        Its class, without us.
    status : {"accelerated", "native", "eligible", "skipped"}
        ``accelerated`` by `accelerate_`; ``native``, built as one of ``retrograde.nn``; ``eligible``, one that
        `accelerate_` would change; ``skipped``, one that it leaves alone.
    reason : str
        Why it is skipped; empty otherwise.
    """

    name: str
    type: str
    status: Literal["accelerated", "native", "eligible", "skipped"]
    reason: str = ""

    def __str__(self) -> str:
        what = f"{self.name or 'the model itself'} ({self.type}): {self.status}"
        return f"{what}: {self.reason}" if self.reason else what


@dataclass(frozen=True, repr=False)
class AccelerationReport:
    """Every recurrent layer of a model, in the order of ``model.named_modules()``.

    Attributes
    ----------
    layers : tuple of LayerReport
    """

    layers: tuple[LayerReport, ...]

    @property
    def accelerated(self) -> tuple[LayerReport, ...]:
        """The layers that `accelerate_` has made ours."""
        return tuple(layer for layer in self.layers if layer.status == "accelerated")

    @property
    def skipped(self) -> tuple[LayerReport, ...]:
        """The layers that `accelerate_` leaves alone, each with its reason."""
        return tuple(layer for layer in self.layers if layer.status == "skipped")

    def __repr__(self) -> str:
        return "\n".join(map(str, self.layers)) or "no recurrent layer"


def acceleration_report(model: torch.nn.Module) -> AccelerationReport:
    """Say of each recurrent layer in `model` whether it is accelerated, could be, or is skipped, and why.

    Nothing is changed: call it before :func:`accelerate_` to see what that would do, or after to see what it did.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    AccelerationReport
        Its ``layers`` are records with ``name``, ``type``, ``status`` and ``reason``.

    Raises
    ------
    OptionError
        If `model` is not a ``torch.nn.Module``.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> model = torch.nn.Sequential(torch.nn.GRU(8, 16), torch.nn.GRUCell(16, 16))
    >>> rg.nn.acceleration_report(rg.nn.accelerate_(model))
    0 (GRU): accelerated
    1 (GRUCell): skipped: a cell takes single steps, in a loop of the model's own
    """
    return AccelerationReport(tuple(report for report, _ in _recurrent(model, "acceleration_report")))


def accelerate_(model: Model) -> Model:
    """Make each ``torch.nn.RNN``, ``GRU`` and ``LSTM`` in `model`, at any depth, one of ours, in place.

    Each layer stays the object that it is, with its parameters, hooks, parametrizations and training flag: only its
    class changes. An optimizer that holds the parameters goes on undisturbed. A layer of a subclass stays an instance
    of that subclass. :func:`acceleration_report` lists what was changed and what was skipped;
    :func:`restore_` reverses it.

    Parameters
    ----------
    model : torch.nn.Module
        May itself be a recurrent layer.

    Returns
    -------
    torch.nn.Module
        `model` itself.

    Warns
    -----
    UserWarning
        If a recurrent layer is skipped, with its name and the reason: a subclass that has its own ``forward`` or
        other methods that ours would bypass, or a quantized or scripted layer.

    Raises
    ------
    OptionError
        If `model` is not a ``torch.nn.Module``.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.LSTM(8, 16))
    >>> isinstance(rg.nn.accelerate_(model)[1], rg.nn.LSTM)
    True
    """
    skipped = []
    for report, layer in _recurrent(model, "accelerate_"):
        if report.status == "eligible":
            assert isinstance(layer, torch.nn.RNNBase)
            to_engine(layer)
        elif report.status == "skipped" and report.reason != _CELL:
            skipped.append(report)
    if skipped:
        text = "; ".join(f"{r.name or 'the model itself'} ({r.type}), since {r.reason}" for r in skipped)
        warnings.warn(f"accelerate_ skipped {text}", UserWarning, stacklevel=2)
    return model


def restore_(model: Model, *, native: bool = False) -> Model:
    """Reverse :func:`accelerate_`: each layer in `model` that it changed is what it was before, in place.

    Each layer stays the object that it is and goes back to the class it had; parameters, hooks, parametrizations and
    training flag are as they are now.

    Parameters
    ----------
    model : torch.nn.Module
    native : bool, default False
        Also make the layers that were built as ``retrograde.nn.RNN``, ``GRU`` or ``LSTM`` torch.nn's: for pickling a
        model that is loaded where this package is not installed.

    Returns
    -------
    torch.nn.Module
        `model` itself.

    Warns
    -----
    UserWarning
        With `native`, if a layer's class is a subclass of one of ours, which cannot be changed.

    Raises
    ------
    OptionError
        If `model` is not a ``torch.nn.Module``.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> model = torch.nn.Sequential(torch.nn.LSTM(8, 16), rg.nn.LSTM(16, 16))
    >>> [type(layer).__module__ for layer in rg.nn.restore_(rg.nn.accelerate_(model))]
    ['torch.nn.modules.rnn', 'retrograde.nn']
    """
    left = []
    for report, layer in _recurrent(model, "restore_"):
        if report.status == "accelerated" or (native and report.status == "native"):
            if _is_subclass_of_ours(layer):
                left.append(f"{report.name or 'the model itself'} ({report.type})")
            else:
                to_torch(layer)
    if left:
        text = f"restore_ left {', '.join(left)}: a subclass of retrograde.nn's layers has no class in torch.nn"
        warnings.warn(text, UserWarning, stacklevel=2)
    return model


_CELL = "a cell takes single steps, in a loop of the model's own"


def _recurrent(model: torch.nn.Module, asker: str) -> Iterator[tuple[LayerReport, torch.nn.Module]]:
    """Each recurrent layer of `model` once, with its report."""
    if not isinstance(model, torch.nn.Module):
        raise OptionError(f"{asker} takes a torch.nn.Module, not {type(model).__name__}")
    for name, layer in list(model.named_modules()):
        kind = original_class(type(layer)).__name__
        if isinstance(layer, Recurrent):
            yield LayerReport(name, kind, "accelerated" if was_accelerated(layer) else "native"), layer
            continue
        reason: str | None
        if isinstance(layer, torch.nn.RNNBase):
            reason = obstacle_to_engine(layer)
        elif isinstance(layer, torch.nn.RNNCellBase):
            reason = _CELL
        elif isinstance(layer, torch.jit.ScriptModule):
            kind = getattr(layer, "original_name", kind)
            if kind not in ("RNN", "GRU", "LSTM"):
                continue
            reason = "it is scripted, and its program is fixed"
        elif type(layer).__module__.startswith("torch.ao.nn") and type(layer).__name__ in ("RNN", "GRU", "LSTM"):
            reason = f"it is a quantized or quantizable layer ({type(layer).__module__})"
        else:
            continue
        yield LayerReport(name, kind, "skipped" if reason else "eligible", reason or ""), layer


def _is_subclass_of_ours(layer: torch.nn.Module) -> bool:
    """Whether somebody has derived the layer's class from one of ours."""
    return not was_accelerated(layer) and type_before_parametrizations(layer) not in (RNN, GRU, LSTM)
