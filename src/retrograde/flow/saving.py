"""A measured flow as files (``PATH.safetensors`` for the arrays, ``PATH.json`` for labels), as CSV, and for xarray."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from ..errors import FlowError
from ..files import read_file, write_file
from . import contributions, linearization
from .wiring.alignment import Alignment, Reach, aligned

if TYPE_CHECKING:
    from .result import GradientFlow

FORMAT = 3
_LABELS_BYTES, _ARRAYS_BYTES = 1 << 26, 1 << 40  # the largest files that are read
_LABELS = ("layers", "cells", "reverse", "steps", "loss_steps", "state", "reduce", "final", "notes")


def save(flow: GradientFlow, path: str | os.PathLike[str], *, trajectory: bool = True) -> None:
    """Write ``path.safetensors`` (the arrays) and ``path.json`` (the labels); either suffix of ``path`` is dropped.

    With the trajectory, the loaded flow answers everything this one does, except pair contributions under a head that
    mixes steps; without it, it has the norms only.
    """
    stem = _stem(path)
    arrays: dict[str, NDArray[Any]] = {
        "norms": flow.norms,
        "targets": flow.targets,
        "sequences": flow.sequences,
        "losses": flow.losses,
    }
    arrays |= {name: own for name in ("lengths", "last", "below") if (own := getattr(flow, name)) is not None}
    labels: dict[str, Any] = {"format": FORMAT, "kind": "gradient flow"}
    labels |= {name: getattr(flow, name) for name in _LABELS}
    labels["alignments"] = [{"kind": own.kind, "ahead": own.ahead, "reason": own.reason} for own in flow.alignments]
    for i, own in enumerate(flow.alignments):
        arrays[f"alignment.{i}.at"] = own.at
        if own.delay is not None:
            arrays[f"alignment.{i}.delay"] = own.delay
    arrays |= {f"by_distance.{i}": near for i, near in enumerate(flow.by_distance) if near is not None}
    if trajectory and flow.linearization is not None:
        if flow.linearization.local is None and flow.linearization.graph is not None and flow.linearization.runs:
            flow.keep_sums()  # they need the model's graph, which is not saved
        kept, labels["trajectories"] = linearization.to_arrays(flow.linearization)
        arrays |= {f"trajectory.{name}": a for name, a in kept.items()}
    if flow.sums is not None:
        arrays["sums.lags"] = flow.sums.lags
        arrays |= {f"sums.numbers.{name}": a for name, a in flow.sums.numbers.items()}
        arrays |= {f"sums.squares.{name}": a for name, a in flow.sums.squares.items()}
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_file(_with(stem, ".safetensors"), to_bytes({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
    write_file(_with(stem, ".json"), (json.dumps(labels, indent=1) + "\n").encode())


def load(cls: type[GradientFlow], path: str | os.PathLike[str]) -> GradientFlow:
    """See ``GradientFlow.load``."""
    stem = _stem(path)
    try:
        labels: dict[str, Any] = json.loads(read_file(_with(stem, ".json").resolve(), _LABELS_BYTES).decode("utf-8"))
        arrays = from_bytes(read_file(_with(stem, ".safetensors").resolve(), _ARRAYS_BYTES))
        if labels["kind"] != "gradient flow":
            raise FlowError(f"{stem}.json does not describe a gradient flow.")
        if labels["format"] > FORMAT:
            raise FlowError(f"{stem} was written by a newer retrograde (format {labels['format']}).")
        plain = {name: arrays[name] for name in ("norms", "targets", "sequences", "losses")}
        maybe = {name: arrays.get(name) for name in ("lengths", "last", "below")}
        flow = cls(**plain, **maybe, **{name: labels[name] for name in _LABELS})
        flow.alignments = _alignments(flow, labels, arrays)
        flow.by_distance = [arrays.get(f"by_distance.{i}", _older(flow, i)) for i in range(len(flow.layers))]
        if "trajectories" in labels:
            own = {name.removeprefix("trajectory."): a for name, a in arrays.items()}
            flow.linearization = linearization.from_arrays(own, labels["trajectories"], flow.targets)
        if "sums.lags" in arrays and labels["format"] > 1:
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
    except OSError as refused:
        raise FlowError(f"{stem} cannot be read: {refused.strerror or refused}.") from None
    except Exception as broken:
        raise FlowError(f"{stem} is not a complete gradient flow ({type(broken).__name__}: {broken}).") from None


def _alignments(flow: GradientFlow, labels: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> list[Alignment]:
    if "alignments" in labels:
        return [
            Alignment(
                own["kind"],
                arrays[f"alignment.{i}.at"],
                own["ahead"],
                arrays.get(f"alignment.{i}.delay"),
                own["reason"],
            )
            for i, own in enumerate(labels["alignments"])
        ]
    # Formats 1 and 2 did not save the alignments: they are found again from the norms.
    found = []
    for i, steps in enumerate(flow.steps):
        if flow.final and flow.last is not None:
            exists = np.nan_to_num(flow.last[i][None, :steps]) != 0
        else:
            exists = (flow.norms[i, :, :steps].reshape(len(flow.targets), steps, -1) != 0).any(-1, keepdims=True)
        found.append(
            aligned(
                Reach.of(flow.targets, exists),
                flow.targets,
                steps,
                flow.loss_steps,
                reverse=flow.reverse[i],
                final=flow.final,
                encodes=False,
                follows=any(flow.reverse),  # under a reverse layer an encoder cannot be recognized
                label=flow.layers[i],
            )
        )
    return found


def _older(flow: GradientFlow, i: int) -> NDArray[np.float64] | None:
    """Norms by distance, for a flow with one loss per sequence that was saved without them."""
    own = flow.alignments[i]
    if not own.by_sequence or flow.last is None or (isinstance(flow.reduce, list) and len(flow.reduce) > 1):
        return None
    steps = flow.steps[i]
    away = np.arange(flow.norms.shape[2])[:, None]
    k = own.at + away if own.ahead else own.at - away
    there = (k >= 0) & (k < steps) & (own.at >= 0)
    values = np.where(there, np.take_along_axis(flow.last[i], np.clip(k, 0, steps - 1), 0), np.nan)
    if flow.reduce == "none":
        return values[None]
    some = ~np.isnan(values).all(1)
    found = np.full(len(values), np.nan)
    if flow.reduce == "mean":
        found[some] = np.nanmean(values[some], axis=1)
    else:
        found[some] = np.nanquantile(values[some], float(flow.reduce[0]), axis=1)
    return found[None]


def to_csv(flow: GradientFlow, path: str | os.PathLike[str]) -> None:
    """Write every pair that has a path as a line: layer, t, k, lag, norm (and sequence or quantile, where kept).

    The lag is empty where it is not known.
    """
    extra = [] if flow.norms.ndim == 3 else ["sequence" if flow.reduce == "none" else "quantile"]
    lines = [",".join(["layer", "t", "k", "lag", *extra, "norm"])]
    for i, label in enumerate(flow.layers):
        lag = None if flow.alignments[i].kind == "refused" else flow.lag(i)
        for index in np.argwhere(flow.norms[i] != 0):
            n, k, *rest = (int(j) for j in index)
            tail = [str(j if flow.reduce == "none" else flow.reduce[j]) for j in rest]
            away = "" if lag is None else str(lag[n, k])
            row = [label, str(flow.targets[n]), str(k), away, *tail, repr(float(flow.norms[(i, *index)]))]
            lines.append(",".join(row))
    write_file(Path(path), ("\n".join(lines) + "\n").encode())


def _stem(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def to_xarray(flow: GradientFlow) -> Any:
    """``norms`` as an ``xarray.DataArray`` with axes layer, t and k (``pip install retrograde[xarray]``).

    Several quantiles, or every sequence, are a fourth axis, ``quantile`` or ``sequence``. Further coordinates are the
    ``lag`` of every pair (NaN where it is not known), and the ``cell`` and direction (``reverse``) of every layer.

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
    axes: dict[str, Any] = {"layer": flow.layers, "t": flow.targets, "k": np.arange(flow.norms.shape[2])}
    if flow.norms.ndim == 4:
        several = flow.reduce == "none"
        axes["sequence" if several else "quantile"] = (
            np.arange(flow.norms.shape[3]) if several else np.asarray(flow.reduce, dtype=float)
        )
    coordinates = {
        "lag": (("layer", "t", "k"), _lags(flow)),
        "cell": ("layer", flow.cells),
        "reverse": ("layer", flow.reverse),
    }
    about = {"long_name": "‖∂E_t/∂s_k‖", "state": flow.state, "reduce": str(flow.reduce)}
    about |= {"notes": "; ".join(flow.notes)} if flow.notes else {}
    return xarray.DataArray(flow.norms, axes | coordinates, list(axes), name="norm", attrs=about)


def _lags(flow: GradientFlow) -> NDArray[Any]:
    """The lag of every pair `(layers, targets, T)`; NaN for a layer whose lags are not known."""
    refused = [own.kind == "refused" for own in flow.alignments]
    shape = flow.norms.shape[1:3]
    return np.stack([np.full(shape, np.nan) if r else flow.lag(i) for i, r in enumerate(refused)])
