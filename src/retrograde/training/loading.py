"""A trained run, loaded: what `evaluate`, `predict`, `generate` and `flow` start with.

Tests: `tests/training/test_checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.formats import in_memory
from ..data.frames import arrow_of, as_frame, frame_of
from ..data.memory import Sequences
from ..errors import RunError
from ..memory import enough_memory, shortage
from ..runs import Config, Metrics, RunFolder, Summary, digest
from ..tasks.models import without_values
from ..tasks.registry import KEPT, open_predictor
from ..tasks.task import Predictor


@dataclass(frozen=True)
class TrainedRun:
    """A trained network and what its run folder says about it.

    Attributes
    ----------
    folder : Path
    predictor : Predictor
        The network with everything that is needed to apply it to other data.
    config : Config
    summary : Summary or None
        None while training goes on, or if it was killed.
    metrics : list of Metrics
    """

    folder: Path
    predictor: Predictor
    config: Config
    summary: Summary | None
    metrics: list[Metrics]

    @property
    def model(self) -> nn.Module:
        """The network with the weights that did best on the validation part, in eval mode, on the CPU."""
        return self.predictor.network

    @property
    def vocabulary(self) -> Any:
        """The vocabulary of a language model; None for other tasks."""
        return getattr(self.predictor, "vocabulary", None)

    def predict(self, data: Any, probabilities: bool = False) -> Any:
        """Apply the network to other data.

        Parameters
        ----------
        data : str, Path, DataFrame, or arrays or texts
            A file as ``retrograde predict`` takes it, a DataFrame with the columns that it was trained with, or
            sequences as `retrograde.Classifier` takes them. For a text model a str is the name of a file.
        probabilities : bool
            Whether to add the probability of every label.

        Returns
        -------
        DataFrame or list of dict
            The rows that ``retrograde predict`` writes; for a DataFrame as one of the same library.

        Examples
        --------
        >>> load("runs/stars").predict(frame)["prediction"]  # doctest: +SKIP
        """
        frame = as_frame(data)
        named = in_memory(data) or frame is not None or isinstance(data, str | Path)
        source = arrow_of(frame) if frame is not None else data if named else Sequences.of(data)
        rows = list(self.predictor.predict(source, self.config.options.encoding, probabilities))
        if frame is None:
            return rows
        return frame_of({name: [row[name] for row in rows] for name in (rows[0] if rows else ["prediction"])}, frame)

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
            f"{path} contains no trained weights: it stopped before its first evaluation; go on with it by "
            f"retrograde train --out {path} --resume."
        )
    with enough_memory("this run", "its model is too large for this machine"):
        tensors, about = folder.read_tensors("model.safetensors")
        _check_files(folder, about.get("sha256"))
        try:
            with without_values():  # nothing is allocated before the sizes are compared with those of the weights
                _check_shapes(_predictor(folder, config).network, tensors)
            predictor = _predictor(folder, config)
            predictor.network.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            if shortage(error) is not None:
                raise
            text = " ".join(str(error).split())
            raise RunError(f"{folder / 'model.safetensors'} does not fit config.json: {text:.300}") from None
    predictor.network.eval()
    return TrainedRun(folder.path, predictor, config, folder.summary(), folder.metrics())


def _predictor(folder: RunFolder, config: Config) -> Predictor:
    # The initialization does not matter, because other weights are loaded.
    options = replace(config.options, init="default", spectral_radius=None, forget_bias=None, chrono=None)
    return open_predictor(folder.path, options, config.data.source)


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
