"""Run tests of the tree of mutants in forked processes that have the libraries, but not the package, imported.

Reads one request per line (JSON) and answers each with one line: the exit code of pytest, None after the time limit.
A request without ``tests`` runs whole files; the name of the first test that fails is written into the file ``failed``.
The limit is in seconds of CPU time, and ten times as many by the clock. A request with ``map`` runs whole test files
instead, traces the ``sources`` with coverage.py and writes into the file named which test executes which lines:
``{"seconds": {test: …}, "lines": {file: {line: [test, …]}}}``. What runs when a file is
imported is listed under the test ``""``. What a test sets up may be shared with its file, so it is listed under every
test of that file. Lines that only processes started by a test execute are not seen.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

LIBRARIES = ("torch", "numpy", "scipy", "matplotlib.pyplot", "rich", "typer", "safetensors.torch", "sklearn", "duckdb")
LIBRARIES += ("tokenizers", "plotly", "pandas")  # none of them starts threads when it is imported
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--durations=0", "-o", "timeout=0"]


class Selection:
    """Plugin that keeps the tests named, file by file: quick files first, and quick tests first in each."""

    def __init__(self, order: list[str]) -> None:
        self.order = {test: number for number, test in enumerate(order)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda own: self.order[own.nodeid])


class First:
    """Plugin that writes down which test fails first."""

    def __init__(self, out: str) -> None:
        self.out, self.test = out, ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.test = self.test or (report.nodeid if report.failed else "")

    def pytest_sessionfinish(self) -> None:  # what the test has patched is as it was
        if self.test:
            Path(self.out).write_text(self.test, "utf-8")


class Trace:
    """Plugin that notes what each test executes, how long it takes and whether it passes."""

    def __init__(self, sources: list[str]) -> None:
        # include=[] would be every file there is
        self.coverage = coverage.Coverage(data_file=None, config_file=False, include=sources or ["no file"])
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        started = sum(os.times()[:4])  # with that of ended children
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = sum(os.times()[:4]) - started
            self.coverage.switch_context("")

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.coverage.switch_context(f"setup {item.nodeid}")

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.coverage.switch_context(f"call {item.nodeid}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)

    def write(self, out: Path, tree: Path) -> None:
        files = defaultdict(list)
        for test in self.seconds:
            files[test.split("::")[0]].append(test)
        data, lines = self.coverage.get_data(), dict[str, dict[int, list[str]]]()
        for name in data.measured_files():
            own = lines[str(Path(name).relative_to(tree))] = {}
            for line, contexts in data.contexts_by_lineno(name).items():
                tests = set()
                for when, _, test in (context.partition(" ") for context in contexts):
                    tests.update(files[test.split("::")[0]] if when == "setup" else [test])
                own[line] = sorted(tests - self.failed)
        seconds = {test: took for test, took in self.seconds.items() if test not in self.failed}
        out.write_text(json.dumps({"seconds": seconds, "lines": lines}), "utf-8")


def child(request: dict[str, Any]) -> int:
    """Run the tests of a request: the exit code of pytest."""
    sys.path.insert(0, str(Path("src").resolve()))
    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    if "map" not in request:
        plugin = Selection(request["tests"]) if "tests" in request else First(request["failed"])
        return int(pytest.main([*OPTIONS, "-x", *request["files"]], plugins=[plugin]))
    trace = Trace([str(Path(source).resolve()) for source in request["sources"]])
    trace.coverage.start()
    code = int(pytest.main([*OPTIONS, *request["files"]], plugins=[trace]))
    trace.coverage.stop()
    trace.write(Path(request["map"]), Path().resolve())
    return code


def fork(request: dict[str, Any]) -> int | None:
    """Exit code of a process of its own for the request, which is ended with its children after the time limit."""
    if (pid := os.fork()) == 0:
        code = 3
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(request["limit"]) + 1, resource.RLIM_INFINITY))
            silence = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(silence, descriptor)
            code = child(request)
        finally:
            os._exit(code)
    end, found = time.monotonic() + 10 * request["limit"], 0
    while not found and time.monotonic() < end:
        time.sleep(0.02)
        found, status = os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):  # what the tests started may still run
        os.killpg(pid, signal.SIGKILL)
    if not found:
        os.waitpid(pid, 0)
        return None
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGXCPU else code


def main() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
