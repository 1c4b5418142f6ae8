"""Change one thing in the package at a time, and see whether the tests of that part notice.

    python tests/mutants --count 200 --seed 0
    python tests/mutants --count 200 --seed 0 --only report cli --minutes 10   # a portion; run it again to go on
    python tests/mutants --count 30 --cpp                                      # the engine, in C++

The sample is the same for the same seed and source. Each mutant is written into a copy of the package under
``build/mutants``, with an environment that imports it from there. Tests run in a forked process, up to the first
failure or a time limit. First come, for all mutants, the test files of the module's name, or that the module names; a
mutant is killed if a test fails that passes without it. For what is left, coverage.py tells, once for each test file,
which tests execute the changed statement: those of the same files run first, then those of its part. What only
processes started by tests execute is not seen: where no test executes the statement, all tests of the part run. Results
are appended to ``build/mutants/results.jsonl``; mutants that are in it are not run again, except survivors with
``--again``. C++ mutants that do not compile are left out of the sample.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cpp  # type: ignore[import-not-found]
from covering import Covering, Server  # type: ignore[import-not-found]
from mutations import Mutant, mutants  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]
SOURCE = Path("src/retrograde")
TREE = ROOT / "build" / "mutants" / "tree"
RESULTS = ROOT / "build" / "mutants" / "results.jsonl"
LIMIT = 120.0  # of the first run of a module's own tests, in seconds of CPU time

# Tests of a part, after the test file of the same name; here where they are not tests/PART alone.
TESTS = {
    "data": ["tests/data", "tests/tasks", "tests/cli/test_tasks.py"],
    "tasks": ["tests/tasks", "tests/cli/test_tasks.py"],
    "training": ["tests/training", "tests/cli/test_train.py"],
    "runs": ["tests/runs", "tests/cli"],
    "bench": ["tests/bench/test_bench.py"],
    "files.py": ["tests/test_files.py", "tests/test_writing.py"],
    "measuring.py": ["tests/test_measuring.py", "tests/flow/test_isolation.py"],
    "_torch_private.py": ["tests/nn", "tests/flow/test_torch_patches.py"],
    "cells.py": ["tests/test_cells.py", "tests/nn"],
    "experiment.py": ["tests/training", "tests/cli/test_train.py"],
    "extras.py": ["tests/test_public_api.py"],
    "__init__.py": ["tests/test_public_api.py"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpp", action="store_true", help="mutants of the engine instead of those of the package")
    parser.add_argument("--only", nargs="*", help="parts of the package, such as flow or errors.py")
    parser.add_argument("--again", action="store_true", help="run the survivors again, after tests were added")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant after this time")
    arguments = parser.parse_args()

    os.chdir(ROOT)
    chosen = sample(arguments.count, arguments.seed, arguments.cpp)
    sources = [] if arguments.cpp else [file for file, _ in chosen]
    if arguments.only:
        chosen = [(file, mutant) for file, mutant in chosen if part_of(file) in arguments.only]
    known = {row["id"]: row for row in read_results()}
    if arguments.again:
        known = {name: row for name, row in known.items() if row["outcome"] != "survived"}
    python, started = prepare(), time.monotonic()
    engine = cpp.Engine(TREE, TREE.parent / "objects") if arguments.cpp else None
    server, compiled = Server(python, TREE), 0
    covering = Covering(server, TREE, sources)
    if engine and not covering.everything(list(cpp.TESTS)):
        sys.exit("no test of the engine passes without any mutant")
    for stage in ("all",) if engine else ("own", "all"):
        for file, mutant in chosen:
            if compiled == arguments.count:
                break
            name = name_of(file, mutant)
            if (before := known.get(name, {}).get("outcome")) and (before != "open" or stage == "own"):
                compiled += stage == "all" and before != "invalid"
                continue
            if time.monotonic() - started > 60 * arguments.minutes:
                break
            outcome, ran = own_tests(server, file, mutant) if stage == "own" else judge(covering, engine, file, mutant)
            compiled += stage == "all" and outcome != "invalid"
            known[name] = {"id": name, "part": part_of(file), "outcome": outcome, "old": mutant.old, "new": mutant.new}
            with RESULTS.open("a", encoding="utf-8") as results:
                results.write(json.dumps(known[name], ensure_ascii=False) + "\n")
            print(f"{outcome:9} {file}:{mutant.line}  {mutant.old}  ->  {mutant.new}  ({ran})", flush=True)
    server.close()
    rows = [known[name] for one in chosen if (name := name_of(*one)) in known]
    report([row for row in rows if row["outcome"] != "invalid"][: arguments.count])


@contextlib.contextmanager
def applied(file: Path, mutant: Mutant) -> Iterator[None]:
    """The copy of the package with the mutant in it."""
    whole = (TREE / file).read_text(encoding="utf-8")
    (TREE / file).write_text(mutant.apply(whole), encoding="utf-8")
    try:
        yield
    finally:
        (TREE / file).write_text(whole, encoding="utf-8")


def own_tests(server: Server, file: Path, mutant: Mutant) -> tuple[str, str]:
    """Killed if a test in the module's own test files fails with the mutant and passes without; otherwise open."""
    (failed := TREE.parent / "failed").unlink(missing_ok=True)
    if not (own := stages(file)[0]):
        return "open", "no test file of its own"
    with applied(file, mutant):
        code = server.run(LIMIT, files=own, failed=str(failed))
    if not failed.exists():
        return "open", f"its own tests: {'not within the limit' if code is None else f'exit code {code}'}"
    test = failed.read_text("utf-8")
    without = server.run(LIMIT, files=[test], failed=str(failed))
    return ("killed" if without == 0 else "open"), test


