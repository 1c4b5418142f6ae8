"""Resuming a run: its options against those given now, damaged files, and forgetting what came after the checkpoint.

Tests: `tests/training/test_nothing_lost.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.formats import name_of
from ..errors import DataError, OptionError, RunError
from ..option import flag
from ..options import Options
from ..runs import Config, RunFolder
from ..tasks.registry import fingerprint_of, open_task
from ..tasks.task import Task
from . import checkpoint
from .callback import Callback
from .checkpoint import Checkpoint
from .schedule import planned_steps
from .trainer import Trainer


class PreviousRun:
    """The run that is resumed.

    Attributes
    ----------
    config : Config
    checkpoint : Checkpoint or None
        Set by `find_checkpoint`; None if training ended before the first one.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.checkpoint: Checkpoint | None = None

    def options(self, given: Mapping[str, Any]) -> Options:
        """Its options, with those that may change replaced by what is given now.

        Raises OptionError if another option is given and differs.
        """
        saved = self.config.options.as_dict() | {"max_time": None}  # which counts from the start of each session
        asked = Options.of(given).as_dict()
        for name in given:
            if name not in Options.MAY_CHANGE and asked[name] != saved[name]:
                raise OptionError(
                    f"{flag(name)} {asked[name]} contradicts the run, which has {saved[name]}: resume without it, or "
                    "start another run."
                )
            saved[name] = asked[name]
        return Options.of(saved)

    def find_checkpoint(self, folder: RunFolder, callback: Callback) -> None:
        """Read the newest checkpoint, if there is one, and restore the files that it contains.

        Raises RunError if there are checkpoints and none can be read.
        """
        if not checkpoint.exists(folder) and not (folder / "model.safetensors").exists():
            return
        self.checkpoint = checkpoint.latest(folder)
        for name, content in self.checkpoint.files.items():
            try:
                same = folder.read_bytes(name) == content.encode("utf-8", "replace")
            except RunError:
                same = False
            if not same:
                callback.on_note(f"{folder / name} was missing or damaged; the checkpoint has it.")
                folder.write(name, content)

    def open_task(self, source: Any, options: Options, folder: RunFolder) -> Task[Any]:
        """Open its data again, with the vocabulary, columns and scales of the run folder.

        Raises DataError if the content is not the same as before.
        """
        before = self.config.data
        changed = DataError(
            f"{name_of(source)} is not what {folder.path} was trained on ({before.source}), or it, or a file to "
            "validate or test with, has another content now: resume with that, or start another run."
        )
        try:
            task = open_task(source, options, folder.path if self.checkpoint else None)
        except DataError:
            if fingerprint_of(source, options) not in (before.fingerprint, None):
                raise changed from None  # this is why it cannot be read as before
            raise
        if task.fingerprint != before.fingerprint:
            raise changed
        return task

    def resume(self, trainer: Trainer, folder: RunFolder) -> None:
        """Load the checkpoint into a trainer, and undo what came after it, as if the run had never stopped.

        Raises RunError if ``config.json`` was changed, or the checkpoint is of another model.
        """
        found = self.checkpoint
        assert found is not None
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
        self._note_changes(trainer, found)
        folder.write_metrics(trainer.progress.metrics)
        if found.best is None:
            folder.remove("model.safetensors")
        else:
            folder.write_tensors("model.safetensors", *found.best)
        for name in [*found.damaged, "summary.json"]:
            folder.remove(name)

    def _note_changes(self, trainer: Trainer, found: Checkpoint) -> None:
        step, planned, before = (
            trainer.progress.step,
            trainer.planned_steps,
            planned_steps(self.config.options, trainer.task),
        )
        if found.damaged:
            names = ", ".join(found.damaged)
            trainer.callbacks.on_note(f"{names} cannot be read; going on from step {step:,}, saved before.")
        if planned != before and (schedule := trainer.options.schedule) in ("cosine", "linear"):
            trainer.callbacks.on_note(
                f"the {schedule} schedule of the learning rate now ends at step {planned:,} (it was {before:,}); the "
                f"{step:,} steps already taken followed the old one."
            )
