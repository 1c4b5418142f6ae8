"""Where ∂E/∂W comes from: the part of every lag and of every pair (t, k), and what truncation would lose.

∂E_t/∂W = Σ_k δ_{t,k} ⊗ a_k, where δ_{t,k} is ∂E_t/∂(pre-activations of step k) and a_k what W multiplies there
(s_{k−1} for W_hh, x_k for W_ih, 1 for a bias). Summed over all t and k with the same lag these are the g_lag, and
Σ g_lag = g, the whole gradient. So are the pairs; and truncated BPTT of length L keeps the lags below L.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cells import find
from ..errors import FlowError
from .linearization import Linearization, factors
from .recording.torch_patches import without_autocast

if TYPE_CHECKING:
    from .result import GradientFlow

Array = NDArray[np.float64]
_SUMS_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Contributions:
    """Parts of a gradient g.

    Attributes
    ----------
    norm
        ‖g_part‖.
    cosine
        Of the angle between g_part and g; NaN where either is zero.
    share
        ⟨g_part, g⟩ / ‖g‖², signed; over all parts they add up to 1.
    lags : ndarray of int or None
        The lags, where the parts are lags. Negative ones occur under a head or a layer that looks ahead.
    """

    norm: Array
    cosine: Array
    share: Array
    lags: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Truncation:
    """What truncated BPTT of length L would compute, for every L.

    Attributes
    ----------
    length : ndarray of int
        L = 1, 2, …: the steps t, t−1, … t−L+1 are kept, lags below L.
    norm
        ‖g_L‖ / ‖g‖.
    angle
        Between g_L and the whole gradient g, in degrees.
    error
        ‖g − g_L‖ / ‖g‖.
    share
        ⟨g_L, g⟩ / ‖g‖², the signed share that is kept; 1 at full length.
    """

    length: NDArray[np.int64]
    norm: Array
    angle: Array
    error: Array
    share: Array

    def shortest(self, fraction: float = 0.99) -> int:
        """The shortest L from which on the share kept stays within 1 − ``fraction`` of 1.

        It must stay there: the share may pass through 1 and leave it again before the gradient is complete.
        """
        if not 0 < fraction <= 1:
            raise FlowError(f"fraction is {fraction}; it must be above 0 and at most 1.")
        off = np.abs(self.share - 1) > 1 - fraction + 1e-9
        return int(self.length[off.nonzero()[0][-1]] + 1 if off.any() else self.length[0])


@dataclass
class Sums:
    """Numbers by lag for every parameter and gate, from which ``Contributions`` and ``Truncation`` are made.

    ``numbers[name]`` is `(1 + gates, lags, 5)`: for the whole parameter, then each gate, ‖g_lag‖², ⟨g_lag, g⟩, and of
    the sum p up to the lag ‖p‖², ⟨p, g⟩ and ‖g − p‖², whose digits do not follow from the others.
    ``squares[name]`` is ‖g‖², `(1 + gates,)`.
    """

    lags: NDArray[np.int64]
    numbers: dict[str, Array]
    squares: dict[str, Array]


@without_autocast()
def by_lag(flow: GradientFlow, linearization: Linearization) -> Sums:
    """Walk the lags in rising order; of each, only a few numbers are kept."""
    total = _total(linearization)
    names = {name: gates for label in flow.known_layers for name, gates in linearization.parameters(label).values()}
    if not names:
        return Sums(np.zeros(0, dtype=np.int64), {}, {})
    running: dict[str, Tensor] = {}
    rows: dict[str, list[Array]] = {name: [] for name in names}
    lags: list[int] = []
    for lag, parts in _lag_gradients(flow, linearization):
        lags.append(lag)
        for name, gates in names.items():
            g, part = total[name], parts.get(name)
            if part is not None:
                running[name] = part.clone() if name not in running else running[name].add_(part)
            p = running.get(name)
            rest = g.double() if p is None else g.double() - p.double()
            pairs = ((part, part), (part, g), (p, p), (p, g), (rest, rest))
            rows[name].append(np.stack([_dots(a, b, gates) for a, b in pairs], -1))
    numbers = {name: np.stack(values, 1) for name, values in rows.items()}
    # Negative lags count only where something looks ahead.
    some = np.any([values[0, :, 0] != 0 for values in numbers.values()], axis=0) | (np.asarray(lags) >= 0)
    return Sums(
        np.asarray(lags)[some],
        {name: values[:, some] for name, values in numbers.items()},
        {name: _dots(total[name], total[name], gates) for name, gates in names.items()},
    )


@without_autocast()
def by_pair(flow: GradientFlow, linearization: Linearization, label: str, kind: str, gate: int | None) -> Contributions:
    """Parts of one parameter's gradient (of one of its gates) for every pair, `(targets, T)`."""
    run = linearization.run(label)
    name, gates = linearization.parameters(label)[kind]
    g = _total(linearization)[name].double()
    size = g.shape[0] // gates
    chosen = slice(None) if gate is None else slice(gate * size, (gate + 1) * size)
    g = g[chosen]
    square = float(g.square().sum())
    shape = (len(linearization.targets), run.steps)
    norm2, dot = (
        torch.zeros(shape, dtype=torch.float64, device="cpu"),
        torch.zeros(shape, dtype=torch.float64, device="cpu"),
    )
    at = 0
    every = slice(None)
    for rows, adjoints in linearization.by_target():
        place = slice(at, at + len(rows))
        at += len(rows)
        if label not in adjoints:
            continue
        s = adjoints[label]
        assert s.inputs is not None and s.hidden is not None
        left, right = factors(run, kind, every, s.inputs, s.hidden, s.states)
        left = left[..., chosen].double()  # (N, T, B, rows)
        if right is None:
            norm2[place] = left.sum(2).square().sum(-1).cpu()
            dot[place] = (left.sum(2) @ g).cpu()
        else:
            right = right.double()
            # ‖Σ_b δ_b ⊗ a_b‖² = Σ_{b,b'} (δ_b·δ_b')(a_b·a_b'): no matrix of the parameter's size per pair.
            gram = left @ left.transpose(-1, -2)
            norm2[place] = (gram * (right @ right.transpose(-1, -2))).sum((-1, -2)).cpu()
            dot[place] = (left * (right @ g.T)).sum((-1, -2)).cpu()
    return _contributions(norm2.clamp(min=0).numpy(), dot.numpy(), square, None)


