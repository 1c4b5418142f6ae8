"""The file of the laboratory: complete, small, and built from the sources next to it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from retrograde.laboratory import PAGE, write

SOURCES = Path(__file__).parents[2] / "lab"


def test_it_is_small_and_names_no_other_file() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert PAGE.stat().st_size <= 500_000
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["']?(?!data:|#)[\w/.]""", text)


def test_it_is_written_where_asked(tmp_path: Path) -> None:
    assert write(tmp_path / "page.html").read_bytes() == PAGE.read_bytes()


@pytest.mark.skipif(not shutil.which("npm"), reason="no Node.js: the page cannot be built here")
def test_it_is_what_the_sources_build(tmp_path: Path) -> None:
    if not all((SOURCES / "node_modules" / tool).exists() for tool in ("esbuild", "wabt")):
        install = ["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        if subprocess.run(install, cwd=SOURCES, capture_output=True, timeout=200).returncode:
            pytest.skip("esbuild and wabt are not installed in lab/, and npm could not install them")
    built = tmp_path / "lab.html"
    subprocess.run(["node", "build.mjs", built], cwd=SOURCES, check=True)
    assert built.read_bytes() == PAGE.read_bytes(), "run `npm run build` in lab/ and commit lab.html"
