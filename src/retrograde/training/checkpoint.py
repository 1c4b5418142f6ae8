"""All that training needs to go on as if it had never stopped, in one safetensors file per checkpoint.

One file, because one rename makes it whole: weights, optimiser, carried state and random states are
its tensors, everything else is JSON in its metadata.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RunError
from ..options import Options
from ..runs import RunFolder
from .clipping import Clipping
from .loop import Progress

__all__ = ["Checkpoint", "best_name", "exists", "latest", "restore", "save", "weights"]


@dataclass(frozen=True)
class Checkpoint:
    """What `latest` found.

    Attributes
    ----------
    tensors, about : dict
        As they were saved.
    progress : Progress
        Where training stood.
    best : tuple or None
        Tensors and words of the best weights by then.
    files : dict
        What the run folder keeps beside the weights, by file name.
    damaged : list of str
        Newer files that cannot be read.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]
    progress: Progress
    best: tuple[dict[str, Tensor], dict[str, Any]] | None
    files: dict[str, str]
    damaged: list[str]


def best_name(step: int) -> str:
    """Where the best weights of a checkpoint are kept, which a later evaluation must not replace."""
    return f"checkpoints/best-{step:09d}.safetensors"


def save(
    folder: RunFolder,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clipping: Clipping,
    progress: Progress,
    options: Options,
    files: Mapping[str, str],
    random_torch: list[Tensor],
) -> None:
    """Write a checkpoint, then remove all but the last ``options.keep_checkpoints``.

    ``files`` are what the run folder keeps beside the weights, ``random_torch`` the random states of every process.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"clipping.{name}": tensor for name, tensor in clipping.state_dict().items()}
    about: dict[str, Any] = {"optimizer": {}, "state": None}
    state_dict = optimizer.state_dict()
    about["param_groups"] = state_dict["param_groups"]
    for index, values in state_dict["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                about["optimizer"][f"{index}.{name}"] = value
    if progress.state is not None:
        parts = progress.state if isinstance(progress.state, tuple) else (progress.state,)
        about["state"] = "tuple" if isinstance(progress.state, tuple) else "tensor"
        tensors |= {f"state.{place}": part for place, part in enumerate(parts)}
    random_tensors, about["random"] = _random_states(random_torch)
    about["files"], about["options"] = dict(files), _lasting(options.as_dict())
    about["progress"] = {
        field.name: getattr(progress, field.name) for field in fields(progress) if field.name != "state"
    }
    folder.write_tensors(f"checkpoints/step-{progress.step:09d}.safetensors", tensors | random_tensors, about)
    _prune(folder, options.keep_checkpoints)


def _lasting(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that stay what they are when a run goes on."""
    return {name: value for name, value in options.items() if name not in Options.MAY_CHANGE}


def _prune(folder: RunFolder, keep: int) -> None:
    """Keep the last checkpoints, and of the best weights those that they had."""
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
    """Whether a checkpoint, whole or not, is there."""
    return bool(_names(folder, "step"))


def latest(folder: RunFolder) -> Checkpoint:
    """The newest checkpoint that is whole, its best weights included.

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
            progress = _progress(about.get("progress"))
            best = None
            if progress.best is not None:
                wanted = best_name(progress.best["step"])
                best = folder.read_tensors(wanted)
            return Checkpoint(tensors, about, progress, best, _texts(about.get("files")), damaged)
        except (RunError, ValueError):
            if wanted not in damaged:
                damaged.append(wanted)
    why = f"of its checkpoints none can be read ({', '.join(damaged)})" if damaged else "it has no checkpoint yet"
    raise RunError(f"{folder.path} cannot be resumed: {why}; start it again with --overwrite.")


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("step", "tokens", "recorded"), int),
    **dict.fromkeys(("seconds", "window_seconds", "window_waiting"), (int, float)),
    **dict.fromkeys(("metrics", "losses", "sizes", "norms", "clipped"), list),
    "best": (dict, type(None)),
}


def _progress(kept: Any) -> Progress:
    """Where training stood; ValueError if that is not what `save` wrote."""
    if not isinstance(kept, dict) or set(kept) != set(_KINDS):
        raise ValueError("it does not say where training stood")
    if not all(isinstance(kept[name], kind) and not isinstance(kept[name], bool) for name, kind in _KINDS.items()):
        raise ValueError("it does not say where training stood")
    for line in [*kept["metrics"], *([] if kept["best"] is None else [kept["best"]])]:
        if not (isinstance(line, dict) and isinstance(line.get("step"), int) and "validation_loss" in line):
            raise ValueError("a line of its metrics is none")
    return Progress(**kept)


def _texts(kept: Any) -> dict[str, str]:
    kept = {} if kept is None else kept
    if not isinstance(kept, dict) or not set(kept) <= {"vocabulary.json", "preprocessing.json"}:
        raise ValueError("it keeps files that a run does not have")
    if not all(isinstance(text, str) for text in kept.values()):
        raise ValueError("what it keeps of files is no text")
    return kept


def weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's share of a checkpoint's tensors."""
    return _under(tensors, "model.")


def restore(
    folder: RunFolder,
    found: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clipping: Clipping,
    options: Options,
    device: torch.device,
    rank: int,
) -> Progress:
    """Bring model, optimiser and random states back to a checkpoint; return where training stood.

    Raises
    ------
    RunError
        If it is of another model, or ``config.json`` was changed since.
    """
    tensors, about, progress = found.tensors, found.about, found.progress
    if isinstance(then := about.get("options"), dict):
        for name, value in _lasting(options.as_dict()).items():
            if name in then and then[name] != value:
                raise RunError(
                    f"{folder / 'config.json'} was changed since training began: its {name} is {value!r}, that of the "
                    f"checkpoint {then[name]!r}; put it back."
                )
    try:
        model.load_state_dict(weights(tensors))
        clipping.load_state_dict(_under(tensors, "clipping."))
        states: dict[int, dict[str, Any]] = {}
        for key, value in [*_under(tensors, "optimizer.").items(), *about["optimizer"].items()]:
            index, name = key.split(".", 1)
            states.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": states, "param_groups": about["param_groups"]})
        carried = tuple(tensors[f"state.{place}"].to(device) for place in range(len(_under(tensors, "state."))))
        progress.state = carried if about["state"] == "tuple" else (carried[0] if carried else None)
        _set_random_states(tensors, about["random"], rank)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        words = " ".join(str(error).split())
        raise RunError(f"the checkpoint of {folder.path} does not fit its config.json: {words:.300}") from None
    return progress


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _random_states(random_torch: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of torch (every process's, and of the first every device's), NumPy and Python."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (the global one, if a task uses it)
    tensors = {
        "random.python": torch.tensor(words, dtype=torch.int64),
        "random.numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    tensors |= {f"random.torch.{rank}": state for rank, state in enumerate(random_torch)}
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors, {"python": [version, gauss], "numpy": [name, position, has_gauss, cached]}


def _set_random_states(tensors: dict[str, Tensor], about: dict[str, Any], rank: int) -> None:
    # Of more processes than there were, those added go on from the state of the first.
    torch.set_rng_state(tensors.get(f"random.torch.{rank}", tensors["random.torch.0"]))
    version, gauss = about["python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), gauss))
    name, position, has_gauss, cached = about["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    cuda = _under(tensors, "random.cuda.")
    if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([cuda[str(index)] for index in range(len(cuda))])
