"""Updates and frames a second of the laboratory while it trains, and how fast a control responds, in Chromium.

``python benchmarks/laboratory.py`` trains each cell (H = 32, T = 50, B = 16) for a few seconds. "Free core" divides by
the CPU time of the page's main thread: what a core that has nothing else to do would give, as far as that thread goes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

from selenium import webdriver

from retrograde.laboratory import PAGE

FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run")
RESPONSE = """
const done = arguments[0], page = retrograde.page, slider = document.querySelector('[data-key=scale]'), times = [];
const next = () => {
  if (times.length === 15) return done(times.sort((a, b) => a - b));
  slider.value = 0.5 + 0.05 * times.length;
  const start = performance.now(), frame = page.count.frames;
  slider.dispatchEvent(new Event('input'));
  const wait = () => {
    if (page.count.frames === frame) return requestAnimationFrame(wait);
    times.push(performance.now() - start);
    setTimeout(next, 60);
  };
  requestAnimationFrame(wait);
};
next();
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--page", type=Path, default=PAGE, help="another build of the page, to compare with")
    arguments = parser.parse_args()
    seconds, page = arguments.seconds, arguments.page.resolve()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def clock() -> tuple[float, float, float, float]:
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        busy = next(one["value"] for one in metrics if one["name"] == "TaskDuration")
        frames, updates = browser.execute_script("const { frames, updates } = page.count; return [frames, updates]")
        return time.perf_counter(), busy, frames, updates

    try:
        for cell in ("tanh", "relu", "gru", "lstm"):
            browser.get("about:blank")
            browser.get(f"{page.as_uri()}#lang=en&story=0&cell={cell}&H=32&T=50&B=16&lag=10&t=49&k=20")
            browser.execute_script("window.page = retrograde.page; page.lab.train()")
            time.sleep(2)  # until the page has settled
            before = clock()
            time.sleep(seconds)
            wall, busy, frames, updates = (b - a for a, b in zip(before, clock(), strict=True))
            browser.execute_script("page.lab.pause()")
            response = browser.execute_async_script(RESPONSE)
            print(
                f"{cell:5} {updates / wall:5.0f} updates/s {frames / wall:4.0f} frames/s; free core: "
                f"{updates / busy:4.0f} updates/s {frames / busy:4.0f} frames/s; "
                f"control {response[7]:.0f} ms (median), {response[-1]:.0f} ms (longest); load {os.getloadavg()[0]:.1f}"
            )
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
