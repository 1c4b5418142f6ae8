"""The laboratory opened in a real Chromium: what it shows is true, everything works, nothing leaves the page."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from test_network import Case, close

from retrograde.laboratory import PAGE

pytestmark = pytest.mark.browser
LAB = "const page = retrograde.page, lab = page.lab; "
FRAME = "const done = arguments[arguments.length - 1]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"


@pytest.fixture
def page(opened: Any) -> Any:
    def at(fragment: str, width: int = 1280, **media: str) -> Any:
        browser = opened(PAGE, width, fragment, **media)
        browser.execute_script("window.lab = retrograde.page.lab")
        return browser

    return at


def drawn(browser: Any) -> None:
    browser.execute_async_script(FRAME)


def view(browser: Any, *names: str) -> list[Any]:
    drawn(browser)
    return browser.execute_script("return arguments[0].map((name) => lab.view[name])", names)


def waited(browser: Any, condition: str) -> None:
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(f"return {condition}"))


def test_every_language_width_and_scheme_is_complete_and_fetches_nothing(page: Any, requests: Any) -> None:
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            browser = page("lang=en&story=3", width, prefers_color_scheme=scheme)
            for language in ("en", "zh-CN"):
                browser.execute_script("lab.look({ lang: arguments[0] })", language)
                drawn(browser)
                wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert browser.execute_script(wide) <= 0
                style = "const { backgroundColor, color } = getComputedStyle(document.querySelector('.lab'));"
                colors = browser.execute_script(style + "return [backgroundColor, color]")
                dark = [sum(map(float, color[4:-1].split(","))) < 250 for color in colors]
                assert dark == [scheme == "dark", scheme == "light"]
                labels = [one.get_attribute("aria-label") for one in browser.find_elements(By.TAG_NAME, "canvas")]
                assert len(labels) == 8 and all(len(label) > 15 for label in labels)
                chinese = [any("一" <= sign <= "鿿" for sign in label) for label in labels]
                assert chinese == [language == "zh-CN"] * 8
            browser.execute_script("lab.train()")
            waited(browser, "retrograde.page.count.apart > 0")  # by a worker, out of this file
            browser.execute_script("lab.pause()")
            assert browser.get_log("browser") == []
            assert {url.partition("#")[0] for url in requests()} == {PAGE.as_uri()}


def test_chinese_has_chinese_punctuation(page: Any) -> None:
    browser = page("lang=zh-CN&story=1&cell=lstm&truncation=4")
    texts = []
    for do in [f"lab.tell({n})" for n in range(1, 8)] + [f"lab.look({{ story: 0, case: {n} }})" for n in range(1, 6)]:
        browser.execute_script(do)
        drawn(browser)
        texts.append(browser.execute_script("return document.querySelector('.lab').textContent"))
    wrong = r"[一-鿿。，：；？”）] ?[,:;?!]|[一-鿿]\. |。 |\d %"
    assert [found for text in texts for found in re.findall(f".{{0,9}}(?:{wrong}).{{0,9}}", text)] == []


def test_every_picture_has_something_on_it(page: Any) -> None:
    browser = page("lang=en&story=0&cell=lstm&T=16")
    browser.execute_script("lab.train(3)")
    waited(browser, "!lab.running")
    browser.execute_script("for (const one of document.querySelectorAll('canvas')) one.scrollIntoView()")
    colors = """
      return [...document.querySelectorAll('canvas')].map((one) => {
        one.scrollIntoView();
        const data = one.getContext('2d').getImageData(0, 0, one.width, one.height).data, found = new Set();
        for (let i = 0; i < data.length; i += 4) found.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
        return found.size;
      });
    """
    waited(browser, "(() => {" + colors + "})().every((count) => count > 20)")


WRITTEN = """
  const { page } = retrograde, { picture, pen } = page.frames.find((one) => one.picture.name === 'graph'), written = [];
  pen.ctx.fillText = (...place) => written.push(place);
  picture.paint(pen, page.scene());
  delete pen.ctx.fillText;
  const { training } = lab, { y } = training.example(lab.view.example), { outputs, K } = training.task;
  return [written, Array.from({ length: y.length / K }, (_, t) => outputs[y.indexOf(1, t * K) - t * K])];
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_what_the_network_should_say_stands_with_what_it_says(page: Any, width: int) -> None:
    browser = page("lang=en&story=0&task=echo&T=12&lag=1", width)
    drawn(browser)
    written, targets = browser.execute_script(WRITTEN)
    rows: dict[float, list[str]] = {}
    for text, x, y in sorted(written, key=lambda one: one[1]):
        if x > 30 and text in "ABCD":
            rows.setdefault(y, []).append(text)
    outputs, *states = (row for _, row in sorted(rows.items()))
    if width == 390:  # in two rows
        assert outputs == targets[1:] and len(states[0]) == 11
    else:
        assert outputs[::2] == targets[1:] and len(outputs) == 22


