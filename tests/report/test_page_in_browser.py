"""The page opened in a real Chromium: nothing fetched, nothing broken, legible everywhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

import retrograde as rg

pytestmark = pytest.mark.browser

HOSTILE = (
    "</pre><script>document.title='owned'</script><img src=http://example.com/x onerror=\"document.title='owned'\">"
)


def luminance(browser: webdriver.Chrome, selector: str, prop: str) -> float:
    """Relative luminance (WCAG) of a computed colour."""
    script = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
    colour = browser.execute_script(script, selector, prop)
    red, green, blue = (float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def overflow(browser: webdriver.Chrome) -> int:
    script = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    return int(browser.execute_script(script))


def test_the_page_draws_every_figure_fetches_nothing_and_leads_everywhere(
    make_run: Any, opened: Any, requests: Any
) -> None:
    page = rg.report.write(make_run())
    browser = opened(page)
    plots = browser.find_elements(By.CSS_SELECTOR, ".plot")
    assert len(plots) == 8
    for plot in plots:
        assert plot.find_elements(By.CSS_SELECTOR, "svg.main-svg .xtick")
        assert plot.find_elements(By.CSS_SELECTOR, ".scatterlayer path.js-line, .heatmaplayer image, .barlayer path")
        (drawing,) = plot.find_elements(By.CSS_SELECTOR, "svg[role=img]")
        assert len(drawing.get_attribute("aria-label")) > 40
        assert plot.get_attribute("role") is None  # an image has no buttons inside
        assert all(one.get_attribute("aria-label") for one in plot.find_elements(By.CSS_SELECTOR, "button"))
    assert browser.get_log("browser") == []
    assert requests() == [page.as_uri()]
    assert browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)") == []
    assert overflow(browser) <= 0
    assert len(browser.find_elements(By.TAG_NAME, "h1")) == 1
    for link in browser.find_elements(By.CSS_SELECTOR, "nav a"):
        target = browser.find_element(By.ID, link.get_attribute("href").partition("#")[2])
        assert target.find_element(By.TAG_NAME, "h2").text == link.text


STATE = """
const figure = document.querySelector('.path'), plot = figure.querySelector('.plot');
const [row, column] = [...figure.querySelectorAll('input')].map((input) => Number(input.value));
return { row, column, words: figure.querySelector('.path-words').textContent, y: [...plot.data[0].y],
         shapes: document.querySelector('#heat-map .plot').layout.shapes.length,
         table: figure.querySelectorAll('tr').length };
