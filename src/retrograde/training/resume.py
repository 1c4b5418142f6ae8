"""Resuming a run: its options against those given now, damaged files, and forgetting what came after the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.formats import name_of
from ..errors import DataError, OptionError, RunError
from ..options import Options, flag
from ..runs import Config, RunFolder
from ..tasks.opening import fingerprint_of, open_task
from ..tasks.task import Task
from . import checkpoint
from .callback import Callback
from .checkpoint import Checkpoint
from .schedule import planned_steps
from .trainer import Trainer

__all__ = ["find_checkpoint", "open_same_data", "resume_run", "resumed_options"]


def resumed_options(config: Config, given: Mapping[str, Any]) -> Options:
    """The options of a run, with those that may change replaced by what is given now.

    Raises
    ------
    OptionError
        If another option is given and differs.
    """
    saved = config.options.as_dict() | {"max_time": None}  # which counts from the start of each session
    asked = Options.of(given).as_dict()
    for name in given:
        if name not in Options.MAY_CHANGE and asked[name] != saved[name]:
            raise OptionError(
                f"{flag(name)} {asked[name]} contradicts the run, which has {saved[name]}: resume without it, or start "
                "another run."
            )
        saved[name] = asked[name]
    return Options.of(saved)


def find_checkpoint(folder: RunFolder, callback: Callback) -> Checkpoint | None:
    """Read the newest checkpoint and restore the files that it contains; None if training ended before the first one.

    Raises
    ------
    RunError
        If no checkpoint can be read.
    """
    if not checkpoint.exists(folder) and not (folder / "model.safetensors").exists():
        return None
    found = checkpoint.latest(folder)
    for name, content in found.files.items():
        try:
            same = folder.read_bytes(name) == content.encode("utf-8", "replace")
        except RunError:
            same = False
        if not same:
            callback.on_note(f"{folder / name} was missing or damaged; the checkpoint has it.")
            folder.write(name, content)
    return found


def open_same_data(source: Any, options: Options, config: Config, folder: RunFolder, found: bool) -> Task[Any]:
    """Open the data of a run again.

    Parameters
    ----------
    source : str or frame
    options : Options
    config : Config
    folder : RunFolder
    found : bool
        Whether there is a checkpoint, so that the folder has the vocabulary, columns and scales.

    Raises
    ------
    DataError
        If the content is not the same as before.
    """
    before = config.data.fingerprint
    changed = DataError(
        f"{name_of(source)} is not what {folder.path} was trained on ({config.data.source}), or it, or a "
        "file to validate or test with, has another content now: resume with that, or start another run."
    )
    try:
        task = open_task(config.task, source, options.as_dict(), folder.path if found else None)
    except DataError:
        if fingerprint_of(config.task, source, options.as_dict()) not in (before, None):
            raise changed from None  # this is why it cannot be read as before
        raise
    if task.fingerprint != before:
        raise changed
    return task


def resume_run(trainer: Trainer, found: Checkpoint, config: Config, folder: RunFolder) -> None:
    """Load a checkpoint into a trainer, and undo what came after it, so that the run is as if it had never stopped.

    Raises
    ------
    RunError
        If ``config.json`` was changed, or the checkpoint is of another model.
    """
    for name, then in found.options.items():
        now = trainer.options.as_dict().get(name, then)
        if name not in Options.MAY_CHANGE and now != then:
            raise RunError(
                f"{folder / 'config.json'} was changed since training began: its {name} is {now!r}, that of the "
                f"checkpoint {then!r}; put it back."
            )
    try:
        trainer.load_state_dict(found.state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise RunError(f"the checkpoint of {folder.path} does not fit its config.json: {text:.300}") from None
    trainer.context.wait()  # until all processes have read it
    _note_changes(trainer, found, planned_steps(config.options, trainer.task))
    folder.write_metrics(trainer.progress.metrics)
    if found.best is None:
        folder.remove("model.safetensors")
    else:
        folder.write_tensors("model.safetensors", *found.best)
    for name in [*found.damaged, "summary.json"]:
        folder.remove(name)


def _note_changes(trainer: Trainer, found: Checkpoint, planned_before: int) -> None:
    step, schedule = trainer.progress.step, trainer.options.schedule
    if found.damaged:
        trainer.callbacks.on_note(
            f"{', '.join(found.damaged)} cannot be read; going on from step {step:,}, saved before."
        )
    if trainer.planned_steps != planned_before and schedule in ("cosine", "linear"):
        trainer.callbacks.on_note(
            f"the {schedule} schedule of the learning rate now ends at step {trainer.planned_steps:,} (it was "
            f"{planned_before:,}); the {step:,} steps already taken followed the old one."
        )
