"""`rg.lab`: the page as a widget, drawn in real Chromium as a notebook draws it, with what Python measured."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import retrograde as rg

T = 20
HOST = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<body data-jp-theme-light="false"><div id="cell" style="width: 760px"></div>
<script>globalThis.retrograde = undefined;</script>
<script type="module">
const module = await import("data:text/javascript;base64,MODULE");
const measured = MEASURED;
window.clean = module.default.render({ model: { get: (name) => measured }, el: document.getElementById("cell") });
await new Promise((done) => setTimeout(done, 400));
document.documentElement.dataset.drawn = "true";
</script>"""


LAYOUT = """
  const cell = document.getElementById('cell'), root = cell.shadowRoot.querySelector('.lab');
  const widths = [...root.querySelectorAll('canvas')].map((one) => one.clientWidth).filter(Boolean);
  return [root.dataset.theme, cell.dataset.lmSuppressShortcuts, Math.min(...widths) > 300];
"""


def hosted(widget: Any, folder: Path) -> Path:
    """A page that shows a widget as a notebook does."""
    module = base64.b64encode(widget._esm.encode()).decode()
    page = folder / "notebook.html"
    page.write_text(HOST.replace("MODULE", module).replace("MEASURED", json.dumps(widget.measured)), encoding="utf-8")
    return page


@pytest.mark.browser
@pytest.mark.parametrize("inside", [True, False])
def test_a_readers_own_network_is_drawn(opened: Any, tmp_path: Path, inside: bool) -> None:
    pytest.importorskip("anywidget")
    torch.manual_seed(0)
    model, x = torch.nn.GRU(3, 5), torch.randn(T, 2, 3)

    def loss(output: Any) -> torch.Tensor:
        return (output[0] if inside else output[0].cumsum(0)).square().sum(-1)

    widget = rg.lab(model, x, loss=loss, sequence=1)
    browser = opened(hosted(widget, tmp_path))
    assert browser.get_log("browser") == []
    shown = """
      const root = document.getElementById('cell').shadowRoot;
      const there = [...root.querySelectorAll('figure')].filter((one) => !one.hidden).map((one) => one.dataset.picture);
      const caption = root.querySelector('figure[data-picture=heatmap] figcaption').textContent;
      return [there, caption, root.querySelector('h1').textContent, root.querySelectorAll('aside').length];
    """
    there, caption, title, controls = browser.execute_script(shown)
    assert "GRU" in title and controls == 0
    known = {"graph", "heatmap", "chain", "lags"}
    assert set(there) == (known | {"activation", "terms", "equation"} if inside else known)
    norms = rg.gradient_flow(model, x, loss=loss, reduce="none").norms[0, :, :, 1]
    assert f"‖∂E₂₀/∂s₁₃‖ = {norms[T - 1, 12]:.3g}"[:15] in caption
    assert browser.execute_script(LAYOUT) == ["dark", "true", True]
    if inside:  # the page's own network, from the weights, comes to the norms measured
        browser.execute_script("window.page = retrograde.mount(document.body, arguments[0])", widget.measured)
        got = browser.execute_async_script(
            "const done = arguments[0]; setTimeout(() => done([...window.page.numbers().norms]), 300)"
        )
        np.testing.assert_allclose(np.reshape(got, (T, T)), norms, rtol=1e-4, atol=1e-6)
    assert browser.execute_script("window.clean(); return true")


@pytest.mark.browser
def test_a_notebook_without_a_kernel_shows_it_all_the_same(opened: Any, tmp_path: Path) -> None:
    pytest.importorskip("anywidget")
    widget = rg.lab(torch.nn.RNN(3, 5), torch.randn(T, 2, 3), loss=lambda output: output[0].square().sum(-1))
    widget.measured = widget.measured | {"title": "</script>& <b>"}
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data and "run this cell" in data["text/plain"]
    drawn = "<script>setTimeout(() => document.documentElement.dataset.drawn = 1, 400)</script>"
    page = tmp_path / "exported.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">{data["text/html"]}{drawn}')
    browser = opened(page)
    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    assert browser.find_element("tag name", "h1").text == "Your network: </script>& <b>"
    assert "‖∂E₂₀/∂s₁₃‖" in browser.find_element("css selector", "[data-picture=heatmap] figcaption").text
    browser.switch_to.default_content()
    assert browser.get_log("browser") == []


AGAIN = """
  const cell = document.getElementById('cell');
  cell.style.display = arguments[0];
  window.page = retrograde.mount(cell.shadowRoot.querySelector('.lab'), null);
"""


@pytest.mark.browser
def test_a_cell_that_is_folded_away_at_first_is_drawn_when_it_is_opened(opened: Any, tmp_path: Path) -> None:
    pytest.importorskip("anywidget")
    browser = opened(hosted(rg.lab(), tmp_path))
    browser.execute_script(AGAIN, "none")
    frames = "const done = arguments[0]; setTimeout(() => done(page.count.frames), 150)"
    assert browser.execute_async_script(frames) > 0
    browser.execute_script("document.getElementById('cell').style.display = 'block'; page.count.frames = 0")
    assert browser.execute_async_script(frames) > 0
    drawn = """
      const canvas = document.getElementById('cell').shadowRoot.querySelector('canvas');
      return new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size > 20;
    """
    assert browser.execute_script(drawn)
    assert browser.get_log("browser") == []


@pytest.mark.browser
@pytest.mark.parametrize("kernel", [True, False])
def test_the_laboratory_in_a_notebook_trains_in_a_worker(opened: Any, tmp_path: Path, kernel: bool) -> None:
    pytest.importorskip("anywidget")
    widget = rg.lab()
    if kernel:
        browser = opened(hosted(widget, tmp_path))
        browser.execute_script(AGAIN, "block")
    else:  # in a frame that may do nothing but run scripts
        data, _ = widget._repr_mimebundle_()
        page, drawn = tmp_path / "exported.html", "<script>document.documentElement.dataset.drawn = 1</script>"
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">{data["text/html"]}{drawn}'
        )
        browser = opened(page)
        browser.switch_to.frame(browser.find_element("tag name", "iframe"))
        browser.execute_script("window.page = retrograde.page")
    browser.execute_script("page.lab.train()")
    wait = "const done = arguments[0], wait = () => (page.count.apart ? done(1) : setTimeout(wait, 20)); wait()"
    assert browser.execute_async_script(wait)
    browser.execute_script("page.stop()")
    browser.switch_to.default_content()
    assert browser.get_log("browser") == []


def test_without_anywidget_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    rg.lab.__globals__["_widget"].cache_clear()
    with pytest.raises((rg.errors.MissingExtraError, ModuleNotFoundError), match="anywidget"):
        rg.lab()


def test_a_loss_is_needed() -> None:
    with pytest.raises(rg.errors.OptionError, match="loss="):
        rg.lab(torch.nn.RNN(1, 2), torch.randn(3, 1, 1))
