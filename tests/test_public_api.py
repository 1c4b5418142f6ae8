"""What ``import retrograde as rg`` offers: the names that users may rely on, imported when they are first used."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import retrograde as rg
from retrograde.extras import import_or_explain, missing_extra

FUNCTIONS = {
    "check_gradients",
    "diagnose",
    "export",
    "gradient_flow",
    "lab",
    "load",
    "mark_state",
    "search",
    "sequence_gradients",
    "train",
    "trial",
}
ESTIMATORS = {"Classifier", "Forecaster", "LanguageModel", "Regressor", "Tagger"}
CLASSES = {
    "Diagnosis",
    "Export",
    "GradientCheck",
    "GradientFlow",
    "GradientFlowRecorder",
    "Search",
    "Trial",
} | ESTIMATORS
MODULES = {"errors", "kernels", "nn", "reference"}
PACKAGES = {
    "doctor",
    "estimators",
    "flow",
    "gradcheck",
    "integrations",
    "report",
    "tasks",
    "training",
}  # reached as rg.flow, … but not promised


def test_the_public_names() -> None:
    assert set(rg.__all__) == FUNCTIONS | CLASSES | MODULES | {"__version__"}
    assert all(callable(getattr(rg, name)) for name in FUNCTIONS)
    assert all(isinstance(getattr(rg, name), type) for name in CLASSES)
    assert all(getattr(rg, name) is importlib.import_module(f"retrograde.{name}") for name in MODULES | PACKAGES)
    assert set(rg.__all__) <= set(dir(rg))
    with pytest.raises(AttributeError, match="no attribute 'gradient_flows'"):
        _ = rg.gradient_flows  # type: ignore[attr-defined]  # which mypy, run over this file, finds as well


def test_the_public_names_of_the_parts() -> None:
    assert set(rg.kernels.__all__) == {"available", "empty_cache", "info", "matmul"}
    assert {"RNN", "GRU", "LSTM", "accelerate_", "acceleration_report", "restore_", "explain"} <= set(rg.nn.__all__)


def test_the_short_names_are_those_of_the_parts() -> None:
    from retrograde import experiment, flow, gradcheck, nn

    assert rg.gradient_flow is flow.gradient_flow and rg.GradientFlow is flow.GradientFlow
    assert rg.sequence_gradients is flow.sequence_gradients and rg.GradientFlowRecorder is flow.GradientFlowRecorder
    assert rg.check_gradients is gradcheck.check_gradients and rg.GradientCheck is gradcheck.GradientCheck
    assert rg.mark_state is nn.mark_state
    assert rg.train is experiment.train and rg.load is experiment.load


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    program = "import sys, retrograde; print({'torch', 'numpy', 'rich', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_library_that_is_missing_is_explained_by_the_extra_that_installs_it() -> None:
    def missing(name: str) -> str:
        return str(missing_extra(ModuleNotFoundError(f"No module named {name!r}", name=name)))

    assert missing("duckdb") == "duckdb is not installed. Install it with: pip install 'retrograde[train]'"
    assert (
        missing("sklearn.metrics") == "scikit-learn is not installed. Install it with: pip install 'retrograde[train]'"
    )
    assert "'retrograde[bench]'" in missing("jax")
    assert "'retrograde[xlsx]'" in missing("openpyxl")
    assert missing("torch") == missing("something_else") == "None"
    assert missing_extra(ImportError("broken")) is None


def test_an_import_that_fails_for_another_reason_stays_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"retrograde\.nowhere"):
        import_or_explain("retrograde.nowhere")


def test_every_file_claims_the_same_version() -> None:
    root = Path(__file__).parents[1]
    claims = {
        "pyproject.toml": r'^version = "(.*)"',
        "CITATION.cff": r"^version: (.*)",
        "packaging/conda/recipe.yaml": r'^  version: "(.*)"',
        "CHANGELOG.md": r"^## ([\d.]+)",
        "README.md": r"^Version (\S+) ",
    }
    for name, pattern in claims.items():
        found = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert found and found[1] == rg.__version__, name


def test_the_conda_recipe_needs_what_the_extra_for_training_needs() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = (root / "packaging/conda/recipe.yaml").read_text(encoding="utf-8")
    run = recipe.partition("  run:")[2].partition("\ntests:")[0]
    names = {
        "torch": "pytorch",
        "matplotlib": "matplotlib-base",
        "duckdb": "python-duckdb",
    }  # as conda-forge calls them
    for line in [*project["dependencies"], *project["optional-dependencies"]["train"]]:
        name, _, version = line.partition(">=")
        assert f"- {names.get(name, name)} >={version}\n" in run, line
