"""A checkpoint whose content has wrong types is passed over, as a damaged one is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from retrograde.errors import RunError
from retrograde.runs import RunFolder
from retrograde.training import train

RELEASED = Path(__file__).parents[1] / "runs" / "released"
LINE = {"step": 1, "validation_loss": 1.0}
WRONG: list[tuple[str, Any]] = [
    ("progress", None),
    ("progress", []),
    ("progress", {}),
    ("progress.step", "6"),
    ("progress.step", 6.0),
    ("progress.step", True),
    ("progress.tokens", None),
    ("progress.seconds", "1"),
    ("progress.seconds", False),
    ("progress.metrics", {}),
    ("progress.metrics", [3]),
    ("progress.metrics", [{"step": "1", "validation_loss": 1.0}]),
    ("progress.metrics", [{"step": 1}]),
    ("progress.norms", "none"),
    ("progress.best", []),
    ("progress.best", {"step": 1}),
    ("progress.best", {"validation_loss": 1.0}),
    ("progress.another", 1),
    ("files", ["vocabulary.json"]),
    ("files", {"config.json": "{}"}),
    ("files", {"vocabulary.json": 3}),
]


@pytest.mark.parametrize(("where", "value"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_types(tmp_path: Path, where: str, value: Any) -> None:
    run = Path(shutil.copytree(RELEASED / "0.1.0" / "language", tmp_path / "run"))
    folder = RunFolder(run)
    (newest,) = (path.name for path in (run / "checkpoints").glob("step-*"))
    tensors, about = folder.read_tensors(f"checkpoints/{newest}")
    outer, _, name = where.partition(".")
    about = about | {outer: about[outer] | {name: value} if name else value}
    folder.write_tensors(f"checkpoints/{newest}", tensors, about)
    with pytest.raises(RunError, match="of its checkpoints none can be read") as caught:
        train(RELEASED / "data" / "text.txt", run, resume=True)
    assert "\n" not in str(caught.value)