@pytest.mark.parametrize("cell", ["tanh", "relu", "gru", "lstm"])
def test_what_is_shown_of_a_trained_network_is_that_of_the_reference(page: Any, cell: str) -> None:
    browser = page(f"lang=en&story=0&cell={cell}&start=orthogonal&H=6&T=9&lag=2&t=8&k=4")
    browser.execute_script("lab.train(20)")
    waited(browser, "!lab.running")
    got = browser.execute_script("return retrograde.now(retrograde.page)")
    case = Case(cell, last=False, steps=9)
    case.adopt(got)
    numbers = got["numbers"]
    close(numbers["losses"], case.head()[1])
    close(numbers["norms"], case.norms())
    for name, expected in case.gradients(None).items():
        close(numbers["gradients"][name], expected)
    shown = browser.find_element(By.CSS_SELECTOR, "figure[data-picture=heatmap] figcaption").text
    assert float(shown.split("= ")[1].split(";")[0]) == pytest.approx(case.norms()[8, 4], rel=6e-3)


def test_a_pair_is_chosen_by_click_by_keys_and_by_sliders(page: Any) -> None:
    browser = page("lang=en&story=0&T=12&t=11&k=5")
    heatmap = browser.find_element(By.CSS_SELECTOR, "figure[data-picture=heatmap] canvas")
    script = """
      const box = arguments[0].getBoundingClientRect(), side = Math.min(box.width - 54, box.height - 82);
      const at = (part) => (part + 0.5) / 12 * side, [t, k] = arguments[1];
      const place = { clientX: box.left + 40 + at(k), clientY: box.top + 8 + at(t) };
      arguments[0].dispatchEvent(new MouseEvent('click', place));
    """
    browser.execute_script(script, heatmap, [7, 2])
    assert view(browser, "t", "k") == [7, 2]
    heatmap.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_UP)
    assert view(browser, "t", "k") == [5, 3]
    heatmap.send_keys(*[Keys.ARROW_LEFT] * 6)
    assert view(browser, "t", "k") == [5, 0]
    browser.find_element(By.CSS_SELECTOR, "[data-pair=k]").send_keys(Keys.ARROW_RIGHT)
    assert view(browser, "t", "k") == [5, 1]
    assert "∂E₆/∂s₂" in heatmap.get_attribute("aria-label")
    equation = browser.find_element(By.CSS_SELECTOR, ".equation")
    assert "the chain of Jacobians, 4 factors" in equation.text


