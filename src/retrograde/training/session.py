"""A training run from its data to its page: `train`, and `load` for what it left behind."""

from __future__ import annotations

import math
import os
import platform
import random
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from .. import __version__, kernels
from ..cells import find
from ..data.formats import is_frame, name_of
from ..errors import DataError, DivergedError, OptionError, RunError
from ..memory import enough_memory, shortage
from ..options import Options, flag
from ..runs import FORMAT, RunFolder, digest
from ..tasks.opening import fingerprint_of, open_task, task_name
from . import checkpoint
from .clipping import Clipping
from .finish import FlowRecording, finish
from .loop import Listener, Progress, diverged, run, window_line
from .regularise import VanishingGradientRegulariser
from .signals import REQUEUE, collected_signals
from .team import Team

__all__ = ["Result", "train"]

LESS = "lower --batch-size, --hidden-size or, for text, --bptt"


@dataclass(frozen=True)
class Result:
    """What a training run came to.

    Attributes
    ----------
    folder : Path
        The run folder.
    summary : dict
        The content of its ``summary.json``.
    signal : int or None
        The signal that ended it, if one did.
    """

    folder: Path
    summary: dict[str, Any]
    signal: int | None = None


def train(
    data: Any,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: bool = True,
    record_flow: bool = False,
    listener: Listener | None = None,
    **given: Any,
) -> Result:
    """Train a recurrent network on a task and leave a run folder.

    On one machine the same data, options, seed and number of threads give the same weights, bit for
    bit, whether the run was interrupted and resumed or not. torch's, NumPy's and Python's global
    random states are set.

    Parameters
    ----------
    data : str, Path, frame or None
        Text (see `retrograde.data.text.read_text`), a table (`retrograde.data.formats.open_table`), a DataFrame of
        pandas or Polars or a table of Arrow, or a synthetic task (``builtin:adding?length=100``). None: with
        ``resume``, what the run was trained on.
    out : str or Path
        The run folder.
    resume, overwrite : bool
        Go on with the run in ``out``, or replace it. Without either, one that is there is refused.
    report : bool
        Whether to measure the gradient flow and write ``report.html`` at the end.
    record_flow : bool
        Whether to measure it on held-out sequences now and then while training too (``GradientFlowRecorder``, at most
        3 % of the time), into ``flow/recorded.jsonl``. It changes nothing about the training.
    listener : Listener, optional
        Hears of each step and evaluation.
    **given
        Fields of `Options`. With ``resume`` the run's own hold, and only those of `Options.MAY_CHANGE` may differ;
        ``max_time`` counts anew in each session.

    A run's own ``config.json`` says where its data lies; what is found there is learnt from only if its content is that
    which the run began with.

    Raises
    ------
    OptionError, DataError, RunError
        Before any work, if something given is impossible. RunError also if the disk is full or a process of the job is
        gone; what was saved before stays.
    DivergedError
        If the loss or a gradient stops being a number; the last good checkpoint is kept.
    """
    first = _rank() == 0
    listener = listener if first and listener is not None else Listener()
    folder = RunFolder(out, writes=first, note=listener.note)
    with ExitStack() as held, enough_memory("this", LESS):
        if folder.writes:
            folder.check_writable(resume=resume, overwrite=overwrite)
        if resume:
            held.enter_context(folder.locked())
        config = folder.config() if resume else {}
        options = _options_of_resumed(config, given) if resume else Options.of(given)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        team = Team(_accelerator(options))

        if data is not None and not isinstance(data, str | Path) and not is_frame(data):
            raise DataError(
                f"data is a {type(data).__name__}: give the name of a file, a DataFrame of pandas or Polars, or a "
                "table of Arrow; arrays are read from a file, numpy.save."
            )
        source = data if data is None or is_frame(data) else str(data)
        source = source if source is not None else config.get("data", {}).get("source")
        if source is None:
            raise OptionError("there is nothing to train on: name a file, a folder, - or builtin:stdlib.")
        if data is None and (source == "-" or config["data"].get("in_memory")):
            what = "standard input" if source == "-" else source
            raise OptionError(f"{out} was trained on {what}: give DATA (with the same content) to go on with it.")
        name = task_name(source, options.task)
        Options.check_task(name, given)
        if not resume:
            options = options.for_task(name, given)
        kept = resume and (checkpoint.exists(folder) or (folder / "model.safetensors").exists())
        found = checkpoint.latest(folder) if kept else None
        if found is not None:
            _mend(folder, found, listener)
            team.wait()
        changed = DataError(
            f"{name_of(source)} is not what {out} was trained on ({config.get('data', {}).get('source')}), or it, or a "
            "file to validate or test with, has another content now: resume with that, or start another run."
        )
        before = config["data"].get("fingerprint") if resume else None
        try:
            task = open_task(name, source, options.as_dict(), folder.path if found is not None else None)
        except DataError:
            if resume and fingerprint_of(name, source, options.as_dict()) not in (before, None):
                raise changed from None  # that is why it cannot be read as it was
            raise
        if resume and task.fingerprint != before:
            raise changed
        options = replace(
            options,
            batch_size=task.batch_size,
            eval_every=options.eval_every or max(10, min(500, math.ceil(task.steps_per_epoch / 2))),
        )
        _check_size(options, task)
        trial = task.model()  # what cannot be built is refused before anything is written
        if options.omega:
            VanishingGradientRegulariser(trial, options.omega)
        del trial
        if team.size > task.batch_size:
            raise OptionError(
                f"--batch-size {task.batch_size} leaves some of {team.size} processes without work: raise it."
            )
        if not resume:
            held.enter_context(folder.locked())
            if folder.writes:  # another may have written while data was read
                folder.check_writable(resume=False, overwrite=overwrite)
        return _train(task, folder, options, config, team, listener, found, report, record_flow)


