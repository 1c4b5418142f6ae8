"""What is made of a training run beside its weights: flow recorded meanwhile, and at the end baselines, flow, page."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from ..errors import RetrogradeError
from ..options import Options
from ..runs import RunFolder
from . import checkpoint
from .loop import Listener, Progress

__all__ = ["FLOW_BUDGET", "FLOW_SEQUENCES", "FLOW_STEPS", "FlowRecording", "finish"]

FLOW_SEQUENCES, FLOW_STEPS = 8, 100
FLOW_BUDGET: float | None = 0.03  # share of the time that --record-flow may take


def finish(
    task: Any,
    folder: RunFolder,
    options: Options,
    model: nn.Module,
    summary: dict[str, Any],
    listener: Listener,
    report: bool,
) -> None:
    """What is made once, at the end: baselines, sample, gradient flow, page."""
    listener.stage("counting the baselines")
    summary["baselines"] = task.baselines()
    folder.write_json("summary.json", summary)

    # The best weights; those of the last good checkpoint if training diverged before it was ever judged.
    if (folder / "model.safetensors").exists():
        model.load_state_dict(folder.read_tensors("model.safetensors")[0])
    else:
        model.load_state_dict(checkpoint.weights(checkpoint.latest(folder).tensors))
    listener.stage("judging the trained network")
    for name, content in task.results(model.cpu().eval()).items():
        folder.write(name, content)
        if name == "evaluation.json":
            found = json.loads(content)
            summary["results"] = {part: _numbers(value) for part, value in found.items() if isinstance(value, dict)}
            if "solved" in found:  # what the paper of a synthetic task asks for
                summary["goal"] = found
            folder.write_json("summary.json", summary)
    if not report:
        return
    listener.stage("measuring how far the gradient reaches")
    try:
        _measure_flow(task, folder, options, model)
        listener.stage("writing the page")
        from .. import report as page

        folder.check_alive()
        page.write(folder.path)
    except Exception as error:  # the run itself is whole, and worth more than its page
        folder.check_alive()  # if that is why, the run itself is lost
        listener.note(f"the page is not complete: {type(error).__name__}: {error}")
    folder.check_alive()


class FlowRecording(Listener):
    """Hears of every step in place of a listener, records the gradient flow now and then, and tells that listener."""

    def __init__(
        self, told: Listener, model: nn.Module, task: Any, folder: RunFolder, options: Options, *, resume: bool
    ) -> None:
        from ..flow.recorder import GradientFlowRecorder, mapped

        device = next(model.parameters()).device
        (*inputs,), loss = task.probe(FLOW_SEQUENCES // 2, FLOW_STEPS)
        self.told, self._folder = told, folder
        self.recorder: GradientFlowRecorder | None = GradientFlowRecorder(
            model,
            lambda output: loss(mapped(output, lambda leaf: leaf.cpu())),
            inputs=mapped(tuple(inputs), lambda leaf: leaf.to(device)),
            every=max(1, min(100, (options.eval_every or 100) // 5)),
            budget=FLOW_BUDGET,
            sequences=None,  # the loss holds the answers of all of them
            run=folder.path if folder.writes else None,
            resume=resume,
        )

    def step(self, progress: Progress) -> None:
        """One more; measured if it is time."""
        if self.recorder is not None:
            self._folder.check_alive()  # the recorder makes the folders that it needs
            try:
                self.recorder.step(step=progress.step)
            except RetrogradeError as error:
                self.told.note(f"the gradient flow is not recorded: {error}")
                self.recorder = None
        self.told.step(progress)

    def say(self) -> None:
        """How often it was measured, and what that took."""
        if self.recorder is None or not (self.recorder.records or self.recorder.skipped):
            return
        times, skipped, limit = len(self.recorder.records), self.recorder.skipped, f"{FLOW_BUDGET or 1:.0%}"
        if not times:
            self.told.note(
                f"the gradient flow was not recorded: each of {skipped} measurements would have taken over {limit} of "
                "the time of so short a training."
            )
            return
        said = f"the gradient flow was recorded {times} time{'s' * (times != 1)} while training"
        if skipped:
            said += f"; {skipped} more were left out, to stay within {limit} of the time"
        self.told.note(f"{said} (it took {self.recorder.overhead:.1%}).")


def _numbers(found: dict[str, Any]) -> dict[str, Any]:
    """The metrics that are single numbers."""
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _measure_flow(task: Any, folder: RunFolder, options: Options, trained: nn.Module) -> None:
    """The gradient flow of the trained model and of its twin with the weights it began with."""
    from ..flow import gradient_flow

    inputs, loss = task.probe(FLOW_SEQUENCES, FLOW_STEPS)
    torch.manual_seed(options.seed)
    untrained = task.model()
    for name, model in (("trained", trained.cpu()), ("untrained", untrained)):
        model.eval()
        flow = gradient_flow(model, *inputs, loss=loss)
        folder.check_alive()  # what is saved there makes the folders that it needs
        flow.save(folder / "flow" / name)
