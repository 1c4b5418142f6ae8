"""Tables, texts and tasks from the file to the forecast: all that is guessed, said, trained on and scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from sources import ALL, IN_FULL

from retrograde.errors import RetrogradeError
from retrograde.options import Options
from retrograde.tasks.registry import new_task
from retrograde.tasks.task import Task

SMALL = {"hidden_size": 3, "batch_size": 8, "seed": 5}


def fill(network: torch.nn.Module) -> None:
    """Weights that look random and are the same everywhere."""
    with torch.no_grad():
        for parameter in network.parameters():
            numbers = torch.sin(torch.arange(parameter.numel()).double().square() * 0.7 + 1)
            parameter.copy_(0.4 * numbers.view_as(parameter))


def kept(files: dict[str, str]) -> dict[str, Any]:
    """The files of a run: what is in JSON, and the beginning of everything else."""
    read = {name: json.loads(text) for name, text in files.items() if name.endswith(".json")}
    return read | {name: [len(text), text[:200]] for name, text in files.items() if name not in read}


def tensors(found: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if isinstance(value, torch.Tensor)}


def read_from(task: Task[Any], source: str) -> dict[str, Any]:
    """What a task reads from its data, and two predictions of a network of known weights."""
    batch = task.batch(task.steps_per_epoch)
    network = task.model()
    fill(network)
    predictor = task.predictor.from_files(task.files(), task.options, source)
    predictor.network.load_state_dict(network.state_dict())
    try:
        predictions: Any = list(islice(predictor.predict(source), 3))
    except RetrogradeError as refusal:
        predictions = str(refusal)
    return {
        "notes": task.notes,
        "is": [task.describe(), task.shape(), task.vocabulary_size],
        "columns": getattr(getattr(task, "reader", None), "columns", None),
        "batch": [tensors(batch), batch.size, batch.weight],
        "predictions": [predictions, predictor.notes],
    }


def all_of(task: Task[Any], source: str) -> dict[str, Any]:
    """What a task says and does, with a network of known weights."""
    torch.manual_seed(3)
    start = {name: [list(p.shape), float(p.detach().double().norm())] for name, p in task.model().named_parameters()}
    network = task.model().eval()  # dropout draws other numbers in other versions of torch
    fill(network)
    batches = [task.batch(step) for step in (0, 1)]
    before = task.evaluate(network)
    settled = task.settle(network)
    probes = [task.held_out(4), task.held_out(3, 5), task.examples(6)]
    defaults = Options().as_dict()
    return {
        "chosen": {name: [getattr(task.options, name), why] for name, why in task.chosen.items()},
        "options": {name: value for name, value in task.options.as_dict().items() if value != defaults[name]},
        "words": [task.batch_words(), task.unit, task.info(task.options)],
        "start": start,
        "batches": [[tensors(batch), batch.size, batch.weight] for batch in batches],
        "parts": [None if part is None else tensors(part) for part in (batches[0].part(r, 3) for r in (1, 2))],
        "loss": task.loss(network, batches[0], None)[0],
        "scores": [before, task.evaluate(network), settled, task.cost({k[11:]: v for k, v in before.items()})],
        "baselines": task.baselines(),
        "results": kept(task.results(network)),
        "probes": [[probe.inputs, probe.notes, probe.target, probe.loss(network(*probe.inputs))] for probe in probes],
        **applied(task, network, source),
    }


def applied(task: Task[Any], network: torch.nn.Module, source: str) -> dict[str, Any]:
    """What the predictor makes of the same data."""
    files, labels = task.files(), task.name in ("classify", "tag")
    predictor = task.predictor.from_files(files, task.options, source)
    predictor.network.load_state_dict(network.state_dict())
    found: dict[str, Any] = {"files": kept(files)}
    asked: dict[str, Callable[[], Any]] = {
        "evaluation": lambda: predictor.evaluate(source),
        "origins": lambda: predictor.backtest(source, "utf-8", 2),
        "predictions": lambda: list(islice(predictor.predict(source, probabilities=labels), 4)),
        "probe": lambda: [(one := predictor.examples(source, "utf-8", 3, 6)).inputs, one.notes],
    }
    for name, ask in asked.items():
        try:
            found[name] = [ask(), list(predictor.notes)]
        except RetrogradeError as refusal:
            found[name] = f"{type(refusal).__name__}: {refusal}"
    return found


@pytest.mark.parametrize("name", ALL)
def test_from_the_file_to_the_prediction(
    name: str, recorded: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, content, options = ALL[name]
    if content:
        Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        of_text = {} if file.startswith("builtin:") or options.get("task") == "forecast" else {"embedding_size": 2}
        task = new_task(file, SMALL | of_text | options)
    except RetrogradeError as refusal:
        recorded(f"{type(refusal).__name__}: {refusal}")
    else:
        recorded(read_from(task, file) | (all_of(task, file) if name in IN_FULL else {}))
