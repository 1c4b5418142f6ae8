"""The run folder: what training leaves behind. Written atomically, readable without this code, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..errors import OptionError, RunError
from .options import Options

if TYPE_CHECKING:  # whoever reads but words need not wait for torch
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows: two processes on one folder are then not noticed
    fcntl = None  # type: ignore[assignment]

__all__ = ["FORMAT", "RunFolder", "digest"]

FORMAT = 1
FILES = (
    "config.json",
    "model.safetensors",
    "vocabulary.json",
    "preprocessing.json",
    "evaluation.json",
    "metrics.jsonl",
    "summary.json",
    "sample.txt",
    "report.html",
)
OWNED = (
    *FILES,
    "flow/trained.safetensors",
    "flow/trained.json",
    "flow/untrained.safetensors",
    "flow/untrained.json",
    "flow/recorded.jsonl",
    "checkpoints/*.safetensors",
    "**/.*.partial",
    ".lock",
)


_CONFIG = {"retrograde": str, "task": str, "options": dict, "data": dict, "parameters": int, "environment": dict}
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


class RunFolder:
    """Reads and writes the files of one run.

    Parameters
    ----------
    path : str or Path
        The folder. Nothing is touched before a method says so.
    writes : bool
        False: for a process of a job that leaves writing to another; what would be written is not.
    """

    def __init__(self, path: str | Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes

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
        self.check_links()
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
        if not isinstance(config.get("format"), int) or "retrograde" not in config:
            raise RunError(
                f"{self / 'config.json'} was not written by retrograde: name the --out folder of a training run."
            )
        if config["format"] > FORMAT:
            raise RunError(
                f"{self.path} was written by retrograde {config['retrograde']} in format {config['format']}; this one "
                f"reads up to {FORMAT}: upgrade retrograde."
            )
        for name, kind in _CONFIG.items():
            if not isinstance(config.get(name), kind):
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

    def check_links(self) -> None:
        """Refuse a folder from somebody else whose files are links to something of the user's.

        Raises
        ------
        RunError
            If a file of the run is a link that leads out of its folder.
        """
        root = self.path.resolve()
        for folder in (self.path, self / "checkpoints", self / "flow"):
            try:
                links = [file for file in folder.iterdir() if file.is_symlink()]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise RunError(f"{folder} cannot be read: {error.strerror}.") from None
            for link in links:
                if not any(link.relative_to(self.path).match(pattern) for pattern in (*OWNED, "checkpoints", "flow")):
                    continue
                try:
                    inside = link.resolve().is_relative_to(root)
                except (OSError, RuntimeError):  # a ring of links
                    inside = False
                if not inside:
                    raise RunError(
                        f"{link} is a link that leads out of the run folder, and is not followed: put the file itself "
                        "there."
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
        return file.name == ".lock" or file.name.endswith(".partial")

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
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.fdopen(os.open(self / ".lock", os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o666))
        except OSError as error:
            raise RunError(f"--out {self.path} cannot be written: {error.strerror}.") from None
        with lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunError(
                        f"{self.path} is in use by another process: wait for it or name another --out."
                    ) from None
                except OSError:
                    pass  # a file system without locks (some network ones) is no reason not to train
                else:
                    for file in self.path.glob("**/.*.partial"):  # of a process that was killed as it wrote
                        file.unlink(missing_ok=True)
            # The file stays when the lock goes: were it removed, a third process could lock a new one beside a second.
            yield

    def clear(self) -> None:
        """Remove the files of a run, and no others; ``config.json`` stays until another replaces it.

        Without it, a folder that is left half cleared would hold no run, and no command would touch it any more.
        """
        if not self.writes:
            return
        for pattern in OWNED:
            for file in self.path.glob(pattern):
                if file.name not in (".lock", "config.json"):
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
        target = self / name
        content = data.encode("utf-8", "replace") if isinstance(data, str) else data
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_UMASK)
            Path(temporary).replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise RunError(
                f"{target} cannot be written: {error.strerror or error}; what was saved before is kept."
            ) from None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        RunError
            If that is not permitted.
        """
        if self.writes:
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
        self.write(name, save(contiguous, {"retrograde": words, "sha256": _checksum(contiguous, words)}))

    # --- Reading ------------------------------------------------------------------------------------------------------

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object; RunError if it is missing or damaged."""
        try:
            value = json.loads((self / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.path} is incomplete: {name} is missing.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self / name} cannot be read: {error}.") from None
        if not isinstance(value, dict):
            raise RunError(f"{self / name} cannot be read: it is no JSON object.")
        return value

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Read JSON objects, one a line; none if the file is missing."""
        try:
            lines = (self / name).read_text(encoding="utf-8").splitlines()
            found = [json.loads(line) for line in lines if line.strip()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self / name} cannot be read: {error}.") from None
        if not all(isinstance(line, dict) for line in found):
            raise RunError(f"{self / name} cannot be read: a line of it is no JSON object.")
        return found

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read what `write_tensors` wrote; RunError if it is missing, cut short, or a single bit of it has changed.

        A file of other software has no checksum to hold.
        """
        try:
            with safe_open(self / name, "pt") as file:
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
            raise RunError(f"{self / name} is damaged: {error}.") from None
        return tensors, about


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # mkstemp makes files only their owner can read; a run is to be as readable as any other file


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    with suppress(OSError):  # not every system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
