"""The page in a notebook, with a reader's own network. Tests: tests/laboratory/test_widget.py."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from ..errors import OptionError
from ..extras import import_or_explain
from .measured import measure
from .page import PAGE

_FRAME = 'style="width: 100%; height: 60rem; border: 0"'
_RENDER = """
export default {
  render({ model, el }) {
    el.dataset.lmSuppressShortcuts = "true"; // arrow keys are for the pictures, not for the cells of JupyterLab
    const shadow = el.attachShadow({ mode: "open" });
    const style = document.createElement("style"), root = document.createElement("div");
    style.textContent = STYLE;
    shadow.append(style, root);
    const page = globalThis.retrograde.mount(root, model.get("measured"));
    return () => page.stop();
  },
};
"""


def _module() -> str:
    """The script of the page as a module of its own, which draws into any element."""
    page = PAGE.read_text(encoding="utf-8")
    style, script = (re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[-1] for tag in ("style", "script"))
    return f"{script}\nconst STYLE = String.raw`{style}`;\n{_RENDER}"


def _without_kernel(measured: dict[str, Any] | None) -> str:
    """The page in a frame, for readers of a notebook that no kernel runs: exports to HTML, nbviewer."""
    page = PAGE.read_text(encoding="utf-8")
    if measured is not None:
        data = json.dumps(measured).replace("<", "\\u003c")
        page = page.replace("<script>", f'<script type="application/json" id="measured">{data}</script><script>', 1)
    what = "The laboratory of retrograde." if measured is None else f"The gradient flow of {measured['title']}."
    words = f"<p>{html.escape(what)} If nothing is below, run this cell.</p>"
    return f'{words}<iframe title="retrograde" sandbox="allow-scripts" {_FRAME} srcdoc="{html.escape(page)}"></iframe>'


def _bundle(self: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the notebook keeps of the widget: its view, and the page for where there is no kernel."""
    data, metadata = import_or_explain("anywidget").AnyWidget._repr_mimebundle_(self, **options)
    words = "The laboratory of retrograde: run this cell to see it."
    return data | {"text/html": _without_kernel(self.measured), "text/plain": words}, metadata


@cache
def _widget() -> Any:
    """The class of the widget; anywidget is an optional library, and imported on first use."""
    anywidget, traitlets = import_or_explain("anywidget"), import_or_explain("traitlets")
    measured = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    own = {"_esm": _module(), "measured": measured, "_repr_mimebundle_": _bundle}
    return type("Lab", (anywidget.AnyWidget,), own)


def lab(
    model: Callable[..., Any] | None = None,
    *inputs: Any,
    loss: Callable[[Any], Tensor] | None = None,
    layer: str | int = 0,
    sequence: int = 0,
    **options: Any,
) -> Any:
    """Show the laboratory in a notebook: with a network of its own to train, or with the gradient flow of yours.

    Needs ``pip install 'retrograde[notebook]'``.

    Parameters
    ----------
    model, *inputs, loss, **options
        As in `retrograde.gradient_flow`. Without a model the laboratory trains a network of its own.
    layer : str or int
        The recurrent layer to look at.
    sequence : int
        The sequence of the batch to look at.

    Returns
    -------
    anywidget.AnyWidget
        The widget, shown where it is the last value of a cell: heat map, chain of Jacobians and share of each lag, as
        measured. Where the weights of the layer alone explain them (the top layer of a stack of RNN, GRU or LSTM, under
        losses that look at one step each), also states, pre-activations and the terms of ∂E_t/∂W.

    Raises
    ------
    FlowError
        The flow cannot be measured, or not be drawn.
    MissingExtraError
        anywidget is not installed.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> model, x = torch.nn.GRU(3, 8), torch.randn(20, 4, 3)
    >>> widget = rg.lab(model, x, loss=lambda output: output[0].square().sum(-1))  # doctest: +SKIP
    """
    if model is None:
        return _widget()()
    if loss is None:
        raise OptionError("rg.lab needs loss=, a function from the model's output to losses (T, B) or (B,).")
    return _widget()(measured=measure(model, *inputs, loss=loss, layer=layer, sequence=sequence, **options).as_dict())
