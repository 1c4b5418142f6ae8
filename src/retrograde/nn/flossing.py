"""Gradient flossing: push the Lyapunov exponents of recurrent layers to 0 before training (Engelken 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..cells import BY_MODE
from ..errors import OptionError


@dataclass(frozen=True)
class Flossing:
    """What flossing did.

    Attributes
    ----------
    before, after : dict of list of float
        The leading Lyapunov exponents of each layer, in natural logarithms per step, by the name of its recurrent
        weight.
    updates : int
        How many were made.
    """

    before: dict[str, list[float]]
    after: dict[str, list[float]]
    updates: int

    def __str__(self) -> str:
        words = [
            f"{name}: {self.before[name][0]:.3f} … {self.before[name][-1]:.3f} before, "
            f"{after[0]:.3f} … {after[-1]:.3f} after"
            for name, after in self.after.items()
        ]
        return f"{self.updates} updates; Lyapunov exponents per step of {'; '.join(words)}"


def floss(
    model: torch.nn.Module,
    *inputs: Any,
    exponents: int,
    updates: int = 300,
    lr: float = 1e-2,
    call: Callable[[], Any] | None = None,
) -> Flossing:
    """Change the recurrent layers of a model, in place, so that their leading Lyapunov exponents are near 0.

    A direction of the state whose exponent is 0 neither shrinks nor grows over the sequence: so many numbers can be
    remembered, and their gradients arrive. It is done before training, with sequences of the training data. It makes
    Adam updates of the layers' own parameters on L = Σ_i λ_i² / k, until every ``|λ_i|`` is below 1 / T, at which a
    gradient changes by a factor of e at most over the T steps of a sequence, or for so many updates.

    Parameters
    ----------
    model : Module
        A model with ``RNN`` (tanh), ``GRU`` or ``LSTM`` layers, ours or ``torch.nn``'s.
    *inputs
        What it is called with; the layers are flossed on the sequences that they read then.
    exponents : int
        k, how many exponents of each layer and direction.
    updates : int
        The most updates.
    lr : float
        Learning rate of Adam.
    call : callable, optional
        Runs the model on sequences, where that takes more than ``model(*inputs)``.

    Raises
    ------
    OptionError
        There is no such layer; one has ReLU, whose Jacobians lose rank, parametrized weights, or fewer than k states.

    References
    ----------
    Engelken, Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians, NeurIPS 2023,
    equations 5 to 8. The paper also flosses between the epochs of training.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> done = floss(torch.nn.RNN(2, 8), torch.randn(30, 4, 2), exponents=3)
    >>> max(map(abs, done.after["weight_hh_l0"])) <= 1 / 30 < max(map(abs, done.before["weight_hh_l0"]))
    True
    """
    layers = flossed_layers(model, exponents)
    parameters = [p for layer in layers.values() for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr)
    run = call or (lambda: model(*inputs))
    before: dict[str, list[float]] | None = None
    found: dict[str, list[float]] = {}
    taken = 0
    for taken in range(updates + 1):
        spectra = _spectra(run, layers, exponents)
        found = {name: spectrum.tolist() for name, (spectrum, _) in spectra.items()}
        before = before or found
        if taken == updates or all(float(one.detach().abs().max()) <= 1 / steps for one, steps in spectra.values()):
            break
        loss = torch.stack([one.square().mean() for one, _ in spectra.values()]).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if not all(g is None or bool(torch.isfinite(g).all()) for g in gradients):
            raise OptionError(
                f"floss: {exponents} exponents cannot be followed, a direction is lost within a step: ask for fewer."
            )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad()
    return Flossing(before or {}, found, taken)


def flossed_layers(model: torch.nn.Module, exponents: int) -> dict[str, torch.nn.RNNBase]:
    """The layers that `floss` would change, by name; OptionError if it cannot."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.RNNBase)}
    if not layers:
        raise OptionError(
            f"floss: {type(model).__name__} has no recurrent layer that is called whole (RNN, GRU or LSTM, without "
            "layer normalization and recurrent dropout)."
        )
    for layer in layers.values():
        _check(layer, exponents)
    return layers


