"""What rules find and what is prescribed in a test of this folder is compared with what was recorded for the test.

Of sentences only the numbers are: words may change. Tests without a record are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import retrograde as rg
from recording import NUMBER, described, is_recorded
from retrograde.doctor import Diagnosis

NEARLY = 0.02  # networks are trained a little, in float32


@pytest.fixture(autouse=True)
def findings_as_recorded(
    request: pytest.FixtureRequest, recorded: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    found: list[Any] = []

    def noted(make: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            result = make(*args, **options)
            found.append(_without_words(result))
            return result

        return call

    if not is_recorded(request):
        yield
        return
    torch.manual_seed(0)
    if not hasattr(request.function, "hypothesis"):
        monkeypatch.setattr(rg, "diagnose", noted(rg.diagnose))
        for name, module in (("found", "small"), ("prescribe", "retrograde.doctor.remedies")):
            own = getattr(request.module, name, None)
            if own is not None and own.__module__ == module:
                monkeypatch.setattr(request.module, name, noted(own))
    yield
    if found:
        recorded(found, rel=NEARLY)


def _without_words(result: Any) -> Any:
    if isinstance(result, Diagnosis):
        result = {name: value for name, value in result.as_dict().items() if name != "seconds"}
    return _numbers(described(result))


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, str) and " " in value:
        return NUMBER.findall(re.sub(r"\S*pytest-\S*", "", value))  # but of paths, which are others each time
    return value