def test_controls_act_at_once_and_undo_takes_them_back(page: Any) -> None:
    browser = page("lang=en&story=0&start=orthogonal")
    radius = "return lab.training.radius()"
    before = browser.execute_script(radius)
    assert before == pytest.approx(1, abs=1e-4)
    slider = "const one = document.querySelector('[data-key=radius]'); one.value = 0.5;"
    browser.execute_script(slider + "one.dispatchEvent(new Event('input'))")
    drawn(browser)
    assert browser.execute_script(radius) == pytest.approx(0.5, abs=1e-4)
    chain = browser.find_element(By.CSS_SELECTOR, "figure[data-picture=chain] figcaption").text
    assert chain.startswith("6 Jacobians between the two steps, 6 of them with a norm below 1.")
    Select(browser.find_element(By.CSS_SELECTOR, "[data-key=cell]")).select_by_visible_text("LSTM")
    assert browser.execute_script("return lab.settings.cell") == "lstm"
    for expected in ("tanh", 1.0):
        browser.find_element(By.CSS_SELECTOR, "[data-action=undo]").click()
        drawn(browser)
        got = browser.execute_script("return [lab.settings.cell, lab.training.radius()]")
        assert expected == got[0] or got[1] == pytest.approx(expected, abs=1e-4)
    assert not browser.find_element(By.CSS_SELECTOR, "[data-action=undo]").is_enabled()


ANSWERED = """
  const [use, name, done] = arguments, { count } = retrograde.page, { [name]: make } = lab;
  const { frames } = count;
  lab[name] = (saved) => { // the first updates after the control was used
    lab[name] = make;
    done(count.frames - frames);
    make.call(lab, saved);
  };
  (0, eval)(use);
"""
USES = [
    "slider = document.querySelector('[data-key=scale]'); slider.value = 0.5; slider.dispatchEvent(new Event('input'))",
    "slider.value = 1.5; slider.dispatchEvent(new Event('input'))",
    "document.querySelector('[data-action=link]').click()",
    "lab.look({ lang: 'zh-CN' })",
    "lab.look({ theme: 'dark' })",
    "lab.look({ t: 40, k: 3 })",
    "lab.restart(); lab.train()",
]


@pytest.mark.parametrize("worker", [True, False])
def test_a_control_is_answered_before_training_goes_on(page: Any, worker: bool) -> None:
    browser = page("lang=en&story=0&cell=lstm&H=32&T=50&t=49&k=20")
    if not worker:
        browser.execute_script("retrograde.page.trainer.stop()")
    browser.execute_script("lab.train()")
    waited(browser, "lab.training.step > 3" + (" && retrograde.page.count.apart > 0" if worker else ""))
    for use in USES:  # what counts is the order, not the time
        if worker and ("look" in use or "link" in use):
            continue  # what does not change the training does not hold up a worker
        frames = browser.execute_async_script(ANSWERED, use, "adopt" if worker else "update")
        assert frames > 0, use
    browser.execute_script("lab.train(5)")
    waited(browser, "!lab.running")
    drawn(browser)
    drawn(browser)
    shown = "const { page } = retrograde; return [page.numbers().norms[49 * 50 + 20], retrograde.now(page)]"
    one, now = browser.execute_script(shown)
    assert one == now["numbers"]["norms"][49][20]  # what was put off while it trained has been drawn


def test_training_learns_and_an_address_brings_the_same_case_back(page: Any) -> None:
    browser = page("lang=en&story=0&lag=1&start=orthogonal&rate=0.02")
    browser.find_element(By.CSS_SELECTOR, "[data-action=hundred]").click()
    waited(browser, "!lab.running && lab.training.step === 100")
    browser.execute_script("lab.set({ rate: 0.01, clip: 2 }); lab.set({ T: 14 }); lab.train(10)")
    waited(browser, "!lab.running && lab.training.step === 110")
    drawn(browser)
    state = "return [lab.fragment(), [...lab.training.network.parameters.W], lab.training.history.loss.at(-1)]"
    fragment, weights, loss = browser.execute_script(state)
    assert loss < 0.3
    assert browser.execute_script("return location.hash.slice(1)") == fragment
    again = page(fragment)
    waited(again, "!lab.running && lab.training.step === 110")
    same, other, _ = again.execute_script(state)
    assert same == fragment
    np.testing.assert_array_equal(other, weights)


