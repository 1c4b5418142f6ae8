"""What the tasks on tables (classify, tag, regress, forecast) have in common: the parts of the data, their scores.

Tests: `tests/tasks/test_labelled.py`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from ..data.columns import columns_for, unused
from ..data.files import AUTO
from ..data.formats import fingerprint, in_memory, name_of, open_table
from ..data.roles import Columns, Predicts
from ..data.shuffle import Shuffle
from ..data.table import Table
from ..errors import OptionError
from ..options import Options
from .task import B, Task

Part = TypeVar("Part")  # the sequences of a part of the data


def to_json(kept: Any) -> str:
    """The text of a JSON file."""
    return json.dumps(kept, indent=1, ensure_ascii=False) + "\n"


class TableTask(Task[B], Generic[B, Part]):
    """A task on a table, with a part of it (or another table) to validate with, and maybe one to test with.

    Parameters
    ----------
    source : str or frame
        See `retrograde.data.formats.open_table`.
    options : Options
    files : mapping, optional
    """

    COLUMNS: tuple[str, ...]
    """Options that name columns."""
    PREDICTS: ClassVar[Predicts]
    """What is predicted, which decides the roles of the columns."""

    validation: Part
    test: Part | None = None

    def __init__(self, source: Any, options: Options, files: Mapping[str, str] | None = None) -> None:
        super().__init__(source, options, files)
        self.source, self.in_memory = name_of(source), in_memory(source)
        self.encoding = self._stated = "utf-8" if options.encoding == AUTO else options.encoding  # of text files

    def _open(self, source: Any) -> Table:
        table = open_table(source, self.options.encoding)
        self.fingerprint = fingerprint(source, self.options.validation, self.options.test)
        return table

    def _columns(self, table: Table) -> Columns:
        """Which columns play which part, as the options say or by a guess."""
        columns, notes = columns_for(self.PREDICTS, table, {name: getattr(self.options, name) for name in self.COLUMNS})
        columns.check(table)
        self.encoding = table.encoding or self._stated
        self.notes += [*table.notes, *notes, *unused(table, columns)]
        return columns

    def _shares(self, usual: float) -> tuple[float, float]:
        """The shares of the data to validate and to test with; 0 where a file is given for that."""
        options = self.options
        validation = (options.validation_fraction or usual) if options.validation is None else 0.0
        test = (options.test_fraction or 0.0) if options.test is None else 0.0
        if validation + test >= 1:
            raise OptionError("--validation-fraction and --test-fraction leave nothing to train on.")
        return validation, test

    def _shuffled(self, lengths: Any, count: int) -> Shuffle:
        """Choose the batch size and the order of the training sequences."""
        self.batch_size = self.options.batch_size or min(64, max(1, count // 4))
        shuffle = Shuffle(lengths, self.batch_size, self.options.seed)
        self.steps_per_epoch = shuffle.steps_per_epoch
        return shuffle

    @abstractmethod
    def score(self, model: nn.Module, part: Part) -> dict[str, Any]:
        """Every metric of a network on a part of the data."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the validation part that are single numbers."""
        scores = self.score(model, self.validation)
        return {f"validation_{name}": value for name, value in scores.items() if isinstance(value, int | float)}

    def simple_scores(self, part: Part) -> dict[str, dict[str, float]]:
        """Metrics of simple methods on a part of the data, by their names."""
        return {}

    def baselines(self) -> dict[str, dict[str, float]]:
        """Metrics of simple methods on the validation part, by their names."""
        return self.simple_scores(self.validation)

    def details(self, model: nn.Module, part: Part) -> dict[str, Any]:
        """What else ``evaluation.json`` contains about a part, for `retrograde.runs.Part`."""
        return {"baselines": self.simple_scores(part)}

    def results(self, model: nn.Module) -> dict[str, str]:
        """``evaluation.json``: every metric of every part, next to those of simple methods."""
        parts = {"validation": self.validation} | ({} if self.test is None else {"test": self.test})
        scores = {name: self.score(model, part) | self.details(model, part) for name, part in parts.items()}
        return {"evaluation.json": to_json(self._about_results() | scores)}

    def _about_results(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, object]:
        """What ``config.json`` says about the data."""
        about = {"source": self.source, "encoding": self.encoding, "fingerprint": self.fingerprint}
        return about | ({"in_memory": True} if self.in_memory else {})
