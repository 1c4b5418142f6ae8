"""The run folder: what training leaves behind. Written atomically, readable without this code, no pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import OptionError, RunError
from ..files import DRAFT, KEPT_BYTES, check_regular, read_file, remove_drafts, write_file
from ..memory import installed_memory, without_reports
from .lock import NAME as LOCK
from .lock import Lock
from .records import FORMAT, Config, Metrics, Results, SearchedTrial, Summary

if TYPE_CHECKING:  # reading JSON does not need torch, which takes seconds to import
    from torch import Tensor

__all__ = ["LIMITS", "SEARCH_JOURNAL", "SEARCH_TABLE", "TENSORBOARD", "RunFolder", "digest", "limit_of", "without_nan"]

T = TypeVar("T")
MIB = 1 << 20
SEARCH_TABLE, SEARCH_JOURNAL = "search.json", "search.log"
TENSORBOARD = "tensorboard"  # folder with the files of TensorBoard
LIMITS: Mapping[str, int] = {  # bytes of a file that are read at most; weights: as much as the machine has memory
    "config.json": 16 * MIB,
    "vocabulary.json": KEPT_BYTES,
    "preprocessing.json": KEPT_BYTES,
    "evaluation.json": 64 * MIB,
    "metrics.jsonl": 64 * MIB,
    "summary.json": 16 * MIB,
    "doctor.json": 16 * MIB,
    "doctor-trial.json": 16 * MIB,
    "doctor-trial.jsonl": 64 * MIB,
    SEARCH_TABLE: 16 * MIB,
    SEARCH_JOURNAL: 256 * MIB,
    "sample.txt": MIB,
    "flow/trained.json": 16 * MIB,
    "flow/untrained.json": 16 * MIB,
    "flow/recorded.jsonl": 64 * MIB,
}
LINES = 500_000  # of metrics.jsonl and flow/recorded.jsonl
OWNED = (
    *(name for name in LIMITS),
    "model.safetensors",
    "report.html",
    "flow/trained.safetensors",
    "flow/untrained.safetensors",
    "checkpoints/*.safetensors",
    f"{TENSORBOARD}/**/events.out.tfevents.*",
    f"{TENSORBOARD}/**/hparams.yml",
    f"**/.*{DRAFT}",
    LOCK,
)


@dataclass(frozen=True)
class Lines(Generic[T]):
    """What the lines of a file contain, and the number of lines that are damaged."""

    rows: list[T]
    broken: int


def limit_of(name: str) -> int:
    """The largest size in bytes at which a file of the run folder is read."""
    return LIMITS.get(name) or installed_memory() or 1 << 40


class RunFolder:
    """Reads and writes the files of one run.

    Parameters
    ----------
    path : str or Path
        The folder. Creating this object touches no file.
    writes : bool
        If False (rank > 0 of a distributed job), writes do nothing.
    note : callable, optional
        Called with one line if there is something to know about the file system.

    Raises
    ------
    RunError
        If the path is empty.
    """

    def __init__(self, path: str | Path, writes: bool = True, note: Callable[[str], None] | None = None) -> None:
        if not os.fspath(path):
            raise RunError("the name of the run folder is empty: name the --out folder of a training run.")
        self.path, self.writes = Path(path), writes
        self._note = note or (lambda text: None)
        self._lock: Lock | None = None
        self._begun = False  # whether there is a config.json: it was there before, or was written under this lock

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    # --- Is there a run? ----------------------------------------------------------------------------------------------

    def has_run(self) -> bool:
        """Whether the folder contains a run, complete or not."""
        return (self / "config.json").exists()

    def config(self) -> Config:
        """Read ``config.json``.

        Raises
        ------
        RunError
            If the folder does not exist, contains no run, or a run of a newer format; if the file is not one that
            training writes, or a link in the folder leads out of it.
        """
        if not self.path.is_dir():
            what = "is a file, not a run folder" if self.path.exists() else "does not exist"
            raise RunError(f"{self.path} {what}: name the --out folder of a training run.")
        self.check_files()
        if not self.has_run():
            if (self / LOCK).exists():
                raise RunError(
                    f"{self.path} contains no run yet: its training was ended before anything was saved; "
                    "start it again without --resume."
                )
            raise RunError(
                f"{self.path} contains no run (there is no config.json): name the --out folder of a training run."
            )
        found = self.read_json("config.json")
        version = found.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1 or "retrograde" not in found:
            raise RunError(
                f"{self / 'config.json'} was not written by retrograde: name the --out folder of a training run."
            )
        if version > FORMAT:
            raise RunError(
                f"{self.path} was written by retrograde {found['retrograde']!s:.40} in format {version}; this one "
                f"reads up to {FORMAT}: upgrade retrograde."
            )
        return self._typed(Config.of, found, "config.json")

    def check_files(self) -> None:
        """RunError if a file of a run is a pipe, device or folder, a link out of the run folder, or too large."""
        root = self.path.resolve()
        for folder in (self.path, self / "checkpoints", self / "flow"):
            try:
                files = list(folder.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise RunError(f"{folder} cannot be read: {error.strerror}.") from None
            for file in files:
                name = file.relative_to(self.path)
                if name.as_posix() in ("checkpoints", "flow"):
                    if file.is_symlink():
                        self._check_link(file, root)
                    elif not file.is_dir():
                        raise RunError(f"{file} is not a folder: the run is damaged.")
                elif any(name.match(pattern) for pattern in OWNED):
                    self._check_file(file, name.as_posix(), root)

    def _check_file(self, file: Path, name: str, root: Path) -> None:
        try:
            if file.is_symlink():
                self._check_link(file, root)
                if not file.exists():
                    return  # a link to nothing counts as missing
            check_regular(file.stat(), limit_of(name))
        except FileNotFoundError:  # removed since it was listed
            return
        except OSError as error:
            raise RunError(f"{file} cannot be read: {error.strerror or error}.") from None

    def _check_link(self, link: Path, root: Path) -> None:
        try:
            inside = link.resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # a cycle of links
            inside = False
        if not inside:
            raise RunError(
                f"{link} is a link that leads out of the run folder, and is not followed: put the file itself there."
            )

    def check_writable(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse, before any work, a folder that training must not write to.

        Raises
        ------
        OptionError, RunError
        """
        path = self.path
        if resume and overwrite:
            raise OptionError("--resume and --overwrite exclude one another; give one of them.")
        if path.exists() and not path.is_dir():
            raise OptionError(f"--out {path} is a file: name a folder.")
        if resume:
            self.config()
        elif self.has_run():
            if not overwrite:
                raise RunError(
                    f"{path} already contains a run: give --resume to go on with it, --overwrite to replace it."
                )
            self.config()
        elif path.is_dir() and any(not self._owns(file) for file in path.iterdir()):
            raise RunError(f"{path} is not empty and contains no run: name another --out (nothing in it was touched).")
        parent = path
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise OptionError(f"--out {path} cannot be written: {parent} is not a folder that you may write to.")

    def _owns(self, file: Path) -> bool:
        return file.name in (LOCK, SEARCH_JOURNAL) or file.name.endswith(DRAFT)

    # --- Writing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if it does not exist, and keep other processes from writing to it.

        Raises
        ------
        RunError
            If another process is writing to it, or it cannot be created.
        """
        if not self.writes:
            yield
            return
        self._lock = Lock(self.path, self._note)
        try:
            self._begun = self.has_run()
            if self._lock.exclusive:
                remove_drafts(self.path)
            yield
        finally:
            self._lock.release()
            self._lock = None

    def check_alive(self) -> None:
        """Refuse to write into a folder that is no longer the one that was locked.

        Raises
        ------
        RunError
            If it was deleted, renamed or replaced. Nothing is written then: a new folder with half a run in it would
            be refused by every command.
        """
        if self._lock is None:
            return
        if not self._lock.still_there() or (self._begun and not self.has_run()):
            raise RunError(
                f"{self.path} was deleted, renamed or replaced while it was written to: stopped, and nothing more was "
                "written. If it was renamed, --resume goes on from the last checkpoint in it."
            )

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove the files of a run but those (and folders) to keep; ``config.json`` stays until another replaces it.

        A folder without it is no run, so after a crash in between every command would refuse the folder.
        """
        if not self.writes:
            return
        self.check_alive()
        for pattern in OWNED:
            for file in self.path.glob(pattern):
                inside = file.relative_to(self.path)
                if file.name not in (LOCK, "config.json", *keep) and inside.parts[0] not in keep:
                    self.remove(str(inside))
        for name in ("flow", "checkpoints"):
            with suppress(OSError):  # missing, or it contains a file of somebody else
                (self / name).rmdir()

    def write(self, name: str, data: bytes | str) -> None:
        """Replace a file atomically: after a crash, either the old or the new one is there, complete.

        Raises
        ------
        RunError
            If it cannot be written (disk full, read-only); the old file is kept.
        """
        if not self.writes:
            return
        self.check_alive()
        target = self / name
        content = data.encode("utf-8", "replace") if isinstance(data, str) else data
        try:
            if target.parent != self.path:
                target.parent.mkdir(exist_ok=True)
            write_file(target, content)
        except OSError as error:
            self.check_alive()  # raises if this is the reason
            raise RunError(
                f"{target} cannot be written: {error.strerror or error}; what was saved before is kept."
            ) from None
        if name == "config.json":
            self._begun = True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; RunError if that is not permitted."""
        if self.writes:
            self.check_alive()
            try:
                (self / name).unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"{self / name} cannot be removed: {error.strerror or error}.") from None

    def write_config(self, config: Config) -> None:
        """Write ``config.json``."""
        self._write_json("config.json", config.as_dict())

    def write_summary(self, summary: Summary) -> None:
        """Write ``summary.json``."""
        self._write_json("summary.json", summary.as_dict())

    def write_metrics(self, metrics: Sequence[Metrics]) -> None:
        """Write ``metrics.jsonl``."""
        lines = [json.dumps(without_nan(line.as_dict()), ensure_ascii=False, allow_nan=False) for line in metrics]
        self.write("metrics.jsonl", "".join(f"{line}\n" for line in lines))

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self.write(name, json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write a safetensors file with ``about`` as JSON, and a checksum of everything, in its metadata."""
        if not self.writes:
            return
        from safetensors.torch import save

        # Cloned, because the format refuses tensors that share memory, as tied weights do.
        contiguous = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
        text = json.dumps(without_nan(about))
        with without_reports():
            content = save(contiguous, {"retrograde": text, "sha256": _checksum(contiguous, text)})
        self.write(name, content)

    # --- Reading ------------------------------------------------------------------------------------------------------

    def read_bytes(self, name: str) -> bytes:
        """Read a regular file of at most its limit.

        Raises
        ------
        RunError
            If it is missing, too large, not a regular file, or cannot be read.
        """
        path = self / name
        try:
            if path.is_symlink():  # followed if it leads to another file of the run
                self._check_link(path, self.path.resolve())
                path = path.resolve()
            return read_file(path, limit_of(name))
        except FileNotFoundError:
            raise RunError(f"{self.path} is incomplete: {name} is missing.") from None
        except OSError as error:
            raise RunError(f"{self / name} cannot be read: {error.strerror or error}.") from None

    def read_text(self, name: str) -> str:
        """Read UTF-8 text; RunError as in `read_bytes`, or if it is not UTF-8."""
        try:
            return self.read_bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RunError(f"{self / name} is damaged: {error}.") from None

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object; RunError if it is missing or damaged."""
        try:
            value = json.loads(self.read_text(name))
        except RecursionError:
            raise RunError(f"{self / name} cannot be read: it is nested too deeply.") from None
        except ValueError as error:
            raise RunError(f"{self / name} cannot be read: it is damaged, not complete JSON ({error}).") from None
        if not isinstance(value, dict):
            raise RunError(f"{self / name} cannot be read: it is not a JSON object.")
        return value

    def summary(self) -> Summary | None:
        """Read ``summary.json``; None while training goes on, or if it was killed. RunError if it is damaged."""
        name = "summary.json"
        return self._typed(Summary.of, self.read_json(name), name) if self.has(name) else None

    def results(self) -> Results:
        """Read ``evaluation.json``; RunError if it is missing or damaged."""
        return self._typed(Results.of, self.read_json("evaluation.json"), "evaluation.json")

    def metrics(self) -> list[Metrics]:
        """Read ``metrics.jsonl``; empty if it is missing. RunError if a line is damaged."""
        found = self.lines("metrics.jsonl", Metrics.of)
        if found.broken:
            raise RunError(
                f"{self / 'metrics.jsonl'} cannot be read: {found.broken:,} of its lines are no JSON objects, or have "
                "a value of the wrong type."
            )
        return found.rows

    def searched(self) -> list[SearchedTrial]:
        """Read ``search.json``: the trials of a search, the best first; RunError if it is damaged."""
        return self._typed(SearchedTrial.table, self.read_json(SEARCH_TABLE), SEARCH_TABLE)

    def _typed(self, of: Callable[[Mapping[str, Any]], T], found: Mapping[str, Any], name: str) -> T:
        try:
            return of(found)
        except ValueError as error:
            raise RunError(f"{self / name} is damaged: {error}.") from None

    def has(self, name: str) -> bool:
        """Whether there is a file, or anything else, of this name."""
        return os.path.lexists(self / name)

    def lines(self, name: str, of: Callable[[dict[str, Any]], T]) -> Lines[T]:
        """Read a file of JSON objects, one per line, each by ``of``, and count the lines that are damaged.

        Empty if the file is missing; RunError if it cannot be read, or has more lines than `LINES`.
        """
        if not self.has(name):
            return Lines([], 0)
        lines = [line for line in self.read_bytes(name).split(b"\n") if line.strip()]
        if len(lines) > LINES:
            raise RunError(f"{self / name} has {len(lines):,} lines; no more than {LINES:,} are read.")
        try:
            values = json.loads(b"[" + b",".join(lines) + b"]")  # ten times as fast as line by line
        except (ValueError, RecursionError):
            values = []
        if len(values) != len(lines):  # a line is damaged, or has several objects
            values = [_json_or_none(line) for line in lines]
        rows: list[T] = []
        for value in values:
            with suppress(ValueError):
                if isinstance(value, dict):
                    rows.append(of(value))
        return Lines(rows, len(lines) - len(rows))

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read what `write_tensors` wrote; RunError if it is missing, cut short, or a single bit of it has changed.

        A file written by other software has no checksum, and is not compared with one.
        """
        from safetensors import SafetensorError, safe_open

        path = self / name
        if not path.exists():
            raise RunError(f"{self.path} is incomplete: {name} is missing.")
        self._check_file(path, name, self.path.resolve())
        try:
            with without_reports(), safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
                metadata = file.metadata() or {}
            text = metadata.get("retrograde", "{}")
            about = json.loads(text)
            if not isinstance(about, dict):
                raise ValueError("its metadata is not a JSON object")
            if "sha256" in metadata and metadata["sha256"] != _checksum(tensors, text):
                raise ValueError("its checksum does not match its content")
        except FileNotFoundError:
            raise RunError(f"{self.path} is incomplete: {name} is missing.") from None
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged: {error}.") from None
        return tensors, about


def _json_or_none(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def digest(content: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the metadata and all tensors, independent of their order in the file."""
    import torch

    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return found.hexdigest()


def without_nan(value: Any) -> Any:
    """The same with NaN and infinity, which JSON does not have, as null."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
