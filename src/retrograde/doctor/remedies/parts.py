"""The recurrent modules of a model: what they are, their names in Python, and another one in their place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from ... import nn as ours
from ...cells import FUSED, cell_of, find
from ...errors import FlowError
from ...flow import GradientFlow


@dataclass(frozen=True)
class Part:
    """A recurrent module of a model."""

    path: str  # its name among the model's modules; empty if it is the model
    module: nn.Module
    cell: str  # ``"rnn"``, ``"gru"`` or ``"lstm"``

    @property
    def nonlinearity(self) -> str:
        """``"tanh"`` or ``"relu"``; of gated cells ``"tanh"``."""
        return str(getattr(self.module, "nonlinearity", "tanh"))

    @property
    def python(self) -> str:
        """The expression that names it."""
        return _expression(self.path)

    @property
    def has_bias(self) -> bool:
        """Whether there is a bias to start a gate with."""
        return bool(getattr(self.module, "bias", True))

    @property
    def weight(self) -> torch.Tensor:
        """The recurrent weights of the first layer."""
        found = getattr(self.module, "weight_hh", None)
        weight: torch.Tensor = self.module.weight_hh_l0 if found is None else found  # type: ignore[assignment]
        return weight

    @property
    def total_bias(self) -> torch.Tensor | None:
        """What the two biases of the first layer add up to, by unit; None without biases."""
        named = dict(self.module.named_parameters(recurse=False))
        found = [bias.detach() for name, bias in named.items() if re.fullmatch(r"bias_[ih]h(_l0)?", name)]
        return torch.stack(found).sum(0) if found else None

    @property
    def inputs(self) -> list[str]:
        """Names of the weights from input to state."""
        return [name for name, _ in self.module.named_parameters(recurse=False) if name.startswith("weight_ih")]

    def other(self, cell: str, nonlinearity: str = "tanh") -> nn.Module | None:
        """A new module of another cell and the same sizes; None where there is no equal (step by step, projected)."""
        built = self._built(cell, nonlinearity)
        if built is None:
            return None
        kind, sizes, options = built
        return kind(*sizes, **options).to(self.weight)

    def replacement(self, cell: str, nonlinearity: str = "tanh") -> str:
        """The line that puts `other` in its place; empty if there is none."""
        built = self._built(cell, nonlinearity)
        if built is None:
            return ""
        kind, sizes, options = built
        package = "rg.nn" if issubclass(kind, nn.RNNBase) else "torch.nn"
        given = ", ".join([*map(str, sizes), *(f"{name}={value!r}" for name, value in options.items())])
        made = f"{package}.{kind.__name__}({given})"
        if self.weight.dtype != torch.float32 or self.weight.device.type != "cpu":
            made += ".to(next(model.parameters()))"
        parent, _, name = self.path.rpartition(".")
        if not name.isidentifier() and name:
            return f'{_expression(parent)}.add_module("{name}", {made})'
        return f"{self.python} = {made}"

    def _built(self, cell: str, nonlinearity: str) -> tuple[type[nn.Module], tuple[int, ...], dict[str, object]] | None:
        old = self.module
        options: dict[str, object] = {"nonlinearity": nonlinearity} if nonlinearity != "tanh" else {}
        if isinstance(old, nn.RNNCellBase):
            return (
                getattr(nn, f"{find(cell).title}Cell"),
                (old.input_size, old.hidden_size),
                options | ({} if old.bias else {"bias": False}),
            )
        if not isinstance(old, nn.RNNBase) or old.proj_size:
            return None
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        options |= {name: getattr(old, name) for name, value in usual.items() if getattr(old, name) != value}
        return getattr(ours, find(cell).title), (old.input_size, old.hidden_size), options


def _expression(path: str) -> str:
    names = path.split(".") if path else []
    if all(name.isidentifier() for name in names):
        return ".".join(["model", *names])
    return f'model.get_submodule("{path}")'


def recurrent_parts(model: nn.Module, flow: GradientFlow | None = None, labels: Sequence[str] = ()) -> list[Part]:
    """The recurrent modules of a model: those of some layers of a flow, or of these names, or all of them."""
    found = []
    for path, module in model.named_modules():
        weight = getattr(module, "weight_hh", getattr(module, "weight_hh_l0", None))
        size = getattr(module, "hidden_size", None)
        if isinstance(weight, torch.Tensor) and isinstance(size, int):
            cell = cell_of(module, len(weight), size)
            if cell is not None and cell in FUSED:  # what remedies do to other cells is not known
                found.append(Part(path, module, cell.name))
    paths = set(labels)
    for label in labels:
        with suppress(FlowError):  # states that were marked by hand, or a label of a rule's own
            paths |= {flow.weight(label).rpartition(".")[0]} if flow is not None else set()
    return [part for part in found if part.path in paths] or found