def _check(layer: torch.nn.RNNBase, exponents: int) -> None:
    if layer.mode == "RNN_RELU":
        raise OptionError("floss: a ReLU network loses directions for good; start it as the identity instead.")
    if parametrize.is_parametrized(layer):
        raise OptionError("floss: the weights of a layer are computed from others (weight drop?): leave one out.")
    states = (layer.proj_size or layer.hidden_size) + (layer.hidden_size if layer.mode == "LSTM" else 0)
    if not 1 <= exponents <= states:
        raise OptionError(f"floss: exponents is {exponents}; the layer has {states}: give a number from 1 to that.")


def _spectra(run: Callable[[], Any], layers: dict[str, torch.nn.RNNBase], k: int) -> dict[str, tuple[Tensor, int]]:
    """λ_1 … λ_k of every layer and direction, and the steps that they are of, by the name of the recurrent weight."""
    read: dict[str, Any] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: read.__setitem__(name, args[0] if args else kwargs["input"]),
            with_kwargs=True,
        )
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for name, x in read.items():
        for suffix, spectrum, steps in _of_layer(layers[name], _padded(x, layers[name]), k):
            found[f"{name}.weight_hh{suffix}".lstrip(".")] = spectrum, steps
    return found


def _padded(x: Any, layer: torch.nn.RNNBase) -> Tensor:
    """(T, B, I), only the steps that all sequences have."""
    if isinstance(x, PackedSequence):
        padded, lengths = pad_packed_sequence(x)
        return padded[: int(lengths.min())].detach()
    x = x.detach()
    if x.dim() == 2:
        return x.unsqueeze(1)  # type: ignore[no-any-return]
    return x.transpose(0, 1) if layer.batch_first else x  # type: ignore[no-any-return]


def _of_layer(layer: Any, x: Tensor, k: int) -> Iterator[tuple[str, Tensor, int]]:
    for depth in range(layer.num_layers):
        outputs = []
        for direction in ("", "_reverse")[: 2 if layer.bidirectional else 1]:
            suffix = f"_l{depth}{direction}"
            h, spectrum = _run(layer, suffix, x.flip(0) if direction else x, k)
            outputs.append(h.flip(0) if direction else h)
            yield suffix, spectrum, len(x)
        x = torch.cat(outputs, -1).detach()  # each layer is flossed for itself, on what it reads


def _run(layer: Any, suffix: str, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The outputs of a layer and its leading exponents, differentiable: Jacobians act on k directions, QR each step."""
    cell, H = BY_MODE[layer.mode], layer.hidden_size
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    w_ih, w_hh, b_ih, b_hh, w_hr = (getattr(layer, name + suffix, None) for name in names)
    assert w_ih is not None and w_hh is not None
    sizes = [layer.proj_size or H, H][: len(cell.states)]
    driven = torch.nn.functional.linear(x, w_ih, b_ih)
    state = x.new_zeros(x.shape[1], sum(sizes))
    directions = torch.linalg.qr(
        torch.randn(sum(sizes), k, generator=torch.Generator().manual_seed(0), device="cpu").to(x)
    )[0].expand(x.shape[1], -1, -1)
    logs, outputs = x.new_zeros(x.shape[1], k), []
    for t in range(len(x)):

        def step(s: Tensor, t: int = t) -> Tensor:
            parts = torch.split(s, sizes, -1)
            new, _ = cell.step(driven[t], torch.nn.functional.linear(parts[0], w_hh, b_hh), parts, w_hr)
            return torch.cat(new, -1)

        def moved(v: Tensor, s: Tensor = state, step: Callable[[Tensor], Tensor] = step) -> Tensor:
            return torch.func.jvp(step, (s,), (v,))[1]  # type: ignore[no-any-return]

        directions = torch.func.vmap(moved, in_dims=2, out_dims=2)(directions)
        state = step(state)
        directions, r = torch.linalg.qr(directions)
        logs = logs + r.diagonal(dim1=1, dim2=2).abs().log()
        outputs.append(state[:, : sizes[0]])
    return torch.stack(outputs), logs.mean(0) / len(x)