def test_a_loss_that_is_no_number_stops_training_and_says_so(page: Any) -> None:
    browser = page("lang=en&story=0&cell=relu&start=orthogonal&scale=2&T=40&optimizer=sgd&rate=1")
    browser.execute_script("lab.train(50)")
    waited(browser, "!lab.running")
    drawn(browser)
    assert browser.execute_script("return lab.training.failed")
    assert "NaN or infinite" in browser.find_element(By.CSS_SELECTOR, ".status").text
    assert browser.get_log("browser") == []


def test_a_text_that_is_pasted_is_trained_on_at_once_and_undo_brings_the_old_one_back(page: Any) -> None:
    browser = page("lang=en&story=0&task=text&T=8")
    before = browser.execute_script("return lab.settings.text")
    paste = """
      const area = document.querySelector('[data-key=text]');
      area.focus();
      area.value = arguments[0];
      area.dispatchEvent(new InputEvent('input', { inputType: arguments[1], bubbles: true }));
      return lab.settings.text;
    """
    assert browser.execute_script(paste, "no no no", "insertText") == before  # who types has not finished yet
    assert browser.execute_script(paste, "to be or not", "insertFromPaste") == "to be or not"
    assert sorted(browser.execute_script("return lab.training.task.inputs")) == sorted(set("to be or not"))
    browser.find_element(By.CSS_SELECTOR, "[data-action=undo]").click()
    drawn(browser)
    shown = "return [lab.settings.text, document.querySelector('[data-key=text]').value]"
    assert browser.execute_script(shown) == [before, before]


INSIGHT = """
  const tops = [...document.querySelectorAll('figure.focus')].map((one) => one.getBoundingClientRect().top);
  return Math.min(...tops) < innerHeight;
"""


def test_the_story_asks_first_and_then_lets_the_reader_find_out(page: Any) -> None:
    browser = page("lang=en", 390, prefers_reduced_motion="reduce")
    for step in range(1, 8):
        panel = browser.find_element(By.CSS_SELECTOR, ".panel")
        assert f"Step {step} of 7" in panel.text
        tries = panel.find_elements(By.CSS_SELECTOR, ".try")
        assert tries and not any(one.is_displayed() for one in tries)
        browser.execute_script("arguments[0].click()", panel.find_elements(By.CSS_SELECTOR, ".answer input")[1])
        assert all(one.is_displayed() for one in tries)
        browser.execute_script("arguments[0].click()", tries[0])
        drawn(browser)
        assert browser.execute_script(INSIGHT)
        if step < 7:
            browser.execute_script("lab.pause()")
            browser.execute_script("arguments[0].click()", panel.find_elements(By.CSS_SELECTOR, ".turn button")[-1])
            drawn(browser)
    for story in (0, 7):  # hidden, and back where it was
        browser.execute_script("document.querySelector('[data-action=story]').click()")
        drawn(browser)
        assert browser.execute_script("return lab.view.story") == story
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("case", range(1, 6))
def test_a_prepared_case_stays_ill_and_its_cure_helps(page: Any, case: int) -> None:
    browser = page(f"lang=en&case={case}")
    updates = "const end = arguments[0]; while (lab.training.step < end) lab.update(); lab.pause()"  # without pictures
    browser.execute_script(updates, 120 if case != 3 else 15)
    drawn(browser)
    assert not browser.find_element(By.TAG_NAME, "aside").is_displayed()
    if case == 2:  # the picture says which weights saturate the units
        sizes = re.search(r"U xₜ \+ b (\d+\.\d+), W sₜ₋₁ (\d+\.\d+)", browser.find_element(By.TAG_NAME, "body").text)
        assert sizes and float(sizes[1]) > 1.5 * float(sizes[2])
    mean = "return lab.training.history.loss.slice(-20).reduce((sum, one) => sum + one / 20, 0)"
    ill, chance = browser.execute_script(mean), browser.execute_script("return lab.training.task.chance")
    assert case == 3 or ill > 0.95 * chance
    browser.find_element(By.CSS_SELECTOR, ".panel summary").click()
    browser.find_element(By.CSS_SELECTOR, ".panel .try").click()
    browser.execute_script(updates, 160 if case != 3 else 250)
    assert browser.execute_script(mean) < 0.8 * chance


