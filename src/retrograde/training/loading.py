"""A trained run, loaded: what `evaluate`, `predict`, `generate` and `flow` begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.vocabulary import Vocabulary
from ..errors import RunError
from ..memory import enough_memory, shortage
from ..options import Options
from ..runs import RunFolder, digest
from ..tasks.models import LanguageModel
from ..tasks.opening import reader_of

__all__ = ["Run", "load"]


@dataclass(frozen=True)
class Run:
    """A trained run, loaded.

    Attributes
    ----------
    model : Module
        With the weights of the best validation loss, in eval mode, on the CPU.
    vocabulary : Vocabulary or None
        Of a language model.
    config : dict
        The content of ``config.json``.
    summary : dict or None
        The content of ``summary.json``; None while training goes on, or if it was killed.
    metrics : list of dict
        The lines of ``metrics.jsonl``.
    reader : LabelledModel, ForecastModel, SyntheticTraining or None
        Of the other tasks: what brings a table to the model and its outputs to labels or numbers.
    """

    folder: Path
    model: nn.Module
    vocabulary: Any
    config: dict[str, Any]
    summary: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    reader: Any = None

    def expect(self, *tasks: str) -> None:
        """Refuse a run of another task.

        Raises
        ------
        RunError
        """
        if self.config["task"] not in tasks:
            wanted = " or ".join(f"--task {task}" for task in tasks)
            raise RunError(f"{self.folder} was trained with --task {self.config['task']}; this is for {wanted}.")


def load(path: str | Path) -> Run:
    """Load what a training run left: model, vocabulary, configuration, metrics.

    Raises
    ------
    RunError
        If there is no run, it is incomplete, damaged, or from a newer version.
    """
    folder = RunFolder(path)
    config = folder.config()
    if not (folder / "model.safetensors").exists():
        raise RunError(
            f"{path} holds no trained weights: it stopped before its first evaluation; go on with it by "
            f"retrograde train --out {path} --resume."
        )
    with enough_memory("this run", "its model is too large for this machine"):
        tensors, about = folder.read_tensors("model.safetensors")
        _check_kept(folder, about.get("sha256"))
        try:
            with torch.device("meta"):  # nothing is allocated before the sizes are known to be those of the weights
                _check_shapes(_built(folder, config)[0], tensors)
            model, vocabulary, reader = _built(folder, config)
            model.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            if shortage(error) is not None:
                raise
            words = " ".join(str(error).split())
            raise RunError(f"{folder / 'model.safetensors'} does not fit config.json: {words:.300}") from None
    return Run(folder.path, model.eval(), vocabulary, config, folder.summary(), folder.metrics(), reader)


def _built(folder: RunFolder, config: dict[str, Any]) -> tuple[nn.Module, Any, Any]:
    """The model of a run that still lacks its weights, and its vocabulary or reader."""
    # How weights start does not matter where others are loaded.
    start = {"init": "default", "spectral_radius": None, "forget_bias": None, "chrono": None}
    config = {**config, "options": Options.of(config["options"]).as_dict() | start}
    if config["task"] == "language":
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        return LanguageModel.of(len(vocabulary), config["options"]), vocabulary, None
    reader = reader_of(config["task"], folder.path, config)
    return reader.network, None, reader


def _check_shapes(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, shape in wanted.items():
        have = tuple(tensors[name].shape) if name in tensors else None
        if have != shape:
            raise ValueError(f"{name} is {have or 'missing'}, by config.json {shape}.")
    if more := sorted(set(tensors) - set(wanted)):
        raise ValueError(f"{more[0]} is nothing that this model has.")


def _check_kept(folder: RunFolder, digests: Any) -> None:
    """Refuse a vocabulary or scales other than those the weights were trained with."""
    for name, wanted in digests.items() if isinstance(digests, dict) else ():
        if name not in ("vocabulary.json", "preprocessing.json"):
            continue
        if digest(folder.read_text(name)) != wanted:
            raise RunError(
                f"{folder / name} is damaged: it is not what the weights were trained with; retrograde train --out "
                f"{folder.path} --resume puts it back."
            )
