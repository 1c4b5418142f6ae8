"""Names on a command line that lead to nothing: refused before anything else is asked for.

Tests: `tests/cli/test_main.py`.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import RunError


def data_there(name: str | None) -> str | None:
    """The same name of data.

    Raises DataError if it is not here.
    """
    if name is not None:
        from ..tasks.registry import check_named  # late: libraries that read data are heavy

        check_named(name)
    return name


def run_there(path: Path) -> Path:
    """The same path of a run folder.

    Raises RunError if there is nothing.
    """
    if not path.exists():
        raise RunError(f"{path} does not exist: name the --out folder of a training run.")
    return path
