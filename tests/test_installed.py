"""The wheel: what is in it, and what works where only its own requirements, or those of an extra, are installed.

A fresh environment that takes a second: the wheel, installed, in front of the packages of this environment; an import
hook hides every package that the requirements of the wheel (with the extra) do not lead to. `RETROGRADE_INDEX=1` installs
from the package index instead, into environments that are really empty (minutes).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.xdist_group("wheel"), pytest.mark.timeout(600)]

HIDE = """
import sys

class Hide:
    hidden = {hidden}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source; compiled objects of earlier builds are used again."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True, cwd=folder)
    (built,) = folder.glob("retrograde-*.whl")
    return built


def requirements(wheel: Path, extra: str) -> list[Requirement]:
    """What pip would install next to the wheel for ``retrograde[extra]``."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = re.findall(r"^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    found = map(Requirement, lines)
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]


def closure(wanted: list[Requirement]) -> set[str]:
    """The distributions installed here that those requirements lead to."""
    seen: set[str] = set()
    todo = [(one.name, extra) for one in wanted for extra in ("", *one.extras)]
    while todo:
        name, extra = todo.pop()
        name = canonicalize_name(name)
        seen.add(name)
        for line in metadata.requires(name) or []:
            one = Requirement(line)
            if one.name not in seen and (one.marker is None or one.marker.evaluate({"extra": extra})):
                todo += [(one.name, extra) for extra in ("", *one.extras)]
    return seen


def installed(wheel: Path, folder: Path, extra: str) -> Path:
    """The Python of an environment with the wheel and what its requirements lead to."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    if os.environ.get("RETROGRADE_INDEX"):
        name = f"retrograde[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), name], check=True)
        return python
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    visible = closure(requirements(wheel, extra)) | {"retrograde", "setuptools"}
    owners = metadata.packages_distributions()
    hidden = {module for module, names in owners.items() if not visible & {canonicalize_name(name) for name in names}}
    (packages / "sitecustomize.py").write_text(HIDE.format(hidden=sorted(hidden)))
    # A path in a .pth file is searched, but the .pth files in it are not obeyed: the editable install stays out.
    (packages / "others.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    return python


@pytest.fixture(scope="session")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(wheel, tmp_path_factory.mktemp("core"), "")


@pytest.fixture(scope="session")
def train(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(wheel, tmp_path_factory.mktemp("train"), "train")


def run(python: Path, program: str, folder: Path) -> str:
    done = subprocess.run(
        [python, "-c", textwrap.dedent(program)], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_is_complete_and_carries_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata_file,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        about = archive.read(metadata_file).decode()
    source = ROOT / "src" / "retrograde"
    listed = subprocess.run(["git", "ls-files", "src/retrograde"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {line.removeprefix("src/") for line in listed.stdout.splitlines()}
    wanted = {name for name in tracked if "/csrc/" not in name}
    assert len(wanted) > 100 and (source / "py.typed").exists()
    inside = {name for name in names if ".dist-info/" not in name}
    engine = inside - wanted
    assert wanted <= inside
    assert len(engine) == 1 and re.fullmatch(r"retrograde/kernels/_engine\..*(so|pyd)", engine.pop())
    assert any(name.endswith("/entry_points.txt") for name in names)
    assert any(name.endswith("/LICENSE") for name in names)
    assert about.startswith("Metadata-Version") and "\nRequires-Python: >=3.11" in about
    assert "gradient you can see" in about  # README is the long description


def test_the_core_needs_what_it_says_and_no_more(wheel):
    names = {canonicalize_name(one.name) for one in requirements(wheel, "")}
    assert names == {"torch", "numpy", "safetensors", "rich", "typer", "matplotlib"}
    everything = {canonicalize_name(one.name) for one in requirements(wheel, "all")}
    assert everything > {canonicalize_name(one.name) for one in requirements(wheel, "train")} > names


def test_the_core_measures(core, tmp_path):
    said = run(
        core,
        """
        import importlib, pkgutil, sys
        import torch, retrograde as rg
        from retrograde.cli import main

        for part in ("reference", "kernels", "nn", "flow", "gradcheck"):
            package = importlib.import_module(f"retrograde.{part}")
            for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                importlib.import_module(module.name)

        assert rg.kernels.available()
        model, x = rg.nn.accelerate_(torch.nn.LSTM(3, 4)), torch.randn(12, 2, 3)
        flow = rg.gradient_flow(model, x, loss=lambda output: output[0].pow(2).mean(-1))
        flow.plot_heatmap()
        flow.save("flow")
        assert (rg.GradientFlow.load("flow").norms == flow.norms).all()
        assert rg.check_gradients(model, x).ok
        net = rg.reference.Network.random(input_size=5, hidden_size=4, output_size=5, seed=0)
        assert len(rg.reference.gradient_terms(net, [0, 3, 1, 4], [3, 1, 4, 2], t=3)) == 3
        torch.save(model.state_dict(), "weights.pt")
        try:
            main(["flow", "--checkpoint", "weights.pt", "--plot", "flow.png", "--out", "saved"])
        except SystemExit as end:
            assert end.code == 0
        """,
        tmp_path,
    )
    assert "weights.pt: 1 recurrent module" in said
    assert (tmp_path / "flow.png").exists() and (tmp_path / "saved.safetensors").exists()


def test_a_missing_extra_is_one_line(core, tmp_path):
    (tmp_path / "text.txt").write_text("some text, again and again; " * 200)
    (tmp_path / "table.csv").write_text("text,label\n" + "good words,a\nbad words,b\n" * 9)
    said = run(
        core,
        f"""
        import contextlib, io, sys
        from pathlib import Path
        import retrograde as rg
        from retrograde.cli import main

        released = {str(ROOT / "tests" / "runs" / "released")!r}
        run = str(min(Path(released).glob("*language*")))
        for words in (
            ["train", "text.txt", "--out", "run"],
            ["train", "table.csv", "--task", "classify", "--out", "run"],
            ["generate", run], ["evaluate", run, "text.txt"], ["predict", run, "table.csv"], ["flow", run], ["report", run],
        ):
            heard = io.StringIO()
            with contextlib.redirect_stderr(heard):
                try:
                    main(words)
                except SystemExit as end:
                    assert end.code == 2, (words, end.code)
            assert heard.getvalue().count("\\n") == 1 and "pip install 'retrograde[train]'" in heard.getvalue(), (words, heard.getvalue())
        for call in (lambda: rg.train("text.txt", "run"), lambda: rg.load(run), lambda: rg.report.write(run)):
            try:
                call()
            except rg.errors.MissingExtraError as error:
                assert isinstance(error, (rg.errors.RetrogradeError, ImportError)) and "retrograde[train]" in str(error)
            else:
                raise AssertionError("it worked")
        assert not Path("run").exists()
        """,
        tmp_path,
    )
    assert said == ""


def test_the_extra_for_training_trains_and_reports(train, tmp_path):
    (tmp_path / "text.txt").write_text("some text, again and again; " * 200)
    (tmp_path / "table.csv").write_text("text,label\n" + "good words,a\nbad words,b\n" * 30)
    run(
        train,
        """
        from retrograde.cli import main
        small = ["--hidden-size", "4", "--max-steps", "2", "--threads", "1", "--quiet"]
        for words in (
            ["train", "text.txt", "--out", "text", *small],
            ["generate", "text", "--length", "9"],
            ["evaluate", "text", "text.txt"],
            ["flow", "text"],
            ["train", "table.csv", "--task", "classify", "--out", "table", *small],
            ["predict", "table", "table.csv", "--out", "labels.csv"],
        ):
            try:
                main(words)
            except SystemExit as end:
                assert end.code == 0, words
        """,
        tmp_path,
    )
    assert (tmp_path / "text" / "report.html").exists() and (tmp_path / "labels.csv").exists()
