"""Running a model without leaving a trace: what every measurement does to a model is undone here.

``isolated`` finds the modules behind whatever is called (a module, a bound method, a lambda, a ``functools.partial``,
an object that holds networks), puts them into eval mode, and afterwards restores attributes, buffers, parameters,
modes, gradients and random states, also if the measurement fails.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..measuring import check_values, dropout_notes, random_states_kept
from .keeping import Keeper
from .precision import Precision, own_precision

__all__ = ["Isolation", "behind", "isolated"]

_local = threading.local()


class Isolation:
    """A model under measurement.

    Attributes
    ----------
    module : Module or callable
        What names the layers: the module behind the model, a container of several, or the model itself where none is
        known beforehand.
    devices : set of torch.device
        Where its parameters, its other tensors and its inputs are.
    precision : Precision
        See there.
    """

    def __init__(self, model: Any, keeper: Keeper, *, training: bool | None, freeze: bool, notes: list[str]) -> None:
        self._keeper, self._training, self._freeze, self._notes = keeper, training, freeze, notes
        self._prepared = 0  # modules so far
        self.met = False  # whether a module ran that was not known beforehand
        self.module: Any = _one(keeper.named()) or model
        self.devices: set[torch.device] = set()
        self.precision: Precision = Precision([])

    def prepare(self) -> None:
        """Modes and parameters of the modules found since the last time."""
        if self._training:  # parts of a model that is in training mode stay as they are
            for root in [root for root in self._keeper.roots.values() if not root.training]:
                root.train()
        new = self._keeper.modules[self._prepared :]
        self._prepared += len(new)
        if self._training is not None:
            found = dropout_notes([m for m in new if m.training], self._training)
            self._notes += [note for note in found if note not in self._notes]
        if self._training is False:
            for module in [module for module in new if module.training]:
                module.eval()
        if self._freeze:  # only what hangs on a recurrent state needs a gradient here
            for module in new:
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad and parameter.is_leaf and not nn.parameter.is_lazy(parameter):
                        parameter.requires_grad_(False)

    def meet(self, module: nn.Module, args: Any) -> None:
        """Look at a module that is about to run."""
        if not self._keeper.knows(module):
            self.met = True
            self._keeper.keep(module, type(module).__name__)
            self.prepare()

    def check(self, model: Any) -> None:
        """After the run: say what was out of reach."""
        if not self._keeper.modules:
            self._notes.append(
                "no module was found behind the model, so its modes and attributes were not looked after: give module="
            )
        if not self._keeper.complete:
            self._notes.append("the model holds more objects than are looked after: some may not be as they were")
        if self._training is False:
            restless = [m for m in self._keeper.modules if m.training and dropout_notes([m], True)]
            if restless:
                self._notes.append(
                    f"the model switches {type(restless[0]).__name__} to training mode as it runs: its dropout is "
                    "active, one random mask was measured"
                )

    def given(self, value: Any) -> Any:
        """An input of the model: one made in inference mode as one that autograd takes, in the model's precision."""
        return self.precision.given(value.clone() if isinstance(value, Tensor) and value.is_inference() else value)


def _one(found: dict[str, nn.Module]) -> nn.Module | None:
    """One module that has all of them, under their names."""
    if len(found) < 2:
        return next(iter(found.values()), None)
    whole = nn.Module()
    whole._modules.update(found)  # the names need not be identifiers
    return whole


def behind(model: Any, module: Any = None) -> nn.Module | None:
    """The module behind anything that is called, or one that holds several, by the names they were found under.

    Nothing is changed.
    """
    keeper = Keeper(looking=True)
    for one in _given(module):
        keeper.keep(one)
    keeper.keep(model)
    return _one(keeper.named())


def _given(module: Any) -> list[nn.Module]:
    """What ``module=`` names."""
    if module is None:
        return []
    several = list(module.values()) if isinstance(module, dict) else module
    several = several if isinstance(several, (list, tuple)) else [several]
    for one in several:
        if not isinstance(one, nn.Module):
            raise OptionError(f"module is {type(one).__name__}; give the torch.nn.Module behind the model, or several.")
    return list(several)


@contextlib.contextmanager
def isolated(
    model: Any,
    *,
    notes: list[str],
    module: Any = None,
    training: bool | None = False,
    freeze: bool = True,
    inputs: Any = (),
) -> Iterator[Isolation]:
    """Leave a model, what it is called with and the random states as they were found.

    Parameters
    ----------
    model : callable
        What is measured.
    notes : list of str
        What a reader must know is added to it.
    module : Module or list of Module, optional
        Modules behind the model that cannot be found by looking at it.
    training : bool or None
        True: training mode (a model that is in it keeps the modes of its parts); False: eval mode; None: no change.
    freeze : bool
        Whether parameters are held constant.
    inputs
        What the model is called with, in any nesting: their values are kept.

    Raises
    ------
    FlowError
        A parameter or an input has no values (device ``meta``); the model fails without autocast.
    OptionError
        ``module`` is no module.
    """
    given = _given(module)
    outer: Keeper | None = getattr(_local, "keeper", None)
    keeper = Keeper(cut=freeze, outer=outer)
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, _local, "keeper", outer)
        stack.callback(keeper.restore)
        for one in given:
            keeper.keep(one)
        keeper.keep(model)
        keeper.keep_values(inputs)
        _local.keeper = keeper
        tensors = keeper.tensors
        check_values(tensors, keeper.modules)
        devices = {tensor.device for tensor in tensors}
        stack.enter_context(random_states_kept(devices))
        isolation = Isolation(model, keeper, training=training, freeze=freeze, notes=notes)
        isolation.devices = devices
        isolation.prepare()
        parameters = [t for t in tensors if isinstance(t, nn.Parameter)]
        isolation.precision = stack.enter_context(own_precision(parameters, devices, notes))

        def meet(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == thread:
                isolation.meet(module, args)

        handle = nn.modules.module.register_module_forward_pre_hook(meet)
        stack.callback(handle.remove)
        yield isolation
        isolation.check(model)
