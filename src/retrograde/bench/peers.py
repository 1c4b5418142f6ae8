"""The peers that are timed: our layer, ``torch.nn``'s, and the same recurrence by ``jax.lax.scan`` under jit.

Of a cell that torch does not have, the peer is a plain loop over its steps.
All have the same weights and input, and their answers are compared before they are timed.

Tests: tests/bench/test_bench.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import nn
from ..cells import FUSED, Cell, find
from .points import Point

Array = NDArray[np.floating[Any]]
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class Peer:
    """One implementation of the step of a point."""

    name: str
    run: Callable[[], object]  # computes the step once, and returns when it is done
    # Computes it once and returns the output, or the gradients of the input and of each parameter in torch's order.
    answer: Callable[[], list[Array]]


def peers(point: Point, *, jax: bool, seed: int = 0) -> tuple[list[Peer], Callable[[int], Callable[[], object]], str]:
    """The peers for a point.

    Returns peers: ours first; shorter: ``shorter(steps)`` is the run of ``torch.nn`` on the first `steps` steps only,
        to estimate the whole; path: the path of our layer, ``"engine"`` or ``"torch"``.
    """
    generator = torch.Generator().manual_seed(seed)
    cell, sizes = find(point.cell), (point.hidden_size, point.hidden_size, point.num_layers)
    ours = nn.recurrent_layer(*sizes[:2], cell=cell.name, num_layers=point.num_layers)
    theirs = getattr(torch.nn, cell.title)(*sizes) if cell in FUSED else _Loop(ours, cell)
    with torch.no_grad():
        for p in theirs.parameters():
            p.uniform_(-(point.hidden_size**-0.5), point.hidden_size**-0.5, generator=generator)
    ours.load_state_dict(theirs.state_dict())
    shape = (point.steps, point.batch_size, point.hidden_size)
    x, weight = (torch.randn(shape, generator=generator) for _ in range(2))
    found = [_torch_peer("retrograde", ours, x, weight, point), _torch_peer("torch", theirs, x, weight, point)]
    if jax and cell.name in _JAX:
        found.append(_jax_peer(list(theirs.parameters()), x, weight, point))

    def shorter(steps: int) -> Callable[[], object]:
        return _torch_peer("torch", theirs, x[:steps].clone(), weight[:steps].clone(), point).run

    return found, shorter, nn.explain(ours, x).path if cell in FUSED else "torch"


class _Loop(torch.nn.Module):
    """The layer of any cell, as a loop over `Cell.step`."""

    def __init__(self, layer: torch.nn.Module, cell: Cell) -> None:
        super().__init__()
        self.cell, self.layers = cell, int(layer.num_layers)  # type: ignore[arg-type]
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, torch.nn.Parameter(parameter.detach().clone()))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        linear = torch.nn.functional.linear
        for i in range(self.layers):
            w_ih, w_hh, b_ih, b_hh = (getattr(self, f"{name}_l{i}") for name in _WEIGHTS)
            state = (x.new_zeros(x.shape[1], w_hh.shape[1]),) * len(self.cell.states)
            outputs = []
            for a in linear(x, w_ih, b_ih):
                state, _ = self.cell.step(a, linear(state[0], w_hh, b_hh), state)
                outputs.append(state[0])
            x = torch.stack(outputs)
        return (x,)


def _torch_peer(name: str, layer: torch.nn.Module, x: Tensor, weight: Tensor, point: Point) -> Peer:
    x = x.clone().requires_grad_(point.task == "train")
    leaves = [x, *layer.parameters()]

    def forward() -> list[Tensor]:
        with torch.inference_mode():
            return [layer(x)[0]]

    def train() -> list[Tensor]:
        return list(torch.autograd.grad((layer(x)[0] * weight).sum(), leaves))

    run = train if point.task == "train" else forward
    return Peer(name, run, lambda: [t.numpy() for t in run()])


def _jax_peer(parameters: list[Tensor], x: Tensor, weight: Tensor, point: Point) -> Peer:
    import jax
    import jax.numpy as jnp

    arrays = [jnp.asarray(p.detach().numpy()) for p in parameters]
    inputs, scale = jnp.asarray(x.numpy()), jnp.asarray(weight.numpy())
    layer = _JAX[point.cell]

    def output(x: Any, *flat: Any) -> Any:
        for i in range(0, len(flat), 4):
            x = layer(x, *flat[i : i + 4])
        return x

    def loss(scale: Any, x: Any, *flat: Any) -> Any:
        return (output(x, *flat) * scale).sum()

    if point.task == "train":
        step = jax.jit(jax.grad(loss, argnums=tuple(range(1, len(arrays) + 2))))
        return Peer(
            "jax",
            lambda: jax.block_until_ready(step(scale, inputs, *arrays)),
            lambda: [np.asarray(a) for a in step(scale, inputs, *arrays)],
        )
    forward = jax.jit(output)
    return Peer(
        "jax",
        lambda: jax.block_until_ready(forward(inputs, *arrays)),
        lambda: [np.asarray(forward(inputs, *arrays))],
    )


# Written for speed: the product with the input for all steps at once, before the scan, and
# W_hhᵀ transposed once. Unrolling the scan 4 or 16 times was no faster, and took longer to compile.


def _jax_rnn(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    import jax
    import jax.numpy as jnp

    w_t = w_hh.T

    def step(h: Any, a: Any) -> Any:
        h = jnp.tanh(a + h @ w_t)
        return h, h

    return jax.lax.scan(step, jnp.zeros((x.shape[1], w_hh.shape[1])), x @ w_ih.T + (b_ih + b_hh))[1]


def _jax_gru(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    import jax
    import jax.numpy as jnp

    w_t, size = w_hh.T, w_hh.shape[1]

    def step(h: Any, a: Any) -> Any:
        b = h @ w_t + b_hh
        gates = jax.nn.sigmoid(a[:, : 2 * size] + b[:, : 2 * size])
        r, z = gates[:, :size], gates[:, size:]
        n = jnp.tanh(a[:, 2 * size :] + r * b[:, 2 * size :])
        h = n + z * (h - n)
        return h, h

    return jax.lax.scan(step, jnp.zeros((x.shape[1], size)), x @ w_ih.T + b_ih)[1]


def _jax_lstm(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    import jax
    import jax.numpy as jnp

    w_t, size = w_hh.T, w_hh.shape[1]

    def step(state: Any, a: Any) -> Any:
        h, c = state
        a = a + h @ w_t
        i_f = jax.nn.sigmoid(a[:, : 2 * size])
        c = i_f[:, size:] * c + i_f[:, :size] * jnp.tanh(a[:, 2 * size : 3 * size])
        h = jax.nn.sigmoid(a[:, 3 * size :]) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], size))
    return jax.lax.scan(step, (zeros, zeros), x @ w_ih.T + (b_ih + b_hh))[1]


_JAX: dict[str, Callable[..., Any]] = {"rnn": _jax_rnn, "gru": _jax_gru, "lstm": _jax_lstm}
