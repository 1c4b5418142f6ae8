"""The examples in the docstrings of the whole package are part of the suite."""

from __future__ import annotations

from pathlib import Path

import retrograde


def test_a_bare_pytest_runs_the_examples_of_every_module(pytestconfig):
    source = Path(retrograde.__file__).parent
    assert pytestconfig.getoption("doctestmodules")
    assert source in [pytestconfig.rootpath / path for path in pytestconfig.getini("testpaths")]
    files = [path for path in source.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")]
    assert len(files) > 30
    # pytest imports a file outside any package under another name, without its relative imports.
    folders = {folder for path in files for folder in path.parents if folder.is_relative_to(source)}
    assert all((folder / "__init__.py").exists() for folder in folders)
