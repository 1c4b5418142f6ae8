"""What is made of the trained network at the end: baselines, results, and its gradient flow."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from ..flow import gradient_flow
from ..runs import Results, RunFolder, Summary
from . import checkpoint
from .callbacks import FLOW_SEQUENCES, FLOW_STEPS
from .trainer import Trainer

__all__ = ["measure_flow", "write_results"]


def write_results(trainer: Trainer, folder: RunFolder, summary: Summary) -> Summary:
    """Add baselines and the results of the best weights to the summary, and write the files of the task.

    The model of the trainer then has the best weights, on the CPU, in eval mode.
    """
    trainer.callbacks.on_stage("counting the baselines")
    summary = replace(summary, baselines=trainer.task.baselines())
    folder.write_summary(summary)

    # If training diverged before the first evaluation, the best weights are those of the last checkpoint.
    if (folder / "model.safetensors").exists():
        trainer.model.load_state_dict(folder.read_tensors("model.safetensors")[0])
    else:
        trainer.model.load_state_dict(checkpoint.latest(folder).state.model)
    trainer.callbacks.on_stage("judging the trained network")
    for name, content in trainer.task.results(trainer.model.cpu().eval()).items():
        folder.write(name, content)
        if name == "evaluation.json":
            found = Results.of(json.loads(content))
            scores = {part: result.scores for part, result in found.parts.items()}
            summary = replace(summary, results=scores, goal=found.goal)
            folder.write_summary(summary)
    return summary


def measure_flow(trainer: Trainer, folder: RunFolder) -> None:
    """Measure the gradient flow of the trained model, and of the same model with its initial weights."""
    trainer.callbacks.on_stage("measuring how far the gradient reaches")
    inputs, loss = trainer.task.probe(FLOW_SEQUENCES, FLOW_STEPS)
    torch.manual_seed(trainer.options.seed)
    untrained = trainer.task.model()
    for name, model in (("trained", trainer.model.cpu()), ("untrained", untrained)):
        model.eval()
        flow = gradient_flow(model, *inputs, loss=loss)
        folder.check_alive()  # saving creates missing folders
        flow.save(folder / "flow" / name)
