"""Every module has its tests: a file of the same name, or the one that its docstring names."""

import ast
import re
from pathlib import Path

import pytest

import retrograde

SOURCE, TESTS = Path(retrograde.__file__).parent, Path(__file__).parent
PACKAGES = ("bench", "estimators", "gradcheck", "integrations", "nn", "reference")
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


# The house, ground floor first: a part may use those on lower floors, its own, and `BASE`.
BASE = {
    *(
        "cells",
        "defaults",
        "option",
        "options",
        "errors",
        "files",
        "memory",
        "measuring",
        "nested",
        "extras",
        "pools",
        "words",
    ),
    "_torch_private",
}
FLOORS = [
    {"kernels", "reference"},
    {"nn", "runs", "data"},
    {"exporting", "flow", "gradcheck", "tasks"},
    {"training"},
    {"doctor"},
    {"report"},
    {"experiment"},
    {"estimators", "integrations", "bench", "laboratory", "searching"},
    {"cli"},
]


def imported_parts(path):
    """The parts of the package that a module imports, anywhere in it."""
    here = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == len(here) + 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (name.partition(".")[0] for name in names)


@pytest.mark.parametrize("floor", range(len(FLOORS)), ids=lambda floor: " ".join(sorted(FLOORS[floor])))
def test_imports_point_downwards_only(floor):
    below = BASE.union(*FLOORS[:floor])
    for part in FLOORS[floor]:
        paths = list((SOURCE / part).rglob("*.py")) or [SOURCE / f"{part}.py"]
        for path in paths:
            used = set(imported_parts(path)) & BASE.union(*FLOORS)
            assert used <= below | {part}, f"{path.relative_to(SOURCE)} imports {sorted(used - below - {part})}"


def test_every_part_has_a_floor():
    parts = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__main__", "__pycache__"} == BASE.union(*FLOORS)


def test_files_and_functions_are_short():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 600, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"
