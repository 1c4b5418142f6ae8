"""``GradientFlow``: what was measured, as plain labelled arrays with methods."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError
from . import activation, contributions, evidence, jacobians
from .activation import Gate, Saturation
from .cells import Trajectory
from .contributions import Contributions, Truncation
from .evidence import Evidence
from .graph import MarkedRun
from .jacobians import Bounds
from .summary import summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import RenderableType

Array = NDArray[np.float64]
FORMAT = 2
_LABELS = ("layers", "cells", "reverse", "steps", "loss_steps", "state", "reduce", "final", "notes")


@dataclass
class GradientFlow:
    """How the gradient of each loss travels back through time.

    Attributes
    ----------
    layers : list of str
        Labels, as torch labels layers and directions: ``l0``, ``l0_reverse``; after the module's name where a model has
        several recurrent modules (``encoder.l0``).
    norms : ndarray
        ‖∂E_t/∂s_k‖, float64 `(layers, targets, T)`: rows t, columns k, zero where there is no path. A last axis holds
        the sequences (``reduce="none"``) or the quantiles asked for.
    targets : ndarray of int
        The steps t of the rows. With one loss per sequence there is one row, whose t is each sequence's last step.
    steps : list of int
        Steps T of each layer; columns beyond are zero (an encoder and a decoder may differ).
    state : str
        What s_k is: ``"h"``, ``"c"`` or ``"hc"``.
    reduce : str or list of float
        ``"mean"``, ``"none"``, or the quantiles over the batch.
    final : bool
        Whether there was one loss per sequence rather than one per step.
    lengths : ndarray of int or None
        Lengths of the sequences, where known.
    sequences : ndarray of int
        How many sequences have a loss at each target.
    cells : list of str
        ``"rnn"``, ``"gru"``, ``"lstm"``, or ``"custom"`` for states that were marked, per layer.
    reverse : list of bool
        Whether the layer runs backwards in time.
    losses : ndarray
        The losses themselves `(targets, B)`.
    loss_steps : int
        How many steps have a loss.
    last : ndarray or None
        With one loss per sequence, the norms of every sequence `(layers, T, B)`, NaN beyond its end.
    notes : list of str
        What a reader must know of the measurement.
    """

    layers: list[str]
    norms: Array
    targets: NDArray[np.int64]
    steps: list[int]
    state: str
    reduce: str | list[float]
    final: bool
    lengths: NDArray[np.int64] | None
    sequences: NDArray[np.int64]
    cells: list[str]
    reverse: list[bool]
    losses: Array
    loss_steps: int
    last: Array | None = None
    notes: list[str] = field(default_factory=list)
    evidence: Evidence | None = field(default=None, repr=False)
    sums: contributions.Sums | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        """One line; ``print(flow)`` says what was found."""
        reduce = self.reduce if isinstance(self.reduce, str) else f"quantiles {self.reduce}"
        state = self.state if len(self.state) == 1 else "s"  # h and c together, where there is a c
        losses = "a loss a sequence" if self.final else f"losses at {len(self.targets)} steps"
        return (
            f"<GradientFlow of {', '.join(self.layers)}: ‖∂E_t/∂{state}_k‖, {losses}, T = {max(self.steps)}, "
            f"B = {self.losses.shape[1]}, over the batch: {reduce}>"
        )

    def __str__(self) -> str:
        return f"{self!r}\n{summarise(self)}"

    def __rich__(self) -> RenderableType:
        """The terminal form: table by lag, sparkline, growth per step, half-life, horizon, verdict."""
        from rich.console import Group
        from rich.text import Text

        return Group(Text(repr(self)), Text(), summarise(self))

    def _repr_html_(self) -> str:
        """The notebook form: verdicts, the curve by lag and the heat map, the table."""
        from .pictures.notebook import page

        return page(self)

    def layer(self, label: str | int) -> int:
        """Index of a layer given by its label or its index."""
        if isinstance(label, str):
            if label not in self.layers:
                raise FlowError(f"There is no layer {label!r}; this flow has {', '.join(self.layers)}.")
            return self.layers.index(label)
        if not -len(self.layers) <= label < len(self.layers):
            raise FlowError(f"There is no layer {label}; this flow has {len(self.layers)}.")
        return int(label) % len(self.layers)

    def lag(self, layer: str | int = 0) -> NDArray[np.int64]:
        """How far each pair is apart, `(targets, T)`: t − k, and k − t in a reverse layer.

        A layer with other steps than the losses (an encoder under a decoder) lies before them: its last step is one
        step before the first loss. With one loss per sequence, t is the last step (of the longest sequence).
        """
        i = self.layer(layer)
        k = np.arange(self.norms.shape[2])[None, :]
        if self.final:
            return k if self.reverse[i] else self.steps[i] - 1 - k
        t = self.targets[:, None]
        if self.steps[i] != self.loss_steps:
            return t + self.steps[i] - k
        return k - t if self.reverse[i] else t - k

    def by_lag(self) -> Array:
        """‖∂E_t/∂s_{t−lag}‖, mean over t, `(layers, T)`; a last axis as ``norms`` has.

        In a reverse layer s_{t+lag}, against its own direction. NaN where no pair has that lag.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> rnn = torch.nn.RNN(2, 4)
        >>> flow = rg.gradient_flow(rnn, torch.randn(10, 3, 2), loss=lambda output: output[0].sum(-1))
        >>> flow.by_lag().shape
        (1, 10)
        """
        longest = max(self._longest_lag(i) for i in range(len(self.layers))) + 1
        found = np.full((len(self.layers), longest, *self.norms.shape[3:]), np.nan)
        for i, steps in enumerate(self.steps):
            if self.final and self.last is not None and self.lengths is not None and not self.reverse[i]:
                # Every sequence counts back from its own end.
                for distance in range(steps):
                    k = self.lengths - 1 - distance
                    values = self.last[i, np.maximum(k, 0), np.arange(len(k))]
                    if (k >= 0).any():
                        found[i, distance] = self._reduced(np.where(k >= 0, values, np.nan))
                continue
            lag = self.lag(i)[:, :steps]
            lag = np.where((self.sequences > 0)[:, None], lag, -1)
            values = self.norms[i, :, :steps].reshape(lag.size, -1)
            pairs = lag.ravel() >= 0
            at = lag.ravel()[pairs]
            number = np.bincount(at, minlength=longest)
            with np.errstate(invalid="ignore"):  # a lag without pairs: 0/0 is NaN
                for j, column in enumerate(values.T):
                    mean = np.bincount(at, column[pairs], minlength=longest) / number
                    found[i].reshape(longest, -1)[:, j] = mean
        return found

    def _reduced(self, values: Array) -> Array | np.float64:
        """`(B,)`, NaN where there is none, as ``reduce`` says."""
        if self.reduce == "none":
            return values
        if self.reduce == "mean":
            return np.float64(np.nanmean(values))
        found = np.nanquantile(values, np.asarray(self.reduce, dtype=float))
        return np.asarray(found) if len(self.reduce) > 1 else np.float64(found[0])

    def _longest_lag(self, i: int) -> int:
        return int(self.lag(i)[:, : self.steps[i]].max(initial=0))

    def horizon(self, fraction: float = 0.01) -> Array:
        """The first lag at which ``by_lag`` is under ``fraction`` of its first value that is not zero, per layer.

        The first is at lag 0, unless the loss does not look at its own step. NaN for a layer that stays above it at all
        lags measured: its horizon lies beyond T.
        """
        if not 0 < fraction < 1:
            raise FlowError(f"fraction is {fraction}; it is a number between 0 and 1.")
        curves = self._one_curve()
        found = np.full(len(self.layers), np.nan)
        for i, curve in enumerate(curves):
            known = np.flatnonzero(np.isfinite(curve))
            known = known[np.cumsum(curve[known] > 0) > 0]
            under = known[curve[known] < fraction * curve[known[0]]] if len(known) else known
            if len(under):
                found[i] = under[0]
        return found

    def _one_curve(self) -> Array:
        curves = self.by_lag()
        if curves.ndim == 2:
            return curves
        if self.reduce == "none":
            return np.asarray(curves.mean(-1))
        return np.asarray(curves[..., curves.shape[-1] // 2])  # the middle quantile

    @property
    def parameters(self) -> list[str]:
        """Names of the recurrent parameters, as in the model's ``state_dict``."""
        return list(self._owners)

    @property
    def _owners(self) -> dict[str, tuple[str, str]]:
        evidence = self._evidence
        return {name: (label, kind) for label in self.layers for kind, (name, _) in evidence.parameters(label).items()}

    def weight(self, layer: str | int = 0) -> str:
        """The name, as in the model's ``state_dict``, of a layer's weights from state to state."""
        label = self.layers[self.layer(layer)]
        self._run(label)
        return self._evidence.parameters(label)["weight_hh"][0]

    @property
    def effort(self) -> float:
        """Multiplications that the first question about contributions or truncation takes; 0 once it was asked."""
        if self.sums is not None or self.evidence is None:
            return 0.0
        runs = [self.evidence.runs[label] for label in self.layers if label in self.evidence.runs]
        rows = len(self.targets) * max(self.steps) / 2 * self.losses.shape[1]
        return float(rows * sum(sum(w.numel() for w in run.weights.tensors()) for run in runs))

    def _parameter(self, name: str) -> str:
        owners = self._owners
        if not owners:
            raise FlowError(
                f"No parameters are known of {', '.join(self.layers)}: states were marked by hand, of which norms and "
                "Jacobians are measured."
            )
        found = [full for full in owners if full == name or full.endswith("." + name)]
        if len(found) != 1:
            reason = "is the name of several" if found else "is no parameter of a layer measured"
            raise FlowError(f"{name!r} {reason}; choose among {', '.join(owners)}.")
        return found[0]

    @property
    def _evidence(self) -> Evidence:
        if self.evidence is None:
            raise FlowError(
                "This flow was saved without its trajectory: it has norms only (save with trajectory=True)."
            )
        return self.evidence

    @property
    def _sums(self) -> contributions.Sums:
        if self.sums is None:
            self.sums = contributions.by_lag(self, self._evidence)
        return self.sums

    def _lag_of_sequences(self, layer: str) -> NDArray[np.int64]:
        """Lag of every pair `(targets, T, 1)`, or of every sequence `(targets, T, B)` where each ends by itself."""
        i = self.layer(layer)
        steps = self.steps[i]
        if not self.final or self.lengths is None or self.reverse[i]:
            return self.lag(i)[:, :steps, None]
        return (self.lengths - 1 - np.arange(steps)[:, None])[None]

    def contributions(self, parameter: str = "weight_hh_l0", gate: str | None = None) -> Contributions:
        """The part of every lag in the gradient of a parameter: norm, cosine with the whole, signed share.

        Parameters
        ----------
        parameter
            Its name as in ``state_dict`` (see ``parameters``), or the end of it where that is clear.
        gate
            One gate's rows only: r, z, n of a GRU; i, f, g, o of an LSTM.

        Notes
        -----
        The whole is ∂E/∂W with E the sum of all losses followed, over targets and sequences.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> lstm, x = torch.nn.LSTM(2, 4), torch.randn(10, 3, 2)
        >>> flow = rg.gradient_flow(lstm, x, loss=lambda output: output[0].square().sum(-1))
        >>> round(float(flow.contributions("weight_hh_l0", gate="f").share.sum()), 6)
        1.0
        """
        name = self._parameter(parameter)
        if gate is not None and name.rpartition(".")[2].startswith("weight_hr"):
            raise FlowError(f"{name} has no gates.")
        label, _ = self._owners[name]
        return contributions.from_sums(self._sums, name, contributions.gate_index(self.cells[self.layer(label)], gate))

    def share_by_lag(self, parameter: str = "weight_hh_l0", gate: str | None = None) -> Array:
        """Signed share ⟨g_lag, g⟩/‖g‖² of every lag in a parameter's gradient; they add up to 1.

        Lags 0, 1, … unless a head or layer looks ahead; ``contributions(parameter).lags`` names them.
        """
        return self.contributions(parameter, gate).share

    def pair_contributions(self, parameter: str = "weight_hh_l0", gate: str | None = None) -> Contributions:
        """The part of every pair (t, k) in the gradient of a parameter, `(targets, T)` each; see ``contributions``."""
        name = self._parameter(parameter)
        label, kind = self._owners[name]
        index = contributions.gate_index(self.cells[self.layer(label)], gate)
        return contributions.by_pair(self, self._evidence, label, kind, index - 1 if index else None)

    def truncation(self, parameter: str | None = None) -> Truncation:
        """What truncated BPTT of length L would give for every L: norm, angle, error; and the shortest L that will do.

        Of all recurrent parameters together, or of one.
        """
        names = self.parameters if parameter is None else []
        names = names or [self._parameter(parameter or "weight_hh")]
        return contributions.truncation(self._sums, names)

    def _run(self, layer: str | int) -> Trajectory:
        return self._evidence.run(self.layers[self.layer(layer)])

    def _walk(self, layer: str | int) -> Trajectory | MarkedRun:
        return self._evidence.walk(self.layers[self.layer(layer)])

    def jacobian_norms(self, layer: str | int = 0) -> Array:
        """Spectral norm of ∂s_t/∂s_{t−1} at every step and sequence, `(T, B)`; NaN on padding.

        Of the layer by itself; s is h, of an LSTM (h, c). Of marked states the first step has none either: NaN.
        """
        return jacobians.norms(self._walk(layer))

    def spectral_radii(self, layer: str | int = 0) -> Array:
        """Spectral radius of ∂s_t/∂s_{t−1} at every step and sequence, `(T, B)`; NaN on padding."""
        return jacobians.radii(self._walk(layer))

    def singular_values(
        self, first: int = 0, last: int | None = None, layer: str | int = 0, *, log: bool = False
    ) -> Array:
        """Singular values of ∂s_last/∂s_first, falling, `(B, S)`.

        The product over the span is kept orthogonal by QR and its scale in logarithms: spans of 10,000 steps neither
        overflow nor vanish, and small values keep their digits beside large ones.

        Parameters
        ----------
        first, last
            Steps, in the direction of the layer (first > last in a reverse layer); −1 (T in a reverse layer) is the
            state before the first step. The whole run by default.
        log
            Natural logarithms, which a long span needs; −inf for a value that is zero.
        """
        run = self._walk(layer)
        if last is None:
            last = 0 if run.reverse else run.steps - 1
            first = run.steps - 1 if run.reverse and first == 0 else first
        logs = jacobians.log_singular_values(run, first, last)
        if log:
            return logs
        live = logs[np.isfinite(logs)]
        if (np.abs(live) > 700).any():
            raise FlowError(
                f"A singular value is e^{live[np.argmax(np.abs(live))]:.0f}, beyond what a float64 holds: use log=True."
            )
        return np.exp(logs)

    def lyapunov_exponents(
        self, layer: str | int = 0, n: int | None = None, *, burn_in: int = 0, per_sequence: bool = False
    ) -> Array:
        """Finite-time Lyapunov exponents of the layer along the run, falling, `(S,)` or the leading ``n``.

        Growth per step, as a natural logarithm, of the directions in state space: above 0 a gradient can grow for ever,
        all below 0 it must vanish. −inf for a direction that dies exactly. A stack's spectrum is that of its layers
        together.

        Parameters
        ----------
        layer
            Label or index.
        n
            How many, the whole spectrum by default.
        burn_in
            Steps during which the directions align before anything is counted.
        per_sequence
            `(B, S)` instead of the mean over the batch.
        """
        found = jacobians.lyapunov_exponents(self._walk(layer), n, burn_in)
        return found if per_sequence else np.asarray(found.mean(0))

    def lyapunov_dimension(self, layer: str | int = 0, *, burn_in: int = 0) -> float:
        """Kaplan-Yorke dimension of the layer's spectrum: how many directions the states keep."""
        return jacobians.lyapunov_dimension(self.lyapunov_exponents(layer, burn_in=burn_in))

    def bounds(self, layer: str | int = 0) -> Bounds:
        """‖W_hh‖₂·max f′ and what it settles beforehand: vanishing certain, exploding possible (vanilla layers)."""
        return jacobians.bounds(self._run(layer))

    def saturation(self, layer: str | int = 0, threshold: float = 0.1) -> Saturation:
        """Share of saturated tanh units (f′ under ``threshold``) and of dead ReLU units, mean f′ per step and unit."""
        if not 0 < threshold <= 1:
            raise FlowError(f"threshold is {threshold}; f′ lies between 0 and 1.")
        return activation.saturation(self._run(layer), threshold)

    def gates(self, layer: str | int = 0) -> dict[str, Gate]:
        """Gates of a GRU (r, z) or LSTM (i, f, o): mean, share above 0.9 and under 0.1, time constants in steps."""
        return activation.gates(self._run(layer))

    def save(self, path: str | os.PathLike[str], *, trajectory: bool = True) -> None:
        """Write ``path.safetensors`` (the arrays) and ``path.json`` (labels); an ending of either kind is dropped.

        With the trajectory the loaded flow answers everything this one does (save pair contributions under a head that
        mixes steps); without it, norms only.
        """
        from safetensors.numpy import save

        stem = _stem(path)
        arrays: dict[str, NDArray[Any]] = {
            "norms": self.norms,
            "targets": self.targets,
            "sequences": self.sequences,
            "losses": self.losses,
        }
        if self.lengths is not None:
            arrays["lengths"] = self.lengths
        if self.last is not None:
            arrays["last"] = self.last
        labels: dict[str, Any] = {"format": FORMAT, "kind": "gradient flow"}
        labels |= {name: getattr(self, name) for name in _LABELS}
        if trajectory and self.evidence is not None:
            if self.evidence.local is None and self.evidence.graph is not None and self.evidence.runs:
                _ = self._sums  # needs the model's graph, which no file holds
            own, labels["trajectories"] = evidence.to_arrays(self.evidence)
            arrays |= {f"trajectory.{name}": a for name, a in own.items()}
        if self.sums is not None:
            arrays["sums.lags"] = self.sums.lags
            arrays |= {f"sums.numbers.{name}": a for name, a in self.sums.numbers.items()}
            arrays |= {f"sums.squares.{name}": a for name, a in self.sums.squares.items()}
        stem.parent.mkdir(parents=True, exist_ok=True)
        _write(_with(stem, ".safetensors"), save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
        _write(_with(stem, ".json"), (json.dumps(labels, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GradientFlow:
        """Read what ``save`` wrote."""
        from safetensors.numpy import load

        stem = _stem(path)
        try:
            labels: dict[str, Any] = json.loads(_with(stem, ".json").read_text(encoding="utf-8"))
            arrays = load(_with(stem, ".safetensors").read_bytes())
            if labels["kind"] != "gradient flow":
                raise FlowError(f"{stem}.json describes no gradient flow.")
            if labels["format"] > FORMAT:
                raise FlowError(f"{stem} was written by a newer retrograde (format {labels['format']}).")
            plain = {name: arrays[name] for name in ("norms", "targets", "sequences", "losses")}
            maybe = {name: arrays.get(name) for name in ("lengths", "last")}
            flow = cls(**plain, **maybe, **{name: labels[name] for name in _LABELS})
            if "trajectories" in labels:
                own = {name.removeprefix("trajectory."): a for name, a in arrays.items()}
                flow.evidence = evidence.from_arrays(own, labels["trajectories"], flow.targets)
            if "sums.lags" in arrays and labels["format"] == FORMAT:
                found = [
                    {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
                    for prefix in ("sums.numbers.", "sums.squares.")
                ]
                flow.sums = contributions.Sums(arrays["sums.lags"], *found)
            return flow
        except FileNotFoundError as missing:
            raise FlowError(f"There is no saved gradient flow at {stem}: {missing.filename} is missing.") from None
        except FlowError:
            raise
        except Exception as broken:
            raise FlowError(f"{stem} is no whole gradient flow ({type(broken).__name__}: {broken}).") from None

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write every pair with a path as a line: layer, t, k, lag, norm (and sequence or quantile, where kept)."""
        extra = [] if self.norms.ndim == 3 else ["sequence" if self.reduce == "none" else "quantile"]
        lines = [",".join(["layer", "t", "k", "lag", *extra, "norm"])]
        for i, label in enumerate(self.layers):
            lag = self.lag(i)
            for index in np.argwhere(self.norms[i] != 0):
                n, k, *rest = (int(j) for j in index)
                tail = [str(j if self.reduce == "none" else self.reduce[j]) for j in rest]
                row = [label, str(self.targets[n]), str(k), str(lag[n, k]), *tail, repr(float(self.norms[(i, *index)]))]
                lines.append(",".join(row))
        _write(Path(path), ("\n".join(lines) + "\n").encode())

    def to_xarray(self) -> Any:
        """``norms`` as an ``xarray.DataArray`` with axes layer, t, k (``pip install retrograde[xarray]``).

        Several quantiles, or every sequence, are a fourth axis, ``quantile`` or ``sequence``. Beside the axes stand the
        ``lag`` of every pair, and the ``cell`` and direction (``reverse``) of every layer, to select and group by.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> rnn, x = torch.nn.RNN(2, 4), torch.randn(10, 3, 2)
        >>> array = rg.gradient_flow(rnn, x, loss=lambda output: output[0].sum(-1)).to_xarray()
        >>> array.sel(layer="l0", t=9, k=7).coords["lag"].item()
        2
        """
        try:
            xarray: Any = importlib.import_module("xarray")
        except ImportError:
            raise FlowError("to_xarray needs xarray: pip install 'retrograde[xarray]'.") from None
        axes: dict[str, Any] = {"layer": self.layers, "t": self.targets, "k": np.arange(self.norms.shape[2])}
        if self.norms.ndim == 4:
            several = self.reduce == "none"
            axes["sequence" if several else "quantile"] = (
                np.arange(self.norms.shape[3]) if several else np.asarray(self.reduce, dtype=float)
            )
        beside = {
            "lag": (("layer", "t", "k"), np.stack([self.lag(i) for i in range(len(self.layers))])),
            "cell": ("layer", self.cells),
            "reverse": ("layer", self.reverse),
        }
        about = {"long_name": "‖∂E_t/∂s_k‖", "state": self.state, "reduce": str(self.reduce)}
        about |= {"notes": "; ".join(self.notes)} if self.notes else {}
        return xarray.DataArray(self.norms, axes | beside, list(axes), name="norm", attrs=about)

    def plot_heatmap(self, ax: Axes | None = None, layer: str | int = 0) -> Axes:
        """‖∂E_t/∂s_k‖ of one layer as a picture, rows t, columns k, colours on a log scale."""
        from .pictures.heatmap import plot_heatmap

        return plot_heatmap(self, ax, layer)

    def plot_by_lag(self, ax: Axes | None = None, fraction: float = 0.01) -> Axes:
        """‖∂E_t/∂s_{t−lag}‖ against the lag, a line a layer, on a log scale."""
        from .pictures.by_lag import plot_by_lag

        return plot_by_lag(self, ax, fraction)

    def plot_shares(
        self, ax: Axes | None = None, parameter: str | None = None, gate: str | None = None, fraction: float = 0.9
    ) -> Axes:
        """Signed share of every lag in a parameter's gradient, and their running sum, which ends at 1."""
        from .pictures.shares import plot_shares

        return plot_shares(self, ax, parameter, gate, fraction)

    def plot_truncation(self, ax: Axes | None = None, parameter: str | None = None, fraction: float = 0.99) -> Axes:
        """Norm and cosine of what truncated BPTT of length L would give; the shortest L that keeps ``fraction``."""
        from .pictures.truncation import plot_truncation

        return plot_truncation(self, ax, parameter, fraction)

    def plot_spectrum(
        self,
        ax: Axes | None = None,
        layer: str | int = 0,
        what: Literal["lyapunov", "singular"] = "lyapunov",
        burn_in: int = 0,
    ) -> Axes:
        """Lyapunov exponents of a layer, or the singular values of ∂s_last/∂s_first (``what="singular"``)."""
        from .pictures.spectrum import plot_spectrum

        return plot_spectrum(self, ax, layer, what, burn_in)

    def plot_gates(self, ax: Axes | None = None, layer: str | int = 0) -> Axes:
        """Gates of a GRU or LSTM: mean of every unit, share shut and open, and time constants."""
        from .pictures.gates import plot_gates

        return plot_gates(self, ax, layer)

    def plot_activation(self, ax: Axes | None = None, layer: str | int = 0, threshold: float = 0.1) -> Axes:
        """The activation f and f′ of a layer, with a histogram of the network's own pre-activations under them."""
        from .pictures.activation import plot_activation

        return plot_activation(self, ax, layer, threshold)


def _stem(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _write(path: Path, content: bytes) -> None:
    """Atomically: a reader sees the old file or the new one, never half of one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
