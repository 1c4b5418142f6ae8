"""Every module has its tests: a file of the same name, or the one that its docstring names."""

import ast
import re
from pathlib import Path

import pytest

import retrograde

SOURCE, TESTS = Path(retrograde.__file__).parent, Path(__file__).parent
PACKAGES = ("bench", "gradcheck", "integrations", "nn", "reference")
MODULES = [Path("cells.py"), Path("_torch_private.py")] + [
    path.relative_to(SOURCE)
    for package in PACKAGES
    for path in sorted((SOURCE / package).glob("*.py"))
    if path.name != "__init__.py"
]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_a_test_file_or_names_one(module):
    own = TESTS / module.parent / f"test_{module.name.lstrip('_')}"
    described = ast.get_docstring(ast.parse((SOURCE / module).read_text(encoding="utf-8"))) or ""
    named = re.findall(r"tests/[\w/]+\.py", described.partition("Tests: ")[2])
    assert own.exists() or (named and all((TESTS.parent / name).exists() for name in named)), own