def _mend(folder: RunFolder, found: checkpoint.Checkpoint, listener: Listener) -> None:
    """Put back what the checkpoint keeps of the files beside the weights, where one was lost or damaged."""
    for name, content in found.files.items():
        try:
            same = folder.read_bytes(name) == content.encode("utf-8", "replace")
        except RunError:
            same = False
        if not same:
            listener.note(f"{folder / name} was missing or damaged; the checkpoint has it.")
            folder.write(name, content)


def _check_size(options: Options, task: Any) -> None:
    """Refuse a model that cannot fit before it takes all memory there is.

    Raises
    ------
    OptionError
    """
    gates = len(find(options.cell).gates)
    least = options.num_layers * gates * options.hidden_size * (options.hidden_size + 2)
    if tokens := task.describe().get("vocabulary_size"):
        least += (tokens + gates * options.hidden_size) * options.embedding_size
    needed = 4 * least * (2 if options.optimizer == "sgd" else 4)  # weights, gradients, Adam's two moments
    # A table has only so many sequences; what is made anew for each batch has no such bound.
    steps = task.task.length if task.name == "synthetic" else 0
    states = 4 * task.batch_size * steps * options.num_layers * options.hidden_size
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return
    if needed > memory:
        raise OptionError(
            f"--hidden-size {options.hidden_size:,} (--num-layers {options.num_layers}, --embedding-size "
            f"{options.embedding_size:,}) makes a model of {least:.3g} numbers, whose training needs "
            f"{needed / 2**30:,.0f} GB of memory; there are {memory / 2**30:,.0f}: lower them."
        )
    if states > memory:
        raise OptionError(
            f"--batch-size {task.batch_size:,} sequences of {steps:,} steps need at least {states / 2**30:,.0f} GB of "
            f"memory for their states; there are {memory / 2**30:,.0f}: lower it, or the length."
        )


def _rank() -> int:
    """The place of this process in its job, as torchrun and accelerate launch tell it."""
    return int(os.environ.get("RANK", "0"))


def _options_of_resumed(config: dict[str, Any], given: dict[str, Any]) -> Options:
    saved = {name: value for name, value in config.get("options", {}).items() if name != "max_time"}
    asked = Options.of(given)
    for name in given:
        new, old = getattr(asked, name), saved.get(name)
        if name not in Options.MAY_CHANGE and new != old:
            raise OptionError(
                f"{flag(name)} {new} contradicts the run, which has {old}: resume without it, or start another run."
            )
        if name in Options.MAY_CHANGE:
            saved[name] = new
    return Options.of(saved)


