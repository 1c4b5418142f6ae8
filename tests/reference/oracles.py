"""What the reference is compared with: finite differences, and the same model in torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import assume, settings
from hypothesis import strategies as st

import retrograde as rg

RTOL = 1e-9
PARAMETERS = ("U", "W", "V", "b", "c")

several = settings(deadline=None, max_examples=25)
torch.set_num_threads(1)


def close(got: np.ndarray, expected: np.ndarray, rtol: float = RTOL) -> None:
    """Equal to rtol of the largest entry: relative error per array, as gradients cancel entry by entry."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert got.dtype == np.float64
    scale = max(np.abs(expected).max(initial=0.0), 1e-5)  # below that ŷ − y has cancelled
    assert np.abs(got - expected).max(initial=0.0) <= rtol * scale


def finite_difference(f: Callable[[np.ndarray], float], at: np.ndarray, h: float = 5e-4) -> np.ndarray:
    """∂f/∂at by the central stencil of order 8: truncation and rounding both about 1e-12."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        e = np.zeros_like(at)
        e[index] = h
        gradient[index] = sum(w * (f(at + n * e) - f(at - n * e)) for n, w in weights.items()) / h
    return gradient


@st.composite
def problems(draw: st.DrawFn, nonlinearity: str | None = None, max_steps: int = 7):
    """A network with inputs, targets and s_0 (or None) that fit it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    D, H, K, T = (draw(st.integers(low, top)) for low, top in ((1, 4), (1, 5), (2, 4), (1, max_steps)))
    net = rg.reference.Network.random(
        D,
        H,
        K,
        bias=draw(st.booleans()),
        nonlinearity=nonlinearity or draw(st.sampled_from(["tanh", "relu"])),
        outputs=draw(st.sampled_from(["every", "last"])),
        seed=rng,
    )
    net = dataclasses.replace(net, W=net.W * draw(st.sampled_from([0.3, 1.0, 2.5])))
    inputs = rng.integers(0, D, T) if draw(st.booleans()) else rng.standard_normal((T, D))
    N = T if net.outputs == "every" else 1
    targets = rng.integers(0, K, N) if draw(st.booleans()) else rng.dirichlet(np.ones(K), N)
    s_0 = rng.standard_normal(H) if draw(st.booleans()) else None
    return net, inputs, targets, s_0


def torch_twin(net, inputs, targets, s_0, live_steps=None):
    """Losses E_t and the leaves they depend on, by torch; with ``live_steps`` = τ, s_{t−τ} is detached for each E_t."""
    leaves = {name: torch.tensor(getattr(net, name)) for name in PARAMETERS if getattr(net, name) is not None}
    x = torch.tensor(inputs)
    x = torch.nn.functional.one_hot(x, net.U.shape[1]).double() if x.ndim == 1 else x
    leaves |= {"inputs": x, "s_0": torch.zeros(len(net.W)).double() if s_0 is None else torch.tensor(s_0)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    b, c, f = leaves.get("b", 0.0), leaves.get("c", 0.0), getattr(torch, net.nonlinearity)
    T = len(x)
    y = torch.tensor(np.atleast_1d(targets))
    E = []
    for row, t in enumerate(range(1, T + 1) if net.outputs == "every" else [T]):
        s = leaves["s_0"]
        for k in range(1, t + 1):
            if live_steps is not None and k - 1 == t - live_steps:
                s = s.detach()
            s = f(leaves["U"] @ leaves["inputs"][k - 1] + leaves["W"] @ s + b)
        E.append(torch.nn.functional.cross_entropy(leaves["V"] @ s + c, y[row]))
    return torch.stack(E), leaves


def torch_gradients(E: torch.Tensor, leaves: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    found = torch.autograd.grad(E.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: np.zeros(leaf.shape) if gradient is None else gradient.numpy()
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


@st.composite
def layers(draw: st.DrawFn, kind: str):
    """A layer of ours, torch's twin of it, and arrays for every argument of its gradients (some left out)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    D, H, T = draw(st.integers(1, 4)), draw(st.integers(2, 5)), draw(st.integers(1, 7))
    bias = draw(st.booleans())
    P = draw(st.integers(1, H - 1)) if kind == "LSTM" and draw(st.booleans()) else H
    options = {"proj_size": P if P < H else 0} if kind == "LSTM" else {}
    cell = getattr(rg.reference, kind).random(D, H, bias=bias, seed=rng, **options)
    cell = dataclasses.replace(cell, weight_hh=cell.weight_hh * draw(st.sampled_from([1.0, 3.0])))
    twin = getattr(torch.nn, kind)(D, H, bias=bias, dtype=torch.float64, **options)
    twin.load_state_dict(
        {f"{name}_l0": torch.tensor(value) for name, value in vars(cell).items() if value is not None}, strict=True
    )
    shapes = {"grad_output": (T, P), "grad_h_n": (P,), "h_0": (P,)}
    if kind == "LSTM":
        shapes |= {"grad_c_n": (H,), "c_0": (H,)}
    given = {name: rng.standard_normal(shape) for name, shape in shapes.items() if draw(st.booleans())}
    assume(any(name.startswith("grad") for name in given))
    return cell, twin, rng.standard_normal((T, D)), given


def run_twin(twin, inputs, given):
    """Torch's outputs for these arrays, its leaves, and the scalar whose gradient is meant."""
    H, P = twin.hidden_size, twin.proj_size or twin.hidden_size
    leaves = {"inputs": torch.tensor(inputs), "h_0": torch.tensor(given.get("h_0", np.zeros(P)))}
    if isinstance(twin, torch.nn.LSTM):
        leaves["c_0"] = torch.tensor(given.get("c_0", np.zeros(H)))
    for leaf in leaves.values():
        leaf.requires_grad_()
    states = tuple(leaf[None] for name, leaf in leaves.items() if name != "inputs")
    output, final = twin(leaves["inputs"], states if len(states) == 2 else states[0])
    final = final if isinstance(final, tuple) else (final,)
    ends = dict(zip(("grad_output", "grad_h_n", "grad_c_n"), (output, *final), strict=False))
    E = sum((torch.tensor(given[name]) * end).sum() for name, end in ends.items() if name in given)
    return output, final, leaves, E


def check_layer(kind, layer):
    cell, twin, inputs, given = layer
    output, final, leaves, E = run_twin(twin, inputs, given)
    forward = getattr(rg.reference, f"{kind.lower()}_forward")
    states = forward(cell, inputs, **{name: given[name] for name in ("h_0", "c_0") if name in given})
    close(states.h[1:], output.detach().numpy())
    close(states.h[-1:], final[0].detach().numpy())
    if kind == "LSTM":
        close(states.c[-1:], final[1].detach().numpy())
    leaves |= {name.removesuffix("_l0"): p for name, p in twin.named_parameters()}
    gradient = getattr(rg.reference, f"{kind.lower()}_gradients")(cell, inputs, **given)
    for name, expected in torch_gradients(E, leaves).items():
        close(getattr(gradient, name), expected)
    assert {name for name, value in vars(gradient).items() if value is not None} == set(leaves)
