"""The run folder: what training leaves behind. Written atomically, readable without this code, no pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import OptionError, RunError
from ..files import DRAFT, KEPT_BYTES, check_regular, read_file, remove_drafts, write_file
from ..memory import without_reports
from ..options import Options
from .lock import NAME as LOCK
from .lock import Lock

if TYPE_CHECKING:  # whoever reads but words need not wait for torch
    from torch import Tensor

__all__ = ["FORMAT", "LIMITS", "RunFolder", "digest", "limit_of"]

FORMAT = 1
MIB = 1 << 20
LIMITS: Mapping[str, int] = {  # bytes of a file that are read at most; weights: as much as the machine has memory
    "config.json": 16 * MIB,
    "vocabulary.json": KEPT_BYTES,
    "preprocessing.json": KEPT_BYTES,
    "evaluation.json": 64 * MIB,
    "metrics.jsonl": 64 * MIB,
    "summary.json": 16 * MIB,
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
    f"**/.*{DRAFT}",
    LOCK,
)


_CONFIG = {"retrograde": str, "task": str, "options": dict, "data": dict, "parameters": int, "environment": dict}


class Lines(NamedTuple):
    """JSON objects of a file, and how many of its lines are none."""

    rows: list[dict[str, Any]]
    broken: int


def limit_of(name: str) -> int:
    """How many bytes of a file of the run folder are read at most."""
    return LIMITS.get(name) or _memory()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 1 << 40


class RunFolder:
    """Reads and writes the files of one run.

    Parameters
    ----------
    path : str or Path
        The folder. Nothing is touched before a method says so.
    writes : bool
        If False (rank > 0 of a job), writes do nothing.
    note : callable, optional
        Told, in one line, what a user should know about the file system.

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
        self._begun = False  # whether config.json was written under this lock, or there before

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    # --- Is there a run? ----------------------------------------------------------------------------------------------

    def holds_run(self) -> bool:
        """Whether a run, complete or not, is in the folder."""
        return (self / "config.json").exists()

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``.

        Raises
        ------
        RunError
            If the folder is missing, holds no run, or one of a newer format; if the file is not what training writes,
            or a link in the folder leads out of it.
        """
        if not self.path.is_dir():
            what = "is a file, not a run folder" if self.path.exists() else "does not exist"
            raise RunError(f"{self.path} {what}: name the --out folder of a training run.")
        self.check_files()
        if not self.holds_run():
            if (self / ".lock").exists():
                raise RunError(
                    f"{self.path} holds no run yet: its training was ended before anything was saved; "
                    "start it again without --resume."
                )
            raise RunError(
                f"{self.path} holds no run (there is no config.json): name the --out folder of a training run."
            )
        config = self.read_json("config.json")
        version = config.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1 or "retrograde" not in config:
            raise RunError(
                f"{self / 'config.json'} was not written by retrograde: name the --out folder of a training run."
            )
        if version > FORMAT:
            raise RunError(
                f"{self.path} was written by retrograde {config['retrograde']!s:.40} in format {version}; this one "
                f"reads up to {FORMAT}: upgrade retrograde."
            )
        for name, kind in _CONFIG.items():
            value = config.get(name)
            if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
                found = f"is {config[name]!r:.40}" if name in config else "is missing"
                raise RunError(f"{self / 'config.json'} is damaged: its {name!r} {found}.")
        if not isinstance(config["data"].get("source"), str):
            raise RunError(f"{self / 'config.json'} is damaged: it does not say what was trained on.")
        try:
            task = Options.of(config["options"]).task
        except OptionError as error:
            raise RunError(f"{self / 'config.json'} is damaged: {str(error).split(';')[0]}") from None
        if task != config["task"]:
            raise RunError(f"{self / 'config.json'} is damaged: its 'task' is {config['task']!r:.40}, not {task!r}.")
        return config

    def check_files(self) -> None:
        """Refuse a folder whose files cannot be those of a run: pipes, devices, folders, links out of it, huge ones.

        Raises
        ------
        RunError
        """
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
                    return  # as good as missing
            check_regular(file.stat(), limit_of(name))
        except FileNotFoundError:  # removed meanwhile
            return
        except OSError as error:
            raise RunError(f"{file} cannot be read: {error.strerror or error}.") from None

    def _check_link(self, link: Path, root: Path) -> None:
        try:
            inside = link.resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # a ring of links
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
        elif self.holds_run():
            if not overwrite:
                raise RunError(
                    f"{path} already holds a run: give --resume to go on with it, --overwrite to replace it."
                )
            self.config()
        elif path.is_dir() and any(not self._owns(file) for file in path.iterdir()):
            raise RunError(f"{path} is not empty and holds no run: name another --out (nothing in it was touched).")
        parent = path
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise OptionError(f"--out {path} cannot be written: {parent} is not a folder that you may write to.")

    def _owns(self, file: Path) -> bool:
        return file.name == LOCK or file.name.endswith(DRAFT)

    # --- Writing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if need be, and hold it against a second process.

        Raises
        ------
        RunError
            If another process holds it, or it cannot be created.
        """
        if not self.writes:
            yield
            return
        self._lock = Lock(self.path, self._note)
        try:
            self._begun = self.holds_run()
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
            If it was deleted, renamed or replaced meanwhile. Nothing is written: half a folder would hold no run, and
            no command would touch it any more.
        """
        if self._lock is None:
            return
        if not self._lock.still_there() or (self._begun and not self.holds_run()):
            raise RunError(
                f"{self.path} was deleted, renamed or replaced while it was written to: stopped, and nothing more was "
                "written. If it was renamed, --resume goes on from the last checkpoint in it."
            )

    def clear(self) -> None:
        """Remove the files of a run, and no others; ``config.json`` stays until another replaces it.

        Without it, a folder that is left half cleared would hold no run, and no command would touch it any more.
        """
        if not self.writes:
            return
        self.check_alive()
        for pattern in OWNED:
            for file in self.path.glob(pattern):
                if file.name not in (LOCK, "config.json"):
                    self.remove(str(file.relative_to(self.path)))
        for name in ("flow", "checkpoints"):
            with suppress(OSError):  # not there, or somebody keeps something of their own in it
                (self / name).rmdir()

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file so that at any moment either the old or the new one is whole: temp file, fsync, rename.

        Raises
        ------
        RunError
            If it cannot be written (disk full, read-only); the old file is then still there.
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
            self.check_alive()  # that is why
            raise RunError(
                f"{target} cannot be written: {error.strerror or error}; what was saved before is kept."
            ) from None
        if name == "config.json":
            self._begun = True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        RunError
            If that is not permitted.
        """
        if self.writes:
            self.check_alive()
            try:
                (self / name).unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"{self / name} cannot be removed: {error.strerror or error}.") from None

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON object (numbers that are no numbers become null: JSON has none)."""
        self.write(name, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_lines(self, name: str, values: list[dict[str, Any]]) -> None:
        """Write JSON lines."""
        self.write(
            name, "".join(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False) + "\n" for value in values)
        )

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write a safetensors file whose metadata holds ``about`` as JSON, and a checksum of it all."""
        if not self.writes:
            return
        from safetensors.torch import save

        # Cloned, because tied weights share memory, which the format refuses.
        contiguous = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
        words = json.dumps(_plain(about))
        with without_reports():
            content = save(contiguous, {"retrograde": words, "sha256": _checksum(contiguous, words)})
        self.write(name, content)

    # --- Reading ------------------------------------------------------------------------------------------------------

    def read_bytes(self, name: str) -> bytes:
        """Read a regular file up to its limit.

        Raises
        ------
        RunError
            If it is missing, cannot be read, or is not one that training writes.
        """
        path = self / name
        try:
            if path.is_symlink():  # one that leads to another file of the run is followed
                self._check_link(path, self.path.resolve())
                path = path.resolve()
            return read_file(path, limit_of(name))
        except FileNotFoundError:
            raise RunError(f"{self.path} is incomplete: {name} is missing.") from None
        except OSError as error:
            raise RunError(f"{self / name} cannot be read: {error.strerror or error}.") from None

    def read_text(self, name: str) -> str:
        """Read a UTF-8 text; RunError as `read_bytes`, or if it is none."""
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
            raise RunError(f"{self / name} cannot be read: it is no JSON object.")
        return value

    def summary(self) -> dict[str, Any] | None:
        """The content of ``summary.json``; None while training goes on, or if it was killed. RunError if damaged."""
        return self.read_json("summary.json") if self.has("summary.json") else None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; none if it is missing. RunError if one is damaged."""
        return self.read_lines("metrics.jsonl")

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, or anything else that stands in its place."""
        return os.path.lexists(self / name)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Read JSON objects, one a line; none if the file is missing. RunError if a line is damaged."""
        found = self.lines(name)
        if found.broken:
            raise RunError(f"{self / name} cannot be read: {found.broken:,} of its lines are no JSON objects.")
        return found.rows

    def lines(self, name: str) -> Lines:
        """Read JSON objects, one a line, and count the lines that are none.

        Raises
        ------
        RunError
            If it cannot be read, or has more lines than `LINES`.
        """
        if not self.has(name):
            return Lines([], 0)
        lines = [line for line in self.read_bytes(name).split(b"\n") if line.strip()]
        if len(lines) > LINES:
            raise RunError(f"{self / name} has {len(lines):,} lines; no more than {LINES:,} are read.")
        try:
            rows = json.loads(b"[" + b",".join(lines) + b"]")  # at once: ten times as fast as line by line
        except (ValueError, RecursionError):
            rows = [_json_or_none(line) for line in lines]
        else:
            if len(rows) != len(lines):  # a line holds several
                rows = [_json_or_none(line) for line in lines]
        whole = [row for row in rows if isinstance(row, dict)]
        return Lines(whole, len(rows) - len(whole))

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read what `write_tensors` wrote; RunError if it is missing, cut short, or a single bit of it has changed.

        A file of other software has no checksum to hold.
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
            words = metadata.get("retrograde", "{}")
            about = json.loads(words)
            if not isinstance(about, dict):
                raise ValueError("what it says of itself is no JSON object")
            if "sha256" in metadata and metadata["sha256"] != _checksum(tensors, words):
                raise ValueError("its checksum does not fit its content")
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


def _checksum(tensors: Mapping[str, Tensor], words: str) -> str:
    """SHA-256 of everything a file of tensors holds, whatever the order they lie in."""
    import torch

    found = hashlib.sha256(words.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return found.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