def test_every_task_at_every_length(page: Any) -> None:
    browser = page("lang=en&story=0&H=4&B=2")
    script = """
      lab.set({ task: arguments[0], loss: arguments[1] });
      return [3, 4, 7, 20].map((T) => {
        lab.set({ T });
        lab.update();
        const { x, scored } = lab.training.example(1), D = lab.training.task.D;
        return [lab.training.failed, x.length === T * D, scored.some(Boolean), scored.slice(0, -1).some(Boolean)];
      });
    """
    for task in ("echo", "adding", "copy", "order", "text"):
        for loss in ("every", "last"):
            for failed, whole, some, early in browser.execute_script(script, task, loss):
                assert not failed and whole and some
                assert not early or loss == "every"
            drawn(browser)
    assert browser.get_log("browser") == []


BROKEN = ["%E0%A4%A", "H=1e9&T=-5&t=99&k=99", "cell=%00&lag=x&changes=;;1:cell:gru&steps=-3", "case=99&story=9"]


def test_a_broken_address_opens_all_the_same(page: Any) -> None:
    browser = page(BROKEN[0])
    for fragment in BROKEN:
        browser.execute_script("lab.open(arguments[0])", fragment)
        drawn(browser)
        H, T, t, k = browser.execute_script("return [lab.settings.H, lab.settings.T, lab.view.t, lab.view.k]")
        assert 2 <= H <= 64 and 3 <= T <= 100 and k <= t < T
    assert browser.get_log("browser") == []