def judge(covering: Covering, engine: cpp.Engine | None, file: Path, mutant: Mutant) -> tuple[str, str]:
    """What the tests that execute the mutant say, and how many they are."""
    code: int | None = 0
    ran = 0
    for tests in [covering.everything(list(cpp.TESTS))] if engine else rounds(covering, file, mutant):
        with applied(file, mutant):
            if engine and not engine.build(file):
                return "invalid", "does not compile"
            limit = 30 + 5 * sum(covering.seconds[test] for test in tests)
            named = list(dict.fromkeys(test.split("::")[0] for test in tests))
            code = covering.server.run(limit, tests=tests, files=named) if tests else 0
        ran += len(tests)
        if code != 0:
            break
    return {0: "survived", None: "timeout"}.get(code, "killed"), f"{ran} tests"


def sample(count: int, seed: int, engine: bool) -> list[tuple[Path, Mutant]]:
    """So many mutants of the package, each equally likely; of the engine all, in the order in which they are tried."""
    if engine:
        everything = [(file, mutant) for file in cpp.files() for mutant in cpp.mutants(file.read_text("utf-8"))]
        print(f"{len(everything):,} mutants of the engine; the first {count} that compile, seed {seed}")
        random.Random(seed).shuffle(everything)
        return everything
    files = sorted(file for file in SOURCE.rglob("*.py"))
    everything = [(file, mutant) for file in files for mutant in mutants(file.read_text(encoding="utf-8"))]
    print(f"{len(everything):,} mutants of {len(files)} files; a sample of {count}, seed {seed}")
    return random.Random(seed).sample(everything, min(count, len(everything)))


def name_of(file: Path, mutant: Mutant) -> str:
    return f"{file}:{mutant.line}:{mutant.column} {mutant.old!r} -> {mutant.new!r}"


def part_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0]


def rounds(covering: Covering, file: Path, mutant: Mutant) -> Iterator[list[str]]:
    """The tests to run, most likely ones first; all of the part where none is known to execute the statement."""
    files, found = stages(file), False
    for own in files:
        if tests := covering.tests(file, mutant, own):
            found = True
            yield tests
    if not found:
        yield covering.everything([one for own in files for one in own])


def stages(source: Path) -> list[list[str]]:
    """The test files of a module: those of its name or that it names; those of its part, with examples in modules."""
    part, text = part_of(source), source.read_text(encoding="utf-8")
    own = TESTS.get(part) or [f"tests/{part}" if (SOURCE / part).is_dir() else f"tests/test_{part}"]
    paths = [Path(path) for path in own]
    files = sorted(file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path]))
    named = re.findall(r"tests/[\w/]+\.py", (ast.get_docstring(ast.parse(text)) or "").partition("Tests: ")[2])
    everything = list(dict.fromkeys(str(file) for file in [*named, *files, SOURCE / part] if Path(file).exists()))
    same = f"test_{source.stem.strip('_')}.py"
    first = [file for file in everything if file in named or Path(file).name == same]
    return [first, [file for file in everything if file not in first]]


def prepare() -> Path:
    """A copy of what git knows, with the engine, and a Python that imports the package from there."""
    if TREE.exists():
        shutil.rmtree(TREE)
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if Path(name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, TREE / name)
    from retrograde.kernels import _engine

    shutil.copy(_engine.__file__, TREE / SOURCE / "kernels")
    environment = TREE.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", environment], check=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    for script in Path(sys.executable).parent.iterdir():  # launchers, such as torchrun, that tests find next to Python
        own, marker = python.parent / script.name, f"#!{sys.executable}"
        if script.is_file() and not own.exists() and script.read_bytes().startswith(marker.encode()):
            own.write_text(script.read_text("utf-8").replace(marker, f"#!{python}", 1), "utf-8")
            own.chmod(0o755)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    import torch

    # Paths in a .pth file are searched without obeying further .pth files, so not the editable install.
    (packages / "mutants.pth").write_text(f"{TREE / 'src'}\n{Path(torch.__file__).parents[1]}\n")
    where = "import retrograde; print(retrograde.__file__)"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_relative_to(TREE):
        sys.exit(f"{found} is imported, not the copy under {TREE}")
    return python


def read_results() -> list[dict[str, str]]:
    return [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()] if RESULTS.exists() else []


def report(rows: list[dict[str, str]]) -> None:
    for part in [*sorted({row["part"] for row in rows}), ""]:
        outcomes = Counter(row["outcome"] for row in rows if part in ("", row["part"]))
        dead = outcomes["killed"] + outcomes["timeout"]
        share = dead / max(1, outcomes.total())
        rest = f", {outcomes['open']} not finished" if outcomes["open"] else ""
        print(f"{part or 'all':12} {dead:4} of {outcomes.total():4} killed ({share:.0%}){rest}")


if __name__ == "__main__":
    main()
