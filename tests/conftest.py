"""For all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from retrograde import kernels

NO_ENGINE = (
    "retrograde's native engine was not built (was there a C++ compiler when it was installed?): "
    "the tests that need it were skipped. Where CI=true that is a failure."
)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Do not import modules that tests import themselves: --doctest-modules looks into every file by default."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the docstring examples of the kernels if there are no kernels."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and "kernels" in item.path.parts and not kernels.available():
            item.add_marker(pytest.mark.skip(reason="the native engine was not built"))


def pytest_sessionstart(session: pytest.Session) -> None:
    """A green run in continuous integration has tested the engine."""
    if not kernels.available() and os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.exit(NO_ENGINE, returncode=1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not kernels.available():
        terminalreporter.write_line(NO_ENGINE)


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """Files are written as ever; only the power cut that fsync guards against does not come during tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def signals_as_a_terminal_has_them():
    """Where the suite runs in the background or under nohup, signals are ignored, and so they are in what it starts."""
    defaults = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL, "SIGQUIT": signal.SIG_DFL}
    numbers = {getattr(signal, name): handler for name, handler in defaults.items() if hasattr(signal, name)}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
