"""Run a model without leaving a trace: what a measurement changes is restored, even if it fails.

``isolated`` finds the modules behind any callable (a module, a bound method, a lambda, a ``functools.partial``, an
object that has networks), sets their mode, and afterwards restores attributes, buffers, parameters, modes, gradients
and random states.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import OptionError
from ...measuring import check_values, dropout_notes, random_states_kept
from .snapshot import Snapshot
from .torch_patches import Precision, own_precision

_local = threading.local()


class Isolation:
    """A model under measurement.

    Attributes
    ----------
    module : Module or callable
        What names the layers: the module behind the model, a container of several, or the model itself where none is
        known beforehand.
    devices : set of torch.device
        Devices of its parameters, its other tensors and its inputs.
    precision : Precision
        The types it computes in.
    """

    def __init__(
        self, model: Any, snapshot: Snapshot, *, training: bool | None, freeze: bool, notes: list[str]
    ) -> None:
        self._snapshot, self._training, self._freeze, self._notes = snapshot, training, freeze, notes
        self._prepared = 0  # modules so far
        self.module: Any = _container(snapshot.named()) or model
        self.devices: set[torch.device] = set()
        self.precision: Precision = Precision([])

    def prepare(self) -> None:
        """Set modes and freeze parameters of the modules found since the last call."""
        if self._training:  # parts of a model that is in training mode stay as they are
            for root in [root for root in self._snapshot.roots.values() if not root.training]:
                root.train()
        new = self._snapshot.modules[self._prepared :]
        self._prepared += len(new)
        if self._training is not None:
            found = dropout_notes([m for m in new if m.training], self._training)
            self._notes += [note for note in found if note not in self._notes]
        for module in new:
            if self._training is False and module.training:
                module.eval()
            for parameter in module.parameters(recurse=False) if self._freeze else ():
                # Only what depends on a recurrent state needs a gradient.
                if parameter.requires_grad and parameter.is_leaf and not nn.parameter.is_lazy(parameter):
                    parameter.requires_grad_(False)

    def meet(self, module: nn.Module) -> None:
        """Take note of a module that is about to run."""
        if not self._snapshot.knows(module):
            self._snapshot.add(module, type(module).__name__)
            self.prepare()

    def check(self) -> None:
        """After the run: note what could not be found or controlled."""
        if not self._snapshot.modules:
            self._notes.append(
                "no module was found behind the model, so its modes and attributes were not restored: give module="
            )
        if not self._snapshot.complete:
            self._notes.append("the model has more objects than can be restored: some may have changed")
        if self._training is False:
            active = [m for m in self._snapshot.modules if m.training and dropout_notes([m], True)]
            if active:
                self._notes.append(
                    f"the model switches {type(active[0]).__name__} to training mode as it runs: its dropout is "
                    "active, one random mask was measured"
                )

    def given(self, value: Any) -> Any:
        """An input of the model: one made in inference mode as one that autograd takes, in the model's precision."""
        return self.precision.given(value.clone() if isinstance(value, Tensor) and value.is_inference() else value)


def _container(found: dict[str, nn.Module]) -> nn.Module | None:
    """One module that contains all of them, under their names."""
    if len(found) < 2:
        return next(iter(found.values()), None)
    whole = nn.Module()
    whole._modules.update(found)  # the names need not be identifiers
    return whole


def modules_behind(model: Any, module: Any = None) -> nn.Module | None:
    """The module behind any callable, or a container of several, by the names they were found under."""
    snapshot = Snapshot(search_only=True)
    for one in [*_module_list(module), model]:
        snapshot.add(one)
    return _container(snapshot.named())


def _module_list(module: Any) -> list[nn.Module]:
    """The modules that ``module=`` names."""
    several = list(module.values()) if isinstance(module, dict) else module
    several = [] if several is None else several if isinstance(several, (list, tuple)) else [several]
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
    """Restore a model, its inputs and the random states at the end of the block.

    model: what is measured.
    notes: what a reader must know is appended to it.
    module: modules behind the model that cannot be found by walking it.
    training: True: training mode (a model that is in it keeps the modes of its parts); False: eval mode; None: no
        change.
    freeze: whether parameters are constants.
    inputs: what the model is called with, nested in any way: its tensors are restored too.
    Raises FlowError if a parameter or an input has no values (device ``meta``); the model fails without autocast.
    Raises OptionError if ``module`` is not a module.
    """
    given = _module_list(module)
    outer: Snapshot | None = getattr(_local, "snapshot", None)
    snapshot = Snapshot(detach=freeze, outer=outer)
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, _local, "snapshot", outer)
        stack.callback(snapshot.restore)
        for one in [*given, model]:
            snapshot.add(one)
        snapshot.add_tensors(inputs)
        _local.snapshot = snapshot
        tensors = snapshot.tensors
        check_values(tensors, snapshot.modules)
        devices = {tensor.device for tensor in tensors}
        stack.enter_context(random_states_kept(devices))
        isolation = Isolation(model, snapshot, training=training, freeze=freeze, notes=notes)
        isolation.devices = devices
        isolation.prepare()
        parameters = [t for t in tensors if isinstance(t, nn.Parameter)]
        isolation.precision = stack.enter_context(own_precision(parameters, devices, notes))

        def meet(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == thread:
                isolation.meet(module)

        handle = nn.modules.module.register_module_forward_pre_hook(meet)
        stack.callback(handle.remove)
        yield isolation
        isolation.check()
