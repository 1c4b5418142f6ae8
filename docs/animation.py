"""The animated picture of the laboratory in README, taken in Chromium while it trains: ``python docs/animation.py``."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.webdriver import WebDriver

from retrograde.laboratory import PAGE

HOME = Path(__file__).parent
VIEW = {"width": 1100, "height": 940, "deviceScaleFactor": 1, "mobile": False}
SHOWN = (720, 615)
START = "theme=light&cell=tanh&H=16&T=20&lag=12&t=19&k=7&rate=0.01"


def opened(language: str) -> WebDriver:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "no-first-run",
        "hide-scrollbars",
    ):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", VIEW)
    browser.get(f"{PAGE.resolve().as_uri()}#lang={language}&story=0&{START}")
    browser.execute_script(
        "window.lab = retrograde.page.lab; scrollTo(0, document.querySelector('figure').offsetTop - 58)"
    )
    return browser


def frames(browser: WebDriver) -> list[tuple[Image.Image, int]]:
    """What is seen, each with its milliseconds: training, W dragged down and up, an LSTM, its forget bias."""
    taken: list[tuple[Image.Image, int]] = []

    def take(milliseconds: int, script: str = "") -> None:
        browser.execute_script(script)
        while browser.execute_script("return lab.running"):
            time.sleep(0.02)
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        taken.append((picture.resize(SHOWN, Image.Resampling.LANCZOS), milliseconds))

    take(900)
    for _ in range(6):
        take(130, "lab.train(30)")
    for scale in (0.85, 0.7, 0.55, 0.4, 0.55, 0.8, 1.1, 1.5, 2.0, 2.6):
        take(160, f"lab.set({{ scale: {scale} }}, 'scale')")
    taken[-1] = (taken[-1][0], 900)
    take(700, "lab.set({ scale: 1 }, 'scale'); lab.set({ cell: 'lstm' })")
    for keep in (0.5, 1, 1.5, 2, 2.5, 3):
        take(160, f"lab.set({{ keep: {keep} }}, 'keep')")
    for _ in range(14):
        take(130, "lab.train(25)")
    for k in (8, 9, 10, 12, 14, 16, 13, 10, 7):
        take(150, f"lab.look({{ k: {k} }})")
    taken[-1] = (taken[-1][0], 1500)
    return taken


def main() -> None:
    for language, ending in (("en", ""), ("zh-CN", ".zh-CN")):
        browser = opened(language)
        try:
            pictures, durations = zip(*frames(browser), strict=True)
        finally:
            browser.quit()
        path = HOME / "figures" / f"laboratory{ending}.webp"
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=55, method=4
        )
        print(f"{path.name}: {len(pictures)} frames, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
