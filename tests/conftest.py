"""For all tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recording import recorded  # noqa: F401  # a fixture for all tests
from retrograde import kernels

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A real Chromium, headless; tests that ask for it are skipped where there is none."""
    chromium, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium or chromedriver on PATH")
    from selenium import webdriver  # late: few tests need it

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The driver named outright: selenium looks for none, and downloads none.
    service = webdriver.ChromeService(driver, env={**os.environ, "SE_OFFLINE": "true"})
    started = webdriver.Chrome(options, service)
    yield started
    started.quit()


@pytest.fixture
def requests(browser: Chrome) -> Callable[[], list[str]]:
    """The addresses that pages asked for since the last look, without what is inline and the pages of the browser."""
    own = ("data:", "blob:", "about:", "chrome:", "chrome-untrusted:")

    def asked() -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        found = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in found if not url.startswith(own)]

    return asked


@pytest.fixture
def opened(browser: Chrome) -> Callable[..., Chrome]:
    """Opens a page, waits until it says that it is drawn; ``fragment`` is what follows # in its address."""
    from selenium.webdriver.support.ui import WebDriverWait

    def at(page: Path, width: int = 1200, fragment: str = "", **media: str) -> Chrome:
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # what went before is not this page's
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        kind = media.pop("media", "screen")
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": features})
        browser.get("about:blank")
        browser.get(page.as_uri() + ("#" + fragment if fragment else ""))
        WebDriverWait(browser, 30).until(
            lambda driver: driver.execute_script("return document.documentElement.dataset.drawn")
        )
        return browser

    return at
