"""From a data source and options to the task: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.formats import SUFFIXES, fingerprint, is_frame, name_of
from ..data.text import read_text
from ..data.vocabulary import Vocabulary
from ..errors import OptionError, RunError
from ..files import KEPT_BYTES, read_file
from .synthetic import SYNTHETIC
from .task import Task

__all__ = ["fingerprint_of", "kept_files", "open_task", "reader_of", "task_name"]

_LABELLED = ("classify", "tag")
_TABLES = (*_LABELLED, "forecast")


def task_name(source: Any, asked: str) -> str:
    """The task of a source: the one asked for, else the one it is made for; text is for language modelling.

    Raises
    ------
    OptionError
        If the source is a table, which could be for several tasks, or the task asked for does not fit it.
    """
    name = name_of(source)
    if is_frame(source):
        if asked in _TABLES:
            return asked
        raise OptionError(f"{name} is a table: say what to learn from it, task='classify', 'tag' or 'forecast'.")
    builtin = name.removeprefix("builtin:").split("?")[0] if name.startswith("builtin:") else None
    if (builtin in SYNTHETIC) != (asked == "synthetic") and not (builtin in SYNTHETIC and asked == "auto"):
        if builtin in SYNTHETIC:
            raise OptionError(f"{name} is a task by itself: leave --task {asked} out.")
        known = ", ".join(f"builtin:{one}" for one in SYNTHETIC)
        raise OptionError(f"--task synthetic needs one of {known}, not {name}.")
    if asked != "auto":
        return asked
    if builtin is not None:
        made_for = {"stdlib": "language", "digits": "classify", "eeg": "forecast"} | dict.fromkeys(
            SYNTHETIC, "synthetic"
        )
        if builtin not in made_for:
            known = ", ".join(f"builtin:{one}" for one in made_for)
            raise OptionError(f"there is no builtin:{builtin}; there are {known}.")
        return made_for[builtin]
    if any(name.lower().removesuffix(".gz").endswith(suffix) for suffix in SUFFIXES) and not Path(name).is_dir():
        raise OptionError(f"{name} is a table: say what to learn from it, --task classify, tag, forecast or language.")
    return "language"


def open_task(name: str, source: Any, options: Mapping[str, Any], run: Path | None = None) -> Task[Any]:
    """Read the data of a task and make it ready to train.

    Parameters
    ----------
    name : str
        From `task_name`.
    source : str or frame
    options : mapping
        Every training option by its name.
    run : Path, optional
        The folder of a run that is resumed: vocabulary, columns and scales are then those it keeps.

    Returns
    -------
    Task
    """
    if name == "language":
        from .language import LanguageTask

        vocabulary = Vocabulary.load(run / "vocabulary.json") if run is not None else None
        return LanguageTask(read_text(source, options["encoding"]), options, vocabulary)
    files = kept_files(run) if run is not None else None
    if name in _LABELLED:
        from .labelled import LabelledTask

        return LabelledTask(name, source, options, files)
    if name == "forecast":
        from .forecast import ForecastTask

        return ForecastTask(source, options, files)
    from .synthetic.training import SyntheticTraining

    return SyntheticTraining(source, options, files)


def fingerprint_of(name: str, source: Any, options: Mapping[str, Any]) -> str | None:
    """By which a table, with its files to validate and test with, is known again; None where it is none.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    return fingerprint(source, options.get("validation"), options.get("test")) if name in _TABLES else None


def reader_of(name: str, run: Path, config: Mapping[str, Any]) -> Any:
    """What brings data to the model of a run folder and back: its ``network`` still lacks its weights.

    Raises
    ------
    RunError
        If a file of the run is missing or damaged.
    """
    if name in _LABELLED:
        from .labelled import LabelledModel

        return LabelledModel.from_files(kept_files(run), name == "tag", config["options"])
    if name == "forecast":
        from .forecast import ForecastModel

        return ForecastModel.from_files(kept_files(run), config["options"])
    if name == "synthetic":
        from .synthetic.training import SyntheticTraining

        return SyntheticTraining(config["data"]["source"], config["options"])
    raise RunError(f"{run} was trained for {name!r}, which this version does not know: upgrade retrograde.")


def kept_files(run: Path) -> dict[str, str]:
    """What a run folder keeps of its task beside the weights, by file name.

    Raises
    ------
    RunError
        If one cannot be read.
    """
    found = {}
    for name in ("preprocessing.json", "vocabulary.json"):
        try:
            found[name] = read_file(run / name, KEPT_BYTES).decode("utf-8")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RunError(f"{run / name} cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError as error:
            raise RunError(f"{run / name} is damaged: {error}.") from None
    return found