def from_sums(sums: Sums, name: str, gate: int) -> Contributions:
    """Contributions of the lags to one parameter; ``gate`` 0 is all of it."""
    numbers = sums.numbers[name][gate]
    return _contributions(numbers[:, 0], numbers[:, 1], float(sums.squares[name][gate]), sums.lags)


def truncation(sums: Sums, names: list[str], gate: int = 0) -> Truncation:
    """Truncation of several parameters taken together as one vector."""
    numbers = sum(sums.numbers[name][gate] for name in names)
    assert isinstance(numbers, np.ndarray)
    square = sum(float(sums.squares[name][gate]) for name in names)
    last = max(int(sums.lags[-1]), 0)
    length = np.arange(1, last + 2)
    # g_L has every lag below L, also negative ones; before the first lag it is zero.
    index = np.searchsorted(sums.lags, length) - 1
    kept = np.where((index >= 0)[:, None], numbers[np.maximum(index, 0)], 0.0)
    norm2, dot, rest2 = kept[:, 2:].T
    rest2 = np.where(index >= 0, rest2, square)
    with np.errstate(divide="ignore", invalid="ignore"):
        # From the part orthogonal to g: unlike arccos, this keeps the digits of a small angle.
        across2 = np.maximum(rest2 - (square - dot) ** 2 / square, 0)
        angle = np.where(norm2 > 0, np.degrees(np.arctan2(np.sqrt(across2 * square), dot)), np.nan)
        return Truncation(length, np.sqrt(norm2 / square), angle, np.sqrt(rest2 / square), dot / square)


