"""``accelerate_``, ``accelerated`` and ``restore_``: make the recurrent layers of a model ours, and reverse that."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from ..cells import FUSED
from ..errors import OptionError
from .conversion import original_class, reason_to_skip, to_engine, to_torch, was_accelerated
from .layers import GRU, LSTM, RNN, Recurrent

Model = TypeVar("Model", bound=torch.nn.Module)
_NAMES = {cell.title for cell in FUSED}


@dataclass(frozen=True)
class LayerReport:
    """One recurrent layer of a model, and what :func:`accelerate_` does or did with it.

    Attributes
    ----------
    name : str
        As in ``model.named_modules()``, the first one if there are several; ``""`` for the model itself.
    type : str
        Its class before acceleration.
    status : {"accelerated", "native", "eligible", "skipped"}
        Changed by `accelerate_`; built as one of ``retrograde.nn``; one that `accelerate_` would change; one that it
        does not change.
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
        """The layers that `accelerate_` has changed."""
        return tuple(layer for layer in self.layers if layer.status == "accelerated")

    @property
    def skipped(self) -> tuple[LayerReport, ...]:
        """The layers that `accelerate_` does not change, each with its reason."""
        return tuple(layer for layer in self.layers if layer.status == "skipped")

    def __repr__(self) -> str:
        return "\n".join(map(str, self.layers)) or "no recurrent layer"


def acceleration_report(model: torch.nn.Module) -> AccelerationReport:
    """List the recurrent layers of `model`: whether each is accelerated, can be, or is skipped, and why.

    Nothing is changed. Call it before :func:`accelerate_` to see what that would do, or after to see what it did.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    AccelerationReport
        Prints one line for each layer.

    Raises
    ------
    OptionError
        `model` is not a ``torch.nn.Module``.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> model = torch.nn.Sequential(torch.nn.GRU(8, 16), torch.nn.GRUCell(16, 16))
    >>> rg.nn.acceleration_report(rg.nn.accelerate_(model))
    0 (GRU): accelerated
    1 (GRUCell): skipped: a cell computes single steps, in a loop of the model
    """
    return AccelerationReport(tuple(report for report, _ in _recurrent(model, "acceleration_report")))


def accelerate_(model: Model) -> Model:
    """Make each ``torch.nn.RNN``, ``GRU`` and ``LSTM`` in `model`, at any depth, one of ours, in place.

    Only the class of a layer changes: the object, its parameters, hooks, parametrizations and training flag stay, and
    so do optimizers of the parameters. A layer of a subclass stays an instance of that subclass.
    :func:`acceleration_report` lists what was changed and what was skipped; :func:`restore_` reverses it.

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
        A recurrent layer is skipped: a subclass with its own ``forward`` or other methods that ours would bypass, or a
        quantized or scripted layer. The warning has its name and the reason.

    Raises
    ------
    OptionError
        `model` is not a ``torch.nn.Module``.

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


_blocks = 0  # of `accelerated` that are open, in all threads
_changing = threading.Lock()
_torchs_init = torch.nn.RNNBase.__init__


def _init_as_ours(self: torch.nn.RNNBase, *args: Any, **kwargs: Any) -> None:
    _torchs_init(self, *args, **kwargs)
    if not isinstance(self, Recurrent) and reason_to_skip(self) is None:
        to_engine(self)


@contextmanager
def accelerated() -> Iterator[None]:
    """Make each ``torch.nn.RNN``, ``GRU`` and ``LSTM`` that is built inside the block one of ours.

    For tools that build the network themselves, inside ``fit``: what :func:`accelerate_` does to a finished model
    happens here as a layer is constructed, in every thread of this process. The layers stay ours after the block, and
    :func:`restore_` reverses it. A layer that :func:`accelerate_` would skip stays torch's, without a warning;
    :func:`acceleration_report` of the network says why.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> with rg.nn.accelerated():
    ...     model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GRU(8, 16))
    >>> isinstance(model[1], rg.nn.GRU), isinstance(torch.nn.GRU(8, 16), rg.nn.GRU)
    (True, False)
    """
    global _blocks
    with _changing:
        _blocks += 1
        torch.nn.RNNBase.__init__ = _init_as_ours  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _changing:
            _blocks -= 1
            if not _blocks:
                torch.nn.RNNBase.__init__ = _torchs_init  # type: ignore[method-assign]


def restore_(model: Model, *, native: bool = False) -> Model:
    """Reverse :func:`accelerate_`, in place: give each layer that it changed its former class.

    Only the class changes; parameters, hooks, parametrizations and training flag stay as they are.

    Parameters
    ----------
    model : torch.nn.Module
    native : bool, default False
        Also change layers that were built as ``retrograde.nn.RNN``, ``GRU`` or ``LSTM`` to torch.nn's: for a model that
        is pickled here and loaded where this package is not installed.

    Returns
    -------
    torch.nn.Module
        `model` itself.

    Warns
    -----
    UserWarning
        With `native`, the class of a layer is a subclass of one of ours, which cannot be changed.

    Raises
    ------
    OptionError
        `model` is not a ``torch.nn.Module``.

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


_CELL = "a cell computes single steps, in a loop of the model"


def _recurrent(model: torch.nn.Module, asker: str) -> Iterator[tuple[LayerReport, torch.nn.Module]]:
    """Each recurrent layer of `model` with its report."""
    if not isinstance(model, torch.nn.Module):
        raise OptionError(f"{asker} takes a torch.nn.Module, not {type(model).__name__}")
    for name, layer in list(model.named_modules()):
        kind = original_class(type(layer)).__name__
        if isinstance(layer, Recurrent):
            yield LayerReport(name, kind, "accelerated" if was_accelerated(layer) else "native"), layer
            continue
        reason: str | None
        if isinstance(layer, torch.nn.RNNBase):
            reason = reason_to_skip(layer)
        elif isinstance(layer, torch.nn.RNNCellBase):
            reason = _CELL
        elif isinstance(layer, torch.jit.ScriptModule):
            kind = getattr(layer, "original_name", kind)
            if kind not in _NAMES:
                continue
            reason = "it is scripted, and its program is fixed"
        elif type(layer).__module__.startswith("torch.ao.nn") and type(layer).__name__ in _NAMES:
            reason = f"it is a quantized or quantizable layer ({type(layer).__module__})"
        else:
            continue
        yield LayerReport(name, kind, "skipped" if reason else "eligible", reason or ""), layer


def _is_subclass_of_ours(layer: torch.nn.Module) -> bool:
    """Whether the layer's class is derived from one of ours by the user."""
    return not was_accelerated(layer) and type_before_parametrizations(layer) not in (RNN, GRU, LSTM)
