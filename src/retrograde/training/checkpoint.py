"""All that training needs to go on as if it had never stopped, in one safetensors file per checkpoint.

One file, because one rename makes it whole: weights, optimiser, carried state and random states are
its tensors, everything else is JSON in its metadata.
"""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RunError
from .clipping import Clipping
from .folder import RunFolder
from .loop import Progress

__all__ = ["KEPT", "best_name", "latest", "restore", "save", "weights"]

KEPT = 2  # the last ones, so that damage to the newest loses little


def best_name(step: int) -> str:
    """Where the best weights of a checkpoint are kept, which a later evaluation must not replace."""
    return f"checkpoints/best-{step:09d}.safetensors"


def save(
    folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, clipping: Clipping, progress: Progress
) -> None:
    """Write a checkpoint, then remove all but the last `KEPT`."""
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
    random_tensors, about["random"] = _random_states()
    about["progress"] = {
        field.name: getattr(progress, field.name) for field in fields(progress) if field.name != "state"
    }
    folder.write_tensors(f"checkpoints/step-{progress.step:09d}.safetensors", tensors | random_tensors, about)
    _prune(folder)


def _prune(folder: RunFolder) -> None:
    """Keep the last checkpoints, and of the best weights those that they had."""
    names = _names(folder, "step")
    for name in names[:-KEPT]:
        folder.remove(name)
    bests = _names(folder, "best")
    kept = {max((best for best in bests if _step(best) <= _step(name)), default="") for name in names[-KEPT:]}
    for best in bests:
        if best not in kept:
            folder.remove(best)


def _names(folder: RunFolder, kind: str) -> list[str]:
    return sorted(f"checkpoints/{path.name}" for path in (folder / "checkpoints").glob(f"{kind}-*.safetensors"))


def _step(name: str) -> int:
    digits = name.rsplit("-", 1)[-1].removesuffix(".safetensors")
    return int(digits) if digits.isdigit() else -1


def latest(folder: RunFolder) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The newest checkpoint that can be read, and the names of newer ones that cannot.

    Raises
    ------
    RunError
        If there is none.
    """
    damaged: list[str] = []
    for name in reversed(_names(folder, "step")):
        try:
            tensors, about = folder.read_tensors(name)
            if "progress" in about:
                return tensors, about, damaged
        except RunError:
            pass
        damaged.append(name)
    why = f"of its checkpoints none can be read ({', '.join(damaged)})" if damaged else "it has no checkpoint yet"
    raise RunError(f"{folder.path} cannot be resumed: {why}; start it again with --overwrite.")


def weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's share of a checkpoint's tensors."""
    return _under(tensors, "model.")


def restore(
    folder: RunFolder,
    tensors: dict[str, Tensor],
    about: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clipping: Clipping,
    device: torch.device,
) -> Progress:
    """Bring model, optimiser and random states back to a checkpoint; return where training stood."""
    try:
        model.load_state_dict(weights(tensors))
        clipping.load_state_dict(_under(tensors, "clipping."))
        states: dict[int, dict[str, Any]] = {}
        for key, value in [*_under(tensors, "optimizer.").items(), *about["optimizer"].items()]:
            index, name = key.split(".", 1)
            states.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": states, "param_groups": about["param_groups"]})
        progress = Progress(**about["progress"])
        carried = tuple(tensors[f"state.{place}"].to(device) for place in range(len(_under(tensors, "state."))))
        progress.state = carried if about["state"] == "tuple" else (carried[0] if carried else None)
        _set_random_states(tensors, about["random"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"the checkpoint of {folder.path} does not fit its config.json: {error}") from None
    return progress


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of torch (every device's), NumPy and Python."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (the global one, if a task uses it)
    tensors = {
        "random.torch": torch.get_rng_state(),
        "random.python": torch.tensor(words, dtype=torch.int64),
        "random.numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors, {"python": [version, gauss], "numpy": [name, position, has_gauss, cached]}


def _set_random_states(tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random.torch"])
    version, gauss = about["python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), gauss))
    name, position, has_gauss, cached = about["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    cuda = _under(tensors, "random.cuda.")
    if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([cuda[str(index)] for index in range(len(cuda))])
