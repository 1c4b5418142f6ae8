"""Every module has its tests: a file of the same name, or the one that its docstring names."""

import ast
import re
from pathlib import Path

import pytest

import retrograde

SOURCE, TESTS = Path(retrograde.__file__).parent, Path(__file__).parent
MODULES = [
    path.relative_to(SOURCE) for path in sorted(SOURCE.rglob("*.py")) if path.name not in ("__init__.py", "__main__.py")
]


def named_tests(path):
    """The test files that the docstring of a module names."""
    described = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.findall(r"tests/[\w/]+\.py", described.partition("Tests: ")[2])


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_a_test_file_or_names_one(module):
    """Of a package in a part, as `doctor/rules`, the tests are those of the part; one file may test all its modules."""
    own, named = [TESTS / module.parent / f"test_{module.name.lstrip('_')}"], named_tests(SOURCE / module)
    if len(module.parts) > 2:
        names = (module.name, f"{module.parent.name}.py", f"{module.parent.name}_{module.name}")
        own += [TESTS / module.parts[0] / f"test_{one}" for one in names]
        named = named or named_tests(SOURCE / module.parent / "__init__.py")
    assert any(path.exists() for path in own) or named, f"{own[0]}, or a line `Tests: …` in {module}"
    assert all((TESTS.parent / one).exists() for one in named), named


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


# The same inside a part: the packages of `flow`, each of which the next ones build on.
FLOORS_OF_FLOW = ["recurrence", "recording", "wiring"]


def imported_parts(path, within=SOURCE):
    """The parts of the package, or of one of its parts, that a module imports, anywhere in it."""
    here = path.relative_to(within).parts[:-1]
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


@pytest.mark.parametrize("floor", range(len(FLOORS_OF_FLOW)), ids=FLOORS_OF_FLOW)
def test_imports_inside_flow_point_downwards_only(floor):
    for path in (SOURCE / "flow" / FLOORS_OF_FLOW[floor]).rglob("*.py"):
        used = set(imported_parts(path, SOURCE / "flow"))
        assert used <= set(FLOORS_OF_FLOW[: floor + 1]), f"{path.relative_to(SOURCE)} imports {sorted(used)}"


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


def test_no_two_files_of_tests_have_one_name():
    """Folders of tests are no packages: pytest imports one file of a name only, and ends with an error at the other."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
