"""The signals and flows that a test of this folder measures are compared with what was recorded for the test.

Tests without a record are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import retrograde as rg
from recording import described, is_recorded
from retrograde.errors import FlowError

NEARLY = 0.01  # most of it is in float32


@pytest.fixture(autouse=True)
def measurements_as_recorded(
    request: pytest.FixtureRequest, recorded: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    found: list[Any] = []

    def noted(measure: Callable[..., Any], what: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            try:
                result = measure(*args, **options)
            except FlowError:
                found.append("refused")
                raise
            found.append(described(what(result)))
            return result

        return call

    if (
        not is_recorded(request)
        or request.module.__name__ == "test_pictures"
        or hasattr(request.function, "hypothesis")
    ):
        yield
        return
    torch.manual_seed(0)
    for name in ("need_of", "signal_left"):
        monkeypatch.setattr(rg.flow, name, noted(getattr(rg.flow, name), lambda signal: signal))
    monkeypatch.setattr(rg, "gradient_flow", noted(rg.gradient_flow, _flow))
    monkeypatch.setattr(rg.GradientFlow, "signal_by_lag", noted(rg.GradientFlow.signal_by_lag, lambda signal: signal))
    yield
    if found:
        recorded(found, rel=NEARLY)


def _flow(flow: rg.GradientFlow) -> Any:
    return [flow.layers, flow.norms, flow.targets, flow.alignments, flow.reverse, flow.steps, len(flow.notes)]
