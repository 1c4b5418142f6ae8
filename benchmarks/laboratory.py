"""Updates and frames a second of the laboratory while it trains, and how fast every control responds, in Chromium.

``python benchmarks/laboratory.py`` trains each cell (H = 32, T = 50, B = 16) for a few seconds, and counts second by
second, so that the slowest second is known too. "Thread of the page" is the part of the time in which that thread
computes: it draws, and a worker trains.

Then every control is used while the network trains, by keys and clicks that Chromium takes for a reader's. A response
takes from the time stamp of the key or click until the next pictures are drawn and the frame has been handed over: a
task of the highest priority, posted in that frame, runs after it and before training goes on. "Over 50 ms" are the
controls that take longer in the median of their repeats.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
from selenium import webdriver

from retrograde.laboratory import PAGE

FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run")
CONTROLS = """
const found = () => {
  for (const one of document.querySelectorAll('details')) one.open = true;
  return [...document.querySelectorAll('.lab :is(input, select, button, summary, canvas[tabindex])')]
    .filter((one) => one.checkVisibility() && !one.disabled);
};
"""
NAMES = """
return found().map((one) => {
  const { key, pair, action } = one.dataset;
  return key ?? pair ?? action ?? one.closest('[data-picture]')?.dataset.picture ?? one.ariaLabel ?? one.textContent;
});
"""
READY = """
const [number, fragment, done] = arguments, page = retrograde.page, { lab } = page;
lab.open(fragment, lab.view);
lab.set({ seed: 2 }); // something to undo
lab.train();
setTimeout(() => {
  const one = found()[number], list = one.matches('select'), slider = one.matches('[type=range]');
  one.scrollIntoView({ block: 'nearest' });
  one.focus();
  window.answer = new Promise((found) => addEventListener(list || slider ? 'keydown' : 'click', ({ timeStamp }) => {
    const { frames } = page.count, handed = () => found(performance.now() - timeStamp);
    const wait = () => {
      if (page.count.frames > frames) scheduler.postTask(handed, { priority: 'user-blocking' });
      else requestAnimationFrame(wait);
    };
    requestAnimationFrame(wait);
  }, { capture: true, once: true }));
  const box = one.getBoundingClientRect(), end = list ? one.selectedIndex === one.length - 1 : one.value === one.min;
  done([list || slider ? (end ? 'Up' : 'Down') : '', box.left + box.width / 2, box.top + box.height / 2]);
}, 150 + 30 * Math.random());
"""
KEYS = {"Up": 38, "Down": 40}


def responses(browser: webdriver.Chrome, fragment: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds until each control is answered, by the name of the control."""

    def once(number: int) -> float:
        key, x, y = browser.execute_async_script(CONTROLS + READY, number, fragment)
        for press in (True, False):
            if key:
                what = {"key": f"Arrow{key}", "code": f"Arrow{key}", "windowsVirtualKeyCode": KEYS[key]}
                browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown" if press else "keyUp", **what})
            else:
                what = {"x": x, "y": y, "button": "left", "clickCount": 1}
                kind = "mousePressed" if press else "mouseReleased"
                browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **what})
        taken: float = browser.execute_async_script("window.answer.then(arguments[0])")
        return taken

    names = browser.execute_script(CONTROLS + NAMES)
    return {f"{i} {name}": [once(i) for _ in range(repeats)] for i, name in enumerate(names)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5, help="how often each control is used")
    parser.add_argument("--cells", nargs="+", default=["tanh", "relu", "gru", "lstm"])
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

    def clock() -> np.ndarray:
        """Time, CPU time of the page's thread, frames and updates."""
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        busy = next(one["value"] for one in metrics if one["name"] == "TaskDuration")
        now, frames, updates = browser.execute_script(
            "const { frames, updates } = page.count; return [performance.now() / 1000, frames, updates]"
        )
        return np.array([now, busy, frames, updates])

    try:
        for cell in arguments.cells:
            browser.get("about:blank")
            fragment = f"lang=en&story=3&cell={cell}&H=32&T=50&B=16&lag=10&t=49&k=20"
            browser.get(f"{page.as_uri()}#{fragment}")
            browser.execute_script("window.page = retrograde.page; page.lab.train()")
            time.sleep(2)  # until the page has settled
            times = [clock()]
            for _ in range(max(1, round(seconds))):
                time.sleep(1)
                times.append(clock())
            wall, busy, frames, updates = times[-1] - times[0]
            each = np.diff(times, axis=0)
            slowest = (each[:, 2:] / each[:, :1]).min(axis=0)
            print(
                f"{cell:5} {updates / wall:4.0f} updates/s {frames / wall:3.0f} frames/s; in the slowest second "
                f"{slowest[1]:4.0f} and {slowest[0]:3.0f}; thread of the page {busy / wall:4.0%} busy; "
                f"load {os.getloadavg()[0]:.1f}"
            )
            if not arguments.repeats:
                continue
            found = responses(browser, fragment, arguments.repeats)
            taken = sorted(one for times in found.values() for one in times)
            medians = {name: statistics.median(times) for name, times in found.items()}
            last = sorted(medians, key=lambda name: -medians[name])[:3]
            late = [f"{name} {taken:.0f}" for name, taken in medians.items() if taken > 50]
            print(
                f"      {len(found)} controls: {statistics.median(taken):.0f} ms (median), "
                f"{taken[int(0.95 * len(taken))]:.0f} ms (95 %), {taken[-1]:.0f} ms (longest); slowest by median: "
                + ", ".join(f"{name} {medians[name]:.0f} ms" for name in last)
            )
            print(f"      over 50 ms (median of {arguments.repeats}): {len(late)} of {len(found)}", *late, sep="  ")
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
