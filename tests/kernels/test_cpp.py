"""The C++ tests of the engine's parts: engine_test.cpp is compiled and run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src" / "retrograde" / "kernels" / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=fast", "-w", "-pthread", f"-I{SOURCES}"]

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler: set CXX, or install one"),
    pytest.mark.skipif(sys.platform == "win32", reason="the engine is compiled by GCC or Clang"),
]


@pytest.mark.parametrize("name", ["portable", "native"])
def test_engine_test(name, tmp_path):
    target = []
    if name == "native":
        arm = platform.machine().lower() in ("aarch64", "arm64")
        target = ["-DRETROGRADE_NEON"] if arm else ["-march=native"]
    program = tmp_path / "engine_test"
    build = [COMPILER, *FLAGS, *target, f"-DRETROGRADE_SET={name}", HERE / "engine_test.cpp", SOURCES / "pool.cpp"]
    libraries = ["-ldl"] if sys.platform == "linux" else []
    compiled = subprocess.run([*build, "-o", program, *libraries], capture_output=True, text=True, timeout=240)
    assert compiled.returncode == 0, compiled.stderr[-3000:]
    result = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "all passed" in result.stdout, result.stdout
