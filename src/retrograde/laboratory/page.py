"""The page as a file. Tests: tests/laboratory/test_page.py."""

from __future__ import annotations

from pathlib import Path

from ..files import write_file

PAGE = Path(__file__).parent / "lab.html"


def write(path: str | Path) -> Path:
    """Write the laboratory to a file, and return its path.

    path: where to; a file that exists is replaced.
    """
    path = Path(path)
    write_file(path, PAGE.read_bytes())
    return path
