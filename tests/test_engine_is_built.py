"""A run of the tests says whether the native engine was there, and fails without it where CI=true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_ENGINE = """
import sys
sys.modules["retrograde.kernels._engine"] = None  # as where there was no compiler
import pytest
some = ["tests/kernels/test_native.py", "-k", "matmul or info or recomputing_keeps"]
sys.exit(pytest.main(["-p", "no:cacheprovider", *some]))
"""


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_without_the_engine(ci, code):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_ENGINE],
        env={**os.environ, "CI": ci},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "native engine was not built" in result.stdout + result.stderr
    assert bool(re.search(r"\d+ skipped", result.stdout)) == (not ci)
