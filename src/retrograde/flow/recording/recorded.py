"""Run a model once, isolated and recorded: what ``gradient_flow`` and ``sequence_gradients`` begin with.

Tests: `tests/flow/test_isolation.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .calls import AnyCall
from .capture import CallRecorder, recording
from .graph import Graph
from .isolation import isolated
from .losses import check_axes, check_callable, check_finite, check_keywords, losses_by_step, no_layer_error
from .runs import labeled_runs


@dataclass
class RecordedRun:
    """One run of a model."""

    module: Any  # the module behind the model, or the model itself where none is known
    recorder: CallRecorder  # the recurrent layers that ran
    runs: dict[str, list[AnyCall]]  # their calls, by the label of the run
    losses: Tensor  # the losses `(T, B)`
    final: bool  # whether they came as one per sequence; then T is 1
    notes: list[str]  # what a reader must know about the measurement

    def graph(self, wanted: list[str], alive: Tensor | None = None) -> Graph:
        """The graph of the run.

        Raises FlowError if the losses are transposed.
        """
        alive = torch.ones_like(self.losses) if alive is None else alive
        graph = Graph(self.losses, self.recorder, self.runs, wanted, alive, self.notes)
        if not self.final:
            check_axes(graph)
        return graph


@dataclass
class MeasuredModel:
    """A model, what it is called with, and its loss, as ``gradient_flow`` takes them.

    Raises
    ------
    OptionError
        An argument has the wrong form.
    """

    model: Callable[..., Any]
    inputs: tuple[Any, ...]
    loss: Callable[[Any], Tensor]
    kwargs: Mapping[str, Any] | None
    module: Any = None
    training: bool = False
    _keywords: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        check_callable(self.model, self.loss)
        check_keywords(self.kwargs)
        self._keywords = self.kwargs or {}

    @contextlib.contextmanager
    def recorded(self, *, freeze: bool, finite: bool, loops: bool = False) -> Iterator[RecordedRun]:
        """Run the model; inside the block its graph is alive, and at the end everything is restored.

        freeze: whether parameters are constants.
        finite: whether inputs and states that are not finite are refused.
        loops: whether steps of loops may be recorded in blocks.
        """
        notes: list[str] = []
        options: dict[str, Any] = {"module": self.module, "training": self.training, "freeze": freeze, "notes": notes}
        with (
            isolated(self.model, inputs=(self.inputs, self._keywords), **options) as isolation,
            recording(isolation.module, loops=loops) as recorder,
        ):
            keywords = {name: isolation.given(value) for name, value in self._keywords.items()}
            losses = self.loss(self.model(*map(isolation.given, self.inputs), **keywords))
            with recorder.at_rest():
                if not recorder.calls:
                    raise no_layer_error(isolation.module, self.model)
                runs = labeled_runs(recorder.calls)
                if finite:
                    check_finite(runs)
                table, final = losses_by_step(losses, recorder.calls)
                yield RecordedRun(isolation.module, recorder, runs, table, final, notes)
