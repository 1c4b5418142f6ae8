"""Which class trains which task, and which task a data source is for: the only place that knows every task.

How to add a task: CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ..data.files import check_exists
from ..data.formats import SUFFIXES, check_there, fingerprint, in_memory, name_of
from ..data.remote import is_remote
from ..data.text import TEXT, Text
from ..defaults import chosen
from ..errors import OptionError, RunError
from ..files import KEPT_BYTES, check_source, read_file
from ..options import TABLES, Options
from .synthetic import SYNTHETIC
from .task import Predictor, Task, TaskInfo

TASKS = {  # where the class of each task is; imported when needed, because the readers of data are heavy
    "language": "language.LanguageTask",
    "classify": "labelled.LabelledTask",
    "tag": "labelled.TaggingTask",
    "regress": "regress.RegressionTask",
    "forecast": "forecast.ForecastTask",
    "synthetic": "synthetic.training.SyntheticTraining",
}
BUILTIN = {"stdlib": "language", "digits": "classify", "eeg": "forecast", **dict.fromkeys(SYNTHETIC, "synthetic")}
KEPT = ("preprocessing.json", "vocabulary.json")


def task_class(name: str) -> type[Task[Any]]:
    """The class of a task."""
    module, _, kind = TASKS[name].rpartition(".")
    found: type[Task[Any]] = getattr(import_module(f".{module}", __package__), kind)
    return found


def task_info(options: Options) -> TaskInfo:
    """What a page about a run with these options must know of its task."""
    return task_class(options.task).info(options)


def check_named(name: str, also: str = "") -> None:
    """Refuse the name of data, a table or a text, that is not here.

    also: what else could be named, in words.
    Raises DataError.
    """
    if name == "-" or name.startswith("builtin:") or is_remote(name):
        return
    check_source(name, pipes=True)
    if also:
        check_exists(name, f"{also}, a table or {TEXT}")
    elif _looks_like_table(name):
        check_there(name)
    else:
        check_exists(name, TEXT)


def _looks_like_table(name: str) -> bool:
    return any(name.lower().removesuffix(".gz").endswith(suffix) for suffix in SUFFIXES) and not Path(name).is_dir()


def task_name(source: Any, asked: str) -> str:
    """The task for a source: the one asked for, else the one it is made for; a text is for language modeling.

    Raises OptionError if the source is a table, which could be for several tasks, or the task asked for does not fit
    it.
    """
    name = name_of(source)
    if isinstance(source, Text):
        if asked in ("auto", "language"):
            return "language"
        raise OptionError(f"{name} is for task='language', not {asked!r}.")
    if in_memory(source):
        if asked in TABLES:
            return asked
        raise OptionError(
            f"{name} is a table: say what to learn from it, task='classify', 'tag', 'regress' or 'forecast'."
        )
    builtin = name.removeprefix("builtin:").split("?")[0] if name.startswith("builtin:") else None
    if builtin in SYNTHETIC and asked not in ("auto", "synthetic"):
        raise OptionError(f"{name} is a task by itself: leave --task {asked} out.")
    if builtin not in SYNTHETIC and asked == "synthetic":
        known = ", ".join(f"builtin:{one}" for one in SYNTHETIC)
        raise OptionError(f"--task synthetic needs one of {known}, not {name}.")
    if asked != "auto":
        return asked
    if builtin is not None:
        if builtin not in BUILTIN:
            known = ", ".join(f"builtin:{one}" for one in BUILTIN)
            raise OptionError(f"there is no builtin:{builtin}; there are {known}.")
        return BUILTIN[builtin]
    check_named(name)
    if _looks_like_table(name):
        raise OptionError(
            f"{name} is a table: say what to learn from it, --task classify, tag, regress, forecast or language."
        )
    return "language"


def open_task(source: Any, options: Options, run: Path | None = None) -> Task[Any]:
    """Read the data of a task and prepare it for training.

    options: ``options.task`` is the name of the task, see `task_name`.
    run: folder of a run that is resumed: vocabulary, columns and scales come from there.
    """
    files = kept_files(run) if run is not None else None
    with _located(run):
        return task_class(options.task)(source, options, files)


def new_task(source: Any, given: Mapping[str, Any]) -> Task[Any]:
    """Open data to start a training on. What is not given is chosen for its task and its data (`Task.chosen`).

    given: options of training by name.
    Raises DataError, OptionError.
    """
    options = Options.of(given)
    name = task_name(source, options.task)
    Options.check_task(name, given)
    task = open_task(source, options.for_task(name, given))
    task.options = replace(task.options, batch_size=task.batch_size)
    choices = chosen(task.shape(), task.options, given)
    task.options = replace(task.options, **{name: choice.value for name, choice in choices.items()})
    task.chosen = {name: choice.why for name, choice in choices.items()}
    return task


def open_predictor(run: Path, options: Options, source: str) -> Predictor:
    """The predictor of a run folder; its network still lacks its weights.

    Raises RunError if a file of the run is missing or damaged.
    """
    if options.task not in TASKS:
        raise RunError(f"{run} was trained for {options.task!r}, which this version does not know: upgrade retrograde.")
    files = kept_files(run)
    with _located(run):
        return task_class(options.task).predictor.from_files(files, options, source)


@contextmanager
def _located(run: Path | None) -> Iterator[None]:
    """Put the run folder before the name of a file, with which the message of a RunError starts."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{run}/{error}" if run is not None else str(error)) from None


def fingerprint_of(source: Any, options: Options) -> str | None:
    """Hash of the content of a table and of its files to validate and test with; None for other data.

    Raises DataError if a file cannot be read.
    """
    return fingerprint(source, options.validation, options.test) if options.task in TABLES else None


def kept_files(run: Path) -> dict[str, str]:
    """What a run folder keeps of its task besides the weights, by file name.

    Raises RunError if a file cannot be read.
    """
    found = {}
    for name in KEPT:
        try:
            found[name] = read_file(run / name, KEPT_BYTES).decode("utf-8")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RunError(f"{run / name} cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError as error:
            raise RunError(f"{run / name} is damaged: {error}.") from None
    return found
