"""Training in a worker: the same updates as without one, none lost, none made twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from retrograde.laboratory import PAGE

pytestmark = pytest.mark.browser
STATE = """
  const { page } = retrograde, { training } = page.lab, { parameters } = training.network;
  return {
    weights: Object.values(parameters).map((one) => [...one]), history: training.history, failed: training.failed,
    step: training.step, settings: training.settings, fragment: page.lab.fragment(), count: page.count,
  };
"""
SAME = ("weights", "history", "failed", "step", "settings", "fragment")


@pytest.fixture
def page(opened: Any, tmp_path: Path) -> Callable[..., Any]:
    """Open the page, or with ``worker=False`` the page under a policy that allows no workers."""

    def at(fragment: str, worker: bool = True) -> Any:
        path = PAGE
        if not worker:
            path = tmp_path / "alone.html"
            text = PAGE.read_text(encoding="utf-8")
            assert " worker-src blob:;" in text
            path.write_text(text.replace(" worker-src blob:;", ""), encoding="utf-8")
        browser = opened(path, 1280, fragment)
        browser.execute_script("window.page = retrograde.page; window.lab = page.lab")
        return browser

    return at


def waited(browser: Any, condition: str) -> None:
    WebDriverWait(browser, 30, 0.05).until(lambda driver: driver.execute_script(f"return {condition}"))


def begun(browser: Any) -> Any:
    """Train until a worker does it."""
    browser.execute_script("lab.train()")
    waited(browser, "page.count.apart > 0")
    return browser


def trained(browser: Any, step: int) -> dict[str, Any]:
    waited(browser, f"!lab.running && lab.training.step === {step}")
    state: dict[str, Any] = browser.execute_script(STATE)
    assert len(state["history"]["loss"]) == len(state["history"]["norm"]) == step
    return state


CASES = [
    "cell=tanh&H=13&T=11&lag=2",
    "cell=relu&H=32&T=20&truncation=6&clip=0.5&optimizer=sgd",
    "cell=gru&task=copy&keep=2&changes=5:rate:0.03;5:clip:1;7:rate:0.02;40:T:14;40:scale:0.5;59:B:3",
    "cell=lstm&task=text&text=To%20be%2C%20or%20not%20to%20be&T=9&changes=31:truncation:4",
]


@pytest.mark.parametrize("worker", [True, False])
def test_an_address_brings_back_what_was_changed_after_the_last_update(page: Any, worker: bool) -> None:
    browser = begun(page("lang=en&story=0")) if worker else page("lang=en&story=0", worker=False)
    browser.execute_script("lab.restart(); lab.train(60)")
    trained(browser, 60)
    browser.execute_script("lab.set({ scale: 2, rate: 0.5 })")
    state = trained(browser, 60)
    browser.execute_script("lab.open(arguments[0])", state["fragment"])
    again = trained(browser, 60)
    assert {name: again[name] for name in SAME} == {name: state[name] for name in SAME}
    assert again["settings"]["scale"] == 2
    browser.execute_script("lab.train(40)")
    on = trained(browser, 100)
    assert on["weights"] == trained(page(on["fragment"], worker=not worker), 100)["weights"]


@pytest.mark.parametrize("case", CASES)
def test_a_worker_makes_the_updates_that_the_page_would_make(page: Any, case: str) -> None:
    fragment = f"lang=en&story=0&{case}&steps=90"
    alone = trained(page(fragment, worker=False), 90)
    browser = begun(page("lang=en&story=0"))
    browser.execute_script("Object.assign(page.count, { updates: 0, apart: 0 }); lab.open(arguments[0])", fragment)
    apart = trained(browser, 90)
    assert alone["count"]["apart"] == 0 < apart["count"]["apart"] <= apart["count"]["updates"] == 90
    assert {name: alone[name] for name in SAME} == {name: apart[name] for name in SAME}


USES = """
  const [done] = arguments, uses = [
    () => lab.set({ rate: 0.02 }, 'rate'), () => lab.set({ rate: 0.03 }, 'rate'), () => lab.look({ k: 2 }),
    () => lab.set({ scale: 1.3 }), () => lab.set({ T: 15, clip: 2 }), () => lab.pause(), () => lab.train(),
    () => lab.undo(), () => lab.train(400), () => lab.pause(), () => lab.train(1), () => lab.train(),
    () => lab.set({ keep: 1 }), () => lab.set({ optimizer: 'sgd' }), () => lab.pause(),
  ];
  const next = () => {
    uses.shift()?.();
    if (uses.length) setTimeout(next, 5 + 53 * (uses.length % 4)); // within an update and a report, or after many
    else done();
  };
  lab.train();
  setTimeout(next, 200);
