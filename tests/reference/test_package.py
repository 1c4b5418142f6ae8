"""`rg.reference` as a whole: its examples run, and it does not import torch."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

from retrograde import reference


def test_examples_in_the_text_run():
    names = [reference.__name__, *(f"{reference.__name__}.{m.name}" for m in pkgutil.iter_modules(reference.__path__))]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(result.attempted for result in results) >= 8
    assert sum(result.failed for result in results) == 0


def test_the_text_needs_no_torch():
    code = "import sys, retrograde as rg; rg.reference.Network.random(1, 1, 1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
