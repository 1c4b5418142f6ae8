"""Checkpoints: a `TrainerState` as one safetensors file, which one rename makes complete.

Weights, optimizer, carried state and random states are its tensors; everything else is JSON in its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import RunError
from ..options import Options
from ..runs import Metrics, RunFolder
from ..tasks.registry import KEPT
from .state import Progress, RandomStates, TrainerState, Window

__all__ = ["Checkpoint", "best_name", "exists", "latest", "save"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

    state: TrainerState
    options: Mapping[str, object]  # those that must not change when a run is resumed
    files: Mapping[str, str]  # what the run folder contains besides the weights, by file name
    best: tuple[dict[str, Tensor], dict[str, Any]] | None  # tensors and metadata of the best weights by then
    damaged: list[str]  # newer files that cannot be read


def best_name(step: int) -> str:
    """The copy of the best weights that belongs to a checkpoint, and that later evaluations do not replace."""
    return f"checkpoints/best-{step:09d}.safetensors"


def save(folder: RunFolder, state: TrainerState, options: Options, files: Mapping[str, str]) -> None:
    """Write a checkpoint, then remove all but the last ``options.keep_checkpoints``."""
    tensors, about = _encode(state)
    about |= {"files": dict(files), "options": _lasting(options)}
    folder.write_tensors(f"checkpoints/step-{state.progress.step:09d}.safetensors", tensors, about)
    _prune(folder, options.keep_checkpoints)


def _lasting(options: Options) -> dict[str, object]:
    """The options that must not change when a run is resumed."""
    return {name: value for name, value in options.as_dict().items() if name not in Options.MAY_CHANGE}


def _prune(folder: RunFolder, keep: int) -> None:
    """Keep the last checkpoints, and the best weights that belong to them."""
    names = _names(folder, "step")
    for name in names[:-keep]:
        folder.remove(name)
    bests = _names(folder, "best")
    kept = {max((best for best in bests if _step(best) <= _step(name)), default="") for name in names[-keep:]}
    for best in bests:
        if best not in kept:
            folder.remove(best)


def _names(folder: RunFolder, kind: str) -> list[str]:
    return sorted(f"checkpoints/{path.name}" for path in (folder / "checkpoints").glob(f"{kind}-*.safetensors"))


def _step(name: str) -> int:
    digits = name.rsplit("-", 1)[-1].removesuffix(".safetensors")
    return int(digits) if digits.isdigit() else -1


def exists(folder: RunFolder) -> bool:
    """Whether there is a checkpoint, complete or not."""
    return bool(_names(folder, "step"))


def latest(folder: RunFolder) -> Checkpoint:
    """Read the newest checkpoint that is complete, together with its best weights.

    Raises
    ------
    RunError
        If there is none.
    """
    damaged: list[str] = []
    for name in reversed(_names(folder, "step")):
        wanted = name
        try:
            tensors, about = folder.read_tensors(name)
            state, best = _decode(tensors, about), None
            if state.progress.best is not None:
                wanted = best_name(state.progress.best.step)
                best = folder.read_tensors(wanted)
            return Checkpoint(state, _options(about), _files(about), best, damaged)
        except (RunError, KeyError, TypeError, ValueError, AttributeError):
            if wanted not in damaged:
                damaged.append(wanted)
    why = f"of its checkpoints none can be read ({', '.join(damaged)})" if damaged else "it has no checkpoint yet"
    raise RunError(f"{folder.path} cannot be resumed: {why}; start it again with --overwrite.")


# --- The file ---------------------------------------------------------------------------------------------------------


def _encode(state: TrainerState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    moments = {f"{i}.{name}": v for i, values in state.optimizer["state"].items() for name, v in values.items()}
    carried = state.carried if isinstance(state.carried, tuple) else () if state.carried is None else (state.carried,)
    version, words, gauss = state.random.python
    generator, keys, *numpy = state.random.numpy
    groups: dict[str, Mapping[str, Tensor]] = {
        "model": state.model,
        "clipping": state.clipping,
        "optimizer": {name: value for name, value in moments.items() if isinstance(value, Tensor)},
        "state": _numbered(carried),
        "random": {
            "python": torch.tensor(words, dtype=torch.int64),
            "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        },
        "random.torch": _numbered(state.random.torch),
        "random.cuda": _numbered(state.random.cuda),
    }
    about: dict[str, Any] = {
        "optimizer": {name: value for name, value in moments.items() if not isinstance(value, Tensor)},
        "state": "tuple" if isinstance(state.carried, tuple) else None if state.carried is None else "tensor",
        "param_groups": state.optimizer["param_groups"],
        "random": {"python": [version, gauss], "numpy": [generator, *numpy]},
        "progress": _encode_progress(state.progress),
    }
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}, about


def _decode(tensors: dict[str, Tensor], about: dict[str, Any]) -> TrainerState:
    """Undo `_encode`; KeyError, TypeError, ValueError or AttributeError if it is something else."""
    moments: dict[int, dict[str, Any]] = {}
    for key, value in [*_under(tensors, "optimizer").items(), *about["optimizer"].items()]:
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    carried = tuple(_list(tensors, "state"))
    (version, gauss), (generator, *numpy) = about["random"]["python"], about["random"]["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    return TrainerState(
        model=_under(tensors, "model"),
        clipping=_under(tensors, "clipping"),
        optimizer={"state": moments, "param_groups": about["param_groups"]},
        carried=carried if about["state"] == "tuple" else carried[0] if carried else None,
        progress=_decode_progress(about["progress"]),
        random=RandomStates(
            _list(tensors, "random.torch"),
            _list(tensors, "random.cuda"),
            (generator, keys, *numpy),
            (version, tuple(tensors["random.python"].tolist()), gauss),
        ),
    )


def _numbered(values: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(place): value for place, value in enumerate(values)}


def _list(tensors: dict[str, Tensor], group: str) -> list[Tensor]:
    found = _under(tensors, group)
    return [found[str(place)] for place in range(len(found))]


def _under(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    prefix = f"{group}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _encode_progress(progress: Progress) -> dict[str, Any]:
    window = progress.window
    return {
        "step": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "metrics": [line.as_dict() for line in progress.metrics],
        "best": None if progress.best is None else progress.best.as_dict(),
        "improved": progress.improved,
        "recorded": window.start,
        "losses": window.losses,
        "sizes": window.sizes,
        "norms": window.norms,
        "clipped": window.clipped,
        "window_seconds": window.seconds,
        "window_waiting": window.waiting,
    }


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("step", "tokens", "improved", "recorded"), int),
    **dict.fromkeys(("seconds", "window_seconds", "window_waiting"), (int, float)),
    **dict.fromkeys(("metrics", "losses", "sizes", "norms", "clipped"), list),
    "best": (dict, type(None)),
}


def _decode_progress(json: Any) -> Progress:
    if isinstance(json, dict):  # before 0.2 no weights were kept but those that improved
        best = json.get("best")
        json = {"improved": best.get("step") if isinstance(best, dict) else 0} | json
    known = isinstance(json, dict) and set(json) == set(_KINDS)
    if not known or not all(isinstance(json[n], k) and not isinstance(json[n], bool) for n, k in _KINDS.items()):
        raise ValueError("it does not say where training was")
    metrics = [Metrics.of(line) for line in json["metrics"]]
    best = None if json["best"] is None else Metrics.of(json["best"])
    if not all("loss" in line.validation for line in metrics):
        raise ValueError("an evaluation has no validation loss")
    window = ("recorded", "losses", "sizes", "norms", "clipped", "window_seconds", "window_waiting")
    done = json["step"], json["tokens"], json["seconds"]
    return Progress(*done, metrics, best, json["improved"], Window(*(json[name] for name in window)))


def _options(about: dict[str, Any]) -> dict[str, object]:
    found = about.get("options", {})
    if not isinstance(found, dict):
        raise ValueError("its options are not an object")
    return found


def _files(about: dict[str, Any]) -> dict[str, str]:
    found = about.get("files") or {}
    if (
        not isinstance(found, dict)
        or not set(found) <= set(KEPT)
        or not all(isinstance(x, str) for x in found.values())
    ):
        raise ValueError("it contains files that a run does not have")
    return found