"""


def test_no_update_is_lost_where_a_control_is_used(page: Any) -> None:
    browser = page("lang=en&story=0&cell=lstm&H=24&T=20&start=orthogonal")
    browser.execute_async_script(USES)
    step = browser.execute_script("return lab.training.step")
    state = trained(browser, step)
    assert state["count"]["apart"] > 0 and "changes=" in state["fragment"]
    browser.execute_async_script("setTimeout(arguments[0], 150)")  # a report that comes late changes nothing
    assert {name: browser.execute_script(STATE)[name] for name in SAME} == {name: state[name] for name in SAME}
    again = trained(page(state["fragment"], worker=False), step)  # every update and every change, in order
    assert {name: again[name] for name in SAME} == {name: state[name] for name in SAME}


def test_undo_and_one_step_while_a_worker_trains(page: Any) -> None:
    browser = begun(page("lang=en&story=0&H=8&T=10"))
    browser.execute_script("lab.restart(); lab.train(40)")
    before = trained(browser, 40)
    browser.execute_script("lab.train()")
    waited(browser, "lab.training.step > 60")
    browser.execute_script("lab.undo()")
    assert {name: trained(browser, 40)[name] for name in SAME} == {name: before[name] for name in SAME}
    for step in (41, 42, 43):
        browser.execute_script("document.querySelector('[data-action=one]').click()")
        found = trained(browser, step)
    whole = trained(page("lang=en&story=0&H=8&T=10&steps=43", worker=False), 43)
    assert {name: found[name] for name in ("weights", "history")} == {
        name: whole[name] for name in ("weights", "history")
    }


PAUSED = """
  const [done] = arguments;
  lab.pause();
  const { step } = lab.training;
  setTimeout(() => {
    const late = lab.training.step - step;
    lab.train();
    setTimeout(() => {
      lab.pause();
      const before = lab.training.step;
      lab.train(1);
      setTimeout(() => done([late, lab.training.step - before, lab.running]), 150);
    }, 150);
  }, 150);
"""


def test_a_pause_is_one_at_once(page: Any) -> None:
    """What a worker reports afterwards is not taken over, nor after the order for one update."""
    browser = begun(page("lang=en&story=0&cell=gru"))
    assert browser.execute_async_script(PAUSED) == [0, 1, False]


ORDERS = """
  const [done] = arguments, { worker } = page.trainer, orders = [], { frames } = page.count;
  worker.postMessage = ({ lease, saved }) => {
    orders.push([lease > 0, Boolean(saved), page.count.frames - frames]);
    if (orders.length === 2) done(orders);
  };
  lab.set({ rate: 0.02 });
"""


def test_a_worker_rests_until_a_reader_has_the_answer(page: Any) -> None:
    browser = begun(page("lang=en&story=0"))
    (rests, _, before), (goes, saved, after) = browser.execute_async_script(ORDERS)
    assert not rests and before == 0 and goes and saved and after > 0


DRAGGED = """
  const [done] = arguments, { step } = lab.training;
  let left = 60; // one second
  const drag = () => {
    lab.set({ rate: 0.001 * left }, 'rate');
    if (left--) requestAnimationFrame(drag);
    else done(lab.training.step - step);
  };
  drag();
"""


def test_training_goes_on_while_a_slider_is_dragged(page: Any) -> None:
    browser = begun(page("lang=en&story=0"))
    assert browser.execute_async_script(DRAGGED) >= 10
    browser.execute_script("lab.pause()")
    state = trained(browser, browser.execute_script("return lab.training.step"))
    again = trained(page(state["fragment"], worker=False), state["step"])
    assert again["weights"] == state["weights"]


def test_a_loss_that_is_no_number_stops_a_worker_too(page: Any) -> None:
    browser = begun(page("lang=en&story=0"))
    fragment = "lang=en&story=0&cell=relu&start=orthogonal&scale=2&T=40&optimizer=sgd&rate=1&steps=50"
    browser.execute_script("page.count.apart = 0; lab.open(arguments[0])", fragment)
    waited(browser, "lab.training.failed && document.querySelector('.status.failed')")
    assert browser.execute_script("return !lab.running && page.count.apart > 0")
    assert browser.get_log("browser") == []


def test_a_worker_that_fails_leaves_the_training_to_the_page(page: Any) -> None:
    browser = begun(page("lang=en&story=0"))
    browser.execute_script("page.trainer.worker.postMessage({ saved: {} })")  # makes it throw
    waited(browser, "page.trainer.worker === null")
    browser.execute_script("window.apart = page.count.apart; lab.train(lab.training.step < 1 ? 50 : 200)")
    step = browser.execute_script("return lab.target")
    found = trained(browser, step)
    assert found["count"]["apart"] == browser.execute_script("return apart")
    again = trained(page(f"lang=en&story=0&steps={step}", worker=False), step)
    assert found["weights"] == again["weights"]


def test_nothing_goes_on_in_a_page_that_is_taken_away(page: Any) -> None:
    browser = begun(page("lang=en&story=0"))
    browser.execute_script("page.stop(); window.step = lab.training.step")
    browser.execute_async_script("setTimeout(arguments[0], 120)")
    assert browser.execute_script("return lab.training.step === step && page.trainer.worker === null")


def test_a_worker_makes_its_updates_without_orders_for_a_moment_only(page: Any) -> None:
    """None come from a tab that nobody sees: there are no frames there."""
    browser = begun(page("lang=en&story=0"))
    browser.execute_script("page.tick = () => {}")
    browser.execute_async_script("setTimeout(arguments[0], 200)")
    step = browser.execute_script("return lab.training.step")
    browser.execute_async_script("setTimeout(arguments[0], 100)")
    assert browser.execute_script("return lab.running && lab.training.step") == step
