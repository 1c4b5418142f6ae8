"""The finished runs of a trial, a line each, so that a trial that was ended goes on where it was.

Tests: `tests/doctor/test_trial.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import OptionError, RunError
from ..files import read_file, write_file
from ..runs.folder import limit_of
from .matched import Job, Outcome

LINES, RESULT = "doctor-trial.jsonl", "doctor-trial.json"
Key = tuple[str, str, int]  # stage, arm, round


class Ledger:
    """The runs of a trial so far, in a folder or, without one, in memory.

    Parameters
    ----------
    folder : Path or None
    trial : mapping
        What is compared: a folder with another trial is refused.
    overwrite : bool
        Replace the trial in the folder.

    Attributes
    ----------
    outcomes : dict
        By stage, arm and round.
    facts : dict
        What was decided on the way: the number of updates, remedies that were dropped.

    Raises
    ------
    OptionError
        The folder contains another trial.
    """

    def __init__(self, folder: Path | None, trial: Mapping[str, Any], overwrite: bool = False) -> None:
        self.folder, self.outcomes, self.facts = folder, dict[Key, Outcome](), dict[str, Any]()
        self._lines = [json.dumps({"trial": trial}, ensure_ascii=False, default=str)]
        if folder is None:
            return
        lines = [] if overwrite else self._read(folder)
        if not lines:
            self._write()
            return
        if lines[0] != json.loads(self._lines[0]):
            raise OptionError(
                f"{folder / LINES} is of another trial (other remedies, data, options or seeds): replace it with "
                "--restart (overwrite=True), or name another folder."
            )
        for line in lines[1:]:
            if "fact" in line:
                self.facts[line["fact"]] = line["value"]
            else:
                self.outcomes[line["stage"], line["arm"], line["round"]] = Outcome.of(line["outcome"])
            self._lines.append(json.dumps(line, ensure_ascii=False))

    def _read(self, folder: Path) -> list[Any]:
        try:
            text = read_file(folder / LINES, limit_of(LINES)).decode("utf-8")
            return [json.loads(line) for line in text.splitlines()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise RunError(f"{folder / LINES} is damaged: {error}; remove it to start the trial again.") from None

    def add(self, job: Job, outcome: Outcome) -> None:
        """Keep a finished run."""
        self.outcomes[job.stage, job.arm, job.round] = outcome
        line = {"stage": job.stage, "arm": job.arm, "round": job.round, "seed": job.seed, "outcome": outcome.as_dict()}
        self._lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False))
        self._write()

    def note(self, fact: str, value: Any) -> Any:
        """Keep a decision; if the trial was begun before, it is the one of then."""
        if fact not in self.facts:
            self.facts[fact] = value
            self._lines.append(json.dumps({"fact": fact, "value": value}, ensure_ascii=False))
            self._write()
        return self.facts[fact]

    def _write(self) -> None:
        self.write(LINES, "\n".join(self._lines) + "\n")

    def write(self, name: str, text: str) -> None:
        """Replace a file in the folder, if there is one, atomically."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / name, text.encode("utf-8", "replace"))
        except OSError as error:
            raise RunError(f"{self.folder / name} cannot be written: {error.strerror or error}.") from None