CONTROLS = {"button", "combobox", "slider", "radio", "textbox", "image", "figure", "navigation"}
CONTRAST = """
  const luminance = (css) => css.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    const { backgroundColor } = getComputedStyle(one);
    return backgroundColor === 'rgba(0, 0, 0, 0)' ? behind(one.parentElement) : luminance(backgroundColor);
  };
  return Math.min(...[...document.querySelectorAll('.lab *')]
    .filter((one) => one.checkVisibility() && !one.disabled && [...one.childNodes].some((node) => node.nodeType === 3))
    .map((one) => [luminance(getComputedStyle(one).color), behind(one)].sort((a, b) => b - a))
    .map(([light, dark]) => (light + 0.05) / (dark + 0.05)));
"""


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_a_screen_reader_and_a_keyboard_find_everything(page: Any, language: str) -> None:
    browser = page(f"lang={language}&story=0&cell=lstm&task=text&theme={'dark' if language == 'en' else 'light'}")
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [(one["role"]["value"], one["name"]["value"]) for one in nodes if not one["ignored"] and "name" in one]
    found = [(role, name) for role, name in named if role in CONTROLS]
    assert [role for role, name in found if not name.strip()] == []
    assert len({name for role, name in found if role == "slider"}) == 12
    chinese = [any("一" <= sign <= "鿿" for sign in name) for role, name in found if role in ("image", "slider")]
    assert all(chinese) if language == "zh-CN" else not any(chinese)
    assert browser.execute_script("return document.documentElement.lang") == language
    assert browser.execute_script(CONTRAST) >= 4.5
    heatmap = browser.find_element(By.CSS_SELECTOR, "figure[data-picture=heatmap] canvas")
    heatmap.send_keys(Keys.ARROW_LEFT)
    drawn(browser)
    heard = "return document.querySelector('.heard').textContent"
    assert "∂E₁₂/∂s₅" in browser.execute_script(heard)  # what an arrow key did is said
    browser.find_element(By.CSS_SELECTOR, "[data-action=one]").click()
    drawn(browser)
    waited(browser, "document.querySelector('.heard').textContent === document.querySelector('.status').textContent")
    browser.execute_script("document.querySelector('header select').focus()")
    browser.execute_script("lab.look({ lang: arguments[0] })", "en" if language == "zh-CN" else "zh-CN")
    drawn(browser)
    assert browser.switch_to.active_element.tag_name == "select"  # the keyboard is still there
    browser.execute_script("lab.tell(1)")
    drawn(browser)
    browser.execute_script("document.querySelector('.turn button:last-child').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    drawn(browser)
    assert browser.execute_script("return [lab.view.story, document.activeElement.tagName]") == [2, "H2"]


def test_fingers_and_who_wants_less_motion(page: Any) -> None:
    browser = page("lang=en&story=0&start=orthogonal", 390, prefers_reduced_motion="reduce")
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    place = """
      document.querySelector('details.side').open = true;
      arguments[0].scrollIntoView({ block: 'center' });
      const box = arguments[0].getBoundingClientRect();
      return [box.left, box.top, box.width, box.height];
    """

    def drag(selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        element = browser.find_element(By.CSS_SELECTOR, selector)
        browser.execute_script(place, element)
        drawn(browser)  # what comes into sight is drawn, and nothing moves any more
        left, top, width, height = browser.execute_script(place, element)
        at = [{"x": left + x * width, "y": top + y * height} for x, y in (start, end)]
        for kind, points in (("touchStart", at[:1]), ("touchMove", at[1:]), ("touchMove", at[1:]), ("touchEnd", [])):
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    drag("[data-key=scale]", (0.25, 0.5), (0.5, 0.5))  # W itself, from 1 to about 2
    waited(browser, "lab.settings.scale > 1.5")
    assert browser.execute_script("return lab.training.radius()") == pytest.approx(2, abs=0.3)
    drag("figure[data-picture=heatmap] canvas", (0.8, 0.7), (0.3, 0.7))
    waited(browser, "lab.view.k < 4")
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    browser.execute_script("page = retrograde.page; page.count.frames = 0; lab.train(300)")
    waited(browser, "!lab.running")
    assert browser.execute_script("return page.count.frames * 3 < page.count.updates")


SAID = """
  window.said = [];
  const watched = { childList: true, characterData: true, subtree: true };
  for (const one of document.querySelectorAll('[role=status], [role=alert], [aria-live]'))
    new MutationObserver(() => said.push(one.textContent)).observe(one, watched);
"""


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_training_is_announced_once(page: Any, language: str) -> None:
    browser = page(f"lang={language}&story=0")
    browser.execute_script(SAID + "lab.train(80)")
    waited(browser, "!lab.running")
    waited(browser, "said.length > 0")
    drawn(browser)
    (told,) = browser.execute_script("return said")  # not at each of the 80 updates
    assert "80" in told and any("一" <= sign <= "鿿" for sign in told) == (language == "zh-CN")


FOCUSED = """
  const one = document.activeElement, { action } = one.dataset;
  const known = { answer: '.answer input', try: '.try', next: '.turn button:last-child', title: 'h2' };
  return Object.keys(known).find((name) => one.matches(known[name])) ?? action ?? one.tagName;
"""


def test_the_whole_story_by_keyboard_alone(page: Any) -> None:
    browser = page("lang=en")
    count = "window.tried = 0; addEventListener('click', ({ target }) => { tried += target.matches('.try') ? 1 : 0; })"
    browser.execute_script(count)

    def tab_to(what: str) -> None:
        for _ in range(40):
            browser.switch_to.active_element.send_keys(Keys.TAB)
            if browser.execute_script(FOCUSED) == what:
                return
        raise AssertionError(f"{what} is not reached by Tab in step {browser.execute_script('return lab.view.story')}")

    for step in range(1, 8):
        assert browser.execute_script("return lab.view.story") == step
        tab_to("answer")
        browser.switch_to.active_element.send_keys(Keys.SPACE)
        tab_to("try")
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        waited(browser, f"window.tried === {step}")
        browser.execute_script("lab.pause()")
        if step < 7:
            tab_to("next")
            browser.switch_to.active_element.send_keys(Keys.ENTER)
            drawn(browser)
            assert browser.execute_script(FOCUSED) == "title"  # where the next step begins
    tab_to("train")
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    waited(browser, "lab.running")
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    waited(browser, "!lab.running")
