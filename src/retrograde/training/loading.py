"""A trained run, loaded: what `evaluate`, `predict`, `generate` and `flow` start with."""

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
from ..runs import Config, Metrics, RunFolder, Summary, digest
from ..tasks.models import LanguageModel
from ..tasks.opening import reader_of
from .checkpoint import KEPT

__all__ = ["TrainedRun", "load"]


@dataclass(frozen=True)
class TrainedRun:
    """A trained network and what its run folder says about it.

    Attributes
    ----------
    folder : Path
    model : Module
        With the weights of the best validation loss, in eval mode, on the CPU.
    vocabulary : Vocabulary or None
        Of a language model.
    config : Config
    summary : Summary or None
        None while training goes on, or if it was killed.
    metrics : list of Metrics
    reader : LabelledModel, ForecastModel, SyntheticTraining or None
        For other tasks: turns a table into inputs of the model, and its outputs into labels or numbers.
    """

    folder: Path
    model: nn.Module
    vocabulary: Any
    config: Config
    summary: Summary | None
    metrics: list[Metrics]
    reader: Any = None

    def expect(self, *tasks: str) -> None:
        """Refuse a run of another task.

        Raises
        ------
        RunError
        """
        if self.config.task not in tasks:
            wanted = " or ".join(f"--task {task}" for task in tasks)
            raise RunError(f"{self.folder} was trained with --task {self.config.task}; this is for {wanted}.")


def load(path: str | Path) -> TrainedRun:
    """Load the result of a training: model, vocabulary, configuration, metrics.

    Parameters
    ----------
    path : str or Path
        The run folder.

    Raises
    ------
    RunError
        If there is no run, or it is incomplete, damaged, or from a newer version.
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
        _check_files(folder, about.get("sha256"))
        try:
            with torch.device("meta"):  # nothing is allocated before the sizes are compared with those of the weights
                _check_shapes(_build(folder, config)[0], tensors)
            model, vocabulary, reader = _build(folder, config)
            model.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            if shortage(error) is not None:
                raise
            text = " ".join(str(error).split())
            raise RunError(f"{folder / 'model.safetensors'} does not fit config.json: {text:.300}") from None
    return TrainedRun(folder.path, model.eval(), vocabulary, config, folder.summary(), folder.metrics(), reader)


def _build(folder: RunFolder, config: Config) -> tuple[nn.Module, Any, Any]:
    """The model of a run, still without its weights, and its vocabulary or reader."""
    # The initialization does not matter, because other weights are loaded.
    options = config.options.as_dict() | {"init": "default"}
    options |= dict.fromkeys(("spectral_radius", "forget_bias", "chrono"))
    if config.task == "language":
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        return LanguageModel.of(len(vocabulary), options), vocabulary, None
    reader = reader_of(config.task, folder.path, {"options": options, "data": config.data.details})
    return reader.network, None, reader


def _check_shapes(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, shape in wanted.items():
        have = tuple(tensors[name].shape) if name in tensors else None
        if have != shape:
            raise ValueError(f"{name} is {have or 'missing'}, by config.json {shape}.")
    if more := sorted(set(tensors) - set(wanted)):
        raise ValueError(f"this model has no {more[0]}.")


def _check_files(folder: RunFolder, digests: Any) -> None:
    """Refuse a vocabulary or scales other than those the weights were trained with."""
    for name, wanted in digests.items() if isinstance(digests, dict) else ():
        if name in KEPT and digest(folder.read_text(name)) != wanted:
            raise RunError(
                f"{folder / name} is damaged: it is not what the weights were trained with; retrograde train --out "
                f"{folder.path} --resume puts it back."
            )