def _accelerator(options: Options) -> Accelerator:
    """Device and precision, by Hugging Face accelerate."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(options.device, True):
        raise OptionError(f"--device {options.device} is not there on this machine; leave it out or give cpu.")
    mixed = "bf16" if options.precision == "bf16" else "no"
    # Accelerate keeps one state per process, and refuses another device or precision than the first training's.
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    # Several processes on a machine without CUDA meet over gloo on their CPUs only if accelerate is told so.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    alone = options.device == "auto" and not available["cuda"] and (several or not available["mps"])
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=options.stall_minutes))
    return Accelerator(
        cpu=options.device == "cpu" or alone, mixed_precision=mixed, kwargs_handlers=[patience] if several else None
    )


def _optimizer(options: Options, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    # Fused: one pass over the parameters, a third of the time of the default on a CPU.
    common: dict[str, Any] = {
        "lr": options.lr,
        "weight_decay": options.weight_decay,
        "fused": device.type in ("cpu", "cuda"),
    }
    if options.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=options.momentum, **common)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), **common)


def _seed(options: Options) -> None:
    torch.manual_seed(options.seed)
    np.random.seed(options.seed % 2**32)  # noqa: NPY002
    random.seed(options.seed)


def _train(
    task: Any,
    folder: RunFolder,
    options: Options,
    config: dict[str, Any],
    team: Team,
    listener: Listener,
    found: checkpoint.Checkpoint | None,
    report: bool,
    record_flow: bool,
) -> Result:
    _seed(options)
    model = task.model()
    clip = Clipping(options.clip_norm, options.clip_value, options.clip_quantile)
    accelerator = team.accelerator
    regulariser = VanishingGradientRegulariser(model, options.omega) if options.omega else None
    prepared, optimizer = accelerator.prepare(model, _optimizer(options, model, accelerator.device))

    progress, files = Progress(), (found.files if found is not None else {}) or task.files()
    digests = {name: digest(content) for name, content in files.items()}
    saved = time.monotonic()

    def save() -> None:
        """Write a checkpoint of the whole job."""
        nonlocal saved
        mine, progress.state = progress.state, team.gathered(progress.state)
        random_states = team.collected(torch.get_rng_state())
        checkpoint.save(folder, model, optimizer.optimizer, clip, progress, options, files, random_states)
        progress.state = mine
        saved = time.monotonic()

    def due() -> bool:
        """Whether so long has passed since the last checkpoint that another is written amid an interval."""
        return 0 < 60 * options.checkpoint_minutes <= time.monotonic() - saved

    planned = _planned(options, task)
    if found is not None:
        progress = checkpoint.restore(
            folder, found, model, optimizer.optimizer, clip, options, accelerator.device, team.rank
        )
        progress.state = team.scattered(progress.state)
        team.wait()  # all have read before the first one writes
        _say_resumed(found, planned, _planned(Options.of(config["options"]), task), options, listener)
        _forget_after(folder, found)
        folder.remove("summary.json")
    else:
        if config:
            listener.note("it was ended before its first checkpoint was written, and begins anew.")
        team.wait()
        folder.clear()
    config = _config(task, options, model, config)
    folder.write_json("config.json", config)
    if found is None:
        for name, content in files.items():
            folder.write(name, content)
        folder.write_lines("metrics.jsonl", [])
        save()

    def evaluate(lr: float, scheduled: bool = True) -> None:
        """Add a line to the metrics, keep the weights if they are the best; if scheduled, a checkpoint too."""
        line = window_line(progress, options, clip, task.steps_per_epoch, lr) | task.evaluate(
            prepared if team.size == 1 else model
        )
        if not math.isfinite(line["validation_loss"]):
            raise diverged(progress.step, f"validation loss {line['validation_loss']}", progress.norms, options)
        progress.metrics.append(line)
        if progress.best is None or line["validation_loss"] < progress.best["validation_loss"]:
            progress.best = line
            where = {"step": progress.step, "validation_loss": line["validation_loss"], "sha256": digests}
            folder.write_tensors("model.safetensors", model.state_dict(), where)
            if scheduled:
                folder.write_tensors(checkpoint.best_name(progress.step), model.state_dict(), where)
        if scheduled:
            progress.clear_window()
            save()
        folder.write_lines("metrics.jsonl", progress.metrics)
        listener.evaluated(line)

    for note in task.notes:
        listener.note(note)
    hears = FlowRecording(listener, model, task, folder, options, resume=found is not None) if record_flow else listener
    listener.begin(config, progress, planned)
    if progress.step >= planned and found is not None:
        listener.note(f"nothing is left to train at step {progress.step:,}: raise --epochs or --max-steps to go on.")
    failure: DivergedError | None = None
    ended_by = 0
    began = time.perf_counter()
    with collected_signals(listener) as received, _together(team, progress, options):

        def stop() -> bool:
            late = options.max_time is not None and time.perf_counter() - began >= options.max_time
            return late or bool(received)

        try:
            run(
                task,
                prepared,
                optimizer,
                clip,
                team,
                options,
                progress,
                planned,
                evaluate,
                save,
                due,
                stop,
                hears,
                regulariser,
            )
            ended_by = team.most(received[0] if received else 0)
            if ended_by == REQUEUE:  # the job ends soon: a checkpoint, and nothing that takes long
                save()
            elif not progress.metrics or progress.metrics[-1]["step"] != progress.step:
                save()
                # Made only because training ends here: a run that goes on forgets it again (`_forget_after`).
                evaluate(progress.metrics[-1]["learning_rate"] if progress.metrics else options.lr or 0.0, False)
        except DivergedError as error:
            failure = error
        status = "diverged" if failure else "interrupted" if ended_by else "finished"
        summary = _summary(status, progress, str(failure) if failure else _message(status, progress, planned))
        folder.write_json("summary.json", summary)
        if isinstance(hears, FlowRecording):
            hears.say()
        if team.first and ended_by != REQUEUE:
            finish(task, folder, options, model, summary, listener, report)
    if failure:
        raise failure
    return Result(folder.path, summary, ended_by or (received[0] if received else None))


@contextmanager
def _together(team: Team, progress: Progress, options: Options) -> Iterator[None]:
    """One line where another process is gone or stalled: what they tell one another no longer arrives."""
    try:
        yield
    except RuntimeError as error:
        if team.size == 1 or shortage(error) is not None:
            raise
        words = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split())).split(". ")[0][:200]
        stalled = "timed out" in words.lower() or "timeout" in words.lower()
        why = f"nothing was heard for {options.stall_minutes:g} minutes, --stall-minutes: {words}" if stalled else words
        raise RunError(
            f"process {team.rank} of {team.size} lost the others at step {progress.step:,} ({why}); "
            "the last checkpoint is whole: start the job again with --resume."
        ) from None


def _planned(options: Options, task: Any) -> int:
    """How many steps training takes in all."""
    limits = [] if options.max_steps is None else [options.max_steps]
    if options.epochs is not None:
        limits.append(max(1, round(options.epochs * task.steps_per_epoch)))
    return min(limits)


def _say_resumed(found: checkpoint.Checkpoint, planned: int, before: int, options: Options, listener: Listener) -> None:
    """What a user should know who goes on."""
    step = found.progress.step
    if found.damaged:
        listener.note(f"{', '.join(found.damaged)} cannot be read; going on from step {step:,}, saved before.")
    if planned != before and options.schedule in ("cosine", "linear"):
        listener.note(
            f"the {options.schedule} schedule of the learning rate now ends at step {planned:,} (it was {before:,}); "
            f"the {step:,} steps already taken followed the old one."
        )


def _forget_after(folder: RunFolder, found: checkpoint.Checkpoint) -> None:
    """Undo what was judged after the checkpoint, so that the run is as if it had never stopped."""
    folder.write_lines("metrics.jsonl", found.progress.metrics)
    if found.best is None:
        folder.remove("model.safetensors")
    else:
        folder.write_tensors("model.safetensors", *found.best)
    for name in found.damaged:
        folder.remove(name)


def _config(task: Any, options: Options, model: nn.Module, before: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "retrograde": __version__,
        "task": task.name,
        "created": before.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
        "options": options.as_dict(),
        "data": task.describe(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "environment": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "engine": kernels.info()["instruction_set"],
        },
    }


def _summary(status: str, progress: Progress, message: str) -> dict[str, Any]:
    best = progress.best or {}
    return {
        "status": status,
        "step": progress.step,
        "best_step": best.get("step"),
        "best_validation_loss": best.get("validation_loss"),
        "best_validation_bits_per_character": best.get("validation_bits_per_character"),
        "best": {name: value for name, value in best.items() if name.startswith("validation_")},
        "seconds": progress.seconds,
        "message": message,
        "baselines": None,
    }


def _message(status: str, progress: Progress, planned: int) -> str:
    if status == "interrupted":
        return f"stopped at step {progress.step:,} of {planned:,}; --resume goes on from there"
    if progress.step < planned:
        return f"the time was up at step {progress.step:,} of {planned:,}; --resume goes on from there"
    return f"all {planned:,} steps taken"
