"""Initialization of recurrent layers: the remedies that act before the first step of training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from ..cells import cell_of
from ..errors import OptionError

Model = TypeVar("Model", bound=torch.nn.Module)


def initialize(
    module: Model,
    *,
    recurrent: Literal["orthogonal", "identity", "xavier"] | None = None,
    input: Literal["orthogonal", "xavier"] | float | None = None,
    spectral_radius: float | None = None,
    bias: float | None = None,
    forget_bias: float | None = None,
    chrono: int | None = None,
    generator: torch.Generator | None = None,
) -> Model:
    """Initialize every recurrent layer in a module, in place; options that are not given change nothing.

    Works on RNN, GRU and LSTM layers and cells, ours and ``torch.nn``'s, stacked and bidirectional. The block of each
    gate in a weight, ``(H, H)`` or ``(H, I)``, is initialized as a matrix of its own.

    Parameters
    ----------
    module
        A recurrent layer, or a model that contains some.
    recurrent
        The weights from state to state. ``"orthogonal"``: a random orthogonal matrix (Saxe et al. 2014), which neither
        shrinks nor stretches a gradient. ``"identity"``: the identity, biases zero, for the vanilla network; with
        ``nonlinearity="relu"`` this is the IRNN of Le, Jaitly and Hinton (2015), who draw the input weights with a
        standard deviation of 0.001. ``"xavier"``: uniform, of variance 2 / (fan-in + fan-out) (Glorot and Bengio 2010).
    input
        The weights from input to state: ``"orthogonal"``, ``"xavier"``, or the standard deviation of a Gaussian.
    spectral_radius
        Scale the recurrent weights so that the largest modulus of their eigenvalues is this.
    bias
        All biases, before a gate gets its own; the two bias vectors of torch add up to it.
    forget_bias
        The bias of the gate that keeps the old state: f of an LSTM (1 in Jozefowicz et al. 2015), z of a GRU. The two
        bias vectors of torch are set so that they add up to it.
    chrono
        T_max, the longest lag expected, in steps. The bias of the keeping gate becomes log u with u uniform in
        [1, T_max - 1], that of an LSTM's input gate its negative (Tallec and Ollivier 2018).
    generator
        Generator of the random numbers; torch's global one by default.

    Returns
    -------
    torch.nn.Module
        `module` itself.

    Raises
    ------
    OptionError
        The module has no recurrent layer, or an option does not apply to one of them.

    Examples
    --------
    >>> layer = initialize(torch.nn.LSTM(3, 5), recurrent="orthogonal", forget_bias=1.0)
    >>> (layer.bias_ih_l0 + layer.bias_hh_l0)[5:10].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    _check(recurrent, input, spectral_radius, forget_bias, chrono)
    if bias is not None and not math.isfinite(bias):
        raise OptionError(f"initialize: bias is {bias}; it must be finite.")
    stacks = list(_stacks(module))
    if not stacks:
        raise OptionError(f"initialize: {type(module).__name__} has no recurrent layer (RNN, GRU or LSTM).")
    with torch.no_grad():
        for stack in stacks:
            if input is not None:
                for block in stack.blocks(stack.weight_ih):
                    _draw(block, input, generator)
            if recurrent is not None:
                stack.set_recurrent(recurrent, generator)
            if spectral_radius is not None:
                stack.scale(spectral_radius)
            if bias is not None:
                for nth, vector in enumerate(stack.biases):
                    vector.fill_(bias if nth == 0 else 0.0)
            if forget_bias is not None:
                stack.set_keeping_bias(torch.tensor(float(forget_bias), device="cpu"), "forget_bias")
            if chrono is not None:
                spread = torch.rand(stack.hidden_size, generator=generator, device="cpu")
                stack.set_keeping_bias((1 + spread * (chrono - 2)).log(), "chrono")
    return module


def _check(
    recurrent: str | None,
    input: str | float | None,
    radius: float | None,
    forget_bias: float | None,
    chrono: int | None,
) -> None:
    if forget_bias is not None and chrono is not None:
        raise OptionError("initialize: forget_bias and chrono both set the bias of the keeping gate; give one of them.")
    if chrono is not None and chrono < 3:
        raise OptionError(f"initialize: chrono is {chrono}; T_max, the longest lag in steps, must be at least 3.")
    if radius is not None and not 0 < radius < math.inf:
        raise OptionError(f"initialize: spectral_radius is {radius}; it must be above 0.")
    if isinstance(input, int | float) and not 0 <= input < math.inf:
        raise OptionError(f"initialize: input is {input}; as a standard deviation it must be 0 or more.")
    for name, choice, allowed in (
        ("recurrent", recurrent, ("orthogonal", "identity", "xavier")),
        ("input", None if isinstance(input, int | float) else input, ("orthogonal", "xavier")),
    ):
        if choice is not None and choice not in allowed:
            raise OptionError(f"initialize: {name} is {choice!r}; choose one of {', '.join(allowed)}.")


