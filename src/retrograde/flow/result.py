"""``GradientFlow``: what was measured, as plain labelled arrays with methods."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
FORMAT = 1


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
        ``"rnn"``, ``"gru"`` or ``"lstm"``, per layer.
    reverse : list of bool
        Whether the layer runs backwards in time.
    losses : ndarray
        The losses themselves `(targets, B)`.
    loss_steps : int
        How many steps have a loss.
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
    notes: list[str] = field(default_factory=list)

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
        for i in range(len(self.layers)):
            lag = self.lag(i)
            for distance in range(longest):
                at = lag == distance
                at[:, self.steps[i] :] = False
                at &= (self.sequences > 0)[:, None]
                if at.any():
                    found[i, distance] = self.norms[i][at].mean(0)
        return found

    def _longest_lag(self, i: int) -> int:
        return int(self.lag(i)[:, : self.steps[i]].max(initial=0))

    def horizon(self, fraction: float = 0.01) -> Array:
        """The first lag at which ``by_lag`` is under ``fraction`` of its value at lag 0, per layer.

        NaN for a layer that stays above it at all lags measured: its horizon lies beyond T.
        """
        if not 0 < fraction < 1:
            raise FlowError(f"fraction is {fraction}; it is a number between 0 and 1.")
        curves = self._one_curve()
        found = np.full(len(self.layers), np.nan)
        for i, curve in enumerate(curves):
            known = np.flatnonzero(np.isfinite(curve))
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``path.safetensors`` (the arrays) and ``path.json`` (labels); an ending of either kind is dropped."""
        from safetensors.numpy import save

        stem = _stem(path)
        arrays = {"norms": self.norms, "targets": self.targets, "sequences": self.sequences, "losses": self.losses}
        if self.lengths is not None:
            arrays["lengths"] = self.lengths
        labels = {
            "format": FORMAT,
            "kind": "gradient flow",
            "layers": self.layers,
            "cells": self.cells,
            "reverse": self.reverse,
            "steps": self.steps,
            "loss_steps": self.loss_steps,
            "state": self.state,
            "reduce": self.reduce,
            "final": self.final,
            "notes": self.notes,
        }
        stem.parent.mkdir(parents=True, exist_ok=True)
        _write(_with(stem, ".safetensors"), save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
        _write(_with(stem, ".json"), (json.dumps(labels, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GradientFlow:
        """Read what ``save`` wrote."""
        from safetensors.numpy import load

        stem = _stem(path)
        try:
            labels: dict[str, Any] = json.loads(_with(stem, ".json").read_text())
            arrays = load(_with(stem, ".safetensors").read_bytes())
            if labels.pop("kind") != "gradient flow" or labels.pop("format") > FORMAT:
                raise FlowError(f"{stem} is no gradient flow that this version reads.")
            return cls(**labels, **{"lengths": None, **arrays})
        except FileNotFoundError as missing:
            raise FlowError(f"There is no saved gradient flow at {stem}: {missing.filename} is missing.") from None
        except FlowError:
            raise
        except Exception as broken:
            raise FlowError(f"{stem} is no saved gradient flow: {broken}") from None

    def plot_heatmap(self, ax: Axes | None = None, layer: str | int = 0) -> Axes:
        """‖∂E_t/∂s_k‖ of one layer as a picture, rows t, columns k, colours on a log scale."""
        from .pictures.heatmap import plot_heatmap

        return plot_heatmap(self, ax, layer)

    def plot_by_lag(self, ax: Axes | None = None, fraction: float = 0.01) -> Axes:
        """‖∂E_t/∂s_{t−lag}‖ against the lag, a line a layer, on a log scale."""
        from .pictures.by_lag import plot_by_lag

        return plot_by_lag(self, ax, fraction)


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