"""


def test_a_mean_over_errors_at_different_steps_is_not_called_a_product(make_run: Any, opened: Any) -> None:
    run = make_run(flow=())
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(9, 2, 3), [9, 5])
    flow = rg.gradient_flow(torch.nn.GRU(3, 4), packed, loss=lambda output: output[1][0].square().sum(-1))
    flow.save(run / "flow/trained")
    browser = opened(rg.report.write(run))
    words = browser.find_element(By.CSS_SELECTOR, ".path-words").text
    assert "different steps" in words and "multiply" not in words
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [(one["role"]["value"], one["name"]["value"]) for one in nodes if not one["ignored"] and "name" in one]
    found = [(role, name) for role, name in named if role in ("slider", "combobox", "image", "button", "link")]
    assert [role for role, name in found if not name.strip()] == []
    assert "state at step k" in {name.strip() for role, name in found if role == "slider"}


@pytest.fixture
def touched(browser: webdriver.Chrome) -> Iterator[None]:
    """A screen that is touched."""
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    yield
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.mark.usefixtures("touched")
def test_a_cell_shows_the_path_of_its_gradient_in_the_layer_chosen(make_run: Any, opened: Any, flows: Any) -> None:
    browser = opened(rg.report.write(make_run(layers=2)), prefers_reduced_motion="reduce")
    norms = flows[2, "trained"].norms[0]
    shown = browser.execute_script("return document.querySelector('#heat-map .plot').data[0].customdata")
    for t, k in ((29, 29), (29, 0), (12, 5)):
        assert float(shown[t][k]) == pytest.approx(norms[t, k], rel=6e-3)  # three digits
    assert shown[5][12] is None
    place = """
      const plot = document.querySelector('#heat-map .plot'), { xaxis, yaxis } = plot._fullLayout;
      plot.scrollIntoView({ block: 'center' });
      const [t, k, answer] = arguments;
      requestAnimationFrame(() => requestAnimationFrame(() => {  // a finger meets what is on the screen
        const box = plot.getBoundingClientRect();
        answer([box.left + xaxis._offset + xaxis.l2p(k), box.top + yaxis._offset + yaxis.l2p(t)]);
      }));
    """
    x, y = browser.execute_async_script(place, 25, 10)
    chain = webdriver.ActionChains(browser)
    chain.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    chain.w3c_actions.pointer_action.click()
    chain.perform()
    state = browser.execute_script(STATE)
    assert (state["row"], state["column"], state["table"]) == (25, 10, 17)
    assert "15 Jacobians lie between them" in state["words"]
    assert state["shapes"] == 4
    np.testing.assert_allclose(state["y"], norms[25, 25::-1], rtol=3e-3)
    left = float(re.search(r"Trained: .*?: ([\d.]+) % of it is left", state["words"])[1])
    assert left == pytest.approx(100 * norms[25, 10] / norms[25, 25], rel=0.06)
    sliders = browser.find_elements(By.CSS_SELECTOR, ".path input")
    sliders[1].send_keys(Keys.ARROW_LEFT)
    sliders[0].send_keys(Keys.ARROW_RIGHT)
    browser.find_element(By.CSS_SELECTOR, "#heat-map .plot").send_keys(Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    state = browser.execute_script(STATE)
    assert (state["row"], state["column"]) == (27, 8)
    Select(browser.find_element(By.CSS_SELECTOR, "#heat-map select")).select_by_visible_text("l1")
    other = browser.execute_script(STATE)
    assert (other["row"], other["column"]) == (27, 8)
    np.testing.assert_allclose(other["y"], flows[2, "trained"].norms[1][27, 27::-1], rtol=3e-3)

    def tapped(driver: Any) -> bool:  # with a finger, which taps again where the page was still being drawn
        x, y = driver.execute_async_script(place, 20, 5)
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        time.sleep(0.1)
        state = driver.execute_script(STATE)
        return (state["row"], state["column"]) == (20, 5)

    WebDriverWait(browser, 30).until(tapped, "a tap does not choose row 20, column 5")
    visible = "return document.querySelector('#by-lag .plot').data.map((trace) => trace.visible && trace.meta)"
    for choice, layer in enumerate(("l0", "l1")):
        Select(browser.find_element(By.CSS_SELECTOR, "#by-lag select")).select_by_visible_text(layer)
        metas = [meta for meta in browser.execute_script(visible) if isinstance(meta, dict)]
        assert {meta["choice"] for meta in metas} == {choice}
    assert browser.get_log("browser") == []


def test_hostile_text_stays_text(make_run: Any, opened: Any, requests: Any) -> None:
    made = make_run.config()
    made["data"]["source"] = HOSTILE
    made["environment"][HOSTILE] = HOSTILE
    browser = opened(rg.report.write(make_run(config=made, sample=HOSTILE + "\u202e\x00")))
    assert "owned" not in browser.title.removeprefix("A vanilla tanh RNN on " + HOSTILE)
    assert browser.find_element(By.CSS_SELECTOR, ".sample").text == HOSTILE + "⟨U+202E⟩⟨U+0000⟩"
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []
    assert not [url for url in requests() if "example.com" in url]
    assert browser.get_log("browser") == []


def test_no_script_but_ours_may_run(make_run: Any, opened: Any) -> None:
    """Even text that escaped the escaping would meet the page's own policy."""
    page = rg.report.write(make_run())
    page.write_text(page.read_text().replace("</main>", "<script>document.title = 'owned'</script></main>"))
    browser = opened(page)
    assert browser.title != "owned"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_words_and_figures_are_legible_in_either_scheme_and_on_paper(make_run: Any, opened: Any) -> None:
    browser = opened(rg.report.write(make_run()))
    for scheme in ("light", "dark"):

        def emulate(media: str, scheme: str = scheme) -> None:
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

        emulate("screen")
        page, card = luminance(browser, "body", "background-color"), luminance(browser, "figure", "background-color")
        assert (page < 0.05) == (scheme == "dark")
        for selector, back in (("main p", page), (".quiet", page), ("figcaption", card), (".facts dt", card)):
            assert contrast(luminance(browser, selector, "color"), back) >= 4.5, selector
        assert contrast(luminance(browser, ".plot .xtick text", "fill"), card) >= 4.5
        for i in (1, 2):
            line = f"#training .scatterlayer .trace:nth-child({i}) .js-line"
            assert contrast(luminance(browser, line, "stroke"), card) >= 3
        emulate("print")
        assert luminance(browser, "body", "background-color") == 1
        assert contrast(luminance(browser, ".plot .xtick text", "fill"), 1) >= 4.5
        assert not browser.find_element(By.CSS_SELECTOR, ".pair").is_displayed()


def test_nothing_scrolls_sideways_on_a_narrow_screen(make_run: Any, opened: Any) -> None:
    made = make_run.config(2)
    made["environment"]["path_" + "x" * 200] = "y" * 200
    browser = opened(rg.report.write(make_run(layers=2, config=made, sample="z" * 500)), width=320)
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    for width in (320, 390, 800):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        WebDriverWait(browser, 30).until(lambda driver: overflow(driver) <= 0)  # the figures follow


def test_the_page_reads_without_scripts(make_run: Any, browser: webdriver.Chrome) -> None:
    page = rg.report.write(make_run())
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page.as_uri())
        assert "The words and tables are complete without it" in browser.find_element(By.TAG_NAME, "noscript").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