def _draw(block: Tensor, how: str | float, generator: torch.Generator | None) -> None:
    if how == "orthogonal":
        torch.nn.init.orthogonal_(block, generator=generator)
    elif how == "xavier":
        torch.nn.init.xavier_uniform_(block, generator=generator)
    else:
        torch.nn.init.normal_(block, std=float(how), generator=generator)


class _Stack:
    """The parameters of one layer in one direction, of any class of layer."""

    def __init__(self, owner: torch.nn.Module, suffix: str):
        self.name = f"{type(owner).__name__}'s weight_hh{suffix}"
        self.weight_ih = _parameter(owner, f"weight_ih{suffix}")
        self.weight_hh = _parameter(owner, f"weight_hh{suffix}")
        biases = (_parameter(owner, f"bias_ih{suffix}"), _parameter(owner, f"bias_hh{suffix}"))
        self.biases = [bias for bias in biases if bias is not None]
        self.hidden_size = int(owner.hidden_size)  # type: ignore[arg-type]
        rows = len(self.weight_hh)
        if (cell := cell_of(owner, rows, self.hidden_size)) is None:
            raise OptionError(f"initialize: {self.name} has {rows} rows for {self.hidden_size} units: no known cell.")
        self.cell = cell

    def blocks(self, weight: Tensor) -> tuple[Tensor, ...]:
        return torch.split(weight, self.hidden_size)

    def set_recurrent(self, how: str, generator: torch.Generator | None) -> None:
        if how != "identity":
            for block in self.blocks(self.weight_hh):
                _draw(block, how, generator)
            return
        if len(self.cell.gates) > 1:
            raise OptionError(
                f"initialize: recurrent='identity' is for the vanilla network, and {self.name} has gates; "
                "use 'orthogonal' with forget_bias."
            )
        torch.nn.init.eye_(self.weight_hh)
        for bias in self.biases:
            bias.zero_()

    def scale(self, spectral_radius: float) -> None:
        for block in self.blocks(self.weight_hh):
            if block.shape[0] != block.shape[1]:
                raise OptionError(f"initialize: {self.name} is projected: not square, without a spectral radius.")
            if block.is_meta:  # a model without values, built to find out its size
                continue
            radius = float(torch.linalg.eigvals(block.double()).abs().max())
            if not 0 < radius < math.inf:
                raise OptionError(
                    f"initialize: {self.name} has a spectral radius of {radius}; draw it with recurrent=…."
                )
            block.mul_(spectral_radius / radius)

    def set_keeping_bias(self, bias: Tensor, option: str) -> None:
        """Set the bias of the gate that keeps the state; with chrono also the negative one of an LSTM's input gate."""
        keeper = self.cell.keeper
        if keeper is None:
            none = "no gates" if len(self.cell.gates) == 1 else "no gate that keeps the state"
            raise OptionError(f"initialize: {option} sets the bias of a gate, and the layer of {self.name} has {none}.")
        if not self.biases:
            raise OptionError(f"initialize: {option} needs a bias; the layer of {self.name} was built with bias=False.")
        values = {keeper: bias}
        if option == "chrono":  # the paper sets the biases of the other gates to 0
            values = {gate: torch.zeros_like(bias) for gate in self.cell.gates} | {keeper: bias}
            if "i" in values:
                values["i"] = -bias
        for gate, value in values.items():
            for nth, vector in enumerate(self.biases):  # the second bias, which torch adds to the first, becomes 0
                vector[self.cell.rows(gate, self.hidden_size)] = value if nth == 0 else 0.0


def _stacks(module: torch.nn.Module) -> Iterator[_Stack]:
    for owner in module.modules():
        names = [name for name, _ in owner.named_parameters(recurse=False)]
        if parametrize.is_parametrized(owner):
            names += list(owner.parametrizations)  # type: ignore[arg-type]
        for name in sorted(names):
            found = re.fullmatch(r"weight_hh(|_l\d+(_reverse)?)", name)
            if found and isinstance(getattr(owner, "hidden_size", None), int):
                yield _Stack(owner, found[1])


def _parameter(owner: torch.nn.Module, name: str) -> Tensor:
    """The parameter of that name; of a parametrized weight the one that it is computed from."""
    if parametrize.is_parametrized(owner, name):
        return owner.parametrizations[name].original  # type: ignore[index, union-attr, no-any-return]
    return getattr(owner, name, None)  # type: ignore[return-value]