def gate_index(kind: str, gate: str | None) -> int:
    """Position of a gate among those of a cell, counted from 1; 0 for all together."""
    if gate is None:
        return 0
    gates = find(kind).gates
    if gate not in gates:
        raise FlowError(f"There is no gate {gate!r}; a {kind.upper()} has {', '.join(gates)}.")
    return gates.index(gate) + 1


def _contributions(norm2: Array, dot: Array, square: float, lags: NDArray[np.int64] | None) -> Contributions:
    norm = np.sqrt(norm2)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.clip(np.where(norm > 0, dot / (norm * np.sqrt(square)), np.nan), -1, 1)
        return Contributions(norm, cosine, dot / square, lags)


def _dots(a: Tensor | None, b: Tensor | None, gates: int) -> Array:
    """⟨a, b⟩ for the whole and for each gate's rows."""
    if a is None or b is None:
        return np.zeros(1 + gates)
    by_gate = (a.double() * b.double()).reshape(gates, -1).sum(1)
    return torch.cat([by_gate.sum()[None], by_gate]).cpu().numpy()


def _add(
    sums: dict[str, Tensor],
    linearization: Linearization,
    label: str,
    at: Any,
    inputs: Tensor,
    hidden: Tensor,
    states: Tensor | None,
) -> None:
    """Add the gradients of a layer's parameters, of some of its steps; a parameter may belong to several runs."""
    for kind, (name, _) in linearization.parameters(label).items():
        left, right = factors(linearization.run(label), kind, at, inputs, hidden, states)
        left = left.flatten(0, -2)
        part = left.sum(0) if right is None else left.T @ right.flatten(0, -2)
        if name in sums:
            sums[name] += part
        else:
            sums[name] = part


def _total(linearization: Linearization) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for label, s in linearization.total().items():
        assert s.inputs is not None and s.hidden is not None
        _add(
            found,
            linearization,
            label,
            slice(None),
            s.inputs[0],
            s.hidden[0],
            None if s.states is None else s.states[0],
        )
    for label, run in linearization.runs.items():
        for (name, _), weight in zip(linearization.parameters(label).values(), run.weights.tensors(), strict=True):
            found.setdefault(name, torch.zeros_like(weight))
    return found


def _lag_gradients(flow: GradientFlow, linearization: Linearization) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """g_lag of every parameter, lags rising."""
    if linearization.local is not None:
        for lag, found in linearization.by_lag():
            parts: dict[str, Tensor] = {}
            for (label, run), a in zip(linearization.runs.items(), found, strict=True):
                if label in flow.known_layers:
                    _add(parts, linearization, label, a.at, run.input_side(a.at, a.h, a.c, a.hidden), a.hidden, a.h)
            yield lag, parts
        return
    # Any graph: blocks of targets bring all lags at once; in several rounds where that is too much memory.
    lag_of = {label: flow._lag_of_sequences(label) for label in flow.known_layers if label in linearization.runs}
    every = np.unique(np.concatenate([table[table > _NEVER].ravel() for table in lag_of.values()]))
    size = sum(w.numel() * w.element_size() for label in lag_of for w in linearization.run(label).weights.tensors())
    per_round = max(1, _SUMS_BYTES // max(1, size))
    for start in range(0, len(every), per_round):
        chosen = every[start : start + per_round]
        sums: list[dict[str, Tensor]] = [{} for _ in chosen]
        at = 0
        for rows, adjoints in linearization.by_target():
            place = slice(at, at + len(rows))
            at += len(rows)
            for label in adjoints.keys() & lag_of.keys():
                s, batch = adjoints[label], linearization.run(label).batch_size
                assert s.inputs is not None and s.hidden is not None
                lags = lag_of[label][place]
                table = torch.from_numpy(np.broadcast_to(lags, (*lags.shape[:2], batch)).copy())
                for lag, own in zip(chosen, sums, strict=True):
                    n, k, b = (table == int(lag)).nonzero(as_tuple=True)
                    if len(n):
                        states = None if s.states is None else s.states[n, k, b]
                        _add(own, linearization, label, (k, b), s.inputs[n, k, b], s.hidden[n, k, b], states)
        yield from zip(map(int, chosen), sums, strict=True)


_NEVER = np.iinfo(np.int64).min
